"""The region's API as a rack sees it. Every request is signed by the rack's key, but those of an enrolment and
the one for the region's keys.

A rack whose clock is wrong learns so from the region's first refusal, and the time with it (`shared.wire.correction`):
it signs with the region's time from then on, in this process, and believes its own clock for everything else.
"""

import asyncio
import dataclasses
import json
import secrets
import socket
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import datetime, timedelta
from email.utils import parsedate_to_datetime
from math import isfinite
from typing import Any

import aiohttp
from aiohttp.http_exceptions import HttpProcessingError
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from yarl import URL

from rack.haste import WITHIN_S, Hint
from rack.identity import Identity, ask_keys
from shared.digest import Sha256
from shared.errors import BootferryError, InvalidRequestSignature, Replayed, TooLarge
from shared.http import DEADLINE_S, read_capped, request, require_ok, shown
from shared.logs import logger
from shared.signing import MAX_SEQUENCE, REQUEST_LIFETIME_S, fingerprint, sign_request
from shared.wire.correction import CORRECTION_HEADER, Correction
from shared.wire.envelope import MAX_ENVELOPE_BYTES
from shared.wire.rack_key import NextKey
from shared.wire.report import Report
from shared.wire.succession import Signed

MAX_EVENT_LINE_BYTES = 4096

_log = logger(__name__)


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
        nonce: Callable[[], str] = lambda: secrets.token_hex(16),
    ) -> None:
        self._session = session
        self._identity = identity
        self._now = now
        self._proxy = proxy
        self._nonce = nonce
        self._behind = timedelta()

    def by(self, identity: Identity) -> "Region":
        """The same way for another identity."""
        made = Region(self._session, identity, now=self._now, proxy=self._proxy, nonce=self._nonce)
        made._behind = self._behind
        return made

    def believing(self, key: Ed25519PublicKey) -> "Region":
        """The same way to the region, which has this key."""
        return self.by(dataclasses.replace(self._identity, region_key=key))

    def now(self) -> datetime:
        """The region's time, as far as it has told; this machine's until then."""
        return self._now() + self._behind

    def sign(self, method: str, path_and_query: str, body: bytes | None) -> Mapping[str, str]:
        """The headers that sign a GET or HEAD of this rack."""
        return self._signed(method, path_and_query, body, self._nonce(), None)

    def _signed(
        self, method: str, path_and_query: str, body: bytes | None, nonce: str, sequence: int | None
    ) -> Mapping[str, str]:
        return sign_request(
            self._identity.key,
            self._identity.rack_id,
            fingerprint(self._identity.region_key),
            method,
            path_and_query,
            body,
            now=self.now(),
            nonce=nonce,
            sequence=sequence,
        )

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

    async def keys(self) -> Sequence[Signed]:
        """How the region's keys followed each other, as it says; nothing of it is verified.

        The request is not signed: the region may not know itself by the key that this rack knows. Raises FetchError,
        InvalidDocument.
        """
        return await ask_keys(self._session, self._identity.region_url, self._proxy)

    async def report(self, report: Report) -> None:
        """When this returns the region knows. The request's sequence is the report's.

        Raises FetchError, InvalidRequestSignature; Replayed, with the sequence to go on from, when the region has heard
        that one or a later one.
        """
        path = f"racks/{self._identity.rack_id}/report"
        headers = {"Content-Type": "application/json"}
        body = report.encode()
        async with self._ask("PUT", path, 204, headers=headers, body=body, sequence=report.sequence):
            pass

    async def change_key(self, key: Ed25519PublicKey, sequence: int) -> None:
        """When this returns the region knows this rack by `key`, and takes the present one no longer.

        Raises FetchError: nobody knows then which of the two counts, but for an HttpStatus below 500. Raises
        InvalidRequestSignature; Replayed, with the sequence to go on from.
        """
        path = f"racks/{self._identity.rack_id}/key"
        headers = {"Content-Type": "application/json"}
        body = NextKey.of(key).encode()
        async with self._ask("PUT", path, 204, headers=headers, body=body, sequence=sequence):
            pass

    async def own_address(self) -> str:
        """This machine's address on the way to the region, "" when there is no way; no packet is sent for it."""
        url = self._proxy or self._identity.region_url
        return await asyncio.to_thread(_own_address, url.host or "", url.port or 0)

    async def hints(self) -> AsyncGenerator[Hint, None]:
        """What the region says of its manifest, now and whenever it changes, and of polls that operators ask for.

        It ends with the connection.

        Nobody has signed them: they say that asking for the manifest may be worth it, no more. An event stream of the
        HTML standard, section 9.2. Raises FetchError, InvalidRequestSignature.
        """
        headers = {"Accept": "text/event-stream"}
        async with self._ask("GET", "manifest/events", headers=headers, deadline_s=None) as response:
            event = data = ""
            while line := await _line(response):
                # What is buffered is read without a pause; machines wait for this loop.
                await asyncio.sleep(0)
                field, _, value = line.strip().partition(":")
                if field == "event":
                    event = value.strip()
                elif field == "data":
                    data = value.strip()
                elif not field and not value:
                    if event == "manifest" and (hint := _hint(data)):
                        yield hint
                    elif event == "poll":
                        yield _wish(data)
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
        sequence: int | None = None,
        deadline_s: float | None = DEADLINE_S,
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        url = self._url(path)
        for last in (False, True):
            nonce = self._nonce()

            def sign(method: str, target: str, body: bytes | None, nonce: str = nonce) -> Mapping[str, str]:
                return self._signed(method, target, body, nonce, sequence)

            async with request(
                self._session,
                method,
                url,
                headers=headers,
                body=body,
                proxy=self._proxy,
                sign=sign,
                deadline_s=deadline_s,
            ) as response:
                if response.status != 401:
                    await require_ok(response, *accepted)
                    yield response
                    return
                correction = self._correction(response, nonce)
                if correction is not None and correction.sequence >= (sequence or MAX_SEQUENCE):
                    raise Replayed(correction.sequence)
                if last or correction is None or not self._correct(correction):
                    raise InvalidRequestSignature(self._why_refused(response))

    def _correction(self, response: aiohttp.ClientResponse, nonce: str) -> Correction | None:
        """What the region says of the request it has refused; None when it says nothing that is its own."""
        try:
            return Correction.open(response.headers.get(CORRECTION_HEADER, ""), self._identity.region_key, nonce)
        except BootferryError:
            return None

    def _correct(self, correction: Correction) -> bool:
        """Sign with the region's time; True if that is another one than before."""
        wrong_by = correction.at - self.now()
        if abs(wrong_by.total_seconds()) < REQUEST_LIFETIME_S / 2:
            return False
        self._behind += wrong_by
        _log.warning(
            f"This machine's clock is {_spoken(self._behind)} the region's, by which requests are signed meanwhile.",
            action="clock",
            seconds=round(self._behind.total_seconds()),
        )
        return True

    def _why_refused(self, response: aiohttp.ClientResponse) -> str:
        try:
            away_s = (self.now() - parsedate_to_datetime(response.headers.get("Date", ""))).total_seconds()
        except (ValueError, TypeError):
            away_s = 0.0
        if abs(away_s) > REQUEST_LIFETIME_S / 2:
            return f"this machine's clock is {_spoken(timedelta(seconds=-away_s))} the region's"
        return f"the region does not accept the rack {self._identity.rack_id}"


def _spoken(behind: timedelta) -> str:
    seconds = behind.total_seconds()
    return f"{abs(seconds):.0f} seconds {'behind' if seconds > 0 else 'ahead of'}"


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


def _wish(data: str) -> Hint:
    """An operator wants a poll: there is nothing more to it than within how many seconds."""
    try:
        return Hint((0, 0), _within_s(json.loads(data)), asked=True)
    except (ValueError, TypeError, AttributeError, OverflowError, RecursionError):
        return Hint((0, 0), asked=True)


def _within_s(document: Any) -> float:
    within_s = float(document.get("within_seconds", WITHIN_S))
    return within_s if isfinite(within_s) else WITHIN_S


def _hint(data: str) -> Hint | None:
    try:
        document = json.loads(data)
        order = int(document["epoch"]), int(document["serial"])
        return Hint(order, _within_s(document), document.get("last") is True)
    except (ValueError, KeyError, TypeError, AttributeError, OverflowError, RecursionError):
        return None
