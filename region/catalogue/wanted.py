"""What is wanted: selections expanded into plain rows, one for each product they match.

A selection is a rule (an image, perhaps a source, kernels and labels); the table `wanted` is what the rules come to
with the products there are now. `expand` is pure and the only place where a rule is evaluated; `refresh` runs it
whenever a selection or the products of a source have changed, in the transaction that changed them.
"""

from collections import defaultdict
from collections.abc import Iterable
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import selections
from region.catalogue.facts import Wish


class Listed(NamedTuple):
    """A product by the names a selection can match."""

    source_id: int
    os: str
    release: str
    arch: str
    kernel: str
    label: str


def expand(wishes: Iterable[Wish], listed: Iterable[Listed]) -> dict[Listed, bool]:
    """The products that some wish matches. True for those of which a wish names the source."""
    by_image: dict[tuple[str, str, str], list[Wish]] = defaultdict(list)
    for wish in wishes:
        by_image[wish.image].append(wish)
    found: dict[Listed, bool] = {}
    for product in listed:
        matching = [
            wish
            for wish in by_image.get((product.os, product.release, product.arch), ())
            if wish.source_id in (None, product.source_id) and wish.takes(product.kernel, product.label)
        ]
        if matching:
            found[product] = any(wish.source_id is not None for wish in matching)
    return found


async def refresh(connection: AsyncConnection) -> None:
    """The table says what the selections come to now; only rows that differ are written."""
    rows = await connection.execute(
        text("""
            SELECT DISTINCT products.source_id, products.os, products.release, products.arch, subarch AS kernel, label
            FROM products JOIN sources ON sources.id = products.source_id AND sources.removed_at IS NULL
            WHERE kind <> 'bootloader'
            -- A disabled source keeps what is held of it, and stands in no other's way.
            AND (sources.enabled OR EXISTS (SELECT FROM versions
                                            WHERE product_id = products.id AND held_at IS NOT NULL))
            AND EXISTS (
                SELECT FROM selections
                WHERE (selections.os, selections.release, selections.arch)
                    = (products.os, products.release, products.arch))
        """)
    )
    found = expand(await selections.wishes(connection), (Listed(*row) for row in rows))
    given = {
        **{f"{name}s": [getattr(product, name) for product in found] for name in Listed._fields},
        "named": list(found.values()),
    }
    unnested = """unnest(
        CAST(:source_ids AS integer[]), CAST(:oss AS text[]), CAST(:releases AS text[]), CAST(:archs AS text[]),
        CAST(:kernels AS text[]), CAST(:labels AS text[]), CAST(:named AS boolean[])
    ) AS given (source_id, os, release, arch, kernel, label, named)"""
    await connection.execute(
        text(f"""
            DELETE FROM wanted WHERE NOT EXISTS (
                SELECT FROM {unnested}
                WHERE (given.source_id, given.os, given.release, given.arch, given.kernel, given.label, given.named)
                    = (wanted.source_id, wanted.os, wanted.release, wanted.arch, wanted.kernel, wanted.label,
                       wanted.named))
        """),
        given,
    )
    await connection.execute(text(f"INSERT INTO wanted SELECT given.* FROM {unnested} ON CONFLICT DO NOTHING"), given)
