"""How late the event loop is that region and test share: time that nobody has waited for."""

import asyncio
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass


@dataclass(slots=True)
class Lateness:
    """How long the event loop did not come to its turn, in all."""

    total_s: float = 0.0


@asynccontextmanager
async def lateness() -> AsyncIterator[Lateness]:
    """Inside, it is measured."""
    late = Lateness()

    async def look() -> None:
        while True:
            started = time.monotonic()
            await asyncio.sleep(0.01)
            late.total_s += max(0.0, time.monotonic() - started - 0.02)

    looking = asyncio.create_task(look())
    try:
        yield late
    finally:
        looking.cancel()
