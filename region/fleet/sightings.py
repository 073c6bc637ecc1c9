"""Who was seen when, in memory: a poll costs no query, and many sightings are written down in one statement."""

from collections.abc import Callable
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from region.fleet import racks
from shared.errors import Unavailable


class Sightings:
    """When racks were last heard by this process, as far as that is not written down yet."""

    def __init__(self, engine: AsyncEngine, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._now = now
        self._seen: dict[str, datetime] = {}

    def note(self, rack_id: str) -> None:
        """The rack has just been heard; `flush` writes it down."""
        self._seen[rack_id] = self._now()

    async def flush(self) -> None:
        """Write the sightings down, all in one statement. Raises Unavailable, and then keeps them."""
        seen, self._seen = self._seen, {}
        try:
            async with transaction(self._engine) as connection:
                await racks.seen(connection, seen)
        except Unavailable:
            self._seen = seen | self._seen
            raise
