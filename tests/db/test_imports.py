"""Imports: one waits, one runs, whoever lost its lease writes nothing."""

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.database.connection import transaction
from region.importing import imports
from region.importing.imports import SYNC_PERIOD, Claim, ImageProgress, LeaseLost
from shared.errors import Conflict, NotFound, Unavailable
from shared.names import ImageKey
from tests.db.rows import NOBLE, NOW, make_region, until_somebody_waits

JAMMY = ImageKey.parse("ubuntu:jammy:amd64")
Scope = frozenset[ImageKey] | None


async def enqueued(engine: AsyncEngine, trigger: str = "operator", scope: Scope = None) -> int:
    async with transaction(engine) as connection:
        return await imports.enqueue(connection, trigger, "somebody", NOW, scope)


async def claimed(engine: AsyncEngine, owner: str = "one") -> Claim | None:
    async with transaction(engine) as connection:
        return await imports.claim(connection, owner)


async def running(engine: AsyncEngine, trigger: str = "operator") -> Claim:
    """An import that has just been claimed."""
    await enqueued(engine, trigger)
    claim = await claimed(engine)
    assert claim is not None
    return claim


async def let_the_lease_run_out(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE imports SET lease_until = clock_timestamp() - interval '1 second'"))


async def import_of(engine: AsyncEngine, import_id: int) -> imports.Import:
    async with transaction(engine) as connection:
        return await imports.get(connection, import_id)


@pytest.mark.parametrize("state", ["queued", "running"])
async def test_the_schema_lets_one_wait_and_one_run(engine: AsyncEngine, state: str) -> None:
    statement = text(
        "INSERT INTO imports (trigger, requested_by, requested_at, state) VALUES ('operator', 'x', now(), :state)"
    )
    async with transaction(engine) as connection:
        await connection.execute(statement, {"state": state})
        await connection.execute(statement, {"state": "succeeded"})
        await connection.execute(statement, {"state": "succeeded"})
    with pytest.raises(IntegrityError, match=f"uq_imports_{state}"):
        async with transaction(engine) as connection:
            await connection.execute(statement, {"state": state})


@pytest.mark.parametrize(
    ("first", "second", "scope"),
    [
        pytest.param({NOBLE}, {NOBLE}, {"ubuntu:noble:amd64"}, id="the same twice"),
        pytest.param({NOBLE}, {JAMMY}, {"ubuntu:noble:amd64", "ubuntu:jammy:amd64"}, id="two images"),
        pytest.param({NOBLE}, None, None, id="one image, then everything"),
        pytest.param(None, {NOBLE}, None, id="everything, then one image"),
        pytest.param(None, None, None, id="everything twice"),
    ],
)
async def test_asking_twice_is_one_run(
    engine: AsyncEngine, first: set[ImageKey] | None, second: set[ImageKey] | None, scope: set[str] | None
) -> None:
    wishes: list[Scope] = [None if wish is None else frozenset(wish) for wish in (first, second)]
    ids = {await enqueued(engine, scope=wish) for wish in wishes}
    assert len(ids) == 1
    entry = await import_of(engine, ids.pop())
    assert (None if entry.scope is None else set(entry.scope)) == scope
    assert len(entry.scope or []) == len(scope or ())
    claim = await claimed(engine)
    assert claim is not None
    assert claim.scope == scope


@pytest.mark.parametrize(
    ("first", "second", "trigger"),
    [
        pytest.param("schedule", "operator", "operator", id="an operator over the schedule"),
        pytest.param("operator", "schedule", "operator", id="an operator stays one"),
        pytest.param("schedule", "selection", "selection", id="a selection over the schedule"),
        pytest.param("selection", "healing", "selection", id="a selection stays one"),
        pytest.param("schedule", "healing", "schedule", id="the schedule stays when something heals"),
        pytest.param("healing", "schedule", "schedule", id="the schedule over healing, or its run is not remembered"),
        pytest.param("healing", "healing", "healing", id="healing alone"),
    ],
)
async def test_of_two_wishes_in_one_run_the_weightier_names_it(
    engine: AsyncEngine, first: str, second: str, trigger: str
) -> None:
    async with transaction(engine) as connection:
        for wished in (first, second):
            import_id = await imports.enqueue(connection, wished, f"by {wished}", NOW)
    entry = await import_of(engine, import_id)
    assert (entry.trigger, entry.requested_by) == (trigger, f"by {trigger}")


async def test_a_wish_that_comes_while_one_runs_waits_for_its_own_turn(engine: AsyncEngine) -> None:
    first = await running(engine)
    second = await enqueued(engine)
    assert second != first.import_id
    assert await claimed(engine, "two") is None
    async with transaction(engine) as connection:
        await imports.finish(connection, first, "succeeded", NOW, "", "")
    claim = await claimed(engine, "two")
    assert claim is not None
    assert claim.import_id == second


async def test_a_wish_takes_back_the_wish_to_stop_what_waits(engine: AsyncEngine) -> None:
    import_id = await enqueued(engine)
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE imports SET cancel_requested = true"))
    assert await enqueued(engine) == import_id
    assert not (await import_of(engine, import_id)).cancel_requested


async def test_many_wishes_at_once_are_one_run(engine: AsyncEngine) -> None:
    assert len(set(await asyncio.gather(*(enqueued(engine) for _ in range(8))))) == 1


# The hourly sync


async def due(engine: AsyncEngine, after: timedelta = timedelta(0)) -> int | None:
    async with transaction(engine) as connection:
        return await imports.enqueue_due(connection, NOW + after)


@pytest.fixture
async def region(engine: AsyncEngine) -> AsyncEngine:
    """An engine on the database of a region whose sync is due at NOW."""
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
    return engine


async def test_a_sync_is_due_at_the_start_and_then_hourly(region: AsyncEngine) -> None:
    assert await due(region, -timedelta(seconds=1)) is None
    assert await due(region) is not None
    # A restart asks again: what has been won is not run twice.
    assert await due(region) is None
    assert await due(region, SYNC_PERIOD - timedelta(seconds=1)) is None
    assert await due(region, SYNC_PERIOD) is not None
    # However long nobody looked, one run catches up.
    assert await due(region, 100 * SYNC_PERIOD) is not None
    assert await due(region, 100 * SYNC_PERIOD) is None
    async with transaction(region) as connection:
        assert (await imports.schedule(connection)).next_run_at == NOW + 101 * SYNC_PERIOD


async def test_a_clock_that_was_wrong_by_years_does_not_put_the_sync_off(region: AsyncEngine) -> None:
    assert await due(region, timedelta(days=3650)) is not None
    assert await due(region) is not None, "not only in ten years"
    assert await due(region, timedelta(minutes=59)) is None
    assert await due(region, timedelta(minutes=60)) is not None
    # Clocks of two processes may differ a little: that is not wrong.
    assert await due(region, timedelta(minutes=10)) is None


async def test_of_processes_that_look_at_once_one_wins_the_run(region: AsyncEngine) -> None:
    won = await asyncio.gather(*(due(region) for _ in range(8)))
    assert len([import_id for import_id in won if import_id is not None]) == 1


async def test_no_sync_while_it_is_off_and_the_missed_one_when_it_is_on_again(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        assert not (await imports.set_enabled(connection, False)).enabled
    assert await due(region, 5 * SYNC_PERIOD) is None
    async with transaction(region) as connection:
        assert (await imports.set_enabled(connection, True)).enabled
    assert await due(region, 5 * SYNC_PERIOD) is not None


async def test_how_often_the_sync_runs_is_a_setting(region: AsyncEngine) -> None:
    assert await due(region) is not None
    async with transaction(region) as connection:
        changed = await imports.set_interval(connection, timedelta(minutes=5), NOW + timedelta(minutes=2))
    assert (changed.interval, changed.next_run_at) == (timedelta(minutes=5), NOW + timedelta(minutes=5))
    assert await due(region, timedelta(minutes=5) - timedelta(seconds=1)) is None
    assert await due(region, timedelta(minutes=5)) is not None
    assert await due(region, timedelta(minutes=9)) is None
    assert await due(region, timedelta(minutes=10)) is not None
    # A day: counted from the last run, not from now.
    async with transaction(region) as connection:
        changed = await imports.set_interval(connection, timedelta(days=1), NOW + timedelta(minutes=12))
    assert changed.next_run_at == NOW + timedelta(minutes=10, days=1)
    assert await due(region, timedelta(hours=23)) is None
    # Shorter again, what would have been due by now is due at once.
    async with transaction(region) as connection:
        await imports.set_interval(connection, timedelta(hours=1), NOW + timedelta(hours=23))
    assert await due(region, timedelta(hours=23)) is not None
    # A clock that was wrong by years puts this off no more than the hour.
    async with transaction(region) as connection:
        await imports.set_interval(connection, timedelta(minutes=5), NOW + timedelta(days=3650))
    assert await due(region, timedelta(hours=25)) is not None


async def test_a_due_sync_joins_the_import_that_waits(region: AsyncEngine) -> None:
    waiting = await enqueued(region, scope=frozenset({NOBLE}))
    assert await due(region) == waiting
    assert (await import_of(region, waiting)).scope is None


# Leases


async def test_of_processes_that_claim_at_once_one_gets_it(engine: AsyncEngine) -> None:
    import_id = await enqueued(engine)
    claims = await asyncio.gather(*(claimed(engine, f"process {n}") for n in range(8)))
    (claim,) = [claim for claim in claims if claim is not None]
    assert (claim.import_id, claim.fence) == (import_id, 1)
    assert await claimed(engine) is None


async def test_nothing_waits(engine: AsyncEngine) -> None:
    assert await claimed(engine) is None


async def test_a_lease_that_ran_out_is_taken_over_once(engine: AsyncEngine) -> None:
    first = await running(engine)
    await enqueued(engine)
    started_at = (await import_of(engine, first.import_id)).started_at
    await let_the_lease_run_out(engine)
    claims = await asyncio.gather(*(claimed(engine, f"process {n}") for n in range(8)))
    (second,) = [claim for claim in claims if claim is not None]
    assert (second.import_id, second.fence) == (first.import_id, first.fence + 1)
    assert (await import_of(engine, first.import_id)).started_at == started_at


async def test_progress_extends_the_lease(engine: AsyncEngine) -> None:
    claim = await running(engine)
    await let_the_lease_run_out(engine)
    async with transaction(engine) as connection:
        assert await imports.record_progress(connection, claim, {}, 10, 5) is False
    assert await claimed(engine, "two") is None


Write = Callable[[AsyncConnection, Claim], Awaitable[object]]


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(imports.require_lease, id="require_lease"),
        pytest.param(lambda connection, claim: imports.record_progress(connection, claim, {}, 1, 1), id="progress"),
        pytest.param(
            lambda connection, claim: imports.record_progress(connection, claim, {NOBLE: ImageProgress(1, 1)}, 1, 1),
            id="progress of an image",
        ),
        pytest.param(lambda connection, claim: imports.finish(connection, claim, "failed", NOW, "x", "y"), id="finish"),
    ],
)
@pytest.mark.parametrize("how", ["taken over", "ended"])
async def test_whoever_lost_the_lease_writes_nothing(region: AsyncEngine, write: Write, how: str) -> None:
    lost = await running(region)
    if how == "taken over":
        await let_the_lease_run_out(region)
        assert await claimed(region, "two") is not None
    else:
        async with transaction(region) as connection:
            await imports.finish(connection, lost, "succeeded", NOW, "", "")
    before = await import_of(region, lost.import_id)
    with pytest.raises(LeaseLost):
        async with transaction(region) as connection:
            await write(connection, lost)
    assert await import_of(region, lost.import_id) == before
    async with transaction(region) as connection:
        assert await imports.images_of(connection, lost.import_id) == {}


async def test_nobody_takes_over_between_the_look_at_the_lease_and_the_write(engine: AsyncEngine) -> None:
    claim = await running(engine)
    await let_the_lease_run_out(engine)
    async with transaction(engine) as connection:
        await imports.require_lease(connection, claim)
        assert await claimed(engine, "two") is None
    assert await claimed(engine, "two") is not None


# Progress, stopping, the end


async def test_progress_is_per_image_and_the_last_word_counts(engine: AsyncEngine) -> None:
    claim = await running(engine)
    async with transaction(engine) as connection:
        await imports.record_progress(
            connection, claim, {NOBLE: ImageProgress(100, 10), JAMMY: ImageProgress(50, 0)}, 150, 10
        )
        await imports.record_progress(connection, claim, {NOBLE: ImageProgress(100, 20, "x", "Went wrong.")}, 150, 20)
        assert await imports.images_of(connection, claim.import_id) == {
            "ubuntu:noble:amd64": ImageProgress(100, 20, "x", "Went wrong."),
            "ubuntu:jammy:amd64": ImageProgress(50, 0),
        }
        entry = await imports.get(connection, claim.import_id)
        assert (entry.bytes_total, entry.bytes_done) == (150, 20)


async def test_what_waits_is_stopped_at_once(engine: AsyncEngine) -> None:
    import_id = await enqueued(engine)
    async with transaction(engine) as connection:
        await imports.request_cancel(connection, import_id, NOW)
    entry = await import_of(engine, import_id)
    assert (entry.state, entry.finished_at) == ("cancelled", NOW)
    assert await claimed(engine) is None
    assert await enqueued(engine) != import_id


async def test_what_runs_is_told_to_stop(engine: AsyncEngine) -> None:
    claim = await running(engine)
    async with transaction(engine) as connection:
        await imports.request_cancel(connection, claim.import_id, NOW)
        assert (await imports.get(connection, claim.import_id)).state == "running"
        assert await imports.record_progress(connection, claim, {}, 1, 1) is True


@pytest.mark.parametrize("state", ["succeeded", "failed", "cancelled"])
async def test_what_has_ended_cannot_be_stopped(region: AsyncEngine, state: str) -> None:
    claim = await running(region)
    async with transaction(region) as connection:
        await imports.finish(connection, claim, state, NOW, "", "")
    with pytest.raises(Conflict, match="has ended already"):
        async with transaction(region) as connection:
            await imports.request_cancel(connection, claim.import_id, NOW)


async def test_an_import_that_is_claimed_while_somebody_stops_it_does_stop(engine: AsyncEngine) -> None:
    """Whichever of the two comes first: an operator who was told 'accepted' must not see it run on."""
    import_id = await enqueued(engine)
    async with engine.connect() as stopping:
        await stopping.execute(text("SELECT 1 FROM imports FOR UPDATE"))
        async with transaction(engine) as looked:
            cancel = asyncio.create_task(imports.request_cancel(looked, import_id, NOW))
            await until_somebody_waits(engine)
            await stopping.execute(
                text(
                    "UPDATE imports SET state = 'running', fence = 1, lease_owner = 'one',"
                    " lease_until = clock_timestamp() + interval '30 seconds'"
                )
            )
            await stopping.commit()
            await cancel
    entry = await import_of(engine, import_id)
    assert entry.cancel_requested


@pytest.mark.parametrize(
    ("trigger", "counts"),
    [
        pytest.param("schedule", True, id="the hourly run"),
        pytest.param("operator", True, id="an operator's"),
        pytest.param("selection", True, id="a selection's"),
        pytest.param("healing", False, id="healing is no sync"),
    ],
)
async def test_the_end_is_written_down(region: AsyncEngine, trigger: str, counts: bool) -> None:
    claim = await running(region, trigger)
    ended = NOW + timedelta(minutes=3)
    async with transaction(region) as connection:
        await imports.finish(connection, claim, "failed", ended, "timed_out", "It did not answer.")
        entry = await imports.get(connection, claim.import_id)
        assert (entry.state, entry.finished_at) == ("failed", ended)
        assert (entry.error_code, entry.error) == ("timed_out", "It did not answer.")
        assert (await imports.schedule(connection)).last_run_at == (ended if counts else None)
    assert await claimed(region) is None


async def test_imports_are_listed_newest_first_page_by_page(region: AsyncEngine) -> None:
    ids = []
    for _ in range(3):
        claim = await running(region)
        ids.append(claim.import_id)
        async with transaction(region) as connection:
            await imports.finish(connection, claim, "succeeded", NOW, "", "")
    async with transaction(region) as connection:
        newest = await imports.list_recent(connection, 2, None)
        assert [entry.id for entry in newest] == [ids[2], ids[1]]
        assert [entry.id for entry in await imports.list_recent(connection, 2, ids[1])] == [ids[0]]
        assert await imports.list_recent(connection, 2, ids[0]) == []
        for ask in (imports.get(connection, 99), imports.request_cancel(connection, 99, NOW)):
            with pytest.raises(NotFound):
                await ask


async def shows_its_lease(connection: AsyncConnection, claim: Claim) -> None:
    await imports.require_lease(connection, claim)


async def writes_its_progress(connection: AsyncConnection, claim: Claim) -> None:
    await imports.record_progress(connection, claim, {}, 2, 1, lease_s=0.1)


@pytest.mark.parametrize("step", [shows_its_lease, writes_its_progress])
async def test_a_runner_that_stands_still_in_a_transaction_blocks_nobody(
    region: AsyncEngine, monkeypatch: pytest.MonkeyPatch, step: Callable[[AsyncConnection, Claim], Awaitable[None]]
) -> None:
    """It was stopped by a signal, say, with a lock on the very row that its successor must claim."""
    monkeypatch.setattr(imports, "STANDSTILL_S", 0.3)
    await enqueued(region)
    async with transaction(region) as connection:
        claim = await imports.claim(connection, "one", lease_s=0.1)
    assert claim is not None
    taken: list[Claim | None] = []
    with pytest.raises(Unavailable):
        async with transaction(region) as connection:
            await step(connection, claim)
            await asyncio.sleep(1.5)
            taken.append(await claimed(region, "two"))
            await connection.execute(text("SELECT 1"))
    assert [found.fence for found in taken if found] == [2]


async def test_a_runner_that_stands_still_while_it_claims_blocks_nobody(
    region: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(imports, "STANDSTILL_S", 0.3)
    await enqueued(region)
    taken: list[Claim | None] = []
    with pytest.raises(Unavailable):
        async with transaction(region) as connection:
            assert await imports.claim(connection, "one") is not None
            await asyncio.sleep(1.5)
            taken.append(await claimed(region, "two"))
            await connection.execute(text("SELECT 1"))
    assert [found.fence for found in taken if found] == [1]
