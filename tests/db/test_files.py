"""Stored files: the rows and the disk agree, or the rows give in."""

import asyncio
import os
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.catalogue import files, products
from region.database.connection import transaction
from region.database.tables import versions
from shared.audit import SLICE_S, slice_of_day
from shared.digest import Sha256
from shared.errors import NotFound
from shared.store.base import Store
from shared.store.disk import DiskStore
from tests.db.rows import NOBLE, NOW, bootloader, digest, hold, kernel, make_source, select_images, until_somebody_waits
from tests.stores import put, stored_path

GRACE = timedelta(hours=24)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return DiskStore(tmp_path / "store")


async def kept(engine: AsyncEngine, store: Store, content: bytes = b"bytes") -> Sha256:
    """A file that the store holds and a row says so; no version wants it."""
    sha256 = put(store, content)
    async with transaction(engine) as connection:
        assert await files.record(connection, store, sha256, len(content), NOW)
    return sha256


async def rows(engine: AsyncEngine) -> set[str]:
    async with transaction(engine) as connection:
        return set(await products.stored(connection))


async def pruned(engine: AsyncEngine, store: Store, after: timedelta) -> list[Sha256]:
    async with transaction(engine) as connection:
        return await files.prune(connection, store, GRACE, NOW + after)


async def audited(engine: AsyncEngine, store: Store, after: timedelta = timedelta(0)) -> list[Sha256]:
    async with transaction(engine) as connection:
        return await files.audit(connection, store, NOW + after)


async def test_a_file_that_is_there_is_recorded_once(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    async with transaction(engine) as connection:
        assert await files.record(connection, store, sha256, 5, NOW + GRACE)
        assert await files.size_of(connection, sha256) == 5
        assert await connection.scalar(text("SELECT stored_at FROM files")) == NOW
        with pytest.raises(NotFound):
            await files.size_of(connection, Sha256.of(b"other"))


@pytest.mark.parametrize(
    "harm",
    [
        pytest.param(lambda path: path.unlink(), id="gone"),
        pytest.param(lambda path: path.write_bytes(b"longer bytes"), id="another size"),
        pytest.param(os.utime, id="touched"),
    ],
)
async def test_a_file_that_is_not_as_it_was_verified_is_not_recorded(
    engine: AsyncEngine, store: Store, harm: object
) -> None:
    sha256 = put(store, b"bytes")
    stored_path(store, sha256).chmod(0o644)
    assert callable(harm)
    harm(stored_path(store, sha256))
    async with engine.connect() as connection:
        assert not await files.record(connection, store, sha256, 5, NOW)
        await connection.rollback()
    assert await rows(engine) == set()


# Pruning


async def test_what_nobody_needs_is_deleted_after_the_grace(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    assert await pruned(engine, store, timedelta(0)) == []
    assert await pruned(engine, store, GRACE - timedelta(seconds=1)) == []
    assert store.has(sha256, 5)
    assert await pruned(engine, store, GRACE) == [sha256]
    assert not stored_path(store, sha256).exists()
    assert await rows(engine) == set()


async def needed_files(connection: AsyncConnection, unneeded_since: str) -> set[str]:
    condition = f"unneeded_since IS {unneeded_since}"
    found = await connection.scalars(text(f"SELECT sha256 FROM files WHERE {condition}"))  # noqa: S608
    return set(found)


async def test_what_is_needed_is_what_is_held_or_will_be(engine: AsyncEngine, store: Store) -> None:
    async with transaction(engine) as connection:
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
        assert await files.record(recording, store, sha256, 5, NOW)
        pruning = asyncio.create_task(pruned(engine, store, GRACE))
        await until_somebody_waits(engine)
        assert not pruning.done()
    assert await pruning == []
    assert store.has(sha256, 5)


async def test_a_file_pruned_while_it_is_recorded_is_not_vouched_for(engine: AsyncEngine, store: Store) -> None:
    sha256 = await kept(engine, store)
    assert await pruned(engine, store, timedelta(0)) == []

    async def recorded() -> bool:
        async with engine.connect() as connection:
            found = await files.record(connection, store, sha256, 5, NOW)
            await (connection.commit() if found else connection.rollback())
            return found

    async with transaction(engine) as pruning:
        assert await files.prune(pruning, store, GRACE, NOW + GRACE) == [sha256]
        recording = asyncio.create_task(recorded())
        await until_somebody_waits(engine)
        assert not recording.done()
    assert not await recording
    assert await rows(engine) == set()


async def test_pruning_and_recording_in_a_crowd_leave_no_row_without_its_file(
    engine: AsyncEngine, store: Store
) -> None:
    digests = [await kept(engine, store, b"%d" % n) for n in range(6)]
    await pruned(engine, store, timedelta(0))

    async def record(sha256: Sha256) -> None:
        async with engine.connect() as connection:
            found = await files.record(connection, store, sha256, 1, NOW)
            await (connection.commit() if found else connection.rollback())

    await asyncio.gather(*(pruned(engine, store, GRACE) for _ in range(3)), *map(record, digests))
    assert await rows(engine) == {sha256 for sha256 in digests if store.has(sha256, 1)}


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


def test_every_file_is_read_once_a_day() -> None:
    digests = [Sha256.of(b"%d" % n) for n in range(50)]
    read = [
        sha256
        for turn in range(86_400 // SLICE_S)
        for sha256 in slice_of_day(digests, NOW + timedelta(seconds=turn * SLICE_S))
    ]
    assert sorted(read) == sorted(digests)
