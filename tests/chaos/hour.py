"""An hour of a region in a moment: it looks through its store for files without a row in slices, all within 64 minutes.

What is found gets a row, and goes like anything else that nobody needs. Nobody wants to wait that long for a run.
"""

from datetime import UTC, datetime, timedelta
from pathlib import Path

from region.database.connection import create_engine
from region.importing import upkeep
from shared.store.disk import DiskStore


async def pass_an_hour(database_url: str, store_directory: Path) -> None:
    """Do what the region does of itself within the hour. It may run meanwhile: a lock of the store keeps them apart."""
    engine = create_engine(database_url)
    store = DiskStore(store_directory)
    try:
        await upkeep.adopt(engine, store, [f"{number:02x}" for number in range(256)], datetime.now(UTC))
        await upkeep.prune(engine, store, timedelta(0), datetime.now(UTC))
    finally:
        await engine.dispose()
