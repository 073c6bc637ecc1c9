"""What every command stands on: the chosen region, the chosen output, and questions to whoever types."""

import os
import sys
from collections.abc import Awaitable, Callable
from enum import IntEnum
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from region.cli import profile as profiles
from region.cli.exits import Failed, Misused
from region.cli.output import Format

if TYPE_CHECKING:
    from region.cli.client import Api

AnswerT = TypeVar("AnswerT")
_FORMAT = "bootferry.format"

WHOLE_PAGE = 1000
"""The most items that the region answers on one page: fewest requests for a long list."""


def remember(ctx: typer.Context, value: Format) -> Format:
    """Keep the output format that was asked for: errors are told in it too."""
    ctx.meta[_FORMAT] = value
    return value


Output = Annotated[
    Format, typer.Option("-o", "--output", callback=remember, show_default=False, help="How to print the result.")
]


class Awaited(IntEnum):
    """What a command waits for."""

    NOTHING = 0
    IMPORT = 1
    """The end of the import."""
    RACKS = 2
    """After that, every live rack."""


Wait = Annotated[
    int,
    typer.Option(
        "--wait",
        "-w",
        count=True,
        show_default=False,
        metavar="[=racks]",
        help="Wait for the import, with =racks for every live rack too; fail if it does.",
    ),
]
"""An `Awaited`."""

WAIT_WORDS = {"--wait=racks": ["--wait"] * Awaited.RACKS, "--wait=import": ["--wait"]}
"""How that is typed: an option with a value that may be left out."""

Yes = Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing.")]


def format_of(ctx: typer.Context) -> Format:
    """The output format that was asked for, as far as the command line has been read."""
    found = ctx.meta.get(_FORMAT)
    return found if isinstance(found, Format) else Format.TABLE


def call(job: "Callable[[Api], Awaitable[AnswerT]]", *, read_timeout_s: float = 60.0) -> AnswerT:
    """What `job` makes of the answers of the chosen region. Raises BootferryError."""
    chosen = profiles.active(os.environ, profiles.load(profiles.file()))
    return speak(chosen, job, read_timeout_s=read_timeout_s)


def speak(
    profile: profiles.Profile, job: "Callable[[Api], Awaitable[AnswerT]]", *, read_timeout_s: float = 60.0
) -> AnswerT:
    """`call`, with a profile that may not have been saved."""
    import asyncio

    from region.cli.client import connected

    async def run() -> AnswerT:
        async with connected(profile, read_timeout_s=read_timeout_s) as api:
            return await job(api)

    return asyncio.run(run())


def confirm(question: str, *, yes: bool) -> None:
    """Raises Failed unless whoever types agrees, Misused when there is nobody to ask."""
    if yes:
        return
    if not sys.stdin.isatty():
        raise Misused("Nothing was changed: this needs a yes, and there is no terminal to ask; add --yes.")
    if not typer.confirm(question, err=True):
        raise Failed("declined", "Nothing was changed.")
