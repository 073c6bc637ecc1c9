"""Reports: what racks say they lack, taken in by exception.

- A report older than the last one changes nothing. One whose request was sent before is refused.
- A sequence more than a day ahead is of a clock that was wrong, the region's own or a rack's: it holds back nothing.
- A report that says what the last one said is one UPDATE of columns that no index covers, and nobody is told.
- What else it says replaces what the rack said before; the images it lacks by difference.
- Free bytes are no news: they change with every line a rack logs. They are written down and nobody is told.
"""

import hashlib
from datetime import datetime

import msgspec
from sqlalchemy import Row, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import manifests, racks, region
from region.database.topics import Topic
from region.fleet import racks as racks_known
from region.fleet.racks import furthest_sequence
from region.fleet.showing import LIVE_FOR
from shared.errors import InvalidValue, NotFound
from shared.signing import Head
from shared.wire.manifest import Manifest
from shared.wire.report import Fault, Knows, OldReport, Pending, Report

MAX_PENDING = 10_000
"""So many images that a rack lacks are kept; more than any region publishes."""

NOTHING_NEW: frozenset[Topic] = frozenset()

_SAME = text("""
    UPDATE racks
    SET last_seen_at = :now, report_sequence = :sequence, bytes_free = :bytes_free,
        request_sequence = coalesce(CAST(:request_sequence AS bigint), request_sequence)
    WHERE id = :id AND report_digest = :digest AND report_sequence < :sequence AND last_seen_at > :live_after
      AND coalesce(request_sequence < CAST(:request_sequence AS bigint), true)
""")

_BEFORE = text("SELECT report_sequence, last_seen_at, epoch, serial, ahead FROM racks WHERE id = :id FOR UPDATE")


async def record(
    connection: AsyncConnection, rack_id: str, report: Report, now: datetime, head: Head | None = None
) -> frozenset[Topic]:
    """Take in what a rack says of itself; answers the topics that changed by it, to be told after the commit.

    `head` is of the signed request it came in, which counts once. Raises NotFound; Replayed; InvalidValue for a report
    from far ahead, after which none could be newer.
    """
    furthest, request_sequence = furthest_sequence(now), None if head is None else head.sequence
    for what, sequence in (("report's sequence", report.sequence), ("request's sequence", request_sequence or 0)):
        if sequence > furthest:
            raise InvalidValue(what, sequence, "it lies in the future; check the rack's clock")
    digest = _digest(report)
    given = {
        "now": now,
        "sequence": report.sequence,
        "bytes_free": report.bytes_free,
        "id": rack_id,
        "digest": digest,
        "live_after": now - LIVE_FOR,
        "request_sequence": request_sequence,
    }
    if (await connection.execute(_SAME, given)).rowcount:
        return NOTHING_NEW
    if head is not None:
        await racks_known.advance(connection, rack_id, head, now)
    known = (await connection.execute(_BEFORE, {"id": rack_id})).one_or_none()
    if known is None:
        raise NotFound("rack", rack_id)
    if report.sequence <= known.report_sequence <= furthest:
        return NOTHING_NEW
    ahead = await _is_ahead(connection, report.knows)
    await connection.execute(
        update(racks)
        .where(racks.c.id == rack_id)
        .values(
            last_seen_at=now,
            address=report.address,
            version=report.version,
            epoch=report.knows.epoch,
            serial=report.knows.serial,
            knows_sha256=report.knows.sha256,
            ahead=ahead,
            report_sequence=report.sequence,
            report_digest=digest,
            bytes_left=report.bytes_left,
            bytes_free=report.bytes_free,
            error_code=report.error.code,
            error=report.error.sentence,
        )
    )
    changed = await _replace_pending(connection, rack_id, report.pending)
    if changed or _moved(known, report, ahead, now):
        return frozenset({Topic.RACKS, Topic.IMAGES})
    return frozenset({Topic.RACKS})


async def modern(connection: AsyncConnection, report: OldReport, manifest: Manifest | None) -> Report:
    """A report of version 1 as one of version 2, which names what is lacking of `manifest`, the current one.

    Pending are the images that changed after the manifest whose tree the rack serves, and those of which it lacks a
    file. What it knows is named by our digest of that manifest, where we have one.
    """
    pending: set[str] = set()
    if manifest is not None:
        pending = {
            image
            for image, entries in manifest.images().items()
            if any(entry.sha256 not in report.held for entry in entries)
        }
        if report.epoch == manifest.epoch:
            pending |= set(
                await connection.scalars(
                    text("SELECT image FROM published_images WHERE since > :serial"), {"serial": report.serial}
                )
            )
    return Report(
        sequence=report.sequence,
        version=report.version,
        address=report.address,
        knows=Knows(report.epoch, report.serial, await _sha256_of(connection, report.epoch, report.serial) or ""),
        pending=tuple(Pending(image) for image in sorted(pending)),
        bytes_left=report.bytes_left,
        bytes_free=report.bytes_free,
        error=Fault(report.error_code, report.error),
    )


def _digest(report: Report) -> str:
    said = msgspec.structs.replace(report, bytes_free=0).says()
    return hashlib.sha256(said).hexdigest()[:32]


def _moved(known: Row[tuple[object, ...]], report: Report, ahead: bool, now: datetime) -> bool:
    """True if the rack may count for other images than before."""
    was_live = known.last_seen_at is not None and known.last_seen_at > now - LIVE_FOR
    return not was_live or (known.epoch, known.serial, known.ahead) != (*report.knows.order, ahead)


async def _is_ahead(connection: AsyncConnection, knows: Knows) -> bool:
    """True if what the rack knows is no manifest of ours: the database was restored, or made anew under another clock.

    Digests of earlier epochs, and of manifests that were published before digests were kept, are not known; they are
    taken for ours.
    """
    if knows.order == (0, 0):
        return False
    newest = (await connection.execute(select(region.c.epoch, region.c.serial))).one()
    if knows.order > (newest.epoch, newest.serial):
        return True
    ours = await _sha256_of(connection, *knows.order)
    return bool(ours) and ours != knows.sha256


async def _sha256_of(connection: AsyncConnection, epoch: int, serial: int) -> str | None:
    found: str | None = await connection.scalar(
        select(manifests.c.sha256).where(manifests.c.epoch == epoch, manifests.c.serial == serial)
    )
    return found


async def _replace_pending(connection: AsyncConnection, rack_id: str, pending: tuple[Pending, ...]) -> bool:
    """True if the rack lacks other images than before, or for other reasons."""
    kept = {entry.image: entry for entry in pending[:MAX_PENDING]}
    gone = await connection.execute(
        text("DELETE FROM rack_images WHERE rack_id = :rack_id AND image <> ALL(:images)"),
        {"rack_id": rack_id, "images": list(kept)},
    )
    if not kept:
        return gone.rowcount > 0
    written = await connection.execute(
        text("""
            INSERT INTO rack_images (rack_id, image, shown_version, code)
            SELECT :rack_id, given.image, given.shown_version, given.code
            FROM unnest(CAST(:images AS text[]), CAST(:shown AS text[]), CAST(:codes AS text[]))
                 AS given (image, shown_version, code)
            ON CONFLICT (rack_id, image) DO UPDATE
            SET shown_version = excluded.shown_version, code = excluded.code
            WHERE (rack_images.shown_version, rack_images.code) <> (excluded.shown_version, excluded.code)
        """),
        {
            "rack_id": rack_id,
            "images": list(kept),
            "shown": [entry.shown_version for entry in kept.values()],
            "codes": [entry.code for entry in kept.values()],
        },
    )
    return gone.rowcount + written.rowcount > 0
