"""Bootloaders: they come with every import without being selected, and stay until something takes their place.

All of them come from one source, the default one until an operator chooses another. When that source is removed, none
takes its place by itself: what is held stays, and nothing new comes until an operator has chosen.
"""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import sources
from region.catalogue.sources import Source
from region.database.tables import region
from region.database.topics import Topic, notify
from region.fleet.showing import COUNTS, LIVE_FOR


@dataclass(frozen=True, slots=True)
class Bootloader:
    """A bootloader as it comes with every import. `version` is the held one, or the one that will be."""

    os: str
    type: str
    arch: str
    version: str
    held: bool
    size_bytes: int
    racks_synced: int
    racks_total: int


async def list_all(connection: AsyncConnection, now: datetime) -> list[Bootloader]:
    """The bootloaders that are offered or held, by type and architecture."""
    rows = await connection.execute(
        text(f"""
            WITH newest AS (
                SELECT DISTINCT ON (products.bootloader_type, products.arch)
                       products.os, products.bootloader_type AS type, products.arch, versions.id, versions.name,
                       versions.held_at IS NOT NULL AS held
                FROM products
                JOIN sources ON sources.id = products.source_id
                JOIN versions ON versions.product_id = products.id
                LEFT JOIN targets ON targets.version_id = versions.id
                WHERE products.kind = 'bootloader' AND (versions.held_at IS NOT NULL OR targets.image IS NOT NULL)
                ORDER BY products.bootloader_type, products.arch, versions.held_at IS NULL, sources.priority DESC,
                         versions.name DESC
            ),
            {COUNTS}
            SELECT os, type, arch, name AS version, held,
                   (SELECT sum(size) FROM items WHERE version_id = newest.id)::bigint AS size_bytes,
                   coalesce(showing.racks, 0) AS racks_synced, fleet_counts.racks_total
            FROM newest CROSS JOIN fleet_counts
            LEFT JOIN showing ON showing.image = 'bootloader:' || newest.type || ':' || newest.arch
            ORDER BY type, arch
        """),
        {"live_after": now - LIVE_FOR},
    )
    return [Bootloader(**row) for row in rows.mappings()]


async def source(connection: AsyncConnection) -> Source | None:
    """The source that bootloaders come from."""
    source_id: int | None = await connection.scalar(select(region.c.bootloader_source_id))
    return None if source_id is None else await sources.get(connection, source_id)


async def choose_source(connection: AsyncConnection, source_id: int) -> None:
    """Bootloaders come from this source now. What is held stays until the source offers something in its place."""
    await connection.execute(
        update(region).values(bootloader_source_id=source_id, settings_revision=region.c.settings_revision + 1)
    )
    await notify(connection, Topic.SETTINGS, Topic.IMAGES)
