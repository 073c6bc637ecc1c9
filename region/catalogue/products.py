"""Products: what each source offers, recorded in one transaction per reading, with who signed it (I3, I8)."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import trust, wanted
from region.catalogue.freshness import require_not_ahead
from region.database.tables import sources, stream_documents
from region.stream import documents
from shared import layout
from shared.errors import TooOld
from shared.names import ImageKey, Name, RelativePath

INDEX = ""
"""The `content_id` under which the index itself is remembered."""


@dataclass(frozen=True, slots=True)
class Document:
    """What is remembered of an accepted document: where it lies, how old it is, its ETag for the next request.

    `skipped` says what of it could not be used. One that is not `listed` has left the index; its age still counts.
    `vouched_by` are all good signers. One that no present voucher stands behind is not `believed`: it bounds the age of
    nothing, and its ETag is not sent. Nor is any while the source was not read under its present trust: a document that
    did not change may carry signatures of a key that is new in the keyring, and it is read again to find them.
    """

    content_id: str
    path: RelativePath
    updated: datetime
    etag: str
    skipped: tuple[str, ...] = ()
    listed: bool = True
    vouched_by: tuple[str, ...] = ()
    believed: bool = True


@dataclass(frozen=True, slots=True)
class Reading:
    """What one reading of a source found. `offered` names every content id of the index.

    `changed` are the documents that came anew, with their products; documents of `offered` that are neither changed nor
    failed are as they were. Documents that failed are not in `changed`: their products stay as they were, too.
    """

    index: Document
    offered: frozenset[str]
    changed: Sequence[tuple[Document, documents.Products]]


async def accepted(connection: AsyncConnection, source_id: int, *, older: bool = False) -> dict[str, Document]:
    """The documents accepted of the source so far, by content id.

    With `older` an operator lets older ones in: none of those accepted so far is believed, and so none is a floor.
    """
    rows = await connection.execute(
        select(
            stream_documents,
            stream_documents.c.vouched_by.bool_op("&&")(sources.c.vouchers).label("believed"),
            (sources.c.read_revision == sources.c.trust_revision).label("current"),
        )
        .join(sources, sources.c.id == stream_documents.c.source_id)
        .where(stream_documents.c.source_id == source_id)
    )
    return {
        row.content_id: Document(
            content_id=row.content_id,
            path=RelativePath(row.path),
            updated=row.updated,
            etag=row.etag if row.believed and row.current and not older else "",
            skipped=tuple(row.skipped),
            listed=row.listed,
            vouched_by=tuple(row.vouched_by),
            believed=row.believed and not older,
        )
        for row in rows
    }


def require_not_older(found: Document, floor: Document | None, url: str) -> None:
    """Raises TooOld when `found` may not be accepted after `floor` (I3)."""
    if floor is not None and floor.believed and found.updated < floor.updated:
        raise TooOld(url, found.updated, floor.updated)


async def record(
    connection: AsyncConnection,
    source_id: int,
    reading: Reading | None,
    trust_revision: int,
    now: datetime,
    *,
    older: bool = False,
    whole: bool = True,
) -> list[str]:
    """The catalogue says what `reading` found (None: all is as it was); answers what was left alone, a sentence each.

    The reading counts only under the trust it began with. Only rows that differ are written. What is held is never
    removed here, whatever the stream says: a version that is no longer offered keeps its rows while it is held.
    With `older` its documents may be older than those accepted before, while an operator lets them; a `whole` reading,
    of which no document failed, has used that up. Raises TrustChanged, TooOld, TooNew.
    """
    await trust.require(connection, source_id, trust_revision)
    kept: list[str] = []
    if reading is not None:
        lifted = older and await _may_be_older(connection, source_id, now)
        known = await accepted(connection, source_id, older=lifted)
        require_not_ahead(reading.index.updated, now, "The index")
        require_not_older(reading.index, known.get(INDEX), "The index")
        for document, stream in reading.changed:
            require_not_ahead(document.updated, now, document.content_id)
            require_not_older(document, known.get(document.content_id), document.content_id)
            kept += await _record_document(connection, source_id, document, stream)
        await _record_index(connection, source_id, reading)
        await wanted.refresh(connection, now)
    used_up = {"older_accepted_until": None} if older and whole else {}
    await connection.execute(
        update(sources).where(sources.c.id == source_id).values(read_revision=trust_revision, **used_up)
    )
    return kept


async def _may_be_older(connection: AsyncConnection, source_id: int, now: datetime) -> bool:
    return bool(
        await connection.scalar(
            select(sources.c.id).where(sources.c.id == source_id, sources.c.older_accepted_until > now)
        )
    )


async def _record_document(
    connection: AsyncConnection, source_id: int, document: Document, stream: documents.Products
) -> list[str]:
    moved = await _moved(connection, source_id, stream)
    kept = [f"{name} is held as another image than it says it is now; the held one stays." for name in moved]
    stream = replace(stream, products=tuple(entry for entry in stream.products if entry.name not in moved))
    await _record_products(connection, source_id, stream)
    await _record_versions(connection, source_id, stream)
    changed = await _record_items(connection, source_id, stream)
    # What was left alone may be taken once it is no longer held: the document is read whole until then.
    await _remember(connection, source_id, replace(document, etag="") if moved or changed else document)
    await _vouch_again(connection, source_id, document, changed)
    return kept + [
        f"{product} {version} changed under its own name; the held one stays." for product, version in changed
    ]


async def _record_index(connection: AsyncConnection, source_id: int, reading: Reading) -> None:
    await connection.execute(
        text(
            "UPDATE products SET offered = false"
            " WHERE source_id = :source_id AND offered AND NOT content_id = ANY(:offered)"
        ),
        {"source_id": source_id, "offered": sorted(reading.offered)},
    )
    await _forget_unoffered(connection, source_id)
    await _remember(connection, source_id, reading.index)
    await connection.execute(
        update(stream_documents)
        .where(
            stream_documents.c.source_id == source_id,
            stream_documents.c.content_id.not_in([INDEX, *reading.offered]),
        )
        .values(listed=False)
    )


async def _remember(connection: AsyncConnection, source_id: int, document: Document) -> None:
    await connection.execute(
        _REMEMBER,
        {
            "source_id": source_id,
            "content_id": document.content_id,
            "path": document.path,
            "updated": document.updated,
            "etag": document.etag,
            "skipped": list(document.skipped),
            "listed": document.listed,
            "vouched_by": list(document.vouched_by),
        },
    )


async def _vouch_again(
    connection: AsyncConnection, source_id: int, document: Document, changed: Iterable[tuple[str, str]]
) -> None:
    """Held versions that the document lists as they are held are vouched for by who signed it."""
    denied = list(changed)
    await connection.execute(
        text("""
            UPDATE versions SET vouched_by = CAST(:vouched_by AS text[])
            FROM products
            WHERE products.id = versions.product_id AND products.source_id = :source_id
              AND products.content_id = :content_id AND products.offered AND versions.offered
              AND versions.held_at IS NOT NULL AND versions.vouched_by IS DISTINCT FROM CAST(:vouched_by AS text[])
              AND NOT EXISTS (
                SELECT FROM unnest(CAST(:products AS text[]), CAST(:versions AS text[])) AS denied (product, version)
                WHERE denied.product = products.name AND denied.version = versions.name)
        """),
        {
            "source_id": source_id,
            "content_id": document.content_id,
            "vouched_by": list(document.vouched_by),
            "products": [product for product, _ in denied],
            "versions": [version for _, version in denied],
        },
    )


_REMEMBER = text("""
    INSERT INTO stream_documents (source_id, content_id, path, updated, etag, skipped, listed, vouched_by)
    VALUES (:source_id, :content_id, :path, :updated, :etag, CAST(:skipped AS text[]), :listed,
            CAST(:vouched_by AS text[]))
    ON CONFLICT (source_id, content_id) DO UPDATE
    SET path = excluded.path, updated = excluded.updated, etag = excluded.etag, skipped = excluded.skipped,
        listed = excluded.listed, vouched_by = excluded.vouched_by
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
_DERIVED_COLUMNS = {"image": "text", "place": "text"}


async def _record_products(connection: AsyncConnection, source_id: int, stream: documents.Products) -> None:
    kinds = _PRODUCT_COLUMNS | _DERIVED_COLUMNS
    columns = ", ".join(kinds)
    arrays = ", ".join(f"CAST(:{name} AS {kind}[])" for name, kind in kinds.items())
    changing = [name for name in kinds if name != "name"]
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
            "image": [str(image(product)) for product in stream.products],
            "place": [place(product) for product in stream.products],
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


async def _record_items(
    connection: AsyncConnection, source_id: int, stream: documents.Products
) -> list[tuple[str, str]]:
    """What a held version consists of never changes: racks have been told what it is. Versions that would are named."""
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
    # Where a mirror keeps a file is no part of what the file is.
    await connection.execute(
        text("""
            UPDATE items SET path = given.path FROM given_items AS given
            WHERE given.held AND items.version_id = given.version_id AND items.key = given.key
              AND (items.ftype, items.sha256, items.size) = (given.ftype, given.sha256, given.size)
              AND items.path <> given.path
        """)
    )
    changed = await connection.execute(
        text("""
            SELECT given.product, given.version FROM given_items AS given
            LEFT JOIN items ON items.version_id = given.version_id AND items.key = given.key
            WHERE given.held
              AND (items.ftype, items.sha256, items.size) IS DISTINCT FROM (given.ftype, given.sha256, given.size)
            UNION
            SELECT given.product, given.version FROM given_items AS given
            JOIN items ON items.version_id = given.version_id
            WHERE given.held AND NOT EXISTS (
                SELECT FROM given_items AS same WHERE same.version_id = items.version_id AND same.key = items.key)
            ORDER BY product, version
        """)
    )
    return [(row.product, row.version) for row in changed]


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


def image(product: documents.Product) -> ImageKey:
    """The image a product belongs to; a bootloader is one of its own."""
    if product.bootloader_type is not None:
        return ImageKey(Name(layout.BOOTLOADER), product.bootloader_type, product.arch)
    return ImageKey(product.os, product.release, product.arch)


def place(product: documents.Product) -> RelativePath:
    """The directory of a product in a rack's tree."""
    if product.bootloader_type is not None:
        return layout.bootloader_place(product.bootloader_type, product.arch)
    return layout.place(product.os, product.arch, product.subarch, product.release, product.label)


async def is_known(connection: AsyncConnection, source_id: int | None, image_key: ImageKey) -> bool:
    """True if the source (any source, when None) offers the image, or a version of it from there is held."""
    return bool(
        await connection.scalar(
            text("""
                SELECT EXISTS (
                    SELECT FROM products JOIN sources ON sources.id = products.source_id
                    WHERE products.image = :image AND products.kind <> 'bootloader' AND sources.removed_at IS NULL
                      AND (CAST(:source_id AS integer) IS NULL OR sources.id = :source_id))
            """),
            {"image": str(image_key), "source_id": source_id},
        )
    )
