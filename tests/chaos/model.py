"""Random schedules of faults (hypothesis), with every invariant looked at after each step.

    python -m tests.chaos.model [--schedules 1000] [--seconds N] [--seed N]

A schedule is up to a dozen steps: the mirror publishes, misbehaves or signs with another key; operators select and
import; the rack polls; region and rack stop, start and restart; clocks jump; files are lost or spoiled on disk. At its
end the faults stop, and everything must converge. hypothesis chooses the steps and prints a schedule that failed.
"""

import argparse
import asyncio
import itertools
import random
import shutil
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Coroutine
from datetime import timedelta
from pathlib import Path
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from deploy.local import postgres
from deploy.local.mirror.faults import Cut, Fault, Flip, Gzip, IgnoreRange, Redirect, Status, WrongLength
from deploy.local.mirror.key import Key
from deploy.local.scratch import scratch_directory
from tests.chaos.report import Report, quiet
from tests.chaos.small_world import CENTOS, NOBLE, RESOLUTE, SmallWorld, make_small
from tests.conftest import _make_template

STEPS = 12
FAULTS: list[Fault] = [
    Status(503),
    Status(503, {"Retry-After": "1"}),
    Status(404),
    Status(200, {}, b"<html>Log in, please.</html>"),
    Cut(after=None),
    Cut(after=300),
    Flip(at=20),
    Gzip(),
    IgnoreRange(),
    Redirect(None),
    WrongLength(by=7),
]
PATTERNS = ["*", "*index.sjson", "streams/*", "*/squashfs", "*boot-*", "bootloaders/*"]
JUMPS = [timedelta(minutes=20), timedelta(hours=-3), timedelta(days=2), timedelta(days=-800), timedelta(days=3650)]
_numbers = itertools.count()


class Model(RuleBasedStateMachine):
    """One schedule in a world of its own."""

    server: ClassVar[postgres.Server]
    small: ClassVar[Path]
    done: ClassVar[Counter[str]] = Counter()

    def __init__(self) -> None:
        super().__init__()
        self.runner = asyncio.Runner()
        self.directory = Path(tempfile.mkdtemp(dir=self.small.parent))
        self.world = SmallWorld(self.directory, self.server, f"model_{next(_numbers)}", self.small)
        self.run(self.world.begin())

    def run(self, step: Coroutine[Any, Any, Any]) -> Any:
        self.done["steps"] += 1
        return self.runner.run(step)

    # --- the mirror

    @rule(release=st.sampled_from(["resolute", "noble", "jammy"]))
    def publish(self, release: str) -> None:
        self.world.publish(release)

    @rule(pattern=st.sampled_from(PATTERNS), fault=st.sampled_from(FAULTS), times=st.sampled_from([1, 2, 5, None]))
    def misbehave(self, pattern: str, fault: Fault, times: int | None) -> None:
        self.world.upstream.misbehave(pattern, fault, times)

    @rule()
    def behave(self) -> None:
        self.world.upstream.behave()

    @rule(own=st.booleans())
    def sign(self, own: bool) -> None:
        self.world.mirror.sign_with(self.world.mirror.key if own else Key.generate())

    # --- operators, and the rack's beat

    @rule()
    def import_now(self) -> None:
        self.run(self.world.import_now())

    @rule(more=st.sets(st.sampled_from([NOBLE, CENTOS])))
    def choose(self, more: set[str]) -> None:
        self.run(self.world.choose({RESOLUTE} | more))

    @rule()
    def poll(self) -> None:
        self.run(self.world.poll())

    # --- who is up

    @rule()
    def restart_region(self) -> None:
        self.run(self.world.stop_region())
        self.run(self.world.start_region())

    @precondition(lambda self: self.world.region is not None)
    @rule()
    def stop_region(self) -> None:
        self.run(self.world.stop_region())

    @rule()
    def restart_rack(self) -> None:
        self.run(self.world.stop_rack())
        self.run(self.world.start_rack())

    # --- clocks and disks

    @rule(jump=st.sampled_from([timedelta(), *JUMPS]), rack=st.booleans())
    def jump(self, jump: timedelta, rack: bool) -> None:
        (self.world.rack_clock if rack else self.world.region_clock).off = jump

    @rule(on_rack=st.booleans(), remove=st.booleans(), choice=st.integers(0, 1000))
    def harm(self, on_rack: bool, remove: bool, choice: int) -> None:
        world = self.world
        world.harm(world.rack_dir if on_rack else world.store, random.Random(choice), remove=remove)

    @invariant()
    def holds(self) -> None:
        assert self.run(self.world.look()) == []

    def teardown(self) -> None:
        try:
            assert self.run(self.world.converge()) == []
            self.done["schedules"] += 1
        finally:
            try:
                self.run(self.world.end())
            finally:
                self.runner.close()
                shutil.rmtree(self.directory, ignore_errors=True)


def schedules(server: postgres.Server, small: Path, count: int, number: int, steps: int = STEPS) -> None:
    """Run so many schedules. Raises AssertionError for the first that failed, its steps printed before."""
    machine = type("Model", (Model,), {"server": server, "small": small})
    run_state_machine_as_test(
        seed(number)(machine),
        settings=settings(
            max_examples=count,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            phases=[Phase.generate],
            suppress_health_check=list(HealthCheck),
            print_blob=False,
        ),
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--schedules", type=int, default=1000)
    parser.add_argument("--seconds", type=float, default=7200)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    options = parser.parse_args()
    quiet()
    report = Report("model", options.seed)
    until = time.monotonic() + options.seconds
    with scratch_directory() as directory, postgres.running(directory / "postgres", fsync=False) as server:
        asyncio.run(_make_template(server))
        small = make_small(directory / "small")
        for batch in itertools.count():
            left = options.schedules - Model.done["schedules"]
            if left <= 0 or time.monotonic() > until:
                break
            try:
                schedules(server, small, min(10, left), options.seed + batch)
            except Exception as error:
                report.violate(f"schedule: (seed {options.seed + batch}) {error!r}"[:1500])
            report.say(f"{Model.done['schedules']} schedules, {len(report.violations)} violations")
    report.done.update({"schedules": Model.done["schedules"], "steps": Model.done["steps"]})
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
