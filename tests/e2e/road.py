"""A slow road between a rack and its region: what the region answers passes at a rate the test chooses."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

STEPS_A_SECOND = 20


@dataclass(slots=True)
class Road:
    """A relay of TCP connections. `bytes_per_second` None lets everything pass at once; it may change at any time."""

    to_port: int
    bytes_per_second: int | None = None
    base: str = ""

    async def _travel(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError):
            far_reader, far_writer = await asyncio.open_connection("127.0.0.1", self.to_port)
            with contextlib.closing(writer), contextlib.closing(far_writer):
                there = asyncio.create_task(self._carry(reader, far_writer, slowly=False))
                back = asyncio.create_task(self._carry(far_reader, writer, slowly=True))
                try:
                    await asyncio.wait({there, back}, return_when=asyncio.FIRST_COMPLETED)
                finally:
                    for task in (there, back):
                        task.cancel()
                    await asyncio.gather(there, back, return_exceptions=True)
        writer.close()

    async def _carry(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, slowly: bool) -> None:
        while True:
            rate = self.bytes_per_second if slowly else None
            part = await reader.read(rate // STEPS_A_SECOND if rate else 1 << 20)
            if not part:
                return
            writer.write(part)
            await writer.drain()
            if rate:
                await asyncio.sleep(len(part) / rate)


@asynccontextmanager
async def road(to_port: int, *, bytes_per_second: int) -> AsyncIterator[Road]:
    """A road to a port of this machine; `base` is the address of its near end."""
    made = Road(to_port, bytes_per_second)
    under_way: set[asyncio.Task[None]] = set()

    def begin(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(made._travel(reader, writer))
        under_way.add(task)
        task.add_done_callback(under_way.discard)

    server = await asyncio.start_server(begin, "127.0.0.1", 0)
    made.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
    try:
        yield made
    finally:
        server.close()
        for task in list(under_way):
            task.cancel()
        await asyncio.gather(*under_way, return_exceptions=True)
        await server.wait_closed()
