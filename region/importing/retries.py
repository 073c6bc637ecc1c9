"""Retries: what failed for a reason that may pass is tried again by itself, without waiting for the hour.

- Within an import each file is tried a few times by each of its roads (`region.importing.fetching`).
- An import that ended with a failure that may pass is followed by another one: a minute later, then two, four, …, at
  most as long as the hourly sync waits. That its other failures will not pass changes nothing.
- Any run that covers it before then takes its place, and an operator who stops that one has stopped it.
- The moment lies in its row (`imports.retry_at`): every process ticks, one of them enqueues it.
"""

from datetime import datetime, timedelta

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue.trust import TrustChanged
from region.importing import imports
from shared import promises
from shared.errors import BootferryError, Conflict, DiskFailed, NoRoom
from shared.names import ImageKey
from shared.patience import is_transient

FIRST_PAUSE = timedelta(minutes=1)


def may_pass(error: BootferryError) -> bool:
    """True if the same import may well succeed later, although nobody has changed what is wanted or offered."""
    return is_transient(error) or isinstance(error, (NoRoom, DiskFailed, Conflict, TrustChanged))


def pause(tries: int) -> timedelta:
    """How long to wait after a failure that `tries` failures in a row came before."""
    return min(promises.SYNC_PERIOD, FIRST_PAUSE * (1 << min(tries, 16)))


async def enqueue_due(connection: AsyncConnection, now: datetime) -> list[int]:
    """Enqueue what is to be tried again by now; of processes that ask at once, one gets the imports' ids."""
    due = await connection.execute(
        text("""
            UPDATE imports SET retry_at = NULL WHERE retry_at <= :now OR retry_at > :latest
            RETURNING id, scope, tries, stopped
        """),
        # A clock that was far ahead once must not put this off until then.
        {"now": now, "latest": now + promises.SYNC_PERIOD},
    )
    return [
        await imports.enqueue(
            connection,
            "retry",
            f"the region, after import {row.id} failed",
            now,
            None if row.scope is None else [ImageKey.parse(image) for image in row.scope],
            tries=row.tries + 1,
            stopped=row.stopped,
        )
        for row in due.all()
    ]
