"""Kernels and rules, from a wish to a rack's disk: real processes, bytes and files counted."""

import shutil
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from deploy.local.mirror.mirror import Mirror
from tests.e2e.conftest import Ferry

pytestmark = [pytest.mark.e2e]

RESOLUTE = {"os": "ubuntu", "release": "resolute", "arch": "amd64"}


async def start(ferry: Ferry) -> None:
    await ferry.site.start_region(ferry.region)
    await ferry.site.start_rack(ferry.rack, ferry.region)


async def synced(ferry: Ferry, *images: str) -> bool:
    """True once exactly these are selected or held, and every rack shows them."""
    return await ferry.site.statuses(ferry.region) == dict.fromkeys(images, "synced")


async def change(ferry: Ferry, method: str, wish: Any, *, dry_run: bool = False) -> Any:
    path = f"/selections{'?dry_run=true' if dry_run else ''}"
    status, answer = await ferry.site.api(ferry.region, method, path, json=wish)
    assert status in (200, 202), answer
    return answer


def kernels(ferry: Ferry, release: str) -> set[str]:
    """The kernels of which the rack shows a boot-kernel."""
    tree = ferry.rack_file("ubuntu/amd64")
    return {path.parts[-4] for path in tree.glob(f"*/{release}/stable/boot-kernel")} - {"generic"}


def on_disk(ferry: Ferry) -> dict[str, int]:
    """The files that the rack stores: their bytes by digest."""
    found = {}
    for path in (ferry.site.directory / "rack-1" / "files").glob("??/*"):
        # It may be pruned meanwhile.
        with suppress(FileNotFoundError):
            found[path.name] = path.stat().st_size
    return {name: size for name, size in found.items() if len(name) == 64}


async def test_from_all_kernels_of_an_image_to_one_and_back(ferry: Ferry) -> None:
    await start(ferry)
    await ferry.site.until(lambda: synced(ferry, "ubuntu:resolute:amd64"))
    every, before = kernels(ferry, "resolute"), on_disk(ferry)
    assert {"ga-26.04", "hwe-26.04"} <= every

    planned = await change(ferry, "POST", RESOLUTE | {"kernels": ["ga"]}, dry_run=True)
    assert set(planned["kernels_remove"]["ubuntu:resolute:amd64"]) == every - {"ga-26.04"}
    assert planned["fetch_bytes"] == 0
    await change(ferry, "POST", RESOLUTE | {"kernels": ["ga"]})

    def pruned() -> bool:
        return kernels(ferry, "resolute") == {"ga-26.04"} and len(on_disk(ferry)) < len(before)

    await ferry.site.until(pruned)
    await ferry.site.until(lambda: synced(ferry, "ubuntu:resolute:amd64"))

    def spared() -> bool:
        gone = {sha256: size for sha256, size in before.items() if sha256 not in on_disk(ferry)}
        return sum(gone.values()) == int(planned["left_out_bytes"]) > 0

    await ferry.site.until(spared)
    await change(ferry, "POST", RESOLUTE)
    await ferry.site.until(lambda: kernels(ferry, "resolute") == every and on_disk(ferry) == before)


async def test_a_new_lts_by_rule_reaches_the_rack_and_the_one_before_goes_after_it(
    ferry: Ferry, tmp_path: Path
) -> None:
    whole = shutil.copytree(ferry.mirror.directory, tmp_path / "whole")
    ferry.mirror.drop_product("*26.04*")
    await start(ferry)
    await ferry.site.until(lambda: synced(ferry, "ubuntu:noble:amd64"))
    rule = {"os": "ubuntu", "release": "lts", "arch": "amd64", "kernels": ["ga"]}
    answer = await change(ferry, "PUT", {"items": [rule]})
    assert (answer["means"], answer["remove"]) == ({"ubuntu:lts:amd64": ["ubuntu:noble:amd64"]}, [])
    await ferry.site.until(lambda: kernels(ferry, "noble") == {"ga-24.04"})

    updated = ferry.mirror.updated + timedelta(minutes=1)
    shutil.copytree(whole, ferry.mirror.directory, dirs_exist_ok=True)
    Mirror.open(ferry.mirror.directory).rewrite(updated=updated)
    await ferry.site.api(ferry.region, "POST", "/imports")
    seen: list[tuple[bool, bool]] = []

    def replaced() -> bool:
        tree = ferry.rack_file("").resolve()
        resolute, noble = (
            any(tree.glob(f"ubuntu/amd64/*/{name}/stable/boot-kernel")) for name in ("resolute", "noble")
        )
        if tree.exists():  # else another one took its place while it was looked at
            seen.append((resolute, noble))
        return (resolute, noble) == (True, False)

    await ferry.site.until(replaced)
    assert (False, False) not in seen, "machines had nothing to boot"
    await ferry.site.until(lambda: synced(ferry, "ubuntu:resolute:amd64"))
