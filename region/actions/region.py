"""What an operator does to the manifest as a whole: begin a new epoch, say where the region is, confirm what it takes
away."""

from datetime import datetime

from sqlalchemy import func, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import racks, region
from region.people import activity
from region.people.activity import Actor
from region.publishing import held
from region.publishing.held import Publisher
from shared.errors import Conflict, InvalidValue
from shared.http import parse_url
from shared.wire.manifest import Order

SUBJECT = "region"
MOST_EPOCH = 2**40
"""No clock says so many seconds since 1970; a rack that claims to know such an epoch moves nothing."""


async def new_epoch(connection: AsyncConnection, actor: Actor, publisher: Publisher, now: datetime) -> int:
    """The epoch that has begun: racks take its manifests although they have seen later ones of the epoch before.

    For a database that was restored from a backup. An epoch is the greatest of these, in seconds since 1970: the one
    before plus one, the latest that a rack has reported plus one, and now. So a clock that went back does not lead to
    an epoch that racks refuse.
    """
    before: int = (await connection.execute(select(region.c.epoch).with_for_update())).scalar_one()
    known: int = (
        await connection.execute(select(func.coalesce(func.max(racks.c.epoch), 0)).where(racks.c.epoch < MOST_EPOCH))
    ).scalar_one()
    epoch = max(before + 1, known + 1, int(now.timestamp()))
    await connection.execute(update(region).values(epoch=epoch))
    await held.change(connection, publisher, now)
    await activity.record(
        connection,
        actor,
        now,
        "region.epoch_begun",
        f"Began the epoch {epoch}.",
        subject=SUBJECT,
        before={"epoch": before},
        after={"epoch": epoch},
    )
    return epoch


async def move(connection: AsyncConnection, actor: Actor, publisher: Publisher, url: str, now: datetime) -> str:
    """Where racks are told to reach this region, signed, from the next manifest on; empty: where each enrolled.

    A rack follows once the same region answers there, and stays where it is until then: the present address has to go
    on answering until all have followed. Raises InvalidValue for what is no address, or one with a user name.
    """
    address = ""
    if url:
        parsed = parse_url(url)
        if parsed.user is not None or parsed.password is not None or parsed.query_string:
            raise InvalidValue("region's address", str(parsed.origin()), "it must have no user name and no query")
        address = str(parsed).rstrip("/")
    before: str | None = (await connection.execute(select(region.c.url).with_for_update())).scalar_one()
    if address == (before or ""):
        return address
    await connection.execute(update(region).values(url=address or None))
    await held.change(connection, publisher, now)
    sentence = (
        f"Told racks to reach the region at {address}." if address else "Told racks of no other address any more."
    )
    await activity.record(
        connection,
        actor,
        now,
        "region.moved",
        sentence,
        subject=SUBJECT,
        before={"url": before},
        after={"url": address or None},
    )
    return address


async def confirm(connection: AsyncConnection, actor: Actor, publisher: Publisher, now: datetime) -> Order:
    """The (epoch, serial) of the manifest that says so: racks take what it takes away from them, however much.

    It is published anew. Raises Conflict before the first manifest.
    """
    published = (await held.change(connection, publisher, now, confirmed=True)).published
    if published is None:
        raise Conflict("Nothing was published yet; there is nothing to confirm.")
    await activity.record(
        connection,
        actor,
        now,
        "region.removal_confirmed",
        "Confirmed what the manifest takes away from racks.",
        subject=SUBJECT,
        after={"confirmed": list(published.manifest.order)},
    )
    return published.manifest.order
