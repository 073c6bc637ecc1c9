"""Start an import, and stop one, or one image of it."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.catalogue import images, sources
from region.importing import imports
from region.importing.imports import Import
from region.people import activity
from region.people.activity import Actor
from shared.errors import Conflict, PreconditionFailed
from shared.names import ImageKey


def subject(import_id: int) -> str:
    """How the activity names an import."""
    return f"import:{import_id}"


def etag(found: Import) -> str:
    """The ETag of an import: what was wished, by whom, and whether it was told to stop. Progress is no part of it."""
    return guard.tag(
        "import",
        id=found.id,
        trigger=found.trigger,
        requested_by=found.requested_by,
        scope=None if found.scope is None else sorted(found.scope),
        cancel_requested=found.cancel_requested,
        stopped=sorted(found.stopped),
    )


async def start(connection: AsyncConnection, actor: Actor, scope: frozenset[ImageKey] | None, now: datetime) -> Import:
    """The import that brings these images up to date, all that are selected for None; one that waits takes them in.

    Raises Conflict without a source.
    """
    if not await sources.list_all(connection):
        raise Conflict("There is no source to import from; add one first.")
    import_id = await imports.enqueue(connection, "operator", actor.name, now, scope)
    what = "all images" if scope is None else ", ".join(sorted(map(str, scope)))
    sentence = f"Asked to import {what}."
    await activity.record(connection, actor, now, "import.started", sentence, subject=subject(import_id))
    return await imports.get(connection, import_id)


async def cancel(
    connection: AsyncConnection, actor: Actor, import_id: int, now: datetime, *, if_match: str | None = None
) -> Import:
    """The import, told to stop: one that waits ends at once, a running one within seconds.

    Raises NotFound, PreconditionFailed; Conflict when it has ended.
    """
    before = await imports.get(connection, import_id, for_update=True)
    if not guard.is_unchanged(if_match, etag(before)):
        raise await _changed(connection, before)
    await imports.request_cancel(connection, import_id, now)
    sentence = f"Stopped the import {import_id}."
    await activity.record(connection, actor, now, "import.cancelled", sentence, subject=subject(import_id))
    return await imports.get(connection, import_id)


async def stop_image(
    connection: AsyncConnection,
    actor: Actor,
    import_id: int,
    image: ImageKey,
    now: datetime,
    *,
    if_match: str | None = None,
) -> Import:
    """The import, of which this image is fetched no further; the others go on. The next sync goes on with it.

    Raises NotFound, also for an image that is neither selected nor held; PreconditionFailed; Conflict when the import
    has ended.
    """
    before = await imports.get(connection, import_id, for_update=True)
    if not guard.is_unchanged(if_match, etag(before)):
        raise await _changed(connection, before)
    await images.get(connection, image, now)
    await imports.request_stop(connection, import_id, image)
    sentence = f"Stopped {image} in the import {import_id}."
    await activity.record(connection, actor, now, "import.image_stopped", sentence, subject=subject(import_id))
    return await imports.get(connection, import_id)


async def _changed(connection: AsyncConnection, found: Import) -> PreconditionFailed:
    last = await activity.last(connection, subject(found.id))
    if not found.cancel_requested and (last is None or last.who != found.requested_by):
        # A change of something else, like the selection, joined the import while it waited.
        return PreconditionFailed(
            f"You have not seen the latest state of the import {found.id}: {found.requested_by} asked for more of it"
            " meanwhile; look again before you stop it."
        )
    return guard.changed(f"the import {found.id}", last)
