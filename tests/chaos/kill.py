"""kill -9 of region, rack and database at random moments, until each was killed so often.

    python -m tests.chaos.kill [--kills 500] [--seconds N] [--seed N] [--only region,rack,database]

While the mirror publishes and operators select, import and unselect, each process has its own killer, who kills it,
looks at the invariants, starts it again and waits a random while. Every few dozen kills the killers rest: all must
converge. A second region process begins with an empty database each time and is killed in its migration.
"""

import argparse
import asyncio
import random
import signal
import sys
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from pathlib import Path

from deploy.local.scratch import scratch_directory
from tests.chaos import invariants
from tests.chaos.machine import ended
from tests.chaos.report import Report
from tests.chaos.world import Lost, World, world
from tests.e2e.site import Service

KINDS = ("region", "rack", "database", "migration")
KILLS_A_ROUND = 15
NOBLE, RESOLUTE, CENTOS = "ubuntu:noble:amd64", "ubuntu:resolute:amd64", "centos:8:amd64"


async def drive(world: World, done: asyncio.Event) -> None:
    """What keeps the processes busy: versions, imports, selections, polls."""
    rng = world.rng
    while not done.is_set():
        match rng.choice(["publish", "publish", "ask", "choose", "poll"]):
            case "publish":
                await world.publish()
                await world.ask()
            case "ask":
                await world.ask()
            case "choose":
                await world.choose({RESOLUTE} | set(rng.sample([NOBLE, CENTOS], rng.randint(0, 2))))
            case "poll":
                world.wake_rack()
        await asyncio.sleep(rng.uniform(0.0, 0.6))


async def moment(watched: Callable[[], bool], rng: random.Random, *, within_s: float, then_s: float) -> bool:
    """Wait until `watched` is true, and a random moment more. True if it came true within the time."""
    until = time.monotonic() + within_s
    while time.monotonic() < until:
        if watched():
            await asyncio.sleep(rng.choice([0.0, rng.uniform(0.0, then_s)]))
            return True
        await asyncio.sleep(0.001)
    return False


def _any(directory: Path, pattern: str = "*", *, more_than: int = 0) -> bool:
    return len(list(directory.glob(pattern))) > more_than


async def kill_region(world: World, rng: random.Random) -> None:
    """In its start (audit and prune), when files arrive, or anywhen."""
    aim = rng.choice(["start", "import", "import", "anywhen"])
    if aim == "import":
        await moment(lambda: _any(world.store / "incoming"), rng, within_s=3.0, then_s=0.15)
    else:
        await asyncio.sleep(rng.uniform(0.3, 1.5) if aim == "start" else rng.uniform(0.0, 2.5))
    struck = await _struck_region(world) if aim != "import" else "in an import"
    await world.region.stop(signal.SIGKILL)
    world.report.done[f"kills of the region ({'in its start' if aim == 'start' else struck})"] += 1
    await world.look()
    await world.expire_lease()
    world.region.start()
    if rng.random() < 0.6:
        # Otherwise it is killed again while it still starts, which is when it prunes and audits.
        with suppress(AssertionError):
            await world.site.until(lambda: world.site._answers(f"{world.region.base}/readyz"), within_s=3)


async def _struck_region(world: World) -> str:
    """What the region is doing, as its database tells."""
    with suppress(*Lost):
        connection = await world.database.connect()
        try:
            if await connection.fetchval("SELECT count(*) FROM leaving_files"):
                return "in a prune"
            if await connection.fetchval("SELECT count(*) FROM imports WHERE state = 'running'"):
                return "in an import"
        finally:
            await connection.close()
    return "elsewhere"


async def kill_rack(world: World, rng: random.Random) -> None:
    """When files arrive, when it swaps trees, when it prunes, in its start, or anywhen."""
    root = world.rack_dir
    aims: dict[str, Callable[[], bool]] = {
        "pull": lambda: _any(root / "incoming"),
        "swap": lambda: _any(root / "trees", "*.new") or (root / "current.new").is_symlink(),
        "prune": lambda: _any(root / "trees", "*[0-9]", more_than=1),
    }
    aim = rng.choice([*aims, "start"])
    if aim == "start":
        await asyncio.sleep(rng.uniform(0.0, 0.6))
    elif not await moment(aims[aim], rng, within_s=4.0, then_s=0.03):
        aim = "anywhen"
    await world.rack.stop(signal.SIGKILL)
    world.report.done[f"kills of the rack ({aim})"] += 1
    await world.look()
    world.rack.start()
    if rng.random() < 0.8:
        await world.site.until(lambda: world.site._answers(f"{world.rack.base}/livez"))


async def kill_database(world: World, rng: random.Random) -> None:
    await asyncio.sleep(rng.uniform(0.0, 2.0))
    mode = await asyncio.to_thread(world.database.kill, rng)
    world.report.done[f"kills of the database ({mode})"] += 1
    await asyncio.sleep(rng.choice([0.0, 0.0, 0.5]))
    # From the main thread: a server dies with the thread that starts it.
    world.database.start()
    await world.look()


async def kill_migration(world: World, rng: random.Random) -> None:
    """A region that meets an empty database is killed while it makes the schema; the next start makes it whole."""
    name = f"fresh_{rng.randrange(10**9)}"
    try:
        await world.database.server.create_database(name)
    except Lost:
        await asyncio.sleep(0.1)
        return
    region = Service(
        world.region.arguments,
        world.region.environment
        | {
            "REGION_DATABASE_URL": world.database.server.url(name),
            "REGION_DATA_DIR": str(world.site.directory / "fresh" / name),
            "REGION_PORT": "0",
            "REGION_DEFAULT_SOURCE_URL": "http://127.0.0.1:1/",
        },
        world.site.directory / "fresh.log",
        0,
    )
    for _ in range(4):
        region.start()
        await asyncio.sleep(rng.uniform(0.2, 1.2))
        await region.stop(signal.SIGKILL)
        world.report.done["kills of a region (in or beside a migration)"] += 1
    done = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "region", "migrate", env=region.environment, stdout=-3, stderr=-1
    )
    _, said = await done.communicate()
    with suppress(*Lost):
        connection = await world.database.connect(name)
        heads = await connection.fetch("SELECT version_num FROM alembic_version")
        await connection.close()
        if done.returncode == 0 and len(heads) != 1:
            world.report.violate(f"migration: {len(heads)} revisions after it was killed in between")
    if done.returncode not in (0, None) and b"database" not in said.lower():
        world.report.violate(f"migration: it does not end after it was killed in between: {said[-500:]!r}")
    with suppress(*Lost):
        await world.database.server.drop_database(name)


Killer = Callable[[World, random.Random], Awaitable[None]]
KILLERS: dict[str, Killer] = {
    "region": kill_region,
    "rack": kill_rack,
    "database": kill_database,
    "migration": kill_migration,
}


def counted(report: Report, kind: str) -> int:
    """Kills of this kind of process so far."""
    of = {"migration": "of a region (in or"}.get(kind, f"of the {kind}")
    return sum(count for what, count in report.done.items() if what.startswith("kills ") and of in what)


async def round_of_kills(world: World, kinds: list[str], kills: int, until: float) -> None:
    """Each of `kinds` is killed so often, all at the same time; then everything must converge."""
    done = asyncio.Event()
    driving = asyncio.create_task(drive(world, done))
    booting = asyncio.create_task(world.machine.run())

    async def killing(kind: str) -> None:
        rng = random.Random(world.rng.random())
        for _ in range(kills if kind != "migration" else 1):
            if time.monotonic() > until:
                return
            await KILLERS[kind](world, rng)

    try:
        await asyncio.gather(*(killing(kind) for kind in kinds))
    finally:
        done.set()
        await driving
    await world.converge()
    await ended(booting)


async def run(directory: Path, report: Report, *, kinds: list[str], kills: int, seconds: float) -> None:
    """Rounds until every kind has its kills or the time is over."""
    until = time.monotonic() + seconds
    async with world(directory, report) as made:
        report.say(f"ready; the rack shows {len(invariants.tree_names(made.rack_dir))} names")
        while time.monotonic() < until:
            short = [kind for kind in kinds if counted(report, kind) < (kills if kind != "migration" else kills // 10)]
            if not [kind for kind in short if kind != "migration"]:
                break
            await round_of_kills(made, short, min(kills, KILLS_A_ROUND), until)
            report.say(
                ", ".join(f"{counted(report, kind)} {kind}" for kind in kinds) + f"; {dict(made.machine.answers)}"
            )
        report.done["checked answers of the rack"] = made.machine.answers["200"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=500, help="of each kind of process")
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--only", default=",".join(KINDS))
    options = parser.parse_args()
    report = Report("kill", options.seed)
    with scratch_directory() as directory:
        asyncio.run(run(directory, report, kinds=options.only.split(","), kills=options.kills, seconds=options.seconds))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
