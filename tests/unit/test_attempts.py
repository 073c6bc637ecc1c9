"""Failed log-ins, counted."""

import pytest

from region.people.attempts import ATTEMPTS, ATTEMPTS_WINDOW_S, MAX_ADDRESSES, Attempts
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


def test_the_memory_of_addresses_is_bounded() -> None:
    attempts = Attempts()
    for number in range(MAX_ADDRESSES * 2 + 10):
        attempts.require_another(f"tried {number}", now=0.0)
        attempts.note_failed(f"failed {number}", now=0.0)
    assert len(vars(attempts)["_failed"]) <= MAX_ADDRESSES
