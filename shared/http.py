"""The one way to make an HTTP client session, and the one place that tells its failures apart.

- Sessions decompress nothing and read nothing from the environment (`HTTP_PROXY`, `.netrc`): a proxy is a setting.
- Every request has an end: its head must be whole within the session's connect and read timeouts together, all of it
  within `deadline_s`; what is read must not come slower than a `Pace`. Only a stream of events goes on without a
  deadline, and says so.
- A head has at most MAX_HEADERS fields of at most MAX_FIELD_BYTES each.
- Each address is looked at when it is connected to (`shared.addresses`): what a name led to a moment ago counts for
  nothing. A proxy's own address is the operator's choice; behind one, a target that is an address is looked at.
"""

import asyncio
import errno
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from email.utils import parsedate_to_datetime
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver
from aiohttp.resolver import ThreadedResolver
from yarl import URL

from shared import __version__
from shared.errors import (
    AddressForbidden,
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
from shared.pace import PACE, Meter, Pace
from shared.way import AddressInfo, Connector, Refused, Way, going, guarded, system_socket

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
DEADLINE_S = 300.0
"""Within this everything but a file has come: the largest document, on a line of 1 Mbit/s."""
MAX_REDIRECTS = 5
MAX_HEADERS = 100
MAX_FIELD_BYTES = 16 * 1024
MAX_PROBLEM_BYTES = 64 * 1024
_CREDENTIALS = frozenset({"authorization", "cookie"})
USER_AGENT = f"bootferry/{__version__}"

_UNSHOWN = re.compile(r"^((?:[a-z][a-z0-9+.-]*://|https?:/*|//)?).*@", re.DOTALL | re.IGNORECASE)

SignRequest = Callable[[str, str, bytes | None], Mapping[str, str]]
"""(method, path and query, body) to the headers that sign this request."""


def parse_url(text: object) -> URL:
    """An absolute http or https URL with a host. Raises InvalidValue."""
    why = "it must begin with http:// or https:// and name a host"
    try:
        plain = isinstance(text, str) and len(text) <= 2048 and text.isprintable() and " " not in text
        url = URL(text) if isinstance(text, str) and plain else URL()
    except ValueError:
        url, why = URL(), "its host name or its port is not one"
    if url.scheme not in ("http", "https") or not url.host or url.fragment:
        raise InvalidValue("URL", _UNSHOWN.sub(r"\1", text) if isinstance(text, str) else text, why)
    return url


def shown(url: URL) -> str:
    """The URL as logs and errors may show it: without user name and password (I7)."""
    return str(url.with_user(None)) if url.user or url.password else str(url)


@asynccontextmanager
async def client_session(
    *,
    ca_bundle: Path | None = None,
    ca_certificates: str = "",
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
    resolver: AbstractResolver | None = None,
    open_socket: Callable[[AddressInfo], socket.socket] | None = None,
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that trusts the system's certificates, those in `ca_bundle`, and `ca_certificates` in PEM.

    Raises InvalidConfiguration.

    `resolver` and `open_socket` stand for the system's: what looks names up, and what makes a socket for an address.
    """
    # Reading a machine's certificates takes long enough to be noticed on the loop.
    context = await asyncio.to_thread(_tls_context, ca_bundle, ca_certificates)
    async with aiohttp.ClientSession(
        connector=Connector(
            ssl=context,
            resolver=resolver or ThreadedResolver(),
            socket_factory=guarded(open_socket or system_socket),
            limit=64,
        ),
        timeout=aiohttp.ClientTimeout(
            # `connect` also covers what `sock_connect` does not: the resolver, and a proxy's answer to CONNECT.
            total=None,
            connect=3 * connect_timeout_s,
            sock_connect=connect_timeout_s,
            sock_read=read_timeout_s,
        ),
        headers={"User-Agent": USER_AGENT, "Accept-Encoding": "identity"},
        auto_decompress=False,
        trust_env=False,
        read_bufsize=1024 * 1024,
        max_headers=MAX_HEADERS,
        max_field_size=MAX_FIELD_BYTES,
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


def _tls_context(ca_bundle: Path | None, ca_certificates: str) -> ssl.SSLContext:
    context = ssl.create_default_context()
    if ca_certificates:
        context.load_verify_locations(cadata=ca_certificates)
    if ca_bundle is not None:
        try:
            context.load_verify_locations(cafile=ca_bundle)
        except ssl.SSLError as error:
            why = "it holds no certificates in PEM form"
            raise InvalidConfiguration(f"The CA bundle {ca_bundle} cannot be used: {why}.") from error
        except OSError as error:
            raise InvalidConfiguration(f"The CA bundle {ca_bundle} cannot be used: {error.strerror}.") from error
    return context


@asynccontextmanager
async def request(
    session: aiohttp.ClientSession,
    method: str,
    url: URL,
    *,
    headers: Mapping[str, str] | None = None,
    body: bytes | None = None,
    proxy: URL | None = None,
    sign: SignRequest | None = None,
    deadline_s: float | None = DEADLINE_S,
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a request, whatever its status; failures inside the block are told apart too.

    The block is left within `deadline_s`, redirects and all; None is for streams that have no end. Redirects of GET and
    HEAD are followed, at most MAX_REDIRECTS and never from https to http, nor from a public address to a private one; a
    signed request follows none, and credentials stay with the host they were meant for. Raises FetchError.
    """
    whole = asyncio.timeout(deadline_s)
    way = Way(proxied=proxy is not None)
    with _told_apart(session, url, proxy):
        try:
            async with whole:
                target = url
                for _ in range(MAX_REDIRECTS + 1):
                    way.require_named(target)
                    sending = {
                        name: value
                        for name, value in (headers or {}).items()
                        if target.origin() == url.origin() or name.lower() not in _CREDENTIALS
                    }
                    if sign is not None:
                        sending |= sign(method, target.raw_path_qs, body)
                    async with await _head(session, way, method, target, sending, body, proxy) as response:
                        if response.status == 407 and proxy is not None:
                            raise ProxyFailed(shown(url), f"it answered 407 {response.reason}")
                        if response.status not in (301, 302, 303, 307, 308) or method not in ("GET", "HEAD"):
                            yield response
                            return
                        target = _redirected(target, response, signed=sign is not None)
                    way.turn(url, target)
                raise RedirectRefused(shown(url), shown(target), f"it is one of more than {MAX_REDIRECTS} in a row")
        except TimeoutError:
            if whole.expired() and deadline_s is not None:
                raise TooSlow(shown(url), seconds=deadline_s) from None
            raise


async def _head(
    session: aiohttp.ClientSession,
    way: Way,
    method: str,
    target: URL,
    headers: Mapping[str, str],
    body: bytes | None,
    proxy: URL | None,
) -> aiohttp.ClientResponse:
    """The answer when its head has come. However slowly the bytes of a head drip: it is whole in time, or never."""
    within_s = (session.timeout.connect or CONNECT_TIMEOUT_S) + (session.timeout.sock_read or READ_TIMEOUT_S)
    limit = asyncio.timeout(within_s)
    try:
        with going(way):
            async with limit:
                return await session.request(
                    method, target, headers=headers, data=body, proxy=proxy, allow_redirects=False
                )
    except TimeoutError:
        if limit.expired():
            raise TimedOut(shown(target), within_s) from None
        raise


async def read_capped(response: aiohttp.ClientResponse, cap: int, pace: Pace = PACE) -> bytes:
    """The whole body, of at most `cap` bytes. Raises TooLarge or TooSlow, and reads no further."""
    chunks: list[bytes] = []
    size = 0
    meter = Meter(shown(response.url), pace)
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > cap:
            raise TooLarge(shown(response.url), cap)
        chunks.append(chunk)
        meter.count(len(chunk))
    return b"".join(chunks)


async def require_ok(response: aiohttp.ClientResponse, *accepted: int) -> None:
    """Raises HttpStatus, with the other side's own words, unless the status is 200 or one of `accepted`."""
    if response.status == 200 or response.status in accepted:
        return
    detail = problem = ""
    if response.content_type == "application/problem+json":
        try:
            document = json.loads(await read_capped(response, MAX_PROBLEM_BYTES))
        except (ValueError, RecursionError, TooLarge):
            document = None
        if isinstance(document, dict):
            detail, problem = str(document.get("detail") or "")[:500], str(document.get("code") or "")[:64]
    raise HttpStatus(shown(response.url), response.status, detail, problem, _retry_after(response))


def _retry_after(response: aiohttp.ClientResponse) -> float:
    """`Retry-After` in seconds (RFC 9110, section 10.2.3), 0 for none.

    A date is read by the other side's own clock, as its `Date` shows it: ours may go otherwise.
    """
    said = response.headers.get("Retry-After", "").strip()
    if re.fullmatch("[0-9]{1,9}", said):
        return float(said)
    try:
        until, now = (parsedate_to_datetime(text) for text in (said, response.headers.get("Date", "")))
        return max(0.0, (until - now).total_seconds())
    except (ValueError, TypeError, OverflowError):
        return 0.0


@contextmanager
def _told_apart(session: aiohttp.ClientSession, url: URL, proxy: URL | None = None) -> Iterator[None]:
    """Inside, what aiohttp raises about `url` becomes the FetchError that says what happened; a disk's OSError not."""
    try:
        yield
    except aiohttp.ClientHttpProxyError as error:
        # Its text names the proxy with its password: not even a traceback may show that.
        raise ProxyFailed(shown(url), f"it answered {error.status} {_reason(error)}") from None
    except Refused as error:
        raise AddressForbidden(shown(url), error.address) from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _fetch_error(session, url, proxy, error) from error


def _reason(error: aiohttp.ClientHttpProxyError) -> str:
    """The proxy's own words."""
    return re.split(r"[\n:(]", error.message)[0].strip()[:80]


def _fetch_error(session: aiohttp.ClientSession, url: URL, proxy: URL | None, error: Exception) -> FetchError:
    where = shown(url)
    match error:
        case aiohttp.ClientOSError(__cause__=Refused() as refused):
            return AddressForbidden(where, refused.address)
        case aiohttp.ClientProxyConnectionError():
            return ProxyFailed(where, _unconnected(error))
        case aiohttp.ClientConnectorDNSError() if proxy is not None and (error.host, error.port) == (
            proxy.host,
            proxy.port,
        ):
            return ProxyFailed(where, f"the name {error.host} was not found")
        case aiohttp.ClientConnectorDNSError():
            return NameNotFound(where, error.host)
        case aiohttp.InvalidURL():
            target = _UNSHOWN.sub(r"\1", str(error.url))[:200]
            return FetchError(where, f"{where} leads to {target}, which is no usable address; check the URL.")
        case aiohttp.ClientResponseError():
            return FetchError(where, f"{where} does not speak HTTP as it should; check its port, or mend the server.")
        case aiohttp.ClientSSLError():
            return TlsFailed(where, *_untrusted(error))
        case TimeoutError():
            connecting = isinstance(error, aiohttp.ConnectionTimeoutError)
            return TimedOut(where, (session.timeout.sock_connect if connecting else session.timeout.sock_read) or 0)
        case aiohttp.ClientConnectorError() if error.os_error.errno == errno.ECONNREFUSED:
            return ConnectionRefused(where)
        case _:
            return ConnectionLost(where, _lost(error))


# aiohttp and asyncio speak of their own objects ("ssl:default [Connect call failed ('…', 443)]"). The system's names
# of errors, and OpenSSL's of certificates, are what operators know and search for.
def _lost(error: Exception) -> str:
    match error:
        case aiohttp.ClientConnectorError():
            return _unconnected(error)
        case aiohttp.ClientPayloadError():
            return "it ended before all bytes had come"
        case OSError() if error.errno is not None and error.errno > 0:
            return os.strerror(error.errno)
        case _:
            return "the other side closed it"


def _unconnected(error: aiohttp.ClientConnectorError) -> str:
    number = error.os_error.errno
    if number == errno.ECONNREFUSED:
        return f"nothing answers at {error.host}, port {error.port}"
    if number is not None and number > 0:
        return f"{error.host}, port {error.port}: {os.strerror(number)}"
    return f"no connection to {error.host}, port {error.port}, came about"


def _untrusted(error: aiohttp.ClientSSLError) -> tuple[str, str]:
    """Why there is no TLS, and what to do."""
    found = getattr(error, "certificate_error", None) or error.os_error
    if isinstance(found, ssl.SSLCertVerificationError):
        remedy = _REMEDIES.get(found.verify_code, "check its certificate or name a CA bundle")
        return found.verify_message.removesuffix("."), remedy
    if getattr(found, "reason", None) in _NO_TLS:
        return "the other side does not speak TLS there", "check scheme and port, or give it a certificate"
    return "the two sides could not agree on how to speak TLS", "check which versions of TLS the other side speaks"


_NO_TLS = frozenset({"WRONG_VERSION_NUMBER", "RECORD_LAYER_FAILURE", "HTTP_REQUEST"})
_NAME_ITS_CA = "name the CA that issued its certificate by a CA bundle"
_USE_ITS_NAME = "use a name that its certificate is valid for, or give it one for this name"

# The codes of openssl-verification-options(1), "Diagnostics", as <openssl/x509_vfy.h> numbers them.
_REMEDIES = {
    9: "set this machine's clock, or wait until its certificate counts",
    10: "renew its certificate, or set this machine's clock",
    18: _NAME_ITS_CA,
    19: _NAME_ITS_CA,
    20: _NAME_ITS_CA,
    21: _NAME_ITS_CA,
    62: _USE_ITS_NAME,
    64: _USE_ITS_NAME,
    # Python asks for these since 3.13, so that a machine may refuse what an older one takes.
    **dict.fromkeys(range(79, 94), "have its CA issue one that keeps to RFC 5280"),
}


def _redirected(url: URL, response: aiohttp.ClientResponse, *, signed: bool) -> URL:
    location = response.headers.get("Location", "")
    try:
        target = url.join(URL(location))
    except ValueError as error:
        raise RedirectRefused(shown(url), _UNSHOWN.sub(r"\1", location)[:200], "it is not a URL") from error
    if target.scheme not in ("http", "https") or not target.host or not location:
        raise RedirectRefused(shown(url), shown(target), "it leads to no http or https address")
    if url.scheme == "https" and target.scheme == "http":
        raise RedirectRefused(shown(url), shown(target), "it leads from https to http")
    if signed:
        raise RedirectRefused(shown(url), shown(target), "a region must answer at the address a rack was given")
    return target
