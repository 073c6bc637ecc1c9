"""One rack that runs inside a test: its polls, its beat, and what machines get from it."""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import aiohttp
from aiohttp import web

from rack import identity as identities
from rack import serve
from rack.beat import Beat
from rack.client import Region
from rack.connections import Runner
from rack.haste import Haste
from rack.poll import Habits, Poller
from shared.download import Transfer
from shared.errors import BootferryError
from shared.http import client_session
from shared.names import Name
from shared.patience import Patience
from shared.store.disk import DiskStore
from tests.http.fake_region import FakeRegion

QUICK = Patience(attempts=3, first_s=0.01, most_s=0.02, asked_most_s=0.5)


@dataclass
class Clock:
    """The rack's wall clock, moved by hand."""

    offset: timedelta = timedelta()

    def __call__(self) -> datetime:
        return datetime.now(UTC) + self.offset


@dataclass
class Rack:
    """One rack that runs inside the test."""

    root: Path
    poller: Poller
    beat: Beat
    store: DiskStore
    clock: Clock
    link_clock: Clock
    machine: aiohttp.ClientSession

    async def boot(self, path: str, **headers: str) -> tuple[int, bytes]:
        """What a machine gets for `path`."""
        async with self.machine.get(f"/images/{path}", headers=headers) as response:
            return response.status, await response.read()

    def error(self) -> BootferryError | None:
        """What the last poll ended with."""
        return self.poller.belief.last_error


@asynccontextmanager
async def running_rack(
    region: FakeRegion,
    root: Path,
    *,
    grace_s: float = 3600.0,
    again: bool = False,
    at_once: int = 4,
    **habits: float,
) -> AsyncIterator[Rack]:
    async with client_session(connect_timeout_s=2.0, read_timeout_s=2.0) as session:
        if again or not (root / "identity").exists():
            await identities.enrol(session, root, region.url, region.token, Name("rack-a"), again=again)
        identity = identities.load(root)
        # The region checks that requests are signed now: what signs them has a clock of its own.
        clock, link_clock = Clock(), Clock()
        link = Region(session, identity, now=link_clock)
        with ThreadPoolExecutor(4) as executor:
            store = DiskStore(root)
            poller = Poller(
                root,
                store,
                identity,
                link,
                Transfer(session, executor, sign=link.sign),
                habits=Habits(
                    at_once=at_once,
                    prune_grace_s=grace_s,
                    patience=QUICK,
                    report_every_s=0.05,
                    report_again=QUICK,
                    **habits,
                ),
                rng=random.Random(1),
                now=clock,
                elapsed_s=lambda: time.monotonic() + clock.offset.total_seconds(),
                host="0.0.0.0",  # noqa: S104
                port=5248,
            )
            beat = Beat(
                poller, link, rng=random.Random(2), reconnect=QUICK, haste=Haste(every_s=0.05), hint_pause_s=0.0
            )
            poller.recover()
            server = Runner(serve.application(root, poller.belief, beat.doubt))
            await server.setup()
            try:
                await web.TCPSite(server, "127.0.0.1", 0).start()
                base = f"http://127.0.0.1:{server.addresses[0][1]}"
                async with aiohttp.ClientSession(base, auto_decompress=False) as machine:
                    yield Rack(root, poller, beat, store, clock, link_clock, machine)
            finally:
                await server.cleanup()


async def until(condition: Callable[[], bool], *, within_s: float = 5.0) -> None:
    async with asyncio.timeout(within_s):
        while not condition():  # noqa: ASYNC110
            await asyncio.sleep(0.01)
