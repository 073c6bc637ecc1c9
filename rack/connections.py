"""The connections of machines: how many there are, how long each may be silent, and what a bad one costs.

Anybody on the machines' network may connect, so none of this asks who it is (RFC 9112 where HTTP is meant):

- A head has `HEAD_WITHIN_S` seconds from its first byte, a silent connection `KEEPALIVE_S`.
- When there are too many, the one that was silent longest is closed. Where all of them are being answered, it is the
  oldest of the address that has most of them. The newcomer stays: it may be a machine that boots.
- Heads are small, bodies are not read.
- A machine that has ended its own half of the connection still gets its answer; over TLS nobody can say so.
- A TLS handshake counts as a silent connection from its first byte, and has its own time (`shared.handshakes`).
- A bad request is one short line in the log; a mistake of ours is told in full.

The server below is aiohttp's; this is what it leaves open.
"""

import asyncio
import socket
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, cast

from aiohttp import web
from aiohttp.http_exceptions import HttpProcessingError

from shared.handshakes import HANDSHAKE_S, Handshakes
from shared.logs import logger
from shared.tls import Certificate

KEEPALIVE_S = 75.0
SHUTDOWN_S = 4.0
"""How long a request may still run after the rack was told to stop; aiohttp takes this twice for one that clings."""

HEAD_WITHIN_S = 20.0
MAX_CONNECTIONS = 2048
MAX_LINE_BYTES = 4096
MAX_HEADERS = 64

_log = logger(__name__)


class Runner(web.AppRunner):
    """An application, ready to be given sockets; its `cleanup` lets running requests end for a few seconds."""

    def __init__(
        self, app: web.Application, *, most: int = MAX_CONNECTIONS, head_within_s: float = HEAD_WITHIN_S
    ) -> None:
        super().__init__(
            app,
            access_log=None,
            keepalive_timeout=KEEPALIVE_S,
            shutdown_timeout=SHUTDOWN_S,
            max_line_size=MAX_LINE_BYTES,
            max_field_size=MAX_LINE_BYTES,
            max_headers=MAX_HEADERS,
            lingering_time=1.0,
        )
        self.most, self.head_within_s = most, head_within_s

    async def _make_server(self) -> web.Server:
        made = await super()._make_server()
        return _Connections(self, made)


class SecureSite(web.SockSite):
    """A socket whose connections speak TLS, by the newest pair of `certificate`."""

    def __init__(
        self, runner: Runner, sock: socket.socket, certificate: Certificate, *, handshake_s: float = HANDSHAKE_S
    ) -> None:
        super().__init__(runner, sock)
        self._certificate, self._within_s = certificate, handshake_s
        self._handshakes: Handshakes | None = None

    async def start(self) -> None:
        """Begin to listen."""
        await web.BaseSite.start(self)
        connections = cast(_Connections, self._runner.server)
        handshakes = self._handshakes = Handshakes(
            lambda: self._certificate.context, connections.enter, within_s=self._within_s
        )
        self._server = await asyncio.get_running_loop().create_server(
            lambda: handshakes.protocol(connections), sock=self._sock, backlog=1024
        )

    async def stop(self) -> None:
        """Listen no longer; a handshake has nobody waiting for it yet."""
        await super().stop()
        if self._handshakes is not None:
            self._handshakes.close()


class _Connections(web.Server):
    """All connections of machines, those that were silent longest first."""

    def __init__(self, runner: Runner, made: web.Server) -> None:
        super().__init__(made.request_handler, request_factory=made.request_factory, loop=made._loop, **made._kwargs)
        self._runner = runner
        self._order: dict[_Connection, None] = {}
        self._handshakes: dict[object, Callable[[], None]] = {}
        """What closes each of the connections that shake hands, the oldest first."""

    def __call__(self) -> web.RequestHandler:
        return _Connection(self, self._runner.head_within_s, loop=self._loop, **self._kwargs)

    def connection_made(self, handler: web.RequestHandler, transport: asyncio.Transport) -> None:
        super().connection_made(handler, transport)
        if isinstance(handler, _Connection):
            self._make_room()
            self._order[handler] = None

    def enter(self, _host: str, close: Callable[[], None]) -> Callable[[], None]:
        """A new connection, before its TLS handshake; what it answers is to be called when that is over."""
        self._make_room()
        this = object()
        self._handshakes[this] = close
        return lambda: self._handshakes.pop(this, None) and None

    def connection_lost(self, handler: web.RequestHandler, exc: BaseException | None = None) -> None:
        super().connection_lost(handler, exc)
        if isinstance(handler, _Connection):
            self._order.pop(handler, None)

    def answered(self, connection: "_Connection") -> None:
        """It was silent last of all."""
        if self._order.pop(connection, self) is None:
            self._order[connection] = None

    def _make_room(self) -> None:
        """One more may come when this returns."""
        if len(self._order) + len(self._handshakes) < self._runner.most:
            return
        if self._handshakes:
            close = self._handshakes.pop(next(iter(self._handshakes)))
            close()
            return
        victim = next((connection for connection in self._order if connection.is_silent), None)
        if victim is None:
            (hog, _), *_ = Counter(connection.address for connection in self._order).most_common(1)
            victim = next(connection for connection in self._order if connection.address == hog)
        del self._order[victim]
        if victim.is_silent or victim.transport is None:
            victim.force_close()
        else:
            # Whoever sends to it finds the connection broken, as if the machine had gone, and ends it.
            with suppress(OSError):
                victim.transport.get_extra_info("socket").shutdown(socket.SHUT_RDWR)


class _Connection(web.RequestHandler):
    """One connection of a machine."""

    __slots__ = ("_answered", "_connections", "_head", "_head_within_s", "address")

    def __init__(self, connections: _Connections, head_within_s: float, **how: Any) -> None:
        super().__init__(connections, **how)
        self._connections, self._head_within_s = connections, head_within_s
        self._answered = 0
        self._head: asyncio.TimerHandle | None = None
        self.address = ""

    @property
    def is_silent(self) -> bool:
        """True if it has asked for nothing that is not answered."""
        return self._answered == self._request_count

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        peer = transport.get_extra_info("peername")
        self.address = str(peer[0]) if peer else ""
        super().connection_made(transport)

    def connection_lost(self, exc: BaseException | None) -> None:
        self._head_is_whole()
        super().connection_lost(exc)

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        if not self.is_silent:
            self._head_is_whole()
        elif self._head is None and data:
            self._head = self._loop.call_later(self._head_within_s, self.force_close)

    def eof_received(self) -> bool:  # type: ignore[override]
        """True, which keeps this half of the connection open, while something is still to be answered."""
        self.close()
        secure = self.transport is not None and self.transport.get_extra_info("ssl_object") is not None
        return not self.is_silent and not secure

    async def _handle_request(
        self,
        request: web.BaseRequest,
        start_time: float | None,
        request_handler: Callable[[web.BaseRequest], Awaitable[web.StreamResponse]],
    ) -> tuple[web.StreamResponse, bool]:
        self._head_is_whole()
        try:
            return await super()._handle_request(request, start_time, request_handler)
        finally:
            self._answered += 1
            self._connections.answered(self)

    def log_exception(self, *args: Any, **how: Any) -> None:
        """One line, without a traceback, for what the machine did wrong."""
        if isinstance(error := how.get("exc_info"), HttpProcessingError):
            why = " ".join(error.message.split())[:80]
            _log.debug("A request was no HTTP.", action="serve", address=self.address, why=why)
        else:
            super().log_exception(*args, **how)

    def _head_is_whole(self) -> None:
        if self._head is not None:
            self._head.cancel()
            self._head = None
