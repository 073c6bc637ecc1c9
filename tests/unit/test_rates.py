"""How often something may happen: bursts, what comes back with time, and one address beside all."""

from region.edge.rates import Rate, Rates


def test_so_many_at_once_and_so_many_more_each_second() -> None:
    rates = Rates(Rate(3, 2, burst_of_one_address=100, each_second_of_one_address=100))
    assert [rates.take(f"a{n}", 50.0) for n in range(4)] == [True, True, True, False]
    assert [rates.take("b", now) for now in (50.4, 50.5, 50.9, 51.0)] == [False, True, False, True]
    # However long nothing happens, no more than a burst.
    assert [rates.take("c", 900.0) for _ in range(4)] == [True, True, True, False]


def test_one_address_has_its_own_and_takes_none_from_the_others() -> None:
    rates = Rates(Rate(4, 0, burst_of_one_address=2, each_second_of_one_address=1))
    assert [rates.take("a", 50.0) for _ in range(4)] == [True, True, False, False]
    assert rates.take("b", 50.0) is True
    assert rates.take("a", 51.0) is True
    assert rates.take("b", 51.0) is False, "four in all"


def test_4096_addresses_are_remembered_the_ones_seen_last() -> None:
    rates = Rates(Rate(100_000, 0, burst_of_one_address=1, each_second_of_one_address=0))
    assert all(rates.take(str(n), 1.0) for n in range(4096))
    assert rates.take("0", 1.0) is False
    assert rates.take("4096", 1.0) is True
    assert [rates.take(name, 1.0) for name in ("0", "2", "1", "0")] == [False, False, True, False]
