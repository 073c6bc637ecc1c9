"""The watch: the one place that looks whether the database is well, and tells the log when it is not.

- It looks twice a second over a connection of its own, and over a new one when anybody was refused. So the first line
  comes within two seconds of the loss: half a second at most until the look, and 1.2 until its answer must be there.
- While the database refuses, it is tried every five seconds. A line is written once for each changed reason, and one
  when it is over, with how long it took.
- A new connection is looked at closely (`_look`): version, encoding, read-only, rights, and whether a pooler stands
  before the database that gives each transaction to another session.
- What only those can meet who write is told on their word (`Told.HEARD`), and counts as over when nobody has met it for
  longer than the minute in which everybody writes once.

Everybody else who meets a database that is away is quiet about it and tries again.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, TypeVar

import asyncpg

from region.database import refusals
from region.database.address import Address
from region.database.refusals import DatabaseAway, Refusal, Told, refusal_to_connect
from region.database.tables import metadata
from shared.errors import BootferryError, Unavailable
from shared.logs import logger

OLDEST_MAJOR = 15
LOOK_EVERY_S = 0.5
ANSWER_WITHIN_S = 1.2
RESOLVE_WITHIN_S = 0.9
RETRY_S = 5.0
QUIET_S = 75.0
"""Nobody has met a refusal for so long that it counts as over, where the watch cannot see that by itself."""

POOLER_ROUNDS = 3
POOLER_WITHIN_S = 5.0
"""A dozen round trips to a database that has just answered."""

_FACTS = """
    SELECT current_setting('server_encoding') AS encoding,
           current_setting('transaction_read_only') = 'on' AS read_only,
           current_schema() IS NOT NULL AS has_schema,
           (SELECT array_agg(c.relname::text ORDER BY c.relname) FROM pg_catalog.pg_class c
            WHERE c.relnamespace = quote_ident(current_schema())::regnamespace AND c.relkind IN ('r', 'p')
              AND c.relname = ANY($1::text[])
              AND NOT (has_table_privilege(c.oid, 'SELECT') AND has_table_privilege(c.oid, 'INSERT')
                       AND has_table_privilege(c.oid, 'UPDATE') AND has_table_privilege(c.oid, 'DELETE'))) AS forbidden
"""

_Answer = TypeVar("_Answer")

log = logger(__name__)


class Watch:
    """Watches over the database at `address`. `told` hears why it is away, each reason; "" when it is well again."""

    def __init__(self, address: Address, *, told: Callable[[str], None] = lambda _: None) -> None:
        self._address, self._told = address, told
        self._session: asyncpg.Connection | None = None
        self._doubted: Refusal | None = None
        self._heard: tuple[Refusal, float] | None = None
        self._reason: str | None = None
        self._seen: set[str] = set()
        self._since = 0.0
        self._well = asyncio.Event()
        self._well.set()

    def doubt(self, refusal: Refusal) -> None:
        """Somebody was refused so: look whether it is so for everybody."""
        self._doubted = refusal
        if refusal.told is Told.HEARD:
            self._heard = refusal, time.monotonic()

    async def well(self) -> None:
        """Returns when no look has found the database away, at once where none has."""
        await self._well.wait()

    async def require_well(self) -> None:
        """Raises BootferryError unless the database is well, with the sentence that the log would show."""
        try:
            await self._renew()
        except DatabaseAway as error:
            raise self.spoken(error) from error
        finally:
            self._drop()

    @property
    def place(self) -> str:
        """The role, and the address of the database."""
        return self._address.place

    def spoken(self, error: DatabaseAway) -> BootferryError:
        """`error` as the operator of this machine should hear it: with the address, and what to do."""
        return BootferryError(error.refusal.sentence(self._address.place))

    async def begin(self, step: Callable[[], Awaitable[None]]) -> None:
        """When this returns the database was looked at and `step` is done; each refusal of either is told and retried.

        What `step` raises besides Unavailable is raised.
        """
        while True:
            try:
                await self._renew()
                await step()
            except Unavailable as error:
                self._tell(error)
                await asyncio.sleep(RETRY_S)
            else:
                self._heard = None
                self._tell_over()
                return

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            while True:
                try:
                    await self._renew() if self._session is None or self._doubted else await self._ask()
                    self._listen_to_others()
                except DatabaseAway as error:
                    self._drop()
                    self._tell(error)
                    await asyncio.sleep(RETRY_S)
                else:
                    self._tell_over()
                    await asyncio.sleep(LOOK_EVERY_S)
        finally:
            self._drop()

    def _listen_to_others(self) -> None:
        """Raises DatabaseAway when somebody has lately met what a look does not show."""
        if self._heard is not None:
            refusal, at = self._heard
            if time.monotonic() - at < QUIET_S and refusal.reason not in self._seen:
                raise DatabaseAway(refusal)
            self._heard = None

    # --- what is told

    def _tell(self, error: Unavailable) -> None:
        refusal = error.refusal if isinstance(error, DatabaseAway) else None
        if refusal is None or refusal.told is not Told.HEARD:
            self._well.clear()
            # What a look shows it also shows to be over, whatever others have met meanwhile.
            self._seen |= {refusal.reason} if refusal else set()
        sentence = refusal.sentence(self._address.place) if refusal else f"The region waits. {error.happened}."
        if sentence == self._reason:
            return
        if self._reason is None:
            self._since = time.monotonic()
        self._reason = sentence
        log.error(f"{sentence} It is tried again every {RETRY_S:g} seconds.", action="database", code=error.code)
        self._told(error.happened)

    def _tell_over(self) -> None:
        self._well.set()
        self._seen.clear()
        if self._reason is not None:
            took = spoken_span(time.monotonic() - self._since)
            self._reason = None
            log.info(f"The database answers again, after {took}.", action="database")
            self._told("")

    # --- how it is looked at

    async def _renew(self) -> None:
        """A new session of the watch, closely looked at. Raises DatabaseAway."""
        self._drop()
        self._doubted = None
        await self._resolve()
        self._session = await _within(self._connect(), ANSWER_WITHIN_S, refusals.NO_ANSWER)
        await _within(_look(self._session), ANSWER_WITHIN_S, refusals.NO_ANSWER)
        await _within(self._look_for_pooler(self._session), POOLER_WITHIN_S, refusals.NO_ANSWER)

    async def _ask(self) -> None:
        assert self._session is not None  # noqa: S101 - the caller has looked
        try:
            await _within(_look(self._session), ANSWER_WITHIN_S, refusals.NO_ANSWER)
        except DatabaseAway as error:
            if error.__cause__ is None:
                raise
            # The session was cut. Why, a new one is told; a server that was only restarted takes it at once.
            await self._renew()

    async def _resolve(self) -> None:
        if len(self._address.hosts) == 1 and not self._address.hosts[0].startswith("/"):
            looked_up = asyncio.get_running_loop().getaddrinfo(self._address.hosts[0], self._address.port)
            await _within(looked_up, RESOLVE_WITHIN_S, refusals.NAMESERVER_SILENT)

    async def _look_for_pooler(self, first: asyncpg.Connection) -> None:
        second = await self._connect()
        try:
            if await _share(first, second):
                raise DatabaseAway(refusals.POOLER)
        finally:
            second.terminate()

    async def _connect(self) -> asyncpg.Connection:
        ours = {
            "timeout": ANSWER_WITHIN_S,
            "statement_cache_size": 0,
            # The limit is one that everybody sets: a pooler that does not take it is found out here.
            "server_settings": {"application_name": "bootferry-region watch", "statement_timeout": "15000"},
        }
        try:
            return await asyncpg.connect(**{**self._address.arguments, **ours})
        except Exception as error:
            raise DatabaseAway(refusal_to_connect(error, wants_tls=self._address.wants_tls)) from error

    def _drop(self) -> None:
        if self._session is not None:
            # A database that is frozen would not let it end in any gentler way.
            self._session.terminate()
            self._session = None


async def _look(session: asyncpg.Connection) -> None:
    """Raises DatabaseAway unless the region can work here, as far as a session shows."""
    version = session.get_server_version()
    if version.major < OLDEST_MAJOR:
        raise DatabaseAway(refusals.TOO_OLD.because(f"it is {version.major}"))
    # In a transaction, because a pooler may give each statement to another session.
    async with session.transaction():
        facts = await session.fetchrow(_FACTS, [*metadata.tables])
    if facts is None:
        raise DatabaseAway(refusals.STRANGE)
    if facts["encoding"] != "UTF8":
        raise DatabaseAway(refusals.NOT_UTF8.because(f"it is {facts['encoding']}"))
    if facts["read_only"]:
        raise DatabaseAway(refusals.READ_ONLY)
    if not facts["has_schema"]:
        raise DatabaseAway(_SEEN_NOT_ALLOWED.because("it may use none of the schemas in search_path"))
    if forbidden := facts["forbidden"]:
        raise DatabaseAway(_SEEN_NOT_ALLOWED.because(", ".join(forbidden[:3])))


async def _share(first: asyncpg.Connection, second: asyncpg.Connection) -> bool:
    """True if two sessions have one server process between them, or one has several: a pooler stands before it."""
    seen = {await _process(first)}
    for _ in range(POOLER_ROUNDS):
        async with second.transaction():
            other = await second.fetchval("SELECT pg_backend_pid()")
            if other in seen:
                return True
            seen.add(await _process(first))
            if len(seen) > 1:
                return True
    return False


async def _process(session: asyncpg.Connection) -> int:
    async with session.transaction():
        return int(await session.fetchval("SELECT pg_backend_pid()"))


async def _within(attempt: Awaitable[_Answer], most_s: float, otherwise: Refusal) -> _Answer:
    """What `attempt` gives. Raises DatabaseAway for whatever it raises, and after `most_s` seconds.

    An attempt that is given up is not waited for: with a frozen database that has no end.
    """
    task = asyncio.ensure_future(attempt)
    try:
        done, _ = await asyncio.wait({task}, timeout=most_s)
    finally:
        if not task.done():
            task.cancel()
            task.add_done_callback(_forget)
    if not done:
        raise DatabaseAway(otherwise)
    try:
        return task.result()
    except DatabaseAway:
        raise
    except Exception as error:
        raise DatabaseAway(refusal_to_connect(error)) from error


def _forget(task: "asyncio.Task[Any]") -> None:
    with suppress(asyncio.CancelledError):
        if task.exception() is None and isinstance(session := task.result(), asyncpg.Connection):
            session.terminate()


def spoken_span(seconds: float) -> str:
    """A span for people: `42 s`, `7 min`, `3 h 20 min`."""
    if seconds < 120:
        return f"{max(1, round(seconds))} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 120 else f"{minutes // 60} h {minutes % 60} min"


_SEEN_NOT_ALLOWED = Refusal(refusals.NOT_ALLOWED.reason, refusals.NOT_ALLOWED.remedy)
"""As whoever is refused meets it, but seen by the watch itself."""
