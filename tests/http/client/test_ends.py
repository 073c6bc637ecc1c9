"""Each request has an end, a least rate and a greatest head, whatever the other side sends."""

import asyncio
import inspect
import time
from collections.abc import AsyncIterator, Callable, Coroutine
from contextlib import asynccontextmanager, suppress
from typing import Any

import aiohttp
import pytest
from yarl import URL

from shared.errors import (
    FetchError,
    TimedOut,
    TooSlow,
)
from shared.http import read_capped, request
from shared.pace import Meter, Pace
from tests.http.client.calls import (
    get,
)
from tests.http.raw_server import raw_server, response

# --- ends ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def dripping(first: bytes, drop: bytes, every_s: float = 0.03) -> AsyncIterator[str]:
    """The URL of a server that says `first`, and then `drop` again and again."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(every_s)

    async with listening(handle) as port:
        yield f"http://127.0.0.1:{port}/file"


@asynccontextmanager
async def listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> AsyncIterator[int]:
    """The port of a server whose every connection `handle` has, until the block ends."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await handle(reader, writer)
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve_one(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


HEADS_WITHOUT_END = [
    pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x", id="a-field-byte-by-byte"),
    pytest.param(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", id="field-by-field"),
    pytest.param(b"", b"HTTP/1.1 102 Processing\r\n\r\n", id="please-wait-for-ever"),
]


@pytest.mark.parametrize(("first", "drop"), HEADS_WITHOUT_END)
async def test_a_head_that_drips_is_not_waited_for(session: aiohttp.ClientSession, first: bytes, drop: bytes) -> None:
    """No pause between two bytes is as long as the read timeout."""
    async with dripping(first, drop) as url:
        with pytest.raises(TimedOut, match=r"did not answer within 0\.9 seconds") as caught:
            await get(session, url)
    assert caught.value.url == url


BODIES_WITHOUT_END = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x", id="of-a-length"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b"x", id="without-length"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", id="in-chunks"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x", id="a-chunks-extension"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x", id="a-trailer"),
]


@pytest.mark.parametrize(("first", "drop"), BODIES_WITHOUT_END)
async def test_a_body_that_drips_has_a_deadline(session: aiohttp.ClientSession, first: bytes, drop: bytes) -> None:
    began = time.monotonic()
    async with dripping(first, drop) as url:
        with pytest.raises(TooSlow, match=r"was not done in 1 seconds") as caught:
            async with request(session, "GET", URL(url), deadline_s=0.7) as answer:
                await read_capped(answer, 1000)
    assert caught.value.url == url
    assert time.monotonic() - began < 3


async def test_a_body_that_drips_is_slower_than_the_floor(session: aiohttp.ClientSession) -> None:
    async with dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as url:
        with pytest.raises(TooSlow, match=r"sends less than 10\.0 kB per second"):
            async with request(session, "GET", URL(url)) as answer:
                await read_capped(answer, 1000, Pace(floor_bytes_per_s=10_000, window_s=0.2))


async def test_redirects_and_their_answer_have_one_deadline(session: aiohttp.ClientSession) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.2)
            writer.write(response(b"", "302 Found", Location="/again"))

    async with listening(late) as port:
        with pytest.raises(TooSlow):
            async with request(session, "GET", URL(f"http://127.0.0.1:{port}/"), deadline_s=0.5):
                pass


async def test_a_stream_without_a_deadline_goes_on(session: aiohttp.ClientSession) -> None:
    async with (
        dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as url,
        request(session, "GET", URL(url), deadline_s=None) as answer,
    ):
        assert await answer.content.readexactly(50) == b"x" * 50


async def test_the_end_of_the_callers_own_time_is_the_callers(session: aiohttp.ClientSession) -> None:
    async with dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                async with request(session, "GET", URL(url), deadline_s=5) as answer:
                    await read_capped(answer, 1000)


def test_what_a_transfer_may_take_unless_told_otherwise() -> None:
    """16 KiB/s over half a minute; a document 5 minutes, a file of a gigabyte 17 hours and a minute."""
    assert (Pace().floor_bytes_per_s, Pace().window_s) == (16 * 1024, 30)
    assert Pace().deadline_s(1_000_000_000) == pytest.approx(61_035 + 60, abs=1)
    assert inspect.signature(request).parameters["deadline_s"].default == 300
    assert inspect.signature(read_capped).parameters["pace"].default == Pace()


def test_the_meter_begins_each_window_anew() -> None:
    now = 0.0
    meter = Meter("u", Pace(floor_bytes_per_s=100, window_s=10), lambda: now)
    meter.count(0)
    now = 9.9
    meter.count(1)
    now = 10
    meter.count(999)
    now = 20
    with pytest.raises(TooSlow):
        meter.count(999)


# --- heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "good"), [(99, True), (110, False)])
async def test_a_head_has_so_many_fields(session: aiohttp.ClientSession, number: int, good: bool) -> None:
    fields = b"X: y\r\n" * (number - 1)
    async with raw_server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n") as (url, _):
        if good:
            assert await get(session, url) == b""
        else:
            with pytest.raises(FetchError, match="does not speak HTTP as it should"):
                await get(session, url)


@pytest.mark.parametrize(("size", "good"), [(16 * 1024, True), (16 * 1024 + 1, False)])
async def test_a_field_has_so_many_bytes(session: aiohttp.ClientSession, size: int, good: bool) -> None:
    async with raw_server(lambda _: response(b"", X="x" * size)) as (url, _):
        if good:
            assert await get(session, url) == b""
        else:
            with pytest.raises(FetchError, match="does not speak HTTP as it should"):
                await get(session, url)


FLOODS = [
    pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65_536, id="one-field"),
    pytest.param(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000, id="fields"),
    pytest.param(b"HTTP/1.1 200 ", b"x" * 65_536, id="a-reason"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 10_000, id="trailers"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 65_536, id="one-trailer"),
]


@pytest.mark.parametrize(("first", "more"), FLOODS)
async def test_a_head_without_end_is_read_no_further_than_its_caps(
    session: aiohttp.ClientSession, first: bytes, more: bytes
) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while True:
            writer.write(more)
            await writer.drain()
            sent += len(more)

    async with listening(flood) as port:
        with pytest.raises(FetchError):
            await get(session, f"http://127.0.0.1:{port}/")
    # What the kernel's buffers take is sent, too.
    assert sent < 16_000_000
