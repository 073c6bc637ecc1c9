"""What tests of every kind share: a real PostgreSQL, started once a process, and a fresh database for each test."""

import asyncio
import itertools
import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local import postgres
from region.database.connection import create_engine, migrate

TEMPLATE = "template_bootferry"
NOW = datetime(2026, 7, 23, 12, 0, tzinfo=UTC)


MEMORY = Path("/dev/shm")
if MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > 2**30:
    # Every stored file is flushed to its disk; on a real one the tests would wait for little else.
    os.environ.setdefault("PYTEST_DEBUG_TEMPROOT", str(MEMORY))


@pytest.fixture(scope="session")
def database_server() -> Iterator[postgres.Server]:
    """A PostgreSQL of this test process alone, in memory where the machine allows, with a migrated template."""
    with postgres.scratch_directory() as directory, postgres.running(directory, fsync=False) as server:
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
