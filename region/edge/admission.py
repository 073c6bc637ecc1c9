"""Admission: what a request must show, and may bring, before FastAPI sees it.

In this order, so that nobody without a key or token makes the region wait, grow or stop:

1. Who asks? A rack's signature is checked on the head; a token or a cookie in a short transaction of its own. What is
   presented and not good is refused here. Where somebody must be known, a body of nobody is refused unread.
2. Requests of strangers are limited: under way, and within a second; in total and, wider, for one address. When too
   many are under way, one that waits for its client goes first: with half a body, or not taking its answer. A
   request that presents what was good lately is no stranger's; it is looked at again all the same.
3. The body is read whole, within its limit and its time, before any transaction begins and anything is parsed; a
   rack's body must be the one it signed.

The routes find who asks in `request.state.caller`. They decide what they may do; that is not done here.
"""

import asyncio
import hashlib
import time
from collections import Counter, OrderedDict
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

from starlette.requests import Request
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from region.edge.house import Visitor
from region.edge.problem import BODY_TOO_LARGE, BODY_TOO_SLOW, problem
from region.edge.rates import Rate, Rates
from shared.errors import BootferryError, Unauthenticated, Unavailable
from shared.networks import address_key

BODY_BYTES = 64 * 1024
BODY_S = 20.0
"""A body arrives within so many seconds of its head."""

_LATELY_S = 600.0
_LATELY_COUNT = 4_096


@dataclass(frozen=True, slots=True)
class Door:
    """What an address takes. `open`: nobody need be known."""

    open: bool = False
    body_bytes: int = BODY_BYTES
    body_s: float = BODY_S


_REQUESTS = Rate(4_000, 500, burst_of_one_address=3_000, each_second_of_one_address=400)


@dataclass(frozen=True, slots=True)
class StrangersLimits:
    """How much strangers may ask: requests under way, and so many more in each second after a burst."""

    under_way: int = 64
    under_way_of_one_address: int = 48
    requests: Rate = _REQUESTS


class Crowded(Unavailable):
    """Strangers ask for more than is done for strangers."""

    code = "crowded"

    def __init__(self) -> None:
        super().__init__("More is asked without a token than the region answers at once")


class Admission:
    """ASGI middleware, to stand around everything that reads a body or asks the database.

    `door` says what an address takes, by method and path. `identify` answers who asks, None for nobody, and raises
    when what is presented is not good; `vouch` raises unless the body is the one that a caller spoke of.
    """

    def __init__(
        self,
        app: ASGIApp,
        *,
        door: Callable[[str, str], Door],
        identify: Callable[[Request], Awaitable[object | None]],
        vouch: Callable[[object, bytes], None],
        refuse: Callable[[BootferryError], Response],
        strangers: "Strangers",
    ) -> None:
        self._app = app
        self._door, self._identify, self._vouch, self._refuse = door, identify, vouch, refuse
        self._strangers = strangers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        request = Request(scope)
        visitor: Visitor | None = scope.setdefault("state", {}).get("visitor")
        scope["state"]["caller"] = None
        door = self._door(scope["method"], scope["path"])
        try:
            with self._strangers.stay(request, visitor, door) as stay:
                await self._admit(request, door, stay, receive, send)
        except Crowded as error:
            await self._refuse(error)(scope, receive, send)

    async def _admit(self, request: Request, door: Door, stay: "Stay", receive: Receive, send: Send) -> None:
        scope = request.scope
        try:
            caller = None if door.open else await self._identify(request)
            if caller is not None:
                stay.is_known()
            elif not door.open and _has_body(request):
                raise Unauthenticated
            body = await _read(request, door, stay, receive)
            if caller is not None:
                self._vouch(caller, body)
        except _ClientGone:
            return
        except _BodyTooLarge:
            await problem(413, "body_too_large", BODY_TOO_LARGE)(scope, receive, send)
            return
        except _BodyTooSlow:
            await problem(408, "body_too_slow", BODY_TOO_SLOW, {"Connection": "close"})(scope, receive, send)
            return
        except BootferryError as error:
            if isinstance(error, Unauthenticated):
                stay.is_unknown()
            await self._refuse(error)(scope, receive, send)
            return
        scope["state"]["caller"] = caller
        await self._app(scope, _replayed(body, receive), send)


class _BodyTooLarge(Exception):
    pass


class _BodyTooSlow(Exception):
    pass


class _ClientGone(Exception):
    pass


def _has_body(request: Request) -> bool:
    return "transfer-encoding" in request.headers or request.headers.get("content-length", "0").strip("0") != ""


async def _read(request: Request, door: Door, stay: "Stay", receive: Receive) -> bytes:
    """The body, whole. Raises _BodyTooLarge, _BodyTooSlow, _ClientGone."""
    if not _has_body(request):
        return b""
    declared = request.headers.get("content-length", "")
    if declared.isdigit() and int(declared) > door.body_bytes:
        raise _BodyTooLarge
    body, more = bytearray(), True
    try:
        with stay.waiting():
            async with asyncio.timeout(door.body_s):
                while more:
                    message = await receive()
                    if message["type"] == "http.disconnect":
                        raise _ClientGone
                    body += message.get("body", b"")
                    if len(body) > door.body_bytes:
                        raise _BodyTooLarge
                    more = message.get("more_body", False)
    except TimeoutError:
        raise _BodyTooSlow from None
    return bytes(body)


def _replayed(body: bytes, receive: Receive) -> Receive:
    told = False

    async def replay() -> Message:
        nonlocal told
        if told:
            return await receive()
        told = True
        return {"type": "http.request", "body": body, "more_body": False}

    return replay


class Stay:
    """One request on its way through; while it counts, its client is nobody we know."""

    def __init__(self, strangers: "Strangers", address: str, credential: bytes | None, visitor: Visitor | None) -> None:
        self._strangers = strangers
        self.address, self.credential, self.visitor = address, credential, visitor

    def is_known(self) -> None:
        """It was authenticated."""
        self._strangers.leave(self)
        if self.credential is not None:
            self._strangers.note_good(self.credential)
        if self.visitor is not None:
            self.visitor.is_known()

    def is_unknown(self) -> None:
        """What it presented is not good."""
        if self.credential is not None:
            self._strangers.note_bad(self.credential)

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Inside, it is the client's turn."""
        if self.visitor is None:
            yield
            return
        self.visitor.is_silent()
        try:
            yield
        finally:
            self.visitor.is_busy()


class Strangers:
    """The requests of strangers in this process. `clock` counts seconds, monotonically."""

    def __init__(self, limits: StrangersLimits | None = None, clock: Callable[[], float] = time.monotonic) -> None:
        self._limits = limits or StrangersLimits()
        self._clock = clock
        self._under_way: OrderedDict[Stay, None] = OrderedDict()
        self._at: Counter[str] = Counter()
        self._rates = Rates(self._limits.requests)
        self._good: OrderedDict[bytes, float] = OrderedDict()
        self.refused: Counter[str] = Counter()
        """Requests that were refused, or ended for others, by what was limited."""

    @property
    def under_way(self) -> int:
        """Requests of strangers that are being answered, or read."""
        return len(self._under_way)

    @contextmanager
    def stay(self, request: Request, visitor: Visitor | None, door: Door) -> Iterator[Stay]:
        """Inside, the request is under way. Raises Crowded."""
        host = request.client.host if request.client else ""
        credential = _credential(request)
        stay = Stay(self, address_key(host), credential, visitor)
        # A signature is checked without waiting for anything; what was good lately is mostly good again.
        if credential is None or not (self._was_good(credential) or (credential == _SIGNED and not door.open)):
            self._enter(stay)
        try:
            yield stay
        finally:
            self.leave(stay)

    def _enter(self, stay: Stay) -> None:
        limits, now = self._limits, self._clock()
        if not self._rates.take(stay.address, now):
            self._crowded("rate")
        if self._at[stay.address] >= limits.under_way_of_one_address:
            self._make_room("address", lambda other: other.address == stay.address)
        if self.under_way >= limits.under_way:
            self._make_room("under_way", lambda _: True)
        self._under_way[stay] = None
        self._at[stay.address] += 1

    def _make_room(self, limit: str, concerned: Callable[[Stay], bool]) -> None:
        for other in self._under_way:
            if concerned(other) and other.visitor is not None and other.visitor.silent:
                self.leave(other)
                self.refused[limit] += 1
                other.visitor.close()
                return
        self._crowded(limit)

    def _crowded(self, limit: str) -> None:
        self.refused[limit] += 1
        raise Crowded

    def leave(self, stay: Stay) -> None:
        """It counts no longer."""
        if self._under_way.pop(stay, stay) is None:
            self._at[stay.address] -= 1
            if not self._at[stay.address]:
                del self._at[stay.address]

    def note_good(self, credential: bytes) -> None:
        """Whoever presents this is no stranger for a while."""
        if credential != _SIGNED:
            self._good[credential] = self._clock()
            self._good.move_to_end(credential)
            if len(self._good) > _LATELY_COUNT:
                self._good.popitem(last=False)

    def note_bad(self, credential: bytes) -> None:
        """Whoever presents this is a stranger."""
        self._good.pop(credential, None)

    def _was_good(self, credential: bytes) -> bool:
        at = self._good.get(credential)
        return at is not None and self._clock() - at < _LATELY_S


_SIGNED = b"signed"


def _credential(request: Request) -> bytes | None:
    """What the request presents, as one digest: nothing secret is kept."""
    headers = request.headers
    presented = headers.get("authorization")
    if presented is None and "signature-input" in headers:
        return _SIGNED
    presented = presented or headers.get("cookie")
    return None if presented is None else hashlib.sha256(presented.encode()).digest()
