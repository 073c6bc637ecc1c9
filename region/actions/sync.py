"""Switch the sync on or off, and say how often it runs."""

from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.importing import imports
from region.importing.imports import LEAST_INTERVAL, MOST_INTERVAL, Schedule
from region.people import activity
from region.people.activity import Actor
from shared.errors import InvalidValue

SUBJECT = "sync"


def etag(found: Schedule) -> str:
    """The sync's ETag. When it ran and when it will are no part of it."""
    return guard.tag(SUBJECT, enabled=found.enabled, interval_seconds=int(found.interval.total_seconds()))


async def switch(
    connection: AsyncConnection,
    actor: Actor,
    enabled: bool | None,
    now: datetime,
    *,
    interval: timedelta | None = None,
    if_match: str | None = None,
) -> Schedule:
    """The sync after that; what is None stays. Switched on, a run that was missed meanwhile is due at once.

    Raises PreconditionFailed; InvalidValue for an interval below five minutes or above a week.
    """
    if interval is not None and not LEAST_INTERVAL <= interval <= MOST_INTERVAL:
        raise InvalidValue("interval", interval, "it must lie between 5 minutes and 7 days")
    before = await imports.schedule(connection, for_update=True)
    await guard.require_unchanged(connection, if_match, etag(before), SUBJECT, "the hourly sync")
    after = before
    if enabled is not None and before.enabled != enabled:
        after = await imports.set_enabled(connection, enabled)
        sentence = f"Switched the hourly sync {'on' if enabled else 'off'}."
        await activity.record(connection, actor, now, "sync.switched", sentence, subject=SUBJECT)
    if interval is not None and before.interval != interval:
        after = await imports.set_interval(connection, interval, now)
        await activity.record(
            connection,
            actor,
            now,
            "sync.interval_changed",
            f"Set the sync to run every {_minutes(interval)}.",
            subject=SUBJECT,
            before={"interval_seconds": int(before.interval.total_seconds())},
            after={"interval_seconds": int(interval.total_seconds())},
        )
    return after


def _minutes(interval: timedelta) -> str:
    seconds = int(interval.total_seconds())
    if seconds % 60:
        return f"{seconds} seconds"
    return f"{seconds // 60} minutes"
