"""The catalogue: what a reading leaves behind."""

import resource
import time
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TypeVar

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import literal_column, select, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.actions import effect
from region.catalogue import products, targets, versions
from region.catalogue.products import INDEX, Document, Reading
from region.database import tables
from region.database.connection import transaction
from region.stream.documents import Product, parse_index, parse_products
from shared.errors import TooOld
from shared.names import ImageKey, Name, RelativePath
from tests.db.rows import (
    NOBLE,
    NOW,
    STREAM,
    bootloader,
    decided,
    digest,
    hold,
    item,
    kernel,
    make_region,
    make_source,
    reading,
    record,
    select_images,
    store_files,
)

LATER = NOW + timedelta(hours=1)
STABLE = Path(__file__).parents[3] / "shared" / "data" / "stable-stream"


async def rows(connection: AsyncConnection) -> dict[str, list[tuple[object, ...]]]:
    """Every row of the catalogue with the transaction that wrote it: what is equal was not written again."""
    return {
        table.name: [
            tuple(row)
            for row in await connection.execute(
                select(literal_column("xmin::text"), *table.c).order_by(*table.primary_key)
            )
        ]
        for table in (tables.products, tables.versions, tables.items)
    }


async def known(connection: AsyncConnection) -> set[tuple[str, str, bool, bool, bool]]:
    """(product, version, product is offered, version is offered, held)."""
    found = await connection.execute(
        text("""
            SELECT products.name, versions.name AS version, products.offered AS product_offered, versions.offered,
                   versions.held_at IS NOT NULL AS held
            FROM products LEFT JOIN versions ON versions.product_id = products.id
        """)
    )
    return {tuple(row) for row in found}


GA, HWE = "org.example:noble:amd64:ga-24.04", "org.example:noble:amd64:hwe-24.04"


async def test_a_reading_is_remembered(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701", "20260702"), bootloader("1"))
        assert await known(connection) == {
            (GA, "20260701", True, True, False),
            (GA, "20260702", True, True, False),
            ("org.example:grub-efi-signed:uefi:amd64", "1", True, True, False),
        }
        signers = ("unsigned:http://first.example/",)
        assert await products.accepted(connection, source_id) == {
            INDEX: Document(INDEX, RelativePath("streams/v1/index.sjson"), NOW, "", vouched_by=signers),
            STREAM: Document(STREAM, RelativePath(f"streams/v1/{STREAM}.sjson"), NOW, "", vouched_by=signers),
        }
        assert await products.is_known(connection, source_id, NOBLE)
        assert not await products.is_known(connection, source_id, ImageKey.parse("ubuntu:jammy:amd64"))
        # A bootloader is no image that anybody could select.
        assert not await products.is_known(
            connection, source_id, ImageKey.parse("grub-efi-signed:grub-efi-signed:amd64")
        )


async def test_reading_the_same_again_writes_nothing(engine: AsyncEngine) -> None:
    offered = [kernel("20260701", "20260702"), kernel("20260701", subarch="hwe-24.04"), bootloader("1")]
    async with transaction(engine) as connection:
        source_id = await make_source(connection, *offered)
        await hold(connection, source_id, "20260701")
    async with transaction(engine) as connection:
        before = await rows(connection)
    for _ in range(2):
        async with transaction(engine) as connection:
            assert await record(connection, source_id, reading(*offered)) == []
    async with transaction(engine) as connection:
        assert await rows(connection) == before
        assert len(before["items"]) == 11


@pytest.mark.parametrize(
    ("index", "document"),
    [
        pytest.param(-1, 0, id="an older index"),
        pytest.param(0, -1, id="an older product file"),
    ],
)
async def test_what_is_accepted_never_gets_older(engine: AsyncEngine, index: int, document: int) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260702"))
        before = await known(connection)
    found = reading(kernel("20260701"), updated=NOW + timedelta(seconds=document))
    older = Reading(Document(INDEX, found.index.path, NOW + timedelta(seconds=index), ""), found.offered, found.changed)
    with pytest.raises(TooOld):
        async with transaction(engine) as connection:
            await record(connection, source_id, older)
    async with transaction(engine) as connection:
        assert await known(connection) == before
        assert {entry.updated for entry in (await products.accepted(connection, source_id)).values()} == {NOW}


async def test_sources_do_not_disturb_each_other(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        first = await make_source(connection, kernel("20260702"), name="first", priority=1)
        second = await make_source(connection, kernel("20260702"), name="second", priority=2)
        # What binds one source binds no other, and what one drops the other still offers.
        await record(connection, second, reading(updated=LATER))
        await record(connection, first, reading(kernel("20260702"), updated=NOW))
        assert await known(connection) == {(GA, "20260702", True, True, False)}


@pytest.mark.parametrize(
    ("after", "unheld", "held"),
    [
        pytest.param(
            [kernel("20260701", "20260702")],
            {(GA, "20260701", True, True, False), (GA, "20260702", True, True, False)},
            {(GA, "20260701", True, True, True), (GA, "20260702", True, True, False)},
            id="nothing changes",
        ),
        pytest.param(
            [kernel("20260702")],
            {(GA, "20260702", True, True, False)},
            {(GA, "20260701", True, False, True), (GA, "20260702", True, True, False)},
            id="a version vanishes",
        ),
        pytest.param(
            [kernel("20260701", subarch="hwe-24.04")],
            {(HWE, "20260701", True, True, False)},
            {(HWE, "20260701", True, True, False), (GA, "20260701", False, True, True)},
            id="a product vanishes",
        ),
        pytest.param([], set(), {(GA, "20260701", False, True, True)}, id="everything vanishes"),
    ],
)
async def test_what_vanishes_stays_only_while_it_is_held(
    engine: AsyncEngine,
    after: list[Product],
    unheld: set[tuple[str, str, bool, bool, bool]],
    held: set[tuple[str, str, bool, bool, bool]],
) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701", "20260702"))
    async with engine.connect() as connection:
        await record(connection, source_id, reading(*after, updated=LATER))
        assert await known(connection) == unheld
        await connection.rollback()
        await hold(connection, source_id, "20260701")
        await record(connection, source_id, reading(*after, updated=LATER))
        # The flag of a version is what was last said of it; the product's own counts first.
        assert {entry[:3] + entry[4:] for entry in await known(connection)} == {entry[:3] + entry[4:] for entry in held}
        await select_images(connection, (source_id, NOBLE))
        assert (await decided(connection)).withdraw == frozenset()
        await connection.rollback()


async def test_what_vanished_comes_back_as_it_was(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        await hold(connection, source_id, "20260701")
        await select_images(connection, (source_id, NOBLE))
        before = await effect.look(connection)
        assert len(before.targets) == 1
        await record(connection, source_id, reading(updated=LATER))
        assert (await effect.look(connection)).targets == []
        await record(connection, source_id, reading(kernel("20260701"), updated=LATER))
        assert await effect.look(connection) == before


async def test_a_product_file_that_the_index_names_no_more_takes_its_products_along(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"), kernel("20260701", subarch="hwe-24.04"))
        await hold(connection, source_id, "20260701", subarch="ga-24.04")
        other = reading(bootloader("1"), content_id="org.example:bootloaders", updated=LATER)
        await record(connection, source_id, other)
        assert {entry[:3] + entry[4:] for entry in await known(connection)} == {
            (GA, "20260701", False, True),
            ("org.example:grub-efi-signed:uefi:amd64", "1", True, False),
        }
        remembered = await products.accepted(connection, source_id)
        assert {content_id for content_id, entry in remembered.items() if entry.listed} == {
            INDEX,
            "org.example:bootloaders",
        }
        assert remembered[STREAM].updated == NOW, "its age still counts when it comes back"


async def test_products_of_a_product_file_that_did_not_change_stay(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        other = reading(bootloader("1"), content_id="org.example:bootloaders", updated=LATER)
        both = Reading(other.index, other.offered | {STREAM}, other.changed)
        await record(connection, source_id, both)
        assert (GA, "20260701", True, True, False) in await known(connection)
        assert {k: d.updated for k, d in (await products.accepted(connection, source_id)).items()} == {
            INDEX: LATER,
            STREAM: NOW,
            "org.example:bootloaders": LATER,
        }


async def test_a_product_may_move_to_another_product_file(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        old = reading(updated=LATER)
        new = reading(kernel("20260701"), content_id="org.example:another", updated=LATER)
        for changed in ([*old.changed, *new.changed], [*new.changed, *old.changed]):
            await record(connection, source_id, Reading(new.index, old.offered | new.offered, changed))
            assert await known(connection) == {(GA, "20260701", True, True, False)}


def changed_kernel(**fields: object) -> Product:
    """The kernel of 20260701 with another kernel image under the same name."""
    product = kernel("20260701")
    version = product.versions[0]
    rebuilt = (*version.items[:1], item("rebuilt/boot-kernel"), *version.items[2:])
    return _replaced(product, versions=(_replaced(version, items=rebuilt),), **fields)


T = TypeVar("T")


def _replaced(value: T, **fields: object) -> T:

    return replace(value, **fields)  # type: ignore[type-var]


async def test_a_version_that_changes_under_its_own_name_is_taken_as_it_is_now(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        assert await record(connection, source_id, reading(changed_kernel(), updated=LATER)) == []
        await select_images(connection, (source_id, NOBLE))
        (target,) = await targets.list_all(connection)
        assert digest("rebuilt/boot-kernel") in {file.sha256 for file in target.files}
        assert len(target.files) == 3
        fewer = _replaced(kernel("20260701").versions[0], items=kernel("20260701").versions[0].items[:2])
        await record(connection, source_id, reading(_replaced(kernel("20260701"), versions=(fewer,)), updated=LATER))
        (target,) = await targets.list_all(connection)
        assert len(target.files) == 2


async def test_a_held_version_never_changes(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        await hold(connection, source_id, "20260701")
    async with transaction(engine) as connection:
        before = (await rows(connection))["items"]
    async with transaction(engine) as connection:
        kept = await record(connection, source_id, reading(changed_kernel(), updated=LATER))
        assert len(kept) == 1
        assert GA in kept[0]
        assert "20260701" in kept[0]
        assert (await rows(connection))["items"] == before


@pytest.mark.parametrize("less", ["fewer items", "another ftype"])
async def test_a_held_version_is_another_also_when_an_item_of_it_is_gone_or_has_another_use(
    engine: AsyncEngine, less: str
) -> None:
    """Who signs that does not vouch for what is held."""
    version = kernel("20260701").versions[0]
    *others, last = version.items
    items = tuple(others) if less == "fewer items" else (*others, replace(last, ftype=Name("manifest")))
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        await hold(connection, source_id, "20260701")
        before = (await rows(connection))["items"]
        changed = _replaced(kernel("20260701"), versions=(replace(version, items=items),))
        kept = await record(connection, source_id, reading(changed, updated=LATER))
        assert kept == [f"{GA} 20260701 changed under its own name; the held one stays."]
        assert [row[1:] for row in (await rows(connection))["items"]] == [row[1:] for row in before]


async def test_what_was_left_alone_while_it_was_held_is_read_again_until_it_can_be_taken(engine: AsyncEngine) -> None:
    """Else, after the held version was withdrawn, its old files would be asked for until the document changes."""

    def with_etag(found: Reading) -> Reading:
        return replace(found, changed=[(replace(document, etag='"1"'), stream) for document, stream in found.changed])

    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        await hold(connection, source_id, "20260701")
        await record(connection, source_id, with_etag(reading(changed_kernel(), updated=LATER)))
        assert (await products.accepted(connection, source_id))[STREAM].etag == ""
        await connection.execute(text("UPDATE versions SET held_at = NULL, vouched_by = NULL"))
        assert await record(connection, source_id, with_etag(reading(changed_kernel(), updated=LATER))) == []
        assert (await products.accepted(connection, source_id))[STREAM].etag == '"1"'
        await select_images(connection, (source_id, NOBLE))
        (target,) = await targets.list_all(connection)
        assert digest("rebuilt/boot-kernel") in {file.sha256 for file in target.files}


async def test_a_held_version_follows_its_files_to_another_place_on_the_mirror(engine: AsyncEngine) -> None:
    """Else what is lost on the region's disk would be asked for where nothing lies any longer."""
    version = kernel("20260701").versions[0]
    moved = tuple(replace(file, path=RelativePath(f"moved/{file.path}")) for file in version.items)
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        await hold(connection, source_id, "20260701")
        changed = _replaced(kernel("20260701"), versions=(replace(version, items=moved),))
        assert await record(connection, source_id, reading(changed, updated=LATER)) == []
        found = await versions.roads(connection, [file.sha256 for file in moved])
    assert {sha256: [road.path for road in roads] for sha256, roads in found.items()} == {
        file.sha256: [file.path] for file in moved
    }


@pytest.mark.parametrize("field", ["release", "os", "arch"])
async def test_a_held_product_that_upstream_gives_another_identity_stays_what_it_is(
    engine: AsyncEngine, field: str
) -> None:
    """I4: what racks serve under one name must neither move nor be withdrawn because upstream calls it otherwise."""
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        await hold(connection, source_id, "20260701")
        renamed = _replaced(kernel("20260701"), **{field: Name("other")})
        await record(connection, source_id, reading(renamed, updated=LATER))
        await select_images(connection, (source_id, NOBLE))
        state = await effect.look(connection)
        assert [version.place for version in state.held] == ["ubuntu/amd64/ga-24.04/noble/stable"]
        assert state.plan.withdraw == frozenset()


async def test_targets_are_those_of_wanted_images_and_bootloaders(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
        source_id = await make_source(
            connection,
            kernel("20260701"),
            kernel("20260701", release="jammy", version="22.04", subarch="ga-22.04"),
            kernel("20260701", release="focal", version="20.04", subarch="ga-20.04"),
            bootloader("1"),
        )
        await hold(connection, source_id, "20260701", subarch="ga-20.04")
        await select_images(connection, (source_id, NOBLE))
        state = await effect.look(connection)
        found = {target.place: target for target in state.targets}
        assert set(found) == {"ubuntu/amd64/ga-24.04/noble/stable", "bootloader/uefi/amd64"}
        assert [version.place for version in state.held] == ["ubuntu/amd64/ga-20.04/focal/stable"]
        wanted = found["ubuntu/amd64/ga-24.04/noble/stable"]
        assert (wanted.image, wanted.source_id, wanted.version) == (NOBLE, source_id, "20260701")
        assert (wanted.bootloader, wanted.offered, wanted.held) == (False, True, False)
        assert [file.path for file in wanted.files] == [
            "noble/amd64/20260701/ga-24.04/boot-initrd",
            "noble/amd64/20260701/ga-24.04/boot-kernel",
            "noble/amd64/20260701/squashfs",
        ]
        assert found["bootloader/uefi/amd64"].bootloader
        await store_files(connection, [digest("noble/amd64/20260701/squashfs")])
        found = {target.place: target for target in await targets.list_all(connection)}
        stored = [file.stored for file in found["ubuntu/amd64/ga-24.04/noble/stable"].files]
        assert stored == [False, False, True]


@pytest.mark.skipif(
    not STABLE.is_dir(), reason=f"the stable stream's metadata is not beside this checkout, at {STABLE}"
)
async def test_the_stable_stream_at_its_true_size(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
        source_id = await make_source(connection)
    peak_before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    began = time.perf_counter()
    index = parse_index((STABLE / "streams/v1/index.json").read_bytes(), "index.json")
    changed = []
    for entry in index.entries:
        stream = parse_products((STABLE / entry.path).read_bytes(), entry.path)
        changed.append((Document(entry.content_id, entry.path, stream.updated, ""), stream))
    whole = Reading(
        Document(INDEX, RelativePath("streams/v1/index.json"), index.updated, ""),
        frozenset(entry.content_id for entry in index.entries),
        changed,
    )
    ubuntu = next(stream for _, stream in changed if len(stream.products) > 100)
    selected = {(source_id, ImageKey(p.os, p.release, p.arch)) for _, stream in changed for p in stream.products}
    selected = {(source, image) for source, image in selected if image.os in ("ubuntu", "centos")}
    async with transaction(engine) as connection:
        assert await record(connection, source_id, whole) == []
        await select_images(connection, *selected)
        planned = (await effect.look(connection)).plan
    elapsed_s = time.perf_counter() - began
    grown_mb = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - peak_before) / 1024

    async with transaction(engine) as connection:
        counts = (
            await connection.execute(
                text("""
                    SELECT count(DISTINCT products.id), count(*), count(DISTINCT items.path)
                    FROM items JOIN versions ON versions.id = items.version_id
                    JOIN products ON products.id = versions.product_id WHERE products.content_id = :content_id
                """),
                {"content_id": ubuntu.content_id},
            )
        ).one()
        assert tuple(counts) == (199, 2326, 1646)
        assert tuple(
            (await connection.execute(text("SELECT count(*), count(DISTINCT content_id) FROM products"))).one()
        ) == (206, 3)
    assert len(planned.imports) == 206
    newest = {i.sha256: i.size for _, stream in changed for p in stream.products for i in p.versions[-1].items}
    assert planned.fetch == newest
    assert elapsed_s < 2
    assert grown_mb < 150

    # A second reading of the same finds nothing to do, and nothing to write.
    async with transaction(engine) as connection:
        before = await rows(connection)
    async with transaction(engine) as connection:
        await record(connection, source_id, whole)
    async with transaction(engine) as connection:
        assert await rows(connection) == before
