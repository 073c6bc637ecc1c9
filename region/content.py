"""The data plane: files by digest, with the manners of HTTP (RFC 9110).

The digest is the name and the strong ETag at once, so an answer can never become stale: conditions are decided without
looking at the disk, and caches may keep the bytes for ever.

    If-Match, If-None-Match     decided first, in the order of RFC 9110 §13.2.2; dates are ignored, a digest has none
    If-Range                    honoured only when it is this ETag; a date or a weak tag gets the whole file
    Range                       one range is honoured, for GET only (§14.2)
    several ranges              the whole file, which §14.2 allows: a client that resumes asks for one, and
                                multipart/byteranges would multiply the ways to be wrong
    an invalid range            ignored, as if the header were absent
"""

import asyncio
import base64
import errno
import http
import os
import re
from io import FileIO
from typing import Final, Literal

from starlette.datastructures import Headers
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import Receive, Scope, Send

from shared.digest import Sha256
from shared.errors import Unavailable
from shared.store import Store

CHUNK_BYTES = 1024 * 1024
"""The size of a body message where the server cannot copy the file itself."""

UNSATISFIABLE: Final = "unsatisfiable"

_ZERO_COPY = "http.response.zerocopysend"
_RANGE = re.compile(r"([0-9]{0,20})-([0-9]{0,20})")
_ETAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')


async def file_response(
    request: Request, store: Store, sha256: Sha256, size: int, *, accel_prefix: str | None = None
) -> Response:
    """The answer to a GET or HEAD of the file `sha256`, which the caller says is stored with `size` bytes.

    200, 206, 304, 412 or 416. With `accel_prefix` a GET has no body but an X-Accel-Redirect to
    `<accel_prefix>/<path below the store's root>`, for an nginx in front to send; nginx answers the Range itself and
    needs `etag off; add_header ETag $upstream_http_etag; add_header Repr-Digest $upstream_http_repr_digest;`.

    Raises Unavailable, before anything is sent, when the file is not there or was touched since it was verified.
    """
    etag = f'"{sha256}"'
    status, part = decide(request.method, request.headers, etag, size)
    headers = {"ETag": etag, "Cache-Control": "public, max-age=31536000, immutable", "Accept-Ranges": "bytes"}
    if status == 304:
        return Response(status_code=304, headers=headers)
    if status == 412:
        return _problem(412, "precondition_failed", f"This file's ETag is {etag}, which If-Match does not name.")
    if status == 416:
        return _problem(
            416,
            "range_not_satisfiable",
            f"The range lies outside the file; ask for bytes below {size}.",
            {"Content-Range": f"bytes */{size}", "Accept-Ranges": "bytes"},
        )

    file = await asyncio.to_thread(_open, store, sha256, size)
    headers |= {
        "Content-Type": "application/octet-stream",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
        "X-Content-Type-Options": "nosniff",
    }
    if request.method == "HEAD":
        file.close()
        return Response(headers=headers | {"Content-Length": str(size)})
    if accel_prefix is not None:
        file.close()
        path = store.path(sha256).relative_to(store.root)
        return Response(headers=headers | {"X-Accel-Redirect": f"{accel_prefix.rstrip('/')}/{path}"})
    if status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return _FileResponse(file, part, status, headers | {"Content-Length": str(len(part))})


def decide(method: str, headers: Headers, etag: str, size: int) -> tuple[Literal[200, 206, 304, 412, 416], range]:
    """(status, the bytes to send) for a file of `size` bytes; no bytes unless it is 200 or 206. RFC 9110 §13.2.2."""
    if_match = _joined(headers, "if-match")
    if if_match is not None and not _names(if_match, etag, weakly=False):
        return 412, range(0)
    if_none_match = _joined(headers, "if-none-match")
    if if_none_match is not None and _names(if_none_match, etag, weakly=True):
        return 304, range(0)
    wanted = _joined(headers, "range")
    if method == "GET" and wanted is not None and headers.get("if-range", etag).strip() == etag:
        part = parse_range(wanted, size)
        if part == UNSATISFIABLE:
            return 416, range(0)
        if part is not None:
            return 206, part
    return 200, range(size)


def parse_range(header: str, size: int) -> range | Literal["unsatisfiable"] | None:
    """The bytes a Range header asks for, of a file of `size` bytes; None says: send all of it. RFC 9110 §14.1.2."""
    unit, _, text = header.partition("=")
    specs = [spec.strip(" \t") for spec in text.split(",") if spec.strip(" \t")]
    found = _RANGE.fullmatch(specs[0]) if unit.strip().lower() == "bytes" and len(specs) == 1 else None
    if found is None or found[0] == "-":
        return None
    if not found[1]:
        suffix = int(found[2])
        # A suffix of an empty file is satisfiable, and no Content-Range can say so.
        return UNSATISFIABLE if suffix == 0 else range(max(0, size - suffix), size) or None
    first, last = int(found[1]), int(found[2]) if found[2] else size
    if found[2] and last < first:
        return None
    return range(first, min(last + 1, size)) if first < size else UNSATISFIABLE


def _joined(headers: Headers, name: str) -> str | None:
    """All lines of a list header as one (RFC 9110 §5.3); None when there is none."""
    lines = headers.getlist(name)
    return ", ".join(lines) if lines else None


def _names(header: str, etag: str, *, weakly: bool) -> bool:
    """Whether an If-Match or If-None-Match names `etag`, itself strong. RFC 9110 §8.8.3.2."""
    return header.strip() == "*" or any(tag == etag and (weakly or not weak) for weak, tag in _ETAG.findall(header))


def _open(store: Store, sha256: Sha256, size: int) -> FileIO:
    if store.has(sha256, size):
        try:
            file = FileIO(store.path(sha256))
        except FileNotFoundError:
            pass
        else:
            if os.fstat(file.fileno()).st_size == size:
                return file
            file.close()
    raise Unavailable(f"The file {sha256}")


def _problem(status: int, code: str, detail: str, headers: dict[str, str] | None = None) -> Response:
    title = http.HTTPStatus(status).phrase
    return JSONResponse(
        {"type": "about:blank", "title": title, "status": status, "detail": detail, "code": code},
        status,
        headers,
        "application/problem+json",
    )


class _FileResponse(Response):
    """`part` of an open file; closes it. The server copies it where it can, otherwise it goes out in chunks."""

    def __init__(self, file: FileIO, part: range, status: int, headers: dict[str, str]) -> None:
        super().__init__(status_code=status, headers=headers)
        self._file, self._part = file, part

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._file:
            await send({"type": "http.response.start", "status": self.status_code, "headers": self.raw_headers})
            if _ZERO_COPY in scope.get("extensions", {}):
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
                chunk = await asyncio.to_thread(os.pread, self._file.fileno(), count, offset)
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
