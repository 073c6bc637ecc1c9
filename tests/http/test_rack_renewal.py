"""A rack's own key is renewed: the region takes the new one and no other, and a cut anywhere leaves one that works."""

import json
import os
from pathlib import Path

import pytest

from rack import identity as identities
from rack import renewal
from rack.client import Region
from shared.errors import Conflict, FetchError, HttpStatus
from shared.http import client_session
from shared.names import Name
from shared.signing import fingerprint, load_key
from tests.http.fake_region import FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import Clock, Rack, running_rack


async def renew(root: Path) -> str:
    """The fingerprint of the key that another process has renewed it to."""
    identity = identities.load(root)
    async with client_session() as session:
        await renewal.renew(root, identity, Region(session, identity, now=Clock()), 0)
    return fingerprint(identity.key)


def kept(root: Path) -> list[str]:
    """The files of the identity, as they lie there."""
    return sorted(entry.name for entry in (root / "identity").iterdir())


def own(root: Path) -> str:
    """The fingerprint of the key that a start would take."""
    return fingerprint(identities.load(root).key)


async def polls(rack: Rack) -> bool:
    """True if the region takes what the rack asks."""
    await rack.poller.poll()
    return rack.error() is None


async def test_the_region_takes_the_new_key_and_a_running_rack_goes_on_with_it(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    assert await polls(rack)
    before = own(rack.root)
    fresh = await renew(rack.root)
    assert fresh == own(rack.root) == fingerprint(region.racks["rack-1"]) != before
    assert kept(rack.root) == ["rack.key", "region.json"]
    assert (rack.root / "identity" / "rack.key").stat().st_mode & 0o777 == 0o600
    region.publish(ubuntu("2"))
    assert await polls(rack)
    assert tree_bytes(rack.root) == ubuntu("2")
    refused = len(region.refused)
    assert await polls(rack)
    assert len(region.refused) == refused, "it asks by the new key only"
    assert await renew(rack.root) != fresh


async def test_a_cut_after_the_region_took_it_is_found_out_by_the_running_rack(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    before = own(rack.root)
    region.change_status = 503
    with pytest.raises(FetchError):
        await renew(rack.root)
    assert kept(rack.root) == ["rack.key", "rack.key.next", "region.json"]
    assert own(rack.root) == before != fingerprint(region.racks["rack-1"])
    assert await polls(rack)
    assert own(rack.root) == fingerprint(region.racks["rack-1"])
    assert kept(rack.root) == ["rack.key", "region.json"]


async def test_a_request_that_is_sent_again_over_another_connection_counts_once(region: FakeRegion, rack: Rack) -> None:
    """aiohttp does so where a connection ends without an answer: the old key opens nothing any more by then."""
    region.change_status = 0
    assert await renew(rack.root) == own(rack.root) == fingerprint(region.racks["rack-1"])
    assert kept(rack.root) == ["rack.key", "region.json"]


async def test_a_cut_after_the_region_took_it_is_found_out_by_the_next_start_and_by_the_next_renewal(
    region: FakeRegion, tmp_path: Path
) -> None:
    region.publish(ubuntu("1"))
    async with running_rack(region, tmp_path):
        pass
    region.change_status = 503
    with pytest.raises(FetchError):
        await renew(tmp_path)
    async with running_rack(region, tmp_path) as rack:
        assert await polls(rack)
    with pytest.raises(FetchError):
        await renew(tmp_path)
    # What the region has is what the first of the two wanted: it is put in place, and none is made beyond it.
    taken = fingerprint(region.racks["rack-1"])
    region.change_status = 204
    assert await renew(tmp_path) == taken == own(tmp_path)
    assert kept(tmp_path) == ["rack.key", "region.json"]


async def test_a_region_that_is_away_leaves_the_key_and_the_next_renewal_goes_on(
    region: FakeRegion, rack: Rack
) -> None:
    region.publish(ubuntu("1"))
    before = own(rack.root)
    region.change_status, region.change_counts = 503, False
    with pytest.raises(HttpStatus):
        await renew(rack.root)
    begun = fingerprint(load_key(rack.root / "identity" / "rack.key.next"))
    assert await polls(rack)
    assert own(rack.root) == before
    region.change_status, region.change_counts = 204, True
    assert await renew(rack.root) == begun


async def test_a_region_of_before_is_told_from_one_that_is_away(region: FakeRegion, rack: Rack) -> None:
    before = own(rack.root)
    region.change_status, region.change_counts = 404, False
    with pytest.raises(Conflict, match=r"of a version before 0\.2"):
        await renew(rack.root)
    assert kept(rack.root) == ["rack.key", "region.json"]
    assert own(rack.root) == before
    assert await polls(rack)


async def test_a_crash_between_the_two_files_leaves_the_new_key(
    region: FakeRegion, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.publish(ubuntu("1"))

    def crash(*_: object) -> None:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(identities, "_rename", crash)
        with pytest.raises(ZeroDivisionError):
            await renew(rack.root)
    assert kept(rack.root) == ["rack.key", "rack.key.next", "region.json"]
    assert own(rack.root) == fingerprint(region.racks["rack-1"])
    assert await polls(rack)
    later = await renew(rack.root)
    assert later == own(rack.root) == fingerprint(region.racks["rack-1"])
    assert kept(rack.root) == ["rack.key", "region.json"]


async def test_a_renewal_and_a_rotation_of_the_regions_key_keep_what_the_other_has_written(
    region: FakeRegion, rack: Rack
) -> None:
    region.publish(ubuntu("1"))
    assert await polls(rack)
    other = identities.load(rack.root)
    region.rotate()
    region.publish(ubuntu("2"))
    assert await polls(rack)
    fresh = identities.next_key(rack.root, other)
    region.racks["rack-1"] = fresh.public_key()
    identities.put_next_key(rack.root, other, fresh)
    found = identities.load(rack.root)
    assert fingerprint(found.region_key) == fingerprint(region.key)
    assert fingerprint(found.key) == fingerprint(fresh)
    assert await polls(rack)


async def test_an_enrolment_anew_leaves_nothing_of_a_renewal_that_broke_off(region: FakeRegion, rack: Rack) -> None:
    region.change_status, region.change_counts = 503, False
    with pytest.raises(HttpStatus):
        await renew(rack.root)
    async with client_session() as session:
        await identities.enrol(session, rack.root, region.url, region.token, Name("rack-b"), again=True)
    assert kept(rack.root) == ["rack.key", "region.json"]


async def test_a_rack_that_was_removed_is_refused_as_before(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    assert await polls(rack)
    region.racks.clear()
    assert not await polls(rack)
    assert rack.error() is not None
    assert tree_bytes(rack.root) == ubuntu("1")
    document = json.loads((rack.root / "identity" / "region.json").read_bytes())
    assert document["rack_key_fingerprint"] == own(rack.root)
    assert os.listdir(rack.root / "identity")  # noqa: PTH208
