"""When a rack polls, waits, prunes and reads again: all of it arithmetic over times given."""

import asyncio
import random
from collections.abc import AsyncGenerator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import cast

import pytest

from rack.beat import JITTER_S, PERIOD_S, Beat, next_beat
from rack.client import Region
from rack.configuration import RackConfiguration
from rack.lock import hold, holder
from rack.poll import Poller
from rack.prune import after_grace
from rack.pull import PACE
from rack.state import State
from shared.audit import due_since
from shared.digest import Sha256
from shared.errors import (
    BootferryError,
    Conflict,
    ConnectionLost,
    ConnectionRefused,
    HttpStatus,
    InvalidConfiguration,
    InvalidRequestSignature,
    NoRoom,
    RedirectRefused,
    TooSlow,
    WrongDigest,
    WrongSize,
)
from shared.patience import Patience, is_regions, is_transient, patiently

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)

BEATS = [
    pytest.param(0, 1.5, 0.0, (1, 300.0), id="after-the-first-poll"),
    pytest.param(1, 286.0, 15.0, (2, 615.0), id="an-early-beat-is-not-repeated"),
    pytest.param(1, 315.0, -15.0, (2, 585.0), id="a-late-beat-does-not-move-the-next"),
    pytest.param(1, 1510.0, 0.0, (5, 1500.0), id="beats-slept-through-are-one"),
]


@pytest.mark.parametrize(("tick", "elapsed_s", "jitter_s", "expected"), BEATS)
def test_the_next_beat(tick: int, elapsed_s: float, jitter_s: float, expected: tuple[int, float]) -> None:
    assert next_beat(tick, elapsed_s, jitter_s) == expected


def test_a_day_of_beats_keeps_the_promise() -> None:
    rng, tick, due, beats = random.Random(1), 0, 0.0, []
    for _ in range(288):
        tick, due = next_beat(tick, due, rng.uniform(-JITTER_S, JITTER_S))
        beats.append(due)
    assert all(abs(beat - number * PERIOD_S) <= JITTER_S for number, beat in enumerate(beats, start=1))


HOUR = 3600.0
GRACES = [
    pytest.param({"a"}, {}, 100.0, (set(), {"a": 100.0}), id="first-seen-unwanted"),
    pytest.param({"a"}, {"a": 100.0}, 100.0 + HOUR - 1, (set(), {"a": 100.0}), id="within-the-grace"),
    pytest.param({"a"}, {"a": 100.0}, 100.0 + HOUR, ({"a"}, {}), id="after-the-grace"),
    pytest.param(set(), {"a": 100.0}, 9e9, (set(), {}), id="wanted-again-is-forgotten"),
    pytest.param({"a", "b"}, {"a": 0.0}, HOUR, ({"a"}, {"b": HOUR}), id="each-for-itself"),
    pytest.param({"a"}, {"a": 9e9}, 100.0, (set(), {"a": 100.0}), id="a-clock-set-back-begins-anew"),
]


@pytest.mark.parametrize(("unwanted", "since", "now", "expected"), GRACES)
def test_grace(
    unwanted: set[str], since: dict[str, float], now: float, expected: tuple[set[str], dict[str, float]]
) -> None:
    assert after_grace(unwanted, since, now, HOUR) == expected


def test_no_grace_is_now() -> None:
    assert after_grace({"a"}, {}, 5.0, 0.0) == ({"a"}, {})


def test_every_file_is_read_once_a_day_however_unsteady_the_polls() -> None:
    files = {Sha256.of(str(number).encode()) for number in range(500)}
    rng, now = random.Random(2), NOW
    read: list[Sha256] = []
    last: datetime | None = None
    while now < NOW + timedelta(days=1):
        read += due_since(files, last, now)
        last, now = now, now + timedelta(seconds=rng.choice([5, 285, 315, 900]))
    read += due_since(files, last, NOW + timedelta(days=1) - timedelta(seconds=1))
    assert sorted(read) == sorted(files)


def test_after_a_long_sleep_everything_is_read_once() -> None:
    files = {Sha256.of(str(number).encode()) for number in range(500)}
    assert due_since(files, NOW - timedelta(days=30), NOW) == files
    assert due_since(files, NOW, NOW) == set()


ERRORS: list[object] = [
    pytest.param(ConnectionLost("u", "x"), True, False, id="lost"),
    pytest.param(TooSlow("u", 1), True, False, id="slow"),
    pytest.param(ConnectionRefused("u"), True, True, id="refused"),
    pytest.param(HttpStatus("u", 503), True, True, id="503"),
    pytest.param(HttpStatus("u", 500), True, False, id="500"),
    pytest.param(HttpStatus("u", 429), True, True, id="429"),
    pytest.param(HttpStatus("u", 404), False, False, id="404"),
    pytest.param(WrongDigest("u", "a", "b"), False, False, id="wrong-digest"),
    pytest.param(WrongSize("u", 1, 2), False, False, id="wrong-size"),
    pytest.param(RedirectRefused("u", "v", "x"), False, False, id="redirect"),
    pytest.param(InvalidRequestSignature("x"), False, True, id="not-known-any-more"),
    pytest.param(NoRoom("/", 1, 0), False, False, id="disk-full"),
]


@pytest.mark.parametrize(("error", "transient", "regions"), ERRORS)
def test_which_faults_pass_and_whose_they_are(error: BootferryError, transient: bool, regions: bool) -> None:
    assert (is_transient(error), is_regions(error)) == (transient, regions)


def test_pauses_double_up_to_a_limit_and_differ() -> None:
    patience, rng = Patience(first_s=1, most_s=60), random.Random(3)
    pauses = [patience.pause_s(failures, rng) for failures in range(1, 100)]
    limits = [min(60.0, 2.0**number) for number in range(99)]
    assert all(limit / 2 <= pause <= limit for pause, limit in zip(pauses, limits, strict=True))
    assert len(set(pauses)) == len(pauses)


ASKED = [
    pytest.param(0.0, 2, [1.0], id="not-asked"),
    pytest.param(0.25, 2, [1.0], id="asked-for-less-than-the-own-pause"),
    pytest.param(20.0, 2, [20.0], id="asked-for-more"),
    pytest.param(31.0, 1, [], id="asked-for-longer-than-patience-lasts"),
]


@pytest.mark.parametrize(("asked_s", "attempts", "pauses"), ASKED)
async def test_who_answers_retry_after_is_not_asked_before(
    monkeypatch: pytest.MonkeyPatch, asked_s: float, attempts: int, pauses: list[float]
) -> None:
    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)

    async def attempt() -> str:
        tried.append(None)
        raise HttpStatus("u", 503, retry_after=asked_s)

    monkeypatch.setattr("shared.patience.asyncio.sleep", sleep)
    tried: list[None] = []
    with pytest.raises(HttpStatus):
        await patiently(attempt, Patience(attempts=2, first_s=1.0), Steady())
    assert (len(tried), slept) == (attempts, pauses)


WAITS = [
    pytest.param(ConnectionLost("u", "x"), 1, 1.0, id="a-fault-that-passes"),
    pytest.param(ConnectionLost("u", "x"), 3, 4.0, id="for-the-third-time"),
    pytest.param(ConnectionLost("u", "x"), 4, None, id="for-the-last-time"),
    pytest.param(HttpStatus("u", 429, retry_after=30.0), 1, 30.0, id="asked-for-as-long-as-patience-lasts"),
    pytest.param(HttpStatus("u", 503, retry_after=30.5), 1, None, id="asked-for-longer"),
    pytest.param(HttpStatus("u", 404, retry_after=1.0), 1, None, id="a-fault-that-stays"),
    pytest.param(WrongDigest("u", "a", "b"), 1, None, id="wrong-bytes"),
]


@pytest.mark.parametrize(("error", "failures", "wait_s"), WAITS)
def test_how_long_to_wait_for_the_next_try(error: BootferryError, failures: int, wait_s: float | None) -> None:
    patience = Patience(attempts=4, first_s=1.0, most_s=10.0, asked_most_s=30.0)
    assert patience.wait_s(error, failures, Steady()) == wait_s


@pytest.mark.parametrize(
    ("asked_s", "pauses"), [(3.0, [3.0, 3.0, 4.0, 8.0]), (999_999_999.0, [300.0, 300.0, 300.0, 300.0])]
)
async def test_a_busy_region_is_left_alone_by_its_listeners(
    monkeypatch: pytest.MonkeyPatch, asked_s: float, pauses: list[float]
) -> None:
    """The event stream comes again when the region said, or with the own growing pause where that is longer."""

    class Busy:
        async def hints(self) -> AsyncGenerator[tuple[int, int], None]:
            for order in list[tuple[int, int]]():
                yield order
            raise HttpStatus("u", 503, retry_after=asked_s)

    slept: list[float] = []

    async def sleep(seconds: float) -> None:
        slept.append(seconds)
        if len(slept) == 4:
            raise asyncio.CancelledError

    monkeypatch.setattr("rack.beat.asyncio.sleep", sleep)
    beat = Beat(cast(Poller, None), cast(Region, Busy()), rng=Steady(), reconnect=Patience(first_s=1.0))
    with pytest.raises(asyncio.CancelledError):
        await beat._listen()
    assert slept == pauses


def test_a_rack_takes_what_a_region_that_many_ask_can_spare() -> None:
    assert (PACE.floor_bytes_per_s, PACE.window_s, PACE.slack_s) == (1024, 30, 60)


class Steady(random.Random):
    """No jitter."""

    def uniform(self, a: float, b: float) -> float:
        return b


def test_the_state_comes_back_and_a_spoilt_one_is_a_fresh_one(tmp_path: Path) -> None:
    state = State(
        "region", (1, 2), 3, {"file:a": 4.0}, 5.0, "code", "sentence", "3c" * 32, {"a:b:c": ("no_room", "It is full.")}
    )
    state.save(tmp_path)
    assert State.load(tmp_path) == state
    for text in ("", "[]", "{}", '{"floor": 1}'):
        (tmp_path / "state.json").write_text(text)
        assert State.load(tmp_path) == State()
    (tmp_path / "state.json").unlink()
    assert State.load(tmp_path) == State()


def test_a_state_of_before_keeps_its_floor(tmp_path: Path) -> None:
    (tmp_path / "state.json").write_text(
        '{"region": "3c3c", "floor": [7, 2], "sequence": 3, "unwanted": {"file:a": 4.0}, "last_poll_at": null,'
        ' "error_code": "", "error": ""}'
    )
    assert State.load(tmp_path) == State("3c3c", (7, 2), 3, {"file:a": 4.0})


def test_one_process_works_in_a_data_directory(tmp_path: Path) -> None:
    path = tmp_path / "data" / "lock"
    assert holder(path) is None
    with hold(path):
        assert holder(path) is not None
        with pytest.raises(Conflict, match="RACK_DATA_DIR"), hold(path):
            pass
    assert holder(path) is None


def test_settings_come_from_the_environment_and_then_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOTFERRY_CONFIG_DIR", str(tmp_path))
    assert RackConfiguration.load() == RackConfiguration.model_construct(
        **{name: field.default for name, field in RackConfiguration.model_fields.items()}
    )
    (tmp_path / "rack.toml").write_text('port = 1234\nproxy = "http://proxy:3128"\nparallel_downloads = 2\n')
    monkeypatch.setenv("RACK_PORT", "4321")
    settings = RackConfiguration.load()
    assert (settings.port, settings.proxy, settings.parallel_downloads) == (4321, "http://proxy:3128", 2)
    (tmp_path / "rack.toml").write_text("period_seconds = 60\n")
    with pytest.raises(InvalidConfiguration, match="period_seconds"):
        RackConfiguration.load()
