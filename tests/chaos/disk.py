"""ENOSPC and EIO at every call that touches the disk, of one import (region) and of one pull (rack).

    python -m tests.chaos.disk [--every N] [--seed N] [--only region,rack]

First the calls are counted: N of them. Then, N times for each error, a new version is published and the same work is
done again while the n-th call fails. The process goes on: what was held is held and served, the error is one an
operator is told, nothing unexpected is logged. Then the disk is well again: the next import or the next two polls
converge, and nothing is left over.
"""

import argparse
import asyncio
import errno
import random
import shutil
import sys
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import asyncpg

from deploy.local import postgres
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import serve
from deploy.local.scratch import scratch_directory
from region.database.connection import create_engine, migrate
from region.importing import importer, upkeep
from shared.errors import BootferryError
from shared.patience import Patience
from tests.chaos import invariants
from tests.chaos.disk_faults import failing
from tests.chaos.report import Report, quiet
from tests.conftest import Clock
from tests.db.bench import RESOLUTE, Bench, build, small_mirror
from tests.http.fake_region import FakeRegion, tar_xz, tree_bytes, ubuntu
from tests.http.running_rack import running_rack

ERRORS = (errno.ENOSPC, errno.EIO)
LOADER = "bootloader/uefi/amd64"


# --- one import


async def region_at(
    bench: Bench, connection: "asyncpg.Connection[Any]", mirror: Mirror, number: int, at: int
) -> tuple[list[str], int]:
    """What is wrong after an import of a new version whose disk fails at call `at`, and how many calls it made."""
    store = Path(bench.region.store.where)
    before = await bench.manifest()
    mirror.publish(release="resolute")
    found = []
    import_id = await bench.ask()
    with failing((store,), number, at) as faults:
        try:
            await importer.run_next(bench.region.importer)
        except BootferryError as error:
            found.append(f"told: the import broke off with {type(error).__name__}: {error}")
        except OSError as error:
            found.append(f"told: the import ended with {error!r} at {faults.calls[-1]}")
    entry = await bench.import_of(import_id)
    if at and entry.state == "failed" and entry.error_code not in ("no_room", "disk_failed"):
        found.append(f"told: {entry.error_code}: {entry.error}")
    found += await invariants.region_rows(connection, store)
    found += await invariants.held_files(connection)
    if not set(before.files()) <= {path.name for path in (store / "files").glob("*/*")}:
        found.append("I4: a file that was held is gone")
    # The disk is well again.
    for _ in range(2):
        state = (await bench.import_now()).state
    if state != "succeeded" or (await bench.image(RESOLUTE)).status not in ("stored", "synced"):
        found.append(f"I6: the import after the fault {state}")
    beginnings = [f"{number:02x}" for number in range(256)]
    await upkeep.adopt(bench.region.engine, bench.region.store, beginnings, bench.region.now())
    await upkeep.prune(bench.region.engine, bench.region.store, timedelta(0), bench.region.now())
    found += await invariants.region_rows(connection, store)
    found += await invariants.region_at_rest(connection, store)
    return [
        f"{sentence} (at {faults.calls[at - 1] if 0 < at <= len(faults.calls) else at})" for sentence in found
    ], len(faults.calls)


async def region(directory: Path, server: postgres.Server, report: Report, every: int) -> None:
    """Every call of one import, with each error."""
    url = server.url("chaos_disk")
    await server.create_database("chaos_disk")
    engine = create_engine(url)
    await migrate(engine)
    await engine.dispose()
    mirror = small_mirror(directory / "mirror", seed=0)
    async with AsyncExitStack() as stack:
        upstream = await stack.enter_async_context(serve(mirror))
        built = build(directory / "region", url, upstream, mirror, Clock())
        built.importer = replace(built.importer, patience=Patience(attempts=2, first_s=0.0), parallel_downloads=1)
        await built.prepare()
        stack.push_async_callback(built.engine.dispose)
        bench = Bench(built)
        connection = await asyncpg.connect(
            host=str(server.socket), port=postgres.PORT, user=postgres.ROLE, database="chaos_disk"
        )
        stack.push_async_callback(connection.close)
        await bench.import_now()
        for number in ERRORS:
            found, calls = await region_at(bench, connection, mirror, number, 0)
            report.violate(*found)
            for at in range(1, calls + 1, every):
                found, _ = await region_at(bench, connection, mirror, number, at)
                report.violate(*(f"{sentence} [region, {errno.errorcode[number]} at {at}]" for sentence in found))
                report.done[f"{errno.errorcode[number]} in an import, of {calls} calls"] += 1
    await server.drop_database("chaos_disk")


# --- one pull


async def rack_at(directory: Path, number: int, at: int) -> tuple[list[str], int]:
    """What is wrong after a pull of a new version whose disk fails at call `at`, and how many calls it made."""
    root = directory / "rack"
    shutil.rmtree(root, ignore_errors=True)
    old, new = (ubuntu(version, size=900) for version in "12")
    first = old | {f"{LOADER}/bootx64.efi": b"loader 1"}
    second = new | {f"{LOADER}/bootx64.efi": b"loader 2"}
    found = []
    async with FakeRegion.running() as region, running_rack(region, root, grace_s=0.0, at_once=1) as rack:
        region.publish(old, {LOADER: tar_xz({"bootx64.efi": b"loader 1"})})
        await rack.poller.poll()
        region.publish(new, {LOADER: tar_xz({"bootx64.efi": b"loader 2"})})
        with failing((root,), number, at) as faults:
            await rack.poller.poll()
        error = rack.error()
        if at and error is not None and error.code not in ("no_room", "disk_failed", "unavailable"):
            found.append(f"told: {error.code}: {error}")
        found += await served(rack.boot, [first, second])
        # The disk is well again.
        await rack.poller.poll()
        await rack.poller.poll()
        if (error := rack.error()) is not None:
            found.append(f"I6: the second poll after the fault says {error}")
        found += await served(rack.boot, [second])
        if tree_bytes(root) != second:
            found.append("I6: the tree is not the newest after two polls")
        found += invariants.rack_at_rest(root)
    return [
        f"{sentence} (at {faults.calls[at - 1] if 0 < at <= len(faults.calls) else at})" for sentence in found
    ], len(faults.calls)


async def served(boot: Callable[..., Any], allowed: list[dict[str, bytes]]) -> list[str]:
    """Machines get every name, all of each image of one of the `allowed` versions."""
    found: list[str] = []
    shown = {}
    for name in allowed[-1]:
        status, body = await boot(name)
        if status != 200:
            found.append(f"I4: {name} is answered {status}")
        shown[name] = body
    images = {"ubuntu/": "the image", "bootloader/": "the bootloader"}
    for prefix, what in images.items():
        versions = [{name: body for name, body in each.items() if name.startswith(prefix)} for each in allowed]
        if not found and {name: body for name, body in shown.items() if name.startswith(prefix)} not in versions:
            found.append(f"I2: {what} is none of its versions")
    return found


async def rack(directory: Path, report: Report, every: int) -> None:
    """Every call of one pull, with each error."""
    for number in ERRORS:
        found, calls = await rack_at(directory, number, 0)
        report.violate(*found)
        for at in range(1, calls + 1, every):
            found, _ = await rack_at(directory, number, at)
            report.violate(*(f"{sentence} [rack, {errno.errorcode[number]} at {at}]" for sentence in found))
            report.done[f"{errno.errorcode[number]} in a pull, of {calls} calls"] += 1


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--every", type=int, default=1, help="fail at every n-th call only")
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="nothing is random")
    parser.add_argument("--only", default="region,rack")
    options = parser.parse_args()
    quiet()
    report = Report("disk", options.seed)
    with scratch_directory() as directory:
        if "rack" in options.only:
            asyncio.run(rack(directory, report, options.every))
        if "region" in options.only:
            with postgres.running(directory / "postgres", fsync=False) as server:
                asyncio.run(region(directory, server, report, options.every))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
