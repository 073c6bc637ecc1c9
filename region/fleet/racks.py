"""Racks: who they are, when they were seen, what they report to hold."""

import uuid
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import enrolment_tokens, rack_files, racks
from region.database.topics import Topic, notify
from shared import promises
from shared.digest import Sha256
from shared.errors import Conflict, InvalidToken, InvalidValue, NotFound, TokenExpired, TokenSpent, WrongRegion
from shared.signing import encode_bytes, fingerprint, parse_public_key, public_bytes
from shared.wire.enrolment import Enrolment, EnrolmentRequest, EnrolmentToken
from shared.wire.report import OldReport

LIVE_FOR = promises.LIVE_FOR
TOKEN_LIFETIME = timedelta(hours=24)
REPORT_AHEAD = timedelta(days=1)


@dataclass(frozen=True, slots=True)
class Rack:
    """A rack the region knows. `bytes_left` and `bytes_free` as it reported them; `held` counts its files."""

    id: str
    name: str
    fingerprint: str
    enrolled_at: datetime
    last_seen_at: datetime | None
    address: str
    version: str
    epoch: int
    serial: int
    bytes_left: int
    bytes_free: int
    error_code: str
    error: str
    held: int
    live: bool


async def create_token(
    connection: AsyncConnection, region_fingerprint: str, now: datetime, *, lifetime: timedelta, uses: int = 1
) -> tuple[EnrolmentToken, datetime]:
    """A new enrolment token, to be shown once, and when it expires."""
    key = Ed25519PrivateKey.generate()
    expires_at = now + lifetime
    await connection.execute(
        insert(enrolment_tokens).values(
            id=fingerprint(key),
            public_key=encode_bytes(public_bytes(key)),
            created_at=now,
            expires_at=expires_at,
            uses_left=uses,
        )
    )
    return EnrolmentToken(region_fingerprint, key.private_bytes_raw()), expires_at


async def enrol(connection: AsyncConnection, envelope: bytes, region_fingerprint: str, now: datetime) -> Enrolment:
    """The rack that asked is known from now on, and its token has one use less: both or neither.

    Raises InvalidDocument, BadSignature, InvalidToken, TokenSpent, TokenExpired, WrongRegion; Conflict when another
    rack has the name.
    """
    token_id = EnrolmentRequest.claimed_token(envelope)
    token = (
        await connection.execute(select(enrolment_tokens).where(enrolment_tokens.c.id == token_id).with_for_update())
    ).one_or_none()
    if token is None:
        raise InvalidToken("This enrolment token is not known to the region; make a new one.")
    request = EnrolmentRequest.open(envelope, parse_public_key(token.public_key))
    if request.region_fingerprint != region_fingerprint:
        raise WrongRegion(request.region_fingerprint, region_fingerprint)
    if token.uses_left == 0:
        raise TokenSpent("This enrolment token was used already; make a new one.")
    if token.expires_at <= now:
        raise TokenExpired("This enrolment token has expired; make a new one.")
    await connection.execute(
        update(enrolment_tokens).where(enrolment_tokens.c.id == token_id).values(uses_left=token.uses_left - 1)
    )
    rack_id = uuid.uuid4().hex
    try:
        await connection.execute(
            insert(racks).values(id=rack_id, name=request.name, public_key=request.public_key, enrolled_at=now)
        )
    except IntegrityError as error:
        raise Conflict(
            f"There is a rack named {request.name} already (or its key is known); remove it, or choose another name."
        ) from error
    await notify(connection, Topic.RACKS, Topic.IMAGES)
    return Enrolment(rack_id, request.name, request.public_key)


async def keys(connection: AsyncConnection) -> dict[str, Ed25519PublicKey]:
    """The public key of every rack, by id."""
    rows = await connection.execute(select(racks.c.id, racks.c.public_key))
    return {row.id: parse_public_key(row.public_key) for row in rows}


async def seen(connection: AsyncConnection, moments: Mapping[str, datetime]) -> None:
    """Remember when racks (by id) were last seen; a moment never moves back."""
    if moments:
        await connection.execute(
            text("""
                UPDATE racks SET last_seen_at = greatest(racks.last_seen_at, given.moment)
                FROM unnest(CAST(:ids AS text[]), CAST(:moments AS timestamptz[])) AS given (id, moment)
                WHERE racks.id = given.id
            """),
            {"ids": list(moments), "moments": list(moments.values())},
        )


async def record_report(connection: AsyncConnection, rack_id: str, report: OldReport, now: datetime) -> None:
    """Take in what a rack says it holds; a report older than the last one changes nothing.

    Raises NotFound; InvalidValue for a report from far ahead, after which none could be newer.
    """
    if report.sequence > (now + REPORT_AHEAD).timestamp() * 1000:
        raise InvalidValue("report's sequence", report.sequence, "it lies in the future; check the rack's clock")
    known = await connection.scalar(select(racks.c.report_sequence).where(racks.c.id == rack_id).with_for_update())
    if known is None:
        raise NotFound("rack", rack_id)
    if report.sequence <= known:
        return
    await connection.execute(
        update(racks)
        .where(racks.c.id == rack_id)
        .values(
            last_seen_at=now,
            address=report.address,
            version=report.version,
            epoch=report.epoch,
            serial=report.serial,
            report_sequence=report.sequence,
            bytes_left=report.bytes_left,
            bytes_free=report.bytes_free,
            error_code=report.error_code,
            error=report.error,
        )
    )
    held = sorted(report.held)
    await connection.execute(
        delete(rack_files).where(rack_files.c.rack_id == rack_id, text("NOT sha256 = ANY(:held)")), {"held": held}
    )
    await connection.execute(
        text("""
            INSERT INTO rack_files (rack_id, sha256)
            SELECT :rack_id, given FROM unnest(CAST(:held AS text[])) AS given
            ON CONFLICT DO NOTHING
        """),
        {"rack_id": rack_id, "held": held},
    )
    await notify(connection, Topic.RACKS, Topic.IMAGES)


async def list_all(connection: AsyncConnection, now: datetime) -> list[Rack]:
    """All racks, by name."""
    rows = await connection.execute(
        text("""
            SELECT racks.*, (SELECT count(*) FROM rack_files WHERE rack_id = racks.id) AS held,
                   coalesce(last_seen_at > :live_after, false) AS live
            FROM racks ORDER BY name
        """),
        {"live_after": now - LIVE_FOR},
    )
    return [
        Rack(
            fingerprint=fingerprint(parse_public_key(row.public_key)),
            **{name: getattr(row, name) for name in Rack.__slots__ if name != "fingerprint"},
        )
        for row in rows
    ]


async def get(connection: AsyncConnection, rack_id: str, now: datetime) -> Rack:
    """The rack. Raises NotFound."""
    for rack in await list_all(connection, now):
        if rack.id == rack_id:
            return rack
    raise NotFound("rack", rack_id)


async def remove(connection: AsyncConnection, rack_id: str) -> None:
    """Forget a rack: its key opens nothing from now on. What lies on its disk stays there. Raises NotFound."""
    if (await connection.execute(delete(racks).where(racks.c.id == rack_id))).rowcount == 0:
        raise NotFound("rack", rack_id)
    await notify(connection, Topic.RACKS, Topic.IMAGES)


@dataclass(frozen=True, slots=True)
class Room:
    """What a rack would have free after pulling some files, in bytes; negative says that they do not fit."""

    name: str
    free_bytes: int
    free_bytes_after: int


async def tightest(connection: AsyncConnection, needed: Mapping[Sha256, int], now: datetime) -> Room | None:
    """The live rack with the least room left once it holds `needed` (digest to size); None without racks."""
    row = (
        await connection.execute(
            text("""
                SELECT racks.name, racks.bytes_free AS free_bytes,
                       (racks.bytes_free
                        - coalesce(sum(given.size) FILTER (WHERE rack_files.sha256 IS NULL), 0))::bigint
                       AS free_bytes_after
                FROM racks
                LEFT JOIN unnest(CAST(:digests AS text[]), CAST(:sizes AS bigint[])) AS given (sha256, size) ON true
                LEFT JOIN rack_files ON rack_files.rack_id = racks.id AND rack_files.sha256 = given.sha256
                WHERE racks.last_seen_at > :live_after
                GROUP BY racks.id ORDER BY free_bytes_after LIMIT 1
            """),
            {"digests": list(needed), "sizes": list(needed.values()), "live_after": now - LIVE_FOR},
        )
    ).one_or_none()
    return None if row is None else Room(row.name, row.free_bytes, row.free_bytes_after)
