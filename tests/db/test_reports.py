"""Reports by exception: what a rack says it lacks decides which images it shows; to say nothing new costs nothing."""

import asyncio
import json
from collections.abc import Iterable
from datetime import datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event, insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.catalogue import bootloaders, images
from region.database.connection import transaction
from region.database.tables import metadata
from region.database.topics import Topic
from region.fleet import racks, reports
from region.fleet.racks import Lacking, OnRack
from region.fleet.showing import LIVE_FOR, POLL_PERIOD
from region.publishing.manifest import Published
from shared.digest import Sha256
from shared.errors import InvalidValue, NotFound, Refused, Replayed
from shared.names import ImageKey
from shared.signing import Head
from shared.wire.report import Fault, Knows, OldReport, Pending, Report, parse_report
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
    select_images,
)

KEY = Ed25519PrivateKey.generate()
JAMMY = ImageKey.parse("ubuntu:jammy:amd64")
UEFI = "bootloader:uefi:amd64"
SOON = NOW + timedelta(minutes=1)
WELL = Fault()
BOTH = frozenset({Topic.RACKS, Topic.IMAGES})


@pytest.fixture
async def region(engine: AsyncEngine) -> AsyncEngine:
    """A region that offers noble in versions 1 to 4, jammy and a bootloader; noble and jammy are selected."""
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        source_id = await make_source(
            connection, kernel("1", "2", "3", "4"), kernel("1", release="jammy"), bootloader("1")
        )
        await select_images(connection, (source_id, NOBLE), (source_id, JAMMY))
    return engine


async def published(connection: AsyncConnection, serial: str = "1") -> Published:
    """The manifest that names this version of noble, in place of the one before, and version 1 of all else."""
    await connection.execute(
        text("""
            UPDATE versions SET held_at = NULL FROM products
            WHERE products.id = product_id AND release = 'noble'
        """)
    )
    if not await connection.scalar(text("SELECT count(*) FROM versions WHERE held_at IS NOT NULL")):
        await hold(connection, 1, "1")
        await connection.execute(
            text("""
                UPDATE versions SET held_at = NULL FROM products WHERE products.id = product_id AND release = 'noble'
            """)
        )
    await hold(connection, 1, serial)
    return await publish(connection, KEY)


def knows(manifest: Published) -> Knows:
    return Knows(*manifest.manifest.order, manifest.sha256)


def report(
    sequence: int, known: Knows, *pending: Pending, error: Fault = WELL, free: int = 20, left: int = 0
) -> Report:
    return Report(
        sequence=sequence,
        version="1",
        address="10.0.0.1:5248",
        knows=known,
        pending=pending,
        bytes_left=left,
        bytes_free=free,
        error=error,
    )


async def told(
    connection: AsyncConnection, rack_id: str, known: Knows, *pending: Pending, now: datetime = NOW
) -> frozenset[Topic]:
    """A rack reports, in the moment `now`."""
    return await reports.record(connection, rack_id, report(_milliseconds(now), known, *pending), now)


def _milliseconds(now: datetime) -> int:
    return int(now.timestamp() * 1000)


async def state_of(connection: AsyncConnection, rack_id: str, image: str, now: datetime = NOW) -> str:
    """How the image is on the rack, by the list of racks of the image."""
    (found,) = [rack for rack in await racks.on_racks(connection, image, now) if rack.rack_id == rack_id]
    return found.state


async def synced(connection: AsyncConnection, now: datetime = NOW) -> set[str]:
    """The images that every live rack shows as published, and the bootloaders. Lists and single things agree."""
    found = set()
    for image in await images.list_all(connection, now):
        assert await images.get(connection, ImageKey.parse(image.id), now) == image
        shown = [rack for rack in await racks.on_racks(connection, image.id, now) if rack.state == "shown"]
        assert len(shown) == image.racks_synced
        if image.racks_live and image.racks_synced == image.racks_live:
            found.add(image.id)
    for boot in await bootloaders.list_all(connection, now):
        if boot.racks_synced:
            found.add(f"bootloader:{boot.type}:{boot.arch}")
    for rack in await racks.list_page(connection, now):
        assert await racks.get(connection, rack.id, now) == rack
        assert len(await racks.lacking(connection, rack.id)) == rack.images_pending
    return found


EVERYTHING = {str(NOBLE), str(JAMMY), UEFI}
WITHOUT_NOBLE = EVERYTHING - {str(NOBLE)}


# "Synced", on the hard cases


async def test_a_whole_rack_shows_everything_and_has_no_row_beyond_its_own(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        rack_id = await make_rack(connection, "one")
        await told(connection, rack_id, knows(await published(connection, "4")))
        assert await synced(connection) == EVERYTHING
        assert await connection.scalar(text("SELECT count(*) FROM rack_images")) == 0
        rack = await racks.get(connection, rack_id, NOW)
        assert (rack.images_pending, rack.images_total, rack.knows_newest, rack.ahead) == (0, 3, True, False)


async def test_a_rack_behind_by_three_manifests_shows_what_did_not_change(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        known = knows(await published(connection, "1"))
        rack_id = await make_rack(connection, "one")
        await told(connection, rack_id, known)
        for serial in ("2", "3", "4"):
            last = await published(connection, serial)
        assert last.manifest.serial == known.serial + 3
        assert await synced(connection) == WITHOUT_NOBLE
        assert await racks.lacking(connection, rack_id) == [Lacking(str(NOBLE), "behind", "", "")]
        assert not (await racks.get(connection, rack_id, NOW)).knows_newest
        await told(connection, rack_id, knows(last), now=SOON)
        assert await synced(connection) == EVERYTHING


async def test_a_new_epoch_is_shown_by_nobody_until_racks_know_it(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        known = knows(await published(connection, "4"))
        rack_id = await make_rack(connection, "one")
        await told(connection, rack_id, known)
        await connection.execute(text("UPDATE region SET epoch = epoch + 1, serial = 0"))
        first = await published(connection, "4")
        assert first.manifest.order == (EPOCH + 1, 1)
        assert await synced(connection) == set()
        assert {entry.state for entry in await racks.lacking(connection, rack_id)} == {"behind"}
        await told(connection, rack_id, knows(first), now=SOON)
        assert await synced(connection) == EVERYTHING


async def restored(connection: AsyncConnection) -> tuple[str, Knows]:
    """A rack that knows manifest 3 and said so, and a database that was restored from a backup made at manifest 1."""
    first = await published(connection, "1")
    rack_id = await make_rack(connection, "one")
    await told(connection, rack_id, knows(first))
    backup = {
        name: (await connection.execute(text(f"SELECT * FROM {name}"))).mappings().all()  # noqa: S608 - constants
        for name in ("manifests", "published_images", "racks")
    }
    await published(connection, "2")
    known = knows(await published(connection, "3"))
    await told(connection, rack_id, known, now=SOON)
    await connection.execute(text("UPDATE region SET serial = 1"))
    await connection.execute(
        text("UPDATE versions SET held_at = CASE WHEN name = '1' THEN CAST(:now AS timestamptz) END"), {"now": NOW}
    )
    for name, rows in backup.items():
        await connection.execute(text(f"DELETE FROM {name}"))  # noqa: S608 - constants
        for row in rows:
            values = dict(row)
            await connection.execute(insert(metadata.tables[name]).values(**values))
    return rack_id, known


async def test_a_restored_database_without_a_new_epoch_counts_no_rack_that_is_ahead(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        rack_id, known = await restored(connection)
        # The rack's own report said so before; the database has forgotten.
        await told(connection, rack_id, known, now=SOON)
        assert (await racks.get(connection, rack_id, SOON)).ahead
        assert await state_of(connection, rack_id, str(NOBLE)) == "ahead"
        assert await synced(connection, SOON) == set()
        # Serials grow past the one it knows, and with them come other manifests than it has seen.
        for serial in ("2", "4", "3"):
            last = await published(connection, serial)
        assert last.manifest.serial > known.serial
        later = SOON + POLL_PERIOD
        await told(connection, rack_id, known, Pending(str(JAMMY)), now=later)
        assert (await racks.get(connection, rack_id, later)).ahead, "told by the digest"
        assert await synced(connection, later) == set()


async def test_a_restored_database_with_a_new_epoch_is_caught_up_with(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        rack_id, known = await restored(connection)
        await told(connection, rack_id, known, now=SOON)
        await connection.execute(text("UPDATE region SET epoch = epoch + 1"))
        first = await published(connection, "4")
        assert not (await racks.get(connection, rack_id, SOON)).ahead, "the new epoch outranks what it knows"
        assert await state_of(connection, rack_id, str(NOBLE), SOON) == "behind"
        await told(connection, rack_id, knows(first), now=SOON + POLL_PERIOD)
        assert await synced(connection, SOON + POLL_PERIOD) == EVERYTHING


async def test_a_file_lost_after_a_report_is_told_by_the_next(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        known = knows(await published(connection, "4"))
        rack_id, other = await make_rack(connection, "one"), await make_rack(connection, "two")
        for each in (rack_id, other):
            await told(connection, each, known)
        assert await synced(connection) == EVERYTHING
        await told(connection, rack_id, known, Pending(str(NOBLE), "", "disk_failed"), now=SOON)
        assert await synced(connection) == WITHOUT_NOBLE
        assert [rack for rack in await racks.on_racks(connection, str(NOBLE), SOON) if rack.state != "shown"] == [
            OnRack(rack_id, "one", True, "pending", "", "disk_failed")
        ]
        await told(connection, rack_id, known, now=SOON + POLL_PERIOD)
        assert await synced(connection) == EVERYTHING
        assert await connection.scalar(text("SELECT count(*) FROM rack_images")) == 0


async def test_an_image_stuck_on_a_bad_file_says_what_is_shown_and_why(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        await published(connection, "1")
        known = knows(await published(connection, "4"))
        rack_id = await make_rack(connection, "one")
        await told(connection, rack_id, known, Pending(str(NOBLE), "1", "wrong_digest"))
        assert await synced(connection) == WITHOUT_NOBLE
        assert await racks.lacking(connection, rack_id) == [Lacking(str(NOBLE), "pending", "1", "wrong_digest")]
        # Another manifest changes nothing about that; what the rack says of it is kept.
        await published(connection, "3")
        assert await racks.lacking(connection, rack_id) == [Lacking(str(NOBLE), "behind", "1", "wrong_digest")]
        (image,) = [image for image in await images.list_all(connection, NOW) if image.id == str(NOBLE)]
        assert image.racks_synced == 0, "a rack is not taken off twice"


async def test_a_rack_that_crashed_holds_up_nothing_and_counts_for_nothing(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        known = knows(await published(connection, "4"))
        crashed, running = await make_rack(connection, "one"), await make_rack(connection, "two")
        await told(connection, crashed, known, Pending(str(NOBLE)))
        later = NOW + LIVE_FOR
        await told(connection, running, known, now=later)
        assert await synced(connection, later) == EVERYTHING
        assert await state_of(connection, crashed, str(JAMMY), later) == "unreachable"
        # And when it comes back, with nothing new to say, that is news.
        assert await told(connection, crashed, known, Pending(str(NOBLE)), now=later) == BOTH
        assert await synced(connection, later) == WITHOUT_NOBLE


def old_report(sequence: int, serial: int, held: Iterable[Sha256]) -> OldReport:
    return OldReport(
        sequence=sequence,
        version="1",
        epoch=EPOCH,
        serial=serial,
        held=frozenset(held),
        bytes_left=10,
        bytes_free=20,
        error_code="no_room",
        error="There is no room.",
        address="10.0.0.1:5248",
    )


async def test_an_old_racks_report_is_taken_in_as_what_it_lacks(region: AsyncEngine) -> None:
    """A rack of before names every digest it holds, and serves the tree of the manifest it names."""
    async with transaction(region) as connection:
        first = await published(connection, "1")
        last = await published(connection, "4")
        rack_id = await make_rack(connection, "one")

        async def tell(sequence: int, serial: int, held: Iterable[Sha256]) -> Report:
            found = parse_report(old_report(sequence, serial, held).encode())
            assert isinstance(found, OldReport)
            modern = await reports.modern(connection, found, last.manifest)
            await reports.record(connection, rack_id, modern, NOW)
            return modern

        # It pulls what the last one names and serves the first.
        modern = await tell(1, 1, first.manifest.files())
        assert (modern.knows, modern.pending) == (knows(first), (Pending(str(NOBLE)),))
        assert modern.error == Fault("no_room", "There is no room.")
        assert await synced(connection) == WITHOUT_NOBLE
        # It has lost a file of jammy since.
        await tell(2, 2, last.manifest.files().keys() - {digest("jammy/amd64/1/squashfs")})
        assert await synced(connection) == EVERYTHING - {str(JAMMY)}
        await tell(3, 2, last.manifest.files())
        assert await synced(connection) == EVERYTHING
        rack = await racks.get(connection, rack_id, NOW)
        assert (rack.serial, rack.ahead, rack.bytes_left, rack.error_code) == (2, False, 10, "no_room")
        # One that knows a manifest of ours which nobody remembers is not ahead.
        await connection.execute(text("DELETE FROM manifests WHERE serial = 1"))
        assert (await tell(4, 1, [])).knows == Knows(EPOCH, 1, "")
        assert not (await racks.get(connection, rack_id, NOW)).ahead
        assert (await reports.modern(connection, old_report(5, 0, []), None)).pending == ()


# What a report costs


async def lacked(connection: AsyncConnection, rack_id: str) -> set[str]:
    found = await connection.scalars(text("SELECT image FROM rack_images WHERE rack_id = :id"), {"id": rack_id})
    return set(found)


async def test_a_report_replaces_older_ones_only(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        a, b, c = (Pending(f"x:{letter}:amd64") for letter in "abc")
        known = knows(await published(connection))
        rack_id, other = await make_rack(connection, "one"), await make_rack(connection, "two", pending=[a.image])
        for sequence, pending, expected in (
            (1, (a, b), {a, b}),
            (3, (b, c), {b, c}),
            (2, (a,), {b, c}),
            (3, (), {b, c}),
            (4, (), set()),
        ):
            await reports.record(connection, rack_id, report(sequence, known, *pending), NOW)
            assert await lacked(connection, rack_id) == {entry.image for entry in expected}
        assert await lacked(connection, other) == {a.image}


async def test_a_report_says_how_the_rack_is(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        known = knows(await published(connection))
        rack_id = await make_rack(connection, "one", unseen_for=timedelta(days=1))
        assert not (await racks.get(connection, rack_id, NOW)).live
        fault = Fault("no_room", "There is no room.")
        await reports.record(connection, rack_id, report(1, known, error=fault, left=10), NOW)
        rack = await racks.get(connection, rack_id, NOW)
        assert (rack.epoch, rack.serial, rack.bytes_left, rack.bytes_free) == (EPOCH, 1, 10, 20)
        assert (rack.error_code, rack.error) == ("no_room", "There is no room.")
        assert (rack.address, rack.version, rack.last_seen_at, rack.live) == ("10.0.0.1:5248", "1", NOW, True)


async def test_a_report_that_changed_nothing_is_one_update_and_nobody_is_told(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        known = knows(await published(connection))
        rack_id = await make_rack(connection, "one")
        lacks = Pending(str(NOBLE), "", "timed_out")
        assert await reports.record(connection, rack_id, report(1, known, lacks), NOW) == BOTH
        said: list[str] = []

        def note(_connection: object, _cursor: object, statement: str, *_rest: object) -> None:
            said.append(statement.split()[0])

        event.listen(region.sync_engine, "before_cursor_execute", note)
        assert await reports.record(connection, rack_id, report(2, known, lacks, free=19), SOON) == frozenset()
        event.remove(region.sync_engine, "before_cursor_execute", note)
        assert said == ["UPDATE"]
        rack = await racks.get(connection, rack_id, SOON)
        assert (rack.last_seen_at, rack.bytes_free) == (SOON, 19), "free bytes are written down, and no news"
        # Told are the racks alone where no image is concerned.
        assert await reports.record(connection, rack_id, report(3, known, lacks, left=1), SOON) == {Topic.RACKS}
        reason = Pending(str(NOBLE), "", "wrong_digest")
        assert await reports.record(connection, rack_id, report(4, known, reason, left=1), SOON) == BOTH


async def test_an_hour_of_reports_stays_within_a_page_and_a_kilobyte_a_rack(region: AsyncEngine) -> None:
    many, polls = 400, 12
    async with transaction(region) as connection:
        known = knows(await published(connection))
        ids = [await make_rack(connection, f"rack-{number:05}") for number in range(many)]
    updates = text("SELECT n_tup_upd AS all, n_tup_hot_upd AS hot FROM pg_stat_user_tables WHERE relname = 'racks'")
    async with region.connect() as connection:
        outside = await connection.execution_options(isolation_level="AUTOCOMMIT")

        async def counted() -> tuple[int, int]:
            await outside.execute(text("SELECT pg_stat_force_next_flush()"))
            found = (await outside.execute(updates)).one()
            return found.all, found.hot

        for rack_id in ids:
            await told(outside, rack_id, known)
        before = await counted()
        for poll in range(1, polls + 1):
            now = NOW + poll * POLL_PERIOD
            for rack_id in ids:
                assert await told(outside, rack_id, known, now=now) == frozenset()
        after = await counted()
        size = await outside.scalar(text("SELECT pg_total_relation_size('racks')"))
    assert after[0] - before[0] == many * polls
    assert after[1] - before[1] == many * polls, "no index was touched"
    assert size / many < 1000


async def test_more_images_than_any_region_publishes_are_cut(
    region: AsyncEngine, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reports, "MAX_PENDING", 3)
    async with transaction(region) as connection:
        known = knows(await published(connection))
        rack_id = await make_rack(connection, "one")
        many = [Pending(f"x:{number}:amd64") for number in (1, 1, 2, 3, 4)]
        await told(connection, rack_id, known, *many)
        assert await lacked(connection, rack_id) == {"x:1:amd64", "x:2:amd64"}
        assert (await racks.get(connection, rack_id, NOW)).images_pending == 0, "nobody publishes those"


async def test_a_report_of_half_a_character_is_refused_or_stored(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        rack_id = await make_rack(connection, "one")
    fields = json.loads(report(1, Knows()).encode())
    body = json.dumps({**fields, "error": {"code": "", "sentence": "\ud800"}}).encode()
    try:
        parsed = parse_report(body)
    except Refused:
        return
    assert isinstance(parsed, Report)
    async with transaction(region) as connection:
        await reports.record(connection, rack_id, parsed, NOW)


async def test_two_reports_at_once_leave_the_newer(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        known = knows(await published(connection))
        rack_id = await make_rack(connection, "one")

    async def record(sequence: int, *pending: Pending) -> None:
        async with transaction(region) as connection:
            await reports.record(connection, rack_id, report(sequence, known, *pending), NOW)

    a, b, c = (Pending(f"x:{letter}:amd64") for letter in "abc")
    await asyncio.gather(record(1, a, b), record(3, c), record(2, b))
    async with transaction(region) as connection:
        assert await lacked(connection, rack_id) == {c.image}


async def test_a_report_of_a_rack_that_was_removed_or_lives_in_the_future(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        rack_id = await make_rack(connection, "one")
        ahead = _milliseconds(NOW + timedelta(days=2))
        with pytest.raises(InvalidValue, match="check the rack's clock"):
            await reports.record(connection, rack_id, report(ahead, Knows()), NOW)
        await racks.remove(connection, rack_id, NOW)
        with pytest.raises(NotFound):
            await reports.record(connection, rack_id, report(1, Knows()), NOW)


@pytest.mark.parametrize("news", [pytest.param(False, id="nothing-new"), pytest.param(True, id="news")])
async def test_of_one_request_sent_to_many_processes_at_once_one_counts(region: AsyncEngine, news: bool) -> None:
    async with transaction(region) as connection:
        rack_id = await make_rack(connection, "one")
        first = Report(sequence=1, version="1")
        await reports.record(connection, rack_id, first, NOW, Head(None, 7, ""))

    async def arrives(number: int) -> None:
        # Each says a later sequence of its own, so that the request's alone tells that it was sent before.
        report = Report(sequence=2 + number, version=str(number) if news else "1")
        async with transaction(region) as connection:
            await reports.record(connection, rack_id, report, NOW, Head(None, 8, "ab" * 16))

    done = await asyncio.gather(*(arrives(number) for number in range(5)), return_exceptions=True)
    refused = [error for error in done if error is not None]
    assert len(refused) == 4
    for error in refused:
        assert isinstance(error, Replayed)
        assert (error.sequence, error.nonce) == (8, "ab" * 16)


async def test_a_request_that_fails_may_be_sent_again(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        rack_id = await make_rack(connection, "one")
    report, head = Report(sequence=1, version="1"), Head(None, 7, "")
    with pytest.raises(ZeroDivisionError):
        async with transaction(region) as connection:
            await reports.record(connection, rack_id, report, NOW, head)
            raise ZeroDivisionError
    async with transaction(region) as connection:
        await reports.record(connection, rack_id, report, NOW, head)
    with pytest.raises(Replayed):
        async with transaction(region) as connection:
            await reports.record(connection, rack_id, report, NOW, head)


async def test_a_removed_racks_request_is_not_one_that_was_sent_before(region: AsyncEngine) -> None:
    with pytest.raises(NotFound):
        async with transaction(region) as connection:
            await reports.record(connection, "gone", Report(sequence=1, version="1"), NOW, Head(None, 7, ""))


async def test_a_rack_of_0_1_says_no_sequence_and_moves_none(region: AsyncEngine) -> None:
    async with transaction(region) as connection:
        rack_id = await make_rack(connection, "one")
        for sequence in (1, 2, 3):
            report = Report(sequence=sequence, version="1" if sequence < 3 else "2")
            await reports.record(connection, rack_id, report, NOW, Head(None, None, ""))
        assert await connection.scalar(text("SELECT request_sequence FROM racks")) == 0
        assert await connection.scalar(text("SELECT report_sequence FROM racks")) == 3


async def test_a_sequence_from_a_future_that_was_none_holds_back_nothing(region: AsyncEngine) -> None:
    day_ms = 24 * 3600 * 1000
    now_ms = int(NOW.timestamp() * 1000)
    async with transaction(region) as connection:
        rack_id = await make_rack(connection, "one")
        # What follows says nothing new.
        await reports.record(connection, rack_id, Report(sequence=1, version="1"), NOW, Head(None, 1, ""))
    for sequence in (now_ms + day_ms + 1000, 2**63 - 1):
        for report_sequence, request_sequence in ((sequence, 2), (2, sequence)):
            with pytest.raises(InvalidValue, match="clock"):
                async with transaction(region) as connection:
                    report = Report(sequence=report_sequence, version="1")
                    await reports.record(connection, rack_id, report, NOW, Head(None, request_sequence, ""))
    # What the region took while its own clock was ten years ahead.
    async with transaction(region) as connection:
        await connection.execute(
            text("UPDATE racks SET report_sequence = :ahead, request_sequence = :ahead"), {"ahead": 2 * now_ms}
        )
    async with transaction(region) as connection:
        await reports.record(connection, rack_id, Report(sequence=now_ms, version="1"), NOW, Head(None, now_ms, ""))
        row = (await connection.execute(text("SELECT version, report_sequence, request_sequence FROM racks"))).one()
    assert tuple(row) == ("1", now_ms, now_ms)
    with pytest.raises(Replayed):
        async with transaction(region) as connection:
            await reports.record(connection, rack_id, Report(sequence=now_ms, version="1"), NOW, Head(None, now_ms, ""))
