"""The one way to make a client session: what it trusts, where it goes, and how each failure is told apart."""

import asyncio
import base64
import errno
import inspect
import ipaddress
import socket
import ssl
import time
import traceback
from collections.abc import AsyncIterator, Callable, Coroutine, Iterator
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from aiohttp.abc import AbstractResolver, ResolveResult
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat
from cryptography.x509.oid import NameOID
from yarl import URL

from deploy.local.mirror.faults import Cut, Endless, Hang, HugeHeader, Redirect, Status
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from shared.errors import (
    AddressForbidden,
    BootferryError,
    ConnectionLost,
    ConnectionRefused,
    FetchError,
    HttpStatus,
    InvalidConfiguration,
    InvalidValue,
    NameNotFound,
    ProxyFailed,
    RedirectRefused,
    TimedOut,
    TlsFailed,
    TooLarge,
    TooSlow,
)
from shared.http import MAX_REDIRECTS, USER_AGENT, client_session, parse_url, read_capped, request, require_ok, shown
from shared.pace import Meter, Pace
from shared.way import AddressInfo
from tests.http.test_download import raw_server, response

SECRET = "hunter2"
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 0.2, 0.3
NOW = datetime.now(UTC)
GREETING = b"hello, rack"


# --- certificates -------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Authority:
    """A throwaway certificate authority; `bundle` is the file a client is told to trust."""

    key: ec.EllipticCurvePrivateKey
    name: x509.Name
    directory: Path

    @classmethod
    def create(cls, directory: Path) -> "Authority":
        name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "Bootferry test authority")])
        authority = cls(ec.generate_private_key(ec.SECP256R1()), name, directory)
        own = authority._builder(name, authority.key, NOW + timedelta(days=1))
        own = own.add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        authority.bundle.write_bytes(own.sign(authority.key, hashes.SHA256()).public_bytes(Encoding.PEM))
        return authority

    @property
    def bundle(self) -> Path:
        return self.directory / "authority.pem"

    def context(self, *names: str, until: datetime = NOW + timedelta(days=1)) -> ssl.SSLContext:
        """What a server of these names presents."""
        key = ec.generate_private_key(ec.SECP256R1())
        subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, names[0])])
        alternatives = x509.SubjectAlternativeName([_general_name(name) for name in names])
        certificate = self._builder(subject, key, until).add_extension(alternatives, critical=False)
        path = self.directory / f"{names[0]}-{until:%s}.pem"
        path.write_bytes(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            + certificate.sign(self.key, hashes.SHA256()).public_bytes(Encoding.PEM)
        )
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        context.load_cert_chain(path)
        return context

    def _builder(self, subject: x509.Name, key: ec.EllipticCurvePrivateKey, until: datetime) -> x509.CertificateBuilder:
        return (
            x509.CertificateBuilder()
            .subject_name(subject)
            .issuer_name(self.name)
            .public_key(key.public_key())
            .serial_number(x509.random_serial_number())
            .not_valid_before(NOW - timedelta(days=2))
            .not_valid_after(until)
        )


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


@pytest.fixture(autouse=True)
def _no_system_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not what is tested here, and reading them takes 50 ms a session."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


# --- servers and sessions -----------------------------------------------------------------------------------------


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


async def get(session: aiohttp.ClientSession, url: str, *, proxy: str | None = None) -> bytes:
    """The body behind the URL, in a few seconds or never."""
    async with asyncio.timeout(5):
        async with request(session, "GET", URL(url), proxy=URL(proxy) if proxy else None) as answer:
            await require_ok(answer)
            return await read_capped(answer, 1000)


@contextmanager
def refused_port(family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """A port at which nobody listens, and at which nobody else will meanwhile."""
    with socket.socket(family) as bound:
        bound.bind(("::1" if family is socket.AF_INET6 else "127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that answers no further connection: its backlog is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")


# --- URLs ---------------------------------------------------------------------------------------------------------

URLS = [
    "http://mirror",
    "https://images.maas.io/ephemeral-v3/stable/",
    "http://127.0.0.1:5280/",
    "http://[::1]:5280/streams",
    "https://bob:hunter2@mirror.example:8443/a?b=c&d",
    "http://mirror/a%20b",
    "http://m\u00fcnchen.example/",
]

NO_URLS = [
    pytest.param("", id="empty"),
    pytest.param("mirror.example", id="name-only"),
    pytest.param("/streams/v1", id="path-only"),
    pytest.param("//mirror.example/", id="no-scheme"),
    pytest.param("ftp://mirror.example/", id="ftp"),
    pytest.param("file:///etc/passwd", id="file"),
    pytest.param("javascript:alert(1)", id="script"),
    pytest.param("http://", id="no-host"),
    pytest.param("http:///streams", id="no-host-but-path"),
    pytest.param("http://:80/", id="no-host-but-port"),
    pytest.param("http://mirror.example/#part", id="fragment"),
    pytest.param("http://mirror.example:99999/", id="port-too-large"),
    pytest.param("http://mirror.example:port/", id="port-no-number"),
    pytest.param("http://[::1/", id="bracket-open"),
    pytest.param("http://[not-an-address]/", id="bracket-nonsense"),
    pytest.param("http://mir ror/", id="space-in-host"),
    pytest.param("http://mirror\n.example/", id="newline-in-host"),
    pytest.param("http://mirror.example/\ud800", id="surrogate"),
    pytest.param("http://mirror/" + "a" * 2048, id="too-long"),
    pytest.param(b"http://mirror/", id="bytes"),
    pytest.param(None, id="nothing"),
]


@pytest.mark.parametrize("text", URLS)
def test_a_url(text: str) -> None:
    assert parse_url(text) == URL(text)


@pytest.mark.parametrize("text", NO_URLS)
def test_no_url(text: object) -> None:
    with pytest.raises(InvalidValue, match=" is not a URL: "):
        parse_url(text)


@pytest.mark.parametrize(
    "text",
    [
        "ftp://bob:hunter2@mirror.example/",
        "http://bob:hunter2@mirror.example/#part",
        "http://bob:hunter2@mirror.example:99999/",
        "http://bob:hunter2@/",
        "http://bob:hunter2@[::1/",
        "http://:hunter2@mirror.example:port/",
        "http:/bob:hunter2@mirror.example/",
        "bob:hunter2@mirror.example",
    ],
)
def test_a_refused_url_does_not_show_its_password(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse_url(text)
    assert SECRET not in "".join(traceback.format_exception(caught.value))


@pytest.mark.parametrize(
    ("url", "seen"),
    [
        ("http://bob:hunter2@mirror/a?b", "http://mirror/a?b"),
        ("http://hunter2@mirror/", "http://mirror/"),
        ("http://:hunter2@mirror:8080/", "http://mirror:8080/"),
        ("http://bob:hunter2@[::1]:80/", "http://[::1]/"),
        ("http://mirror/a%20b", "http://mirror/a%20b"),
    ],
)
def test_shown(url: str, seen: str) -> None:
    assert shown(URL(url)) == seen


# --- plain answers ------------------------------------------------------------------------------------------------


async def test_an_answer(upstream: Server, session: aiohttp.ClientSession) -> None:
    assert await get(session, upstream.url + "greeting") == GREETING


async def test_a_request_says_who_asks_and_wants_no_compression(session: aiohttp.ClientSession) -> None:
    async with raw_server(lambda _: response(b"")) as (url, heads):
        await get(session, url)
    assert f"User-Agent: {USER_AGENT}\r\n" in heads[0]
    assert "Accept-Encoding: identity\r\n" in heads[0]


async def test_nothing_of_the_environment_is_used(
    session: aiohttp.ClientSession, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "netrc").write_text(f"default login bob password {SECRET}")
    monkeypatch.setenv("NETRC", str(tmp_path / "netrc"))
    for variable in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(variable, "http://127.0.0.1:9/")
    async with raw_server(lambda _: response(b"")) as (url, heads):
        await get(session, url)
    assert "authorization" not in heads[0].lower()


async def test_cookies_are_not_kept(session: aiohttp.ClientSession) -> None:
    async with raw_server(lambda _: response(b"", Set_Cookie="a=b; Path=/")) as (url, heads):
        await get(session, url)
        await get(session, url)
    assert "cookie" not in heads[1].lower()


async def test_a_compressed_body_is_left_as_it_came(session: aiohttp.ClientSession) -> None:
    async with raw_server(lambda _: response(b"not gzip at all", Content_Encoding="gzip")) as (url, _):
        assert await get(session, url) == b"not gzip at all"


async def test_a_body_of_exactly_the_cap_is_read(upstream: Server, session: aiohttp.ClientSession) -> None:
    async with request(session, "GET", URL(upstream.url + "greeting")) as answer:
        assert await read_capped(answer, len(GREETING)) == GREETING
    async with request(session, "GET", URL(upstream.url + "greeting")) as answer:
        with pytest.raises(TooLarge) as caught:
            await read_capped(answer, len(GREETING) - 1)
    assert caught.value.cap == len(GREETING) - 1


async def test_an_endless_body_is_read_no_further_than_its_cap(
    upstream: Server, session: aiohttp.ClientSession
) -> None:
    upstream.misbehave("*", Endless())
    with pytest.raises(TooLarge):
        await get(session, upstream.url + "greeting")


PROBLEM = {"Content-Type": "application/problem+json"}
ANSWERS = [
    pytest.param(Status(404), "answered 404; check the URL.", "", id="no-words"),
    pytest.param(Status(500, {"Content-Type": "text/html"}, b"<h1>Oh</h1>"), "answered 500; check", "", id="a-page"),
    pytest.param(Status(204), "answered 204", "", id="nothing-where-bytes-are-wanted"),
    pytest.param(Status(300), "answered 300", "", id="choices"),
    pytest.param(
        Status(403, PROBLEM, b'{"detail": "Not yours.", "code": "forbidden"}'),
        "answered 403: Not yours",
        "forbidden",
        id="a-problem",
    ),
    pytest.param(
        Status(403, {"Content-Type": "application/problem+json; charset=utf-8"}, b'{"detail": "Not yours."}'),
        "answered 403: Not yours",
        "",
        id="a-problem-with-charset",
    ),
    pytest.param(Status(500, PROBLEM, b"{}"), "answered 500; check", "", id="an-empty-problem"),
    pytest.param(Status(500, PROBLEM, b'{"detail": null}'), "answered 500; check", "", id="a-problem-without-detail"),
    pytest.param(Status(500, PROBLEM, b"[1]"), "answered 500; check", "", id="a-list-for-a-problem"),
    pytest.param(Status(500, PROBLEM, b"\xff{"), "answered 500; check", "", id="no-json"),
    pytest.param(Status(500, PROBLEM, b"[" * 60_000), "answered 500; check", "", id="deeply-nested"),
    pytest.param(Status(500, PROBLEM, b'{"detail": "' + b"x" * 70_000), "answered 500", "", id="a-huge-problem"),
]


@pytest.mark.parametrize(("fault", "words", "problem"), ANSWERS)
async def test_another_status_is_told_with_the_other_sides_words(
    upstream: Server, session: aiohttp.ClientSession, fault: Status, words: str, problem: str
) -> None:
    upstream.misbehave("*", fault)
    with pytest.raises(HttpStatus, match=words) as caught:
        await get(session, upstream.url + "greeting")
    assert (caught.value.status, caught.value.problem) == (fault.code, problem)
    assert len(str(caught.value)) < 700


@pytest.mark.parametrize(
    ("said", "seconds"),
    [("7", 7.0), (" 120 ", 120.0), ("", 0.0), ("-1", 0.0), ("9" * 30, 0.0), ("Wed, 01 Jul 2026 00:00:00 GMT", 0.0)],
)
async def test_how_long_the_other_side_asks_to_be_left_alone(
    upstream: Server, session: aiohttp.ClientSession, said: str, seconds: float
) -> None:
    upstream.misbehave("*", Status(503, {"Retry-After": said}))
    with pytest.raises(HttpStatus) as caught:
        await get(session, upstream.url + "greeting")
    assert caught.value.retry_after == seconds


@pytest.mark.parametrize(
    ("said", "date", "seconds"),
    [
        ("Wed, 01 Jul 2026 00:00:20 GMT", "Wed, 01 Jul 2026 00:00:00 GMT", 20.0),
        ("Wed, 01 Jul 2026 00:00:20 GMT", "Wed, 01 Jul 2026 00:00:30 GMT", 0.0),
        ("Wed, 01 Jul 2026 00:00:20 GMT", "", 0.0),
        ("Wed, 01 Jul 2026 00:00:20 -0000", "Wed, 01 Jul 2026 00:00:00 GMT", 0.0),
        ("Wed, 99 Jul 2026 00:00:20 GMT", "Wed, 01 Jul 2026 00:00:00 GMT", 0.0),
    ],
)
async def test_a_date_to_come_back_at_is_read_by_the_other_sides_clock(
    session: aiohttp.ClientSession, said: str, date: str, seconds: float
) -> None:
    async with raw_server(lambda _: response(b"", "503 Busy", Retry_After=said, Date=date)) as (url, _):
        with pytest.raises(HttpStatus) as caught:
            await get(session, url)
    assert caught.value.retry_after == seconds


async def test_other_statuses_can_be_accepted(upstream: Server, session: aiohttp.ClientSession) -> None:
    upstream.misbehave("*", Status(304))
    async with request(session, "GET", URL(upstream.url + "greeting")) as answer:
        await require_ok(answer, 304, 206)


# --- failures of the way ------------------------------------------------------------------------------------------


async def test_an_unknown_name(session: aiohttp.ClientSession) -> None:
    with pytest.raises(NameNotFound, match=r"^The name mirror\.invalid was not found") as caught:
        await get(session, "http://mirror.invalid/streams")
    assert (caught.value.host, caught.value.url) == ("mirror.invalid", "http://mirror.invalid/streams")


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", pytest.param("[::1]", marks=needs_ipv6)])
async def test_a_port_nobody_listens_at(session: aiohttp.ClientSession, host: str) -> None:
    family = socket.AF_INET6 if host == "[::1]" else socket.AF_INET
    with refused_port(family) as port, pytest.raises(ConnectionRefused, match=r"^Nothing answers at ") as caught:
        await get(session, f"http://{host}:{port}/")
    assert caught.value.url == f"http://{host}:{port}/"


@needs_ipv6
async def test_an_ipv6_literal(session: aiohttp.ClientSession) -> None:
    async def hello(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(response(GREETING))
        writer.close()

    server = await asyncio.start_server(hello, "::1", 0)
    async with server:
        assert await get(session, f"http://[::1]:{server.sockets[0].getsockname()[1]}/") == GREETING


async def test_a_port_that_never_answers(session: aiohttp.ClientSession) -> None:
    with deaf_port() as port, pytest.raises(TimedOut) as caught:
        await get(session, f"http://127.0.0.1:{port}/")
    assert caught.value.seconds == CONNECT_TIMEOUT_S


async def test_a_server_that_never_speaks_tls(session: aiohttp.ClientSession) -> None:
    async with raw_server(lambda _: b"", "hold") as (url, _):
        with pytest.raises(TimedOut) as caught:
            await get(session, url.replace("http:", "https:"))
    assert caught.value.seconds == CONNECT_TIMEOUT_S


@pytest.mark.parametrize("after", [None, 3])
async def test_a_server_that_falls_silent(upstream: Server, session: aiohttp.ClientSession, after: int | None) -> None:
    upstream.misbehave("*", Hang(after))
    with pytest.raises(TimedOut, match=r"did not answer within 0\.3 seconds") as caught:
        await get(session, upstream.url + "greeting")
    assert caught.value.seconds == READ_TIMEOUT_S


@pytest.mark.parametrize("after", [None, 0, 3])
async def test_a_server_that_hangs_up(upstream: Server, session: aiohttp.ClientSession, after: int | None) -> None:
    upstream.misbehave("*", Cut(after))
    with pytest.raises(ConnectionLost):
        await get(session, upstream.url + "greeting")


NO_HTTP = [
    pytest.param(b"SSH-2.0-OpenSSH_9.2\r\n", id="ssh"),
    pytest.param(b"HTTP/1.1 OK\r\n\r\n", id="no-status"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: many\r\n\r\n", id="no-length"),
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 1\r\nContent-Length: 2\r\n\r\nab", id="two-lengths"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n", id="no-chunk"),
    pytest.param(b"HTTP/1.1 200 OK\r\nX: " + b"x" * 100_000 + b"\r\n\r\n", id="huge-header"),
    pytest.param(b"HTTP/1.1 200 OK\r\n" + b"X: y\r\n" * 50_000 + b"\r\n", id="endless-headers"),
    pytest.param(b"", id="nothing"),
]


@pytest.mark.parametrize("answer", NO_HTTP)
async def test_what_is_not_http_is_a_sentence(session: aiohttp.ClientSession, answer: bytes) -> None:
    async with raw_server(lambda _: answer) as (url, _):
        with pytest.raises(FetchError) as caught:
            await get(session, url)
    sentence = str(caught.value)
    assert sentence.isprintable()
    assert sentence.endswith(".")
    assert "xxxxxxxx" not in sentence
    assert sentence.count(url) == 1


async def test_the_callers_own_failures_pass_through(upstream: Server, session: aiohttp.ClientSession) -> None:
    for own in (OSError("the disk"), LookupError("the caller"), InvalidValue("name", "", "it is empty")):
        with pytest.raises(type(own)) as caught:
            async with request(session, "GET", URL(upstream.url + "greeting")):
                raise own
        assert caught.value is own


# --- ends ---------------------------------------------------------------------------------------------------------


@asynccontextmanager
async def dripping(first: bytes, drop: bytes, every_s: float = 0.03) -> AsyncIterator[str]:
    """The URL of a server that says `first`, and then `drop` again and again."""

    async def handle(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while True:
            writer.write(drop)
            await writer.drain()
            await asyncio.sleep(every_s)

    async with listening(handle) as port:
        yield f"http://127.0.0.1:{port}/file"


@asynccontextmanager
async def listening(
    handle: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Coroutine[Any, Any, None]],
) -> AsyncIterator[int]:
    """The port of a server whose every connection `handle` has, until the block ends."""
    tasks: set[asyncio.Task[None]] = set()

    async def serve_one(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            with suppress(ConnectionError, asyncio.IncompleteReadError):
                await handle(reader, writer)
        finally:
            writer.transport.abort()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        tasks.add(asyncio.create_task(serve_one(reader, writer)))

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield server.sockets[0].getsockname()[1]
    finally:
        server.close()
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        await server.wait_closed()


HEADS_WITHOUT_END = [
    pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x", id="a-field-byte-by-byte"),
    pytest.param(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n", id="field-by-field"),
    pytest.param(b"", b"HTTP/1.1 102 Processing\r\n\r\n", id="please-wait-for-ever"),
]


@pytest.mark.parametrize(("first", "drop"), HEADS_WITHOUT_END)
async def test_a_head_that_drips_is_not_waited_for(session: aiohttp.ClientSession, first: bytes, drop: bytes) -> None:
    """No pause between two bytes is as long as the read timeout."""
    async with dripping(first, drop) as url:
        with pytest.raises(TimedOut, match=r"did not answer within 0\.9 seconds") as caught:
            await get(session, url)
    assert caught.value.url == url


BODIES_WITHOUT_END = [
    pytest.param(b"HTTP/1.1 200 OK\r\nContent-Length: 900\r\n\r\n", b"x", id="of-a-length"),
    pytest.param(b"HTTP/1.1 200 OK\r\n\r\n", b"x", id="without-length"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"1\r\nx\r\n", id="in-chunks"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n1;", b"x", id="a-chunks-extension"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x", id="a-trailer"),
]


@pytest.mark.parametrize(("first", "drop"), BODIES_WITHOUT_END)
async def test_a_body_that_drips_has_a_deadline(session: aiohttp.ClientSession, first: bytes, drop: bytes) -> None:
    began = time.monotonic()
    async with dripping(first, drop) as url:
        with pytest.raises(TooSlow, match=r"was not done in 1 seconds") as caught:
            async with request(session, "GET", URL(url), deadline_s=0.7) as answer:
                await read_capped(answer, 1000)
    assert caught.value.url == url
    assert time.monotonic() - began < 3


async def test_a_body_that_drips_is_slower_than_the_floor(session: aiohttp.ClientSession) -> None:
    async with dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as url:
        with pytest.raises(TooSlow, match=r"sends less than 10\.0 kB per second"):
            async with request(session, "GET", URL(url)) as answer:
                await read_capped(answer, 1000, Pace(floor_bytes_per_s=10_000, window_s=0.2))


async def test_redirects_and_their_answer_have_one_deadline(session: aiohttp.ClientSession) -> None:
    async def late(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while await reader.readuntil(b"\r\n\r\n"):
            await asyncio.sleep(0.2)
            writer.write(response(b"", "302 Found", Location="/again"))

    async with listening(late) as port:
        with pytest.raises(TooSlow):
            async with request(session, "GET", URL(f"http://127.0.0.1:{port}/"), deadline_s=0.5):
                pass


async def test_a_stream_without_a_deadline_goes_on(session: aiohttp.ClientSession) -> None:
    async with (
        dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as url,
        request(session, "GET", URL(url), deadline_s=None) as answer,
    ):
        assert await answer.content.readexactly(50) == b"x" * 50


async def test_the_end_of_the_callers_own_time_is_the_callers(session: aiohttp.ClientSession) -> None:
    async with dripping(b"HTTP/1.1 200 OK\r\n\r\n", b"x") as url:
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.3):
                async with request(session, "GET", URL(url), deadline_s=5) as answer:
                    await read_capped(answer, 1000)


def test_what_a_transfer_may_take_unless_told_otherwise() -> None:
    """16 KiB/s over half a minute; a document 5 minutes, a file of a gigabyte 17 hours and a minute."""
    assert (Pace().floor_bytes_per_s, Pace().window_s) == (16 * 1024, 30)
    assert Pace().deadline_s(1_000_000_000) == pytest.approx(61_035 + 60, abs=1)
    assert inspect.signature(request).parameters["deadline_s"].default == 300
    assert inspect.signature(read_capped).parameters["pace"].default == Pace()


def test_the_meter_begins_each_window_anew() -> None:
    now = 0.0
    meter = Meter("u", Pace(floor_bytes_per_s=100, window_s=10), lambda: now)
    meter.count(0)
    now = 9.9
    meter.count(1)
    now = 10
    meter.count(999)
    now = 20
    with pytest.raises(TooSlow):
        meter.count(999)


# --- heads --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("number", "good"), [(99, True), (110, False)])
async def test_a_head_has_so_many_fields(session: aiohttp.ClientSession, number: int, good: bool) -> None:
    fields = b"X: y\r\n" * (number - 1)
    async with raw_server(lambda _: b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n" + fields + b"\r\n") as (url, _):
        if good:
            assert await get(session, url) == b""
        else:
            with pytest.raises(FetchError, match="does not speak HTTP as it should"):
                await get(session, url)


@pytest.mark.parametrize(("size", "good"), [(16 * 1024, True), (16 * 1024 + 1, False)])
async def test_a_field_has_so_many_bytes(session: aiohttp.ClientSession, size: int, good: bool) -> None:
    async with raw_server(lambda _: response(b"", X="x" * size)) as (url, _):
        if good:
            assert await get(session, url) == b""
        else:
            with pytest.raises(FetchError, match="does not speak HTTP as it should"):
                await get(session, url)


FLOODS = [
    pytest.param(b"HTTP/1.1 200 OK\r\nX: ", b"x" * 65_536, id="one-field"),
    pytest.param(b"HTTP/1.1 200 OK\r\n", b"X: y\r\n" * 10_000, id="fields"),
    pytest.param(b"HTTP/1.1 200 ", b"x" * 65_536, id="a-reason"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n", b"X: y\r\n" * 10_000, id="trailers"),
    pytest.param(b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nX: ", b"x" * 65_536, id="one-trailer"),
]


@pytest.mark.parametrize(("first", "more"), FLOODS)
async def test_a_head_without_end_is_read_no_further_than_its_caps(
    session: aiohttp.ClientSession, first: bytes, more: bytes
) -> None:
    sent = 0

    async def flood(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        nonlocal sent
        await reader.readuntil(b"\r\n\r\n")
        writer.write(first)
        while True:
            writer.write(more)
            await writer.drain()
            sent += len(more)

    async with listening(flood) as port:
        with pytest.raises(FetchError):
            await get(session, f"http://127.0.0.1:{port}/")
    # What the kernel's buffers take is sent, too.
    assert sent < 16_000_000


# --- TLS ----------------------------------------------------------------------------------------------------------

DAY_BEFORE = NOW - timedelta(days=1)


async def test_a_bundle_adds_trust(mirror: Mirror, authority: Authority, session: aiohttp.ClientSession) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as server:
        assert server.url.startswith("https:")
        assert await get(session, server.url + "greeting") == GREETING


async def test_an_untrusted_certificate(mirror: Mirror, authority: Authority) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as server, client_session() as session:
        with pytest.raises(TlsFailed, match="unable to get local issuer certificate"):
            await get(session, server.url + "greeting")


async def test_an_expired_certificate(mirror: Mirror, authority: Authority, session: aiohttp.ClientSession) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1", until=DAY_BEFORE)) as server:
        with pytest.raises(TlsFailed, match="certificate has expired"):
            await get(session, server.url + "greeting")


async def test_a_certificate_of_another_host(
    mirror: Mirror, authority: Authority, session: aiohttp.ClientSession
) -> None:
    async with serve(mirror, ssl=authority.context("mirror.example")) as server:
        with pytest.raises(TlsFailed, match=r"not valid for '127\.0\.0\.1'"):
            await get(session, server.url + "greeting")


async def test_tls_asked_of_a_server_without(upstream: Server, session: aiohttp.ClientSession) -> None:
    with pytest.raises(TlsFailed) as caught:
        await get(session, upstream.url.replace("http:", "https:") + "greeting")
    assert "certificate" not in str(caught.value).partition("(")[0]


async def test_a_server_with_tls_asked_without(
    mirror: Mirror, authority: Authority, session: aiohttp.ClientSession
) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as server:
        with pytest.raises(FetchError):
            await get(session, server.url.replace("https:", "http:") + "greeting")


@pytest.mark.parametrize("kind", ["missing", "directory", "no-pem", "empty"])
async def test_an_unusable_bundle_is_named(tmp_path: Path, kind: str) -> None:
    bundle = tmp_path / "bundle.pem"
    if kind == "directory":
        bundle.mkdir()
    elif kind != "missing":
        bundle.write_bytes(b"no certificate" if kind == "no-pem" else b"")
    with pytest.raises(InvalidConfiguration, match=rf"^The CA bundle {bundle} cannot be used: .*\.$"):
        async with client_session(ca_bundle=bundle):
            pass


# --- redirects ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", [301, 302, 303, 307, 308])
async def test_a_redirect_is_followed(upstream: Server, session: aiohttp.ClientSession, code: int) -> None:
    upstream.misbehave("old", Redirect("greeting", code))
    assert await get(session, upstream.url + "old") == GREETING


@pytest.mark.parametrize("hops", [MAX_REDIRECTS, MAX_REDIRECTS + 1])
async def test_so_many_redirects_are_followed(upstream: Server, session: aiohttp.ClientSession, hops: int) -> None:
    for hop in range(hops):
        upstream.misbehave(f"hop-{hop}", Redirect("/greeting" if hop == hops - 1 else f"/hop-{hop + 1}"))
    if hops <= MAX_REDIRECTS:
        assert await get(session, upstream.url + "hop-0") == GREETING
    else:
        with pytest.raises(RedirectRefused, match="more than 5 in a row"):
            await get(session, upstream.url + "hop-0")
        assert upstream.asked("greeting") == []


async def test_a_redirect_in_a_circle_ends(upstream: Server, session: aiohttp.ClientSession) -> None:
    upstream.misbehave("*", Redirect(None))
    with pytest.raises(RedirectRefused, match="more than 5 in a row"):
        await get(session, upstream.url + "greeting")
    assert len(upstream.asked()) == MAX_REDIRECTS + 1


async def test_a_redirect_up_to_https_is_followed(
    upstream: Server, mirror: Mirror, authority: Authority, session: aiohttp.ClientSession
) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as secure:
        upstream.misbehave("*", Redirect(secure.url + "greeting"))
        assert await get(session, upstream.url + "greeting") == GREETING


async def test_a_redirect_down_from_https_is_not(
    upstream: Server, mirror: Mirror, authority: Authority, session: aiohttp.ClientSession
) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as secure:
        secure.misbehave("*", Redirect(upstream.url + "greeting"))
        with pytest.raises(RedirectRefused, match="from https to http"):
            await get(session, secure.url + "greeting")
    assert upstream.asked() == []


TARGETS = [
    pytest.param("ftp://mirror.example/", RedirectRefused, id="to-ftp"),
    pytest.param("file:///etc/passwd", RedirectRefused, id="to-a-file"),
    pytest.param("http://", RedirectRefused, id="to-no-host"),
    pytest.param("http://[::1/", RedirectRefused, id="to-no-url"),
    pytest.param("http://mirror.example:99999/", RedirectRefused, id="to-no-port"),
    pytest.param("http://169.254.169.254/latest/meta-data", AddressForbidden, id="to-link-local"),
    pytest.param("http://2852039166/latest/meta-data", FetchError, id="to-link-local-in-decimal"),
    pytest.param("http://[fe80::1]/", AddressForbidden, id="to-link-local-ipv6"),
    pytest.param("http://mirror.invalid/", NameNotFound, id="to-an-unknown-name"),
]


@pytest.mark.parametrize(("target", "error"), TARGETS)
async def test_a_redirect_that_leads_nowhere_good(
    upstream: Server, session: aiohttp.ClientSession, target: str, error: type[BootferryError]
) -> None:
    upstream.misbehave("*", Redirect(target))
    with pytest.raises(error) as caught:
        await get(session, upstream.url + "greeting")
    assert target.removesuffix("/").rpartition("//")[2].partition("/")[0].strip("[]") in str(caught.value)


async def test_a_redirect_without_a_target(upstream: Server, session: aiohttp.ClientSession) -> None:
    upstream.misbehave("*", Status(302))
    with pytest.raises(RedirectRefused):
        await get(session, upstream.url + "greeting")


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
async def test_what_changes_something_is_not_repeated_elsewhere(
    upstream: Server, session: aiohttp.ClientSession, method: str
) -> None:
    async with raw_server(lambda _: response(b"", "307 Temporary Redirect", Location=upstream.url)) as (url, heads):
        with pytest.raises(HttpStatus, match="answered 307"):
            async with request(session, method, URL(url), body=b"{}") as answer:
                await require_ok(answer)
    assert [head.split()[0] for head in heads] == [method]
    assert upstream.asked() == []


async def test_a_signed_request_is_not_sent_elsewhere(upstream: Server, session: aiohttp.ClientSession) -> None:
    upstream.misbehave("old", Redirect("/greeting"))
    signed: list[tuple[str, str, bytes | None]] = []

    def sign(method: str, target: str, body: bytes | None) -> dict[str, str]:
        signed.append((method, target, body))
        return {}

    with pytest.raises(RedirectRefused, match="the address a rack was given"):
        async with request(session, "GET", URL(upstream.url + "old?a=b"), sign=sign):
            pass
    assert signed == [("GET", "/old?a=b", None)]
    assert upstream.asked("greeting") == []


async def test_credentials_go_to_the_host_they_are_for(session: aiohttp.ClientSession) -> None:
    expected = f"Authorization: Basic {base64.b64encode(b'bob:hunter2').decode()}\r\n"
    async with raw_server(lambda _: response(b"")) as (elsewhere, there):
        away = response(b"", "302 Found", Location=elsewhere)
        home = response(b"", "302 Found", Location="/other")
        answers = {"/away": away, "/home": home, "/other": response(b"")}
        async with raw_server(lambda head: answers[head.split()[1]]) as (url, here):
            base = url.removesuffix("file").replace("//", f"//bob:{SECRET}@")
            await get(session, base + "away")
            await get(session, base + "home")
    assert [expected in head for head in here] == [True, True, True]
    assert [head.startswith("GET /file ") for head in there] == [True]
    # The port is another: another origin.
    assert "authorization" not in there[0].lower()


@pytest.mark.parametrize("name", ["Authorization", "Cookie"])
async def test_a_credential_in_a_header_stays_with_its_host(session: aiohttp.ClientSession, name: str) -> None:
    headers = {name: SECRET, "If-None-Match": '"a"'}
    async with (
        raw_server(lambda _: response(b"")) as (elsewhere, there),
        raw_server(lambda _: response(b"", "302 Found", Location=elsewhere)) as (url, here),
        request(session, "GET", URL(url), headers=headers),
    ):
        pass
    assert [SECRET in head for head in (here[0], there[0])] == [True, False]
    assert ['If-None-Match: "a"' in head for head in (here[0], there[0])] == [True, True]


# --- addresses ----------------------------------------------------------------------------------------------------


class Diverted(socket.socket):
    """A socket that says it is connected where it was meant to go, and is connected to the same port of 127.0.0.1."""

    meant: tuple[str, int] = ("", 0)

    def connect(self, address: Any) -> None:
        self.meant = (address[0], address[1])
        super().connect(("127.0.0.1", address[1]))

    def getpeername(self) -> tuple[str, int]:
        return self.meant


@dataclass
class World(AbstractResolver):
    """Names and addresses as a test wants them. No connection leaves this machine, whoever takes what guard out."""

    names: dict[str, list[str]] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def open_socket(self, info: AddressInfo) -> socket.socket:
        self.opened.append(str(info[4][0]))
        if info[0] != socket.AF_INET:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody lives there")
        return Diverted(socket.AF_INET, socket.SOCK_STREAM)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self.names:
            # Numbers in disguise are what the system's resolver takes for addresses without asking anybody.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            addresses = [str(info[4][0]) for info in found]
        else:
            addresses = self.names[host]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass


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
DISGUISES = ["2852039166", "0251.0376.0251.0376", "169.254.43518", "0", "169.254.169.254."]


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


# --- proxies ------------------------------------------------------------------------------------------------------


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


# --- no secret in any of it ---------------------------------------------------------------------------------------

SPILLS = [
    pytest.param(Status(404), id="not-found"),
    pytest.param(Cut(None), id="hangs-up"),
    pytest.param(Cut(3), id="hangs-up-in-the-body"),
    pytest.param(Hang(None), id="silent"),
    pytest.param(HugeHeader(100_000), id="huge-header"),
    pytest.param(Endless(), id="endless"),
    pytest.param(Redirect(None), id="redirect-loop"),
    pytest.param(Redirect("ftp://bob:hunter2@mirror.example/"), id="redirect-with-a-password"),
    pytest.param(Redirect("http://bob:hunter2@[::1/"), id="redirect-with-a-password-to-no-url"),
    pytest.param(Redirect("http://bob:hunter2@169.254.169.254/"), id="redirect-with-a-password-to-link-local"),
]


def spilled(error: BaseException) -> str:
    return f"{''.join(traceback.format_exception(error))} {vars(error)}"


@pytest.mark.parametrize("fault", SPILLS)
async def test_an_answers_failure_shows_no_password(
    upstream: Server,
    session: aiohttp.ClientSession,
    fault: Status | Cut | Hang | HugeHeader | Endless | Redirect,
) -> None:
    upstream.misbehave("*", fault)
    with pytest.raises(FetchError) as caught:
        await get(session, upstream.url.replace("//", f"//bob:{SECRET}@") + "greeting")
    assert SECRET not in spilled(caught.value)


async def test_a_ways_failure_shows_no_password(
    mirror: Mirror, authority: Authority, session: aiohttp.ClientSession
) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1", until=DAY_BEFORE)) as server:
        with refused_port() as refused, deaf_port() as deaf:
            for host in (
                "mirror.invalid",
                f"127.0.0.1:{refused}",
                f"127.0.0.1:{deaf}",
                "169.254.169.254",
                "2852039166",
            ):
                with pytest.raises(FetchError) as caught:
                    await get(session, f"http://bob:{SECRET}@{host}/")
                assert SECRET not in spilled(caught.value)
            with pytest.raises(TlsFailed) as caught_tls:
                await get(session, server.url.replace("//", f"//bob:{SECRET}@"))
            assert SECRET not in spilled(caught_tls.value)
