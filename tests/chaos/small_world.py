"""A whole world inside one process: a mirror, a region with its HTTP server, a rack with its own; PostgreSQL beside.

Nothing in it is a stand-in: real signatures, HTTP over loopback, files, rows. What is held in the hand are clocks, the
mirror's faults, and who is up. `look` checks what must hold at any moment, `converge` what must when faults have
stopped. The processes of `world.py` are killed; this one is quick.
"""

import asyncio
import random
import shutil
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import asyncpg
from aiohttp import web
from yarl import URL

from deploy.local import postgres
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server
from deploy.local.mirror.server import serve as serve_mirror
from rack import identity as identities
from rack import serve
from rack.beat import Beat
from rack.client import Region as RegionClient
from rack.connections import Runner
from rack.poll import Habits, Poller
from region import api, app
from region.configuration import RegionConfiguration
from region.edge.server import build_server
from region.process import Region
from shared.download import Transfer
from shared.http import client_session
from shared.names import Name
from shared.patience import Patience
from shared.store.disk import DiskStore
from shared.wire.enrolment import EnrolmentToken
from tests.chaos import invariants
from tests.chaos.hour import pass_an_hour
from tests.chaos.legit import Legit
from tests.chaos.machine import Machine
from tests.conftest import TEMPLATE
from tests.db.bench import small_mirror
from tests.http.conftest import free_port

RESOLUTE, NOBLE, CENTOS = "ubuntu:resolute:amd64", "ubuntu:noble:amd64", "centos:8:amd64"
HASTY = Patience(attempts=2, first_s=0.01, most_s=0.02, asked_most_s=0.05)


@dataclass
class Clock:
    """A clock that runs, and is wrong by `off`."""

    off: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.off


@dataclass
class RackInside:
    """The rack: what `rack/app.py` builds, without signals."""

    poller: Poller
    stack: AsyncExitStack


@dataclass
class SmallWorld:
    """The world. Every method leaves it in a state in which any other may follow."""

    directory: Path
    server: postgres.Server
    database: str
    small: Path
    stack: AsyncExitStack = field(default_factory=AsyncExitStack)
    chosen: set[str] = field(default_factory=lambda: {RESOLUTE})
    region_clock: Clock = field(default_factory=Clock)
    rack_clock: Clock = field(default_factory=Clock)
    harmed: set[str] = field(default_factory=set)
    """Digests of files that the schedule has spoiled or removed."""

    region: Region | None = None
    serving: "asyncio.Task[None] | None" = None
    inside: RackInside | None = None
    floors: dict[str, Any] = field(default_factory=dict)

    async def begin(self) -> None:
        """The region has imported the newest LTS; the rack shows it."""
        shutil.copytree(self.small, self.directory / "mirror")
        self.mirror = Mirror.open(self.directory / "mirror")
        self.mirror.rewrite(updated=datetime.now(UTC).replace(microsecond=0) - timedelta(hours=1))
        self.legit = Legit(self.mirror)
        self.legit.learn()
        await self.server.clone(TEMPLATE, self.database)
        self.upstream: Server = await self.stack.enter_async_context(serve_mirror(self.mirror))
        self.session = await self.stack.enter_async_context(client_session(connect_timeout_s=2.0, read_timeout_s=5.0))
        self.connection: asyncpg.Connection[Any] = await asyncpg.connect(
            host=str(self.server.socket), port=postgres.PORT, user=postgres.ROLE, database=self.database
        )
        self.port, self.rack_port = free_port(), free_port()
        self.machine = Machine(f"http://127.0.0.1:{self.rack_port}", self.legit, random.Random(1))
        await self.start_region()
        assert await self.until_imported() == []
        status, answer = await self.call("POST", "/enrolment-tokens")
        assert status == 201, answer
        token = EnrolmentToken.parse(answer["token"])
        await identities.enrol(self.session, self.rack_dir, URL(self.base), token, Name("rack-1"))
        await self.start_rack()
        await self.poll()

    async def end(self) -> None:
        """Stop everything and drop the database."""
        with suppress(asyncpg.PostgresError, OSError, AttributeError):
            await self.connection.close()
        await self.stop_rack()
        await self.stop_region()
        await self.stack.aclose()
        await self.server.drop_database(self.database)

    @property
    def base(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    @property
    def rack_dir(self) -> Path:
        return self.directory / "rack"

    @property
    def store(self) -> Path:
        return self.directory / "region" / "store"

    # --- who is up

    async def start_region(self) -> None:
        if self.region is not None:
            return
        configuration = RegionConfiguration(
            database_url=self.server.url(self.database),
            data_dir=self.directory / "region",
            port=self.port,
            default_source_url=self.upstream.url,
            default_source_keyring=self.mirror.keyring_path,
            prune_grace_seconds=0,
            migrate_on_start=False,
        )
        built = app.build(configuration, now=self.region_clock)
        built.importer = replace(built.importer, patience=HASTY)
        server = build_server(api.create(built), host="127.0.0.1", port=self.port, shutdown_grace_s=1)
        self.region, self._server = built, server
        self.serving = asyncio.create_task(server.serve())
        await asyncio.wait_for(built.ready.wait(), 30)
        async with asyncio.timeout(30):
            while not server.started:  # noqa: ASYNC110
                await asyncio.sleep(0.005)

    async def stop_region(self) -> None:
        if self.serving is not None:
            self._server.should_exit = True
            await asyncio.wait_for(self.serving, 30)
        self.region = self.serving = None

    async def start_rack(self) -> None:
        """A rack process's parts on the rack's directory, as they are after a restart."""
        if self.inside is not None:
            return
        stack = AsyncExitStack()
        identity = identities.load(self.rack_dir)
        client = RegionClient(self.session, identity, now=self.rack_clock)
        executor = stack.enter_context(ThreadPoolExecutor(2))
        poller = Poller(
            self.rack_dir,
            DiskStore(self.rack_dir),
            identity,
            client,
            Transfer(self.session, executor, sign=client.sign),
            habits=Habits(at_once=2, prune_grace_s=0.0, patience=HASTY),
            rng=random.Random(1),
            now=self.rack_clock,
            host="127.0.0.1",
            port=self.rack_port,
        )
        beat = Beat(poller, client, rng=random.Random(2))
        poller.recover()
        runner = Runner(serve.application(self.rack_dir, poller.belief, beat.doubt))
        await runner.setup()
        stack.push_async_callback(runner.cleanup)
        await web.TCPSite(runner, "127.0.0.1", self.rack_port).start()
        self.inside = RackInside(poller, stack)

    async def stop_rack(self) -> None:
        if self.inside is not None:
            await self.inside.stack.aclose()
        self.inside = None

    # --- acts

    async def call(self, method: str, path: str, **given: Any) -> tuple[int, Any]:
        """Status and JSON of an administrator's call; (0, None) while the region is away."""
        token = (self.directory / "region" / "admin-token").read_text().strip()
        headers = {"Authorization": f"Bearer {token}"}
        try:
            async with self.session.request(method, f"{self.base}/api/v1{path}", headers=headers, **given) as response:
                body = await response.read()
                return response.status, (await response.json(content_type=None)) if body else None
        except (aiohttp.ClientError, TimeoutError):
            return 0, None

    async def import_now(self) -> None:
        """Ask for an import and wait for its end, whatever that is."""
        if (await self.call("POST", "/imports"))[0] == 202:
            await self.until_imported()

    async def choose(self, images: set[str]) -> None:
        fields = [dict(zip(("os", "release", "arch"), image.split(":"), strict=True)) for image in sorted(images)]
        if (await self.call("PUT", "/selections", json={"items": fields}))[0] in (200, 202):
            self.chosen = images
            await self.until_imported()

    async def until_imported(self) -> list[str]:
        """Wait until no import waits or runs; what is wrong when that takes too long."""
        runs: Any = "its list is not answered"
        try:
            async with asyncio.timeout(30):
                while True:
                    status, runs = await self.call("GET", "/imports?limit=5")
                    states = {run["state"] for run in runs["items"]} if status == 200 else set()
                    if states and not states & {"queued", "running"}:
                        return []
                    await asyncio.sleep(0.02)
        except TimeoutError:
            return [f"I6: an import does not end: {runs}"]

    async def poll(self) -> None:
        if self.inside is not None:
            await asyncio.wait_for(self.inside.poller.poll(), 60)

    def publish(self, release: str) -> None:
        self.mirror.publish(release=release)
        self.legit.learn()

    def harm(self, root: Path, rng: random.Random, *, remove: bool) -> None:
        """Lose or spoil a stored file below `root`; hard links are spoiled with it."""
        files = sorted((root / "files").glob("*/*"))
        if not files:
            return
        path = rng.choice(files)
        self.harmed.add(path.name)
        self.machine.spoiled = True
        if remove:
            path.unlink()
            return
        path.chmod(0o644)
        content = bytearray(path.read_bytes())
        content[rng.randrange(len(content))] ^= 1
        path.write_bytes(content)

    # --- what must hold

    async def look(self) -> list[str]:
        """What is wrong at this moment; faults may be under way."""
        found = [
            sentence
            for sentence in await invariants.region_rows(self.connection, self.store)
            if not any(digest[:12] in sentence for digest in self.harmed)
        ]
        if self.inside is not None:
            await self.machine.boot_all(set(self.legit.versions))
            found += self.machine.found()
            if self.machine.served and not invariants.tree_names(self.rack_dir):
                found.append("I4: the rack's tree is empty")
        found += await self._floors()
        strangers = {path.name for path in self.directory.iterdir()} - {"mirror", "region", "rack"}
        return found + [f"I5: {name} was made outside of the roots" for name in sorted(strangers)]

    async def _floors(self) -> list[str]:
        """I3: nothing that was accepted falls."""
        now: dict[str, Any] = {}
        for row in await self.connection.fetch("SELECT source_id, content_id, updated FROM stream_documents"):
            now[f"the document {row['content_id']} of source {row['source_id']}"] = row["updated"]
        for row in await self.connection.fetch("SELECT epoch, serial FROM region"):
            now["the region's manifest"] = (row["epoch"], row["serial"])
        if self.inside is not None:
            now["the rack's manifest"] = self.inside.poller.floor
        fell = [name for name, value in now.items() if name in self.floors and value < self.floors[name]]
        self.floors |= now
        return [f"I3: {name} fell to {now[name]}" for name in fell]

    async def converge(self) -> list[str]:
        """What is wrong after the faults have stopped, two polls and one import later."""
        self.upstream.behave()
        self.region_clock.off = self.rack_clock.off = timedelta()
        if self.mirror.signer is not self.mirror.key:
            self.mirror.sign_with(self.mirror.key)
        # Its first tick and audit find what was lost meanwhile, and remove what nobody needs.
        await self.stop_region()
        await self.start_region()
        await self.start_rack()
        await self.import_now()
        found = await self.until_imported()
        await self.stop_region()
        await self.start_region()
        found += await self.until_imported()
        await self.poll()
        await self.poll()
        for left in range(20, -1, -1):
            wrong = await self.at_rest()
            if not wrong or not left:
                break
            if any(sentence.startswith("orphan: the region's") for sentence in wrong):
                await pass_an_hour(self.server.url(self.database), self.store)
            await asyncio.sleep(0.1)
        self.harmed.clear()
        self.machine.spoiled = False
        await self.machine.boot_all(set(self.wanted()))
        return found + wrong + self.machine.found()

    async def at_rest(self) -> list[str]:
        return [
            *await invariants.region_rows(self.connection, self.store),
            *await invariants.held_files(self.connection),
            *await invariants.region_at_rest(self.connection, self.store),
            *invariants.rack_tree(self.rack_dir, self.legit, had_one=True),
            *invariants.rack_equals(self.rack_dir, self.wanted()),
            *invariants.rack_at_rest(self.rack_dir),
        ]

    def wanted(self) -> dict[str, str]:
        """What the rack must show once all is well."""
        return self.legit.shown_of(self.chosen)


def make_small(directory: Path) -> Path:
    """The mirror that worlds are copied from."""
    return small_mirror(directory, seed=0).directory
