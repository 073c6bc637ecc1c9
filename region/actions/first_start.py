"""The first start of a region: its row, the hourly sync, the default source, the first administrator's token."""

import asyncio
import os
import stat
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from sqlalchemy import insert, select, update
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.actions import secrets, succession
from region.catalogue import sources
from region.catalogue.trust import Keyring, read_keyring
from region.configuration import RegionConfiguration
from region.database.connection import migrate, require_migrated, transaction
from region.database.tables import operator_tokens, region, sync_schedule
from region.keys import RegionKeys
from region.people.operators import Role, create_token, is_token
from region.secrets import Secrets
from region.stream.keys import SHIPPED_KEYRINGS
from shared.disk import create_whole, make_directory
from shared.errors import InvalidConfiguration
from shared.logs import logger
from shared.signing import fingerprint

DEFAULT_SOURCE = "maas.io"

log = logger(__name__)


async def prepare(
    engine: AsyncEngine, keys: RegionKeys, configuration: RegionConfiguration, clock: Callable[[], datetime]
) -> None:
    """Schema and first rows are there when this returns; of processes that start together, one has made them.

    Raises Unavailable; InvalidConfiguration when the keys are others than those the database knows.
    """
    await (migrate(engine) if configuration.migrate_on_start else require_migrated(engine))
    async with transaction(engine) as connection:
        now = clock()
        await connection.execute(
            upsert(region)
            .values(id=1, fingerprint=fingerprint(keys.signing), epoch=int(now.timestamp()), created_at=now)
            .on_conflict_do_nothing()
        )
        await succession.settle(connection, keys)
        await secrets.settle(connection, keys)
        fresh = await connection.scalar(select(sync_schedule.c.id)) is None
        if fresh:
            await connection.execute(insert(sync_schedule).values(id=1, next_run_at=now))
            await _create_default_source(connection, keys.secrets, configuration, now)
        if await connection.scalar(select(operator_tokens.c.id).limit(1)) is None:
            # Written before the commit: a token that is only in the database could never be had again.
            _leave_token(
                configuration.admin_token_file or configuration.data_dir / "admin-token",
                await create_token(connection, "first administrator", Role.ADMIN, now),
            )


async def _create_default_source(
    connection: AsyncConnection, sealing: Secrets, configuration: RegionConfiguration, now: datetime
) -> None:
    """The default source; bootloaders come from it until an operator chooses otherwise."""
    path = configuration.default_source_keyring
    keyring = Keyring(None, name=SHIPPED_KEYRINGS[0]) if path is None else Keyring(None, path=str(path))
    wished = sources.wish(
        name=DEFAULT_SOURCE,
        url=configuration.default_source_url,
        keyring=await asyncio.to_thread(read_keyring, keyring),
        keyring_path=keyring.path,
        keyring_name=keyring.name,
        priority=10,
    )
    source = await sources.create(connection, wished, now, sealing)
    await connection.execute(update(region).values(bootloader_source_id=source.id))


def _leave_token(path: Path, token: str) -> None:
    """Raises InvalidConfiguration when something else than what a first start has left is there."""
    content = f"{token}\n".encode()
    try:
        make_directory(path.parent)
        try:
            create_whole(path, content)
        except FileExistsError:
            # What a first start has left that did not come to its end, or that of another database.
            if not _is_left_over(path):
                raise InvalidConfiguration(
                    f"{path} is there already and holds no administrator's token of this user; move it away, or choose"
                    " another REGION_ADMIN_TOKEN_FILE: the first administrator's token is to be left there."
                ) from None
            path.unlink()
            create_whole(path, content)
    except OSError as error:
        raise InvalidConfiguration(
            f"The first administrator's token cannot be left in {path}: {error.strerror}; choose another"
            " REGION_ADMIN_TOKEN_FILE."
        ) from error
    log.info("The first administrator's token was left in a file.", action="start", path=str(path))


def _is_left_over(path: Path) -> bool:
    """True if it is a file of ours, no link, with a token in it."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
    except OSError:
        return False
    with os.fdopen(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        return (
            stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid() and is_token(file.read(1024).decode("latin-1"))
        )
