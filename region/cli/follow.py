"""Watching an import to its end: a bar per image on a terminal, plain lines elsewhere, on stderr both."""

import asyncio
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from region.cli import output, words
from region.cli.client import Api, Item
from region.cli.names import shown
from region.cli.run import ENDED, images_of, waiting_words
from shared.errors import FetchError, HttpStatus

PERIOD_S = 0.25
PATIENCE_S = 60.0
"""How long a region may be away, as it is while it restarts, before nobody watches it any longer."""


class Watcher(Protocol):
    """What is told how far an import is, again and again until it has ended."""

    def update(self, run: Item) -> None:
        """Show this state of it."""


async def follow(api: Api, import_id: int, watcher: Watcher, *, period_s: float = PERIOD_S) -> Item:
    """The import once it has ended, however it did. Raises FetchError when the region stays away."""
    away_s = 0.0
    while True:
        try:
            run = await api.get("imports", str(import_id))
        except FetchError as error:
            if (isinstance(error, HttpStatus) and error.status < 500) or away_s >= PATIENCE_S:
                raise
            away_s += period_s
        else:
            away_s = 0.0
            watcher.update(run)
            if run.get("state") in ENDED:
                return run
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
    """A line when an image begins, at each further quarter, and when it is whole or has failed."""

    def __init__(self, tell: Callable[[str], None]) -> None:
        self._tell = tell
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

    def _once(self, key: str, state: object, line: str) -> None:
        if self._told.get(key) != state:
            self._told[key] = state
            self._tell(line)
