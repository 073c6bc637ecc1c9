"""Operators: people and programs with a token, and what it lets them do.

Tokens are `bf_<id>_<secret>`; of their secrets only the SHA-256 is stored.
"""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import operator_tokens
from region.people import activity
from region.people.activity import Actor
from shared.errors import Conflict, InvalidToken, NotFound, TokenExpired

_TOKEN = re.compile(r"bf_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
EXPIRY_NOTICE = timedelta(days=14)
"""So long before the last administrator's token expires, everybody is told."""

_EXPIRING = "token.expiring"
LAST_USE_RESOLUTION = timedelta(minutes=1)
"""How exactly it is known when a token or a session was used last."""


class Role(StrEnum):
    """What an operator may do; each role may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"

    def includes(self, other: "Role") -> bool:
        """True if whoever has this role may do what `other` may."""
        order = list(Role)
        return order.index(self) >= order.index(other)


@dataclass(frozen=True, slots=True)
class Operator(Actor):
    """Somebody who proved to hold a token. `id` is the token's."""

    id: str
    role: Role


@dataclass(frozen=True, slots=True)
class Token:
    """A token as administrators see it: everything but the secret."""

    id: str
    name: str
    role: Role
    created_at: datetime
    expires_at: datetime | None
    last_used_at: datetime | None


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
            secret_sha256=secret_hash(secret),
            created_at=now,
            expires_at=expires_at,
        )
    )
    return f"bf_{token_id}_{secret}"


def is_token(text: str) -> bool:
    """True if it has the form of an operator's token, known here or not."""
    return _TOKEN.fullmatch(text.strip()) is not None


def id_of(token: str) -> str:
    """The id of a token that `create_token` made."""
    return token.split("_", 2)[1]


async def list_tokens(connection: AsyncConnection) -> list[Token]:
    """All tokens, oldest first."""
    return [
        _token(row) for row in await connection.execute(select(operator_tokens).order_by(operator_tokens.c.created_at))
    ]


async def get_token(connection: AsyncConnection, token_id: str) -> Token:
    """The token. Raises NotFound."""
    row = (await connection.execute(select(operator_tokens).where(operator_tokens.c.id == token_id))).one_or_none()
    if row is None:
        raise NotFound("token", token_id)
    return _token(row)


async def lock_token(connection: AsyncConnection, token_id: str) -> tuple[Token, list[Token]]:
    """The token, and all administrators' tokens: nobody else removes one of these until this transaction ends.

    Raises NotFound.
    """
    rows = await connection.execute(
        select(operator_tokens)
        .where(or_(operator_tokens.c.id == token_id, operator_tokens.c.role == Role.ADMIN.value))
        # In one order: of two who remove each other's token, one waits for the other.
        .order_by(operator_tokens.c.id)
        .with_for_update()
    )
    locked = {row.id: _token(row) for row in rows}
    if token_id not in locked:
        raise NotFound("token", token_id)
    return locked[token_id], [token for token in locked.values() if token.role is Role.ADMIN]


async def remove_token(connection: AsyncConnection, token_id: str, now: datetime) -> None:
    """Forget a token; sessions that began with it end.

    Raises NotFound; Conflict for the last administrator's token that has not expired.
    """
    removed, administrators = await lock_token(connection, token_id)
    valid = {token.id for token in administrators if token.expires_at is None or token.expires_at > now}
    if valid == {removed.id}:
        raise Conflict("This is the last administrator's token; make another one first.")
    await connection.execute(delete(operator_tokens).where(operator_tokens.c.id == token_id))


async def tell_of_last_administrator(connection: AsyncConnection, now: datetime) -> Token | None:
    """Write down, once, that the last administrator's token expires within EXPIRY_NOTICE; that token, if so.

    Of several, the last one is the one that is good for longest.
    """
    rows = await connection.execute(select(operator_tokens).where(operator_tokens.c.role == Role.ADMIN.value))
    valid = [token for row in rows if (token := _token(row)).expires_at is None or token.expires_at > now]
    if not valid or any(token.expires_at is None for token in valid):
        return None
    token = max(valid, key=lambda token: token.expires_at or now)
    if token.expires_at is None or token.expires_at > now + EXPIRY_NOTICE:
        return None
    subject = f"token:{token.id}"
    if not any(entry.action == _EXPIRING for entry in await activity.list_recent(connection, 100, None, subject)):
        await activity.record(
            connection,
            activity.CONSOLE,
            now,
            _EXPIRING,
            f"The last administrator's token, {token.name}, expires on {token.expires_at:%Y-%m-%d}; make another one"
            " before, or nobody can manage sources, racks and tokens.",
            subject=subject,
        )
    return token


async def authenticate(connection: AsyncConnection, token: str, now: datetime, *, using: bool = True) -> Operator:
    """Whose token this is, which counts as a use of it unless `using` is False. Raises InvalidToken, TokenExpired."""
    parts = _TOKEN.fullmatch(token.strip())
    unknown = InvalidToken("This token is not known to the region; ask an administrator for a new one.")
    if parts is None:
        raise unknown
    row = (await connection.execute(select(operator_tokens).where(operator_tokens.c.id == parts[1]))).one_or_none()
    if row is None or not hmac.compare_digest(row.secret_sha256, secret_hash(parts[2])):
        raise unknown
    require_unexpired(row.expires_at, now)
    if using and (row.last_used_at is None or now - row.last_used_at > LAST_USE_RESOLUTION):
        await connection.execute(update(operator_tokens).where(operator_tokens.c.id == row.id).values(last_used_at=now))
    return Operator(name=row.name, address="", id=row.id, role=Role(row.role))


def require_unexpired(expires_at: datetime | None, now: datetime) -> None:
    """Raises TokenExpired unless a token that expires then may still be used."""
    if expires_at is not None and expires_at <= now:
        raise TokenExpired(f"This token expired on {expires_at:%Y-%m-%d}; ask an administrator for a new one.")


def secret_hash(secret: str) -> str:
    """What is stored of a secret."""
    # The secret is 256 random bits: a slow hash would protect nothing and cost every request.
    return hashlib.sha256(secret.encode()).hexdigest()


def _token(row: Any) -> Token:
    return Token(row.id, row.name, Role(row.role), row.created_at, row.expires_at, row.last_used_at)
