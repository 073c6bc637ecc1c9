"""The region's API as a rack sees it. Every request but the first two of an enrolment is signed by the rack's key."""

import asyncio
import json
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from yarl import URL

from rack.identity import Identity
from shared.digest import Sha256
from shared.errors import InvalidRequestSignature, TooLarge
from shared.http import read_capped, request, require_ok, shown
from shared.signing import REQUEST_LIFETIME_S, sign_request
from shared.wire.envelope import MAX_ENVELOPE_BYTES
from shared.wire.report import Report

MAX_EVENT_LINE_BYTES = 4096


@dataclass(frozen=True, slots=True)
class Published:
    """A manifest as it came: nobody has verified the envelope yet. `etag` asks for the next one."""

    envelope: bytes
    etag: str


class Region:
    """One rack's way to its region."""

    def __init__(
        self,
        session: aiohttp.ClientSession,
        identity: Identity,
        *,
        now: Callable[[], datetime],
        proxy: URL | None = None,
    ) -> None:
        self._session = session
        self._identity = identity
        self._now = now
        self._proxy = proxy

    def sign(self, method: str, path_and_query: str, body: bytes | None) -> Mapping[str, str]:
        """The headers that sign a request of this rack."""
        return sign_request(self._identity.key, self._identity.rack_id, method, path_and_query, body, now=self._now())

    def file_url(self, sha256: Sha256) -> URL:
        """Where the region serves the file; requests for it are signed."""
        return self._url(f"files/{sha256}")

    async def manifest(self, etag: str) -> Published | None:
        """What the region publishes now; None if that is no news.

        No news is what `etag` stands for already ("" for nothing), and that the region has published nothing yet.

        Raises FetchError; InvalidRequestSignature when the region does not know this rack.
        """
        headers = {"If-None-Match": etag} if etag else {}
        async with self._ask("GET", "manifest", 204, 304, headers=headers) as response:
            if response.status in (204, 304):
                return None
            return Published(await read_capped(response, MAX_ENVELOPE_BYTES), response.headers.get("ETag", ""))

    async def report(self, report: Report) -> None:
        """When this returns the region knows. Raises FetchError, InvalidRequestSignature."""
        path = f"racks/{self._identity.rack_id}/report"
        headers = {"Content-Type": "application/json"}
        async with self._ask("PUT", path, 204, headers=headers, body=report.encode()):
            pass

    async def own_address(self) -> str:
        """This machine's address on the way to the region, "" when there is no way; no packet is sent for it."""
        url = self._proxy or self._identity.region_url
        return await asyncio.to_thread(_own_address, url.host or "", url.port or 0)

    async def hints(self) -> AsyncGenerator[tuple[int, int], None]:
        """(epoch, serial) of the region's manifest, now and whenever it changes, until the connection ends.

        Nobody has signed them: they say that asking for the manifest may be worth it, no more. An event stream of the
        HTML standard, section 9.2. Raises FetchError, InvalidRequestSignature.
        """
        async with self._ask("GET", "manifest/events", headers={"Accept": "text/event-stream"}) as response:
            event = data = ""
            while line := await _line(response):
                field, _, value = line.strip().partition(":")
                if field == "event":
                    event = value.strip()
                elif field == "data":
                    data = value.strip()
                elif not field and not value:
                    if event == "manifest" and (order := _order(data)):
                        yield order
                    event = data = ""

    def _url(self, path: str) -> URL:
        return self._identity.region_url.joinpath("api/v1", *path.split("/"))

    @asynccontextmanager
    async def _ask(
        self,
        method: str,
        path: str,
        *accepted: int,
        headers: Mapping[str, str] | None = None,
        body: bytes | None = None,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        async with request(
            self._session, method, self._url(path), headers=headers, body=body, proxy=self._proxy, sign=self.sign
        ) as response:
            if response.status == 401:
                raise InvalidRequestSignature(self._why_refused(response))
            await require_ok(response, *accepted)
            yield response

    def _why_refused(self, response: aiohttp.ClientResponse) -> str:
        try:
            away_s = (self._now() - parsedate_to_datetime(response.headers.get("Date", ""))).total_seconds()
        except (ValueError, TypeError):
            away_s = 0.0
        if abs(away_s) > REQUEST_LIFETIME_S / 2:
            where = "ahead of" if away_s > 0 else "behind"
            return f"this machine's clock is {abs(away_s):.0f} seconds {where} the region's"
        return f"the region does not accept the rack {self._identity.rack_id}"


def _own_address(host: str, port: int) -> str:
    # Connecting a datagram socket only asks the routing table.
    try:
        (family, kind, _, _, address), *_ = socket.getaddrinfo(host, port, type=socket.SOCK_DGRAM)
        with socket.socket(family, kind) as probe:
            probe.connect(address)
            return str(probe.getsockname()[0])
    except OSError:
        return ""


async def _line(response: aiohttp.ClientResponse) -> str:
    try:
        line = await response.content.readuntil(b"\n", max_size=MAX_EVENT_LINE_BYTES)
    except HttpProcessingError as error:
        raise TooLarge(shown(response.url), MAX_EVENT_LINE_BYTES) from error
    return line.decode("utf-8", "replace")


def _order(data: str) -> tuple[int, int] | None:
    try:
        document = json.loads(data)
        return int(document["epoch"]), int(document["serial"])
    except (ValueError, KeyError, TypeError):
        return None
