"""The one way to make an HTTP client session, and the one place that tells its failures apart.

Sessions decompress nothing and read nothing from the environment (`HTTP_PROXY`, `.netrc`): a proxy is a setting. Names
that lead to link-local, multicast or unspecified addresses are refused, so that a source's URL cannot be used to ask
the machine's own metadata service. Private and loopback addresses are where mirrors live; they are fine.
"""

import asyncio
import errno
import ipaddress
import json
import os
import re
import socket
import ssl
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager
from pathlib import Path

import aiohttp
from aiohttp.abc import AbstractResolver, ResolveResult
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
)

CONNECT_TIMEOUT_S = 10.0
READ_TIMEOUT_S = 30.0
MAX_REDIRECTS = 5
MAX_PROBLEM_BYTES = 64 * 1024
_CREDENTIALS = frozenset({"authorization", "cookie"})
USER_AGENT = f"bootferry/{__version__}"

_UNSHOWN = re.compile("//.*@", re.DOTALL)

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
        raise InvalidValue("URL", _UNSHOWN.sub("//", text) if isinstance(text, str) else text, why)
    return url


def shown(url: URL) -> str:
    """The URL as logs and errors may show it: without user name and password (I7)."""
    return str(url.with_user(None)) if url.user or url.password else str(url)


@asynccontextmanager
async def client_session(
    *,
    ca_bundle: Path | None = None,
    connect_timeout_s: float = CONNECT_TIMEOUT_S,
    read_timeout_s: float = READ_TIMEOUT_S,
) -> AsyncIterator[aiohttp.ClientSession]:
    """A session that trusts the system's certificates and those in `ca_bundle`. Raises InvalidConfiguration."""
    # Reading a machine's certificates takes long enough to be noticed on the loop.
    context = await asyncio.to_thread(_tls_context, ca_bundle)
    async with aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=context, resolver=_GuardedResolver(), limit=64),
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
        cookie_jar=aiohttp.DummyCookieJar(),
    ) as session:
        yield session


def _tls_context(ca_bundle: Path | None) -> ssl.SSLContext:
    context = ssl.create_default_context()
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
) -> AsyncIterator[aiohttp.ClientResponse]:
    """The answer to a request, whatever its status; failures inside the block are told apart too.

    Redirects of GET and HEAD are followed, at most MAX_REDIRECTS and never from https to http; a signed request follows
    none, and credentials stay with the host they were meant for. Raises FetchError.
    """
    target = url
    with told_apart(session, url, proxy):
        for _ in range(MAX_REDIRECTS + 1):
            _guard(target)
            sending = {
                name: value
                for name, value in (headers or {}).items()
                if target.origin() == url.origin() or name.lower() not in _CREDENTIALS
            }
            if sign is not None:
                sending |= sign(method, target.raw_path_qs, body)
            async with session.request(
                method, target, headers=sending, data=body, proxy=proxy, allow_redirects=False
            ) as response:
                if response.status == 407 and proxy is not None:
                    raise ProxyFailed(shown(url), f"it answered 407 {response.reason}")
                if response.status not in (301, 302, 303, 307, 308) or method not in ("GET", "HEAD"):
                    yield response
                    return
                target = _redirected(target, response, signed=sign is not None)
        raise RedirectRefused(shown(url), shown(target), f"it is one of more than {MAX_REDIRECTS} in a row")


async def read_capped(response: aiohttp.ClientResponse, cap: int) -> bytes:
    """The whole body, of at most `cap` bytes. Raises TooLarge, and reads no further."""
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.content.iter_any():
        size += len(chunk)
        if size > cap:
            raise TooLarge(shown(response.url), cap)
        chunks.append(chunk)
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
    """`Retry-After` in seconds (RFC 9110, section 10.2.3), 0 for none; a date needs clocks that agree: none, too."""
    said = response.headers.get("Retry-After", "").strip()
    return float(said) if re.fullmatch("[0-9]{1,9}", said) else 0.0


@contextmanager
def told_apart(session: aiohttp.ClientSession, url: URL, proxy: URL | None = None) -> Iterator[None]:
    """Inside, what aiohttp raises about `url` becomes the FetchError that says what happened; a disk's OSError not."""
    try:
        yield
    except aiohttp.ClientHttpProxyError as error:
        # Its text names the proxy with its password: not even a traceback may show that.
        raise ProxyFailed(shown(url), f"it answered {error.status} {_reason(error)}") from None
    except _AddressForbidden as error:
        raise AddressForbidden(shown(url), error.address) from None
    except (aiohttp.ClientError, TimeoutError) as error:
        raise _fetch_error(session, url, proxy, error) from error


def _reason(error: aiohttp.ClientHttpProxyError) -> str:
    """The proxy's own words."""
    return re.split(r"[\n:(]", error.message)[0].strip()[:80]


def _fetch_error(session: aiohttp.ClientSession, url: URL, proxy: URL | None, error: Exception) -> FetchError:
    where = shown(url)
    match error:
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
            target = _UNSHOWN.sub("//", str(error.url))[:200]
            return FetchError(where, f"{where} leads to {target}, which is no usable address; check the URL.")
        case aiohttp.ClientResponseError():
            return FetchError(where, f"{where} does not speak HTTP as it should; check its port, or mend the server.")
        case aiohttp.ClientSSLError():
            return TlsFailed(where, _untrusted(error))
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


def _untrusted(error: aiohttp.ClientSSLError) -> str:
    found = getattr(error, "certificate_error", None) or error.os_error
    if isinstance(found, ssl.SSLCertVerificationError):
        return found.verify_message
    return _TLS_REASONS.get(getattr(found, "reason", None) or "", "the two sides could not agree on how to speak TLS")


_TLS_REASONS = {
    "WRONG_VERSION_NUMBER": "the other side does not speak TLS there",
    "RECORD_LAYER_FAILURE": "the other side does not speak TLS there",
    "HTTP_REQUEST": "the other side does not speak TLS there",
}


def _redirected(url: URL, response: aiohttp.ClientResponse, *, signed: bool) -> URL:
    location = response.headers.get("Location", "")
    try:
        target = url.join(URL(location))
    except ValueError as error:
        raise RedirectRefused(shown(url), _UNSHOWN.sub("//", location)[:200], "it is not a URL") from error
    if target.scheme not in ("http", "https") or not target.host or not location:
        raise RedirectRefused(shown(url), shown(target), "it leads to no http or https address")
    if url.scheme == "https" and target.scheme == "http":
        raise RedirectRefused(shown(url), shown(target), "it leads from https to http")
    if signed:
        raise RedirectRefused(shown(url), shown(target), "a region must answer at the address a rack was given")
    return target


def _guard(url: URL) -> None:
    try:
        address = ipaddress.ip_address(url.host or "")
    except ValueError:
        return
    if _forbidden(address):
        raise AddressForbidden(shown(url), str(address))


def _forbidden(address: ipaddress.IPv4Address | ipaddress.IPv6Address) -> bool:
    mapped = getattr(address, "ipv4_mapped", None) or address
    return mapped.is_link_local or mapped.is_multicast or mapped.is_unspecified


class _AddressForbidden(Exception):
    """A resolver knows no URL: `told_apart` says the rest."""

    def __init__(self, address: str) -> None:
        self.address = address


class _GuardedResolver(AbstractResolver):
    """The system's resolver, less the addresses no image can come from."""

    def __init__(self) -> None:
        self._system = ThreadedResolver()

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        found = await self._system.resolve(host, port, family)
        allowed = [result for result in found if not _forbidden(ipaddress.ip_address(result["host"].split("%")[0]))]
        if found and not allowed:
            raise _AddressForbidden(found[0]["host"])
        return allowed

    async def close(self) -> None:
        await self._system.close()
