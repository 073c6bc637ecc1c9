"""Following an import to the racks, and how long it takes."""

from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from region.cli.client import Api
from region.cli.exits import Failed
from region.cli.follow import Lines, until_racks
from region.cli.run import Pace
from shared.errors import ConnectionRefused

NOBLE = "ubuntu:noble:amd64"


class _Region:
    """An API that answers what it is given, one step after the other, and the last one for ever."""

    def __init__(self, steps: Sequence[Mapping[str, Any] | Exception]) -> None:
        self._steps = list(steps)
        self.asked = 0

    async def list(self, what: str, **_: object) -> list[dict[str, Any]]:
        self.asked += 1
        step = self._steps[0]
        if isinstance(step, Exception):
            self._steps.pop(0)
            raise step
        if what == "images" and len(self._steps) > 1:
            self._steps.pop(0)
        return list(step.get(what, []))


def rack(name: str, status: str, error: str = "") -> dict[str, Any]:
    return {"name": name, "status": status, "last_error": error}


def step(*racks: dict[str, Any], synced: int = 0) -> Mapping[str, Any]:
    return {"racks": racks, "images": [{"id": NOBLE, "racks_synced": synced}, {"id": "other", "racks_synced": 0}]}


AWAY = ConnectionRefused("http://region:5240")
UNTIL = [
    pytest.param(
        [step(rack("a", "pulling"), rack("b", "synced"), synced=s) for s in (0, 1, 2)],
        {NOBLE},
        ["0 of 2 live racks show it.", "1 of 2 live racks show it.", "2 of 2 live racks show it."],
        id="one-after-the-other",
    ),
    pytest.param(
        [step(rack("a", "synced"), rack("b", "unreachable"), rack("c", "never_seen"), synced=1)],
        {NOBLE},
        ["1 of 1 live rack shows it."],
        id="only-those-that-live",
    ),
    pytest.param(
        [step(rack("a", "pulling"), synced=1)], {NOBLE}, ["1 of 1 live rack shows it."], id="not-what-else-it-pulls"
    ),
    pytest.param(
        [step(rack("a", "outdated")), step(rack("a", "synced"))],
        set(),
        ["0 of 1 live rack shows it.", "1 of 1 live rack shows it."],
        id="of-a-run-that-fetched-nothing-the-whole-manifest",
    ),
    pytest.param(
        [step(rack("b", "unreachable"))],
        {NOBLE},
        ["No rack is live; those that are enrolled take it when they are back."],
        id="no-rack-lives",
    ),
    pytest.param(
        [AWAY, step(rack("a", "synced"), synced=1)],
        {NOBLE},
        ["1 of 1 live rack shows it."],
        id="a-region-that-restarts",
    ),
]


@pytest.mark.parametrize(("steps", "images", "told"), UNTIL)
async def test_the_racks_are_waited_for(steps: Sequence[Any], images: set[str], told: list[str]) -> None:
    heard: list[str] = []
    await until_racks(_api(steps), images, heard.append, period_s=0.001)
    assert heard == told


async def test_a_rack_that_cannot_go_on_ends_the_wait_after_its_next_poll() -> None:
    full = rack("attic", "failing", "The disk is full.")
    now = iter(range(0, 100_000, 100))
    with pytest.raises(Failed, match=r"The rack attic cannot go on: The disk is full\."):
        await until_racks(_api([step(full)]), {NOBLE}, lambda _: None, period_s=0.001, clock=lambda: float(next(now)))
    # 360 seconds: longer than the five minutes until its next poll.
    assert 500 <= next(now) <= 900
    # One that gets well in time does not.
    now = iter(range(0, 100_000, 100))
    well = [step(full), step(full), step(rack("attic", "synced"), synced=1)]
    await until_racks(_api(well), {NOBLE}, lambda _: None, period_s=0.001, clock=lambda: float(next(now)))


def _api(steps: Sequence[Any]) -> Api:
    return _Region(steps)  # type: ignore[return-value]


def test_how_long_it_takes() -> None:
    pace = Pace()
    assert pace.left(0.0, 0, 1000) == "", "nobody can tell yet"
    assert pace.left(1.0, 10, 1000) == ""
    assert pace.left(10.0, 100, 1000) == ", about 2 minutes left"
    # The last half minute counts, not how slow it was before.
    assert pace.left(41.0, 100, 1000) == "", "it stands still"
    assert pace.left(60.0, 500, 1000) == ", about 24 seconds left"
    assert pace.left(61.0, 1000, 1000) == ""


def test_the_sum_is_told_beside_the_images() -> None:
    told: list[str] = []
    clock = iter([0.0, 10.0, 20.0])
    lines = Lines(told.append, clock=lambda: next(clock))
    for done in (0, 500_000, 2_000_000):
        each = {"bytes_total": 1_000_000, "bytes_done": done // 2}
        lines.update(
            {
                "id": 1,
                "state": "running",
                "images": {NOBLE: each, "ubuntu:jammy:amd64": each},
                "bytes_done": done,
                "bytes_total": 2_000_000,
            }
        )
    assert [line for line in told if line.startswith("In all")] == [
        "In all: 0%, 0 bytes of 2.0 MB",
        "In all: 25%, 500.0 kB of 2.0 MB, about 30 seconds left",
        "In all: 100%, 2.0 MB of 2.0 MB",
    ]
    alone: list[str] = []
    Lines(alone.append).update({"images": {NOBLE: {"bytes_total": 2, "bytes_done": 1}}, "bytes_total": 2})
    assert len(alone) == 1, "one image needs no sum"
