"""What commands print: results on stdout as table, JSON or YAML; everything said about them on stderr.

Colour is for terminals and gives way to NO_COLOR. Where stdout is no terminal, tables are as wide as their cells.
"""

import json
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from typing import TYPE_CHECKING, Any, NamedTuple

from region.cli.words import printable, slashed

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

UNBOUNDED = 100_000

Item = Mapping[str, Any]


class Format(StrEnum):
    """How a result is printed."""

    TABLE = "table"
    JSON = "json"
    YAML = "yaml"


class Cell(NamedTuple):
    """Text in a table, and its style in rich's words."""

    text: str
    style: str = ""


class Column(NamedTuple):
    """A column: its heading and what it shows of an item.

    `right` is for numbers. `key` is what items are sorted by, None for an item without it; the text where there is no
    `key`. A `wide` one is shown when more is asked for.
    """

    heading: str
    of: Callable[[Item], str | Cell]
    right: bool = False
    key: Callable[[Item], Any] | None = None
    wide: bool = False


def plain(cell: str | Cell) -> str:
    """The text alone."""
    return printable(cell.text if isinstance(cell, Cell) else cell)


def console(*, stderr: bool = False) -> "Console":
    """Where tables and bars are drawn."""
    from rich.console import Console

    stream = sys.stderr if stderr else sys.stdout
    return Console(
        file=stream,
        highlight=False,
        markup=False,
        emoji=False,
        width=None if stream.isatty() else UNBOUNDED,
    )


def say(text: str) -> None:
    """A sentence of the result, on stdout."""
    print(printable(text))


def note(text: str) -> None:
    """A sentence about the result, on stderr."""
    print(slashed(printable(text)), file=sys.stderr)


def draw_lines(lines: Iterable[Cell], *, stderr: bool = False) -> None:
    """Lines with a style each, on stdout or stderr."""
    drawing = console(stderr=stderr)
    for line in lines:
        drawing.print(_text(line), soft_wrap=True)


def show_data(output: Format, value: Any) -> bool:
    """True if `value` was printed as JSON or YAML, as asked; False if a table was asked for."""
    if output is Format.TABLE:
        return False
    if output is Format.JSON:
        print(json.dumps(value, indent=2, ensure_ascii=False))
    else:
        import yaml

        print(yaml.safe_dump(value, sort_keys=False, allow_unicode=True), end="")
    return True


def show_list(output: Format, items: Sequence[Item], columns: Sequence[Column], *, empty: str) -> None:
    """Items, one a line; `empty` is the sentence for none."""
    if show_data(output, list(items)):
        return
    if items:
        table(items, columns)
    else:
        note(empty)


def show_facts(output: Format, item: Item, facts: Iterable[tuple[str, str | Cell]]) -> None:
    """One item, a fact a line; facts without text are left out."""
    if not show_data(output, item):
        grid([(heading, cell) for heading, cell in facts if _text(cell).plain])


def table(items: Iterable[Item], columns: Sequence[Column], *, headers: bool = True) -> None:
    """A table on stdout."""
    _draw(table_of(items, columns, headers=headers))


def table_of(items: Iterable[Item], columns: Sequence[Column], *, headers: bool = True) -> "Table":
    """A table that is to be drawn."""
    from rich.table import Table

    drawn = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold", show_header=headers)
    for column in columns:
        drawn.add_column(column.heading, justify="right" if column.right else "left")
    for item in items:
        drawn.add_row(*[_text(column.of(item)) for column in columns])
    return drawn


def grid(rows: Iterable[tuple[str, str | Cell]]) -> None:
    """Headings and their facts on stdout."""
    from rich.table import Table

    drawn = Table.grid(padding=(0, 3, 0, 0))
    drawn.add_column(style="bold", no_wrap=True)
    drawn.add_column()
    for heading, cell in rows:
        drawn.add_row(heading, _text(cell))
    _draw(drawn)


def _draw(drawn: Any) -> None:
    drawing = console()
    with drawing.capture() as captured:
        drawing.print(drawn)
    # Cells are padded to their column's width: the last one has nothing to be aligned with.
    print("\n".join(line.rstrip() for line in captured.get().splitlines()))


def _text(cell: str | Cell) -> "Text":
    from rich.text import Text

    found = cell if isinstance(cell, Cell) else Cell(cell)
    return Text(printable(found.text), found.style)
