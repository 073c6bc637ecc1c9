"""What an operator at the region has racks do, and waits for: real processes."""

import asyncio
import os
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import pytest

from tests.e2e.conftest import Ferry

CHECKOUT = Path(__file__).parents[2]
NOBLE = "ubuntu:noble:amd64"
pytestmark = [pytest.mark.e2e]


async def seen(ferry: Ferry) -> dict[str, str]:
    """When each rack was heard of last, by name."""
    _, answer = await ferry.site.api(ferry.region, "GET", "/racks")
    return {rack["name"]: rack["last_seen_at"] for rack in answer["items"] if rack["status"] == "synced"}


async def quiet(ferry: Ferry) -> dict[str, str]:
    """The same, once no rack has asked for anything for three seconds."""
    before = await seen(ferry)
    while True:
        await asyncio.sleep(3)
        after = await seen(ferry)
        if after == before and len(after) == 2:
            return after
        before = after


async def test_one_rack_polls_within_seconds_and_then_all_of_them(ferry: Ferry) -> None:
    await ferry.site.start_region(ferry.region)
    await ferry.site.start_rack(ferry.rack, ferry.region)
    second = ferry.site.add_rack("rack-2")
    await ferry.site.start_rack(second, ferry.region)
    async with asyncio.timeout(60):
        before = await quiet(ferry)
    _, answer = await ferry.site.api(ferry.region, "GET", "/racks")
    ids = {rack["name"]: rack["id"] for rack in answer["items"]}

    status, asked = await ferry.site.api(ferry.region, "POST", f"/racks/{ids['rack-2']}/poll")
    assert (status, asked) == (202, {"racks_live": 1})
    await ferry.site.until(lambda: _later(ferry, before, {"rack-2"}), within_s=10)
    async with asyncio.timeout(60):
        between = await quiet(ferry)
    assert between["rack-1"] == before["rack-1"], "the other one was not asked"

    status, asked = await ferry.site.api(ferry.region, "POST", "/racks/poll")
    assert (status, asked) == (202, {"racks_live": 2})
    await ferry.site.until(lambda: _later(ferry, between, {"rack-1", "rack-2"}), within_s=10)


async def _later(ferry: Ferry, before: dict[str, str], names: set[str]) -> bool:
    after = await seen(ferry)
    return all(name in after and after[name] > before[name] for name in names)


async def test_a_command_that_waits_for_racks_ends_when_they_show_what_it_asked_for(ferry: Ferry) -> None:
    await ferry.site.start_region(ferry.region)
    await ferry.site.start_rack(ferry.rack, ferry.region)
    await ferry.site.until(lambda: seen(ferry))
    token = (ferry.site.directory / "region" / "admin-token").read_text().strip()
    program = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "region.cli.main", "select", "ubuntu/noble/amd64", "--wait=racks"),
        cwd=CHECKOUT,
        env={"PATH": os.environ["PATH"], "HOME": str(ferry.site.directory), "BOOTFERRY_URL": ferry.region.base}
        | {"BOOTFERRY_TOKEN": token},
        stdout=PIPE,
        stderr=PIPE,
    )
    async with asyncio.timeout(100):
        _, told = await program.communicate()
    assert program.returncode == 0, told
    assert told.decode().splitlines()[-1] == "1 of 1 live rack shows it."
    assert (await ferry.site.statuses(ferry.region))[NOBLE] == "synced"
    assert ferry.rack_file("ubuntu/amd64/ga-24.04/noble/stable/squashfs").is_file()
