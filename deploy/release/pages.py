"""Manual pages and shells' completions of the three commands, made from the commands themselves.

A page says for each command what its `--help` says: whoever changes one changes the other. The formatter below is given
to the command in the place of the one for terminals, and writes roff (man(7)) instead.
"""

import re
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import typer.main
from typer._click.formatting import HelpFormatter
from typer._completion_shared import get_completion_script

from deploy.local.failure import Failure, exit_status
from deploy.release.moment import moment_of
from shared import __version__

CHECKOUT = Path(__file__).resolve().parents[2]


class Program(NamedTuple):
    """A command: the section of its manual page, what it is in a few words, and which files it goes with."""

    name: str
    section: int
    is_what: str
    files: Sequence[tuple[str, str]]
    see_also: Sequence[str]


PROGRAMS = (
    Program(
        "bootferry",
        1,
        "choose boot images and watch them reach every rack",
        [("$XDG_CONFIG_HOME/bootferry/", "the regions you are logged in to")],
        ["bootferry\\-region(8)", "bootferry\\-rack(8)"],
    ),
    Program(
        "bootferry-region",
        8,
        "keep boot images, and serve them to operators and racks",
        [
            ("/etc/bootferry/region.toml", "the configuration"),
            ("/etc/credstore/", "the configuration's secrets, a file for each"),
            ("/var/lib/bootferry/region/", "the files, and the keys"),
        ],
        ["bootferry(1)", "bootferry\\-rack(8)", "systemd.exec(5)"],
    ),
    Program(
        "bootferry-rack",
        8,
        "keep a verified copy of a region's boot images, and serve it to machines",
        [
            ("/etc/bootferry/rack.toml", "the configuration"),
            ("/var/lib/bootferry/rack/", "the identity, the files, and the tree that machines boot from"),
        ],
        ["bootferry(1)", "bootferry\\-region(8)", "dnsmasq(8)"],
    ),
)


def command_of(name: str) -> Any:
    """The tree of commands of one of the programs."""
    if name == "bootferry":
        from region.cli.main import build

        return typer.main.get_command(build())
    if name == "bootferry-region":
        from region.__main__ import cli
    else:
        from rack.cli import cli
    return typer.main.get_command(cli)


class Roff(HelpFormatter):
    """Takes what a command says of itself, and writes it as part of a manual page."""

    def __init__(self) -> None:
        super().__init__(width=10_000)

    def write_usage(self, prog: str, args: str = "", prefix: str | None = None) -> None:
        """How the command is typed."""
        self.write(f"\\fB{escaped(prog)}\\fR {escaped(args)}\n")

    def write_heading(self, heading: str) -> None:
        """What the next lines are."""
        self.write(f".PP\n\\fB{escaped(heading)}\\fR\n")

    def write_paragraph(self) -> None:
        """Nothing: a text begins its own paragraph."""

    def write_text(self, text: str) -> None:
        """Paragraphs; those that begin with a backspace keep their lines."""
        for paragraph in re.split(r"\n\s*\n", text.strip()):
            if paragraph.lstrip().startswith("\b"):
                lines = paragraph.replace("\b", "").strip("\n").split("\n")
                self.write(".PP\n.nf\n" + "".join(f"{escaped(line.strip())}\n" for line in lines) + ".fi\n")
            else:
                self.write(f".PP\n{escaped(' '.join(paragraph.split()))}\n")

    def write_dl(self, rows: Any, col_max: int = 30, col_spacing: int = 2) -> None:
        """Options, arguments or commands, each with its text."""
        for first, second in rows:
            self.write(f".TP\n\\fB{escaped(first)}\\fR\n{escaped(' '.join(second.split())) or '.br'}\n")


def escaped(text: str) -> str:
    """`text` as roff shows it unchanged (man(7), groff_char(7))."""
    text = text.replace("\\", "\\e").replace("-", "\\-").replace("'", "\\(aq").replace("`", "\\(ga")
    return re.sub(r"^\.", r"\\&.", text, flags=re.MULTILINE)


def page(program: Program, moment: int) -> str:
    """The manual page, dated `moment` (seconds since 1970)."""
    root = command_of(program.name)
    day = time.strftime("%Y-%m-%d", time.gmtime(moment))
    title = escaped(program.name.upper())
    lines = [
        f'.TH "{title}" "{program.section}" "{day}" "Bootferry {__version__}" "Bootferry"\n',
        f".SH NAME\n{escaped(program.name)} \\- {escaped(program.is_what)}\n.SH SYNOPSIS\n",
    ]
    for path, command, context in walk(program.name, root):
        formatter = Roff()
        command.format_help(context, formatter)
        usage, *rest = formatter.buffer
        if command is root:
            lines += [usage, ".SH DESCRIPTION\n", *rest, ".SH COMMANDS\n"]
        else:
            lines += [f'.SS "{escaped(path)}"\n', usage, *rest]
    lines += [".SH FILES\n", *(f".TP\n.I {escaped(file)}\n{escaped(what)}\n" for file, what in program.files)]
    lines += [".SH SEE ALSO\n", ", ".join(program.see_also), "\n"]
    return "".join(lines)


def walk(name: str, command: Any, parent: Any = None) -> Iterator[tuple[str, Any, Any]]:
    """A command and all below it that are not hidden: the words that are typed for it, itself, and its context."""
    command.rich_markup_mode = None  # plain help: what draws boxes on terminals is no text for a page
    context = command.make_context(name, [], parent=parent, resilient_parsing=True)
    yield context.command_path, command, context
    for below, found in getattr(command, "commands", {}).items():
        if not found.hidden:
            yield from walk(below, found, context)


def completions(program: str) -> dict[str, str]:
    """The completion scripts of a program, by their place below /usr/share."""
    variable = f"_{program.upper().replace('-', '_')}_COMPLETE"
    scripts = {shell: get_completion_script(prog_name=program, complete_var=variable, shell=shell) for shell in SHELLS}
    # zsh loads the file when the first word is completed, and expects the answer from that very run.
    function = re.search(r"^(\w+)\(\) \{", scripts["zsh"], re.MULTILINE)
    if function is None:
        raise Failure("typer's script for zsh has changed its shape: mend deploy/release/pages.py.")
    scripts["zsh"] += f'\nif [[ $zsh_eval_context[-1] == loadautofunc ]]; then\n  {function[1]} "$@"\nfi'
    return {SHELLS[shell].format(program): f"{script.strip()}\n" for shell, script in scripts.items()}


SHELLS = {
    "bash": "bash-completion/completions/{}",
    "zsh": "zsh/vendor-completions/_{}",
    "fish": "fish/vendor_completions.d/{}.fish",
}


def write_pages(into: Path, moment: int) -> None:
    """Write all of them below `into`, as they lie below /usr/share."""
    for program in PROGRAMS:
        files = completions(program.name)
        files[f"man/man{program.section}/{program.name}.{program.section}"] = page(program, moment)
        for name, text in files.items():
            path = into / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(text)


def main() -> None:
    """Write them below the directory that the command line names. Raises Failure."""
    if len(sys.argv) != 2:
        raise Failure("name the directory to write to.")
    write_pages(Path(sys.argv[1]), moment_of(CHECKOUT))


if __name__ == "__main__":
    sys.exit(exit_status(main))
