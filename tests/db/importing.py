"""A process that carries out one import: `python -m tests.db.importing DIRECTORY DATABASE MIRROR URL LEASE_S`."""

import asyncio
import os
import sys
from dataclasses import replace
from pathlib import Path

from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server
from region.importing.importer import run_next
from tests.conftest import Clock
from tests.db.bench import build


async def main(directory: str, database_url: str, mirror: str, url: str, lease_s: str) -> None:
    """Say "imported" when the import has ended for this process, whatever became of it."""
    known = Mirror.open(Path(mirror))
    built = build(Path(directory), database_url, Server(url, known.root), known, Clock())
    await built.prepare()
    os.write(1, b"ready\n")
    while not await run_next(replace(built.importer, lease_s=float(lease_s))):  # noqa: ASYNC110  nobody tells it
        await asyncio.sleep(0.05)
    os.write(1, b"imported\n")
    await built.engine.dispose()


if __name__ == "__main__":
    asyncio.run(main(*sys.argv[1:]))
