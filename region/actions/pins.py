"""What an operator does to an image's version: pin it, or let it follow its source again.

An image's ETag is of what these acts set: its pin. The row that holds it may not be there yet, so it is the region's
row that is locked before a tag is compared.
"""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.catalogue import pins, selections
from region.importing import imports
from region.people import activity
from region.people.activity import Actor
from shared.names import ImageKey


def subject(image: ImageKey) -> str:
    """How the activity names an image."""
    return f"image:{image}"


def etag(image: ImageKey, pinned_version: str | None) -> str:
    """An image's ETag. How far it has come is no part of it."""
    return guard.tag("image", id=str(image), pinned_version=pinned_version)


async def pin(
    connection: AsyncConnection,
    actor: Actor,
    image: ImageKey,
    version: str,
    now: datetime,
    *,
    if_match: str | None = None,
) -> int:
    """The image stays at `version`; the id of the import that brings it there. Raises NotFound, PreconditionFailed."""
    before = await _lock(connection, image)
    # First what does not exist (RFC 9110 §13.2.1): what a refusal wrote is undone with its transaction.
    await pins.pin(connection, image, version, now)
    await _require_unchanged(connection, image, before, if_match)
    return await _follow(connection, actor, image, now, before, version)


async def unpin(
    connection: AsyncConnection, actor: Actor, image: ImageKey, now: datetime, *, if_match: str | None = None
) -> int:
    """The image follows its source again; the id of the import that brings it there.

    Raises NotFound when it is not pinned; PreconditionFailed.
    """
    before = await _lock(connection, image)
    await pins.unpin(connection, image)
    await _require_unchanged(connection, image, before, if_match)
    return await _follow(connection, actor, image, now, before, None)


async def _lock(connection: AsyncConnection, image: ImageKey) -> str | None:
    await selections.revision(connection, for_update=True)
    return await pins.pinned(connection, image)


async def _require_unchanged(
    connection: AsyncConnection, image: ImageKey, before: str | None, if_match: str | None
) -> None:
    await guard.require_unchanged(connection, if_match, etag(image, before), subject(image), f"the image {image}")


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
        subject=subject(image),
        before={"version": before},
        after={"version": after},
    )
    return await imports.enqueue(connection, "operator", actor.name, now, frozenset({image}))
