"""Since when the manifest says what it says of each image, and what an upgrade makes of a database of before."""

import hashlib
import json
from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deploy.local import postgres
from region.database import connection as database
from region.database.connection import create_engine, migrate, transaction
from region.fleet import racks
from region.publishing import manifest as publishing
from region.publishing import since
from shared.digest import Sha256
from shared.names import RelativePath
from shared.signing import fingerprint
from shared.wire.envelope import seal
from shared.wire.manifest import MANIFEST_TYPE, Entry, Kind, Manifest
from tests.db.rows import EPOCH, NOW

KEY = Ed25519PrivateKey.generate()
NOBLE, JAMMY, UEFI = "ubuntu:noble:amd64", "ubuntu:jammy:amd64", "bootloader:uefi:amd64"


def entry(path: str, content: bytes, image: str = "", version: str = "", kind: Kind = Kind.FILE) -> Entry:
    return Entry(RelativePath(path), kind, Sha256.of(content), len(content), image, version)


def noble(content: bytes, version: str = "1") -> Entry:
    return entry("ubuntu/amd64/ga-24.04/noble/stable/boot-kernel", content, NOBLE, version)


def jammy(content: bytes, version: str = "1") -> Entry:
    return entry("ubuntu/amd64/ga-22.04/jammy/stable/boot-kernel", content, JAMMY, version)


def made(serial: int, *entries: Entry, epoch: int = EPOCH) -> Manifest:
    return Manifest(epoch, serial, NOW, entries)


async def rows(connection: AsyncConnection) -> dict[str, tuple[str, int]]:
    found = await connection.execute(text("SELECT image, version, since FROM published_images"))
    return {row.image: (row.version, row.since) for row in found}


async def test_an_image_is_as_it_is_since_its_content_changed(engine: AsyncEngine) -> None:
    one = made(1, noble(b"a"), jammy(b"b"))
    two = made(2, noble(b"c", "2"), jammy(b"b"))
    # Another name for the same files, and another path for others.
    three = made(3, noble(b"c", "3"), jammy(b"b"))
    four = made(4, entry("ubuntu/amd64/generic/noble/stable/boot-kernel", b"c", NOBLE, "3"))
    back = made(5, noble(b"c", "3"), jammy(b"b"))
    async with transaction(engine) as connection:
        await since.record(connection, None, one)
        assert await rows(connection) == {NOBLE: ("1", 1), JAMMY: ("1", 1)}
        await since.record(connection, one, two)
        assert await rows(connection) == {NOBLE: ("2", 2), JAMMY: ("1", 1)}
        await since.record(connection, two, three)
        assert await rows(connection) == {NOBLE: ("3", 2), JAMMY: ("1", 1)}
        await since.record(connection, three, four)
        assert await rows(connection) == {NOBLE: ("3", 4)}
        await since.record(connection, four, back)
        assert await rows(connection) == {NOBLE: ("3", 5), JAMMY: ("1", 5)}
        # The kernels of an image may come in several versions.
        mixed = made(6, noble(b"c", "3"), entry("ubuntu/amd64/hwe-24.04/noble/stable/boot-kernel", b"d", NOBLE, "4"))
        await since.record(connection, back, mixed)
        assert await rows(connection) == {NOBLE: ("4", 6)}
        await since.record(connection, mixed, made(7))
        assert await rows(connection) == {}


async def test_a_new_epoch_begins_anew(engine: AsyncEngine) -> None:
    before = made(8, noble(b"a"), jammy(b"b"))
    async with transaction(engine) as connection:
        await since.record(connection, None, before)
        await since.record(connection, before, made(1, noble(b"a"), epoch=EPOCH + 1))
        assert await rows(connection) == {NOBLE: ("1", 1)}


async def test_what_stays_is_not_written(engine: AsyncEngine) -> None:
    before = made(1, noble(b"a"), jammy(b"b"))
    async with transaction(engine) as connection:
        await since.record(connection, None, before)
        places = text("SELECT image, ctid::text FROM published_images ORDER BY image")
        found = (await connection.execute(places)).all()
        await since.record(connection, before, made(2, noble(b"c"), jammy(b"b")))
        after = (await connection.execute(places)).all()
        assert [old.image for old, new in zip(found, after, strict=True) if old != new] == [NOBLE]


# An upgrade


@pytest.fixture
async def of_before(database_server: postgres.Server) -> AsyncIterator[AsyncEngine]:
    """A database of the code that kept what every rack holds, digest by digest."""
    await database_server.create_database("of_before")
    engine = create_engine(database_server.url("of_before"))
    async with transaction(engine) as connection:
        await connection.run_sync(_upgrade_to_then)
    yield engine
    await engine.dispose()
    await database_server.drop_database("of_before")


def _upgrade_to_then(connection: Connection) -> None:
    from alembic import command

    configuration = database._configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "0002")


def _old_payload(serial: int, *entries: Entry) -> bytes:
    """A manifest as it was written when entries said neither image nor version."""
    return json.dumps(
        {
            "format": "bootferry-manifest:1",
            "epoch": EPOCH,
            "serial": serial,
            "created_at": NOW.isoformat(),
            "entries": [
                {"path": one.path, "kind": str(one.kind), "sha256": one.sha256, "size": one.size} for one in entries
            ],
        }
    ).encode()


async def test_an_upgraded_database_shows_racks_right(of_before: AsyncEngine) -> None:
    grub = entry("bootloader/uefi/amd64", b"grub", kind=Kind.ARCHIVE)
    payloads = {
        serial: _old_payload(serial, *entries)
        for serial, entries in {
            6: (noble(b"a"), jammy(b"b"), grub),
            7: (noble(b"c"), jammy(b"b")),
            8: (noble(b"c"), jammy(b"b"), grub),
        }.items()
    }
    async with transaction(of_before) as connection:
        await connection.execute(
            text("INSERT INTO region (id, fingerprint, epoch, serial, created_at) VALUES (1, :key, :epoch, 8, :now)"),
            {"key": fingerprint(KEY), "epoch": EPOCH, "now": NOW},
        )
        for serial, payload in payloads.items():
            await connection.execute(
                text("INSERT INTO manifests VALUES (:epoch, :serial, :envelope, :now)"),
                {"epoch": EPOCH, "serial": serial, "envelope": seal(KEY, MANIFEST_TYPE, payload), "now": NOW},
            )
        for name, serial, held in (
            ("whole", 8, (b"c", b"b", b"grub")),
            ("behind", 7, (b"c", b"b", b"grub")),
            ("lost", 8, (b"c", b"grub")),
            ("new", 0, ()),
        ):
            await connection.execute(
                text("""
                    INSERT INTO racks (id, name, public_key, enrolled_at, last_seen_at, epoch, serial, report_sequence)
                    VALUES (:name, :name, :key, :now, :now, :epoch, :serial, 5)
                """),
                {
                    "name": name,
                    "key": "A" * 42 + str(len(name)),
                    "now": NOW,
                    "epoch": EPOCH * (serial > 0),
                    "serial": serial,
                },
            )
            for content in held:
                await connection.execute(
                    text("INSERT INTO rack_files VALUES (:name, :sha256)"),
                    {"name": name, "sha256": Sha256.of(content)},
                )
    await migrate(of_before)
    async with transaction(of_before) as connection:
        assert await rows(connection) == {NOBLE: ("", 7), JAMMY: ("", 6), UEFI: ("", 8)}
        assert {
            name: {(entry.image, entry.state) for entry in await racks.lacking(connection, name)}
            for name in ("whole", "behind", "lost", "new")
        } == {
            "whole": set(),
            "behind": {(UEFI, "behind")},
            "lost": {(JAMMY, "pending")},
            "new": {(NOBLE, "behind"), (JAMMY, "behind"), (UEFI, "behind")},
        }
        known = await connection.scalar(text("SELECT knows_sha256 FROM racks WHERE id = 'whole'"))
        assert known == hashlib.sha256(payloads[8]).hexdigest()
        published = await publishing.current(connection, KEY)
        assert published is not None
        assert published.etag == f'"{EPOCH}-8-{known[:16]}"'
        # The first manifest of the new code says images and versions; racks have nothing to do for it.
        after = made(9, noble(b"c", "2"), jammy(b"b", "2"), entry(grub.path, b"grub", UEFI, "2", Kind.ARCHIVE))
        await since.record(connection, published.manifest, after)
        assert await rows(connection) == {NOBLE: ("2", 7), JAMMY: ("2", 6), UEFI: ("2", 8)}
