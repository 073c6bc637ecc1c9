"""Enrolment tokens: what lets racks in, so often and so long. The region keeps the public half of each, no secret."""

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import enrolment_tokens
from shared.errors import NotFound
from shared.signing import encode_bytes, fingerprint, public_bytes
from shared.wire.enrolment import EnrolmentToken

TOKEN_LIFETIME = timedelta(hours=24)


@dataclass(frozen=True, slots=True)
class Token:
    """A token without its secret. `id` is the fingerprint of its public key; `made_by` who made it."""

    id: str
    public_key: str
    created_at: datetime
    expires_at: datetime
    uses_left: int
    made_by: str


_COLUMNS = [enrolment_tokens.c[name] for name in Token.__slots__]


async def create_token(
    connection: AsyncConnection,
    region_fingerprint: str,
    now: datetime,
    *,
    lifetime: timedelta,
    uses: int = 1,
    made_by: str = "",
) -> tuple[EnrolmentToken, Token]:
    """A new token, to be shown once, and what is known of it."""
    key = Ed25519PrivateKey.generate()
    token = Token(fingerprint(key), encode_bytes(public_bytes(key)), now, now + lifetime, uses, made_by)
    await connection.execute(insert(enrolment_tokens).values({name: getattr(token, name) for name in Token.__slots__}))
    return EnrolmentToken(region_fingerprint, key.private_bytes_raw()), token


async def find(connection: AsyncConnection, token_id: str, *, for_update: bool = False) -> Token | None:
    """The token of this id, locked where it is to be changed; None when there is none."""
    asked = select(*_COLUMNS).where(enrolment_tokens.c.id == token_id)
    row = (await connection.execute(asked.with_for_update() if for_update else asked)).one_or_none()
    return None if row is None else Token(*row)


async def get(connection: AsyncConnection, token_id: str, *, for_update: bool = False) -> Token:
    """The token of this id. Raises NotFound."""
    found = await find(connection, token_id, for_update=for_update)
    if found is None:
        raise NotFound("enrolment token", token_id)
    return found


async def list_page(connection: AsyncConnection, *, limit: int, after: str | None = None) -> list[Token]:
    """Tokens by id, at most `limit` of those after the id `after`; those that were spent or expired too."""
    asked = select(*_COLUMNS).order_by(enrolment_tokens.c.id).limit(limit)
    if after is not None:
        asked = asked.where(enrolment_tokens.c.id > after)
    return [Token(*row) for row in await connection.execute(asked)]


async def spend(connection: AsyncConnection, token: Token) -> None:
    """The token, which the caller has locked, has one use less."""
    await connection.execute(
        update(enrolment_tokens).where(enrolment_tokens.c.id == token.id).values(uses_left=token.uses_left - 1)
    )


async def remove(connection: AsyncConnection, token_id: str) -> None:
    """The token lets nobody in any longer."""
    await connection.execute(delete(enrolment_tokens).where(enrolment_tokens.c.id == token_id))


async def remove_expired(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Remove tokens that expired before `before`; how many of at most `limit` went."""
    expired = select(enrolment_tokens.c.id).where(enrolment_tokens.c.expires_at < before).limit(limit)
    return (await connection.execute(delete(enrolment_tokens).where(enrolment_tokens.c.id.in_(expired)))).rowcount
