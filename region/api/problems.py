"""Errors as RFC 9457 problems: one table from the error tree to HTTP; the framework's own in the same shape."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Any

import structlog
from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from shared.errors import (
    BootferryError,
    Conflict,
    FetchError,
    Forbidden,
    InvalidDocument,
    InvalidValue,
    NoRoom,
    NotFound,
    PreconditionFailed,
    Refused,
    SignatureError,
    TooManyAttempts,
    Unauthenticated,
    Unavailable,
    WrongRegion,
)
from shared.logs import logger

PROBLEM_JSON = "application/problem+json"

log = logger(__name__)

# The first class an error is an instance of decides.
_STATUS: tuple[tuple[type[BootferryError], HTTPStatus], ...] = (
    (Unauthenticated, HTTPStatus.UNAUTHORIZED),
    (Forbidden, HTTPStatus.FORBIDDEN),
    (NotFound, HTTPStatus.NOT_FOUND),
    (Conflict, HTTPStatus.CONFLICT),
    (PreconditionFailed, HTTPStatus.PRECONDITION_FAILED),
    (TooManyAttempts, HTTPStatus.TOO_MANY_REQUESTS),
    (InvalidValue, HTTPStatus.UNPROCESSABLE_ENTITY),
    (InvalidDocument, HTTPStatus.UNPROCESSABLE_ENTITY),
    (Refused, HTTPStatus.BAD_REQUEST),
    (WrongRegion, HTTPStatus.FORBIDDEN),
    (SignatureError, HTTPStatus.UNPROCESSABLE_ENTITY),
    (FetchError, HTTPStatus.BAD_GATEWAY),
    (NoRoom, HTTPStatus.INSUFFICIENT_STORAGE),
    (Unavailable, HTTPStatus.SERVICE_UNAVAILABLE),
)

_FRAMEWORK = {
    404: ("not_found", "There is nothing at this address; /docs lists what there is."),
    405: ("method_not_allowed", "This address does not answer that method; see the Allow header."),
    413: ("body_too_large", "The body is larger than anything this address takes."),
    415: ("unsupported_media_type", "Send application/json."),
}


class Problem(BaseModel):
    """What went wrong, as RFC 9457 shapes it. `code` is stable; `detail` is one sentence that says what to do."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no source 7."])
    code: str = Field(examples=["not_found"])
    request_id: str | None = None


def problem(status: int, code: str, detail: str, headers: Mapping[str, str] | None = None) -> JSONResponse:
    """The answer that says so."""
    body = Problem(
        title=HTTPStatus(status).phrase,
        status=status,
        detail=detail,
        code=code,
        request_id=structlog.contextvars.get_contextvars().get("request_id"),
    )
    return JSONResponse(body.model_dump(), status, dict(headers or {}), PROBLEM_JSON)


def install(app: FastAPI) -> None:
    """From here on every refusal `app` answers is a problem, and its OpenAPI document says what a problem is."""
    describe = app.openapi

    def openapi() -> dict[str, Any]:
        document = describe()
        schemas = document.setdefault("components", {}).setdefault("schemas", {})
        schemas["Problem"] = Problem.model_json_schema()
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        return document

    app.openapi = openapi  # type: ignore[method-assign]
    app.add_exception_handler(BootferryError, _refusal)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_exception_handler(HTTPException, _framework)


def documented(*statuses: int) -> dict[int | str, dict[str, Any]]:
    """`responses=` of a route that answers problems with these statuses."""
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}}},
        }
        for status in statuses
    }


def status_of(error: BootferryError) -> HTTPStatus:
    """The HTTP status of an error."""
    for kind, status in _STATUS:
        if isinstance(error, kind):
            return status
    return HTTPStatus.INTERNAL_SERVER_ERROR


async def _refusal(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, BootferryError):
        raise error
    status = status_of(error)
    headers: dict[str, str] = {}
    if isinstance(error, Unavailable | TooManyAttempts):
        headers["Retry-After"] = str(error.retry_after)
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    # What is away was logged when it went; each request that meets it is no news.
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        log.warning(f"A request failed. {error}", action="answer", code=error.code, status=int(status))
    return problem(status, error.code, str(error), headers)


async def _invalid(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return problem(422, "invalid_request", "The request's body is not JSON.")
    where = ".".join(str(part) for part in first["loc"] if part != "body") or "body"
    reason = str(first["msg"]).removeprefix("Value error, ").rstrip(".")
    return problem(422, "invalid_request", f"The request's {where} is not acceptable: {reason}.")


async def _framework(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # What FastAPI says of a body that json cannot take at all: not UTF-8, too deep, a number too long.
        return problem(422, "invalid_request", "The request's body is not JSON.")
    code, detail = _FRAMEWORK.get(error.status_code, ("refused", str(error.detail)))
    return problem(error.status_code, code, detail, error.headers)
