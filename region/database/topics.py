"""What changed, told to every region process and to everyone who listens to one of them.

`notify` speaks inside a transaction and PostgreSQL delivers at its commit, so nobody hears of what was rolled back.
Each process has one `Topics`, which hears all of it and wakes its subscribers. A topic says that something changed,
never what: whoever hears it reads the facts. A topic may name its subject, one thing of many, so that only that is read
again. When the line to PostgreSQL was cut, every topic counts as changed, in all its subjects.

What changes many times a second is told through `Gathered`, which speaks once a second at most.
"""

import asyncio
import contextlib
from collections.abc import Awaitable, Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from enum import StrEnum
from typing import Any

import asyncpg
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.database import refusals
from region.database.address import parse
from region.database.connection import transaction
from shared.errors import Unavailable
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
    POLL = "poll"
    """An operator wants racks to poll now; the subject is the id of one, all of them where there is none."""
    PUBLISHED = "published"
    """This process answers a newer manifest."""
    RACK_KEY = "rack_key"
    """A rack was enrolled or removed; the subject is its id."""
    RACKS = "racks"
    SETTINGS = "settings"
    SOURCES = "sources"
    SYNC = "sync"


FOR_THE_REGION = frozenset({Topic.POLL, Topic.PUBLISHED, Topic.RACK_KEY})
"""What region processes tell themselves and each other; nobody outside needs it."""

Changes = dict[Topic, frozenset[str] | None]
"""Topics that changed, each with its subjects; None where anything of it may have changed."""


async def notify(connection: AsyncConnection, *topics: Topic, subject: str = "") -> None:
    """Tell everyone about `topics` when this transaction commits; of `subject` alone where one is named."""
    for topic in topics:
        payload = f"{topic.value}:{subject}" if subject else topic.value
        await connection.execute(text("SELECT pg_notify(:channel, :topic)"), {"channel": CHANNEL, "topic": payload})


class Gathered:
    """Topics that changed, told to everyone once in `pause_s` seconds at most: the first at once, the rest together.

    Say them after the commit of what changed. A process that ends in between leaves the last second untold.
    """

    def __init__(self, engine: AsyncEngine, *, pause_s: float = 1.0) -> None:
        self._engine = engine
        self._pause_s = pause_s
        self._untold: set[Topic] = set()
        self._wake = asyncio.Event()

    def say(self, topics: Iterable[Topic]) -> None:
        """These have changed."""
        self._untold.update(topics)
        if self._untold:
            self._wake.set()

    async def run(self) -> None:
        """Tell what is said, until cancelled; while the database is away, try again."""
        while True:
            await self._wake.wait()
            self._wake.clear()
            telling, self._untold = self._untold, set()
            try:
                async with transaction(self._engine) as connection:
                    await notify(connection, *sorted(telling))
            except Unavailable:
                self.say(telling)
            await asyncio.sleep(self._pause_s)


async def _at_once() -> None:
    pass


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

    def tell(self, *topics: Topic, subject: str = "") -> None:
        """Wake those who subscribed to one of `topics`."""
        for subscription in self._subscribers:
            subscription.tell(topics, subject)

    async def listen(self, database_url: str, well: Callable[[], Awaitable[None]] = _at_once) -> None:
        """Hear PostgreSQL until cancelled; a lost connection is made again, and then everything counts as changed.

        It is not tried before `well` returns.
        """
        arguments = parse(database_url).arguments
        while True:
            await well()
            try:
                await self._listen_once(arguments)
            except (OSError, TimeoutError, asyncpg.PostgresError, *refusals.OUT_OF_STEP) as error:
                log.debug("The line to the database is down.", action="listen", error=str(error))
            await asyncio.sleep(RECONNECT_PAUSE_S)

    async def _listen_once(self, arguments: Mapping[str, Any]) -> None:
        connection = await asyncpg.connect(**{**arguments, "timeout": 5})
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
            with contextlib.suppress(OSError, TimeoutError, *refusals.OUT_OF_STEP):
                await connection.close(timeout=2)

    def _heard(self, _connection: object, _pid: int, _channel: str, payload: object) -> None:
        topic, _, subject = str(payload).partition(":")
        with contextlib.suppress(ValueError):
            self.tell(Topic(topic), subject=subject)


class _Subscription:
    """Topics that have changed since they were last asked for; a burst of the same one counts once."""

    def __init__(self, topics: frozenset[Topic]) -> None:
        self._topics = topics
        self._pending: Changes = {}
        self._wake = asyncio.Event()

    def tell(self, topics: tuple[Topic, ...], subject: str = "") -> None:
        if heard := [topic for topic in topics if topic in self._topics]:
            for topic in heard:
                before = self._pending.get(topic, frozenset())
                self._pending[topic] = before | {subject} if subject and before is not None else None
            self._wake.set()

    def wake(self) -> None:
        """Let whoever waits look around, though nothing has changed."""
        self._wake.set()

    async def next(self, timeout_s: float | None = None) -> list[Topic]:
        """The topics that changed, waiting for the first; none after `timeout_s` seconds without any, or a `wake`."""
        return list(await self.changes(timeout_s))

    async def changes(self, timeout_s: float | None = None) -> Changes:
        """As `next`, with the subjects of each topic."""
        try:
            async with asyncio.timeout(timeout_s):
                await self._wake.wait()
        except TimeoutError:
            return {}
        self._wake.clear()
        changed, self._pending = self._pending, {}
        return changed
