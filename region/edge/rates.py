"""How often something may happen: so many at once, and so many more in each second, in all and for one address."""

from collections import OrderedDict
from dataclasses import dataclass

_MAX_ADDRESSES = 4_096


@dataclass(frozen=True, slots=True)
class Rate:
    """What all may do together, and what one address may."""

    burst: int
    each_second: int
    burst_of_one_address: int
    each_second_of_one_address: int


class Rates:
    """How much of a rate is used up. The addresses seen last are remembered."""

    def __init__(self, rate: Rate) -> None:
        self._rate = rate
        self._all = _Bucket(rate.burst, rate.each_second)
        self._buckets: OrderedDict[str, _Bucket] = OrderedDict()

    def take(self, address: str, now: float) -> bool:
        """One for `address`. True if there was one left. `now` counts seconds, monotonically."""
        bucket = self._buckets.get(address)
        if bucket is None:
            rate = self._rate
            bucket = self._buckets[address] = _Bucket(rate.burst_of_one_address, rate.each_second_of_one_address)
            if len(self._buckets) > _MAX_ADDRESSES:
                self._buckets.popitem(last=False)
        self._buckets.move_to_end(address)
        return bucket.take(now) and self._all.take(now)


class _Bucket:
    """So many at once, and so many more in each second."""

    __slots__ = ("_at", "_each_second", "_left", "_most")

    def __init__(self, most: int, each_second: int) -> None:
        self._most, self._each_second = most, each_second
        self._left, self._at = float(most), 0.0

    def take(self, now: float) -> bool:
        """One of them. True if there was one left."""
        self._left = min(self._most, self._left + (now - self._at) * self._each_second)
        self._at = now
        if self._left < 1:
            return False
        self._left -= 1
        return True
