"""`python -m region` as a process: what its ends tell whom, and what the service manager hears of it."""

import asyncio
import contextlib
import os
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import structlog.testing

from region import app, process
from region.configuration import RegionConfiguration
from region.process import running
from region.standing import Standing
from shared.endings import reason_of
from shared.errors import BootferryError
from shared.systemd import notify
from tests.conftest import NOW
from tests.http.conftest import Running, free_port

Eventually = Callable[..., Awaitable[object]]
CHECKOUT = Path(__file__).parents[2]


@dataclass
class Machine:
    """Where a region's processes run."""

    directory: Path
    database_url: str

    def environment(self, **settings: str) -> dict[str, str]:
        return {
            "PATH": os.environ["PATH"],
            "BOOTFERRY_CONFIG_DIR": str(self.directory / "no-settings"),
            "REGION_DATABASE_URL": self.database_url,
            "REGION_DATA_DIR": str(self.directory / "region"),
            "REGION_PORT": str(free_port()),
            "REGION_DEFAULT_SOURCE_URL": "http://127.0.0.1:1/",
            **settings,
        }

    def told(self, *arguments: str, **settings: str) -> tuple[int, str, str]:
        """How a command ends, and what it prints."""
        done = subprocess.run(
            [sys.executable, "-m", "region", *arguments],
            cwd=CHECKOUT,
            env=self.environment(**settings),
            capture_output=True,
            text=True,
            check=False,
            timeout=60,
        )
        return done.returncode, done.stdout, done.stderr


@pytest.fixture
def machine(tmp_path: Path, database_url: str) -> Machine:
    return Machine(tmp_path, database_url)


# --- no part ends unseen

PARTS = {
    "the watch": ("region.database.watch.Watch.run", "The watch over the database"),
    "the line": ("region.database.topics.Topics.listen", "The line on which changes are heard"),
    "the memory": ("region.publishing.memory.Memory.follow", "What keeps the manifest"),
    "the racks' keys": ("region.fleet.keys.Keys.follow", "What keeps the racks' keys"),
    "what tells": ("region.database.topics.Gathered.run", "What tells of changes"),
    "the clock": ("region.importing.clock.run", "The clock"),
    "the importer": ("region.process._import", "The importer"),
    "the region's key": ("region.process._follow_key", "What follows the region's key"),
    "sightings": ("region.process._write_sightings", "What writes down which racks were heard"),
    "doubts": ("region.process._settle_doubts", "What settles doubts about files"),
    "the watchdog": ("region.process._watchdog", "The watchdog"),
}


@pytest.mark.parametrize(("where", "part"), PARTS.values(), ids=PARTS)
@pytest.mark.parametrize("how", ["raises", "returns"])
async def test_a_part_that_ends_ends_the_process_with_its_reason(
    machine: Machine, monkeypatch: pytest.MonkeyPatch, where: str, part: str, how: str
) -> None:
    async def broken(*_: object) -> None:
        await asyncio.sleep(0.01)
        if how == "raises":
            raise ZeroDivisionError("division by zero")

    monkeypatch.setattr(where, broken)
    built = app.build(
        RegionConfiguration(database_url=machine.database_url, data_dir=machine.directory / "region", port=free_port())
    )
    stopped = asyncio.Event()
    built.stop = stopped.set
    with structlog.testing.capture_logs() as told:
        async with running(built):
            await asyncio.wait_for(stopped.wait(), 20)
    critical = [line["event"] for line in told if line["log_level"] == "critical"]
    why = ": division by zero" if how == "raises" else ""
    assert critical == [f"{part} has ended unexpectedly, and the process with it{why}."]
    assert str(built.fatal) == critical[0]


def test_a_process_whose_part_ends_has_an_exit_status(machine: Machine) -> None:
    """systemd starts it anew; the last line says why."""
    program = (
        "import region.process, sys\n"
        "async def broken(built): raise ZeroDivisionError('division by zero')\n"
        "region.process._import = broken\n"
        "sys.argv = ['bootferry-region', 'serve']\n"
        "from region.__main__ import main\n"
        "main()\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        cwd=CHECKOUT,
        env=machine.environment(),
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 1
    said = "The importer has ended unexpectedly, and the process with it: division by zero."
    assert done.stderr.splitlines()[-1] == f"bootferry-region: {said}"
    assert done.stderr.count("[critical") == 1


# --- commands answer in one sentence

AWAY = "postgresql://ann:c4n4ry@127.0.0.1:1/x"
COMMANDS = {
    "migrate": ("migrate",),
    "rack-token": ("rack-token",),
    "admin-token": ("admin-token",),
    "new-epoch": ("new-epoch",),
    "key rotate": ("key", "rotate"),
    "key forget": ("key", "forget"),
    "key rotate-secrets": ("key", "rotate-secrets"),
    "key forget-secrets": ("key", "forget-secrets"),
}


@pytest.mark.parametrize("command", COMMANDS.values(), ids=COMMANDS)
def test_a_command_that_the_database_refuses_says_so_in_one_sentence(
    machine: Machine, command: tuple[str, ...]
) -> None:
    status, out, err = machine.told(*command, REGION_DATABASE_URL=AWAY)
    assert (status, out) == (1, "")
    assert err == (
        "bootferry-region: The database is not running (ann at 127.0.0.1:1/x). Nobody listens at this address: start"
        " PostgreSQL, or correct REGION_DATABASE_URL (and listen_addresses of PostgreSQL).\n"
    )


def _toml(directory: Path) -> dict[str, str]:
    (directory / "settings").mkdir()
    (directory / "settings" / "region.toml").write_text("port 5240")
    return {"BOOTFERRY_CONFIG_DIR": str(directory / "settings")}


def _file_for_directory(directory: Path) -> dict[str, str]:
    (directory / "file").write_text("")
    return {"REGION_DATA_DIR": str(directory / "file" / "data")}


UNUSABLE = {
    "settings that are no TOML": (_toml, "region.toml is not TOML (line 1, column 6); mend it, or take it away."),
    "a directory that cannot be made": (_file_for_directory, "cannot be used: Not a directory."),
    "an address of nobody": (
        lambda _: {"REGION_HOST": "192.0.2.1", "REGION_ALLOW_PLAIN_HTTP": "true"},
        "The region cannot listen at REGION_HOST 192.0.2.1",
    ),
}


@pytest.mark.parametrize(("make", "sentence"), UNUSABLE.values(), ids=UNUSABLE)
def test_unusable_settings_are_one_sentence_and_78(
    machine: Machine, make: Callable[[Path], dict[str, str]], sentence: str
) -> None:
    status, out, err = machine.told("serve", **make(machine.directory))
    assert (status, out) == (78, "")
    # Before it there may be what it warns of.
    assert "Traceback" not in err
    line = err.splitlines()[-1]
    assert line.startswith("bootferry-region: ")
    assert sentence in line


def test_a_port_in_use_is_one_sentence_and_nothing_was_begun(machine: Machine) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        status, out, err = machine.told("serve", REGION_PORT=str(port))
    assert (status, out) == (1, "")
    assert err == (
        f"bootferry-region: Port {port} of 127.0.0.1 is in use by another process; stop it, or set REGION_PORT or"
        " REGION_HOST.\n"
    )


PRINTING = {
    "region, much": ("region", "openapi"),
    "region, little": ("region", "--version"),
    "region, help": ("region", "--help"),
    "rack, little": ("rack", "--version"),
    "rack, help": ("rack", "--help"),
    "bootferry, little": ("region.cli.main", "--version"),
    "bootferry, help": ("region.cli.main", "--help"),
}


@pytest.mark.parametrize("arguments", PRINTING.values(), ids=PRINTING)
def test_output_that_nobody_reads_on_is_no_fault(machine: Machine, arguments: tuple[str, ...]) -> None:
    reading, writing = os.pipe()
    os.close(reading)
    try:
        done = subprocess.run(
            [sys.executable, "-m", *arguments],
            cwd=CHECKOUT,
            env=machine.environment(),
            stdout=writing,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            timeout=60,
        )
    finally:
        os.close(writing)
    assert (done.returncode, done.stderr) == (1, "")


# --- the service manager


@contextmanager
def manager(directory: Path) -> Iterator[tuple[str, list[str], socket.socket]]:
    """A service manager: where it listens, and what it has heard, message by message."""
    address = str(directory / "notify")
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.setblocking(False)
        heard: list[str] = []
        yield address, heard, listening


def hear(heard: list[str], listening: socket.socket) -> list[str]:
    with contextlib.suppress(BlockingIOError):
        while True:
            heard.append(listening.recv(4096).decode())
    return heard


async def serve(environment: dict[str, str]) -> asyncio.subprocess.Process:
    return await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "region", "serve"), cwd=CHECKOUT, env=environment
    )


async def stop(serving: asyncio.subprocess.Process) -> None:
    serving.send_signal(signal.SIGTERM)
    assert await asyncio.wait_for(serving.wait(), 20) == 0


async def test_the_service_manager_hears_of_each_state(machine: Machine, eventually: Eventually) -> None:
    """A region that waits for its database has started: nobody ends it for that."""
    database, later = socket.socket(), free_port()
    database.close()
    environment = machine.environment(REGION_DATABASE_URL=f"postgresql://ann@127.0.0.1:{later}/x")
    with manager(machine.directory) as (address, heard, listening):
        environment |= {"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "400000"}
        waiting = await serve(environment)
        try:
            said = "READY=1\nSTATUS=Waits for the database: The database is not running."
            await eventually(lambda: said in hear(heard, listening), within_s=30)
            # It asked for time until then; once it is ready, only the watchdog is to be told.
            assert heard[0] == "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000"
            before = len(heard)
            await eventually(lambda: hear(heard, listening)[before:].count("WATCHDOG=1") >= 3)
        finally:
            await stop(waiting)
        assert hear(heard, listening)[-1] == "STOPPING=1"
        heard.clear()
        environment |= {"REGION_DATABASE_URL": machine.database_url}
        well = await serve(environment)
        try:
            await eventually(lambda: "READY=1\nSTATUS=Ready." in hear(heard, listening), within_s=30)
            failed = r"STATUS=Ready; last import failed \d{4}-\d\d-\d\d \d\d:\d\d UTC\."
            await eventually(lambda: any(re.fullmatch(failed, line) for line in hear(heard, listening)), within_s=60)
        finally:
            await stop(well)


async def test_a_loop_that_hangs_tells_no_watchdog(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with manager(tmp_path) as (address, heard, listening):
        monkeypatch.setenv("NOTIFY_SOCKET", address)
        monkeypatch.setenv("WATCHDOG_USEC", "100000")
        watchdog = asyncio.create_task(process._watchdog(Standing(notify)))
        await asyncio.sleep(0.3)
        assert len(hear(heard, listening)) >= 3
        heard.clear()
        time.sleep(0.5)  # noqa: ASYNC251 - that is the fault
        assert len(hear(heard, listening)) == 0
        watchdog.cancel()
        await asyncio.gather(watchdog, return_exceptions=True)


def test_a_state_is_a_sentence() -> None:
    said: list[str] = []
    standing = Standing(said.append)
    standing.alive()
    standing.database("The database is starting, or shutting down")
    standing.alive()
    standing.ready()
    standing.imported("succeeded", NOW)
    standing.database("The database does not answer")
    standing.imported("failed", NOW)
    standing.database("")
    standing.imported("cancelled", NOW)
    assert said == [
        "WATCHDOG=1\nEXTEND_TIMEOUT_USEC=60000000",
        "READY=1\nSTATUS=Waits for the database: The database is starting, or shutting down.",
        "WATCHDOG=1",
        "READY=1\nSTATUS=Ready.",
        "STATUS=Ready; last import 2026-07-23 12:00 UTC.",
        "READY=1\nSTATUS=Waits for the database: The database does not answer.",
        "STATUS=Waits for the database: The database does not answer.",
        "READY=1\nSTATUS=Ready; last import failed 2026-07-23 12:00 UTC.",
        "STATUS=Ready; last import stopped 2026-07-23 12:00 UTC.",
    ]


# --- what an operator reads at night


async def test_routine_is_not_told_to_operators(running: Running) -> None:
    with structlog.testing.capture_logs() as told:
        selected = {"os": "ubuntu", "release": "noble", "arch": "amd64"}
        answer = await running.client("POST", "/selections?dry_run=true", json=selected)
        assert answer.status == 200, answer.body
        answer = await running.client("PUT", "/racks/0123/report", json={})
        assert answer.status in (401, 404)
        assert (await running.client("POST", "/imports")).status == 202
    shown = [line["event"] for line in told if line["log_level"] != "debug" and "was answered" in line["event"]]
    assert shown == ["POST /api/v1/imports was answered 202."]


def test_a_reason_with_its_own_sentence_is_told_as_it_is() -> None:
    with structlog.testing.capture_logs() as told:
        found = reason_of(ExceptionGroup("", [ExceptionGroup("", [BootferryError("The key is gone")])]))
    assert str(found) == "The key is gone."
    assert [(line["log_level"], line["event"]) for line in told] == [("critical", "The key is gone.")]
