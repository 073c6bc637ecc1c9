"""One (url, sha256, size) into a store: resumed where it stopped, hashed while it streams, kept only when it is right.

Size and digest decide, never the end of the connection. The loop only moves buffers; writing and hashing happen in the
`executor`, one chunk at a time per file, so that order holds without locks.
"""

import asyncio
import fcntl
import os
import re
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from shared.digest import Hasher, Sha256
from shared.errors import Conflict, ConnectionLost, FetchError, TooSlow, WrongDigest, WrongSize
from shared.http import SignRequest, request, require_ok, shown
from shared.store import Store, disk_error, hash_file

CHUNK_SIZE = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>[0-9]{1,18})-[0-9]{1,18}|\*)/(?P<total>[0-9]{1,18}|\*)")
"""RFC 9110, section 14.4; more digits than any file needs are no range."""


@dataclass(frozen=True, slots=True)
class Pace:
    """A transfer slower than `floor_bytes_per_s` over a whole `window_s` is given up; what came is kept."""

    floor_bytes_per_s: int = 1024
    window_s: float = 30.0


@dataclass(frozen=True, slots=True)
class Transfer:
    """How to fetch: the session, its proxy, who signs the requests, where chunks are written and hashed."""

    session: aiohttp.ClientSession
    executor: Executor
    proxy: URL | None = None
    sign: SignRequest | None = None
    pace: Pace = Pace()


async def download(
    transfer: Transfer, store: Store, url: URL, sha256: Sha256, size: int, progress: Callable[[int], None]
) -> None:
    """When this returns, `store` holds the verified, flushed file.

    `progress` is called on the loop with the bytes of this file that have arrived, resumed ones included; it may fall
    back to 0 when a resumed prefix turns out to be wrong. Cancelling keeps what has arrived. Raises FetchError:
    WrongDigest and WrongSize say that the other side has other bytes; after any other kind, trying again resumes.
    Raises NoRoom, DiskFailed.
    """
    try:
        await _download(transfer, store, url, sha256, size, progress)
    except OSError as error:
        # Faults of the network are FetchErrors by now: what is left is the disk.
        raise disk_error(error, store.root, size) from error


async def _download(
    transfer: Transfer, store: Store, url: URL, sha256: Sha256, size: int, progress: Callable[[int], None]
) -> None:
    loop = asyncio.get_running_loop()
    if store.has(sha256, size):
        progress(size)
        return
    sink = _Sink(store.incoming(sha256))
    try:
        await _ended(loop.run_in_executor(transfer.executor, sink.resume, size))
        resumed = sink.size > 0
        try:
            await _fill(transfer, sink, url, size, progress)
            _check(sink, shown(url), sha256, size)
        except (WrongDigest, WrongSize):
            if not resumed:
                raise
            # The prefix came from another time, perhaps another file: once more, without it.
            await _ended(loop.run_in_executor(transfer.executor, sink.restart))
            await _fill(transfer, sink, url, size, progress)
            _check(sink, shown(url), sha256, size)
    except (WrongDigest, WrongSize):
        sink.close()
        store.incoming(sha256).unlink(missing_ok=True)
        raise
    finally:
        sink.close()
    await _ended(loop.run_in_executor(transfer.executor, store.commit, sha256))


async def _fill(transfer: Transfer, sink: "_Sink", url: URL, size: int, progress: Callable[[int], None]) -> None:
    progress(sink.size)
    if sink.size == size:
        return
    headers = {"Range": f"bytes={sink.size}-"} if sink.size else {}
    async with request(
        transfer.session, "GET", url, headers=headers, proxy=transfer.proxy, sign=transfer.sign
    ) as response:
        if response.status == 416:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            raise WrongSize(shown(url), size, int(found["total"]) if found and found["total"] != "*" else 0)
        await require_ok(response, 206)
        await _accept(transfer, sink, response, url, size)
        await _stream(transfer, sink, response, url, size, progress)
    if sink.size < size:
        raise ConnectionLost(shown(url), f"{size - sink.size} of {size} bytes are missing")


async def _accept(transfer: Transfer, sink: "_Sink", response: aiohttp.ClientResponse, url: URL, size: int) -> None:
    """Make sure that what follows in `response` continues `sink`, or start `sink` over."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(
            shown(url), f"{shown(url)} comes compressed although it was asked for as it is; mend the server."
        )
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or found["start"] != str(sink.size):
            raise FetchError(
                shown(url), f"{shown(url)} answered another range than the one asked for; mend the server."
            )
        if found["total"] not in ("*", str(size)):
            raise WrongSize(shown(url), size, int(found["total"]))
        return
    if sink.size:
        await _ended(asyncio.get_running_loop().run_in_executor(transfer.executor, sink.restart))
    if response.content_length not in (None, size):
        raise WrongSize(shown(url), size, response.content_length or 0)


async def _stream(
    transfer: Transfer,
    sink: "_Sink",
    response: aiohttp.ClientResponse,
    url: URL,
    size: int,
    progress: Callable[[int], None],
) -> None:
    loop = asyncio.get_running_loop()
    window_began, window_size = time.monotonic(), sink.size
    while sink.size < size and (chunk := await _read_up_to(response.content, CHUNK_SIZE)):
        if sink.size + len(chunk) > size:
            raise WrongSize(shown(url), size, sink.size + len(chunk))
        # A cancelled write must have ended before the file is closed, and the hash must match the bytes on disk.
        await _ended(loop.run_in_executor(transfer.executor, sink.take, chunk))
        progress(sink.size)
        elapsed = time.monotonic() - window_began
        if elapsed >= transfer.pace.window_s:
            if (sink.size - window_size) / elapsed < transfer.pace.floor_bytes_per_s:
                raise TooSlow(shown(url), transfer.pace.floor_bytes_per_s)
            window_began, window_size = time.monotonic(), sink.size


async def _read_up_to(stream: aiohttp.StreamReader, most: int) -> bytes:
    """The next bytes, gathered to about `most` when more are waiting already: fewer, larger writes; b"" at the end."""
    first = await stream.read(most)
    if not first or len(first) >= most:
        return first
    await asyncio.sleep(0)
    if stream.exception() is not None:
        # The next read tells; what came before it is kept.
        return first
    waiting = stream.read_nowait(most - len(first))
    return first + waiting if waiting else first


async def _ended(future: asyncio.Future[None]) -> None:
    """Wait for the end of `future`, however often the wait is cancelled: nothing may work on a file nobody watches."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()
        raise cancelled
    future.result()


def _check(sink: "_Sink", url: str, sha256: Sha256, size: int) -> None:
    if sink.size != size:
        raise WrongSize(url, size, sink.size)
    if (found := sink.hasher.digest()) != sha256:
        raise WrongDigest(url, sha256, found)


class _Sink:
    """A growing file and the hash of all its bytes."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._descriptor = -1
        self.hasher = Hasher()

    @property
    def size(self) -> int:
        return self.hasher.size

    def resume(self, size: int) -> None:
        """What lies at the path is read and hashed; more than `size` bytes cannot be right and are dropped.

        Raises Conflict when another download is at work on it.
        """
        flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        try:
            self._descriptor = os.open(self._path, flags, 0o600)
        except PermissionError:
            # Killed while it was being committed: whole perhaps, and read-only already.
            self._path.chmod(0o600)
            self._descriptor = os.open(self._path, flags, 0o600)
        try:
            fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Conflict(f"{self._path.name} is being downloaded already; wait for that to end.") from None
        if os.fstat(self._descriptor).st_size > size:
            os.ftruncate(self._descriptor, 0)
        self.hasher = hash_file(self._path)
        os.lseek(self._descriptor, 0, os.SEEK_END)

    def restart(self) -> None:
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self.hasher = Hasher()

    def take(self, chunk: bytes) -> None:
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self.hasher.update(chunk)

    def close(self) -> None:
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1
