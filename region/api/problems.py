"""Errors as RFC 9457 problems: one table over the whole error tree, and the framework's own refusals in the same shape.

- Each class has its row in `ROWS`: the HTTP status, and what its code means. Its code and its sentence are its own.
- A class defined where no request is answered (`NEVER_ANSWERED`) needs none: it has the row of the class above it.
- 429 and 503 carry Retry-After: what the error asks for, and up to as much again: not all clients return at once.
"""

import random
from collections.abc import Callable, Mapping
from http import HTTPStatus
from typing import Any, NamedTuple

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from region.actions.selections import SelectedByRule
from region.actions.settings import SourceNotRead
from region.actions.sources import HeldUndecided, UnsignedNotConfirmed
from region.api.deps import CrossOrigin
from region.catalogue.freshness import Stale
from region.catalogue.trust import KeyringUnreadable, TrustChanged
from region.database.refusals import DatabaseAway
from region.edge.admission import Crowded
from region.edge.problem import BAD_HOST_NAME, BODY_TOO_LARGE, BODY_TOO_SLOW, PROBLEM_JSON, problem
from region.importing.fetching import ImageStopped, NoRoad
from region.importing.importer import Cancelled, WithdrawalWaits
from region.importing.imports import LeaseLost
from region.secrets import SecretUnreadable
from shared import errors
from shared.errors import BootferryError, DiskFailed, TooManyAttempts, Unavailable
from shared.logs import logger
from shared.shapes import accepted
from shared.wire.correction import CORRECTION_HEADER

log = logger(__name__)

DISK_RETRY_S = 60


class Row(NamedTuple):
    """How an error is answered, and what its code means."""

    status: HTTPStatus
    means: str


NEVER_ANSWERED = ("rack", "region.cli")
"""Packages whose errors end a program of their own: no request is ever answered with one."""

ROWS: Mapping[type[BootferryError], Row] = {
    BootferryError: Row(HTTPStatus.INTERNAL_SERVER_ERROR, "A fault of Bootferry's own."),
    # What was asked for is not acceptable.
    errors.Refused: Row(HTTPStatus.BAD_REQUEST, "The request was not acceptable."),
    errors.InvalidValue: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "A name, URL, version or message does not parse."),
    errors.InvalidDocument: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "A stream or a message is not what it should be."),
    errors.Unauthenticated: Row(HTTPStatus.UNAUTHORIZED, "No token, or the session has ended."),
    errors.InvalidToken: Row(HTTPStatus.UNAUTHORIZED, "The region has not made this token, or it was removed."),
    errors.TokenSpent: Row(HTTPStatus.UNAUTHORIZED, "A one-time enrolment token was used before."),
    errors.TokenExpired: Row(HTTPStatus.UNAUTHORIZED, "The token's time is over."),
    errors.InvalidRequestSignature: Row(HTTPStatus.UNAUTHORIZED, "A rack's request is not signed as it must be."),
    errors.WrongClock: Row(
        HTTPStatus.UNAUTHORIZED, "A rack's clock and the region's differ by more than five minutes."
    ),
    errors.Replayed: Row(HTTPStatus.UNAUTHORIZED, "A rack's request was sent before."),
    errors.Forbidden: Row(HTTPStatus.FORBIDDEN, "Your role does not allow it."),
    errors.BarredKey: Row(HTTPStatus.FORBIDDEN, "A rack asks to enrol with the key of one that was removed."),
    CrossOrigin: Row(HTTPStatus.FORBIDDEN, "A browser sent a change from another site's page."),
    errors.NotFound: Row(HTTPStatus.NOT_FOUND, "There is no such thing."),
    errors.Conflict: Row(HTTPStatus.CONFLICT, "The change does not fit what is there."),
    SelectedByRule: Row(HTTPStatus.CONFLICT, "An image cannot be unselected alone, as a rule means it."),
    HeldUndecided: Row(HTTPStatus.CONFLICT, "Nobody would vouch for what is held of a source after the change."),
    SourceNotRead: Row(HTTPStatus.CONFLICT, "Bootloaders cannot come from a source that was not read yet."),
    UnsignedNotConfirmed: Row(HTTPStatus.CONFLICT, "A signed source would be believed without a signature."),
    errors.PreconditionFailed: Row(HTTPStatus.PRECONDITION_FAILED, "Somebody changed it meanwhile."),
    errors.TooManyAttempts: Row(HTTPStatus.TOO_MANY_REQUESTS, "Too many log-ins or enrolments failed."),
    # Bytes that a request made the region fetch, as a probe does.
    errors.FetchError: Row(HTTPStatus.BAD_GATEWAY, "Bytes could not be fetched."),
    errors.NameNotFound: Row(HTTPStatus.BAD_GATEWAY, "A host name does not resolve."),
    errors.ConnectionRefused: Row(HTTPStatus.BAD_GATEWAY, "Nothing answers at an address."),
    errors.ConnectionLost: Row(HTTPStatus.BAD_GATEWAY, "A connection ended in the middle."),
    errors.TlsFailed: Row(HTTPStatus.BAD_GATEWAY, "A TLS certificate is not trusted."),
    errors.TimedOut: Row(HTTPStatus.GATEWAY_TIMEOUT, "No answer in time."),
    errors.AddressForbidden: Row(
        HTTPStatus.BAD_GATEWAY,
        "A URL leads to a link-local, metadata or reserved address, or a redirect from a public address to a private"
        " one.",
    ),
    errors.HttpStatus: Row(HTTPStatus.BAD_GATEWAY, "A server answered, but not with the bytes."),
    errors.RedirectRefused: Row(HTTPStatus.BAD_GATEWAY, "A redirect goes where it must not."),
    errors.ProxyFailed: Row(HTTPStatus.BAD_GATEWAY, "The proxy cannot be reached or refuses."),
    errors.TooLarge: Row(HTTPStatus.BAD_GATEWAY, "A document is larger than any may be."),
    errors.TooSlow: Row(HTTPStatus.GATEWAY_TIMEOUT, "Bytes come too slowly."),
    errors.MixedDocuments: Row(
        HTTPStatus.BAD_GATEWAY, "A source's index and one of its product files do not belong together."
    ),
    errors.WrongSize: Row(HTTPStatus.BAD_GATEWAY, "A file does not have the promised size."),
    errors.WrongDigest: Row(HTTPStatus.BAD_GATEWAY, "The bytes are not the promised ones. Nothing was kept."),
    # What was fetched, or given, is not vouched for.
    errors.SignatureError: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "Something is not vouched for."),
    errors.Unsigned: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "A source is not signed where a signature is required."),
    errors.UnknownSigner: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "Signed by a key the keyring does not hold."),
    errors.BadSignature: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "A signature does not fit."),
    errors.SignatureExpired: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "A signature, or the key that made it, has expired."),
    errors.SignatureKeyRevoked: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY, "The key that made a signature was revoked by its owner."
    ),
    errors.SignatureWeak: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A signature was made with a hash that can be forged (MD5, SHA-1, RIPEMD-160).",
    ),
    errors.InvalidKeyring: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY, "A keyring holds no usable OpenPGP key, or cannot be read."
    ),
    KeyringUnreadable: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A keyring's file on the region cannot be read now. What it vouched for stays; nothing new comes from its"
        " source.",
    ),
    errors.KeyTooSmall: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "An RSA key has less than 2048 bits: others can compute its secret part.",
    ),
    errors.KeyAlgorithmRefused: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A key is of a kind that is not believed: DSA, one that only encrypts, an unknown one.",
    ),
    errors.KeyExpired: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "A key's time is over."),
    errors.KeyRevoked: Row(HTTPStatus.UNPROCESSABLE_ENTITY, "A key was revoked by its owner."),
    errors.WrongRegion: Row(HTTPStatus.FORBIDDEN, "The region's key is not the one the rack or its token knows."),
    errors.ForkedManifest: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A region has signed two manifests with the same epoch and serial; its racks keep the first.",
    ),
    errors.TooOld: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A correctly signed document older than one accepted before: a replay, or a mirror gone back.",
    ),
    errors.CannotMove: Row(
        HTTPStatus.CONFLICT,
        "The region told its racks of another address, and this rack does not find it there; it stays at the present"
        " one.",
    ),
    errors.WaitsForConfirmation: Row(
        HTTPStatus.CONFLICT,
        "The manifest would take away more than half of the images a rack shows; the rack keeps them until an operator"
        " confirms that.",
    ),
    errors.TooNew: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY, "A document is dated more than a day after now. Nothing of it was taken."
    ),
    # What the region itself lacks.
    errors.NoRoom: Row(
        HTTPStatus.INSUFFICIENT_STORAGE, "What was asked for does not fit on a disk. Nothing was fetched."
    ),
    errors.NoInodes: Row(
        HTTPStatus.INSUFFICIENT_STORAGE, "A disk has bytes left, and no inodes: no further file can be made on it."
    ),
    DiskFailed: Row(HTTPStatus.SERVICE_UNAVAILABLE, "The disk refused to read or write."),
    Unavailable: Row(HTTPStatus.SERVICE_UNAVAILABLE, "A part is away, mostly the database."),
    DatabaseAway: Row(HTTPStatus.SERVICE_UNAVAILABLE, "A part is away, mostly the database."),
    Crowded: Row(HTTPStatus.SERVICE_UNAVAILABLE, "More is asked without a token than the region answers at once."),
    # The only configuration a request brings with it is a source's: its CA bundle.
    errors.InvalidConfiguration: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A service cannot start as configured (exit status 78), or a `bootferry` profile is unusable.",
    ),
    SecretUnreadable: Row(
        HTTPStatus.UNPROCESSABLE_ENTITY,
        "A user name and password cannot be opened with this region's `secrets.key`.",
    ),
    # What a source's `warning_code` says; it fails nothing.
    Stale: Row(HTTPStatus.CONFLICT, "A source's documents are older than its limit. It stops nothing."),
    # How an import can end: an answer shows these as its `error_code`.
    NoRoad: Row(
        HTTPStatus.BAD_GATEWAY, "No source that was read under its present trust offers a file that is missing."
    ),
    TrustChanged: Row(HTTPStatus.CONFLICT, "A source's keyring or address was changed while it was read."),
    LeaseLost: Row(HTTPStatus.CONFLICT, "Another region process carries the import on."),
    WithdrawalWaits: Row(
        HTTPStatus.CONFLICT,
        "More than a fifth of what is held would go though nobody unselected it; an unattended import leaves that"
        " alone.",
    ),
    Cancelled: Row(HTTPStatus.CONFLICT, "An operator stopped the import."),
    ImageStopped: Row(HTTPStatus.CONFLICT, "An operator stopped this image of an import."),
}

_FRAMEWORK = {
    400: ("bad_host_name", BAD_HOST_NAME),
    404: ("not_found", "There is nothing at this address; /docs lists what there is."),
    405: ("method_not_allowed", "This address does not answer that method; see the Allow header."),
    408: ("body_too_slow", BODY_TOO_SLOW),
    413: ("body_too_large", BODY_TOO_LARGE),
    415: ("unsupported_media_type", "The body is of a media type this address does not take; send application/json."),
    416: ("range_not_satisfiable", "The range lies outside the file."),
}
"""What is refused before any error of ours is raised: status to code and sentence."""

FRAMEWORK_ONLY = {status: told for status, told in _FRAMEWORK.items() if status != HTTPStatus.NOT_FOUND}
"""Those whose status no error of ours has."""

_NOT_JSON = "The request's body is not JSON; send one JSON value, in UTF-8."


class Problem(BaseModel):
    """What went wrong, as RFC 9457 shapes it. `code` is stable; `detail` is one sentence that says what to do."""

    type: str = "about:blank"
    title: str = Field(examples=["Not Found"])
    status: int = Field(examples=[404])
    detail: str = Field(examples=["There is no source 7; check the name, or whether it was removed."])
    code: str = Field(examples=["not_found"])
    request_id: str | None = Field(None, description="The log has it too.", examples=["d94aa3f0efe21092"])


def install(app: FastAPI, jitter: Callable[[], float] = random.random) -> None:
    """Make every refusal that `app` answers a problem. `jitter` gives numbers from 0 to 1."""

    async def refuse(_request: Request, error: Exception) -> JSONResponse:
        if not isinstance(error, BootferryError):
            raise error
        return answer(error, jitter)

    async def disk_failed(request: Request, error: Exception) -> JSONResponse:
        # A connection's OSError never comes so far; what a route meets is the disk.
        if not isinstance(error, OSError) or isinstance(error, TimeoutError | ConnectionError):
            raise error
        log.error("The disk failed a request.", action="answer", path=request.scope["path"], exc_info=error)
        return answer(DiskFailed(str(error.filename or "the region's directory"), error), jitter)

    app.add_exception_handler(BootferryError, refuse)
    app.add_exception_handler(OSError, disk_failed)
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


def row_of(kind: type[BootferryError]) -> Row:
    """The row of an error's class, or of the nearest class above it that has one."""
    return next(ROWS[above] for above in kind.__mro__ if above in ROWS)


def status_of(error: BootferryError) -> HTTPStatus:
    """The HTTP status of an error."""
    return row_of(type(error)).status


def answer(error: BootferryError, jitter: Callable[[], float] = random.random) -> JSONResponse:
    """The problem that tells of `error`, which is logged when it is no fault of the request."""
    status = status_of(error)
    headers: dict[str, str] = {}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        least = error.retry_after if isinstance(error, Unavailable | TooManyAttempts) else DISK_RETRY_S
        headers["Retry-After"] = str(least + round(least * jitter()))
    if status == HTTPStatus.UNAUTHORIZED:
        headers["WWW-Authenticate"] = "Bearer"
    if isinstance(error, errors.WrongClock | errors.Replayed) and error.correction:
        headers[CORRECTION_HEADER] = error.correction
    # What is away was logged when it went; each request that meets it is no news.
    if status >= HTTPStatus.INTERNAL_SERVER_ERROR and not isinstance(error, Unavailable):
        log.warning(f"A request failed. {error}", action="answer", code=error.code, status=int(status))
    return problem(status, error.code, str(error), headers)


async def _invalid(request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, RequestValidationError):
        raise error
    first = error.errors()[0]
    sent = request.headers.get("content-type", "application/json").partition(";")[0].strip().lower()
    # application/octet-stream says nothing of what the body is.
    if first["loc"][0] == "body" and not sent.endswith(("/json", "+json", "/octet-stream")):
        return problem(415, *_FRAMEWORK[415])
    if first["type"] == "json_invalid":
        return problem(422, "invalid_request", _NOT_JSON)
    where = ".".join(str(part) for part in first["loc"][1:]) or "body"
    if first["type"] == "missing":
        return problem(422, "invalid_request", f"The request lacks its {where}; /docs shows what belongs into it.")
    return problem(422, "invalid_request", f"The request's {where} is not acceptable: {accepted(first)}.")


async def _framework(_request: Request, error: Exception) -> JSONResponse:
    if not isinstance(error, HTTPException):
        raise error
    if error.status_code == HTTPStatus.BAD_REQUEST:
        # What FastAPI says of a body that json cannot take at all: not UTF-8, too deep, a number too long.
        return problem(422, "invalid_request", _NOT_JSON)
    known = _FRAMEWORK.get(error.status_code)
    code, detail = known or ("refused", f"The request was refused: {HTTPStatus(error.status_code).phrase.lower()}.")
    return problem(error.status_code, code, detail, error.headers)
