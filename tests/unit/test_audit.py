"""The daily reading: each file once a day, whoever reads, however unsteadily."""

from collections import Counter
from datetime import UTC, datetime, timedelta, timezone

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.audit import SLICE_S, due_since
from shared.digest import Sha256
from tests.turns import slice_of_day

DAY = timedelta(days=1)
MIDNIGHT = datetime(2026, 7, 1, tzinfo=UTC)
FILES = [Sha256.of(str(number).encode()) for number in range(2000)]


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(MIDNIGHT, id="from-midnight"),
        pytest.param(MIDNIGHT + timedelta(hours=13, seconds=77), id="from-the-afternoon"),
        pytest.param(datetime(2026, 3, 29, tzinfo=timezone(timedelta(hours=5, minutes=45))), id="from-elsewhere"),
    ],
)
def test_each_file_comes_up_exactly_once_a_day(start: datetime) -> None:
    turns = [start + timedelta(seconds=SLICE_S) * turn for turn in range(DAY // timedelta(seconds=SLICE_S))]
    slices = [slice_of_day(FILES, now) for now in turns]
    assert Counter(sha256 for found in slices for sha256 in found) == Counter(FILES)
    assert max(map(len, slices)) < 5 * len(FILES) / len(turns)


@given(st.integers(0, 2**32), st.integers(0, SLICE_S - 1), st.integers(-5, 5))
def test_a_slice_is_the_same_all_through_its_five_minutes_and_every_day(turn: int, seconds: int, days: int) -> None:
    began = datetime.fromtimestamp(turn // SLICE_S * SLICE_S, UTC)
    some = FILES[:50]
    assert slice_of_day(some, began) == slice_of_day(some, began + timedelta(seconds=seconds) + days * DAY)


def test_the_first_audit_reads_the_slice_of_its_time() -> None:
    assert due_since(FILES, None, MIDNIGHT) == slice_of_day(FILES, MIDNIGHT)


@given(st.lists(st.integers(1, 3000), min_size=1, max_size=60))
def test_audits_at_any_times_leave_no_slice_out_and_read_none_twice(pauses_s: list[int]) -> None:
    some, now = FILES[:300], MIDNIGHT
    read = Counter(due_since(some, None, now))
    began = last = now
    for pause_s in pauses_s:
        last, now = now, now + timedelta(seconds=pause_s)
        read.update(due_since(some, last, now))
    turns = range(int(began.timestamp()) // SLICE_S, int(now.timestamp()) // SLICE_S + 1)
    asked = Counter(
        sha256 for turn in turns for sha256 in slice_of_day(some, datetime.fromtimestamp(turn * SLICE_S, UTC))
    )
    assert read == asked


def test_after_a_long_sleep_everything_is_read_once_and_at_the_same_moment_nothing() -> None:
    assert due_since(FILES, MIDNIGHT - timedelta(days=30), MIDNIGHT) == set(FILES)
    assert due_since(FILES, MIDNIGHT, MIDNIGHT) == set()
    assert due_since(FILES, MIDNIGHT + DAY, MIDNIGHT) == set()
