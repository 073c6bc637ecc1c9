"""The composition root: everything a region process consists of is built here and passed down."""

import asyncio
import os
import secrets
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, select
from sqlalchemy.dialects.postgresql import insert as upsert
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region import clock, manifests, sources
from region.changes import Changes, Topic
from region.clock import Clock
from region.database import create_engine, migrate, transaction
from region.importer import Importer, run_next
from region.memory import Memory
from region.operators import Role, create_token
from region.settings import RegionSettings
from region.stream.openpgp import DEFAULT_KEYRING
from region.tables import operator_tokens, region, sync_schedule
from shared.errors import BootferryError, InvalidSettings, Unavailable
from shared.logs import logger
from shared.signing import fingerprint, load_or_create_key
from shared.store import Store
from shared.systemd import notify, watchdog_interval_s

RETRY_S = 1.0
IDLE_S = 10.0
"""How long the importer waits for word of a new import before it looks by itself."""

DOUBTS_PAUSE_S = 10.0
DEFAULT_SOURCE = "maas.io"

log = logger(__name__)


@dataclass(slots=True)
class Region:
    """One region process. `ready` is set once the schema is current and the memory filled; `fatal` ends the process."""

    settings: RegionSettings
    engine: AsyncEngine
    store: Store
    key: Ed25519PrivateKey
    changes: Changes
    memory: Memory
    importer: Importer
    clock: Clock
    now: Callable[[], datetime]
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a stored file was found not to be as it was verified: an audit follows soon."""
    fatal: BootferryError | None = None
    stop: Callable[[], None] = lambda: None

    @property
    def fingerprint(self) -> str:
        """How tokens and racks name this region."""
        return fingerprint(self.key)

    def require_ready(self) -> None:
        """Returning says: the schema is current and the memory filled. Raises Unavailable while that is not so."""
        if not self.ready.is_set():
            raise Unavailable("The region's database")


def build(settings: RegionSettings, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> Region:
    """A region process, built but not running: nothing is connected yet. Raises InvalidSettings."""
    try:
        settings.data_dir.mkdir(parents=True, exist_ok=True, mode=0o700)
        store = Store(settings.data_dir / "store")
        key = load_or_create_key(settings.data_dir / "region.key")
    except OSError as error:
        raise InvalidSettings(
            f"The directory REGION_DATA_DIR={settings.data_dir} cannot be used: {error.strerror}."
        ) from error
    engine = create_engine(settings.database_url)
    memory = Memory(engine, key, now)
    return Region(
        settings=settings,
        engine=engine,
        store=store,
        key=key,
        changes=Changes(),
        memory=memory,
        importer=Importer(
            engine=engine,
            store=store,
            key=key,
            parallel_downloads=settings.parallel_downloads,
            owner=f"{socket.gethostname()}:{os.getpid()}:{secrets.token_hex(4)}",
            now=now,
        ),
        clock=Clock(engine, store, memory, timedelta(seconds=settings.prune_grace_seconds), now),
        now=now,
    )


@asynccontextmanager
async def running(built: Region) -> AsyncIterator[None]:
    """Inside, the region works: it has started or keeps trying to, and everything periodic runs."""
    tasks = [
        asyncio.create_task(coroutine)
        for coroutine in (_work(built), built.changes.listen(built.settings.database_url), _watchdog())
    ]
    try:
        yield
    finally:
        notify("STOPPING=1")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Unavailable):
            await built.memory.flush()
        await built.engine.dispose()


async def _work(built: Region) -> None:
    try:
        await _until_available(lambda: prepare(built))
        await _until_available(built.memory.refresh)
    except BootferryError as error:
        built.fatal = error
        log.critical(str(error), action="start", code=error.code)
        built.stop()
        return
    built.ready.set()
    notify("READY=1")
    log.info("The region is ready.", action="start", fingerprint=built.fingerprint)
    scheduler = clock.start(built.clock)
    try:
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(built.memory.follow(built.changes))
            tasks.create_task(_import(built))
            tasks.create_task(_upkeep(built))
            tasks.create_task(_settle_doubts(built))
    finally:
        scheduler.shutdown(wait=False)


async def _upkeep(built: Region) -> None:
    # A disk may have changed while nobody watched; and an interval's first tick is a whole interval away.
    await clock.patiently(built.clock.audit)()
    await clock.patiently(built.clock.tick)()


async def _settle_doubts(built: Region) -> None:
    while True:
        await built.doubted.wait()
        await clock.patiently(built.clock.audit)()
        built.doubted.clear()
        await asyncio.sleep(DOUBTS_PAUSE_S)


async def _import(built: Region) -> None:
    """Carry out imports, one after the other, as long as the process lives."""
    with built.changes.subscribe(Topic.IMPORTS) as subscription:
        while True:
            try:
                if await run_next(built.importer):
                    continue
            except Unavailable:
                await asyncio.sleep(RETRY_S)
            except Exception:
                # A fault of ours must not end all imports for ever: the lease runs out and the next try is told apart.
                log.exception("An import broke off unexpectedly.", action="import")
                await asyncio.sleep(RETRY_S)
            await subscription.next(timeout_s=IDLE_S)


async def _until_available(step: Callable[[], Awaitable[None]]) -> None:
    told = False
    while True:
        try:
            await step()
        except Unavailable as error:
            if not told:
                log.warning(f"The region waits. {error}", action="start", code=error.code)
                told = True
            await asyncio.sleep(RETRY_S)
        else:
            return


async def _watchdog() -> None:
    if (interval_s := watchdog_interval_s()) is not None:
        while True:
            notify("WATCHDOG=1")
            await asyncio.sleep(interval_s)


async def prepare(built: Region) -> None:
    """Schema and first rows are there when this returns; of processes that start together, one has made them.

    Raises Unavailable; InvalidSettings when the data directory holds another region's key than the database knows.
    """
    if built.settings.migrate_on_start:
        await migrate(built.engine)
    async with transaction(built.engine) as connection:
        now = built.now()
        await connection.execute(
            upsert(region)
            .values(id=1, fingerprint=built.fingerprint, epoch=int(now.timestamp()), created_at=now)
            .on_conflict_do_nothing()
        )
        row = (await connection.execute(select(region).with_for_update())).one()
        if row.fingerprint != built.fingerprint:
            raise InvalidSettings(
                f"The key in {built.settings.data_dir} is not the one of this database; racks know the key"
                f" {row.fingerprint[:16]}…: point REGION_DATA_DIR to the directory that holds it."
            )
        fresh = await connection.scalar(select(sync_schedule.c.id)) is None
        if fresh:
            await connection.execute(insert(sync_schedule).values(id=1, next_run_at=now))
            await _create_default_source(connection, built.settings, now)
        await manifests.publish(connection, built.key, now)
        if await connection.scalar(select(operator_tokens.c.id).limit(1)) is None:
            # Written before the commit: a token that is only in the database could never be had again.
            _leave_token(
                built.settings.admin_token_file or built.settings.data_dir / "admin-token",
                await create_token(connection, "first administrator", Role.ADMIN, now),
            )


async def _create_default_source(connection: AsyncConnection, settings: RegionSettings, now: datetime) -> None:
    path = settings.default_source_keyring
    keyring = DEFAULT_KEYRING.read_bytes() if path is None else sources.read_keyring(path)
    wished = sources.wish(name=DEFAULT_SOURCE, url=settings.default_source_url, keyring=keyring, priority=10)
    await sources.create(connection, wished, now)


def _leave_token(path: Path, token: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    staged = path.with_name(f".{path.name}.{os.getpid()}")
    with os.fdopen(os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(f"{token}\n")
    staged.replace(path)
    log.info("The first administrator's token was left in a file.", action="start", path=str(path))
