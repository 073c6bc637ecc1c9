"""The schedule by which every stored file is read again once a day, an even share of them every five minutes.

The share follows from the clock and the digest alone: there is nothing to remember, and nothing to lose.
"""

from collections.abc import Iterable
from datetime import datetime

from shared.digest import Sha256

SLICE_S = 300
"""One slice of the daily reading covers so many seconds of the day."""

_DAY_SLICES = 86_400 // SLICE_S


def due_since(files: Iterable[Sha256], last: datetime | None, now: datetime) -> set[Sha256]:
    """Those of `files` whose turn has come since `last`, the time of the audit before; None before the first audit.

    No slice of the day is left out when two audits are more than a slice apart, and none is read twice when they are
    closer. After more than a day every file is due, once.
    """
    turn = _turn(now)
    begin = turn - 1 if last is None else max(_turn(last), turn - _DAY_SLICES)
    due = {(turn - missed) % _DAY_SLICES for missed in range(turn - begin)}
    return {sha256 for sha256 in files if _turn_of(sha256) in due}


def _turn(moment: datetime) -> int:
    return int(moment.timestamp()) // SLICE_S


def _turn_of(sha256: Sha256) -> int:
    return int(sha256[:8], 16) % _DAY_SLICES
