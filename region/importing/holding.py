"""Holding: files that have arrived become rows, and whole versions become held, many at a time.

- Rows of files are written for all that have arrived, together: those of the first at once, then five times a second
  at most. Until then a file is in the store alone, and whoever looks for it there finds it: a crash costs no byte.
- The first whole versions are published at once; after that at most one manifest a second is made, and at most a tenth
  of the time is spent on it. What became whole meanwhile goes together. The very first manifest of a region waits for
  the end of its import (`region.publishing.held`).
- Every transaction shows the import's lease.
"""

import asyncio
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncEngine

from region.catalogue import files, trust
from region.database.connection import transaction
from region.importing import imports
from region.importing.imports import Claim
from region.importing.plan import Import
from region.publishing import held
from region.publishing.held import Publisher
from shared.digest import Sha256
from shared.errors import BootferryError
from shared.logs import logger

GATHER_S = 0.2
"""Files that arrive within so many seconds get their rows in one transaction."""

PAUSE_S = 1.0
SHARE = 10
"""A manifest that took a while is followed by a pause of nine times as long."""

log = logger(__name__)


@dataclass(slots=True)
class Holding:
    """What one import has brought in. `run` until `close`; `stored` is called for each file that has arrived.

    `refused` have arrived and got no row, as another process was deleting them: they must be fetched again.
    """

    engine: AsyncEngine
    publisher: Publisher
    claim: Claim
    now: Callable[[], datetime]
    refused: set[Sha256] = field(default_factory=set)
    held: int = 0
    """How many versions are held by now because of this import."""

    _arrived: dict[Sha256, int] = field(default_factory=dict)
    _closed: asyncio.Event = field(default_factory=asyncio.Event)
    _wake: asyncio.Event = field(default_factory=asyncio.Event)

    def stored(self, sha256: Sha256, size: int) -> None:
        """The store holds this file, whole and flushed."""
        self._arrived[sha256] = size
        self._wake.set()

    def close(self) -> None:
        """No more files will come: what is whole is held, then `run` returns."""
        self._closed.set()
        self._wake.set()

    async def run(self, wanted: Sequence[Import]) -> None:
        """Write rows for files, and hold those of `wanted` that are whole, until there is nothing more to come.

        When it is cancelled, what has arrived still gets its rows.
        """
        try:
            await self._run(wanted)
        except asyncio.CancelledError:
            with suppress(BootferryError):
                await self._record()
            raise

    async def _run(self, wanted: Sequence[Import]) -> None:
        lacking = {entry.version_id: {file.sha256 for file in entry.missing} for entry in wanted}
        waiting: dict[Sha256, list[int]] = {}
        for version_id, digests in lacking.items():
            for sha256 in digests:
                waiting.setdefault(sha256, []).append(version_id)
        whole = {version_id for version_id, digests in lacking.items() if not digests}
        due = 0.0
        while True:
            recorded = time.monotonic()
            for sha256 in await self._record():
                for version_id in waiting.pop(sha256, ()):
                    lacking[version_id].discard(sha256)
                    if not lacking[version_id]:
                        whole.add(version_id)
            if whole and (self._closed.is_set() or time.monotonic() >= due):
                began = time.monotonic()
                await self._hold(whole)
                whole = set()
                due = time.monotonic() + max(PAUSE_S, (SHARE - 1) * (time.monotonic() - began))
            if self._closed.is_set() and not self._arrived and not whole:
                return
            await self._wait(due if whole else None)
            await _first(self._closed, recorded + GATHER_S)

    async def _record(self) -> list[Sha256]:
        """The files that have arrived, their rows written."""
        arrived = dict(self._arrived)
        refused: set[Sha256] = set()
        if arrived:
            async with transaction(self.engine) as connection:
                await imports.require_lease(connection, self.claim)
                refused = await files.record(connection, arrived, self.now())
            self.refused |= refused
            for sha256 in arrived:
                del self._arrived[sha256]
            for sha256 in refused:
                # Another process began to delete it since it was looked for: the next attempt fetches it anew.
                log.warning("A file that has arrived is being deleted.", action="publish", file=sha256)
        return [sha256 for sha256 in arrived if sha256 not in refused]

    async def _hold(self, whole: set[int]) -> None:
        await trust.look_all(self.engine, self.now())
        async with transaction(self.engine) as connection:
            await imports.require_lease(connection, self.claim)
            done = await held.change(connection, self.publisher, self.now(), hold=whole)
        if done.held:
            self.held += len(done.held)
            log.debug(
                "What has become whole is held.",
                action="publish",
                held=len(done.held),
                withdrawn=len(done.withdrawn),
                **({"serial": done.published.manifest.serial} if done.published else {}),
            )

    async def _wait(self, until: float | None) -> None:
        """Return when something has arrived, nothing more will, or it is `until` by the monotonic clock."""
        if not (self._closed.is_set() or self._arrived):
            await _first(self._wake, until)
        self._wake.clear()


async def _first(event: asyncio.Event, until: float | None) -> None:
    """Return when the event is set or it is `until` by the monotonic clock, whichever comes first."""
    try:
        async with asyncio.timeout(None if until is None else max(0.0, until - time.monotonic())):
            await event.wait()
    except TimeoutError:
        return
