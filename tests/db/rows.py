"""Rows as a region would have them after some sync, without a mirror: sources, streams, held versions, racks.

Every file's digest follows from its path, so that what a test names it can also find.
"""

import asyncio
from collections.abc import Iterable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import insert, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.actions import effect
from region.catalogue import products, selections, sources, wanted
from region.catalogue.facts import Wish
from region.catalogue.products import INDEX, Document, Reading
from region.database.tables import region, sync_schedule
from region.importing.plan import Plan
from region.publishing import held, manifest
from region.publishing.held import Publisher
from region.stream.documents import Item, Product, ProductKind, Products, Version
from shared.digest import Sha256
from shared.names import ImageKey, Name, RelativePath
from shared.signing import encode_bytes, fingerprint, public_bytes
from shared.wire.manifest import Manifest

NOW = datetime(2026, 7, 23, 12, 0, tzinfo=UTC)
NOBLE = ImageKey.parse("ubuntu:noble:amd64")
EPOCH = 1_784_000_000
SIZES = {"boot-kernel": 100, "boot-initrd": 200, "squashfs": 1000, "archive.tar.xz": 50}
STREAM = "org.example:stable:v3:download"


def digest(path: str) -> Sha256:
    """The digest of the file at `path`."""
    return Sha256.of(path.encode())


def item(path: str, ftype: str | None = None, *, key: str | None = None, size: int | None = None) -> Item:
    """The file at `path`, of the ftype its last part names."""
    ftype = ftype or path.rpartition("/")[2]
    return Item(
        Name(key or ftype), Name(ftype), RelativePath(path), digest(path), SIZES[ftype] if size is None else size
    )


def kernel(
    *serials: str, subarch: str = "ga-24.04", release: str = "noble", arch: str = "amd64", version: str = "24.04"
) -> Product:
    """A kernel with these versions: 300 bytes of its own, and the 1000 of a squashfs all kernels of a serial share."""
    return Product(
        name=f"org.example:{release}:{arch}:{subarch}",
        kind=ProductKind.BOOT,
        os=Name("ubuntu"),
        release=Name(release),
        arch=Name(arch),
        subarch=Name(subarch),
        label=Name("stable"),
        title=f"{version} LTS",
        version=version,
        codename=release.title(),
        support_eol=None,
        bootloader_type=None,
        is_ga=subarch.startswith("ga-"),
        versions=tuple(
            Version(
                Name(serial),
                (
                    item(f"{release}/{arch}/{serial}/{subarch}/boot-initrd"),
                    item(f"{release}/{arch}/{serial}/{subarch}/boot-kernel"),
                    item(f"{release}/{arch}/{serial}/squashfs"),
                ),
            )
            for serial in serials
        ),
    )


def bootloader(*serials: str, os: str = "grub-efi-signed", kind: str = "uefi", arch: str = "amd64") -> Product:
    """A bootloader of two archives."""
    return Product(
        name=f"org.example:{os}:{kind}:{arch}",
        kind=ProductKind.BOOTLOADER,
        os=Name(os),
        release=Name(os),
        arch=Name(arch),
        subarch=Name(kind),
        label=Name("stable"),
        title=f"{os} ({kind})",
        version="",
        codename="",
        support_eol=None,
        bootloader_type=Name(kind),
        is_ga=False,
        versions=tuple(
            Version(
                Name(serial),
                tuple(
                    item(f"{os}/{arch}/{serial}/{package}.tar.xz", "archive.tar.xz", key=package)
                    for package in ("grub2-signed", "shim-signed")
                ),
            )
            for serial in serials
        ),
    )


def reading(*offered: Product, updated: datetime = NOW, content_id: str = STREAM) -> Reading:
    """One reading of a source with one product file, dated `updated` like its index."""
    index = Document(INDEX, RelativePath("streams/v1/index.sjson"), updated, "")
    document = Document(content_id, RelativePath(f"streams/v1/{content_id}.sjson"), updated, "")
    return Reading(index, frozenset({content_id}), [(document, Products(content_id, updated, offered, ()))])


async def make_region(connection: AsyncConnection, key: Ed25519PrivateKey) -> None:
    """The first rows of a region."""
    await connection.execute(insert(region).values(id=1, fingerprint=fingerprint(key), epoch=EPOCH, created_at=NOW))
    await connection.execute(insert(sync_schedule).values(id=1, next_run_at=NOW))


async def make_source(connection: AsyncConnection, *offered: Product, name: str = "first", priority: int = 10) -> int:
    """The id of a new source with these products; the first is the one bootloaders come from."""
    wished = sources.wish(name=name, url=f"http://{name}.example/", unsigned=True, priority=priority)
    source = await sources.create(connection, wished, NOW)
    await connection.execute(
        update(region).where(region.c.bootloader_source_id.is_(None)).values(bootloader_source_id=source.id)
    )
    if offered:
        await record(connection, source.id, reading(*offered))
        await sources.record_reading(connection, source.id, NOW, code="", sentence="", skipped=[])
    return source.id


async def record(connection: AsyncConnection, source_id: int, found: Reading) -> list[str]:
    """Record a reading of the source as it is believed now, signed by all its vouchers."""
    source = await sources.get(connection, source_id)
    vouched_by = tuple(source.vouchers)
    signed = Reading(
        replace(found.index, vouched_by=vouched_by),
        found.offered,
        [(replace(document, vouched_by=vouched_by), stream) for document, stream in found.changed],
    )
    return await products.record(connection, source_id, signed, source.trust_revision, found.index.updated)


async def select_images(connection: AsyncConnection, *wished: tuple[int | None, ImageKey], now: datetime = NOW) -> None:
    """Exactly these images are selected: a source's id (None: whichever wins) and an image each."""
    await selections.replace(connection, [Wish(source_id, image) for source_id, image in wished], now)
    await wanted.refresh(connection, now)


async def selected(connection: AsyncConnection) -> set[tuple[int | None, ImageKey]]:
    """The whole selection, as `select_images` takes it."""
    return {(wish.source_id, ImageKey(*map(Name, wish.image))) for wish in await selections.wishes(connection)}


async def decided(connection: AsyncConnection) -> Plan:
    """What an import would do now."""
    return (await effect.look(connection)).plan


async def store_files(connection: AsyncConnection, digests: Iterable[Sha256], now: datetime = NOW) -> None:
    """Say that these files are stored."""
    await connection.execute(
        text("""
            INSERT INTO files (sha256, size, stored_at)
            SELECT DISTINCT sha256, size, CAST(:now AS timestamptz) FROM items WHERE sha256 = ANY(:digests)
            ON CONFLICT DO NOTHING
        """),
        {"digests": list(digests), "now": now},
    )


async def hold(
    connection: AsyncConnection, source_id: int, serial: str, *, subarch: str | None = None, now: datetime = NOW
) -> None:
    """Say that all files of these versions are stored and the versions held; no manifest says so yet."""
    parameters = {"source_id": source_id, "serial": serial, "subarch": subarch, "now": now}
    chosen = """
        SELECT versions.id FROM versions JOIN products ON products.id = versions.product_id
        WHERE products.source_id = :source_id AND versions.name = :serial
          AND (CAST(:subarch AS text) IS NULL OR products.subarch = :subarch)
    """
    wanted = await connection.scalars(
        text(f"SELECT sha256 FROM items WHERE version_id IN ({chosen})"),  # noqa: S608 - the constant above
        {name: value for name, value in parameters.items() if name != "now"},
    )
    await store_files(connection, [Sha256(sha256) for sha256 in wanted.all()], now)
    held = await connection.execute(
        text(f"""
            UPDATE versions SET held_at = :now,
                vouched_by = (SELECT vouchers FROM sources WHERE id = CAST(:source_id AS integer))
            WHERE id IN ({chosen})
        """),  # noqa: S608 - the constant above
        parameters,
    )
    assert held.rowcount


async def publish(connection: AsyncConnection, key: Ed25519PrivateKey, now: datetime = NOW) -> manifest.Published:
    """The current manifest, after what is held now was published by a process that remembers nothing.

    A manifest without a serial where there is nothing to publish.
    """
    await held.change(connection, Publisher(key), now, begin=True)
    published = await manifest.current(connection, key)
    return published or manifest.sign(Manifest(EPOCH, 0, now, ()), key)


async def make_rack(
    connection: AsyncConnection,
    name: str,
    *,
    serial: int = 0,
    epoch: int = EPOCH,
    pending: Iterable[str | ImageKey] = (),
    unseen_for: timedelta = timedelta(0),
) -> str:
    """The id of a rack that was last seen `unseen_for` before NOW: it knows (epoch, serial) and lacks `pending`."""
    rack_id = f"id-of-{name}"
    await connection.execute(
        text("""
            INSERT INTO racks (id, name, public_key, enrolled_at, last_seen_at, epoch, serial)
            VALUES (:id, :name, :key, :now, :seen, :epoch, :serial)
        """),
        {
            "id": rack_id,
            "name": name,
            "key": encode_bytes(public_bytes(Ed25519PrivateKey.generate())),
            "now": NOW,
            "seen": NOW - unseen_for,
            "epoch": epoch,
            "serial": serial,
        },
    )
    await connection.execute(
        text("""
            INSERT INTO rack_images (rack_id, image, shown_version, code)
            SELECT :id, image, '', '' FROM unnest(CAST(:pending AS text[])) AS given (image)
        """),
        {"id": rack_id, "pending": [str(image) for image in pending]},
    )
    return rack_id


async def until_somebody_waits(engine: AsyncEngine) -> None:
    """Returns once another connection to this database waits for a lock."""
    async with asyncio.timeout(10), engine.connect() as connection:
        while not await connection.scalar(
            text("""
                SELECT count(*) FROM pg_stat_activity
                WHERE datname = current_database() AND wait_event_type = 'Lock'
            """)
        ):
            await connection.rollback()
            await asyncio.sleep(0.005)
