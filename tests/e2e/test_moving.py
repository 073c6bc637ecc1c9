"""A site of real processes: a rack renews its key, follows its region to another address, and serves all along."""

import asyncio
import json

import pytest

from tests.e2e.conftest import Ferry

pytestmark = [pytest.mark.e2e]


def identity(ferry: Ferry) -> dict[str, str]:
    found: dict[str, str] = json.loads((ferry.site.directory / "rack-1" / "identity" / "region.json").read_bytes())
    return found


async def shown(ferry: Ferry) -> dict[str, str]:
    _, racks = await ferry.site.api(ferry.region, "GET", "/racks")
    [rack] = racks["items"]
    found: dict[str, str] = rack
    return found


async def test_a_rack_renews_its_key_and_follows_its_region(ferry: Ferry) -> None:
    second = ferry.site.add_region("second", ferry.database_url, ferry.upstream.url, ferry.mirror.keyring_path)
    await ferry.site.start_region(ferry.region)
    await ferry.site.start_region(second)
    await ferry.site.start_rack(ferry.rack, ferry.region)

    async def synced() -> bool:
        return (await shown(ferry))["status"] == "synced"

    await ferry.site.until(synced)
    first = (await shown(ferry))["fingerprint"]
    told = await asyncio.to_thread(ferry.rack.told, "key", "rotate")
    renewed = identity(ferry)["rack_key_fingerprint"]
    assert renewed[:16] in told
    assert (await shown(ferry))["fingerprint"] == renewed != first
    seen = (await shown(ferry))["last_seen_at"]

    async def polled() -> bool:
        rack = await shown(ferry)
        return rack["status"] == "synced" and rack["last_seen_at"] > seen

    await ferry.site.until(polled)

    # The other process of the region takes the new key, too: the rack moves there.
    await asyncio.to_thread(ferry.region.told, "move", second.base)
    await asyncio.to_thread(ferry.rack.told, "poll")
    await ferry.site.until(lambda: identity(ferry)["region_url"] == second.base)
    await ferry.region.stop()
    kernel = ferry.rack_file("ubuntu/amd64/ga-26.04/resolute/stable/boot-kernel")
    path = f"{ferry.rack.base}/images/ubuntu/amd64/ga-26.04/resolute/stable/boot-kernel"
    async with ferry.site.session.get(path) as response:
        assert await response.read() == kernel.read_bytes()
    await ferry.rack.stop()
    # What it was heard of before says nothing of the process that starts now.
    _, racks = await ferry.site.api(second, "GET", "/racks")
    seen = racks["items"][0]["last_seen_at"]
    ferry.rack.start()

    async def back() -> bool:
        _, racks = await ferry.site.api(second, "GET", "/racks")
        return bool(racks["items"][0]["status"] == "synced" and racks["items"][0]["last_seen_at"] > seen)

    await ferry.site.until(back)
    assert "signature is not good" not in ferry.rack.log.read_text().rpartition("The rack serves machines")[2]
