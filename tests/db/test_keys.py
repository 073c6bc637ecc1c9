"""Racks' keys in memory: read when a rack is enrolled or removed, in every process, and at no other time."""

import asyncio
import re
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database import topics
from region.database.connection import transaction
from region.database.topics import Gathered, Topic, Topics, notify
from region.fleet import enrolment_tokens, racks, reports
from region.fleet import keys as module
from region.fleet.enrolment_tokens import TOKEN_LIFETIME
from region.fleet.keys import Keys
from shared.names import Name
from shared.signing import encode_bytes, public_bytes
from shared.wire.enrolment import EnrolmentRequest
from shared.wire.report import Knows, Report
from tests.db.rows import NOW, make_rack, make_region

REGION = "ab" * 32
Eventually = Callable[..., Awaitable[object]]


@asynccontextmanager
async def process(engine: AsyncEngine, database_url: str) -> AsyncIterator[tuple[Keys, Topics]]:
    """What one region process knows of keys, kept up to date."""
    heard, keys = Topics(), Keys(engine)
    tasks = [asyncio.create_task(keys.follow(heard)), asyncio.create_task(heard.listen(database_url))]
    with heard.subscribe(Topic.SYNC) as line:
        await line.next(10)
    yield keys, heard
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
def reads(engine: AsyncEngine) -> list[str]:
    """The statements that read a key."""
    found: list[str] = []

    def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
        if statement.startswith("SELECT") and "public_key" in statement:
            found.append(statement)

    event.listen(engine.sync_engine, "before_cursor_execute", note)
    return found


async def enrolled(engine: AsyncEngine, name: str) -> str:
    key = Ed25519PrivateKey.generate()
    async with transaction(engine) as connection:
        token, _ = await enrolment_tokens.create_token(connection, REGION, NOW, lifetime=TOKEN_LIFETIME)
        request = EnrolmentRequest(Name(name), encode_bytes(public_bytes(key)), REGION)
        return (await racks.enrol(connection, request.sealed(token), REGION, NOW)).rack_id


async def test_a_removed_racks_key_stops_working_in_every_process_within_a_second(
    engine: AsyncEngine, database_url: str, eventually: Eventually
) -> None:
    async with process(engine, database_url) as (here, _), process(engine, database_url) as (there, _):
        rack_id, other = await enrolled(engine, "one"), await enrolled(engine, "two")
        for keys in (here, there):
            await eventually(lambda keys=keys: keys.get(rack_id) and keys.get(other))
        async with transaction(engine) as connection:
            await racks.remove(connection, rack_id, NOW)
        for keys in (here, there):
            await eventually(lambda keys=keys: keys.get(rack_id) is None, within_s=1.0)
            assert keys.get(other) is not None


async def test_one_enrolment_reads_one_key_and_a_report_reads_none(
    engine: AsyncEngine, database_url: str, eventually: Eventually, reads: list[str]
) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
        first = await make_rack(connection, "one")
    async with process(engine, database_url) as (keys, heard):
        await eventually(lambda: keys.get(first))
        await asyncio.sleep(0.1)
        reads.clear()
        with heard.subscribe(Topic.RACKS) as told:
            async with transaction(engine) as connection:
                report = Report(sequence=1, version="1", knows=Knows())
                await notify(connection, *await reports.record(connection, first, report, NOW))
            assert await told.next(10) == [Topic.RACKS]
        assert reads == [], "a report makes nobody read keys"
        second = await enrolled(engine, "two")
        await eventually(lambda: keys.get(second))
        (statement,) = [statement for statement in reads if not re.search("token|barred", statement)]
        assert "ANY" in statement, "that one alone"


async def test_what_changed_before_anybody_listened_is_known(engine: AsyncEngine, eventually: Eventually) -> None:
    keys = Keys(engine)
    await keys.read_all()
    rack_id = await enrolled(engine, "one")
    # No line to the database here: nobody tells this process anything.
    following = asyncio.create_task(keys.follow(Topics()))
    await eventually(lambda: keys.get(rack_id))
    following.cancel()
    await asyncio.gather(following, return_exceptions=True)


async def test_after_a_line_that_was_cut_every_key_is_read_again(
    engine: AsyncEngine, database_url: str, eventually: Eventually, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(topics, "RECONNECT_PAUSE_S", 0.01)
    async with process(engine, database_url) as (keys, _):
        async with transaction(engine) as connection:
            # As if the word of it had been lost with the line.
            silent = await make_rack(connection, "silent")
            assert keys.get(silent) is None
            await connection.execute(
                text("""
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND query ILIKE 'LISTEN %'
                """)
            )
        await eventually(lambda: keys.get(silent))


async def test_a_key_that_cannot_be_read_again_opens_nothing(
    engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    keys = Keys(engine)
    rack_id = await enrolled(engine, "one")
    await keys.read_all()
    assert keys.get(rack_id) is not None
    monkeypatch.setattr(module, "transaction", _away)
    with pytest.raises(OSError, match="away"):
        await keys.read([rack_id])
    assert keys.get(rack_id) is None


def _away(_engine: AsyncEngine) -> None:
    raise OSError("away")


async def test_many_changes_are_told_once_a_second_and_the_first_at_once(
    engine: AsyncEngine, database_url: str
) -> None:
    heard, gathered = Topics(), Gathered(engine, pause_s=0.5)
    tasks = [asyncio.create_task(gathered.run()), asyncio.create_task(heard.listen(database_url))]
    with heard.subscribe(Topic.RACKS, Topic.IMAGES) as told:
        await told.next(10)
        began = asyncio.get_running_loop().time()
        gathered.say({Topic.RACKS})
        assert await told.next(10) == [Topic.RACKS]
        assert asyncio.get_running_loop().time() - began < 0.5
        for _ in range(20):
            gathered.say({Topic.RACKS, Topic.IMAGES})
            await asyncio.sleep(0)
        assert await told.next(0.2) == [], "not yet"
        found: set[Topic] = set()
        while len(found) < 2:
            found |= set(await told.next(10))
        assert await told.next(0.7) == []
    for task in tasks:
        task.cancel()
    await asyncio.gather(*tasks, return_exceptions=True)
