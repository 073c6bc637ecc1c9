"""Stored files: the rows and the disk agree, or the rows give in, whatever happens between two steps."""

import asyncio
import errno
import os
import threading
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.catalogue import files
from region.catalogue.files import Stored
from region.database.connection import transaction
from region.database.tables import versions
from region.importing import upkeep
from shared.audit import SLICE_S
from shared.digest import Sha256
from shared.errors import NotFound
from shared.store.base import Store
from shared.store.disk import DiskStore
from tests.db.rows import (
    NOBLE,
    NOW,
    bootloader,
    digest,
    hold,
    kernel,
    make_region,
    make_source,
    select_images,
    until_somebody_waits,
)
from tests.stores import put, stored_path
from tests.turns import slice_of_day

GRACE = timedelta(hours=24)
LONG_AGO = NOW - timedelta(days=2)


class Watched(DiskStore):
    """A store whose removals a test can hold up or let fail, and that no transaction may wait for."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.go_on = threading.Event(), threading.Event()
        self.go_on.set()
        self.broken = False

    def remove(self, *digests: Sha256) -> None:
        self.reached.set()
        assert self.go_on.wait(10)
        if self.broken:
            raise OSError(5, "Input/output error")
        super().remove(*digests)

    def hold_up(self) -> None:
        """The next removal waits for `go_on`."""
        self.reached.clear()
        self.go_on.clear()

    async def until_reached(self) -> None:
        """Somebody is about to remove bytes."""
        assert await asyncio.to_thread(self.reached.wait, 10)


@pytest.fixture
def store(tmp_path: Path) -> Watched:
    return Watched(tmp_path / "store")


async def recorded(engine: AsyncEngine, *contents: bytes) -> bool:
    """Whether all of the files got their rows."""
    async with transaction(engine) as connection:
        found = {Sha256.of(content): len(content) for content in contents}
        return not await files.record(connection, found, NOW)


async def kept(engine: AsyncEngine, store: Store, content: bytes = b"bytes") -> Sha256:
    """A file that the store holds and a row says so; no version wants it."""
    sha256 = put(store, content)
    assert await recorded(engine, content)
    return sha256


async def rows(engine: AsyncEngine) -> set[str]:
    async with transaction(engine) as connection:
        return {row.sha256 for row in await files.all_stored(connection)}


async def leaving(engine: AsyncEngine) -> list[Sha256]:
    async with transaction(engine) as connection:
        return await files.all_leaving(connection)


async def idle_in_a_transaction(engine: AsyncEngine) -> object:
    """How many connections wait for something else with a transaction open."""
    statement = """
        SELECT count(*) FROM pg_stat_activity
        WHERE datname = current_database() AND state LIKE 'idle in transaction%'
    """
    async with transaction(engine) as connection:
        return await connection.scalar(text(statement))


async def pruned(engine: AsyncEngine, store: Store, after: timedelta) -> list[Sha256]:
    return await upkeep.prune(engine, store, GRACE, NOW + after)


async def audited(engine: AsyncEngine, store: Store, after: timedelta = timedelta(0)) -> list[Sha256]:
    lost = await upkeep.audit(engine, store, None, NOW + after)
    assert lost is not None
    return lost


async def test_a_file_that_is_there_is_recorded_once(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    async with transaction(engine) as connection:
        assert await files.record(connection, {sha256: 5}, NOW + GRACE) == set()
        assert await files.size_of(connection, sha256) == 5
        assert await connection.scalar(text("SELECT stored_at FROM files")) == NOW
        with pytest.raises(NotFound):
            await files.size_of(connection, Sha256.of(b"other"))


async def test_files_are_recorded_together_and_none_is_no_error(engine: AsyncEngine) -> None:
    assert await recorded(engine)
    assert await recorded(engine, b"1", b"2", b"3")
    assert await recorded(engine, b"3", b"4")
    assert await rows(engine) == {Sha256.of(content) for content in (b"1", b"2", b"3", b"4")}


async def test_what_is_leaving_is_not_recorded_and_costs_the_others_nothing(
    engine: AsyncEngine, store: Watched
) -> None:
    gone = await kept(engine, store, b"gone")
    store.broken = True
    await pruned(engine, store, timedelta(0))
    await pruned(engine, store, GRACE)
    async with transaction(engine) as connection:
        found = {gone: 4, Sha256.of(b"new"): 3}
        assert await files.leaving(connection, list(found)) == {gone}
        assert await files.leaving(connection, []) == set()
        assert await files.record(connection, found, NOW) == {gone}
    assert await rows(engine) == {Sha256.of(b"new")}
    assert await leaving(engine) == [gone]


# Pruning


async def test_what_nobody_needs_is_deleted_after_the_grace(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    assert await pruned(engine, store, timedelta(0)) == []
    assert await pruned(engine, store, GRACE - timedelta(seconds=1)) == []
    assert store.has(sha256, 5)
    assert await pruned(engine, store, GRACE) == [sha256]
    assert not stored_path(store, sha256).exists()
    assert await rows(engine) == set()
    assert await leaving(engine) == []


async def needed_files(connection: AsyncConnection, unneeded_since: str) -> set[str]:
    condition = f"unneeded_since IS {unneeded_since}"
    found = await connection.scalars(text(f"SELECT sha256 FROM files WHERE {condition}"))  # noqa: S608
    return set(found)


async def test_what_is_needed_is_what_is_held_or_will_be(engine: AsyncEngine, store: Store) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
        source_id = await make_source(
            connection,
            kernel("20260701", "20260702", "20260703"),
            kernel("20260701", release="jammy", subarch="ga-22.04"),
            bootloader("1", "2"),
        )
        await select_images(connection, (source_id, NOBLE))
        # All are stored; of the selected image the oldest version is held, the newest is about to be.
        for serial in ("20260701", "20260702", "20260703", "1", "2"):
            await hold(connection, source_id, serial)
        await connection.execute(update(versions).where(versions.c.name != "20260701").values(held_at=None))
        await connection.execute(
            text(
                "UPDATE versions SET held_at = NULL FROM products WHERE products.id = product_id AND release = 'jammy'"
            )
        )
        await files.mark_unneeded(connection, NOW)
        squashfs = {digest(f"noble/amd64/{serial}/squashfs") for serial in ("20260701", "20260703")}
        newest_archives = {digest(f"grub-efi-signed/amd64/2/{name}.tar.xz") for name in ("grub2-signed", "shim-signed")}
        needed, unneeded = await needed_files(connection, "NULL"), await needed_files(connection, "NOT NULL")
    assert squashfs | newest_archives <= needed
    assert len(needed) == 3 + 3 + 2
    assert {digest("noble/amd64/20260702/squashfs"), digest("jammy/amd64/20260701/squashfs")} <= unneeded
    assert len(unneeded) == 3 + 3 + 2


async def test_a_file_needed_again_in_between_begins_its_grace_anew(engine: AsyncEngine, store: Store) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        await hold(connection, source_id, "20260701")
        await connection.execute(update(versions).values(held_at=None))
        await files.mark_unneeded(connection, NOW)
        assert len(await needed_files(connection, "NOT NULL")) == 3
        await connection.execute(update(versions).values(held_at=NOW))
    assert await pruned(engine, store, GRACE) == []
    async with transaction(engine) as connection:
        await connection.execute(update(versions).values(held_at=None))
    assert await pruned(engine, store, 2 * GRACE) == []
    assert len(await pruned(engine, store, 3 * GRACE)) == 3


async def test_a_file_recorded_again_is_not_pruned_by_whoever_looked_before(engine: AsyncEngine, store: Store) -> None:
    """`record` and `prune` meet: whichever gets the row first, no row is left without its file (I1)."""
    sha256 = await kept(engine, store)
    assert await pruned(engine, store, timedelta(0)) == []
    async with transaction(engine) as recording:
        assert await files.record(recording, {sha256: 5}, NOW) == set()
        pruning = asyncio.create_task(pruned(engine, store, GRACE))
        await until_somebody_waits(engine)
        assert not pruning.done()
    assert await pruning == []
    assert store.has(sha256, 5)
    assert await rows(engine) == {sha256}


async def test_a_file_pruned_while_it_is_recorded_is_not_vouched_for(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    assert await pruned(engine, store, timedelta(0)) == []
    async with transaction(engine) as pruning:
        assert await files.leave_unneeded(pruning, GRACE, NOW + GRACE) == [sha256]
        recording = asyncio.create_task(recorded(engine, b"bytes"))
        await until_somebody_waits(engine)
        assert not recording.done()
    assert not await recording
    assert await rows(engine) == set()
    assert await leaving(engine) == [sha256]


# What a crash leaves, and who meets it


async def fetched(engine: AsyncEngine, store: Store, content: bytes) -> bool:
    """Fetch and record what is not stored, as an importer does; false when it may not, because the file is leaving."""
    sha256 = Sha256.of(content)
    if sha256 in await rows(engine):
        return True
    if await upkeep.let_go(engine, store, [sha256]):
        return False
    if not store.has(sha256, len(content)):
        put(store, content)
    return await recorded(engine, content)


async def test_pruning_and_recording_in_a_crowd_leave_no_row_without_its_file(
    engine: AsyncEngine, store: Store
) -> None:
    """Half of the files have lost their rows to an earlier crash; importers find the bytes, pruners take others."""
    contents = [b"%d" % n for n in range(10)]
    digests = [await kept(engine, store, content) for content in contents[:5]]
    digests += [put(store, content) for content in contents[5:]]
    await pruned(engine, store, timedelta(0))
    await asyncio.gather(
        *(pruned(engine, store, GRACE) for _ in range(3)), *(fetched(engine, store, content) for content in contents)
    )
    assert await rows(engine) == {sha256 for sha256 in digests if store.has(sha256, 1)}


async def begun(engine: AsyncEngine, store: Store) -> Sha256:
    """A file whose row has moved out; then the process died."""
    sha256 = await kept(engine, store)
    await pruned(engine, store, timedelta(0))
    async with transaction(engine) as connection:
        assert await files.leave_unneeded(connection, GRACE, NOW + GRACE) == [sha256]
    return sha256


crashes = pytest.mark.parametrize("bytes_gone", [False, True], ids=["before-the-bytes-went", "before-the-row-went"])


@crashes
async def test_what_a_crash_left_is_finished_by_the_next_prune(
    engine: AsyncEngine, store: Store, bytes_gone: bool
) -> None:
    sha256 = await begun(engine, store)
    if bytes_gone:
        store.remove(sha256)
    assert (await rows(engine), await leaving(engine)) == (set(), [sha256])
    assert not await recorded(engine, b"bytes")
    assert await pruned(engine, store, GRACE) == []
    assert not stored_path(store, sha256).exists()
    assert await leaving(engine) == []
    assert await fetched(engine, store, b"bytes")
    assert await rows(engine) == {sha256}


@crashes
async def test_what_a_crash_left_is_finished_by_whoever_wants_the_file(
    engine: AsyncEngine, store: Store, bytes_gone: bool
) -> None:
    """The bytes that still lie there are not counted on: they go, and are fetched anew."""
    sha256 = await begun(engine, store)
    left = Path(store.where) / "left"
    os.link(stored_path(store, sha256), left)
    if bytes_gone:
        store.remove(sha256)
    assert await fetched(engine, store, b"bytes")
    assert not left.samefile(stored_path(store, sha256))
    assert (await rows(engine), await leaving(engine)) == ({sha256}, [])


async def test_bytes_that_a_disk_does_not_let_go_are_tried_again(engine: AsyncEngine, store: Watched) -> None:
    stuck = await kept(engine, store, b"stuck")
    await pruned(engine, store, timedelta(0))
    store.broken = True
    assert await pruned(engine, store, GRACE) == [stuck]
    assert (await rows(engine), await leaving(engine)) == (set(), [stuck])
    assert not await fetched(engine, store, b"stuck")
    store.broken = False
    assert await pruned(engine, store, GRACE) == []
    assert (await leaving(engine), store.has(stuck, 5)) == ([], False)


async def test_the_disk_is_waited_for_outside_any_transaction(engine: AsyncEngine, store: Watched) -> None:
    await kept(engine, store)
    await pruned(engine, store, timedelta(0))
    store.hold_up()
    pruning = asyncio.create_task(pruned(engine, store, GRACE))
    await store.until_reached()
    assert await idle_in_a_transaction(engine) == 0
    store.go_on.set()
    await pruning


async def test_a_second_pruner_leaves_the_bytes_to_the_first(engine: AsyncEngine, store: Watched) -> None:
    """One that sleeps in the middle still removes nothing that came after it: while it lives, nobody else finishes."""
    sha256 = await kept(engine, store)
    await pruned(engine, store, timedelta(0))
    store.hold_up()
    first = asyncio.create_task(pruned(engine, store, GRACE))
    await store.until_reached()
    second = DiskStore(Path(store.where))
    assert await pruned(engine, second, GRACE) == []
    assert await leaving(engine) == [sha256]
    assert not await fetched(engine, second, b"bytes")
    store.go_on.set()
    assert await first == [sha256]
    assert await fetched(engine, second, b"bytes")
    assert second.has(sha256, 5)
    assert (await rows(engine), await leaving(engine)) == ({sha256}, [])


async def test_a_pruner_that_is_stopped_lets_nobody_in_before_its_thread_has_ended(
    engine: AsyncEngine, store: Watched
) -> None:
    sha256 = await kept(engine, store)
    await pruned(engine, store, timedelta(0))
    store.hold_up()
    first = asyncio.create_task(pruned(engine, store, GRACE))
    await store.until_reached()
    first.cancel()
    await asyncio.sleep(0.05)
    second = DiskStore(Path(store.where))
    assert not await fetched(engine, second, b"bytes")
    store.go_on.set()
    with pytest.raises(asyncio.CancelledError):
        await first
    assert (await leaving(engine), second.has(sha256, 5)) == ([sha256], False)
    assert await fetched(engine, second, b"bytes")


async def test_pruners_auditors_and_importers_in_a_crowd_agree_in_the_end(engine: AsyncEngine, store: Watched) -> None:
    contents = [b"%d" % n for n in range(8)]
    for content in contents:
        await kept(engine, store, content)
    await pruned(engine, store, timedelta(0))
    for content in contents[::3]:
        os.utime(stored_path(store, Sha256.of(content)))
        stored_path(store, Sha256.of(content)).chmod(0o644)
        stored_path(store, Sha256.of(content)).write_bytes(b"!")
    stores = [store, DiskStore(Path(store.where)), DiskStore(Path(store.where))]

    async def audit(one: Store) -> None:
        await upkeep.audit(engine, one, None, NOW)

    async def wanted(one: Store, content: bytes) -> None:
        for _ in range(200):
            if await fetched(engine, one, content):
                return
            await asyncio.sleep(0.01)
        raise AssertionError(content)

    await asyncio.gather(
        *(pruned(engine, one, GRACE) for one in stores),
        *(audit(one) for one in stores),
        *(wanted(stores[1], content) for content in contents[::2]),
    )
    await audited(engine, store)
    await pruned(engine, store, GRACE)
    right = {Sha256.of(content) for content in contents if store.has(Sha256.of(content), 1)}
    assert await rows(engine) == right
    assert await leaving(engine) == []


# The audit


def at_its_turn(sha256: Sha256, offset: int = 0) -> timedelta:
    """How long after NOW the audit next reads this file, whether it was touched or not."""
    slices = 86_400 // SLICE_S
    turn = (int(sha256[:8], 16) + offset) % slices
    return timedelta(seconds=(turn - int(NOW.timestamp()) // SLICE_S) % slices * SLICE_S)


def spoil(store: Store, sha256: Sha256, *, quietly: bool) -> None:
    """Change a byte of the file; quietly says: the file's clock does not show it."""
    path = stored_path(store, sha256)
    before = path.stat()
    path.chmod(0o644)
    path.write_bytes(b"BYTES")
    if quietly:
        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


async def test_an_audit_of_what_is_right_finds_nothing(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    for offset in range(-1, 2):
        assert await audited(engine, store, at_its_turn(sha256, offset)) == []
    assert await rows(engine) == {sha256}


async def test_a_deleted_file_is_found(engine: AsyncEngine, store: Store) -> None:
    lost, whole = await kept(engine, store, b"lost"), await kept(engine, store, b"whole")
    stored_path(store, lost).unlink()
    assert await audited(engine, store) == [lost]
    assert await rows(engine) == {whole}
    assert await audited(engine, store) == []


async def test_a_spoiled_file_is_found_and_served_no_more(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    spoil(store, sha256, quietly=False)
    assert await audited(engine, store, at_its_turn(sha256, 1)) == [sha256]
    assert not stored_path(store, sha256).exists()
    assert await rows(engine) == set()


async def test_a_file_that_rots_quietly_is_found_within_a_day(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    spoil(store, sha256, quietly=True)
    assert await audited(engine, store, at_its_turn(sha256, 1)) == []
    assert await audited(engine, store, at_its_turn(sha256)) == [sha256]
    assert await rows(engine) == set()
    assert not stored_path(store, sha256).exists()


async def test_a_file_that_was_only_touched_is_taken_back(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    os.utime(stored_path(store, sha256))
    assert not store.has(sha256, 5)
    assert await audited(engine, store, at_its_turn(sha256, 1)) == []
    assert store.has(sha256, 5)
    assert await rows(engine) == {sha256}


async def test_an_audit_that_finds_something_lost_asks_for_it_once(engine: AsyncEngine, store: Store) -> None:
    for content in (b"1", b"2"):
        stored_path(store, await kept(engine, store, content)).unlink()
    assert len(await audited(engine, store)) == 2
    async with transaction(engine) as connection:
        triggers = list(await connection.scalars(text("SELECT trigger FROM imports")))
    assert triggers == ["healing"]


async def test_a_file_that_was_replaced_meanwhile_keeps_its_row(engine: AsyncEngine, store: Store) -> None:
    """Between the look at the disk and the look at the row others have taken the row away and fetched the file anew."""
    sha256 = await kept(engine, store)
    async with transaction(engine) as connection:
        assert await files.all_stored(connection) == [Stored(sha256, 5, NOW)]
        assert await files.leave_lost(connection, [Stored(sha256, 5, LONG_AGO)], NOW) == []
        assert await files.leave_lost(connection, [], NOW) == []
    assert await rows(engine) == {sha256}
    async with transaction(engine) as connection:
        assert await files.leave_lost(connection, [Stored(sha256, 5, NOW)], NOW) == [sha256]


class SlowReader(DiskStore):
    """A store whose reader learns what a file hashed to only when `go_on` is set."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def digest_of(self, sha256: Sha256) -> Sha256 | None:
        found = super().digest_of(sha256)
        self.reached.set()
        assert self.go_on.wait(10)
        return found


async def test_a_slow_auditor_takes_nothing_from_a_file_that_was_healed_meanwhile(
    engine: AsyncEngine, store: Watched
) -> None:
    sha256 = await kept(engine, store)
    spoil(store, sha256, quietly=False)
    slow = SlowReader(Path(store.where))
    auditing = asyncio.create_task(audited(engine, slow))
    assert await asyncio.to_thread(slow.reached.wait, 10)
    # Another one found it too, before, and it has been fetched again.
    async with transaction(engine) as connection:
        await files.leave_lost(connection, [Stored(sha256, 5, NOW)], NOW)
    await upkeep.finish_leaving(engine, store)
    put(store, b"bytes")
    async with transaction(engine) as connection:
        assert await files.record(connection, {sha256: 5}, NOW + timedelta(seconds=1)) == set()
    slow.go_on.set()
    assert await auditing == []
    assert await rows(engine) == {sha256}
    assert store.digest_of(sha256) == sha256
    # It lost its mark at most, which the next audit gives back.
    assert await audited(engine, store) == []
    assert store.has(sha256, 5)


async def test_one_process_at_a_time_reads_the_store(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    spoil(store, sha256, quietly=False)
    slow = SlowReader(Path(store.where))
    auditing = asyncio.create_task(audited(engine, slow))
    assert await asyncio.to_thread(slow.reached.wait, 10)
    assert await idle_in_a_transaction(engine) == 0
    assert await upkeep.audit(engine, store, None, NOW) is None
    slow.go_on.set()
    assert await auditing == [sha256]


async def test_what_an_auditor_found_before_it_died_is_found_again(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    spoil(store, sha256, quietly=True)
    store.disown(sha256)
    assert not store.has(sha256, 5)
    assert await audited(engine, store, at_its_turn(sha256, 1)) == [sha256]
    assert (await rows(engine), await leaving(engine)) == (set(), [])


class Unreadable(DiskStore):
    """A store on a disk of which a file cannot be read."""

    stuck: Sha256
    number = errno.EIO
    at_a_look = False

    def digest_of(self, sha256: Sha256) -> Sha256 | None:
        self._refuse(sha256, not self.at_a_look)
        return super().digest_of(sha256)

    def has(self, sha256: Sha256, size: int) -> bool:
        self._refuse(sha256, self.at_a_look)
        return super().has(sha256, size)

    def _refuse(self, sha256: Sha256, now: bool) -> None:
        if now and sha256 == self.stuck:
            raise OSError(self.number, os.strerror(self.number))


@pytest.mark.parametrize("at_a_look", [False, True], ids=["when it is read", "when it is looked at"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM])
async def test_a_file_that_cannot_be_read_keeps_row_bytes_and_mark_and_stops_no_audit(
    engine: AsyncEngine, store: Store, number: int, at_a_look: bool
) -> None:
    stuck, spoiled = await kept(engine, store, b"stuck"), await kept(engine, store, b"other")
    spoil(store, spoiled, quietly=False)
    failing = Unreadable(Path(store.where))
    failing.stuck, failing.number, failing.at_a_look = stuck, number, at_a_look
    unread = {stuck}
    turn = NOW + at_its_turn(stuck, 1)
    assert await upkeep.audit(engine, failing, turn, turn, unread) == [spoiled]
    assert unread == (set() if at_a_look else {stuck})
    assert await rows(engine) == {stuck}
    assert store.has(stuck, 5)
    assert await upkeep.audit(engine, store, turn, turn, unread) == []
    assert unread == set()


async def test_a_file_nobody_could_read_is_read_by_the_next_audit_whatever_its_turn(
    engine: AsyncEngine, store: Store
) -> None:
    sha256 = await kept(engine, store)
    spoil(store, sha256, quietly=True)
    turn = NOW + at_its_turn(sha256, 1)
    assert await upkeep.audit(engine, store, turn, turn, set()) == []
    assert await upkeep.audit(engine, store, turn, turn, {sha256}) == [sha256]


class Immovable(DiskStore):
    """A store on a disk that changes nothing any more."""

    def disown(self, sha256: Sha256) -> None:
        raise OSError(30, "Read-only file system")

    def remove(self, *digests: Sha256) -> None:
        raise OSError(30, "Read-only file system")


async def test_a_wrong_file_that_cannot_be_removed_is_not_stored_all_the_same(
    engine: AsyncEngine, store: Store
) -> None:
    sha256 = await kept(engine, store)
    spoil(store, sha256, quietly=True)
    assert await audited(engine, Immovable(Path(store.where)), at_its_turn(sha256)) == [sha256]
    assert (await rows(engine), await leaving(engine)) == (set(), [sha256])


async def test_audits_apart_leave_no_slice_of_the_day_out(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    spoil(store, sha256, quietly=True)
    turn = NOW + at_its_turn(sha256)
    assert await upkeep.audit(engine, store, turn, turn + timedelta(hours=1)) == []
    last = turn - timedelta(minutes=30)
    assert await upkeep.audit(engine, store, last, turn + timedelta(minutes=30)) == [sha256]


def test_every_file_is_read_once_a_day() -> None:
    digests = [Sha256.of(b"%d" % n) for n in range(50)]
    read = [
        sha256
        for turn in range(86_400 // SLICE_S)
        for sha256 in slice_of_day(digests, NOW + timedelta(seconds=turn * SLICE_S))
    ]
    assert sorted(read) == sorted(digests)


# Files without a row

ALL = [f"{number:02x}" for number in range(256)]


async def adopted(engine: AsyncEngine, store: Store, after: timedelta = timedelta(0)) -> list[Sha256]:
    return await upkeep.adopt(engine, store, ALL, NOW + after)


async def test_a_file_without_a_row_gets_one_and_goes_after_its_grace_like_any_other(
    engine: AsyncEngine, store: Store
) -> None:
    known, orphan = await kept(engine, store, b"known"), put(store, b"orphan")
    assert await adopted(engine, store) == [orphan]
    assert await rows(engine) == {known, orphan}
    assert await adopted(engine, store) == []
    assert await pruned(engine, store, timedelta(0)) == []
    assert await pruned(engine, store, GRACE - timedelta(seconds=1)) == []
    assert set(await pruned(engine, store, GRACE)) == {known, orphan}
    assert list(store.held()) == []


@pytest.mark.parametrize("harm", ["touched", "spoiled"])
async def test_a_file_without_a_row_that_was_touched_is_read_first(
    engine: AsyncEngine, store: Store, harm: str
) -> None:
    sha256 = put(store, b"bytes")
    if harm == "spoiled":
        spoil(store, sha256, quietly=False)
    else:
        os.utime(stored_path(store, sha256))
    assert await adopted(engine, store) == ([sha256] if harm == "touched" else [])
    assert store.has(sha256, 5) is (harm == "touched")
    assert stored_path(store, sha256).exists() is (harm == "touched")
    assert await rows(engine) == ({sha256} if harm == "touched" else set())
    assert await leaving(engine) == []


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES])
async def test_a_file_without_a_row_that_cannot_be_read_stays(engine: AsyncEngine, store: Store, number: int) -> None:
    sha256 = put(store, b"bytes")
    os.utime(stored_path(store, sha256))
    failing = Unreadable(Path(store.where))
    failing.stuck, failing.number = sha256, number
    assert await adopted(engine, failing) == []
    assert stored_path(store, sha256).exists()
    assert await adopted(engine, store) == [sha256]


async def test_a_file_that_is_leaving_or_about_to_get_its_row_is_not_taken(engine: AsyncEngine, store: Watched) -> None:
    sha256 = await begun(engine, store)
    fresh = put(store, b"fresh")
    assert await adopted(engine, store) == [fresh]
    assert (await rows(engine), await leaving(engine)) == ({fresh}, [sha256])
    assert await recorded(engine, b"fresh")
    assert store.has(fresh, 5)


async def test_nobody_adopts_what_somebody_removes_just_now(engine: AsyncEngine, store: Watched) -> None:
    await kept(engine, store)
    await pruned(engine, store, timedelta(0))
    store.hold_up()
    pruning = asyncio.create_task(pruned(engine, store, GRACE))
    await store.until_reached()
    second = DiskStore(Path(store.where))
    put(second, b"orphan")
    assert await adopted(engine, second) == []
    store.go_on.set()
    await pruning
    assert len(await adopted(engine, second)) == 1
    assert await idle_in_a_transaction(engine) == 0


async def test_a_wrong_file_without_a_row_spares_the_one_that_is_recorded_meanwhile(engine: AsyncEngine) -> None:
    sha256 = Sha256.of(b"bytes")
    assert await recorded(engine, b"bytes")
    async with transaction(engine) as connection:
        assert await files.leave_unknown(connection, [sha256], NOW) == []
    assert (await rows(engine), await leaving(engine)) == ({sha256}, [])


async def test_whoever_records_a_file_that_goes_without_ever_having_had_a_row_is_refused(engine: AsyncEngine) -> None:
    sha256 = Sha256.of(b"bytes")
    async with engine.connect() as removing:
        assert await files.leave_unknown(removing, [sha256], NOW) == [sha256]
        recording = asyncio.create_task(recorded(engine, b"bytes"))
        await until_somebody_waits(engine)
        await removing.commit()
        assert not await recording
    assert (await rows(engine), await leaving(engine)) == (set(), [sha256])


def test_the_whole_store_is_looked_through_within_64_minutes_a_slice_a_minute() -> None:
    slices = [upkeep.shelves_of(NOW + timedelta(minutes=minute, seconds=7)) for minute in range(64)]
    assert sorted(beginning for found in slices for beginning in found) == ALL
    assert {len(found) for found in slices} == {4}


# A database of before


async def test_a_database_of_before_ends_in_a_true_state(engine: AsyncEngine, store: Store) -> None:
    """The dump has rows for files that have gone since, none for some that came, and calls one leaving that is back."""
    stays, gone = await kept(engine, store, b"stays"), await kept(engine, store, b"gone")
    back = put(store, b"bytes")
    async with transaction(engine) as connection:
        await connection.execute(
            text("INSERT INTO leaving_files (sha256, size, since) VALUES (:sha256, 5, :now)"),
            {"sha256": back, "now": NOW},
        )
    store.remove(gone)
    came = put(store, b"came since")
    assert await audited(engine, store) == [gone]
    assert await adopted(engine, store) == [came]
    await pruned(engine, store, timedelta(0))
    held = {sha256 for sha256, _ in store.held()}
    assert held == await rows(engine) == {stays, came}
    assert await leaving(engine) == []
    async with transaction(engine) as connection:
        assert list(await connection.scalars(text("SELECT trigger FROM imports"))) == ["healing"]
