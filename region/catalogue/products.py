"""The catalogue: what each source offers and which versions are held. One transaction records one reading."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from datetime import datetime
from typing import Any

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue.pins import CANDIDATES
from region.catalogue.versions import File, Product, Version
from region.database.tables import products, stream_documents
from region.stream import documents
from shared import layout
from shared.digest import Sha256
from shared.errors import TooOld
from shared.names import ImageKey, Name, RelativePath

INDEX = ""
"""The `content_id` under which the index itself is remembered."""


@dataclass(frozen=True, slots=True)
class Document:
    """What is remembered of an accepted document: where it lies, how old it is, its ETag for the next request.

    `skipped` says what of it could not be used. One that is not `listed` has left the index; its age still counts.
    """

    content_id: str
    path: RelativePath
    updated: datetime
    etag: str
    skipped: tuple[str, ...] = ()
    listed: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading of a source found. `offered` names every content id of the index.

    `changed` are the documents that came anew, with their products; documents of `offered` that are neither changed nor
    failed are as they were. Documents that failed are not in `changed`: their products stay as they were, too.
    """

    index: Document
    offered: frozenset[str]
    changed: Sequence[tuple[Document, documents.Products]]


async def accepted(connection: AsyncConnection, source_id: int) -> dict[str, Document]:
    """The documents accepted of the source so far, by content id."""
    rows = await connection.execute(select(stream_documents).where(stream_documents.c.source_id == source_id))
    return {
        row.content_id: Document(
            row.content_id, RelativePath(row.path), row.updated, row.etag, tuple(row.skipped), row.listed
        )
        for row in rows
    }


def require_not_older(found: Document, floor: Document | None, url: str) -> None:
    """Returning says: `found` may be accepted after `floor` (I3). Raises TooOld."""
    if floor is not None and found.updated < floor.updated:
        raise TooOld(url, found.updated, floor.updated)


async def record(connection: AsyncConnection, source_id: int, reading: Reading) -> list[str]:
    """From here on the catalogue says what `reading` found. Answers what was left as it was, a sentence each.

    Only rows that differ are written. What is held is never removed here, whatever the stream says: a version that is
    no longer offered keeps its rows while it is held.
    """
    known = await accepted(connection, source_id)
    require_not_older(reading.index, known.get(INDEX), "The index")
    kept: list[str] = []
    for document, stream in reading.changed:
        require_not_older(document, known.get(document.content_id), document.content_id)
        moved = await _moved(connection, source_id, stream)
        kept += [f"{name} is held as another image than it says it is now; the held one stays." for name in moved]
        stream = replace(stream, products=tuple(entry for entry in stream.products if entry.name not in moved))
        await _record_products(connection, source_id, stream)
        await _record_versions(connection, source_id, stream)
        kept += await _record_items(connection, source_id, stream)
    await connection.execute(
        text(
            "UPDATE products SET offered = false"
            " WHERE source_id = :source_id AND offered AND NOT content_id = ANY(:offered)"
        ),
        {"source_id": source_id, "offered": sorted(reading.offered)},
    )
    await _forget_unoffered(connection, source_id)
    for document in (reading.index, *(document for document, _ in reading.changed)):
        await connection.execute(
            _REMEMBER, {"source_id": source_id, **asdict(document), "skipped": list(document.skipped)}
        )
    await connection.execute(
        update(stream_documents)
        .where(
            stream_documents.c.source_id == source_id,
            stream_documents.c.content_id.not_in([INDEX, *reading.offered]),
        )
        .values(listed=False)
    )
    return kept


_REMEMBER = text("""
    INSERT INTO stream_documents (source_id, content_id, path, updated, etag, skipped, listed)
    VALUES (:source_id, :content_id, :path, :updated, :etag, CAST(:skipped AS text[]), :listed)
    ON CONFLICT (source_id, content_id) DO UPDATE
    SET path = excluded.path, updated = excluded.updated, etag = excluded.etag, skipped = excluded.skipped,
        listed = excluded.listed
""")

_PRODUCT_COLUMNS = {
    "name": "text",
    "kind": "text",
    "os": "text",
    "release": "text",
    "arch": "text",
    "subarch": "text",
    "label": "text",
    "title": "text",
    "version": "text",
    "codename": "text",
    "support_eol": "date",
    "bootloader_type": "text",
    "is_ga": "boolean",
}


async def _record_products(connection: AsyncConnection, source_id: int, stream: documents.Products) -> None:
    columns = ", ".join(_PRODUCT_COLUMNS)
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in _PRODUCT_COLUMNS.items())
    changing = [name for name in _PRODUCT_COLUMNS if name != "name"]
    await connection.execute(
        text(f"""
            INSERT INTO products (source_id, content_id, offered, {columns})
            SELECT :source_id, :content_id, true, {columns} FROM unnest({arrays}) AS given ({columns})
            ON CONFLICT (source_id, name) DO UPDATE
            SET content_id = excluded.content_id, offered = true,
                {", ".join(f"{name} = excluded.{name}" for name in changing)}
            WHERE (products.content_id, products.offered, {", ".join(f"products.{name}" for name in changing)})
                IS DISTINCT FROM
                (excluded.content_id, true, {", ".join(f"excluded.{name}" for name in changing)})
        """),
        {
            "source_id": source_id,
            "content_id": stream.content_id,
            **{name: [getattr(product, name) for product in stream.products] for name in _PRODUCT_COLUMNS},
        },
    )
    await connection.execute(
        text("""
            UPDATE products SET offered = false
            WHERE source_id = :source_id AND content_id = :content_id AND offered AND NOT name = ANY(:names)
        """),
        {
            "source_id": source_id,
            "content_id": stream.content_id,
            "names": [product.name for product in stream.products],
        },
    )


async def _moved(connection: AsyncConnection, source_id: int, stream: documents.Products) -> list[str]:
    """Products that are held and claim to be another image, kernel or kind now: what racks serve must not move."""
    fields = ("name", "kind", "os", "release", "arch", "subarch", "label", "bootloader_type")
    arrays = ", ".join(f"CAST(:{name} AS text[])" for name in fields)
    found = await connection.scalars(
        text(f"""
            SELECT products.name FROM unnest({arrays}) AS given ({", ".join(fields)})
            JOIN products ON products.source_id = :source_id AND products.name = given.name
            WHERE ({", ".join(f"products.{name}" for name in fields)})
                  IS DISTINCT FROM ({", ".join(f"given.{name}" for name in fields)})
              AND EXISTS (SELECT FROM versions WHERE product_id = products.id AND held_at IS NOT NULL)
            ORDER BY products.name
        """),
        {"source_id": source_id, **{name: [getattr(entry, name) for entry in stream.products] for name in fields}},
    )
    return list(found)


async def _record_versions(connection: AsyncConnection, source_id: int, stream: documents.Products) -> None:
    given = [(product.name, version.name) for product in stream.products for version in product.versions]
    parameters = {
        "source_id": source_id,
        "content_id": stream.content_id,
        "products": [product for product, _ in given],
        "names": [name for _, name in given],
    }
    await connection.execute(
        text("""
            INSERT INTO versions (product_id, name, offered)
            SELECT products.id, given.name, true
            FROM unnest(CAST(:products AS text[]), CAST(:names AS text[])) AS given (product, name)
            JOIN products ON products.source_id = :source_id AND products.name = given.product
            ON CONFLICT (product_id, name) DO UPDATE SET offered = true WHERE NOT versions.offered
        """),
        {name: parameters[name] for name in ("source_id", "products", "names")},
    )
    await connection.execute(
        text("""
            UPDATE versions SET offered = false
            FROM products
            WHERE products.id = versions.product_id AND products.source_id = :source_id
              AND products.content_id = :content_id AND versions.offered
              AND NOT EXISTS (
                SELECT FROM unnest(CAST(:products AS text[]), CAST(:names AS text[])) AS given (product, name)
                WHERE given.product = products.name AND given.name = versions.name)
        """),
        parameters,
    )


async def _record_items(connection: AsyncConnection, source_id: int, stream: documents.Products) -> list[str]:
    """A version's items never change while it is held: racks have been told what it is. Those that would are named."""
    given = [
        (product.name, version.name, item.key, item.ftype, item.path, item.sha256, item.size)
        for product in stream.products
        for version in product.versions
        for item in version.items
    ]
    names = ("product", "version", "key", "ftype", "path", "sha256", "size")
    await connection.execute(
        text("""
            CREATE TEMPORARY TABLE IF NOT EXISTS given_items (
                version_id bigint, held boolean, product text, version text,
                key text, ftype text, path text, sha256 text, size bigint
            ) ON COMMIT DELETE ROWS
        """)
    )
    await connection.execute(text("TRUNCATE given_items"))
    await connection.execute(
        text("""
            INSERT INTO given_items
            SELECT versions.id, versions.held_at IS NOT NULL, given.*
            FROM unnest(
                CAST(:product AS text[]), CAST(:version AS text[]), CAST(:key AS text[]), CAST(:ftype AS text[]),
                CAST(:path AS text[]), CAST(:sha256 AS text[]), CAST(:size AS bigint[])
            ) AS given (product, version, key, ftype, path, sha256, size)
            JOIN products ON products.source_id = :source_id AND products.name = given.product
            JOIN versions ON versions.product_id = products.id AND versions.name = given.version
        """),
        {"source_id": source_id, **dict(zip(names, map(list, zip(*given, strict=True)), strict=True))}
        if given
        else {"source_id": source_id, **{name: [] for name in names}},
    )
    await connection.execute(text("ANALYZE given_items"))
    await connection.execute(
        text("""
            DELETE FROM items USING versions
            WHERE versions.id = items.version_id AND versions.held_at IS NULL
              AND versions.id IN (SELECT version_id FROM given_items)
              AND NOT EXISTS (
                SELECT FROM given_items AS given
                WHERE given.version_id = items.version_id AND given.key = items.key)
        """)
    )
    await connection.execute(
        text("""
            INSERT INTO items (version_id, key, ftype, path, sha256, size)
            SELECT version_id, key, ftype, path, sha256, size FROM given_items WHERE NOT held
            ON CONFLICT (version_id, key) DO UPDATE
            SET ftype = excluded.ftype, path = excluded.path, sha256 = excluded.sha256, size = excluded.size
            WHERE (items.ftype, items.path, items.sha256, items.size)
                IS DISTINCT FROM (excluded.ftype, excluded.path, excluded.sha256, excluded.size)
        """)
    )
    changed = await connection.execute(
        text("""
            SELECT DISTINCT given.product, given.version FROM given_items AS given
            LEFT JOIN items ON items.version_id = given.version_id AND items.key = given.key
            WHERE given.held AND items.sha256 IS DISTINCT FROM given.sha256
        """)
    )
    return [f"{row.product} {row.version} changed under its own name; the held one stays." for row in changed]


async def _forget_unoffered(connection: AsyncConnection, source_id: int) -> None:
    await connection.execute(
        text("""
            DELETE FROM versions USING products
            WHERE products.id = versions.product_id AND products.source_id = :source_id
              AND NOT (versions.offered AND products.offered) AND versions.held_at IS NULL
        """),
        {"source_id": source_id},
    )
    await connection.execute(
        text("""
            DELETE FROM products WHERE source_id = :source_id AND NOT offered
              AND NOT EXISTS (SELECT FROM versions WHERE versions.product_id = products.id)
        """),
        {"source_id": source_id},
    )


def image(row: Any) -> ImageKey:
    """The image a product belongs to; a bootloader is one of its own."""
    if row.kind == documents.ProductKind.BOOTLOADER:
        return ImageKey(Name("bootloader"), Name(row.bootloader_type), Name(row.arch))
    return ImageKey(Name(row.os), Name(row.release), Name(row.arch))


def slot(row: Any) -> RelativePath:
    """The directory of a product in a rack's tree, the one MAAS racks have."""
    if row.kind == documents.ProductKind.BOOTLOADER:
        return layout.bootloader_place(row.bootloader_type, row.arch)
    return layout.place(row.os, row.arch, row.subarch, row.release, row.label)


_FACTS = text(f"""
    SELECT products.id, products.source_id, sources.priority, products.kind, products.os, products.release,
           products.arch, products.subarch, products.label, products.bootloader_type,
           versions.id AS version_id, versions.name AS version, candidates.id IS NOT NULL AS version_offered,
           versions.held_at IS NOT NULL AS held,
           array_agg(items.sha256 ORDER BY items.key) AS digests,
           array_agg(items.size ORDER BY items.key) AS sizes,
           array_agg(items.path ORDER BY items.key) AS paths
    FROM products
    JOIN sources ON sources.id = products.source_id
    JOIN versions ON versions.product_id = products.id
    LEFT JOIN ({CANDIDATES}) AS candidates ON candidates.id = versions.id
    JOIN items ON items.version_id = versions.id
    WHERE products.kind = 'bootloader'
       OR EXISTS (SELECT FROM versions AS held WHERE held.product_id = products.id AND held.held_at IS NOT NULL)
       OR (products.source_id, products.os, products.release, products.arch) IN (
            SELECT * FROM unnest(
                CAST(:source_ids AS integer[]), CAST(:oses AS text[]),
                CAST(:releases AS text[]), CAST(:arches AS text[])))
    GROUP BY products.id, sources.priority, versions.id, candidates.id
    ORDER BY products.id, versions.name
""")


async def facts(connection: AsyncConnection, wanted: Iterable[tuple[int, ImageKey]]) -> list[Product]:
    """What `plan` has to know: products of wanted images, of bootloaders, and everything held."""
    pairs = list(wanted)
    rows = await connection.execute(
        _FACTS,
        {
            "source_ids": [source_id for source_id, _ in pairs],
            "oses": [image.os for _, image in pairs],
            "releases": [image.release for _, image in pairs],
            "arches": [image.arch for _, image in pairs],
        },
    )
    found: dict[int, tuple[Any, list[Version]]] = {}
    for row in rows:
        files = tuple(
            File(Sha256(digest), size, RelativePath(path))
            for digest, size, path in zip(row.digests, row.sizes, row.paths, strict=True)
        )
        _, known = found.setdefault(row.id, (row, []))
        known.append(Version(row.version_id, row.version, row.version_offered, row.held, files))
    return [
        Product(
            id=row.id,
            source_id=row.source_id,
            priority=row.priority,
            image=ImageKey(Name(row.os), Name(row.release), Name(row.arch)),
            slot=slot(row),
            bootloader=row.kind == documents.ProductKind.BOOTLOADER,
            versions=tuple(known),
        )
        for row, known in found.values()
    ]


async def is_known(connection: AsyncConnection, source_id: int, image: ImageKey) -> bool:
    """True says: the source offers the image, or a version of it from there is held."""
    return bool(
        await connection.scalar(
            select(
                products.select()
                .where(
                    products.c.source_id == source_id,
                    products.c.os == image.os,
                    products.c.release == image.release,
                    products.c.arch == image.arch,
                    products.c.kind != documents.ProductKind.BOOTLOADER,
                )
                .exists()
            )
        )
    )


async def stored(connection: AsyncConnection) -> Mapping[Sha256, int]:
    """The files the store holds, digest to size in bytes."""
    rows = await connection.execute(text("SELECT sha256, size FROM files"))
    return {Sha256(row.sha256): row.size for row in rows}
