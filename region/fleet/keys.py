"""Racks' public keys in memory, so that a signed request costs no query.

- All are read when a process starts and whenever its line to the database was cut; nothing else reads them all.
- A rack that is enrolled or removed is a topic with its id: that one key is forgotten at once and read again.
- A key is parsed when it is first used.
"""

import asyncio
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from sqlalchemy import select, text
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from region.database.tables import racks
from region.database.topics import Topic, Topics
from shared.errors import BootferryError
from shared.logs import logger
from shared.signing import parse_public_key

RETRY_S = 1.0

log = logger(__name__)


class Keys:
    """The keys of the enrolled racks, by id."""

    def __init__(self, engine: AsyncEngine) -> None:
        self._engine = engine
        self._known: dict[str, str | Ed25519PublicKey] = {}
        self._watched: dict[str, set[Callable[[], None]]] = {}

    def get(self, rack_id: str) -> Ed25519PublicKey | None:
        """The key of an enrolled rack; None for any other."""
        key = self._known.get(rack_id)
        if isinstance(key, str):
            key = self._known[rack_id] = parse_public_key(key)
        return key

    @contextmanager
    def watch(self, rack_id: str, ended: Callable[[], None]) -> Iterator[None]:
        """Inside, `ended` is called when the rack is removed, or enrolled anew."""
        self._watched.setdefault(rack_id, set()).add(ended)
        try:
            yield
        finally:
            self._watched[rack_id].discard(ended)
            if not self._watched[rack_id]:
                del self._watched[rack_id]

    def _end(self, rack_ids: Iterable[str]) -> None:
        for rack_id in rack_ids:
            for ended in self._watched.get(rack_id, ()):
                ended()

    def __len__(self) -> int:
        return len(self._known)

    async def read_all(self) -> None:
        """Read every key again. Raises Unavailable, and then remembers what it remembered before."""
        async with transaction(self._engine) as connection:
            found = await connection.execute(select(racks.c.id, racks.c.public_key))
            self._known = {row.id: row.public_key for row in found}
        self._end([rack_id for rack_id in self._watched if rack_id not in self._known])

    async def read(self, rack_ids: Iterable[str]) -> None:
        """Forget these keys, and read again those that there are. Raises Unavailable; they stay forgotten then."""
        asked = list(rack_ids)
        for rack_id in asked:
            self._known.pop(rack_id, None)
        self._end(asked)
        async with transaction(self._engine) as connection:
            found = await connection.execute(
                text("SELECT id, public_key FROM racks WHERE id = ANY(:asked)"), {"asked": asked}
            )
            self._known |= {row.id: row.public_key for row in found}

    async def follow(self, topics: Topics) -> None:
        """Keep up with enrolments and removals until cancelled."""
        with topics.subscribe(Topic.RACK_KEY) as subscription:
            # What changed before somebody listened was heard by nobody.
            await self._patiently(None)
            while True:
                changes = await subscription.changes()
                await self._patiently(changes[Topic.RACK_KEY])

    async def _patiently(self, rack_ids: frozenset[str] | None) -> None:
        while True:
            try:
                await (self.read_all() if rack_ids is None else self.read(rack_ids))
            except BootferryError as error:
                log.debug("The racks' keys are not readable; asking again.", action="follow", why=str(error))
                await asyncio.sleep(RETRY_S)
            else:
                return
