"""A rack's directory as the code before images had names left it: the code of now carries on, and serves all of it.

The documents are spelled out here as that code wrote them. Its manifests say no image and no version, its tree calls
images by their directory, and one image is stuck on its old version: a file of the new one cannot be had.
"""

import json
import os
from datetime import timedelta
from pathlib import Path

import pytest

from rack import identity as identities
from shared.digest import Sha256
from shared.errors import TooOld
from shared.http import client_session
from shared.names import Name
from shared.signing import fingerprint
from shared.wire.envelope import seal
from shared.wire.report import Pending
from tests.http.fake_region import EPOCH, FakeRegion, noise, tar_xz, tree_bytes
from tests.http.running_rack import running_rack

NOBLE, UEFI = "ubuntu:noble:amd64", "bootloader:uefi:amd64"
GA, JAMMY = "ubuntu/amd64/ga-24.04/noble/stable", "ubuntu/amd64/ga-22.04/jammy/stable"
KERNEL_1, SQUASHFS_1 = noise("kernel 1", 3000), noise("squashfs 1", 9000)
KERNEL_2, SQUASHFS_2 = noise("kernel 2", 3000), noise("squashfs 2", 9000)
JAMMY_2, GRUB = noise("jammy 2", 4000), noise("grub", 2000)
ARCHIVE = tar_xz({"grub/grubx64.efi": GRUB})
SERVED = {
    f"{GA}/boot-kernel": KERNEL_1,
    f"{GA}/squashfs": SQUASHFS_1,
    f"{JAMMY}/boot-kernel": JAMMY_2,
    "bootloader/uefi/amd64/grub/grubx64.efi": GRUB,
}
WANTED = {f"{GA}/boot-kernel": KERNEL_2, f"{GA}/squashfs": SQUASHFS_2, f"{JAMMY}/boot-kernel": JAMMY_2}


@pytest.fixture
async def root(region: FakeRegion, tmp_path: Path) -> Path:
    """The directory of a rack of before: noble is shown in version 1, and of version 2 the kernel is missing."""
    async with client_session() as session:
        await identities.enrol(session, tmp_path, region.url, region.token, Name("rack-a"))
    archive = Sha256.of(ARCHIVE)
    for content in (KERNEL_1, SQUASHFS_1, SQUASHFS_2, JAMMY_2, ARCHIVE):
        written(tmp_path / "files" / Sha256.of(content)[:2] / Sha256.of(content), content, 0o444)
    (tmp_path / "incoming").mkdir()
    written(tmp_path / "unpacked" / archive / "grub/grubx64.efi", GRUB, 0o644)
    (tmp_path / "unpacked" / f"{archive}.json").write_text(f'{{"grub/grubx64.efi":["{Sha256.of(GRUB)}",{len(GRUB)}]}}')

    tree = tmp_path / "trees" / f"{EPOCH}-2-0"
    for path, content in SERVED.items():
        (tree / path).parent.mkdir(parents=True, exist_ok=True)
        sha256 = Sha256.of(content)
        store, unpacked = tmp_path / "files" / sha256[:2] / sha256, tmp_path / "unpacked" / archive / "grub/grubx64.efi"
        (tree / path).hardlink_to(unpacked if content is GRUB else store)
    tree.with_name(f"{tree.name}.json").write_text(
        f'{{"format":"bootferry-tree:1","order":[{EPOCH},1],"names":{{'
        f'"{GA}/boot-kernel":["{Sha256.of(KERNEL_1)}",3000,"ubuntu/amd64/*/noble/stable"],'
        f'"{GA}/squashfs":["{Sha256.of(SQUASHFS_1)}",9000,"ubuntu/amd64/*/noble/stable"],'
        f'"{JAMMY}/boot-kernel":["{Sha256.of(JAMMY_2)}",4000,"ubuntu/amd64/*/jammy/stable"],'
        f'"bootloader/uefi/amd64/grub/grubx64.efi":["{Sha256.of(GRUB)}",2000,"bootloader/uefi/amd64","{archive}"]}}}}'
    )
    (tmp_path / "current").symlink_to(f"trees/{tree.name}")

    entries = [
        f'{{"path": "{path}", "kind": "file", "sha256": "{Sha256.of(content)}", "size": {len(content)}}}'
        for path, content in WANTED.items()
    ]
    entries.append(
        f'{{"path": "bootloader/uefi/amd64", "kind": "archive", "sha256": "{archive}", "size": {len(ARCHIVE)}}}'
    )
    payload = (
        f'{{"format": "bootferry-manifest:1", "epoch": {EPOCH}, "serial": 2,'
        f' "created_at": "2026-07-01T00:00:00+00:00", "entries": [{", ".join(entries)}]}}'
    )
    (tmp_path / "manifest.json").write_bytes(
        seal(region.key, "application/vnd.bootferry.manifest+json", payload.encode())
    )
    (tmp_path / "state.json").write_text(
        f'{{"region": "{fingerprint(region.key)}", "floor": [{EPOCH}, 2], "sequence": 1789000000000, "unwanted": {{}},'
        ' "last_poll_at": 1789000000.5, "error_code": "http_status", "error": "It answered 404."}'
    )
    return tmp_path


def written(path: Path, content: bytes, mode: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    path.chmod(mode)
    os.utime(path, (1_000_000_000, 1_000_000_000))


async def test_a_rack_of_before_serves_the_same_and_goes_on(region: FakeRegion, root: Path) -> None:
    region.files[Sha256.of(ARCHIVE)] = ARCHIVE
    region.file_status[Sha256.of(KERNEL_2)] = 404
    region.manifest_status = 503
    async with running_rack(region, root) as rack:
        for _ in range(2):
            assert rack.poller.floor == (EPOCH, 2)
            for path, content in SERVED.items():
                assert await rack.boot(path) == (200, content)
            assert tree_bytes(root) == SERVED
            await rack.poller.poll()
            rack.clock.offset += timedelta(days=2)

        # The region of now says images and versions; noble is as stuck as before, and so it stays carried.
        region.manifest_status = 200
        region.publish(WANTED, {"bootloader/uefi/amd64": ARCHIVE}, serial=3)
        await rack.poller.poll()
        assert tree_bytes(root) == SERVED
        assert list(region.reports[-1].pending) == [Pending(NOBLE, "unknown", "http_status")]
        rack.clock.offset += timedelta(days=2)
        await rack.poller.poll()
        assert tree_bytes(root) == SERVED

    async with running_rack(region, root) as rack:
        assert {await rack.boot(path) for path in SERVED} == {(200, content) for content in SERVED.values()}
        region.file_status.clear()
        await rack.poller.poll()
        assert rack.error() is None
        assert tree_bytes(root) == SERVED | WANTED
        assert list(region.reports[-1].pending) == []
        assert region.asked_for.keys() == {Sha256.of(KERNEL_2)}
    document = json.loads((root / f"{(root / 'current').readlink()}.json").read_bytes())
    assert document["format"] == "bootferry-tree:2"
    assert {image: said["version"] for image, said in document["images"].items()} == dict.fromkeys(
        (NOBLE, "ubuntu:jammy:amd64", UEFI), "3"
    )


async def test_a_rack_of_before_keeps_its_floor(region: FakeRegion, root: Path) -> None:
    region.publish({}, serial=1)
    async with running_rack(region, root) as rack:
        await rack.poller.poll()
        assert isinstance(rack.error(), TooOld)
        assert tree_bytes(root) == SERVED
