"""The region's HTTP server: uvicorn, and files that never pass through Python.

On a plain connection the server offers the ASGI extension `http.response.zerocopysend` and answers it with
sendfile(2): one mechanism for whole files and for ranges, of a file the application has opened and checked. Over TLS
the kernel would send the plain bytes, so the extension is not offered; an application then sends body messages. What
lies between application and server must pass on messages it does not know: Starlette's BaseHTTPMiddleware does not.

Behind the extension stand three facts. The transport's buffer must be empty before anybody else writes to its socket,
so its limits drop to zero until it says so. libuv keeps one handle per descriptor, and asyncio refuses a transport's
own, so readiness is asked of a duplicate. And sendfile blocks on a disk, so a step goes out from the event loop only
when its bytes are in the page cache; otherwise a thread fetches them first.
"""

import asyncio
import errno
import os
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, ClassVar, Literal, cast

import uvicorn
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle

from region.edge.house import House, Visitor
from region.edge.secure import SecureServer
from shared.handshakes import HANDSHAKE_S
from shared.logs import logger
from shared.tls import Certificate

ZERO_COPY = "http.response.zerocopysend"
"""https://asgi.readthedocs.io/en/latest/extensions.html#zero-copy-send"""

TURN_BYTES = 2 * 1024 * 1024
"""What all transfers together send before every other connection has its turn, within the steps below."""

MIN_STEP_BYTES = 128 * 1024
MAX_STEP_BYTES = 512 * 1024
READ_AHEAD_BYTES = 4 * 1024 * 1024
KEEP_ALIVE_S = 75
HEAD_S = 20
"""A request's line and headers arrive within so many seconds of the connection, or of their own first byte."""

MAX_HEAD_BYTES = 32 * 1024
MAX_HEADERS = 100
MAX_CHUNKS = 4_096
"""Of one body: each costs as much as a kilobyte does."""

MAX_PIPELINED = 16
"""Requests that wait on one connection for the answer to an earlier one."""

BACKLOG = 1_024
"""Connections that the kernel holds until they are taken: as many as are taken at once, at 45 microseconds each.

Whoever comes while it is full is tried again by their own kernel, after a second. net.core.somaxconn caps it.
"""

STALL_S = 60.0
"""A client takes something of a file, or what else is waiting for it (1 MiB at most), within so many seconds."""

_CLIENT_GONE = frozenset(
    {
        errno.EPIPE,
        errno.ECONNRESET,
        errno.ECONNABORTED,
        errno.ENOTCONN,
        errno.ETIMEDOUT,
        errno.EHOSTUNREACH,
        errno.ENETUNREACH,
    }
)

_log = logger(__name__)


def build_server(
    app: ASGIApp,
    *,
    host: str,
    port: int,
    shutdown_grace_s: int,
    certificate: Certificate | None = None,
    house: House | None = None,
    proxies: Sequence[str] = (),
    stall_s: float = STALL_S,
    handshake_s: float = HANDSHAKE_S,
    loop: Literal["uvloop", "asyncio"] = "uvloop",
) -> uvicorn.Server:
    """A server for `app`; `run()` serves until SIGINT or SIGTERM, on the `loop` named here.

    With a `certificate` it speaks TLS, and takes a new pair as its files come. After the signal, running answers have
    `shutdown_grace_s` seconds; event streams, which have no end to wait for, are closed at once. A client that takes
    nothing for `stall_s` seconds loses its connection, and so may strangers when their `house` is full. Forwarded
    headers count only when they come from `proxies`, addresses or networks. Logging is the caller's, and so is the
    limit of a request's body: only the application can refuse one in its own words.
    """

    class Protocol(FileProtocol):
        sending: ClassVar[set[HttpToolsProtocol]] = set()

    Protocol.stall_s = stall_s
    Protocol.house = house or House()
    config = uvicorn.Config(
        cast(Any, app),
        host=host,
        port=port,
        loop=loop,
        http=Protocol,
        ws="none",
        lifespan="on",
        workers=1,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=True,
        forwarded_allow_ips=list(proxies),
        backlog=BACKLOG,
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=shutdown_grace_s,
    )
    if certificate is None:
        return uvicorn.Server(config)
    return SecureServer(config, certificate, Protocol.house, handshake_s)


class FileProtocol(HttpToolsProtocol):
    """uvicorn's HTTP/1.1 with files sent by the kernel, an end to every wait for a client, and a limit to strangers.

    `request.state.visitor` is the connection that a request came by.
    """

    stall_s: ClassVar[float]
    house: ClassVar[House]
    sending: ClassVar[set[HttpToolsProtocol]]
    """The connections of this server that are sending a file."""

    _running: RequestResponseCycle | None = None
    _event_stream: RequestResponseCycle | None = None
    _stall_timer: asyncio.TimerHandle | None = None
    _head_timer: asyncio.TimerHandle | None = None
    _head_bytes: int | None = None
    _headers_bytes: int = 0
    _chunks: int = 0
    _visitor: Visitor

    # How long a client may take to ask.

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._visitor = self.house.enter(self.client[0] if self.client else "", transport.abort)
        self._expect_head()

    def data_received(self, data: bytes) -> None:
        before = self._head_bytes
        super().data_received(data)
        if self._head_timer is None and (self.cycle is None or self.cycle.response_complete):
            self._expect_head()
        if self._head_bytes is None:
            return
        if self._head_bytes != before:
            # It began in these bytes, and somewhere in them ends what came before it.
            self._visitor.holds(min(len(data), MAX_HEAD_BYTES))
            return
        self._head_bytes += len(data)
        self._visitor.holds(self._visitor.held_bytes + len(data))
        if self._head_bytes > MAX_HEAD_BYTES:
            self.send_400_response(f"The head of a request is at most {MAX_HEAD_BYTES} bytes long.")

    def on_message_begin(self) -> None:
        super().on_message_begin()
        self._head_bytes = self._headers_bytes = self._chunks = 0

    def on_url(self, url: bytes) -> None:
        super().on_url(url)
        if len(self.url) > MAX_HEAD_BYTES // 2:
            raise ValueError("A request's address is too long.")

    def on_header(self, name: bytes, value: bytes) -> None:
        super().on_header(name, value)
        self._headers_bytes += len(name) + len(value)
        # Each is an object of its own, many times as large as the two bytes it may have come in.
        if len(self.headers) > MAX_HEADERS or self._headers_bytes > MAX_HEAD_BYTES:
            raise ValueError("A request's head is too large.")

    def on_chunk_header(self) -> None:
        """httptools calls it where a chunk begins."""
        self._chunks += 1
        if self._chunks > MAX_CHUNKS:
            raise ValueError("A request's body comes in too many chunks.")

    def on_headers_complete(self) -> None:
        self._head_bytes = None
        self._visitor.holds(0)
        _cancel(self._head_timer)
        self._head_timer = None
        if len(self.pipeline) >= MAX_PIPELINED:
            raise ValueError("A client asks on without waiting for answers.")
        super().on_headers_complete()

    def send_400_response(self, msg: str) -> None:
        if self.cycle is None or self.cycle.response_complete:
            super().send_400_response(msg)
        else:
            # The answer under way would become nonsense.
            self.transport.abort()

    def eof_received(self) -> bool:  # type: ignore[override]
        """True keeps the connection for the answer to a client that has asked all it wants to ask."""
        waits = self.cycle is not None and not self.cycle.response_complete and not self.cycle.more_body
        # Over TLS nobody can say so; of an event stream it can only mean that nobody listens.
        if not waits or self.scheme == "https" or self._event_stream is self._running is not None:
            return False
        self.cycle.keep_alive = False
        return True

    def _expect_head(self) -> None:
        self._head_timer = self.loop.call_later(HEAD_S, self.timeout_keep_alive_handler)

    # How long a client may take to listen.

    def pause_writing(self) -> None:
        super().pause_writing()
        self._visitor.is_silent()
        self._stall_timer = self.loop.call_later(self.stall_s, self._stalled)

    def resume_writing(self) -> None:
        super().resume_writing()
        if self._running is not None and not self._running.response_complete:
            self._visitor.is_busy()
        _cancel(self._stall_timer)

    def _stalled(self) -> None:
        _log.debug(
            f"A client took no bytes for {self.stall_s:g} seconds; its connection was closed.",
            action="client_stalled",
            client=self.client[0] if self.client else None,
        )
        self.transport.abort()

    # How a connection ends.

    def connection_lost(self, exc: Exception | None) -> None:
        self.house.leave(self._visitor)
        _cancel(self._head_timer)
        _cancel(self._stall_timer)
        # uvicorn tells the request it read last, which is not the running one when a client pipelines.
        if self._running is not None and not self._running.response_complete:
            self._running.disconnected = True
            self._running.message_event.set()
        super().connection_lost(exc)

    def shutdown(self) -> None:
        super().shutdown()
        if self._event_stream is not None and not self._event_stream.response_complete:
            self.transport.close()

    # How an answer goes out.

    def _start_asgi_task(self, cycle: RequestResponseCycle, app: Any) -> None:
        self._running = cycle
        self._visitor.is_busy()
        super()._start_asgi_task(cycle, cast(Any, self._serving(cycle, app)))

    def on_response_complete(self) -> None:
        self._visitor.is_silent()
        super().on_response_complete()

    def _serving(self, cycle: RequestResponseCycle, app: ASGIApp) -> Callable[[Scope, Receive, Send], Awaitable[None]]:
        zero_copy = self.scheme == "http"

        async def serve(scope: Scope, receive: Receive, send: Send) -> None:
            async def send_or_copy(message: Message) -> None:
                if message["type"] == ZERO_COPY and zero_copy:
                    await self._send_file(cycle, message)
                    return
                if message["type"] == "http.response.start" and _is_event_stream(message):
                    self._event_stream = cycle
                await send(message)

            scope["state"]["visitor"] = self._visitor
            if zero_copy:
                scope["extensions"] = {ZERO_COPY: {}}
            try:
                await app(scope, receive, send_or_copy)
            except asyncio.CancelledError:
                # Only the end of the shutdown grace cancels a request; uvicorn would log it as the application's fault.
                cycle.disconnected = True
                self.transport.abort()

        return serve

    async def _send_file(self, cycle: RequestResponseCycle, message: Message) -> None:
        if cycle.disconnected or self.transport.is_closing():
            cycle.disconnected = True
            return
        file = message["file"] if isinstance(message["file"], int) else message["file"].fileno()
        offset = message.get("offset")
        if offset is None:
            offset = os.lseek(file, 0, os.SEEK_CUR)
        count = message.get("count")
        if count is None:
            count = os.fstat(file).st_size - offset
        if not cycle.response_started or cycle.response_complete or cycle.chunked_encoding:
            raise RuntimeError(f"{ZERO_COPY} belongs into the body of a response that has a Content-Length.")
        if cycle.scope["method"] != "HEAD":
            if count > cycle.expected_content_length:
                raise RuntimeError("Response content longer than Content-Length")
            await self._flush()
            if not await self._copy(file, offset, count):
                cycle.disconnected = True
                self.transport.abort()
                return
            cycle.expected_content_length -= count
        await cycle.send({"type": "http.response.body", "body": b"", "more_body": message.get("more_body", False)})

    async def _flush(self) -> None:
        """When this returns everything written so far is with the kernel, or the connection is lost."""
        if self.transport.get_write_buffer_size():
            self.transport.set_write_buffer_limits(high=0)
            await self.flow.drain()
            if not self.transport.is_closing():
                self.transport.set_write_buffer_limits()

    async def _copy(self, file: int, offset: int, count: int) -> bool:
        """True if the kernel has all `count` bytes, False if the client is gone, or takes nothing any longer.

        Raises OSError when the disk fails or the file is too short; nothing can mend the answer then.
        """
        if self.transport.is_closing():
            return False
        # A descriptor of our own stays this connection's, whatever becomes of the transport while we wait.
        sock = os.dup(self.transport.get_extra_info("socket").fileno())
        probe = bytearray(1)
        self.sending.add(self)
        try:
            while count and not self.transport.is_closing():
                share = TURN_BYTES // len(self.sending)
                step = min(count, max(MIN_STEP_BYTES, min(share, MAX_STEP_BYTES)))
                if not _in_memory(file, offset + step - 1, probe):
                    await asyncio.to_thread(_read_ahead, file, offset, step)
                try:
                    sent = os.sendfile(sock, file, offset, step)
                except BlockingIOError:
                    if not await self._writable(sock):
                        self._stalled()
                        return False
                    continue
                if sent == 0:
                    raise OSError(errno.EIO, "The file became shorter while it was being sent.")
                offset += sent
                count -= sent
                await asyncio.sleep(0)
        except OSError as error:
            if error.errno not in _CLIENT_GONE:
                self.transport.abort()
                raise
            return False
        finally:
            self.sending.discard(self)
            os.close(sock)
        return count == 0

    async def _writable(self, sock: int) -> bool:
        """True if writing to `sock` gets on, or shows why it cannot; False after `stall_s` seconds."""
        ready: asyncio.Future[bool] = self.loop.create_future()
        self.loop.add_writer(sock, _settle, ready, True)
        timer = self.loop.call_later(self.stall_s, _settle, ready, False)
        try:
            return await ready
        finally:
            timer.cancel()
            self.loop.remove_writer(sock)


def _in_memory(file: int, offset: int, probe: bytearray) -> bool:
    """True if the byte at `offset` is in the page cache. False where the kernel or the file system cannot tell."""
    try:
        return os.preadv(file, [probe], offset, os.RWF_NOWAIT) == 1
    except OSError:
        return False


def _read_ahead(file: int, offset: int, count: int) -> None:
    """Bring the last of `count` bytes into the page cache, and more on their way. Blocks on the disk."""
    os.posix_fadvise(file, offset, READ_AHEAD_BYTES, os.POSIX_FADV_WILLNEED)
    os.pread(file, 1, offset + count - 1)


def _is_event_stream(message: Message) -> bool:
    return any(
        name.lower() == b"content-type" and value.startswith(b"text/event-stream")
        for name, value in message.get("headers", ())
    )


def _settle(future: asyncio.Future[bool], result: bool) -> None:
    if not future.done():
        future.set_result(result)


def _cancel(timer: asyncio.TimerHandle | None) -> None:
    if timer is not None:
        timer.cancel()
