"""What operators set for the whole region."""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import region
from region.database.topics import Topic, notify

MIN_RETENTION_DAYS, MAX_RETENTION_DAYS = 1, 3650


@dataclass(frozen=True, slots=True)
class Preferences:
    """The settings.

    proxy            the way to sources that name none of their own; None: they are reached directly
    retention_days   so long the records of what happened are kept: finished imports and activity
    revision         counts the changes of the settings
    bootloader_source_id   the one source that bootloaders come from; None: none was chosen since the last was removed
    """

    proxy: str | None
    retention_days: int
    revision: int
    bootloader_source_id: int | None = None


async def get(connection: AsyncConnection, *, for_update: bool = False) -> Preferences:
    """The settings as they stand; with `for_update` nobody else changes them until this transaction ends."""
    query = select(region.c.proxy, region.c.retention_days, region.c.settings_revision, region.c.bootloader_source_id)
    return Preferences(*(await connection.execute(query.with_for_update() if for_update else query)).one())


async def change(connection: AsyncConnection, *, proxy: str | None, retention_days: int) -> None:
    """Set all of it. The proxy holds from the next import on, the retention from the next housekeeping."""
    await connection.execute(
        update(region).values(
            proxy=proxy, retention_days=retention_days, settings_revision=region.c.settings_revision + 1
        )
    )
    await notify(connection, Topic.SETTINGS)
