"""/session, /operator-tokens, /activity: who may do what, and who did."""

import time
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from region.actions import people as acts
from region.api.deps import (
    SESSION_COOKIE,
    Admin,
    IfMatch,
    TheRegion,
    Transaction,
    Viewer,
    address_of,
    require_same_origin,
)
from region.api.models import NOT_STORED, Limit, Page, Shape, paged
from region.api.problems import documented
from region.database.connection import transaction
from region.people import activity, operators, sessions
from region.people.attempts import Attempts, FailedLogIns
from region.people.operators import Role
from region.people.sessions import SESSION_IDLE
from shared.errors import Unauthenticated

router = APIRouter(tags=["operators"])
TokenId = Annotated[str, Path(pattern="^[0-9a-f]{12}$")]


class SessionFields(Shape):
    """A log-in."""

    token: str = Field(max_length=256)


class SessionShown(Shape):
    """Who is logged in."""

    name: str
    role: Role
    expires_at: datetime | None = Field(
        description="When the session ends unless it is used, or when the token expires; null: never."
    )


class OperatorTokenFields(Shape):
    """A token to make."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$", examples=["night shift"])
    role: Role = Role.VIEWER
    expires_at: datetime | None = None


class OperatorTokenShown(Shape):
    """A token without its secret."""

    id: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


class OperatorTokenMade(Shape):
    """A token, shown this once."""

    id: str
    token: str


class ActivityShown(Shape):
    """One change: who, from where, before and after."""

    id: int
    at: datetime
    who: str
    address: str
    subject: str = Field(
        description="What was changed; empty when it has no name.", examples=["selection", "rack:3f0c"]
    )
    action: str = Field(examples=["selection.changed"])
    sentence: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@router.post("/session", summary="Log in: turn a token into a session cookie", responses=documented(401, 429))
async def log_in(region: TheRegion, request: Request, response: Response, fields: SessionFields) -> SessionShown:
    region.require_ready()
    attempts: Attempts = request.app.state.attempts
    address = address_of(request)
    attempts.require_another(address, time.monotonic())
    try:
        async with transaction(region.request_engine) as connection:
            opened = await acts.log_in(connection, fields.token, address, region.now())
    except Unauthenticated:
        failures: FailedLogIns = request.app.state.failed_log_ins
        is_refused = attempts.note_failed(address, time.monotonic())
        if failed := failures.note(address, time.monotonic(), is_last=is_refused):
            async with transaction(region.request_engine) as connection:
                await acts.note_failed_log_ins(connection, address, failed, region.now(), is_refused=is_refused)
        raise
    response.headers.update(NOT_STORED)
    response.set_cookie(
        SESSION_COOKIE,
        opened.secret,
        max_age=int(SESSION_IDLE.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return SessionShown(name=opened.operator.name, role=opened.operator.role, expires_at=opened.ends_at)


@router.get("/session", summary="Show who asks", responses=documented(401))
async def get_session(operator: Viewer, region: TheRegion, connection: Transaction, request: Request) -> SessionShown:
    secret = request.cookies.get(SESSION_COOKIE)
    if "authorization" in request.headers or secret is None:
        expires_at = (await operators.get_token(connection, operator.id)).expires_at
    else:
        _, expires_at = await sessions.resume_session(connection, secret, region.now())
    return SessionShown(name=operator.name, role=operator.role, expires_at=expires_at)


@router.delete("/session", status_code=204, summary="Log out", responses=documented(403))
async def log_out(region: TheRegion, connection: Transaction, request: Request, response: Response) -> None:
    if (secret := request.cookies.get(SESSION_COOKIE)) is not None:
        require_same_origin(request)
        await acts.log_out(connection, secret, address_of(request), region.now())
    response.delete_cookie(SESSION_COOKIE)


@router.get("/operator-tokens", summary="List operators' tokens")
async def list_operator_tokens(_operator: Admin, connection: Transaction) -> Page[OperatorTokenShown]:
    return Page(items=[OperatorTokenShown.model_validate(token) for token in await operators.list_tokens(connection)])


@router.get("/operator-tokens/{token_id}", summary="Show an operator's token", responses=documented(404))
async def get_operator_token(
    _operator: Admin, connection: Transaction, response: Response, token_id: TokenId
) -> OperatorTokenShown:
    token = await operators.get_token(connection, token_id)
    response.headers["ETag"] = acts.etag(token)
    return OperatorTokenShown.model_validate(token)


@router.post("/operator-tokens", status_code=201, summary="Make an operator's token", responses=documented(422))
async def create_operator_token(
    operator: Admin, region: TheRegion, connection: Transaction, response: Response, fields: OperatorTokenFields
) -> OperatorTokenMade:
    secret, token = await acts.make_token(
        connection, operator, fields.name, fields.role, region.now(), expires_at=fields.expires_at
    )
    response.headers.update(NOT_STORED)
    response.headers["Location"] = f"/api/v1/operator-tokens/{token.id}"
    response.headers["ETag"] = acts.etag(token)
    return OperatorTokenMade(id=token.id, token=secret)


@router.delete(
    "/operator-tokens/{token_id}",
    status_code=204,
    summary="Remove an operator's token",
    responses=documented(404, 409, 412),
)
async def remove_operator_token(
    operator: Admin, region: TheRegion, connection: Transaction, if_match: IfMatch, token_id: TokenId
) -> None:
    await acts.remove_token(connection, operator, token_id, region.now(), if_match=if_match)


@router.get("/activity", summary="List who changed what, newest first")
async def list_activity(
    _operator: Viewer,
    connection: Transaction,
    request: Request,
    response: Response,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of the page before.")] = None,
    subject: Annotated[
        str | None,
        Query(
            min_length=1,
            max_length=400,
            pattern=r"^[^\x00]+$",
            description="Changes of this thing only, as in `subject` of an entry.",
        ),
    ] = None,
) -> Page[ActivityShown]:
    found = await activity.list_recent(connection, limit + 1, cursor, subject)
    return paged(request, response, found, limit, ActivityShown, lambda entry: str(entry.id))
