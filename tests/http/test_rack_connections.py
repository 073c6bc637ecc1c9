"""Whoever connects to a rack: half requests, silence, too many, too much, and half a goodbye."""

import asyncio
import errno
import logging
import os
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import structlog
from aiohttp import web

from rack import serve
from rack.belief import Belief
from rack.connections import Runner
from tests.http.kernel import CONTENT, GET, LIVEZ, tree_of_one
from tests.http.lines import Line, closed

HALF = b"GET /images/kernel HTTP/1.1\r\nHost: ra"


class Machines:
    """Connections to one rack."""

    def __init__(self, port: int, doubts: list[None]) -> None:
        self.port, self.doubts = port, doubts
        self.open: list[asyncio.StreamWriter] = []

    async def connect(self, sends: bytes = b"") -> Line:
        reader, writer = await asyncio.open_connection("127.0.0.1", self.port)
        self.open.append(writer)
        writer.write(sends)
        await writer.drain()
        return reader, writer

    async def answer(self, sends: bytes = LIVEZ) -> bytes:
        reader, _ = await self.connect(sends)
        return await asyncio.wait_for(reader.read(), 10)


@asynccontextmanager
async def rack(root: Path, *, most: int = 2048, head_within_s: float = 20.0) -> AsyncIterator[Machines]:
    tree = tree_of_one(root)
    doubts: list[None] = []
    runner = Runner(
        serve.application(root, Belief(tree=tree), lambda: doubts.append(None)), most=most, head_within_s=head_within_s
    )
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=1024).start()
    machines = Machines(runner.addresses[0][1], doubts)
    try:
        yield machines
    finally:
        for writer in machines.open:
            writer.close()
        await runner.cleanup()


async def test_half_requests_and_idle_connections_keep_no_machine_waiting(tmp_path: Path) -> None:
    async with rack(tmp_path) as machines:
        for _ in range(20):
            await machines.connect(HALF)
        for _ in range(400):
            await machines.connect()
        async with asyncio.timeout(2):
            answer = await machines.answer(GET.replace(b"\r\n\r\n", b"\r\nConnection: close\r\n\r\n"))
        assert answer.endswith(CONTENT[-1000:])


async def test_when_it_is_full_the_one_that_was_silent_longest_goes_and_never_the_newcomer(tmp_path: Path) -> None:
    async with rack(tmp_path, most=20) as machines:
        slow = await machines.connect(GET)
        await slow[0].readexactly(1000)
        talker = await machines.connect()
        half = [await machines.connect(HALF) for _ in range(3)]
        idle = [await machines.connect() for _ in range(15)]
        # It connected before all those, and was answered after them.
        talker[1].write(b"HEAD /livez HTTP/1.1\r\nHost: rack\r\n\r\n")
        await talker[0].readuntil(b"\r\n\r\n")
        for _ in range(10):
            assert b"alive" in await machines.answer()
        newcomers = [await machines.connect() for _ in range(5)]
        for newcomer in newcomers:
            newcomer[1].write(LIVEZ)
            assert b"alive" in await asyncio.wait_for(newcomer[0].read(), 5)
        gone = [await closed(streams) for streams in (*half, *idle)]
        assert 3 <= sum(gone) <= 6
        assert gone == sorted(gone, reverse=True), "in the order in which they fell silent"
        assert not await closed(talker)
        assert len(await slow[0].readexactly(19_900_000)) == 19_900_000, "who is being answered keeps its place"


async def test_when_all_are_being_answered_the_newcomer_still_comes_in(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rack(tmp_path, most=10) as machines:
        for _ in range(10):
            reader, _ = await machines.connect(GET)
            await reader.readexactly(10)
        assert b"alive" in await machines.answer()
    assert not caplog.records


async def test_half_a_head_has_its_time_and_a_connection_without_one_is_not_meant(tmp_path: Path) -> None:
    async with rack(tmp_path, head_within_s=0.3) as machines:
        half, idle = await machines.connect(HALF), await machines.connect()
        dripping = await machines.connect(b"GET /livez HTTP/1.1\r\n")
        for number in range(6):
            dripping[1].write(b"X-%d: y\r\n" % number)
            await asyncio.sleep(0.1)
        assert await closed(half)
        assert await closed(dripping)
        assert not await closed(idle)
        idle[1].write(b"HEAD /livez HTTP/1.1\r\nHost: rack\r\n\r\n" * 2)
        assert (await idle[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")
        await asyncio.sleep(0.4)
        assert (await idle[0].readuntil(b"\r\n\r\n")).startswith(b"HTTP/1.1 200")


@pytest.mark.parametrize("sends", [GET, LIVEZ], ids=["file", "livez"])
async def test_a_machine_that_has_said_all_still_gets_its_answer(tmp_path: Path, sends: bytes) -> None:
    async with rack(tmp_path) as machines:
        reader, writer = await machines.connect(sends)
        writer.write_eof()
        async with asyncio.timeout(5):
            answer = await reader.read()
        assert answer.startswith(b"HTTP/1.1 200")
        assert answer.endswith(CONTENT[-1000:] if sends == GET else b"alive\n")
        # Who says nothing and ends is closed.
        reader, writer = await machines.connect()
        writer.write_eof()
        assert await asyncio.wait_for(reader.read(), 5) == b""


BAD = [
    pytest.param(b"GET /livez HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n", b"400", id="two hosts"),
    pytest.param(b"GET /livez HTTP/9.9\r\n\r\n", b"400", id="no such version"),
    pytest.param(b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", b"400", id="tls"),
    pytest.param(b"GET /livez HTTP/1.1\r\nHost: a\r\nno colon\r\n\r\n", b"400", id="no header"),
    pytest.param(
        b"GET /livez HTTP/1.1\r\nHost: a\r\nX: " + b"y" * 5000 + b"\r\n\r\n", b"400", id="a header of 5,000 bytes"
    ),
    pytest.param(b"GET /" + b"y" * 5000 + b" HTTP/1.1\r\nHost: a\r\n\r\n", b"400", id="a path of 5,000 bytes"),
    pytest.param(b"GET /livez HTTP/1.1\r\nHost: a\r\n" + b"X: y\r\n" * 100 + b"\r\n", b"400", id="a hundred headers"),
    pytest.param(
        b"GET /livez HTTP/1.1\r\nHost: a\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", b"", id="a body that is none"
    ),
]


@pytest.mark.parametrize(("sends", "status"), BAD)
async def test_a_bad_request_is_one_short_line_in_the_log_at_most(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    sends: bytes,
    status: bytes,
) -> None:
    caplog.set_level(logging.INFO)
    with structlog.testing.capture_logs() as lines:
        monkeypatch.setattr("rack.connections._log", structlog.get_logger())
        async with rack(tmp_path) as machines:
            assert status in (await machines.answer(sends))[:20]
            assert b"alive" in await machines.answer()
    assert len(lines) <= 1
    assert all(len(str(line)) < 300 and "exc_info" not in line for line in lines)
    assert not [record for record in caplog.records if record.exc_info or len(record.getMessage()) > 200]


async def test_a_body_is_not_read(tmp_path: Path) -> None:
    async with rack(tmp_path) as machines:
        reader, writer = await machines.connect(
            b"GET /livez HTTP/1.1\r\nHost: rack\r\nContent-Length: 1000000000\r\n\r\n"
        )
        assert b" 200 " in await reader.readuntil(b"\r\n")
        with pytest.raises(ConnectionError):
            async with asyncio.timeout(5):
                while True:
                    writer.write(bytes(100_000))
                    await writer.drain()
                    await asyncio.sleep(0.01)


FAULTS: list[object] = [
    pytest.param(errno.EIO, id="EIO"),
    pytest.param(errno.ESTALE, id="ESTALE"),
    pytest.param(errno.ENOMEM, id="ENOMEM"),
]


@pytest.mark.parametrize("fault", FAULTS)
async def test_a_file_that_cannot_be_read_is_503_and_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, fault: int
) -> None:
    def failing(*_arguments: object) -> bytes:
        raise OSError(fault, os.strerror(fault))

    async with rack(tmp_path) as machines:
        monkeypatch.setattr("rack.serve.os.pread", failing)
        answer = await machines.answer(GET.replace(b"Host", b"Connection: close\r\nHost"))
        assert answer.startswith(b"HTTP/1.1 503")
        assert b"Retry-After: " in answer
        assert machines.doubts == [None]
        # Nor is it said of such a file that it is there.
        head = GET.replace(b"GET", b"HEAD").replace(b"Host", b"Range: bytes=5000000-\r\nConnection: close\r\nHost")
        assert (await machines.answer(head)).startswith(b"HTTP/1.1 503")


async def test_a_file_that_fails_in_the_middle_ends_the_connection_in_one_line_and_is_looked_at(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def failing(*_arguments: object) -> int:
        raise OSError(errno.EIO, os.strerror(errno.EIO))

    with structlog.testing.capture_logs() as lines:
        monkeypatch.setattr("rack.serve._log", structlog.get_logger())
        async with rack(tmp_path) as machines:
            monkeypatch.setattr(asyncio.get_running_loop(), "sendfile", failing)
            answer = await machines.answer(GET)
            assert answer.startswith(b"HTTP/1.1 200")
            assert len(answer) < 1000
            assert machines.doubts == [None]
    assert [(line["path"], line["why"]) for line in lines] == [("/images/kernel", "[Errno 5] Input/output error")]
    assert not caplog.records
