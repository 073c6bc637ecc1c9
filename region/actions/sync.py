"""Switch the hourly sync on or off."""

from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.importing import imports
from region.importing.imports import Schedule
from region.people import activity
from region.people.activity import Actor

SUBJECT = "sync"


def etag(found: Schedule) -> str:
    """The sync's ETag. When it ran and when it will are no part of it."""
    return guard.tag(SUBJECT, enabled=found.enabled)


async def switch(
    connection: AsyncConnection, actor: Actor, enabled: bool, now: datetime, *, if_match: str | None = None
) -> Schedule:
    """The sync after that. Switched on, a run that was missed meanwhile is due at once. Raises PreconditionFailed."""
    before = await imports.schedule(connection, for_update=True)
    await guard.require_unchanged(connection, if_match, etag(before), SUBJECT, "the hourly sync")
    if before.enabled == enabled:
        return before
    after = await imports.set_enabled(connection, enabled)
    sentence = f"Switched the hourly sync {'on' if enabled else 'off'}."
    await activity.record(connection, actor, now, "sync.switched", sentence, subject=SUBJECT)
    return after
