"""The help of the three programs reads as of one hand: plain, in whole sentences, with every bracket in its place."""

import re
from collections.abc import Iterator
from typing import Any

import pytest
import typer

from rack import cli as rack_program
from region import __main__ as region_program
from region.cli import main as operators_program

PROGRAMS = {
    "bootferry": operators_program.build(),
    "bootferry-region": region_program.cli,
    "bootferry-rack": rack_program.cli,
}


def commands(group: Any, context: Any) -> Iterator[tuple[str, Any, Any]]:
    """A command and all below it: how each is called, and its context."""
    yield context.command_path, group, context
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, command.make_context(name, [], parent=context, resilient_parsing=True))


ALL = {
    path: (command, context)
    for name, program in PROGRAMS.items()
    for root in [typer.main.get_command(program)]
    for path, command, context in commands(root, root.make_context(name, [], resilient_parsing=True))
}


def squeezed(text: str) -> str:
    """On one line. A word that was broken at its hyphen is whole again."""
    return re.sub(r"(?<=\w-) (?=\w)", "", " ".join(text.split()))


@pytest.mark.parametrize("path", ALL)
def test_help_is_plain_and_in_sentences(path: str) -> None:
    command, context = ALL[path]
    shown = command.get_help(context)
    assert not re.search(r"[^\x20-\x7e\n…]", shown), "boxes and colours are for those who can draw them"
    assert shown.startswith(f"Usage: {path} ")
    assert "-h, --help" in shown
    assert "..." not in re.sub(r"\[ARGS\]\.\.\.|[A-Z]+\]?\.\.\.", "", shown), "a sentence is cut"
    assert "<str>" not in shown, "a value has a name"
    if hasattr(command, "commands"):
        return
    first = squeezed((command.help or "").split("\n\n")[0])
    assert re.match(r"[A-Z].*[.:]$", first), f"{path}: {first!r} is no sentence"
    for param in command.get_params(context):
        if not getattr(param, "hidden", False):
            told = squeezed(param.help or "")
            assert re.match(r"[A-Z0-9-].*[.]( \[default: .*\])?$", told), (
                f"{path} {param.opts}: {told!r} is no sentence"
            )


@pytest.mark.parametrize("path", ALL)
def test_brackets_in_help_stay(path: str) -> None:
    """Markup would eat `[..]` without a word."""
    command, context = ALL[path]
    shown = squeezed(command.get_help(context))
    written = [command.help or "", *(getattr(param, "help", None) or "" for param in command.get_params(context))]
    metavars = [str(param.metavar) for param in command.get_params(context) if param.metavar]
    for text in (*written, *metavars):
        for bracketed in re.findall(r"\[[^\]]*\][.]*", text):
            assert squeezed(bracketed) in shown, f"{path}: {bracketed} is lost"
    assert shown.count("[") == shown.count("]")


def test_help_has_brackets_to_lose() -> None:
    command, context = ALL["bootferry selection apply"]
    assert "arches: [amd64, arm64]" in command.get_help(context)
    command, context = ALL["bootferry images"]
    assert "  [IMAGE]...  Only these" in command.get_help(context)
