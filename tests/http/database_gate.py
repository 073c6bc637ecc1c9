"""A gate before a PostgreSQL of the tests: it lets connections through, or refuses them in a way that server cannot.

What is changed, and what it answers by itself, is bytes of the protocol, version 3
(https://www.postgresql.org/docs/15/protocol-message-formats.html).
"""

import asyncio
import contextlib
import ssl
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from enum import Enum, auto

_SSL_REQUEST = 80877103
_STARTING = b"SFATAL\0VFATAL\0C57P03\0Mthe database system is starting up\0\0"


class Way(Enum):
    """What the gate does with who comes."""

    THROUGH = auto()
    FROZEN = auto()
    """It takes connections, and bytes, and answers nothing; also those that were let through."""

    STARTING = auto()
    """As PostgreSQL does while it starts."""

    WEB_SERVER = auto()
    CLOSING = auto()
    """It takes connections, and closes them."""

    OLD = auto()
    """It says that it is PostgreSQL 14."""

    POOLING = auto()
    """Each transaction is given to the session that was free last, whoever made it."""


_Ends = tuple[asyncio.StreamReader, asyncio.StreamWriter]


@dataclass(slots=True)
class Gate:
    """A port before the server at `server_port`. Change `way` and `tls` at any time, then `cut` what there is."""

    server_port: int
    port: int = 0
    way: Way = Way.THROUGH
    tls: ssl.SSLContext | None = None
    came: int = 0
    _open: set[asyncio.StreamWriter] = field(default_factory=set)
    _idle: list[_Ends] = field(default_factory=list)
    _listening: asyncio.Server | None = None

    async def open(self) -> None:
        """Listen, at the port of before if there was one."""
        self._listening = await asyncio.start_server(self._enter, "127.0.0.1", self.port)
        self.port = self._listening.sockets[0].getsockname()[1]

    async def close(self) -> None:
        """Listen no longer; whoever is inside stays."""
        if self._listening is not None:
            self._listening.close()
            self._listening = None

    def cut(self) -> None:
        """End every connection."""
        for writer in self._open:
            writer.transport.abort()
        self._open.clear()
        self._idle.clear()

    async def _enter(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.came += 1
        self._open.add(writer)
        try:
            await self._serve(reader, writer)
        except (OSError, asyncio.IncompleteReadError, ssl.SSLError):
            pass
        finally:
            self._open.discard(writer)
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        first = await _startup(reader)
        if self.way is Way.CLOSING:
            return
        if struct.unpack("!i", first[4:8])[0] == _SSL_REQUEST:
            if self.way is Way.WEB_SERVER:
                writer.write(b"HTTP/1.1 400 Bad Request\r\n\r\n")
                return
            writer.write(b"S" if self.tls else b"N")
            if self.tls:
                await writer.start_tls(self.tls)
            first = await _startup(reader)
        while self.way is Way.FROZEN:  # noqa: ASYNC110
            await asyncio.sleep(0.05)
        if self.way is Way.STARTING:
            writer.write(b"E" + struct.pack("!i", len(_STARTING) + 4) + _STARTING)
            await writer.drain()
            return
        server_reader, server_writer = await asyncio.open_connection("127.0.0.1", self.server_port)
        self._open.add(server_writer)
        server_writer.write(first)
        try:
            if self.way is Way.POOLING:
                await self._pool((reader, writer), (server_reader, server_writer))
            else:
                async with asyncio.TaskGroup() as tasks:
                    tasks.create_task(self._pass(reader, server_writer))
                    tasks.create_task(self._pass(server_reader, writer))
        except* (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            if (server_reader, server_writer) not in self._idle:
                self._open.discard(server_writer)
                server_writer.transport.abort()

    async def _pass(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65536):
            while self.way is Way.FROZEN:  # noqa: ASYNC110
                await asyncio.sleep(0.05)
            if self.way is Way.OLD:
                data = data.replace(b"server_version\x0018", b"server_version\x0014")
            writer.write(data)
            await writer.drain()
        # One side has ended it: so does the other.
        raise ConnectionResetError

    async def _pool(self, client: _Ends, server: _Ends) -> None:
        # The log-in, as it is; after it nobody has a server of his own.
        while (answer := await self._answer(server, client)) != b"I":
            if answer == b"R":
                server[1].write(await _frame(client[0]))
        self._idle.append(server)
        free = asyncio.Event()
        free.set()

        async def pump(held: _Ends) -> None:
            while await self._answer(held, client) != b"I":
                pass
            self._idle.append(held)
            free.set()

        held = server
        async with asyncio.TaskGroup() as tasks:
            while (frame := await _frame(client[0]))[:1] != b"X":
                if free.is_set():
                    while not self._idle:  # noqa: ASYNC110
                        await asyncio.sleep(0.01)
                    held = self._idle.pop()
                    free.clear()
                    tasks.create_task(pump(held))
                held[1].write(frame)

    async def _answer(self, server: _Ends, client: _Ends) -> bytes:
        """Pass one message on. The state of the transaction when it is ReadyForQuery; R when an answer is wanted."""
        frame = await _frame(server[0])
        client[1].write(frame)
        await client[1].drain()
        if frame[:1] == b"Z":
            return frame[5:6]
        # SASL (10) and its continuation (11) want an answer; that it is final (12) and good (0) do not.
        wants = frame[:1] == b"R" and struct.unpack("!i", frame[5:9])[0] in (10, 11)
        return b"R" if wants else b""


async def _startup(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(4)
    return head + await reader.readexactly(struct.unpack("!i", head)[0] - 4)


async def _frame(reader: asyncio.StreamReader) -> bytes:
    head = await reader.readexactly(5)
    return head + await reader.readexactly(struct.unpack("!i", head[1:])[0] - 4)


@asynccontextmanager
async def gate(server_port: int) -> AsyncIterator[Gate]:
    """A gate that is open, before the server at `server_port` of this machine."""
    made = Gate(server_port)
    await made.open()
    try:
        yield made
    finally:
        await made.close()
        made.cut()
        with contextlib.suppress(asyncio.CancelledError):
            await asyncio.sleep(0)
