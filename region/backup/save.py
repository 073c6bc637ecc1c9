"""Save: the region as it is at one moment, into a backup.

- The rows are those of one transaction that sees no other: a region that works on meanwhile does not tear them.
- Nothing is saved that this region could not go on with: keys and schema must be those the database knows.
- What is not saved: stored files and where they lie (`files`, `leaving_files`); log-ins of browsers and enrolment
  tokens, which a restored database must not take again (`sessions`, `enrolment_tokens`).
"""

import asyncio
from datetime import datetime
from pathlib import Path

import asyncpg
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.backup import bundle, keyring
from region.backup.bundle import Head
from region.database.connection import is_migrated, transaction
from region.database.tables import metadata, region
from region.keys import RegionKeys
from shared import __version__
from shared.errors import Conflict, InvalidConfiguration
from shared.wire.messages import encode

NOT_SAVED = frozenset({"files", "leaving_files", "sessions", "enrolment_tokens"})
COPY_S = 3600.0
"""How long one table may take."""

# A dump that another server reads: dates and bytes in one spelling, whatever a server's settings are.
SPELLING = (
    "SET LOCAL datestyle = 'ISO, YMD'",
    "SET LOCAL timezone = 'UTC'",
    "SET LOCAL bytea_output = 'hex'",
    "SET LOCAL statement_timeout = 0",
    "SET LOCAL idle_in_transaction_session_timeout = 0",
)


async def save(engine: AsyncEngine, keys: RegionKeys, configuration: Path, path: Path, now: datetime) -> Head:
    """The backup is at `path`, and was read again, when this returns.

    `configuration` is taken along where it exists. Raises Conflict, InvalidConfiguration, Unavailable, OSError.
    """
    still = engine.execution_options(isolation_level="REPEATABLE READ")
    async with transaction(still) as connection:
        for statement in SPELLING:
            await connection.execute(text(statement))
        if not await is_migrated(connection):
            raise Conflict(
                "The database has the schema of another version: run 'bootferry-region migrate' first, or back it up"
                " with the version that it is of."
            )
        head = await _head(connection, now)
        files = await asyncio.to_thread(keyring.found, keys.directory, head.fingerprint, head.secrets_fingerprint)
        with bundle.writing(path, now) as writer:
            writer.add(bundle.HEAD, encode(head))
            driver = await driver_of(connection)
            for table, columns in head.tables.items():
                with writer.table(table) as (spool, rows):
                    said = await driver.copy_from_table(
                        table, columns=columns, output=spool, format="text", timeout=COPY_S
                    )
                    rows.append(int(said.rpartition(" ")[2]))
            writer.add(bundle.REGION_KEY, files.signing)
            writer.add(bundle.SECRETS_KEY, files.secrets)
            if (configured := await asyncio.to_thread(_content, configuration)) is not None:
                writer.add(bundle.CONFIGURATION, configured)
    return head


async def driver_of(connection: AsyncConnection) -> "asyncpg.Connection[asyncpg.Record]":
    """asyncpg's connection below, in the same transaction: SQLAlchemy has no COPY."""
    raw = await connection.get_raw_connection()
    driver = raw.driver_connection
    assert isinstance(driver, asyncpg.Connection)  # noqa: S101 - the engine was made for it
    return driver


def _content(path: Path) -> bytes | None:
    return path.read_bytes() if path.is_file() else None


async def _head(connection: AsyncConnection, now: datetime) -> Head:
    row = (await connection.execute(select(region.c.fingerprint, region.c.secrets_fingerprint))).one_or_none()
    if row is None or row.secrets_fingerprint is None:
        raise InvalidConfiguration("This database holds no region that was started once; there is nothing to back up.")
    return Head(
        version=__version__,
        made_at=now,
        revision=await connection.scalar(text("SELECT version_num FROM alembic_version")),
        fingerprint=row.fingerprint,
        secrets_fingerprint=row.secrets_fingerprint,
        tables=columns_of(),
    )


def columns_of() -> dict[str, list[str]]:
    """The tables that are saved, each after those it refers to, and their columns."""
    return {
        table.name: [column.name for column in table.columns]
        for table in metadata.sorted_tables
        if table.name not in NOT_SAVED
    }
