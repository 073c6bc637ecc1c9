"""One region process: the parts it consists of, and its life from the first look at the database to the last."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.actions import first_start, succession
from region.configuration import RegionConfiguration
from region.database.connection import transaction
from region.database.topics import Gathered, Topic, Topics
from region.database.watch import Watch
from region.fleet.keys import Keys
from region.fleet.sightings import Sightings
from region.importing import clock
from region.importing.clock import Clock
from region.importing.importer import Importer, run_next
from region.keys import RegionKeys, install_next_secrets_key
from region.meters import Meters
from region.publishing import successions
from region.publishing.held import Publisher
from region.publishing.memory import Memory
from region.publishing.successions import Kept
from region.secrets import Secrets
from shared.errors import BootferryError, InvalidConfiguration, Unavailable
from shared.logs import logger
from shared.signing import fingerprint
from shared.store.base import Store
from shared.systemd import notify, watchdog_interval_s

RETRY_S = 1.0
IDLE_S = 10.0
"""How long the importer waits for word of a new import before it looks by itself."""

REPORTS_AT_ONCE = 6
DOUBTS_PAUSE_S = 10.0
KEY_S = 15.0
"""How long a rotation of the region's key may go unnoticed when the word of it was lost."""

SIGHTINGS_S = 15.0
"""How often it is written down which racks were heard."""

log = logger(__name__)


@dataclass(slots=True)
class Region:
    """One region process. `ready` is set once the schema is current and the memory filled; `fatal` ends the process."""

    configuration: RegionConfiguration
    engine: AsyncEngine
    request_engine: AsyncEngine
    """For those who wait for an answer; `engine` is for what tries again by itself."""
    store: Store
    keys: RegionKeys
    publisher: Publisher
    watch: Watch
    topics: Topics
    gathered: Gathered
    memory: Memory
    rack_keys: Keys
    sightings: Sightings
    importer: Importer
    meters: Meters
    clock: Clock
    now: Callable[[], datetime]
    successions: tuple[Kept, ...] = ()
    """The keys this region had, oldest first, and how each vouches for the one after it."""
    reports: asyncio.Semaphore = field(default_factory=lambda: asyncio.Semaphore(REPORTS_AT_ONCE))
    """Held while a rack's report is written down: the other connections are for those who look meanwhile."""
    ready: asyncio.Event = field(default_factory=asyncio.Event)
    doubted: asyncio.Event = field(default_factory=asyncio.Event)
    """Set when a stored file was found not to be as it was verified: an audit follows soon."""
    fatal: BootferryError | None = None
    stop: Callable[[], None] = lambda: None

    @property
    def key(self) -> Ed25519PrivateKey:
        """The key that signs what racks are told."""
        return self.keys.signing

    @property
    def fingerprint(self) -> str:
        """How tokens and racks name this region."""
        return fingerprint(self.key)

    @property
    def secrets(self) -> Secrets:
        """What seals and opens passwords."""
        return self.keys.secrets

    async def prepare(self) -> None:
        """Schema and first rows are there when this returns. Raises Unavailable, InvalidConfiguration."""
        await first_start.prepare(self.engine, self.keys, self.configuration, self.now)
        async with transaction(self.engine) as connection:
            await self._use_key(connection)
        # What a rotation of the key has left when it broke off.
        await asyncio.to_thread(install_next_secrets_key, self.keys)

    async def begin(self) -> None:
        """Schema, first rows and what is kept in memory are there when this returns.

        Raises Unavailable, InvalidConfiguration.
        """
        await self.prepare()
        await self.memory.refresh()
        await self.rack_keys.read_all()

    async def follow_key(self) -> bool:
        """True if the region's key was rotated; this process has the new one now, and signs with nothing else.

        Raises Unavailable; InvalidConfiguration when the new key is not in the directory of keys.
        """
        async with transaction(self.engine) as connection:
            if not await succession.follow(connection, self.keys) and self.publisher.key is self.key:
                return False
            await self._use_key(connection)
        return True

    async def _use_key(self, connection: AsyncConnection) -> None:
        self.successions = await successions.newest(connection)
        self.publisher.key = self.memory.key = self.key

    def require_ready(self) -> None:
        """Raises Unavailable unless the schema is current and the memory filled."""
        if not self.ready.is_set():
            raise Unavailable("The region has not begun yet: it waits for its database")


@asynccontextmanager
async def running(built: Region) -> AsyncIterator[None]:
    """Inside, the region works: it has started or keeps trying to, and everything periodic runs."""
    tasks = [asyncio.create_task(coroutine) for coroutine in (_work(built), _watchdog())]
    try:
        yield
    finally:
        notify("STOPPING=1")
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        with suppress(Unavailable):
            await built.sightings.flush()
        await built.engine.dispose()
        await built.request_engine.dispose()


async def _work(built: Region) -> None:
    try:
        await built.watch.begin(built.begin)
    except BootferryError as error:
        built.fatal = error
        log.critical(str(error), action="start", code=error.code)
        built.stop()
        return
    built.ready.set()
    notify("READY=1")
    log.info("The region is ready.", action="start", fingerprint=built.fingerprint)
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(built.watch.run())
        tasks.create_task(built.topics.listen(built.configuration.database_url, built.watch.well))
        tasks.create_task(built.memory.follow(built.topics))
        tasks.create_task(_follow_key(built))
        tasks.create_task(built.rack_keys.follow(built.topics))
        tasks.create_task(built.gathered.run())
        tasks.create_task(clock.run(built.clock))
        tasks.create_task(_write_sightings(built))
        tasks.create_task(_import(built))
        tasks.create_task(_upkeep(built))
        tasks.create_task(_settle_doubts(built))


async def _upkeep(built: Region) -> None:
    # A disk may have changed while nobody watched; and an interval's first tick is a whole interval away.
    await clock.patiently(built.clock.audit)()
    await clock.patiently(built.clock.tick)()


async def _follow_key(built: Region) -> None:
    """Take the region's new key when it was rotated; end the process where it cannot be found."""
    with built.topics.subscribe(Topic.MANIFEST) as subscription:
        while True:
            try:
                if await built.follow_key():
                    log.info("The region's key was rotated; this process has the new one.", action="follow")
                    # Who read the manifest meanwhile could not verify it yet.
                    built.topics.tell(Topic.MANIFEST)
            except Unavailable:
                await asyncio.sleep(RETRY_S)
                await built.watch.well()
                continue
            except InvalidConfiguration as error:
                built.fatal = error
                log.critical(str(error), action="follow", code=error.code)
                built.stop()
                return
            await subscription.next(timeout_s=KEY_S)


async def _write_sightings(built: Region) -> None:
    while True:
        await asyncio.sleep(SIGHTINGS_S)
        with suppress(Unavailable):
            await built.sightings.flush()


async def _settle_doubts(built: Region) -> None:
    while True:
        await built.doubted.wait()
        await clock.patiently(built.clock.audit)()
        built.doubted.clear()
        await asyncio.sleep(DOUBTS_PAUSE_S)


async def _import(built: Region) -> None:
    """Carry out imports, one after the other, as long as the process lives."""
    with built.topics.subscribe(Topic.IMPORTS) as subscription:
        while True:
            try:
                if await run_next(built.importer):
                    continue
            except Unavailable:
                await asyncio.sleep(RETRY_S)
                await built.watch.well()
            except Exception:
                # A fault of ours must not end all imports for ever: the lease runs out and the next try is told apart.
                log.exception("An import broke off unexpectedly.", action="import")
                await asyncio.sleep(RETRY_S)
            await subscription.next(timeout_s=IDLE_S)


async def _watchdog() -> None:
    if (interval_s := watchdog_interval_s()) is not None:
        while True:
            notify("WATCHDOG=1")
            await asyncio.sleep(interval_s)
