"""What a machine gets from a rack, header by header."""

import asyncio
import base64
import os
import socket
from collections.abc import AsyncIterator
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from yarl import URL

from rack import serve
from rack.belief import Belief
from rack.connections import Runner
from rack.tree import Link, Tree
from shared.digest import Sha256
from shared.mark import VERIFIED_AT
from shared.names import RelativePath
from tests.http.fake_region import noise

PATH = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"
CONTENT = noise("kernel", 200_000)
SHA256 = Sha256.of(CONTENT)
ETAG = f'"{SHA256}"'
DIGEST = f"sha-256=:{base64.b64encode(bytes.fromhex(SHA256)).decode()}:"


@pytest.fixture
def belief(tmp_path: Path) -> Belief:
    path = tmp_path / "trees" / "1-1-0" / PATH
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    os.utime(path, (VERIFIED_AT, VERIFIED_AT))
    (path.parent / "unlisted").write_bytes(b"secret")
    (tmp_path / "identity").mkdir()
    (tmp_path / "identity" / "rack.key").write_bytes(b"secret")
    name = Link(SHA256, len(CONTENT), "ubuntu:noble:amd64")
    empty = tmp_path / "trees" / "1-1-0" / "empty"
    empty.write_bytes(b"")
    os.utime(empty, (VERIFIED_AT, VERIFIED_AT))
    return Belief(
        tree=Tree("1-1-0", {RelativePath(PATH): name, RelativePath("empty"): Link(Sha256.of(b""), 0, "empty")})
    )


@pytest.fixture
def doubts() -> list[None]:
    return []


@pytest.fixture
async def address(tmp_path: Path, belief: Belief, doubts: list[None]) -> AsyncIterator[tuple[str, int]]:
    runner = Runner(serve.application(tmp_path, belief, lambda: doubts.append(None)))
    await runner.setup()
    try:
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        yield runner.addresses[0]
    finally:
        await runner.cleanup()


@pytest.fixture
async def machine(address: tuple[str, int]) -> AsyncIterator[aiohttp.ClientSession]:
    async with aiohttp.ClientSession(f"http://{address[0]}:{address[1]}", auto_decompress=False) as session:
        yield session


REQUESTS = [
    pytest.param("GET", {}, 200, CONTENT, None, id="whole"),
    pytest.param("HEAD", {}, 200, b"", None, id="head"),
    pytest.param("HEAD", {"Range": "bytes=0-9"}, 200, b"", None, id="head-knows-no-range"),
    pytest.param("GET", {"Range": "bytes=0-9"}, 206, CONTENT[:10], "bytes 0-9/200000", id="first-ten"),
    pytest.param("GET", {"Range": "bytes=199990-"}, 206, CONTENT[-10:], "bytes 199990-199999/200000", id="open-end"),
    pytest.param("GET", {"Range": "bytes=-10"}, 206, CONTENT[-10:], "bytes 199990-199999/200000", id="last-ten"),
    pytest.param("GET", {"Range": "bytes=5-999999"}, 206, CONTENT[5:], "bytes 5-199999/200000", id="beyond-the-end"),
    pytest.param("GET", {"Range": "bytes=200000-"}, 416, b"", "bytes */200000", id="after-the-end"),
    pytest.param("GET", {"Range": "bytes=9-5"}, 200, CONTENT, None, id="backwards-is-no-range"),
    pytest.param("GET", {"Range": "bytes=0-1,5-6"}, 200, CONTENT, None, id="several-give-the-whole"),
    pytest.param("GET", {"Range": "lines=1-2"}, 200, CONTENT, None, id="unknown-unit"),
    pytest.param("GET", {"Range": "bytes=0-9", "If-Range": ETAG}, 206, CONTENT[:10], "bytes 0-9/200000", id="if-range"),
    pytest.param("GET", {"Range": "bytes=0-9", "If-Range": '"other"'}, 200, CONTENT, None, id="if-range-of-another"),
    pytest.param("GET", {"Range": "bytes=0-9", "If-Range": f"W/{ETAG}"}, 200, CONTENT, None, id="if-range-weak"),
    pytest.param(
        "GET",
        {"Range": "bytes=0-9", "If-Range": "Wed, 01 Jul 2026 00:00:00 GMT"},
        200,
        CONTENT,
        None,
        id="if-range-by-date",
    ),
    pytest.param("GET", {"If-None-Match": ETAG}, 304, b"", None, id="not-modified"),
    pytest.param("GET", {"If-None-Match": f'"x", W/{ETAG}'}, 304, b"", None, id="not-modified-weak-in-a-list"),
    pytest.param("GET", {"If-None-Match": "*"}, 304, b"", None, id="not-modified-any"),
    pytest.param("HEAD", {"If-None-Match": ETAG}, 304, b"", None, id="head-not-modified"),
    pytest.param("GET", {"If-None-Match": '"other"'}, 200, CONTENT, None, id="modified"),
    pytest.param("GET", {"If-Match": '"other"'}, 412, b"", None, id="precondition-failed"),
    pytest.param("GET", {"If-Match": ETAG}, 200, CONTENT, None, id="precondition-met"),
]


@pytest.mark.parametrize(("method", "headers", "status", "body", "content_range"), REQUESTS)
async def test_http_manners(
    machine: aiohttp.ClientSession,
    method: str,
    headers: dict[str, str],
    status: int,
    body: bytes,
    content_range: str | None,
) -> None:
    async with machine.request(method, f"/images/{PATH}", headers=headers) as response:
        assert (response.status, await response.read()) == (status, body)
        assert response.headers.get("Content-Range") == content_range
        assert response.headers["ETag"] == ETAG
        assert response.headers["Repr-Digest"] == DIGEST
        assert response.headers["Cache-Control"] == "no-cache"
        assert response.headers["Accept-Ranges"] == "bytes"
        assert response.headers["Server"] == "bootferry-rack"
        if status == 200:
            assert response.headers["Content-Length"] == "200000"
            assert response.headers["Content-Type"] == "application/octet-stream"


@pytest.mark.parametrize(
    ("request_line", "hosts", "status"),
    [
        pytest.param("GET /livez HTTP/1.1", ["a"], "200", id="one"),
        pytest.param("GET /livez HTTP/1.1", [], "400", id="none"),
        pytest.param("GET /livez HTTP/1.1", ["a", "b"], "400", id="two"),
        pytest.param("GET /livez HTTP/1.1", ["a", "a"], "400", id="twice the same"),
        pytest.param("GET /livez HTTP/1.0", [], "200", id="none, of firmware that speaks HTTP 1.0"),
    ],
)
async def test_a_request_names_one_host(
    address: tuple[str, int], request_line: str, hosts: list[str], status: str
) -> None:
    """RFC 9112 §3.2; the library's parser sees to it."""
    reader, writer = await asyncio.open_connection(*address)
    head = [request_line, *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
    writer.write("\r\n".join(head).encode())
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    assert answer.split(" ")[1] == status, answer


async def test_an_empty_file_is_a_file(machine: aiohttp.ClientSession) -> None:
    async with machine.get("/images/empty", headers={"Range": "bytes=0-"}) as response:
        assert (response.status, response.headers["Content-Range"]) == (416, "bytes */0")
    async with machine.get("/images/empty") as response:
        assert (response.status, await response.read()) == (200, b"")


HIDDEN = [
    "/images/",
    "/images/ubuntu",
    "/images/ubuntu/amd64/ga-24.04/noble/stable/",
    "/images/ubuntu/amd64/ga-24.04/noble/stable/unlisted",
    "/images/../identity/rack.key",
    "/images/%2e%2e/%2e%2e/identity/rack.key",
    "/images/..%2f..%2f..%2fidentity%2frack.key",
    "/images//etc/passwd",
    "/images/%00",
    "/identity/rack.key",
    "/",
]


@pytest.mark.parametrize("path", HIDDEN)
async def test_only_names_of_the_tree_are_served(machine: aiohttp.ClientSession, path: str) -> None:
    base = machine._base_url
    assert base is not None
    async with machine.get(URL(f"{base.origin()}{path}", encoded=True)) as response:
        assert response.status in (400, 404)
        assert b"secret" not in await response.read()


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE", "PATCH", "OPTIONS"])
async def test_it_can_only_be_read(machine: aiohttp.ClientSession, method: str) -> None:
    async with machine.request(method, f"/images/{PATH}") as response:
        assert response.status == 405
        assert set(response.headers["Allow"].split(",")) == {"GET", "HEAD"}


async def test_a_touched_file_is_not_served_and_the_agent_hears_of_it(
    machine: aiohttp.ClientSession, tmp_path: Path, doubts: list[None]
) -> None:
    path = tmp_path / "trees" / "1-1-0" / PATH
    path.write_bytes(b"\0" + CONTENT[1:])
    async with machine.get(f"/images/{PATH}") as response:
        assert response.status == 503
        assert response.headers["Retry-After"]
    assert doubts == [None]


async def test_a_link_in_the_place_of_a_file_leads_nowhere(
    machine: aiohttp.ClientSession, tmp_path: Path, doubts: list[None]
) -> None:
    path = tmp_path / "trees" / "1-1-0" / PATH
    path.rename(tmp_path / "elsewhere")
    path.symlink_to(tmp_path / "elsewhere")
    async with machine.get(f"/images/{PATH}") as response:
        assert response.status == 503
    assert doubts == [None]


async def test_probes_answer_head(machine: aiohttp.ClientSession, belief: Belief) -> None:
    for path in ("/livez", "/readyz"):
        async with machine.head(path) as response:
            assert (response.status, await response.read()) == (200, b"")
    belief.tree = None
    async with machine.head("/readyz") as response:
        assert response.status == 503


async def test_health_and_metrics(machine: aiohttp.ClientSession, belief: Belief) -> None:
    async with machine.get("/livez") as response:
        assert response.status == 200
    async with machine.get("/readyz") as response:
        assert response.status == 200
    async with machine.get("/metrics") as response:
        text = await response.text()
        assert "rack_images 2.0" in text
        assert "rack_images_pending 0.0" in text
        assert 'rack_requests_total{status="200"} 2.0' in text
    belief.tree = None
    for path in ("/readyz", f"/images/{PATH}"):
        async with machine.get(path) as response:
            assert response.status == 503
            assert response.headers["Retry-After"]
    async with machine.get("/livez") as response:
        assert response.status == 200


async def test_keep_alive_survives_every_kind_of_answer(machine: aiohttp.ClientSession) -> None:
    async with aiohttp.ClientSession(machine._base_url, connector=aiohttp.TCPConnector(limit=1)) as one:
        for headers, body in [
            ({}, CONTENT),
            ({"Range": "bytes=1-2"}, CONTENT[1:3]),
            ({"If-None-Match": ETAG}, b""),
        ] * 3:
            async with one.get(f"/images/{PATH}", headers=headers) as response:
                assert await response.read() == body


async def test_machines_that_do_not_read_hold_nobody_up(
    address: tuple[str, int], machine: aiohttp.ClientSession
) -> None:
    slow = []
    try:
        for _ in range(50):
            connection = socket.create_connection(address)
            connection.sendall(f"GET /images/{PATH} HTTP/1.1\r\nHost: rack\r\n\r\n".encode())
            slow.append(connection)
        async with asyncio.timeout(5), machine.get(f"/images/{PATH}") as response:
            assert await response.read() == CONTENT
    finally:
        for connection in slow:
            connection.close()


async def test_a_machine_that_goes_away_is_no_error(
    address: tuple[str, int],
    machine: aiohttp.ClientSession,
    tmp_path: Path,
    belief: Belief,
    caplog: pytest.LogCaptureFixture,
) -> None:
    path = tmp_path / "trees" / "1-1-0" / "large"
    with path.open("wb") as file:
        file.truncate(200_000_000)
    os.utime(path, (VERIFIED_AT, VERIFIED_AT))
    assert belief.tree is not None
    names = {**belief.tree.names, RelativePath("large"): Link(SHA256, 200_000_000, "")}
    belief.tree = Tree("1-1-0", names)
    for _ in range(5):
        connection = socket.create_connection(address)
        connection.sendall(b"GET /images/large HTTP/1.1\r\nHost: rack\r\n\r\n")
        await asyncio.sleep(0.05)
        connection.close()
    async with machine.get(f"/images/{PATH}") as response:
        assert await response.read() == CONTENT
    assert not caplog.records


async def test_a_file_that_shrinks_while_it_is_sent_ends_the_connection(
    machine: aiohttp.ClientSession, tmp_path: Path, belief: Belief
) -> None:
    path = tmp_path / "trees" / "1-1-0" / "large"
    with path.open("wb") as file:
        file.truncate(50_000_000)
    os.utime(path, (VERIFIED_AT, VERIFIED_AT))
    assert belief.tree is not None
    belief.tree = Tree("1-1-0", {RelativePath("large"): Link(SHA256, 50_000_000, "")})
    async with machine.get("/images/large") as response:
        os.truncate(path, 1000)
        with pytest.raises(aiohttp.ClientPayloadError):
            await response.read()
