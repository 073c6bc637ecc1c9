"""What changed, told to every region process and to everyone who listens to one of them.

`notify` speaks inside a transaction and PostgreSQL delivers at its commit, so nobody hears of what was rolled back.
Each process has one `Topics`, which hears all of it and wakes its subscribers. A topic says that something changed,
never what: whoever hears it reads the facts. When the line to PostgreSQL was cut, every topic counts as changed.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from enum import StrEnum

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.logs import logger

CHANNEL = "bootferry"
RECONNECT_PAUSE_S = 2.0
KEEPALIVE_S = 30.0

log = logger(__name__)


class Topic(StrEnum):
    """What can change."""

    ACTIVITY = "activity"
    IMAGES = "images"
    IMPORTS = "imports"
    MANIFEST = "manifest"
    PUBLISHED = "published"
    """This process answers a newer manifest from now on."""
    RACKS = "racks"
    SETTINGS = "settings"
    SOURCES = "sources"
    SYNC = "sync"


async def notify(connection: AsyncConnection, *topics: Topic) -> None:
    """Tell everyone about `topics` when this transaction commits."""
    for topic in topics:
        await connection.execute(text("SELECT pg_notify(:channel, :topic)"), {"channel": CHANNEL, "topic": topic.value})


class Topics:
    """The subscribers of this process. A subscriber sees each topic at least once after it changed."""

    def __init__(self) -> None:
        self._subscribers: set[_Subscription] = set()

    @contextmanager
    def subscribe(self, *topics: Topic) -> Iterator["_Subscription"]:
        """Hear `topics` (all of them when none is named) from now until the block ends."""
        subscription = _Subscription(frozenset(topics) or frozenset(Topic))
        self._subscribers.add(subscription)
        try:
            yield subscription
        finally:
            self._subscribers.discard(subscription)

    def tell(self, *topics: Topic) -> None:
        """Wake those who subscribed to one of `topics`."""
        for subscription in self._subscribers:
            subscription.tell(topics)

    async def listen(self, database_url: str) -> None:
        """Hear PostgreSQL until cancelled; a lost connection is made again, and then everything counts as changed."""
        dsn = database_url.replace("postgresql+asyncpg://", "postgresql://", 1)
        while True:
            try:
                await self._listen_once(dsn)
            except (OSError, TimeoutError, asyncpg.PostgresError, asyncpg.InterfaceError) as error:
                log.debug("The line to the database is down.", action="listen", error=str(error))
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _listen_once(self, dsn: str) -> None:
        connection = await asyncpg.connect(dsn, timeout=5)
        try:
            ended = asyncio.Event()
            connection.add_termination_listener(lambda _connection: ended.set())
            await connection.add_listener(CHANNEL, self._heard)
            self.tell(*Topic)
            while not ended.is_set():
                with contextlib.suppress(TimeoutError):
                    await asyncio.wait_for(ended.wait(), KEEPALIVE_S)
                    break
                # A line that died silently looks like one on which nothing happens.
                await connection.execute("SELECT 1", timeout=5)
        finally:
            with contextlib.suppress(OSError, TimeoutError, asyncpg.InterfaceError):
                await connection.close(timeout=2)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        with contextlib.suppress(ValueError):
            self.tell(Topic(str(payload)))


class _Subscription:
    """Topics that have changed since they were last asked for; a burst of the same one counts once."""

    def __init__(self, topics: frozenset[Topic]) -> None:
        self._topics = topics
        self._pending: dict[Topic, None] = {}
        self._wake = asyncio.Event()

    def tell(self, topics: tuple[Topic, ...]) -> None:
        if heard := [topic for topic in topics if topic in self._topics]:
            self._pending.update(dict.fromkeys(heard))
            self._wake.set()

    async def next(self, timeout_s: float | None = None) -> list[Topic]:
        """The topics that changed, waiting for the first; an empty list when `timeout_s` seconds passed without any."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return []
        self._wake.clear()
        changed, self._pending = list(self._pending), {}
        return changed

    async def __aiter__(self) -> AsyncIterator[list[Topic]]:
        while True:
            yield await self.next()
