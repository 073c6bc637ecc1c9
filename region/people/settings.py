"""What operators set for the whole region."""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import region
from region.database.topics import Topic, notify


@dataclass(frozen=True, slots=True)
class Preferences:
    """`proxy`: the way to sources that name none of their own."""

    proxy: str | None


async def get(connection: AsyncConnection) -> Preferences:
    """The preferences as they stand."""
    return Preferences((await connection.execute(select(region.c.proxy))).scalar_one())


async def set_proxy(connection: AsyncConnection, proxy: str | None) -> None:
    """From the next import on, sources without a proxy of their own are reached through `proxy`."""
    await connection.execute(update(region).values(proxy=proxy))
    await notify(connection, Topic.SETTINGS)
