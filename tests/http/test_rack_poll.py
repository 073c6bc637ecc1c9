"""A real rack against a real region on a socket: what arrives, what stays, and what heals."""

import asyncio
import errno
import os
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rack.tree import tree_path
from shared.digest import Sha256
from shared.errors import (
    BadSignature,
    BootferryError,
    ConnectionRefused,
    ForkedManifest,
    HttpStatus,
    InvalidDocument,
    InvalidRequestSignature,
    NoRoom,
    RedirectRefused,
    TooLarge,
    TooOld,
    WrongDigest,
)
from shared.store.disk import DiskStore
from shared.wire.report import Fault, Knows, Pending
from tests.http.fake_region import FakeRegion, noise, tar_xz, tree_bytes, ubuntu
from tests.http.running_rack import Rack, running_rack, until
from tests.stores import incoming_path, stored_path

KERNEL = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"
SQUASHFS = "ubuntu/amd64/ga-24.04/noble/stable/squashfs"
GRUB = {"bootx64.efi": noise("shim", 900), "grub/grubx64.efi": noise("grub", 3000)}


async def test_what_the_region_publishes_is_what_machines_get(region: FakeRegion, rack: Rack) -> None:
    image = ubuntu("1")
    manifest = region.publish(image, {"bootloader/uefi/amd64": tar_xz(GRUB)})
    assert (await rack.boot(KERNEL))[0] == 503
    await rack.poller.poll()

    assert rack.error() is None
    assert tree_bytes(rack.root) == image | {f"bootloader/uefi/amd64/{name}": data for name, data in GRUB.items()}
    assert await rack.boot(KERNEL) == (200, image[KERNEL])
    assert await rack.boot("bootloader/uefi/amd64/grub/grubx64.efi") == (200, GRUB["grub/grubx64.efi"])
    report = region.reports[-1]
    assert report.knows == Knows(*manifest.order, Sha256.of(manifest.encode()))
    assert (report.pending, report.bytes_left) == ((), 0)
    assert report.address == "127.0.0.1:5248"
    assert report.error == Fault()
    assert not region.refused


async def test_a_second_poll_asks_for_nothing_it_has(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"), {"bootloader/uefi/amd64": tar_xz(GRUB)})
    await rack.poller.poll()
    before = rack.poller.belief.tree
    await rack.poller.poll()
    assert set(region.asked_for.values()) == {1}
    assert region.seen("GET", "/api/v1/manifest")[-1].headers["If-None-Match"]
    assert rack.poller.belief.tree is before


async def test_a_new_version_replaces_the_old_one_without_a_gap(region: FakeRegion, rack: Rack) -> None:
    old, new = ubuntu("1"), ubuntu("2")
    region.publish(old)
    await rack.poller.poll()
    answers: list[tuple[int, bytes]] = []
    stop = asyncio.Event()

    async def machine() -> None:
        while not stop.is_set():
            answers.append(await rack.boot(KERNEL))

    asking = asyncio.create_task(machine())
    region.pause_s = 0.005
    region.publish(new)
    await rack.poller.poll()
    stop.set()
    await asking
    assert {status for status, _ in answers} == {200}
    assert {body for _, body in answers} <= {old[KERNEL], new[KERNEL]}
    assert await rack.boot(KERNEL) == (200, new[KERNEL])
    assert tree_bytes(rack.root) == new


async def test_an_open_request_ends_with_the_bytes_it_began_with(region: FakeRegion, rack: Rack) -> None:
    old = ubuntu("1", size=3_000_000)
    region.publish(old)
    await rack.poller.poll()
    async with rack.machine.get(f"/images/{SQUASHFS}") as response:
        first = await response.content.readexactly(1000)
        region.publish(ubuntu("2"))
        await rack.poller.poll()
        rack.clock.offset = timedelta(hours=2)
        await rack.poller.poll()
        assert first + await response.read() == old[SQUASHFS]
    assert not stored_path(rack.store, Sha256.of(old[SQUASHFS])).exists()


async def test_an_image_that_cannot_be_whole_keeps_its_old_version_while_others_move_on(
    region: FakeRegion, rack: Rack
) -> None:
    noble, jammy = ubuntu("1"), ubuntu("1", release="jammy")
    region.publish(noble | jammy)
    await rack.poller.poll()
    noble_2, jammy_2 = ubuntu("2"), ubuntu("2", release="jammy")
    region.file_status[Sha256.of(noble_2[KERNEL])] = 404
    region.publish(noble_2 | jammy_2)
    await rack.poller.poll()

    assert isinstance(rack.error(), HttpStatus)
    assert tree_bytes(rack.root) == noble | jammy_2
    report = region.reports[-1]
    assert report.error.code == "http_status"
    assert report.pending == (Pending("ubuntu:noble:amd64", "1", "http_status"),)
    assert (report.knows.serial, report.bytes_left) == (2, len(noble_2[KERNEL]))

    # What the old version needs stays, however long the new one takes.
    rack.clock.offset = timedelta(days=2)
    await rack.poller.poll()
    assert await rack.boot(SQUASHFS) == (200, noble[SQUASHFS])

    region.file_status.clear()
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == noble_2 | jammy_2
    assert region.reports[-1].pending == ()


FAULTS = [
    pytest.param(lambda region: setattr(region, "manifest_status", 503), HttpStatus, id="region-not-ready"),
    pytest.param(lambda region: region.racks.clear(), InvalidRequestSignature, id="rack-removed"),
    pytest.param(
        lambda region: setattr(region, "manifest_key", Ed25519PrivateKey.generate()), BadSignature, id="another-key"
    ),
    pytest.param(lambda region: region.publish({}, serial=0), TooOld, id="older-manifest"),
    pytest.param(lambda region: setattr(region, "order", (1, 99)), TooOld, id="older-epoch"),
    pytest.param(lambda region: region.publish({}, serial=region.order[1]), ForkedManifest, id="forked-manifest"),
]


@pytest.mark.parametrize(("break_it", "error"), FAULTS)
async def test_no_fault_of_the_region_changes_what_is_served(
    region: FakeRegion, rack: Rack, break_it: Callable[[FakeRegion], object], error: type[BootferryError]
) -> None:
    image = ubuntu("1")
    region.publish(image)
    await rack.poller.poll()
    racks, order, entries = dict(region.racks), region.order, region.entries
    break_it(region)
    await rack.poller.poll()
    assert isinstance(rack.error(), error)
    assert tree_bytes(rack.root) == image
    assert await rack.boot(KERNEL) == (200, image[KERNEL])

    region.racks, region.order, region.entries = racks, order, entries
    region.manifest_status, region.manifest_key = 200, None
    newer = ubuntu("2")
    region.publish(newer)
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == newer


@pytest.mark.parametrize(
    ("size", "error"),
    [
        pytest.param(16 * 1024 * 1024, InvalidDocument, id="16-mib"),
        pytest.param(16 * 1024 * 1024 + 1, TooLarge, id="more"),
        pytest.param(85 * 1024 * 1024, TooLarge, id="85-mib"),
    ],
)
async def test_what_is_larger_than_any_manifest_is_not_read(
    region: FakeRegion, rack: Rack, size: int, error: type[BootferryError]
) -> None:
    region.publish(ubuntu("1"))
    await rack.poller.poll()
    before = tree_bytes(rack.root)
    region.manifest_body = b"[" * size
    await rack.poller.poll()
    assert isinstance(rack.error(), error)
    assert tree_bytes(rack.root) == before


async def test_the_floor_outlives_the_process_and_its_manifest(region: FakeRegion, tmp_path: Path) -> None:
    image = ubuntu("1")
    async with running_rack(region, tmp_path) as rack:
        region.publish(image, serial=7)
        await rack.poller.poll()
    (tmp_path / "manifest.json").write_bytes(b"spoilt")
    async with running_rack(region, tmp_path) as rack:
        region.publish({}, serial=6)
        await rack.poller.poll()
        assert isinstance(rack.error(), TooOld)
        assert await rack.boot(KERNEL) == (200, image[KERNEL])


async def test_a_forked_manifest_is_refused_by_the_next_process_too_and_told(
    region: FakeRegion, tmp_path: Path
) -> None:
    image = ubuntu("1")
    first = region.publish(image, serial=7)
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
    # The region's database was restored, and the number is given out again.
    region.publish(ubuntu("2"), serial=7)
    for spoilt in (False, True):
        if spoilt:
            (tmp_path / "manifest.json").write_bytes(b"spoilt")
        async with running_rack(region, tmp_path) as rack:
            await rack.poller.poll()
            assert isinstance(rack.error(), ForkedManifest)
            assert tree_bytes(tmp_path) == image
            report = region.reports[-1]
            assert report.error.code == "forked_manifest"
            assert "bootferry-region new-epoch" in report.error.sentence
            assert report.knows == (Knows() if spoilt else Knows(*first.order, Sha256.of(first.encode())))

    region.order = (region.order[0] + 1, 0)
    region.publish(ubuntu("2"))
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        assert rack.error() is None
        assert tree_bytes(tmp_path) == ubuntu("2")


async def test_a_region_that_has_published_nothing_yet_is_no_fault(region: FakeRegion, rack: Rack) -> None:
    await rack.poller.poll()
    assert rack.error() is None
    assert rack.poller.belief.manifest is None
    assert (await rack.boot(KERNEL))[0] == 503
    report = region.reports[-1]
    assert (report.knows, report.pending, report.error) == (Knows(), (), Fault())

    image = ubuntu("1")
    region.publish(image)
    await rack.poller.poll()
    region.published = False
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == image
    assert region.reports[-1].knows.serial == 1


async def test_a_rack_serves_without_its_region_from_the_start(region: FakeRegion, tmp_path: Path) -> None:
    image = ubuntu("1")
    async with running_rack(region, tmp_path) as rack:
        region.publish(image)
        await rack.poller.poll()
    gone = FakeRegion()
    gone.url = region.url.with_port(1)
    text = (tmp_path / "identity" / "region.json").read_text().replace(str(region.url), str(gone.url))
    (tmp_path / "identity" / "region.json").write_text(text)
    async with running_rack(gone, tmp_path) as rack:
        assert await rack.boot(KERNEL) == (200, image[KERNEL])
        await rack.poller.poll()
        assert isinstance(rack.error(), ConnectionRefused)
        assert await rack.boot(KERNEL) == (200, image[KERNEL])


def flip(path: Path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.chmod(0o644)
    path.write_bytes(content)


def flip_unseen(path: Path) -> None:
    """As rot does it: the clock of the file does not move."""
    before = path.stat()
    flip(path)
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))


DAMAGES = [
    pytest.param(lambda store, tree: flip(store), id="flipped-in-the-store"),
    pytest.param(lambda store, tree: store.unlink(), id="deleted-from-the-store"),
    pytest.param(lambda store, tree: tree.unlink(), id="deleted-from-the-tree"),
    pytest.param(lambda store, tree: (store.unlink(), tree.unlink()), id="deleted-from-both"),
    pytest.param(lambda store, tree: (store.chmod(0o644), store.write_bytes(b"short")), id="truncated"),
    pytest.param(lambda store, tree: (tree.unlink(), tree.write_bytes(b"x" * 50_000)), id="replaced-in-the-tree"),
    pytest.param(lambda store, tree: store.touch(), id="touched-only"),
]


@pytest.mark.parametrize("damage", DAMAGES)
async def test_a_damaged_file_is_found_and_healed(
    region: FakeRegion, rack: Rack, damage: Callable[[Path, Path], object]
) -> None:
    image = ubuntu("1")
    region.publish(image)
    await rack.poller.poll()
    belief = rack.poller.belief
    assert belief.tree is not None
    damage(stored_path(rack.store, Sha256.of(image[KERNEL])), tree_path(rack.root, belief.tree, KERNEL))

    status, body = await rack.boot(KERNEL)
    assert (status, body) == (200, image[KERNEL]) or status == 503
    await rack.poller.poll()
    assert rack.error() is None
    assert await rack.boot(KERNEL) == (200, image[KERNEL])
    assert tree_bytes(rack.root) == image
    assert rack.store.has(Sha256.of(image[KERNEL]), len(image[KERNEL]))


@pytest.mark.parametrize("damage", [flip, Path.unlink, flip_unseen])
async def test_a_damaged_bootloader_is_unpacked_again_without_the_region(
    region: FakeRegion, rack: Rack, damage: Callable[[Path], None]
) -> None:
    region.publish(ubuntu("1"), {"bootloader/uefi/amd64": tar_xz(GRUB)})
    await rack.poller.poll()
    region.manifest_status = 503
    damage(rack.root / "current" / "bootloader/uefi/amd64/bootx64.efi")
    for _ in range(2):
        await rack.poller.poll()
        rack.clock.offset += timedelta(days=1)
    assert await rack.boot("bootloader/uefi/amd64/bootx64.efi") == (200, GRUB["bootx64.efi"])


async def test_rot_that_moves_no_clock_is_found_within_a_day(region: FakeRegion, rack: Rack) -> None:
    image = ubuntu("1")
    region.publish(image)
    await rack.poller.poll()
    flip_unseen(stored_path(rack.store, Sha256.of(image[KERNEL])))
    await rack.poller.poll()
    rack.clock.offset = timedelta(days=1)
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == image


async def test_a_wrong_file_that_cannot_be_healed_is_not_served(region: FakeRegion, rack: Rack) -> None:
    image = ubuntu("1")
    region.publish(image)
    await rack.poller.poll()
    region.manifest_status = 503
    flip(stored_path(rack.store, Sha256.of(image[KERNEL])))
    await rack.poller.poll()
    async with rack.machine.get(f"/images/{KERNEL}") as response:
        assert response.status == 503
        assert int(response.headers["Retry-After"]) > 0
    assert await rack.boot(SQUASHFS) == (200, image[SQUASHFS])
    region.manifest_status = 200
    await rack.poller.poll()
    assert await rack.boot(KERNEL) == (200, image[KERNEL])


async def test_a_file_that_cannot_be_read_is_told_and_served_and_keeps_nobody_from_being_audited(
    region: FakeRegion, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ubuntu("1")
    region.publish(image)
    await rack.poller.poll()
    read = DiskStore.digest_of

    def stuck(store: DiskStore, sha256: Sha256) -> Sha256 | None:
        if sha256 == Sha256.of(image[KERNEL]):
            raise OSError(errno.EMFILE, "Too many open files")
        return read(store, sha256)

    flip_unseen(stored_path(rack.store, Sha256.of(image[SQUASHFS])))
    rack.clock.offset = timedelta(days=1)
    with monkeypatch.context() as patch:
        patch.setattr(DiskStore, "digest_of", stuck)
        for _ in range(2):
            await rack.poller.poll()
            assert "Too many open files" in str(rack.error()), "it is read again by every audit"
            assert await rack.boot(KERNEL) == (200, image[KERNEL])
            assert tree_bytes(rack.root) == image
    await rack.poller.poll()
    assert rack.error() is None


async def test_wrong_bytes_are_asked_for_once_a_poll_and_never_served(region: FakeRegion, rack: Rack) -> None:
    image = ubuntu("1")
    kernel = Sha256.of(image[KERNEL])
    region.wrong_bytes.add(kernel)
    region.publish(image)
    await rack.poller.poll()
    assert isinstance(rack.error(), WrongDigest)
    assert region.asked_for[kernel] == 1
    assert rack.poller.belief.tree is None
    assert len(rack.poller.belief.held) == len({Sha256.of(data) for data in image.values()}) - 1
    region.wrong_bytes.clear()
    await rack.poller.poll()
    assert tree_bytes(rack.root) == image


async def test_a_cut_download_is_resumed_within_the_poll(region: FakeRegion, rack: Rack) -> None:
    image = ubuntu("1")
    squashfs = Sha256.of(image[SQUASHFS])
    region.cut_after[squashfs] = 120_000
    region.publish(image)
    await rack.poller.poll()
    assert rack.error() is None
    ranges = [request.headers.get("Range") for request in region.seen("GET", f"/api/v1/files/{squashfs}")]
    assert ranges[0] is None
    assert ranges[1] is not None
    assert 0 < int(ranges[1].removeprefix("bytes=").rstrip("-")) <= 120_000


async def test_a_cancelled_pull_is_resumed_by_the_next_process(region: FakeRegion, tmp_path: Path) -> None:
    image = ubuntu("1", size=400_000)
    squashfs = Sha256.of(image[SQUASHFS])
    region.pause_s = 0.01
    region.publish(image)
    async with running_rack(region, tmp_path, at_once=1) as rack:
        polling = asyncio.create_task(rack.poller.poll())
        partial = incoming_path(rack.store, squashfs)
        await until(lambda: partial.exists() and partial.stat().st_size > 100_000)
        polling.cancel()
        with pytest.raises(asyncio.CancelledError):
            await polling
    kept = partial.stat().st_size
    assert kept > 100_000
    region.pause_s = 0
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        assert tree_bytes(rack.root) == image
    assert region.seen("GET", f"/api/v1/files/{squashfs}")[-1].headers["Range"] == f"bytes={kept}-"


async def test_images_appear_and_progress_is_reported_while_the_pull_goes_on(region: FakeRegion, rack: Rack) -> None:
    jammy, noble = ubuntu("1", release="jammy", size=20_000), ubuntu("1", size=600_000)
    region.pause_s = 0.01
    region.publish(jammy | noble)
    polling = asyncio.create_task(rack.poller.poll())
    await until(lambda: rack.poller.belief.tree is not None)
    assert not polling.done()
    assert tree_bytes(rack.root) == jammy
    await until(lambda: len(region.reports) > 1)
    region.pause_s = 0
    await polling
    assert tree_bytes(rack.root) == jammy | noble
    left = [report.bytes_left for report in region.reports]
    assert left == sorted(left, reverse=True)
    assert left[0] > left[-1] == 0
    assert len({report.sequence for report in region.reports}) == len(left)


async def test_no_byte_is_fetched_when_not_everything_fits(
    region: FakeRegion, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.publish(ubuntu("1"))
    monkeypatch.setattr(rack.store, "bytes_free", lambda: 1000)
    await rack.poller.poll()
    assert isinstance(rack.error(), NoRoom)
    assert not region.asked_for
    assert region.reports[-1].error.code == "no_room"
    assert region.reports[-1].pending == (Pending("ubuntu:noble:amd64", "", "no_room"),)


async def test_a_disk_that_fills_up_in_the_middle_stops_the_pull_and_nothing_else(
    region: FakeRegion, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    old, new = ubuntu("1"), ubuntu("2")
    region.publish(old)
    await rack.poller.poll()
    region.asked_for.clear()

    def full(*_: object) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with monkeypatch.context() as patched:
        patched.setattr("shared.store.disk.DiskWriter.write", full)
        region.publish(new)
        await rack.poller.poll()
    assert isinstance(rack.error(), NoRoom)
    assert max(region.asked_for.values()) == 1
    assert await rack.boot(KERNEL) == (200, old[KERNEL])
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == new


async def test_a_region_that_sends_files_elsewhere_is_refused(region: FakeRegion, rack: Rack) -> None:
    region.redirect_files_to = "http://127.0.0.1:1/stolen"
    region.publish(ubuntu("1"))
    await rack.poller.poll()
    assert isinstance(rack.error(), RedirectRefused)


async def test_a_bad_archive_costs_only_its_own_directory(region: FakeRegion, rack: Rack) -> None:
    image = ubuntu("1")
    region.publish(
        image, {"bootloader/uefi/amd64": tar_xz({"../../escape": b"x"}), "bootloader/pxe/amd64": tar_xz(GRUB)}
    )
    await rack.poller.poll()
    assert isinstance(rack.error(), InvalidDocument)
    assert "bootloader/uefi/amd64" in str(rack.error())
    assert set(tree_bytes(rack.root)) == {*image, *(f"bootloader/pxe/amd64/{name}" for name in GRUB)}
    assert not (rack.root.parent / "escape").exists()
    assert region.reports[-1].pending == (Pending("bootloader:uefi:amd64", "", "invalid_document"),)


async def test_what_nothing_names_is_pruned_after_the_grace_also_over_a_restart(
    region: FakeRegion, tmp_path: Path
) -> None:
    old, new = ubuntu("1"), ubuntu("2")
    gone = Sha256.of(old[KERNEL])
    async with running_rack(region, tmp_path, grace_s=3600) as rack:
        region.publish(old, {"bootloader/uefi/amd64": tar_xz(GRUB)})
        await rack.poller.poll()
        region.publish(new)
        await rack.poller.poll()
        rack.clock.offset = timedelta(minutes=50)
        await rack.poller.poll()
        assert stored_path(rack.store, gone).exists()
        assert len(list((tmp_path / "trees").glob("*/"))) >= 2
    async with running_rack(region, tmp_path, grace_s=3600) as rack:
        rack.clock.offset = timedelta(minutes=61)
        await rack.poller.poll()
        assert not stored_path(rack.store, gone).exists()
        assert not any((tmp_path / "unpacked").iterdir())
        assert {path.name.removesuffix(".json") for path in (tmp_path / "trees").iterdir()} == {
            (tmp_path / "current").readlink().name
        }
        assert tree_bytes(tmp_path) == new


async def test_partial_files_nobody_waits_for_are_dropped(region: FakeRegion, rack: Rack) -> None:
    leftover = incoming_path(rack.store, Sha256.of(b"nobody wants this"))
    leftover.write_bytes(b"nobody")
    region.publish(ubuntu("1"))
    await rack.poller.poll()
    assert not leftover.exists()


async def test_what_a_crash_left_half_built_is_cleared(region: FakeRegion, tmp_path: Path) -> None:
    image = ubuntu("1")
    async with running_rack(region, tmp_path) as rack:
        region.publish(image, {"bootloader/uefi/amd64": tar_xz(GRUB)})
        await rack.poller.poll()
    whole = tree_bytes(tmp_path)
    leftovers = [tmp_path / name for name in ("trees/1-2-0.new", "trees/1-2-0", "unpacked/0123", "unpacked/45.new")]
    for leftover in leftovers:
        (leftover / "ubuntu").mkdir(parents=True)
    leftovers.append(tmp_path / "trees" / "7-7-0.json")
    leftovers[-1].write_text("{}")
    async with running_rack(region, tmp_path) as rack:
        before = rack.poller.belief.tree
        await rack.poller.poll()
        assert not [leftover for leftover in leftovers if leftover.exists()]
        assert rack.poller.belief.tree is before
        assert tree_bytes(tmp_path) == whole


async def test_a_hint_makes_the_rack_poll_at_once_and_a_cut_stream_comes_back(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    running = asyncio.create_task(rack.beat.run())
    try:
        await until(lambda: rack.poller.belief.polls["ok"] > 0 and bool(region.streams))
        second = ubuntu("2")
        region.publish(second)
        await until(lambda: tree_bytes(rack.root) == second)

        region.cut_streams()
        await until(lambda: len(region.seen("GET", "/api/v1/manifest/events")) > 1 and bool(region.streams))
        third = ubuntu("3")
        region.publish(third)
        await until(lambda: tree_bytes(rack.root) == third)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_an_operator_at_the_region_makes_the_rack_poll_although_nothing_is_new(
    region: FakeRegion, rack: Rack
) -> None:
    region.publish(ubuntu("1"))
    running = asyncio.create_task(rack.beat.run())
    try:
        await until(lambda: rack.poller.belief.polls["ok"] > 0 and bool(region.streams))
        await asyncio.sleep(0.3)
        before = rack.poller.belief.polls["ok"]
        region.ask_for_a_poll()
        await until(lambda: rack.poller.belief.polls["ok"] > before)
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_polls_never_overlap_and_a_wake_during_one_means_one_more(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1", size=200_000))
    region.pause_s = 0.005
    running = asyncio.create_task(rack.beat.run())
    try:
        await until(lambda: bool(region.asked_for))
        for _ in range(5):
            rack.beat.wake()
        region.pause_s = 0
        await until(lambda: rack.poller.belief.polls["ok"] >= 2)
        await asyncio.sleep(0.5)
        # The hint, the five wakes as one, and the first beat, which may come after both.
        assert rack.poller.belief.polls["ok"] <= 3
        assert set(region.asked_for.values()) == {1}
    finally:
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


async def test_the_log_hears_of_a_fault_once(region: FakeRegion, rack: Rack, monkeypatch: pytest.MonkeyPatch) -> None:
    with structlog.testing.capture_logs() as lines:
        monkeypatch.setattr("rack.poll._log", structlog.get_logger())
        region.publish(ubuntu("1"))
        region.manifest_status = 503
        for _ in range(3):
            await rack.poller.poll()
        region.manifest_status = 200
        await rack.poller.poll()
        await rack.poller.poll()
    said = [(line["log_level"], line.get("code")) for line in lines if line["action"] == "poll"]
    assert said == [("warning", "http_status"), ("info", None)]
    assert rack.poller.belief.polls == {"http_status": 3, "ok": 2}
