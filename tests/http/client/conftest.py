"""A client session, a server that greets, and whom the session trusts."""

from collections.abc import AsyncIterator

import aiohttp
import pytest

from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from shared.http import client_session
from tests.http.client.calls import CONNECT_TIMEOUT_S, GREETING, READ_TIMEOUT_S
from tests.http.client.certificates import Authority
from tests.http.client.world import World


@pytest.fixture(autouse=True)
def _no_system_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not what is tested here, and reading them takes 50 ms a session."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


@pytest.fixture(scope="module")
def mirror(tmp_path_factory: pytest.TempPathFactory) -> Mirror:
    found = Mirror(tmp_path_factory.mktemp("mirror"), Key.generate(), signer=None)
    found.root.mkdir()
    (found.root / "greeting").write_bytes(GREETING)
    return found


@pytest.fixture
async def upstream(mirror: Mirror) -> AsyncIterator[Server]:
    async with serve(mirror) as server:
        yield server


@pytest.fixture
async def session(authority: Authority) -> AsyncIterator[aiohttp.ClientSession]:
    async with client_session(
        ca_bundle=authority.bundle, connect_timeout_s=CONNECT_TIMEOUT_S, read_timeout_s=READ_TIMEOUT_S
    ) as made:
        yield made


@pytest.fixture
def world() -> World:
    return World({"mirror.example": ["203.0.113.7"], "other.example": ["203.0.113.8"], "inner.example": ["10.0.0.5"]})


@pytest.fixture
async def abroad(world: World) -> AsyncIterator[aiohttp.ClientSession]:
    """A session in that world."""
    async with client_session(
        connect_timeout_s=CONNECT_TIMEOUT_S,
        read_timeout_s=READ_TIMEOUT_S,
        resolver=world,
        open_socket=world.open_socket,
    ) as made:
        yield made
