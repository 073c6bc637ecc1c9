"""Versions: which roads lead to a file."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from region.catalogue import targets, versions
from region.database.connection import transaction
from tests.db.rows import NOBLE, digest, kernel, make_region, make_source, select_images

SQUASHFS = digest("noble/amd64/20260701/squashfs")


@pytest.mark.parametrize(
    "lapse",
    [
        pytest.param("UPDATE sources SET keyring_readable = false WHERE id = :id", id="keyring cannot be read"),
        pytest.param("UPDATE sources SET trust_revision = trust_revision + 1 WHERE id = :id", id="trust has changed"),
        pytest.param(
            "UPDATE stream_documents SET vouched_by = '{another}' WHERE source_id = :id", id="nobody of today signed it"
        ),
        pytest.param("UPDATE products SET offered = false WHERE source_id = :id", id="product is no longer offered"),
    ],
)
async def test_no_road_leads_through_a_source_that_does_not_vouch_for_it_now(engine: AsyncEngine, lapse: str) -> None:
    async with transaction(engine) as connection:
        first = await make_source(connection, kernel("20260701"))
        second = await make_source(connection, kernel("20260701"), name="second", priority=5)
        found = await versions.roads(connection, [SQUASHFS])
        assert [road.source_id for road in found[SQUASHFS]] == [first, second]
        await connection.execute(text(lapse), {"id": first})
        found = await versions.roads(connection, [SQUASHFS])
        assert [road.source_id for road in found[SQUASHFS]] == [second]


@pytest.mark.parametrize("which", ["content_id = ''", "content_id <> ''"], ids=["index", "product file"])
async def test_what_an_index_or_a_product_file_of_nobody_lists_is_no_target(engine: AsyncEngine, which: str) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
        await make_source(connection, kernel("20260701"))
        await select_images(connection, (None, NOBLE))
        assert [target.version for target in await targets.list_all(connection)] == ["20260701"]
        await connection.execute(text(f"UPDATE stream_documents SET vouched_by = '{{another}}' WHERE {which}"))  # noqa: S608 - one of the two above
        assert await targets.list_all(connection) == []
