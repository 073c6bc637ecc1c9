"""What changed: heard by everyone once it is so, by nobody when it is not."""

import asyncio
from collections.abc import AsyncIterator
from typing import Any

import asyncpg
import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database import topics
from region.database.connection import transaction
from region.database.topics import Topic, Topics, notify

PATIENCE_S = 10.0
BRIEFLY_S = 0.1


@pytest.fixture
async def heard(database_url: str, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Topics]:
    """A process that listens to the database."""
    monkeypatch.setattr(topics, "RECONNECT_PAUSE_S", 0.01)
    monkeypatch.setattr(topics, "KEEPALIVE_S", 0.05)
    listening = Topics()
    with listening.subscribe() as subscription:
        task = asyncio.create_task(listening.listen(database_url))
        # A line that was just made counts everything as changed.
        assert set(await subscription.next(PATIENCE_S)) == set(Topic)
    yield listening
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def told(engine: AsyncEngine, *topics: Topic) -> None:
    async with transaction(engine) as connection:
        await notify(connection, *topics)


async def test_a_change_is_heard_when_it_is_committed_and_not_before(engine: AsyncEngine, heard: Topics) -> None:
    with heard.subscribe() as subscription:
        async with transaction(engine) as connection:
            await notify(connection, Topic.IMAGES)
            assert await subscription.next(BRIEFLY_S) == []
        assert await subscription.next(PATIENCE_S) == [Topic.IMAGES]


async def test_what_was_rolled_back_is_not_heard(engine: AsyncEngine, heard: Topics) -> None:
    with heard.subscribe() as subscription:
        with pytest.raises(RuntimeError):
            async with transaction(engine) as connection:
                await notify(connection, Topic.RACKS)
                raise RuntimeError
        await told(engine, Topic.SYNC)
        assert await subscription.next(PATIENCE_S) == [Topic.SYNC]


async def test_each_hears_what_it_asked_for(engine: AsyncEngine, heard: Topics) -> None:
    with heard.subscribe(Topic.RACKS) as racks, heard.subscribe(Topic.SYNC, Topic.IMAGES) as others:
        await told(engine, Topic.IMAGES, Topic.RACKS)
        assert await racks.next(PATIENCE_S) == [Topic.RACKS]
        assert await others.next(PATIENCE_S) == [Topic.IMAGES]
        assert await racks.next(BRIEFLY_S) == []


async def test_a_burst_is_heard_once(engine: AsyncEngine, heard: Topics) -> None:
    with heard.subscribe(Topic.IMAGES, Topic.SYNC) as subscription:
        for _ in range(5):
            await told(engine, Topic.IMAGES)
        await told(engine, Topic.SYNC)
        found: list[Topic] = []
        while Topic.SYNC not in found:
            found += await subscription.next(PATIENCE_S)
        assert set(found) == {Topic.IMAGES, Topic.SYNC}
        assert await subscription.next(BRIEFLY_S) == []


def test_a_burst_that_nobody_has_heard_yet_counts_once() -> None:
    told_here = Topics()
    with told_here.subscribe() as subscription:
        for _ in range(5):
            told_here.tell(Topic.IMAGES, Topic.RACKS)
        assert asyncio.run(subscription.next(PATIENCE_S)) == [Topic.IMAGES, Topic.RACKS]


async def test_whoever_left_hears_nothing() -> None:
    told_here = Topics()
    with told_here.subscribe() as left:
        pass
    told_here.tell(Topic.IMAGES)
    assert await left.next(0) == []


async def test_after_a_line_that_was_cut_everything_counts_as_changed(engine: AsyncEngine, heard: Topics) -> None:
    with heard.subscribe() as subscription:
        async with transaction(engine) as connection:
            await connection.execute(
                text("""
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND query ILIKE 'LISTEN %'
                """)
            )
        found: set[Topic] = set()
        async with asyncio.timeout(PATIENCE_S):
            while found != set(Topic):
                found |= set(await subscription.next(PATIENCE_S))
        await told(engine, Topic.MANIFEST)
        assert await subscription.next(PATIENCE_S) == [Topic.MANIFEST]


async def test_a_line_that_goes_in_the_middle_of_a_word_is_made_again(
    engine: AsyncEngine, database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A session that ended while it began to listen ended the whole process: asyncpg calls that a fault of its own."""
    listen, broken = asyncpg.Connection.add_listener, 0

    async def add_listener(*arguments: Any) -> None:
        nonlocal broken
        if not broken:
            broken += 1
            raise asyncpg.InternalClientError("cannot switch to state 11; another operation (2) is in progress")
        await listen(*arguments)

    monkeypatch.setattr(asyncpg.Connection, "add_listener", add_listener)
    monkeypatch.setattr(topics, "RECONNECT_PAUSE_S", 0.01)
    here = Topics()
    with here.subscribe(Topic.IMAGES) as subscription:
        listening = asyncio.create_task(here.listen(database_url))
        assert await subscription.next(PATIENCE_S) == [Topic.IMAGES]
        await told(engine, Topic.IMAGES)
        assert await subscription.next(PATIENCE_S) == [Topic.IMAGES]
        listening.cancel()


async def test_what_nobody_knows_is_ignored(engine: AsyncEngine, heard: Topics) -> None:
    with heard.subscribe() as subscription:
        async with transaction(engine) as connection:
            await connection.execute(text("SELECT pg_notify('bootferry', 'weather')"))
        await told(engine, Topic.SOURCES)
        assert await subscription.next(PATIENCE_S) == [Topic.SOURCES]
