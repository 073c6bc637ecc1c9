"""Let racks in, ask them to poll, and send them away: enrolment tokens, enrolment, removal."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.database.topics import Topic, notify
from region.fleet import enrolment_tokens, racks
from region.fleet.enrolment_tokens import Token
from region.fleet.racks import Rack
from region.people import activity
from region.people.activity import Actor
from shared.signing import Head
from shared.wire.enrolment import Enrolment, EnrolmentToken

ENROLMENT_ATTEMPTS = 20
"""So many enrolments from one address may fail within a minute."""

ENROLMENT_ATTEMPTS_IN_TOTAL = 300
"""And so many from all addresses."""


def subject(rack_id: str) -> str:
    """How the activity names a rack."""
    return f"rack:{rack_id}"


def etag(rack: Rack) -> str:
    """A rack's ETag: who it is. What it reports is no part of it."""
    return guard.tag("rack", id=rack.id, name=rack.name, fingerprint=rack.fingerprint, enrolled_at=rack.enrolled_at)


def token_subject(token_id: str) -> str:
    """How the activity names an enrolment token."""
    return f"enrolment_token:{token_id}"


def token_etag(token: Token) -> str:
    """An enrolment token's ETag. How often it was used is no part of it."""
    return guard.tag("enrolment_token", id=token.id, created_at=token.created_at, expires_at=token.expires_at)


async def make_enrolment_token(
    connection: AsyncConnection,
    actor: Actor,
    region_fingerprint: str,
    now: datetime,
    *,
    lifetime: timedelta,
    uses: int = 1,
) -> tuple[EnrolmentToken, Token]:
    """A token that lets `uses` racks enrol, to be shown once, and what is known of it."""
    secret, token = await enrolment_tokens.create_token(
        connection, region_fingerprint, now, lifetime=lifetime, uses=uses, made_by=actor.name
    )
    await activity.record(
        connection,
        actor,
        now,
        "enrolment_token.created",
        f"Made an enrolment token for {uses} rack{'s' if uses > 1 else ''}.",
        subject=token_subject(token.id),
        after=_recorded(token),
    )
    return secret, token


async def revoke_enrolment_token(
    connection: AsyncConnection, actor: Actor, token_id: str, now: datetime, *, if_match: str | None = None
) -> None:
    """The token lets nobody in any longer; racks that enrolled with it stay. Raises NotFound, PreconditionFailed."""
    token = await enrolment_tokens.get(connection, token_id, for_update=True)
    subject = token_subject(token_id)
    await guard.require_unchanged(connection, if_match, token_etag(token), subject, "the enrolment token")
    await enrolment_tokens.remove(connection, token_id)
    sentence = f"Revoked the enrolment token {token_id[:12]}."
    await activity.record(
        connection, actor, now, "enrolment_token.removed", sentence, subject=subject, before=_recorded(token)
    )


def _recorded(token: Token) -> dict[str, str | int]:
    return {"made_by": token.made_by, "expires_at": token.expires_at.isoformat(), "uses_left": token.uses_left}


async def note_refused_enrolments(connection: AsyncConnection, address: str, now: datetime) -> None:
    """Write down that so many enrolments from one address failed that no more are taken for a while."""
    await activity.record(
        connection,
        Actor("somebody unknown", address),
        now,
        "enrolment.refused",
        f"Failed to enrol {ENROLMENT_ATTEMPTS} times within a minute; more are refused from there for a while.",
        subject=f"address:{address}",
    )


async def enrol(
    connection: AsyncConnection, envelope: bytes, region_fingerprint: str, address: str, now: datetime
) -> Enrolment:
    """The rack that asked from `address` is known now, and its token has one use less: both or neither.

    Raises InvalidDocument, BadSignature, InvalidToken, TokenSpent, TokenExpired, WrongRegion, WrongClock, BarredKey;
    Conflict when another rack has the name.
    """
    enrolment = await racks.enrol(connection, envelope, region_fingerprint, now)
    await activity.record(
        connection,
        Actor(enrolment.name, address),
        now,
        "rack.enrolled",
        f"Enrolled as the rack {enrolment.name}.",
        subject=subject(enrolment.rack_id),
        after={"id": enrolment.rack_id, "name": enrolment.name},
    )
    return enrolment


async def ask_to_poll(connection: AsyncConnection, actor: Actor, rack_id: str | None, now: datetime) -> int:
    """Ask a rack, or all of them, to poll now; how many of them are live.

    They hear of it where they listen to the region's hints, and keep to the limits of those. One that is not live asks
    when it is back. Raises NotFound.
    """
    if rack_id is None:
        live = (await racks.counted(connection, now)).live
        await notify(connection, Topic.POLL)
        sentence, about = "Asked all racks to poll now.", "racks"
    else:
        rack = await racks.get(connection, rack_id, now)
        live = int(rack.live)
        await notify(connection, Topic.POLL, subject=rack_id)
        sentence, about = f"Asked the rack {rack.name} to poll now.", subject(rack_id)
    await activity.record(connection, actor, now, "rack.asked_to_poll", sentence, subject=about)
    return live


async def change_key(
    connection: AsyncConnection,
    rack_id: str,
    public_key: str,
    head: Head,
    signed_by: str,
    address: str,
    now: datetime,
) -> None:
    """The rack that asked from `address` is known by this key from now on; the one before opens nothing any more.

    `signed_by` is the key of the request. Raises NotFound, Replayed, InvalidRequestSignature, BarredKey, Conflict.
    """
    before = await racks.get(connection, rack_id, now)
    after = await racks.change_key(connection, rack_id, public_key, head, signed_by, now)
    await activity.record(
        connection,
        Actor(after.name, address),
        now,
        "rack.key_rotated",
        f"Put the key {after.fingerprint[:16]} in the place of {before.fingerprint[:16]}, which vouches for it.",
        subject=subject(rack_id),
        before={"fingerprint": before.fingerprint},
        after={"fingerprint": after.fingerprint},
    )


async def remove(
    connection: AsyncConnection, actor: Actor, rack_id: str, now: datetime, *, if_match: str | None = None
) -> None:
    """Forget a rack: its key opens nothing afterwards, and never enrols again. What lies on its disk stays there.

    Raises NotFound, PreconditionFailed.
    """
    # Of what describes a rack only its key changes, and whichever it has is barred: there is nothing to lock. Of two
    # who remove it at once, the second finds that it is gone.
    rack = await racks.get(connection, rack_id, now)
    await guard.require_unchanged(connection, if_match, etag(rack), subject(rack_id), f"the rack {rack.name}")
    await racks.remove(connection, rack_id, now)
    before = {"id": rack.id, "name": rack.name, "fingerprint": rack.fingerprint}
    sentence = f"Removed the rack {rack.name}."
    await activity.record(connection, actor, now, "rack.removed", sentence, subject=subject(rack_id), before=before)
