"""Failed log-ins and enrolments, counted in this process, so that nobody can try secrets without end. Pure.

`Attempts` says who may try, `FailedLogIns` what of it is written down: a stranger must not fill the activity.
"""

from collections import deque
from dataclasses import dataclass

from shared.errors import TooManyAttempts
from shared.networks import address_key

ATTEMPTS = 10
ATTEMPTS_WINDOW_S = 60.0
MAX_ADDRESSES = 10_000


class Attempts:
    """So many failures within ATTEMPTS_WINDOW_S, then no more for a while. `now` counts seconds, monotonically.

    - `per_address` of one address. A network of 64 bits is one address of IPv6: that is what one customer gets.
    - `in_total` of all addresses; None: as many as there are.
    - `what` was tried, in the plural.
    """

    def __init__(self, per_address: int = ATTEMPTS, in_total: int | None = None, what: str = "log-ins") -> None:
        self._per_address, self._in_total, self._what = per_address, in_total, what
        self._failed: dict[str, deque[float]] = {}
        self._all: deque[float] = deque(maxlen=in_total or 1)

    def require_another(self, address: str, now: float) -> None:
        """Raises TooManyAttempts unless this address may try once more."""
        if len(self._all) == self._in_total and self._all[0] > now - ATTEMPTS_WINDOW_S:
            raise TooManyAttempts(_until(self._all[0], now), f"{self._what} failed")
        failed = self._failed.get(address_key(address))
        if failed is None:
            return
        while failed and failed[0] <= now - ATTEMPTS_WINDOW_S:
            failed.popleft()
        if len(failed) >= self._per_address:
            raise TooManyAttempts(_until(failed[0], now), f"{self._what} failed from this address")

    def note_failed(self, address: str, now: float) -> bool:
        """One more attempt from this address has failed. True if that was the last one it had."""
        place = address_key(address)
        # Whoever failed last is remembered longest.
        failed = self._failed.pop(place, deque())
        if len(self._failed) >= MAX_ADDRESSES:
            del self._failed[next(iter(self._failed))]
        self._failed[place] = failed
        failed.append(now)
        self._all.append(now)
        return len(failed) == self._per_address


def _until(first: float, now: float) -> int:
    return int(first + ATTEMPTS_WINDOW_S - now) + 1


TOLD_EVERY_S = 60.0
TOLD_WINDOW_S = 3600.0
TOLD_MOST = 60


@dataclass(frozen=True, slots=True)
class Failed:
    """Failed log-ins to write down: those of one address, and those of `others` that got no row of their own."""

    count: int
    others: int


class FailedLogIns:
    """Which failed log-ins get a row: one in TOLD_EVERY_S for an address, TOLD_MOST in TOLD_WINDOW_S for all together.

    The others are counted, and told with the next row. `now` counts seconds, monotonically.
    """

    def __init__(self) -> None:
        self._untold: dict[str, int] = {}
        self._told_at: dict[str, float] = {}
        self._rows: deque[float] = deque()
        self._others = 0

    def note(self, address: str, now: float, *, is_last: bool = False) -> Failed | None:
        """One more log-in from this address has failed; what to write down of it now, if anything.

        `is_last`: no more are taken from this address for a while, which is worth a row of its own.
        """
        while self._rows and self._rows[0] <= now - TOLD_WINDOW_S:
            self._rows.popleft()
        if len(self._untold) >= MAX_ADDRESSES:
            self._others += sum(self._untold.values())
            self._untold.clear()
            self._told_at.clear()
        place = address_key(address)
        self._untold[place] = self._untold.get(place, 0) + 1
        told_at = self._told_at.get(place)
        is_new = told_at is None or told_at <= now - TOLD_EVERY_S
        if len(self._rows) >= TOLD_MOST or not (is_new or is_last):
            return None
        self._rows.append(now)
        self._told_at[place] = now
        failed = Failed(self._untold.pop(place), self._others)
        self._others = 0
        return failed
