"""Housekeeping: what is old goes, what is not stays, once an hour and in one process."""

import asyncio
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from region import app
from region.configuration import RegionConfiguration
from region.database.connection import transaction
from region.fleet import enrolment_tokens
from region.importing import housekeeping
from region.importing.housekeeping import tidy
from region.people import activity, operators, sessions, settings
from region.people.activity import CONSOLE
from region.people.operators import Role
from region.people.sessions import SESSION_IDLE
from tests.conftest import Clock
from tests.db.rows import NOW, make_region

DAYS = timedelta(days=1)


@pytest.fixture
async def region(engine: AsyncEngine) -> AsyncEngine:
    """A database with a region's first rows."""
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
    return engine


async def add_import(engine: AsyncEngine, finished_at: datetime | None) -> int:
    """The id of an import, with an image; None for one that still runs."""
    async with transaction(engine) as connection:
        import_id: int = (
            await connection.execute(
                text("""
                    INSERT INTO imports (trigger, requested_by, requested_at, state, finished_at)
                    VALUES ('schedule', 'x', :requested, :state, :finished) RETURNING id
                """),
                {
                    "requested": NOW - 1000 * DAYS,
                    "finished": finished_at,
                    "state": "running" if finished_at is None else "succeeded",
                },
            )
        ).scalar_one()
        await connection.execute(
            text("INSERT INTO import_images (import_id, os, release, arch) VALUES (:id, 'ubuntu', 'noble', 'amd64')"),
            {"id": import_id},
        )
    return import_id


async def add_activity(engine: AsyncEngine, *moments: datetime) -> None:
    async with transaction(engine) as connection:
        for moment in moments:
            await activity.record(connection, CONSOLE, moment, "x.done", "Did it.")


async def column(engine: AsyncEngine, query: str) -> list[object]:
    async with transaction(engine) as connection:
        return list((await connection.scalars(text(query))).all())


async def test_records_go_after_the_retention(region: AsyncEngine, clock: Clock) -> None:
    old, kept, running = NOW - 400 * DAYS - timedelta(seconds=1), NOW - 400 * DAYS, None
    await add_import(region, old)
    left = [await add_import(region, kept), await add_import(region, running)]
    await add_activity(region, old, kept, NOW)
    assert await tidy(region, clock())
    assert await column(region, "SELECT id FROM imports ORDER BY id") == left
    assert await column(region, "SELECT import_id FROM import_images ORDER BY import_id") == left
    assert await column(region, "SELECT at FROM activity ORDER BY id") == [kept, NOW]

    async with transaction(region) as connection:
        await settings.change(connection, proxy=None, retention_days=1)
    clock.pass_by(timedelta(hours=1))
    assert await tidy(region, clock())
    assert await column(region, "SELECT id FROM imports ORDER BY id") == left[1:], "what still runs stays"
    assert await column(region, "SELECT at FROM activity ORDER BY id") == [NOW]


async def test_sessions_go_when_they_have_ended(region: AsyncEngine, clock: Clock) -> None:
    async with transaction(region) as connection:
        lasting = await operators.create_token(connection, "Ada", Role.VIEWER, NOW)
        expiring = await operators.create_token(connection, "Bob", Role.VIEWER, NOW, NOW + timedelta(hours=1))
        for token, opened in ((lasting, NOW), (lasting, NOW + timedelta(hours=1)), (expiring, NOW)):
            operator = await operators.authenticate(connection, token, NOW)
            await sessions.open_session(connection, operator, opened)
    clock.pass_by(SESSION_IDLE)
    assert await tidy(region, clock())
    assert await column(region, "SELECT created_at FROM sessions") == [NOW + timedelta(hours=1)]
    assert len(await column(region, "SELECT id FROM operator_tokens")) == 2, "expired tokens stay on the list"


async def test_the_activity_says_in_time_that_the_last_administrators_token_expires(
    region: AsyncEngine, clock: Clock
) -> None:
    async with transaction(region) as connection:
        await operators.create_token(connection, "Ada", Role.ADMIN, NOW, NOW + 20 * DAYS)
    for after in (0, 7, 8):
        clock.pass_by(after * DAYS)
        assert await tidy(region, clock())
        told = await column(region, "SELECT sentence FROM activity WHERE action = 'token.expiring'")
        assert len(told) == (1 if after else 0)
    assert str(told[0]).startswith("The last administrator's token, Ada, expires on 2026-08-12;")


async def test_enrolment_tokens_go_a_month_after_they_expired(region: AsyncEngine, clock: Clock) -> None:
    async with transaction(region) as connection:
        for lifetime in (timedelta(hours=1), 2 * DAYS):
            await enrolment_tokens.create_token(connection, "ab" * 32, NOW, lifetime=lifetime)
    clock.pass_by(31 * DAYS)
    assert await tidy(region, clock())
    assert await column(region, "SELECT expires_at FROM enrolment_tokens") == [NOW + 2 * DAYS]


async def test_it_is_done_once_an_hour_by_one_process(region: AsyncEngine, clock: Clock) -> None:
    assert sorted(await asyncio.gather(*(tidy(region, clock()) for _ in range(4)))) == [False, False, False, True]
    clock.pass_by(timedelta(minutes=59))
    assert not await tidy(region, clock())
    clock.pass_by(timedelta(minutes=1))
    assert await tidy(region, clock())


async def test_a_clock_that_was_far_ahead_does_not_put_it_off(region: AsyncEngine) -> None:
    assert await tidy(region, NOW + 1000 * DAYS)
    assert await tidy(region, NOW)


async def test_no_transaction_removes_more_than_a_batch(region: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(housekeeping, "BATCH", 2)
    monkeypatch.setattr(housekeeping, "MAX_BATCHES", 3)
    await add_activity(region, *(NOW - 500 * DAYS + timedelta(seconds=number) for number in range(9)), NOW)
    assert await tidy(region, NOW)
    assert len(await column(region, "SELECT id FROM activity")) == 10 - 2 * 3, "the rest waits for the next hour"
    assert await tidy(region, NOW + timedelta(hours=1))
    assert await column(region, "SELECT at FROM activity") == [NOW]


async def test_the_clock_does_it(engine: AsyncEngine, database_url: str, tmp_path: Path, clock: Clock) -> None:
    configuration = RegionConfiguration(
        database_url=database_url, data_dir=tmp_path, default_source_url="http://127.0.0.1:1/", migrate_on_start=False
    )
    built = app.build(configuration, now=clock)
    await built.prepare()
    await add_activity(engine, NOW - 401 * DAYS)
    await built.clock.tick()
    assert await column(engine, "SELECT id FROM activity") == []
    await built.engine.dispose()
