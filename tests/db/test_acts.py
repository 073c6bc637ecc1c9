"""Acts that only the region's own machine can do, and what acts have in common: they are written down."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.actions import imports as import_acts
from region.actions import settings as settings_acts
from region.actions import sync as sync_acts
from region.actions.region import confirm, new_epoch
from region.database.connection import transaction
from region.importing import imports
from region.importing.imports import Schedule
from region.people import activity, operators
from region.people.activity import CONSOLE, Actor
from region.people.operators import Role
from region.people.settings import Preferences
from region.publishing import manifest
from region.publishing.held import Publisher
from shared.errors import Conflict, InvalidValue, PreconditionFailed
from tests.db.rows import EPOCH, NOW, hold, kernel, make_rack, make_region, make_source, publish, until_somebody_waits


@pytest.mark.parametrize(
    ("seconds_later", "expected"),
    [
        pytest.param(1000, EPOCH + 1000, id="now"),
        pytest.param(1, EPOCH + 1, id="a second later"),
        pytest.param(0, EPOCH + 1, id="in the same second"),
        pytest.param(-86_400, EPOCH + 1, id="after the clock went back"),
    ],
)
async def test_an_epoch_never_goes_back(engine: AsyncEngine, seconds_later: int, expected: int) -> None:
    key = Ed25519PrivateKey.generate()
    now = NOW + timedelta(seconds=EPOCH + seconds_later - NOW.timestamp())
    async with transaction(engine) as connection:
        await make_region(connection, key)
        await hold(connection, await make_source(connection, kernel("1")), "1")
        before = await publish(connection, key)
        assert await new_epoch(connection, CONSOLE, Publisher(key), now) == expected
        published = await manifest.current(connection, key)
        assert published is not None
        assert published.manifest.epoch == expected
        assert published.manifest.order > before.manifest.order
        told = await activity.last(connection, "region")
    assert told is not None
    assert (told.who, told.action, told.before, told.after) == (
        "the region's console",
        "region.epoch_begun",
        {"epoch": EPOCH},
        {"epoch": expected},
    )


async def test_settings_have_their_bounds(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
        for days in (0, 3651):
            with pytest.raises(InvalidValue, match="between 1 and 3650"):
                await settings_acts.change(connection, CONSOLE, {"retention_days": days}, NOW)
        with pytest.raises(InvalidValue):
            await settings_acts.change(connection, CONSOLE, {"proxy": "ftp://proxy.example"}, NOW)
        for days in (1, 3650, 3650):
            found = await settings_acts.change(connection, CONSOLE, {"retention_days": days}, NOW)
            assert found.settings.retention_days == days
        entries = await activity.list_recent(connection, 10, None)
    assert [entry.sentence for entry in entries] == ["Set the retention to 3650 days.", "Set the retention to 1 day."]


async def test_an_epoch_is_later_than_any_that_racks_know(engine: AsyncEngine) -> None:
    """Of a region whose clock went back years, with a database of before: racks know what it has forgotten."""
    key = Ed25519PrivateKey.generate()
    now = NOW - timedelta(days=3650)
    async with transaction(engine) as connection:
        await make_region(connection, key)
        await make_rack(connection, "later", epoch=EPOCH + 10**6, serial=3)
        # Whoever claims to know the end of time must not bring it about.
        await make_rack(connection, "lying", epoch=2**63 - 1, serial=1)
        assert await new_epoch(connection, CONSOLE, Publisher(key), now) == EPOCH + 10**6 + 1


async def test_a_confirmation_is_a_manifest_of_its_own_and_written_down(engine: AsyncEngine) -> None:
    key = Ed25519PrivateKey.generate()
    async with transaction(engine) as connection:
        await make_region(connection, key)
        with pytest.raises(Conflict):
            await confirm(connection, CONSOLE, Publisher(key), NOW)
        await hold(connection, await make_source(connection, kernel("1")), "1")
        before = (await publish(connection, key)).manifest
        order = await confirm(connection, CONSOLE, Publisher(key), NOW)
        published = await manifest.current(connection, key)
        told = await activity.last(connection, "region")
    assert published is not None
    assert (published.manifest.entries, before.confirmed) == (before.entries, (0, 0))
    assert published.manifest.confirmed == published.manifest.order == order == (EPOCH, before.serial + 1)
    assert told is not None
    assert (told.action, told.after) == ("region.removal_confirmed", {"confirmed": [*order]})


@pytest.mark.parametrize("minutes", [4.9, -1, 7 * 24 * 60 + 1])
async def test_an_interval_below_five_minutes_or_above_a_week_is_refused(engine: AsyncEngine, minutes: float) -> None:
    async with transaction(engine) as connection:
        with pytest.raises(InvalidValue, match="between 5 minutes and 7 days"):
            await sync_acts.switch(connection, CONSOLE, None, NOW, interval=timedelta(minutes=minutes))


async def change_settings(connection: AsyncConnection, actor: Actor) -> object:
    seen = Preferences(proxy=None, retention_days=400, revision=0)
    wished: settings_acts.Changes = {"retention_days": 30}
    return await settings_acts.change(connection, actor, wished, NOW, if_match=settings_acts.etag(seen))


async def switch_sync(connection: AsyncConnection, actor: Actor) -> object:
    seen = Schedule(enabled=True, last_run_at=None, next_run_at=NOW)
    return await sync_acts.switch(connection, actor, False, NOW, if_match=sync_acts.etag(seen))


async def cancel_import(connection: AsyncConnection, actor: Actor) -> object:
    [seen] = await imports.list_recent(connection, 1, None)
    seen = replace(seen, cancel_requested=False)
    return await import_acts.cancel(connection, actor, seen.id, NOW, if_match=import_acts.etag(seen))


@pytest.mark.parametrize("act", [change_settings, switch_sync, cancel_import])
async def test_of_two_at_once_the_second_waits_and_is_told(
    engine: AsyncEngine, act: Callable[[AsyncConnection, Actor], Awaitable[object]]
) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
        await imports.enqueue(connection, "operator", "Ann", NOW)

    async def second() -> None:
        async with transaction(engine) as connection:
            await act(connection, Actor("Bob", "192.0.2.2"))

    async with transaction(engine) as connection:
        await act(connection, Actor("Ann", "192.0.2.1"))
        waiting = asyncio.create_task(second())
        await until_somebody_waits(engine)
    with pytest.raises(PreconditionFailed, match=r"Ann changed it at 2026-07-23 12:00:00 UTC from 192\.0\.2\.1 \("):
        await waiting


async def test_what_is_done_at_the_console_is_in_the_activity(
    engine: AsyncEngine, database_url: str, tmp_path: Path
) -> None:
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGION_")}
    environment |= {"REGION_DATABASE_URL": database_url, "REGION_DATA_DIR": str(tmp_path)}
    printed = []
    for command in (
        ["rack-token", "--uses", "2"],
        ["admin-token", "--name", "Ann"],
        ["new-epoch"],
        ["key", "rotate-secrets"],
        ["key", "forget-secrets"],
        ["key", "rotate"],
    ):
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-m", "region", *command, env=environment, stdout=PIPE, stderr=PIPE
        )
        told, complained = await process.communicate()
        assert process.returncode == 0, complained.decode()
        printed.append(told.decode().splitlines()[-1])
    async with transaction(engine) as connection:
        entries = (await activity.list_recent(connection, 10, None))[::-1]
        operator = await operators.authenticate(connection, printed[1], NOW + timedelta(days=3650))
    assert (operator.name, operator.role) == ("Ann", Role.ADMIN)
    assert printed[0].startswith("bfe_")
    assert [(entry.who, entry.action, entry.sentence) for entry in entries[:2]] == [
        ("the region's console", "enrolment_token.created", "Made an enrolment token for 2 racks."),
        ("the region's console", "token.created", "Made a token for Ann with the role admin."),
    ]
    assert [entry.action for entry in entries[2:]] == [
        "region.epoch_begun",
        "secrets.rotated",
        "secrets.forgotten",
        "region.key_rotated",
        "region.epoch_begun",
    ]
    assert not any(secret[16:] in str(entries) for secret in printed[:2])
