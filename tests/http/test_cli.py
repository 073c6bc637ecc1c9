"""`bootferry` as an operator has it: a process with its streams and its exit code, against a region that runs.

One region serves the module; tests that change it leave it as they found it. Each command is a process of its own; most
of them are forked from one that has loaded the program's modules already, because a hundred starts take a minute.
"""

import asyncio
import json
import multiprocessing
import os
import pty
import re
import select
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest
import yaml

from deploy.local import postgres
from deploy.local.mirror.content import TINY
from deploy.local.mirror.faults import Slow, Status
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from region import api, app
from region.cli import plan, profile
from region.cli.exits import ExitCode
from region.cli.main import main
from region.cli.words import ago, counted, listed, printable, size, span
from region.configuration import RegionConfiguration
from region.edge.server import build_server
from shared import __version__
from shared.errors import InvalidConfiguration, Unauthenticated
from tests.conftest import TEMPLATE

CHECKOUT = Path(__file__).parents[2]
PROGRAM = (sys.executable, "-m", "region.cli.main")
NEWEST = "ubuntu/resolute/amd64"
"""The newest LTS, which a new region selects and fetches by itself."""


@dataclass
class Region:
    """A region that runs in a thread, and its mirror."""

    url: str
    token: str
    mirror: Mirror
    upstream: Server


@dataclass(frozen=True)
class Ended:
    """A run that has ended."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


@dataclass
class Operator:
    """Somebody with a home of their own who types commands."""

    home: Path
    region: Region
    environ: dict[str, str] = field(default_factory=dict)

    def environment(self, **more: str) -> dict[str, str]:
        plain = {name: value for name, value in os.environ.items() if name in ("PATH", "LANG", "TMPDIR")}
        plain |= {"HOME": str(self.home), "XDG_CONFIG_HOME": str(self.home / "config"), "COLUMNS": "100", "TZ": "UTC"}
        plain |= {"SSL_CERT_FILE": os.devnull}  # no certificate is checked here, and reading them all takes longest
        return plain | self.environ | more

    def __call__(self, *arguments: str, stdin: str = "", **environ: str) -> Ended:
        """A run without any terminal."""
        paths = [self.home / name for name in ("stdin", "stdout", "stderr")]
        self.home.mkdir(exist_ok=True)
        for path, text in zip(paths, (stdin, "", ""), strict=True):
            path.write_text(text)
        program = PROCESSES.Process(target=be_bootferry, args=(arguments, self.environment(**environ), paths))
        program.start()
        program.join(30)
        out, err = paths[1].read_text(), paths[2].read_text()
        assert program.exitcode is not None, f"It has not ended; it said {out}{err}"
        assert self.region.token not in out + err
        assert "Traceback" not in err, err
        return Ended(program.exitcode, out, err)

    def on_terminal(
        self,
        *arguments: str,
        types: str = "",
        once: str = "",
        meanwhile: Callable[[], object] = lambda: None,
        **environ: str,
    ) -> Ended:
        """A run on a terminal, both streams in `out`. Once it shows `once`, do `meanwhile` and type `types`."""
        terminal, line = pty.openpty()
        name = Path(os.ttyname(line))
        environment = self.environment(TERM="xterm-256color", **environ)
        try:
            program = PROCESSES.Process(target=be_bootferry, args=(arguments, environment, [name] * 3))
            program.start()
            out = self._watch(program.sentinel, terminal, types, once, meanwhile)
            program.join(5)
        finally:
            os.close(line)
            os.close(terminal)
        assert program.exitcode is not None
        assert self.region.token not in out
        assert "Traceback" not in out, out
        return Ended(program.exitcode, out, "")

    def _watch(self, ended: int, terminal: int, types: str, once: str, meanwhile: Callable[[], object]) -> str:
        shown, deadline = b"", time.monotonic() + 30
        while time.monotonic() < deadline:
            ready = select.select([terminal, ended], [], [], 1)[0]
            if terminal in ready:
                shown += os.read(terminal, 65536)
            elif ended in ready:
                return shown.decode()
            if types and once.encode() in shown:
                meanwhile()
                os.write(terminal, types.encode())
                types = ""
        raise AssertionError(f"The program has not ended; it showed {shown!r}")


def be_bootferry(arguments: Sequence[str], environ: Mapping[str, str], streams: Sequence[Path]) -> None:
    """In a process of its own: run the program with these streams."""
    os.setsid()  # the first terminal that is opened after this is the one Ctrl-C is typed on
    for number, path in enumerate(streams):
        os.dup2(os.open(path, os.O_RDWR), number)
    sys.stdin, sys.stdout, sys.stderr = (open(n, mode) for n, mode in enumerate(("r", "w", "w")))  # noqa: PTH123, SIM115
    os.environ.clear()
    os.environ.update(environ)
    time.tzset()
    signal.signal(signal.SIGINT, signal.default_int_handler)
    sys.argv = ["bootferry", *arguments]
    main()


PROCESSES = multiprocessing.get_context("forkserver")
PROCESSES.set_forkserver_preload([__name__, "region.cli.bars", "region.cli.client", "rich.table", "typer._adapters"])


@pytest.fixture(scope="module")
def region(database_server: postgres.Server, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Region]:
    root = tmp_path_factory.mktemp("cli")
    started, found = threading.Event(), list[Region]()
    stop: list[Any] = []

    async def run() -> None:
        await database_server.clone(TEMPLATE, "cli")
        mirror = Mirror.create(root / "upstream", now=datetime.now(UTC), sizes=TINY)
        async with serve(mirror, host="127.0.0.1") as upstream:
            settings = RegionConfiguration(
                database_url=database_server.url("cli"),
                data_dir=root / "region",
                default_source_url=upstream.url,
                default_source_keyring=mirror.keyring_path,
                prune_grace_seconds=0,
            )
            built = app.build(settings)
            server = build_server(api.create(built), host="127.0.0.1", port=0, shutdown_grace_s=1)
            serving = asyncio.create_task(server.serve())
            await asyncio.wait_for(built.ready.wait(), 20)
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.01)
            port = server.servers[0].sockets[0].getsockname()[1]
            token = (settings.data_dir / "admin-token").read_text().strip()
            found.append(Region(f"http://127.0.0.1:{port}", token, mirror, upstream))
            stop.append(lambda: setattr(server, "should_exit", True))
            started.set()
            await serving
        await database_server.drop_database("cli")

    thread = threading.Thread(target=asyncio.run, args=(run(),))
    thread.start()
    try:
        assert started.wait(60), "the region did not start"
        # Every test begins with the newest LTS in place.
        first = Operator(root / "nobody", found[0], {"BOOTFERRY_URL": found[0].url, "BOOTFERRY_TOKEN": found[0].token})
        assert first("import", "show", "1", "--wait").code == 0
        yield found[0]
    finally:
        for each in stop:
            each()
        thread.join(30)


@pytest.fixture
def operator(region: Region, tmp_path: Path) -> Operator:
    """An operator whose environment names region and token."""
    return Operator(tmp_path, region, {"BOOTFERRY_URL": region.url, "BOOTFERRY_TOKEN": region.token})


@pytest.fixture
def stranger(region: Region, tmp_path: Path) -> Operator:
    """Somebody who has never logged in."""
    return Operator(tmp_path, region)


def plain(shown: str) -> str:
    """What a terminal shows, without its escapes."""
    return re.sub(r"\x1b\[[0-9;?]*[A-Za-z]", "", shown).replace("\r", "\n")


LISTED = [
    pytest.param(["images"], [r"^IMAGE +SIZE +STATUS", rf"^{NEWEST} +\d+\.\d kB +Stored +- +\d{{8}}"], id="images"),
    pytest.param(["image", "show", "ubuntu/resolute"], [rf"^Image +{NEWEST}$", "^Source +maas.io$"], id="image"),
    pytest.param(
        ["available"], [rf"^{NEWEST} +26.04 LTS .*yes$", r"^centos/centos70/amd64 .*ended 2024-06-30$"], id="available"
    ),
    pytest.param(["available", "--source", "maas.io"], [r"^ubuntu/noble/arm64 "], id="available-of-a-source"),
    pytest.param(["selection", "show"], [rf"^{NEWEST} +whichever wins$"], id="selection"),
    pytest.param(["sources"], [r"^SOURCE +NAME +URL", r"^ +1 +maas.io +http://.* yes +10 +\w"], id="sources"),
    pytest.param(
        ["source", "show", "1"], [r"^Trust +signed by [0-9A-F]{40}$", "^Skipped .*support-matrix"], id="source"
    ),
    pytest.param(["imports"], [r"^ +1 +Succeeded +the hourly sync"], id="imports"),
    pytest.param(
        ["import", "show", "1"], [r"^State +Succeeded$", rf"^{NEWEST} +\d", r"^bootloader/pxe/i386 +\d"], id="import"
    ),
    pytest.param(["image", "versions", NEWEST], [r"^VERSION +SIZE", r"^\d{8} +\d+\.\d kB +yes +yes$"], id="versions"),
    pytest.param(
        ["bootloaders"], [r"^BOOTLOADER +TYPE", r"^pxelinux +pxe +i386 +\d.* yes +- +\d{8}\.0$"], id="bootloaders"
    ),
    pytest.param(["storage"], [r"^Free +\d.* [GT]B$", r"^Held +\d.* in \d+ files$"], id="storage"),
    pytest.param(["settings"], ["^Proxy +none$"], id="settings"),
    pytest.param(["token", "list"], [r"^[0-9a-f]{12} +first administrator +admin +.* +never +"], id="tokens"),
    pytest.param(["whoami"], ["^Name +first administrator$", "^Role +admin$", "^Region +http://127"], id="whoami"),
    pytest.param(["auto-sync"], [r"^Automatic sync is on, every hour: it ran .+ and is due .+\.$"], id="auto-sync"),
]


@pytest.mark.parametrize(("command", "patterns"), LISTED)
def test_what_is_shown_as_table_and_as_json(operator: Operator, command: list[str], patterns: list[str]) -> None:
    table = operator(*command)
    assert (table.code, table.err) == (0, "")
    for pattern in patterns:
        assert re.search(pattern, table.out, re.MULTILINE), table.out
    assert "\x1b" not in table.out
    assert not re.search(r" $", table.out, re.MULTILINE), "trailing blanks"
    data = operator(*command, "-o", "json")
    assert (data.code, data.err) == (0, "")
    assert data.json


def test_yaml_says_what_json_says(operator: Operator) -> None:
    in_json, in_yaml = operator("sources", "-o", "json"), operator("sources", "-o", "yaml")
    assert yaml.safe_load(in_yaml.out) == in_json.json
    # Times stay as the region wrote them.
    assert datetime.fromisoformat(in_json.json[0]["last_read_at"]).tzinfo is not None


NOTHING_THERE = [
    pytest.param(["images"], {"BOOTFERRY_URL": "http://127.0.0.1:1"}, 3, "Nothing answers at", id="nothing-answers"),
    pytest.param(["images"], {"BOOTFERRY_URL": "{mirror}"}, 3, "is not a Bootferry region", id="not-a-region"),
    pytest.param(["images"], {"BOOTFERRY_URL": "region:5240"}, 2, "must begin with http", id="not-a-url"),
    pytest.param(
        ["images"], {"BOOTFERRY_TOKEN": "bf_000000000000_x"}, 4, "not known to the region", id="unknown-token"
    ),
    pytest.param(["images"], {"BOOTFERRY_TOKEN": ""}, 4, "There is no token for http", id="no-token"),
    pytest.param(["images"], {"BOOTFERRY_URL": "", "BOOTFERRY_TOKEN": ""}, 4, "bootferry login URL", id="no-log-in"),
    pytest.param(["image", "show", "ubuntu/warty/amd64"], {}, 1, "ubuntu/warty/amd64", id="unknown-image"),
    pytest.param(["image", "show", "ubuntu/warty"], {}, 1, "neither selected nor held", id="unknown-release"),
    pytest.param(["image", "show", "noble"], {}, 2, "write it as ubuntu/noble", id="half-an-image"),
    pytest.param(["import", "show", "999"], {}, 1, "no import 999", id="unknown-import"),
    pytest.param(["source", "show", "9"], {}, 1, "the region has maas.io", id="unknown-source"),
    pytest.param(["rack", "show", "attic"], {}, 1, "the region has no racks", id="unknown-rack"),
    pytest.param(["select", "ubuntu/noble"], {}, 2, "amd64 and arm64; say which with --arch", id="which-arch"),
    pytest.param(["select", "ubuntu/warty"], {}, 1, "No source offers ubuntu/warty", id="not-offered"),
    pytest.param(["select", "ubuntu/noble/amd64", "-a", "arm64"], {}, 2, "leave --arch out", id="arch-twice"),
    pytest.param(["unselect", NEWEST], {}, 2, "add --yes", id="nobody-to-ask"),
    pytest.param(["source", "remove", "1", "--yes"], {}, 1, "say what becomes of them", id="source-in-use"),
    pytest.param(["source", "probe", "http://127.0.0.1:1"], {}, 2, "--unsigned", id="probe-without-trust"),
    pytest.param(["source", "probe", "{mirror}x", "--unsigned"], {}, 1, "answered 404", id="probe-of-nothing"),
    pytest.param(["selection", "apply", "/nonexistent"], {}, 2, "No such file", id="no-such-file"),
    pytest.param(["image", "pin", NEWEST, "19990101"], {}, 1, "There is no version of ubuntu", id="unknown-version"),
    pytest.param(["image", "pin", "ubuntu/resolute", "1"], {}, 2, "name its architecture too", id="pin-of-a-release"),
    pytest.param(["image", "unpin", NEWEST], {}, 1, "There is no pin of", id="not-pinned"),
    pytest.param(["image", "delete", "ubuntu/warty/amd64", "-y"], {}, 1, "ubuntu/warty/amd64", id="delete-unknown"),
    pytest.param(["image", "delete", NEWEST], {}, 2, "add --yes", id="delete-unasked"),
    pytest.param(["settings", "set"], {}, 2, "Say one of --proxy URL and --no-proxy", id="set-nothing"),
    pytest.param(["settings", "set", "--proxy", "ftp://x"], {}, 1, "'ftp://x' is not a", id="no-proxy-at-all"),
    pytest.param(["token", "remove", "first administrator", "-y"], {}, 1, "last administrator", id="last-token"),
    pytest.param(["token", "remove", "nobody"], {}, 1, "the region has first administrator", id="unknown-token-name"),
    pytest.param(["slect"], {}, 2, "Did you mean 'select'", id="no-such-command"),
    pytest.param(["select"], {}, 2, "bootferry select -h", id="missing-argument"),
    pytest.param(["sync", "--wait=moon"], {}, 2, "does not take a value", id="wait-for-what"),
    pytest.param(["images", "-o", "xml"], {}, 2, "bootferry images -h", id="no-such-format"),
    pytest.param(["images", "--status", "lost"], {}, 2, "There is no status lost; there are", id="no-such-status"),
    pytest.param(["racks", "--sort", "mood"], {}, 2, "There is no column mood to sort by", id="no-such-column"),
    pytest.param(["images", "--watch", "-o", "yaml"], {}, 2, "choose another --output", id="watch-as-yaml"),
]


@pytest.mark.parametrize(("command", "environ", "code", "told"), NOTHING_THERE)
def test_a_refusal_is_one_sentence_and_an_exit_code(
    operator: Operator, command: list[str], environ: dict[str, str], code: int, told: str
) -> None:
    mirror = operator.region.upstream.url
    ended = operator(
        *[part.format(mirror=mirror) for part in command],
        **{name: value.format(mirror=mirror) for name, value in environ.items()},
    )
    assert ended.code == code, ended.err
    assert told in ended.err
    assert ended.err.startswith("bootferry: ")
    assert ended.err.count("\n") == 1, ended.err


def test_errors_have_their_code_in_json(operator: Operator) -> None:
    ended = operator("image", "show", "ubuntu/warty/amd64", "-o", "json")
    assert (ended.code, ended.out) == (1, "")
    assert json.loads(ended.err) == {"code": "not_found", "detail": ended.err.split('"')[7]}


def test_help_is_quick_plain_and_complete(stranger: Operator) -> None:
    ended = stranger()
    assert (ended.code, ended.err) == (0, "")
    assert [line for line in ended.out.splitlines() if line.endswith(":") and line[0] != " "] == [
        "Options:",
        "Images:",
        "Imports:",
        "Sources and racks:",
        "The region:",
        "Log-in and shell:",
    ]
    assert "..." not in ended.out.replace("[ARGS]...", "")
    loaded = subprocess.run(
        [sys.executable, "-c", "import sys, region.cli.main; print(*sys.modules)"],
        cwd=CHECKOUT,
        capture_output=True,
        text=True,
        check=True,
    ).stdout.split()
    assert not {"aiohttp", "asyncio", "rich", "yaml", "pydantic", "sqlalchemy", "fastapi"} & set(loaded)
    assert {name for name in loaded if re.match(r"region\.(?!cli)|rack\.", name)} == set()


def test_the_program_as_it_is_started(operator: Operator) -> None:
    def run(*arguments: str, **environ: str) -> str:
        environment = operator.environment(**environ)
        ended = subprocess.run(
            [*PROGRAM, *arguments],
            cwd=CHECKOUT,
            env=environment,
            capture_output=True,
            text=True,
            check=True,
            timeout=30,
        )
        assert ended.stderr == ""
        return ended.stdout

    assert run("--version") == f"bootferry {__version__}\n"
    assert run("sources", "-o", "json") == operator("sources", "-o", "json").out
    words = {"_BOOTFERRY_COMPLETE": "complete_bash", "COMP_CWORD": "1"}
    assert run(COMP_WORDS="bootferry sel", **words).split() == ["select", "selection"]


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completion(stranger: Operator, shell: str) -> None:
    ended = stranger("completion", shell)
    assert (ended.code, ended.err) == (0, "")
    assert "_BOOTFERRY_COMPLETE" in ended.out
    if shell == "bash":
        subprocess.run(["bash", "-n"], input=ended.out, text=True, check=True)


COMPLETED = [
    pytest.param("bootferry image show ubuntu/res", [NEWEST], id="an-image"),
    pytest.param("bootferry images ub", [NEWEST], id="an-image-of-a-list"),
    pytest.param("bootferry select ubuntu/nob", ["ubuntu/noble/amd64", "ubuntu/noble/arm64"], id="what-is-offered"),
    pytest.param("bootferry unselect u", [NEWEST], id="what-is-selected"),
    pytest.param("bootferry source show m", ["maas.io"], id="a-source"),
    pytest.param("bootferry source show Our", [], id="no-source"),
    pytest.param("bootferry available --source ma", ["maas.io"], id="the-source-of-an-option"),
    pytest.param("bootferry rack show a", [], id="no-rack"),
]


@pytest.mark.parametrize(("line", "words"), COMPLETED)
def test_names_of_the_region_are_completed(operator: Operator, line: str, words: list[str]) -> None:
    assert completed(operator, line) == words


def completed(operator: Operator, line: str, **environ: str) -> list[str]:
    """What bash offers at the end of the line."""
    asked = {"_BOOTFERRY_COMPLETE": "complete_bash", "COMP_WORDS": line, "COMP_CWORD": str(len(line.split()) - 1)}
    ended = operator(**asked, **environ)
    assert (ended.code, ended.err) == (0, "")
    return ended.out.split()


def test_completion_waits_for_no_region_and_says_nothing(operator: Operator) -> None:
    assert completed(operator, "bootferry image show u", BOOTFERRY_URL="http://127.0.0.1:1") == []
    assert completed(operator, "bootferry image show u", BOOTFERRY_TOKEN="") == []
    # One that takes the connection and never answers.
    with socket.create_server(("127.0.0.1", 0)) as silent:
        begun = time.monotonic()
        url = f"http://127.0.0.1:{silent.getsockname()[1]}"
        assert completed(operator, "bootferry image show u", BOOTFERRY_URL=url) == []
        assert time.monotonic() - begun < 15


def test_log_in_and_out(stranger: Operator, tmp_path: Path) -> None:
    region, kept = stranger.region, tmp_path / "config" / "bootferry" / "profiles.json"
    wrong = stranger("login", region.url, "--token-file", "-", stdin="bf_000000000000_wrong\n")
    assert (wrong.code, wrong.out, kept.exists()) == (4, "", False)
    assert stranger("login", region.upstream.url, "--token-file", "-", stdin=region.token).code == 3
    assert stranger("login", region.url).code == 2  # nobody to ask
    assert stranger("login", "region:5240").code == 2

    told = stranger.on_terminal("login", region.url, types=f"{region.token}\r", once="Token")
    assert (told.code, f"Logged in to region at {region.url}" in told.out) == (0, True)
    assert kept.stat().st_mode & 0o777 == 0o600
    assert kept.parent.stat().st_mode & 0o777 == 0o700

    token_file = tmp_path / "token"
    token_file.write_text(f"{region.token}\n")
    assert stranger("login", f"{region.url}/", "--profile", "second", "--token-file", str(token_file)).code == 0
    profiles = stranger("profiles")
    assert re.search(r"^second +http\S+ +yes$", profiles.out, re.MULTILINE)
    address = region.url.removeprefix("http://")
    assert stranger("profile", "use", address).code == 0
    assert stranger("profile", "use", "third").code == 2
    assert stranger("sources", BOOTFERRY_PROFILE="second").code == 0
    # A token goes to the region that made it, and to no other.
    elsewhere = stranger("sources", BOOTFERRY_URL="http://127.0.0.1:1")
    assert (elsewhere.code, "no token for http://127.0.0.1:1" in elsewhere.err) == (4, True)

    assert "second is meant" in stranger("logout").err
    assert stranger("logout").code == 0
    assert stranger("sources").code == 4
    assert json.loads(kept.read_text())["profiles"] == {}


def test_a_list_is_filtered_sorted_and_cut(operator: Operator) -> None:
    assert operator("images", "ubuntu", "--status", "stored", "-o", "name").out == f"{NEWEST}\n"
    assert operator("images", "*/*/amd64", "--no-headers").out.startswith(NEWEST)
    none = operator("images", "--status", "failed", "--status", "Synced")
    assert (none.code, none.out, none.err) == (0, "", "None of 1 is in that state.\n")
    nothing = operator("images", "centos")
    assert (nothing.code, nothing.err) == (
        0,
        "No image that is selected or held fits centos; see all with: bootferry images\n",
    )
    sizes = [item["size_bytes"] for item in operator("available", "--sort=-size", "-o", "json").json]
    assert sizes == sorted(sizes, reverse=True)
    assert re.search(r"^IMAGE .* SOURCE +RELEASE +SUPPORT$", operator("images", "-o", "wide").out, re.MULTILINE)
    assert operator("selection", "show", "-o", "name", "--sort", "image").out == f"{NEWEST}\n"
    assert operator("bootloaders", "-o", "name").out.splitlines()[0].startswith("bootloader/")


def test_a_list_is_watched_until_ctrl_c(operator: Operator) -> None:
    def change() -> None:
        assert operator("source", "update", "1", "--priority", "77").code == 0
        time.sleep(4)  # more than one look

    watched = operator.on_terminal("sources", "--watch", once="PRIORITY", meanwhile=change, types="\x03")
    assert watched.code == 0
    assert re.search(r"yes +10 .*yes +77 ", plain(watched.out), re.DOTALL)
    assert operator("source", "update", "1", "--priority", "10").code == 0
    assert operator("sync", "--wait").code == 0


def test_select_and_unselect(operator: Operator) -> None:
    wish = ("select", "ubuntu/noble", "--arch", "amd64", "--arch", "arm64")
    planned = operator(*wish, "--dry-run")
    assert planned.code == 0
    assert planned.out.splitlines()[:2] == ["  + ubuntu/noble/amd64", "  + ubuntu/noble/arm64"]
    assert re.fullmatch(r"\d+\.\d kB to fetch; afterwards .* free on the region\.", planned.out.splitlines()[2])
    assert "nothing was changed" in planned.err
    assert [entry["arches"] for entry in operator("selection", "show", "-o", "json").json["images"]] == [["amd64"]]

    saved = operator(*wish, "--wait")
    assert saved.code == 0, saved.err
    assert "ubuntu/noble/arm64" in saved.out
    assert re.search(r"^Import \d+ succeeded: \d+\.\d kB fetched in .*\.$", saved.out, re.MULTILINE)
    assert re.search(r"^ubuntu/noble/arm64: \d+\.\d kB, done$", saved.err, re.MULTILINE)
    again = operator(*wish)
    assert (again.code, again.out) == (0, "Nothing to change: that is what is selected.\n")

    declined = operator.on_terminal("unselect", "ubuntu/noble", types="n\r", once="2 images will be deleted. Go on?")
    assert (declined.code, "Nothing was changed." in declined.out) == (1, True)
    given_up = operator("unselect", "ubuntu/noble", "--yes", "--wait", "-o", "json")
    assert (given_up.code, given_up.json["state"]) == (0, "succeeded")
    assert "will be deleted from the region and every rack" in given_up.err
    assert [item["id"] for item in operator("images", "-o", "json").json] == ["ubuntu:resolute:amd64"]


def test_a_selection_in_a_file(operator: Operator, tmp_path: Path) -> None:
    present = operator("selection", "show", "-o", "yaml").out
    assert yaml.safe_load(present) == {
        "images": [{"image": "ubuntu/resolute", "arches": ["amd64"]}],
    }
    before = len(operator("imports", "-o", "json").json)
    unchanged = operator("selection", "apply", "-", stdin=present)
    assert (unchanged.code, unchanged.out) == (0, "Nothing to change: that is what is selected.\n")

    file = tmp_path / "selection.yaml"
    file.write_text("images: [{image: ubuntu/jammy, arches: [amd64]}, {image: ubuntu/resolute/amd64}]\n")
    planned = operator("selection", "apply", str(file), "--dry-run", "-o", "json")
    assert (planned.json["add"], planned.json["remove"]) == (["ubuntu:jammy:amd64"], [])
    assert len(operator("imports", "-o", "json").json) == before
    assert operator("selection", "apply", str(file), "--wait").code == 0
    assert "Nothing to change" in operator("selection", "apply", str(file)).out
    assert operator("selection", "apply", "-", "--yes", "--wait", stdin=present).code == 0
    assert operator("selection", "show", "-o", "yaml").out == present


FILES = [
    pytest.param("images: [", "is not YAML", id="not-yaml"),
    pytest.param("- ubuntu/noble", "one key, images", id="not-a-mapping"),
    pytest.param(
        "images: [{image: ubuntu/noble, arch: [amd64]}]",
        "may have arches, kernels, labels and source; arch is none of them",
        id="unknown-key",
    ),
    pytest.param("images: [{image: ubuntu/noble}]", "names no architecture", id="no-architecture"),
    pytest.param("images: [{image: ubuntu/noble, arches: amd64}]", "must be a list", id="arches-no-list"),
    pytest.param("images: [{image: noble, arches: [amd64]}]", "write it as ubuntu/noble", id="no-os"),
]


@pytest.mark.parametrize(("text", "told"), FILES)
def test_a_file_that_is_no_selection_changes_nothing(operator: Operator, text: str, told: str) -> None:
    ended = operator("selection", "apply", "-", "--yes", stdin=text)
    assert (ended.code, ended.out) == (2, "")
    assert told in ended.err


def test_sync_shows_a_bar_per_image_on_a_terminal(operator: Operator) -> None:
    upstream = operator.region.upstream
    upstream.misbehave("*/squashfs", Slow(4_000))
    try:
        shown = operator.on_terminal("select", "ubuntu/questing", "-a", "amd64", "-a", "arm64", "--wait")
    finally:
        upstream.behave()
    assert shown.code == 0, shown.out
    assert "\x1b[32m━" in shown.out, "a green bar at the end"
    last = [line for line in plain(shown.out).splitlines() if line.strip()][-3:]
    assert [line.split()[0] for line in last[:2]] == ["ubuntu/questing/amd64", "ubuntu/questing/arm64"]
    assert all("100%" in line for line in last[:2])
    assert re.fullmatch(r"Import \d+ succeeded: .*", last[2])
    assert re.search(r"^. In all +━+ +100%  \d", plain(shown.out), re.MULTILINE), "the sum of both"

    alone = operator("sync", "--wait=racks")
    assert (alone.code, alone.err.splitlines()[-1].split(";")[0]) == (0, "No rack is live"), alone.err
    calm = operator.on_terminal("sync", "--wait", NO_COLOR="1")
    assert calm.code == 0
    assert "there was nothing to fetch" in calm.out
    assert not re.search(r"\x1b\[[0-9;]*[34]\d", calm.out), "NO_COLOR leaves no colour"
    images = operator.on_terminal("images")
    assert "\x1b[32mStored" in images.out
    assert operator("unselect", "ubuntu/questing", "--yes", "--wait").code == 0


def test_kernels_rules_and_other_names_are_selected(operator: Operator, tmp_path: Path) -> None:
    before = operator("selection", "show", "-o", "yaml").out
    one = operator("select", "ubuntu/24.04", "--arch", "amd64", "--kernel", "ga", "--label", "stable", "--dry-run")
    assert (one.code, one.err.splitlines()[0]) == (0, "ubuntu/24.04 is ubuntu/noble.")
    assert "  + ubuntu/noble/amd64   kernels ga-24.04\n" in one.out
    assert re.search(r"^Kernels that are left out spare \d.* [kM]?B\.$", one.out, re.MULTILINE)

    rule = operator("select", "ubuntu/lts:2", "--arch", "*", "-k", "ga", "--yes", "--wait")
    assert rule.code == 0, rule.err
    assert re.search(
        r"^  = ubuntu/lts:2/\*   means ubuntu/noble/amd64, .* and ubuntu/resolute/arm64$", rule.out, re.MULTILINE
    )
    shown = operator("selection", "show")
    assert re.search(r"^IMAGE +KERNELS +MEANS +SOURCE$", shown.out, re.MULTILINE)
    assert re.search(r"^ubuntu/lts:2/\* +ga +4 images +whichever wins$", shown.out, re.MULTILINE)
    assert re.search(r"^ubuntu/noble/arm64 .* Stored ", operator("images").out, re.MULTILINE)
    assert operator("image", "show", "ubuntu/24.04/arm64", "-o", "json").json["release"] == "noble"
    assert "There is ubuntu/24.04 for amd64 and arm64" in operator("image", "show", "ubuntu/24.04").err

    refused = operator("unselect", "ubuntu/noble/arm64", "--yes")
    assert refused.err == "ubuntu/noble/arm64 is not selected by its name, but the rule ubuntu/lts:2/* means it.\n"
    assert refused.out == "Nothing to change: that is what is selected.\n"
    assert operator("unselect", "ubuntu/warty").err == "ubuntu/warty is not selected.\n"
    deleted = operator("image", "delete", "ubuntu/noble/arm64", "--yes")
    assert (deleted.code, "is selected by the rule ubuntu:lts:2:*" in deleted.err) == (1, True)
    more = operator("select", "ubuntu/lts:2", "-a", "*", "-k", "ga", "-k", "hwe", "--dry-run")
    assert re.search(r"^  \+ ubuntu/noble/amd64   kernels hwe-24.04 come$", more.out, re.MULTILINE)

    file = tmp_path / "selection.yaml"
    file.write_text(operator("selection", "show", "-o", "yaml").out)
    assert operator("selection", "diff", str(file)).out == f"The selection is what {file} says.\n"
    assert "and the region can take it" in operator("selection", "check", str(file)).out
    assert "No region was asked" in operator("selection", "check", str(file), "--offline").out
    assert "Nothing to change" in operator("selection", "apply", str(file), "--yes").out
    file.write_text(before)
    other = operator("selection", "diff", str(file))
    assert (other.code, other.out) == (1, "  - ubuntu/lts:2/*, kernels ga\n")
    assert "The selection is not what" in other.err
    assert operator("selection", "apply", str(file), "--yes", "--wait").code == 0
    assert operator("selection", "show", "-o", "yaml").out == before


def test_a_file_that_the_region_cannot_take_is_found_by_a_check(operator: Operator, tmp_path: Path) -> None:
    file = tmp_path / "selection.yaml"
    file.write_text("images: [{image: ubuntu/warty/amd64}]\n")
    assert operator("selection", "check", str(file), "--offline").code == 0
    found = operator("selection", "check", str(file))
    assert (found.code, "image that a source offers called ubuntu/warty/amd64" in found.err) == (1, True)
    file.write_text("images: [{image: ubuntu/noble, arches: [amd64], kernels: [ga, hwe-64k]}]\n")
    warned = operator("selection", "check", str(file))
    assert (warned.code, "  ! No source offers the kernel hwe-64k of ubuntu/noble/amd64.\n" in warned.out) == (0, True)


def test_a_failed_import_is_an_exit_code_and_a_stopped_one_too(operator: Operator) -> None:
    upstream = operator.region.upstream
    upstream.misbehave("jammy/arm64/*", Status(404))
    try:
        ended = operator("select", "ubuntu/jammy/arm64", "--wait")
    finally:
        upstream.behave()
    assert ended.code == 1
    assert re.search(r"^ubuntu/jammy/arm64: failed\. http\S+ answered 404", ended.err, re.MULTILINE)
    assert re.search(r"^bootferry: http\S+ answered 404", ended.err, re.MULTILINE)
    listed_images = operator("images")
    assert re.search(r"^ubuntu/jammy/arm64 .* Failed ", listed_images.out, re.MULTILINE)
    assert "answered 404" in listed_images.err

    upstream.misbehave("jammy/arm64/*", Slow(1_200))
    try:
        started = operator("sync", "-o", "json").json["id"]
        interrupted = operator.on_terminal("import", "show", str(started), "--wait", types="\x03", once="ubuntu/jammy")
        assert interrupted.code == ExitCode.INTERRUPTED
        assert "Abort" not in interrupted.out
        alone = operator("stop", "ubuntu/jammy/arm64")
        assert alone.out == (
            f"ubuntu/jammy/arm64 will stop within seconds in import {started}; the next sync goes on with it.\n"
        )
        assert operator("import", "show", str(started), "--wait").code == 0
        assert re.search(r"^ubuntu/jammy/arm64 .* Queued ", operator("images").out, re.MULTILINE)
        started = operator("sync", "-o", "json").json["id"]
        stopped = operator("stop")
        assert (stopped.code, f"Import {started} w" in stopped.out) == (0, True)
        waited = operator("import", "show", str(started), "--wait")
        assert (waited.code, "stopped" in waited.out) == (1, True)
    finally:
        upstream.behave()
    assert operator("stop").out == "No import runs or waits.\n"
    assert operator("stop", "ubuntu/jammy/arm64").out == "No import runs or waits.\n"
    assert operator("unselect", "ubuntu/jammy", "--yes", "--wait").code == 0


def test_sources_come_change_and_go(operator: Operator) -> None:
    mirror, upstream = operator.region.mirror, operator.region.upstream
    trust = ("--keyring", str(mirror.keyring_path))
    probed = operator("source", "probe", upstream.url, *trust)
    assert probed.code == 0
    assert re.search(rf"offers \d+ images; it is signed by {mirror.fingerprint}\.$", probed.out, re.MULTILINE)

    wrong = operator("source", "add", "Nowhere", f"{upstream.url}nowhere/", *trust)
    assert (wrong.code, "answered 404" in wrong.err) == (1, True)
    assert (
        operator("source", "add", "Ours", upstream.url, *trust).out
        == "Added Ours as source 2; the region reads it now.\n"
    )
    changes = ("--name", "Theirs", "--priority", "5", "--stale-after-days", "90")
    updated = operator("source", "update", "Ours", *changes, "-o", "json")
    assert (updated.json["name"], updated.json["priority"]) == ("Theirs", 5)
    assert (updated.json["stale_after_days"], updated.json["warning"]) == (90, "")
    assert operator("source", "update", "Theirs").code == 2
    assert operator("sync", "--wait").code == 0  # the reading that "source add" asked for
    read = operator("source", "read", "Theirs", "--wait")
    assert re.search(r"^Import \d+ succeeded: what is offered is known now\.$", read.out, re.MULTILINE)
    numbers = operator("imports", "-n", "1", "-o", "name").out.strip()
    assert re.search(r"^Of +nothing: source \d+ is read$", operator("import", "show", numbers).out, re.MULTILINE)
    disabled = operator("source", "disable", "Theirs")
    assert disabled.out == "Disabled Theirs: nothing new comes from it, and what is held of it stays.\n"
    assert re.search(r"Theirs .* disabled, read ", operator("sources").out)
    assert "Enabled" not in operator("source", "show", "maas.io").out
    refused = operator("source", "read", "Theirs")
    assert (refused.code, "is disabled, and not read before it is enabled" in refused.err) == (1, True)
    assert "nothing was changed" in operator("source", "enable", "Theirs", "--dry-run").err
    assert operator("source", "enable", "Theirs").out == "Enabled Theirs; the region reads it now.\n"
    assert operator("sync", "--wait").code == 0
    asked = operator("source", "accept-older", "Theirs")
    assert (asked.code, "add --yes" in asked.err) == (2, True)
    older = operator("source", "accept-older", "Theirs", "--yes")
    assert older.out == "The region reads Theirs now and takes documents older than those accepted before.\n"
    # The source that wins an image is named beside it.
    assert re.search(rf"^{NEWEST} .* maas.io +yes$", operator("available").out, re.MULTILINE)
    moved = operator("select", NEWEST, "--source", "Theirs", "--dry-run")
    assert moved.out.startswith(f"  ~ {NEWEST}   from another source\n")
    asked = operator.on_terminal("source", "remove", "Theirs", types="y\r", once="Go on?")
    assert (asked.code, "The source Theirs was removed." in asked.out) == (0, True)


def test_a_rack_enrols_with_the_command_that_is_shown(operator: Operator, tmp_path: Path) -> None:
    none = operator("racks")
    assert (none.code, none.out) == (0, "")
    assert "bootferry rack token" in none.err
    made = operator("rack", "token", "--hours", "2")
    first, command, *_ = made.err.splitlines()
    assert made.code == 0
    assert first == "Run this on the rack within 2 hours; it asks for the token below, which is not shown again:"
    program, *arguments = command.split()
    assert program == "bootferry-rack"
    assert made.out.startswith("bfe_")
    assert made.out.strip() not in made.err
    environ = operator.environment(RACK_DATA_DIR=str(tmp_path / "rack"), BOOTFERRY_CONFIG_DIR=str(tmp_path))
    subprocess.run(
        [sys.executable, "-m", "rack", *arguments, "--name", "attic"],
        input=made.out,
        text=True,
        cwd=CHECKOUT,
        env=environ,
        check=True,
        timeout=30,
    )
    assert re.search(r"^attic +Never seen +- +never ", operator("racks").out, re.MULTILINE)
    assert re.search(r"^attic +Unreachable +- +-$", operator("image", "racks", NEWEST).out, re.MULTILINE)
    shown = operator("rack", "show", "attic", "-o", "json").json
    assert {entry["state"] for entry in shown["pending"]} == {"behind"}
    assert len(shown["pending"]) == shown["images_pending"] == shown["images_total"]
    told = operator("rack", "show", shown["id"][:8]).out
    assert told.startswith("Rack       attic\n")
    assert re.search(r"^ubuntu/\S+ +Behind +- +-$", told, re.MULTILINE)
    assert operator("rack", "poll", "attic").out == "The rack attic is not live: it polls when it is back.\n"
    assert operator("rack", "poll", "--all").out == "0 live racks were asked to poll now.\n"
    both = operator("rack", "poll", "attic", "--all")
    assert (both.code, both.err) == (2, "bootferry: Name one rack, or say --all.\n")
    assert completed(operator, "bootferry rack poll at") == ["attic"]
    asked = operator.on_terminal("rack", "confirm", types="n\r", once="No rack waits, as far as they have reported")
    assert (asked.code, "Nothing was changed." in asked.out) == (1, True)
    assert operator("rack", "confirm").code == 2, "nobody is there to say yes"
    confirmed = operator("rack", "confirm", "--yes", "-o", "json").json
    assert operator("rack", "confirm", "--yes", "-o", "json").json["serial"] == confirmed["serial"] + 1
    assert operator("rack", "remove", "attic", "--yes").out == "The rack attic was removed.\n"
    assert operator("rack", "remove", "attic", "--yes").code == 1


def test_enrolment_tokens_are_listed_and_revoked(operator: Operator) -> None:
    secret = operator("rack", "token", "--hours", "2", "--uses", "3").out.strip()
    listed = operator("rack", "tokens").out
    found = re.search(r"^([0-9a-f]{12}) +first administrator +\S+.* +in \d.* 3$", listed, re.MULTILINE)
    assert found is not None, listed
    assert secret[48:] not in listed
    assert secret[48:] not in operator("rack", "tokens", "-o", "json").out
    asked = operator.on_terminal("rack", "revoke", found[1], types="n\r", once="Revoke it?")
    assert "Nothing was changed." in asked.out
    revoked = operator("rack", "revoke", found[1], "--yes")
    assert revoked.out == f"The enrolment token {found[1]} was revoked.\n"
    assert found[1] not in operator("rack", "tokens").out
    again = operator("rack", "revoke", found[1], "--yes")
    assert (again.code, f"There is no enrolment token {found[1]}" in again.err) == (1, True)


def test_an_image_is_pinned_and_deleted(operator: Operator) -> None:
    version = operator("image", "versions", NEWEST, "-o", "json").json[0]["name"]
    pinned = operator("image", "pin", NEWEST, version, "--wait")
    assert (pinned.code, "succeeded" in pinned.out) == (0, True), pinned.err
    assert re.search(rf"^{NEWEST} .* {version} pinned +\w", operator("images").out, re.MULTILINE)
    assert re.search(rf"^Pinned +to {version}$", operator("image", "show", NEWEST).out, re.MULTILINE)
    unpinned = operator("image", "unpin", NEWEST)
    assert re.fullmatch(rf"Unpinned {NEWEST}\. Import \d+ carries it out; see .*\n", unpinned.out)
    assert "pinned" not in operator("images").out

    assert operator("select", "ubuntu/jammy", "-a", "amd64", "--wait").code == 0
    planned = operator("image", "delete", "ubuntu/jammy/amd64", "--dry-run", "-o", "json").json
    assert (planned["remove"], planned["import_id"]) == (["ubuntu:jammy:amd64"], None)
    asked = operator.on_terminal("image", "delete", "ubuntu/jammy/amd64", types="n\r", once="1 image will be deleted")
    assert (asked.code, "Nothing was changed." in asked.out) == (1, True)
    assert operator("image", "delete", "ubuntu/jammy/amd64", "--yes", "--wait").code == 0
    assert [item["id"] for item in operator("images", "-o", "json").json] == ["ubuntu:resolute:amd64"]


def test_two_operators_do_not_overwrite_each_other(operator: Operator) -> None:
    theirs = ("select", "ubuntu/jammy/arm64")
    mine = operator.on_terminal(
        "unselect",
        NEWEST,
        once="1 image will be deleted. Go on?",
        meanwhile=lambda: operator(*theirs, "--wait"),
        types="y\r",
    )
    assert mine.code == 1
    assert re.search(r"first administrator changed it at .*ubuntu/jammy/arm64.*look again", mine.out)
    assert operator("unselect", "ubuntu/jammy", "--yes", "--wait").code == 0
    assert [item["id"] for item in operator("images", "-o", "json").json] == ["ubuntu:resolute:amd64"]


def test_a_token_is_made_used_and_removed(operator: Operator) -> None:
    made = operator("token", "create", "night shift", "--days", "2")
    assert (made.code, "night shift, a viewer" in made.err) == (0, True)
    token = made.out.strip()
    assert re.fullmatch(r"bf_[0-9a-f]{12}_\S{43}", token), "the token, alone"
    as_viewer = {"BOOTFERRY_TOKEN": token}
    assert re.search(r"^Role +viewer\nExpires +in 2 days", operator("whoami", **as_viewer).out, re.MULTILINE)
    refused = operator("sync", **as_viewer)
    assert (refused.code, "takes the role operator" in refused.err) == (1, True)

    operator("token", "create", "night shift", "--role", "operator")
    listed_tokens = operator("token", "list").out
    assert re.search(r"^\w{12} +night shift +viewer .* in 2 days ", listed_tokens, re.MULTILINE)
    assert token[16:] not in listed_tokens
    ambiguous = operator("token", "remove", "night shift", "--yes")
    assert (ambiguous.code, "There are 2 tokens night shift" in ambiguous.err) == (2, True)
    for item in operator("token", "list", "-o", "json").json[1:]:
        assert operator("token", "remove", item["id"], "--yes").out == "The token of night shift was removed.\n"
    assert operator("whoami", **as_viewer).code == ExitCode.UNAUTHENTICATED
    newest = operator("activity", "-n", "1")
    assert re.search(r"(ago|now) +first administrator +127.0.0.1 +Removed the token of night shift\.\n$", newest.out)
    activity = operator("activity", "-n", "4", "-o", "json").json
    assert [entry["action"] for entry in activity] == ["token.removed"] * 2 + ["token.created"] * 2
    assert token[16:] not in json.dumps(activity)


def test_the_proxy(operator: Operator) -> None:
    saved = operator("settings", "set", "--proxy", "http://ann:secret@proxy.example.org:3128")
    assert (saved.code, "proxy.example.org:3128" in saved.out, "secret" in saved.out) == (0, True, False)
    assert operator("settings", "-o", "json").json["proxy"] is not None
    assert operator("settings", "set", "--no-proxy").out == (
        "Proxy                   none\nRetention               400 days\nBootloaders come from   maas.io\n"
    )


def test_how_long_records_are_kept(operator: Operator) -> None:
    operator("settings", "set", "--proxy", "http://proxy.example.org:3128")
    kept = operator("settings", "set", "--retention-days", "30")
    assert re.search(r"^Proxy +http://proxy.example.org:3128\nRetention +30 days\n", kept.out)
    assert operator("settings", "set", "--retention-days", "0").code == 2
    both = operator("settings", "set", "--no-proxy", "--retention-days", "1")
    assert re.search(r"^Proxy +none\nRetention +1 day\n", both.out)


def test_where_bootloaders_come_from(operator: Operator) -> None:
    upstream, mirror = operator.region.upstream, operator.region.mirror
    assert "\nThey come from maas.io; choose another source with: bootferry settings set" in operator("bootloaders").out
    added = operator("source", "add", "Twin", upstream.url, "--keyring-path", str(mirror.keyring_path))
    assert added.code == 0
    assert operator("sync", "--wait").code == 0
    choice = ("settings", "set", "--bootloaders-from", "Twin")
    planned = operator(*choice, "--dry-run")
    assert planned.out.splitlines()[0] == "  ~ bootloader/open-firmware/ppc64el   is replaced"
    assert len(planned.out.splitlines()) == 5
    assert planned.err == "This was a dry run; nothing was changed.\n"
    assert len(operator(*choice, "--dry-run", "-o", "json").json["bootloaders_change"]) == 5
    unasked = operator(*choice)
    assert (unasked.code, "add --yes" in unasked.err) == (2, True)
    assert operator("settings", "-o", "json").json["bootloader_source_id"] == 1
    asked = operator.on_terminal(*choice, types="y\r", once="5 bootloaders will be replaced on every rack. Go on?")
    shown = plain(asked.out)
    assert asked.code == 0
    assert "  ~ bootloader/uefi/amd64   is replaced" in shown
    assert "Bootloaders come from   Twin" in shown
    assert re.search(r"Import \d+ brings the bootloaders; see it with: bootferry import show \d+", shown)
    assert operator(*choice).out.endswith("Bootloaders come from   Twin\n"), "nobody is asked when nothing changes"
    assert operator("sync", "--wait").code == 0
    unknown = operator("settings", "set", "--bootloaders-from", "Nowhere")
    assert (unknown.code, "no source Nowhere; the region has" in unknown.err) == (1, True)

    # Its removal says what becomes of bootloaders; nobody takes its place.
    undecided = operator("source", "remove", "Twin", "--yes")
    assert (undecided.code, "--held keep to go on serving them, or --held withdraw" in undecided.err) == (1, True)
    gone = operator("source", "remove", "Twin", "--held", "withdraw", "--dry-run")
    assert "  - bootloader/uefi/amd64   is withdrawn from the region and every rack" in gone.out
    removed = operator("source", "remove", "Twin", "--held", "keep", "--yes")
    assert "  ! Bootloaders come from Twin: no new ones come after this, until another source is chosen" in removed.out
    assert removed.out.endswith("The source Twin was removed.\n")
    assert re.search(r"^Bootloaders come from +no source; choose one with:", operator("settings").out, re.MULTILINE)
    assert "No source is chosen for them" in operator("bootloaders").out
    back = operator("settings", "set", "--bootloaders-from", "maas.io", "--yes")
    assert (back.code, back.out.count("is replaced")) == (0, 5)
    assert operator("sync", "--wait").code == 0
    assert len(operator("bootloaders", "-o", "json").json) == 5


def test_the_switch(operator: Operator) -> None:
    assert operator("auto-sync", "off").out.startswith("Automatic sync is off")
    assert operator("auto-sync", "-o", "json").json["enabled"] is False
    assert operator("auto-sync", "on").out.startswith("Automatic sync is on")
    assert operator("auto-sync", "--every", "90").out.startswith("Automatic sync is on, every 90 minutes: ")
    assert operator("auto-sync", "off", "--every", "2880", "-o", "json").json["interval_seconds"] == 172_800
    assert operator("auto-sync", "on").out.startswith("Automatic sync is on, every 2 days: ")
    assert (
        operator("activity", "-n", "3", "-o", "json").json[1]["sentence"] == "Set the sync to run every 2880 minutes."
    )
    assert operator("auto-sync", "--every", "4").code == 2
    assert operator("auto-sync", "--every", "60").out.startswith("Automatic sync is on, every hour: ")


def test_whoever_stops_reading_hears_no_complaint(operator: Operator) -> None:
    run = subprocess.Popen(
        [*PROGRAM, "available", "-o", "json"],
        cwd=CHECKOUT,
        env=operator.environment(),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    assert run.stdout is not None
    assert run.stderr is not None
    run.stdout.close()
    with run.stderr:
        assert run.stderr.read() == b""
    assert run.wait(30) == 1


class _NextYear(BaseHTTPRequestHandler):
    """A region of the same major version that knows more: fields, statuses, and pages of one item."""

    def do_GET(self) -> None:
        self.server.asked.append((self.path, self.headers.get("Authorization")))  # type: ignore[attr-defined]
        path, _, query = self.path.partition("?")
        image = {"os": "ubuntu", "arch": "riscv64", "status": "being_blessed", "mood": {"of": "the day"}}
        pages: dict[str, dict[str, Any]] = {
            "": {"items": [image | {"release": "a\x1b[31m"}], "next": "1", "total": 2},
            "cursor=1": {"items": [image | {"release": "b"}], "next": None},
        }
        if path == "/api/v1/images":
            self._answer(200, pages[query])
        elif path == "/api/v1/racks":
            self._answer(307, {}, {"Location": "/elsewhere"})
        elif path == "/api/v1/sources":
            self._answer(200, {"items": [{"id": 1, "name": "maas.io"}]})
        elif path == "/api/v1/selections":
            wish = {"os": "ubuntu", "arch": "riscv64", "source_id": 1, "reason": "habit"}
            first = {"items": [wish | {"release": "a"}], "next": "p2"}
            self._answer(200, {"items": [wish | {"release": "b"}]} if query else first, {"ETag": '"7"'})
        else:
            self._answer(404, {"code": "not_found", "detail": "There is nothing here."})

    def do_PUT(self) -> None:
        wished = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        releases = " ".join(item["release"] for item in wished["items"])
        self.server.asked.append((f"selected: {releases}", self.headers.get("If-Match")))  # type: ignore[attr-defined]
        if "dry_run" in self.path:
            self._answer(200, {"add": ["ubuntu:noble:amd64"], "remove": []})
        else:
            self._answer(412, {"code": "selection_changed", "detail": "Ann changed the selection; look again."})

    def _answer(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        sent = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json" if status == 200 else "application/problem+json")
        self.send_header("Content-Length", str(len(sent)))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(sent)

    def log_message(self, *_: object) -> None:
        """Nothing."""


def test_a_region_that_knows_more(operator: Operator) -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), _NextYear) as server:
        asked: list[tuple[str, str | None]] = []
        server.asked = asked  # type: ignore[attr-defined]
        thread = threading.Thread(target=server.serve_forever, args=(0.05,))
        thread.start()
        try:
            elsewhere = {"BOOTFERRY_URL": f"http://127.0.0.1:{server.server_port}"}
            images = operator("images", **elsewhere)
            assert images.code == 0, images.err
            assert [line.split()[0] for line in images.out.splitlines()[1:]] == [
                "ubuntu/a\ufffd[31m/riscv64",
                "ubuntu/b/riscv64",
            ]
            assert "Being blessed" in images.out
            assert operator("images", "-o", "json", **elsewhere).json[1]["mood"] == {"of": "the day"}
            # A redirect would carry the token to wherever it leads.
            redirected = operator("rack", "show", "attic", **elsewhere)
            assert (redirected.code, "/elsewhere" in redirected.err) == (3, True)
            assert all(path != "/elsewhere" for path, _ in asked)
            # A selection is changed as a whole: all its pages go back, with its ETag.
            put = operator("select", "ubuntu/noble/amd64", **elsewhere)
            assert (put.code, put.err) == (1, "bootferry: Ann changed the selection; look again.\n")
            assert [asking for asking in asked if asking[0].startswith("selected")] == [
                ("selected: a b noble", None),
                ("selected: a b noble", '"7"'),
            ]
        finally:
            server.shutdown()
            thread.join()


NOW = datetime(2026, 7, 23, 12, 0, tzinfo=UTC)

WORDS = [
    pytest.param(size(18_910_968), "18.9 MB", id="decimal-units"),
    pytest.param(size(None), "-", id="unknown-size"),
    pytest.param(span(0.2), "less than a second", id="an-instant"),
    pytest.param(span(59.7), "1 minute", id="rounds-into-the-next-unit"),
    pytest.param(span(3599), "1 hour", id="an-hour"),
    pytest.param(ago((NOW - timedelta(minutes=3)).isoformat(), NOW), "3 minutes ago", id="past"),
    pytest.param(ago((NOW + timedelta(hours=2)).isoformat(), NOW), "in 2 hours", id="future"),
    pytest.param(ago((NOW - timedelta(days=90)).isoformat(), NOW), "2026-04-24", id="long-ago"),
    pytest.param(ago(None, NOW), "never", id="never"),
    pytest.param(ago("soon", NOW), "never", id="no-time"),
    pytest.param(counted(1, "image"), "1 image", id="one"),
    pytest.param(listed(["a", "b", "c"]), "a, b and c", id="three"),
    pytest.param(listed(["a"]), "a", id="alone"),
    pytest.param(
        printable("a\x1b]0;b\x07\u202ec\nd"), "a\ufffd]0;b\ufffd\ufffdc\nd", id="no-escape-reaches-a-terminal"
    ),
]


@pytest.mark.parametrize(("said", "expected"), WORDS)
def test_words(said: str, expected: str) -> None:
    assert said == expected


ROOM = {"fetch_bytes": 2_000_000, "free_bytes_after": 4_000_000_000}
ATTIC = {"name": "attic", "free_bytes": 9_000_000, "free_bytes_after": 7_000_000}
ROOMS = "2.0 MB to fetch; afterwards 4.0 GB free on the region and {} on the rack attic, which has least."

PLANS = [
    pytest.param(
        {"add": ["ubuntu:noble:amd64"], **ROOM},
        ["  + ubuntu/noble/amd64", "2.0 MB to fetch; afterwards 4.0 GB free on the region."],
        "",
        id="added",
    ),
    pytest.param(
        {"add": ["ubuntu:noble:amd64"], "unavailable": ["ubuntu:noble:amd64"], "fetch_bytes": 0},
        [
            "  + ubuntu/noble/amd64   no source offers it at the moment",
            "Nothing to fetch; afterwards 0 bytes free on the region.",
        ],
        "",
        id="offered-by-nobody",
    ),
    pytest.param(
        {"remove": ["ubuntu:noble:amd64"], "moved": ["ubuntu:jammy:amd64"], **ROOM, "tightest_rack": ATTIC},
        [
            "  - ubuntu/noble/amd64   will be deleted from the region and every rack",
            "  ~ ubuntu/jammy/amd64   from another source",
            ROOMS.format("7.0 MB free"),
        ],
        "1 image will be deleted. Go on?",
        id="removed-and-moved",
    ),
    pytest.param(
        {
            "add": ["ubuntu:noble:s390x"],
            "bootloaders_add": ["bootloader:uefi:arm64"],
            "bootloaders_change": ["bootloader:uefi:amd64"],
            "bootloaders_withdraw": ["bootloader:pxe:i386"],
            "warnings": ["No bootloader for s390x is offered."],
            **ROOM,
        },
        [
            "  + ubuntu/noble/s390x",
            "  + bootloader/uefi/arm64   comes with it",
            "  ~ bootloader/uefi/amd64   is replaced",
            "  - bootloader/pxe/i386   is withdrawn from the region and every rack",
            "  ! No bootloader for s390x is offered.",
            "2.0 MB to fetch; afterwards 4.0 GB free on the region.",
        ],
        "",
        id="bootloaders",
    ),
    pytest.param(
        {
            "add": ["ubuntu:noble:amd64"],
            "kernels_add": {"ubuntu:noble:amd64": ["ga-24.04"], "ubuntu:jammy:amd64": ["hwe-22.04"]},
            "kernels_remove": {"ubuntu:jammy:amd64": ["ga-22.04", "ga-22.04-lowlatency"]},
            "means": {"ubuntu:lts:*": ["ubuntu:noble:amd64"], "ubuntu:supported:arm64": []},
            "left_out_bytes": 560_000_000,
            **ROOM,
        },
        [
            "  = ubuntu/lts/*   means ubuntu/noble/amd64",
            "  = ubuntu/supported/arm64   means nothing that is known",
            "  + ubuntu/noble/amd64   kernels ga-24.04",
            "  + ubuntu/jammy/amd64   kernels hwe-22.04 come",
            "  - ubuntu/jammy/amd64   kernels ga-22.04 and ga-22.04-lowlatency go",
            "Kernels that are left out spare 560.0 MB.",
            "2.0 MB to fetch; afterwards 4.0 GB free on the region.",
        ],
        "",
        id="kernels-and-rules",
    ),
    pytest.param(
        {**ROOM, "free_bytes_after": -5_000},
        ["2.0 MB to fetch; afterwards 5.0 kB too few on the region."],
        "It does not fit on the region's disk. Save it nevertheless?",
        id="region-too-small",
    ),
    pytest.param(
        {**ROOM, "tightest_rack": {**ATTIC, "free_bytes_after": -1_000}},
        [ROOMS.format("1.0 kB too few")],
        "It does not fit on the disk of the rack attic. Save it nevertheless?",
        id="rack-too-small",
    ),
]


@pytest.mark.parametrize(("planned", "lines", "question"), PLANS)
def test_a_plan_in_words(planned: dict[str, Any], lines: list[str], question: str) -> None:
    assert [cell.text for cell in plan.lines(planned)] == lines
    assert plan.question(planned) == question


KEPT = profile.Profiles(
    "a", {"a": profile.Profile("http://a", "bf_a"), "b": profile.Profile("http://b", "bf_b", "/ca")}
)

CHOSEN = [
    pytest.param({}, ("http://a", "bf_a", None), id="the-last-log-in"),
    pytest.param({"BOOTFERRY_PROFILE": "b"}, ("http://b", "bf_b", "/ca"), id="named"),
    pytest.param({"BOOTFERRY_TOKEN": "bf_x"}, ("http://a", "bf_x", None), id="another-token"),
    pytest.param({"BOOTFERRY_URL": "http://a/"}, ("http://a", "bf_a", None), id="its-own-url"),
    pytest.param({"BOOTFERRY_URL": "http://c", "BOOTFERRY_TOKEN": "bf_x"}, ("http://c", "bf_x", None), id="no-profile"),
    pytest.param({"BOOTFERRY_URL": "http://c"}, Unauthenticated, id="never-a-token-for-another-region"),
    pytest.param({"BOOTFERRY_PROFILE": "c"}, InvalidConfiguration, id="unknown"),
]


@pytest.mark.parametrize(("environ", "expected"), CHOSEN)
def test_which_region_is_meant(environ: dict[str, str], expected: Any) -> None:
    if isinstance(expected, tuple):
        found = profile.active(environ, KEPT)
        assert (found.url, found.token, found.ca_bundle) == expected
        assert found.token not in repr(found)
    else:
        with pytest.raises(expected):
            profile.active(environ, KEPT)


def test_a_damaged_profile_file_is_told_apart(tmp_path: Path) -> None:
    path = tmp_path / "profiles.json"
    for text in ("{", "[]", '{"current": 1}', '{"current": "a", "profiles": {"a": {"host": 1}}}'):
        path.write_text(text)
        with pytest.raises(InvalidConfiguration, match="log in again"):
            profile.load(path)
    with suppress(FileNotFoundError):
        path.unlink()
    assert profile.load(path) == profile.Profiles("", {})


def test_the_age_of_a_sources_documents_is_told_where_one_looks(operator: Operator) -> None:
    old = datetime.now(UTC) - timedelta(days=45)
    mirror = Mirror.create(operator.home / "frozen", now=old, sizes=TINY)
    serving = asyncio.new_event_loop()
    thread = threading.Thread(target=serving.run_forever)
    thread.start()
    try:
        manager = serve(mirror)
        upstream = asyncio.run_coroutine_threadsafe(manager.__aenter__(), serving).result(10)
        trust = ("--keyring", str(mirror.keyring_path))
        assert operator("source", "add", "Frozen", upstream.url, *trust).code == 0
        assert operator("sync", "--wait").code == 0
        told = f"The documents of Frozen are of {mirror.updated:%Y-%m-%d}, 4"
        for command in (["sources"], ["images"]):
            assert told in " ".join(operator(*command).err.split()), command
        shown = operator("source", "show", "Frozen")
        assert re.search(r"^Warning +The documents of Frozen are of ", shown.out, re.MULTILINE)
        assert operator("source", "show", "Frozen", "-o", "json").json["warning_code"] == "stale"
        assert isinstance(operator("images", "-o", "json").json, list)
        assert operator("source", "update", "Frozen", "--stale-after-days", "0").code == 0
        assert told not in " ".join(operator("sources").err.split())
        assert operator("source", "remove", "Frozen", "--yes").code == 0
        asyncio.run_coroutine_threadsafe(manager.__aexit__(None, None, None), serving).result(10)
    finally:
        serving.call_soon_threadsafe(serving.stop)
        thread.join(10)
        serving.close()
