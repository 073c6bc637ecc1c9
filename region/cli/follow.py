"""Watching an import to its end: a bar per image on a terminal, plain lines elsewhere, on stderr both."""

import asyncio
import time
from collections.abc import Awaitable, Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from typing import Protocol, TypeVar

from region.cli import output, words
from region.cli.client import Api, Item
from region.cli.exits import Failed
from region.cli.names import shown
from region.cli.run import ENDED, IN_ALL, Pace, images_of, waiting_words
from region.cli.session import WHOLE_PAGE
from shared.errors import FetchError, HttpStatus

PERIOD_S = 0.25
RACKS_PERIOD_S = 2.0
STUCK = frozenset({"ahead", "waiting_for_operator", "failing"})
"""Statuses in which a rack takes nothing new until something is done."""

STUCK_S = 360.0
"""A rack that failed tries again at its next poll, within five minutes; one that still fails after this is told of."""

PATIENCE_S = 60.0
"""How long a region may be away, as it is while it restarts, before nobody watches it any longer."""


AnswerT = TypeVar("AnswerT")


class Watcher(Protocol):
    """What is told how far an import is, again and again until it has ended."""

    def update(self, run: Item) -> None:
        """Show this state of it."""


async def follow(api: Api, import_id: int, watcher: Watcher, *, period_s: float = PERIOD_S) -> Item:
    """The import once it has ended, however it did. Raises FetchError when the region stays away."""
    while True:
        run = await _answer(lambda: api.get("imports", str(import_id)), period_s)
        watcher.update(run)
        if run.get("state") in ENDED:
            return run
        await asyncio.sleep(period_s)


async def until_racks(
    api: Api,
    images: Collection[str],
    tell: Callable[[str], None],
    *,
    period_s: float = RACKS_PERIOD_S,
    clock: Callable[[], float] = time.monotonic,
) -> None:
    """Every live rack shows these images when this returns, or all of the manifest where none is named.

    A rack that is not live is not waited for: it takes them when it is back. Raises FetchError when the region stays
    away; Failed when a rack that lacks them cannot go on, for longer than until its next poll.
    """
    told, stuck_since = "", dict[str, float]()
    while True:
        racks = await _answer(lambda: api.list("racks", limit=WHOLE_PAGE), period_s)
        shown = await _answer(lambda: api.list("images"), period_s)
        live = [rack for rack in racks if rack.get("status") not in ("never_seen", "unreachable")]
        lacking = len(live) - _racks_that_show(live, [item for item in shown if item.get("id") in images])
        line = (
            f"{len(live) - lacking} of {words.counted(len(live), 'live rack')} show{'s' if len(live) == 1 else ''} it."
        )
        if line != told:
            tell(line if live else "No rack is live; those that are enrolled take it when they are back.")
            told = line
        if not lacking:
            return
        stuck = {str(rack.get("name")): rack for rack in live if rack.get("status") in STUCK}
        stuck_since = {name: stuck_since.get(name, clock()) for name in stuck}
        for name, since in stuck_since.items():
            if clock() - since >= STUCK_S:
                raise Failed("rack_failing", f"The rack {name} cannot go on: {stuck[name].get('last_error')}")
        await asyncio.sleep(period_s)


def _racks_that_show(live: Sequence[Item], images: Sequence[Item]) -> int:
    """How many of the live racks show all of these images; of the manifest, where there is none of them."""
    if not images:
        return sum(rack.get("status") == "synced" for rack in live)
    return min(len(live), *(int(item.get("racks_synced") or 0) for item in images))


async def _answer(ask: Callable[[], Awaitable[AnswerT]], period_s: float) -> AnswerT:
    """What the region answers; one that is away is asked again for some time. Raises FetchError when it stays away."""
    away_s = 0.0
    while True:
        try:
            return await ask()
        except FetchError as error:
            if (isinstance(error, HttpStatus) and error.status < 500) or away_s >= PATIENCE_S:
                raise
            away_s += period_s
        await asyncio.sleep(period_s)


@contextmanager
def watcher() -> Iterator[Watcher]:
    """Bars where stderr is a terminal that can draw them, lines elsewhere."""
    console = output.console(stderr=True)
    if not console.is_terminal or console.is_dumb_terminal:
        yield Lines(output.note)
        return
    from region.cli.bars import bars

    with bars(console) as drawn:
        yield drawn


class Lines:
    """A line when an image begins, at each further quarter, and when it is whole or has failed; so for all in all."""

    def __init__(self, tell: Callable[[str], None], clock: Callable[[], float] = time.monotonic) -> None:
        self._tell, self._clock = tell, clock
        self._pace = Pace()
        self._told: dict[str, object] = {}

    def update(self, run: Item) -> None:
        """Show this state of it."""
        found = images_of(run)
        if not found and run.get("state") not in ENDED:
            self._once("", waiting_words(run), waiting_words(run))
        for image, state in found.items():
            total, done = state.get("bytes_total", 0), state.get("bytes_done", 0)
            if state.get("error"):
                self._once(image, "failed", f"{shown(image)}: failed. {state['error']}")
            elif done >= total:
                self._once(image, "whole", f"{shown(image)}: {words.size(total)}, done")
            else:
                self._once(image, 4 * done // total, f"{shown(image)}: {words.size(done)} of {words.size(total)}")
        if len(found) > 1 and (total := run.get("bytes_total")):
            done = run.get("bytes_done") or 0
            left = self._pace.left(self._clock(), done, total)
            # A state of its own for the first word of how long it takes.
            self._once(IN_ALL, (4 * done // total, bool(left)), f"{IN_ALL}: {words.amount(done, total)}{left}")

    def _once(self, key: str, state: object, line: str) -> None:
        if self._told.get(key) != state:
            self._told[key] = state
            self._tell(line)
