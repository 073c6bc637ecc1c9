"""Let racks in and send them away: enrolment tokens, enrolment, removal."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.fleet import racks
from region.fleet.racks import Rack
from region.people import activity
from region.people.activity import Actor
from shared.wire.enrolment import Enrolment, EnrolmentToken


def subject(rack_id: str) -> str:
    """How the activity names a rack."""
    return f"rack:{rack_id}"


def etag(rack: Rack) -> str:
    """A rack's ETag: who it is. What it reports is no part of it."""
    return guard.tag("rack", id=rack.id, name=rack.name, fingerprint=rack.fingerprint, enrolled_at=rack.enrolled_at)


async def make_enrolment_token(
    connection: AsyncConnection,
    actor: Actor,
    region_fingerprint: str,
    now: datetime,
    *,
    lifetime: timedelta,
    uses: int = 1,
) -> tuple[EnrolmentToken, datetime]:
    """A token that lets `uses` racks enrol, to be shown once, and when it expires."""
    token, expires_at = await racks.create_token(connection, region_fingerprint, now, lifetime=lifetime, uses=uses)
    sentence = f"Made an enrolment token for {uses} rack{'s' if uses > 1 else ''}."
    await activity.record(connection, actor, now, "enrolment_token.created", sentence, subject="enrolment_tokens")
    return token, expires_at


async def enrol(
    connection: AsyncConnection, envelope: bytes, region_fingerprint: str, address: str, now: datetime
) -> Enrolment:
    """The rack that asked from `address` is known now, and its token has one use less: both or neither.

    Raises InvalidDocument, BadSignature, InvalidToken, TokenSpent, TokenExpired, WrongRegion; Conflict when another
    rack has the name.
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


async def remove(
    connection: AsyncConnection, actor: Actor, rack_id: str, now: datetime, *, if_match: str | None = None
) -> None:
    """Forget a rack: its key opens nothing afterwards. What lies on its disk stays there.

    Raises NotFound, PreconditionFailed.
    """
    # What describes a rack never changes while it is there, so there is nothing to lock; of two who remove it at once,
    # the second finds that it is gone.
    rack = await racks.get(connection, rack_id, now)
    await guard.require_unchanged(connection, if_match, etag(rack), subject(rack_id), f"the rack {rack.name}")
    await racks.remove(connection, rack_id)
    before = {"id": rack.id, "name": rack.name, "fingerprint": rack.fingerprint}
    sentence = f"Removed the rack {rack.name}."
    await activity.record(connection, actor, now, "rack.removed", sentence, subject=subject(rack_id), before=before)
