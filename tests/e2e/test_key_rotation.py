"""The region's key is rotated at a site of real processes: racks follow, and every region process follows or ends."""

import asyncio
import json
import os
import shutil
import signal

import pytest

from tests.e2e.conftest import Ferry
from tests.e2e.site import Service

pytestmark = [pytest.mark.e2e]


async def fingerprint_at(ferry: Ferry, region: Service) -> str:
    return str((await ferry.site.api(region, "GET", "/region"))[1]["fingerprint"])


async def synced_since(ferry: Ferry, epoch: int, name: str = "rack-1") -> int:
    """The epoch that the rack knows, once that is above `epoch` and it is Synced."""
    _, racks = await ferry.site.api(ferry.region, "GET", "/racks")
    [rack] = [one for one in racks["items"] if one["name"] == name]
    return int(rack["knows"]["epoch"]) if rack["status"] == "synced" and rack["knows"]["epoch"] > epoch else 0


async def rotate(ferry: Ferry) -> None:
    await asyncio.to_thread(ferry.region.told, "key", "rotate")


def former_keys(ferry: Ferry) -> int:
    document = json.loads((ferry.site.directory / "rack-1" / "identity" / "region.json").read_bytes())
    return len(document.get("former_region_keys", ()))


async def test_racks_and_processes_follow_each_rotation_and_a_rack_that_was_away_all_of_them(ferry: Ferry) -> None:
    second = ferry.site.add_region("second", ferry.database_url, ferry.upstream.url, ferry.mirror.keyring_path)
    await ferry.site.start_region(ferry.region)
    await ferry.site.start_region(second)
    await ferry.site.start_rack(ferry.rack, ferry.region)
    epoch = await ferry.site.until(lambda: synced_since(ferry, 0))
    first = await fingerprint_at(ferry, ferry.region)
    _, token = await ferry.site.api(ferry.region, "POST", "/enrolment-tokens")

    await rotate(ferry)
    assert ferry.rack.process is not None
    ferry.rack.process.send_signal(signal.SIGHUP)
    epoch = await ferry.site.until(lambda: synced_since(ferry, epoch))
    fresh = await fingerprint_at(ferry, ferry.region)
    assert fresh != first

    async def second_has_followed() -> bool:
        return await fingerprint_at(ferry, second) == fresh

    await ferry.site.until(second_has_followed)

    await ferry.rack.stop()
    await rotate(ferry)
    await rotate(ferry)
    ferry.rack.start()
    await ferry.site.until(lambda: synced_since(ferry, epoch))
    assert former_keys(ferry) == 3

    # A token of before all of them still enrols.
    late = ferry.site.add_rack("rack-2")
    asked = ("enrol", "--region", ferry.region.base, "--name", "rack-2")
    await asyncio.to_thread(late.told, *asked, text=f"{token['token']}\n")
    late.start()
    await ferry.site.until(lambda: synced_since(ferry, epoch, "rack-2"))


async def test_a_process_that_has_not_the_new_key_ends_and_says_so(ferry: Ferry) -> None:
    await ferry.site.start_region(ferry.region)
    copied = ferry.site.directory / "copied"
    shutil.copytree(ferry.site.directory / "region" / "keys", copied)
    second = ferry.site.add_region(
        "second", ferry.database_url, ferry.upstream.url, ferry.mirror.keyring_path, REGION_KEYS=str(copied)
    )
    await ferry.site.start_region(second)
    assert second.process is not None
    await rotate(ferry)
    assert await asyncio.wait_for(asyncio.to_thread(second.process.wait), 60) == os.EX_CONFIG
    second.process = None
    assert "is not the one of this database; racks know the key" in second.log.read_text()
    assert await ferry.site._answers(f"{ferry.region.base}/readyz")
