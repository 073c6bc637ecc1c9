"""Imports from end to end: a real signed mirror over HTTP, a real PostgreSQL, a real store."""

import asyncio
import errno
import json
import os
import threading
import time
from dataclasses import replace
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.local.mirror.faults import Cut, Flip, Hang, Status
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.products import CENTOS, UBUNTU
from deploy.local.mirror.server import Request, Server, serve
from region.catalogue import files, images, products, selections, sources
from region.database.connection import transaction
from region.importing import importer, imports
from region.importing.importer import run_next
from region.importing.imports import Claim
from shared.digest import Sha256
from shared.errors import NoRoom
from shared.names import ImageKey
from shared.patience import Patience
from shared.store.disk import DiskStore
from shared.store.growing import DiskWriter
from tests.conftest import Clock
from tests.db.bench import (
    CENTOS_8,
    JAMMY,
    KERNELS,
    NOBLE,
    RESOLUTE,
    Bench,
    Eventually,
    Fields,
    build,
    digests,
    paths_asked,
    rewrite_products,
    slot,
    small_mirror,
)
from tests.db.rows import select_images, selected
from tests.stores import incoming_path, put, stored_path

# What an import brings


@pytest.mark.parametrize("mirror", ["whole"], indirect=True)
async def test_the_first_import_brings_the_newest_lts_and_the_bootloaders(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    done = await bench.import_now("schedule")
    assert (done.state, done.error) == ("succeeded", "")
    assert done.bytes_done == done.bytes_total > 0
    async with transaction(bench.region.engine) as connection:
        assert await selected(connection) == {(None, RESOLUTE)}
        assert (await imports.schedule(connection)).last_run_at == bench.region.now()
        for release, version in (("resolute", "26.04"), ("noble", "24.04"), ("jammy", "22.04")):
            assert await products.is_known(connection, 1, ImageKey.parse(f"ubuntu:{release}:arm64")), version
    image = await bench.image()
    assert (image.status, image.progress, image.version) == ("stored", 100, "20260701")
    for kernel in KERNELS:
        folded = slot(kernel=kernel).split("/")[2]
        assert await bench.digests_at(slot(kernel=kernel)) == digests(mirror.expected("resolute", "amd64", folded))
    generic = "ubuntu/amd64/generic/resolute/stable"
    assert await bench.digests_at(generic) == await bench.digests_at(slot())
    loaders = {entry.path for entry in (await bench.manifest()).entries if entry.path.startswith("bootloader/")}
    assert loaders == {
        "bootloader/uefi/amd64",
        "bootloader/uefi/arm64",
        "bootloader/open-firmware/ppc64el",
        "bootloader/pxe/amd64",
        "bootloader/pxe/i386",
    }
    # Exactly what the manifest names, each file once, and nothing beside it.
    assert await bench.stored() == set((await bench.manifest()).files())
    asked = paths_asked(server)
    assert len(asked) == len(set(asked)) == len(await bench.stored())
    source = await bench.source()
    assert (source.error, source.last_read_at) == ("", bench.region.now())
    assert any("maas_supported" in sentence for sentence in source.skipped)


async def test_a_second_import_asks_for_nothing_and_changes_nothing(bench: Bench, server: Server) -> None:
    await bench.import_now()
    before = await bench.manifest()
    skipped = (await bench.source()).skipped
    server.requests.clear()
    done = await bench.import_now()
    assert (done.state, done.bytes_total) == ("succeeded", 0)
    assert await bench.manifest() == before
    assert {request.status for request in server.requests} == {304}
    assert (await bench.source()).skipped == skipped


async def test_nothing_waits(bench: Bench) -> None:
    assert not await run_next(bench.region.importer)


async def test_an_import_of_one_image_leaves_the_others_for_later(bench: Bench, server: Server) -> None:
    await bench.select(NOBLE, JAMMY)
    assert (await bench.import_now(scope=[NOBLE])).state == "succeeded"
    assert ((await bench.image(NOBLE)).status, (await bench.image(JAMMY)).status) == ("stored", "queued")
    assert paths_asked(server, "jammy/*") == []
    await bench.import_now()
    assert (await bench.image(JAMMY)).status == "stored"


async def test_what_is_unselected_is_withdrawn_and_its_files_wait_for_the_grace(bench: Bench) -> None:
    await bench.select(NOBLE, CENTOS_8)
    await bench.import_now()
    stored = await bench.stored()
    await bench.select(NOBLE)
    assert (await bench.image(CENTOS_8)).status == "unselected"
    await bench.import_now()
    assert await bench.digests_at("centos/amd64/generic/8/stable") == {}
    assert await bench.stored() == stored
    async with transaction(bench.region.engine) as connection:
        unneeded = (await connection.scalars(text("SELECT sha256 FROM files WHERE unneeded_since IS NOT NULL"))).all()
    assert len(unneeded) == 2


async def test_what_an_operator_unselects_is_confirmed_to_racks_whoever_carries_it_out(bench: Bench) -> None:
    await bench.select(NOBLE, JAMMY, CENTOS_8)
    await bench.import_now()
    assert (await bench.manifest()).confirmed == (0, 0), "nothing was taken away"
    await bench.select(NOBLE, JAMMY)
    await bench.import_now("selection")
    first = await bench.manifest()
    assert first.confirmed == first.order
    # The import that was to do it was lost, and the hourly one does it.
    await bench.select(NOBLE)
    await bench.import_now("schedule")
    second = await bench.manifest()
    assert second.confirmed == second.order > first.order


async def test_a_new_version_replaces_the_old_one_and_no_manifest_lacks_the_image(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.import_now()
    old = await bench.manifest()
    published = mirror.publish(release="resolute", arch="amd64")
    server.requests.clear()
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image()).held_version == published.version
    assert set(paths_asked(server)) == {file.path for file in published.files}
    between = await bench.manifests_since(old.serial)
    names = {(entry.path, entry.kind) for entry in old.entries}
    assert between
    for each in between:
        assert {(entry.path, entry.kind) for entry in each.entries} == names
    new = {file.sha256 for file in published.files}
    assert new <= set(between[-1].files())
    # Every name went from its old bytes to its new ones, once.
    for path in {entry.path for entry in old.entries if entry.path.startswith("ubuntu/")}:
        seen = [next(e.sha256 for e in m.entries if e.path == path) in new for m in (old, *between)]
        assert seen == sorted(seen)
        assert seen[-1]


async def test_a_newest_version_taken_back_gives_way_to_the_one_before(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    before = await bench.digests_at(slot())
    published = mirror.publish(release="resolute", arch="amd64")
    await bench.import_now()
    assert (await bench.image()).held_version == published.version
    rewrite_products(
        mirror, lambda product: product.get("release") == "resolute", lambda p: p["versions"].pop(published.version, 0)
    )
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image()).held_version == "20260701"
    assert await bench.digests_at(slot()) == before


# Upstream at fault


async def test_a_file_that_fails_costs_its_version_only(bench: Bench, mirror: Mirror, server: Server) -> None:
    await bench.select(NOBLE, JAMMY)
    server.misbehave("noble/amd64/20260701/hwe-24.04/generic/boot-kernel", Status(404))
    failed = await bench.import_now()
    assert (failed.state, failed.error_code) == ("failed", "http_status")
    assert "404" in failed.error
    image = await bench.image(NOBLE)
    assert (image.status, image.error_code) == ("failed", "http_status")
    assert (await bench.image(JAMMY)).status == "stored"
    assert await bench.digests_at(slot("noble", "24.04", "hwe")) == {}
    assert len(await bench.digests_at(slot("noble", "24.04"))) == 4
    # Everything else is kept: the next run asks for the one file.
    server.behave()
    server.requests.clear()
    assert (await bench.import_now()).state == "succeeded"
    assert paths_asked(server) == ["noble/amd64/20260701/hwe-24.04/generic/boot-kernel"]
    assert (await bench.image(NOBLE)).status == "stored"
    assert (await bench.image(NOBLE)).error == ""


async def test_a_shared_file_that_fails_keeps_what_was_held(bench: Bench, mirror: Mirror, server: Server) -> None:
    await bench.import_now()
    before = await bench.manifest()
    published = mirror.publish(release="resolute", arch="amd64")
    server.misbehave(f"resolute/amd64/{published.version}/squashfs", Flip(at=10))
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "wrong_digest")
    assert await bench.manifest() == before
    image = await bench.image()
    assert (image.status, image.version, image.held_version) == ("failed", published.version, "20260701")
    wrong = next(Sha256(file.sha256) for file in published.files if file.path.endswith("/squashfs"))
    assert wrong not in await bench.stored()
    assert not incoming_path(bench.region.store, wrong).exists()
    assert len(server.asked(f"resolute/amd64/{published.version}/squashfs")) == 1, "other bytes are not asked for again"
    server.behave()
    assert (await bench.import_now()).state == "succeeded"
    assert (await bench.image()).held_version == published.version


async def test_metadata_that_comes_before_its_files(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    before = await bench.manifest()
    mirror.publish(release="resolute", arch="amd64", files=False)
    assert (await bench.import_now("schedule")).state == "failed"
    assert await bench.manifest() == before
    mirror.complete()
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image()).held_version == "20260702"


async def test_a_connection_that_is_cut_is_made_again_and_the_file_resumed(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    server.misbehave("resolute/*/squashfs", Cut(after=1000), times=1)
    assert (await bench.import_now()).state == "succeeded"
    assert [request.range for request in server.asked("resolute/*/squashfs")] == [None, "bytes=1000-"]
    assert (await bench.image()).status == "stored"


async def test_a_server_that_falters_is_asked_again(bench: Bench, server: Server) -> None:
    server.misbehave("resolute/*/squashfs", Status(503), times=2)
    server.misbehave("resolute/*/boot-kernel", Cut(after=None), times=1)
    assert (await bench.import_now()).state == "succeeded"


async def test_a_server_that_says_when_to_come_again_is_not_asked_before(bench: Bench, server: Server) -> None:
    server.misbehave("resolute/*/squashfs", Status(503, {"Retry-After": "1"}), times=1)
    moments: list[float] = []

    class Timed(list[Request]):
        def append(self, request: Request) -> None:
            super().append(request)
            if request.path.endswith("/squashfs"):
                moments.append(time.monotonic())

    server.requests = Timed(server.requests)
    assert (await bench.import_now()).state == "succeeded"
    first, second = moments
    assert second - first >= 1
    server.misbehave("jammy/*/squashfs", Status(503, {"Retry-After": "31"}), times=1)
    await bench.select(JAMMY)
    assert (await bench.import_now()).error_code == "http_status"
    assert len(server.asked("jammy/*/squashfs")) == 1


async def test_a_server_that_stays_away_is_not_asked_for_ever(bench: Bench, server: Server) -> None:
    server.misbehave("resolute/*/squashfs", Status(503))
    assert (await bench.import_now()).error_code == "http_status"
    assert len(server.asked("resolute/*/squashfs")) == bench.region.importer.patience.attempts


async def test_a_stream_signed_by_another_key_is_refused_with_both_names(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    before = await bench.manifest()
    stranger = Key.generate()
    mirror.publish(release="resolute", arch="amd64")
    mirror.sign_with(stranger)
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "signature_unknown_key")
    assert mirror.fingerprint in failed.error or mirror.key_id in failed.error
    signer = failed.error.partition("signed by key ")[2].partition(",")[0]
    assert len(signer) >= 16
    assert signer not in mirror.fingerprint
    source = await bench.source()
    assert (source.error_code, source.error) == (failed.error_code, failed.error)
    assert await bench.manifest() == before
    assert (await bench.image()).status == "stored"
    mirror.sign_with(mirror.key)
    assert (await bench.import_now()).state == "succeeded"
    assert (await bench.source()).error == ""
    assert (await bench.image()).held_version == "20260702"


async def test_a_stream_that_lost_its_signature_is_refused(bench: Bench, mirror: Mirror) -> None:
    mirror.unsigned()
    failed = await bench.import_now()
    assert (failed.state, failed.error_code) == ("failed", "unsigned")
    async with transaction(bench.region.engine) as connection:
        assert not await products.is_known(connection, 1, RESOLUTE)
        assert await selections.default_is_due(connection)


async def test_a_source_declared_unsigned_needs_no_signature(bench: Bench, mirror: Mirror, server: Server) -> None:
    mirror.unsigned()
    wished = sources.wish(name="maas.io", url=server.url, unsigned=True, priority=10)
    async with transaction(bench.region.engine) as connection:
        await sources.change(connection, await sources.get(connection, 1), wished, bench.region.now())
    assert (await bench.import_now()).state == "succeeded"
    assert (await bench.source()).unsigned
    assert (await bench.image()).status == "stored"


async def test_a_stream_that_goes_back_in_time_is_refused(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    before = await bench.manifest()
    mirror.publish(release="resolute", arch="amd64", updated=mirror.updated - timedelta(days=1))
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "too_old")
    assert await bench.manifest() == before
    assert (await bench.image()).version == "20260701"
    mirror.rewrite()
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image()).held_version == "20260702"


async def test_a_source_that_is_away_costs_the_others_nothing(
    bench: Bench, mirror: Mirror, server: Server, tmp_path: Path
) -> None:
    other = small_mirror(tmp_path / "other", seed=7)
    async with serve(other) as serving:
        second = await bench.add_source(serving, other)
        server.misbehave("streams/*", Status(500))
        await bench.select((second, NOBLE), JAMMY)
        failed = await bench.import_now()
    assert (failed.state, failed.error_code) == ("failed", "http_status")
    assert [(await bench.source(i)).error_code for i in (1, second)] == ["http_status", ""]
    assert ((await bench.image(NOBLE)).status, (await bench.image(JAMMY)).status) == ("stored", "failed")


async def test_one_product_file_that_fails_costs_its_own_products_only(bench: Bench, server: Server) -> None:
    server.misbehave(f"streams/v1/{CENTOS}.sjson", Status(500), times=4)
    await bench.select(RESOLUTE, CENTOS_8)
    assert (await bench.import_now()).state == "failed"
    assert (await bench.image()).status == "stored"
    # It is asked for again although the index has not changed since.
    assert (await bench.import_now()).state == "succeeded"
    assert (await bench.image(CENTOS_8)).status == "stored"


async def test_what_was_skipped_is_remembered_while_its_document_does_not_change(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    skipped = set((await bench.source()).skipped)
    assert skipped
    document = mirror.root / f"streams/v1/{UBUNTU}.sjson"
    before, clock = document.read_bytes(), document.stat()
    plain = mirror.root / "streams/v1/index.json"
    entry = json.loads(plain.read_bytes())["index"][UBUNTU]
    mirror.publish(os="centos")
    document.write_bytes(before)
    os.utime(document, ns=(clock.st_atime_ns, clock.st_mtime_ns))
    index = json.loads(plain.read_bytes())
    index["index"][UBUNTU] = entry
    mirror.replace("streams/v1/index.sjson", mirror.key.clear_sign(json.dumps(index, indent=1).encode()))
    assert (await bench.import_now()).state == "succeeded"
    assert set((await bench.source()).skipped) == skipped


async def test_a_product_that_vanishes_is_kept(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    before = await bench.manifest()
    mirror.drop_product("*:26.04:amd64:*")
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert await bench.manifest() == before
    assert (await bench.image()).status == "unavailable"
    # Even by an operator's word: only unselecting it says that it is not wanted any more.
    await bench.import_now("operator")
    assert await bench.manifest() == before


async def test_an_empty_stream_withdraws_nothing(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    before = await bench.manifest()
    mirror.drop_product("*")
    assert (await bench.import_now("operator")).state == "succeeded"
    assert await bench.manifest() == before
    assert await bench.stored() == set(before.files())


async def test_a_product_that_is_called_otherwise_upstream_is_kept_under_its_name(bench: Bench, mirror: Mirror) -> None:
    """I4: upstream renames a release; nothing that racks serve may go because of that."""
    await bench.select(CENTOS_8, RESOLUTE)
    await bench.import_now()
    before = await bench.digests_at("centos/amd64/generic/8/stable")
    assert before
    rewrite_products(
        mirror,
        lambda product: product.get("os") == "centos" and product["release"] == "8",
        lambda product: product.update(release="centos8"),
    )
    await bench.import_now("schedule")
    assert await bench.digests_at("centos/amd64/generic/8/stable") == before


# Several sources


async def test_the_source_with_the_higher_priority_takes_an_image_over_without_a_gap(
    bench: Bench, tmp_path: Path
) -> None:
    await bench.import_now()
    old = await bench.manifest()
    other = small_mirror(tmp_path / "other", seed=7)
    async with serve(other) as serving:
        second = await bench.add_source(serving, other)
        await bench.select(RESOLUTE, (second, RESOLUTE))
        assert (await bench.import_now()).state == "succeeded"
    assert await bench.digests_at(slot()) == digests(other.expected("resolute", "amd64", "ga-26.04"))
    image = await bench.image()
    assert (image.status, image.source_id) == ("stored", second)
    names = {entry.path for entry in old.entries}
    for each in await bench.manifests_since(old.serial):
        assert {entry.path for entry in each.entries} == names


async def test_a_mirror_of_the_very_same_files_takes_an_image_over_and_racks_stay_synced(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.import_now()
    before = await bench.manifest()
    await report_all_held(bench)
    assert (await bench.image()).status == "synced"
    second = await bench.add_source(server, mirror)
    await bench.select((second, RESOLUTE))
    assert (await bench.import_now()).state == "succeeded"
    assert (await bench.manifest()).entries == before.entries
    image = await bench.image()
    assert (image.source_id, image.status) == (second, "synced")


async def report_all_held(bench: Bench) -> None:
    """A rack knows the manifest there is and lacks nothing of it."""
    manifest = await bench.manifest()
    async with transaction(bench.region.engine) as connection:
        await connection.execute(
            text("""
                INSERT INTO racks (id, name, public_key, enrolled_at, last_seen_at, epoch, serial)
                VALUES ('r', 'r', 'k', :now, :now, :epoch, :serial)
            """),
            {"now": bench.region.now(), "epoch": manifest.epoch, "serial": manifest.serial},
        )


@pytest.mark.parametrize("mirror", ["whole"], indirect=True)
async def test_what_only_a_losing_source_has_waits_for_an_operator(bench: Bench, tmp_path: Path) -> None:
    await bench.import_now()
    other = small_mirror(tmp_path / "other", seed=7)
    other.drop_product("*:26.04:amd64:hwe*")
    async with serve(other) as serving:
        second = await bench.add_source(serving, other)
        await bench.select(RESOLUTE, (second, RESOLUTE))
        await bench.import_now("schedule")
        assert await bench.digests_at(slot()) == digests(other.expected("resolute", "amd64", "ga-26.04"))
        assert await bench.digests_at(slot(kernel="hwe")), "more than a fifth of what is held: not unattended"
        await bench.import_now("operator")
        assert await bench.digests_at(slot(kernel="hwe")) == {}


async def test_a_size_that_one_source_lies_about_costs_its_own_images_only(
    bench: Bench, mirror: Mirror, tmp_path: Path
) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    liar = small_mirror(tmp_path / "liar", seed=0)

    def lie(product: Fields) -> None:
        for version in product["versions"].values():
            version["items"]["squashfs"]["size"] += 1

    rewrite_products(liar, lambda product: product.get("release") == "noble", lie)
    published = mirror.publish(release="noble", arch="amd64")
    async with serve(liar) as serving:
        second = await bench.add_source(serving, liar, priority=5)
        await bench.select(NOBLE, (second, NOBLE), JAMMY)
        # The liar loses noble to the first source; then it is the only one to have it.
        assert (await bench.import_now()).state == "succeeded"
        assert (await bench.image(NOBLE)).held_version == published.version
        await bench.select((second, NOBLE), JAMMY)
        mirror.publish(release="jammy", arch="amd64")
        await bench.import_now()
    assert (await bench.image(JAMMY)).held_version == "20260702"
    manifest = await bench.manifest()
    assert all(
        size == stored_path(bench.region.store, sha256).stat().st_size for sha256, size in manifest.files().items()
    )


async def test_a_ca_bundle_that_went_away_costs_its_own_source_only(
    bench: Bench, mirror: Mirror, tmp_path: Path
) -> None:
    other = small_mirror(tmp_path / "other", seed=7)
    bundle = tmp_path / "ca.pem"
    bundle.touch()
    async with serve(other) as serving:
        second = await bench.add_source(serving, other)
        # Its stream is known, and one of its files was never had.
        serving.misbehave("jammy/*/squashfs", Status(404))
        await bench.select(NOBLE, (second, JAMMY))
        await bench.import_now()
        async with transaction(bench.region.engine) as connection:
            await connection.execute(
                text("UPDATE sources SET ca_bundle = :path WHERE id = :id"), {"path": str(bundle), "id": second}
            )
        bundle.unlink()
        published = mirror.publish(release="noble", arch="amd64")
        failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "invalid_configuration")
    assert (await bench.image(NOBLE)).held_version == published.version


async def test_a_source_of_which_nothing_is_selected_any_more_can_be_forgotten(bench: Bench, tmp_path: Path) -> None:
    """The refusal says: unselect its images and sync first. Whoever does so must get on."""
    await bench.import_now()
    other = small_mirror(tmp_path / "other", seed=7)
    async with serve(other) as serving:
        second = await bench.add_source(serving, other)
        await bench.select((second, NOBLE))
        await bench.import_now()
        await bench.select(RESOLUTE)
        await bench.import_now()
    async with transaction(bench.region.engine) as connection:
        await sources.remove(connection, second, bench.region.now())
    loaders = [entry for entry in (await bench.manifest()).entries if entry.path.startswith("bootloader/")]
    assert {"bootloader/pxe/amd64"} <= {entry.path for entry in loaders}


# The disk


class Full(DiskStore):
    """A store on a disk with so many bytes free."""

    free = 10_000

    def bytes_free(self) -> int:
        return self.free


class Fuller(Full):
    """One that has no room for even the smallest of the images."""

    free = 4_000


class Broken(DiskStore):
    """A store on a disk that fails when a file is to be kept."""

    def writer(self, sha256: Sha256, size: int) -> DiskWriter:
        def fail() -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), sha256)

        writer = super().writer(sha256, size)
        writer.commit = fail  # type: ignore[method-assign]
        return writer


class Forgetful(DiskStore):
    """A store on a file system that does not keep the mark of a verified file."""

    def has(self, sha256: Sha256, size: int) -> bool:
        return False


def on(bench: Bench, kind: type[DiskStore]) -> Bench:
    """The same region with its files on another disk."""
    bench.region.importer = replace(bench.region.importer, store=kind(Path(bench.region.store.where)))
    return bench


async def test_a_disk_without_room_is_noticed_before_the_first_byte(bench: Bench, server: Server) -> None:
    failed = await on(bench, Fuller).import_now()
    assert (failed.state, failed.error_code) == ("failed", NoRoom.code)
    assert "4.0 kB are free" in failed.error
    assert paths_asked(server) == []
    assert ((await bench.image()).status, (await bench.image()).error) == ("failed", failed.error)
    assert (await on(bench, DiskStore).import_now()).state == "succeeded"
    assert ((await bench.image()).status, (await bench.image()).error) == ("stored", "")


async def test_an_image_that_fits_comes_although_another_does_not(bench: Bench, server: Server) -> None:
    await bench.select(RESOLUTE, NOBLE)
    server.misbehave("noble/*", Status(404))
    await bench.import_now()
    await bench.select(NOBLE, CENTOS_8)
    server.behave()
    server.requests.clear()
    failed = await on(bench, Full).import_now()
    assert (failed.state, failed.error_code, failed.retry_at) == (
        "failed",
        NoRoom.code,
        bench.region.now() + timedelta(minutes=1),
    )
    assert ((await bench.image(CENTOS_8)).status, (await bench.image(NOBLE)).status) == ("stored", "failed")
    assert (await bench.image(NOBLE)).error_code == NoRoom.code
    assert paths_asked(server, "noble/*") == []
    assert (await on(bench, DiskStore).import_now()).state == "succeeded"


@pytest.mark.parametrize("number", [errno.EROFS, errno.EIO, errno.ENOSPC])
@pytest.mark.parametrize("step", ["clear_incoming", "bytes_free", "writer", "secure", "has"])
async def test_a_disk_that_fails_at_any_step_takes_nothing_away_and_the_next_attempt_brings_the_rest(
    bench: Bench, mirror: Mirror, step: str, number: int
) -> None:
    await bench.import_now()
    before = await bench.manifest()
    published = mirror.publish(release="resolute", arch="amd64")

    class Failing(DiskStore):
        """A store on a disk that fails at one step."""

    def fail(*_args: object) -> None:
        raise OSError(number, os.strerror(number))

    setattr(Failing, step, fail)
    failed = await on(bench, Failing).import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "no_room" if number == errno.ENOSPC else "disk_failed")
    assert failed.retry_at is not None
    assert await bench.manifest() == before
    assert (await bench.image()).held_version == "20260701"
    assert (await on(bench, DiskStore).import_now()).state == "succeeded"
    assert (await bench.image()).held_version == published.version
    await bench.stored()


async def test_a_disk_that_fails_keeps_no_operators_wish_from_being_carried_out(bench: Bench, mirror: Mirror) -> None:
    await bench.select(RESOLUTE, CENTOS_8)
    await bench.import_now()
    await bench.select(RESOLUTE)
    mirror.publish(release="resolute", arch="amd64")

    class Failing(DiskStore):
        """A store on a disk that fails before anything is fetched."""

        def bytes_free(self) -> int:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

    failed = await on(bench, Failing).import_now("operator")
    assert (failed.state, failed.error_code) == ("failed", "disk_failed")
    assert (await bench.image()).held_version == "20260701"
    assert await bench.digests_at("centos/amd64/generic/8/stable") == {}


async def test_a_disk_that_fails_at_one_file_costs_its_image_only(bench: Bench, mirror: Mirror) -> None:
    squashfs = Sha256(mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"].sha256)
    await bench.select(RESOLUTE, CENTOS_8)

    class Failing(DiskStore):
        """A store on a disk that keeps a file and cannot say so."""

        def has(self, sha256: Sha256, size: int) -> bool:
            if sha256 == squashfs and stored_path(self, sha256).exists():
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            return super().has(sha256, size)

    failed = await on(bench, Failing).import_now()
    assert (failed.state, failed.error_code) == ("failed", "disk_failed")
    assert ((await bench.image()).status, (await bench.image(CENTOS_8)).status) == ("failed", "stored")
    assert squashfs not in await on(bench, DiskStore).stored()
    assert (await bench.import_now()).state == "succeeded"


async def test_what_is_there_already_needs_no_room(bench: Bench) -> None:
    await bench.import_now()
    await bench.select(RESOLUTE, CENTOS_8)
    # All of it takes some 27 kB, and 9 of them are missing.
    assert (await on(bench, Full).import_now()).state == "succeeded"


@pytest.mark.parametrize("kind", [Broken, Forgetful])
async def test_a_disk_that_does_not_keep_files_ends_the_import_with_a_sentence(
    bench: Bench, kind: type[DiskStore]
) -> None:
    """A full or failing disk is an operator's to mend: the import must not seem to succeed, or run for ever."""
    failed = await on(bench, kind).import_now()
    assert failed.state == "failed"
    assert failed.error_code
    assert (await bench.manifest()).entries == ()
    assert (await on(bench, DiskStore).import_now()).state == "succeeded"
    assert (await bench.image()).status == "stored"


async def test_a_lost_file_is_fetched_again_and_nothing_else(bench: Bench, server: Server) -> None:
    await bench.import_now()
    before = await bench.manifest()
    lost = next(entry for entry in before.entries if entry.path == f"{slot()}/squashfs")
    stored_path(bench.region.store, lost.sha256).unlink()
    server.requests.clear()
    await bench.region.clock.audit()
    assert lost.sha256 not in await bench.stored()
    assert await run_next(bench.region.importer)
    assert [path.rpartition("/")[2] for path in paths_asked(server)] == ["squashfs"]
    assert await bench.stored() == set(before.files())
    assert await bench.manifest() == before


async def test_a_file_that_was_stored_before_a_crash_is_recorded_without_fetching_it(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    file = mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    sha256 = Sha256(file.sha256)
    assert put(bench.region.store, (mirror.root / file.path).read_bytes()) == sha256
    assert (await bench.import_now()).state == "succeeded"
    assert server.asked(file.path) == []
    assert (await bench.image()).status == "stored"


async def test_after_the_restore_of_an_older_dump_nothing_is_fetched_that_still_lies_there(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    """The dump knows of none of the new version's files, and of one that has gone since."""
    await bench.import_now()
    old = await bench.manifest()
    async with transaction(bench.region.engine) as connection:
        dump = {row.sha256: row.size for row in await files.all_stored(connection)}
    published = mirror.publish(release="resolute", arch="amd64")
    assert (await bench.import_now()).state == "succeeded"
    current = await bench.manifest()
    gone = next(entry.sha256 for entry in old.entries if entry.sha256 not in current.files())
    bench.region.store.remove(gone)
    await restore(bench, dump, "20260701")
    for _ in range(64):
        bench.region.clock.now.pass_by(timedelta(minutes=1))  # type: ignore[attr-defined]
        await bench.region.clock.tick()
    await bench.region.clock.audit()
    server.requests.clear()
    assert await run_next(bench.region.importer)
    assert (await bench.image()).held_version == published.version
    assert paths_asked(server) == []
    assert (await bench.manifest()).files() == current.files()
    assert await bench.stored() == {sha256 for sha256, _ in bench.region.store.held()} >= set(current.files())


async def restore(bench: Bench, dump: dict[Sha256, int], version: str) -> None:
    """The tables say again what they said before the newest version came."""
    async with transaction(bench.region.engine) as connection:
        await connection.execute(text("DELETE FROM files"))
        assert await files.record(connection, dump, bench.region.now()) == set()
        await connection.execute(text("UPDATE versions SET held_at = NULL, vouched_by = NULL"))
        await connection.execute(
            text("""
                UPDATE versions SET held_at = now(), vouched_by = documents.vouched_by
                FROM products JOIN stream_documents AS documents USING (source_id, content_id)
                WHERE products.id = versions.product_id AND versions.id IN (
                    SELECT version_id FROM items GROUP BY version_id
                    HAVING bool_and(items.sha256 = ANY(:dump)))
                  AND (products.kind = 'bootloader' OR versions.name = :version)
            """),
            {"dump": list(dump), "version": version},
        )


class Immovable(DiskStore):
    """A store on a disk that removes nothing."""

    def remove(self, *digests: Sha256) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))


async def leave(bench: Bench, sha256: Sha256) -> None:
    """The file's row has moved out, and the process that was to remove the bytes has died."""
    async with transaction(bench.region.engine) as connection:
        rows = [row for row in await files.all_stored(connection) if row.sha256 == sha256]
        assert await files.leave_lost(connection, rows, bench.region.now()) == [sha256]


async def test_a_file_that_is_being_deleted_is_fetched_anew(bench: Bench, mirror: Mirror, server: Server) -> None:
    """Its bytes still lie there, and whoever was to remove them may be about to: they are not counted on."""
    await bench.import_now()
    before = await bench.manifest()
    file = mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    await leave(bench, Sha256(file.sha256))
    assert file.sha256 not in await bench.stored()
    server.requests.clear()
    assert (await bench.import_now()).state == "succeeded"
    assert paths_asked(server) == [file.path]
    assert await bench.stored() == set(before.files())
    async with transaction(bench.region.engine) as connection:
        assert await files.all_leaving(connection) == []


async def test_a_file_that_cannot_be_deleted_costs_its_own_image_only(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.import_now()
    bench.region.importer = replace(bench.region.importer, patience=Patience(first_s=0.0, attempts=2))
    file = mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    await leave(bench, Sha256(file.sha256))
    await bench.select(RESOLUTE, CENTOS_8)
    server.requests.clear()
    failed = await on(bench, Immovable).import_now()
    assert (failed.state, failed.error_code) == ("failed", "conflict")
    assert file.path not in paths_asked(server)
    assert ((await bench.image()).status, (await bench.image(CENTOS_8)).status) == ("failed", "stored")
    assert (await on(bench, DiskStore).import_now()).state == "succeeded"
    assert (await bench.image()).status == "stored"


async def test_a_file_that_is_refused_its_row_fails_its_image_which_is_tried_again(
    bench: Bench, mirror: Mirror, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It began to be deleted after the import had looked: the import must not seem to have succeeded without it."""
    squashfs = Sha256(mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"].sha256)
    record = files.record

    async def refusing(connection: AsyncConnection, found: dict[Sha256, int], now: datetime) -> set[Sha256]:
        refused = await record(connection, {name: size for name, size in found.items() if name != squashfs}, now)
        return refused | {squashfs} & found.keys()

    with monkeypatch.context() as patch:
        patch.setattr(files, "record", refusing)
        failed = await bench.import_now()
    assert (failed.state, failed.error_code) == ("failed", "conflict")
    assert failed.retry_at == bench.region.now() + timedelta(minutes=1)
    assert (await bench.image()).status == "failed"
    assert (await bench.import_now()).state == "succeeded"
    assert (await bench.image()).status == "stored"


# Stopping, and two at once


async def test_an_import_that_is_stopped_keeps_what_has_arrived(
    bench: Bench, mirror: Mirror, server: Server, eventually: Eventually
) -> None:
    file = mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    incoming = incoming_path(bench.region.store, Sha256(file.sha256))
    server.misbehave(file.path, Hang(after=3000), times=1)
    import_id = await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: incoming.exists() and incoming.stat().st_size == 3000)
    async with transaction(bench.region.engine) as connection:
        await imports.request_cancel(connection, import_id, bench.region.now())
    assert await running
    stopped = await bench.import_of(import_id)
    assert (stopped.state, stopped.error_code) == ("cancelled", "cancelled")
    assert incoming.stat().st_size == 3000
    assert (await bench.image()).status == "queued"
    had = await bench.stored()
    server.requests.clear()
    assert (await bench.import_now()).state == "succeeded"
    assert [request.range for request in server.asked(file.path)] == ["bytes=3000-"]
    assert len(paths_asked(server)) == len(await bench.stored()) - len(had)


async def test_partial_files_nobody_waits_for_are_dropped(bench: Bench) -> None:
    partial = incoming_path(bench.region.store, Sha256.of(b"of another time"))
    partial.write_bytes(b"half of i")
    await bench.import_now()
    assert not partial.exists()


async def test_two_processes_do_the_work_once_and_either_answers(
    bench: Bench, tmp_path: Path, database_url: str, server: Server, mirror: Mirror, clock: Clock
) -> None:
    second = build(tmp_path / "region", database_url, server, mirror, clock)
    await second.prepare()
    await bench.ask()
    assert sorted(await asyncio.gather(run_next(bench.region.importer), run_next(second.importer))) == [False, True]
    asked = paths_asked(server)
    assert len(asked) == len(set(asked))
    manifest = await bench.manifest()
    bench.region = second
    assert await bench.manifest() == manifest
    assert (await bench.image()).status == "stored"
    await second.engine.dispose()


class Paused(DiskStore):
    """A store that waits before it keeps its first file, and says so."""

    def __init__(self, root: Path) -> None:
        super().__init__(root)
        self.reached, self.go_on = threading.Event(), threading.Event()

    def writer(self, sha256: Sha256, size: int) -> DiskWriter:
        writer = super().writer(sha256, size)
        commit = writer.commit

        def wait() -> None:
            self.reached.set()
            assert self.go_on.wait(10)
            commit()

        writer.commit = wait  # type: ignore[method-assign]
        return writer


async def taken_over(bench: Bench) -> Claim:
    """Another process finds the lease run out and takes the import over."""
    async with transaction(bench.region.engine) as connection:
        await connection.execute(text("UPDATE imports SET lease_until = clock_timestamp() - interval '1 second'"))
        claim = await imports.claim(connection, "another process")
    assert claim is not None
    return claim


async def test_a_runner_that_was_thought_dead_writes_nothing_more(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, eventually: Eventually
) -> None:
    # Its heart stopped; it is the fence alone that must hold it back.
    monkeypatch.setattr(importer, "PROGRESS_PERIOD_S", 3600)
    store = Paused(Path(bench.region.store.where))
    bench.region.importer = replace(bench.region.importer, store=store)
    import_id = await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(store.reached.is_set)
    claim = await taken_over(bench)
    assert (claim.import_id, claim.fence) == (import_id, 2)
    before = await bench.import_of(import_id), await bench.manifest(), await bench.stored()
    store.go_on.set()
    assert await running
    assert (await bench.import_of(import_id), await bench.manifest(), await bench.stored()) == before
    assert before[0].state == "running"
    assert before[2] == set()


async def test_a_runner_whose_lease_was_taken_stops_at_its_next_heartbeat(
    bench: Bench, mirror: Mirror, server: Server, eventually: Eventually
) -> None:
    server.misbehave("resolute/*", Hang(after=None))
    import_id = await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: server.asked("resolute/*"))
    await taken_over(bench)
    assert await running
    assert (await bench.import_of(import_id)).state == "running"


async def test_an_import_whose_process_is_stopped_is_handed_on_at_once(
    bench: Bench, server: Server, mirror: Mirror, eventually: Eventually
) -> None:
    file = mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    incoming = incoming_path(bench.region.store, Sha256(file.sha256))
    server.misbehave(file.path, Hang(after=3000), times=1)
    import_id = await bench.ask()
    stopped = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: incoming.exists() and incoming.stat().st_size == 3000)
    stopped.cancel()
    await asyncio.gather(stopped, return_exceptions=True)
    assert stopped.cancelled()
    assert (await bench.import_of(import_id)).finished_at is None
    server.requests.clear()
    assert await run_next(bench.region.importer)
    assert (await bench.import_of(import_id)).state == "succeeded"
    assert [request.range for request in server.asked(file.path)] == ["bytes=3000-"]


# True scale

STABLE = Path(__file__).parents[3] / "shared" / "data" / "stable-stream"


@pytest.mark.skipif(
    not STABLE.is_dir(), reason=f"the stable stream's metadata is not beside this checkout, at {STABLE}"
)
async def test_selecting_everything_again_within_the_grace_makes_all_of_it_visible(
    bench: Bench, tmp_path: Path
) -> None:
    """Nothing has to be fetched; the versions of all 206 products become visible in one import."""
    tree = Mirror(tmp_path / "stable", Key.generate(), None)
    tree.directory.mkdir()
    tree.root.symlink_to(STABLE)
    async with serve(tree) as serving:
        wished = sources.wish(name="stable", url=serving.url, unsigned=True, priority=20)
        async with transaction(bench.region.engine) as connection:
            stable = (await sources.create(connection, wished, bench.region.now())).id
            await select_images(connection, now=bench.region.now())
        assert (await bench.import_now()).state == "succeeded"
        async with transaction(bench.region.engine) as connection:
            offered = await connection.execute(
                text("SELECT DISTINCT os, release, arch FROM products WHERE source_id = :id AND kind <> 'bootloader'"),
                {"id": stable},
            )
            everything = [(stable, ImageKey.parse(":".join(row))) for row in offered]
            await select_images(connection, *everything, now=bench.region.now())
            await connection.execute(
                text("""
                    INSERT INTO files (sha256, size, stored_at)
                    SELECT sha256, min(size), now() FROM items GROUP BY sha256 ON CONFLICT DO NOTHING
                """)
            )
        done = await bench.import_now()
    assert (done.state, done.error) == ("succeeded", "")
    async with transaction(bench.region.engine) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM versions WHERE held_at IS NOT NULL")) >= 201
        assert {image.status for image in await images.list_all(connection, bench.region.now())} == {"stored"}
