"""How long an import of many new versions takes, and how that grows: a region beside `sstream-mirror`.

    python -m tests.bench.import_versions [--versions 50,100,200,400] [--rounds 3] [--fsync] [--directory DIR]

One signed mirror for each number of versions: as many images, each with one version of 4 small files that no other has.
A process of its own serves it. Both sides begin with nothing and end with every file on disk:

- ours: a region's importer with its real store and a real PostgreSQL, from the request to the end of the import: read,
  verify, record, plan, fetch, flush, hold and publish. Beside it the peak memory of its process, and the
  write-ahead log (WAL) that the database wrote.
- the peer: `sstream-mirror` of python-simplestreams, from the start of its process to its end. It flushes nothing.
  It is installed for this benchmark alone, below `.cache/`; where that fails, ours is measured alone.

Medians of the rounds, which take turns. PostgreSQL runs without fsync, as in tests, unless `--fsync` is given; our
files and their directories are flushed always. `--directory` says which disk that happens on. On a shared machine only
the ratios within one run mean anything.
"""

import argparse
import asyncio
import hashlib
import itertools
import json
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import format_datetime
from pathlib import Path
from typing import Any

from sqlalchemy import text

from deploy.local import postgres
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import serve
from deploy.local.scratch import scratch_directory
from region import app
from region.catalogue import selections, wanted
from region.catalogue.facts import Wish
from region.catalogue.patterns import Pattern
from region.configuration import RegionConfiguration
from region.database.connection import create_engine, migrate, transaction
from region.importing import imports
from region.importing.importer import run_next
from shared.logs import configure
from shared.names import ImageKey

PEER = "python-simplestreams==0.1.0.post59"
PEER_DIRECTORY = Path(__file__).parents[2] / ".cache" / "bench" / "python-simplestreams"
TEMPLATE = "template_bench"
SERIAL = "20260701"
STREAM = "com.example.bench:stable:download"
SIZES = {"boot-initrd": 12_000, "boot-kernel": 8_000, "squashfs": 20_000, "manifest": 2_000}
"""The files of each version, bytes by ftype."""
WAL_BYTES = text("SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), '0/0')::bigint")


@dataclass(frozen=True)
class Imported:
    """What one import of ours took: seconds, bytes of write-ahead log, and the peak memory of its process in MiB."""

    seconds: float
    wal_bytes: int
    peak_mib: float


def main() -> None:
    """Measure and print the table."""
    options = _options()
    if options.serve:
        asyncio.run(_serve(options.serve))
        return
    if options.run:
        json.dump(vars(asyncio.run(_import(json.load(sys.stdin)))), sys.stdout)
        return
    counts = [int(count) for count in options.versions.split(",")]
    peer = _peer()
    with (
        tempfile.TemporaryDirectory(prefix="import-versions-", dir=options.directory) as name,
        scratch_directory(Path(name).parent if options.fsync else None) as scratch,
        postgres.running(scratch, fsync=options.fsync) as server,
    ):
        asyncio.run(_make_template(server))
        print(
            f"PostgreSQL with fsync {'on' if options.fsync else 'off'}, files in {Path(name).parent},"
            f" medians of {options.rounds}, growth since the line before"
        )
        print(f"{'versions':>8} {'ours s':>7} {'peer s':>7} {'ratio':>6} {'growth':>7} {'peak MiB':>9} {'WAL MB':>7}")
        before: float | None = None
        for count in counts:
            directory = Path(name) / str(count)
            before = _compare(server, directory, count, options.rounds, peer, before, options.rules)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--versions", default="50,100,200,400", help="how many versions, a list (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="imports of each kind; medians are shown (%(default)s)")
    parser.add_argument("--rules", type=int, default=0, help="so many rules are selected besides, at most 202")
    parser.add_argument("--fsync", action="store_true", help="PostgreSQL flushes its log, on the disk of --directory")
    parser.add_argument("--directory", type=Path, help="where to work; the system's temporary directory when unset")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--run", action="store_true", help=argparse.SUPPRESS)
    return parser.parse_args()


def _compare(
    server: postgres.Server,
    directory: Path,
    count: int,
    rounds: int,
    peer: Path | None,
    before: float | None,
    number_of_rules: int,
) -> float:
    """Print one line; the seconds ours took."""
    mirror = make_mirror(directory, count)
    ours, theirs = [], []
    with _served(directory) as url:
        for number in range(rounds):
            # In turns, so that a noisy minute does not fall on one of them alone.
            database = f"bench_{count}_{number}"
            ours.append(_ours(server, database, directory / "ours", url, mirror, count, number_of_rules))
            if peer is not None:
                theirs.append(_theirs(peer, directory / "theirs", url, mirror, count))
    shutil.rmtree(directory)
    took = statistics.median(run.seconds for run in ours)
    beside = statistics.median(theirs) if theirs else None
    print(
        f"{count:8} {took:7.2f} {_cell(beside, 7)} {_cell(beside and took / beside, 6)}"
        f" {_cell(before and took / before, 7)} {max(run.peak_mib for run in ours):9.0f}"
        f" {statistics.median(run.wal_bytes for run in ours) / 1e6:7.2f}",
        flush=True,
    )
    return took


def _cell(value: float | None, width: int) -> str:
    return f"{'-':>{width}}" if value is None else f"{value:{width}.2f}"


# --- the mirror


def image_of(number: int) -> ImageKey:
    return ImageKey.parse(f"ubuntu:r{number:04}:amd64")


def rules(number: int) -> list[Wish]:
    """So many rules, each of which means what others mean too."""
    said = itertools.product(["*", "supported", *(f"lts:{n}" for n in range(1, 100))], ["amd64", "*"])
    return [Wish(None, Pattern("ubuntu", *each)) for each in itertools.islice(said, number)]


def make_mirror(directory: Path, count: int) -> Mirror:
    """A signed stream of `count` products with one version each."""
    key = Key.generate()
    root = directory / "root"
    products: dict[str, Any] = {}
    for number in range(count):
        release = image_of(number).release
        base = f"{release}/amd64/{SERIAL}"
        items = {}
        for ftype, size in SIZES.items():
            path = f"{base}/{ftype}"
            content = hashlib.shake_128(path.encode()).digest(size)
            (root / path).parent.mkdir(parents=True, exist_ok=True)
            (root / path).write_bytes(content)
            items[ftype] = {
                "ftype": ftype,
                "path": path,
                "sha256": hashlib.sha256(content).hexdigest(),
                "size": len(content),
            }
        products[f"com.example.bench:boot:{release}:amd64:ga-24.04"] = {
            "arch": "amd64",
            "kflavor": "generic",
            "krel": release,
            "label": "stable",
            "os": "ubuntu",
            "release": release,
            "release_codename": release,
            "release_title": release,
            "subarch": "ga-24.04",
            "subarches": "generic,ga-24.04",
            "support_eol": "2034-04-25",
            "version": "24.04",
            "versions": {SERIAL: {"items": items}},
        }
    head = {"updated": format_datetime(datetime.now(UTC).replace(microsecond=0))}
    path = f"streams/v1/{STREAM}.sjson"
    entry = head | {"datatype": "image-ids", "format": "products:1.0", "path": path, "products": sorted(products)}
    stream = head | {"datatype": "image-ids", "format": "products:1.0", "content_id": STREAM, "products": products}
    (root / "streams/v1").mkdir(parents=True)
    for where, document in (
        (path, stream),
        ("streams/v1/index.sjson", head | {"format": "index:1.0", "index": {STREAM: entry}}),
    ):
        (root / where).write_bytes(key.clear_sign(json.dumps(document, indent=1).encode()))
    made = Mirror(directory, key, signer=key)
    made.keyring_path.write_bytes(key.keyring)
    os.sync()
    return made


async def _serve(directory: Path) -> None:
    async with serve(Mirror(directory, Key.generate(), signer=None)) as server:
        print(server.url, flush=True)
        await asyncio.Event().wait()


@contextmanager
def _served(directory: Path) -> Iterator[str]:
    command = [sys.executable, "-m", __spec__.name, "--serve", str(directory)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


# --- ours


async def _make_template(server: postgres.Server) -> None:
    await server.create_database(TEMPLATE)
    engine = create_engine(server.url(TEMPLATE))
    await migrate(engine)
    await engine.dispose()


def _ours(
    server: postgres.Server, database: str, data: Path, url: str, mirror: Mirror, count: int, number_of_rules: int
) -> Imported:
    asyncio.run(server.clone(TEMPLATE, database))
    os.sync()
    told = {
        "database": server.url(database),
        "data": str(data),
        "url": url,
        "keyring": str(mirror.keyring_path),
        "count": count,
        "rules": number_of_rules,
    }
    command = [sys.executable, "-m", __spec__.name, "--run"]
    said = subprocess.run(command, input=json.dumps(told), stdout=subprocess.PIPE, text=True, check=True).stdout
    asyncio.run(server.drop_database(database))
    shutil.rmtree(data)
    return Imported(**json.loads(said))


async def _import(told: dict[str, Any]) -> Imported:
    """Import everything that the mirror at hand offers, in this process."""
    configuration = RegionConfiguration(
        database_url=told["database"],
        data_dir=told["data"],
        default_source_url=told["url"],
        default_source_keyring=told["keyring"],
        migrate_on_start=False,
    )
    configure("warning", "text")
    region = app.build(configuration)
    await region.prepare()
    async with transaction(region.engine) as connection:
        await selections.replace(
            connection,
            [*(Wish(None, image_of(number)) for number in range(told["count"])), *rules(told["rules"])],
            region.now(),
        )
        await wanted.refresh(connection, region.now())
        since = await connection.scalar(WAL_BYTES)
    began = time.perf_counter()
    async with transaction(region.engine) as connection:
        import_id = await imports.enqueue(connection, "operator", "a benchmark", region.now())
    assert await run_next(region.importer)
    seconds = time.perf_counter() - began
    async with transaction(region.engine) as connection:
        wal = await connection.scalar(WAL_BYTES) - since
        ended = await imports.get(connection, import_id)
        held = await connection.scalar(text("SELECT count(*) FROM versions WHERE held_at IS NOT NULL"))
    await region.engine.dispose()
    if (ended.state, held) != ("succeeded", told["count"]):
        sys.exit(f"The import {ended.state}, {held} of {told['count']} versions are held. {ended.error}")
    return Imported(seconds, wal, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024)


# --- the peer


def _peer() -> Path | None:
    """The program `sstream-mirror`, installed if it was not; None where it cannot be had."""
    program = PEER_DIRECTORY / "bin" / "sstream-mirror"
    if not program.exists():
        try:
            venv.create(PEER_DIRECTORY, with_pip=True, clear=True)
            subprocess.run([PEER_DIRECTORY / "bin" / "pip", "install", "--quiet", PEER], check=True)
        except (OSError, subprocess.CalledProcessError) as error:
            print(f"sstream-mirror cannot be installed ({error}): nothing to compare with")
            return None
    return program


def _theirs(program: Path, target: Path, url: str, mirror: Mirror, count: int) -> float:
    """Seconds `sstream-mirror` took to mirror all of it."""
    os.sync()
    options = [f"--keyring={mirror.keyring_path}", "--path=streams/v1/index.sjson"]
    began = time.perf_counter()
    subprocess.run([str(program), *options, url, str(target)], check=True, capture_output=True)
    seconds = time.perf_counter() - began
    found = sum(1 for path in itertools.chain(*(target.rglob(ftype) for ftype in SIZES)) if path.is_file())
    if found != count * len(SIZES):
        sys.exit(f"sstream-mirror brought {found} of {count * len(SIZES)} files")
    shutil.rmtree(target)
    return seconds


if __name__ == "__main__":
    main()
