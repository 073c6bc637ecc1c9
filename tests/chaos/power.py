"""Power cuts: region, rack and database each on a file system of its own that stops in the middle of everything.

    python -m tests.chaos.power [--cuts 100] [--fs ext4,xfs] [--seconds N] [--seed N] [--mutants] (as root)

A cut is FS_IOC_SHUTDOWN (ext4: fs/ext4/ioctl.c, xfs: fs/xfs/xfs_fsops.c): the file system takes no write any more, and
what was not flushed is lost when it is unmounted; its log is replayed when it is mounted again. `NOLOGFLUSH` loses what
lies in the log's buffers, as a cut does; the other two flush some of it first, as a luckier cut would. The processes
are killed at once. After the mount the database begins and every row's file is looked at before any process could heal
it; then the rack, alone, serves all that it had served; then everything must converge.

The file systems do little on their own: ext4 neither flushes a file because it was renamed over another
(`noauto_da_alloc`) nor commits by time, and the cuts come within the half minute in which no page is written by age.
Where `--mutants` is given, each place that flushes is left out in turn: the cuts must find it, or it is named.
"""

import argparse
import asyncio
import fcntl
import os
import random
import shutil
import struct
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path

from deploy.local.scratch import scratch_directory
from tests.chaos import invariants
from tests.chaos.kill import moment
from tests.chaos.machine import ended
from tests.chaos.report import Report
from tests.chaos.world import RACK, Lost, World, stop_services, world

FS_IOC_SHUTDOWN = 0x8004587D
FLAGS = {"DEFAULT": 0, "LOGFLUSH": 1, "NOLOGFLUSH": 2}
MAKE = {
    "ext4": ["mkfs.ext4", "-q", "-F"],
    "xfs": ["mkfs.xfs", "-q", "-f"],
}
OPTIONS = {"ext4": "loop,noauto_da_alloc,commit=600", "xfs": "loop"}
SIZES = {"region": "320M", "rack": "320M", "database": "512M"}
CHILD = Path(__file__).parent / "child"


def why_not(kind: str) -> str:
    """Why no power cut of this file system can be tried here; "" when it can."""
    if os.geteuid() != 0:
        return "only root may mount a file system"
    if shutil.which(MAKE[kind][0]) is None:
        return f"{MAKE[kind][0]} is not installed"
    if not Path("/dev/loop-control").exists():
        return "there are no loop devices here"
    with scratch_directory() as directory:
        try:
            with Disk(directory / "probe.img", directory / "probe", kind, "320M").mounted_once():
                return ""
        except (OSError, subprocess.CalledProcessError) as error:
            return f"a {kind} in a file cannot be mounted here ({error})"


@dataclass(slots=True)
class Disk:
    """A file system in a file, mounted at `place`."""

    image: Path
    place: Path
    kind: str
    size: str

    def make(self) -> None:
        self.place.mkdir(parents=True, exist_ok=True)
        subprocess.run(["truncate", "-s", self.size, self.image], check=True)
        subprocess.run([*MAKE[self.kind], self.image], check=True, capture_output=True)
        self.mount()
        with suppress(OSError):
            (self.place / "lost+found").rmdir()

    def mount(self) -> None:
        """Mount it; its log is replayed."""
        subprocess.run(["mount", "-o", OPTIONS[self.kind], self.image, self.place], check=True, capture_output=True)

    def cut(self, flag: str) -> None:
        """From now on nothing reaches the disk."""
        descriptor = os.open(self.place, os.O_RDONLY | os.O_DIRECTORY)
        try:
            fcntl.ioctl(descriptor, FS_IOC_SHUTDOWN, struct.pack("I", FLAGS[flag]))
        finally:
            os.close(descriptor)

    def unmount(self) -> None:
        for _ in range(100):
            if subprocess.run(["umount", self.place], check=False, capture_output=True).returncode == 0:
                return
            time.sleep(0.05)
        subprocess.run(["umount", "--lazy", self.place], check=False, capture_output=True)

    def sync(self) -> None:
        subprocess.run(["sync", "-f", self.place], check=True)

    @contextmanager
    def mounted_once(self) -> Iterator[None]:
        self.make()
        try:
            yield
        finally:
            self.unmount()


def flag_of(rng: random.Random) -> str:
    return rng.choice(["NOLOGFLUSH", "NOLOGFLUSH", "NOLOGFLUSH", "LOGFLUSH", "DEFAULT"])


async def cut(world: World, disks: dict[str, Disk], rng: random.Random, report: Report, *, flag: str = "") -> None:
    """One cut at a random moment of an import and a pull, and everything that must hold after it."""
    aims = {
        "an import": lambda: any((world.store / "incoming").iterdir()),
        "a pull": lambda: any((world.rack_dir / "incoming").iterdir()),
        "a swap": lambda: len(list((world.rack_dir / "trees").glob("*[0-9]"))) > 1,
    }
    await world.publish()
    await world.ask()
    aim = rng.choice([*aims, "anywhen"])
    if aim == "anywhen":
        await asyncio.sleep(rng.uniform(0.0, 3.0))
    elif not await moment(aims[aim], rng, within_s=5.0, then_s=0.3):
        aim = "anywhen"
    lost = rng.choice([["region", "database"], ["rack"], [*disks]])
    rng.shuffle(lost)
    flag = flag or flag_of(rng)
    # Between the cut and the end of its process a rack answers 503, and a machine without power hears nothing.
    world.machine.spoiled = True
    for name in lost:
        disks[name].cut(flag)
    report.done[f"cuts ({flag}, in {aim})"] += 1
    stop_services(world.site)
    world.database.kill_all()
    await asyncio.sleep(0.1)
    world.machine.spoiled = False
    for name in lost:
        disks[name].unmount()
        disks[name].mount()
    await after_cut(world, report)


async def after_cut(world: World, report: Report) -> None:
    """Look before anybody heals, start the rack alone, then all."""
    served = set(world.machine.served)
    report.violate(*invariants.rack_tree(world.rack_dir, world.legit, had_one=bool(served)))
    report.violate(*documents(world.rack_dir))
    world.database.start()
    connection = await world.database.connect()
    try:
        report.violate(*await invariants.region_rows(connection, world.store))
        told = await connection.fetchrow("SELECT epoch, serial FROM racks")
    finally:
        await connection.close()
    manifest = invariants.signed_manifest(world.rack_dir)
    known = (manifest["epoch"], manifest["serial"]) if manifest else (0, 0)
    if told and known < tuple(told):
        report.violate(f"I3: the rack has told of the manifest {tuple(told)}, and knows {known} after the cut")
    world.rack.start()
    try:
        await world.site.until(lambda: world.site._answers(f"{world.rack.base}/livez"), within_s=20)
        await world.machine.boot_all(served)
    except AssertionError as error:
        report.violate(f"I4: the rack does not start after the cut: {str(error)[-800:]}")
        return
    report.violate(*world.machine.found())
    await world.converge(restart_region=False)


def documents(root: Path) -> list[str]:
    """A document that was written whole is never found empty."""
    looked = [*root.glob("*.json"), *root.glob("trees/*.json"), *root.glob("unpacked/*.json"), *root.glob("identity/*")]
    return [f"document: {path.relative_to(root)} is empty" for path in looked if path.stat().st_size == 0]


async def run(
    directory: Path, report: Report, *, kind: str, cuts: int, seconds: float, omitted: str = "", log: Path | None = None
) -> None:
    """Cuts until there were enough, or the time is over, or (for a mutant) one found something."""
    until = time.monotonic() + seconds
    rng = random.Random(report.seed)
    disks = {
        name: Disk(directory / f"{name}.img", place, kind, SIZES[name])
        for name, place in {
            "region": directory / "region",
            "rack": directory / RACK,
            "database": directory / "postgres" / "data",
        }.items()
    }
    environment = {"PYTHONPATH": str(CHILD), "CHAOS_OMIT_FSYNC": omitted, "CHAOS_FSYNC_LOG": str(log or "")}
    with ExitStack() as stack:

        def make(name: str) -> None:
            disks[name].make()
            stack.callback(disks[name].unmount)

        make("region")
        make("rack")

        def move_database(data: Path) -> None:
            """The data was made beside; from now on it lies on the file system."""
            beside = data.with_name("beside")
            data.rename(beside)
            make("database")
            subprocess.run(["cp", "-a", f"{beside}/.", data], check=True)
            shutil.rmtree(beside)

        async with world(directory, report, fsync=True, before=move_database, environment=environment) as made:
            for disk in disks.values():
                disk.sync()
            booting = asyncio.create_task(made.machine.run())
            for _ in range(cuts):
                if time.monotonic() > until or (omitted and report.violations):
                    break
                try:
                    await cut(made, disks, rng, report, flag="NOLOGFLUSH" if omitted else "")
                except Lost as error:
                    report.violate(f"after the cut: {error!r}")
                    break
            await ended(booting)
            report.done["checked answers of the rack"] += made.machine.answers["200"]
            stop_services(made.site)
            made.database.kill_all()


def mutants(kind: str, seed: int, cuts: int) -> int:
    """Leave out each place that flushes, in turn; how many of them no cut has found."""
    with scratch_directory() as directory:
        places = directory.with_name(f"{directory.name}-places")
        report = Report("power", seed)
        asyncio.run(run(directory, report, kind=kind, cuts=2, seconds=600, log=places))
    found = sorted(set(places.read_text().split("\n")) - {""})
    places.unlink()
    survivors = []
    for place in found:
        report = Report("mutant", seed)
        with scratch_directory() as directory:
            asyncio.run(run(directory, report, kind=kind, cuts=cuts, seconds=600, omitted=place))
        said = report.violations[0] if report.violations else f"SURVIVED {sum(report.done.values())}"
        print(f"mutant {place}: {said[:150]}", flush=True)
        survivors += [] if report.violations else [place]
    print(
        f"chaos power mutants: {len(found)} flushes left out in turn on {kind}, {len(survivors)} survive: {survivors}"
    )
    return len(survivors)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--cuts", type=int, help="of each file system; 100 on ext4 and 50 on xfs when left out")
    parser.add_argument("--fs", default="ext4,xfs")
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--mutants", action="store_true")
    options = parser.parse_args()
    status = 0
    kinds = options.fs.split(",")
    for kind in kinds:
        if why := why_not(kind):
            print(f"chaos power: skipped on {kind}: {why}")
            continue
        if options.mutants:
            status |= mutants(kind, options.seed, options.cuts or 6) > 0
            continue
        report = Report(f"power on {kind}", options.seed)
        cuts = options.cuts or {"ext4": 100, "xfs": 50}[kind]
        with scratch_directory() as directory:
            asyncio.run(run(directory, report, kind=kind, cuts=cuts, seconds=options.seconds / len(kinds)))
        status |= report.end()
    return status


if __name__ == "__main__":
    sys.exit(main())
