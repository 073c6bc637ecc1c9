"""A slow region, and one that has no time: no poll hangs on it, and what it did not take is sent again."""

import asyncio
import os
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from shared.digest import Sha256
from shared.errors import TimedOut
from tests.http.fake_region import FakeRegion, noise, tree_bytes, ubuntu
from tests.http.running_rack import Rack, running_rack, until
from tests.stores import incoming_path, stored_path

KERNEL = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"
LARGE = "ubuntu/amd64/ga-24.04/plucky/stable/squashfs"


async def test_a_region_that_drips_its_manifest_ends_the_asking_and_nothing_else(
    region: FakeRegion, tmp_path: Path
) -> None:
    image = ubuntu("1")
    region.publish(image)
    async with running_rack(region, tmp_path, ask_within_s=0.5) as rack:
        await rack.poller.poll()
        region.drips.add("manifest")
        damaged = stored_path(rack.store, Sha256.of(image[KERNEL]))
        damaged.chmod(0o644)
        damaged.write_bytes(b"x" * damaged.stat().st_size)
        began = time.monotonic()
        polling = asyncio.create_task(rack.poller.poll())
        # What is wrong on this disk is found before the region is asked.
        await until(lambda: not damaged.exists(), within_s=0.5)
        assert await rack.boot(KERNEL.replace("boot-kernel", "squashfs")) == (
            200,
            image[KERNEL.replace("boot-kernel", "squashfs")],
        )
        await asyncio.wait_for(polling, 5)
        assert time.monotonic() - began < 2
        assert isinstance(rack.error(), TimedOut)
        region.drips.clear()
        await rack.poller.poll()
        assert rack.error() is None
        assert tree_bytes(tmp_path) == image


async def test_a_region_that_never_takes_the_report_ends_the_report(region: FakeRegion, tmp_path: Path) -> None:
    region.publish(ubuntu("1"))
    region.drips.add("report")
    async with running_rack(region, tmp_path, report_within_s=0.3) as rack, asyncio.timeout(5):
        await rack.poller.poll()
        assert isinstance(rack.error(), TimedOut)
        assert tree_bytes(tmp_path) == ubuntu("1")


async def test_a_pull_that_takes_long_goes_on_with_the_next_poll_and_the_newest_manifest(
    region: FakeRegion, tmp_path: Path
) -> None:
    large = {LARGE: noise("large", 2_000_000)}
    region.publish(large)
    region.pause_s = 0.02
    async with running_rack(region, tmp_path, pull_for_s=0.5) as rack:
        async with asyncio.timeout(3):
            await rack.poller.poll()
        assert rack.error() is None, "it only takes time"
        partial = incoming_path(rack.store, Sha256.of(large[LARGE]))
        arrived = partial.stat().st_size
        assert 0 < arrived < 2_000_000
        assert region.reports[-1].bytes_left == 2_000_000 - arrived
        # What the region says meanwhile is heard.
        region.publish(large | ubuntu("1", size=100))
        await rack.poller.poll()
        assert rack.poller.belief.knows.serial == 2
        assert partial.stat().st_size > arrived
        region.pause_s = 0
        await rack.poller.poll()
        assert tree_bytes(tmp_path) == large | ubuntu("1", size=100)
    asked = region.seen("GET", f"/api/v1/files/{Sha256.of(large[LARGE])}")
    assert [request.headers.get("Range") is None for request in asked] == [True, False, False]


async def test_a_report_that_was_not_taken_is_sent_again_without_waiting_for_the_next_poll(
    region: FakeRegion, rack: Rack
) -> None:
    region.publish(ubuntu("1"))
    region.report_faults = [503] * 7
    running = asyncio.create_task(rack.beat.run())
    try:
        await until(lambda: bool(region.reports), within_s=10)
        assert rack.poller.belief.polls["http_status"] == 1
        await until(lambda: rack.error() is None)
        assert len(region.seen("GET", "/api/v1/manifest")) - len(region.seen("GET", "/api/v1/manifest/events")) <= 3
        assert region.reports[-1].error.code == ""
    finally:
        running.cancel()
        await asyncio.gather(running, return_exceptions=True)


async def test_a_report_comes_no_sooner_than_the_region_asks(region: FakeRegion, rack: Rack) -> None:
    region.publish(ubuntu("1"))
    region.report_faults, region.report_retry_after = [503] * 20, 100
    await rack.poller.poll()
    loop = asyncio.get_running_loop()
    sent = len(region.seen("PUT", "/api/v1/racks"))
    assert 95 <= rack.poller.report_due_s - loop.time() <= 100
    await rack.poller.report_again()
    assert len(region.seen("PUT", "/api/v1/racks")) == sent + 1
    region.report_retry_after = None
    pauses = []
    for _ in range(5):
        await rack.poller.report_again()
        pauses.append(rack.poller.report_due_s - loop.time())
    assert max(pauses) <= 0.02, "as long as these tests let it grow"
    region.report_faults = [422]
    await rack.poller.report_again()
    assert rack.poller.report_due_s == float("inf"), "what is refused for good is not sent again"


async def test_a_clock_that_is_set_back_by_years_stops_no_daily_reading(region: FakeRegion, rack: Rack) -> None:
    image = ubuntu("1")
    region.publish(image)
    await rack.poller.poll()
    rotten = stored_path(rack.store, Sha256.of(image[KERNEL]))
    before = rotten.stat()
    rotten.chmod(0o644)
    rotten.write_bytes(b"x" * before.st_size)
    os.utime(rotten, ns=(before.st_atime_ns, before.st_mtime_ns))
    rack.poller._now = lambda: datetime.now(UTC) - timedelta(days=3650)
    # A day passes by the clock that is never set.
    rack.clock.offset = timedelta(days=1)
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == image
    assert rotten.read_bytes() == image[KERNEL]
