"""What an operator does to an image's version: pin it, or let it follow its source again.

An image's ETag is of what these acts set: its pin. The row that holds it may not be there yet, so it is the region's
row that is locked before a tag is compared.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import effect, guard
from region.actions.effect import Effect
from region.catalogue import pins, selections
from region.importing import imports
from region.people import activity
from region.people.activity import Actor
from shared.names import ImageKey


@dataclass(frozen=True, slots=True)
class Pinned:
    """What a change of a pin leads to, the import that brings the image there, and the image's ETag as it is now.

    The import is None in a dry run, which changes no ETag.
    """

    effect: Effect
    import_id: int | None
    etag: str


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
    dry_run: bool = False,
) -> Pinned:
    """The image stays at `version`. A dry run leaves everything as it was. Raises NotFound, PreconditionFailed."""
    return await _set(connection, actor, image, version, now, if_match, dry_run=dry_run)


async def unpin(
    connection: AsyncConnection,
    actor: Actor,
    image: ImageKey,
    now: datetime,
    *,
    if_match: str | None = None,
    dry_run: bool = False,
) -> Pinned:
    """The image follows its source again. A dry run leaves everything as it was.

    Raises NotFound when it is not pinned; PreconditionFailed.
    """
    return await _set(connection, actor, image, None, now, if_match, dry_run=dry_run)


async def _set(
    connection: AsyncConnection,
    actor: Actor,
    image: ImageKey,
    version: str | None,
    now: datetime,
    if_match: str | None,
    *,
    dry_run: bool,
) -> Pinned:
    before = await _lock(connection, image)
    seen = await effect.look(connection)
    async with connection.begin_nested() as attempt:
        # First what does not exist (RFC 9110 §13.2.1): what a refusal wrote is undone with its transaction.
        if version is None:
            await pins.unpin(connection, image)
        else:
            await pins.pin(connection, image, version, now)
        await _require_unchanged(connection, image, before, if_match)
        found = effect.compare(seen, await effect.look(connection))
        if dry_run:
            await attempt.rollback()
    if dry_run:
        return Pinned(found, None, etag(image, before))
    import_id = await _follow(connection, actor, image, now, before, version)
    return Pinned(found, import_id, etag(image, version))


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
