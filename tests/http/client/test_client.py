"""The one way to make a client session: what it trusts, where it goes, and how each failure is told apart."""

import asyncio
import base64
import socket
import traceback
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest
from yarl import URL

from deploy.local.mirror.faults import Cut, Endless, Hang, HugeHeader, Redirect, Status
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
    RedirectRefused,
    TimedOut,
    TlsFailed,
    TooLarge,
)
from shared.http import MAX_REDIRECTS, USER_AGENT, client_session, parse_url, read_capped, request, require_ok, shown
from tests.http.client.calls import (
    CONNECT_TIMEOUT_S,
    GREETING,
    READ_TIMEOUT_S,
    SECRET,
    deaf_port,
    get,
    needs_ipv6,
    refused_port,
)
from tests.http.client.certificates import NOW, Authority
from tests.http.raw_server import raw_server, response

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
    pytest.param(
        Status(500, {"Content-Type": "text/html"}, b"<h1>Oh</h1>"),
        "answered 500; it is busy, or broken: try again later.",
        "",
        id="a-page",
    ),
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
    pytest.param(
        Status(500, PROBLEM, b"{}"), "answered 500; it is busy, or broken: try again later.", "", id="an-empty-problem"
    ),
    pytest.param(
        Status(500, PROBLEM, b'{"detail": null}'),
        "answered 500; it is busy, or broken: try again later.",
        "",
        id="a-problem-without-detail",
    ),
    pytest.param(
        Status(500, PROBLEM, b"[1]"),
        "answered 500; it is busy, or broken: try again later.",
        "",
        id="a-list-for-a-problem",
    ),
    pytest.param(
        Status(500, PROBLEM, b"\xff{"), "answered 500; it is busy, or broken: try again later.", "", id="no-json"
    ),
    pytest.param(
        Status(500, PROBLEM, b"[" * 60_000),
        "answered 500; it is busy, or broken: try again later.",
        "",
        id="deeply-nested",
    ),
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


# --- TLS ----------------------------------------------------------------------------------------------------------

DAY_BEFORE = NOW - timedelta(days=1)


async def test_a_bundle_adds_trust(mirror: Mirror, authority: Authority, session: aiohttp.ClientSession) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as server:
        assert server.url.startswith("https:")
        assert await get(session, server.url + "greeting") == GREETING


async def test_an_untrusted_certificate(mirror: Mirror, authority: Authority) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as server, client_session() as session:
        with pytest.raises(TlsFailed, match=r"unable to get local issuer certificate\); name the CA that issued"):
            await get(session, server.url + "greeting")


async def test_an_expired_certificate(mirror: Mirror, authority: Authority, session: aiohttp.ClientSession) -> None:
    async with serve(mirror, ssl=authority.context("127.0.0.1", until=DAY_BEFORE)) as server:
        with pytest.raises(TlsFailed, match=r"certificate has expired\); renew its certificate, or set this machine's"):
            await get(session, server.url + "greeting")


async def test_a_certificate_of_another_host(
    mirror: Mirror, authority: Authority, session: aiohttp.ClientSession
) -> None:
    async with serve(mirror, ssl=authority.context("mirror.example")) as server:
        with pytest.raises(TlsFailed, match=r"not valid for '127\.0\.0\.1'\); use a name that its certificate is"):
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
