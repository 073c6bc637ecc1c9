"""Stored files: a row says that the store holds exactly that file (I1)."""

import asyncio
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import files
from shared.audit import slice_of_day
from shared.digest import Sha256
from shared.errors import NotFound
from shared.logs import logger
from shared.store.base import Store

log = logger(__name__)

NEEDED = """
    SELECT items.sha256 FROM items JOIN versions ON versions.id = items.version_id WHERE versions.held_at IS NOT NULL
    UNION
    SELECT items.sha256 FROM items JOIN targets ON targets.version_id = items.version_id
"""
"""The digests that a held version or a target names."""


@dataclass(frozen=True, slots=True)
class Totals:
    """How many files are stored, and their bytes."""

    count: int
    size: int


async def totals(connection: AsyncConnection) -> Totals:
    """What all stored files come to."""
    query = select(func.count(), func.coalesce(func.sum(files.c.size), 0).cast(BigInteger))
    return Totals(*(await connection.execute(query.select_from(files))).one())


async def size_of(connection: AsyncConnection, sha256: Sha256) -> int:
    """The size of a stored file in bytes. Raises NotFound."""
    size: int | None = await connection.scalar(select(files.c.size).where(files.c.sha256 == sha256))
    if size is None:
        raise NotFound("file", sha256)
    return size


async def record(connection: AsyncConnection, stored: Mapping[Sha256, int], now: datetime) -> None:
    """Write the rows of files the store holds, digest to size in bytes."""
    await connection.execute(
        text("""
            INSERT INTO files (sha256, size, stored_at)
            SELECT sha256, size, CAST(:now AS timestamptz)
            FROM unnest(CAST(:digests AS text[]), CAST(:sizes AS bigint[])) AS given (sha256, size)
            ON CONFLICT (sha256) DO UPDATE SET size = excluded.size, unneeded_since = NULL
        """),
        {"digests": list(stored), "sizes": list(stored.values()), "now": now},
    )


async def mark_unneeded(connection: AsyncConnection, now: datetime) -> None:
    """Start the grace of every file nobody needs any more, and end that of those that are needed again."""
    await connection.execute(
        text(f"""
            WITH needed AS ({NEEDED})
            UPDATE files SET unneeded_since = CASE WHEN files.sha256 IN (SELECT sha256 FROM needed) THEN NULL
                                                   ELSE CAST(:now AS timestamptz) END
            WHERE (files.unneeded_since IS NULL) <> (files.sha256 IN (SELECT sha256 FROM needed))
        """),
        {"now": now},
    )


async def prune(connection: AsyncConnection, store: Store, grace: timedelta, now: datetime) -> list[Sha256]:
    """Delete, row and bytes, the files that were unneeded for `grace`; answers their digests.

    The bytes go while the rows are locked, so that `record` cannot vouch for them in between.
    """
    await mark_unneeded(connection, now)
    gone = (
        await connection.scalars(delete(files).where(files.c.unneeded_since <= now - grace).returning(files.c.sha256))
    ).all()
    digests = [Sha256(sha256) for sha256 in gone]
    await asyncio.to_thread(store.remove, *digests)
    return digests


async def audit(connection: AsyncConnection, store: Store, now: datetime) -> list[Sha256]:
    """Compare rows and disk; answers the digests of files that were lost or spoiled, whose rows are gone now.

    Every file is looked at; those touched since they were verified, and today's share of all, are read.
    """
    rows = {Sha256(row.sha256): row.size for row in await connection.execute(select(files.c.sha256, files.c.size))}
    lost = await asyncio.to_thread(_lost, store, rows, now)
    if lost:
        await connection.execute(delete(files).where(files.c.sha256.in_(lost)))
    return lost


def _lost(store: Store, rows: dict[Sha256, int], now: datetime) -> list[Sha256]:
    touched = {sha256 for sha256, size in rows.items() if not store.has(sha256, size)}
    lost = []
    for sha256 in touched | slice_of_day(rows, now):
        try:
            if store.digest_of(sha256) != sha256:
                # Lost first: a file that cannot even be removed must not be served as stored.
                lost.append(sha256)
                store.remove(sha256)
            elif sha256 in touched:
                store.reinstate(sha256)
        except OSError as error:
            log.warning(f"{store.fault(error)}", action="audit", file=sha256)
    return lost
