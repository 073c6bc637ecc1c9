"""Activity: who changed what, from where, and what it was before.

Rows are never changed; housekeeping removes the old ones. Each row names its subject, the thing that was changed, so
that "who changed it last" is one look into an index:

    selection · settings · sync · region · unvouched   things there is one of
    token:<id> · rack:<id> · source:<id> · import:<id> · image:<os>:<release>:<arch> · enrolment_token:<id>
    session:<token's id> · address:<address>           who came in, and from where somebody tried to
"""

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from sqlalchemy import delete, insert, select
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import activity
from region.database.topics import Topic, notify


@dataclass(frozen=True, slots=True)
class Actor:
    """Somebody who does something. `address` is where they do it from, as the region saw it; it may be empty."""

    name: str
    address: str


CONSOLE = Actor("the region's console", "")
"""Whoever runs a command of `bootferry-region` on the region's own machine."""


@dataclass(frozen=True, slots=True)
class Entry:
    """One change. `action` is stable, like `selection.changed`; `sentence` is for people."""

    id: int
    at: datetime
    who: str
    address: str
    subject: str
    action: str
    sentence: str
    before: Mapping[str, Any] | None
    after: Mapping[str, Any] | None


_COLUMNS = [activity.c[name] for name in Entry.__slots__]


async def record(
    connection: AsyncConnection,
    actor: Actor,
    now: datetime,
    action: str,
    sentence: str,
    *,
    subject: str = "",
    before: Mapping[str, Any] | None = None,
    after: Mapping[str, Any] | None = None,
) -> None:
    """Write a change down, in the transaction that makes it. `before` and `after` hold no secret (I7)."""
    await connection.execute(
        insert(activity).values(
            at=now,
            who=actor.name,
            address=actor.address,
            subject=subject,
            action=action,
            sentence=sentence,
            before=before,
            after=after,
        )
    )
    await notify(connection, Topic.ACTIVITY)


async def last(connection: AsyncConnection, subject: str) -> Entry | None:
    """The newest entry about `subject`: who changed it last, when and how. None when nobody is on record."""
    query = select(*_COLUMNS).where(activity.c.subject == subject).order_by(activity.c.id.desc()).limit(1)
    row = (await connection.execute(query)).mappings().one_or_none()
    return None if row is None else Entry(**row)


async def list_recent(
    connection: AsyncConnection, limit: int, before: int | None, subject: str | None = None
) -> list[Entry]:
    """Entries with an id below `before`, newest first; those about one subject only where one is given."""
    query = select(*_COLUMNS).order_by(activity.c.id.desc()).limit(limit)
    if before is not None:
        query = query.where(activity.c.id < before)
    if subject is not None:
        query = query.where(activity.c.subject == subject)
    return [Entry(**row) for row in (await connection.execute(query)).mappings()]


async def remove_old(connection: AsyncConnection, before: datetime, limit: int) -> int:
    """Remove entries written before `before`, the oldest first; how many of at most `limit` went."""
    # Rows are written in the order of time: looking at the oldest few by id needs no index of its own.
    oldest = select(activity.c.id, activity.c.at).order_by(activity.c.id).limit(limit).subquery()
    gone = await connection.execute(
        delete(activity).where(activity.c.id.in_(select(oldest.c.id).where(oldest.c.at < before)))
    )
    return gone.rowcount
