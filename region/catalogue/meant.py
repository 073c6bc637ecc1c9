"""What the selections mean, for those who tell operators: kernels, what is left out, support that ends."""

from collections.abc import Collection, Mapping
from datetime import date
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.digest import Sha256
from shared.names import ImageKey


class Offered(NamedTuple):
    """A kernel of an image under a label, as a source knows it."""

    source_id: int
    image: ImageKey
    kernel: str
    label: str


async def kernels(connection: AsyncConnection, images: Collection[ImageKey]) -> list[Offered]:
    """The kernels that sources know of these images."""
    rows = await connection.execute(
        text("""
            SELECT DISTINCT source_id, image, subarch, label
            FROM products JOIN sources ON sources.id = products.source_id
            WHERE products.image = ANY(:images) AND products.kind <> 'bootloader' AND sources.removed_at IS NULL
        """),
        {"images": [str(image) for image in images]},
    )
    return [Offered(row.source_id, ImageKey.parse(row.image), row.subarch, row.label) for row in rows]


async def left_out(connection: AsyncConnection) -> Mapping[Sha256, int]:
    """The files, digest to size in bytes, of kernels that the winners of selected images offer and nobody selected."""
    rows = await connection.execute(
        text("""
            WITH winners AS (SELECT DISTINCT image, source_id FROM targets),
            newest AS (
                SELECT DISTINCT ON (products.id) products.id, versions.id AS version_id
                FROM winners
                JOIN products ON products.image = winners.image AND products.source_id = winners.source_id
                JOIN versions ON versions.product_id = products.id AND versions.offered
                WHERE products.offered AND products.kind <> 'bootloader'
                  AND NOT EXISTS (
                    SELECT FROM wanted
                    WHERE (wanted.source_id, wanted.os, wanted.release, wanted.arch, wanted.kernel, wanted.label)
                        = (products.source_id, products.os, products.release, products.arch, products.subarch,
                           products.label))
                ORDER BY products.id, versions.name DESC
            )
            SELECT DISTINCT sha256, size FROM newest JOIN items USING (version_id)
        """)
    )
    return {Sha256(row.sha256): row.size for row in rows}


class Ending(NamedTuple):
    """A release whose support ends, and the rule (its release) that means it."""

    os: str
    release: str
    support_eol: date
    rule: str


async def ending(connection: AsyncConnection, today: date, until: date) -> list[Ending]:
    """Releases that a rule means and whose support ends from `today` to `until`, by date."""
    rows = await connection.execute(
        text("""
            SELECT DISTINCT products.os, products.release, products.support_eol, selections.release AS rule
            FROM meant JOIN selections ON selections.id = meant.selection_id AND selections.release <> meant.release
            JOIN products
                ON products.os = meant.os AND products.release = meant.release AND products.arch = meant.arch
            WHERE products.kind <> 'bootloader' AND products.support_eol BETWEEN :today AND :until
            ORDER BY products.support_eol, products.os, products.release, rule
        """),
        {"today": today, "until": until},
    )
    return [Ending(*row) for row in rows]
