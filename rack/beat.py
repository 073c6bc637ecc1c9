"""Beat: when a rack polls.

- Every five minutes, counted from the start of the process (`shared.promises`), give or take some seconds, so that
  racks which started together do not ask together. Nothing turns this off.
- Soon after the region's event stream hints at a newer manifest, or comes back after a poll has failed.
- At once when an operator asks (SIGHUP, `bootferry-rack poll`), or a machine was refused a file that is not as it was
  verified. What asks during a poll means one more, right after it.

Hints are haste and nothing else: they are unsigned, and without them every promise is kept.
"""

import asyncio
import random
import time
from contextlib import aclosing

from rack.client import Region
from rack.poll import Poller
from shared.errors import BootferryError, FetchError, SignatureError
from shared.logs import logger
from shared.patience import Patience, asked_s
from shared.promises import POLL_PERIOD

PERIOD_S = POLL_PERIOD.total_seconds()
JITTER_S = 15.0
FIRST_POLL_WITHIN_S = 2.0
HINT_WITHIN_S = 2.0
DOUBT_EVERY_S = 10.0

_log = logger(__name__)


def next_beat(tick: int, elapsed_s: float, jitter_s: float) -> tuple[int, float]:
    """The tick after `tick` and when it is due, in seconds since the process began, `elapsed_s` of which are over.

    Ticks stay on the grid of whole periods, so jitter never adds up; those that a long poll has slept through are one.
    """
    following = max(tick + 1, int(elapsed_s // PERIOD_S))
    return following, following * PERIOD_S + jitter_s


class Beat:
    """The beat of one rack's `poller`."""

    def __init__(
        self,
        poller: Poller,
        region: Region,
        *,
        rng: random.Random,
        reconnect: Patience = Patience(most_s=60.0),  # noqa: B008 - frozen
        hint_within_s: float = HINT_WITHIN_S,
    ) -> None:
        self._poller, self._region, self._rng = poller, region, rng
        self._reconnect, self._hint_within_s = reconnect, hint_within_s
        self._wake = asyncio.Event()
        self._hinted = (0, 0)
        self._last_doubt_s = float("-inf")

    async def run(self) -> None:
        """Poll until cancelled. Partial files stay and are resumed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_time())
            tasks.create_task(self._listen())

    def wake(self) -> None:
        """Poll at once; during a poll, once more right after it."""
        self._wake.set()

    def doubt(self) -> None:
        """A machine asked for something that is not as it was verified: look soon, but not for every request."""
        if time.monotonic() - self._last_doubt_s >= DOUBT_EVERY_S:
            self._last_doubt_s = time.monotonic()
            self.wake()

    async def _keep_time(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        tick, due = 0, self._rng.uniform(0, FIRST_POLL_WITHIN_S)
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, began + due - loop.time()))
            except TimeoutError:
                tick, due = next_beat(tick, loop.time() - began, self._rng.uniform(-JITTER_S, JITTER_S))
            self._wake.clear()
            await self._poller.poll()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            asked = 0.0
            try:
                async with aclosing(self._region.hints()) as hints:
                    fresh = True
                    async for order in hints:
                        if failures:
                            _log.info("The region's event stream is back.", action="listen")
                        failures = 0
                        if self._worth_asking(order, fresh=fresh):
                            loop.call_later(self._rng.uniform(0, self._hint_within_s), self.wake)
                        fresh = False
                why = "it ended"
            except BootferryError as error:
                # Nobody signs what it asks: no longer than until the next poll.
                why, asked = str(error), min(asked_s(error), PERIOD_S)
            except Exception as error:
                # Haste is all this task gives; no mistake in it may end the process (I4).
                why = repr(error)
            if not failures:
                _log.info(
                    "The region's event stream is cut; polling every five minutes goes on.", action="listen", why=why
                )
            failures += 1
            await asyncio.sleep(max(asked, self._reconnect.pause_s(failures, self._rng)))

    def _worth_asking(self, order: tuple[int, int], *, fresh: bool) -> bool:
        """A newer manifest, or a region that is back after a poll failed, or while one may be failing.

        Each hint counts once: it is unsigned, and whoever can fake it must not make this rack poll without end.
        """
        if fresh:
            self._hinted = (0, 0)
        newer = order > max(self._poller.floor, self._hinted)
        self._hinted = max(order, self._hinted)
        failed = isinstance(self._poller.belief.last_error, FetchError | SignatureError)
        return newer or (fresh and (failed or self._poller.busy))
