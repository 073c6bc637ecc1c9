"""One image of an import is stopped, and the others go on."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from deploy.local.mirror.faults import Status
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server
from region.actions import imports as acts
from region.database.connection import transaction
from region.importing import imports, retries
from region.importing.fetching import ImageStopped, Stops
from region.importing.importer import run_next
from shared.errors import Conflict, NotFound, PreconditionFailed
from shared.names import ImageKey
from tests.conftest import Clock
from tests.db.bench import JAMMY, NOBLE, Bench, Eventually, paths_asked, slot
from tests.db.test_trust import ANN, SLOW


async def _stop(bench: Bench, import_id: int, image: ImageKey = NOBLE, if_match: str | None = None) -> imports.Import:
    async with transaction(bench.region.engine) as connection:
        return await acts.stop_image(connection, ANN, import_id, image, bench.region.now(), if_match=if_match)


@pytest.fixture
async def slow_noble(bench: Bench, server: Server) -> AsyncIterator[int]:
    """An import of noble and jammy that waits; the largest file of noble takes longer than any test."""
    await bench.select(NOBLE, JAMMY)
    server.misbehave("noble/*/squashfs", SLOW)
    yield await bench.ask()
    server.behave()


async def test_a_stopped_image_waits_for_the_next_sync_and_the_others_arrive(
    bench: Bench, mirror: Mirror, server: Server, slow_noble: int, eventually: Eventually
) -> None:
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: server.asked("noble/*/squashfs"))
    stopped = await _stop(bench, slow_noble)
    assert (stopped.state, stopped.stopped) == ("running", [str(NOBLE)])
    async with asyncio.timeout(20):
        assert await running
    ended = await bench.import_of(slow_noble)
    assert (ended.state, ended.error, ended.retry_at) == ("succeeded", "", None)
    async with transaction(bench.region.engine) as connection:
        progress = await imports.images_of(connection, slow_noble)
    assert progress[str(NOBLE)].code == "image_stopped"
    assert progress[str(JAMMY)].code == ""
    assert (await bench.image(JAMMY)).status == "stored"
    waiting = await bench.image(NOBLE)
    assert (waiting.status, waiting.error) == ("queued", "")
    assert await bench.digests_at(slot("noble", "24.04")) == {}

    server.behave()
    server.requests.clear()
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image(NOBLE)).status == "stored"
    assert not [path for path in paths_asked(server) if path.startswith("jammy/")]


async def test_an_image_that_was_stopped_before_the_import_began_is_not_begun(
    bench: Bench, server: Server, slow_noble: int
) -> None:
    await _stop(bench, slow_noble)
    await _stop(bench, slow_noble)
    assert (await bench.import_of(slow_noble)).stopped == [str(NOBLE)], "twice is once"
    async with asyncio.timeout(20):
        assert await run_next(bench.region.importer)
    assert (await bench.import_of(slow_noble)).state == "succeeded"
    assert (await bench.image(NOBLE)).status == "queued"
    assert (await bench.image(JAMMY)).status == "stored"


async def test_whoever_asks_for_the_image_again_gets_it(bench: Bench, server: Server, slow_noble: int) -> None:
    await _stop(bench, slow_noble)
    assert await bench.ask(scope=[NOBLE]) == slow_noble
    assert (await bench.import_of(slow_noble)).stopped == []


async def test_what_is_tried_again_leaves_a_stopped_image_alone(
    bench: Bench, server: Server, slow_noble: int, clock: Clock
) -> None:
    await _stop(bench, slow_noble)
    server.misbehave("jammy/*", Status(503))
    async with asyncio.timeout(30):
        assert await run_next(bench.region.importer)
    failed = await bench.import_of(slow_noble)
    assert failed.state == "failed"
    assert failed.retry_at is not None
    clock.pass_by(failed.retry_at - clock())
    async with transaction(bench.region.engine) as connection:
        [again] = await retries.enqueue_due(connection, clock())
    assert (await bench.import_of(again)).stopped == [str(NOBLE)]


async def test_what_cannot_be_stopped(bench: Bench, slow_noble: int) -> None:
    with pytest.raises(NotFound):
        await _stop(bench, 999)
    with pytest.raises(NotFound, match="ubuntu:warty:amd64"):
        await _stop(bench, slow_noble, ImageKey.parse("ubuntu:warty:amd64"))
    seen = acts.etag(await bench.import_of(slow_noble))
    await _stop(bench, slow_noble, JAMMY)
    with pytest.raises(PreconditionFailed):
        await _stop(bench, slow_noble, NOBLE, if_match=seen)
    async with transaction(bench.region.engine) as connection:
        await imports.request_cancel(connection, slow_noble, bench.region.now())
    with pytest.raises(Conflict, match="has ended already: it was stopped"):
        await _stop(bench, slow_noble)


def test_stops_are_told_once_each() -> None:
    told: list[int] = []
    stops = Stops()
    stops.listen(lambda: told.append(1))
    assert told == [1], "what was stopped before is told at once"
    stops.add([NOBLE])
    stops.add([NOBLE])
    assert (told, NOBLE in stops, JAMMY in stops) == ([1, 1], True, False)
    assert ImageStopped().code == "image_stopped"
