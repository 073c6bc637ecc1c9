"""A machine that boots all the time: it asks a rack for names and checks every byte against the mirror."""

import asyncio
import random
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass, field
from hashlib import sha256

import aiohttp

from tests.chaos.legit import Legit


@dataclass(slots=True)
class Machine:
    """Asks `base` for names it may get. What it finds wrong is in `violations`.

    A name of a `lasting` image, which nobody unselects, that was served once is served ever after while the rack
    answers at all, and never in an older version; unless `spoiled`: the test has harmed files on purpose.
    """

    base: str
    legit: Legit
    rng: random.Random
    lasting: tuple[str, ...] = ("/resolute/", "bootloader/")
    served: dict[str, str] = field(default_factory=dict)
    """The newest version that was served of a name."""

    answers: Counter[str] = field(default_factory=Counter)
    violations: list[str] = field(default_factory=list)
    spoiled: bool = False
    paused_s: float = 0.005

    async def boot(self, session: aiohttp.ClientSession, name: str) -> int:
        """Ask for one name; the status, 0 for no answer."""
        try:
            async with session.get(f"{self.base}/images/{name}") as response:
                body = await response.read()
        except (aiohttp.ClientError, TimeoutError):
            self.answers["no answer"] += 1
            return 0
        self.answers[str(response.status)] += 1
        if response.status == 200:
            digest = sha256(body).hexdigest()
            if not self.legit.allows(name, digest):
                self.violations.append(f"I2: wrong bytes served for {name}: {digest}, {len(body)} bytes")
            version = self.legit.version(name, digest)
            if self._lasts(name) and version < self.served.get(name, ""):
                self.violations.append(f"I4: {name} was of {self.served[name]} before, and is of {version} now")
            self.served[name] = max(version, self.served.get(name, ""))
        elif name in self.served and self._lasts(name):
            self.violations.append(f"I4: {name} was served before, and is {response.status} now: {body[:100]!r}")
        return response.status

    def _lasts(self, name: str) -> bool:
        return not self.spoiled and any(part in name for part in self.lasting)

    async def run(self) -> None:
        """Boot until cancelled."""
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            while True:
                names = sorted(self.served) if self.rng.random() < 0.8 else []
                await self.boot(session, self.rng.choice(names or sorted(self.legit.versions)))
                await asyncio.sleep(self.paused_s)

    def found(self) -> list[str]:
        """The violations since the last call."""
        taken, self.violations = self.violations, []
        return taken

    async def boot_all(self, names: set[str]) -> None:
        """Ask once for each of these names."""
        timeout = aiohttp.ClientTimeout(total=20)
        async with aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session:
            for name in sorted(names):
                await self.boot(session, name)


async def ended(task: "asyncio.Task[None]") -> None:
    """Cancel the task and wait for its end."""
    task.cancel()
    with suppress(asyncio.CancelledError):
        await task
