"""A real region over real HTTP, with the sample mirror as its default source."""

import asyncio
import json
import socket
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from region import api, app
from region.configuration import RegionConfiguration
from region.edge.server import build_server
from region.process import Region
from tests.conftest import NOW
from tests.http.fake_region import FakeRegion
from tests.http.running_rack import Rack, running_rack


@dataclass(frozen=True, slots=True)
class Answer:
    """An answer, whole."""

    status: int
    headers: Any
    body: bytes

    @property
    def json(self) -> Any:
        return json.loads(self.body)


@dataclass(frozen=True, slots=True)
class Client:
    """A caller of the region's API. `token` None is nobody."""

    session: aiohttp.ClientSession
    base: str
    token: str | None

    async def __call__(self, method: str, path: str, *, headers: dict[str, str] | None = None, **given: Any) -> Answer:
        sent = {"Authorization": f"Bearer {self.token}"} if self.token else {}
        url = (
            f"{self.base}{path}"
            if path.startswith(("/livez", "/readyz", "/metrics", "/docs", "/static"))
            else (f"{self.base}/api/v1{path}")
        )
        async with self.session.request(method, url, headers=sent | (headers or {}), **given) as response:
            return Answer(response.status, response.headers, await response.read())

    async def items(self, path: str) -> list[Any]:
        """The items of a list, of which one page must be enough."""
        answer = await self("GET", path)
        assert answer.status == 200, answer.body
        found: list[Any] = answer.json["items"]
        return found


@dataclass(frozen=True, slots=True)
class Running:
    """A region that runs, its mirror, and an administrator's client."""

    region: Region
    mirror: Mirror
    upstream: Server
    client: Client

    def as_nobody(self) -> Client:
        return Client(self.client.session, self.client.base, None)


def free_port() -> int:
    """A port nobody listens on just now."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[tuple[Mirror, Server]]:
    """A small sample mirror, served."""
    mirror = Mirror.create(tmp_path / "upstream", now=NOW, sizes=TINY)
    async with serve(mirror, host="127.0.0.1") as server:
        yield mirror, server


@pytest.fixture
async def running(tmp_path: Path, database_url: str, upstream: tuple[Mirror, Server]) -> AsyncIterator[Running]:
    """A region that has imported the newest LTS already."""
    mirror, upstream_server = upstream
    port = free_port()
    settings = RegionConfiguration(
        database_url=database_url,
        data_dir=tmp_path / "region",
        port=port,
        default_source_url=upstream_server.url,
        default_source_keyring=mirror.keyring_path,
        prune_grace_seconds=0,
    )
    built = app.build(settings)
    server = build_server(api.create(built), host="127.0.0.1", port=port, shutdown_grace_s=1, proxies=["127.0.0.1"])
    serving = asyncio.create_task(server.serve())
    async with aiohttp.ClientSession() as session:
        await asyncio.wait_for(built.ready.wait(), 20)
        token = (settings.data_dir / "admin-token").read_text().strip()
        client = Client(session, f"http://127.0.0.1:{port}", token)
        await imported(client)
        yield Running(built, mirror, upstream_server, client)
        server.should_exit = True
        await asyncio.wait_for(serving, 20)


async def imported(client: Client, import_id: int = 1) -> Any:
    """Wait until the import has ended; answers it."""
    for _ in range(400):
        answer = await client("GET", f"/imports/{import_id}")
        if answer.status == 200 and answer.json["state"] not in ("queued", "running"):
            return answer.json
        await asyncio.sleep(0.05)
    raise AssertionError(f"the import {import_id} has not ended: {answer.body!r}")


@pytest.fixture
async def region() -> AsyncIterator[FakeRegion]:
    """A region for a rack alone, which misbehaves on request."""
    async with FakeRegion.running() as region:
        yield region


@pytest.fixture
async def rack(region: FakeRegion, tmp_path: Path) -> AsyncIterator[Rack]:
    """A rack in this process, enrolled at `region`."""
    async with running_rack(region, tmp_path) as rack:
        yield rack
