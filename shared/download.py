"""One (url, sha256, size) into a store: resumed where it stopped, hashed while it streams, kept only when it is right.

Size and digest decide, never the end of the connection. The loop only moves buffers; whatever the store does, hashing
included, happens in the `executor`, one call at a time per file, so that order holds without locks.
"""

import asyncio
import re
from collections.abc import Callable
from concurrent.futures import Executor
from dataclasses import dataclass
from typing import TypeVar, TypeVarTuple

import aiohttp
from yarl import URL

from shared.digest import Sha256
from shared.errors import ConnectionLost, FetchError, WrongDigest, WrongSize
from shared.http import SignRequest, request, require_ok, shown
from shared.pace import PACE, Meter, Pace
from shared.store.base import Store, Writer
from shared.threads import ended

T = TypeVar("T")
Args = TypeVarTuple("Args")

CHUNK_SIZE = 1024 * 1024
_CONTENT_RANGE = re.compile(r"bytes (?:(?P<start>[0-9]{1,18})-(?P<end>[0-9]{1,18})|\*)/(?P<total>[0-9]{1,18}|\*)")
"""RFC 9110, section 14.4; more digits than any file needs are no range."""


class _CannotGoOn(Exception):
    """The server answers a range with another one: it can be asked for the whole only."""


@dataclass(frozen=True, slots=True)
class Transfer:
    """How to fetch: the session, its proxy, who signs the requests, where chunks are written and hashed."""

    session: aiohttp.ClientSession
    executor: Executor
    proxy: URL | None = None
    sign: SignRequest | None = None
    pace: Pace = PACE


async def download(
    transfer: Transfer, store: Store, url: URL, sha256: Sha256, size: int, progress: Callable[[int], None]
) -> None:
    """When this returns, `store` holds the verified, flushed file.

    `progress` is called on the loop with the bytes of this file that have arrived, resumed ones included; it may fall
    back to 0 when a resumed prefix turns out to be wrong. Cancelling keeps what has arrived. Raises FetchError:
    WrongDigest and WrongSize say that the other side has other bytes; after any other kind, trying again resumes.
    Raises Conflict when somebody removes what has arrived; NoRoom, DiskFailed.
    """
    try:
        await _download(transfer, store, url, sha256, size, progress)
    except OSError as error:
        # Faults of the network are FetchErrors by now: what is left is the disk.
        raise store.fault(error, size) from error


async def _download(
    transfer: Transfer, store: Store, url: URL, sha256: Sha256, size: int, progress: Callable[[int], None]
) -> None:
    writers: list[Writer] = []

    def begin() -> None:
        # Kept in the list, so that it is closed also when nobody waits for this thread any more.
        # One that was stored by a process that died at once may not be flushed yet.
        if not store.secure(sha256, size):
            writers.append(store.writer(sha256, size))

    try:
        await _off_loop(transfer, begin)
        if not writers:
            progress(size)
            return
        [writer] = writers
        resumed = writer.arrived > 0
        try:
            await _fill(transfer, writer, url, progress)
            _check(writer, shown(url))
        except (WrongDigest, WrongSize, _CannotGoOn):
            if not resumed:
                raise
            # The prefix came from another time, perhaps another file, or the server cannot go on: once more, without.
            await _off_loop(transfer, writer.restart)
            await _fill(transfer, writer, url, progress)
            _check(writer, shown(url))
        await _off_loop(transfer, writer.commit)
    except (WrongDigest, WrongSize):
        await _off_loop(transfer, writers.pop().discard)
        raise
    except BaseException:
        if writers:
            await _off_loop(transfer, writers[0].close)
        raise


async def _off_loop(transfer: Transfer, work: Callable[[*Args], T], *args: *Args) -> T:
    """What `work` returns, run in the executor; it has ended when this does, cancelled or not.

    So a writer is never closed under a thread that writes, and its hash is that of the bytes on disk.
    """
    return await ended(asyncio.get_running_loop().run_in_executor(transfer.executor, work, *args))


async def _fill(transfer: Transfer, writer: Writer, url: URL, progress: Callable[[int], None]) -> None:
    progress(writer.arrived)
    size = writer.size
    if writer.arrived == size:
        return
    headers = {"Range": f"bytes={writer.arrived}-"} if writer.arrived else {}
    async with request(
        transfer.session,
        "GET",
        url,
        headers=headers,
        proxy=transfer.proxy,
        sign=transfer.sign,
        deadline_s=transfer.pace.deadline_s(size),
    ) as response:
        if response.status == 416:
            found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
            raise WrongSize(shown(url), size, int(found["total"]) if found and found["total"] != "*" else 0)
        await require_ok(response, 206)
        await _accept(transfer, writer, response, url)
        await _stream(transfer, writer, response, url, progress)
    if writer.arrived < size:
        raise ConnectionLost(shown(url), f"{size - writer.arrived} of {size} bytes are missing")


async def _accept(transfer: Transfer, writer: Writer, response: aiohttp.ClientResponse, url: URL) -> None:
    """Make sure that what follows in `response` continues what has arrived, or start over."""
    if response.headers.get("Content-Encoding", "identity") != "identity":
        raise FetchError(
            shown(url), f"{shown(url)} comes compressed although it was asked for as it is; mend the server."
        )
    if response.status == 206:
        found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
        if not found or found["start"] != str(writer.arrived) or not _is_sound(found):
            if writer.arrived:
                raise _CannotGoOn
            raise FetchError(
                shown(url), f"{shown(url)} answered another range than the one asked for; mend the server."
            )
        if found["total"] not in ("*", str(writer.size)):
            raise WrongSize(shown(url), writer.size, int(found["total"]))
        return
    if writer.arrived:
        await _off_loop(transfer, writer.restart)
    if response.content_length not in (None, writer.size):
        raise WrongSize(shown(url), writer.size, response.content_length or 0)


def _is_sound(found: re.Match[str]) -> bool:
    """True if the range has an end after its start and within the whole (RFC 9110, section 14.4)."""
    start, end = int(found["start"]), int(found["end"])
    return start <= end and (found["total"] == "*" or end < int(found["total"]))


async def _stream(
    transfer: Transfer,
    writer: Writer,
    response: aiohttp.ClientResponse,
    url: URL,
    progress: Callable[[int], None],
) -> None:
    size = writer.size
    meter = Meter(shown(url), transfer.pace)
    while writer.arrived < size and (chunk := await _read_up_to(response.content, CHUNK_SIZE)):
        if writer.arrived + len(chunk) > size:
            raise WrongSize(shown(url), size, writer.arrived + len(chunk))
        await _off_loop(transfer, writer.write, chunk)
        progress(writer.arrived)
        meter.count(len(chunk))


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


def _check(writer: Writer, url: str) -> None:
    if writer.arrived != writer.size:
        raise WrongSize(url, writer.size, writer.arrived)
    if (found := writer.digest()) != writer.sha256:
        raise WrongDigest(url, writer.sha256, found)
