"""Stored files: a row of `files` says that the store holds exactly that file (I1), one of `leaving_files` that it goes.

Rules:

- A digest is in one of the two tables or in none, never in both.
- A file leaves in three steps, each of which may be the last before a crash: its row moves to `leaving_files`; its
  bytes go, outside any transaction; the row of `leaving_files` goes. `region.importing.upkeep` takes them.
- Nobody fetches or records a digest that is leaving: its bytes may go at any moment.
- A digest comes to `leaving_files` from `files` only. Whoever alone writes `files`, as the holder of an import's lease
  does, and has seen a digest in neither table, knows that no bytes of it go until it has recorded them.
- Nothing here asks the store: whoever records a file has seen it there.
- A file found without a row is recorded under the lock of whoever removes (`upkeep.adopt`): none goes in between.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta

from sqlalchemy import BigInteger, delete, func, select, text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import files, leaving_files
from shared.digest import Sha256
from shared.errors import NotFound

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


@dataclass(frozen=True, slots=True)
class Stored:
    """A row of `files`; `stored_at` tells it from that of a file which took its place later. `size` in bytes."""

    sha256: Sha256
    size: int
    stored_at: datetime


async def size_of(connection: AsyncConnection, sha256: Sha256) -> int:
    """The size of a stored file in bytes. Raises NotFound."""
    size: int | None = await connection.scalar(select(files.c.size).where(files.c.sha256 == sha256))
    if size is None:
        raise NotFound("file", sha256)
    return size


async def all_stored(connection: AsyncConnection) -> list[Stored]:
    """Every stored file."""
    rows = await connection.execute(select(files.c.sha256, files.c.size, files.c.stored_at))
    return [Stored(Sha256(row.sha256), row.size, row.stored_at) for row in rows]


async def record(connection: AsyncConnection, found: Mapping[Sha256, int], now: datetime) -> set[Sha256]:
    """Write the rows of files that the caller has seen in the store, digest to size in bytes.

    Those in the answer are leaving and have no row now: whoever wants them waits until they are gone, and fetches them
    again. Waits for a transaction that moves one of them out.
    """
    digests = sorted(found)
    await connection.execute(
        text("""
            INSERT INTO files (sha256, size, stored_at)
            SELECT sha256, size, :now
            FROM unnest(CAST(:digests AS text[]), CAST(:sizes AS bigint[])) AS found (sha256, size)
            ON CONFLICT (sha256) DO UPDATE SET unneeded_since = NULL
        """),
        {"digests": digests, "sizes": [found[sha256] for sha256 in digests], "now": now},
    )
    # Only now: whoever moved one of them out while this waited for its row has committed.
    refused = await leaving(connection, digests)
    await connection.execute(delete(files).where(files.c.sha256.in_(refused)))
    return refused


async def leaving(connection: AsyncConnection, digests: Collection[Sha256]) -> set[Sha256]:
    """Those of `digests` that are leaving."""
    rows = await connection.scalars(
        text("SELECT sha256 FROM leaving_files WHERE sha256 = ANY(:digests)"), {"digests": list(digests)}
    )
    return {Sha256(sha256) for sha256 in rows}


async def all_leaving(connection: AsyncConnection) -> list[Sha256]:
    """Every file whose bytes go or have gone, the longest leaving first."""
    rows = await connection.scalars(
        select(leaving_files.c.sha256).order_by(leaving_files.c.since, leaving_files.c.sha256)
    )
    return [Sha256(sha256) for sha256 in rows]


async def without_row(connection: AsyncConnection, digests: Collection[Sha256]) -> list[Sha256]:
    """Those of `digests` that are neither stored nor leaving, in order."""
    rows = await connection.scalars(
        text("""
            SELECT sha256 FROM unnest(CAST(:digests AS text[])) AS given (sha256)
            WHERE NOT EXISTS (SELECT FROM files WHERE files.sha256 = given.sha256)
              AND NOT EXISTS (SELECT FROM leaving_files WHERE leaving_files.sha256 = given.sha256)
            ORDER BY sha256
        """),
        {"digests": list(digests)},
    )
    return [Sha256(sha256) for sha256 in rows]


async def leave_unknown(connection: AsyncConnection, wrong: Collection[Sha256], now: datetime) -> list[Sha256]:
    """Let files go that have no row, and whose bytes were read and are wrong; their digests.

    One that was fetched and recorded meanwhile stays. Each gets a row and loses it again in one transaction, so that
    whoever is about to record the same digest waits, and is then refused.
    """
    taken = await connection.scalars(
        text("""
            INSERT INTO files (sha256, size, stored_at)
            SELECT sha256, 0, :now FROM unnest(CAST(:digests AS text[])) AS given (sha256)
            WHERE NOT EXISTS (SELECT FROM leaving_files WHERE leaving_files.sha256 = given.sha256)
            ON CONFLICT (sha256) DO NOTHING RETURNING sha256
        """),
        {"digests": sorted(wrong), "now": now},
    )
    return await _move_out(connection, "sha256 = ANY(:digests)", {"digests": list(taken)}, now)


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


async def leave_unneeded(connection: AsyncConnection, grace: timedelta, now: datetime) -> list[Sha256]:
    """Move out the rows of files that have been unneeded for `grace`; their digests."""
    await mark_unneeded(connection, now)
    return await _move_out(connection, "unneeded_since <= :until", {"until": now - grace}, now)


async def leave_lost(connection: AsyncConnection, lost: Sequence[Stored], now: datetime) -> list[Sha256]:
    """Move out the rows of files found lost or spoiled, unless others have taken their place since; their digests."""
    condition = (
        "(sha256, stored_at) IN (SELECT * FROM unnest(CAST(:digests AS text[]), CAST(:moments AS timestamptz[])))"
    )
    values = {"digests": [row.sha256 for row in lost], "moments": [row.stored_at for row in lost]}
    return await _move_out(connection, condition, values, now)


async def _move_out(
    connection: AsyncConnection, condition: str, values: Mapping[str, object], now: datetime
) -> list[Sha256]:
    moved = await connection.scalars(
        text(f"""
            WITH gone AS (DELETE FROM files WHERE {condition} RETURNING sha256, size)
            INSERT INTO leaving_files (sha256, size, since) SELECT sha256, size, :now FROM gone RETURNING sha256
        """),
        {**values, "now": now},
    )
    return [Sha256(sha256) for sha256 in moved]


async def forget_leaving(connection: AsyncConnection, digests: Collection[Sha256]) -> None:
    """Say that no bytes of these files are left: from the end of this transaction they may be fetched again."""
    await connection.execute(text("DELETE FROM leaving_files WHERE sha256 = ANY(:digests)"), {"digests": list(digests)})
