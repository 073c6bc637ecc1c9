"""Failed log-ins, counted."""

import pytest

from region.people.attempts import ATTEMPTS, ATTEMPTS_WINDOW_S, MAX_ADDRESSES, Attempts, Failed, FailedLogIns
from shared.errors import TooManyAttempts

HERE, THERE = "192.0.2.1", "192.0.2.2"


def test_an_address_has_so_many_attempts_in_a_window() -> None:
    attempts = Attempts()
    reached = [attempts.note_failed(HERE, now=float(second)) for second in range(ATTEMPTS)]
    assert reached == [False] * (ATTEMPTS - 1) + [True], "the limit is reached once"
    with pytest.raises(TooManyAttempts) as refused:
        attempts.require_another(HERE, now=9.5)
    assert refused.value.retry_after == ATTEMPTS_WINDOW_S - 9
    attempts.require_another(THERE, now=9.5)
    attempts.require_another(HERE, now=ATTEMPTS_WINDOW_S)


def test_limits_of_attempts() -> None:
    assert (ATTEMPTS, ATTEMPTS_WINDOW_S, MAX_ADDRESSES) == (10, 60.0, 10_000)
    attempts = Attempts()
    for _ in range(10):
        attempts.note_failed(HERE, now=0.0)
    with pytest.raises(TooManyAttempts, match="Too many log-ins failed from this address"):
        attempts.require_another(HERE, now=59.9)
    attempts.require_another(HERE, now=1000.0)  # all are forgotten
    attempts.require_another(HERE, now=1000.0)


def test_where_there_is_no_limit_in_total_nothing_is_remembered_for_it() -> None:
    attempts = Attempts()
    for number in range(100):
        attempts.note_failed(str(number), now=0.0)
    assert len(vars(attempts)["_all"]) == 1
    attempts.require_another(THERE, now=0.0)


def test_the_memory_of_addresses_is_bounded() -> None:
    attempts = Attempts()
    for number in range(MAX_ADDRESSES * 2 + 10):
        attempts.require_another(f"tried {number}", now=0.0)
        attempts.note_failed(f"failed {number}", now=0.0)
    assert len(vars(attempts)["_failed"]) <= MAX_ADDRESSES


def test_who_fails_from_many_addresses_frees_none_that_failed_last() -> None:
    attempts = Attempts()
    for number in range(MAX_ADDRESSES * 2):
        if number % 5_000 == 0:
            for _ in range(10):
                attempts.note_failed(HERE, now=0.0)
        attempts.note_failed(f"failed {number}", now=0.0)
    with pytest.raises(TooManyAttempts):
        attempts.require_another(HERE, now=1.0)


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        pytest.param("2001:db8:1:2::1", "2001:db8:1:2:ffff::9", True, id="one-network-of-64-bits"),
        pytest.param("2001:db8:1:2::1", "2001:db8:1:3::1", False, id="two-networks"),
        pytest.param("::ffff:192.0.2.1", "192.0.2.1", True, id="ipv4-as-ipv6"),
        pytest.param("::ffff:192.0.2.1", "::ffff:192.0.2.2", False, id="two-of-ipv4-as-ipv6"),
        pytest.param("192.0.2.1", "192.0.2.2", False, id="two-of-ipv4"),
    ],
)
def test_a_customers_network_is_one_address(one: str, other: str, same: bool) -> None:
    attempts = Attempts()
    for _ in range(10):
        attempts.note_failed(one, now=0.0)
    if same:
        with pytest.raises(TooManyAttempts, match="from this address"):
            attempts.require_another(other, now=1.0)
    else:
        attempts.require_another(other, now=1.0)


def test_all_addresses_together_have_so_many_attempts() -> None:
    attempts = Attempts(per_address=2, in_total=5, what="enrolments")
    for second in range(5):
        attempts.require_another(HERE, now=float(second))
        attempts.note_failed(f"192.0.2.{second}", now=float(second))
    with pytest.raises(TooManyAttempts, match=r"^Too many enrolments failed; try again in 56 seconds\.$"):
        attempts.require_another(HERE, now=5.0)
    attempts.require_another(HERE, now=60.0)


# --- what is written down ------------------------------------------------------------------------------------------


def test_an_address_gets_one_row_a_minute_that_counts_what_was_not_told() -> None:
    failures = FailedLogIns()
    assert failures.note(HERE, now=0.0) == Failed(1, 0)
    assert [failures.note(HERE, now=float(second)) for second in range(1, 60)] == [None] * 59
    assert failures.note(THERE, now=59.0) == Failed(1, 0)
    assert failures.note(HERE, now=60.0) == Failed(60, 0)


def test_that_no_more_are_taken_is_told_at_once() -> None:
    failures = FailedLogIns()
    failures.note(HERE, now=0.0)
    failures.note(HERE, now=1.0)
    assert failures.note(HERE, now=2.0, is_last=True) == Failed(2, 0)


def test_strangers_cannot_fill_the_activity() -> None:
    failures = FailedLogIns()
    rows = 0
    for number in range(100_000):
        rows += (
            failures.note(
                f"2001:db8:{number >> 16:x}:{number & 0xFFFF:x}::1", now=number / 100, is_last=number % 2 == 0
            )
            is not None
        )
    assert rows == 60, "in an hour, whatever their number"
    assert len(vars(failures)["_untold"]) <= 10_000
    told = failures.note(HERE, now=3600.0)
    assert told is not None
    assert told.others >= 80_000


def test_ten_thousand_addresses_that_got_no_row_are_told_as_others_and_forgotten() -> None:
    failures = FailedLogIns()
    for number in range(59):
        assert failures.note(f"first {number}", now=0.0) == Failed(1, 0)
    assert failures.note(HERE, now=3590.0) == Failed(1, 0)
    for number in range(10_000):
        assert failures.note(f"then {number}", now=3590.0) is None
    # The rows of an hour ago no longer count. HERE had one just now, which is forgotten with the others.
    assert failures.note(HERE, now=3601.0) == Failed(1, 10_000)
    assert failures.note(HERE, now=3602.0) is None
