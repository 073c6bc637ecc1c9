"""Begin a new epoch of the region."""

from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import region
from region.people import activity
from region.people.activity import Actor
from region.publishing import held
from region.publishing.held import Publisher

SUBJECT = "region"


async def new_epoch(connection: AsyncConnection, actor: Actor, publisher: Publisher, now: datetime) -> int:
    """The epoch that has begun: racks take its manifests although they have seen later ones of the epoch before.

    For a database that was restored from a backup. An epoch is the greater of the one before plus one and now, in
    seconds since 1970: a clock that went back does not lead to an epoch that racks refuse.
    """
    before: int = (await connection.execute(select(region.c.epoch).with_for_update())).scalar_one()
    epoch = max(before + 1, int(now.timestamp()))
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
