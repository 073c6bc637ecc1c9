"""Racks: who they are, when they were seen, which images they show."""

import hashlib
import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import barred_keys, racks
from region.database.topics import Topic, notify
from region.fleet import enrolment_tokens
from region.fleet.showing import AHEAD, LIVE_FOR, STATE
from shared.digest import Sha256
from shared.errors import (
    BarredKey,
    Conflict,
    InvalidRequestSignature,
    InvalidToken,
    InvalidValue,
    NotFound,
    Replayed,
    TokenExpired,
    TokenSpent,
    WaitsForConfirmation,
    WrongRegion,
)
from shared.signing import SEQUENCE_AHEAD, Head, decode_bytes, parse_public_key
from shared.wire.enrolment import Enrolment, EnrolmentRequest


@dataclass(frozen=True, slots=True)
class Rack:
    """A rack the region knows, by its last report.

    `epoch` and `serial` are the manifest it knows; `ahead`: that is none of ours; `knows_newest`: it is the current
    one. `images_pending` counts the images of the current manifest, `images_total` in all, that it does not show so.
    `status` is what an operator must know first (`STATUSES`).
    """

    id: str
    name: str
    fingerprint: str
    enrolled_at: datetime
    last_seen_at: datetime | None
    address: str
    version: str
    epoch: int
    serial: int
    ahead: bool
    knows_newest: bool
    images_pending: int
    images_total: int
    bytes_left: int
    bytes_free: int
    error_code: str
    error: str
    live: bool
    status: str


async def enrol(connection: AsyncConnection, envelope: bytes, region_fingerprint: str, now: datetime) -> Enrolment:
    """The rack that asked is known, and its token has one use less: both or neither.

    What was asked five minutes ago or more is refused, and so is a key that belonged to a rack which was removed: an
    enrolment that somebody has kept brings nobody back. Raises InvalidDocument, BadSignature, InvalidToken, TokenSpent,
    TokenExpired, WrongRegion, WrongClock, BarredKey; Conflict when another rack has the name.
    """
    token = await enrolment_tokens.find(connection, EnrolmentRequest.claimed_token(envelope), for_update=True)
    if token is None:
        raise InvalidToken("This enrolment token is not known to the region; make a new one.")
    request = EnrolmentRequest.open(envelope, parse_public_key(token.public_key))
    if request.region_fingerprint != region_fingerprint:
        raise WrongRegion(request.region_fingerprint, region_fingerprint)
    if token.uses_left == 0:
        raise TokenSpent("This enrolment token was used already; make a new one.")
    if token.expires_at <= now:
        raise TokenExpired("This enrolment token has expired; make a new one.")
    request.require_made_at(now)
    await enrolment_tokens.spend(connection, token)
    rack_id = uuid.uuid4().hex
    try:
        await connection.execute(
            insert(racks).values(id=rack_id, name=request.name, public_key=request.public_key, enrolled_at=now)
        )
    except IntegrityError as error:
        raise Conflict(
            f"There is a rack named {request.name} already (or its key is known); remove it, or choose another name."
        ) from error
    # Asked after the row is there: a removal that was under way has been waited for by then.
    if await connection.scalar(select(barred_keys.c.barred_at).where(barred_keys.c.public_key == request.public_key)):
        raise BarredKey
    await notify(connection, Topic.RACK_KEY, subject=rack_id)
    await notify(connection, Topic.RACKS, Topic.IMAGES)
    return Enrolment(rack_id, request.name, request.public_key, request.nonce)


def furthest_sequence(now: datetime) -> int:
    """The greatest sequence, in milliseconds since 1970, that a rack may have said by `now`."""
    return int((now + SEQUENCE_AHEAD).timestamp() * 1000)


async def advance(connection: AsyncConnection, rack_id: str, head: Head, now: datetime) -> None:
    """The request with this head counts, once, whichever process it came to: its sequence is the rack's last one now.

    To be called in the transaction that does what the request asks for. A rack of 0.1 says no sequence; its reports are
    told apart by their own. Raises NotFound; Replayed; InvalidValue for a sequence from far ahead.
    """
    if head.sequence is None:
        return
    if head.sequence > furthest_sequence(now):
        raise InvalidValue("request's sequence", head.sequence, "it lies in the future; check the rack's clock")
    raised = await connection.execute(
        text("""
            UPDATE racks SET request_sequence = :sequence
            WHERE id = :id AND (request_sequence < :sequence OR request_sequence > :furthest)
        """),
        {"sequence": head.sequence, "id": rack_id, "furthest": furthest_sequence(now)},
    )
    if raised.rowcount == 0:
        known = await connection.scalar(select(racks.c.request_sequence).where(racks.c.id == rack_id))
        if known is None:
            raise NotFound("rack", rack_id)
        raise Replayed(known, head.nonce)


async def change_key(
    connection: AsyncConnection, rack_id: str, public_key: str, head: Head, signed_by: str, now: datetime
) -> Rack:
    """The rack, known by this key (base64url) from now on; the one before is barred. The request counts once.

    Raises NotFound, Replayed; InvalidRequestSignature when the key that signed is not the rack's any more, whatever the
    process that verified it has heard; BarredKey; Conflict when the key is another rack's, or was this one's already.
    """
    await advance(connection, rack_id, head, now)
    # `advance` has locked the row: nobody removes the rack, or changes its key, meanwhile.
    name, before = (
        await connection.execute(
            select(racks.c.name, racks.c.public_key).where(racks.c.id == rack_id).with_for_update()
        )
    ).one()
    if before != signed_by:
        raise InvalidRequestSignature("the rack has another key by now")
    if before == public_key:
        raise Conflict(f"{name} has this key already; make another one.")
    if await connection.scalar(select(barred_keys.c.barred_at).where(barred_keys.c.public_key == public_key)):
        raise BarredKey
    try:
        await connection.execute(update(racks).where(racks.c.id == rack_id).values(public_key=public_key))
    except IntegrityError as error:
        raise Conflict("Another rack has this key; make another one.") from error
    await connection.execute(insert(barred_keys).values(public_key=before, rack_name=name, barred_at=now))
    await notify(connection, Topic.RACK_KEY, subject=rack_id)
    await notify(connection, Topic.RACKS)
    return await get(connection, rack_id, now)


async def seen(connection: AsyncConnection, moments: Mapping[str, datetime]) -> None:
    """Remember when racks (by id) were last seen; a moment never moves back. Told where one was out of reach before."""
    if not moments:
        return
    given = {"ids": list(moments), "moments": list(moments.values())}
    back = await connection.scalar(
        text("""
            SELECT count(*) FROM racks
            JOIN unnest(CAST(:ids AS text[]), CAST(:moments AS timestamptz[])) AS given (id, moment) USING (id)
            WHERE coalesce(last_seen_at <= given.moment - CAST(:live_for AS interval), true)
        """),
        given | {"live_for": LIVE_FOR},
    )
    await connection.execute(
        text("""
            UPDATE racks SET last_seen_at = given.moment
            FROM unnest(CAST(:ids AS text[]), CAST(:moments AS timestamptz[])) AS given (id, moment)
            WHERE racks.id = given.id AND coalesce(given.moment > racks.last_seen_at, true)
        """),
        given,
    )
    if back:
        await notify(connection, Topic.RACKS, Topic.IMAGES)


STATUSES = (
    "never_seen",
    "unreachable",
    "ahead",
    "waiting_for_operator",
    "failing",
    "pulling",
    "outdated",
    "synced",
)
"""What a rack is; of several that hold, the first. The API says what each means."""

_RACKS = f"""
    listed AS (SELECT racks.* FROM racks WHERE {{where}}),
    newest AS (SELECT epoch, serial FROM manifests ORDER BY epoch DESC, serial DESC LIMIT 1),
    totals AS (SELECT count(*) AS images FROM published_images),
    steps AS MATERIALIZED (
        SELECT known.serial, (SELECT count(*) FROM published_images WHERE since > known.serial) AS images
        FROM (SELECT DISTINCT serial FROM listed) AS known
    ),
    exceptions AS (
        SELECT listed.id, count(*) AS images
        FROM listed JOIN rack_images ON rack_images.rack_id = listed.id JOIN published_images USING (image)
        WHERE published_images.since <= listed.serial
        GROUP BY listed.id
    ),
    compared AS (
        SELECT racks.*, coalesce(racks.last_seen_at > :live_after, false) AS live, {AHEAD} AS is_ahead,
               totals.images AS images_total,
               CASE WHEN {AHEAD} OR racks.epoch <> region.epoch THEN totals.images
                    ELSE steps.images + coalesce(exceptions.images, 0)
               END AS images_pending,
               (racks.epoch, racks.serial) = (coalesce(newest.epoch, 0), coalesce(newest.serial, 0)) AS knows_newest
        FROM listed AS racks
        CROSS JOIN region CROSS JOIN totals LEFT JOIN newest ON true
        JOIN steps ON steps.serial = racks.serial
        LEFT JOIN exceptions ON exceptions.id = racks.id
    ),
    judged AS (
        SELECT compared.*,
               CASE WHEN last_seen_at IS NULL THEN 'never_seen'
                    WHEN NOT live THEN 'unreachable'
                    WHEN is_ahead THEN 'ahead'
                    WHEN error_code = '{WaitsForConfirmation.code}' THEN 'waiting_for_operator'
                    WHEN error <> '' THEN 'failing'
                    WHEN bytes_left > 0 THEN 'pulling'
                    WHEN images_pending > 0 OR NOT knows_newest THEN 'outdated'
                    ELSE 'synced'
               END AS status
        FROM compared
    )
"""
_LIST = "SELECT * FROM judged ORDER BY name"
_PAGE = text("WITH " + _RACKS.format(where="name > coalesce(:after, '') ORDER BY name LIMIT :limit") + _LIST)
_ONE = text("WITH " + _RACKS.format(where="id = :id") + _LIST)
_COUNTED = text(
    "WITH "
    + _RACKS.format(where="true")
    + """
    SELECT status, count(*) AS racks, sum(bytes_left)::bigint AS bytes_left,
           min(bytes_free) FILTER (WHERE live) AS free,
           min(last_seen_at) AS first_seen_at, max(last_seen_at) AS last_seen_at
    FROM judged GROUP BY status
"""
)


async def list_page(
    connection: AsyncConnection, now: datetime, *, limit: int = 10_000, after: str | None = None
) -> list[Rack]:
    """Racks by name, those after the name `after`."""
    rows = await connection.execute(_PAGE, {"live_after": now - LIVE_FOR, "after": after, "limit": limit})
    return [_rack(row) for row in rows]


async def get(connection: AsyncConnection, rack_id: str, now: datetime) -> Rack:
    """The rack. Raises NotFound."""
    row = (await connection.execute(_ONE, {"live_after": now - LIVE_FOR, "id": rack_id})).one_or_none()
    if row is None:
        raise NotFound("rack", rack_id)
    return _rack(row)


def _rack(row: Any) -> Rack:
    values = {name: getattr(row, name) for name in Rack.__slots__ if name not in ("fingerprint", "ahead")}
    return Rack(fingerprint=_fingerprint(row.public_key), ahead=row.is_ahead, **values)


def _fingerprint(public_key: str) -> str:
    # As shared.signing.fingerprint, without making a key of each: a page of racks verifies nothing.
    return hashlib.sha256(decode_bytes(public_key)).hexdigest()


@dataclass(frozen=True, slots=True)
class Lacking:
    """An image that a rack does not show as published, by its last report.

    `state` is `pending` (the rack says so), `behind` (it does not know the manifest that says so yet) or `ahead`.
    `shown_version` is what machines get of it meanwhile and `code` why, as the rack says; empty where it says nothing.
    """

    image: str
    state: str
    shown_version: str
    code: str


async def lacking(connection: AsyncConnection, rack_id: str) -> list[Lacking]:
    """The published images that the rack does not show as published, by id."""
    rows = await connection.execute(
        text(f"""
            SELECT * FROM (
                SELECT published_images.image, {STATE} AS state,
                       coalesce(rack_images.shown_version, '') AS shown_version, coalesce(rack_images.code, '') AS code
                FROM racks CROSS JOIN region CROSS JOIN published_images
                LEFT JOIN rack_images ON (rack_images.rack_id, rack_images.image) = (racks.id, published_images.image)
                WHERE racks.id = :id
            ) AS found WHERE state <> 'shown' ORDER BY image
        """),
        {"id": rack_id},
    )
    return [Lacking(**row) for row in rows.mappings()]


@dataclass(frozen=True, slots=True)
class OnRack:
    """How an image is on one rack.

    `state` is `shown`, or a word of `Lacking`, or `unreachable` for a rack that is not live; `shown_version` is what
    machines get of it there, empty where that is nothing or not known.
    """

    rack_id: str
    name: str
    live: bool
    state: str
    shown_version: str
    code: str


async def on_racks(
    connection: AsyncConnection, image: str, now: datetime, *, limit: int = 10_000, after: str | None = None
) -> list[OnRack]:
    """Where an image is, rack by rack, by name, those after the name `after`. An unpublished image is on none."""
    rows = await connection.execute(
        text(f"""
            WITH listed AS (
                SELECT * FROM racks WHERE name > coalesce(:after, '') ORDER BY name LIMIT :limit
            ),
            found AS (
                SELECT racks.id AS rack_id, racks.name, coalesce(racks.last_seen_at > :live_after, false) AS live,
                       CASE WHEN published_images.image IS NULL THEN 'behind' ELSE {STATE} END AS state,
                       published_images.version, rack_images.shown_version, coalesce(rack_images.code, '') AS code
                FROM listed AS racks CROSS JOIN region
                LEFT JOIN published_images ON published_images.image = :image
                LEFT JOIN rack_images ON (rack_images.rack_id, rack_images.image) = (racks.id, :image)
            )
            SELECT rack_id, name, live, CASE WHEN live THEN state ELSE 'unreachable' END AS state,
                   CASE WHEN state = 'shown' THEN version ELSE coalesce(shown_version, '') END AS shown_version, code
            FROM found ORDER BY name
        """),
        {"live_after": now - LIVE_FOR, "image": image, "after": after, "limit": limit},
    )
    return [OnRack(**row) for row in rows.mappings()]


async def is_published(connection: AsyncConnection, image: str) -> bool:
    """True if the current manifest names the image, or the bootloader of that name."""
    found = await connection.scalar(
        text("SELECT count(*) FROM published_images WHERE image = :image"), {"image": image}
    )
    return bool(found)


@dataclass(frozen=True, slots=True)
class Counted:
    """What monitoring wants of the racks, all together.

    `bytes_free` is that of the live rack with the least, None where none is live. `first_seen_at` is when the rack was
    heard that was heard longest ago, `last_seen_at` when one was heard last; None before the first.
    """

    by_status: dict[str, int]
    bytes_left: int
    bytes_free: int | None
    first_seen_at: datetime | None
    last_seen_at: datetime | None

    @property
    def live(self) -> int:
        """How many were heard within three polls."""
        return sum(self.by_status.values()) - self.by_status["never_seen"] - self.by_status["unreachable"]


async def counted(connection: AsyncConnection, now: datetime) -> Counted:
    """How many racks have which status, and what they come to. Every status has its number, however many racks."""
    rows = (await connection.execute(_COUNTED, {"live_after": now - LIVE_FOR})).all()
    return Counted(
        by_status=dict.fromkeys(STATUSES, 0) | {row.status: row.racks for row in rows},
        bytes_left=sum(row.bytes_left for row in rows),
        bytes_free=min((row.free for row in rows if row.free is not None), default=None),
        first_seen_at=min((row.first_seen_at for row in rows if row.first_seen_at is not None), default=None),
        last_seen_at=max((row.last_seen_at for row in rows if row.last_seen_at is not None), default=None),
    )


async def remove(connection: AsyncConnection, rack_id: str, now: datetime) -> None:
    """Forget a rack and bar its key, for ever: whoever has it enrols with another. What lies on its disk stays there.

    Raises NotFound.
    """
    await connection.execute(
        text("""
            INSERT INTO barred_keys (public_key, rack_name, barred_at)
            SELECT public_key, name, :now FROM racks WHERE id = :id FOR UPDATE
            ON CONFLICT DO NOTHING
        """),
        {"id": rack_id, "now": now},
    )
    if (await connection.execute(delete(racks).where(racks.c.id == rack_id))).rowcount == 0:
        raise NotFound("rack", rack_id)
    await notify(connection, Topic.RACK_KEY, subject=rack_id)
    await notify(connection, Topic.RACKS, Topic.IMAGES)


@dataclass(frozen=True, slots=True)
class Room:
    """What a rack would have free after pulling some files, in bytes; negative says that they do not fit."""

    name: str
    free_bytes: int
    free_bytes_after: int


async def tightest(connection: AsyncConnection, needed: Mapping[Sha256, int], now: datetime) -> Room | None:
    """The live rack with the least room left once it holds `needed` (digest to size); None without racks.

    A rack still pulls what it says is left; of `needed` the files of held versions are part of that, or there already.
    """
    row = (
        await connection.execute(
            text("""
                WITH fresh AS (
                    SELECT coalesce(sum(given.size), 0)::bigint AS bytes
                    FROM unnest(CAST(:digests AS text[]), CAST(:sizes AS bigint[])) AS given (sha256, size)
                    WHERE NOT EXISTS (
                        SELECT FROM items JOIN versions ON versions.id = items.version_id
                        WHERE items.sha256 = given.sha256 AND versions.held_at IS NOT NULL
                    )
                )
                SELECT racks.name, racks.bytes_free AS free_bytes,
                       racks.bytes_free - racks.bytes_left - fresh.bytes AS free_bytes_after
                FROM racks CROSS JOIN fresh
                WHERE racks.last_seen_at > :live_after
                ORDER BY free_bytes_after, racks.name LIMIT 1
            """),
            {"digests": list(needed), "sizes": list(needed.values()), "live_after": now - LIVE_FOR},
        )
    ).one_or_none()
    return None if row is None else Room(row.name, row.free_bytes, row.free_bytes_after)
