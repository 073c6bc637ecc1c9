"""Sessions: the log-ins of browsers. A session ends with its token; of its secret only the SHA-256 is stored."""

import secrets
from datetime import datetime, timedelta

from sqlalchemy import delete, insert, or_, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import operator_tokens, sessions
from region.people.operators import LAST_USE_RESOLUTION, Operator, Role, require_unexpired, secret_hash
from shared.errors import Unauthenticated

SESSION_IDLE = timedelta(hours=12)
"""A session nobody uses for so long has ended."""


async def open_session(connection: AsyncConnection, operator: Operator, now: datetime) -> str:
    """The secret of a new session, for a cookie."""
    secret = secrets.token_urlsafe(32)
    await connection.execute(
        insert(sessions).values(
            secret_sha256=secret_hash(secret), token_id=operator.id, created_at=now, last_used_at=now
        )
    )
    return secret


async def resume_session(
    connection: AsyncConnection, secret: str, now: datetime, *, using: bool = True
) -> tuple[Operator, datetime]:
    """Whose session this is, and when it ends unless it is used; this is a use of it unless `using` is False.

    Raises Unauthenticated, TokenExpired.
    """
    row = (
        await connection.execute(
            select(sessions.c.last_used_at.label("session_used_at"), operator_tokens)
            .join(operator_tokens, operator_tokens.c.id == sessions.c.token_id)
            .where(sessions.c.secret_sha256 == secret_hash(secret))
        )
    ).one_or_none()
    if row is None or row.session_used_at <= now - SESSION_IDLE:
        raise Unauthenticated("This session has ended; log in again.")
    require_unexpired(row.expires_at, now)
    if using and now - row.session_used_at > LAST_USE_RESOLUTION:
        await connection.execute(
            update(sessions).where(sessions.c.secret_sha256 == secret_hash(secret)).values(last_used_at=now)
        )
    return Operator(name=row.name, address="", id=row.id, role=Role(row.role)), now + SESSION_IDLE


async def close_session(connection: AsyncConnection, secret: str) -> None:
    """The secret no longer opens anything."""
    await connection.execute(delete(sessions).where(sessions.c.secret_sha256 == secret_hash(secret)))


async def remove_ended(connection: AsyncConnection, now: datetime, limit: int) -> int:
    """Remove sessions that nobody used for long or whose token has expired; how many of at most `limit` went."""
    ended = (
        select(sessions.c.secret_sha256)
        .join(operator_tokens, operator_tokens.c.id == sessions.c.token_id)
        .where(or_(sessions.c.last_used_at <= now - SESSION_IDLE, operator_tokens.c.expires_at <= now))
        .limit(limit)
    )
    return (await connection.execute(delete(sessions).where(sessions.c.secret_sha256.in_(ended)))).rowcount
