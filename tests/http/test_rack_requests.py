"""A rack that is refused for its time or its sequence believes nothing but what the region's key has signed."""

from datetime import UTC, datetime, timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import InvalidRequestSignature
from tests.http.fake_region import FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import Rack

OFF = [
    pytest.param(timedelta(minutes=-6), id="six-minutes-behind"),
    pytest.param(timedelta(minutes=6), id="six-minutes-ahead"),
    pytest.param(timedelta(days=-20_000), id="in-1972"),
    pytest.param(timedelta(days=3650), id="ten-years-ahead"),
]


@pytest.mark.parametrize("off", OFF)
async def test_a_rack_whose_clock_is_wrong_signs_with_the_regions_time(
    region: FakeRegion, rack: Rack, off: timedelta
) -> None:
    rack.link_clock.offset = off
    region.publish(image := ubuntu("1"))
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == image
    assert len(region.refused) == 1, "only the first request is refused"
    assert abs(region.reports[-1].sequence / 1000 - datetime.now(UTC).timestamp()) < 60
    # The clock is set right.
    rack.link_clock.offset = timedelta()
    await rack.poller.poll()
    assert rack.error() is None
    assert len(region.refused) == 2
    assert [report.sequence for report in region.reports] == sorted({report.sequence for report in region.reports})


async def test_a_region_whose_clock_was_ten_years_ahead_hears_its_racks_again(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    region.clock = lambda: datetime.now(UTC) + timedelta(days=3650)
    await rack.poller.poll()
    assert rack.error() is None
    region.clock, region.sequences = lambda: datetime.now(UTC), {}
    await rack.poller.poll()
    assert rack.error() is None
    assert abs(region.reports[-1].sequence / 1000 - datetime.now(UTC).timestamp()) < 60


@pytest.mark.parametrize("forged", ["key", "nonce"])
async def test_nobody_else_sets_a_racks_clock(region: FakeRegion, rack: Rack, forged: str) -> None:
    region.publish(ubuntu("1"))
    if forged == "key":
        region.correction_key = Ed25519PrivateKey.generate()
    else:
        region.answered_nonce = "f" * 32
    region.clock = lambda: datetime.now(UTC) + timedelta(days=1)
    await rack.poller.poll()
    assert isinstance(rack.error(), InvalidRequestSignature)
    assert len(region.refused) == 1, "it does not ask again"
    region.clock = lambda: datetime.now(UTC)
    await rack.poller.poll()
    assert rack.error() is None
    assert len(region.refused) == 1


async def test_a_rack_goes_on_from_the_sequence_that_its_region_knows(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    await rack.poller.poll()
    [(rack_id, last)] = region.sequences.items()
    # As after its directory was restored from a backup, with a clock that was ahead then.
    region.sequences[rack_id] = last + 3_600_000
    await rack.poller.poll()
    assert rack.error() is None
    assert region.sequences[rack_id] == region.reports[-1].sequence == last + 3_600_001


async def test_another_keys_word_does_not_move_the_sequence(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    await rack.poller.poll()
    [(rack_id, last)] = region.sequences.items()
    region.correction_key = Ed25519PrivateKey.generate()
    region.sequences[rack_id] = 2**62
    await rack.poller.poll()
    assert isinstance(rack.error(), InvalidRequestSignature)
    region.sequences[rack_id], region.correction_key = last, None
    await rack.poller.poll()
    assert rack.error() is None
    assert region.reports[-1].sequence < last + 3_600_000
