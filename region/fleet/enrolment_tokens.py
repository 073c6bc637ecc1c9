"""Enrolment tokens that have had their time."""

from datetime import datetime

from sqlalchemy import delete, select
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import enrolment_tokens


async def remove_expired(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Remove tokens that expired before `before`; how many of at most `limit` went."""
    expired = select(enrolment_tokens.c.id).where(enrolment_tokens.c.expires_at < before).limit(limit)
    return (await connection.execute(delete(enrolment_tokens).where(enrolment_tokens.c.id.in_(expired)))).rowcount
