"""Whose turn it is to be read again, said once more: 288 slices of five minutes a day, by the digest's first digits."""

from collections.abc import Iterable
from datetime import datetime

from shared.digest import Sha256


def slice_of_day(files: Iterable[Sha256], now: datetime) -> set[Sha256]:
    """Those of `files` whose turn is the slice of the day that `now` lies in; each file has one turn a day."""
    turn = int(now.timestamp()) // 300 % 288
    return {sha256 for sha256 in files if int(sha256[:8], 16) % 288 == turn}
