"""A web server for a mirror's tree, which behaves like a good one until it is told not to."""

import asyncio
import gzip
import io
import os
import socket
import struct
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from email.utils import formatdate
from fnmatch import fnmatchcase
from pathlib import Path
from ssl import SSLContext
from typing import BinaryIO, NamedTuple, NoReturn

from aiohttp import web

from deploy.local.mirror.faults import (
    Cut,
    DripHead,
    Endless,
    Fault,
    Flip,
    Gzip,
    Hang,
    HugeHeader,
    IgnoreRange,
    Part,
    Raw,
    Redirect,
    Reset,
    Slow,
    Status,
    WrongLength,
)
from deploy.local.mirror.mirror import Mirror

CHUNK_BYTES = 1 << 20
SHUTDOWN_SECONDS = 0.1  # how long the end waits for answers under way; the hanging ones would never end


class Request(NamedTuple):
    """A request as it was answered. `path` is relative to the mirror, as in its metadata; status 0 is no answer."""

    method: str
    path: str
    range: str | None
    status: int


@dataclass
class Rule:
    pattern: str
    fault: Fault
    left: int | None  # requests it still applies to; None: all


@dataclass
class Server:
    """A running server. `url` ends with a slash: paths of the mirror are appended to it."""

    url: str
    root: Path
    requests: list[Request] = field(default_factory=list)
    rules: list[Rule] = field(default_factory=list)
    moments: dict[int, Callable[[], object]] = field(default_factory=dict)
    _listen: Callable[[SSLContext | None], Awaitable[web.TCPSite]] | None = None
    _site: web.TCPSite | None = None
    _ssl: SSLContext | None = None

    @asynccontextmanager
    async def switched_off(self) -> AsyncIterator[None]:
        """Inside, nothing listens at the server's address; after it, what listened before does again."""
        if self._site is None or self._listen is None:
            raise RuntimeError("The server does not run.")
        await self._site.stop()
        try:
            yield
        finally:
            self._site = await self._listen(self._ssl)

    @asynccontextmanager
    async def presenting(self, ssl: SSLContext | None) -> AsyncIterator[None]:
        """Inside, the server has this certificate, or with None speaks no TLS; after it, what it had before."""
        before = self._ssl
        async with self.switched_off():
            self._ssl = ssl
        try:
            yield
        finally:
            async with self.switched_off():
                self._ssl = before

    def at_request(self, number: int, act: Callable[[], object]) -> None:
        """Before the `number`th request from now on is answered, 1 for the next, call `act`, once and in a thread."""
        self.moments[len(self.requests) + number] = act

    def misbehave(self, pattern: str, fault: Fault, times: int | None = None) -> None:
        """Apply the fault to the next `times` requests (None: all) whose path matches the glob; `*` crosses slashes.

        Where several faults match, the one asked for first applies until it is used up.
        """
        self.rules.append(Rule(pattern, fault, times))

    def behave(self) -> None:
        """Forget every fault and act asked for; what is under way slowly goes on at full speed."""
        self.rules.clear()
        self.moments.clear()

    def asked(self, pattern: str = "*") -> list[Request]:
        """The requests so far whose path matches the glob, oldest first."""
        return [request for request in self.requests if fnmatchcase(request.path, pattern)]

    async def handle(self, request: web.Request) -> web.StreamResponse:
        path = request.match_info["path"]
        if act := self.moments.pop(len(self.requests) + 1, None):
            await asyncio.to_thread(act)
        match fault := self._next_fault(path):
            case Hang(after=None):
                self._note(request, path, 0)
                await _for_ever()
            case Cut(after=None) | Reset(after=None) | Raw() | DripHead():
                self._note(request, path, 0)
                await _break_off(request, fault)
                return web.Response()
            case Status(code, headers, body):
                response = web.Response(status=code, headers=headers, body=body)
            case Redirect(to, code):
                response = web.Response(status=code, headers={"Location": to or str(request.url)})
            case _:
                return await self._answer(request, path, fault)
        self._note(request, path, response.status)
        return response

    def _next_fault(self, path: str) -> Fault | None:
        for rule in self.rules:
            if rule.left != 0 and fnmatchcase(path, rule.pattern):
                rule.left = rule.left and rule.left - 1
                return rule.fault
        return None

    def _stands(self, fault: Fault) -> bool:
        return any(rule.fault is fault for rule in self.rules)

    def _note(self, request: web.Request, path: str, status: int) -> None:
        self.requests.append(Request(request.method, path, request.headers.get("Range"), status))

    async def _answer(self, request: web.Request, path: str, fault: Fault | None) -> web.StreamResponse:
        # Opened here, not in a thread: of a request cancelled meanwhile nobody would be left to close the file.
        file = _open(self.root, path)
        if file is None:
            self._note(request, path, 404)
            return web.Response(status=404)
        with file:
            validators = _validators(file)
            source: BinaryIO = file
            if isinstance(fault, Gzip):
                source = io.BytesIO(await asyncio.to_thread(lambda: gzip.compress(file.read(), compresslevel=1)))
            size = source.seek(0, os.SEEK_END)
            status, start, stop = _part(request, validators, size, fault)
            self._note(request, path, status)
            response = web.StreamResponse(status=status, headers=validators | {"Accept-Ranges": "bytes"})
            _describe(response, start, stop, size, fault)
            if request.method == "HEAD" or status in (304, 416):
                return response
            try:
                await response.prepare(request)
                async for chunk in _body(source, start, stop, fault, self._stands):
                    await response.write(chunk)
                if isinstance(fault, Hang):
                    await _for_ever()
                if isinstance(fault, Cut | WrongLength | Reset):
                    await _break_off(request, fault)
            except ConnectionError:
                pass  # the client has seen enough
            return response


@asynccontextmanager
async def serve(
    mirror: Mirror, *, host: str = "127.0.0.1", port: int = 0, prefix: str = "/", ssl: SSLContext | None = None
) -> AsyncIterator[Server]:
    """Serve the mirror's tree from disk, under `prefix`, until the block ends; port 0 picks a free one.

    What is published meanwhile, by this process or another, is served at once. OSError when the port is taken.
    """
    server = Server("", mirror.root, _ssl=ssl)
    application = web.Application()
    application.router.add_get(f"{prefix}{{path:.*}}", server.handle)
    runner = web.AppRunner(application, access_log=None, handler_cancellation=True, shutdown_timeout=SHUTDOWN_SECONDS)
    await runner.setup()

    async def listen(context: SSLContext | None) -> web.TCPSite:
        site = web.TCPSite(runner, host, bound or port, ssl_context=context)
        await site.start()
        return site

    bound = 0
    try:
        server._site = await listen(ssl)
        bound = runner.addresses[0][1]
        server._listen = listen
        server.url = f"{'https' if ssl else 'http'}://{host}:{runner.addresses[0][1]}{prefix}"
        yield server
    finally:
        await runner.cleanup()


def _open(root: Path, path: str) -> BinaryIO | None:
    """The file at a path below the root, or None where there is no such file."""
    file = (root / path).resolve()
    return file.open("rb") if file.is_relative_to(root.resolve()) and file.is_file() else None


def _validators(file: BinaryIO) -> dict[str, str]:
    """ETag and Last-Modified, from what the open file is rather than from what its path has become."""
    stat = os.fstat(file.fileno())
    return {
        "ETag": f'"{stat.st_mtime_ns:x}-{stat.st_size:x}"',
        "Last-Modified": formatdate(stat.st_mtime, usegmt=True),
    }


def _part(request: web.Request, validators: dict[str, str], size: int, fault: Fault | None) -> tuple[int, int, int]:
    """Status, start and stop of the answer (RFC 9110, sections 13 and 14).

    aiohttp's FileResponse is no help here: it compares If-Range as a date only, and answers 206 to an ETag that no
    longer holds. A Range that cannot be parsed, or names several parts, is ignored, as section 14.2 allows.
    """
    if (known := request.if_none_match) is not None:
        if any(f'"{tag.value}"' == validators["ETag"] or tag.value == "*" for tag in known):
            return 304, 0, 0
    elif request.headers.get("If-Modified-Since") == validators["Last-Modified"]:
        return 304, 0, 0
    whole = 200, 0, size
    if isinstance(fault, Part):
        return 206, 0, size
    if_range = request.headers.get("If-Range")
    if isinstance(fault, IgnoreRange | Gzip) or (if_range is not None and if_range not in validators.values()):
        return whole
    try:
        wanted = request.http_range
    except ValueError:
        return whole
    if wanted.start is None:
        return whole
    start, stop, _ = wanted.indices(size)
    return (206, start, stop) if start < stop else (416, 0, 0)


def _describe(response: web.StreamResponse, start: int, stop: int, size: int, fault: Fault | None) -> None:
    """Set the headers that depend on the part and on the fault."""
    response.content_type = "application/octet-stream"
    if response.status == 206:
        response.headers["Content-Range"] = f"bytes {start}-{stop - 1}/{size}"
    elif response.status == 416:
        response.headers["Content-Range"] = f"bytes */{size}"
    match fault:
        case Endless():
            response.enable_chunked_encoding()
            return
        case Part(content_range):
            response.headers["Content-Range"] = content_range
        case WrongLength(by):
            stop += by
        case HugeHeader(length):
            response.headers["X-Padding"] = "x" * length
        case Gzip():
            response.headers["Content-Encoding"] = "gzip"
    response.content_length = stop - start


async def _body(
    file: BinaryIO, start: int, stop: int, fault: Fault | None, stands: Callable[[Fault], bool]
) -> AsyncIterator[bytes]:
    step = CHUNK_BYTES
    match fault:
        case Cut(int(after)) | Hang(int(after)) | Reset(int(after)):
            stop = min(stop, start + after)
        case Slow(rate):
            step = max(1, rate // 20)
    file.seek(start)
    for offset in range(start, stop, step):
        chunk = await asyncio.to_thread(file.read, min(step, stop - offset))
        match fault:
            case Flip(at) if offset <= at < offset + len(chunk):
                i = at - offset
                chunk = chunk[:i] + bytes([chunk[i] ^ 0xFF]) + chunk[i + 1 :]
            case Slow(rate) if stands(fault):
                await asyncio.sleep(len(chunk) / rate)
        yield chunk
    while isinstance(fault, Endless):
        yield bytes(CHUNK_BYTES)


async def _break_off(request: web.Request, fault: Fault) -> None:
    """End the connection as the fault says."""
    transport = request.transport
    if transport is None:
        return
    match fault:
        case Raw(says):
            transport.write(says)
        case DripHead(every_s):
            transport.write(b"HTTP/1.1 200 OK\r\nX: ")
            while not transport.is_closing():
                transport.write(b"x")
                await asyncio.sleep(every_s)
        case Reset():
            # What was sent must have been read: a reset throws away what still waits.
            await asyncio.sleep(0.05)
            linger = struct.pack("ii", 1, 0)
            transport.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
            transport.abort()
    transport.close()


async def _for_ever() -> NoReturn:
    """Wait until the client leaves or the server stops: aiohttp cancels the handler then."""
    await asyncio.Event().wait()
    raise AssertionError("nobody sets this event")
