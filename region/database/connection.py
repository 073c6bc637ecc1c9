"""The way to PostgreSQL: one engine a process, one transaction a change, and `Unavailable` when it is away."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import sqlalchemy.exc
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

import migrations
from shared.errors import Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATION_LOCK = 0x626F6F74
"""`pg_advisory_xact_lock` key of migrations: region processes that start together migrate once."""

CONNECT_TIMEOUT_S = 5
STATEMENT_TIMEOUT_MS = 60_000


def create_engine(url: str) -> AsyncEngine:
    """An engine for `url`; nothing is connected yet."""
    return create_async_engine(
        url,
        pool_size=8,
        max_overflow=4,
        pool_timeout=10,
        pool_pre_ping=True,
        connect_args={
            "timeout": CONNECT_TIMEOUT_S,
            "server_settings": {"statement_timeout": str(STATEMENT_TIMEOUT_MS), "application_name": "bootferry-region"},
        },
    )


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction: committed when the block ends, rolled back when it raises.

    Raises Unavailable when the database cannot be reached or went away; nothing of the block has happened then.
    """
    try:
        connection = await engine.connect()
    except (OSError, TimeoutError, sqlalchemy.exc.SQLAlchemyError, asyncpg.PostgresError) as error:
        if isinstance(error, sqlalchemy.exc.DBAPIError | asyncpg.PostgresError) and not _is_away(error):
            raise
        raise Unavailable("The database does not answer") from error
    # After this an OSError is somebody else's, a disk's for instance.
    try:
        async with connection.begin():
            yield connection
    except (sqlalchemy.exc.InterfaceError, sqlalchemy.exc.DBAPIError, asyncpg.PostgresError) as error:
        if not _is_away(error):
            raise
        raise Unavailable("The database does not answer") from error
    finally:
        await connection.close()


def _is_away(error: Exception) -> bool:
    if isinstance(error, sqlalchemy.exc.InterfaceError):
        return True
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        if error.connection_invalidated:
            return True
        cause = error.orig.__cause__ if error.orig else None
    else:
        cause = error
    return isinstance(
        cause, asyncpg.PostgresConnectionError | asyncpg.CannotConnectNowError | asyncpg.InvalidCatalogNameError
    )


async def migrate(engine: AsyncEngine) -> None:
    """The schema is the one this code was written for when this returns. Raises Unavailable."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        await connection.run_sync(_upgrade)


async def is_migrated(connection: AsyncConnection) -> bool:
    """True if the schema is the one this code was written for."""
    return await connection.run_sync(_is_at_head)


# Alembic is imported where it is used: it takes a fifth of a process's start, and most commands do not need it.
def _configuration() -> "Config":
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return configuration


def _upgrade(connection: Connection) -> None:
    from alembic import command

    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "head")


def _is_at_head(connection: Connection) -> bool:
    from alembic.runtime.migration import MigrationContext
    from alembic.script import ScriptDirectory

    head = ScriptDirectory.from_config(_configuration()).get_current_head()
    return MigrationContext.configure(connection).get_current_revision() == head
