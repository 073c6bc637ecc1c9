"""What tests of every kind share: a real PostgreSQL, started once a process, and a fresh database for each test.

A run leaves the directories of its failed tests, of the last run only, and nothing else. What a killed run could not
remove, the next one does.
"""

import asyncio
import contextlib
import errno
import getpass
import ipaddress
import itertools
import os
import shutil
import socket
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import structlog
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local import postgres
from deploy.local.scratch import abandoned, scratch_directory, scratch_place
from region.database.connection import create_engine, migrate
from shared.way import AddressInfo, system_socket

TEMPLATE = "template_bootferry"
NOW = datetime(2026, 7, 23, 12, 0, tzinfo=UTC)


MEMORY = Path("/dev/shm")
MAY_STAY_BYTES = 8_000_000  # of a run without a failure; all that pytest keeps then is a few empty directories
STARTED_AT = time.time()

if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30:
    # Every stored file is flushed to its disk; on a real one the tests would wait for little else.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


# With every local variable of every frame, as structlog would print it by itself, a traceback can take a minute.
structlog.configure(
    processors=[
        *structlog.get_config()["processors"][:-1],
        structlog.dev.ConsoleRenderer(colors=False, exception_formatter=structlog.dev.plain_traceback),
    ]
)


def pytest_sessionstart(session: pytest.Session) -> None:
    """Remove what killed runs left: pytest itself would take them for runs under way, for three days."""
    if _is_worker(session):
        return
    root = Path(os.environ.get("PYTEST_DEBUG_TEMPROOT", tempfile.gettempdir()))
    for lock in root.glob(f"pytest-of-{getpass.getuser()}/pytest-*/.lock"):
        with contextlib.suppress(OSError, ValueError):
            if not Path(f"/proc/{int(lock.read_text())}").exists():
                shutil.rmtree(lock.parent, ignore_errors=True)


@pytest.hookimpl(wrapper=True, tryfirst=True)
def pytest_sessionfinish(session: pytest.Session) -> Iterator[None]:
    """Fail a run that leaves more behind than failed tests explain."""
    yield
    if _is_worker(session):
        return
    made: Path | None = session.config._tmp_path_factory._basetemp  # type: ignore[attr-defined]
    if made and session.testsfailed == 0 and not session.config.option.basetemp:
        shutil.rmtree(made, ignore_errors=True)  # also after Ctrl-C, when pytest keeps it
    places = [made] if made else []
    places += [path for path in abandoned(scratch_place()) if path.stat().st_mtime >= STARTED_AT]
    left = {str(path): size for path in places if (size := _size(path))}
    if session.testsfailed == 0 and sum(left.values()) > MAY_STAY_BYTES:
        pytest.exit(f"This run leaves more than {MAY_STAY_BYTES} bytes behind: {left}", returncode=1)
    for path in abandoned(scratch_place()):
        shutil.rmtree(path, ignore_errors=True)


def _is_worker(session: pytest.Session) -> bool:
    return hasattr(session.config, "workerinput")


def _size(directory: Path) -> int:
    """The bytes that a directory takes on its disk."""
    return sum(path.lstat().st_blocks * 512 for path in directory.rglob("*"))


def _spells_an_address(host: str) -> bool:
    """True if the system reads an address from it by itself; hexadecimal and octal spellings count."""
    with contextlib.suppress(ValueError):
        ipaddress.ip_address(host.partition("%")[0])
        return True
    with contextlib.suppress(OSError):
        socket.inet_aton(host)
        return True
    return False


@pytest.fixture(autouse=True)
def _nothing_leaves_this_machine() -> Iterator[None]:
    """Our own HTTP clients connect to this machine only, even where somebody has taken their guard out.

    No nameserver is asked either: a name that is neither an address nor this machine's own leads nowhere.
    """
    look_up = socket.getaddrinfo

    def look_up_here(host: Any, *arguments: Any, **named: Any) -> Any:
        if host not in (None, "", b"", "localhost", socket.gethostname()) and not _spells_an_address(str(host)):
            raise socket.gaierror(socket.EAI_NONAME, "a test may not ask a nameserver")
        return look_up(host, *arguments, **named)

    def open_here(info: AddressInfo) -> socket.socket:
        if not ipaddress.ip_address(str(info[4][0]).partition("%")[0]).is_loopback:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "a test may not leave this machine")
        return system_socket(info)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("shared.http.system_socket", open_here)
        patch.setattr("socket.getaddrinfo", look_up_here)
        yield


@pytest.fixture(scope="session")
def database_server() -> Iterator[postgres.Server]:
    """A PostgreSQL of this test process alone, in memory where the machine allows, with a migrated template."""
    with scratch_directory() as directory, postgres.running(directory, fsync=False) as server:
        asyncio.run(_make_template(server))
        yield server


async def _make_template(server: postgres.Server) -> None:
    await server.create_database(TEMPLATE)
    engine = create_engine(server.url(TEMPLATE))
    try:
        await migrate(engine)
    finally:
        await engine.dispose()


_numbers = itertools.count()


@pytest.fixture
async def database_url(database_server: postgres.Server) -> AsyncIterator[str]:
    """The address of a database with the current schema and no rows, for this test alone."""
    name = f"test_{next(_numbers)}"
    await database_server.clone(TEMPLATE, name)
    yield database_server.url(name)
    await database_server.drop_database(name)


@pytest.fixture
async def engine(database_url: str) -> AsyncIterator[AsyncEngine]:
    """An engine on `database_url`."""
    made = create_engine(database_url)
    yield made
    await made.dispose()


class Clock:
    """A clock that stands still until a test moves it."""

    def __init__(self, now: datetime = NOW) -> None:
        self._now = now

    def __call__(self) -> datetime:
        return self._now

    def pass_by(self, span: timedelta) -> None:
        """Let `span` pass."""
        self._now += span


@pytest.fixture
def clock() -> Clock:
    """Time as an argument."""
    return Clock()


@pytest.fixture
def eventually() -> Callable[..., object]:
    """`await eventually(check)`: returns what `check` (plain or async) gives once that is true; fails after seconds."""

    async def wait(check: Callable[[], object], *, within_s: float = 15.0) -> object:
        deadline = asyncio.get_running_loop().time() + within_s
        while True:
            found = check()
            if asyncio.iscoroutine(found):
                found = await found
            if found:
                return found
            if asyncio.get_running_loop().time() > deadline:
                raise AssertionError(f"{check} did not come true within {within_s:g} seconds; it says {found!r}")
            await asyncio.sleep(0.02)

    return wait
