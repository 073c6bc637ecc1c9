"""Activity: who changed what, from where, and what it was before. Rows are only ever added."""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import activity
from region.database.topics import Topic, notify
from region.people.operators import Operator


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. `action` is stable, like `selection.replaced`; `sentence` is for people."""

    id: int
    at: datetime
    who: str
    address: str
    action: str
    sentence: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


async def record(
    connection: AsyncConnection,
    operator: Operator,
    now: datetime,
    action: str,
    sentence: str,
    *,
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write a change down, in the transaction that makes it. `before` and `after` hold no secret (I7)."""
    await connection.execute(
        insert(activity).values(
            at=now,
            who=operator.name,
            address=operator.address,
            action=action,
            sentence=sentence,
            before=before,
            after=after,
        )
    )
    await notify(connection, Topic.ACTIVITY)


async def list_recent(connection: AsyncConnection, limit: int, before: int | None) -> list[Entry]:
    """Entries with an id below `before`, newest first."""
    query = select(activity).order_by(activity.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(activity.c.id < before)
    return [Entry(**row) for row in (await connection.execute(query)).mappings()]
