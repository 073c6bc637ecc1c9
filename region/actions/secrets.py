"""The key that seals user names and passwords (`region.secrets`): begin with it, change it, do without a lost one."""

import asyncio
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region import keys as files
from region.catalogue import sources
from region.database.tables import region
from region.keys import SECRETS_KEY, RegionKeys
from region.people import activity, settings
from region.people.activity import Actor
from region.secrets import Secrets, fingerprint_of
from shared.errors import InvalidConfiguration

SUBJECT = "region"


async def settle(connection: AsyncConnection, keys: RegionKeys) -> None:
    """Everything is sealed with the key that the database knows when this returns, what stood in URLs too.

    A database that knows no key yet gets to know this one. Raises InvalidConfiguration when it knows another.
    """
    known: str | None = await connection.scalar(select(region.c.secrets_fingerprint).with_for_update())
    if known is None:
        await connection.execute(update(region).values(secrets_fingerprint=keys.secrets.fingerprint))
    elif not await asyncio.to_thread(keys.secrets.follow, known):
        raise InvalidConfiguration(
            f"The key {keys.directory / SECRETS_KEY} is not the one that passwords in this database were sealed with"
            f" ({known[:16]}…): put it there from its backup; if it is lost, run 'bootferry-region key forget-secrets',"
            " and give the passwords of mirrors and proxies again."
        )
    await _reseal(connection, keys.secrets)


async def rotate(connection: AsyncConnection, actor: Actor, keys: RegionKeys, now: datetime) -> None:
    """Everything is sealed with a new key, which lies beside the old one until `region.keys` puts it in its place.

    Do that after the commit; until then both keys are needed, and both are found. Raises InvalidConfiguration.
    """
    await connection.execute(select(region.c.id).with_for_update())
    fresh = await asyncio.to_thread(files.make_next_secrets_key, keys.directory)
    await asyncio.to_thread(keys.secrets.follow, fingerprint_of(fresh))
    await connection.execute(update(region).values(secrets_fingerprint=keys.secrets.fingerprint))
    await _reseal(connection, keys.secrets)
    sentence = "Sealed the passwords of mirrors and proxies with a new key."
    await activity.record(connection, actor, now, "secrets.rotated", sentence, subject=SUBJECT)


async def forget(connection: AsyncConnection, actor: Actor, keys: RegionKeys, now: datetime) -> None:
    """The database goes on with the key that is there; what another has sealed has to be given again."""
    await connection.execute(update(region).values(secrets_fingerprint=keys.secrets.fingerprint))
    await _reseal(connection, keys.secrets)
    sentence = (
        "Went on with another key for passwords; those that were sealed with the one before have to be given again."
    )
    await activity.record(connection, actor, now, "secrets.forgotten", sentence, subject=SUBJECT)


async def _reseal(connection: AsyncConnection, secrets: Secrets) -> None:
    await settings.reseal(connection, secrets)
    await sources.reseal(connection, secrets)
