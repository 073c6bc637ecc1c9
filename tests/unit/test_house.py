"""Who has to leave a house that is full: the rules by themselves, without connections."""

import ipaddress
import resource
from collections.abc import Callable

import pytest
import structlog.testing

from region.edge.house import House, HouseLimits, Visitor, raise_open_files
from region.edge.rates import Rate, Rates
from shared.networks import address_key, within

PROXY = ipaddress.ip_network("10.0.0.0/8")


class Door:
    """Lets visitors into a house, and notes who had to go, in that order."""

    def __init__(self, connections: int = 100, of_one_address: int = 100, held_bytes: int = 1000) -> None:
        self.house = House(HouseLimits(connections, of_one_address, held_bytes), [PROXY])
        self.gone: list[str] = []

    def let_in(self, name: str, host: str = "192.0.2.1") -> Visitor:
        return self.house.enter(host, self._closing(name))

    def _closing(self, name: str) -> Callable[[], None]:
        return lambda: self.gone.append(name)


def test_so_many_strangers_and_bytes_unless_told_otherwise() -> None:
    limits = HouseLimits()
    assert (limits.connections, limits.of_one_address, limits.held_bytes) == (2_000, 1_500, 4 * 1024 * 1024)


def test_a_full_house_closes_who_was_silent_longest_to_the_connection() -> None:
    door = Door(connections=2)
    first, _ = door.let_in("first"), door.let_in("second")
    assert door.gone == []
    first.is_busy()
    first.is_silent()  # it was answered: it is silent since now
    door.let_in("third")
    assert door.gone == ["second"]
    door.let_in("fourth")
    assert door.gone == ["second", "first"]
    assert (door.house.strangers, door.house.closed) == (2, {"connections": 2})


def test_who_says_it_is_silent_twice_is_silent_since_the_first_time() -> None:
    door = Door(connections=2)
    first, _ = door.let_in("first"), door.let_in("second")
    first.is_silent()
    door.let_in("third")
    assert door.gone == ["first"]


def test_who_is_answered_stays_and_the_newcomer_too() -> None:
    door = Door(connections=2)
    for name in ("first", "second"):
        door.let_in(name).is_busy()
    door.let_in("third")
    assert (door.gone, door.house.strangers) == ([], 3)
    assert door.house.closed == {}


def test_one_address_has_its_own_limit_and_closes_nobody_elses() -> None:
    door = Door(of_one_address=2)
    door.let_in("other", "192.0.2.2")
    busy = door.let_in("busy")
    busy.is_busy()
    for name in ("first", "second", "third"):
        door.let_in(name)
    assert door.gone == ["first", "second"]
    assert door.house.closed == {"address": 2}
    busy.is_silent()
    door.let_in("fourth")
    assert door.gone == ["first", "second", "third"]


def test_what_comes_through_a_proxy_counts_in_the_total_alone() -> None:
    door = Door(connections=3, of_one_address=1)
    for name in ("first", "second", "third"):
        door.let_in(name, "10.0.0.1")
    assert door.gone == []
    door.let_in("fourth", "10.0.0.1")
    assert door.gone == ["first"]


def test_who_is_known_counts_no_more_nor_is_closed() -> None:
    door = Door(connections=1, of_one_address=1)
    known = door.let_in("known")
    known.is_known()
    assert door.house.strangers == 0
    for told in (known.is_silent, known.is_busy, known.is_silent, known.is_known):
        told()
    known.holds(5000)
    door.let_in("stranger")
    assert (door.gone, door.house.strangers) == ([], 1)


def test_bytes_of_heads_close_who_holds_some_longest_whoever_it_is() -> None:
    door = Door(held_bytes=1000)
    first, second, third = (door.let_in(name) for name in ("first", "second", "third"))
    first.holds(300)
    second.holds(400)
    first.holds(600)
    assert door.gone == []
    third.holds(1)
    assert door.gone == ["first"]
    assert door.house.closed == {"bytes": 1}
    second.holds(0)
    third.holds(1000)
    assert door.gone == ["first"]
    second.holds(1)
    assert door.gone == ["first", "third"]
    second.holds(1001)
    assert door.gone == ["first", "third", "second"]
    assert door.house.strangers == 0


def test_as_many_go_as_it_takes() -> None:
    door = Door(held_bytes=1000)
    first, second, third = (door.let_in(name) for name in ("first", "second", "third"))
    first.holds(500)
    second.holds(500)
    third.holds(900)
    assert door.gone == ["first", "second"]


def test_a_house_without_wishes_has_limits_and_its_visitors_say_what_they_do() -> None:
    visitor = House().enter("192.0.2.1", lambda: None)
    silent = [visitor.silent]
    for act in (visitor.is_busy, visitor.is_silent):
        act()
        silent.append(visitor.silent)
    assert silent == [True, False, True]


def test_who_leaves_takes_its_bytes_along() -> None:
    door = Door(held_bytes=1000)
    first, second = door.let_in("first"), door.let_in("second")
    first.holds(1000)
    door.house.leave(first)
    door.house.leave(first)
    assert door.house.strangers == 1
    second.holds(1000)
    assert door.gone == []


def test_an_address_that_left_is_forgotten_and_may_come_again() -> None:
    door = Door(of_one_address=1)
    for number in range(3):
        door.house.leave(door.let_in(str(number)))
    assert door.gone == []
    assert (door.house._at, door.house._silent_at, door.house._silent) == ({}, {}, {})


def test_a_full_house_is_told_once_a_minute(monkeypatch: pytest.MonkeyPatch) -> None:
    now_s = [0.0]
    monkeypatch.setattr("region.edge.house.time.monotonic", lambda: now_s[0])
    door = Door(connections=1)
    door.let_in("first")
    with structlog.testing.capture_logs() as told:
        door.let_in("second")
        now_s[0] = 59.0
        door.let_in("third", "10.0.0.1")
        now_s[0] = 60.0
        door.let_in("fourth")
    assert [(line["limit"], line["client"], line["strangers"]) for line in told] == [
        ("connections", "192.0.2.1", 1),
        ("connections", "a proxy's", 1),
    ]
    assert len(door.gone) == 3


@pytest.mark.parametrize(
    ("soft", "hard", "granted", "raised"),
    [
        (1024, 4096, True, 4096),
        (1024, 4096, False, 1024),
        (4096, 4096, True, 4096),
        (resource.RLIM_INFINITY, resource.RLIM_INFINITY, True, 2**20),
    ],
)
def test_a_process_raises_its_limit_of_open_files_as_far_as_it_may(
    monkeypatch: pytest.MonkeyPatch, soft: int, hard: int, granted: bool, raised: int
) -> None:
    limits, asked = [(soft, hard)], list[tuple[int, int]]()

    def setrlimit(what: int, wanted: tuple[int, int]) -> None:
        assert what == resource.RLIMIT_NOFILE
        asked.append(wanted)
        if not granted:
            raise ValueError("not allowed to raise maximum limit")
        limits[0] = wanted

    monkeypatch.setattr("region.edge.house.resource.getrlimit", lambda _what: limits[0])
    monkeypatch.setattr("region.edge.house.resource.setrlimit", setrlimit)
    assert raise_open_files() == raised
    assert asked == ([(hard, hard)] if soft != hard else [])


@pytest.mark.parametrize(
    ("host", "key"),
    [
        ("192.0.2.1", "192.0.2.1"),
        ("::ffff:192.0.2.1", "192.0.2.1"),
        ("2001:db8:1:2:3:4:5:6", "2001:db8:1:2::/64"),
        ("fe80::1%eth0", "fe80::/64"),
        ("", ""),
        ("unix", "unix"),
    ],
)
def test_what_counts_as_one_address(host: str, key: str) -> None:
    assert address_key(host) == key


@pytest.mark.parametrize(
    ("host", "expected"),
    [
        ("10.1.2.3", True),
        ("::ffff:10.1.2.3", True),
        ("11.1.2.3", False),
        ("fd00::1", True),
        ("fd00::1%eth0", True),
        ("fe00::1", False),
        ("unix", False),
    ],
)
def test_who_comes_from_a_network(host: str, expected: bool) -> None:
    assert within(host, [PROXY, ipaddress.ip_network("fd00::/8")]) is expected
    assert within(host, []) is False


def test_two_thousand_have_to_go_for_one_that_sends_much() -> None:
    door = Door(connections=3000, of_one_address=3000, held_bytes=4000)
    for number in range(2000):
        door.let_in(str(number)).holds(1)
    large = door.let_in("large")
    large.holds(2000)
    assert door.gone == []
    large.holds(3999)
    assert door.gone == [str(number) for number in range(1999)]
    assert door.house.strangers == 2


def test_so_many_handshakes_unless_told_otherwise() -> None:
    assert HouseLimits().handshakes == Rate(2_000, 200, 1_500, 150)


def test_handshakes_above_their_rate_are_refused_and_a_proxys_have_none() -> None:
    now = 1000.0
    house = House(HouseLimits(handshakes=Rate(3, 2, 2, 1)), [PROXY], lambda: now)
    gone: list[str] = []

    def knock(host: str) -> bool:
        return house.shake_hands(host, lambda: gone.append(host)) is not None

    assert [knock("192.0.2.1") for _ in range(3)] == [True, True, False]
    assert [knock("192.0.2.2") for _ in range(2)] == [True, False], "that was the third of all"
    assert all(knock("10.0.0.1") for _ in range(5))
    assert (house.strangers, house.closed, gone) == (8, {"handshakes": 2}, [])
    now += 1
    assert [knock("192.0.2.1") for _ in range(2)] == [True, False]
    # What is refused at its own address costs the others nothing.
    assert [knock("192.0.2.3") for _ in range(2)] == [True, False]


def test_a_handshake_is_silence_until_it_is_over() -> None:
    house, gone = House(HouseLimits(connections=2)), []
    leave = house.shake_hands("192.0.2.1", lambda: gone.append("first"))
    house.shake_hands("192.0.2.1", lambda: gone.append("second"))
    assert leave is not None
    leave()
    leave()
    assert house.strangers == 1
    for name in ("third", "fourth"):
        house.enter("192.0.2.1", lambda name=name: gone.append(name))  # type: ignore[misc]
    assert gone == ["second"]


def test_of_addresses_the_last_4096_are_remembered() -> None:
    rates = Rates(Rate(10_000, 0, 1, 0))
    assert [rates.take("first", 0.0), rates.take("first", 0.0)] == [True, False]
    assert all(rates.take(str(number), 0.0) for number in range(4_095))
    assert not rates.take("first", 0.0), "asking again, it is the last again"
    assert all(rates.take(f"more-{number}", 0.0) for number in range(4_096))
    assert rates.take("first", 0.0)
