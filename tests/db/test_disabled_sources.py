"""Sources that are disabled, and sources that are read alone."""

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.mirror.faults import Status
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from region.actions import sources as acts
from region.catalogue import sources
from region.database.connection import transaction
from region.importing import imports
from region.importing.importer import run_next
from region.people import activity
from shared.errors import Conflict, NotFound
from tests.conftest import NOW, Clock
from tests.db.bench import JAMMY, NOBLE, Bench, Eventually, paths_asked, slot, small_mirror
from tests.db.test_trust import ANN, SLOW, change, fetched_by, planned, select, unvouched


async def test_a_disabled_source_is_not_read_and_what_is_held_of_it_stays(
    bench: Bench, mirror: Mirror, server: Server, clock: Clock
) -> None:
    await select(bench, (None, NOBLE))
    await bench.import_now()
    before, read_at = await bench.manifest(), clock()
    clock.pass_by(timedelta(minutes=5))
    mirror.publish(release="noble", arch="amd64")
    done = await change(bench, held=None, enabled=False)
    assert (done.lapse.images, done.lapse.held, done.source.enabled) == ([], [], False)
    for trigger in ("schedule", "operator"):
        server.requests.clear()
        assert (await bench.import_now(trigger)).state == "succeeded"
        assert server.requests == [], "nobody asks it for anything"
        assert (await bench.source()).last_read_at == read_at, "and nobody says so"
        assert await bench.manifest() == before
    assert await planned(bench) == set()
    assert await unvouched(bench) == []
    assert (await bench.image(NOBLE)).status == "stored"

    # Enabled again, what came meanwhile comes.
    await change(bench, enabled=True)
    ended, fetched = await fetched_by(bench, server)
    assert (ended.state, fetched != []) == ("succeeded", True)
    assert (await bench.manifest()).serial > before.serial


async def test_nothing_of_a_source_is_taken_that_was_disabled_while_it_came(
    bench: Bench, mirror: Mirror, server: Server, eventually: Eventually
) -> None:
    await bench.select(NOBLE)
    server.misbehave("noble/*/squashfs", SLOW)
    await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: server.asked("noble/*/squashfs"))
    await change(bench, enabled=False)
    server.behave()
    assert await running
    assert await bench.digests_at(slot("noble", "24.04")) == {}


async def test_a_source_that_was_disabled_while_it_was_read_is_let_alone(
    bench: Bench, server: Server, eventually: Eventually
) -> None:
    server.misbehave("streams/v1/*ubuntu*", SLOW)
    import_id = await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: server.asked("streams/v1/*ubuntu*"))
    await change(bench, enabled=False)
    server.behave()
    server.requests.clear()
    assert await running
    assert (await bench.import_of(import_id)).state == "succeeded"
    assert server.asked("streams/v1/index*") == [], "it is not read again"
    assert (await bench.source()).last_read_at is None
    assert await planned(bench) == set()


async def test_a_disabled_source_keeps_what_is_held_and_stands_in_no_others_way(
    bench: Bench, mirror: Mirror, server: Server, tmp_path: Path
) -> None:
    await select(bench, (None, NOBLE))
    await bench.import_now()
    before = await bench.manifest()
    other = small_mirror(tmp_path / "other", seed=7)
    async with serve(other) as serving:
        await bench.add_source(serving, other, priority=5)
        await change(bench, enabled=False)
        await bench.import_now()
        assert await bench.manifest() == before
        assert paths_asked(serving) == [], "held images do not change hands"
        # Of jammy nothing is held: the source that is enabled brings it.
        await select(bench, (None, NOBLE), (None, JAMMY))
        await bench.import_now()
        assert (await bench.image(JAMMY)).status == "stored"
        assert (await bench.image(JAMMY)).source_id == 2
        assert paths_asked(serving)
        assert (await bench.image(NOBLE)).source_id == 1


async def test_a_disabled_source_whose_keyring_is_gone_fails_no_import(bench: Bench, mirror: Mirror) -> None:
    await change(bench, enabled=False)
    mirror.keyring_path.unlink()
    assert (await bench.import_now()).state == "succeeded"
    assert (await bench.source()).error == ""


async def test_a_disabled_source_nags_nobody(bench: Bench, server: Server, clock: Clock) -> None:
    await bench.import_now()
    server.misbehave("*", Status(500))
    assert (await bench.import_now()).state == "failed"
    assert (await bench.source()).error_code == "http_status"
    await change(bench, enabled=False)
    source = await bench.source()
    assert (source.error_code, source.error) == ("", "")
    clock.pass_by(timedelta(days=100))
    assert source.stale(bench.region.now()) is None
    assert (await bench.import_now()).state == "succeeded"


async def test_a_source_is_read_alone_and_nothing_is_imported(
    bench: Bench, mirror: Mirror, server: Server, clock: Clock, tmp_path: Path
) -> None:
    await select(bench, (None, NOBLE))
    await bench.import_now()
    before, synced = await bench.manifest(), await _last_run(bench)
    await select(bench)
    mirror.publish(release="noble", arch="amd64")
    other = small_mirror(tmp_path / "other", seed=7)
    async with serve(other) as serving:
        await bench.add_source(serving, other, priority=5)
        server.requests.clear()
        clock.pass_by(timedelta(minutes=5))
        done = await _read(bench, 1)
        assert (done.state, done.scope, done.source_id, done.bytes_total) == ("succeeded", [], 1, 0)
        assert serving.requests == [], "the other one is not read"
    assert paths_asked(server) == []
    assert await bench.manifest() == before, "nothing is withdrawn either"
    assert (await bench.source()).last_read_at == bench.region.now()
    assert await _last_run(bench) == synced, "it is no sync"


async def test_a_reading_that_waits_is_part_of_the_import_that_is_asked_for_meanwhile(bench: Bench) -> None:
    async with transaction(bench.region.engine) as connection:
        first = await imports.enqueue(connection, "operator", "a test", NOW, (), source_id=1)
        assert await imports.enqueue(connection, "operator", "a test", NOW, (), source_id=1) == first
        same = await imports.get(connection, first)
        assert (same.scope, same.source_id) == ([], 1)
        await imports.enqueue(connection, "operator", "a test", NOW, (), source_id=2)
        two = await imports.get(connection, first)
        assert (two.scope, two.source_id) == ([], None), "both are read"
        await imports.enqueue(connection, "operator", "a test", NOW, [NOBLE])
        some = await imports.get(connection, first)
        assert (some.scope, some.source_id) == ([str(NOBLE)], None)
        await imports.enqueue(connection, "schedule", "a test", NOW)
        assert (await imports.get(connection, first)).scope is None


async def test_a_reading_that_failed_is_not_tried_again_as_an_import(bench: Bench, server: Server) -> None:
    server.misbehave("*", Status(503))
    done = await _read(bench, 1)
    assert (done.state, done.retry_at) == ("failed", None)


async def test_a_source_that_is_disabled_or_gone_is_not_read_by_hand(bench: Bench) -> None:
    await change(bench, enabled=False)
    with pytest.raises(Conflict, match="is disabled, and not read before it is enabled"):
        await _read(bench, 1)
    with pytest.raises(NotFound):
        await _read(bench, 99)


async def _read(bench: Bench, source_id: int) -> imports.Import:
    async with transaction(bench.region.engine) as connection:
        asked = await acts.read(connection, ANN, source_id, bench.region.now())
    assert await run_next(bench.region.importer)
    return await bench.import_of(asked.id)


async def _last_run(bench: Bench) -> object:
    async with transaction(bench.region.engine) as connection:
        return (await imports.schedule(connection)).last_run_at


async def test_an_operator_sees_which_source_is_disabled_and_who_did_it(bench: Bench) -> None:
    done = await change(bench, enabled=False)
    assert done.source.trust_revision == (await bench.source()).trust_revision
    async with transaction(bench.region.engine) as connection:
        assert [source.enabled for source in await sources.list_all(connection)] == [False]
        newest = await activity.last(connection, "source:1")
    assert newest is not None
    assert newest.sentence == "Disabled the source maas.io."
