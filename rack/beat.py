"""Beat: when a rack polls.

- Every five minutes, counted from the start of the process (`shared.promises`), give or take some seconds, so that
  racks which started together do not ask together. Nothing turns this off.
- Soon after the region's event stream hints at a newer manifest, or comes back after a poll has failed (`haste.py`).
- At once when an operator asks, on this machine (SIGHUP, `bootferry-rack poll`) or through that event stream
  (`bootferry rack poll`), or a machine was refused a file that is not as it was verified. What asks during a poll means
  one more, right after it.
- In between, a report that the region did not take is sent again.

Time is counted by a clock that is never set: a machine whose clock is wrong by years polls as any other. Hints are
haste and nothing else: they are unsigned, and without them every promise is kept.
"""

import asyncio
import random
import time
from contextlib import aclosing, suppress

from rack.client import Region
from rack.haste import Haste, Hint
from rack.poll import Poller
from shared.errors import BootferryError, FetchError, SignatureError
from shared.logs import logger
from shared.patience import Patience, asked_s
from shared.promises import POLL_PERIOD
from shared.wire.manifest import Order

PERIOD_S = POLL_PERIOD.total_seconds()
JITTER_S = 15.0
FIRST_POLL_WITHIN_S = 2.0
HINT_PAUSE_S = 0.1
DOUBT_EVERY_S = 10.0
NO_HINT = ((0, 0), False)

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
        haste: Haste | None = None,
        hint_pause_s: float = HINT_PAUSE_S,
    ) -> None:
        self._poller, self._region, self._rng = poller, region, rng
        self._reconnect, self._haste, self._hint_pause_s = reconnect, haste or Haste(), hint_pause_s
        self._asked = False
        self._stir = asyncio.Event()
        self._hinted: tuple[Order, bool] = NO_HINT
        self._last_doubt_s = float("-inf")

    async def run(self) -> None:
        """Poll until cancelled. Partial files stay and are resumed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._keep_time())
            tasks.create_task(self._listen())

    def wake(self) -> None:
        """Poll at once; during a poll, once more right after it."""
        self._asked = True
        self._stir.set()

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
            soonest = min(began + due, self._haste.due_s, self._poller.report_due_s)
            with suppress(TimeoutError):
                await asyncio.wait_for(self._stir.wait(), max(0.0, soonest - loop.time()))
            self._stir.clear()
            now = loop.time()
            if now >= began + due:
                tick, due = next_beat(tick, now - began, self._rng.uniform(-JITTER_S, JITTER_S))
            elif not self._asked and now < self._haste.due_s:
                if now >= self._poller.report_due_s:
                    await self._poller.report_again()
                continue
            self._asked = False
            self._haste.begun(now)
            await self._poller.poll()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            asked = 0.0
            try:
                async with aclosing(self._region.hints()) as hints:
                    fresh = True
                    async for hint in hints:
                        if failures:
                            _log.info("The region's event stream is back.", action="listen")
                        failures = 0
                        if self._worth_asking(hint, fresh=fresh):
                            self._haste.heard(hint, loop.time(), self._rng)
                            self._stir.set()
                        fresh = fresh and hint.asked
                        # However many come, reading them leaves the loop to machines; the others wait in the network.
                        await asyncio.sleep(self._hint_pause_s)
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

    def _worth_asking(self, hint: Hint, *, fresh: bool) -> bool:
        """A newer manifest, or a region that is back after a poll failed, or while one may be failing.

        An operator's wish always is. Each hint counts once: it is unsigned, and whoever can fake it must not make this
        rack poll without end; nor must wishes, which `haste.py` limits.
        """
        if hint.asked:
            return True
        if fresh:
            self._hinted = NO_HINT
        heard = (hint.order, hint.last)
        newer = hint.order > self._poller.floor and heard > self._hinted
        self._hinted = max(heard, self._hinted)
        failed = isinstance(self._poller.belief.last_error, FetchError | SignatureError)
        return newer or (fresh and (failed or self._poller.busy))
