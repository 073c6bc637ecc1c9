"""Selections: which images operators want, and from which source."""

from collections.abc import Collection
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import func, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import region, selections
from shared.errors import NotFound
from shared.names import ImageKey

Wanted = frozenset[tuple[int, ImageKey]]
"""A whole selection: pairs of a source's id and an image."""


@dataclass(frozen=True, slots=True)
class Selection:
    """One wish."""

    id: int
    source_id: int
    image: ImageKey
    created_at: datetime


async def list_all(connection: AsyncConnection) -> list[Selection]:
    """All selections, by image."""
    rows = await connection.execute(
        select(selections).order_by(selections.c.os, selections.c.release, selections.c.arch, selections.c.source_id)
    )
    return [
        Selection(row.id, row.source_id, ImageKey.parse(f"{row.os}:{row.release}:{row.arch}"), row.created_at)
        for row in rows
    ]


async def wanted(connection: AsyncConnection) -> Wanted:
    """The whole selection, as `plan` takes it."""
    return frozenset((entry.source_id, entry.image) for entry in await list_all(connection))


async def get(connection: AsyncConnection, selection_id: int) -> Selection:
    """The selection. Raises NotFound."""
    for entry in await list_all(connection):
        if entry.id == selection_id:
            return entry
    raise NotFound("selection", selection_id)


_GIVEN = """unnest(
    CAST(:source_ids AS integer[]), CAST(:oses AS text[]), CAST(:releases AS text[]), CAST(:arches AS text[]))"""


async def replace(connection: AsyncConnection, wished: Collection[tuple[int, ImageKey]], now: datetime) -> None:
    """From here on exactly `wished` is selected, under a new revision. The default is never selected any more."""
    pairs = list(wished)
    given = {
        "source_ids": [source_id for source_id, _ in pairs],
        "oses": [image.os for _, image in pairs],
        "releases": [image.release for _, image in pairs],
        "arches": [image.arch for _, image in pairs],
    }
    await connection.execute(
        text(f"DELETE FROM selections WHERE (source_id, os, release, arch) NOT IN (SELECT * FROM {_GIVEN})"), given
    )
    await connection.execute(
        text(f"""
            INSERT INTO selections (source_id, os, release, arch, created_at)
            SELECT *, CAST(:now AS timestamptz) FROM {_GIVEN} ON CONFLICT DO NOTHING
        """),
        given | {"now": now},
    )
    await connection.execute(
        update(region).values(
            default_selected_at=func.coalesce(region.c.default_selected_at, now),
            selection_revision=region.c.selection_revision + 1,
        )
    )


async def revision(connection: AsyncConnection, *, for_update: bool = False) -> int:
    """A number that rises with every change; `for_update` keeps all others from changing it in this transaction."""
    query = select(region.c.selection_revision)
    found: int = (await connection.execute(query.with_for_update() if for_update else query)).scalar_one()
    return found


async def default_is_due(connection: AsyncConnection) -> bool:
    """True says: nobody has ever selected anything, so the newest LTS may be selected unasked."""
    return bool(await connection.scalar(select(region.c.default_selected_at.is_(None))))
