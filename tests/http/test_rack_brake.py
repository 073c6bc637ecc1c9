"""A manifest that takes much away waits for an operator, and the rack serves and heals meanwhile."""

from pathlib import Path

import pytest

from rack.tree import tree_path
from shared.digest import Sha256
from shared.errors import WaitsForConfirmation
from shared.wire.report import Knows
from tests.http.fake_region import EPOCH, FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import Rack, running_rack
from tests.stores import stored_path

RELEASES = ("focal", "jammy", "noble", "plucky")
KERNEL = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"


def images(*releases: str, version: str = "1") -> dict[str, bytes]:
    found: dict[str, bytes] = {}
    for release in releases:
        found |= ubuntu(version, release=release, size=500)
    return found


async def test_a_signed_manifest_that_empties_a_rack_waits_for_an_operator(region: FakeRegion, rack: Rack) -> None:
    first = region.publish(images("noble", "jammy"))
    await rack.poller.poll()
    region.publish({})
    for _ in range(3):
        await rack.poller.poll()
        assert isinstance(rack.error(), WaitsForConfirmation)
        assert tree_bytes(rack.root) == images("noble", "jammy")
        assert await rack.boot(KERNEL) == (200, images("noble")[KERNEL])
    report = region.reports[-1]
    assert report.error.code == "waits_for_confirmation"
    assert "ubuntu:jammy:amd64, ubuntu:noble:amd64" in report.error.sentence
    assert "bootferry rack confirm" in report.error.sentence
    assert (report.knows, report.pending) == (Knows(*first.order, Sha256.of(first.encode())), ())
    # It travels once; nothing of what is still shown is pruned.
    asked = region.seen("GET", "/api/v1/manifest")
    assert [request.headers.get("If-None-Match", "")[:13] for request in asked] == [
        "",
        f'"{EPOCH}-1',
        f'"{EPOCH}-2',
        f'"{EPOCH}-2',
    ]
    assert len(list(rack.store.held())) == len({Sha256.of(data) for data in images("noble", "jammy").values()})

    region.confirmed = (EPOCH, 3)
    region.publish({})
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == {}


AMOUNTS = [
    pytest.param(4, 3, True, id="a quarter of four"),
    pytest.param(4, 2, True, id="half of four"),
    pytest.param(4, 1, False, id="three of four"),
    pytest.param(3, 2, True, id="one of three"),
    pytest.param(3, 1, False, id="two of three"),
    pytest.param(1, 0, False, id="the only one"),
]


@pytest.mark.parametrize(("shown", "left", "taken"), AMOUNTS)
async def test_more_than_half_is_much(region: FakeRegion, rack: Rack, shown: int, left: int, taken: bool) -> None:
    region.publish(images(*RELEASES[:shown]))
    await rack.poller.poll()
    # New images beside it make it no less.
    newer = ubuntu("1", release="questing", size=500)
    region.publish(images(*RELEASES[:left]) | newer)
    await rack.poller.poll()
    assert (rack.error() is None) == taken
    assert tree_bytes(rack.root) == (images(*RELEASES[:left]) | newer if taken else images(*RELEASES[:shown]))


async def test_a_new_version_of_everything_takes_nothing_away(region: FakeRegion, rack: Rack) -> None:
    region.publish(images("noble", "jammy"))
    await rack.poller.poll()
    region.publish(images("noble", "jammy", version="2"))
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == images("noble", "jammy", version="2")


async def test_it_ends_by_itself_when_the_images_are_back(region: FakeRegion, rack: Rack) -> None:
    region.publish(images("noble", "jammy"))
    await rack.poller.poll()
    region.publish({})
    await rack.poller.poll()
    region.publish(images("noble", "jammy", version="2"))
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == images("noble", "jammy", version="2")


async def test_a_lost_file_heals_while_it_waits(region: FakeRegion, rack: Rack) -> None:
    image = images("noble")
    region.publish(image)
    await rack.poller.poll()
    region.publish({})
    await rack.poller.poll()
    current = rack.poller.belief.tree
    assert current is not None
    stored_path(rack.store, Sha256.of(image[KERNEL])).unlink()
    tree_path(rack.root, current, KERNEL).unlink()
    await rack.poller.poll()
    assert isinstance(rack.error(), WaitsForConfirmation)
    assert tree_bytes(rack.root) == image


async def test_a_confirmation_counts_once_and_over_a_restart(region: FakeRegion, tmp_path: Path) -> None:
    region.publish(images("noble", "jammy"))
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        # Confirmed in a manifest that this rack has never seen.
        region.publish({})
        region.confirmed = region.order
        region.publish(images("plucky"))
        await rack.poller.poll()
        assert rack.error() is None
        assert tree_bytes(tmp_path) == images("plucky")
    region.publish(images("noble"))
    for spoilt in (False, True):
        if spoilt:
            # What is left to go by is the manifest.
            (tmp_path / "state.json").write_bytes(b"spoilt")
        async with running_rack(region, tmp_path) as rack:
            await rack.poller.poll()
            assert isinstance(rack.error(), WaitsForConfirmation)
            assert tree_bytes(tmp_path) == images("plucky")


async def test_no_manifest_confirms_what_comes_after_it(region: FakeRegion, rack: Rack) -> None:
    region.confirmed = (EPOCH + 10**9, 0)
    region.publish(images("noble"))
    await rack.poller.poll()
    region.publish({})
    region.confirmed = (EPOCH, 0)
    region.publish({})
    await rack.poller.poll()
    assert isinstance(rack.error(), WaitsForConfirmation)
    region.confirmed = (EPOCH, 4)
    region.publish({})
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == {}


async def test_a_bad_manifest_after_one_that_waits_does_not_hide_that(region: FakeRegion, rack: Rack) -> None:
    region.publish(images("noble"))
    await rack.poller.poll()
    region.publish({})
    await rack.poller.poll()
    order = region.order
    region.publish({}, serial=0)
    await rack.poller.poll()
    assert rack.poller.belief.polls["too_old"] == 1
    region.order = order
    await rack.poller.poll()
    assert isinstance(rack.error(), WaitsForConfirmation)
    assert tree_bytes(rack.root) == images("noble")


async def test_a_rack_enrolled_anew_does_not_let_a_young_region_empty_it(tmp_path: Path) -> None:
    async with FakeRegion.running() as first:
        first.publish(images("noble", "jammy", "focal"))
        async with running_rack(first, tmp_path) as rack:
            await rack.poller.poll()
    async with FakeRegion.running() as second:
        second.publish(images("noble"))
        async with running_rack(second, tmp_path, again=True) as rack:
            await rack.poller.poll()
            assert isinstance(rack.error(), WaitsForConfirmation)
            assert tree_bytes(tmp_path) == images("noble", "jammy", "focal")
            second.confirmed = (EPOCH, 2)
            second.publish(images("noble"))
            await rack.poller.poll()
            assert rack.error() is None
            assert tree_bytes(tmp_path) == images("noble")
