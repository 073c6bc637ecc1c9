"""/session, /operator-tokens, /activity: who may do what, and who did."""

import time
from collections import defaultdict, deque
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from region.api.deps import SESSION_COOKIE, Admin, TheRegion, Transaction, Viewer, address_of
from region.api.models import Limit, Page, Shape, paged
from region.api.problems import documented
from region.people import activity, operators
from region.people.operators import SESSION_IDLE, Role
from shared.errors import InvalidValue, TooManyAttempts, Unauthenticated

router = APIRouter(tags=["operators"])

ATTEMPTS = 10
ATTEMPTS_WINDOW_S = 60.0
MAX_ADDRESSES = 10_000
MAX_YEAR = 9000


class Attempts:
    """Failed log-ins by address, in this process: ATTEMPTS within ATTEMPTS_WINDOW_S, then no more for a while."""

    def __init__(self) -> None:
        self._failed: dict[str, deque[float]] = defaultdict(deque)

    def require_another(self, address: str) -> None:
        """Returning says: this address may try. Raises TooManyAttempts."""
        failed, now = self._failed[address], time.monotonic()
        while failed and failed[0] <= now - ATTEMPTS_WINDOW_S:
            failed.popleft()
        if len(failed) >= ATTEMPTS:
            raise TooManyAttempts(int(failed[0] + ATTEMPTS_WINDOW_S - now) + 1)

    def note_failed(self, address: str) -> None:
        """One more log-in from this address has failed."""
        if len(self._failed) >= MAX_ADDRESSES:
            self._failed.clear()
        self._failed[address].append(time.monotonic())


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
    action: str = Field(examples=["selection.replaced"])
    sentence: str
    before: dict[str, Any] | None
    after: dict[str, Any] | None


@router.post("/session", summary="Log in: turn a token into a session cookie", responses=documented(401, 429))
async def log_in(
    region: TheRegion, connection: Transaction, request: Request, response: Response, fields: SessionFields
) -> SessionShown:
    attempts: Attempts = request.app.state.attempts
    attempts.require_another(address_of(request))
    try:
        operator = await operators.authenticate(connection, fields.token, region.now())
    except Unauthenticated:
        attempts.note_failed(address_of(request))
        raise
    secret = await operators.open_session(connection, operator, region.now())
    response.set_cookie(
        SESSION_COOKIE,
        secret,
        max_age=int(SESSION_IDLE.total_seconds()),
        httponly=True,
        samesite="strict",
        secure=request.url.scheme == "https",
    )
    return SessionShown(name=operator.name, role=operator.role, expires_at=region.now() + SESSION_IDLE)


@router.get("/session", summary="Show who asks", responses=documented(401))
async def get_session(operator: Viewer, region: TheRegion, connection: Transaction, request: Request) -> SessionShown:
    secret = request.cookies.get(SESSION_COOKIE)
    if "authorization" in request.headers or secret is None:
        expires_at = await operators.expiry(connection, operator.id)
    else:
        _, expires_at = await operators.resume_session(connection, secret, region.now())
    return SessionShown(name=operator.name, role=operator.role, expires_at=expires_at)


@router.delete("/session", status_code=204, summary="Log out")
async def log_out(connection: Transaction, request: Request, response: Response) -> None:
    if (secret := request.cookies.get(SESSION_COOKIE)) is not None:
        await operators.close_session(connection, secret)
    response.delete_cookie(SESSION_COOKIE)


@router.get("/operator-tokens", summary="List operators' tokens")
async def list_operator_tokens(_operator: Admin, connection: Transaction) -> Page[OperatorTokenShown]:
    return Page(items=[OperatorTokenShown.model_validate(token) for token in await operators.list_tokens(connection)])


@router.post("/operator-tokens", status_code=201, summary="Make an operator's token", responses=documented(422))
async def create_operator_token(
    operator: Admin, region: TheRegion, connection: Transaction, fields: OperatorTokenFields
) -> OperatorTokenMade:
    expires_at = fields.expires_at
    # The year bounds what can be shown in every time zone.
    if expires_at is not None and (
        expires_at.tzinfo is None or expires_at.year > MAX_YEAR or expires_at <= region.now()
    ):
        raise InvalidValue("time of expiry", expires_at.isoformat(), "it must lie ahead and carry its UTC offset")
    token = await operators.create_token(connection, fields.name, fields.role, region.now(), expires_at)
    await activity.record(
        connection,
        operator,
        region.now(),
        "token.created",
        f"Made a token for {fields.name} with the role {fields.role}.",
        after=fields.model_dump(mode="json"),
    )
    return OperatorTokenMade(id=token.split("_")[1], token=token)


@router.delete(
    "/operator-tokens/{token_id}", status_code=204, summary="Remove an operator's token", responses=documented(404, 409)
)
async def remove_operator_token(
    operator: Admin,
    region: TheRegion,
    connection: Transaction,
    token_id: Annotated[str, Path(pattern="^[0-9a-f]{12}$")],
) -> None:
    names = {token.id: token.name for token in await operators.list_tokens(connection)}
    await operators.remove_token(connection, token_id)
    await activity.record(
        connection, operator, region.now(), "token.removed", f"Removed the token of {names[token_id]}."
    )


@router.get("/activity", summary="List who changed what, newest first")
async def list_activity(
    _operator: Viewer,
    connection: Transaction,
    request: Request,
    response: Response,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of the page before.")] = None,
) -> Page[ActivityShown]:
    found = await activity.list_recent(connection, limit + 1, cursor)
    return paged(request, response, found, limit, ActivityShown, lambda entry: str(entry.id))
