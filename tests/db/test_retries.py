"""What failed for a passing reason is tried again by itself, with growing pauses, until something else covers it."""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.mirror.faults import Status
from deploy.local.mirror.server import Server
from region.catalogue.trust import KeyringUnreadable, TrustChanged
from region.database.connection import transaction
from region.importing import fetching, importer, imports, retries
from region.importing.importer import run_next
from region.importing.imports import Claim
from shared import errors
from shared.errors import BootferryError
from shared.names import ImageKey
from shared.patience import Patience
from tests.db.bench import JAMMY, NOBLE, Bench, Eventually, paths_asked
from tests.db.rows import NOW, make_region

MINUTE = timedelta(minutes=1)
URL = "http://mirror/"


@pytest.mark.parametrize(
    ("tries", "minutes"), [(0, 1), (1, 2), (2, 4), (3, 8), (4, 16), (5, 32), (6, 60), (7, 60), (10**6, 60)]
)
def test_pauses_grow_to_the_interval_of_the_hourly_sync(tries: int, minutes: int) -> None:
    assert retries.pause(tries) == timedelta(minutes=minutes)


@pytest.mark.parametrize(
    ("error", "passes"),
    [
        pytest.param(errors.HttpStatus(URL, 503), True, id="503"),
        pytest.param(errors.HttpStatus(URL, 429), True, id="429"),
        pytest.param(errors.HttpStatus(URL, 404), False, id="404"),
        pytest.param(errors.TimedOut(URL, 30), True, id="no answer"),
        pytest.param(errors.ConnectionLost(URL, "reset"), True, id="a lost connection"),
        pytest.param(errors.WrongDigest(URL, "a" * 64, "b" * 64), False, id="other bytes"),
        pytest.param(errors.BadSignature(URL, "the text was changed"), False, id="a bad signature"),
        pytest.param(errors.NoRoom("/var/lib", 5, 3), True, id="a full disk"),
        pytest.param(errors.NoInodes("/var/lib", 5, 3), True, id="no inodes"),
        pytest.param(errors.DiskFailed("/var/lib", OSError(5, "Input/output error")), True, id="a failing disk"),
        pytest.param(errors.Conflict("It is being deleted."), True, id="a file that is being deleted"),
        pytest.param(TrustChanged("maas.io"), True, id="a source that was changed meanwhile"),
        pytest.param(KeyringUnreadable("gone", "why"), False, id="a keyring"),
        pytest.param(importer.Cancelled(), False, id="an operator's stop"),
    ],
)
def test_what_may_pass(error: BootferryError, passes: bool) -> None:
    assert retries.may_pass(error) is passes


# The row


@pytest.fixture
async def region(engine: AsyncEngine) -> AsyncEngine:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
    return engine


async def failed(engine: AsyncEngine, retry_at: Any, scope: Iterable[ImageKey] | None = None) -> int:
    """An import that has failed and is to be tried again."""
    claim = await claimed(engine, scope)
    async with transaction(engine) as connection:
        await imports.finish(connection, claim, "failed", NOW, "http_status", "It answered 503.", retry_at)
    return claim.import_id


async def claimed(engine: AsyncEngine, scope: Iterable[ImageKey] | None = None, trigger: str = "schedule") -> Claim:
    async with transaction(engine) as connection:
        await imports.enqueue(connection, trigger, "a test", NOW, None if scope is None else list(scope))
    async with transaction(engine) as connection:
        claim = await imports.claim(connection, "one")
    assert claim is not None
    return claim


async def due(engine: AsyncEngine, after: timedelta) -> list[int]:
    async with transaction(engine) as connection:
        return await retries.enqueue_due(connection, NOW + after)


async def retry_of(engine: AsyncEngine, import_id: int) -> Any:
    async with transaction(engine) as connection:
        return (await imports.get(connection, import_id)).retry_at


async def test_a_retry_comes_when_it_is_due_once_and_for_what_failed(region: AsyncEngine) -> None:
    first = await failed(region, NOW + MINUTE, [NOBLE])
    assert await due(region, timedelta(seconds=59)) == []
    [second] = await due(region, MINUTE)
    assert await due(region, MINUTE) == []
    assert await retry_of(region, first) is None
    async with transaction(region) as connection:
        found = await imports.get(connection, second)
        claim = await imports.claim(connection, "one")
    assert (found.trigger, found.scope) == ("retry", [str(NOBLE)])
    assert found.requested_by == f"the region, after import {first} failed"
    assert claim is not None
    assert claim.tries == 1


async def test_a_retry_of_a_clock_that_was_far_ahead_is_due_now(region: AsyncEngine) -> None:
    await failed(region, NOW + timedelta(days=900))
    assert len(await due(region, timedelta(0))) == 1


@pytest.mark.parametrize(
    ("scope", "later", "superseded"),
    [
        pytest.param(None, None, True, id="everything by everything"),
        pytest.param([NOBLE], None, True, id="one image by everything"),
        pytest.param([NOBLE], [NOBLE, JAMMY], True, id="one image by more"),
        pytest.param([NOBLE, JAMMY], [NOBLE], False, id="two images by one of them"),
        pytest.param(None, [NOBLE], False, id="everything by one image"),
    ],
)
async def test_a_retry_gives_way_to_a_run_that_covers_it(
    region: AsyncEngine, scope: list[ImageKey] | None, later: list[ImageKey] | None, superseded: bool
) -> None:
    first = await failed(region, NOW + MINUTE, scope)
    await claimed(region, later)
    assert (await retry_of(region, first) is None) is superseded
    assert (await due(region, MINUTE) == []) is superseded


async def test_a_retry_that_joins_another_wish_counts_from_the_start_and_is_called_by_it(region: AsyncEngine) -> None:
    await failed(region, NOW + MINUTE)
    await due(region, MINUTE)
    claim = await claimed(region, trigger="operator")
    assert (claim.trigger, claim.tries, claim.scope) == ("operator", 0, None)


# The importer


async def put_the_hour_off(bench: Bench) -> None:
    """The hourly sync has just run."""
    async with transaction(bench.region.engine) as connection:
        await connection.execute(
            text("UPDATE sync_schedule SET next_run_at = :at"), {"at": bench.region.now() + timedelta(hours=1)}
        )


async def tick(bench: Bench, after: timedelta) -> bool:
    """Let time pass, tick, and carry out what waits then. True if something did."""
    bench.region.clock.now.pass_by(after)  # type: ignore[attr-defined]
    await bench.region.clock.tick()
    return await run_next(bench.region.importer)


async def newest(bench: Bench) -> imports.Import:
    async with transaction(bench.region.engine) as connection:
        [found] = await imports.list_recent(connection, 1, None)
    return found


@pytest.mark.parametrize("what", ["resolute/*/squashfs", "streams/*"], ids=["a file", "the documents"])
async def test_a_mirror_that_is_away_for_minutes_is_asked_again_in_growing_pauses_and_nothing_waits_for_the_hour(
    bench: Bench, server: Server, what: str
) -> None:
    bench.region.importer = replace(bench.region.importer, patience=Patience(first_s=0.0, attempts=1))
    await put_the_hour_off(bench)
    server.misbehave(what, Status(503))
    first = await bench.import_now("schedule")
    assert (first.state, first.retry_at) == ("failed", NOW + MINUTE)
    assert not await tick(bench, timedelta(seconds=50))
    for pause in (1, 2, 4):
        assert await tick(bench, pause * MINUTE)
        tried = await newest(bench)
        assert (tried.state, tried.trigger) == ("failed", "retry")
        assert tried.retry_at == bench.region.now() + 2 * pause * MINUTE
    server.behave()
    assert await tick(bench, 8 * MINUTE)
    done = await newest(bench)
    assert (done.state, done.retry_at) == ("succeeded", None)
    assert (await bench.image()).status == "stored"
    assert not await tick(bench, 8 * MINUTE)


class Pauses:
    """The module asyncio, whose pauses take no time and are written down."""

    def __init__(self) -> None:
        self.taken: list[float] = []

    def __getattr__(self, name: str) -> Any:
        return getattr(asyncio, name)

    async def sleep(self, seconds: float) -> None:
        self.taken.append(seconds)


async def test_a_mirror_is_not_asked_again_before_it_wants_to_be(
    bench: Bench, server: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    pauses = Pauses()
    monkeypatch.setattr(fetching, "asyncio", pauses)
    server.misbehave("resolute/*/squashfs", Status(503, {"Retry-After": "20"}), times=1)
    server.misbehave("resolute/*/boot-initrd", Status(503, {"Retry-After": "3600"}))
    failed = await bench.import_now()
    assert (failed.state, failed.retry_at) == ("failed", NOW + MINUTE)
    assert pauses.taken == [20]
    asked = [path.rpartition("/")[2] for path in paths_asked(server, "resolute/*")]
    assert (asked.count("squashfs"), asked.count("boot-initrd")) == (2, len(set(paths_asked(server, "*/boot-initrd"))))


async def test_one_failure_that_may_pass_among_others_is_enough(bench: Bench, server: Server) -> None:
    await bench.select(NOBLE, JAMMY)
    await put_the_hour_off(bench)
    bench.region.importer = replace(bench.region.importer, patience=Patience(first_s=0.0, attempts=1))
    server.misbehave("jammy/*/squashfs", Status(503), times=1)
    server.misbehave("noble/*/squashfs", Status(404))
    failed = await bench.import_now()
    assert (failed.state, failed.retry_at) == ("failed", NOW + MINUTE)
    server.requests.clear()
    assert await tick(bench, MINUTE)
    assert ((await bench.image(JAMMY)).status, (await bench.image(NOBLE)).status) == ("stored", "failed")
    assert [path.rpartition("/")[2] for path in paths_asked(server, "jammy/*")] == ["squashfs"]
    assert (await newest(bench)).retry_at is None, "what is left does not pass by itself"


async def test_what_does_not_pass_waits_for_somebody_or_for_the_hour(bench: Bench, server: Server) -> None:
    await put_the_hour_off(bench)
    server.misbehave("resolute/*/squashfs", Status(404))
    failed = await bench.import_now()
    assert (failed.state, failed.retry_at) == ("failed", None)
    assert not await tick(bench, MINUTE)


async def test_a_runner_that_finds_the_database_again_too_late_claims_the_import_anew_and_nobody_hears_of_a_lost_lease(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    bench.region.importer = replace(bench.region.importer, lease_s=0.3)
    import_id = await bench.ask()
    this_task, write_progress = asyncio.current_task(), importer._write_progress

    async def unanswered(*args: Any) -> bool:
        """The database answers nothing while the import runs, and everything as soon as it has ended."""
        if asyncio.current_task() is not this_task:
            raise errors.Unavailable("The database does not answer")
        return await write_progress(*args)

    with monkeypatch.context() as patch:
        patch.setattr(importer, "_write_progress", unanswered)
        patch.setattr(importer, "fetch", _never)
        with pytest.raises(errors.Unavailable):
            await run_next(bench.region.importer)
    found = await bench.import_of(import_id)
    assert (found.state, found.error_code) == ("running", "")

    async def claims_again() -> bool:
        return await run_next(bench.region.importer)

    await eventually(claims_again)
    found = await bench.import_of(import_id)
    assert (found.state, found.error_code) == ("succeeded", "")
    async with transaction(bench.region.engine) as connection:
        assert await connection.scalar(text("SELECT fence FROM imports WHERE id = :id"), {"id": import_id}) == 2


async def _never(*_args: Any) -> None:

    await asyncio.Event().wait()
