"""What a region process remembers, so that a rack's poll costs no query and is answered while the database is away."""

from collections.abc import Callable, Mapping
from datetime import datetime

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from region.database.topics import Topic, Topics
from region.fleet import racks
from region.publishing import manifest
from region.publishing.manifest import Published
from shared.digest import Sha256
from shared.errors import BootferryError, Unavailable
from shared.logs import logger

REFRESH_S = 15.0
"""How long a memory may be behind when the word that something changed was lost."""

log = logger(__name__)


class Memory:
    """The current manifest, the racks' keys, and sightings of racks that are not written down yet."""

    def __init__(self, engine: AsyncEngine, key: Ed25519PrivateKey, now: Callable[[], datetime]) -> None:
        self._engine = engine
        self._key = key
        self._now = now
        self._published: Published | None = None
        self._published_sizes: Mapping[Sha256, int] = {}
        self._rack_keys: dict[str, Ed25519PublicKey] = {}
        self._seen: dict[str, datetime] = {}

    @property
    def published(self) -> Published:
        """The current manifest. Raises Unavailable until the first one is known."""
        if self._published is None:
            raise Unavailable("The region has not read its manifest yet")
        return self._published

    @property
    def published_sizes(self) -> Mapping[Sha256, int]:
        """The files of the current manifest, digest to size in bytes; empty until the first one is known."""
        return self._published_sizes

    def rack_key(self, rack_id: str) -> Ed25519PublicKey | None:
        """The key of an enrolled rack; None for any other."""
        return self._rack_keys.get(rack_id)

    def note_seen(self, rack_id: str) -> None:
        """The rack has just been heard; `flush` writes it down."""
        self._seen[rack_id] = self._now()

    async def refresh(self) -> None:
        """Read manifest and keys again. Raises Unavailable, and then remembers what it remembered before."""
        async with transaction(self._engine) as connection:
            self._rack_keys = await racks.keys(connection)
            known = self._published and (*self._published.manifest.order, self._published.sha256)
            published = None
            if await manifest.newest(connection) != known:
                published = await manifest.current(connection, self._key)
        if published is not None:
            self._published = published
            self._published_sizes = published.manifest.files()

    async def flush(self) -> None:
        """Write sightings of racks down, all in one statement. Raises Unavailable, and then keeps them."""
        seen, self._seen = self._seen, {}
        try:
            async with transaction(self._engine) as connection:
                await racks.seen(connection, seen)
        except Unavailable:
            self._seen = seen | self._seen
            raise

    async def follow(self, topics: Topics) -> None:
        """Keep up with the database until cancelled; while it is away, remember."""
        with topics.subscribe(Topic.MANIFEST, Topic.RACKS) as subscription:
            while True:
                await subscription.next(timeout_s=REFRESH_S)
                before = self._published and self._published.etag
                try:
                    await self.refresh()
                    await self.flush()
                except BootferryError as error:
                    log.debug("The database is not readable; the last manifest stays.", action="follow", why=str(error))
                    continue
                if self._published is not None and self._published.etag != before:
                    topics.tell(Topic.PUBLISHED)
