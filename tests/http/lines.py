"""Connections that a test holds in its own hands, and a server at the other end of them."""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import uvicorn

Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


async def read_answer(line: Line) -> tuple[int, bytes]:
    """The status of an answer, and all of it."""
    raw = await asyncio.wait_for(line[0].readuntil(b"\r\n\r\n"), 5)
    length = raw.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0]
    return int(raw.split()[1]), raw + await asyncio.wait_for(line[0].readexactly(int(length or 0)), 5)


async def closed(line: Line) -> bool:
    """True if the other side has ended this connection."""
    with contextlib.suppress(TimeoutError, ConnectionError):
        return await asyncio.wait_for(line[0].read(1), 0.3) == b""
    return line[0].exception() is not None or line[0].at_eof()


@asynccontextmanager
async def serving(server: uvicorn.Server) -> AsyncIterator[None]:
    """Inside, the server listens; its application has no beginning and no end of its own."""
    server.config.lifespan = "off"
    running = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    try:
        yield
    finally:
        server.should_exit = True
        await asyncio.wait_for(running, 10)
