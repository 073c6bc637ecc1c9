"""Haste: when the region's hints lead to a poll, beside those of every five minutes. Arithmetic over times given.

- By hints a rack polls once a minute at most. A hint that comes sooner waits until the minute is over.
- The last hint of an import need not wait, so that "Synced" follows an import within seconds; nor need what an operator
  asks for. A few of these may follow each other; then they wait as well: hints are unsigned, and whoever can fake them
  must not make a rack poll without end.
- Within how many seconds to ask, the hint says, so that thousands of racks do not ask in one moment; five minutes are
  the most.
- However many hints come, one moment is remembered.
"""

import random
from dataclasses import dataclass
from typing import NamedTuple

from shared.promises import POLL_PERIOD
from shared.wire.manifest import Order

WITHIN_S = 2.0
"""What a region of before, which does not say it, means."""


class Hint(NamedTuple):
    """The region says that its manifest is `order` now; ask within `within_s` seconds. `last`: no import runs.

    `asked`: an operator wants a poll, whatever the manifest is.
    """

    order: Order
    within_s: float = WITHIN_S
    last: bool = False
    asked: bool = False


@dataclass(slots=True)
class Haste:
    """The haste of one rack. Moments are seconds of one clock that is never set."""

    every_s: float = 60.0
    at_once: int = 4
    due_s: float = float("inf")
    """When to poll because of hints; never, if there was none since the last poll began."""
    _polled_s: float = float("-inf")
    _spent: float = 0.0
    _spent_at_s: float = 0.0

    def heard(self, hint: Hint, now_s: float, rng: random.Random) -> None:
        """A hint worth asking came."""
        soonest_s = max(now_s, self._polled_s + self.every_s)
        if (hint.last or hint.asked) and now_s < min(soonest_s, self.due_s) and self._spend(now_s):
            soonest_s = now_s
        spread_s = min(max(hint.within_s, 0.0), POLL_PERIOD.total_seconds())
        self.due_s = min(self.due_s, soonest_s + rng.uniform(0.0, spread_s))

    def begun(self, now_s: float) -> None:
        """A poll begins, whatever for: it answers every hint that has come."""
        if self.due_s <= now_s:
            self._polled_s = now_s
        self.due_s = float("inf")

    def _spend(self, now_s: float) -> bool:
        """True if there is one left of those that need not wait; one comes back with each minute."""
        self._spent = max(0.0, self._spent - (now_s - self._spent_at_s) / self.every_s)
        self._spent_at_s = now_s
        if self._spent + 1 > self.at_once:
            return False
        self._spent += 1
        return True
