"""The clock: every process ticks once a minute, PostgreSQL decides what is due and who does it.

A wall clock that is set, by years even, puts no tick off for longer than a minute.
"""

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

from apscheduler.schedulers.asyncio import AsyncIOScheduler
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from region.database.refusals import DatabaseAway
from region.importing import housekeeping, imports, retries, upkeep
from shared.audit import SLICE_S
from shared.digest import Sha256
from shared.errors import Unavailable
from shared.logs import logger
from shared.store.base import Store

TICK_S = 60

_PUT_OFF = {
    "tick": "What is due every minute waits for the next one.",
    "audit": "The stored files are compared with the catalogue later.",
}

log = logger(__name__)


@dataclass(slots=True)
class Clock:
    """What the ticks take, when this process last audited the store, and which files it could not read then."""

    engine: AsyncEngine
    store: Store
    prune_grace: timedelta
    now: Callable[[], datetime]
    last_audit_at: datetime | None = None
    unread: set[Sha256] = field(default_factory=set)

    async def tick(self) -> None:
        """Start the sync if it is due, and what is to be tried again; prune, look for files without a row, tidy."""
        async with transaction(self.engine) as connection:
            import_id = await imports.enqueue_due(connection, self.now())
            again = await retries.enqueue_due(connection, self.now())
        if import_id is not None:
            log.debug("The hourly sync is due.", action="sync", import_id=import_id)
        elif again:
            log.info("An import that failed is tried again.", action="sync", import_id=again[0])
        await housekeeping.tidy(self.engine, self.now())
        # Last what a failing disk may end.
        gone = await upkeep.prune(self.engine, self.store, self.prune_grace, self.now())
        if gone:
            log.info(f"{len(gone)} files nobody needs any more were deleted.", action="prune")
        adopted = await upkeep.adopt(self.engine, self.store, upkeep.shelves_of(self.now()), self.now())
        if adopted:
            log.info(f"{len(adopted)} stored files had no row; they have one now.", action="adopt", files=adopted[:10])

    async def audit(self) -> None:
        """Compare disk and catalogue; what was lost is asked for again at once."""
        now = self.now()
        lost = await upkeep.audit(self.engine, self.store, self.last_audit_at, now, self.unread)
        if lost is None:
            return
        self.last_audit_at = now
        if lost:
            log.warning(
                f"{len(lost)} stored files were lost or spoiled and are fetched again.", action="audit", files=lost[:10]
            )


async def run(clock: Clock) -> None:
    """Tick and audit until cancelled. The first time is after a whole interval: call `tick` once yourself."""
    scheduler = AsyncIOScheduler(
        timezone=UTC, job_defaults={"coalesce": True, "max_instances": 1, "misfire_grace_time": None}
    )
    scheduler.add_job(steadily(clock.tick), "interval", seconds=TICK_S, id="tick")
    scheduler.add_job(steadily(clock.audit), "interval", seconds=SLICE_S, id="audit")
    scheduler.start()
    try:
        while True:
            await asyncio.sleep(TICK_S)
            bring_forward(scheduler, datetime.now(UTC))
    finally:
        scheduler.shutdown(wait=False)


def bring_forward(scheduler: AsyncIOScheduler, now: datetime) -> None:
    """Let the jobs run now whose next turn lies further ahead than their interval.

    The scheduler reckons with the wall clock: where that was years ahead for a moment, and was set right, the next turn
    would be years away.
    """
    for job in scheduler.get_jobs():
        if job.next_run_time - now > job.trigger.interval:
            job.modify(next_run_time=now)


def steadily(job: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """`job`, which never raises: its next turn is another try."""

    async def steady() -> None:
        try:
            await patiently(job)()
        except Exception:
            log.exception("A regular step broke off unexpectedly; it is tried again at its next turn.", action="tick")

    return steady


def patiently(job: Callable[[], Awaitable[None]]) -> Callable[[], Awaitable[None]]:
    """`job`, which leaves it at that when the database is away: the next tick will do."""

    async def patient() -> None:
        try:
            await job()
        except DatabaseAway as error:
            # The watch tells what the operator should know of it.
            log.debug(f"{_PUT_OFF[job.__name__]} {error}", action=job.__name__)
        except Unavailable as error:
            log.warning(f"{_PUT_OFF[job.__name__]} {error}", action=job.__name__)
        except OSError as error:
            log.error(f"{_PUT_OFF[job.__name__]} The disk failed: {error.strerror}.", action=job.__name__)

    return patient
