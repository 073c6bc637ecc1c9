"""Operators: people and programs with a token, and the log-ins of browsers.

Tokens are `bf_<id>_<secret>`; of their secrets, and of sessions', only the SHA-256 is stored.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import operator_tokens, sessions
from shared.errors import Conflict, InvalidToken, NotFound, TokenExpired, Unauthenticated

_TOKEN = re.compile(r"bf_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_LAST_USE_RESOLUTION = timedelta(minutes=1)
SESSION_IDLE = timedelta(hours=12)
"""A session nobody uses for so long has ended."""


class Role(StrEnum):
    """What an operator may do; each role may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """True says: whoever has this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Operator:
    """Somebody who proved to hold a token. `id` is the token's; `address` is where the request came from."""

    id: str
    name: str
    role: Role
    address: str = ""


async def create_token(
    connection: AsyncConnection, name: str, role: Role, now: datetime, expires_at: datetime | None = None
) -> str:
    """A new token, to be shown once: it cannot be had again."""
    token_id, secret = secrets.token_hex(6), secrets.token_urlsafe(32)
    await connection.execute(
        insert(operator_tokens).values(
            id=token_id,
            name=name,
            role=role.value,
            secret_sha256=_hash(secret),
            created_at=now,
            expires_at=expires_at,
        )
    )
    return f"bf_{token_id}_{secret}"


@dataclass(frozen=True, slots=True)
class Token:
    """A token as administrators see it: everything but the secret."""

    id: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


async def list_tokens(connection: AsyncConnection) -> list[Token]:
    """All tokens, oldest first."""
    rows = await connection.execute(select(operator_tokens).order_by(operator_tokens.c.created_at))
    return [Token(row.id, row.name, Role(row.role), row.created_at, row.expires_at, row.last_used_at) for row in rows]


async def remove_token(connection: AsyncConnection, token_id: str) -> None:
    """Forget a token; sessions that began with it end. Raises NotFound; Conflict for the last administrator's."""
    known = {token.id: token for token in await list_tokens(connection)}
    if token_id not in known:
        raise NotFound("token", token_id)
    if not any(token.role is Role.ADMIN for token in known.values() if token.id != token_id):
        raise Conflict("This is the last administrator's token; make another one first.")
    await connection.execute(delete(operator_tokens).where(operator_tokens.c.id == token_id))


async def authenticate(connection: AsyncConnection, token: str, now: datetime) -> Operator:
    """Whose token this is. Raises InvalidToken, TokenExpired."""
    parts = _TOKEN.fullmatch(token.strip())
    unknown = InvalidToken("This token is not known to the region; ask an administrator for a new one.")
    if parts is None:
        raise unknown
    row = (await connection.execute(select(operator_tokens).where(operator_tokens.c.id == parts[1]))).one_or_none()
    if row is None or not hmac.compare_digest(row.secret_sha256, _hash(parts[2])):
        raise unknown
    _require_unexpired(row.expires_at, now)
    if row.last_used_at is None or now - row.last_used_at > _LAST_USE_RESOLUTION:
        await connection.execute(update(operator_tokens).where(operator_tokens.c.id == row.id).values(last_used_at=now))
    return Operator(row.id, row.name, Role(row.role))


async def expiry(connection: AsyncConnection, token_id: str) -> datetime | None:
    """When the token expires; None: never."""
    found: datetime | None = await connection.scalar(
        select(operator_tokens.c.expires_at).where(operator_tokens.c.id == token_id)
    )
    return found


async def open_session(connection: AsyncConnection, operator: Operator, now: datetime) -> str:
    """The secret of a new session, for a cookie. Sessions that nobody used for long are cleared away."""
    secret = secrets.token_urlsafe(32)
    await connection.execute(delete(sessions).where(sessions.c.last_used_at <= now - SESSION_IDLE))
    await connection.execute(
        insert(sessions).values(secret_sha256=_hash(secret), token_id=operator.id, created_at=now, last_used_at=now)
    )
    return secret


async def resume_session(connection: AsyncConnection, secret: str, now: datetime) -> tuple[Operator, datetime]:
    """Whose session this is, and when it ends unless it is used. Raises Unauthenticated, TokenExpired."""
    row = (
        await connection.execute(
            select(sessions.c.last_used_at.label("session_used_at"), operator_tokens)
            .join(operator_tokens, operator_tokens.c.id == sessions.c.token_id)
            .where(sessions.c.secret_sha256 == _hash(secret))
        )
    ).one_or_none()
    if row is None or row.session_used_at <= now - SESSION_IDLE:
        raise Unauthenticated("This session has ended; log in again.")
    _require_unexpired(row.expires_at, now)
    if now - row.session_used_at > _LAST_USE_RESOLUTION:
        await connection.execute(
            update(sessions).where(sessions.c.secret_sha256 == _hash(secret)).values(last_used_at=now)
        )
    return Operator(row.id, row.name, Role(row.role)), now + SESSION_IDLE


async def close_session(connection: AsyncConnection, secret: str) -> None:
    """The secret opens nothing any more."""
    await connection.execute(delete(sessions).where(sessions.c.secret_sha256 == _hash(secret)))


def _require_unexpired(expires_at: datetime | None, now: datetime) -> None:
    if expires_at is not None and expires_at <= now:
        raise TokenExpired(f"This token expired on {expires_at:%Y-%m-%d}; ask an administrator for a new one.")


def _hash(secret: str) -> str:
    # The secret is 256 random bits: a slow hash would protect nothing and cost every request.
    return hashlib.sha256(secret.encode()).hexdigest()
