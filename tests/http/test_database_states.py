"""A database that is not well: each request is told so within two seconds, by 503 and the reason, and so is /readyz."""

import asyncio
import contextlib
import os
import signal
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

import region.api.health
from deploy.local import postgres
from deploy.local.scratch import scratch_directory
from region import api, app
from region.configuration import RegionConfiguration
from region.database.connection import REQUESTS, create_engine, transaction
from region.edge.server import build_server
from region.process import Region
from shared.errors import Unavailable
from tests.http.conftest import Answer, Client, free_port
from tests.http.lateness import lateness

DATABASE = "region"


@pytest.fixture(scope="module")
def database() -> Iterator[postgres.Server]:
    """A PostgreSQL with 40 connections that this module may freeze and fill."""
    with scratch_directory() as directory:
        with postgres.running(directory, fsync=False) as server:
            asyncio.run(_execute(server, "ALTER SYSTEM SET max_connections = 40", database="postgres"))
        with postgres.running(directory, fsync=False) as server:
            asyncio.run(server.create_database(DATABASE))
            yield server


@dataclass(frozen=True, slots=True)
class Site:
    """A region that runs on `database`."""

    database: postgres.Server
    region: Region
    client: Client

    async def refused(self, method: str, path: str, reason: str) -> None:
        """The request is answered 503 with this reason, within two seconds."""
        async with lateness() as late:
            started = time.monotonic()
            answer = await self.client(method, path)
            took_s = time.monotonic() - started
        assert (answer.status, answer.json["code"]) == (503, "unavailable"), (path, answer.body)
        assert reason in answer.json["detail"], (path, answer.body)
        assert int(answer.headers["Retry-After"]) >= 1
        assert took_s - late.total_s < 2.0, (path, took_s, late.total_s)

    async def fine(self) -> None:
        """The region works (again)."""
        deadline = time.monotonic() + 20
        while True:
            answers = [await self.client("GET", path) for path in ("/readyz", "/images")]
            if all(answer.status == 200 for answer in answers):
                return
            assert time.monotonic() < deadline, [answer.body for answer in answers]
            await asyncio.sleep(0.1)


@pytest.fixture
async def site(tmp_path: Path, database: postgres.Server) -> AsyncIterator[Site]:
    """A region whose mirror is away, which does not matter here."""
    await database.drop_database(DATABASE)
    await database.create_database(DATABASE)
    port = free_port()
    settings = RegionConfiguration(
        database_url=database.url(DATABASE),
        data_dir=tmp_path / "region",
        port=port,
        default_source_url=f"http://127.0.0.1:{free_port()}/",
    )
    built = app.build(settings)
    server = build_server(api.create(built), host="127.0.0.1", port=port, shutdown_grace_s=1)
    serving = asyncio.create_task(server.serve())
    async with aiohttp.ClientSession() as session:
        await asyncio.wait_for(built.ready.wait(), 20)
        token = (settings.data_dir / "admin-token").read_text().strip()
        found = Site(database, built, Client(session, f"http://127.0.0.1:{port}", token))
        await found.fine()
        yield found
        server.should_exit = True
        await asyncio.wait_for(serving, 30)


async def _execute(server: postgres.Server, statement: str, *, database: str = DATABASE) -> None:
    connection = await _connect(server, database)
    try:
        await connection.execute(statement)
    finally:
        await connection.close()


async def _connect(server: postgres.Server, database: str = DATABASE) -> Any:
    return await asyncpg.connect(host=str(server.socket), port=postgres.PORT, user=postgres.ROLE, database=database)


@asynccontextmanager
async def _full(site: Site) -> AsyncIterator[None]:
    """Somebody else has all the connections that the region has not."""
    taken = []
    try:
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                taken.append(await _connect(site.database))
        await taken[0].execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = 'bootferry-region'"
        )
        with contextlib.suppress(asyncpg.TooManyConnectionsError):
            while True:
                taken.append(await _connect(site.database))
        yield
    finally:
        for connection in taken:
            await connection.close()


@asynccontextmanager
async def _read_only(site: Site) -> AsyncIterator[None]:
    await _execute(site.database, f"ALTER DATABASE {DATABASE} SET default_transaction_read_only = on")
    await site.region.request_engine.dispose()
    try:
        yield
    finally:
        await _execute(
            site.database, f"ALTER DATABASE {DATABASE} RESET default_transaction_read_only", database="postgres"
        )
        await site.region.request_engine.dispose()


@contextmanager
def _frozen(server: postgres.Server) -> Iterator[None]:
    postmaster = int((server.data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    stopped = [postmaster, *map(int, children)]
    try:
        for pid in stopped:
            os.kill(pid, signal.SIGSTOP)
        yield
    finally:
        for pid in stopped:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGCONT)


@asynccontextmanager
async def _frozen_site(site: Site) -> AsyncIterator[None]:
    with _frozen(site.database):
        yield


@asynccontextmanager
async def _locked(site: Site) -> AsyncIterator[None]:
    connection = await _connect(site.database)
    try:
        async with connection.transaction():
            await connection.execute("LOCK TABLE imports, selections IN ACCESS EXCLUSIVE MODE")
            yield
    finally:
        await connection.close()


STATES: dict[str, tuple[Callable[[Site], Any], str]] = {
    "too many connections": (_full, "The database has no connection left"),
    "read-only": (_read_only, "The database is read-only"),
    "frozen": (_frozen_site, "The database does not answer"),
    "a locked table": (_locked, "Something in the database is locked"),
}


@pytest.mark.parametrize(("enter", "reason"), STATES.values(), ids=STATES)
async def test_what_is_not_health_is_told_within_two_seconds(
    site: Site, enter: Callable[[Site], Any], reason: str, caplog: pytest.LogCaptureFixture
) -> None:
    async with enter(site):
        await site.refused("GET", "/readyz", reason)
        await site.refused("POST", "/imports", reason)
        assert (await site.client("GET", "/livez")).status == 200
    assert "Traceback" not in caplog.text
    await site.fine()


async def test_many_who_ask_a_frozen_database_are_all_told_within_two_seconds(site: Site) -> None:
    async def ask() -> tuple[Answer, float]:
        started = time.monotonic()
        return await site.client("GET", "/images"), time.monotonic() - started

    with _frozen(site.database):
        for _ in range(2):
            async with lateness() as late:
                found = await asyncio.gather(*(ask() for _ in range(40)))
            assert {answer.status for answer, _ in found} == {503}
            assert max(took_s for _, took_s in found) - late.total_s < 2.0, late.total_s
    await site.fine()


async def test_a_region_that_is_late_itself_does_not_take_its_database_for_silent(database: postgres.Server) -> None:
    """In a herd of racks an operator was told that the database does not answer, which it did."""
    engine = create_engine(database.url("postgres"), REQUESTS)
    try:
        for _ in range(2):  # a new connection, and one that is looked at before it is used again
            asking = asyncio.create_task(_one(engine))
            for _ in range(3):
                await asyncio.sleep(0)
                time.sleep(0.7)  # noqa: ASYNC251 - the loop is to be late
            assert await asking == 1
    finally:
        await engine.dispose()


async def _one(engine: AsyncEngine) -> Any:
    async with transaction(engine) as connection:
        return await connection.scalar(text("SELECT 1"))


async def test_however_many_ask_whether_it_is_ready_one_look_is_made(
    site: Site, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks = 0

    async def look(_region: Region) -> None:
        nonlocal looks
        looks += 1
        await asyncio.sleep(0.2)
        raise Unavailable("Something is away")

    monkeypatch.setattr(region.api.health, "_require_usable", look)
    found = await asyncio.gather(*(site.client("GET", "/readyz") for _ in range(20)))
    assert {answer.status for answer in found} == {503}
    assert looks == 1
    await site.client("GET", "/readyz")
    assert looks == 2, "what was seen before is no answer"


@pytest.mark.parametrize(
    ("state", "reason"),
    [
        ("53100", "The database's disk is full"),
        ("53200", "The database has no memory left"),
        ("53300", "The database has no connection left"),
        ("57P01", "The database is starting, or shutting down"),
        ("57P03", "The database is starting, or shutting down"),
        ("25006", "The database is read-only"),
        ("55P03", "Something in the database is locked"),
        ("57014", "The database took too long"),
        ("40P01", "The database let another change go first"),
        ("58030", "The database cannot read or write its disk"),
    ],
)
async def test_what_postgresql_says_has_its_reason(database: postgres.Server, state: str, reason: str) -> None:
    engine = create_engine(database.url("postgres"))
    try:
        with pytest.raises(Unavailable, match=reason):
            async with transaction(engine) as connection:
                await connection.execute(text(f"DO $$ BEGIN RAISE EXCEPTION 'x' USING ERRCODE = '{state}'; END $$"))
    finally:
        await engine.dispose()


async def test_a_database_that_shuts_down_says_so() -> None:
    with scratch_directory() as directory, postgres.running(directory, fsync=False) as server:
        await server.create_database(DATABASE)
        engine = create_engine(server.url(DATABASE))
        there = await _connect(server)
        try:
            # A smart shutdown lets nobody in and waits for those who are there.
            os.kill(int((server.data / "postmaster.pid").read_text().split()[0]), signal.SIGTERM)
            await asyncio.sleep(0.3)
            with pytest.raises(Unavailable, match="The database is starting, or shutting down"):
                async with transaction(engine):
                    pass
        finally:
            await there.close()
            await engine.dispose()


async def test_requests_leave_room_for_the_importer(site: Site) -> None:
    """However many requests wait in the database, what works behind them has its own connections."""
    async with _locked(site):
        asking = [asyncio.create_task(site.client("GET", "/selections")) for _ in range(60)]
        await asyncio.sleep(0.5)
        started = time.monotonic()
        async with transaction(site.region.engine) as connection:
            await connection.execute(text("SELECT 1"))
        assert time.monotonic() - started < 0.5
        await asyncio.gather(*asking)


async def test_a_transaction_that_stands_still_is_ended_and_a_wait_for_a_lock_too(site: Site) -> None:
    async with transaction(site.region.request_engine) as connection:
        for name, most_s in {
            "statement_timeout": 30,
            "lock_timeout": 1.3,
            "idle_in_transaction_session_timeout": 30,
        }.items():
            found = await connection.scalar(
                text("SELECT extract(epoch FROM current_setting(:name)::interval)"), {"name": name}
            )
            assert found is not None, name
            assert 0 < float(found) <= most_s, name
