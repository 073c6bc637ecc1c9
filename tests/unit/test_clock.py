"""The clock's ticks: they come whatever became of the one before."""

import asyncio
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

import pytest
import structlog.testing
from apscheduler.schedulers.asyncio import AsyncIOScheduler

from region.importing import clock as clock_module
from shared.errors import Unavailable


@dataclass
class Ticking:
    """Stands in for a clock: its ticks end as the test says, the first one first."""

    outcomes: list[Exception | None]
    ticks: int = 0
    audits: int = 0
    enough: asyncio.Event = field(default_factory=asyncio.Event)

    async def tick(self) -> None:
        self.ticks += 1
        if self.ticks >= 4:
            self.enough.set()
        if self.outcomes and (error := self.outcomes.pop(0)):
            raise error

    async def audit(self) -> None:
        self.audits += 1


async def ticks_come(ticking: Ticking) -> None:
    running = asyncio.create_task(clock_module.run(ticking))  # type: ignore[arg-type]
    try:
        await asyncio.wait_for(ticking.enough.wait(), 10)
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


@pytest.fixture(autouse=True)
def _quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(clock_module, "TICK_S", 0.01)
    monkeypatch.setattr(clock_module, "SLICE_S", 0.01)


async def test_ticks_come_although_the_wall_clock_was_ten_years_ahead_for_a_moment() -> None:
    ticking = Ticking([], ticks=3)
    scheduler = AsyncIOScheduler(timezone=UTC)
    scheduler.add_job(ticking.tick, "interval", seconds=3600, id="tick")
    scheduler.start()
    now = datetime.now(UTC)
    try:
        clock_module.bring_forward(scheduler, now)
        [job] = scheduler.get_jobs()
        assert job.next_run_time - now > timedelta(minutes=59), "what is on time stays where it is"
        job.modify(next_run_time=now + timedelta(days=3653))
        clock_module.bring_forward(scheduler, now)
        await asyncio.wait_for(ticking.enough.wait(), 10)
        assert job.next_run_time - now < timedelta(hours=2)
    finally:
        scheduler.shutdown(wait=False)


async def test_a_tick_that_failed_ends_no_later_one() -> None:
    ticking = Ticking(
        [Unavailable("The database does not answer"), OSError(5, "Input/output error"), ValueError("ours")]
    )
    with structlog.testing.capture_logs() as told:
        await ticks_come(ticking)
    assert ticking.audits > 0
    # The database that is away says so where it is asked; what nobody expected is told here.
    unexpected = [line for line in told if line["event"].startswith("A regular step broke off unexpectedly")]
    assert [line["log_level"] for line in unexpected] == ["error"] * len(unexpected)
    assert len(unexpected) >= 1
