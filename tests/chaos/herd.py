"""All racks back at once: simulated ones that only ask and report, and real agents that pull.

    python -m tests.chaos.herd [--racks 20000] [--agents 1000] [--seed N]

The region has just begun and has published what no rack knows. Every simulated rack fetches the manifest and reports,
on a connection of its own, signed by the code of real racks; who is told to come back later does so when it was told.
Every agent is a rack's own poll code with a disk of its own, many in this process. Meanwhile an operator lists the
images, again and again. Nobody may starve, and the list stays usable.
"""

import argparse
import asyncio
import random
import resource
import statistics
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import aiohttp
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from yarl import URL

from deploy.local import postgres
from deploy.local.scratch import scratch_directory
from rack.client import Region
from rack.identity import Identity
from rack.poll import Habits, Poller
from region.database.connection import create_engine, migrate, transaction
from region.people.operators import Role, create_token
from region.publishing.manifest import Published
from shared.download import Transfer
from shared.errors import BootferryError, HttpStatus
from shared.names import Name
from shared.patience import is_transient
from shared.signing import load_or_create_key
from shared.store.disk import DiskStore
from shared.wire.envelope import open_envelope
from shared.wire.manifest import MANIFEST_TYPE, Manifest
from shared.wire.report import Knows, Report
from tests.bench import fleet
from tests.chaos.report import Report as Findings
from tests.chaos.report import quiet
from tests.db.rows import publish

IMAGES, AGENT_IMAGES = 20, 2
AT_ONCE = 1000
"""Connections that are open at the same time; the others wait for a turn, as in a listen queue."""

ALL_THROUGH_S = 900.0
USABLE_S = 2.0
"""The median answer to an operator, on a machine that the herd shares."""


@dataclass(slots=True)
class Herd:
    """A region with racks that it knows, and what was measured."""

    base: str
    key: Ed25519PublicKey
    keys: list[Ed25519PrivateKey]
    token: str
    published: Published
    through_s: list[float] = field(default_factory=list)
    listed_s: list[float] = field(default_factory=list)
    came_back: int = 0

    def identity(self, number: int) -> Identity:
        name = Name(fleet.RACK_NAME % number)
        return Identity(URL(self.base), self.key, fleet.rack_id(number), name, self.keys[number])


@asynccontextmanager
async def herd(server: postgres.Server, data: Path, racks: int, images: int) -> AsyncIterator[Herd]:
    """A region process that has begun on a database with so many racks."""
    name = f"herd_{data.name}"
    await server.create_database(name)
    engine = create_engine(server.url(name))
    await migrate(engine)
    await asyncio.to_thread(data.mkdir)
    key = load_or_create_key(data / "region.key")
    fleet.store_all(data, images)
    keys = [Ed25519PrivateKey.generate() for _ in range(racks)]
    async with transaction(engine) as connection:
        await fleet.fill(connection, key, images)
        published = await publish(connection, key)
        await fleet.enrol(connection, published, keys, "")
        token = await create_token(connection, "herd", Role.ADMIN, datetime.now(UTC))
    await engine.dispose()
    async with fleet.region(server.url(name), data) as (base, _):
        yield Herd(base, key.public_key(), keys, token, published)
    await server.drop_database(name)


async def watch(made: Herd, done: asyncio.Event, found: Findings) -> None:
    """An operator who lists the images twice a second."""
    headers = {"Authorization": f"Bearer {made.token}"}
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=60)) as session:
        while not done.is_set():
            began = time.monotonic()
            try:
                async with session.get(f"{made.base}/api/v1/images", headers=headers) as response:
                    body = await response.read()
                    if response.status != 200:
                        found.violate(
                            f"operator: GET /images is answered {response.status} in the herd: {body[:300]!r}"
                        )
            except (aiohttp.ClientError, TimeoutError) as error:
                found.violate(f"operator: GET /images is not answered in the herd: {error!r}")
            made.listed_s.append(time.monotonic() - began)
            await asyncio.sleep(0.5)


async def patiently(rng: random.Random, made: Herd, attempt: Callable[[], Awaitable[object]]) -> object:
    """Until the region takes it; who is told when to come back does so then."""
    failures = 0
    while True:
        try:
            return await attempt()
        except BootferryError as error:
            if not is_transient(error):
                raise
            made.came_back += 1
            failures += 1
            asked_s = error.retry_after if isinstance(error, HttpStatus) else 0.0
            await asyncio.sleep(max(asked_s, rng.uniform(0.5, 1.0) * min(10.0, 2.0**failures)))


async def simulated(made: Herd, session: aiohttp.ClientSession, number: int, began: float, seed: int) -> str:
    """One rack: the manifest, then a report; what went wrong."""
    rng = random.Random(seed + number)
    region = Region(session, made.identity(number), now=lambda: datetime.now(UTC))
    try:
        published = await patiently(rng, made, lambda: region.manifest(""))
        envelope = getattr(published, "envelope", b"")
        payload = open_envelope(envelope, MANIFEST_TYPE, [made.key], origin="the manifest")
        if Manifest.parse(payload).order != made.published.manifest.order:
            return "another manifest"
        knows = Knows(*made.published.manifest.order, made.published.sha256)
        sequence = time.time_ns() // 1_000_000
        report = Report(sequence=sequence, version="1", address="10.0.0.1:5248", knows=knows, bytes_free=10**12)
        await patiently(rng, made, lambda: region.report(report))
    except BootferryError as error:
        return f"{error.code}: {error}"
    made.through_s.append(time.monotonic() - began)
    return ""


async def racks(server: postgres.Server, directory: Path, found: Findings, count: int) -> None:
    """So many simulated racks at once."""
    async with herd(server, directory / "racks", count, IMAGES) as made:
        done = asyncio.Event()
        watching = asyncio.create_task(watch(made, done, found))
        connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
            began = time.monotonic()
            jobs = [asyncio.create_task(simulated(made, session, n, began, found.seed)) for n in range(count)]
            _, late = await asyncio.wait(jobs, timeout=ALL_THROUGH_S)
            for job in late:
                job.cancel()
            ended = await asyncio.gather(*jobs, return_exceptions=True)
        done.set()
        await watching
    told(made, found, "simulated racks", [str(answer) for answer in ended if answer])


async def agents(server: postgres.Server, directory: Path, found: Findings, count: int) -> None:
    """So many real agents, each of which pulls everything; all have it within two polls."""
    async with herd(server, directory / "agents", count, AGENT_IMAGES) as made:
        done = asyncio.Event()
        watching = asyncio.create_task(watch(made, done, found))
        connector = aiohttp.TCPConnector(limit=AT_ONCE)
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=60, sock_read=60)
        wrong: list[str] = []
        with ThreadPoolExecutor(8) as executor:
            async with aiohttp.ClientSession(connector=connector, timeout=timeout, auto_decompress=False) as session:
                began = time.monotonic()

                async def live(number: int) -> None:
                    poller = agent(made, session, executor, directory / "disks" / str(number), number)
                    await asyncio.to_thread(poller.recover)
                    for _ in range(2):
                        await poller.poll()
                        if poller.belief.last_error is None and not poller.belief.pending:
                            made.through_s.append(time.monotonic() - began)
                            return
                    wrong.append(f"after two polls: {poller.belief.last_error!r}")

                async with asyncio.timeout(ALL_THROUGH_S):
                    await asyncio.gather(*(live(number) for number in range(count)))
        done.set()
        await watching
    told(made, found, "real agents", wrong)


def agent(made: Herd, session: aiohttp.ClientSession, executor: ThreadPoolExecutor, root: Path, number: int) -> Poller:
    """A rack's own poll code, with a disk of its own."""
    root.mkdir(parents=True)
    identity = made.identity(number)
    region = Region(session, identity, now=lambda: datetime.now(UTC))
    return Poller(
        root,
        DiskStore(root),
        identity,
        region,
        Transfer(session, executor, sign=region.sign),
        habits=Habits(at_once=2),
        rng=random.Random(number),
        host="127.0.0.1",
        port=5248,
    )


def told(made: Herd, found: Findings, what: str, wrong: list[str]) -> None:
    """The numbers, and who did not come through."""
    found.done[f"{what} through"] += len(made.through_s)
    if wrong:
        found.violate(f"starved: {len(wrong)} {what}, for instance {wrong[0][:300]}")
    if not made.through_s or not made.listed_s:
        return
    median_s, worst_s = statistics.median(made.listed_s), max(made.listed_s)
    found.say(
        f"{what}: half of them through after {statistics.median(made.through_s):.1f} s, the last after"
        f" {max(made.through_s):.1f} s; {made.came_back} requests were asked to come back; GET /images meanwhile:"
        f" median {median_s * 1000:.0f} ms, worst {worst_s * 1000:.0f} ms of {len(made.listed_s)}"
    )
    if median_s > USABLE_S:
        found.violate(f"operator: GET /images took {median_s:.1f} s in the herd of {what}")


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--racks", type=int, default=20_000)
    parser.add_argument("--agents", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    quiet()
    found = Findings("herd", options.seed)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    with scratch_directory() as directory, postgres.running(directory / "postgres", fsync=False) as server:
        if options.agents:
            asyncio.run(agents(server, directory, found, options.agents))
        if options.racks:
            asyncio.run(racks(server, directory, found, options.racks))
    return found.end()


if __name__ == "__main__":
    sys.exit(main())
