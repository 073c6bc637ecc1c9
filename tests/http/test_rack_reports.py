"""What a rack tells its region: what it knows, which images it does not show as that says, and why."""

import itertools
from pathlib import Path

import pytest

from rack.tree import tree_path
from shared.digest import Sha256
from shared.errors import WrongDigest
from shared.wire.report import Fault, Knows, Pending
from tests.http.fake_region import FakeRegion, tar_xz, tree_bytes, ubuntu
from tests.http.running_rack import Rack, running_rack
from tests.stores import stored_path

NOBLE, JAMMY, UEFI = "ubuntu:noble:amd64", "ubuntu:jammy:amd64", "bootloader:uefi:amd64"
KERNEL = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"


def told(region: FakeRegion) -> list[Pending]:
    """What the last report says is pending."""
    return list(region.reports[-1].pending)


def lose(rack: Rack, path: str) -> None:
    """The disk forgets a file, in the store and in the tree."""
    current = rack.poller.belief.tree
    assert current is not None
    stored_path(rack.store, current.names[path].sha256).unlink()  # type: ignore[index]
    tree_path(rack.root, current, path).unlink()


async def test_a_rack_that_shows_all_has_nothing_to_name(region: FakeRegion, rack: Rack) -> None:
    manifest = region.publish(ubuntu("1"), {"bootloader/uefi/amd64": tar_xz({"shim.efi": b"shim"})})
    await rack.poller.poll()
    report = region.reports[-1]
    assert report.knows == Knows(*manifest.order, Sha256.of(manifest.encode()))
    assert (report.pending, report.bytes_left, report.error) == ((), 0, Fault())
    await rack.poller.poll()
    again = region.reports[-1]
    assert (again.knows, again.pending, again.bytes_left, again.error) == (report.knows, (), 0, Fault())
    assert again.sequence > report.sequence


async def test_a_file_lost_after_a_report_is_pending_in_the_next(region: FakeRegion, rack: Rack) -> None:
    image = ubuntu("1")
    region.publish(image | ubuntu("1", release="jammy"))
    await rack.poller.poll()
    assert told(region) == []

    lose(rack, KERNEL)
    region.file_status[Sha256.of(image[KERNEL])] = 404
    await rack.poller.poll()
    assert told(region) == [Pending(NOBLE, "1", "http_status")]
    assert region.reports[-1].bytes_left == len(image[KERNEL])

    region.file_status.clear()
    await rack.poller.poll()
    assert told(region) == []
    assert region.reports[-1].error == Fault()
    assert await rack.boot(KERNEL) == (200, image[KERNEL])


async def test_an_image_stuck_on_a_bad_file_is_pending_with_its_code_while_others_move_on(
    region: FakeRegion, rack: Rack
) -> None:
    shim, grub = {"bootloader/uefi/amd64": tar_xz({"a.efi": b"1"})}, {"bootloader/uefi/amd64": b"no archive"}
    region.publish(ubuntu("1") | ubuntu("1", release="jammy"), shim)
    await rack.poller.poll()
    noble, jammy = ubuntu("2"), ubuntu("2", release="jammy")
    region.wrong_bytes.add(Sha256.of(noble[KERNEL]))
    region.publish(noble | jammy, grub)
    await rack.poller.poll()
    assert isinstance(rack.error(), WrongDigest)
    assert told(region) == [Pending(UEFI, "1", "invalid_document"), Pending(NOBLE, "1", "wrong_digest")]
    assert region.reports[-1].error.code == "wrong_digest"
    assert {path: content for path, content in tree_bytes(rack.root).items() if "jammy" in path} == jammy

    # It stays so, over a restart of the process too, until the file is right.
    async with running_rack(region, rack.root) as again:
        await again.poller.poll()
        assert told(region)[1] == Pending(NOBLE, "1", "wrong_digest")
        region.wrong_bytes.clear()
        region.publish(noble | jammy, shim)
        await again.poller.poll()
        assert told(region) == []


async def test_files_that_were_not_tried_are_pending_for_the_reason_that_ended_the_pull(
    region: FakeRegion, tmp_path: Path
) -> None:
    jammy, noble = ubuntu("1", release="jammy"), ubuntu("1")
    region.file_status = {Sha256.of(content): 503 for content in jammy.values()}
    region.publish(jammy | noble)
    async with running_rack(region, tmp_path, at_once=1) as rack:
        await rack.poller.poll()
    assert told(region) == [Pending(JAMMY, "", "http_status"), Pending(NOBLE, "", "http_status")]
    assert not region.asked_for.keys() & {Sha256.of(content) for content in noble.values()}


@pytest.mark.parametrize("fault", [pytest.param(503, id="503"), pytest.param(0, id="lost-connection")])
async def test_a_report_that_was_not_taken_is_sent_again_within_the_poll(
    region: FakeRegion, rack: Rack, fault: int
) -> None:
    region.publish(ubuntu("1"))
    region.report_faults = [fault, fault]
    await rack.poller.poll()
    assert rack.error() is None
    assert len(region.seen("PUT", "/api/v1/racks")) == 3
    assert [report.pending for report in region.reports] == [()]


async def test_a_report_that_is_refused_is_not_sent_again(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    region.report_faults = [422]
    await rack.poller.poll()
    assert len(region.seen("PUT", "/api/v1/racks")) == 1
    assert rack.poller.belief.polls == {"http_status": 1}


async def test_while_pulling_only_news_are_reported(region: FakeRegion, rack: Rack) -> None:
    jammy, noble = ubuntu("1", release="jammy", size=5_000), ubuntu("1", size=400_000)
    region.pause_s = 0.02
    region.file_status[Sha256.of(noble[KERNEL])] = 404
    region.publish(jammy | noble)
    await rack.poller.poll()
    said = [(report.pending, report.error.code) for report in region.reports]
    assert len(said) >= 2
    # The last one is sent in any case.
    assert all(first != second for first, second in itertools.pairwise(said[:-1]))
    assert said[-1] == ((Pending(NOBLE, "", "http_status"),), "http_status")
    assert said[-2] == said[-1]


async def test_what_a_rack_cannot_mend_without_its_region_is_pending_for_that(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    await rack.poller.poll()
    lose(rack, KERNEL)
    region.manifest_status = 503
    await rack.poller.poll()
    assert list(rack.poller.belief.pending) == [Pending(NOBLE, "1", "http_status")]
    assert "answered 503" in rack.poller.belief.faults[NOBLE].sentence
    region.manifest_status = 200
    await rack.poller.poll()
    assert told(region) == []
    assert not rack.poller.belief.faults
