"""The manifest: what is held, signed, and nothing else."""

import asyncio
import json
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.database.connection import transaction
from region.publishing import manifest
from region.publishing.memory import Memory
from shared.digest import Sha256
from shared.errors import BadSignature, BootferryError, InvalidDocument
from shared.wire.envelope import seal
from shared.wire.manifest import MANIFEST_TYPE, Kind
from tests.db.rows import (
    EPOCH,
    NOW,
    bootloader,
    digest,
    hold,
    item,
    kernel,
    make_region,
    make_source,
    publish,
    reading,
    record,
)

GA = "ubuntu/amd64/ga-24.04/noble/stable"
HWE = "ubuntu/amd64/hwe-24.04/noble/stable"
GENERIC = "ubuntu/amd64/generic/noble/stable"
NOBLE = "noble/amd64"


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
async def region(engine: AsyncEngine, key: Ed25519PrivateKey) -> AsyncEngine:
    """An engine on the database of a region with this key."""
    async with transaction(engine) as connection:
        await make_region(connection, key)
    return engine


async def said_since(connection: AsyncConnection) -> dict[str, int]:
    """By image, the serial since which manifests say of it what the current one says."""
    found = await connection.execute(text("SELECT image, since FROM published_images"))
    return {row.image: row.since for row in found}


async def test_a_region_that_never_held_anything_publishes_nothing(region: AsyncEngine, key: Ed25519PrivateKey) -> None:
    """A database made anew must not tell racks that there is nothing: they hold what the one before published."""
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("1"))
        await publish(connection, key)
        assert await manifest.current(connection, key) is None
        await hold(connection, source_id, "1")
        first = await publish(connection, key)
        assert first.manifest.order == (EPOCH, 1)
        assert first.manifest.created_at == NOW
        assert first.etag == f'"{EPOCH}-1-{Sha256.of(first.manifest.encode())[:16]}"'


async def test_a_region_that_holds_nothing_any_longer_says_so(region: AsyncEngine, key: Ed25519PrivateKey) -> None:
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("1"))
        await hold(connection, source_id, "1")
        await publish(connection, key)
        await connection.execute(text("UPDATE versions SET held_at = NULL"))
        published = await publish(connection, key)
        assert published.manifest.entries == ()
        assert published.manifest.order == (EPOCH, 2)


async def test_what_is_held_has_its_names(region: AsyncEngine, key: Ed25519PrivateKey) -> None:
    async with transaction(region) as connection:
        source_id = await make_source(
            connection, kernel("1", "2"), kernel("1", subarch="hwe-24.04"), bootloader("1"), kernel("9", release="x")
        )
        await hold(connection, source_id, "1")
        entries = (await publish(connection, key)).manifest.entries
    ga = {ftype: digest(f"{NOBLE}/1/ga-24.04/{ftype}") for ftype in ("boot-initrd", "boot-kernel")}
    hwe = {ftype: digest(f"{NOBLE}/1/hwe-24.04/{ftype}") for ftype in ("boot-initrd", "boot-kernel")}
    squashfs = digest(f"{NOBLE}/1/squashfs")
    assert {entry.path: entry.sha256 for entry in entries if entry.kind is Kind.FILE} == {
        **{f"{slot}/{ftype}": sha256 for slot in (GA, GENERIC) for ftype, sha256 in ga.items()},
        **{f"{HWE}/{ftype}": sha256 for ftype, sha256 in hwe.items()},
        **{f"{slot}/squashfs": squashfs for slot in (GA, GENERIC, HWE)},
    }
    assert [entry.path for entry in entries] == sorted(entry.path for entry in entries)
    archives = {(entry.path, entry.sha256, entry.size) for entry in entries if entry.kind is Kind.ARCHIVE}
    assert archives == {
        ("bootloader/uefi/amd64", digest(f"grub-efi-signed/amd64/1/{name}.tar.xz"), 50)
        for name in ("grub2-signed", "shim-signed")
    }


async def test_the_serial_rises_with_every_change_and_with_nothing_else(
    region: AsyncEngine, key: Ed25519PrivateKey
) -> None:
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("1"), kernel("1", subarch="hwe-24.04"))
        await hold(connection, source_id, "1", subarch="ga-24.04")
        first = await publish(connection, key)
        again = await publish(connection, key, NOW + timedelta(hours=1))
        assert (again.envelope, again.etag) == (first.envelope, first.etag)
        await hold(connection, source_id, "1", subarch="hwe-24.04")
        second = await publish(connection, key)
        await connection.execute(text("UPDATE versions SET held_at = NULL"))
        third = await publish(connection, key)
        assert [entry.manifest.serial for entry in (first, second, third)] == [1, 2, 3]
        assert third.manifest.entries == ()


async def test_each_image_knows_the_first_manifest_that_says_what_it_is_now(
    region: AsyncEngine, key: Ed25519PrivateKey
) -> None:
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("2"), kernel("3", release="jammy"))
        await hold(connection, source_id, "2")
        await publish(connection, key)
        assert await said_since(connection) == {"ubuntu:noble:amd64": 1}
        await hold(connection, source_id, "3")
        await publish(connection, key)
        assert await said_since(connection) == {"ubuntu:noble:amd64": 1, "ubuntu:jammy:amd64": 2}


@pytest.mark.parametrize("other_source", [False, True], ids=["a new version", "another source"])
async def test_a_version_with_the_very_files_of_the_one_before_is_in_the_manifest_already(
    region: AsyncEngine, key: Ed25519PrivateKey, other_source: bool
) -> None:
    """Without its serial no rack would ever count as serving it, and its image would never be synced."""
    same = kernel("1")
    renamed = kernel("2")
    rebuilt = type(renamed)(
        **{
            **{name: getattr(renamed, name) for name in renamed.__slots__},
            "versions": (*same.versions, type(renamed.versions[0])(renamed.versions[0].name, same.versions[0].items)),
        }
    )
    async with transaction(region) as connection:
        source_id = await make_source(connection, same if other_source else rebuilt)
        await hold(connection, source_id, "1")
        await publish(connection, key)
        if other_source:
            following = await make_source(connection, kernel("1"), name="second", priority=20)
            await hold(connection, following, "1")
        else:
            await hold(connection, source_id, "2")
        await connection.execute(
            text(
                "UPDATE versions SET held_at = NULL WHERE id = (SELECT min(id) FROM versions WHERE held_at IS NOT NULL)"
            )
        )
        published = await publish(connection, key)
        serial = 1 if other_source else 2
        assert published.manifest.serial == serial, "a manifest says which version it names; racks have nothing to pull"
        assert await said_since(connection) == {"ubuntu:noble:amd64": 1}, "the files are what they were"


async def test_of_two_sources_that_hold_one_place_the_higher_priority_has_it_whole(
    region: AsyncEngine, key: Ed25519PrivateKey
) -> None:
    async with transaction(region) as connection:
        low = await make_source(connection, kernel("2"), bootloader("2"), name="low", priority=10)
        high = await make_source(connection, kernel("1"), bootloader("1"), name="high", priority=20)
        await hold(connection, low, "2")
        before = await publish(connection, key)
        await hold(connection, high, "1")
        after = await publish(connection, key)
    assert {entry.path for entry in before.manifest.entries} == {entry.path for entry in after.manifest.entries}
    assert {entry.sha256 for entry in after.manifest.entries}.isdisjoint(before.manifest.files())
    assert digest(f"{NOBLE}/1/squashfs") in after.manifest.files()


async def test_of_two_versions_that_hold_one_place_the_newer_has_it(
    region: AsyncEngine, key: Ed25519PrivateKey
) -> None:
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("20260701.9", "20260701.10"))
        for serial in ("20260701.9", "20260701.10"):
            await hold(connection, source_id, serial)
        entries = (await publish(connection, key)).manifest.entries
        # As byte strings, not as numbers.
        assert {entry.sha256 for entry in entries if entry.path == f"{GA}/boot-kernel"} == {
            digest(f"{NOBLE}/20260701.9/ga-24.04/boot-kernel")
        }


async def test_a_digest_that_two_sources_give_two_sizes_does_not_stop_the_others(
    region: AsyncEngine, key: Ed25519PrivateKey
) -> None:
    """One bad product costs that product only: what one source claims must not keep another's images from racks."""
    async with transaction(region) as connection:
        good = await make_source(connection, kernel("1"), name="good", priority=10)
        hwe = kernel("1", subarch="hwe-24.04")
        lie = type(hwe.versions[0])(
            hwe.versions[0].name, (*hwe.versions[0].items[:2], item(f"{NOBLE}/1/squashfs", size=1001))
        )
        lying = type(hwe)(**{**{name: getattr(hwe, name) for name in hwe.__slots__}, "versions": (lie,)})
        bad = await make_source(connection, lying, name="bad", priority=5)
        await hold(connection, good, "1")
        await hold(connection, bad, "1")
        published = await publish(connection, key)
        assert f"{GA}/squashfs" in {entry.path for entry in published.manifest.entries}
        assert published.manifest.files()[digest(f"{NOBLE}/1/squashfs")] == 1000


async def test_publishers_that_meet_make_one_manifest(region: AsyncEngine, key: Ed25519PrivateKey) -> None:
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("1"))
        await hold(connection, source_id, "1")

    async def one() -> int:
        async with transaction(region) as connection:
            return (await publish(connection, key)).manifest.serial

    assert await asyncio.gather(*(one() for _ in range(6))) == [1] * 6


async def test_the_last_few_manifests_are_kept(region: AsyncEngine, key: Ed25519PrivateKey) -> None:
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("1"))
        for n in range(manifest.KEPT + 3):
            if n % 2 == 0:
                await hold(connection, source_id, "1")
            else:
                await connection.execute(text("UPDATE versions SET held_at = NULL"))
            await publish(connection, key)
        kept = text("SELECT serial FROM manifests WHERE envelope IS NOT NULL ORDER BY serial")
        assert list(await connection.scalars(kept)) == list(range(4, manifest.KEPT + 4))
        named = text("SELECT serial FROM manifests WHERE sha256 <> '' ORDER BY serial")
        assert list(await connection.scalars(named)) == list(range(1, manifest.KEPT + 4)), "the digests of all"


async def test_a_product_that_vanished_upstream_stays_in_the_manifest(
    region: AsyncEngine, key: Ed25519PrivateKey
) -> None:
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("1"), bootloader("1"))
        await hold(connection, source_id, "1")
        before = await publish(connection, key)
        await record(connection, source_id, reading(updated=NOW + timedelta(hours=1)))
        assert (await publish(connection, key)).envelope == before.envelope


def _flipped(envelope: bytes) -> bytes:
    document = json.loads(envelope)
    first = document["payload"][0]
    changed = {**document, "payload": ("A" if first != "A" else "B") + document["payload"][1:]}
    return json.dumps(changed, separators=(",", ":")).encode()


@pytest.mark.parametrize(
    ("tampered", "error"),
    [
        pytest.param(_flipped, BadSignature, id="other bytes"),
        pytest.param(
            lambda _: seal(Ed25519PrivateKey.generate(), MANIFEST_TYPE, b"{}"), BadSignature, id="another signer"
        ),
        pytest.param(lambda _: b"", InvalidDocument, id="nothing"),
        pytest.param(lambda _: b"[]", InvalidDocument, id="no envelope"),
        pytest.param(
            lambda envelope: envelope.replace(b"bootferry.manifest", b"bootferry.other"), InvalidDocument, id="a type"
        ),
    ],
)
async def test_what_was_tampered_with_in_the_database_is_not_told_to_racks(
    region: AsyncEngine, key: Ed25519PrivateKey, tampered: object, error: type[BootferryError]
) -> None:
    assert callable(tampered)
    async with transaction(region) as connection:
        await hold(connection, await make_source(connection, kernel("1")), "1")
        published = await publish(connection, key)
        await connection.execute(text("UPDATE manifests SET envelope = :e"), {"e": tampered(published.envelope)})
    async with transaction(region) as connection:
        with pytest.raises(error):
            await manifest.current(connection, key)


async def test_a_process_answers_what_the_database_has_also_after_it_was_restored(
    region: AsyncEngine, key: Ed25519PrivateKey
) -> None:
    memory = Memory(region, key)
    await memory.refresh()
    assert (memory.published, memory.published_sizes) == (None, {})
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("1"))
        await hold(connection, source_id, "1")
        published = await publish(connection, key)
    await memory.refresh()
    assert (memory.published, memory.published_sizes) == (published, published.manifest.files())
    # The same epoch and serial once more, of another history.
    async with transaction(region) as connection:
        await connection.execute(text("DELETE FROM manifests"))
        await connection.execute(text("UPDATE region SET serial = 0"))
        again = await publish(connection, key, NOW + timedelta(hours=1))
    assert again.manifest.order == published.manifest.order
    await memory.refresh()
    assert memory.published == again
    assert again.etag != published.etag


async def test_files_of_a_manifest_are_named_for_a_grace_after_it(region: AsyncEngine, key: Ed25519PrivateKey) -> None:
    moments = [NOW]

    def memory_of_a_process() -> Memory:
        return Memory(region, key, grace=timedelta(hours=1), now=lambda: moments[-1])

    memory = memory_of_a_process()
    only = {serial: digest(f"noble/amd64/{serial}/squashfs") for serial in ("1", "2", "3")}
    async with transaction(region) as connection:
        source_id = await make_source(connection, kernel("1", "2", "3"))
    for minutes, serial in ((0, "1"), (30, "2"), (45, "3")):
        moments.append(NOW + timedelta(minutes=minutes))
        async with transaction(region) as connection:
            await connection.execute(text("UPDATE versions SET held_at = NULL"))
            await hold(connection, source_id, serial)
            await publish(connection, key, moments[-1])
        await memory.refresh()

    def named(by: Memory, minutes: float) -> list[str]:
        moments.append(NOW + timedelta(minutes=minutes))
        return [serial for serial, sha256 in only.items() if by.is_named(sha256)]

    fresh = memory_of_a_process()
    assert named(fresh, 45) == []
    await fresh.refresh()
    for by in (memory, fresh):
        assert named(by, 45) == ["1", "2", "3"]
        assert named(by, 89.9) == ["1", "2", "3"]
        assert named(by, 90.1) == ["2", "3"]
        assert named(by, 105.1) == ["3"]
    late = memory_of_a_process()
    moments.append(NOW + timedelta(minutes=100))
    await late.refresh()
    assert named(late, 100) == ["2", "3"]
    assert not late.is_named(digest("nobody named this"))
    # What comes back in a later manifest is named by it, not by what was remembered.
    async with transaction(region) as connection:
        await connection.execute(text("UPDATE versions SET held_at = NULL"))
        await hold(connection, source_id, "1")
        await publish(connection, key, moments[-1])
    await late.refresh()
    assert named(late, 1000) == ["1"]


async def test_an_epoch_outranks_every_serial_before_it(region: AsyncEngine, key: Ed25519PrivateKey) -> None:
    async with transaction(region) as connection:
        await hold(connection, await make_source(connection, kernel("1")), "1")
        for _ in range(3):
            await publish(connection, key)
        await connection.execute(text("UPDATE region SET epoch = epoch + 1, serial = 0"))
        published = await publish(connection, key)
        assert published.manifest.order == (EPOCH + 1, 1)
