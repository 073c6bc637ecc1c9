"""What happens around every request: its id, a log line for changes, headers browsers heed.

The scheme is the real one when a request comes here: that of its own connection, or the word of a trusted proxy.
"""

import re
import time
import uuid

import anyio
import structlog
from starlette.datastructures import Headers, MutableHeaders
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from region.edge.problem import BAD_HOST_NAME, problem
from shared.logs import logger

_REQUEST_ID = re.compile(r"[A-Za-z0-9._-]{1,64}")
_QUIET_METHODS = frozenset({"GET", "HEAD", "OPTIONS"})

_FAULT = "The region met a fault of its own; its log says more under this request's id."

HSTS = "max-age=31536000"
"""Of this host alone, and for a year: what else has a name below it may have no certificate."""

log = logger(__name__)


class Surroundings:
    """ASGI middleware: `X-Request-Id` in and out, and in every log line between. Refuses a request of several hosts."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        given = headers.get("x-request-id", "")
        request_id = given if _REQUEST_ID.fullmatch(given) else uuid.uuid4().hex
        started, status, gone = time.perf_counter(), 0, False

        async def receiving() -> Message:
            nonlocal gone
            message = await receive()
            gone = gone or message["type"] == "http.disconnect"
            return message

        async def answering(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                headers = MutableHeaders(raw=message["headers"])
                headers["X-Request-Id"] = request_id
                headers.setdefault("X-Content-Type-Options", "nosniff")
                headers.setdefault("Referrer-Policy", "no-referrer")
                if scope["scheme"] == "https":
                    # RFC 6797: in the clear it must not be sent, and counts for nothing.
                    headers.setdefault("Strict-Transport-Security", HSTS)
                message["headers"] = headers.raw
            await send(message)

        with structlog.contextvars.bound_contextvars(request_id=request_id):
            one_host = _names_one_host(scope, headers)
            app = self._app if one_host else problem(400, "bad_host_name", BAD_HOST_NAME)
            try:
                await app(scope, receiving, answering)
            except Exception as error:
                if gone and _only_unheard(error):
                    return
                log.exception("A request met a fault of ours.", action="answer", path=scope["path"])
                if status:
                    # Half an answer is out: only a broken connection can say that the rest is missing.
                    raise
                await problem(500, "internal_error", _FAULT)(scope, receive, answering)
            if scope["method"] not in _QUIET_METHODS:
                # What strangers are refused is counted: they must not fill the disk with lines.
                told = status < 400 or scope.get("state", {}).get("caller") is not None
                # Nor may what happens every five minutes, or changes nothing.
                told = told and not scope["path"].endswith("/report") and b"dry_run=true" not in scope["query_string"]
                (log.info if told else log.debug)(
                    f"{scope['method']} {scope['path']} was answered {status}.",
                    action="answer",
                    milliseconds=round((time.perf_counter() - started) * 1000, 1),
                )


def _only_unheard(error: Exception) -> bool:
    """True for what an event stream ends with when its client leaves while an event is on its way."""
    return isinstance(error, ExceptionGroup) and error.split(anyio.BrokenResourceError)[1] is None


def _names_one_host(scope: Scope, headers: Headers) -> bool:
    """RFC 9112 §3.2: with several, whoever stands before the region may have believed another one."""
    given = len(headers.getlist("host"))
    return given == 1 or (given == 0 and scope["http_version"] == "1.0")
