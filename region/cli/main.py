"""`bootferry`: the tree of commands, and the one door every run leaves through."""

import json
import os
import sys
from collections.abc import Callable, Mapping
from typing import Annotated, Any, NamedTuple

import typer
from typer.core import TyperGroup

from region.cli import (
    activity,
    completion,
    images,
    imports,
    login,
    offers,
    racks,
    selection,
    settings,
    sources,
    storage,
    tokens,
)
from region.cli.exits import ExitCode, ending
from region.cli.output import Format
from region.cli.session import WAIT_WORDS, format_of
from region.cli.words import printable, slashed
from shared import __version__
from shared.command_line import MOST_CHARACTERS, OneCommand, Program
from shared.errors import BootferryError
from shared.standard_output import stop_writing

Function = Callable[..., None]


class Group(NamedTuple):
    """Commands below a noun; `meant` is the one that is meant when none is named."""

    help: str
    commands: Mapping[str, Function]
    meant: str = ""


TREE: Mapping[str, Mapping[str, Function | Group]] = {
    "Images": {
        "available": offers.list_all,
        "select": selection.select,
        "unselect": selection.unselect,
        "selection": Group(
            "Show the whole selection, or make it what a file says.",
            {
                "show": selection.show,
                "check": selection.check,
                "diff": selection.diff,
                "apply": selection.apply,
            },
        ),
        "images": images.list_all,
        "image": Group(
            "One image: its versions, its racks, its pin.",
            {
                "show": images.show,
                "versions": images.list_versions,
                "racks": images.list_racks,
                "pin": images.pin,
                "unpin": images.unpin,
                "delete": images.delete,
            },
        ),
        "bootloaders": images.list_bootloaders,
    },
    "Imports": {
        "sync": imports.sync,
        "stop": imports.stop,
        "imports": imports.list_recent,
        "import": Group("One import.", {"show": imports.show}),
        "auto-sync": imports.auto_sync,
    },
    "Sources and racks": {
        "sources": sources.list_all,
        "unvouched": sources.unvouched,
        "source": Group(
            "One source: add, show, probe, read, update, disable or remove it …",
            {
                "add": sources.add,
                "show": sources.show,
                "probe": sources.probe,
                "update": sources.update,
                "read": sources.read,
                "enable": sources.enable,
                "disable": sources.disable,
                "accept-older": sources.accept_older,
                "remove": sources.remove,
            },
        ),
        "racks": racks.list_all,
        "rack": Group(
            "One rack: show or remove it, have it poll; enrolment tokens …",
            {
                "show": racks.show,
                "remove": racks.remove,
                "token": racks.token,
                "tokens": racks.tokens,
                "revoke": racks.revoke,
                "poll": racks.poll,
                "confirm": racks.confirm_removal,
            },
        ),
    },
    "The region": {
        "activity": activity.list_recent,
        "settings": Group(
            "Show or change the region's settings.", {"show": settings.show, "set": settings.change}, meant="show"
        ),
        "storage": storage.show,
        "token": Group(
            "Operators' tokens.", {"list": tokens.list_all, "create": tokens.create, "remove": tokens.remove}
        ),
    },
    "Log-in and shell": {
        "login": login.login,
        "logout": login.logout,
        "whoami": login.whoami,
        "profiles": login.list_profiles,
        "profile": Group("One profile.", {"use": login.use_profile}),
        "completion": completion.completion,
    },
}

EPILOG = (
    "Exit codes: 0 done, 1 refused or failed, 2 wrong usage, 3 no region answers, 4 not logged in.\n\n"
    "BOOTFERRY_URL and BOOTFERRY_TOKEN name a region without a log-in; BOOTFERRY_PROFILE chooses between log-ins."
)


class Commands(TyperGroup):
    """Commands that list themselves in sections, show their help when none is named, and tell errors in a sentence."""

    meant = ""
    """The command that is meant when none is named."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line as far as the next command."""
        if self.meant and not ctx.resilient_parsing and (not args or args[0].startswith(("-o", "--output"))):
            args = [self.meant, *args]
        if not args and not ctx.resilient_parsing:
            print(ctx.get_help())
            ctx.exit(ExitCode.DONE)
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        """Carry the command out."""
        try:
            return super().invoke(ctx)
        except BootferryError as error:
            ended = ending(error)
            if format_of(ctx) is Format.JSON:
                print(json.dumps({"code": ended.code, "detail": ended.detail}, ensure_ascii=False), file=sys.stderr)
            else:
                _complain(ended.detail)
            raise typer.Exit(ended.exit_code) from error

    def list_commands(self, ctx: Any) -> list[str]:
        """The names of the commands, in the tree's order."""
        order = [name for commands in TREE.values() for name in commands]
        names = super().list_commands(ctx)
        return sorted(names, key=lambda name: order.index(name) if ctx.parent is None else names.index(name))

    def format_commands(self, ctx: Any, formatter: Any) -> None:
        """List the commands, section by section."""
        sections: dict[str, list[tuple[str, str]]] = {}
        for name in self.list_commands(ctx):
            command = self.get_command(ctx, name)
            if command is not None:
                section = str(getattr(command, "rich_help_panel", None) or "Commands")
                sections.setdefault(section, []).append((name, command.get_short_help_str(MOST_CHARACTERS)))
        for section, rows in sections.items():
            with formatter.section(section):
                formatter.write_dl(rows)


class Command(OneCommand):
    """A command with an option whose value may be left out: `--wait` and `--wait=racks`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Read the command line."""
        end = args.index("--") if "--" in args else len(args)
        said = [word for arg in args[:end] for word in WAIT_WORDS.get(arg, [arg])]
        return super().parse_args(ctx, [*said, *args[end:]])


def build() -> typer.Typer:
    """The command line."""
    app = Program(
        cls=Commands,
        help="Choose boot images, watch them reach every rack, and look after sources and racks.",
        epilog=EPILOG,
    )
    app.callback()(_common)
    for section, commands in TREE.items():
        for name, command in commands.items():
            if isinstance(command, Group):
                group = Program(cls=type("Meant", (Commands,), {"meant": command.meant}), help=command.help)
                for word, function in command.commands.items():
                    group.command(word, cls=Command)(function)
                app.add_typer(group, name=name, rich_help_panel=section)
            else:
                app.command(name, cls=Command, rich_help_panel=section)(command)
    return app


def _version(asked: bool) -> None:
    if asked:
        print(f"{completion.PROGRAM} {__version__}")
        raise typer.Exit


def _common(
    version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    pass


def _complain(sentence: str) -> None:
    print(f"{completion.PROGRAM}: {slashed(printable(sentence))}", file=sys.stderr)


def main() -> None:
    """The console script. `exits.ExitCode` documents how it ends."""
    for stream in (sys.stdout, sys.stderr):
        # A terminal that cannot show a character shows another one; that is no reason to fail.
        if hasattr(stream, "reconfigure"):
            stream.reconfigure(errors="replace")
    try:
        code = _run()
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = ExitCode.INTERRUPTED
    except BrokenPipeError:
        stop_writing()
        code = ExitCode.REFUSED
    sys.exit(int(code))


def _run() -> int:
    if completion.VARIABLE in os.environ:
        from typer._completion_classes import completion_init

        completion_init()
    try:
        return build()(prog_name=completion.PROGRAM, standalone_mode=False) or ExitCode.DONE
    except typer.Abort:
        return ExitCode.INTERRUPTED
    except typer.TyperException as error:
        # Its context knows which command was being read.
        told = " ".join(error.format_message().split()).rstrip(".")
        ctx = getattr(error, "ctx", None)
        _complain(
            f"{told}{'' if told.endswith('?') else '.'} See: {getattr(ctx, 'command_path', completion.PROGRAM)} -h"
        )
        return error.exit_code


if __name__ == "__main__":
    main()
