"""What machines get: the names of the tree over HTTP, to be read and nothing else (RFC 9110).

A name is looked up in the tree the rack believes in, never on the disk, so no request can climb out of it; the file
behind it is opened once, so that a request that has begun ends with the bytes it began with, whatever is swapped or
pruned meanwhile. A file that was touched since it was verified, or that the disk does not read, is not served: the
machine hears 503 and Retry-After, and the rack polls soon to look at it. The kernel copies the bytes (sendfile), in
steps as large as the machine's window; inside TLS they pass through this process, a chunk at a time. Who may connect,
and for how long, is in `connections.py`.
"""

import asyncio
import errno
import os
import socket
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from aiohttp import ClientConnectionError, web

from rack.belief import Belief
from rack.metrics import Meters
from rack.tree import Link, Tree, tree_path
from shared.conditions import decide, representation_headers
from shared.logs import logger
from shared.mark import is_verified
from shared.networks import LOOPBACK, Network
from shared.tls import Certificate

RETRY_AFTER_S = 10
CHUNK_BYTES = 256 * 1024
STALLED_AFTER_S = 300
"""A machine that takes no byte for so long is gone."""

_log = logger(__name__)


def application(
    root: Path,
    belief: Belief,
    doubt: Callable[[], None],
    metrics_addresses: Sequence[Network] = LOOPBACK,
    certificate: Certificate | None = None,
) -> web.Application:
    """The HTTP face of the rack in `root`. `doubt` is called when a file was found not to be as it was verified.

    Who asks from `metrics_addresses` reads /metrics, which tells when the `certificate` ends.
    """
    meters = Meters(belief, certificate)

    async def images(request: web.Request) -> web.StreamResponse:
        tree = belief.tree
        if tree is None:
            return _unavailable("This rack holds no image yet.")
        path = request.match_info["path"]
        name = tree.names.get(path)  # type: ignore[call-overload]
        if name is None:
            return web.Response(status=404, text="There is no such file on this rack.\n")
        return await _file(request, root, tree, path, name, doubt, meters)

    async def livez(_request: web.Request) -> web.StreamResponse:
        return web.Response(text="alive\n")

    async def readyz(_request: web.Request) -> web.StreamResponse:
        if belief.tree is None:
            return _unavailable("This rack holds no image yet.")
        return web.Response(text="ready\n")

    async def finish(_request: web.Request, response: web.StreamResponse) -> None:
        response.headers["Server"] = "bootferry-rack"
        response.headers["X-Content-Type-Options"] = "nosniff"

    app = web.Application(client_max_size=0)
    meters.install(app, metrics_addresses)
    app.on_response_prepare.append(finish)
    app.router.add_get("/images/{path:.+}", images)
    app.router.add_get("/livez", livez)
    app.router.add_get("/readyz", readyz)
    return app


def _unavailable(sentence: str) -> web.Response:
    return web.Response(status=503, text=sentence + "\n", headers={"Retry-After": str(RETRY_AFTER_S)})


async def _file(
    request: web.Request, root: Path, tree: Tree, path: str, name: Link, doubt: Callable[[], None], meters: Meters
) -> web.StreamResponse:
    status, part = decide(
        request.method, lambda header: request.headers.getall(header, []), f'"{name.sha256}"', name.size
    )
    file = await asyncio.to_thread(_open, root, tree, path, name, part)
    if file is None:
        doubt()
        return _unavailable("This file cannot be read now; the rack looks at it.")
    try:
        return await _send(request, file, name, status, part, doubt, meters)
    finally:
        file.close()


class _Unreadable(Exception):
    """The disk does not give the bytes of a file that was opened."""


def _open(root: Path, tree: Tree, path: str, name: Link, part: range) -> BinaryIO | None:
    """The file, open, or None when it is gone, was touched since it was verified, or cannot be read. Blocks."""
    try:
        descriptor = os.open(tree_path(root, tree, path), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    try:
        good = is_verified(os.fstat(descriptor), name.size)
        if good and part:
            # Before the head says that all is well: once it is sent, only the connection's end can say otherwise.
            os.pread(descriptor, 1, part.start)
    except OSError:
        good = False
    if not good:
        os.close(descriptor)
        return None
    return os.fdopen(descriptor, "rb", buffering=0)


async def _send(
    request: web.Request,
    file: BinaryIO,
    name: Link,
    status: int,
    part: range,
    doubt: Callable[[], None],
    meters: Meters,
) -> web.StreamResponse:
    # The bytes of a digest never change, but a name's do: keep them, and ask each time.
    headers = representation_headers(name.sha256, name.size, status, part) | {"Cache-Control": "no-cache"}
    response = web.StreamResponse(status=status, headers=headers)
    if status != 304:
        response.content_type = "application/octet-stream"
        response.content_length = len(part)
    # A machine that goes away in the middle is its own business: no error of ours, and nothing to answer.
    with suppress(ConnectionError):
        await response.prepare(request)
        if part and request.method == "GET":
            try:
                await _copy(request, response, file, part)
                meters.sent.inc(len(part))
            except _Unreadable as error:
                why = str(error.__cause__)
                _log.warning(
                    "A file could not be read while a machine took it.", action="serve", path=request.path, why=why
                )
                doubt()
                return response
        await response.write_eof()
    return response


async def _copy(request: web.Request, response: web.StreamResponse, file: BinaryIO, part: range) -> None:
    if request.transport is None:
        raise ConnectionResetError("the machine is gone")
    if (connection := request.transport.get_extra_info("socket")) is not None:
        with suppress(OSError):
            connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_USER_TIMEOUT, STALLED_AFTER_S * 1000)
    try:
        if request.secure:
            await _write(response, file, part)
            return
        sent = await asyncio.get_running_loop().sendfile(request.transport, file, part.start, len(part))
    except ConnectionError:
        raise
    except OSError as error:
        request.transport.close()
        # A machine that took no byte for minutes is told by the kernel like this, and is its own business.
        if error.errno in (errno.ETIMEDOUT, errno.EPIPE, errno.EHOSTUNREACH, errno.ENETUNREACH):
            raise ConnectionResetError("the machine is gone") from error
        raise _Unreadable from error
    if sent < len(part):
        # The file has shrunk: what was announced cannot be sent, and only the connection's end can say so.
        request.transport.close()
        raise ConnectionResetError("the file ended early")


async def _write(response: web.StreamResponse, file: BinaryIO, part: range) -> None:
    """`_copy` without the kernel. asyncio's own way to do that fails where the machine goes away meanwhile."""
    for offset in part[::CHUNK_BYTES]:
        count = min(CHUNK_BYTES, part.stop - offset)
        chunk = await asyncio.to_thread(os.pread, file.fileno(), count, offset)
        if len(chunk) < count:
            raise OSError(errno.EIO, "it became shorter")
        try:
            await response.write(chunk)
        except ClientConnectionError as error:
            raise ConnectionResetError("the machine is gone") from error
