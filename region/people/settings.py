"""What operators set for the whole region."""

from dataclasses import dataclass

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import region
from region.database.topics import Topic, notify
from region.secrets import NO_SECRETS, Address, Sealed, Secrets, resealed, seal

_PROXY_CREDENTIALS = "region.proxy_credentials"
MIN_RETENTION_DAYS, MAX_RETENTION_DAYS = 1, 3650


@dataclass(frozen=True, slots=True)
class Preferences:
    """The settings.

    proxy            the way to sources that name none of their own, and what it is opened with; None: they are reached
                     directly
    retention_days   so long the records of what happened are kept: finished imports and activity
    revision         counts the changes of the settings
    bootloader_source_id   the one source that bootloaders come from; None: none was chosen since the last was removed
    """

    proxy: Address | None
    retention_days: int
    revision: int
    bootloader_source_id: int | None = None


async def get(connection: AsyncConnection, *, for_update: bool = False) -> Preferences:
    """The settings as they stand; with `for_update` nobody else changes them until this transaction ends."""
    query = select(region)
    row = (await connection.execute(query.with_for_update() if for_update else query)).one()
    sealed = None if row.proxy_credentials is None else Sealed(row.proxy_credentials, _PROXY_CREDENTIALS, row.id)
    proxy = None if row.proxy is None else Address(row.proxy, sealed)
    return Preferences(proxy, row.retention_days, row.settings_revision, row.bootloader_source_id)


async def change(
    connection: AsyncConnection, *, proxy: Address | None, retention_days: int, secrets: Secrets = NO_SECRETS
) -> None:
    """Set all of it. The proxy holds from the next import on, the retention from the next housekeeping."""
    credentials = None if proxy is None else proxy.credentials
    await connection.execute(
        update(region).values(
            proxy=None if proxy is None else proxy.url,
            proxy_credentials=await seal(connection, secrets, credentials, _PROXY_CREDENTIALS, 1),
            retention_days=retention_days,
            settings_revision=region.c.settings_revision + 1,
        )
    )
    await notify(connection, Topic.SETTINGS)


async def reseal(connection: AsyncConnection, secrets: Secrets) -> None:
    """The proxy's user name and password are sealed with the present key when this returns, those in its URL too."""
    row = (await connection.execute(select(region).with_for_update())).one()
    url, text = resealed(secrets, row.proxy, row.proxy_credentials, _PROXY_CREDENTIALS, row.id)
    if (url, text) != (row.proxy, row.proxy_credentials):
        await connection.execute(update(region).values(proxy=url, proxy_credentials=text))
