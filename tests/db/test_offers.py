"""Offers: what is read from a stream and what the catalogue says of it are the same list."""

from pathlib import Path

import pytest
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from region.catalogue import offers
from region.catalogue.offers import Offer
from region.catalogue.products import INDEX, Document, Reading
from region.database.connection import transaction
from region.stream.documents import Product, parse_index, parse_products
from shared.names import RelativePath
from tests.conftest import NOW
from tests.db.rows import bootloader, kernel, make_source, reading, record

STABLE = Path(__file__).parents[3] / "shared" / "data" / "stable-stream"


async def test_an_image_is_one_line_whatever_its_kernels(engine: AsyncEngine) -> None:
    offered = [kernel("1", "2"), kernel("2", subarch="hwe-24.04"), bootloader("1")]
    expected = Offer(
        os="ubuntu",
        release="noble",
        arch="amd64",
        title="24.04 LTS",
        release_version="24.04",
        version="2",
        lts=True,
        support_eol=None,
        kernels=["ga-24.04", "hwe-24.04"],
        size_bytes=2 * 300 + 1000,
    )
    async with transaction(engine) as connection:
        source_id = await make_source(connection, *offered)
        await make_source(connection, kernel("9"), name="another", priority=99)
        assert offers.of_products(offered) == [expected]
        assert await offers.list_all(connection, source_id) == [expected]


async def test_ubuntu_comes_first_and_new_releases_before_old_ones(engine: AsyncEngine, tmp_path: Path) -> None:
    mirror = Mirror.create(tmp_path / "mirror", now=NOW, sizes=TINY)
    found = await _both(engine, mirror.root)
    assert [(offer.release, offer.arch) for offer in found] == [
        *((release, arch) for release in ("resolute", "questing", "plucky", "oracular", "noble", "jammy")
          for arch in ("amd64", "arm64")),
        ("8", "amd64"), ("centos70", "amd64"), ("centos66", "amd64"),
    ]  # fmt: skip
    assert [offer.release for offer in found if offer.lts and offer.arch == "amd64"] == ["resolute", "noble", "jammy"]
    assert {len(offer.kernels) for offer in found if offer.lts} == {5}


@pytest.mark.skipif(
    not STABLE.is_dir(), reason=f"the stable stream's metadata is not beside this checkout, at {STABLE}"
)
async def test_the_offers_of_the_stable_stream(engine: AsyncEngine) -> None:
    found = await _both(engine, STABLE)
    assert found[0].release == "resolute"
    assert len({offer.release for offer in found if offer.os == "ubuntu"}) == 16


async def test_what_is_offered_no_more_is_no_offer(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("1"))
        await record(connection, source_id, reading(kernel("1", release="jammy")))
        assert [offer.release for offer in await offers.list_all(connection, source_id)] == ["jammy"]
        await record(connection, source_id, reading())
        assert await offers.list_all(connection, source_id) == []


async def _both(engine: AsyncEngine, root: Path) -> list[Offer]:
    """The offers of the unsigned stream below `root`, as read and as catalogued, which must be the same."""
    index = parse_index((root / "streams/v1/index.json").read_bytes(), "index.json")
    changed = []
    found: list[Product] = []
    for entry in index.entries:
        stream = parse_products((root / entry.path).read_bytes(), entry.path)
        changed.append((Document(entry.content_id, entry.path, stream.updated, ""), stream))
        found += stream.products
    head = Document(INDEX, RelativePath("streams/v1/index.json"), index.updated, "")
    async with transaction(engine) as connection:
        source_id = await make_source(connection)
        await record(
            connection, source_id, Reading(head, frozenset(entry.content_id for entry in index.entries), changed)
        )
        catalogued = await offers.list_all(connection, source_id)
    assert catalogued == offers.of_products(found)
    return catalogued
