"""Operators: people and programs with a token. Tokens are `bf_<id>_<secret>`; only the secret's SHA-256 is stored."""

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum

from sqlalchemy import insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.tables import operator_tokens
from shared.errors import InvalidToken, TokenExpired

_TOKEN = re.compile(r"bf_([0-9a-f]{12})_([A-Za-z0-9_-]{43})")
_LAST_USE_RESOLUTION = timedelta(minutes=1)


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
    """Somebody who proved to hold a token."""

    id: str
    name: str
    role: Role


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


async def authenticate(connection: AsyncConnection, token: str, now: datetime) -> Operator:
    """Whose token this is. Raises InvalidToken, TokenExpired."""
    parts = _TOKEN.fullmatch(token.strip())
    unknown = InvalidToken("This token is not known to the region; ask an administrator for a new one.")
    if parts is None:
        raise unknown
    row = (await connection.execute(select(operator_tokens).where(operator_tokens.c.id == parts[1]))).one_or_none()
    if row is None or not hmac.compare_digest(row.secret_sha256, _hash(parts[2])):
        raise unknown
    if row.expires_at is not None and row.expires_at <= now:
        raise TokenExpired(f"This token expired on {row.expires_at:%Y-%m-%d}; ask an administrator for a new one.")
    if row.last_used_at is None or now - row.last_used_at > _LAST_USE_RESOLUTION:
        await connection.execute(update(operator_tokens).where(operator_tokens.c.id == row.id).values(last_used_at=now))
    return Operator(row.id, row.name, Role(row.role))


def _hash(secret: str) -> str:
    # The secret is 256 random bits: a slow hash would protect nothing and cost every request.
    return hashlib.sha256(secret.encode()).hexdigest()
