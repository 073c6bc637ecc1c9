"""Freshness: how old and how young a source's documents may be. Pure.

- Ahead (fast-forward): a document dated more than a day after now is refused. Accepted, it would be the floor below
  which every later one is refused as too old.
- Behind (freeze): when a source's index is older than the days its operator set, everybody is warned and nothing stops:
  whoever holds new documents back cannot be told from a mirror that stands still.

Not done here: older than what was accepted before (rollback) is `region.catalogue.products.require_not_older`.
"""

from datetime import datetime, timedelta

from shared.errors import BootferryError, TooNew

MAX_AHEAD = timedelta(hours=24)
STALE_AFTER_DAYS = 30
"""Unless an operator says otherwise for a source."""


class Stale(BootferryError):
    """A source's documents are older than an operator wants to hear nothing of. It is told, and stops nothing."""

    code = "stale"

    def __init__(self, name: str, updated: datetime, days: int) -> None:
        self.name, self.updated, self.days = name, updated, days
        super().__init__(
            f"The documents of {name} are of {updated:%Y-%m-%d}, {days} days ago: the mirror stands still, or somebody"
            " holds newer ones back; what is held stays and is served: ask the mirror's owner."
        )


def stale(name: str, updated: datetime | None, stale_after_days: int, now: datetime) -> Stale | None:
    """What everybody is to be told of a source whose index is of `updated`; None while that is young enough.

    `stale_after_days` 0 means never; `updated` None, that nothing was read yet.
    """
    if updated is None or not stale_after_days or now - updated <= timedelta(days=stale_after_days):
        return None
    return Stale(name, updated, (now - updated).days)


def require_not_ahead(updated: datetime, now: datetime, what: str) -> None:
    """Raises TooNew when a document dated `updated` cannot be of before now, clocks a day apart allowed for."""
    if updated > now + MAX_AHEAD:
        raise TooNew(what, updated, now)
