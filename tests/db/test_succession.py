"""The region's key is rotated: what racks are told to follow, what a crash leaves, and what other processes do."""

import shutil
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from region import app, keys
from region.actions import region as region_acts
from region.actions import succession
from region.database.connection import transaction
from region.people import activity
from region.people.activity import CONSOLE
from region.process import Region
from region.publishing import held, manifest
from region.publishing.successions import in_overlap
from shared.errors import Conflict, InvalidConfiguration, Unavailable
from shared.signing import fingerprint, load_key, private_pem
from shared.wire import succession as wire
from tests.conftest import Clock
from tests.db.bench import RESOLUTE, Bench


@pytest.fixture
async def process(bench: Bench) -> AsyncIterator[Callable[[], Awaitable[Region]]]:
    """Makes another process of the same region, begun."""
    made: list[Region] = []

    async def begin() -> Region:
        made.append(app.build(bench.region.configuration, now=bench.region.now))
        await made[-1].prepare()
        return made[-1]

    yield begin
    for one in made:
        await one.engine.dispose()


async def rotate(region: Region) -> str:
    """The fingerprint of the new key; its file is not in place yet."""
    async with transaction(region.engine) as connection:
        return await succession.rotate(connection, CONSOLE, region.keys, region.publisher, region.now())


async def published(region: Region) -> list[tuple[int, int]]:
    """The manifests in the database, as (epoch, serial)."""
    async with transaction(region.engine) as connection:
        rows = await connection.execute(text("SELECT epoch, serial FROM manifests ORDER BY epoch, serial"))
        return [(row.epoch, row.serial) for row in rows]


async def known(region: Region) -> str:
    """The fingerprint in the database."""
    async with transaction(region.engine) as connection:
        return str(await connection.scalar(text("SELECT fingerprint FROM region")))


def files(region: Region) -> list[str]:
    return sorted(path.name for path in region.keys.directory.iterdir())


def chain(region: Region) -> list[wire.Signed]:
    return [one.signed for one in region.successions]


async def test_the_old_key_vouches_for_the_new_one_and_an_epoch_begins(
    bench: Bench, clock: Clock, process: Callable[[], Awaitable[Region]]
) -> None:
    await bench.select(RESOLUTE)
    await bench.import_now()
    old = bench.region.key
    before = await bench.manifest()
    turning = await process()
    clock.pass_by(timedelta(hours=1))
    fresh = await rotate(turning)
    later = await process()
    assert fingerprint(later.key) == fresh == await known(later) != fingerprint(old)
    assert files(later) == ["region.key", "secrets.key"]
    assert [fingerprint(key) for key in wire.follow(fingerprint(old), chain(later))] == [fresh]
    after = await Bench(later).manifest()
    assert after.epoch > before.epoch
    assert after.order > before.order
    assert after.entries == before.entries
    async with transaction(later.engine) as connection:
        told = await activity.list_recent(connection, 2, None)
    assert [entry.action for entry in told] == ["region.epoch_begun", "region.key_rotated"]
    assert (told[1].before, told[1].after) == ({"fingerprint": fingerprint(old)}, {"fingerprint": fresh})


async def test_an_epoch_never_falls_though_the_clock_does(
    bench: Bench, clock: Clock, process: Callable[[], Awaitable[Region]]
) -> None:
    await bench.select(RESOLUTE)
    await bench.import_now()
    before = await bench.manifest()
    clock.pass_by(-timedelta(days=400))
    await rotate(await process())
    later = await process()
    assert (await Bench(later).manifest()).order > before.order


@pytest.mark.parametrize("committed", [False, True], ids=["before the commit", "before the file is in place"])
@pytest.mark.parametrize("has_published", [True, False], ids=["published", "never published"])
async def test_a_rotation_that_breaks_off_is_settled_by_the_next_start(
    bench: Bench, process: Callable[[], Awaitable[Region]], committed: bool, has_published: bool
) -> None:
    if has_published:
        await bench.select(RESOLUTE)
        await bench.import_now()
    old = fingerprint(bench.region.key)
    turning = await process()
    if committed:
        await rotate(turning)
    else:
        with pytest.raises(ZeroDivisionError):
            async with transaction(turning.engine) as connection:
                await succession.rotate(connection, CONSOLE, turning.keys, turning.publisher, turning.now())
                raise ZeroDivisionError
    assert files(turning) == ["region.key", "region.key.new", "secrets.key"]
    next_one = fingerprint(load_key(turning.keys.directory / "region.key.new"))

    later = await process()
    assert fingerprint(later.key) == await known(later) == (next_one if committed else old)
    assert files(later) == ["region.key", *([] if committed else ["region.key.new"]), "secrets.key"]
    assert fingerprint(load_key(later.keys.directory / "region.key")) == fingerprint(later.key)
    assert len(later.successions) == int(committed)
    # It publishes, and the next rotation comes to its end.
    async with transaction(later.engine) as connection:
        await region_acts.new_epoch(connection, CONSOLE, later.publisher, later.now())
        assert (await manifest.current(connection, later.key) is not None) == has_published
    again = await rotate(later)
    assert (again == next_one) == (not committed), "a key that nobody knows is taken; one that was left never"
    last = await process()
    assert fingerprint(last.key) == again
    assert [fingerprint(key) for key in wire.follow(old, chain(last))] == [*([next_one] if committed else []), again]


async def test_the_new_key_survives_a_loss_of_power_before_the_database_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[Path] = []
    monkeypatch.setattr("shared.disk.sync_directory", flushed.append)
    keys.make_next_region_key(tmp_path)
    assert flushed
    assert set(flushed) == {tmp_path}


async def test_the_name_of_a_key_put_in_place_is_flushed(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    fresh = keys.make_next_region_key(bench.region.keys.directory)
    flushed: list[Path] = []
    monkeypatch.setattr(keys, "sync_directory", flushed.append)
    assert keys.take_region_key(bench.region.keys, fingerprint(fresh))
    assert flushed == [bench.region.keys.directory]


async def test_a_process_with_the_old_key_publishes_nothing_until_it_has_the_new_one(
    bench: Bench, process: Callable[[], Awaitable[Region]]
) -> None:
    await bench.select(RESOLUTE)
    await bench.import_now()
    await bench.region.memory.refresh()
    fresh = await rotate(await process())
    written = await published(bench.region)
    with pytest.raises(Unavailable, match="has not taken the new one yet"):
        async with transaction(bench.region.engine) as connection:
            await held.change(connection, bench.region.publisher, bench.region.now(), confirmed=True)
    with pytest.raises(Unavailable):
        async with transaction(bench.region.engine) as connection:
            await region_acts.new_epoch(connection, CONSOLE, bench.region.publisher, bench.region.now())
    assert await published(bench.region) == written

    assert await bench.region.follow_key()
    assert bench.region.fingerprint == fresh
    assert files(bench.region) == ["region.key", "secrets.key"], "whoever comes first puts the file in place"
    assert len(bench.region.successions) == 1
    assert not await bench.region.follow_key()
    await bench.region.memory.refresh()
    assert bench.region.memory.published is not None
    assert [bench.region.memory.published.manifest.order] == written
    async with transaction(bench.region.engine) as connection:
        order = await region_acts.confirm(connection, CONSOLE, bench.region.publisher, bench.region.now())
    assert order == (written[0][0], written[0][1] + 1)


async def test_a_process_that_could_not_read_on_follows_the_next_time(
    bench: Bench, process: Callable[[], Awaitable[Region]], monkeypatch: pytest.MonkeyPatch
) -> None:
    fresh = await rotate(await process())
    with monkeypatch.context() as broken:

        async def refuse(_connection: object) -> None:
            raise Unavailable("The database does not answer")

        broken.setattr("region.publishing.successions.newest", refuse)
        with pytest.raises(Unavailable):
            await bench.region.follow_key()
    assert await bench.region.follow_key()
    assert fingerprint(bench.region.publisher.key) == fingerprint(bench.region.memory.key) == fresh


async def test_a_process_that_does_not_find_the_new_key_says_what_to_do(
    bench: Bench, tmp_path: Path, process: Callable[[], Awaitable[Region]]
) -> None:
    shutil.copytree(bench.region.keys.directory, tmp_path / "copied")
    configuration = bench.region.configuration.model_copy(update={"keys": tmp_path / "copied"})
    elsewhere = app.build(configuration, now=bench.region.now)
    await elsewhere.prepare()
    await rotate(await process())
    with pytest.raises(InvalidConfiguration, match="put it there from its backup, or point REGION_KEYS"):
        await elsewhere.follow_key()
    await elsewhere.engine.dispose()


async def test_a_key_that_the_region_had_before_never_comes_back(
    bench: Bench, process: Callable[[], Awaitable[Region]]
) -> None:
    first = private_pem(bench.region.key)
    turning = await process()
    second = await rotate(turning)
    later = await process()
    (later.keys.directory / "region.key.new").write_bytes(first)
    with pytest.raises(Conflict, match=r"had before; remove the file region\.key\.new"):
        await rotate(later)
    assert await known(later) == second


async def test_a_next_key_that_is_none_is_told(bench: Bench) -> None:
    (bench.region.keys.directory / "region.key.new").write_bytes(b"noise")
    with pytest.raises(InvalidConfiguration, match="it is not a PEM private key"):
        await rotate(bench.region)


async def test_a_dump_of_before_a_rotation_leads_to_the_key_that_racks_know(
    bench: Bench, process: Callable[[], Awaitable[Region]]
) -> None:
    """With the old key beside the present one: the way that docs/operating.md tells."""
    old = private_pem(bench.region.key)
    fresh = await rotate(await process())
    later = await process()
    directory = later.keys.directory
    async with transaction(later.engine) as connection:
        await connection.execute(
            text("UPDATE region SET fingerprint = :old"), {"old": fingerprint(load_pem(old, directory))}
        )
        await connection.execute(text("DELETE FROM successions"))
    (directory / "region.key").rename(directory / "region.key.new")
    (directory / "region.key").write_bytes(old)
    assert await rotate(await process()) == fresh
    assert fingerprint((await process()).key) == fresh


def load_pem(pem: bytes, directory: Path) -> Ed25519PrivateKey:
    path = directory / "read.pem"
    path.write_bytes(pem)
    try:
        return load_key(path)
    finally:
        path.unlink()


async def test_requests_may_be_meant_for_a_key_for_30_days_after_it_was_left(
    bench: Bench, clock: Clock, process: Callable[[], Awaitable[Region]]
) -> None:
    first = bench.region.fingerprint
    second = await rotate(await process())
    clock.pass_by(timedelta(days=29))
    await rotate(await process())
    kept = (await process()).successions
    assert list(in_overlap(kept, clock())) == [first, second]
    clock.pass_by(timedelta(days=1))
    assert list(in_overlap(kept, clock())) == [second]
    clock.pass_by(timedelta(days=29))
    assert list(in_overlap(kept, clock())) == []


async def test_the_newest_64_successions_are_told_oldest_first(
    bench: Bench, process: Callable[[], Awaitable[Region]]
) -> None:
    async with transaction(bench.region.engine) as connection:
        await connection.execute(
            text("""
                INSERT INTO successions (before, public_key, envelope, made_at)
                SELECT 'key ' || number, 'k', 'e', now() FROM generate_series(1, 70) AS number ORDER BY number
            """)
        )
    kept = (await process()).successions
    assert [one.before for one in kept] == [f"key {number}" for number in range(7, 71)]


async def test_a_rotation_that_may_still_roll_back_changes_no_key_in_memory(
    bench: Bench, process: Callable[[], Awaitable[Region]]
) -> None:
    turning = await process()
    before = replace(turning.publisher)
    await rotate(turning)
    assert (turning.publisher.key, turning.key) == (before.key, before.key)


async def test_without_the_lost_key_the_region_goes_on_and_publishes_what_it_holds(
    bench: Bench, clock: Clock, process: Callable[[], Awaitable[Region]]
) -> None:
    await bench.select(RESOLUTE)
    await bench.import_now()
    await rotate(await process())
    before = await Bench(await process()).manifest()
    clock.pass_by(-timedelta(days=400))
    (bench.region.keys.directory / "region.key").unlink()
    going_on = app.build(bench.region.configuration, now=bench.region.now)
    with pytest.raises(InvalidConfiguration, match="is not the one of this database"):
        await going_on.prepare()
    async with transaction(going_on.engine) as connection:
        await succession.forget(connection, CONSOLE, going_on.keys, going_on.now())
    await going_on.engine.dispose()
    later = await process()
    after = await Bench(later).manifest()
    assert after.entries == before.entries
    assert after.order > before.order
    assert later.fingerprint == await known(later)
    assert later.successions == (), "no key leads to this one"
    async with transaction(later.engine) as connection:
        told = await activity.list_recent(connection, 2, None)
    assert [entry.action for entry in told] == ["region.epoch_begun", "region.key_forgotten"]
    # It rotates like any other.
    await rotate(later)
    assert len((await process()).successions) == 1


@pytest.mark.parametrize("name", ["region.key", "region.key.new"])
async def test_a_key_that_is_there_is_not_forgotten(
    bench: Bench, process: Callable[[], Awaitable[Region]], name: str
) -> None:
    (bench.region.keys.directory / "region.key").rename(bench.region.keys.directory / name)
    other = app.build(bench.region.configuration, now=bench.region.now)
    with pytest.raises(Conflict, match=r"is not lost, .* key rotate"):
        async with transaction(other.engine) as connection:
            await succession.forget(connection, CONSOLE, other.keys, other.now())
    await other.engine.dispose()
    assert (await process()).fingerprint == bench.region.fingerprint
