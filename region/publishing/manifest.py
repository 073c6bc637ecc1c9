"""The manifest: what racks are told to hold, built from held versions place by place, and signed.

- A place (`shared.layout`) is shown by one held version. Should two claim it, the source with the greater priority has
  it, then the newer version.
- The kernel a release came with is also shown as `generic`, unless a product is called so itself.
- A version that contradicts a better one about a file's size is not shown: the other one's was found right when it was
  fetched.

Who may change what is held, and publishes it, is `region.publishing.held`.
"""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import delete, insert, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import manifests
from region.stream.documents import ProductKind
from shared import layout
from shared.digest import Sha256
from shared.names import RelativePath
from shared.wire.envelope import open_envelope, seal
from shared.wire.manifest import MANIFEST_TYPE, Entry, Kind, Manifest

KEPT = 8
"""The envelopes of so many manifests are kept in the database, to look back at; of all, the digests."""


@dataclass(frozen=True, slots=True)
class Published:
    """A manifest as racks get it; `sha256` is of the payload that is signed."""

    manifest: Manifest
    envelope: bytes
    sha256: Sha256

    @property
    def etag(self) -> str:
        """A strong ETag: it changes with the manifest and with nothing else, also when a database was restored."""
        return f'"{self.manifest.epoch}-{self.manifest.serial}-{self.sha256[:16]}"'


@dataclass(frozen=True, slots=True)
class Shown:
    """What one place shows: its entries, and those of its alias, where it has one."""

    entries: tuple[Entry, ...]
    alias: RelativePath | None
    alias_entries: tuple[Entry, ...]


_HELD = text("""
    SELECT products.kind, products.os, products.release, products.arch, products.label, products.image, products.place,
           products.is_ga, versions.id AS version_id, versions.name AS version, items.ftype, items.sha256, items.size
    FROM versions
    JOIN products ON products.id = versions.product_id
    JOIN sources ON sources.id = products.source_id
    JOIN items ON items.version_id = versions.id
    WHERE versions.held_at IS NOT NULL
      AND (CAST(:places AS text[]) IS NULL OR products.place = ANY(CAST(:places AS text[])))
    ORDER BY sources.priority DESC, versions.name DESC, versions.id, items.key
""")


async def shown(connection: AsyncConnection, places: Sequence[str] | None = None) -> dict[str, Shown]:
    """What these places show (all of them when None is given); one that shows nothing is left out."""
    found: dict[str, Shown] = {}
    sizes: dict[str, int] = {}
    rows = await connection.execute(_HELD, {"places": None if places is None else list(places)})
    for _, group in itertools.groupby(rows, key=lambda row: row.version_id):
        version = list(group)
        place = RelativePath(version[0].place)
        contradicts = any(sizes.setdefault(row.sha256, row.size) != row.size for row in version)
        if place not in found and not contradicts:
            alias: RelativePath | None = None
            if version[0].is_ga:
                first = version[0]
                alias = layout.generic_place(first.os, first.arch, first.release, first.label)
            found[place] = Shown(
                tuple(_entry(place, row) for row in version),
                alias,
                tuple(_entry(alias, row) for row in version) if alias else (),
            )
    return found


def _entry(place: RelativePath, row: Any) -> Entry:
    archive = row.kind == ProductKind.BOOTLOADER
    return Entry(
        path=RelativePath(place) if archive else layout.file_path(place, row.ftype),
        kind=Kind.ARCHIVE if archive else Kind.FILE,
        sha256=Sha256(row.sha256),
        size=row.size,
        image=row.image,
        version=row.version,
    )


def entries(places: Mapping[str, Shown]) -> tuple[Entry, ...]:
    """The entries of all places and aliases, by path. Of two places with one alias, the first by name has it."""
    taken = set(places)
    named: list[Entry] = []
    for _, place in sorted(places.items()):
        named += place.entries
        if place.alias and place.alias not in taken:
            taken.add(place.alias)
            named += place.alias_entries
    return tuple(sorted(named, key=lambda entry: (entry.path, entry.sha256)))


def sign(manifest: Manifest, key: Ed25519PrivateKey) -> Published:
    """The manifest as racks get it."""
    payload = manifest.encode()
    return Published(manifest, seal(key, MANIFEST_TYPE, payload), Sha256.of(payload))


async def write(connection: AsyncConnection, published: Published, now: datetime) -> None:
    """Keep the manifest; of its epoch, the last KEPT ones stay."""
    manifest = published.manifest
    await connection.execute(
        insert(manifests).values(
            epoch=manifest.epoch,
            serial=manifest.serial,
            envelope=published.envelope,
            sha256=published.sha256,
            created_at=now,
        )
    )
    await connection.execute(
        update(manifests)
        .where(
            manifests.c.epoch == manifest.epoch,
            manifests.c.serial <= manifest.serial - KEPT,
            manifests.c.envelope.is_not(None),
        )
        .values(envelope=None)
    )
    # A rack that knows a manifest of an earlier epoch is behind, whatever its digest.
    await connection.execute(delete(manifests).where(manifests.c.epoch < manifest.epoch))


async def forget(connection: AsyncConnection) -> None:
    """As if nothing had been published: the key that signed it all is lost."""
    await connection.execute(delete(manifests))


async def newest(connection: AsyncConnection) -> tuple[int, int, str] | None:
    """(epoch, serial, SHA-256 of the payload) of the newest manifest; None before the first."""
    row = (
        await connection.execute(
            select(manifests.c.epoch, manifests.c.serial, manifests.c.sha256)
            .order_by(manifests.c.epoch.desc(), manifests.c.serial.desc())
            .limit(1)
        )
    ).one_or_none()
    return None if row is None else (row.epoch, row.serial, row.sha256)


async def earlier(
    connection: AsyncConnection, key: Ed25519PrivateKey, since: datetime
) -> list[tuple[Manifest, datetime]]:
    """The manifests before the newest that were replaced at `since` or later, and when; those whose envelope is kept.

    Raises BadSignature, InvalidDocument.
    """
    rows = await connection.execute(
        select(manifests.c.envelope, manifests.c.created_at)
        .where(manifests.c.envelope.is_not(None))
        .order_by(manifests.c.epoch.desc(), manifests.c.serial.desc())
        .limit(KEPT)
    )
    found: list[tuple[Manifest, datetime]] = []
    replaced_at: datetime | None = None
    for row in rows:
        if replaced_at is not None:
            if replaced_at < since:
                break
            payload = open_envelope(
                row.envelope, MANIFEST_TYPE, [key.public_key()], origin="A manifest in the database"
            )
            found.append((Manifest.parse(payload), replaced_at))
        replaced_at = row.created_at
    return found


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
    return Published(Manifest.parse(payload), envelope, Sha256.of(payload))
