"""How the help of the three programs looks: plain text, the same on every terminal.

Nothing has to be loaded to draw it, and nothing in it is read as markup: what stands in brackets stays.
"""

from collections.abc import Callable
from typing import Any

import typer
from typer.core import TyperCommand, TyperGroup

WIDTH = 100
MOST_CHARACTERS = 300


class OneCommand(TyperCommand):
    """A command whose arguments are shown as they are typed, without Python's names for them."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        """What follows the command in its usage line."""
        return ["[OPTIONS]", *(name for name, _ in self._arguments(ctx))]

    def format_options(self, ctx: Any, formatter: Any) -> None:
        """List arguments and options."""
        params: list[Any] = [param for param in self.get_params(ctx) if param.param_type_name == "option"]
        options = [row for param in params if (row := _row(param, ctx)) is not None]
        for heading, rows in (("Arguments", self._arguments(ctx)), ("Options", options)):
            if rows:
                with formatter.section(heading):
                    formatter.write_dl(rows)

    def _arguments(self, ctx: Any) -> list[tuple[str, str]]:
        params: list[Any] = [param for param in self.get_params(ctx) if param.param_type_name == "argument"]
        return [(str(param.metavar), str(param.help or "")) for param in params]


def _row(option: Any, ctx: Any) -> tuple[str, str] | None:
    """How the option is written, and its help."""
    record = option.get_help_record(ctx)
    if record is None or not option.count:
        return record  # type: ignore[no-any-return]
    # One that is counted may be given a word instead: `--wait[=racks]`.
    return f"{record[0]}{option.metavar or ''}", str(option.help)


class Commands(TyperGroup):
    """Commands that are listed with the whole first sentence of their help."""

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands."""
        named = ((name, self.get_command(ctx, name)) for name in self.list_commands(ctx))
        rows = [(name, command.get_short_help_str(MOST_CHARACTERS)) for name, command in named if command is not None]
        with formatter.section("Commands"):
            formatter.write_dl(rows)


class Program(typer.Typer):
    """A program, or a group of its commands. Faults are told by the program itself, never as a traceback."""

    def __init__(self, **about: Any) -> None:
        super().__init__(
            **{
                "cls": Commands,
                "add_completion": False,
                "rich_markup_mode": None,
                "pretty_exceptions_enable": False,
                "context_settings": {"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
                **about,
            }
        )

    def command(self, name: str | None = None, **about: Any) -> Callable[[Any], Any]:
        """As typer has it, for a `OneCommand`."""
        return super().command(name, **{"cls": OneCommand, **about})
