"""Faults of the network and of clocks, one by one and at every place.

    python -m tests.chaos.network [--seed N] [--only flip,…]

flip    the mirror publishes at request n of an import, for every n: reading, files, and all between
cut     the connection is cut at request n, for every n
reset   the rack's connection is reset after some bytes of each file
storm   503 to everything for a while, with and without Retry-After
away    the region is away for a simulated day of polls every five minutes; the rack serves on
clocks  the clocks of region and rack are wrong by minutes to decades, then right again

After each the next import and the next two polls must converge, with nothing left over.
"""

import argparse
import asyncio
import random
import shutil
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

from deploy.local import postgres
from deploy.local.mirror.faults import Cut, Fault, Status
from deploy.local.scratch import scratch_directory
from tests.chaos import invariants
from tests.chaos.report import Report, quiet
from tests.chaos.small_world import SmallWorld, make_small
from tests.conftest import _make_template
from tests.http.fake_region import FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import running_rack

POLLS_OF_A_DAY = 288


@asynccontextmanager
async def small_world(directory: Path, server: postgres.Server, small: Path, name: str) -> AsyncIterator[SmallWorld]:
    """A world in a directory of its own."""
    own = directory / name
    own.mkdir()
    world = SmallWorld(own, server, f"network_{name}", small)
    try:
        await world.begin()
        yield world
    finally:
        await world.end()
        shutil.rmtree(own)


def at_request(world: SmallWorld, number: int, act: Callable[[str], Fault | None]) -> list[str]:
    """From now on the mirror's request `number` (from 1) is preceded by `act`; the paths asked for, as they come."""
    asked: list[str] = []
    usual = type(world.upstream)._next_fault

    def next_fault(path: str) -> Fault | None:
        asked.append(path)
        if len(asked) == number and (fault := act(path)) is not None:
            return fault
        return usual(world.upstream, path)

    world.upstream._next_fault = next_fault  # type: ignore[method-assign]
    return asked


async def every_request(
    world: SmallWorld, report: Report, what: str, act: Callable[[str], Fault | None], every: int
) -> None:
    """`act` at each request of an import of a new version, in turn."""
    world.publish("resolute")
    asked = at_request(world, 0, act)
    await world.import_now()
    for number in range(1, len(asked) + 1, every):
        world.publish("resolute")
        asked = at_request(world, number, act)
        await world.import_now()
        found = await world.look()
        at_request(world, 0, act)
        await world.import_now()
        await world.poll()
        await world.poll()
        found += await world.look()
        wanted = world.wanted()
        for left in range(30, -1, -1):
            wrong = invariants.rack_equals(world.rack_dir, wanted)
            if not wrong or not left:
                break
            await world.poll()
            await asyncio.sleep(0.05)
        where = asked[number - 1] if number <= len(asked) else "the end"
        report.violate(*(f"{sentence} [{what} at request {number}, {where}]" for sentence in found + wrong))
        report.done[f"{what}s at request n"] += 1
    report.violate(*(f"{sentence} [after all {what}s]" for sentence in await world.converge()))


async def flip(world: SmallWorld, report: Report, every: int) -> None:
    def publish(_path: str) -> None:
        world.publish("resolute")

    await every_request(world, report, "flip", publish, every)


async def cut(world: SmallWorld, report: Report, every: int) -> None:
    await every_request(world, report, "cut", lambda _path: Cut(after=40), every)


async def storm(world: SmallWorld, report: Report, every: int) -> None:
    for fault in (Status(503), Status(503, {"Retry-After": "1"}), Status(429, {"Retry-After": "1"}), Status(500)):
        world.publish("resolute")
        world.upstream.misbehave("*", fault)
        for _ in range(3):
            await world.import_now()
            await world.poll()
            report.violate(*await world.look())
        report.violate(*(f"{sentence} [after a storm of {fault.code}]" for sentence in await world.converge()))
        report.done["storms"] += 1


async def clocks(world: SmallWorld, report: Report, every: int) -> None:
    spans = [timedelta(minutes=4), timedelta(minutes=20), timedelta(days=1), timedelta(days=400), timedelta(days=9000)]
    for off in [sign * span for span in spans[::every] for sign in (1, -1)]:
        for clock in (world.region_clock, world.rack_clock):
            clock.off = off
            world.publish("resolute")
            await world.import_now()
            await world.poll()
            report.violate(*(f"{sentence} [a clock is {off} off]" for sentence in await world.look()))
            found = await world.converge()
            report.violate(*(f"{sentence} [after a clock was {off} off]" for sentence in found))
            report.done["wrong clocks"] += 1


async def away(directory: Path, report: Report, polls: int) -> None:
    """A day without a region, and the connection reset in each file of the pull that follows."""
    root = directory / "away"
    old, new = ubuntu("1", size=20_000), ubuntu("2", size=20_000)
    async with FakeRegion.running() as region, running_rack(region, root) as rack:
        region.publish(old)
        await rack.poller.poll()
        region.manifest_status = 503
        region.publish(new)
        for number in range(polls):
            rack.clock.offset += timedelta(minutes=5)
            await rack.poller.poll()
            name = sorted(old)[number % len(old)]
            status, body = await rack.boot(name)
            if (status, body) != (200, old[name]):
                report.violate(f"I4: {name} is answered {status} while the region is away")
            report.done["polls without a region"] += 1
        region.manifest_status = 200
        region.cut_after = dict.fromkeys(region.files, 5_000)
        armed = len(region.cut_after)
        for _ in range(2):
            await rack.poller.poll()
        if tree_bytes(root) != new:
            report.violate("I6: the rack has not converged two polls after its region came back")
        report.done["files whose connection was reset"] += armed - len(region.cut_after)


Part = Callable[[SmallWorld, Report, int], Awaitable[None]]
PARTS: dict[str, Part] = {"flip": flip, "cut": cut, "storm": storm, "clocks": clocks}


async def run(
    directory: Path, server: postgres.Server, small: Path, report: Report, only: list[str], *, every: int = 1
) -> None:
    """The chosen parts; with `every` above 1 only some requests, clocks and polls of each."""
    for name in only:
        if name == "away":
            await away(directory, report, POLLS_OF_A_DAY // every)
            continue
        async with small_world(directory, server, small, name) as world:
            await PARTS[name](world, report, every)


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6), help="nothing is random")
    parser.add_argument("--only", default=",".join([*PARTS, "away"]))
    options = parser.parse_args()
    quiet()
    report = Report("network", options.seed)
    with scratch_directory() as directory, postgres.running(directory / "postgres", fsync=False) as server:
        asyncio.run(_make_template(server))
        small = make_small(directory / "small")
        asyncio.run(run(directory, server, small, report, options.only.split(",")))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
