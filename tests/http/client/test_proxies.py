"""A client session behind a proxy, and what the proxy may see."""

import asyncio
import base64
import traceback
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field

import aiohttp
import pytest
from yarl import URL

from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from shared.errors import (
    AddressForbidden,
    FetchError,
    ProxyFailed,
    TimedOut,
    TlsFailed,
)
from shared.http import client_session
from tests.http.client.calls import (
    GREETING,
    SECRET,
    get,
    refused_port,
)
from tests.http.client.certificates import Authority
from tests.http.client.world import DISGUISES, World
from tests.http.raw_server import raw_server, response


@dataclass
class Proxy:
    """A real small proxy, CONNECT and absolute-form; `refusal` is what it answers instead, `silent` nothing."""

    url: str = ""
    refusal: bytes = b""
    silent: bool = False
    heads: list[str] = field(default_factory=list)

    async def handle(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(ConnectionError, asyncio.IncompleteReadError):
            head = (await reader.readuntil(b"\r\n\r\n")).decode()
            self.heads.append(head)
            if self.silent:
                await reader.read()
            elif self.refusal:
                writer.write(self.refusal)
            else:
                await self._relay(head, reader, writer)
        writer.close()

    async def _relay(self, head: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        method, target, _ = head.split(" ", 2)
        url = URL(f"//{target}" if method == "CONNECT" else target)
        try:
            far_reader, far_writer = await asyncio.open_connection(url.host, url.port)
        except OSError:
            writer.write(response(b"", "502 Bad Gateway"))
            return
        if method == "CONNECT":
            writer.write(b"HTTP/1.1 200 Connection established\r\n\r\n")
        else:
            far_writer.write(head.replace(target, url.raw_path_qs, 1).encode())
        await asyncio.gather(_pump(reader, far_writer), _pump(far_reader, writer))


async def _pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    with suppress(ConnectionError):
        while chunk := await reader.read(65536):
            writer.write(chunk)
            await writer.drain()
    writer.close()


@asynccontextmanager
async def proxying() -> AsyncIterator[Proxy]:
    proxy = Proxy()
    tasks: set[asyncio.Task[None]] = set()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(proxy.handle(reader, writer)))

    async with await asyncio.start_server(accept, "127.0.0.1", 0) as server:
        proxy.url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/"
        yield proxy
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


@pytest.fixture
async def proxy() -> AsyncIterator[Proxy]:
    async with proxying() as made:
        yield made


async def test_http_through_a_proxy(upstream: Server, proxy: Proxy, session: aiohttp.ClientSession) -> None:
    assert await get(session, upstream.url + "greeting", proxy=proxy.url) == GREETING
    assert proxy.heads[0].startswith(f"GET {upstream.url}greeting HTTP/1.1\r\n")


async def test_https_through_a_proxy(
    mirror: Mirror, authority: Authority, proxy: Proxy, session: aiohttp.ClientSession
) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as server:
        assert await get(session, server.url + "greeting", proxy=proxy.url) == GREETING
        assert proxy.heads[0].startswith(f"CONNECT {URL(server.url).authority} HTTP/1.1\r\n")


async def test_a_proxy_makes_no_certificate_good(mirror: Mirror, authority: Authority, proxy: Proxy) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as server, client_session() as session:
        with pytest.raises(TlsFailed, match="unable to get local issuer certificate"):
            await get(session, server.url + "greeting", proxy=proxy.url)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_learns_its_own_password_and_nobody_else_does(
    upstream: Server, mirror: Mirror, authority: Authority, proxy: Proxy, session: aiohttp.ClientSession, scheme: str
) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as secure:
        server = secure if scheme == "https" else upstream
        url = proxy.url.replace("//", f"//bob:{SECRET}@")
        assert await get(session, server.url + "greeting", proxy=url) == GREETING
    assert f"Proxy-Authorization: Basic {base64.b64encode(b'bob:hunter2').decode()}\r\n" in proxy.heads[0]


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_nobody_runs(session: aiohttp.ClientSession, scheme: str) -> None:
    with refused_port() as port, pytest.raises(ProxyFailed) as caught:
        await get(session, f"{scheme}://mirror.invalid/", proxy=f"http://bob:{SECRET}@127.0.0.1:{port}")
    assert caught.value.url == f"{scheme}://mirror.invalid/"
    assert SECRET not in str(caught.value)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_whose_name_is_unknown(session: aiohttp.ClientSession, scheme: str) -> None:
    with pytest.raises(ProxyFailed, match=r"proxy\.invalid"):
        await get(session, f"{scheme}://mirror.example/", proxy=f"http://bob:{SECRET}@proxy.invalid:3128")


REFUSALS = [
    pytest.param(response(b"", "403 Forbidden"), id="forbidden"),
    pytest.param(response(b"", "407 Proxy Authentication Required"), id="wrong-password"),
    pytest.param(response(b"", "502 Bad Gateway"), id="cannot-reach-it"),
]


@pytest.mark.parametrize("refusal", REFUSALS)
async def test_a_proxy_that_refuses_to_connect(proxy: Proxy, session: aiohttp.ClientSession, refusal: bytes) -> None:
    proxy.refusal = refusal
    with pytest.raises(ProxyFailed, match=refusal.split(b" ")[1].decode()) as caught:
        await get(session, "https://mirror.example/", proxy=proxy.url.replace("//", f"//bob:{SECRET}@"))
    assert SECRET not in "".join(traceback.format_exception(caught.value))
    assert str(caught.value).isprintable()


async def test_a_proxy_that_wants_another_password(proxy: Proxy, session: aiohttp.ClientSession) -> None:
    proxy.refusal = response(b"", "407 Proxy Authentication Required")
    with pytest.raises(ProxyFailed, match="407"):
        await get(session, "http://mirror.example/", proxy=proxy.url)


@pytest.mark.parametrize("refusal", [b"\r\n", b"SSH-2.0-OpenSSH\r\n"], ids=["empty", "ssh"])
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_is_none(proxy: Proxy, session: aiohttp.ClientSession, scheme: str, refusal: bytes) -> None:
    proxy.refusal = refusal
    with pytest.raises(FetchError):
        await get(session, f"{scheme}://mirror.example/", proxy=proxy.url)


@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_a_proxy_that_says_nothing(proxy: Proxy, session: aiohttp.ClientSession, scheme: str) -> None:
    proxy.silent = True
    with pytest.raises(TimedOut):
        await get(session, f"{scheme}://mirror.example/", proxy=proxy.url)


@pytest.mark.parametrize(
    "host", ["169.254.169.254", *DISGUISES, "[fd00:ec2::254]", "[64:ff9b::a9fe:a9fe]", "[fe80::1%25lo]"]
)
@pytest.mark.parametrize("scheme", ["http", "https"])
async def test_behind_a_proxy_link_local_stays_forbidden(
    proxy: Proxy, session: aiohttp.ClientSession, scheme: str, host: str
) -> None:
    proxy.refusal = response(b"", "502 Bad Gateway")  # the proxy of a test asks nobody
    with pytest.raises(AddressForbidden):
        await get(session, f"{scheme}://{host}/", proxy=proxy.url)
    assert proxy.heads == []


@pytest.mark.parametrize(
    ("home", "target", "good"),
    [
        ("mirror.example", "10.0.0.5", False),
        ("mirror.example", "127.1", False),
        ("203.0.113.7", "[::1]", False),
        ("10.0.0.1", "10.0.0.5", True),
        ("10.0.0.1", "10.0.0.1", True),
        ("mirror.example", "other.example", True),
        ("mirror.example", "203.0.113.9", True),
    ],
)
async def test_behind_a_proxy_a_redirect_spells_no_private_address_unless_the_url_did(
    session: aiohttp.ClientSession, home: str, target: str, good: bool
) -> None:
    def answer(head: str) -> bytes:
        path = URL(head.split()[1]).path
        return response(GREETING) if path == "/greeting" else away

    away = response(b"", "302 Found", Location=f"http://{target}/greeting")
    async with raw_server(answer) as (url, heads):
        proxied = url.removesuffix("file")
        if good:
            assert await get(session, f"http://{home}/start", proxy=proxied) == GREETING
        else:
            with pytest.raises(AddressForbidden):
                await get(session, f"http://{home}/start", proxy=proxied)
            assert len(heads) == 1


async def test_a_proxy_may_be_wherever_the_operator_says(
    upstream: Server, world: World, abroad: aiohttp.ClientSession
) -> None:
    world.names["proxy.example"] = ["169.254.1.1"]
    with pytest.raises(FetchError) as caught:
        await get(abroad, "http://mirror.example/", proxy=f"http://proxy.example:{URL(upstream.url).port}/")
    assert not isinstance(caught.value, AddressForbidden)
    assert world.opened == ["169.254.1.1"]
