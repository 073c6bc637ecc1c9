"""Restore: a backup becomes the region again, in a new epoch.

The steps, each of which may be the last before a crash:

    1. `region.key.new`, `secrets.key.new`     before: nothing has happened; a later start or restore goes on from there
    2. one transaction: the schema of then,    before: the database is as it was
       its rows, the schema of now, a new
       epoch, an import of what is missing
    3. the keys take their names               before: the database names the keys that lie beside; each start does this

- A database that holds another region, and keys that are others than the backup's, are replaced only when that was
  asked for; keys that are replaced stay beside, as `….before-restore`.
- Nothing is restored while a region process is connected, and none begins meanwhile.
- What a backup must not bring back is not in it (`region.backup.save`). Racks that were removed since, and tokens that
  were revoked since, count again; who restores is told so.
"""

import asyncio
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import BinaryIO

import asyncpg
from sqlalchemy import inspect, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.actions.region import SUBJECT, new_epoch
from region.backup import bundle, keyring
from region.backup.bundle import Backup, Head
from region.backup.keyring import KeyFiles
from region.backup.save import COPY_S, SPELLING, driver_of
from region.configuration import RegionConfiguration
from region.database.connection import MIGRATION_LOCK, has_revision, transaction, upgrade
from region.database.tables import metadata, region
from region.importing import imports, upkeep
from region.keys import RegionKeys, key_directory
from region.people import activity
from region.people.activity import CONSOLE
from region.publishing.held import Publisher
from shared.disk import create_whole
from shared.errors import Conflict, InvalidDocument
from shared.store.base import Store

_UNFIT = (asyncpg.DataError, asyncpg.IntegrityConstraintViolationError, asyncpg.SyntaxOrAccessError)


class Found(StrEnum):
    """What is in a database that a backup is to be restored to."""

    NOTHING = "nothing"
    OWN = "own"
    OTHER = "other"


@dataclass(frozen=True, slots=True)
class Restored:
    """What a restore did. `configuration` says what became of region.toml, empty where the backup has none."""

    head: Head
    rows: int
    epoch: int
    kept_keys: tuple[Path, ...]
    configuration: str


async def restore(
    engine: AsyncEngine,
    configuration: RegionConfiguration,
    path: Path,
    now: datetime,
    *,
    replace: bool = False,
    file: BinaryIO | None = None,
) -> Restored:
    """The region of the backup at `path`, in a new epoch: the greatest of the one before plus one, and now.

    Raises InvalidDocument for a damaged backup, or one of a newer version; Conflict when something else is there and
    `replace` was not asked for, or a region process is connected; InvalidConfiguration, Unavailable, OSError.
    """
    with bundle.opened(path, file) as backup:
        if not has_revision(backup.head.revision):
            newer = f"it is of Bootferry {backup.head.version}, which is newer; install that, and restore it there"
            raise InvalidDocument(str(path), newer)
        files = _keys(backup)
        directory, given = key_directory(configuration)
        others = await asyncio.to_thread(keyring.others, directory, files)
        if given:
            keyring.require_given(directory, files)
        async with transaction(engine) as connection:
            for statement in (*SPELLING, f"SELECT pg_advisory_xact_lock({MIGRATION_LOCK})"):
                await connection.execute(text(statement))
            await _require_alone(connection)
            found = await _found(connection, backup)
            if not replace:
                _require_own(found, others)
            keys = await asyncio.to_thread(keyring.put_beside, directory, files)
            await _fill(connection, backup)
            epoch = await _begin(connection, keys, backup, now)
        kept = await asyncio.to_thread(keyring.take, keys, others)
        return Restored(backup.head, backup.rows, epoch, tuple(kept), _configure(backup, configuration))


async def adopt(engine: AsyncEngine, store: Store, now: datetime) -> int:
    """How many of the files on the region's disk have their rows again: the import that waits fetches the others."""
    return len(await upkeep.adopt(engine, store, [f"{number:02x}" for number in range(256)], now))


def _keys(backup: Backup) -> KeyFiles:
    """The keys of the backup. Raises InvalidDocument unless they are those that its database knows."""
    files = KeyFiles(backup.content(bundle.REGION_KEY), backup.content(bundle.SECRETS_KEY))
    if files.fingerprints(str(backup.path)) != (backup.head.fingerprint, backup.head.secrets_fingerprint):
        raise InvalidDocument(str(backup.path), "its keys are not those of its database; take another one")
    return files


async def _require_alone(connection: AsyncConnection) -> None:
    others = await connection.scalar(
        text("""
            SELECT count(*) FROM pg_stat_activity
            WHERE datname = current_database() AND pid <> pg_backend_pid() AND application_name = 'bootferry-region'
        """)
    )
    if others:
        raise Conflict(
            f"A bootferry-region is connected to this database ({others} connections); stop every process of the region"
            " (systemctl stop bootferry-region), then restore again."
        )


async def _found(connection: AsyncConnection, backup: Backup) -> Found:
    tables = set(await connection.run_sync(lambda sync: inspect(sync).get_table_names()))
    if "region" not in tables:
        return Found.OTHER if tables & metadata.tables.keys() else Found.NOTHING
    fingerprint = await connection.scalar(select(region.c.fingerprint))
    if fingerprint is None:
        return Found.NOTHING
    known = {fingerprint}
    if "successions" in tables:
        known |= set(await connection.scalars(text("SELECT before FROM successions")))
    return Found.OWN if backup.head.fingerprint in known else Found.OTHER


def _require_own(found: Found, others: Sequence[Path]) -> None:
    if found is Found.OTHER:
        raise Conflict("This database holds another region than the backup; --replace puts the backup in its place.")
    if others:
        verb = "are others" if len(others) > 1 else "is another one"
        raise Conflict(
            f"{' and '.join(map(str, others))} {verb} than the backup's;"
            " --replace puts the backup's in their place, and keeps what is there beside."
        )


async def _fill(connection: AsyncConnection, backup: Backup) -> None:
    """The rows of the backup, in the schema of now, and nothing else."""
    await connection.execute(text("DROP VIEW IF EXISTS targets"))
    present = await connection.run_sync(lambda sync: inspect(sync).get_table_names())
    for table in sorted({*metadata.tables, "rack_files", "alembic_version"} & set(present)):
        await connection.execute(text(f"DROP TABLE {table} CASCADE"))
    await upgrade(connection, backup.head.revision)
    driver = await driver_of(connection)
    for table, columns in backup.head.tables.items():
        with backup.file(f"tables/{table}") as rows:
            try:
                await driver.copy_to_table(table, source=rows, columns=columns, format="text", timeout=COPY_S)
            except _UNFIT as error:
                raise InvalidDocument(str(backup.path), f"its rows of {table} do not fit the schema") from error
    await upgrade(connection, "head")
    for known in metadata.sorted_tables:
        for column in known.columns:
            if column.identity is not None:
                await connection.execute(
                    text(f"""
                        SELECT setval(pg_get_serial_sequence('{known.name}', '{column.name}'),
                                      greatest(max({column.name}), 1), max({column.name}) IS NOT NULL)
                        FROM {known.name}
                    """)
                )


async def _begin(connection: AsyncConnection, keys: RegionKeys, backup: Backup, now: datetime) -> int:
    """The new epoch, in which the files that are not here are asked for at once."""
    epoch = await new_epoch(connection, CONSOLE, Publisher(keys.signing), now)
    await imports.enqueue(connection, "healing", "the restore of a backup", now)
    made_at = backup.head.made_at.strftime("%Y-%m-%d %H:%M:%S")
    await activity.record(
        connection,
        CONSOLE,
        now,
        "region.restored",
        f"Restored the backup of {made_at} UTC, by Bootferry {backup.head.version}.",
        subject=SUBJECT,
        after={"epoch": epoch},
    )
    return epoch


def _configure(backup: Backup, configuration: RegionConfiguration) -> str:
    content, place = backup.content(bundle.CONFIGURATION), configuration.config_file()
    if not content:
        return ""
    with suppress(OSError):
        if place.exists() and place.read_bytes() == content:
            return ""
    try:
        create_whole(place, content)
    except FileExistsError:
        return f"{place} is another one than the backup's and stays."
    except OSError as error:
        return f"{place} could not be put back ({error.strerror}); it is {bundle.CONFIGURATION} in the backup."
    return f"{place} was put back."
