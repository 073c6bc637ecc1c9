"""One import as the API tells it, read for people."""

from collections import deque
from collections.abc import Mapping
from typing import Any

from region.cli import words
from region.cli.client import Item

ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""The states an import does not leave."""


IN_ALL = "In all"
"""How the sum of all images is called."""

WINDOW_S = 30.0
LEAST_S = 2.0


class Pace:
    """How fast bytes come, by what was seen of the last half minute."""

    def __init__(self) -> None:
        self._seen: deque[tuple[float, int]] = deque()

    def left(self, now: float, done: int, total: int) -> str:
        """`, about 3 minutes left`; empty while nobody can tell. `now` is in seconds."""
        self._seen.append((now, done))
        while now - self._seen[0][0] > WINDOW_S:
            self._seen.popleft()
        since, before = self._seen[0]
        if done >= total or done <= before or now - since < LEAST_S:
            return ""
        return f", about {words.span((total - done) * (now - since) / (done - before))} left"


def images_of(run: Item) -> Mapping[str, Mapping[str, Any]]:
    """How far it is with each image, by the image's id."""
    found = run.get("images")
    return dict(sorted(found.items())) if isinstance(found, dict) else {}


def waiting_words(run: Item) -> str:
    """What an import does that has no image to show yet."""
    number = run.get("id")
    if run.get("state") == "queued":
        return f"Import {number} waits for its turn"
    return f"Import {number} reads the sources"
