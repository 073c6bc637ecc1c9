"""One (url, sha256, size) into a store: resumed where it stopped, hashed while it streams, kept only when it is right.

Size and digest decide, never the end of the connection. The loop only moves buffers; writing and hashing happen in the
`executor`, one chunk at a time per file, so that order holds without locks.
"""

import asyncio
import os
import time
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from pathlib import Path

import aiohttp
from yarl import URL

from shared.digest import Hasher, Sha256
from shared.errors import ConnectionLost, FetchError, TooSlow, WrongDigest, WrongSize
from shared.http import SignRequest, request, require_ok, shown
from shared.store import Store, disk_error, hash_file

CHUNK_SIZE = 1024 * 1024


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
    sink = await loop.run_in_executor(transfer.executor, _Sink.resume, store.incoming(sha256), size)
    resumed = sink.size > 0
    try:
        try:
            await _fill(transfer, sink, url, size, progress)
            _check(sink, shown(url), sha256, size)
        except (WrongDigest, WrongSize):
            if not resumed:
                raise
            # The prefix came from another time, perhaps another file: once more, without it.
            await loop.run_in_executor(transfer.executor, sink.restart)
            await _fill(transfer, sink, url, size, progress)
            _check(sink, shown(url), sha256, size)
    except (WrongDigest, WrongSize):
        sink.close()
        store.incoming(sha256).unlink(missing_ok=True)
        raise
    finally:
        sink.close()
    await loop.run_in_executor(transfer.executor, store.commit, sha256)


async def _fill(transfer: Transfer, sink: "_Sink", url: URL, size: int, progress: Callable[[int], None]) -> None:
    progress(sink.size)
    if sink.size == size:
        return
    headers = {"Range": f"bytes={sink.size}-"} if sink.size else {}
    async with request(
        transfer.session, "GET", url, headers=headers, proxy=transfer.proxy, sign=transfer.sign
    ) as response:
        if response.status == 416:
            raise WrongSize(shown(url), size, _total(response) or 0)
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
        start, _, rest = response.headers.get("Content-Range", "").removeprefix("bytes ").partition("-")
        if start != str(sink.size):
            raise FetchError(
                shown(url), f"{shown(url)} answered another range than the one asked for; mend the server."
            )
        if (total := rest.partition("/")[2]) not in ("*", str(size)):
            raise WrongSize(shown(url), size, int(total) if total.isdigit() else 0)
        return
    if sink.size:
        await asyncio.get_running_loop().run_in_executor(transfer.executor, sink.restart)
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
    while chunk := await _read_up_to(response.content, CHUNK_SIZE):
        if sink.size + len(chunk) > size:
            raise WrongSize(shown(url), size, sink.size + len(chunk))
        # A cancelled write must have ended before the file is closed, and the hash must match the bytes on disk.
        await _uncancelled(loop.run_in_executor(transfer.executor, sink.take, chunk))
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
    waiting = stream.read_nowait(most - len(first))
    return first + waiting if waiting else first


async def _uncancelled(future: asyncio.Future[None]) -> None:
    try:
        await asyncio.shield(future)
    except asyncio.CancelledError:
        await asyncio.wait([future])
        raise


def _check(sink: "_Sink", url: str, sha256: Sha256, size: int) -> None:
    if sink.size != size:
        raise WrongSize(url, size, sink.size)
    if (found := sink.hasher.digest()) != sha256:
        raise WrongDigest(url, sha256, found)


def _total(response: aiohttp.ClientResponse) -> int | None:
    total = response.headers.get("Content-Range", "").rpartition("/")[2]
    return int(total) if total.isdigit() else None


class _Sink:
    """A growing file and the hash of all its bytes."""

    def __init__(self, descriptor: int, hasher: Hasher) -> None:
        self._descriptor = descriptor
        self.hasher = hasher

    @property
    def size(self) -> int:
        return self.hasher.size

    @classmethod
    def resume(cls, path: Path, size: int) -> "_Sink":
        """What lies at `path` is read and hashed; if it is more than `size` bytes it cannot be right and is dropped."""
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.fstat(descriptor).st_size > size:
            os.ftruncate(descriptor, 0)
        sink = cls(descriptor, hash_file(path))
        os.lseek(descriptor, 0, os.SEEK_END)
        return sink

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
