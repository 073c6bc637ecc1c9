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
from region.standing import STARTING_S, Standing
from shared.endings import part, reason_of, unheard
from shared.errors import BootferryError, Unavailable
from shared.logs import logger
from shared.signing import fingerprint
from shared.store.base import Store
from shared.systemd import notify, watchdog_interval_s
from shared.tls import Certificate

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
    standing: Standing
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
    certificate: Certificate | None = None
    """What it speaks TLS with, where it does."""
    fatal: BootferryError | None = None
    stop: Callable[[], None] = lambda: None

    def ended(self, work: "asyncio.Task[None]") -> None:
        """End the process too, and say why, unless it was told to end."""
        if not work.cancelled() and (error := work.exception()) is not None:
            self.fatal = reason_of(error)
            self.stop()

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
    asyncio.get_running_loop().set_exception_handler(unheard)
    work = asyncio.create_task(_work(built))
    work.add_done_callback(built.ended)
    try:
        yield
    finally:
        notify("STOPPING=1")
        log.info("The region stops; an import under way is carried on.", action="stop")
        work.cancel()
        await asyncio.gather(work, return_exceptions=True)
        with suppress(Unavailable):
            await built.sightings.flush()
        await built.engine.dispose()
        await built.request_engine.dispose()


async def _work(built: Region) -> None:
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(part("The watchdog", _watchdog(built.standing)))
        await built.watch.begin(built.begin)
        built.ready.set()
        built.standing.ready()
        log.info("The region is ready.", action="start", fingerprint=built.fingerprint)
        url = built.configuration.database_url
        for name, work in {
            "The watch over the database": built.watch.run(),
            "The line on which changes are heard": built.topics.listen(url, built.watch.well),
            "What keeps the manifest": built.memory.follow(built.topics),
            "What follows the region's key": _follow_key(built),
            "What keeps the racks' keys": built.rack_keys.follow(built.topics),
            "What tells of changes": built.gathered.run(),
            "The clock": clock.run(built.clock),
            "What writes down which racks were heard": _write_sightings(built),
            "The importer": _import(built),
            "What settles doubts about files": _settle_doubts(built),
        }.items():
            tasks.create_task(part(name, work))
        tasks.create_task(_upkeep(built))


async def _upkeep(built: Region) -> None:
    # A disk may have changed while nobody watched; and an interval's first tick is a whole interval away.
    await clock.steadily(built.clock.audit)()
    await clock.steadily(built.clock.tick)()


async def _follow_key(built: Region) -> None:
    """Take the region's new key when it was rotated. Raises InvalidConfiguration where it cannot be found."""
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
            await subscription.next(timeout_s=KEY_S)


async def _write_sightings(built: Region) -> None:
    while True:
        await asyncio.sleep(SIGHTINGS_S)
        with suppress(Unavailable):
            await built.sightings.flush()


async def _settle_doubts(built: Region) -> None:
    while True:
        await built.doubted.wait()
        await clock.steadily(built.clock.audit)()
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


async def _watchdog(standing: Standing) -> None:
    """Tell the service manager that the loop turns: it is the loop that everybody waits for."""
    while True:
        standing.alive()
        await asyncio.sleep(watchdog_interval_s() or STARTING_S)
