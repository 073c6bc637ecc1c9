"""The manifest: what racks are to hold, built from held versions, signed, and answered from memory."""

import itertools
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import products
from region.database.tables import manifests, region, versions
from region.database.topics import Topic, notify
from region.stream.documents import ProductKind
from shared import layout
from shared.digest import Sha256
from shared.names import RelativePath
from shared.wire.envelope import open_envelope, seal
from shared.wire.manifest import MANIFEST_TYPE, Entry, Kind, Manifest

KEPT = 8
"""So many manifests are kept in the database, to look back at."""


@dataclass(frozen=True, slots=True)
class Published:
    """A manifest as racks get it."""

    manifest: Manifest
    envelope: bytes

    @property
    def etag(self) -> str:
        """A strong ETag: it changes with the manifest and with nothing else."""
        return f'"{self.manifest.epoch}-{self.manifest.serial}"'


_HELD = text("""
    SELECT products.kind, products.os, products.release, products.arch, products.subarch, products.label,
           products.bootloader_type, products.is_ga, versions.id AS version_id, versions.name AS version,
           items.key, items.ftype, items.sha256, items.size
    FROM versions
    JOIN products ON products.id = versions.product_id
    JOIN sources ON sources.id = products.source_id
    JOIN items ON items.version_id = versions.id
    WHERE versions.held_at IS NOT NULL
    ORDER BY sources.priority DESC, versions.name DESC, versions.id, items.key
""")


async def entries(connection: AsyncConnection) -> tuple[Entry, ...]:
    """The entries for what is held now, by path. Of versions that claim one place, the best source's newest has it."""
    owners: dict[str, int] = {}
    sizes: dict[str, int] = {}
    named: list[Entry] = []
    for _, rows in itertools.groupby(await connection.execute(_HELD), key=lambda row: row.version_id):
        version = list(rows)
        if any(sizes.setdefault(row.sha256, row.size) != row.size for row in version):
            # It contradicts a better source about a file: the other one's size was found right when it was fetched.
            continue
        for item, slot in ((row, slot) for row in version for slot in _slots(row)):
            if owners.setdefault(slot, item.version_id) != item.version_id:
                continue
            archive = item.kind == ProductKind.BOOTLOADER
            named.append(
                Entry(
                    path=slot if archive else layout.file_path(slot, item.ftype),
                    kind=Kind.ARCHIVE if archive else Kind.FILE,
                    sha256=Sha256(item.sha256),
                    size=item.size,
                    image=str(products.image(item)),
                    version=item.version,
                )
            )
    return tuple(sorted(named, key=lambda entry: entry.path))


def _slots(row: Any) -> list[RelativePath]:
    slot = products.slot(row)
    # Machines that ask for no particular kernel get the one the release came with.
    return [slot, layout.generic_place(row.os, row.arch, row.release, row.label)] if row.is_ga else [slot]


async def publish(connection: AsyncConnection, key: Ed25519PrivateKey, now: datetime) -> None:
    """Sign a manifest of what is held now, unless the latest says so already. Publishers queue on the region's row."""
    row = (await connection.execute(select(region.c.epoch, region.c.serial).with_for_update())).one()
    wanted = await entries(connection)
    latest = await current(connection, key)
    if latest is not None and latest.manifest.epoch == row.epoch and latest.manifest.entries == wanted:
        # Another version with the very same files is named by this manifest already.
        await _name_held(connection, latest.manifest.serial)
        return
    manifest = Manifest(epoch=row.epoch, serial=row.serial + 1, created_at=now, entries=wanted)
    await connection.execute(update(region).values(serial=manifest.serial))
    await connection.execute(
        insert(manifests).values(
            epoch=manifest.epoch,
            serial=manifest.serial,
            envelope=seal(key, MANIFEST_TYPE, manifest.encode()),
            created_at=now,
        )
    )
    await connection.execute(
        delete(manifests).where(manifests.c.epoch == manifest.epoch, manifests.c.serial <= manifest.serial - KEPT)
    )
    await _name_held(connection, manifest.serial)
    await notify(connection, Topic.MANIFEST, Topic.IMAGES)


async def _name_held(connection: AsyncConnection, serial: int) -> None:
    await connection.execute(
        update(versions)
        .where(versions.c.held_at.is_not(None), versions.c.held_serial.is_(None))
        .values(held_serial=serial)
    )


async def newest(connection: AsyncConnection) -> tuple[int, int] | None:
    """(epoch, serial) of the newest manifest; None before the first."""
    row = (
        await connection.execute(
            select(manifests.c.epoch, manifests.c.serial)
            .order_by(manifests.c.epoch.desc(), manifests.c.serial.desc())
            .limit(1)
        )
    ).one_or_none()
    return None if row is None else (row.epoch, row.serial)


async def current(connection: AsyncConnection, key: Ed25519PrivateKey) -> Published | None:
    """The newest manifest, verified again after its stay in the database; None before the first.

    Raises BadSignature when the database was signed by another key, InvalidDocument.
    """
    envelope: bytes | None = await connection.scalar(
        select(manifests.c.envelope).order_by(manifests.c.epoch.desc(), manifests.c.serial.desc()).limit(1)
    )
    if envelope is None:
        return None
    payload = open_envelope(envelope, MANIFEST_TYPE, [key.public_key()], origin="The manifest in the database")
    return Published(Manifest.parse(payload), envelope)
