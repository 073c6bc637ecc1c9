"""Offers: the images a source has to choose from, each with its kernels folded into one line."""

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import date

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.stream.documents import Product, ProductKind, is_lts, version_key
from shared.names import ImageKey


@dataclass(frozen=True, slots=True)
class Offer:
    """One image as it is offered. `size_bytes` is what its newest version takes, shared files counted once."""

    os: str
    release: str
    arch: str
    title: str
    release_version: str
    version: str
    lts: bool
    support_eol: date | None
    kernels: Sequence[str]
    size_bytes: int


def of_products(products: Iterable[Product]) -> list[Offer]:
    """The offers in a stream that was just read, bootloaders left out, as `list_all` orders them."""
    grouped: dict[ImageKey, list[Product]] = defaultdict(list)
    for product in products:
        if product.kind is not ProductKind.BOOTLOADER:
            grouped[ImageKey(product.os, product.release, product.arch)].append(product)
    found = [
        (
            group[0].version,
            Offer(
                *image,
                title=group[0].title,
                release_version=group[0].version,
                version=max(product.versions[-1].name for product in group),
                lts=group[0].lts,
                support_eol=group[0].support_eol,
                kernels=sorted(product.subarch for product in group),
                size_bytes=sum(
                    {item.sha256: item.size for product in group for item in product.versions[-1].items}.values()
                ),
            ),
        )
        for image, group in grouped.items()
    ]
    return _ordered(found)


async def list_all(connection: AsyncConnection, source_id: int) -> list[Offer]:
    """What the catalogue says the source offers: Ubuntu first, newest releases first."""
    rows = await connection.execute(
        text("""
            WITH newest AS (
                SELECT DISTINCT ON (products.id) products.os, products.release, products.arch, products.subarch,
                       products.title, products.version AS release_version, products.support_eol,
                       versions.id, versions.name
                FROM products JOIN versions ON versions.product_id = products.id AND versions.offered
                JOIN sources ON sources.id = products.source_id
                JOIN stream_documents AS documents
                    ON documents.source_id = products.source_id AND documents.content_id = products.content_id
                    AND documents.vouched_by && sources.vouchers
                WHERE products.source_id = :source_id AND products.offered AND products.kind <> 'bootloader'
                ORDER BY products.id, versions.name DESC
            ),
            sizes AS (
                SELECT os, release, arch, sum(size)::bigint AS size_bytes FROM (
                    SELECT DISTINCT newest.os, newest.release, newest.arch, items.sha256, items.size
                    FROM newest JOIN items ON items.version_id = newest.id
                ) AS files GROUP BY os, release, arch
            )
            SELECT os, release, arch, min(title) AS title, max(name) AS version, min(support_eol) AS support_eol,
                   array_agg(subarch ORDER BY subarch) AS kernels, min(size_bytes) AS size_bytes,
                   min(release_version) AS release_version
            FROM newest JOIN sizes USING (os, release, arch) GROUP BY os, release, arch
        """),
        {"source_id": source_id},
    )
    found = []
    for row in rows.mappings():
        fields = dict(row)
        found.append((row.release_version, Offer(**fields, lts=is_lts(fields["title"]))))
    return _ordered(found)


async def images(connection: AsyncConnection, source_id: int) -> set[str]:
    """The ids of what the source offers and a present voucher stands behind, bootloaders included."""
    return set(
        await connection.scalars(
            text("""
                SELECT DISTINCT products.image FROM products
                JOIN sources ON sources.id = products.source_id
                JOIN stream_documents AS documents USING (source_id, content_id)
                WHERE products.source_id = :source_id AND products.offered AND documents.vouched_by && sources.vouchers
            """),
            {"source_id": source_id},
        )
    )


def _ordered(found: list[tuple[str, Offer]]) -> list[Offer]:
    by_name = sorted(found, key=lambda entry: (entry[1].os, entry[1].arch))
    newest_first = sorted(by_name, key=lambda entry: version_key(entry[0]), reverse=True)
    return [offer for _, offer in sorted(newest_first, key=lambda entry: entry[1].os != "ubuntu")]
