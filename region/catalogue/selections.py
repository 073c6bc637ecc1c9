"""Selections: which images operators want, as they said it, and from which source.

A selection without a source means whichever source wins the image; one that names a source means that source alone. A
change of them is followed by `region.catalogue.wanted.refresh` in the same transaction.
"""

from collections import defaultdict
from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue.facts import Meanings, Wish, Wishes
from region.catalogue.patterns import Pattern
from region.database.tables import meant, region, selections
from shared.errors import NotFound
from shared.names import ImageKey, Name


@dataclass(frozen=True, slots=True)
class Selection:
    """A wish that stands."""

    id: int
    wish: Wish
    created_at: datetime


async def list_all(connection: AsyncConnection) -> list[Selection]:
    """All selections, by image."""
    rows = await connection.execute(
        select(selections).order_by(
            selections.c.os, selections.c.release, selections.c.arch, selections.c.source_id.nulls_first()
        )
    )
    return [
        Selection(
            row.id,
            Wish(
                row.source_id,
                Pattern(row.os, row.release, row.arch),
                None if row.kernels is None else frozenset(row.kernels),
                None if row.labels is None else frozenset(row.labels),
            ),
            row.created_at,
        )
        for row in rows
    ]


async def wishes(connection: AsyncConnection) -> Wishes:
    """The whole selection."""
    return frozenset(entry.wish for entry in await list_all(connection))


async def meanings(connection: AsyncConnection) -> Meanings:
    """The whole selection, and the images that each wish means since what is wanted was refreshed last."""
    images: dict[int, set[ImageKey]] = defaultdict(set)
    for row in await connection.execute(select(meant)):
        images[row.selection_id].add(ImageKey(Name(row.os), Name(row.release), Name(row.arch)))
    return {entry.wish: frozenset(images[entry.id]) for entry in await list_all(connection)}


async def get(connection: AsyncConnection, selection_id: int) -> Selection:
    """The selection. Raises NotFound."""
    for entry in await list_all(connection):
        if entry.id == selection_id:
            return entry
    raise NotFound("selection", selection_id)


async def replace(connection: AsyncConnection, wished: Collection[Wish], now: datetime) -> None:
    """Exactly `wished` is selected, under a new revision; the default is never selected after this."""
    known = {entry.wish: entry.id for entry in await list_all(connection)}
    gone = [entry_id for wish, entry_id in known.items() if wish not in wished]
    await connection.execute(text("DELETE FROM selections WHERE id = ANY(:ids)"), {"ids": gone})
    fresh = [
        {
            "source_id": wish.source_id,
            **wish.image._asdict(),
            "kernels": None if wish.kernels is None else sorted(wish.kernels),
            "labels": None if wish.labels is None else sorted(wish.labels),
            "created_at": now,
        }
        for wish in wished
        if wish not in known
    ]
    if fresh:
        await connection.execute(insert(selections), fresh)
    await connection.execute(
        update(region).values(
            default_selected_at=func.coalesce(region.c.default_selected_at, now),
            selection_revision=region.c.selection_revision + 1,
        )
    )


async def unname(connection: AsyncConnection, source_id: int) -> None:
    """Selections that name the source mean whichever source wins now; the images stay wanted."""
    await connection.execute(
        text("""
            DELETE FROM selections AS named WHERE source_id = :source_id AND EXISTS (
                SELECT FROM selections AS other WHERE other.source_id IS NULL
                    AND (other.os, other.release, other.arch) = (named.os, named.release, named.arch))
        """),
        {"source_id": source_id},
    )
    await connection.execute(update(selections).where(selections.c.source_id == source_id).values(source_id=None))
    await connection.execute(update(region).values(selection_revision=region.c.selection_revision + 1))


async def revision(connection: AsyncConnection, *, for_update: bool = False) -> int:
    """A number that rises with every change; `for_update` keeps all others from changing it in this transaction."""
    query = select(region.c.selection_revision)
    found: int = (await connection.execute(query.with_for_update() if for_update else query)).scalar_one()
    return found


async def default_is_due(connection: AsyncConnection) -> bool:
    """True if nobody has ever selected anything, so that the newest LTS may be selected unasked."""
    return bool(await connection.scalar(select(region.c.default_selected_at.is_(None))))
