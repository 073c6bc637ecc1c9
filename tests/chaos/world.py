"""The world of a chaos run: the sample mirror, PostgreSQL, one region and one rack, each a process of its own.

Faults are the caller's. `converge` is what happens when they stop: everything is started, and within bounded time the
rack shows what the mirror offers, or that is a violation of I6.
"""

import asyncio
import json
import random
import signal
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
import asyncpg

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from rack.lock import holder
from tests.chaos import invariants
from tests.chaos.database import Database, database
from tests.chaos.hour import pass_an_hour
from tests.chaos.legit import Legit
from tests.chaos.machine import Machine
from tests.chaos.report import Report
from tests.db.bench import LEFT_OUT
from tests.e2e.site import Service, Site

RACK = "rack-1"

IMPORT_S = 60.0
"""An import that has not ended by itself so long after the faults is one that waits for the hour."""

Lost = (
    OSError,
    TimeoutError,
    aiohttp.ClientError,
    asyncpg.PostgresError,
    asyncpg.InterfaceError,
    asyncpg.InternalClientError,
)
"""What a call may end with while something is down."""


@dataclass(slots=True)
class World:
    """The processes and what is known of them. `chosen` are the images selected, as os:release:arch."""

    site: Site
    mirror: Mirror
    upstream: Server
    database: Database
    region: Service
    rack: Service
    legit: Legit
    machine: Machine
    report: Report
    rng: random.Random
    chosen: set[str] = field(default_factory=lambda: {"ubuntu:resolute:amd64"})
    asked: bool = True
    """The region has accepted the last wish to import."""

    wished: set[str] | None = None
    """The images of a selection of which nobody knows whether the region has accepted it."""

    @property
    def region_dir(self) -> Path:
        return Path(self.region.environment["REGION_DATA_DIR"])

    @property
    def rack_dir(self) -> Path:
        return Path(self.rack.environment["RACK_DATA_DIR"])

    @property
    def store(self) -> Path:
        return self.region_dir / "store"

    # --- faults stop

    async def converge(self, *, restart_region: bool = True) -> None:
        """Start what is down, let it come to rest and look at every invariant. Violations go to the report."""
        report = self.report
        try:
            await self.start_all()
            # Just after its database came back a region may still say 503 and when to come again.
            if (wished := self.wished) is not None:
                await self.site.until(lambda: self.choose(wished), within_s=20)
            elif not self.asked:
                await self.site.until(self.ask, within_s=20)
            await self.until_imported()
            if restart_region:
                # The clock ticks once at a start: what has no name any more goes without the minute's wait.
                await self.region.stop()
                await self.start_region()
            await self.polls(2)
            await self.settle()
            await self.machine.boot_all(set(self.wanted()))
        except (AssertionError, *Lost) as error:
            report.violate(f"I6: nothing converged: {type(error).__name__}: {str(error)[:6000]}")
        report.violate(*self.machine.found())
        report.done["times converged"] += 1

    async def settle(self) -> None:
        """Look at everything that must hold at rest; what a poll or tick may still mend gets a few seconds."""
        for left in range(20, -1, -1):
            found = await self.look_at_rest()
            if set(found) <= set(self.report.violations):
                return
            if left == 0:
                self.report.violate(*found)
            if any(sentence.startswith("orphan: the region's") for sentence in found):
                await pass_an_hour(self.database.url, self.store)
            await asyncio.sleep(0.25)

    async def look_at_rest(self) -> list[str]:
        connection = await self.database.connect()
        try:
            found = await invariants.region_rows(connection, self.store)
            found += await invariants.held_files(connection)
            found += await invariants.region_at_rest(connection, self.store)
        finally:
            await connection.close()
        found += invariants.rack_tree(self.rack_dir, self.legit, had_one=True)
        found += invariants.rack_equals(self.rack_dir, self.wanted())
        return found + invariants.rack_at_rest(self.rack_dir)

    async def look(self) -> None:
        """Look at what must hold at any moment. The database may be down: then its rows are looked at later."""
        violate = self.report.violate
        with suppress(*Lost):
            connection = await self.database.connect()
            try:
                violate(*await invariants.region_rows(connection, self.store))
            finally:
                await connection.close()
        if self.rack.process is None:
            violate(*invariants.rack_tree(self.rack_dir, self.legit, had_one=bool(self.machine.served)))
        violate(*self.machine.found())

    def wanted(self) -> dict[str, str]:
        """What the rack must show once all is well."""
        return self.legit.shown_of(self.chosen)

    # --- starting, asking, waiting

    async def start_all(self) -> None:
        self.database.start()
        if self.region.process is None:
            await self.start_region()
        else:
            # One that was started just before a fault may still be on its way; one that ended by itself is not.
            await self.site.until_ready(self.region)
        if self.rack.process is None:
            await self.site.start_rack(self.rack, self.region)

    async def start_region(self) -> None:
        await self.expire_lease()
        await self.site.start_region(self.region)

    async def expire_lease(self) -> None:
        """Let a killed runner's lease run out at once: it stands for the ten seconds that nobody wants to wait."""
        with suppress(*Lost):
            connection = await self.database.connect()
            try:
                await connection.execute("UPDATE imports SET lease_until = now() WHERE state = 'running'")
            finally:
                await connection.close()

    async def ask(self) -> bool:
        """Ask for an import. True if the region has accepted that, which `asked` remembers."""
        self.asked = False
        with suppress(*Lost, ValueError):
            status, _ = await self.site.api(self.region, "POST", "/imports")
            self.asked = status == 202
        return self.asked

    async def publish(self) -> None:
        """A new version of one of the chosen images on the mirror."""
        os_, release, arch = self.rng.choice(sorted(self.chosen)).split(":")
        await asyncio.to_thread(self.mirror.publish, os=os_, release=release, arch=arch)
        await asyncio.to_thread(self.legit.learn)

    async def choose(self, images: set[str]) -> bool:
        """Select exactly these images. True if the region has accepted that."""
        self.wished = images
        fields = [dict(zip(("os", "release", "arch"), image.split(":"), strict=True)) for image in sorted(images)]
        with suppress(*Lost, ValueError):
            status, _ = await self.site.api(self.region, "PUT", "/selections", json={"items": fields})
            if status in (200, 202):
                self.chosen, self.wished, self.asked = images, None, True
                return True
        return False

    async def until_imported(self) -> None:
        """Wait for every import to end by itself; then ask once more if the last one failed, and say so."""

        async def ended() -> bool:
            _, runs = await self.site.api(self.region, "GET", "/imports?limit=5")
            return all(run["state"] not in ("queued", "running") for run in runs["items"])

        async def stored() -> bool:
            if not await ended():
                return False
            found = await self.site.statuses(self.region)
            return {found.get(image) for image in self.chosen} <= {"stored", "synced", "syncing"}

        try:
            await self.site.until(stored, within_s=IMPORT_S)
        except AssertionError:
            _, runs = await self.site.api(self.region, "GET", "/imports?limit=3")
            said = [(run["trigger"], run["state"], run["error_code"]) for run in runs["items"]]
            self.report.violate(f"hour: the import would wait for the hour: {said}")
            await self.ask()
            await self.site.until(ended, within_s=IMPORT_S)

    async def polls(self, count: int) -> None:
        """Let the rack poll so often, and wait for the end of each."""
        for _ in range(count):
            before = self._polls_ended()
            await self.site.until(self.wake_rack)
            await self.site.until(lambda before=before: self._polls_ended() != before)  # type: ignore[misc]

    def wake_rack(self) -> bool:
        """Ask the rack to poll now, as `bootferry-rack poll` does: only once it holds its lock."""
        pid = holder(self.rack_dir / "lock")
        if pid is None or self.rack.process is None or pid != self.rack.process.pid:
            return False
        self.rack.process.send_signal(signal.SIGHUP)
        return True

    def _polls_ended(self) -> object:
        with suppress(OSError, ValueError):
            return json.loads((self.rack_dir / "state.json").read_bytes())["last_poll_at"]
        return None


@asynccontextmanager
async def world(
    directory: Path,
    report: Report,
    *,
    fsync: bool = False,
    sizes: dict[str, int] | None = None,
    before: Callable[[Path], None] | None = None,
    environment: dict[str, str] | None = None,
) -> AsyncIterator[World]:
    """A world in `directory`, whose rack shows the newest LTS; nothing of it runs after the block.

    `region` and `rack-1` below it may be file systems of their own. `before` is called with the database's data
    directory when it was made and not started yet. `environment` is added to that of the region and the rack.
    """
    rng = random.Random(report.seed)
    now = datetime.now(UTC).replace(microsecond=0)
    mirror = Mirror.create(directory / "upstream", now=now, sizes=sizes or TINY)
    for pattern in (*LEFT_OUT, "*:22.04:*"):
        mirror.drop_product(pattern)
    legit = Legit(mirror)
    legit.learn()
    async with AsyncExitStack() as stack:
        base = stack.enter_context(database(directory / "postgres", fsync=fsync))
        if before:
            before(base.server.data)
        base.start()
        await base.server.create_database(base.name)
        upstream = await stack.enter_async_context(serve(mirror, host="127.0.0.1"))
        timeout = aiohttp.ClientTimeout(total=30)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=timeout))
        site = Site(directory, session)
        stack.callback(stop_services, site)
        region = site.add_region("region", base.url, upstream.url, mirror.keyring_path, REGION_PRUNE_GRACE_SECONDS="0")
        rack = site.add_rack(RACK, RACK_PRUNE_GRACE_SECONDS="0")
        for service in (region, rack):
            service.environment |= environment or {}
        machine = Machine(rack.base, legit, random.Random(report.seed + 1))
        made = World(site, mirror, upstream, base, region, rack, legit, machine, report, rng)
        await made.start_region()
        await made.site.start_rack(rack, region)
        await made.until_imported()
        await made.polls(2)
        await made.settle()
        yield made


def stop_services(site: Site) -> None:
    """Kill what still runs."""
    for service in reversed(site.services):
        if service.process is not None:
            service.process.kill()
            service.process.wait()
            service.process = None
