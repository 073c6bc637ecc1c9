"""Selections: what is wanted, as a whole."""

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.exc import DBAPIError, IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from region.catalogue import selections
from region.database.connection import transaction
from shared.errors import NotFound
from shared.names import ImageKey
from tests.db.rows import NOBLE, make_region, make_source, select_images, selected

JAMMY = ImageKey.parse("ubuntu:jammy:amd64")


async def test_a_selection_replaces_the_one_before(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        first, second = [await make_source(connection, name=name, priority=n) for n, name in ((1, "a"), (2, "b"))]
        await select_images(connection, (first, NOBLE), (first, JAMMY))
        before = {entry.wish.image: entry for entry in await selections.list_all(connection)}
        await select_images(connection, (first, NOBLE), (second, NOBLE))
        assert await selected(connection) == {(first, NOBLE), (second, NOBLE)}
        # What is in both stays the same row: its address is an operator's to keep.
        assert await selections.get(connection, before[NOBLE].id) == before[NOBLE]
        with pytest.raises(NotFound):
            await selections.get(connection, before[JAMMY].id)
        await select_images(connection)
        assert await selections.list_all(connection) == []


async def test_selections_are_listed_by_image(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection)
        await select_images(connection, (source_id, NOBLE), (source_id, JAMMY))
        assert [entry.wish.image for entry in await selections.list_all(connection)] == [JAMMY, NOBLE]


async def test_a_selection_of_a_source_that_is_not_there_changes_nothing(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection)
        await select_images(connection, (source_id, NOBLE))
    with pytest.raises(IntegrityError):
        async with transaction(engine) as connection:
            await select_images(connection, (source_id + 1, JAMMY))
    async with transaction(engine) as connection:
        assert await selected(connection) == {(source_id, NOBLE)}


async def test_the_default_is_due_until_somebody_has_chosen_even_nothing(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        await make_region(connection, Ed25519PrivateKey.generate())
        assert await selections.default_is_due(connection)
        await select_images(connection)
        assert not await selections.default_is_due(connection)


async def test_as_many_images_as_the_api_takes_can_be_selected_at_once(engine: AsyncEngine) -> None:
    images = [ImageKey.parse(f"ubuntu:r{n}:amd64") for n in range(10_000)]
    async with transaction(engine) as connection:
        source_id = await make_source(connection)
        try:
            await select_images(connection, *[(source_id, image) for image in images])
        except DBAPIError as error:
            # The error itself quotes the statement with its 40,000 parameters.
            pytest.fail(str(error.orig)[:200])
        assert len(await selected(connection)) == len(images)
