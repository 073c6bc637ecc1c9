"""The way to PostgreSQL: two engines a process, one transaction a change, and `Unavailable` when it is not well.

- Requests have connections of their own (`REQUESTS`), so that they cannot take those of the importer, nor it theirs.
- Nobody waits long for a connection, for a lock or for an answer: `Unavailable` ends the wait, with the reason.
- A connection whose database was frozen is given up; nobody waits for it to be closed.
- What the event loop itself came late is not counted: a busy region does not take its database for a silent one.
"""

import asyncio
import functools
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import asyncpg
import sqlalchemy.exc
from sqlalchemy import Connection, Engine, event, text
from sqlalchemy.engine import ExceptionContext
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

import migrations
from region.database import address, refusals
from region.database.discretion import tell_no_values
from region.database.refusals import DatabaseAway, Refusal, refusal_of, refusal_to_connect
from region.database.tables import metadata
from shared.errors import Unavailable

if TYPE_CHECKING:
    from alembic.config import Config

MIGRATION_LOCK = 0x626F6F74
"""`pg_advisory_xact_lock` key of migrations: region processes that start together migrate once."""


@dataclass(frozen=True, slots=True)
class Limits:
    """How many connections an engine has, and how long its transactions wait for things."""

    connections: int
    connect_s: float
    """For a connection that answers: a free one, or a new one."""
    lock_ms: int
    statement_ms: int
    idle_ms: int
    """Between two statements of one transaction."""


REQUESTS = Limits(connections=12, connect_s=1.2, lock_ms=1_200, statement_ms=15_000, idle_ms=15_000)
"""Of requests: whoever waits for an answer is told within two seconds that the database is not well."""

BACKGROUND = Limits(connections=8, connect_s=10, lock_ms=30_000, statement_ms=60_000, idle_ms=60_000)
"""Of the importer, the clock and everything else that tries again by itself."""

_TURNS = 10
"""In so many parts a connection is waited for, so that one late turn of the event loop uses up one of them."""

_ANSWER_MARGIN_S = 5
"""PostgreSQL itself ends a statement that takes too long; one that is frozen cannot."""


def _nobody(_: Refusal) -> None:
    pass


def create_engine(url: str, limits: Limits = BACKGROUND, doubt: Callable[[Refusal], None] = _nobody) -> AsyncEngine:
    """An engine for `url`; nothing is connected yet. `doubt` hears of each refusal that a transaction met."""
    arguments = address.parse(url).arguments
    settings = {
        "statement_timeout": str(limits.statement_ms),
        "lock_timeout": str(limits.lock_ms),
        "idle_in_transaction_session_timeout": str(limits.idle_ms),
        "application_name": "bootferry-region",
    }

    async def connect() -> asyncpg.Connection:
        ours = {
            # `_connect` gives up sooner, but for what the loop comes late.
            "timeout": limits.connect_s * 5,
            "command_timeout": limits.statement_ms / 1000 + _ANSWER_MARGIN_S,
            "server_settings": settings,
        }
        return await asyncpg.connect(**{**arguments, **ours})

    engine = create_async_engine(
        "postgresql+asyncpg://",
        async_creator=connect,
        pool_size=limits.connections,
        max_overflow=0,
        # A little less, so that it is told what was waited for.
        pool_timeout=limits.connect_s * 0.9,
        execution_options={"connect_s": limits.connect_s, "doubt": doubt},
        pool_pre_ping=True,
        hide_parameters=True,
    )
    tell_no_values(engine)
    event.listen(engine.sync_engine, "handle_error", _translate_silence)
    return engine


@asynccontextmanager
async def transaction(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A connection in a transaction: committed when the block ends, rolled back when it raises.

    Raises Unavailable when the database cannot be reached, is not well or went away; nothing of the block has happened
    then.
    """
    connection = await _connect(engine)
    # After this an OSError is somebody else's, a disk's for instance.
    try:
        async with connection.begin():
            yield connection
    except (sqlalchemy.exc.DBAPIError, asyncpg.PostgresError, *refusals.OUT_OF_STEP) as error:
        if (refusal := refusal_of(error)) is None:
            raise
        raise _away(engine.sync_engine, refusal) from error
    finally:
        await connection.close()


async def _connect(engine: AsyncEngine) -> AsyncConnection:
    """A connection that has answered just now. Raises Unavailable."""
    # A task, because with a frozen database not even the end of a cancelled attempt can be waited for.
    attempt = asyncio.ensure_future(_begin(engine))
    try:
        for _ in range(_TURNS):
            done, _pending = await asyncio.wait({attempt}, timeout=_connect_s(engine) / _TURNS)
            if done:
                break
    except asyncio.CancelledError:
        _give_up(attempt)
        raise
    if not done:
        _give_up(attempt)
        raise _away(engine.sync_engine, refusals.NO_ANSWER)
    try:
        return attempt.result()
    except sqlalchemy.exc.TimeoutError as error:
        raise _away(engine.sync_engine, refusals.ALL_IN_USE) from error
    except (OSError, *refusals.OUT_OF_STEP) as error:
        raise _away(engine.sync_engine, refusal_to_connect(error)) from error
    except (sqlalchemy.exc.SQLAlchemyError, asyncpg.PostgresError) as error:
        if (refusal := refusal_of(error)) is None:
            raise
        raise _away(engine.sync_engine, refusal) from error


def _away(engine: Engine, refusal: Refusal) -> DatabaseAway:
    """The error to be raised; whoever watches over the database looks whether it is so."""
    engine.get_execution_options()["doubt"](refusal)
    return DatabaseAway(refusal)


def _connect_s(engine: AsyncEngine) -> float:
    connect_s: float = engine.sync_engine.get_execution_options()["connect_s"]
    return connect_s


async def _begin(engine: AsyncEngine) -> AsyncConnection:
    return await engine.connect()


def _give_up(attempt: "asyncio.Task[AsyncConnection]") -> None:
    def ended(task: "asyncio.Task[AsyncConnection]") -> None:
        if not task.cancelled() and task.exception() is None:
            closing = asyncio.ensure_future(task.result().close())
            _closing.add(closing)
            closing.add_done_callback(_closing.discard)

    attempt.add_done_callback(ended)
    attempt.cancel()


_closing: set["asyncio.Future[None]"] = set()
"""What asyncio itself does not hold on to."""


def _translate_silence(context: ExceptionContext) -> Unavailable | None:
    # asyncpg gave up waiting: as an OSError it would be blamed on a disk.
    if not isinstance(context.original_exception, TimeoutError) or context.engine is None:
        return None
    context.is_disconnect = True
    return _away(context.engine, refusals.NO_ANSWER)


async def migrate(engine: AsyncEngine) -> None:
    """The schema is the one this code was written for when this returns. Raises Unavailable, for a newer one too."""
    async with transaction(engine) as connection:
        await connection.execute(text("SELECT pg_advisory_xact_lock(:key)"), {"key": MIGRATION_LOCK})
        if await connection.run_sync(_is_newer):
            raise _away(engine.sync_engine, refusals.NEWER_SCHEMA)
        await upgrade(connection)


async def upgrade(connection: AsyncConnection, revision: str = "head") -> None:
    """The schema is that of `revision`, which is not before the present one, at the end of this transaction."""
    await connection.run_sync(_upgrade, revision)


async def require_migrated(engine: AsyncEngine) -> None:
    """Raises Unavailable unless the schema is the one this code was written for."""
    async with transaction(engine) as connection:
        if not await is_migrated(connection):
            newer = await connection.run_sync(_is_newer)
            raise _away(engine.sync_engine, refusals.NEWER_SCHEMA if newer else refusals.NO_SCHEMA)


async def is_migrated(connection: AsyncConnection) -> bool:
    """True if the schema is the one this code was written for."""
    return await connection.run_sync(_is_at_head)


async def require_usable(connection: AsyncConnection) -> None:
    """Raises Unavailable unless this transaction may write, and can read every table."""
    if await connection.scalar(text("SELECT current_setting('transaction_read_only')")) == "on":
        raise DatabaseAway(refusals.READ_ONLY)
    await connection.execute(text(" UNION ALL ".join(f"(SELECT 1 FROM {name} LIMIT 1)" for name in metadata.tables)))


# Alembic is imported where it is used: it takes a fifth of a process's start, and most commands do not need it.
def _configuration() -> "Config":
    from alembic.config import Config

    configuration = Config()
    configuration.set_main_option("script_location", str(Path(migrations.__file__).parent))
    return configuration


def _upgrade(connection: Connection, revision: str) -> None:
    from alembic import command

    configuration = _configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, revision)


def _is_at_head(connection: Connection) -> bool:
    return _revision(connection) == _revisions()[0]


def _is_newer(connection: Connection) -> bool:
    """True if somebody has migrated the schema in a way that this code does not know."""
    revision = _revision(connection)
    return revision is not None and revision not in _revisions()


def _revision(connection: Connection) -> str | None:
    from alembic.runtime.migration import MigrationContext

    return MigrationContext.configure(connection).get_current_revision()


def has_revision(revision: str) -> bool:
    """True if this code knows the schema `revision`."""
    return revision in _revisions()


@functools.cache
def _revisions() -> tuple[str, ...]:
    """All there are, the newest first."""
    from alembic.script import ScriptDirectory

    return tuple(script.revision for script in ScriptDirectory.from_config(_configuration()).walk_revisions())
