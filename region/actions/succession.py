"""The key that signs what racks are told: begin with it, change it, follow another process, do without a lost one.

A rotation has three steps, and may break off between any two of them:

    1. `region.key.new` is written and flushed         before: nothing has happened
    2. one transaction: the old key's word for the     before: `region.key` counts, and the next rotation takes the
       new one, its fingerprint, a new epoch           `region.key.new` that is there
    3. `region.key.new` takes `region.key`'s place     before: the database names the key in `region.key.new`; whoever
                                                       starts takes it, and does this step

So the database says which key counts, and `settle` finds its file. Steps 1 and 3 are done under the lock of the
region's row: nobody puts a file in place that another rotation has just begun with.
"""

import asyncio
from dataclasses import replace
from datetime import datetime

from sqlalchemy import select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region import keys as files
from region.actions.region import SUBJECT, new_epoch
from region.database.tables import region
from region.database.topics import Topic, notify
from region.keys import REGION_KEY, RegionKeys
from region.people import activity
from region.people.activity import Actor
from region.publishing import held, manifest, successions
from region.publishing.held import Publisher
from shared.errors import Conflict, InvalidConfiguration
from shared.signing import fingerprint


async def settle(connection: AsyncConnection, keys: RegionKeys) -> None:
    """`keys.signing` is the key that the database knows when this returns, and lies where it belongs.

    Until this transaction ends nobody rotates it. Raises InvalidConfiguration when the key is not there.
    """
    known = (await connection.execute(select(region.c.fingerprint).with_for_update())).scalar_one()
    if not await asyncio.to_thread(files.take_region_key, keys, known):
        raise InvalidConfiguration(
            f"The key {keys.directory / REGION_KEY} is not the one of this database; racks know the key"
            f" {known[:16]}…: put it there from its backup, or point REGION_KEYS to the directory that holds it."
        )


async def follow(connection: AsyncConnection, keys: RegionKeys) -> bool:
    """True if the region's key was another than `keys.signing`, which is the new one now.

    Raises InvalidConfiguration when the new one is not where this process looks for it.
    """
    known = await connection.scalar(select(region.c.fingerprint))
    if known == fingerprint(keys.signing):
        return False
    await settle(connection, keys)
    return True


async def rotate(
    connection: AsyncConnection, actor: Actor, keys: RegionKeys, publisher: Publisher, now: datetime
) -> str:
    """The fingerprint of the new key, for which the old one has vouched: a new epoch has begun with it.

    After the commit, `settle` puts its file in place. Raises InvalidConfiguration, Conflict.
    """
    await settle(connection, keys)
    before = keys.signing
    after = await asyncio.to_thread(files.make_next_region_key, keys.directory)
    # What was published is signed with the old key, and read for the last time.
    await held.remember(connection, publisher)
    await successions.write(connection, before, after, now)
    await connection.execute(update(region).values(fingerprint=fingerprint(after)))
    await activity.record(
        connection,
        actor,
        now,
        "region.key_rotated",
        f"Put the key {fingerprint(after)[:16]} in the place of {fingerprint(before)[:16]}, which vouches for it.",
        subject=SUBJECT,
        before={"fingerprint": fingerprint(before)},
        after={"fingerprint": fingerprint(after)},
    )
    await new_epoch(connection, actor, replace(publisher, key=after), now)
    # Also where there was nothing to publish: the other processes have to take the key.
    await notify(connection, Topic.MANIFEST)
    return fingerprint(after)


async def forget(connection: AsyncConnection, actor: Actor, keys: RegionKeys, now: datetime) -> None:
    """The region goes on with the key that is there, for which the lost one has not vouched: no rack follows.

    What is held is published anew, in a new epoch, and racks have to be enrolled again. Raises Conflict when the key
    that the database knows is there; InvalidConfiguration.
    """
    before = (await connection.execute(select(region.c.fingerprint).with_for_update())).scalar_one()
    if await asyncio.to_thread(files.take_region_key, keys, before):
        raise Conflict(
            f"The region's key is not lost, it is in {keys.directory}; 'bootferry-region key rotate' makes another one"
            " that racks follow to."
        )
    publisher, after = Publisher(keys.signing), fingerprint(keys.signing)
    had_published = await manifest.newest(connection) is not None
    # Nobody can verify any of it again.
    await manifest.forget(connection)
    await successions.forget(connection)
    await connection.execute(update(region).values(fingerprint=after))
    await activity.record(
        connection,
        actor,
        now,
        "region.key_forgotten",
        f"Went on with the key {after[:16]}, because {before[:16]} is lost; racks have to be enrolled again.",
        subject=SUBJECT,
        before={"fingerprint": before},
        after={"fingerprint": after},
    )
    await new_epoch(connection, actor, publisher, now)
    if had_published:
        await held.change(connection, publisher, now, begin=True)
    await notify(connection, Topic.MANIFEST)
