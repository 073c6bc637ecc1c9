"""Measuring: how long each request waited for the head of its answer, and how many bytes went to whom."""

import time
from collections.abc import Callable

from starlette.types import ASGIApp, Message, Receive, Scope, Send

from region.meters import Meters

_METHODS = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE"})
_ZERO_COPY = "http.response.zerocopysend"


class Measuring:
    """ASGI middleware. `who` names, in a word, whoever `request.state.caller` is.

    A route is counted by its template, never by the address that was asked for, and what no route took is one: whoever
    asks for a million addresses makes no more series than who asks for one. Only answers are counted.
    """

    def __init__(self, app: ASGIApp, *, meters: Meters, who: Callable[[object], str]) -> None:
        self._app, self._meters, self._who = app, meters, who

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        began, sent = time.perf_counter(), 0

        async def answering(message: Message) -> None:
            nonlocal sent
            match message["type"]:
                case "http.response.start":
                    self._observe(scope, message["status"], time.perf_counter() - began)
                case "http.response.body":
                    sent += len(message.get("body", b""))
                case kind if kind == _ZERO_COPY:
                    sent += message["count"]
            await send(message)

        try:
            await self._app(scope, receive, answering)
        finally:
            if sent:
                self._meters.sent.labels(self._who(scope.get("state", {}).get("caller"))).inc(sent)

    def _observe(self, scope: Scope, status: int, seconds: float) -> None:
        method = scope["method"] if scope["method"] in _METHODS else "other"
        route = getattr(scope.get("route"), "path", "none")
        self._meters.latency.labels(method, route, f"{status // 100}xx").observe(seconds)
