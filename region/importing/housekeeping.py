"""Housekeeping: records of what happened go when they are old. Once an hour, in one process, in small transactions.

    finished imports, activity   after the settings' `retention_days`
    sessions                     when they have ended
    enrolment tokens             KEEP_ENROLMENT_TOKENS after they expired

Operators' tokens stay when they expire: the list says so, and their administrator removes them. When the last
administrator's is about to, the activity and the log say so.
"""

from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta

from sqlalchemy import or_, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.database.connection import transaction
from region.database.tables import region
from region.fleet import enrolment_tokens
from region.importing import imports
from region.people import activity, operators, sessions, settings
from shared.logs import logger

PERIOD = timedelta(hours=1)
KEEP_ENROLMENT_TOKENS = timedelta(days=30)
BATCH = 1000
"""Rows that one transaction removes, at most."""

MAX_BATCHES = 100
"""Of one kind, in one hour: what is left goes in the next."""

log = logger(__name__)


async def tidy(engine: AsyncEngine, now: datetime) -> bool:
    """Remove what is old, unless that was begun less than PERIOD ago. True if it was this call that did it.

    Raises Unavailable; the batches before are done then, and the rest waits for the next hour.
    """
    async with transaction(engine) as connection:
        if not await _is_ours(connection, now):
            return False
        oldest = now - timedelta(days=(await settings.get(connection)).retention_days)
    gone = {
        "imports": await _in_batches(engine, lambda given: imports.remove_old(given, oldest, BATCH)),
        "activity": await _in_batches(engine, lambda given: activity.remove_old(given, oldest, BATCH)),
        "sessions": await _in_batches(engine, lambda given: sessions.remove_ended(given, now, BATCH)),
        "enrolment_tokens": await _in_batches(
            engine, lambda given: enrolment_tokens.remove_expired(given, now - KEEP_ENROLMENT_TOKENS, BATCH)
        ),
    }
    async with transaction(engine) as connection:
        last = await operators.tell_of_last_administrator(connection, now)
    if last is not None:
        log.warning(
            f"The last administrator's token expires on {last.expires_at:%Y-%m-%d}; make another one before.",
            action="tidy",
            token=last.id,
        )
    if any(gone.values()):
        log.info(f"{sum(gone.values())} old records were removed.", action="tidy", **gone)
    return True


async def _is_ours(connection: AsyncConnection, now: datetime) -> bool:
    last = region.c.tidied_at
    # A clock that was far ahead once must not put this off until then.
    due = or_(last.is_(None), last <= now - PERIOD, last > now + PERIOD)
    return (await connection.execute(update(region).where(due).values(tidied_at=now))).rowcount == 1


async def _in_batches(engine: AsyncEngine, remove: Callable[[AsyncConnection], Awaitable[int]]) -> int:
    total = 0
    for _ in range(MAX_BATCHES):
        async with transaction(engine) as connection:
            gone = await remove(connection)
        total += gone
        if gone < BATCH:
            break
    return total
