"""What is wanted: selections expanded into plain rows: the images they mean, and each product of these they match.

A selection is an image or a rule, perhaps with a source, kernels and labels. The table `meant` says which images each
means with what sources know now (`region.catalogue.rules`), the table `wanted` which products. `expand` is pure;
`refresh` writes both whenever a selection or the products of a source have changed, in the transaction that changed
them, and before a plan is made: support ends on a day on which nothing else changes.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from datetime import datetime
from typing import NamedTuple

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import selections
from region.catalogue.facts import Meanings, Wish
from region.catalogue.rules import Known, meanings
from region.stream.documents import is_lts
from shared.names import ImageKey, Name


class Listed(NamedTuple):
    """A product by the names a selection can match."""

    source_id: int
    os: str
    release: str
    arch: str
    kernel: str
    label: str


def expand(meant: Meanings, listed: Iterable[Listed]) -> dict[Listed, bool]:
    """The products that some wish matches. True for those of which a wish names the source."""
    by_image: dict[tuple[str, str, str], list[Wish]] = defaultdict(list)
    for wish, images in meant.items():
        for image in images:
            by_image[image].append(wish)
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


async def refresh(connection: AsyncConnection, now: datetime) -> None:
    """The tables say what the selections come to now; only rows that differ are written."""
    rows = (
        await connection.execute(
            text("""
                SELECT DISTINCT products.source_id, products.os, products.release, products.arch, subarch, label,
                       products.version, title, support_eol, NOT sources.unsigned AS signed, sources.enabled,
                       sources.priority
                FROM products JOIN sources ON sources.id = products.source_id AND sources.removed_at IS NULL
                WHERE kind <> 'bootloader' AND products.os IN (SELECT os FROM selections)
                -- A disabled source keeps what is held of it, and stands in no other's way.
                AND (sources.enabled OR EXISTS (SELECT FROM versions
                                                WHERE product_id = products.id AND held_at IS NOT NULL))
            """)
        )
    ).all()
    known = {
        Known(
            source_id=row.source_id,
            signed=row.signed,
            enabled=row.enabled,
            priority=row.priority,
            image=ImageKey(Name(row.os), Name(row.release), Name(row.arch)),
            version=row.version,
            lts=is_lts(row.title),
            support_eol=row.support_eol,
        )
        for row in rows
    }
    selected = {entry.wish: entry.id for entry in await selections.list_all(connection)}
    meant = meanings(selected, known, now.date())
    given, values = _given(
        {"selection_id": "integer", "os": "text", "release": "text", "arch": "text"},
        [(selected[wish], *image) for wish, images in meant.items() for image in images],
    )
    await connection.execute(
        text(f"""
            DELETE FROM meant WHERE NOT EXISTS (
                SELECT FROM {given}
                WHERE (given.selection_id, given.os, given.release, given.arch)
                    = (meant.selection_id, meant.os, meant.release, meant.arch))
        """),
        values,
    )
    await connection.execute(text(f"INSERT INTO meant SELECT given.* FROM {given} ON CONFLICT DO NOTHING"), values)

    listed = {Listed(row.source_id, row.os, row.release, row.arch, row.subarch, row.label) for row in rows}
    given, values = _given(
        {"source_id": "integer", **dict.fromkeys(Listed._fields[1:], "text"), "named": "boolean"},
        [(*product, named) for product, named in expand(meant, listed).items()],
    )
    await connection.execute(
        text(f"""
            DELETE FROM wanted WHERE NOT EXISTS (
                SELECT FROM {given}
                WHERE (given.source_id, given.os, given.release, given.arch, given.kernel, given.label, given.named)
                    = (wanted.source_id, wanted.os, wanted.release, wanted.arch, wanted.kernel, wanted.label,
                       wanted.named))
        """),
        values,
    )
    await connection.execute(text(f"INSERT INTO wanted SELECT given.* FROM {given} ON CONFLICT DO NOTHING"), values)


def _given(kinds: Mapping[str, str], rows: Collection[tuple[object, ...]]) -> tuple[str, dict[str, list[object]]]:
    """Rows as a table `given` that a query can name, and its values; `kinds` are the types of the columns."""
    arrays = ", ".join(f"CAST(:{column} AS {kind}[])" for column, kind in kinds.items())
    columns = {column: [row[number] for row in rows] for number, column in enumerate(kinds)}
    return f"unnest({arrays}) AS given ({', '.join(kinds)})", columns
