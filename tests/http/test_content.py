"""Files over real HTTP: conditions, ranges, and clients that misbehave."""

import asyncio
import base64
import contextlib
import datetime
import hashlib
import http.client
import ipaddress
import logging
import os
import socket
import ssl
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import aiohttp
import pytest
import uvicorn
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, PlainTextResponse, Response, StreamingResponse
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

import region.edge.server
from region.edge.content import file_response
from region.edge.server import FileProtocol, build_server
from shared.digest import Sha256
from shared.errors import Unavailable
from shared.mark import set_mark
from shared.store.base import Store
from shared.store.disk import DiskStore
from shared.tls import Certificate
from tests.stores import descriptors, put, stored_path

HOST = "127.0.0.1"
SIZE = 3 * 1024 * 1024 + 7
TEXT = b"." * 8 * 1024 * 1024
HUGE = 64 * 1024**3
LARGE = 48 * 1024 * 1024
ETAG = f'"{"a" * 64}"'
OTHER = f'"{"b" * 64}"'


@dataclass(frozen=True)
class File:
    """A stored file and its bytes."""

    sha256: Sha256
    content: bytes
    path: Path

    @property
    def url(self) -> str:
        return f"/files/{self.sha256}?size={len(self.content)}"


@dataclass(frozen=True)
class Served:
    """A running server, and how to reach it."""

    server: uvicorn.Server
    port: int
    trust: ssl.SSLContext | None

    @contextmanager
    def connect(self) -> Iterator[http.client.HTTPConnection]:
        connection = (
            http.client.HTTPSConnection(HOST, self.port, timeout=10, context=self.trust)
            if self.trust
            else http.client.HTTPConnection(HOST, self.port, timeout=10)
        )
        with contextlib.closing(connection):
            yield connection

    @contextmanager
    def socket(self, *, receive_buffer: int | None = None) -> Iterator[socket.socket]:
        with socket.socket() as plain:
            if receive_buffer:
                plain.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, receive_buffer)
            plain.settimeout(10)
            plain.connect((HOST, self.port))
            if self.trust is None:
                yield plain
                return
            with self.trust.wrap_socket(plain, server_hostname=HOST, suppress_ragged_eofs=True) as wrapped:
                yield wrapped

    def get(self, url: str, method: str = "GET", **headers: str) -> tuple[http.client.HTTPResponse, bytes]:
        with self.connect() as connection:
            connection.request(method, url, headers={name.replace("_", "-"): value for name, value in headers.items()})
            response = connection.getresponse()
            return response, response.read()


class TextThenFile(Response):
    """TEXT and then a file in one body. In between the kernel passes on all it has, and the loop sleeps."""

    def __init__(self, path: Path) -> None:
        super().__init__(headers={"Content-Length": str(len(TEXT) + path.stat().st_size)})
        self.path = path

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self.path.open("rb") as file:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            await send({"type": "http.response.body", "body": TEXT, "more_body": True})
            time.sleep(0.2)  # noqa: ASYNC251
            await send({"type": "http.response.zerocopysend", "file": file})


def application(store: Store) -> Starlette:
    async def files(request: Request) -> Response:
        query = request.query_params
        return await file_response(
            request, store, Sha256(request.path_params["sha256"]), int(query["size"]), accel_prefix=query.get("accel")
        )

    async def small(request: Request) -> Response:
        return JSONResponse(sorted(request.scope.get("extensions", {})))

    async def events(request: Request) -> Response:
        async def stream() -> AsyncIterator[str]:
            while True:
                yield "event: manifest\n\n"
                await asyncio.sleep(0.05)

        return StreamingResponse(stream(), media_type="text/event-stream")

    async def text_and_file(request: Request) -> Response:
        return TextThenFile(stored_path(store, Sha256(request.path_params["sha256"])))

    async def unavailable(request: Request, error: Exception) -> Response:
        return PlainTextResponse(str(error), 503)

    return Starlette(
        routes=[
            Route("/files/{sha256}", files),
            Route("/small", small),
            Route("/text/{sha256}", text_and_file),
            Route("/events", events),
        ],
        exception_handlers={Unavailable: unavailable},
    )


@contextmanager
def serving(
    store: Store, tls: tuple[Path, Path] | None = None, *, shutdown_grace_s: int = 5, **options: Any
) -> Iterator[Served]:
    certificate = Certificate(*tls) if tls else None
    server = build_server(
        application(store), host=HOST, port=0, shutdown_grace_s=shutdown_grace_s, certificate=certificate, **options
    )
    thread = threading.Thread(target=server.run)
    thread.start()
    try:
        assert eventually(lambda: server.started)
        port = server.servers[0].sockets[0].getsockname()[1]
        trust = ssl.create_default_context(cafile=str(tls[0])) if tls else None
        yield Served(server, port, trust)
    finally:
        server.should_exit = True
        thread.join(20)
    assert not thread.is_alive()


def eventually(holds: Callable[[], bool], seconds: float = 5) -> bool:
    end = time.monotonic() + seconds
    while not holds():
        if time.monotonic() > end:
            return False
        time.sleep(0.02)
    return True


def read_all(connection: socket.socket) -> bytes:
    """Everything until the server closes, or resets, the connection."""
    received = bytearray()
    with contextlib.suppress(ConnectionError, ssl.SSLError):
        while chunk := connection.recv(1024 * 1024):
            received += chunk
    return bytes(received)


def request(url: str, *headers: str) -> bytes:
    return "\r\n".join([f"GET {url} HTTP/1.1", f"Host: {HOST}", *headers, "", ""]).encode()


def store_file(store: Store, content: bytes) -> File:
    sha256 = put(store, content)
    return File(sha256, content, stored_path(store, sha256))


@pytest.fixture(scope="module")
def store(tmp_path_factory: pytest.TempPathFactory) -> Store:
    return DiskStore(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def file(store: Store) -> File:
    return store_file(store, os.urandom(SIZE))


@pytest.fixture(scope="module")
def large(store: Store) -> File:
    return store_file(store, os.urandom(LARGE // 16) * 16)


@pytest.fixture(scope="module")
def huge(store: Store) -> str:
    """The address of a file of HUGE zeros, none of them on the disk; its name is not its digest."""
    sha256 = Sha256.of(b"huge")
    path = stored_path(store, sha256)
    path.parent.mkdir(exist_ok=True)
    with path.open("wb") as file:
        file.truncate(HUGE)
    set_mark(path)
    return f"/files/{sha256}?size={HUGE}"


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "region.test")])
    now = datetime.datetime.now(datetime.UTC)
    signed = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ipaddress.ip_address(HOST))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    directory = tmp_path_factory.mktemp("tls")
    chain, private = directory / "chain.pem", directory / "key.pem"
    chain.write_bytes(signed.public_bytes(serialization.Encoding.PEM))
    private.write_bytes(
        key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    return chain, private


@pytest.fixture(scope="module", params=["uvloop", "asyncio", "tls"])
def served(request: pytest.FixtureRequest, store: Store, certificate: tuple[Path, Path]) -> Iterator[Served]:
    running: AbstractContextManager[Served] = (
        serving(store, certificate) if request.param == "tls" else serving(store, loop=request.param)
    )
    with running as found:
        yield found


@pytest.fixture
def no_errors(caplog: pytest.LogCaptureFixture) -> Iterator[None]:
    """Whatever the clients do, the server logs no error."""
    yield
    assert [record.getMessage() for record in caplog.get_records("call") if record.levelno >= logging.ERROR] == []


def test_zero_copy_is_offered_on_plain_connections_only(served: Served) -> None:
    _, body = served.get("/small")
    assert body == (b"[]" if served.trust else b'["http.response.zerocopysend"]')


def test_whole_file(served: Served, file: File) -> None:
    response, body = served.get(file.url)
    assert (response.status, body) == (200, file.content)
    digest = hashlib.sha256(file.content).digest()
    headers = {name.lower(): value for name, value in response.getheaders()}
    assert headers.pop("date")
    assert headers == {
        "accept-ranges": "bytes",
        "cache-control": "public, max-age=31536000, immutable",
        "content-length": str(SIZE),
        "content-type": "application/octet-stream",
        "etag": f'"{file.sha256}"',
        "repr-digest": f"sha-256=:{base64.b64encode(digest).decode()}:",
        "x-content-type-options": "nosniff",
    }


def test_head_has_the_headers_of_get(served: Served, file: File) -> None:
    got, _ = served.get(file.url)
    response, body = served.get(file.url, "HEAD", Range="bytes=0-1")
    assert (response.status, body) == (200, b"")
    assert [pair for pair in response.getheaders() if pair[0] != "date"] == sorted_like(response, got)


def sorted_like(response: http.client.HTTPResponse, other: http.client.HTTPResponse) -> list[tuple[str, str]]:
    names = [name for name, _ in response.getheaders() if name != "date"]
    assert sorted(names) == sorted(name for name, _ in other.getheaders() if name != "date")
    return [(name, other.headers[name]) for name in names]


@pytest.mark.parametrize(
    ("wanted", "part"),
    [
        pytest.param("bytes=0-0", slice(0, 1), id="first byte"),
        pytest.param("bytes=1048570-1048580", slice(1_048_570, 1_048_581), id="across a chunk"),
        pytest.param("bytes=1000-", slice(1000, None), id="open-ended"),
        pytest.param("bytes=-9", slice(-9, None), id="suffix"),
    ],
)
def test_range(served: Served, file: File, wanted: str, part: slice) -> None:
    response, body = served.get(file.url, Range=wanted, If_Range=f'"{file.sha256}"')
    start, stop, _ = part.indices(SIZE)
    assert (response.status, body) == (206, file.content[part])
    assert response.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{SIZE}"
    assert response.headers["Content-Length"] == str(stop - start)
    assert "Repr-Digest" in response.headers


def test_mismatched_if_range_gets_the_whole_file(served: Served, file: File) -> None:
    response, body = served.get(file.url, Range="bytes=5-", If_Range=OTHER)
    assert (response.status, body) == (200, file.content)
    assert "Content-Range" not in response.headers


def test_several_ranges_get_the_whole_file(served: Served, file: File) -> None:
    response, body = served.get(file.url, Range="bytes=0-1,5-6")
    assert (response.status, body) == (200, file.content)


def test_range_outside_the_file(served: Served, file: File) -> None:
    response, body = served.get(file.url, Range=f"bytes={SIZE}-")
    assert (response.status, response.headers["Content-Range"]) == (416, f"bytes */{SIZE}")
    assert response.headers["Content-Type"] == "application/problem+json"
    assert b'"code":"range_not_satisfiable"' in body


def test_not_modified_has_no_body(served: Served, file: File) -> None:
    response, body = served.get(file.url, If_None_Match=f'"{file.sha256}"')
    assert (response.status, body, response.headers["ETag"]) == (304, b"", f'"{file.sha256}"')


def test_precondition_failed(served: Served, file: File) -> None:
    response, body = served.get(file.url, If_Match=OTHER)
    assert response.status == 412
    assert b'"code":"precondition_failed"' in body


def test_empty_file(served: Served, store: Store) -> None:
    response, body = served.get(store_file(store, b"").url)
    assert (response.status, body, response.headers["Content-Length"]) == (200, b"", "0")


def test_accel_redirect_leaves_the_bytes_to_nginx(served: Served, file: File, store: Store) -> None:
    response, body = served.get(file.url + "&accel=/stored/")
    assert (response.status, body) == (200, b"")
    redirect = response.headers["X-Accel-Redirect"]
    assert redirect.startswith("/stored/")
    assert (Path(store.where) / redirect.removeprefix("/stored/")).read_bytes() == file.content
    assert response.headers["ETag"] == f'"{file.sha256}"'
    assert "Cache-Control" not in response.headers, "nginx would say it of its own errors too"


@pytest.mark.parametrize("condition", [{"If-Match": "*"}, {"If-Unmodified-Since": "Thu, 23 Jul 2026 12:00:00 GMT"}])
def test_a_condition_that_nginx_cannot_decide_is_decided_here(
    served: Served, file: File, condition: dict[str, str]
) -> None:
    response, body = served.get(file.url + "&accel=/stored/", **condition)
    assert "X-Accel-Redirect" not in response.headers
    assert (response.status, body) == (200, file.content)


def vanish(file: File) -> None:
    file.path.unlink()


def touch(file: File) -> None:
    file.path.touch()


def shorten(file: File) -> None:
    before = file.path.stat()
    os.truncate(file.path, 3)
    os.utime(file.path, ns=(before.st_atime_ns, before.st_mtime_ns))


@pytest.mark.parametrize("harm", [vanish, touch, shorten])
@pytest.mark.parametrize("method", ["GET", "HEAD"])
def test_a_file_that_is_not_as_verified_is_unavailable(
    served: Served, tmp_path: Path, store: Store, harm: Callable[[File], None], method: str
) -> None:
    harmed = store_file(store, str(tmp_path).encode())
    harm(harmed)
    response, body = served.get(harmed.url, method)
    assert response.status == 503
    assert harmed.content not in body


@pytest.mark.usefixtures("no_errors")
def test_a_cold_file_is_read_off_the_loop(served: Served, file: File, monkeypatch: pytest.MonkeyPatch) -> None:
    reads = []
    read_ahead = region.edge.server._read_ahead

    def noted(*arguments: int) -> None:
        with pytest.raises(RuntimeError, match="no running event loop"):
            asyncio.get_running_loop()
        reads.append(arguments)
        read_ahead(*arguments)

    monkeypatch.setattr(region.edge.server, "_read_ahead", noted)
    # A cold file may become warm between two system calls; so this one stays cold by decree.
    monkeypatch.setattr(region.edge.server, "_in_memory", lambda *arguments: False)
    _, body = served.get(file.url)
    assert body == file.content
    assert bool(reads) == (served.trust is None)


def test_a_file_larger_than_memory(served: Served, huge: str) -> None:
    response, body = served.get(huge, Range=f"bytes={HUGE - 5}-")
    assert (response.status, body) == (206, bytes(5))
    assert response.headers["Content-Range"] == f"bytes {HUGE - 5}-{HUGE - 1}/{HUGE}"


@pytest.mark.usefixtures("no_errors")
def test_the_reading_stops_when_the_client_leaves(served: Served, huge: str) -> None:
    with served.socket() as connection:
        connection.sendall(request(huge))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert eventually(lambda: not served.server.server_state.tasks)


@pytest.mark.usefixtures("no_errors")
def test_an_event_stream_ends_when_a_pipelining_client_leaves(served: Served) -> None:
    with served.socket() as connection:
        connection.sendall(request("/events") + request("/small"))
        assert connection.recv(1000).startswith(b"HTTP/1.1 200")
    assert eventually(lambda: not served.server.server_state.tasks)


@pytest.mark.usefixtures("no_errors")
def test_a_connection_is_used_again(served: Served, file: File) -> None:
    with served.connect() as connection:
        for url, expected in [(file.url, file.content), ("/small", None), (file.url, file.content)]:
            connection.request("GET", url)
            if url == file.url:
                used = connection.sock
            body = connection.getresponse().read()
            assert expected is None or body == expected
            assert connection.sock is used


@pytest.mark.usefixtures("no_errors")
def test_pipelined_requests_are_answered_in_order(served: Served, file: File) -> None:
    with served.socket() as connection:
        connection.sendall(
            request(file.url) + request(file.url, "Range: bytes=1-5") + request("/small", "Connection: close")
        )
        received = read_all(connection)
    first, _, rest = received.partition(b"\r\n\r\n")
    assert first.startswith(b"HTTP/1.1 200")
    assert rest[:SIZE] == file.content
    second, _, rest = rest[SIZE:].partition(b"\r\n\r\n")
    assert second.startswith(b"HTTP/1.1 206")
    assert rest[:5] == file.content[1:6]
    assert rest[5:].startswith(b"HTTP/1.1 200")


@pytest.mark.usefixtures("no_errors")
@pytest.mark.parametrize("served", ["uvloop", "asyncio"], indirect=True)  # over TLS nothing is copied
def test_a_file_waits_for_what_was_written_before_it(served: Served, file: File) -> None:
    with served.socket() as connection:
        connection.sendall(request(f"/text/{file.sha256}", "Connection: close"))
        body = read_all(connection).partition(b"\r\n\r\n")[2]
    assert body[: len(TEXT)] == TEXT
    assert body[len(TEXT) :] == file.content


@pytest.mark.usefixtures("no_errors")
@pytest.mark.parametrize("abruptly", [pytest.param(True, id="reset"), pytest.param(False, id="closed")])
def test_clients_that_leave_cost_nothing(served: Served, large: File, abruptly: bool) -> None:
    before = descriptors()
    for _ in range(10):
        with served.socket() as connection:
            # The second request stops uvicorn from reading, so that only writing can notice the end.
            connection.sendall(request(large.url) + request(large.url))
            assert connection.recv(1000).startswith(b"HTTP/1.1 200")
            if abruptly:
                connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
    assert eventually(lambda: not served.server.server_state.tasks)
    assert eventually(lambda: descriptors() <= before)
    assert served.get("/small")[0].status == 200


@pytest.mark.usefixtures("no_errors")
def test_a_slow_client_delays_nobody_and_gets_its_bytes(served: Served, large: File) -> None:
    with served.socket(receive_buffer=64 * 1024) as slow:
        slow.sendall(request(large.url, "Connection: close"))
        received = slow.recv(1000)
        cpu = time.process_time()
        started = time.monotonic()
        for _ in range(20):
            assert served.get("/small")[0].status == 200
            time.sleep(0.01)
        assert time.monotonic() - started < 10, "they waited for the slow client, who does not read at all"
        time.sleep(0.3)
        # Waiting for the slow client must not keep a processor busy.
        assert time.process_time() - cpu < 0.7 * (time.monotonic() - started)
        received += read_all(slow)
    assert received.partition(b"\r\n\r\n")[2] == large.content


@pytest.mark.usefixtures("no_errors")
async def test_64_at_once(served: Served, file: File) -> None:
    scheme = "https" if served.trust else "http"
    connector = aiohttp.TCPConnector(limit=0, ssl=served.trust or True)
    async with aiohttp.ClientSession(f"{scheme}://{HOST}:{served.port}", connector=connector) as session:

        async def fetch(offset: int) -> bool:
            async with session.get(file.url, headers={"Range": f"bytes={offset}-"}) as response:
                return await response.read() == file.content[offset:]

        assert all(await asyncio.gather(*(fetch(offset) for offset in range(64))))


@pytest.mark.parametrize("secure", [pytest.param(False, id="plain"), pytest.param(True, id="tls")])
@pytest.mark.usefixtures("no_errors")
def test_a_stalled_client_loses_its_connection(
    store: Store, large: File, certificate: tuple[Path, Path], secure: bool
) -> None:
    with (
        serving(store, certificate if secure else None, stall_s=0.3) as served,
        served.socket(receive_buffer=64 * 1024) as stalled,
    ):
        stalled.sendall(request(large.url))
        assert stalled.recv(1000).startswith(b"HTTP/1.1 200")
        assert eventually(lambda: not served.server.server_state.tasks)
        assert len(read_all(stalled)) < LARGE


def test_a_file_that_shrinks_while_it_is_sent_ends_the_connection(
    store: Store, caplog: pytest.LogCaptureFixture
) -> None:
    shrinking = store_file(store, os.urandom(1024) * (LARGE // 1024))
    with serving(store) as served:
        with served.socket(receive_buffer=64 * 1024) as slow:
            slow.sendall(request(shrinking.url))
            received = slow.recv(1000)
            os.truncate(shrinking.path, LARGE // 2)
            received += read_all(slow)
        body = received.partition(b"\r\n\r\n")[2]
        assert len(body) < LARGE
        assert shrinking.content.startswith(body)
        assert served.get("/small")[0].status == 200
    assert "became shorter" in caplog.text


@pytest.mark.usefixtures("no_errors")
def test_shutdown_waits_for_a_transfer_and_not_for_an_event_stream(store: Store, large: File) -> None:
    with serving(store, shutdown_grace_s=10) as served:
        with served.socket(receive_buffer=64 * 1024) as transfer, served.socket() as events:
            transfer.sendall(request(large.url))
            events.sendall(request("/events"))
            received = transfer.recv(1000)
            assert events.recv(1000).startswith(b"HTTP/1.1 200")
            served.server.should_exit = True
            read_all(events)
            received += read_all(transfer)
        assert received.partition(b"\r\n\r\n")[2] == large.content
        started = time.monotonic()
    assert time.monotonic() - started < 8, "it waited for its grace of 10 s to end"


def test_shutdown_ends_when_its_grace_does(store: Store, large: File, caplog: pytest.LogCaptureFixture) -> None:
    with serving(store, shutdown_grace_s=1) as served, served.socket(receive_buffer=64 * 1024) as stalled:
        stalled.sendall(request(large.url))
        assert stalled.recv(1000).startswith(b"HTTP/1.1 200")
        served.server.should_exit = True
        assert eventually(lambda: not served.server.server_state.tasks)
    assert "Exception in ASGI application" not in caplog.text


@pytest.mark.usefixtures("no_errors")
def test_a_head_without_end_is_refused(served: Served) -> None:
    with served.socket() as connection:
        connection.sendall(b"GET /small HTTP/1.1\r\nX-Long: ")
        with contextlib.suppress(ConnectionError, ssl.SSLError):
            for _ in range(100):
                connection.sendall(b"x" * 16 * 1024)
                time.sleep(0.001)
        assert read_all(connection)[:12] in (b"HTTP/1.1 400", b"")
    assert served.get("/small")[0].status == 200


@pytest.mark.parametrize("started", [pytest.param(b"", id="silent"), pytest.param(b"GET /small HT", id="half a line")])
def test_a_client_that_does_not_ask_loses_its_connection(
    store: Store, monkeypatch: pytest.MonkeyPatch, started: bytes
) -> None:
    monkeypatch.setattr(region.edge.server, "HEAD_S", 0.2)
    with serving(store) as served, served.socket() as connection:
        connection.sendall(started)
        assert read_all(connection) == b""


def test_forwarded_headers_count_from_nobody_who_is_not_named(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FORWARDED_ALLOW_IPS", "*")
    with serving(store) as served:
        assert served.server.config.forwarded_allow_ips == []
        assert issubclass(served.server.config.http_protocol_class, FileProtocol)
