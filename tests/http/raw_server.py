"""A server that says exactly what a test gives it, byte by byte."""

import asyncio
import socket
import struct
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress


@asynccontextmanager
async def raw_server(answer: Callable[[str], bytes], then: str = "close") -> AsyncIterator[tuple[str, list[str]]]:
    """(URL, heads of requests) of a server that says exactly `answer(head)`, then `close`s, `hold`s or `reset`s."""
    heads: list[str] = []
    over = asyncio.Event()

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            heads.append((await reader.readuntil(b"\r\n\r\n")).decode())
            writer.write(answer(heads[-1]))
            await writer.drain()
            if then == "hold":
                await over.wait()
            if then == "reset":
                # What was sent must have been read: a reset throws away what still waits.
                await asyncio.sleep(0.05)
                linger = struct.pack("ii", 1, 0)
                writer.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
                writer.transport.abort()
        writer.close()

    server = await asyncio.start_server(handle, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/file", heads
    finally:
        over.set()
        server.close()
        await server.wait_closed()


def response(body: bytes, status: str = "200 OK", **headers: str) -> bytes:
    """A whole answer; a header that is empty is left out, and `_` stands for `-`."""
    fields = {"Content-Length": str(len(body))} | {name.replace("_", "-"): value for name, value in headers.items()}
    head = "".join(f"{name}: {value}\r\n" for name, value in fields.items() if value)
    return f"HTTP/1.1 {status}\r\n{head}\r\n".encode() + body
