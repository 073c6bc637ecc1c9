"""A site of real processes: the region is backed up, destroyed and restored elsewhere; its rack goes on serving."""

import asyncio
import json
import shutil
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from deploy.local import postgres
from tests.e2e.conftest import Ferry
from tests.e2e.site import Service

pytestmark = [pytest.mark.e2e]


async def synced_since(ferry: Ferry, epoch: int, region: Service) -> int:
    """The epoch that the rack knows, once that is above `epoch` and it is Synced."""
    _, racks = await ferry.site.api(region, "GET", "/racks")
    [rack] = racks["items"]
    return int(rack["knows"]["epoch"]) if rack["status"] == "synced" and rack["knows"]["epoch"] > epoch else 0


async def refused(service: Service, *arguments: str) -> tuple[int, str]:
    """How a command of the service's program ends that must not succeed, and what it says."""
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", service.arguments[0], *arguments],
        env=service.environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    return done.returncode, done.stderr


async def test_a_region_that_was_destroyed_comes_back_and_its_rack_follows(
    ferry: Ferry, tmp_path: Path, database_server: postgres.Server
) -> None:
    site, region = ferry.site, ferry.region
    await site.start_region(region)
    await site.start_rack(ferry.rack, region)
    epoch = await site.until(lambda: synced_since(ferry, 0, region))
    kept = tmp_path / "region.backup"
    told = await asyncio.to_thread(region.told, "backup", str(kept))
    assert "both keys" in told
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    token = (site.directory / "region" / "admin-token").read_text()
    status, said = await refused(region, "restore", str(kept))
    assert status == 1
    assert "A bootferry-region is connected to this database" in said
    assert "Traceback" not in said

    await region.stop()
    await database_server.drop_database(ferry.database_url.rpartition("/")[2].partition("?")[0])
    shutil.rmtree(site.directory / "region")
    name = f"restored_{tmp_path.name}"[:60]
    await database_server.create_database(name)
    try:
        region.environment["REGION_DATABASE_URL"] = database_server.url(name)
        spoiled = tmp_path / "spoiled.backup"
        spoiled.write_bytes(kept.read_bytes()[:-20_000])
        status, said = await refused(region, "restore", str(spoiled))
        assert status == 1
        assert "take another one" in said
        assert "Traceback" not in said
        assert "is whole" in await asyncio.to_thread(region.told, "restore", "--dry-run", str(kept))
        told = await asyncio.to_thread(region.told, "restore", str(kept))
        assert "an import waits that fetches what is missing" in told
        (site.directory / "region" / "admin-token").write_text(token)

        # Nothing is on the region's disk any more, and the rack serves all the while.
        served = ferry.rack_file("ubuntu/amd64/ga-26.04/resolute/stable/boot-kernel").read_bytes()
        await site.start_region(region)
        assert ferry.rack.process is not None
        await asyncio.to_thread(ferry.rack.told, "poll")
        later = await site.until(lambda: synced_since(ferry, epoch, region))
        assert later > epoch
        assert ferry.rack_file("ubuntu/amd64/ga-26.04/resolute/stable/boot-kernel").read_bytes() == served

        async def all_there() -> bool:
            return set((await site.statuses(region)).values()) == {"synced"}

        await site.until(all_there)
        identity = json.loads((site.directory / "rack-1" / "identity" / "region.json").read_bytes())
        assert "former_region_keys" not in identity, "the region is the one it was"
    finally:
        await region.stop()
        await database_server.drop_database(name)
