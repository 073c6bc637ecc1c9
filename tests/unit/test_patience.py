"""Which failures pass by themselves, which are the region's, and how long to wait: spelled out."""

import random
import time

import pytest

from shared.errors import (
    AddressForbidden,
    BootferryError,
    ConnectionRefused,
    HttpStatus,
    NameNotFound,
    NoRoom,
    ProxyFailed,
    RedirectRefused,
    TimedOut,
    TlsFailed,
    Unauthenticated,
    WrongDigest,
)
from shared.patience import Patience, asked_s, is_regions, is_transient, patiently
from tests.dice import Highest

URL = "http://region.example/"


def test_without_other_wishes_four_tries_within_seconds() -> None:
    patience, dice = Patience(), Highest()
    lost = ConnectionRefused(URL)
    assert [patience.wait_s(lost, failures, dice) for failures in range(1, 5)] == [1.0, 2.0, 4.0, None]
    assert patience.pause_s(5, dice) == 10.0
    assert patience.wait_s(HttpStatus(URL, 503, retry_after=30.0), 1, dice) == 30.0
    assert patience.wait_s(HttpStatus(URL, 503, retry_after=30.1), 1, dice) is None
    assert patience.wait_s(HttpStatus(URL, 404), 1, dice) is None


def test_a_pause_is_at_least_half_of_the_longest() -> None:
    pauses = [Patience().pause_s(1, random.Random(seed)) for seed in range(200)]
    assert 0.5 <= min(pauses) < 0.55
    assert 0.95 < max(pauses) <= 1.0


@pytest.mark.parametrize(
    ("status", "passes", "regions"),
    [
        (400, False, False),
        (401, False, True),
        (402, False, False),
        (403, False, True),
        (404, False, False),
        (407, False, False),
        (408, True, False),
        (409, False, False),
        (410, False, False),
        (424, False, False),
        (425, True, False),
        (426, False, False),
        (429, True, True),
        (430, False, False),
        (499, False, False),
        (500, True, False),
        (501, True, False),
        (502, True, True),
        (503, True, True),
        (504, True, True),
        (505, True, False),
    ],
)
def test_what_a_status_means_for_the_next_try_and_the_next_file(status: int, passes: bool, regions: bool) -> None:
    assert (is_transient(HttpStatus(URL, status)), is_regions(HttpStatus(URL, status))) == (passes, regions)


@pytest.mark.parametrize(
    ("error", "passes", "regions"),
    [
        (ConnectionRefused(URL), True, True),
        (NameNotFound(URL, "region.example"), True, True),
        (TimedOut(URL, 30.0), True, True),
        (ProxyFailed(URL, "no"), True, True),
        (TlsFailed(URL, "no"), False, True),
        (AddressForbidden(URL, "169.254.169.254"), False, True),
        (RedirectRefused(URL, URL, "no"), False, False),
        (WrongDigest(URL, "a", "b"), False, False),
        (NoRoom("/data", 2, 1), False, False),
        (Unauthenticated(), False, True),
    ],
)
def test_what_a_failure_means_for_the_next_try_and_the_next_file(
    error: BootferryError, passes: bool, regions: bool
) -> None:
    assert (is_transient(error), is_regions(error)) == (passes, regions)


def test_who_does_not_say_when_to_come_again_asks_for_no_time() -> None:
    assert asked_s(HttpStatus(URL, 503)) == 0.0
    assert asked_s(HttpStatus(URL, 503, retry_after=7.0)) == 7.0
    assert asked_s(ConnectionRefused(URL)) == 0.0


async def test_the_last_failure_is_raised_and_what_is_no_fetch_at_once() -> None:
    quick, dice = Patience(attempts=3, first_s=0.001), random.Random(1)
    tries: list[BootferryError] = []

    async def fail(error: BootferryError) -> None:
        tries.append(error)
        raise error

    errors = iter([ConnectionRefused(f"{URL}{number}") for number in range(9)])
    with pytest.raises(ConnectionRefused) as last:
        await patiently(lambda: fail(next(errors)), quick, dice)
    assert (len(tries), last.value) == (3, tries[2])
    with pytest.raises(NoRoom):
        await patiently(lambda: fail(NoRoom("/data", 2, 1)), quick, dice)
    assert len(tries) == 4


async def test_what_comes_at_the_second_try_is_given_and_not_before_its_time() -> None:
    answers = iter([HttpStatus(URL, 503, retry_after=0.2), "here"])

    async def attempt() -> object:
        answer = next(answers)
        if isinstance(answer, BootferryError):
            raise answer
        return answer

    began = time.monotonic()
    assert await patiently(attempt, Patience(first_s=0.001), random.Random(1)) == "here"
    assert time.monotonic() - began >= 0.2
