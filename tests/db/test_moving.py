"""An operator says where racks reach the region: the manifest tells them, signed, and nothing else of it changes."""

import pytest
from sqlalchemy import text

from region.actions import region as acts
from region.database.connection import transaction
from region.people import activity
from region.people.activity import CONSOLE
from shared.errors import InvalidValue
from tests.db.bench import RESOLUTE, Bench


async def move(bench: Bench, url: str) -> str:
    region = bench.region
    async with transaction(region.engine) as connection:
        return await acts.move(connection, CONSOLE, region.publisher, url, region.now())


async def since(bench: Bench) -> list[int]:
    async with transaction(bench.region.engine) as connection:
        return list(await connection.scalars(text("SELECT since FROM published_images ORDER BY image")))


async def test_the_manifest_says_where_the_region_is(bench: Bench) -> None:
    await bench.select(RESOLUTE)
    await bench.import_now()
    before, seen = await bench.manifest(), await since(bench)
    assert before.region_url == ""
    assert await move(bench, "https://new.example:5240/") == "https://new.example:5240"
    after = await bench.manifest()
    assert after.region_url == "https://new.example:5240"
    assert (after.entries, after.epoch, after.serial) == (before.entries, before.epoch, before.serial + 1)
    assert await since(bench) == seen, "no rack has anything to pull for it"
    async with transaction(bench.region.engine) as connection:
        [told] = await activity.list_recent(connection, 1, None)
    assert (told.action, told.after) == ("region.moved", {"url": "https://new.example:5240"})
    # Said twice is said once, and every manifest after it says it too.
    await move(bench, "https://new.example:5240")
    assert (await bench.manifest()).order == after.order
    await move(bench, "")
    assert (await bench.manifest()).region_url == ""


async def test_the_first_manifest_says_it_too(bench: Bench) -> None:
    await move(bench, "https://new.example:5240")
    await bench.select(RESOLUTE)
    await bench.import_now()
    assert (await bench.manifest()).region_url == "https://new.example:5240"


@pytest.mark.parametrize("url", ["new.example", "https://me:secret@new.example", "https://new.example/?a=b", "ftp://x"])
async def test_what_is_no_address_is_refused(bench: Bench, url: str) -> None:
    with pytest.raises(InvalidValue) as refused:
        await move(bench, url)
    assert "secret" not in str(refused.value)
