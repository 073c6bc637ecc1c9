"""What an operator does to an image's version: pin it, or let it follow its source again."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import pins
from region.importing import imports
from region.people import activity
from region.people.activity import Actor
from shared.names import ImageKey


async def pin(connection: AsyncConnection, actor: Actor, image: ImageKey, version: str, now: datetime) -> int:
    """The image stays at `version`; the id of the import that brings it there. Raises NotFound."""
    before = await pins.pinned(connection, image)
    await pins.pin(connection, image, version, now)
    return await _follow(connection, actor, image, now, before, version)


async def unpin(connection: AsyncConnection, actor: Actor, image: ImageKey, now: datetime) -> int:
    """The image follows its source again; the id of the import that brings it there. Raises NotFound."""
    before = await pins.pinned(connection, image)
    await pins.unpin(connection, image)
    return await _follow(connection, actor, image, now, before, None)


async def _follow(
    connection: AsyncConnection,
    actor: Actor,
    image: ImageKey,
    now: datetime,
    before: str | None,
    after: str | None,
) -> int:
    action, sentence = (
        ("image.unpinned", f"Unpinned {image}.") if after is None else ("image.pinned", f"Pinned {image} to {after}.")
    )
    await activity.record(
        connection,
        actor,
        now,
        action,
        sentence,
        subject=f"image:{image}",
        before={"version": before},
        after={"version": after},
    )
    return await imports.enqueue(connection, "operator", actor.name, now, frozenset({image}))
