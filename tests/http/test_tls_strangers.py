"""TLS at the region's door: handshakes of strangers count and end, and a new certificate needs no restart."""

import asyncio
import contextlib
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path

import pytest
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route

from region.edge.house import House, HouseLimits
from region.edge.rates import Rate
from region.edge.server import build_server
from shared import tls
from shared.tls import Certificate
from tests.http.client.certificates import NOW, Authority
from tests.http.conftest import free_port
from tests.http.lines import Line, closed, read_answer, serving


class Secure:
    """A server inside TLS, and who connects to it."""

    def __init__(self, port: int, house: House, authority: Authority) -> None:
        self.port, self.house, self.authority = port, house, authority
        self.lines: list[Line] = []

    async def knock(self, source: str = "127.0.0.1") -> Line:
        """A connection that says nothing."""
        line = await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))
        self.lines.append(line)
        return line

    async def connect(self, source: str = "127.0.0.1") -> Line:
        """A connection inside TLS."""
        trust = ssl.create_default_context(cafile=str(self.authority.bundle))
        async with asyncio.timeout(5):
            line = await asyncio.open_connection("127.0.0.1", self.port, ssl=trust, local_addr=(source, 0))
        self.lines.append(line)
        return line

    async def ask(self, line: Line) -> int:
        line[1].write(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n")
        return (await read_answer(line))[0]


@asynccontextmanager
async def secure(
    directory: Path,
    limits: HouseLimits | None = None,
    handshake_s: float = 10.0,
) -> AsyncIterator[Secure]:
    authority = Authority.create(directory)
    site = Secure(free_port(), House(limits), authority)

    async def answer(request: Request) -> Response:
        return PlainTextResponse(request.url.scheme)

    server = build_server(
        Starlette(routes=[Route("/", answer)]),
        host="127.0.0.1",
        port=site.port,
        shutdown_grace_s=1,
        house=site.house,
        certificate=Certificate(*authority.pair("127.0.0.1", into=directory / "served")),
        handshake_s=handshake_s,
    )
    async with serving(server):
        try:
            yield site
        finally:
            for _, writer in site.lines:
                writer.transport.abort()


async def test_a_handshake_that_is_put_off_counts_and_the_oldest_goes(tmp_path: Path) -> None:
    async with secure(tmp_path, HouseLimits(connections=4, of_one_address=4)) as site:
        lines = [await site.knock() for _ in range(4)]
        lines[1][1].write(b"\x16\x03\x01\x02\x00")  # half a ClientHello is silence
        await asyncio.sleep(0.05)
        assert site.house.strangers == 4
        newcomer = await site.connect()
        assert await site.ask(newcomer) == 200
        assert [await closed(line) for line in lines] == [True, False, False, False]
        assert site.house.strangers == 4
        assert site.house.closed == {"connections": 1}


async def test_a_handshake_ends_within_its_time(tmp_path: Path) -> None:
    async with secure(tmp_path, handshake_s=0.3) as site:
        lines = [await site.knock() for _ in range(3)]
        lines[1][1].write(b"\x16\x03\x01\x02\x00\x01")
        known = await site.connect()
        for line in lines:
            with contextlib.suppress(ConnectionError):
                assert await asyncio.wait_for(line[0].read(), 5) == b""
        assert await site.ask(known) == 200, "only handshakes end so soon"
        assert site.house.strangers == 1


async def test_so_many_handshakes_in_a_second_and_no_more(tmp_path: Path) -> None:
    rate = Rate(6, 0, burst_of_one_address=4, each_second_of_one_address=0)
    async with secure(tmp_path, HouseLimits(handshakes=rate)) as site:
        for _ in range(4):
            assert await site.ask(await site.connect()) == 200
        with pytest.raises((OSError, EOFError)):
            await site.connect()
        for _ in range(2):
            assert await site.ask(await site.connect("127.0.0.2")) == 200
        with pytest.raises((OSError, EOFError)):
            await site.connect("127.0.0.3")
        assert site.house.closed == {"handshakes": 2}


@pytest.mark.parametrize(
    ("sends", "answer"),
    [
        pytest.param(b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", b"HTTP/1.1 400 Bad Request\r\n", id="HTTP"),
        pytest.param(b"\x05\x01\x00", b"", id="SOCKS"),
        pytest.param(b"\x00" * 5000, b"", id="zeros"),
    ],
)
async def test_who_speaks_no_tls_is_told_so_and_let_go(tmp_path: Path, sends: bytes, answer: bytes) -> None:
    async with secure(tmp_path, handshake_s=0.5) as site:
        line = await site.knock()
        line[1].write(sends)
        with contextlib.suppress(ConnectionError):
            said = await asyncio.wait_for(line[0].read(), 5)
            assert said.startswith(answer)
            assert (b"begin the address with https" in said) is bool(answer)
        assert site.house.strangers == 0
        assert await site.ask(await site.connect()) == 200


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1, ssl.TLSVersion.TLSv1_1])
async def test_old_tls_is_refused(tmp_path: Path, version: ssl.TLSVersion) -> None:
    async with secure(tmp_path) as site:
        old = ssl.create_default_context(cafile=str(site.authority.bundle))
        old.set_ciphers("ALL:@SECLEVEL=0")
        with pytest.warns(DeprecationWarning):
            old.minimum_version = old.maximum_version = version
        with pytest.raises(OSError):
            await asyncio.open_connection("127.0.0.1", site.port, ssl=old)


async def test_http_1_1_is_what_is_spoken_inside(tmp_path: Path) -> None:
    async with secure(tmp_path) as site:
        offering = ssl.create_default_context(cafile=str(site.authority.bundle))
        offering.set_alpn_protocols(["h2", "http/1.1"])
        line = await asyncio.open_connection("127.0.0.1", site.port, ssl=offering)
        site.lines.append(line)
        assert line[1].get_extra_info("ssl_object").selected_alpn_protocol() == "http/1.1"


async def test_a_new_certificate_counts_for_whoever_connects_next(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tls.follow, "__defaults__", (0.05,))

    async def serial(site: Secure) -> str:
        line = await site.connect()
        found: str = line[1].get_extra_info("peercert")["serialNumber"]
        return found

    async with secure(tmp_path) as site:
        before, known = await serial(site), await site.connect()
        served = tmp_path / "served"
        spoilt = served.with_suffix(".key")
        whole = spoilt.read_bytes()
        spoilt.write_bytes(b"no key")
        await asyncio.sleep(0.4)
        assert await serial(site) == before, "what is broken takes no place"
        spoilt.write_bytes(whole)
        site.authority.pair("127.0.0.1", until=NOW + timedelta(days=30), into=served)
        async with asyncio.timeout(5):
            while await serial(site) == before:  # noqa: ASYNC110 - another process has no event for it
                await asyncio.sleep(0.05)
        assert await site.ask(known) == 200, "who is there stays"


async def test_the_end_of_the_server_does_not_wait_for_handshakes(tmp_path: Path) -> None:
    async with secure(tmp_path) as site:
        line = await site.knock()
        await asyncio.sleep(0.05)
        site.lines.remove(line)
        started = asyncio.get_running_loop().time()
    assert asyncio.get_running_loop().time() - started < 1.0
    assert await closed(line)
    line[1].transport.abort()
    assert site.house.strangers == 0
