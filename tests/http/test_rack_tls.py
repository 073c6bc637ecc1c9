"""A rack that speaks TLS beside plain HTTP: the same files, and connections that count from their first byte."""

import asyncio
import contextlib
import os
import resource
import socket
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import aiohttp
import pytest

from rack import serve
from rack.belief import Belief
from rack.connections import Runner, SecureSite
from shared.digest import Sha256
from shared.tls import Certificate
from tests.http.client.certificates import Authority
from tests.http.kernel import CONTENT, GET, KERNEL, LIVEZ, tree_of_one
from tests.http.lines import Line, closed


class Machines:
    """Connections to the rack's TLS port."""

    def __init__(self, port: int, trust: ssl.SSLContext, file: Path, doubts: list[None]) -> None:
        self.port, self.trust, self.file, self.doubts = port, trust, file, doubts
        self.open: list[asyncio.StreamWriter] = []

    async def knock(self) -> Line:
        return await self._connect(None)

    async def connect(self, sends: bytes = b"") -> Line:
        streams = await self._connect(self.trust)
        streams[1].write(sends)
        await streams[1].drain()
        return streams

    async def _connect(self, trust: ssl.SSLContext | None) -> Line:
        streams = await asyncio.open_connection("127.0.0.1", self.port, ssl=trust)
        self.open.append(streams[1])
        return streams


@asynccontextmanager
async def rack(root: Path, *, most: int = 2048, handshake_s: float = 10.0) -> AsyncIterator[Machines]:
    tree = tree_of_one(root)
    doubts: list[None] = []
    authority = Authority.create(root)
    runner = Runner(serve.application(root, Belief(tree=tree), lambda: doubts.append(None)), most=most)
    await runner.setup()
    listener = socket.create_server(("127.0.0.1", 0), backlog=1024)
    certificate = Certificate(*authority.pair("127.0.0.1"))
    await SecureSite(runner, listener, certificate, handshake_s=handshake_s).start()
    trust = ssl.create_default_context(cafile=str(authority.bundle))
    machines = Machines(listener.getsockname()[1], trust, root / KERNEL, doubts)
    try:
        yield machines
    finally:
        for writer in machines.open:
            writer.transport.abort()
        await runner.cleanup()


async def test_a_machine_gets_the_same_bytes_inside_tls(tmp_path: Path) -> None:
    async with (
        rack(tmp_path) as machines,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=machines.trust)) as session,
    ):
        url = f"https://127.0.0.1:{machines.port}/images/kernel"
        async with session.get(url) as answer:
            assert answer.headers["ETag"] == f'"{Sha256.of(CONTENT)}"'
            assert await answer.read() == CONTENT
        async with session.get(url, headers={"Range": "bytes=1000-1999999"}) as answer:
            assert (answer.status, await answer.read()) == (206, CONTENT[1000:2_000_000])
        async with session.head(url) as answer:
            assert (answer.status, answer.headers["Content-Length"]) == (200, "20000000")


async def test_many_slow_machines_take_little_memory(tmp_path: Path) -> None:
    async with rack(tmp_path) as machines:
        before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        slow = [await machines.connect(GET) for _ in range(20)]
        for reader, _ in slow:
            await reader.readexactly(1000)
        await asyncio.sleep(0.3)
        # 20 files of 20 MB are under way; what is in between are buffers of both sides.
        assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 100_000
        assert len(await asyncio.wait_for(slow[0][0].readexactly(19_900_000), 20)) == 19_900_000


async def test_handshakes_that_are_put_off_go_before_those_who_are_through(tmp_path: Path) -> None:
    async with rack(tmp_path, most=10) as machines:
        known = [await machines.connect() for _ in range(4)]
        knocking = [await machines.knock() for _ in range(6)]
        await asyncio.sleep(0.05)
        assert not any([await closed(streams) for streams in knocking])
        for _ in range(3):
            newcomer = await machines.connect(LIVEZ)
            assert b"alive" in await asyncio.wait_for(newcomer[0].read(), 5)
        assert [await closed(streams) for streams in knocking] == [True] + [False] * 5, "its place was free again"
        for streams in known:
            assert not await closed(streams)


async def test_a_handshake_ends_within_its_time(tmp_path: Path) -> None:
    async with rack(tmp_path, handshake_s=0.3) as machines:
        through = await machines.connect()
        reader, _ = await machines.knock()
        with contextlib.suppress(ConnectionError):
            assert await asyncio.wait_for(reader.read(), 5) == b""
        through[1].write(LIVEZ)
        assert b"alive" in await asyncio.wait_for(through[0].read(), 5)


async def test_a_file_that_shrinks_ends_the_connection(tmp_path: Path) -> None:
    async with rack(tmp_path) as machines:
        reader, _ = await machines.connect(GET)
        await reader.readuntil(b"\r\n\r\n")
        os.truncate(machines.file, 15_000_000)
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            assert len(await asyncio.wait_for(reader.read(), 10)) <= 15_000_000


async def test_a_goodbye_inside_tls_is_no_half_one(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    async with rack(tmp_path) as machines:
        with socket.create_connection(("127.0.0.1", machines.port)) as plain:
            leaving = await asyncio.to_thread(machines.trust.wrap_socket, plain, server_hostname="127.0.0.1")
            leaving.sendall(GET)
            await asyncio.to_thread(leaving.recv, 1000)
            leaving.shutdown(socket.SHUT_WR)
            leaving.close()
        await asyncio.sleep(0.1)
        newcomer = await machines.connect(LIVEZ)
        assert b"alive" in await asyncio.wait_for(newcomer[0].read(), 5)
    assert "eof_received" not in caplog.text


async def test_the_end_of_the_rack_does_not_wait_for_handshakes(tmp_path: Path) -> None:
    async with rack(tmp_path) as machines:
        knocking = await machines.knock()
        await asyncio.sleep(0.05)
        machines.open.clear()
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started < 2.0
    assert await closed(knocking)
    knocking[1].transport.abort()


async def test_a_machine_that_leaves_in_the_middle_is_no_fault(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    async with rack(tmp_path) as machines:
        leaving = [await machines.connect(GET) for _ in range(5)]
        for reader, _ in leaving:
            await reader.readexactly(1000)
        for _, writer in leaving:
            writer.transport.abort()
        await asyncio.sleep(0.3)
        newcomer = await machines.connect(LIVEZ)
        assert b"alive" in await asyncio.wait_for(newcomer[0].read(), 5)
    assert not caplog.records
