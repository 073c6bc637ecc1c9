"""Make and remove operators' tokens; log in and out."""

from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.people import activity, operators, sessions
from region.people.activity import Actor
from region.people.attempts import ATTEMPTS, Failed
from region.people.operators import Operator, Role, Token
from region.people.sessions import SESSION_IDLE
from shared.errors import InvalidValue, Unauthenticated

MAX_YEAR = 9000
"""Of an expiry; it bounds what can be shown in every time zone."""


@dataclass(frozen=True, slots=True)
class LoggedIn:
    """A session that was opened: whose, the secret for the cookie, and when it ends unless it is used."""

    operator: Operator
    secret: str
    ends_at: datetime


def subject(token_id: str) -> str:
    """How the activity names a token."""
    return f"token:{token_id}"


def etag(token: Token) -> str:
    """A token's ETag. When it was used last is no part of it."""
    return guard.tag(
        "token",
        id=token.id,
        name=token.name,
        role=token.role,
        created_at=token.created_at,
        expires_at=token.expires_at,
    )


async def make_token(
    connection: AsyncConnection,
    actor: Actor,
    name: str,
    role: Role,
    now: datetime,
    *,
    expires_at: datetime | None = None,
) -> tuple[str, Token]:
    """A new token, to be shown once, and what is known of it. Raises InvalidValue for an expiry that is not ahead."""
    if expires_at is not None and (expires_at.tzinfo is None or expires_at.year > MAX_YEAR or expires_at <= now):
        raise InvalidValue("time of expiry", expires_at.isoformat(), "it must lie ahead and carry its UTC offset")
    secret = await operators.create_token(connection, name, role, now, expires_at)
    token = await operators.get_token(connection, operators.id_of(secret))
    await activity.record(
        connection,
        actor,
        now,
        "token.created",
        f"Made a token for {name} with the role {role}.",
        subject=subject(token.id),
        after=_recorded(token),
    )
    return secret, token


async def remove_token(
    connection: AsyncConnection, actor: Actor, token_id: str, now: datetime, *, if_match: str | None = None
) -> None:
    """Forget a token; sessions that began with it end.

    Raises NotFound, PreconditionFailed; Conflict for the last administrator's token that has not expired.
    """
    token, _ = await operators.lock_token(connection, token_id)
    await guard.require_unchanged(connection, if_match, etag(token), subject(token_id), f"the token of {token.name}")
    await operators.remove_token(connection, token_id, now)
    sentence = f"Removed the token of {token.name}."
    await activity.record(
        connection, actor, now, "token.removed", sentence, subject=subject(token_id), before=_recorded(token)
    )
    await operators.tell_of_last_administrator(connection, now)


async def log_in(connection: AsyncConnection, token: str, address: str, now: datetime) -> LoggedIn:
    """A session for whoever holds this token. Raises InvalidToken, TokenExpired."""
    operator = replace(await operators.authenticate(connection, token, now), address=address)
    secret = await sessions.open_session(connection, operator, now)
    await activity.record(connection, operator, now, "session.opened", "Logged in.", subject=f"session:{operator.id}")
    return LoggedIn(operator, secret, now + SESSION_IDLE)


async def log_out(connection: AsyncConnection, secret: str, address: str, now: datetime) -> None:
    """The session's secret no longer opens anything; one that had ended already changes nothing."""
    try:
        operator, _ = await sessions.resume_session(connection, secret, now)
    except Unauthenticated:
        operator = None
    await sessions.close_session(connection, secret)
    if operator is not None:
        actor = replace(operator, address=address)
        await activity.record(connection, actor, now, "session.closed", "Logged out.", subject=f"session:{operator.id}")


async def note_failed_log_ins(
    connection: AsyncConnection, address: str, failed: Failed, now: datetime, *, is_refused: bool
) -> None:
    """Write down that log-ins from one address failed; `is_refused`: so many that no more are taken for a while."""
    action, sentence = "session.failed", f"Failed to log in{'' if failed.count == 1 else f' {failed.count} times'}."
    if is_refused:
        action = "session.refused"
        sentence = (
            f"Failed to log in {ATTEMPTS} times within a minute; further log-ins from there are refused for a while."
        )
    if failed.others:
        sentence += f" {failed.others} more failed from other addresses, too many to name each."
    await activity.record(
        connection, Actor("somebody unknown", address), now, action, sentence, subject=f"address:{address}"
    )


def _recorded(token: Token) -> dict[str, str | None]:
    return {
        "name": token.name,
        "role": token.role,
        "expires_at": None if token.expires_at is None else token.expires_at.isoformat(),
    }
