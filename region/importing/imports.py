"""Imports: the runs that bring versions in. At most one waits and at most one runs, whichever process runs it.

One that failed for a reason that may pass has a `retry_at` (`region.importing.retries`). Whatever run covers it before
then takes its place.
"""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import delete, func, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import import_images, imports, sync_schedule
from region.database.topics import Topic, notify
from shared import promises
from shared.errors import BootferryError, Conflict, NotFound
from shared.names import ImageKey

SYNC_PERIOD = promises.SYNC_PERIOD
LEAST_INTERVAL, MOST_INTERVAL = timedelta(minutes=5), timedelta(days=7)
"""Between these lies how often the region may sync."""

LEASE_S = 10.0
"""A runner says once a second that it is alive; after so many seconds of silence another takes over."""

STANDSTILL_S = 15.0
"""A runner that stands still in the middle of a transaction is put out of it, so that its locks block nobody longer."""

ATTENDED = ("operator", "selection")
"""Triggers behind which an operator stands."""

UNATTENDED = ("healing", "retry")
"""What the region asks of itself beside the hourly sync: no sync, and any other wish gives the run its name."""


class LeaseLost(BootferryError):
    """Another process took this import over, or it was ended: whoever hears this must stop writing."""

    code = "lease_lost"

    def __init__(self, import_id: int) -> None:
        super().__init__(f"The import {import_id} is carried on by another process.")


@dataclass(frozen=True, slots=True)
class Claim:
    """The right to carry an import out; every write shows it. `scope` None means everything selected.

    `tries` counts the attempts in a row that failed before this one. An import of nothing only reads; `source_id` is
    the one source it reads, None for all.
    """

    import_id: int
    fence: int
    trigger: str
    scope: frozenset[str] | None
    tries: int = 0
    source_id: int | None = None

    @property
    def only_reads(self) -> bool:
        """True if nothing is to be imported, and nothing withdrawn."""
        return self.scope == frozenset()


@dataclass(frozen=True, slots=True)
class ImageProgress:
    """How far an import is with one image, in bytes. `code` and `error` are empty while nothing went wrong."""

    bytes_total: int
    bytes_done: int
    code: str = ""
    error: str = ""


@dataclass(frozen=True, slots=True)
class Import:
    """A run as operators see it; `stopped` are the images that were stopped alone, by id.

    An empty `scope`: it only reads; `source_id` is the one source it reads, None for all. `retry_at`: it failed for a
    reason that may pass, and is tried again then.
    """

    id: int
    trigger: str
    requested_by: str
    requested_at: datetime
    scope: list[str] | None
    state: str
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    bytes_total: int
    bytes_done: int
    error_code: str
    error: str
    retry_at: datetime | None
    source_id: int | None
    stopped: list[str]


@dataclass(frozen=True, slots=True)
class Schedule:
    """The sync: hourly, unless an operator has set another interval."""

    enabled: bool
    last_run_at: datetime | None
    next_run_at: datetime
    interval: timedelta = SYNC_PERIOD


_ENQUEUE = text("""
    INSERT INTO imports (trigger, requested_by, requested_at, scope, tries, source_id, stopped)
    VALUES (:trigger, :requested_by, :now, CAST(:scope AS text[]), :tries, CAST(:source_id AS integer),
            CAST(:stopped AS text[]))
    ON CONFLICT (state) WHERE state = 'queued' DO UPDATE
    SET trigger = CASE WHEN excluded.trigger = ANY(CAST(:attended AS text[]))
                            OR imports.trigger = ANY(CAST(:unattended AS text[]))
                       THEN excluded.trigger ELSE imports.trigger END,
        requested_by = CASE WHEN excluded.trigger = ANY(CAST(:attended AS text[]))
                                 OR imports.trigger = ANY(CAST(:unattended AS text[]))
                            THEN excluded.requested_by ELSE imports.requested_by END,
        scope = CASE WHEN imports.scope IS NULL OR excluded.scope IS NULL THEN NULL
                     ELSE ARRAY(SELECT DISTINCT unnest(imports.scope || excluded.scope)) END,
        tries = least(imports.tries, excluded.tries),
        -- Whoever asks for an image again wants it.
        stopped = ARRAY(SELECT unnest(imports.stopped) INTERSECT SELECT unnest(excluded.stopped)),
        source_id = CASE WHEN imports.source_id = excluded.source_id THEN imports.source_id END,
        cancel_requested = false
    RETURNING id
""")


async def enqueue(
    connection: AsyncConnection,
    trigger: str,
    requested_by: str,
    now: datetime,
    scope: Collection[ImageKey] | None = None,
    tries: int = 0,
    source_id: int | None = None,
    stopped: Collection[str] = (),
) -> int:
    """The id of the import that will do this. One that waits already takes the wish in: asking twice is one run.

    `tries` counts the attempts in a row that failed before it. An empty `scope` means that it only reads, the
    one source that `source_id` names or all. `stopped` images are left out.
    """
    import_id: int = (
        await connection.execute(
            _ENQUEUE,
            {
                "trigger": trigger,
                "requested_by": requested_by,
                "now": now,
                "scope": None if scope is None else sorted(map(str, scope)),
                "tries": tries,
                "source_id": source_id,
                "stopped": sorted(stopped),
                "attended": list(ATTENDED),
                "unattended": list(UNATTENDED),
            },
        )
    ).scalar_one()
    await notify(connection, Topic.IMPORTS, Topic.IMAGES)
    return import_id


async def enqueue_due(connection: AsyncConnection, now: datetime) -> int | None:
    """Enqueue the hourly sync when it is due; of processes that ask at once, one gets its id and the others None.

    A next run that lies further ahead than any could was written by a clock that was wrong: it is due, too.
    """
    due = await connection.execute(
        text("""
            UPDATE sync_schedule
            SET next_run_at = CAST(:now AS timestamptz) + interval_seconds * interval '1 second'
            WHERE enabled
              AND (next_run_at <= :now
                   OR next_run_at > CAST(:now AS timestamptz) + 2 * interval_seconds * interval '1 second')
        """),
        {"now": now},
    )
    if due.rowcount == 0:
        return None
    await notify(connection, Topic.SYNC)
    return await enqueue(connection, "schedule", "the hourly sync", now)


_CLAIM = text("""
    UPDATE imports
    SET state = 'running', fence = fence + 1, lease_owner = :owner,
        lease_until = clock_timestamp() + make_interval(secs => :lease_s),
        started_at = coalesce(started_at, clock_timestamp())
    WHERE id = (
        SELECT id FROM imports
        WHERE (state = 'running' AND lease_until < clock_timestamp())
           OR (state = 'queued' AND NOT EXISTS (SELECT FROM imports WHERE state = 'running'))
        ORDER BY id LIMIT 1 FOR UPDATE SKIP LOCKED)
    RETURNING id, fence, trigger, scope, tries, source_id,
              set_config('idle_in_transaction_session_timeout', :standstill, true)
""")

_SUPERSEDE = text("""
    UPDATE imports SET retry_at = NULL
    WHERE retry_at IS NOT NULL AND id <> :id AND (CAST(:scope AS text[]) IS NULL OR scope <@ CAST(:scope AS text[]))
""")


async def claim(connection: AsyncConnection, owner: str, lease_s: float = LEASE_S) -> Claim | None:
    """An import nobody carries out: one that waits, or one whose runner let its lease run out. None when there is none.

    Leases are measured by PostgreSQL's clock, which all processes share. What was to be tried again and is covered by
    this import is not tried again beside it.
    """
    try:
        values = {"owner": owner, "lease_s": lease_s, "standstill": _standstill()}
        row = (await connection.execute(_CLAIM, values)).one_or_none()
    except IntegrityError:
        # Another process began to run one between our look and our write.
        return None
    if row is None:
        return None
    await connection.execute(_SUPERSEDE, {"id": row.id, "scope": row.scope})
    await notify(connection, Topic.IMPORTS, Topic.IMAGES)
    scope = None if row.scope is None else frozenset(row.scope)
    return Claim(row.id, row.fence, row.trigger, scope, row.tries, row.source_id)


def _standstill() -> str:
    """The setting's value, for one transaction, in milliseconds."""
    return str(int(STANDSTILL_S * 1000))


async def require_lease(connection: AsyncConnection, held: Claim) -> None:
    """Until this transaction ends nobody can take the import over. Raises LeaseLost when somebody has."""
    row = await connection.execute(
        select(imports.c.id, func.set_config("idle_in_transaction_session_timeout", _standstill(), True))
        .where(imports.c.id == held.import_id, imports.c.fence == held.fence, imports.c.state == "running")
        .with_for_update(read=True)
    )
    if row.one_or_none() is None:
        raise LeaseLost(held.import_id)


async def record_progress(
    connection: AsyncConnection,
    held: Claim,
    progress: Mapping[ImageKey, ImageProgress],
    bytes_total: int,
    bytes_done: int,
    lease_s: float = LEASE_S,
) -> bool:
    """Write how far the import is and extend its lease. True if somebody asked to stop it. Raises LeaseLost."""
    row = (
        await connection.execute(
            text("""
                UPDATE imports SET bytes_total = :total, bytes_done = :done,
                    lease_until = clock_timestamp() + make_interval(secs => :lease_s)
                WHERE id = :id AND fence = :fence AND state = 'running'
                RETURNING cancel_requested, set_config('idle_in_transaction_session_timeout', :standstill, true)
            """),
            {
                "total": bytes_total,
                "done": bytes_done,
                "lease_s": lease_s,
                "id": held.import_id,
                "fence": held.fence,
                "standstill": _standstill(),
            },
        )
    ).one_or_none()
    if row is None:
        raise LeaseLost(held.import_id)
    if progress:
        await _record_images(connection, held.import_id, progress)
    await notify(connection, Topic.IMPORTS, Topic.IMAGES)
    return bool(row.cancel_requested)


async def _record_images(
    connection: AsyncConnection, import_id: int, progress: Mapping[ImageKey, ImageProgress]
) -> None:
    await connection.execute(
        text("""
            INSERT INTO import_images (import_id, os, release, arch, bytes_total, bytes_done, error_code, error)
            SELECT :id, given.* FROM unnest(
                CAST(:oses AS text[]), CAST(:releases AS text[]), CAST(:arches AS text[]),
                CAST(:totals AS bigint[]), CAST(:dones AS bigint[]), CAST(:codes AS text[]), CAST(:errors AS text[])
            ) AS given
            ON CONFLICT (import_id, os, release, arch) DO UPDATE
            SET bytes_total = excluded.bytes_total, bytes_done = excluded.bytes_done,
                error_code = excluded.error_code, error = excluded.error
        """),
        {
            "id": import_id,
            "oses": [image.os for image in progress],
            "releases": [image.release for image in progress],
            "arches": [image.arch for image in progress],
            "totals": [entry.bytes_total for entry in progress.values()],
            "dones": [entry.bytes_done for entry in progress.values()],
            "codes": [entry.code for entry in progress.values()],
            "errors": [entry.error for entry in progress.values()],
        },
    )


async def finish(
    connection: AsyncConnection,
    held: Claim,
    state: str,
    now: datetime,
    code: str,
    error: str,
    retry_at: datetime | None = None,
) -> None:
    """The import has ended as `state`; the sync it belonged to is done with it. Raises LeaseLost."""
    await require_lease(connection, held)
    await connection.execute(
        update(imports)
        .where(imports.c.id == held.import_id)
        .values(
            state=state,
            finished_at=now,
            lease_owner=None,
            lease_until=None,
            error_code=code,
            error=error,
            retry_at=retry_at,
        )
    )
    if held.trigger not in UNATTENDED and not held.only_reads:
        await connection.execute(update(sync_schedule).values(last_run_at=now))
    await notify(connection, Topic.IMPORTS, Topic.IMAGES, Topic.SYNC)


async def release(connection: AsyncConnection, held: Claim) -> None:
    """Let the next process that looks carry the import on at once, instead of when the lease has run out."""
    await connection.execute(
        text(
            "UPDATE imports SET lease_until = clock_timestamp() WHERE id = :id AND fence = :fence AND state = 'running'"
        ),
        {"id": held.import_id, "fence": held.fence},
    )


_ENDED = {"succeeded": "it succeeded", "failed": "it failed", "cancelled": "it was stopped"}


async def request_cancel(connection: AsyncConnection, import_id: int, now: datetime) -> None:
    """A waiting import ends at once, a running one within seconds. Raises NotFound; Conflict when it has ended."""
    stopped = await connection.execute(
        text("""
            UPDATE imports SET cancel_requested = true,
                finished_at = CASE state WHEN 'queued' THEN CAST(:now AS timestamptz) END,
                state = CASE state WHEN 'queued' THEN 'cancelled' ELSE state END
            WHERE id = :id AND state IN ('queued', 'running')
        """),
        {"id": import_id, "now": now},
    )
    if stopped.rowcount == 0:
        entry = await get(connection, import_id)
        raise Conflict(f"The import {import_id} has ended already: {_ENDED[entry.state]}.")
    await notify(connection, Topic.IMPORTS, Topic.IMAGES)


async def request_stop(connection: AsyncConnection, import_id: int, image: ImageKey) -> None:
    """One image of an import under way is fetched no further. Raises NotFound; Conflict when the import has ended."""
    stopped = await connection.execute(
        text("""
            UPDATE imports SET stopped = array_append(array_remove(stopped, :image), :image)
            WHERE id = :id AND state IN ('queued', 'running')
        """),
        {"id": import_id, "image": str(image)},
    )
    if stopped.rowcount == 0:
        entry = await get(connection, import_id)
        raise Conflict(f"The import {import_id} has ended already: {_ENDED[entry.state]}.")
    await notify(connection, Topic.IMPORTS, Topic.IMAGES)


async def stopped_images(connection: AsyncConnection, import_id: int) -> list[str]:
    """The images of an import that are to be stopped, by id."""
    found: list[str] | None = await connection.scalar(select(imports.c.stopped).where(imports.c.id == import_id))
    return found or []


_COLUMNS = [imports.c[name] for name in Import.__slots__]


async def get(connection: AsyncConnection, import_id: int, *, for_update: bool = False) -> Import:
    """The import; with `for_update` nobody else changes it until this transaction ends. Raises NotFound."""
    query = select(*_COLUMNS).where(imports.c.id == import_id)
    found = await connection.execute(query.with_for_update() if for_update else query)
    row = found.mappings().one_or_none()
    if row is None:
        raise NotFound("import", import_id)
    return Import(**row)


async def images_of(connection: AsyncConnection, import_id: int) -> dict[str, ImageProgress]:
    """How far the import is (or got) with each image it had something to fetch for, by image id."""
    rows = await connection.execute(select(import_images).where(import_images.c.import_id == import_id))
    return {
        f"{row.os}:{row.release}:{row.arch}": ImageProgress(row.bytes_total, row.bytes_done, row.error_code, row.error)
        for row in rows
    }


async def list_recent(connection: AsyncConnection, limit: int, before: int | None) -> list[Import]:
    """Imports with an id below `before`, newest first."""
    query = select(*_COLUMNS).order_by(imports.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(imports.c.id < before)
    return [Import(**row) for row in (await connection.execute(query)).mappings()]


async def counted(connection: AsyncConnection) -> dict[str, int]:
    """How many imports are in each state, for monitoring."""
    rows = await connection.execute(select(imports.c.state, func.count()).group_by(imports.c.state))
    return {row[0]: row[1] for row in rows}


async def schedule(connection: AsyncConnection, *, for_update: bool = False) -> Schedule:
    """The hourly sync as it stands; with `for_update` nobody else changes it until this transaction ends."""
    query = select(sync_schedule)
    row = (await connection.execute(query.with_for_update() if for_update else query)).one()
    return Schedule(row.enabled, row.last_run_at, row.next_run_at, timedelta(seconds=row.interval_seconds))


async def set_enabled(connection: AsyncConnection, enabled: bool) -> Schedule:
    """Switch the hourly sync. Switched on, a run that was missed meanwhile is due at once."""
    await connection.execute(update(sync_schedule).values(enabled=enabled))
    await notify(connection, Topic.SYNC)
    return await schedule(connection)


async def set_interval(connection: AsyncConnection, interval: timedelta, now: datetime) -> Schedule:
    """Set how often the sync runs. The next run moves with it; one that would have been due by now is due at once."""
    await connection.execute(
        text("""
            UPDATE sync_schedule SET
                interval_seconds = :seconds,
                next_run_at = least(next_run_at + (:seconds - interval_seconds) * interval '1 second',
                                    CAST(:now AS timestamptz) + :seconds * interval '1 second')
        """),
        {"seconds": int(interval.total_seconds()), "now": now},
    )
    await notify(connection, Topic.SYNC)
    return await schedule(connection)


async def remove_old(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Remove imports that ended before `before`, the oldest first; how many of at most `limit` went."""
    # Imports end in the order of their ids, or nearly so: looking at the oldest few needs no index of its own.
    oldest = select(imports.c.id, imports.c.finished_at).order_by(imports.c.id).limit(limit).subquery()
    gone = await connection.execute(
        delete(imports).where(imports.c.id.in_(select(oldest.c.id).where(oldest.c.finished_at < before)))
    )
    return gone.rowcount
