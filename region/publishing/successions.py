"""The keys this region had, each with the envelope in which it names the one after it (`shared.wire.succession`)."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import successions
from shared.errors import Conflict
from shared.signing import fingerprint
from shared.wire.succession import MAX_SUCCESSIONS, Signed, sign

OVERLAP = timedelta(days=30)
"""So long after a rotation, racks may send requests that are meant for the key before.

Those that cannot follow, because something is wrong with them, can still report that.
"""


@dataclass(frozen=True, slots=True)
class Kept:
    """A succession, and the fingerprint of the key that was left `made_at`."""

    before: str
    signed: Signed
    made_at: datetime


async def write(
    connection: AsyncConnection, before: Ed25519PrivateKey, after: Ed25519PrivateKey, now: datetime
) -> None:
    """The key `after` comes after `before`. Raises Conflict for one that this region had already."""
    known = await connection.scalars(select(successions.c.before))
    if fingerprint(after) in {fingerprint(before), *known}:
        raise Conflict(
            f"The next key, {fingerprint(after)[:16]}…, is one that this region had before; remove the file"
            " region.key.new, and try again."
        )
    signed = sign(before, after.public_key(), now)
    await connection.execute(
        insert(successions).values(
            before=fingerprint(before), public_key=signed.key, envelope=signed.envelope, made_at=now
        )
    )


async def forget(connection: AsyncConnection) -> None:
    """No key leads to the present one: the last of them was lost."""
    await connection.execute(delete(successions))


async def newest(connection: AsyncConnection) -> tuple[Kept, ...]:
    """The newest ones that fit into one answer, oldest first."""
    rows = await connection.execute(select(successions).order_by(successions.c.number.desc()).limit(MAX_SUCCESSIONS))
    return tuple(Kept(row.before, Signed(row.public_key, row.envelope), row.made_at) for row in rows)[::-1]


def in_overlap(kept: Sequence[Kept], now: datetime) -> Collection[str]:
    """The fingerprints of keys that were left so short a time ago that requests may still be meant for them."""
    return [one.before for one in kept if one.made_at + OVERLAP > now]
