"""When hints lead to polls, and that nothing which comes from outside takes the five minutes away."""

import asyncio
import random
from collections.abc import AsyncGenerator, Callable

import pytest

from rack.beat import Beat
from rack.client import _hint, _wish
from rack.haste import Haste, Hint
from shared.errors import ConnectionRefused
from tests.dice import Highest

E = 1_789_000_000


class Warped(asyncio.SelectorEventLoop):
    """A loop whose time passes at once when there is nothing to do but wait."""

    def __init__(self) -> None:
        super().__init__()
        self.now_s = 0.0

    def time(self) -> float:
        return self.now_s

    def _run_once(self) -> None:
        if not self._ready and self._scheduled:  # type: ignore[attr-defined]
            # A little more than asked for, as a real clock does: sums of floats must not stand still.
            self.now_s = max(self.now_s, self._scheduled[0].when()) + 1e-6  # type: ignore[attr-defined]
        super()._run_once()  # type: ignore[misc]


class Polls:
    """A poller that only notes when it was asked to poll or to report; each poll takes `takes_s`."""

    def __init__(self, takes_s: float = 1.0) -> None:
        self.at: list[float] = []
        self.reports: list[float] = []
        self.takes_s, self.report_due_s, self.busy = takes_s, float("inf"), False
        self.floor = (E, 0)
        self.belief = type("Belief", (), {"last_error": None})()
        self.then: Callable[[], None] = lambda: None

    async def poll(self) -> None:
        self.at.append(asyncio.get_running_loop().time())
        self.busy = True
        await asyncio.sleep(self.takes_s)
        self.busy = False
        self.then()

    async def report_again(self) -> None:
        self.reports.append(asyncio.get_running_loop().time())
        self.report_due_s = float("inf")


class Hints:
    """A region whose event stream is `script`."""

    def __init__(self, script: Callable[[], AsyncGenerator[Hint, None]]) -> None:
        self.hints = script


def beat_for(seconds: float, polls: Polls, script: Callable[[], AsyncGenerator[Hint, None]]) -> None:
    """Let a rack live for so many seconds."""

    async def live() -> None:
        beat = Beat(polls, Hints(script), rng=random.Random(1))  # type: ignore[arg-type]
        running = asyncio.create_task(beat.run())
        await asyncio.sleep(seconds)
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)

    with asyncio.Runner(loop_factory=Warped) as runner:
        runner.run(live())


def require_grid(at: list[float], until_s: float) -> None:
    """Every five minutes there is a poll within the jitter of 15 seconds, or one under way."""
    for due in range(300, int(until_s) - 300, 300):
        assert any(abs(moment - due) <= 15 for moment in at), (due, [m for m in at if abs(m - due) < 200])


async def silence() -> AsyncGenerator[Hint, None]:
    await asyncio.sleep(10**9)
    yield Hint((E, 0))


async def refused() -> AsyncGenerator[Hint, None]:
    for hint in list[Hint]():
        yield hint
    raise ConnectionRefused("http://region.example:5240/")


def test_a_day_without_its_region_is_a_day_of_polls() -> None:
    polls = Polls()
    beat_for(86_400, polls, refused)
    require_grid(polls.at, 86_400)
    assert 287 <= len(polls.at) <= 290


FLOODS = [
    pytest.param(False, 60 + 12 + 2, id="plain"),
    pytest.param(True, 60 + 4 + 60 + 12 + 2, id="each says that it is the last"),
]


@pytest.mark.parametrize(("last", "most"), FLOODS)
@pytest.mark.timeout(40)
def test_a_flood_of_hints_is_a_poll_a_minute_and_takes_no_beat_away(last: bool, most: int) -> None:
    async def flood() -> AsyncGenerator[Hint, None]:
        for serial in range(1, 10**9):
            yield Hint((E, serial), 0.0, last)

    polls = Polls()
    beat_for(3600, polls, flood)
    require_grid(polls.at, 3600)
    assert 60 <= len(polls.at) <= most


def test_a_stream_that_is_cut_at_once_again_and_again_is_a_poll_a_minute() -> None:
    async def cut() -> AsyncGenerator[Hint, None]:
        yield Hint((E, 0), 0.0, True)

    polls = Polls()
    polls.belief.last_error = ConnectionRefused("http://region.example:5240/")
    beat_for(3600, polls, cut)
    require_grid(polls.at, 3600)
    assert len(polls.at) <= 60 + 4 + 60 + 12 + 2


def test_an_import_is_followed_within_seconds_and_its_last_hint_at_once() -> None:
    async def imported() -> AsyncGenerator[Hint, None]:
        yield Hint((E, 0))
        await asyncio.sleep(100)
        for serial in range(1, 21):
            yield Hint((E, serial), 2.0)
            await asyncio.sleep(1)
        yield Hint((E, 20), 2.0, True)
        await asyncio.sleep(10**9)

    polls = Polls()
    beat_for(290, polls, imported)
    first, last = [moment for moment in polls.at if moment > 10]
    assert 100 <= first <= 102.2
    # The same number again, and word that it is the last.
    assert 120 <= last <= 124.2


def test_a_hint_that_came_too_soon_is_not_forgotten() -> None:
    async def two() -> AsyncGenerator[Hint, None]:
        yield Hint((E, 1), 0.0)
        await asyncio.sleep(10)
        yield Hint((E, 2), 0.0)
        await asyncio.sleep(10**9)

    polls = Polls()
    beat_for(200, polls, two)
    assert polls.at[-1] == pytest.approx(polls.at[-2] + 60, abs=2.1)


def test_thousands_of_racks_ask_over_the_seconds_that_the_hint_says() -> None:
    due = []
    for seed in range(1000):
        haste = Haste()
        haste.heard(Hint((E, 1), 100.0), 50.0, random.Random(seed))
        due.append(haste.due_s)
    assert 50 <= min(due) <= 51
    assert 149 <= max(due) <= 150
    assert all(sum(start <= moment < start + 10 for moment in due) > 50 for start in range(50, 150, 10))


@pytest.mark.parametrize("within_s", [10**9, float("1e300"), -5.0])
def test_no_hint_puts_a_poll_off_for_longer_than_five_minutes(within_s: float) -> None:
    haste = Haste()
    haste.heard(Hint((E, 1), within_s), 50.0, random.Random(1))
    assert 50 <= haste.due_s <= 350


DATA = [
    pytest.param(f'{{"epoch": {E}, "serial": 7}}', Hint((E, 7), 2.0, False), id="of a region of before"),
    pytest.param(
        f'{{"epoch": {E}, "serial": 7, "within_seconds": 40, "last": true, "new": 1}}',
        Hint((E, 7), 40.0, True),
        id="all",
    ),
    pytest.param(f'{{"epoch": {E}, "serial": 7, "within_seconds": 1e999}}', Hint((E, 7), 2.0), id="infinite"),
    pytest.param(f'{{"epoch": {E}, "serial": 7, "within_seconds": NaN}}', Hint((E, 7), 2.0), id="no number"),
    pytest.param(f'{{"epoch": {E}, "serial": 7, "within_seconds": {"9" * 400}}}', None, id="too large"),
    pytest.param(f'{{"epoch": {E}, "serial": 7, "within_seconds": []}}', None, id="a list"),
    pytest.param(f'{{"epoch": {E}, "serial": 7, "last": 1}}', Hint((E, 7)), id="a last that is no truth"),
    pytest.param('{"epoch": 1e999, "serial": 7}', None, id="an infinite epoch"),
    pytest.param('{"serial": 7}', None, id="no epoch"),
    pytest.param("[" * 4000, None, id="deep"),
    pytest.param("7", None, id="a number"),
    pytest.param("", None, id="nothing"),
]


@pytest.mark.parametrize(("data", "expected"), DATA)
def test_what_a_hint_says(data: str, expected: Hint | None) -> None:
    assert _hint(data) == expected


WISHES = [
    pytest.param('{"within_seconds": 0}', 0.0, id="one rack"),
    pytest.param('{"within_seconds": 40}', 40.0, id="all racks"),
    pytest.param("", 2.0, id="nothing said"),
    pytest.param('{"within_seconds": 1e999}', 2.0, id="infinite"),
    pytest.param("[" * 4000, 2.0, id="deep"),
    pytest.param("7", 2.0, id="a number"),
]


@pytest.mark.parametrize(("data", "within_s"), WISHES)
def test_within_how_many_seconds_an_operator_wants_a_poll(data: str, within_s: float) -> None:
    assert _wish(data) == Hint((0, 0), within_s, asked=True)


def test_what_an_operator_asks_for_is_a_poll_although_nothing_is_new() -> None:
    async def asked() -> AsyncGenerator[Hint, None]:
        yield Hint((E, 0))
        await asyncio.sleep(100)
        for _ in range(6):
            yield Hint((0, 0), 0.0, asked=True)
            await asyncio.sleep(2)
        await asyncio.sleep(10**9)

    polls = Polls()
    beat_for(290, polls, asked)
    soon = [round(moment) for moment in polls.at if 99 < moment < 115]
    # Four in a row need not wait; the next one waits until the minute is over.
    assert soon[:4] == [100, 102, 104, 106]
    assert 4 <= len(soon) <= 5
    later = [moment for moment in polls.at if moment > 115]
    assert len(later) == 1
    assert later[0] <= 171


def test_a_wish_takes_the_first_hint_of_a_stream_nothing_away() -> None:
    async def both() -> AsyncGenerator[Hint, None]:
        await asyncio.sleep(100)
        yield Hint((0, 0), 0.0, asked=True)
        await asyncio.sleep(10)
        yield Hint((E, 0), 0.0, last=True)
        await asyncio.sleep(10**9)

    polls = Polls()
    polls.belief.last_error = ConnectionRefused("http://region.example:5240/")
    beat_for(290, polls, both)
    assert [round(moment) for moment in polls.at if moment > 10] == [100, 110]


@pytest.mark.timeout(40)
def test_a_flood_of_wishes_is_a_poll_a_minute_too() -> None:
    async def flood() -> AsyncGenerator[Hint, None]:
        while True:
            yield Hint((0, 0), 0.0, asked=True)

    polls = Polls()
    beat_for(3600, polls, flood)
    require_grid(polls.at, 3600)
    assert 60 <= len(polls.at) <= 60 + 4 + 60 + 12 + 2


def test_a_report_that_is_due_is_sent_between_two_polls_and_is_no_poll() -> None:
    polls = Polls()

    def put_off() -> None:
        polls.report_due_s = asyncio.get_running_loop().time() + 20

    polls.then = put_off
    beat_for(290, polls, silence)
    assert len(polls.at) == 1
    assert polls.reports == [pytest.approx(polls.at[0] + 21, abs=0.01)]


def test_a_long_poll_swallows_beats_and_what_asked_meanwhile_means_one_more() -> None:
    async def hinted() -> AsyncGenerator[Hint, None]:
        for serial in range(1, 1000):
            yield Hint((E, serial), 0.0)
            await asyncio.sleep(1)
        await asyncio.sleep(10**9)

    polls = Polls(takes_s=1000.0)
    beat_for(2500, polls, hinted)
    assert [round(second - first) for first, second in zip(polls.at, polls.at[1:], strict=False)] == [1000, 1000]


def due(haste: Haste, now_s: float, *, within_s: float = 0.0, last: bool = False) -> float:
    """When a poll is due after a hint at `now_s`."""
    haste.heard(Hint((E, 1), within_s, last), now_s, Highest())
    return haste.due_s


def test_a_hint_is_followed_within_the_seconds_it_says_and_two_if_it_says_none() -> None:
    assert due(Haste(), 100.0, within_s=7.0) == 107.0
    haste = Haste()
    haste.heard(Hint((E, 1)), 100.0, Highest())
    assert haste.due_s == 102.0
    assert due(Haste(), 100.0, within_s=-5.0) == 100.0
    assert due(Haste(), 100.0, within_s=301.0) == 400.0


def test_the_next_hint_waits_until_a_minute_after_the_poll_that_one_led_to() -> None:
    haste = Haste()
    assert due(haste, 100.0) == 100.0
    haste.begun(100.0)
    assert haste.due_s == float("inf")
    assert due(haste, 101.0) == 160.0
    assert due(haste, 102.0, within_s=50.0) == 160.0
    haste = Haste()
    due(haste, 100.0)
    haste.begun(100.0)
    haste.heard(Hint((E, 1), 0.0), 101.0, Highest())
    assert haste.due_s == 160.0


def test_a_poll_of_the_five_minutes_answers_a_hint_and_puts_off_none() -> None:
    haste = Haste()
    assert due(haste, 100.0, within_s=9.0) == 109.0
    haste.begun(105.0)
    assert haste.due_s == float("inf")
    assert due(haste, 106.0) == 106.0


def test_four_last_hints_need_not_wait_and_one_more_with_each_minute() -> None:
    haste = Haste()  # its clock begins with 0
    due(haste, 0.0)
    haste.begun(0.0)
    for _ in range(4):
        assert due(haste, 0.0, last=True) == 0.0
        haste.begun(0.0)
    assert due(haste, 59.0, last=True) == 60.0
    haste.begun(59.5)
    assert due(haste, 59.9, last=True) == 60.0
    haste.begun(60.0)
    assert due(haste, 60.0, last=True) == 60.0
    haste.begun(60.0)
    assert due(haste, 61.0, last=True) == 120.0


def test_what_an_operator_asks_for_need_not_wait_either() -> None:
    haste = Haste()
    due(haste, 100.0)
    haste.begun(100.0)
    haste.heard(Hint((0, 0), 0.0, asked=True), 101.0, Highest())
    assert haste.due_s == 101.0


def test_racks_of_one_region_poll_at_moments_all_over_the_seconds_they_have() -> None:
    moments = []
    for seed in range(200):
        haste = Haste()
        haste.heard(Hint((E, 1), 10.0), 100.0, random.Random(seed))
        moments.append(haste.due_s)
    assert 100.0 <= min(moments) < 100.5
    assert 109.5 < max(moments) <= 110.0


def test_a_last_hint_is_spent_on_nothing_that_is_due_already() -> None:
    haste = Haste()
    due(haste, 100.0)
    haste.begun(100.0)
    for _ in range(9):
        assert due(haste, 101.0, last=True) == 101.0
    haste.begun(101.0)
    for now_s in (102.0, 103.0, 104.0):
        assert due(haste, now_s, last=True) == now_s
        haste.begun(now_s)
    assert due(haste, 105.0, last=True) == 164.0
