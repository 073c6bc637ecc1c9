"""Which addresses a client session connects to, whatever a name, a spelling or a redirect says."""

import aiohttp
import pytest
from yarl import URL

from deploy.local.mirror.faults import Redirect
from deploy.local.mirror.server import Server
from shared.errors import (
    AddressForbidden,
    ConnectionLost,
    FetchError,
)
from tests.http.client.calls import GREETING, get
from tests.http.client.world import DISGUISES, World

FORBIDDEN = [
    "http://169.254.169.254/",
    "http://169.254.0.1:8080/",
    "http://[fe80::1]/",
    "http://[fe80::1%25lo]/",
    "http://[::ffff:169.254.169.254]/",
    "http://0xa9fea9fe/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://224.0.0.1/",
    "http://[ff02::1]/",
    "http://100.100.100.200/",
    "http://192.0.0.192/",
    "http://[fd00:ec2::254]/",
    "http://[64:ff9b::a9fe:a9fe]/",
    "http://[64:ff9b:1::a9fe:a9fe]/",
    "http://[2002:a9fe:a9fe::]/",
    "http://[::169.254.169.254]/",
]


@pytest.mark.parametrize("url", FORBIDDEN)
async def test_an_address_no_image_can_come_from(abroad: aiohttp.ClientSession, world: World, url: str) -> None:
    with pytest.raises(AddressForbidden) as caught:
        await get(abroad, url)
    assert caught.value.url == str(URL(url))
    assert world.opened == []


@pytest.mark.parametrize("host", DISGUISES)
async def test_an_address_in_disguise(abroad: aiohttp.ClientSession, world: World, host: str) -> None:
    with pytest.raises(FetchError) as caught:
        await get(abroad, f"http://{host}/")
    assert not isinstance(caught.value, ConnectionLost)
    assert world.opened == []


async def test_a_name_that_leads_to_a_forbidden_address(abroad: aiohttp.ClientSession, world: World) -> None:
    world.names["metadata.example"] = ["169.254.169.254"]
    with pytest.raises(AddressForbidden, match=r"leads to 169\.254\.169\.254") as caught:
        await get(abroad, "http://metadata.example/latest")
    assert caught.value.url == "http://metadata.example/latest"
    assert world.opened == []


async def test_a_name_that_leads_to_forbidden_addresses_only(abroad: aiohttp.ClientSession, world: World) -> None:
    world.names["metadata.example"] = ["169.254.169.254", "fd00:ec2::254", "::ffff:169.254.169.254"]
    with pytest.raises(AddressForbidden):
        await get(abroad, "http://metadata.example/latest")
    assert world.opened == []


async def test_a_name_that_also_leads_elsewhere_leads_only_there(
    upstream: Server, abroad: aiohttp.ClientSession, world: World
) -> None:
    world.names["both.example"] = ["169.254.169.254", "127.0.0.1"]
    assert await get(abroad, upstream.url.replace("127.0.0.1", "both.example") + "greeting") == GREETING
    assert world.opened == ["127.0.0.1"]


HOPS = {
    "public-to-loopback": (["mirror.example", "127.0.0.1"], ["203.0.113.7"], False),
    "public-to-a-private-name": (["mirror.example", "inner.example"], ["203.0.113.7"], False),
    "public-to-a-private-address": (["mirror.example", "192.168.0.9"], ["203.0.113.7"], False),
    "public-to-ipv6-loopback": (["mirror.example", "[::1]"], ["203.0.113.7"], False),
    "public-to-a-mapped-address": (["mirror.example", "[::ffff:10.0.0.5]"], ["203.0.113.7"], False),
    "public-to-6to4-of-a-private-address": (["mirror.example", "[2002:a00:5::]"], ["203.0.113.7"], False),
    "a-public-address-to-a-private-one": (["203.0.113.9", "10.0.0.5"], ["203.0.113.9"], False),
    "by-way-of-another-public-one": (
        ["mirror.example", "other.example", "inner.example"],
        ["203.0.113.7", "203.0.113.8"],
        False,
    ),
    "from-inside-out-and-in-again": (
        ["inner.example", "mirror.example", "127.0.0.1"],
        ["10.0.0.5", "203.0.113.7"],
        False,
    ),
    "public-to-public": (["mirror.example", "other.example"], ["203.0.113.7", "203.0.113.8"], True),
    "inside": (["inner.example", "127.0.0.1"], ["10.0.0.5", "127.0.0.1"], True),
    "from-inside-out": (["inner.example", "mirror.example"], ["10.0.0.5", "203.0.113.7"], True),
}


@pytest.mark.parametrize(("hosts", "opened", "good"), HOPS.values(), ids=HOPS.keys())
async def test_a_redirect_never_leads_from_a_public_address_to_a_private_one(
    upstream: Server, abroad: aiohttp.ClientSession, world: World, hosts: list[str], opened: list[str], good: bool
) -> None:
    port = URL(upstream.url).port
    for number, host in enumerate(hosts[1:]):
        path = "greeting" if number == len(hosts) - 2 else f"hop-{number + 1}"
        upstream.misbehave(f"hop-{number}", Redirect(f"http://{host}:{port}/{path}"))
    if good:
        assert await get(abroad, f"http://{hosts[0]}:{port}/hop-0") == GREETING
    else:
        with pytest.raises(AddressForbidden) as caught:
            await get(abroad, f"http://{hosts[0]}:{port}/hop-0")
        assert caught.value.url == f"http://{hosts[0]}:{port}/hop-0"
        assert upstream.asked("greeting") == []
    assert world.opened == opened


async def test_a_name_that_changes_its_address_between_two_looks(
    upstream: Server, abroad: aiohttp.ClientSession, world: World
) -> None:
    """What is connected to is looked at, not what the name led to a moment ago."""
    port = URL(upstream.url).port
    upstream.misbehave("start", Redirect(f"http://turning.example:{port}/greeting"))
    world.names["turning.example"] = ["203.0.113.8"]
    assert await get(abroad, f"http://mirror.example:{port}/start") == GREETING
    world.names["turning.example"] = ["169.254.169.254"]
    upstream.misbehave("end", Redirect(f"http://turning.example:{port}/greeting"))
    abroad.connector._cached_hosts.clear()  # type: ignore[union-attr] # ten seconds later
    for connections in abroad.connector._conns.values():  # type: ignore[union-attr] # each of which has ended
        for protocol, _ in connections:
            protocol.close()
    world.opened.clear()
    with pytest.raises(AddressForbidden):
        await get(abroad, f"http://mirror.example:{port}/end")
    assert world.opened == ["203.0.113.7"]


async def test_a_connection_kept_from_another_request_is_looked_at_too(
    upstream: Server, abroad: aiohttp.ClientSession, world: World
) -> None:
    port = URL(upstream.url).port
    assert await get(abroad, f"http://inner.example:{port}/greeting") == GREETING
    upstream.misbehave("start", Redirect(f"http://inner.example:{port}/greeting"))
    with pytest.raises(AddressForbidden):
        await get(abroad, f"http://mirror.example:{port}/start")
    assert len(upstream.asked("greeting")) == 1
    # Who was told to go there still may.
    assert await get(abroad, f"http://inner.example:{port}/greeting") == GREETING
