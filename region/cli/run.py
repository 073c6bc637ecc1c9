"""One import as the API tells it, read for people."""

from collections.abc import Mapping
from typing import Any

from region.cli.client import Item

ENDED = frozenset({"succeeded", "failed", "cancelled"})
"""The states an import does not leave."""


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
