"""Lists: what every list command can do, in one place.

A list command answers a `Listing` and prints nothing; `lists` gives it these options and prints it:

- `-o table|wide|name|json|yaml`: a table, one with more columns, a name a line, or the items as the region gives them;
- `--sort COLUMN`, `--sort=-COLUMN` for the other way round: what has no value comes last either way;
- `--no-headers`: a table without its first line;
- `--status`: only what is in one of these states, by the word that is shown or the one that the API says;
- `--watch`: look every two seconds; a terminal is drawn anew, elsewhere what has changed is a line. It ends on Ctrl-C
  with 0. A region that is away for a minute ends it too.
"""

import inspect
import json
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from enum import StrEnum
from functools import wraps
from typing import Annotated, Any, NamedTuple, ParamSpec

import typer

from region.cli import output
from region.cli.exits import Misused
from region.cli.output import Cell, Column, Format, Item
from region.cli.session import remember
from region.cli.words import listed, printable, slashed
from shared.errors import FetchError, HttpStatus

P = ParamSpec("P")

WATCH_PERIOD_S = 2.0
PATIENCE_S = 60.0
"""How long a region may be away, as it is while it restarts, before nobody watches it any longer."""


class ListFormat(StrEnum):
    """How a list is printed."""

    TABLE = "table"
    WIDE = "wide"
    NAME = "name"
    JSON = "json"
    YAML = "yaml"


def _no_notes(_items: Sequence[Item]) -> Iterable[str]:
    return ()


class Listing(NamedTuple):
    """What a list command found.

    `name` is what an item is called on a command line; the first column where it is left out. `empty` is the sentence
    for no item, `says` one after the table, and `notes` are sentences about the items that are shown, on stderr.
    `document` makes of the items what JSON and YAML say of them all; it says them as they are where it is left out.
    """

    items: Sequence[Item]
    columns: Sequence[Column]
    empty: str
    name: Callable[[Item], str] | None = None
    says: str = ""
    notes: Callable[[Sequence[Item]], Iterable[str]] = _no_notes
    document: Callable[[Sequence[Item]], Any] = list

    def name_of(self, item: Item) -> str:
        """What the item is called."""
        return self.name(item) if self.name else output.plain(self.columns[0].of(item))


Looks = Iterable[tuple[Listing | None, str]]
"""A list as it was looked at, again and again, each with why it is an old one: empty while it is not."""


class Shape(NamedTuple):
    """What was asked for of a list."""

    chosen: ListFormat
    sort: str | None
    headers: bool
    statuses: Sequence[str]


def _remember(ctx: typer.Context, value: ListFormat) -> ListFormat:
    remember(ctx, Format(value.value) if value.value in set(Format) else Format.TABLE)
    return value


_CHOSEN = Annotated[
    ListFormat, typer.Option("-o", "--output", callback=_remember, show_default=False, help="How to print the list.")
]
_SORT = Annotated[
    str | None,
    typer.Option("--sort", metavar="COLUMN", help="Sort by this column; =-COLUMN sorts the other way round."),
]
_NO_HEADERS = Annotated[bool, typer.Option("--no-headers", help="Leave out the first line of the table.")]
_STATUS = Annotated[
    list[str] | None,
    typer.Option("--status", metavar="STATUS", help="Only those in this state, such as failed; may be repeated."),
]
_WATCH = Annotated[bool, typer.Option("--watch", help="Show what changes, until Ctrl-C.")]


def lists(
    states: Mapping[str, Cell] | None = None, field: str = "status", *, watch: bool = True
) -> Callable[[Callable[P, Listing]], Callable[..., None]]:
    """Make a command of a function that answers a Listing.

    `states` are the words for what `field` of an item may say; without them there is no `--status`. A command that
    changes something is not to be watched.
    """

    def decorate(find: Callable[P, Listing]) -> Callable[..., None]:
        @wraps(find)
        def command(*args: P.args, **given: P.kwargs) -> None:
            options: dict[str, Any] = {name: given.pop(name, None) for name in added}
            shape = Shape(
                options["chosen"] or ListFormat.TABLE,
                options["sort"],
                not options["no_headers"],
                options.get("status") or (),
            )

            def look() -> Listing:
                found = find(*args, **given)
                items = _in_state(found.items, shape.statuses, states or {}, field)
                empty = (
                    found.empty if len(items) == len(found.items) else f"None of {len(found.items)} is in that state."
                )
                return found._replace(items=_sorted(items, found.columns, shape.sort), empty=empty)

            if options.get("watch"):
                _watch(look, shape)
            else:
                show(look(), shape)

        added = {"chosen": (_CHOSEN, ListFormat.TABLE), "sort": (_SORT, None), "no_headers": (_NO_HEADERS, False)}
        if states:
            added = {"status": (_STATUS, None), **added}
        if watch:
            added["watch"] = (_WATCH, False)
        parameters = [
            *inspect.signature(find).parameters.values(),
            *(
                inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)
                for name, (annotation, default) in added.items()
            ),
        ]
        command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
        command.__annotations__ = {name: annotation for name, (annotation, _) in added.items()} | find.__annotations__
        return command

    return decorate


def show(found: Listing, shape: Shape) -> None:
    """Print the list as it was asked for."""
    match shape.chosen:
        case ListFormat.JSON | ListFormat.YAML:
            output.show_data(Format(shape.chosen.value), found.document(found.items))
        case ListFormat.NAME:
            for item in found.items:
                output.say(found.name_of(item))
        case _:
            if found.items:
                output.table(found.items, _columns(found, shape), headers=shape.headers)
            else:
                output.note(found.empty)
            if found.says:
                output.say(found.says)
            for sentence in found.notes(found.items):
                output.note(sentence)


def _columns(found: Listing, shape: Shape) -> list[Column]:
    return [column for column in found.columns if shape.chosen is ListFormat.WIDE or not column.wide]


def _in_state(items: Sequence[Item], wanted: Sequence[str], states: Mapping[str, Cell], field: str) -> Sequence[Item]:
    """The items in one of these states. Raises Misused for a state that there is not."""
    if not wanted:
        return items
    words = {_plain(cell.text): state for state, cell in states.items()} | {state: state for state in states}
    words |= {_plain(str(item.get(field))): str(item.get(field)) for item in items}
    for word in wanted:
        if _plain(word) not in words:
            known = listed(state.replace("_", "-") for state in states)
            raise Misused(f"There is no status {word}; there are {known}.")
    meant = {words[_plain(word)] for word in wanted}
    return [item for item in items if item.get(field) in meant]


def _plain(word: str) -> str:
    return word.strip().lower().replace(" ", "_").replace("-", "_")


def _sorted(items: Sequence[Item], columns: Sequence[Column], by: str | None) -> Sequence[Item]:
    """The items in the order of a column. Raises Misused for one that there is not."""
    if by is None:
        return items
    named = {column.heading.lower().replace(" ", "-"): column for column in columns}
    column = named.get(by.removeprefix("-").lower().replace(" ", "-"))
    if column is None:
        raise Misused(f"There is no column {by.removeprefix('-')} to sort by; there are {listed(named)}.")
    keys = [(_key(column, item), item) for item in items]
    known = sorted((pair for pair in keys if pair[0] is not None), key=lambda pair: pair[0], reverse=by[0] == "-")
    return [item for _, item in [*known, *(pair for pair in keys if pair[0] is None)]]


def _key(column: Column, item: Item) -> Any:
    """What the column's items are compared by; None where it shows nothing of this one."""
    if column.key is not None:
        return column.key(item)
    text = output.plain(column.of(item))
    return None if text in ("", "-", "never") else text.casefold()


def _watch(
    look: Callable[[], Listing],
    shape: Shape,
    *,
    sleep: Callable[[float], object] = time.sleep,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Show the list, and what changes in it, until Ctrl-C."""
    if shape.chosen is ListFormat.YAML:
        raise Misused("What changes is shown as a table, as names or as JSON; choose another --output with --watch.")
    drawing, looks = output.console(), _looks(look, sleep, clock)
    try:
        if shape.chosen in (ListFormat.TABLE, ListFormat.WIDE) and drawing.is_terminal and not drawing.is_dumb_terminal:
            _redraw(looks, shape)
        else:
            _tell_changes(looks, shape)
    except KeyboardInterrupt:
        # That is how it is meant to end.
        return


def _redraw(looks: Looks, shape: Shape) -> None:
    from rich.console import Group
    from rich.live import Live
    from rich.text import Text

    def lines(texts: Iterable[str]) -> list[Text]:
        return [Text(slashed(printable(text))) for text in texts]

    with Live(console=output.console(), auto_refresh=False) as live:
        for found, away in looks:
            told: list[Any] = []
            if found is not None and found.items:
                told.append(output.table_of(found.items, _columns(found, shape), headers=shape.headers))
            elif found is not None:
                told += lines([found.empty])
            if found is not None:
                told += lines([*([found.says] if found.says else []), *found.notes(found.items)])
            live.update(Group(*told, *lines([f"\n{away}"] if away else [])), refresh=True)


def _tell_changes(looks: Looks, shape: Shape) -> None:
    before: dict[str, Item] | None = None
    headers = shape.headers
    for found, away in looks:
        if away:
            output.note(away)
        if found is None or away:
            continue
        after = {found.name_of(item): item for item in found.items}
        known = before or {}
        _tell(found._replace(items=[item for name, item in after.items() if known.get(name) != item]), shape, headers)
        headers = headers and not after
        for name in sorted(known.keys() - after):
            output.note(f"{name} is no longer listed.")
        if before is None and not after:
            output.note(found.empty)
        before = after
        sys.stdout.flush()


def _tell(changed: Listing, shape: Shape, headers: bool) -> None:
    """A line for each of these items."""
    match shape.chosen:
        case ListFormat.JSON:
            for item in changed.items:
                print(json.dumps(item, ensure_ascii=False))
        case ListFormat.NAME:
            for item in changed.items:
                output.say(changed.name_of(item))
        case _ if changed.items:
            output.table(changed.items, _columns(changed, shape), headers=headers)


def _looks(look: Callable[[], Listing], sleep: Callable[[float], object], clock: Callable[[], float]) -> Looks:
    """The list, again and again; with why it is an old one, while the region is away."""
    found: Listing | None = None
    away_since: float | None = None
    while True:
        away = ""
        try:
            found = look()
            away_since = None
        except FetchError as error:
            passing = not isinstance(error, HttpStatus) or error.status >= 500
            since = clock() if away_since is None else away_since
            if found is None or not passing or clock() - since >= PATIENCE_S:
                raise
            # Said once: what is shown may be old from then on.
            away = str(error)
            away_since = since
        yield found, away
        sleep(WATCH_PERIOD_S)
