"""Versions: the files each needs, and which are held.

A version is held from the moment its files are whole and the manifest names it, until it is withdrawn. Who changes that
is `region.publishing.held` alone; here it is only read.
"""

from collections.abc import Collection, Mapping, Sequence
from typing import Any, NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue.facts import File, Held
from shared.digest import Sha256
from shared.names import ImageKey, RelativePath

FILES = """
    array_agg(items.sha256 ORDER BY items.key) AS digests, array_agg(items.size ORDER BY items.key) AS sizes,
    array_agg(items.path ORDER BY items.key) AS paths,
    array_agg(files.sha256 IS NOT NULL ORDER BY items.key) AS stored
"""
"""The columns `files_of` reads, of `items LEFT JOIN files USING (sha256, size)`, grouped by version."""


def files_of(row: Any) -> tuple[File, ...]:
    """The files of a row that selected FILES."""
    return tuple(
        File(Sha256(sha256), size, RelativePath(path), stored)
        for sha256, size, path, stored in zip(row.digests, row.sizes, row.paths, row.stored, strict=True)
    )


async def held_bytes(connection: AsyncConnection) -> dict[str, int]:
    """The bytes of the distinct files that are held from each source, by the source's name, for monitoring."""
    rows = await connection.execute(
        text("""
            SELECT sources.name, coalesce(sum(files.size), 0)::bigint AS bytes
            FROM sources LEFT JOIN (
                SELECT DISTINCT products.source_id, items.sha256, items.size
                FROM versions JOIN products ON products.id = versions.product_id
                JOIN items ON items.version_id = versions.id
                WHERE versions.held_at IS NOT NULL
            ) AS files ON files.source_id = sources.id
            WHERE sources.removed_at IS NULL
            GROUP BY sources.name ORDER BY sources.name
        """)
    )
    return {row.name: row.bytes for row in rows}


async def held(connection: AsyncConnection) -> list[Held]:
    """Every held version, by place."""
    rows = await connection.execute(
        text(f"""
            SELECT versions.id, versions.name, products.source_id, products.image, products.place, products.subarch,
                   products.label, products.kind = 'bootloader' AS bootloader, {FILES}
            FROM versions JOIN products ON products.id = versions.product_id
            JOIN items ON items.version_id = versions.id LEFT JOIN files USING (sha256, size)
            WHERE versions.held_at IS NOT NULL
            GROUP BY versions.id, products.id ORDER BY products.place, versions.id
        """)
    )
    return [
        Held(
            version_id=row.id,
            version=row.name,
            source_id=row.source_id,
            image=ImageKey.parse(row.image),
            place=row.place,
            kernel=row.subarch,
            label=row.label,
            bootloader=row.bootloader,
            files=files_of(row),
        )
        for row in rows
    ]


async def whole(connection: AsyncConnection, version_ids: Collection[int]) -> set[int]:
    """Those of the versions all of whose files are stored, with the size the version promises."""
    rows = await connection.scalars(
        text("""
            SELECT items.version_id FROM items LEFT JOIN files USING (sha256, size)
            WHERE items.version_id = ANY(:ids)
            GROUP BY items.version_id HAVING bool_and(files.sha256 IS NOT NULL)
        """),
        {"ids": sorted(version_ids)},
    )
    return set(rows)


class Road(NamedTuple):
    """One way to a file: a source that lists its digest, and the path it lists it under."""

    source_id: int
    path: RelativePath


async def roads(connection: AsyncConnection, digests: Collection[Sha256]) -> Mapping[Sha256, Sequence[Road]]:
    """All roads to each file: of sources read under their present trust, what a present voucher stands behind.

    The source with the greatest priority comes first; which road is a version's own is for the caller to know. Two
    sources that promise different sizes for a digest cannot both be right: the size is that of the wanted version.
    """
    rows = await connection.execute(
        text("""
            SELECT DISTINCT items.sha256, sources.priority, sources.id AS source_id, items.path
            FROM items
            JOIN versions ON versions.id = items.version_id AND versions.offered
            JOIN products ON products.id = versions.product_id AND products.offered
            JOIN sources ON sources.id = products.source_id
                AND sources.keyring_readable AND sources.read_revision = sources.trust_revision
            JOIN stream_documents AS documents
                ON documents.source_id = sources.id AND documents.content_id = products.content_id
                AND documents.vouched_by && sources.vouchers
            WHERE items.sha256 = ANY(:digests)
            ORDER BY items.sha256, sources.priority DESC, items.path
        """),
        {"digests": sorted(digests)},
    )
    found: dict[Sha256, list[Road]] = {}
    for row in rows:
        found.setdefault(Sha256(row.sha256), []).append(Road(row.source_id, RelativePath(row.path)))
    return found
