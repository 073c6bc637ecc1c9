"""How a request came, and what follows: HSTS, the cookie, links, and what the page is told. The real scheme counts."""

import asyncio
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from region import api
from region.edge.server import build_server
from shared.tls import Certificate
from tests.http.client.certificates import Authority
from tests.http.conftest import Running, free_port

HTTPS, HTTP = {"X-Forwarded-Proto": "https"}, {"X-Forwarded-Proto": "http"}


@dataclass(frozen=True, slots=True)
class Way:
    """A way to a region. `tls`: its own connection is inside TLS; `proxies`: who is believed; `sent` by the client."""

    tls: bool
    proxies: tuple[str, ...]
    sent: dict[str, str]
    secure: bool


WAYS = {
    "in the clear": Way(tls=False, proxies=(), sent={}, secure=False),
    "in the clear, by a proxy nobody named": Way(tls=False, proxies=(), sent=HTTPS, secure=False),
    "by a proxy that speaks TLS": Way(tls=False, proxies=("127.0.0.1",), sent=HTTPS, secure=True),
    "by a proxy in the clear": Way(tls=False, proxies=("127.0.0.1",), sent=HTTP, secure=False),
    "by a proxy of elsewhere": Way(tls=False, proxies=("10.0.0.0/8",), sent=HTTPS, secure=False),
    "inside TLS": Way(tls=True, proxies=(), sent={}, secure=True),
    "inside TLS, whatever a stranger says": Way(tls=True, proxies=(), sent=HTTP, secure=True),
}


@asynccontextmanager
async def door(running: Running, directory: Path, way: Way) -> AsyncIterator[tuple[str, aiohttp.ClientSession]]:
    """Another server of the same region, and a session that trusts it."""
    authority = Authority.create(directory)
    port = free_port()
    server = build_server(
        api.create(running.region),
        host="127.0.0.1",
        port=port,
        shutdown_grace_s=1,
        proxies=way.proxies,
        certificate=Certificate(*authority.pair("127.0.0.1")) if way.tls else None,
    )
    server.config.lifespan = "off"
    serving = asyncio.create_task(server.serve())
    while not server.started:  # noqa: ASYNC110 - uvicorn has no event for it
        await asyncio.sleep(0.01)
    trust = ssl.create_default_context(cafile=str(authority.bundle))
    base = f"{'https' if way.tls else 'http'}://127.0.0.1:{port}"
    try:
        async with aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(ssl=trust), headers=way.sent, cookie_jar=aiohttp.CookieJar(unsafe=True)
        ) as session:
            yield base, session
    finally:
        server.should_exit = True
        await asyncio.wait_for(serving, 10)


@pytest.mark.parametrize("way", WAYS.values(), ids=WAYS)
async def test_what_follows_from_how_a_request_came(running: Running, tmp_path: Path, way: Way) -> None:
    scheme = "https" if way.secure else "http"
    async with door(running, tmp_path, way) as (base, session):
        async with session.get(f"{base}/api/v1/region") as answer:
            assert (await answer.json())["tls"] is way.secure
            assert answer.headers.get("Strict-Transport-Security") == ("max-age=31536000" if way.secure else None)
        async with session.get(f"{base}/") as page:
            assert ("Strict-Transport-Security" in page.headers) is way.secure
        async with session.get(f"{base}/nothing") as nothing:
            assert nothing.status == 404
            assert ("Strict-Transport-Security" in nothing.headers) is way.secure
        async with session.post(f"{base}/api/v1/session", json={"token": running.client.token}) as answer:
            assert answer.status == 200
            assert ("Secure" in answer.headers["Set-Cookie"].split("; ")) is way.secure
        bearer = {"Authorization": f"Bearer {running.client.token}"}
        async with session.post(f"{base}/api/v1/enrolment-tokens", headers=bearer) as answer:
            command = (await answer.json())["command"]
            assert command == f"bootferry-rack enrol --region {scheme}://{base.partition('://')[2]}"


@pytest.mark.parametrize(("origin", "status"), [("https", 202), ("http", 403)])
async def test_a_page_in_the_clear_changes_nothing_inside_tls(
    running: Running, tmp_path: Path, origin: str, status: int
) -> None:
    way = WAYS["inside TLS"]
    async with door(running, tmp_path, way) as (base, session):
        sent: dict[str, Any] = {"headers": {"Origin": f"{origin}://{base.partition('://')[2]}"}}
        await (await session.post(f"{base}/api/v1/session", json={"token": running.client.token})).read()
        async with session.post(f"{base}/api/v1/imports", **sent) as answer:
            assert answer.status == status
