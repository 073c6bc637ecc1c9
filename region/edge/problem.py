"""The answer that says what went wrong, as RFC 9457 shapes it. Everything that refuses a request answers this."""

from collections.abc import Mapping
from http import HTTPStatus

import structlog
from starlette.responses import JSONResponse

PROBLEM_JSON = "application/problem+json"

BAD_HOST_NAME = "The request does not give its host name exactly once; mend the client, or the proxy before the region."
BODY_TOO_LARGE = "The body is larger than anything this address takes; send less."
BODY_TOO_SLOW = "The body did not arrive in time; send it without a pause."


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer with this status. `code` is stable; `detail` is one sentence that says what to do.

    It carries the id of the request it is made in, which the log has too.
    """
    body = {
        "type": "about:blank",
        "title": HTTPStatus(status).phrase,
        "status": int(status),
        "detail": detail,
        "code": code,
        "request_id": structlog.contextvars.get_contextvars().get("request_id"),
    }
    return JSONResponse(body, int(status), dict(headers or {}), PROBLEM_JSON)
