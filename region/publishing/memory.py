"""The current manifest in memory, so that a rack's poll costs no query and is answered while the database is away."""

from collections.abc import Mapping

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from region.database.topics import Topic, Topics
from region.publishing import manifest
from region.publishing.manifest import Published
from shared.digest import Sha256
from shared.errors import BootferryError
from shared.logs import logger

REFRESH_S = 15.0
"""How long the manifest may be behind when the word that it changed was lost."""

log = logger(__name__)


class Memory:
    """The manifest that racks are answered, and the sizes of its files."""

    def __init__(self, engine: AsyncEngine, key: Ed25519PrivateKey) -> None:
        self._engine = engine
        self._key = key
        self._published: Published | None = None
        self._published_sizes: Mapping[Sha256, int] = {}

    @property
    def published(self) -> Published | None:
        """The current manifest; None before the first."""
        return self._published

    @property
    def published_sizes(self) -> Mapping[Sha256, int]:
        """The files of the current manifest, digest to size in bytes; empty before the first."""
        return self._published_sizes

    async def refresh(self) -> None:
        """Read the manifest again if the database has another. Raises Unavailable, and then keeps the one it has."""
        async with transaction(self._engine) as connection:
            before = self._published
            known = None if before is None else (*before.manifest.order, before.sha256)
            if await manifest.newest(connection) == known:
                return
            published = await manifest.current(connection, self._key)
        if published is not None:
            self._published_sizes = published.manifest.files()
            self._published = published

    async def follow(self, topics: Topics) -> None:
        """Keep up with the database until cancelled; while it is away, remember."""
        with topics.subscribe(Topic.MANIFEST) as subscription:
            while True:
                await subscription.next(timeout_s=REFRESH_S)
                before = self._published
                try:
                    await self.refresh()
                except BootferryError as error:
                    log.debug("The database is not readable; the last manifest stays.", action="follow", why=str(error))
                    continue
                if self._published is not before:
                    topics.tell(Topic.PUBLISHED)
