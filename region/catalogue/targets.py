"""Targets: which source and which version win. One SQL view, `targets`, over plain tables; everybody reads it.

The rules:

- Wanted are the products in the table `wanted`, and the bootloaders of the region's one bootloader source while
  anything is selected at all.
- One source wins a whole image: of those that list it, signed ones and those a selection names before the rest, then
  the greater priority. A source lists an image until a reading under its present trust says otherwise: a reading that
  failed, a keyring that changed or offers that lapsed lose it nothing.
- Of a pinned image only sources that know the pinned version can win.
- Within the winner each place (`shared.layout`) has one target: the newest version offered, names compared as bytes, or
  the pinned one, offered or held.
- Offered is what the last accepted reading lists while a present voucher stands behind its index and its document. An
  image whose winner's offers have lapsed has no target; what is held of it stays.
- `current` is true for sources that were read under their present trust: nothing of another is planned or fetched.

What is not done here: what to do about the difference between targets and what is held (`region.importing.plan`), and
what selections come to (`region.catalogue.wanted`). The view is made by migration 0003; `tests/db/test_targets.py`
holds it against a small reference in Python.

    SELECT image, place, version, held FROM targets WHERE image = 'ubuntu:noble:amd64';
"""

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue.facts import Target
from region.catalogue.versions import FILES, files_of
from shared.names import ImageKey

_ALL = text(f"""
    SELECT targets.image, targets.place, targets.source_id, targets.version_id, targets.version,
           products.subarch AS kernel, targets.held, targets.offered, targets.current, {FILES}
    FROM targets JOIN products ON products.id = targets.product_id
    JOIN items USING (version_id) LEFT JOIN files USING (sha256, size)
    GROUP BY targets.image, targets.place, targets.source_id, targets.version_id, targets.version, products.subarch,
             targets.held, targets.offered, targets.current
    ORDER BY targets.image, targets.place
""")


async def list_all(connection: AsyncConnection) -> list[Target]:
    """Every target, by image and place, with its files."""
    return [
        Target(
            image=ImageKey.parse(row.image),
            place=row.place,
            source_id=row.source_id,
            version_id=row.version_id,
            version=row.version,
            kernel=row.kernel,
            held=row.held,
            offered=row.offered,
            current=row.current,
            files=files_of(row),
        )
        for row in await connection.execute(_ALL)
    ]


async def winners(connection: AsyncConnection) -> dict[ImageKey, int]:
    """The source that wins each image that has a target."""
    rows = await connection.execute(text("SELECT DISTINCT image, source_id FROM targets"))
    return {ImageKey.parse(row.image): row.source_id for row in rows}
