"""The documentation is under test: its commands run, its paths exist, its tables are complete.

A fenced block of a page whose info string says `run` is carried out, from the page's top to its bottom in one shell:
`sh run bootferry` in the go of that name, `sh run curl` in the other, `sh run` in both. Of the README, whose commands
stand indented, those that ask a service are. Documented defaults (addresses, directories, the mirror's name) are
replaced by the test's own before.
"""

import importlib
import json
import os
import pkgutil
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from asyncio import to_thread
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, get_args

import pytest
import typer

import rack
import region
import shared
from rack import cli as rack_program
from rack.configuration import RackConfiguration
from region import __main__ as region_program
from region.api import images, problems, racks
from region.api.imports import ImportShown
from region.cli import images as cli_images
from region.cli import imports as cli_imports
from region.cli import main as operators_program
from region.cli import racks as cli_racks
from region.configuration import RegionConfiguration
from shared.configuration import ServiceConfiguration
from shared.errors import BootferryError
from tests.e2e.conftest import Ferry

CHECKOUT = Path(__file__).parents[2]
README = CHECKOUT / "README.md"
OPERATING = CHECKOUT / "docs" / "operating.md"
PAGES = [README, OPERATING]
RUN_S = 110

PROGRAMS = {
    "bootferry": operators_program.build(),
    "bootferry-region": region_program.cli,
    "bootferry-rack": rack_program.cli,
}

needs_curl = pytest.mark.skipif(shutil.which("curl") is None, reason="curl is not installed")


class Block(NamedTuple):
    """A fenced block: where it begins (counted from 1), the words of its info string, its text."""

    line: int
    info: list[str]
    text: str


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of a page."""
    begun: tuple[int, list[str]] | None = None
    kept: list[str] = []
    for number, line in enumerate(page.read_text().splitlines(), 1):
        if not line.startswith("```"):
            kept.append(line)
        elif begun is None:
            begun, kept = (number, line[3:].split()), []
        else:
            yield Block(*begun, "\n".join(kept))
            begun = None
    assert begun is None, f"{page.name}:{begun} is never closed"


def indented(page: Path) -> list[str]:
    """The lines that stand indented as code, without what is remarked behind them."""
    return [
        re.sub(r" +# .*", "", line[4:])
        for line in page.read_text().splitlines()
        if line.startswith("    ") and line.strip()
    ]


def commands(page: Path) -> list[str]:
    """Every command line a page shows: in fenced blocks, indented, and in the midst of a sentence."""
    text = page.read_text()
    shown = [line for block in blocks(page) if block.info[:1] == ["sh"] for line in block.text.splitlines()]
    plain = re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    quoted = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", plain)]
    return [line.strip() for line in [*shown, *indented(page), *quoted]]


# --- its commands run


@pytest.fixture
def shell(ferry: Ferry, tmp_path: Path) -> "Shell":
    """A shell on a machine where everything is installed, and only the rack is neither enrolled nor running."""
    return Shell(ferry, tmp_path / "machine")


class Shell:
    """Runs documented commands as they stand, but for the defaults in them."""

    def __init__(self, ferry: Ferry, home: Path) -> None:
        data = ferry.site.directory
        self._log, self._home = home / "log", home
        self._own = {
            "http://127.0.0.1:5240": ferry.region.base,
            "http://127.0.0.1:5248": ferry.rack.base,
            "https://mirror.example.org/maas/": ferry.upstream.url,
            "/var/lib/bootferry/region": str(data / "region"),
            "/var/lib/bootferry/rack": ferry.rack.environment["RACK_DATA_DIR"],
            ".run/admin-token": str(data / "region" / "admin-token"),
        }
        programs = home / "bin"
        programs.mkdir(parents=True)
        for name, module in (("bootferry-region", "region"), ("bootferry-rack", "rack")):
            _install(programs / name, f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m {module} "$@"\n')
        _install(programs / "bootferry", BOOTFERRY.format(python=sys.executable, address=ADDRESS))
        _install(programs / "systemctl", SYSTEMCTL.format(python=sys.executable, port=ferry.rack.port))
        (home / "mirror.gpg").write_bytes(ferry.mirror.keyring)
        services = {**ferry.region.environment, **ferry.rack.environment}
        self._environment = {
            name: value
            for name, value in services.items()
            if not name.startswith(("BOOTFERRY_", "XDG_", "CURL_")) and not name.lower().endswith("_proxy")
        }
        self._environment |= {
            "HOME": str(home),
            "PATH": f"{programs}:{os.environ['PATH']}",
            "PYTHONPATH": str(CHECKOUT),
        }

    def run(self, steps: Sequence[tuple[str, str]]) -> str:
        """Carry out steps (where each stands, its commands) in one shell; what they printed. All must succeed."""
        serving = f"from {__name__} import be_bootferry; be_bootferry()"
        script = ["set -eu", f"{shlex.quote(sys.executable)} -c {shlex.quote(serving)} &"]
        for where, text in steps:
            for default, own in self._own.items():
                text = text.replace(default, own)
            script += [f"echo; echo '>>> {where}'", text]
        with self._log.open("wb") as log:
            process = subprocess.Popen(
                ["sh", "-c", "\n".join(script)],
                cwd=self._home,
                env=self._environment,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                start_new_session=True,
            )
            try:
                status = process.wait(RUN_S)
            except subprocess.TimeoutExpired:
                status = None
            finally:
                # What the commands have started goes with them.
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                process.wait()
        told = self._log.read_text(errors="replace")
        assert status == 0, f"the documented commands ended with {status}:\n{told[-6000:]}"
        return told


ADDRESS = "bootferry.socket"
"""In the shell's directory: the whole path may be longer than the 107 bytes a socket's may have, unix(7)."""

BOOTFERRY = """#!{python} -IS
import os, socket, sys, time
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as program:
    for _ in range(300):
        try:
            program.connect({address!r})
            break
        except OSError:
            time.sleep(0.1)
    socket.send_fds(program, ["\\0".join(sys.argv[1:]).encode()], [0, 1, 2])
    sys.exit(program.recv(1)[0])
"""
"""`bootferry`, which `be_bootferry` is: a start of it takes most of a second, and a page needs fifty."""


def be_bootferry() -> None:
    """Be `bootferry` for whoever connects, each time in a process forked from this one, which has loaded all of it."""
    for module in ("aiohttp", "rich.table", "typer._adapters", "yaml", "region.cli.client", "region.cli.follow"):
        importlib.import_module(module)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(ADDRESS)
        listening.listen()
        while True:
            asking, _ = listening.accept()
            words, streams, _, _ = socket.recv_fds(asking, 65536, 3)
            if os.fork() == 0:
                for number, stream in enumerate(streams):
                    os.dup2(stream, number)
                sys.argv = ["bootferry", *words.decode().split("\0")]
                status = 1
                try:
                    operators_program.main()
                except SystemExit as ending:
                    status = int(ending.code or 0)
                finally:
                    asking.send(bytes([status]))
                    os._exit(0)
            for number in (*streams, asking.detach()):
                os.close(number)


SYSTEMCTL = """#!{python}
import socket, subprocess, sys, time
assert sys.argv[1:] == ["enable", "--now", "bootferry-rack"], sys.argv
subprocess.Popen(["bootferry-rack", "run"], stdout=open("rack.log", "w"), stderr=subprocess.STDOUT)
for _ in range(300):
    try:
        socket.create_connection(("127.0.0.1", {port})).close()
        break
    except OSError:
        time.sleep(0.1)
else:
    sys.exit(open("rack.log").read())
"""
"""As much of systemd as the pages use: it returns when the service is ready."""


def _install(path: Path, text: str) -> None:
    path.write_text(text)
    path.chmod(0o755)


@pytest.mark.e2e
@pytest.mark.parametrize("way", ["bootferry", pytest.param("curl", marks=needs_curl)])
async def test_the_commands_of_the_operating_page_run(ferry: Ferry, shell: Shell, way: str) -> None:
    steps = [
        (f"{OPERATING.name}:{block.line}", block.text)
        for block in blocks(OPERATING)
        if block.info[1:] in (["run"], ["run", way])
    ]
    assert len(steps) > 15
    await ferry.site.start_region(ferry.region)
    await to_thread(shell.run, steps)


@pytest.mark.e2e
@needs_curl
async def test_the_commands_of_the_readme_run(ferry: Ferry, shell: Shell) -> None:
    asking = [line for line in indented(README) if line.startswith("curl ")]
    assert asking
    await ferry.site.start_region(ferry.region)
    await ferry.site.start_rack(ferry.rack, ferry.region)

    async def synced() -> bool:
        return set((await ferry.site.statuses(ferry.region)).values()) == {"synced"}

    await ferry.site.until(synced)
    told = await to_thread(
        shell.run, [(README.name, line.replace("curl ", "curl --fail-with-body ", 1)) for line in asking]
    )
    assert '"status":"synced"' in told


def test_the_readme_names_targets_of_the_makefile() -> None:
    targets = set(re.findall(r"^([a-z]+):", (CHECKOUT / "Makefile").read_text(), re.MULTILINE))
    named = {word for line in commands(README) for word in re.findall(r"^make ([a-z]+)", line)}
    assert {"run", "test"} <= named <= targets


# --- what it names exists


def paths(page: Path) -> set[tuple[str, str]]:
    """The addresses below /api/v1 that a page shows; curl's with their method, others with an empty one."""
    text = page.read_text()
    found = {("", path) for path in re.findall(r"/api/v1(/[\w/:.-]+)", text)}
    for line in text.splitlines():
        if re.search(r"\bcurl\b", line) and (address := re.search(r"\$API(/[\w/:.-]+)", line)):
            given = re.search(r"-X ([A-Z]+)", line)
            found.add((given[1] if given else "POST" if "--json" in line else "GET", address[1]))
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_is_in_the_description_of_the_api(page: Path) -> None:
    described = json.loads((CHECKOUT / "docs" / "openapi.json").read_text())["paths"]
    known = [
        (re.compile(re.sub(r"\{[^}]+\}", "[^/]+", path.removeprefix("/api/v1"))), set(methods))
        for path, methods in described.items()
    ]
    shown = paths(page)
    assert shown
    for method, path in sorted(shown):
        answering = [methods for pattern, methods in known if pattern.fullmatch(path)]
        assert answering, f"{path} is not in docs/openapi.json"
        assert not method or any(method.lower() in methods for methods in answering), f"{path} has no {method}"


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_command_exists(page: Path) -> None:
    plain = [re.sub(r"^(sudo -u \w+|systemd-run .*?) (?=bootferry-)", "", line) for line in commands(page)]
    shown = [line for line in plain if re.match(r"bootferry(-region|-rack)?( |$)", line)]
    assert shown
    for line in shown:
        require_command(shlex.split(re.sub(r" *(<|>|\|| # ).*", "", line)), line)


def require_command(words: Sequence[str], line: str) -> None:
    """Fails unless the command these words name exists, with its options, and its help can be shown."""
    group: Any = typer.main.get_command(PROGRAMS[words[0]])
    context = group.make_context(words[0], [], resilient_parsing=True)
    rest = list(words[1:])
    while rest and rest[0] in getattr(group, "commands", {}):
        group = group.commands[rest[0]]
        context = group.make_context(rest.pop(0), [], parent=context, resilient_parsing=True)
    if hasattr(group, "commands") and rest:
        assert rest[0].startswith("-"), f"{line}: there is no command {rest[0]}"
    options = {name for param in group.get_params(context) for name in [*param.opts, *param.secondary_opts]}
    if hasattr(group, "commands"):
        # What stands before a command is said of all commands.
        options |= {"-o", "--output"}
    for word in rest:
        if word.startswith("-") and word != "-":
            assert word.partition("=")[0] in options, f"{line}: there is no option {word}"
    group.get_help(context)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_link_leads_somewhere(page: Path) -> None:
    anchors = {
        other: {re.sub(r"[^\w -]", "", title).strip().lower().replace(" ", "-") for title in _titles(other)}
        for other in PAGES
    }
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        if "://" in target:
            continue
        path, _, anchor = target.partition("#")
        leads_to = (page.parent / path).resolve() if path else page
        assert leads_to.exists(), target
        assert not anchor or anchor in anchors[leads_to], target


def _titles(page: Path) -> list[str]:
    return re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)


# --- its tables are complete


def table(heading: str) -> dict[str, list[str]]:
    """The rows of the table of the operating page whose head begins with `heading`, by their first cell."""
    lines = OPERATING.read_text().splitlines()
    [head] = [number for number, line in enumerate(lines) if line.startswith(f"| {heading} |")]
    found: dict[str, list[str]] = {}
    for line in lines[head + 2 :]:
        if not line.startswith("|"):
            break
        first, *others = [cell.strip().strip("`") for cell in line.strip("|").split(" | ")]
        assert first not in found, f"{first} stands there twice"
        found[first.strip("` ")] = others
    return found


def error_codes() -> set[str]:
    """The code of every error there is, and of what the framework and the command line refuse."""
    for package in (region, rack, shared):
        for module in pkgutil.walk_packages(package.__path__, f"{package.__name__}."):
            if not module.name.endswith("__main__"):
                importlib.import_module(module.name)
    own = {
        kind.code for kind in _kinds(BootferryError) if kind.__module__.split(".")[0] in ("region", "rack", "shared")
    }
    return own | {code for code, _ in problems._FRAMEWORK.values()} | {"invalid_request", "declined"}


def _kinds(kind: type[BootferryError]) -> Iterator[type[BootferryError]]:
    yield kind
    for below in kind.__subclasses__():
        yield from _kinds(below)


def test_every_error_code_is_explained() -> None:
    explained = table("code")
    assert explained.keys() == error_codes()
    assert all(means and remedy for means, remedy in explained.values())
    assert list(explained) == sorted(explained), "they are looked up by name"


STATUSES = [
    pytest.param("of an image", images.Status, cli_images._STATUSES, id="image"),
    pytest.param("of a rack", racks.RackShown.model_fields["status"].annotation, cli_racks._STATUSES, id="rack"),
    pytest.param(
        "of an image on a rack",
        images.OnRackShown.model_fields["state"].annotation,
        cli_racks.STATES,
        id="image on a rack",
    ),
    pytest.param("of an import", ImportShown.model_fields["state"].annotation, cli_imports._STATES, id="import"),
]


@pytest.mark.parametrize(("noun", "literal", "words"), STATUSES)
def test_every_status_is_explained_by_the_word_it_is_shown_as(
    noun: str, literal: Any, words: Mapping[str, Any]
) -> None:
    text = OPERATING.read_text()
    section = text[re.search(rf"^## The stat\w+ {noun}$", text, re.MULTILINE).end() :].partition("\n## ")[0]  # type: ignore[union-attr]
    rows = dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \| .+ \|$", section, re.MULTILINE))
    assert rows.keys() == set(get_args(literal))
    assert rows == {status: cell.text for status, cell in words.items()}


def spelled(default: object) -> str:
    """A default as somebody would write it."""
    match default:
        case None | bool():
            return {None: "none", True: "true", False: "false"}[default]
        case tuple():
            return ",".join(str(one).removesuffix("/128") for one in default)
    return str(default)


@pytest.mark.parametrize("settings", [RegionConfiguration, RackConfiguration], ids=lambda settings: settings.service)
def test_every_setting_is_there_with_its_default(settings: type[ServiceConfiguration]) -> None:
    heading = {"region": "setting of the region", "rack": "setting of a rack"}[settings.service]
    prefix = settings.model_config["env_prefix"]
    defaults = {f"{prefix}{name}".upper(): spelled(field.default) for name, field in settings.model_fields.items()}
    assert {name: cells[0] for name, cells in table(heading).items()} == defaults


def test_the_exit_statuses_of_the_command_line_are_there() -> None:
    from region.cli.exits import ExitCode

    assert set(table("exit status of `bootferry`")) == {str(int(code)) for code in ExitCode}
