"""Upkeep of the store: the prune removes what nobody needs, the audit what is not as it was verified.

A file without a row (a process died before it wrote one; the database was restored) is adopted: it gets the row that is
true, and either somebody needs it, or the prune takes it away after its grace like any other.

All work in steps. No step waits for the disk inside a transaction, a crash after any of them leaves what the next
prune finishes, and a stored file is never removed that was fetched anew meanwhile:

- a file leaves as `region.catalogue.files` tells: its row, its bytes, the row that says it is leaving;
- whoever removes bytes is alone at it, by the store's own lock, from the moment it reads what is leaving until it has
  removed it. The lock lasts as long as the process lives, so one that slept in between removes nothing of another time.
"""

from collections.abc import Collection
from contextlib import ExitStack
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncEngine

from region.catalogue import files
from region.catalogue.files import Stored
from region.database.connection import transaction
from region.importing import imports
from shared.audit import due_since
from shared.digest import Sha256
from shared.logs import logger
from shared.store.base import Store
from shared.threads import in_thread

REMOVING, READING = "removing", "reading"
"""What one process at a time does (`Store.alone`)."""

log = logger(__name__)


async def prune(engine: AsyncEngine, store: Store, grace: timedelta, now: datetime) -> list[Sha256]:
    """Delete, row and bytes, the files that were unneeded for `grace`, and finish what earlier prunes began.

    The digests whose rows have gone; bytes that a failing disk did not let go are tried again by the next prune.
    """
    async with transaction(engine) as connection:
        gone = await files.leave_unneeded(connection, grace, now)
    await finish_leaving(engine, store)
    return gone


async def finish_leaving(engine: AsyncEngine, store: Store) -> None:
    """Remove the bytes of what is leaving, then say so. Does nothing while another process is at it."""
    with ExitStack() as stack:
        if not await in_thread(stack.enter_context, store.alone(REMOVING)):
            return
        async with transaction(engine) as connection:
            leaving = await files.all_leaving(connection)
        gone = []
        for sha256 in leaving:
            try:
                await in_thread(store.remove, sha256)
            except OSError as error:
                log.warning(f"{store.fault(error)}", action="prune", file=sha256)
            else:
                gone.append(sha256)
        if gone:
            async with transaction(engine) as connection:
                await files.forget_leaving(connection, gone)


async def let_go(engine: AsyncEngine, store: Store, digests: Collection[Sha256]) -> set[Sha256]:
    """Those of `digests` that may not be fetched, because they are leaving and could not be removed just now."""
    async with transaction(engine) as connection:
        leaving = await files.leaving(connection, digests)
    if not leaving:
        return leaving
    await finish_leaving(engine, store)
    async with transaction(engine) as connection:
        return await files.leaving(connection, leaving)


def shelves_of(now: datetime) -> list[str]:
    """The beginnings of digests that are looked through in this minute: all of them within 64 minutes."""
    first = int(now.timestamp()) // 60 % 64 * 4
    return [f"{number:02x}" for number in range(first, first + 4)]


async def adopt(engine: AsyncEngine, store: Store, beginnings: Collection[str], now: datetime) -> list[Sha256]:
    """Give files without a row one, if their bytes are right; remove those whose bytes are wrong. Those that have one.

    Only files whose digests have one of these `beginnings` are looked at, so that a large store is listed in slices.
    Nothing is removed meanwhile: whoever removes bytes does so under the same lock.
    """
    with ExitStack() as stack:
        if not await in_thread(stack.enter_context, store.alone(REMOVING)):
            return []
        found: dict[Sha256, int] = {}
        for beginning in beginnings:
            found |= await in_thread(lambda: dict(store.held(beginning)))  # noqa: B023  it has ended by the next turn
        async with transaction(engine) as connection:
            unknown = await files.without_row(connection, found)
        right: dict[Sha256, int] = {}
        wrong: list[Sha256] = []
        for sha256 in unknown:
            try:
                if await in_thread(_is_secured, store, sha256, found[sha256]):
                    right[sha256] = found[sha256]
                else:
                    wrong.append(sha256)
            except OSError as error:
                log.error(f"A file without a row cannot be read; it stays. {store.fault(error)}", action="adopt")
        if right or wrong:
            async with transaction(engine) as connection:
                refused = await files.record(connection, right, now)
                await files.leave_unknown(connection, wrong, now)
    if wrong:
        await finish_leaving(engine, store)
    return sorted(right.keys() - refused) if right else []


def _is_secured(store: Store, sha256: Sha256, size: int) -> bool:
    """True if the file is the right one, marked and flushed. Raises OSError."""
    if store.secure(sha256, size):
        return True
    if store.digest_of(sha256) != sha256:
        return False
    store.reinstate(sha256)
    return store.secure(sha256, size)


async def audit(
    engine: AsyncEngine, store: Store, last: datetime | None, now: datetime, unread: set[Sha256] | None = None
) -> list[Sha256] | None:
    """Compare rows and disk, and ask for what was lost. The digests of files that were lost or spoiled.

    Every file is looked at; those touched since they were verified, those due since the audit `last`, and those
    `unread`, are read. A file that cannot be read stays as it is: it is told, and `unread` names it afterwards, for the
    next audit. None when another process audits just now.
    """
    unread = set() if unread is None else unread
    with ExitStack() as stack:
        if not await in_thread(stack.enter_context, store.alone(READING)):
            return None
        async with transaction(engine) as connection:
            rows = await files.all_stored(connection)
        touched = await in_thread(_touched, store, rows)
        due = due_since((row.sha256 for row in rows), last, now) | unread | touched
        unread.clear()
        wrong = []
        for row in rows:
            if row.sha256 not in due:
                continue
            try:
                right = await in_thread(_is_right, store, row.sha256, row.sha256 in touched)
            except OSError as error:
                unread.add(row.sha256)
                log.error(
                    f"A stored file cannot be read; it stays. {store.fault(error)}", action="audit", file=row.sha256
                )
                continue
            if not right:
                wrong.append(row)
    if not wrong:
        return []
    async with transaction(engine) as connection:
        lost = await files.leave_lost(connection, wrong, now)
        if lost:
            await imports.enqueue(connection, "healing", "the audit of the store", now)
    await finish_leaving(engine, store)
    return lost


def _touched(store: Store, rows: Collection[Stored]) -> set[Sha256]:
    return {row.sha256 for row in rows if not _is_had(store, row)}


def _is_had(store: Store, row: Stored) -> bool:
    try:
        return store.has(row.sha256, row.size)
    except OSError:
        # Nobody can tell: whoever reads it sees what is wrong.
        return False


def _is_right(store: Store, sha256: Sha256, touched: bool) -> bool:
    """True if the bytes are right. A file that is wrong is not served from now on, whatever becomes of its row.

    Raises OSError when they cannot be read: nobody knows what they are then.
    """
    right = store.digest_of(sha256) == sha256
    try:
        if not right:
            store.disown(sha256)
        elif touched:
            store.reinstate(sha256)
    except OSError as error:
        log.warning(f"{store.fault(error)}", action="audit", file=sha256)
    return right
