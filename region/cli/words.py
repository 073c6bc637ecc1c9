"""Sizes, times and counts as people read them. Pure: the present moment is an argument."""

import re
from collections.abc import Iterable
from datetime import UTC, datetime, timedelta
from typing import Any

from shared.sizes import spoken_size

_UNITS = (("second", 1, 60), ("minute", 60, 60), ("hour", 3600, 24), ("day", 86_400, 10**6))
DATES_AFTER = timedelta(days=30)


def size(count: Any) -> str:
    """Bytes in decimal units; a dash where the region does not say."""
    return spoken_size(count) if isinstance(count, int) else "-"


def amount(done: int, total: int) -> str:
    """`45%, 1.2 GB of 2.7 GB`."""
    return f"{100 * done // max(total, 1)}%, {size(done)} of {size(total)}"


def counted(count: int, noun: str, plural: str = "") -> str:
    """`1 image`, `2 images`."""
    return f"{count} {noun if count == 1 else plural or noun + 's'}"


def listed(items: Iterable[object]) -> str:
    """`a`, `a and b`, `a, b and c`."""
    *first, last = map(str, items)
    return f"{', '.join(first)} and {last}" if first else last


def span(seconds: float) -> str:
    """A duration in the unit that suits it: `12 seconds`, `3 minutes`, `2 days`."""
    for unit, length, limit in _UNITS:
        count = round(seconds / length)
        if count < limit:
            return counted(count, unit) if count else f"less than a {unit}"
    return "ages"


def moment(text: Any) -> datetime | None:
    """The moment an ISO 8601 text names; None for anything else."""
    try:
        found = datetime.fromisoformat(text)
    except (TypeError, ValueError):
        return None
    return found if found.tzinfo else found.replace(tzinfo=UTC)


def ago(text: Any, now: datetime) -> str:
    """`3 minutes ago`, `in 2 hours`, a date when it is long ago, and `never` for what did not happen."""
    when = moment(text)
    if when is None:
        return "never"
    passed = now - when
    if abs(passed) > DATES_AFTER:
        return f"{when.astimezone():%Y-%m-%d}"
    if abs(passed) < timedelta(seconds=5):
        return "just now" if passed >= timedelta() else "now"
    told = span(abs(passed).total_seconds())
    return f"{told} ago" if passed > timedelta() else f"in {told}"


def when(text: Any, now: datetime) -> str:
    """`ago`, with the moment itself in local time."""
    found = moment(text)
    return ago(text, now) if found is None else f"{ago(text, now)} ({found.astimezone():%Y-%m-%d %H:%M %Z})"


_IMAGE_ID = re.compile(r"(?<![\w:/@.+~-])([a-z][a-z0-9_-]*):([a-z0-9][a-z0-9._+~-]*):([a-z][a-z0-9_-]*)(?![\w:/@])")


def slashed(sentence: str) -> str:
    """A sentence of the region, with images named as they are here: `ubuntu/noble/amd64` for `ubuntu:noble:amd64`."""
    return _IMAGE_ID.sub(r"\1/\2/\3", sentence)


def printable(text: str) -> str:
    """The text without what could steer a terminal: control characters, escapes, invisible marks. Lines stay lines."""
    return "".join(char if char.isprintable() or char == "\n" else "\ufffd" for char in text)
