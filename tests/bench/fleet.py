"""What racks cost the region: lists, single things and reports, as racks become many.

    python -m tests.bench.fleet [--racks 10,1000,20000] [--images 266] [--seconds 10]

For each number of racks a scratch database is filled with images of 6 files each (266 of them are 1,596 files) and with
racks that show everything, and a real region process answers over HTTP:

- a list of images, one image, one page of racks (200), one rack, the racks of an image: median and worst of 20,
  and the CPU of the region's process and of all of the database's for one, which a busy machine does not change;
- an unchanged report: that CPU, and the median answer;
- the lists again just after a publication of which no rack has heard, and with up to 1,000 racks that lack 3 images;
- bytes of `racks` with its indexes, a rack, after the updates of an hour of reports;
- 67 reports and 67 polls a second, one of each for every rack at 20,000: the time from when each was due.

fsync is off; on a shared machine only the ratios within one run mean anything.
"""

import argparse
import asyncio
import itertools
import os
import secrets
import socket
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import aiohttp
import asyncpg
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deploy.local import postgres
from deploy.local.scratch import scratch_directory
from region.database.connection import create_engine, migrate, transaction
from region.fleet import reports
from region.people.operators import Role, create_token
from region.publishing.manifest import Published
from region.stream.documents import Product, ProductKind, Version
from shared.names import ImageKey, Name
from shared.signing import encode_bytes, fingerprint, load_or_create_key, public_bytes, sign_request
from shared.store.disk import DiskStore
from shared.wire.report import Knows, Report
from tests.db.rows import hold, item, make_region, make_source, publish, reading, record, select_images
from tests.stores import put

TIMES, WARM_UP = 20, 12
REPORTS = 400
PACE = 67
SEQUENCES = itertools.count(time.time_ns() // 1_000_000)
LACKING_RACKS, LACKING_IMAGES = 1000, 3
RACK_NAME = "rack-%05d"
SUBARCHES = ("ga-24.04", "hwe-24.04")
TICKS = os.sysconf("SC_CLK_TCK")


@dataclass
class Site:
    """A region that runs, and the racks that it knows."""

    engine: AsyncEngine
    session: aiohttp.ClientSession
    base: str
    key: Ed25519PrivateKey
    rack_keys: list[Ed25519PrivateKey]
    published: Published
    pids: Callable[[], list[int]]
    token: str

    def report_now(self) -> Report:
        """What every rack says that shows everything."""
        manifest = self.published
        known = Knows(*manifest.manifest.order, manifest.sha256)
        sequence = time.time_ns() // 1_000_000
        return Report(sequence=sequence, version="1", address="10.0.0.1:5248", knows=known, bytes_free=10**12)

    async def as_rack(self, number: int, method: str, path: str, body: bytes | None, **headers: str) -> int:
        """The status of the answer to a rack's signed request."""
        signed = sign_request(
            self.rack_keys[number],
            rack_id(number),
            fingerprint(self.key),
            method,
            path,
            body,
            now=datetime.now(UTC),
            nonce=secrets.token_hex(16),
            sequence=None if method == "GET" else next(SEQUENCES),
        )
        async with self.session.request(method, f"{self.base}{path}", data=body, headers=signed | headers) as response:
            await response.read()
            return response.status

    async def report(self, number: int) -> None:
        body = self.report_now().encode()
        status = await self.as_rack(number, "PUT", f"/api/v1/racks/{rack_id(number)}/report", body)
        assert status == 204, status

    async def poll(self, number: int) -> None:
        status = await self.as_rack(number, "GET", "/api/v1/manifest", None, **{"If-None-Match": self.published.etag})
        assert status == 304, status

    async def get(self, path: str) -> None:
        async with self.session.get(
            f"{self.base}/api/v1{path}", headers={"Authorization": f"Bearer {self.token}"}
        ) as r:
            assert r.status == 200, await r.text()
            await r.read()


def rack_id(number: int) -> str:
    return f"{number:032x}"


def image_of(number: int) -> ImageKey:
    return ImageKey(Name("ubuntu"), Name(f"r{number // 4}"), Name(("amd64", "arm64", "ppc64el", "s390x")[number % 4]))


def paths_of(number: int, subarch: str, serial: str) -> list[str]:
    """The paths of a version's files; each file holds nothing but its path."""
    image = image_of(number)
    places = (f"{subarch}/boot-initrd", f"{subarch}/boot-kernel", "squashfs", "squashfs.manifest")
    return [f"{image.release}/{image.arch}/{serial}/{place}" for place in places]


def store_all(data: Path, images: int) -> None:
    """Every file of both versions, in the store, so that the region finds nothing to heal."""
    store = DiskStore(data / "store")
    for number in range(images):
        for path in {path for subarch in SUBARCHES for serial in "12" for path in paths_of(number, subarch, serial)}:
            put(store, path.encode())


def product(number: int, subarch: str, *serials: str) -> Product:
    """A kernel with two files of its own, and two that all kernels of the image and serial share."""
    image = image_of(number)
    return Product(
        name=f"org.example:{image.release}:{image.arch}:{subarch}",
        kind=ProductKind.BOOT,
        os=image.os,
        release=image.release,
        arch=image.arch,
        subarch=Name(subarch),
        label=Name("stable"),
        title=f"{image.release} LTS",
        version="24.04",
        codename=image.release,
        support_eol=None,
        bootloader_type=None,
        is_ga=subarch.startswith("ga-"),
        versions=tuple(
            Version(
                Name(serial),
                tuple(
                    item(path, path.rpartition("/")[2], size=len(path)) for path in paths_of(number, subarch, serial)
                ),
            )
            for serial in serials
        ),
    )


async def fill(connection: AsyncConnection, key: Ed25519PrivateKey, images: int) -> int:
    """A source whose images are all selected and held in version 1; version 2 is not offered yet."""
    await make_region(connection, key)
    # The clock must start nothing: there is no mirror.
    await connection.execute(text("UPDATE sync_schedule SET enabled = false"))
    offered = [product(number, subarch, "1") for number in range(images) for subarch in SUBARCHES]
    source_id = await make_source(connection, *offered)
    await select_images(connection, *[(source_id, image_of(number)) for number in range(images)])
    await hold(connection, source_id, "1")
    return source_id


async def enrol(connection: AsyncConnection, site_of: Published, keys: list[Ed25519PrivateKey], digest: str) -> None:
    """Racks that have reported to show everything."""
    now = datetime.now(UTC)
    await connection.execute(
        text("""
            INSERT INTO racks (id, name, public_key, enrolled_at, last_seen_at, address, version, epoch, serial,
                               knows_sha256, report_digest, bytes_free)
            SELECT given.id, given.name, given.key, :now, :now, '10.0.0.1:5248', '1', :epoch, :serial, :sha256, :digest,
                   1000000000000
            FROM unnest(CAST(:ids AS text[]), CAST(:names AS text[]), CAST(:keys AS text[])) AS given (id, name, key)
        """),
        {
            "now": now,
            "epoch": site_of.manifest.epoch,
            "serial": site_of.manifest.serial,
            "sha256": site_of.sha256,
            "digest": digest,
            "ids": [rack_id(number) for number in range(len(keys))],
            "names": [RACK_NAME % number for number in range(len(keys))],
            "keys": [encode_bytes(public_bytes(key)) for key in keys],
        },
    )


async def publish_next(engine: AsyncEngine, key: Ed25519PrivateKey, source_id: int, images: int) -> Published:
    """Version 2 of everything in place of version 1."""
    async with transaction(engine) as connection:
        offered = [product(number, subarch, "2") for number in range(images) for subarch in SUBARCHES]
        await record(connection, source_id, reading(*offered, updated=datetime.now(UTC)))
        await hold(connection, source_id, "2")
        await connection.execute(text("UPDATE versions SET held_at = NULL WHERE name = '1'"))
        return await publish(connection, key)


def cpu_s(pids: list[int]) -> float:
    """CPU seconds of these processes and the children they have buried."""
    total = 0.0
    for pid in pids:
        try:
            fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        except FileNotFoundError:
            continue
        total += sum(map(int, fields[11:15])) / TICKS
    return total


def database_pids(data: Path) -> list[int]:
    postmaster = int((data / "postmaster.pid").read_text().split()[0])
    children = Path(f"/proc/{postmaster}/task/{postmaster}/children").read_text().split()
    return [postmaster, *map(int, children)]


@asynccontextmanager
async def region(url: str, data: Path) -> AsyncIterator[tuple[str, int]]:
    """A region process: its address and its id."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    settings = {
        "REGION_DATABASE_URL": url,
        "REGION_DATA_DIR": str(data),
        "REGION_PORT": str(port),
        "REGION_LOG_LEVEL": "warning",
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "region", "serve", env={**os.environ, **settings}
    )
    base = f"http://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession() as session, asyncio.timeout(60):
            while True:
                try:
                    async with session.get(f"{base}/readyz") as response:
                        if response.status == 200:
                            break
                except aiohttp.ClientError:
                    pass
                await asyncio.sleep(0.1)
        yield base, process.pid
    finally:
        process.terminate()
        await process.wait()


async def timed(job: Callable[[], Awaitable[None]], pids: Callable[[], list[int]]) -> str:
    """Median, worst and CPU of some requests, in milliseconds; the first, which fill plans and caches, do not count."""
    for _ in range(WARM_UP):
        await job()
    taken, before = [], cpu_s(pids())
    for _ in range(TIMES):
        began = time.perf_counter()
        await job()
        taken.append((time.perf_counter() - began) * 1000)
    spent = (cpu_s(pids()) - before) / TIMES * 1000
    return f"{statistics.median(taken):7.1f}{max(taken):8.1f}{spent:8.1f}"


async def lists(site: Site, when: str) -> None:
    print(f"  {when}")
    for what, path in (
        ("GET /images", "/images"),
        ("one image", f"/images/{image_of(1)}"),
        ("a page of racks", "/racks"),
        ("one rack", f"/racks/{rack_id(1)}"),
        ("a page of an image's racks", f"/images/{image_of(1)}/racks"),
        ("bootloaders", "/bootloaders"),
    ):
        print(f"    {what:<34}{await timed(partial(site.get, path), site.pids)}", flush=True)


async def unchanged_reports(site: Site) -> None:
    """What a report costs that says nothing new, one after the other."""
    many = len(site.rack_keys)
    await asyncio.sleep(1)
    before, began = cpu_s(site.pids()), time.perf_counter()
    taken = []
    for number in range(REPORTS):
        at = time.perf_counter()
        await site.report(number % many)
        taken.append((time.perf_counter() - at) * 1000)
    spent = cpu_s(site.pids()) - before
    print(
        f"  an unchanged report: {spent / REPORTS * 1000:.2f} ms CPU (region and database),"
        f" {statistics.median(taken):.2f} ms to the answer, {REPORTS / (time.perf_counter() - began):.0f}/s"
    )


async def an_hour(site: Site, url: str) -> None:
    connection = await asyncpg.connect(url.replace("postgresql+asyncpg", "postgresql"))
    await connection.execute(
        """
        DO $$ DECLARE one record; BEGIN
            FOR poll IN 1..12 LOOP
                FOR one IN SELECT id FROM racks LOOP
                    UPDATE racks SET last_seen_at = now(), report_sequence = report_sequence + 1,
                                     bytes_free = bytes_free - 1 WHERE id = one.id;
                    COMMIT;
                END LOOP;
            END LOOP;
        END $$
        """,
        timeout=300,
    )
    size = await connection.fetchval("SELECT pg_total_relation_size('racks')")
    await connection.close()
    print(f"  racks with indexes after an hour of reports: {size / len(site.rack_keys):.0f} bytes a rack")


async def paced(site: Site, seconds: float) -> None:
    """Reports and polls at a steady pace, whether the region keeps up or not: how long each took since it was due."""
    late: dict[str, list[float]] = {"reports": [], "polls": []}
    many, began = len(site.rack_keys), time.perf_counter() + 0.2

    async def one(kind: str, number: int) -> None:
        due = began + number / PACE
        await asyncio.sleep(due - time.perf_counter())
        await (site.report if kind == "reports" else site.poll)(number % many)
        late[kind].append((time.perf_counter() - due) * 1000)

    before = cpu_s(site.pids())
    await asyncio.gather(*(one(kind, number) for number in range(int(seconds * PACE)) for kind in late))
    spent = (cpu_s(site.pids()) - before) / seconds
    for kind, taken in late.items():
        cuts = statistics.quantiles(taken, n=100)
        print(f"  {PACE} {kind} a second: p50 {cuts[49]:.1f} ms, p99 {cuts[98]:.1f} ms, worst {max(taken):.1f} ms")
    print(f"    {spent * 100:.0f} % of a CPU, region and database")


async def catch_up(site: Site) -> None:
    """All racks know the current manifest; some lack a few images of it."""
    lacking = min(LACKING_RACKS, len(site.rack_keys))
    for start in range(0, len(site.rack_keys), 50):
        # As racks do, not all in one transaction: what it replaces would stay beside it until its end.
        async with transaction(site.engine) as connection:
            await connection.execute(
                text("""
                    UPDATE racks SET serial = :serial, knows_sha256 = :sha256, report_digest = :digest
                    WHERE id = ANY(:ids)
                """),
                {
                    "serial": site.published.manifest.serial,
                    "sha256": site.published.sha256,
                    "digest": reports._digest(site.report_now()),
                    "ids": [rack_id(number) for number in range(start, start + 50)],
                },
            )
    async with transaction(site.engine) as connection:
        await connection.execute(
            text("""
                INSERT INTO rack_images (rack_id, image, shown_version, code)
                SELECT rack_id, image, '1', 'connection_lost'
                FROM unnest(CAST(:ids AS text[])) AS racks (rack_id), unnest(CAST(:images AS text[])) AS images (image)
            """),
            {
                "ids": [rack_id(number) for number in range(lacking)],
                "images": [str(image_of(number)) for number in range(LACKING_IMAGES)],
            },
        )
        await connection.execute(text("ANALYZE"))


async def measure(server: postgres.Server, data: Path, racks: int, images: int, seconds: float) -> None:
    name = f"fleet_{racks}"
    await server.create_database(name)
    url = server.url(name)
    engine = create_engine(url)
    await migrate(engine)
    key = load_or_create_key(data / "region.key")
    store_all(data, images)
    async with transaction(engine) as connection:
        source_id = await fill(connection, key, images)
        first = await publish(connection, key)
        token = await create_token(connection, "bench", Role.ADMIN, datetime.now(UTC))
        files = await connection.scalar(text("SELECT count(*) FROM files"))
    keys = [Ed25519PrivateKey.generate() for _ in range(racks)]
    async with region(url, data) as (base, pid), aiohttp.ClientSession() as session:
        site = Site(engine, session, base, key, keys, first, lambda: [pid, *database_pids(server.data)], token)
        async with transaction(engine) as connection:
            await enrol(connection, first, keys, reports._digest(site.report_now()))
            await connection.execute(text("ANALYZE"))
            # The region reads all keys again when its line is cut.
            await connection.execute(
                text("""
                    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
                    WHERE datname = current_database() AND query ILIKE 'LISTEN %'
                """)
            )
        await asyncio.sleep(4)
        print(f"\n{racks} racks, {images} images, {files} files                median     max     CPU (ms)")
        await lists(site, "all show everything")
        await unchanged_reports(site)
        await an_hour(site, url)
        await paced(site, seconds)
        site.published = await publish_next(engine, key, source_id, images)
        await asyncio.sleep(2)
        await lists(site, "just after a publication, all behind")
        await catch_up(site)
        await lists(site, f"{min(LACKING_RACKS, racks)} racks lack {LACKING_IMAGES} images")
    await engine.dispose()
    await server.drop_database(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--racks", default="10,1000,20000", help="how many racks, one after the other")
    parser.add_argument("--images", type=int, default=266, help="how many images of 6 files each")
    parser.add_argument("--seconds", type=float, default=10, help="how long the paced load lasts")
    options = parser.parse_args()
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=memory) as scratch,
        scratch_directory() as directory,
        postgres.running(directory, fsync=False) as server,
    ):
        for racks in map(int, options.racks.split(",")):
            data = Path(scratch) / str(racks)
            data.mkdir()
            asyncio.run(measure(server, data, racks, options.images, options.seconds))


if __name__ == "__main__":
    main()
