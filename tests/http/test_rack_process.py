"""`python -m rack` as a process: its commands, its signals, and what a kill in the middle of a pull leaves."""

import asyncio
import io
import json
import os
import random
import re
import signal
import socket
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import pytest

from rack import identity as identities
from rack.cli import command_line
from rack.lock import hold
from shared import __version__
from shared.digest import Sha256
from shared.errors import TokenSpent
from shared.http import client_session
from shared.names import Name
from tests.http.fake_region import FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import running_rack

CHECKOUT = Path(__file__).parents[2]
SQUASHFS = "ubuntu/amd64/ga-24.04/noble/stable/squashfs"


@dataclass
class Machine:
    """Where a rack's processes run."""

    root: Path
    port: int

    def environment(self) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "BOOTFERRY_CONFIG_DIR": str(self.root / "no-settings"),
            "RACK_DATA_DIR": str(self.root),
            "RACK_HOST": "127.0.0.1",
            "RACK_PORT": str(self.port),
        }

    async def start(self, *arguments: str) -> Process:
        return await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "rack", *arguments),
            cwd=CHECKOUT,
            env=self.environment(),
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )

    async def told(self, *arguments: str, text: str = "") -> tuple[int | None, str, str]:
        process = await self.start(*arguments)
        out, err = await asyncio.wait_for(process.communicate(text.encode()), 20)
        return process.returncode, out.decode(), err.decode()

    async def enrol(self, region: FakeRegion) -> None:
        async with client_session() as session:
            await identities.enrol(session, self.root, region.url, region.token, Name("rack-a"))


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return Machine(tmp_path, probe.getsockname()[1])


@pytest.fixture
def environ(machine: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    """Makes this very process one that could run the machine's commands."""
    for name, value in machine.environment().items():
        monkeypatch.setenv(name, value)


async def until(condition: Callable[[], bool], *, within_s: float = 20.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.02)


async def ended(process: Process, number: signal.Signals) -> tuple[int | None, str]:
    process.send_signal(number)
    _, err = await asyncio.wait_for(process.communicate(), 20)
    return process.returncode, err.decode()


@pytest.mark.usefixtures("environ")
async def test_killed_and_stopped_in_the_middle_of_a_pull_it_ends_whole(
    region: FakeRegion, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, err = await machine.told(
        "enrol", "--region", str(region.url), "--token", "-", "--name", "rack-a", text=f"{region.token}\n"
    )
    assert (status, err) == (0, "")
    assert "enrolled as rack-a" in out
    image = ubuntu("1", size=random.Random(1).randint(700_000, 900_000))
    squashfs = Sha256.of(image[SQUASHFS])
    partial = machine.root / "incoming" / squashfs
    region.pause_s = 0.02
    region.publish(image)

    killed = await machine.start("run")
    await until(lambda: partial.exists() and partial.stat().st_size > 200_000)
    assert (await ended(killed, signal.SIGKILL))[0] == -signal.SIGKILL
    assert partial.stat().st_size > 200_000

    asked = len(region.requests)
    stopped = await machine.start("run")
    await until(lambda: any(request.headers.get("Range") for request in region.requests[asked:]))
    status, log = await ended(stopped, signal.SIGTERM)
    assert status == 0, log
    assert "Traceback" not in log

    region.pause_s = 0
    whole = await machine.start("run")
    try:
        await until(lambda: bool(region.reports) and region.reports[-1].bytes_left == 0)
        assert tree_bytes(machine.root) == image
        assert await asyncio.to_thread(command_line, ["status", "-o", "json"]) == 0
        facts = json.loads(capsys.readouterr().out)
        assert (facts["process"], facts["files_held"], facts["bytes_left"]) == (whole.pid, 5, 0)
        assert facts["tree"]["images"] == ["ubuntu:noble:amd64"]

        newer = ubuntu("2")
        region.streams.clear()  # no hint: only the signal makes it poll
        region.publish(newer)
        assert await asyncio.to_thread(command_line, ["poll"]) == 0
        assert str(whole.pid) in capsys.readouterr().out
        await until(lambda: tree_bytes(machine.root) == newer)
    finally:
        status, log = await ended(whole, signal.SIGTERM)
    assert status == 0, log
    assert "Traceback" not in log


@pytest.mark.usefixtures("environ")
async def test_status_names_the_images_that_are_pending(
    region: FakeRegion, machine: Machine, capsys: pytest.CaptureFixture[str]
) -> None:
    async def status(*arguments: str) -> str:
        capsys.readouterr()
        assert await asyncio.to_thread(command_line, ["status", *arguments]) == 0
        return capsys.readouterr().out

    await machine.enrol(region)
    assert json.loads(await status("-o", "json"))["pending"] == []
    kernel = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"
    async with running_rack(region, machine.root) as rack:
        region.publish(ubuntu("1"))
        await rack.poller.poll()
        facts = json.loads(await status("-o", "json"))
        assert (facts["pending"], facts["tree"]["versions"]) == ([], {"ubuntu:noble:amd64": "1"})
        newer = ubuntu("2")
        region.file_status[Sha256.of(newer[kernel])] = 404
        region.publish(newer | ubuntu("2", release="jammy"))
        await rack.poller.poll()
        error = rack.error()

    facts = json.loads(await status("-o", "json"))
    assert facts["pending"] == [
        {
            "image": "ubuntu:noble:amd64",
            "shown_version": "1",
            "wanted_version": "2",
            "error": {"code": "http_status", "sentence": str(error)},
        }
    ]
    lines = (await status()).splitlines()
    assert "  ubuntu:jammy:amd64  2" in lines
    assert f"  ubuntu:noble:amd64  1, pending 2: {error} (http_status)" in lines

    # What has happened since the last poll is seen without one.
    (machine.root / "current" / kernel.replace("ga-24.04/noble", "ga-24.04/jammy")).unlink()
    assert [entry["image"] for entry in json.loads(await status("-o", "json"))["pending"]] == [
        "ubuntu:jammy:amd64",
        "ubuntu:noble:amd64",
    ]
    assert "  ubuntu:jammy:amd64  2, files missing or damaged" in (await status()).splitlines()


async def test_the_port_of_another_process_is_one_sentence(region: FakeRegion, machine: Machine) -> None:
    await machine.enrol(region)
    with socket.create_server(("127.0.0.1", machine.port)):
        status, _, err = await machine.told("run")
    assert (status, err.count("\n")) == (1, 1)
    assert f"Port {machine.port} of 127.0.0.1 is in use" in err
    assert "RACK_PORT" in err


async def test_a_second_rack_in_one_directory_ends_with_75_and_names_the_first(
    region: FakeRegion, machine: Machine
) -> None:
    """EX_TEMPFAIL of sysexits.h: it may start once the other has ended."""
    await machine.enrol(region)
    with hold(machine.root / "lock"):
        status, out, err = await machine.told("run")
    assert (status, out, err.count("\n")) == (75, "", 1)
    assert f"process {os.getpid()}" in err
    assert "RACK_DATA_DIR" in err


async def test_a_rack_that_is_not_enrolled_does_not_start(machine: Machine) -> None:
    status, out, err = await machine.told("run")
    assert (status, out, err.count("\n")) == (78, "", 1)
    assert "bootferry-rack enrol" in err


COMMANDS = [
    pytest.param(["run"], {}, 78, "bootferry-rack enrol", id="run-before-enrolment"),
    pytest.param(["status"], {}, 78, "bootferry-rack enrol", id="status-before-enrolment"),
    pytest.param(["poll"], {}, 1, "No bootferry-rack runs", id="poll-with-nothing-running"),
    pytest.param(["run"], {"RACK_PERIOD": "1"}, 78, "RACK_PERIOD", id="unknown-setting"),
    pytest.param(["run"], {"RACK_PORT": "many"}, 78, "RACK_PORT", id="unusable-setting"),
    pytest.param(["run"], {"RACK_PROXY": "ftp://proxy"}, 78, "RACK_PROXY", id="unusable-proxy"),
    pytest.param(["fly"], {}, 2, "fly", id="unknown-command"),
    pytest.param(
        ["enrol", "--region", "http://127.0.0.1:1", "--token", "bfe_no"], {}, 1, "bfe_ and two", id="no-token"
    ),
    pytest.param(["enrol", "--region", "region", "--token", "-"], {}, 1, "http://", id="no-url"),
]


@pytest.mark.parametrize(("arguments", "settings", "status", "sentence"), COMMANDS)
@pytest.mark.usefixtures("environ")
def test_a_refusal_is_a_status_and_a_sentence(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    arguments: list[str],
    settings: dict[str, str],
    status: int,
    sentence: str,
) -> None:
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr("sys.stdin", io.StringIO("no token\n"))
    found = command_line(arguments)
    err = capsys.readouterr().err
    assert found == status, err
    assert sentence in err


@pytest.mark.usefixtures("environ")
async def test_no_message_repeats_a_token(region: FakeRegion, capsys: pytest.CaptureFixture[str]) -> None:
    token, secret = str(region.token), str(region.token).rpartition("_")[2]
    region.token_fault = TokenSpent.code
    for arguments in (
        ["enrol", "--region", str(region.url), "--token", token],
        ["enrol", "--region", str(region.url), token],
        ["enrol", token],
        [token],
        ["enrol", "--region", str(region.url), "--token", token + "x"],
    ):
        status = await asyncio.to_thread(command_line, arguments)
        told = capsys.readouterr()
        assert status in (1, 2)
        assert secret not in told.out + told.err
        assert told.err


WAYS = [
    pytest.param([], id="asked-for"),
    pytest.param(["--token-file", "-"], id="standard-input"),
    pytest.param(["--token-file", "FILE"], id="a-file"),
    pytest.param(["--token", "-"], id="as-before"),
]


@pytest.mark.parametrize("way", WAYS)
async def test_a_token_comes_from_where_nobody_else_sees_it(
    region: FakeRegion, machine: Machine, tmp_path: Path, way: list[str]
) -> None:
    file = tmp_path / "rack.token"
    file.write_text(f"{region.token}\n")
    given = [str(file) if word == "FILE" else word for word in way]
    text = "" if "FILE" in way else f"{region.token}\n"
    status, out, err = await machine.told("enrol", "--region", str(region.url), "--name", "rack-a", *given, text=text)
    assert (status, err) == (0, "")
    assert "enrolled as rack-a" in out
    assert str(region.token) not in out


async def test_a_token_on_the_command_line_is_taken_with_a_warning(region: FakeRegion, machine: Machine) -> None:
    token = str(region.token)
    status, _, err = await machine.told("enrol", "--region", str(region.url), "--name", "rack-a", "--token", token)
    assert status == 0
    assert "Every user of this machine sees a token that is an argument" in err
    assert token not in err


@pytest.mark.usefixtures("environ")
def test_a_token_is_asked_for_without_showing_it(
    region: FakeRegion, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    class Terminal(io.StringIO):
        def isatty(self) -> bool:
            return True

    monkeypatch.setattr("sys.stdin", Terminal(f"{region.token}\n"))
    asked: list[str] = []

    def hidden(prompt: str) -> str:
        asked.append(prompt)
        return "bfe_no"

    monkeypatch.setattr("getpass.getpass", hidden)
    assert command_line(["enrol", "--region", str(region.url)]) == 1
    assert asked == ["Enrolment token: "]
    assert "bfe_ and two" in capsys.readouterr().err


@pytest.mark.usefixtures("environ")
def test_a_token_file_that_is_not_there_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert command_line(["enrol", "--region", "http://127.0.0.1:1", "--token-file", "/nowhere/at/all"]) == 1
    assert "No such file" in capsys.readouterr().err


def test_help_and_version(capsys: pytest.CaptureFixture[str]) -> None:
    for arguments, words in (
        (["--help"], ["run", "enrol", "poll", "status", "RACK_"]),
        (["enrol", "--help"], ["--region", "--token", "--name", "--again"]),
        (["--version"], [__version__]),
    ):
        assert command_line(arguments) == 0
        out = capsys.readouterr().out
        assert all(word in out for word in words)


@pytest.mark.parametrize(
    ("broken", "part"), [("rack.beat.Beat.run", "The poll"), ("rack.app._watchdog", "The watchdog")]
)
async def test_a_part_that_ends_ends_the_rack_with_its_reason(
    region: FakeRegion, machine: Machine, broken: str, part: str
) -> None:
    """A rack that goes on without its polls looks well and is not: systemd starts it anew, whole."""
    await machine.enrol(region)
    program = (
        "import rack.app, rack.beat, sys\n"
        "async def broken(*_): raise ZeroDivisionError('division by zero')\n"
        f"{broken} = broken\n"
        "sys.argv = ['bootferry-rack', 'run']\n"
        "from rack.__main__ import main\n"
        "main()\n"
    )
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program), cwd=CHECKOUT, env=machine.environment(), stdout=PIPE, stderr=PIPE
    )
    _, told = await asyncio.wait_for(process.communicate(), 20)
    said = f"{part} has ended unexpectedly, and the process with it: division by zero."
    assert process.returncode == 1
    assert told.decode().splitlines()[-1] == said
    assert told.decode().count("[critical") == 1


async def test_the_service_manager_hears_what_machines_get(
    region: FakeRegion, machine: Machine, tmp_path: Path
) -> None:
    await machine.enrol(region)
    address = str(tmp_path / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(address)
        manager.setblocking(False)
        heard: list[str] = []

        def hears(pattern: str) -> bool:
            with suppress(BlockingIOError):
                while True:
                    heard.append(manager.recv(4096).decode())
            return any(re.fullmatch(pattern, message) for message in heard)

        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rack", "run"),
            cwd=CHECKOUT,
            env=machine.environment() | {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"},
            stderr=PIPE,
        )
        try:
            await until(lambda: hears(r"READY=1\nSTATUS=Shows 0 images; no poll yet\."))
            region.publish(ubuntu("1"))
            await until(lambda: hears(r"STATUS=Shows 1 image; last poll \d{4}-\d\d-\d\d \d\d:\d\d UTC\."), within_s=40)
            assert "WATCHDOG=1" in heard
        finally:
            status, log = await ended(process, signal.SIGTERM)
        assert status == 0, log
        assert hears("STOPPING=1")


@pytest.mark.parametrize("arguments", [["status"], ["status", "-o", "json"]])
async def test_output_that_nobody_reads_on_is_no_disk(
    region: FakeRegion, machine: Machine, arguments: list[str]
) -> None:
    await machine.enrol(region)
    reading, writing = os.pipe()
    os.close(reading)
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rack", *arguments),
        cwd=CHECKOUT,
        env=machine.environment(),
        stdout=writing,
        stderr=PIPE,
    )
    os.close(writing)
    _, told = await asyncio.wait_for(process.communicate(), 20)
    assert (process.returncode, told) == (1, b"")
