"""The current manifest in memory, so that a rack's poll costs no query and is answered while the database is away.

Racks get the files of that manifest, and for a grace those that the ones before it named: a rack that is still pulling
them must not begin anew. Which these are is remembered here too. A process that has just started knows of the manifests
whose envelopes are kept.
"""

import asyncio
from collections.abc import Callable, Iterable, Mapping
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import exists, select
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from region.database.tables import imports
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
    """The manifest that racks are answered, and the sizes of its files. `key` is the one that must have signed it."""

    def __init__(
        self,
        engine: AsyncEngine,
        key: Ed25519PrivateKey,
        *,
        grace: timedelta = timedelta(0),
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._engine = engine
        self.key = key
        self._grace, self._now = grace, now
        self._published: Published | None = None
        self._settled = True
        self._published_sizes: Mapping[Sha256, int] = {}
        self._named_until: dict[Sha256, datetime] = {}
        self._refreshing = asyncio.Lock()

    @property
    def published(self) -> Published | None:
        """The current manifest; None before the first."""
        return self._published

    @property
    def settled(self) -> bool:
        """True if no import runs, so that no newer manifest is to be expected within moments."""
        return self._settled

    @property
    def published_sizes(self) -> Mapping[Sha256, int]:
        """The files of the current manifest, digest to size in bytes; empty before the first."""
        return self._published_sizes

    def is_named(self, sha256: Sha256) -> bool:
        """True if the current manifest names the file, or one did that was the current one within the grace."""
        until = self._named_until.get(sha256)
        return sha256 in self._published_sizes or (until is not None and until > self._now())

    async def refresh(self) -> None:
        """Read the manifest again if the database has another. Raises Unavailable, and then keeps the one it has."""
        async with self._refreshing, transaction(self._engine) as connection:
            before = self._published
            known = None if before is None else (*before.manifest.order, before.sha256)
            running = await connection.scalar(select(exists().where(imports.c.state == "running")))
            self._settled = not running
            if await manifest.newest(connection) == known:
                return
            published = await manifest.current(connection, self.key)
            if published is None:
                return
            if before is None:
                # One that was replaced longer ago than the grace is not read.
                for earlier, replaced_at in await manifest.earlier(connection, self.key, self._now() - self._grace):
                    self._remember(earlier.files(), replaced_at + self._grace)
            else:
                self._remember(self._published_sizes, self._now() + self._grace)
            self._published_sizes = published.manifest.files()
            self._published = published
            self._forget()

    def _remember(self, files: Iterable[Sha256], until: datetime) -> None:
        for sha256 in files:
            self._named_until[sha256] = max(until, self._named_until.get(sha256, until))

    def _forget(self) -> None:
        now = self._now()
        self._named_until = {sha256: until for sha256, until in self._named_until.items() if until > now}

    async def follow(self, topics: Topics) -> None:
        """Keep up with the database until cancelled; while it is away, remember."""
        with topics.subscribe(Topic.MANIFEST, Topic.IMPORTS) as subscription:
            # What racks were last told, and whether that it was an import's last.
            told = self._published, self._settled
            while True:
                await subscription.next(timeout_s=REFRESH_S)
                try:
                    await self.refresh()
                except BootferryError as error:
                    log.debug("The database is not readable; the last manifest stays.", action="follow", why=str(error))
                    continue
                if self._published is not told[0] or (self._settled and not told[1]):
                    topics.tell(Topic.PUBLISHED)
                    told = self._published, self._settled
