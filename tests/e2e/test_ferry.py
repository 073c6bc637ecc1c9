"""From a signed upstream stream, through the region, to a rack's disk: real processes, real signals."""

import asyncio
import os
import signal

import aiohttp
import pytest

from deploy.local.mirror.faults import Slow
from shared.digest import Sha256
from tests.e2e.conftest import Ferry
from tests.e2e.road import road

pytestmark = [pytest.mark.e2e]

RESOLUTE = "ubuntu:resolute:amd64"
GA = "ubuntu/amd64/ga-26.04/resolute/stable"


async def synced(ferry: Ferry) -> bool:
    return (await ferry.site.statuses(ferry.region)).get(RESOLUTE) == "synced"


async def start(ferry: Ferry) -> None:
    await ferry.site.start_region(ferry.region)
    await ferry.site.start_rack(ferry.rack, ferry.region)
    await ferry.site.until(lambda: synced(ferry))


def poll(ferry: Ferry) -> None:
    assert ferry.rack.process is not None
    ferry.rack.process.send_signal(signal.SIGHUP)


async def fetch(ferry: Ferry, path: str) -> tuple[int, bytes]:
    async with ferry.site.session.get(f"{ferry.rack.base}/images/{path}") as response:
        return response.status, await response.read()


async def test_the_newest_lts_reaches_the_rack_by_itself(ferry: Ferry) -> None:
    await start(ferry)
    for subarch, tree in (
        ("ga-26.04", GA),
        ("ga-26.04", GA.replace("ga-26.04", "generic")),
        ("hwe-26.04", GA.replace("ga", "hwe")),
    ):
        for ftype, file in ferry.mirror.expected("resolute", "amd64", subarch).items():
            path = f"{tree}/{ftype}"
            assert Sha256.of(ferry.rack_file(path).read_bytes()) == file.sha256
            status, body = await fetch(ferry, path)
            assert (status, Sha256.of(body)) == (200, file.sha256)
    assert ferry.rack_file("bootloader/uefi/amd64/bootx64.efi").is_file()
    assert ferry.rack_file("bootloader/uefi/amd64/grubx64.efi").is_file()
    _, racks = await ferry.site.api(ferry.region, "GET", "/racks")
    [rack] = racks["items"]
    assert (rack["name"], rack["status"], rack["bytes_left"], rack["last_error"]) == ("rack-1", "synced", 0, "")
    assert await ferry.rack.stop() == 0
    assert await ferry.region.stop() == 0


async def test_a_new_version_arrives_and_no_request_fails_meanwhile(ferry: Ferry) -> None:
    await start(ferry)
    old = ferry.mirror.expected("resolute", "amd64", "ga-26.04")
    failures: list[object] = []
    bodies: set[Sha256] = set()
    done = asyncio.Event()

    async def boot_again_and_again() -> None:
        while not done.is_set():
            try:
                status, body = await fetch(ferry, f"{GA}/boot-kernel")
            except aiohttp.ClientError as error:
                failures.append(error)
                continue
            bodies.add(Sha256.of(body))
            if status != 200:
                failures.append(status)

    machine = asyncio.create_task(boot_again_and_again())
    ferry.mirror.publish(version="20260802", release="resolute", arch="amd64")
    new = ferry.mirror.expected("resolute", "amd64", "ga-26.04")
    await ferry.site.api(ferry.region, "POST", "/imports")

    async def renewed() -> bool:
        return Sha256.of(ferry.rack_file(f"{GA}/boot-kernel").read_bytes()) == new["boot-kernel"].sha256

    # The event stream hints; nobody asks the rack to poll.
    await ferry.site.until(renewed)
    await ferry.site.until(lambda: synced(ferry))
    done.set()
    await machine
    assert failures == []
    assert bodies == {old["boot-kernel"].sha256, new["boot-kernel"].sha256}

    store = ferry.site.directory / "rack-1" / "files"
    gone = old["squashfs"].sha256
    kept = new["squashfs"].sha256
    assert (store / kept[:2] / kept).exists()

    def pruned() -> bool:
        if (store / gone[:2] / gone).exists():
            poll(ferry)
            return False
        return True

    await ferry.site.until(pruned)


@pytest.mark.parametrize("change", ["flipped", "deleted"])
async def test_a_file_spoiled_on_the_rack_heals(ferry: Ferry, change: str) -> None:
    await start(ferry)
    kernel = ferry.mirror.expected("resolute", "amd64", "ga-26.04")["boot-kernel"]
    stored = ferry.site.directory / "rack-1" / "files" / kernel.sha256[:2] / kernel.sha256
    if change == "flipped":
        stored.chmod(0o644)
        with stored.open("r+b") as file:
            file.write(bytes([file.read(1)[0] ^ 1]) if file.seek(0) == 0 else b"")
    else:
        stored.unlink()
    poll(ferry)

    async def whole() -> bool:
        status, body = await fetch(ferry, f"{GA}/boot-kernel")
        assert status in (200, 503)
        return status == 200 and Sha256.of(body) == kernel.sha256 and stored.exists()

    await ferry.site.until(whole)
    assert Sha256.of(stored.read_bytes()) == kernel.sha256


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_a_region_ended_in_the_middle_of_an_import_goes_on_where_it_was(
    ferry: Ferry, number: signal.Signals
) -> None:
    ferry.upstream.misbehave("*/squashfs", Slow(2_000_000), times=1)
    squashfs = ferry.mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    partial = ferry.site.directory / "region" / "store" / "incoming" / squashfs.sha256
    await ferry.site.start_region(ferry.region)
    await ferry.site.until(lambda: partial.exists() and partial.stat().st_size > 1_000_000)
    await ferry.region.stop(number)
    had = partial.stat().st_size
    await ferry.site.start_region(ferry.region)

    async def stored() -> bool:
        return (await ferry.site.statuses(ferry.region)).get(RESOLUTE) == "stored"

    # A killed runner's lease must run out first.
    await ferry.site.until(stored, within_s=60)
    resumed = [request for request in ferry.upstream.asked("*/squashfs") if request.range]
    assert resumed, "what had arrived was not resumed"
    assert int(str(resumed[0].range).removeprefix("bytes=").rstrip("-")) >= had


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL], ids=["SIGTERM", "SIGKILL"])
async def test_a_rack_ended_in_the_middle_of_a_pull_ends_whole(ferry: Ferry, number: signal.Signals) -> None:
    await ferry.site.start_region(ferry.region)
    squashfs = ferry.mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    partial = ferry.site.directory / "rack-1" / "incoming" / squashfs.sha256
    # Slow enough that however late we look, the file is on its way: all of it would take 24 s.
    async with road(ferry.region.port, bytes_per_second=1_000_000) as way:
        await ferry.site.start_rack(ferry.rack, ferry.region, by=way.base)
        await ferry.site.until(partial.exists)
        await ferry.rack.stop(number)
        assert partial.stat().st_size < squashfs.size, "the pull had ended before the rack did"
        way.bytes_per_second = None
        await ferry.site.start_rack(ferry.rack, ferry.region)
        await ferry.site.until(lambda: synced(ferry))
    for ftype, file in ferry.mirror.expected("resolute", "amd64", "ga-26.04").items():
        assert Sha256.of(ferry.rack_file(f"{GA}/{ftype}").read_bytes()) == file.sha256


async def test_two_region_processes_do_the_work_once_and_both_answer(ferry: Ferry) -> None:
    second = ferry.site.add_region("second", ferry.database_url, ferry.upstream.url, ferry.mirror.keyring_path)
    ferry.region.start()
    second.start()
    await ferry.site.until(lambda: ferry.site._answers(f"{ferry.region.base}/readyz"))
    await ferry.site.until(lambda: ferry.site._answers(f"{second.base}/readyz"))

    async def stored() -> bool:
        found = [(await ferry.site.statuses(region)).get(RESOLUTE) for region in (ferry.region, second)]
        return found == ["stored", "stored"]

    await ferry.site.until(stored)
    paths = [request.path for request in ferry.upstream.asked("*/squashfs")]
    assert len(paths) == len(set(paths)) == 1

    async def ended() -> list[str]:
        _, runs = await ferry.site.api(second, "GET", "/imports")
        states = [run["state"] for run in runs["items"]]
        return [] if "running" in states else states

    # What is stored is shown a moment before the import is over.
    assert await ferry.site.until(ended) == ["succeeded"]

    # A rack that enrolled at one is known at the other, and hears of changes through either.
    await ferry.site.start_rack(ferry.rack, ferry.region)
    await ferry.site.until(lambda: synced(ferry))
    assert (await ferry.site.statuses(second))[RESOLUTE] == "synced"


async def test_a_rack_serves_on_while_its_region_is_away(ferry: Ferry) -> None:
    await start(ferry)
    kernel = ferry.mirror.expected("resolute", "amd64", "ga-26.04")["boot-kernel"]
    await ferry.region.stop(signal.SIGKILL)
    poll(ferry)
    assert await fetch(ferry, f"{GA}/boot-kernel") == (200, ferry.rack_file(f"{GA}/boot-kernel").read_bytes())
    await ferry.rack.stop(signal.SIGKILL)
    ferry.rack.start()
    await ferry.site.until(lambda: ferry.site._answers(f"{ferry.rack.base}/readyz"))
    status, body = await fetch(ferry, f"{GA}/boot-kernel")
    assert (status, Sha256.of(body)) == (200, kernel.sha256)


async def test_an_unknown_setting_ends_with_78_and_its_name(ferry: Ferry) -> None:
    for service, variable in ((ferry.region, "REGION_COLOUR"), (ferry.rack, "RACK_POLL_SECONDS")):
        service.environment[variable] = "1"
        service.start()
        assert service.process is not None
        assert await asyncio.to_thread(service.process.wait) == os.EX_CONFIG
        service.process = None
        assert variable in service.log.read_text()
