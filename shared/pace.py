"""How slowly bytes may come before they are given up: a rate floor, and what follows from it for a whole file."""

import time
from collections.abc import Callable
from dataclasses import dataclass

from shared.errors import TooSlow


@dataclass(frozen=True, slots=True)
class Pace:
    """A transfer slower than `floor_bytes_per_s` over a whole `window_s` is given up.

    A file as a whole may take as long as it takes at that rate, and `slack_s` more.
    """

    floor_bytes_per_s: int = 16 * 1024
    window_s: float = 30.0
    slack_s: float = 60.0

    def deadline_s(self, size: int) -> float:
        """Seconds within which `size` bytes have come, or never will."""
        return size / self.floor_bytes_per_s + self.slack_s


PACE = Pace()


class Meter:
    """Compares what comes with a pace."""

    def __init__(self, url: str, pace: Pace, clock: Callable[[], float] = time.monotonic) -> None:
        self._url, self._pace, self._clock = url, pace, clock
        self._began, self._size = clock(), 0

    def count(self, size: int) -> None:
        """Take in that `size` more bytes have come. Raises TooSlow."""
        self._size += size
        elapsed = self._clock() - self._began
        if elapsed < self._pace.window_s:
            return
        if self._size / elapsed < self._pace.floor_bytes_per_s:
            raise TooSlow(self._url, self._pace.floor_bytes_per_s)
        self._began, self._size = self._clock(), 0
