"""The region says that it has moved: a rack goes there once the same region answers there, and stays until then."""

import dataclasses
import json
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from yarl import URL

from rack import identity as identities
from rack import moving
from rack.client import Region
from shared.errors import CannotMove
from shared.http import client_session
from shared.signing import fingerprint
from tests.http.fake_region import FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import Clock, Rack, running_rack


@pytest.fixture
async def elsewhere(region: FakeRegion) -> AsyncIterator[FakeRegion]:
    """The same region at another address: the same keys, racks and files."""
    async with FakeRegion.running() as made:
        made.key, made.racks, made.files = region.key, region.racks, region.files
        made.sequences, made.successions = region.sequences, region.successions
        yield made


def told(region: FakeRegion, elsewhere: FakeRegion, version: str = "1") -> None:
    """Both publish the same, and say where the region is."""
    region.moved_to = elsewhere.moved_to = str(elsewhere.url)
    region.publish(ubuntu(version))
    elsewhere.order = (region.order[0], region.order[1] - 1)
    elsewhere.publish(ubuntu(version))


def address(root: Path) -> URL:
    """Where the next start would look for the region."""
    return identities.load(root).region_url


async def test_a_rack_follows_its_region_and_stays_there(region: FakeRegion, elsewhere: FakeRegion, rack: Rack) -> None:
    told(region, elsewhere)
    await rack.poller.poll()
    assert rack.error() is None
    assert address(rack.root) == elsewhere.url
    [report] = elsewhere.reports
    assert report.error.code == ""
    asked = len(region.requests)
    elsewhere.publish(ubuntu("2"))
    await rack.poller.poll()
    assert tree_bytes(rack.root) == ubuntu("2")
    assert len(region.requests) == asked, "nothing is asked at the old address any more"
    # One that is told of nowhere stays where it is.
    elsewhere.moved_to = ""
    elsewhere.publish(ubuntu("3"))
    await rack.poller.poll()
    assert (rack.error(), address(rack.root)) == (None, elsewhere.url)


async def test_it_is_there_after_a_restart(region: FakeRegion, elsewhere: FakeRegion, tmp_path: Path) -> None:
    told(region, elsewhere)
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
    asked = len(region.requests)
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        assert rack.error() is None
    assert len(region.requests) == asked
    document = json.loads((tmp_path / "identity" / "region.json").read_bytes())
    assert document["region_url"] == str(elsewhere.url)
    assert document["rack_id"] == "rack-1"


async def stays(region: FakeRegion, rack: Rack, why: str) -> None:
    """It does not go, says why to its region, and serves what that publishes."""
    await rack.poller.poll()
    error = rack.error()
    assert isinstance(error, CannotMove)
    assert why in str(error)
    assert address(rack.root) == region.url
    assert region.reports[-1].error.code == "cannot_move"
    assert tree_bytes(rack.root) == ubuntu("1")


async def test_it_stays_while_another_region_answers_there(
    region: FakeRegion, elsewhere: FakeRegion, rack: Rack
) -> None:
    elsewhere.key = Ed25519PrivateKey.generate()
    told(region, elsewhere)
    await stays(region, rack, "the region does not accept the rack")
    # One that takes every rack, and says what the region does, cannot sign it.
    elsewhere.key, elsewhere.manifest_key = region.key, Ed25519PrivateKey.generate()
    await stays(region, rack, "signatures is by key")
    elsewhere.manifest_key = None
    await rack.poller.poll()
    assert (rack.error(), address(rack.root)) == (None, elsewhere.url)


async def test_it_stays_while_nothing_answers_there_or_nothing_was_published(
    region: FakeRegion, elsewhere: FakeRegion, rack: Rack
) -> None:
    told(region, elsewhere)
    region.moved_to = "http://127.0.0.1:1"
    await stays(region, rack, "127.0.0.1:1")
    region.moved_to = str(elsewhere.url)
    region.publish(ubuntu("1"))
    elsewhere.published = False
    await stays(region, rack, "nothing was published there")
    elsewhere.manifest_status = 503
    await stays(region, rack, "503")


async def test_it_stays_while_what_is_published_there_is_older(
    region: FakeRegion, elsewhere: FakeRegion, rack: Rack
) -> None:
    told(region, elsewhere)
    elsewhere.order = (region.order[0], region.order[1] - 1)
    await stays(region, rack, "older than")


async def test_it_follows_to_the_key_that_came_after(region: FakeRegion, elsewhere: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    await rack.poller.poll()
    told(region, elsewhere)
    elsewhere.formerly = [fingerprint(region.key)]
    elsewhere.rotate()
    await rack.poller.poll()
    assert address(rack.root) == elsewhere.url
    await rack.poller.poll()
    assert rack.error() is None
    assert fingerprint(identities.load(rack.root).region_key) == fingerprint(elsewhere.key)


@pytest.mark.parametrize(
    ("said", "why"),
    [
        ("ftp://region.example", "http"),
        ("http://127.0.0.1:1/", "it is not https, as the present address is"),
        ("no address", "http"),
    ],
)
async def test_it_goes_to_no_address_without_tls_from_one_with_it(
    region: FakeRegion, rack: Rack, said: str, why: str
) -> None:
    identity = dataclasses.replace(identities.load(rack.root), region_url=URL("https://region.example:5240"))
    async with client_session() as session:
        with pytest.raises(CannotMove, match=why):
            await moving.move(rack.root, identity, Region(session, identity, now=Clock()), said, (0, 0))
    assert address(rack.root) == region.url
