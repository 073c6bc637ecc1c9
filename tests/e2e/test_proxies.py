"""nginx and HAProxy before a real region, as `deploy/` ships them: TLS, files, events, large bodies, refusals."""

import asyncio
import io
import json
import os
import ssl
import time
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server
from rack import identity as identities
from shared.signing import fingerprint, sign_request
from tests.e2e.proxies import Proxy, haproxy, nginx
from tests.e2e.site import Service, Site
from tests.http.client.certificates import Authority

LOADER = "bootloader/uefi/amd64/bootx64.efi"


@dataclass(slots=True)
class Front:
    """A region behind a proxy, and a caller who trusts the proxy's certificate."""

    kind: str
    site: Site
    region: Service
    authority: Authority
    pair: tuple[Path, Path]
    trust: ssl.SSLContext
    session: aiohttp.ClientSession
    token: str = ""

    @property
    def store(self) -> Path:
        return self.site.directory / "region" / "store"

    @property
    def bearer(self) -> dict[str, str]:
        return {"Authorization": f"Bearer {self.token}"}

    def proxy(self, **given: Any) -> Any:
        """The proxy, as a context manager."""
        directory = self.site.directory / self.kind
        if self.kind == "nginx":
            return nginx(directory, self.region.port, self.pair, self.store, **given)
        return haproxy(directory, self.region.port, self.pair, **given)


@pytest.fixture(params=["nginx", "haproxy"])
async def front(
    request: pytest.FixtureRequest, site: Site, database_url: str, upstream: tuple[Mirror, Server], tmp_path: Path
) -> AsyncIterator[Front]:
    """A region that has imported the newest LTS, ready to stand behind a proxy."""
    mirror, server = upstream
    authority = Authority.create(tmp_path)
    region = site.add_region(
        "region-a",
        database_url,
        server.url,
        mirror.keyring_path,
        REGION_TRUSTED_PROXIES="127.0.0.1",
        REGION_METRICS_ADDRESSES="127.0.0.2",
        **({"REGION_ACCEL_PREFIX": "/bootferry-files"} if request.param == "nginx" else {}),
    )
    trust = ssl.create_default_context(cafile=str(authority.bundle))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust)) as session:
        made = Front(
            request.param, site, region, authority, authority.pair("127.0.0.1", "::1", "localhost"), trust, session
        )
        await site.start_region(region)
        made.token = (tmp_path / "region" / "admin-token").read_text().strip()

        async def imported() -> bool:
            _, found = await site.api(region, "GET", "/imports")
            return any(one["state"] == "succeeded" for one in found["items"])

        await site.until(imported)
        yield made


def is_problem(status: int, headers: Any, body: bytes, code: str) -> dict[str, Any]:
    """The document, which must be one of ours."""
    assert headers["Content-Type"] == "application/problem+json", body
    document: dict[str, Any] = json.loads(body)
    assert document.keys() == {"type", "title", "status", "detail", "code", "request_id"}
    assert (document["status"], document["code"]) == (status, code)
    assert document["detail"].endswith(".")
    assert document["request_id"]
    assert headers["Cache-Control"] == "no-store"
    return document


async def get(front: Front, url: str, **headers: str) -> tuple[int, Any, bytes]:
    """Status, headers and body."""
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    async with front.session.get(url, headers=front.bearer | named, allow_redirects=False) as answer:
        return answer.status, answer.headers, await answer.read()


async def raw(front: Front, proxy: Proxy, sends: bytes) -> tuple[int, Any, bytes]:
    """The answer to bytes that no client of HTTP would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", proxy.port, ssl=front.trust)
    writer.write(sends)
    answer = await asyncio.wait_for(reader.read(), 20)
    writer.transport.abort()
    head, _, body = answer.partition(b"\r\n\r\n")
    lines = head.decode().split("\r\n")
    headers = {name.title(): value for name, _, value in (line.partition(": ") for line in lines[1:])}
    return int(lines[0].split()[1]), headers, body


async def enrolled(front: Front, proxy: Proxy) -> Service:
    """A rack that knows the region by the proxy's address."""
    async with front.session.post(f"{proxy.base}/api/v1/enrolment-tokens", headers=front.bearer) as answer:
        made = await answer.json()
    assert made["command"] == f"bootferry-rack enrol --region {proxy.base}", "links are the proxy's"
    rack = front.site.add_rack("rack-a")
    arguments = ("enrol", "--region", proxy.base, "--name", "rack-a", "--ca-bundle", str(front.authority.bundle))
    await asyncio.to_thread(rack.told, *arguments, text=f"{made['token']}\n")
    return rack


async def test_a_region_behind_a_proxy(front: Front) -> None:
    with front.proxy() as proxy:
        # TLS, and what follows from it; the port without it leads there. Both by IPv6, too.
        for host in ("127.0.0.1", *(["[::1]"] * proxy.has_ipv6)):
            status, headers, body = await get(front, f"https://{host}:{proxy.port}/api/v1/region")
            assert (status, json.loads(body)["tls"]) == (200, True)
            assert headers.getall("Strict-Transport-Security") == ["max-age=31536000"]
            status, headers, _ = await get(front, f"http://{host}:{proxy.plain_port}/api/v1/images?x=1")
            assert status == 308
            assert headers["Location"].startswith("https://")
            assert headers["Location"].endswith("/api/v1/images?x=1")
            if front.kind == "nginx":
                status, headers, _ = await get(front, f"http://{host}:{proxy.port}/x")
                assert (status, headers["Location"]) == (308, "https://region.example.org/x")
        async with front.session.post(f"{proxy.base}/api/v1/session", json={"token": front.token}) as answer:
            assert "Secure" in answer.headers["Set-Cookie"].split("; ")

        # Who asks is the proxy's to say, and nobody else's.
        local = aiohttp.TCPConnector(ssl=front.trust, local_addr=("127.0.0.2", 0))
        async with aiohttp.ClientSession(connector=local) as other, other.get(f"{proxy.base}/metrics") as answer:
            assert answer.status == 200
        async with front.session.get(f"{proxy.base}/metrics", headers={"X-Forwarded-For": "127.0.0.2"}) as answer:
            assert answer.status == 401
        status, headers, _ = await get(front, f"{proxy.base}/api/v1/region", X_Request_Id="ours-1")
        assert headers.getall("X-Request-Id") == ["ours-1"]

        # A rack enrols, pulls and reports through it.
        rack = await enrolled(front, proxy)
        rack.start()

        async def synced() -> bool:
            _, found = await front.site.api(front.region, "GET", "/racks")
            return [one["status"] for one in found["items"]] == ["synced"]

        await front.site.until(synced)
        async with front.site.session.get(f"{rack.base}/images/{LOADER}") as served:
            assert served.status == 200
        if front.kind == "nginx":
            sent = [line.split() for line in proxy.log.read_text().splitlines() if "accel=/bootferry-files/" in line]
            assert sent, "the bytes of files are nginx's to send"

        # A body of 8 MiB, whole: the region takes its digest before it says that it is no report.
        identity = identities.load(Path(rack.environment["RACK_DATA_DIR"]))
        path, large = f"/api/v1/racks/{identity.rack_id}/report", b" " * (8 * 1024 * 1024)
        signed = sign_request(
            identity.key,
            identity.rack_id,
            fingerprint(identity.region_key),
            "PUT",
            path,
            large,
            now=datetime.now(UTC),
            nonce="0" * 32,
            sequence=2**40,
        )
        headers = {**signed, "Content-Type": "application/json"}
        async with front.session.put(URL(f"{proxy.base}{path}"), data=io.BytesIO(large), headers=headers) as answer:
            assert (answer.status, (await answer.json())["code"]) == (422, "invalid_document")
        await rack.stop()


async def test_event_streams_pass_at_once_and_last(front: Front) -> None:
    changes = {"timeout client          75s": "timeout client 2s", "timeout server          75s": "timeout server 2s"}
    with front.proxy(**({"changes": changes} if front.kind == "haproxy" else {})) as proxy:
        async with front.session.get(f"{proxy.base}/api/v1/events", headers=front.bearer) as stream:
            assert stream.status == 200
            while b"settings" not in await stream.content.readline():
                pass
            # Longer than anything else may be silent.
            await asyncio.sleep(4)
            status, _ = await front.site.api(front.region, "PATCH", "/settings", json={"retention_days": 100})
            assert status == 200
            began = time.monotonic()
            while b"settings" not in await asyncio.wait_for(stream.content.readline(), 5):
                pass
            assert time.monotonic() - began < 2.0


async def test_refusals_of_the_proxy_are_problems_like_ours(front: Front) -> None:
    with front.proxy() as proxy:
        if front.kind == "nginx":
            # HAProxy answers what is no HTTP before it knows whose words to use.
            for garbage in (b"GET /\x01 HTTP/1.1\r\nHost: a\r\n\r\n", b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n"):
                status, headers, body = await raw(front, proxy, garbage)
                is_problem(status, headers, body, "invalid_request")
                assert status == 400
            large = b"PUT /x HTTP/1.1\r\nHost: a\r\nContent-Length: 99999999\r\n\r\n"
            status, headers, body = await raw(front, proxy, large)
            is_problem(status, headers, body, "body_too_large")
            assert status == 413
        await front.region.stop()

        async def away() -> bool:
            status, headers, body = await get(front, f"{proxy.base}/api/v1/images")
            document = is_problem(status, headers, body, "unavailable")
            assert headers["Retry-After"] == "10"
            return bool(document["status"] in (502, 503))

        await front.site.until(away)
        if front.kind == "haproxy":

            async def noticed() -> bool:
                status, _, _ = await get(front, f"{proxy.base}/api/v1/images")
                return status == 503

            await front.site.until(noticed)
        front.region.start()

        async def back() -> bool:
            status, _, _ = await get(front, f"{proxy.base}/api/v1/images")
            return status == 200

        await front.site.until(back)


@pytest.mark.parametrize("front", ["nginx"], indirect=True)
async def test_files_that_nginx_sends_have_the_regions_manners(front: Front) -> None:
    sha256 = min(path.name for path in front.store.rglob("*") if len(path.name) == 64)
    with front.proxy() as proxy:
        url = f"{proxy.base}/api/v1/files/{sha256}"
        status, headers, body = await get(front, url)
        assert status == 200
        assert headers.getall("ETag") == [f'"{sha256}"']
        assert headers.getall("Cache-Control") == ["public, max-age=31536000, immutable"]
        assert headers["Repr-Digest"].startswith("sha-256=:")
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers.getall("Strict-Transport-Security") == ["max-age=31536000"]
        assert headers["X-Request-Id"]
        assert "Last-Modified" not in headers
        for sent, expected in (
            ({"Range": "bytes=1-3"}, (206, body[1:4])),
            ({"Range": "bytes=1-3", "If_Range": f'"{sha256}"'}, (206, body[1:4])),
            ({"Range": "bytes=1-3", "If_Range": '"other"'}, (200, body)),
            ({"Range": "bytes=1-3,5-6"}, (200, body)),
            ({"If_None_Match": f'"{sha256}"'}, (304, b"")),
            ({"If_Match": f'"{sha256}"'}, (200, body)),
            ({"If_Match": f'"{sha256}"', "Range": "bytes=1-3"}, (206, body[1:4])),
            ({"If_Modified_Since": "Thu, 01 Jan 2099 00:00:00 GMT"}, (200, body)),
            ({"If_Unmodified_Since": "Thu, 01 Jan 1990 00:00:00 GMT"}, (200, body)),
        ):
            status, headers, found = await get(front, url, **sent)
            assert (status, found) == expected, sent
            assert headers["ETag"] == f'"{sha256}"'
        status, headers, found = await get(front, url, Range="bytes=99999999-")
        assert (status, json.loads(found)["code"]) == (416, "range_not_satisfiable")
        status, _, found = await get(front, f"{proxy.base}/bootferry-files/{sha256[:2]}/{sha256}")
        assert (status, json.loads(found)["code"]) == (503, "unavailable"), "nobody gets there by themselves"


@pytest.mark.parametrize("front", ["nginx"], indirect=True)
@pytest.mark.parametrize("why", ["it may not read the store", "there is no such file"])
async def test_a_file_that_nginx_cannot_read_is_a_503_that_no_cache_keeps(front: Front, why: str) -> None:
    sha256 = min(path.name for path in front.store.rglob("*") if len(path.name) == 64)
    user, mode = "nobody nogroup", front.store.stat().st_mode
    if why == "there is no such file":
        # The region has looked, and redirects to a directory that is not its own.
        front.site.directory.joinpath("empty").mkdir()
        manager = nginx(front.site.directory / "nginx", front.region.port, front.pair, front.site.directory / "empty")
    elif os.geteuid() == 0:
        front.store.chmod(0o700)
        manager = front.proxy(user=user)
    else:
        pytest.skip("it takes root to be somebody else")
    with manager as proxy:
        status, headers, body = await get(front, f"{proxy.base}/api/v1/files/{sha256}")
        is_problem(status, headers, body, "unavailable")
        assert status == 503
        assert headers["Retry-After"] == "10"
        assert headers.getall("Cache-Control") == ["no-store"]
        assert "ETag" not in headers
    front.store.chmod(mode)
