"""Images and their status: one named case for each way a status comes about."""

from collections.abc import Awaitable, Callable
from datetime import timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.catalogue import images, sources
from region.catalogue.images import Image
from region.database.connection import transaction
from region.fleet.showing import LIVE_FOR
from region.importing import imports
from region.importing.imports import ImageProgress
from region.stream.documents import Product
from shared.errors import NotFound
from shared.names import ImageKey
from tests.db.rows import (
    EPOCH,
    NOBLE,
    NOW,
    bootloader,
    digest,
    hold,
    kernel,
    make_rack,
    make_region,
    make_source,
    publish,
    reading,
    record,
    select_images,
    store_files,
)

KEY = Ed25519PrivateKey.generate()
LATER = NOW + timedelta(hours=1)
JAMMY = ImageKey.parse("ubuntu:jammy:amd64")
KERNELS = (kernel("1"), kernel("1", subarch="hwe-24.04"))

Arrange = Callable[[AsyncConnection], Awaitable[object]]


async def selected(connection: AsyncConnection, *products: Product) -> int:
    """A source that offers noble with two kernels (or `products`), and noble selected from it."""
    source_id = await make_source(connection, *(products or KERNELS))
    await select_images(connection, (source_id, NOBLE))
    return source_id


async def held(connection: AsyncConnection) -> int:
    """As `selected`, and all of it held since manifest 1."""
    source_id = await selected(connection)
    await hold(connection, source_id, "1")
    await publish(connection, KEY)
    return source_id


async def imported(
    connection: AsyncConnection, state: str, progress: ImageProgress, *, image: ImageKey = NOBLE
) -> None:
    """An import that came so far with the image, and ended as `state` unless that is `running`."""
    await imports.enqueue(connection, "operator", "x", NOW)
    claim = await imports.claim(connection, "x")
    assert claim is not None
    await imports.record_progress(connection, claim, {image: progress}, progress.bytes_total, progress.bytes_done)
    if state != "running":
        await imports.finish(connection, claim, state, NOW, progress.code, progress.error)


async def source_failed(connection: AsyncConnection, source_id: int) -> None:
    await sources.record_reading(
        connection, source_id, NOW, code="timed_out", sentence="It did not answer.", skipped=[]
    )


FAILED = ImageProgress(1600, 100, "wrong_digest", "Other bytes came.")


async def only_selected(connection: AsyncConnection) -> None:
    await selected(connection)


async def never_read(connection: AsyncConnection) -> None:
    source_id = await make_source(connection)
    await select_images(connection, (source_id, NOBLE))


async def waiting_import(connection: AsyncConnection) -> None:
    await selected(connection)
    await imports.enqueue(connection, "selection", "x", NOW)


async def stopped(connection: AsyncConnection) -> None:
    await selected(connection)
    await imported(connection, "cancelled", ImageProgress(1600, 800))


async def running(connection: AsyncConnection) -> None:
    await selected(connection)
    await imported(connection, "running", ImageProgress(1600, 401))


async def running_after_a_failure(connection: AsyncConnection) -> None:
    await selected(connection)
    await imported(connection, "failed", FAILED)
    await imported(connection, "running", ImageProgress(1600, 800))


async def running_for_a_new_version(connection: AsyncConnection) -> None:
    source_id = await held(connection)
    newer = (kernel("1", "2"), kernel("1", "2", subarch="hwe-24.04"))
    await record(connection, source_id, reading(*newer, updated=LATER))
    await imported(connection, "running", ImageProgress(1600, 800))


async def running_for_another(connection: AsyncConnection) -> None:
    await selected(connection)
    await imported(connection, "running", ImageProgress(10, 5), image=JAMMY)


async def running_and_failed_already(connection: AsyncConnection) -> None:
    await selected(connection)
    await imported(connection, "running", FAILED)


async def failed_by_a_file(connection: AsyncConnection) -> None:
    await selected(connection)
    await imported(connection, "failed", FAILED)


async def failed_for_a_new_version(connection: AsyncConnection) -> None:
    await running_for_a_new_version(connection)
    await connection.execute(text("UPDATE imports SET state = 'failed'"))
    await connection.execute(text("UPDATE import_images SET error_code = 'wrong_digest', error = 'Other bytes came.'"))


async def failed_by_the_source(connection: AsyncConnection) -> None:
    source_id = await make_source(connection)
    await select_images(connection, (source_id, NOBLE))
    await source_failed(connection, source_id)


async def failed_and_mended(connection: AsyncConnection) -> None:
    source_id = await selected(connection)
    await imported(connection, "failed", FAILED)
    await imported(connection, "succeeded", ImageProgress(1600, 1600))
    await hold(connection, source_id, "1")
    await publish(connection, KEY)


async def stored(connection: AsyncConnection) -> None:
    await held(connection)


async def stored_while_the_source_fails(connection: AsyncConnection) -> None:
    await source_failed(connection, await held(connection))


async def half_stored(connection: AsyncConnection) -> None:
    source_id = await selected(connection)
    await hold(connection, source_id, "1", subarch="ga-24.04")
    await publish(connection, KEY)


async def lost_a_file(connection: AsyncConnection) -> None:
    await held(connection)
    await connection.execute(text("DELETE FROM files WHERE sha256 = :lost"), {"lost": digest("noble/amd64/1/squashfs")})


async def nothing_offers_it(connection: AsyncConnection) -> None:
    await selected(connection, kernel("1", release="jammy"))


async def nobody_offers_it(connection: AsyncConnection) -> None:
    await make_source(connection, kernel("1", release="jammy"))
    await select_images(connection, (None, NOBLE))


async def another_source_was_not_read(connection: AsyncConnection) -> None:
    await nobody_offers_it(connection)
    await make_source(connection, name="second", priority=5)


async def another_source_failed(connection: AsyncConnection) -> None:
    await nobody_offers_it(connection)
    await source_failed(connection, await make_source(connection, name="second", priority=5))


async def vanished(connection: AsyncConnection) -> None:
    await record(connection, await held(connection), reading(updated=LATER))


async def versions_vanished(connection: AsyncConnection) -> None:
    await held(connection)
    await connection.execute(text("UPDATE versions SET offered = false"))


async def given_up(connection: AsyncConnection) -> None:
    await held(connection)
    await select_images(connection)


async def given_up_and_vanished(connection: AsyncConnection) -> None:
    await vanished(connection)
    await select_images(connection)


@pytest.mark.parametrize(
    ("arrange", "status", "progress", "error_code"),
    [
        pytest.param(only_selected, "queued", 0, "", id="queued: nothing was done yet"),
        pytest.param(never_read, "queued", 0, "", id="queued: the source was never read"),
        pytest.param(waiting_import, "queued", 0, "", id="queued: an import waits"),
        pytest.param(stopped, "queued", 0, "", id="queued: the import was stopped"),
        pytest.param(running_for_another, "queued", 0, "", id="queued: an import is busy with another image"),
        pytest.param(half_stored, "queued", 81, "", id="queued: one of two kernels is held"),
        pytest.param(lost_a_file, "queued", 37, "", id="queued: held, and a file was lost"),
        pytest.param(running, "downloading", 25, "", id="downloading"),
        pytest.param(running_after_a_failure, "downloading", 50, "", id="downloading again after a failure"),
        pytest.param(running_for_a_new_version, "downloading", 50, "", id="downloading a newer version"),
        pytest.param(running_and_failed_already, "failed", 0, "wrong_digest", id="failed while others go on"),
        pytest.param(failed_by_a_file, "failed", 0, "wrong_digest", id="failed by a file"),
        pytest.param(failed_for_a_new_version, "failed", 0, "wrong_digest", id="failed to get a newer version"),
        pytest.param(failed_by_the_source, "failed", 0, "timed_out", id="failed by the source"),
        pytest.param(failed_and_mended, "stored", 100, "", id="stored after a failure"),
        pytest.param(stored, "stored", 100, "", id="stored"),
        pytest.param(stored_while_the_source_fails, "stored", 100, "timed_out", id="stored, source away"),
        pytest.param(nothing_offers_it, "unavailable", 0, "", id="unavailable: never offered"),
        pytest.param(nobody_offers_it, "unavailable", 0, "", id="unavailable: no source was named, and none offers it"),
        pytest.param(another_source_was_not_read, "queued", 0, "", id="queued: another source may offer it"),
        pytest.param(another_source_failed, "failed", 0, "timed_out", id="failed: another source may offer it"),
        pytest.param(vanished, "unavailable", 100, "", id="unavailable: the product vanished"),
        pytest.param(versions_vanished, "unavailable", 100, "", id="unavailable: all its versions vanished"),
        pytest.param(given_up, "unselected", 100, "", id="unselected"),
        pytest.param(given_up_and_vanished, "unselected", 100, "", id="unselected: and no longer offered"),
    ],
)
async def test_status_on_the_region(
    engine: AsyncEngine, arrange: Arrange, status: str, progress: int, error_code: str
) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        await arrange(connection)
        image = await images.get(connection, NOBLE, NOW)
        assert (image.status, image.progress, image.error_code) == (status, progress, error_code)
        assert bool(image.error) is bool(error_code)


# (images the rack lacks, serial of the manifest it knows, for how long it was unseen, epoch)
Rack = tuple[frozenset[ImageKey], int, timedelta, int]
SEEN = timedelta(0)
GONE = LIVE_FOR
ALL: frozenset[ImageKey] = frozenset()
LACKS = frozenset({NOBLE})
WHOLE: Rack = (ALL, 1, SEEN, EPOCH)


@pytest.mark.parametrize(
    ("racks", "status", "counts"),
    [
        pytest.param([], "stored", (0, 0, 0), id="no rack"),
        pytest.param([WHOLE], "synced", (1, 1, 1), id="one rack that has all"),
        pytest.param([WHOLE, WHOLE], "synced", (2, 2, 2), id="two racks that have all"),
        pytest.param([(ALL, 0, SEEN, EPOCH)], "waiting_for_racks", (0, 1, 1), id="a new rack"),
        pytest.param([(LACKS, 1, SEEN, EPOCH)], "waiting_for_racks", (0, 1, 1), id="a rack that lacks one file"),
        pytest.param([WHOLE, (LACKS, 1, SEEN, EPOCH)], "waiting_for_racks", (1, 2, 2), id="one of two has all"),
        pytest.param([(frozenset({JAMMY}), 1, SEEN, EPOCH)], "synced", (1, 1, 1), id="a rack that lacks another image"),
        pytest.param([(ALL, 9, SEEN, EPOCH - 1)], "waiting_for_racks", (0, 1, 1), id="an older epoch"),
        pytest.param([(ALL, 9, SEEN, EPOCH)], "synced", (1, 1, 1), id="a later manifest than the one it came with"),
        pytest.param([(ALL, 1, GONE, EPOCH)], "waiting_for_racks", (0, 0, 1), id="no rack was seen for 15 minutes"),
        pytest.param([WHOLE, (ALL, 0, GONE, EPOCH)], "synced", (1, 1, 2), id="an unreachable rack holds up nothing"),
        pytest.param(
            [(ALL, 1, GONE, EPOCH), (LACKS, 1, SEEN, EPOCH)],
            "waiting_for_racks",
            (0, 1, 2),
            id="an unreachable rack that has all counts for nothing",
        ),
        pytest.param(
            [(ALL, 1, GONE - timedelta(seconds=1), EPOCH)], "synced", (1, 1, 1), id="seen a second less than that ago"
        ),
    ],
)
async def test_status_on_the_racks(
    engine: AsyncEngine, racks: list[Rack], status: str, counts: tuple[int, int, int]
) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        await held(connection)
        await connection.execute(text("UPDATE region SET serial = 9"))
        for number, (pending, serial, unseen_for, epoch) in enumerate(racks):
            await make_rack(
                connection, f"rack-{number}", pending=pending, serial=serial, unseen_for=unseen_for, epoch=epoch
            )
        image = await images.get(connection, NOBLE, NOW)
        assert (image.status, (image.racks_synced, image.racks_live, image.racks_total)) == (status, counts)


async def test_a_new_version_waits_until_the_racks_serve_it(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        source_id = await selected(connection, kernel("1", "2"))
        await hold(connection, source_id, "1")
        await publish(connection, KEY)
        await hold(connection, source_id, "2")
        await connection.execute(text("UPDATE versions SET held_at = NULL WHERE name = '1'"))
        await publish(connection, KEY)
        rack_id = await make_rack(connection, "one", serial=1)
        image = await images.get(connection, NOBLE, NOW)
        assert (image.status, image.version, image.held_version) == ("waiting_for_racks", "2", "2")
        await connection.execute(text("UPDATE racks SET serial = 2 WHERE id = :id"), {"id": rack_id})
        assert (await images.get(connection, NOBLE, NOW)).status == "synced"


async def test_a_file_that_kernels_share_counts_once(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        await selected(connection)
        assert (await images.get(connection, NOBLE, NOW)).size_bytes == 2 * 300 + 1000
        await store_files(connection, [digest("noble/amd64/1/squashfs")])
        image = await images.get(connection, NOBLE, NOW)
        assert (image.bytes_done, image.progress) == (1000, 62)


async def test_an_image_says_which_version_it_is_and_which_is_held(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        source_id = await selected(connection, kernel("20260701.10", "20260701.9"))
        await hold(connection, source_id, "20260701.10")
        image = await images.get(connection, NOBLE, NOW)
        # As byte strings: .9 is the newer one.
        assert (image.version, image.held_version, image.updated_at) == ("20260701.9", "20260701.10", NOW)
        assert (image.os, image.release, image.arch, image.title) == (*NOBLE, "24.04 LTS")
        assert (image.id, image.source_id, image.selected) == ("ubuntu:noble:amd64", source_id, True)


@pytest.mark.parametrize(
    ("chosen", "low_offers", "high_offers", "low_holds", "high_holds", "expected"),
    [
        pytest.param("lh", "1", "1", False, False, ("high", "queued"), id="the higher priority describes it"),
        pytest.param("l", "1", "1", False, False, ("low", "queued"), id="unless it is selected from the lower only"),
        pytest.param("lh", "1", "", False, False, ("low", "queued"), id="unless the higher offers none"),
        pytest.param("lh", "1", "1", False, True, ("high", "stored"), id="the winner holds all"),
        pytest.param("lh", "1", "2", True, False, ("high", "queued"), id="the loser holds all: the winner's to come"),
        pytest.param("lh", "9", "1", True, True, ("high", "stored"), id="the loser's newer version counts for nothing"),
        pytest.param("lh", "1", "", True, False, ("low", "stored"), id="the lower holds what the higher lacks"),
    ],
)
async def test_an_image_of_two_sources(
    engine: AsyncEngine,
    chosen: str,
    low_offers: str,
    high_offers: str,
    low_holds: bool,
    high_holds: bool,
    expected: tuple[str, str],
) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        ids = {}
        for name, priority, serial, holds in (
            ("high", 20, high_offers, high_holds),
            ("low", 10, low_offers, low_holds),
        ):
            other = kernel("1", release="jammy")
            ids[name] = await make_source(
                connection, *([kernel(serial)] if serial else [other]), name=name, priority=priority
            )
            if holds:
                await hold(connection, ids[name], serial)
        await select_images(connection, *[(i, NOBLE) for name, i in ids.items() if name[0] in chosen])
        await publish(connection, KEY)
        (image,) = await images.list_all(connection, NOW)
        assert ({i: name for name, i in ids.items()}[image.source_id or 0], image.status) == expected
        assert image.size_bytes == 1300


async def test_a_kernel_that_vanished_holds_up_nothing(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        source_id = await held(connection)
        await record(connection, source_id, reading(kernel("1"), updated=LATER))
        image = await images.get(connection, NOBLE, NOW)
        assert (image.status, image.size_bytes) == ("stored", 1300)


async def test_images_are_listed_by_id_page_by_page(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        releases = ["noble", "jammy", "Zesty", "focal"]
        source_id = await make_source(connection, *(kernel("1", release=r) for r in releases), bootloader("1"))
        keys = [ImageKey.parse(f"ubuntu:{release}:amd64") for release in releases[:3]]
        await select_images(connection, *[(source_id, key) for key in keys])
        await hold(connection, source_id, "1")

        def ids(found: list[Image]) -> list[str]:
            return [image.id for image in found]

        everything = ids(list(await images.list_all(connection, NOW)))
        # Held and not selected is shown too; bootloaders are no images. As byte strings, whatever the collation.
        assert everything == [f"ubuntu:{release}:amd64" for release in ("Zesty", "focal", "jammy", "noble")]
        first = ids(list(await images.list_all(connection, NOW, limit=2)))
        assert first == everything[:2]
        assert ids(list(await images.list_all(connection, NOW, limit=2, after=first[-1]))) == everything[2:]
        assert ids(list(await images.list_all(connection, NOW, after=everything[-1]))) == []
        with pytest.raises(NotFound):
            await images.get(connection, ImageKey.parse("ubuntu:bionic:amd64"), NOW)


async def test_an_image_nobody_wants_or_holds_is_not_shown(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        await make_source(connection, *KERNELS)
        assert await images.list_all(connection, NOW) == []


# --- what reading costs


def _most_rows(plan: dict[str, Any]) -> float:
    """The most rows that any step of an executed plan gave, all its loops together."""
    rows: float = plan["Actual Rows"] * plan["Actual Loops"]
    return max(rows, *map(_most_rows, plan.get("Plans", ())), 0)


async def test_one_image_is_read_without_deriving_the_others(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, *[kernel("1", release=f"r{number}") for number in range(40)])
        wished = [ImageKey.parse(f"ubuntu:r{number}:amd64") for number in range(40)]
        await select_images(connection, *[(source_id, image) for image in wished])
        await hold(connection, source_id, "1")
        # However few rows a test has: what an index can answer is asked of the index, as it would be of many.
        await connection.execute(text("SET LOCAL enable_seqscan = off"))
        await connection.execute(text("SET LOCAL enable_hashjoin = off"))
        await connection.execute(text("SET LOCAL enable_mergejoin = off"))
        given = {"live_after": NOW, "after": None, "limit": 1, "image": str(wished[0]), **wished[0]._asdict()}
        [explained] = await connection.scalar(
            text(f"EXPLAIN (ANALYZE, FORMAT JSON) {images._ONE}"),
            given,
        )
    assert _most_rows(explained["Plan"]) < 10


async def test_the_history_of_imports_does_not_make_the_list_slow(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await selected(connection)
        await imported(connection, "succeeded", ImageProgress(1600, 1600))
        await connection.execute(
            text("""
                WITH past AS (
                    INSERT INTO imports (trigger, requested_by, requested_at, state, finished_at)
                    SELECT 'schedule', 'x', :now, 'succeeded', :now FROM generate_series(1, 500) RETURNING id
                )
                INSERT INTO import_images (import_id, os, release, arch, bytes_total, bytes_done)
                SELECT id, 'ubuntu', 'noble', 'amd64', 1, 1 FROM past
            """),
            {"now": NOW},
        )
        await connection.execute(text("ANALYZE"))
        [explained] = await connection.scalar(
            text(f"EXPLAIN (ANALYZE, FORMAT JSON) {images._LIST}"),
            {"live_after": NOW, "after": None, "limit": 10},
        )
    assert _most_rows(explained["Plan"]) < 50
