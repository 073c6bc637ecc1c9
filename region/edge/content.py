"""The data plane: files by digest, with the manners of HTTP (RFC 9110).

The digest is the name and the strong ETag at once, so an answer can never become stale: conditions are decided without
looking at the disk, and caches may keep the bytes for ever. Which conditions count is told in `shared.conditions`.
"""

import asyncio
import errno
from contextlib import closing

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import Receive, Scope, Send

from region.edge.problem import problem
from shared.conditions import decide, representation_headers
from shared.digest import Sha256
from shared.errors import Unavailable
from shared.store.base import Store, StoredFile
from shared.store.disk import DiskStore

CHUNK_BYTES = 1024 * 1024
"""The size of a body message where the server cannot copy the file itself."""

CACHED = "public, max-age=31536000, immutable"
_DECIDED_BY_NGINX = frozenset({"if-match", "if-unmodified-since"})

_ZERO_COPY = "http.response.zerocopysend"


async def file_response(
    request: Request, store: Store, sha256: Sha256, size: int, *, accel_prefix: str | None = None
) -> Response:
    """The answer to a GET or HEAD of the file `sha256`, which the caller says is stored with `size` bytes.

    200, 206, 304, 412 or 416. With `accel_prefix`, and files on a disk, a GET has no body but an X-Accel-Redirect to
    `<accel_prefix>/<path below the store's directory>`, for an nginx in front to send; nginx answers the Range itself,
    and adds ETag, Repr-Digest and Cache-Control as `deploy/nginx` shows. A GET with a condition that nginx would decide
    otherwise, since it knows no ETag when it looks, is answered here.

    Raises Unavailable, before anything is sent, when the file is not there, was touched since it was verified, or
    cannot be read.
    """
    etag = f'"{sha256}"'
    status, part = decide(request.method, request.headers.getlist, etag, size)
    headers = representation_headers(sha256, size, status, part)
    if status == 416:
        return problem(
            416, "range_not_satisfiable", f"The range lies outside the file; ask for bytes below {size}.", headers
        )
    headers["Cache-Control"] = CACHED
    if status == 304:
        return Response(status_code=304, headers=headers)
    if status == 412:
        return problem(
            412, "precondition_failed", f"This file's ETag is {etag}, which If-Match does not name; ask for it anew."
        )

    try:
        file = await asyncio.to_thread(_readable, store, sha256, size, part)
    except OSError as error:
        raise Unavailable(f"The file {sha256} cannot be read just now ({error.strerror})") from error
    if file is None:
        raise Unavailable(f"The file {sha256} is not as it was verified and is fetched again")
    headers |= {
        "Content-Type": "application/octet-stream",
        "X-Content-Type-Options": "nosniff",
    }
    if request.method == "HEAD":
        file.close()
        return Response(headers=headers | {"Content-Length": str(size)})
    if accel_prefix is not None and isinstance(store, DiskStore) and not _DECIDED_BY_NGINX & set(request.headers):
        file.close()
        # nginx would keep it for an error of its own, which every cache would have for a year.
        del headers["Cache-Control"]
        redirect = f"{accel_prefix.rstrip('/')}/{store.name_below(sha256)}"
        return Response(headers=headers | {"X-Accel-Redirect": redirect})
    return _FileResponse(file, part, status, headers | {"Content-Length": str(len(part))})


def _readable(store: Store, sha256: Sha256, size: int, part: range) -> StoredFile | None:
    """The file, open, of which the first byte of `part` was read. Raises OSError: a status cannot be taken back."""
    file = store.open(sha256, size)
    try:
        if file is not None and part:
            file.read_at(part.start, 1)
    except OSError:
        if file is not None:
            file.close()
        raise
    return file


class _FileResponse(Response):
    """`part` of an open file; closes it. The server copies it where it can, otherwise it goes out in chunks."""

    def __init__(self, file: StoredFile, part: range, status: int, headers: dict[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._file, self._part = file, part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with closing(self._file):
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if _ZERO_COPY in scope.get("extensions", {}) and self._file.fileno() is not None:
                await send(
                    {"type": _ZERO_COPY, "file": self._file, "offset": self._part.start, "count": len(self._part)}
                )
            else:
                await self._send_chunks(receive, send)

    async def _send_chunks(self, receive: Receive, send: Send) -> None:
        # Sending to a client that left succeeds silently (ASGI before 2.4), so only `receive` knows when to stop.
        gone = asyncio.ensure_future(_disconnected(receive))
        try:
            for offset in self._part[::CHUNK_BYTES]:
                count = min(CHUNK_BYTES, self._part.stop - offset)
                chunk = await asyncio.to_thread(self._file.read_at, offset, count)
                if gone.done():
                    return
                if len(chunk) < count:
                    raise OSError(errno.EIO, "The file became shorter while it was being sent.")
                await send({"type": "http.response.body", "body": chunk, "more_body": True})
            await send({"type": "http.response.body", "body": b""})
        finally:
            gone.cancel()


async def _disconnected(receive: Receive) -> None:
    while (await receive())["type"] != "http.disconnect":
        pass
