"""When the rows of files that arrive are written."""

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from datetime import datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.catalogue import files
from region.database.connection import transaction
from region.importing import holding, imports
from region.importing.holding import Holding
from region.publishing.held import Publisher
from shared.digest import Sha256
from tests.conftest import NOW

Eventually = Callable[[Callable[[], object]], Awaitable[object]]
FILES = [Sha256.of(b"%d" % number) for number in range(10)]


@pytest.fixture
async def arriving(engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> Holding:
    """A holding whose second transaction is a minute after the first, unless there is a reason not to wait."""
    monkeypatch.setattr(holding, "GATHER_S", 60.0)
    async with transaction(engine) as connection:
        await imports.enqueue(connection, "operator", "a test", NOW)
        claim = await imports.claim(connection, "a test")
    assert claim is not None
    return Holding(engine, Publisher(Ed25519PrivateKey.generate()), claim, lambda: NOW)


@pytest.fixture
def written(monkeypatch: pytest.MonkeyPatch) -> list[set[Sha256]]:
    """The files whose rows were written, by transaction."""
    found: list[set[Sha256]] = []
    record = files.record

    async def recorded(connection: AsyncConnection, arrived: Mapping[Sha256, int], now: datetime) -> set[Sha256]:
        found.append(set(arrived))
        return await record(connection, arrived, now)

    monkeypatch.setattr(files, "record", recorded)
    return found


async def stored(engine: AsyncEngine) -> set[Sha256]:
    async with transaction(engine) as connection:
        return {row.sha256 for row in await files.all_stored(connection)}


async def test_files_that_arrive_quickly_get_their_rows_together(
    engine: AsyncEngine, arriving: Holding, written: list[set[Sha256]], eventually: Eventually
) -> None:
    running = asyncio.create_task(arriving.run([]))
    arriving.stored(FILES[0], 1)
    await eventually(lambda: written == [{FILES[0]}])  # the first waits for nobody
    for sha256 in FILES[1:]:
        arriving.stored(sha256, 1)
        await asyncio.sleep(0.02)
    assert len(written) == 1, "the others wait for each other"
    arriving.close()
    await running
    assert written == [{FILES[0]}, set(FILES[1:])], "and not for a minute when nothing more comes"
    assert await stored(engine) == set(FILES)


async def test_an_import_that_is_stopped_writes_the_rows_of_what_has_arrived(
    engine: AsyncEngine, arriving: Holding, written: list[set[Sha256]], eventually: Eventually
) -> None:
    running = asyncio.create_task(arriving.run([]))
    arriving.stored(FILES[0], 1)
    await eventually(lambda: written == [{FILES[0]}])
    arriving.stored(FILES[1], 1)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running
    assert await stored(engine) == {FILES[0], FILES[1]}
