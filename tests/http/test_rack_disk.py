"""A rack's disk that is read-only, or too small: what is held is served, and what fits comes."""

import errno
import os
from pathlib import Path

import pytest
import structlog

from rack.lock import InUse, hold
from shared.errors import DiskFailed, NoRoom
from shared.wire.report import Pending
from tests.http.fake_region import FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import Rack, running_rack

KERNEL = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"


def read_only(*_arguments: object, **_named: object) -> None:
    raise OSError(errno.EROFS, os.strerror(errno.EROFS))


async def test_an_image_that_fits_comes_although_another_does_not(
    region: FakeRegion, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    small, large = ubuntu("1", release="noble", size=1000), ubuntu("1", release="focal", size=100_000)
    region.publish(large | small)
    monkeypatch.setattr(rack.store, "bytes_free", lambda: 100_000)
    await rack.poller.poll()
    assert isinstance(rack.error(), NoRoom)
    assert tree_bytes(rack.root) == small
    assert region.reports[-1].pending == (Pending("ubuntu:focal:amd64", "", "no_room"),)
    monkeypatch.undo()
    await rack.poller.poll()
    assert rack.error() is None
    assert tree_bytes(rack.root) == large | small


async def test_on_a_read_only_disk_a_rack_serves_what_it_has_and_says_so_once(
    region: FakeRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    image = ubuntu("1")
    async with running_rack(region, tmp_path) as rack:
        region.publish(image)
        await rack.poller.poll()
    (tmp_path / "trees" / "7-7-0.json").write_text("{}")
    (tmp_path / "trees" / "7-7-0.json").chmod(0o444)
    for name in (
        "rack.tree.clear_unfinished",
        "rack.state.write_whole",
        "rack.poll.write_whole",
        "rack.tree.write_whole",
    ):
        monkeypatch.setattr(name, read_only)
    monkeypatch.setattr("shared.store.disk.DiskStore.require_writable", read_only)
    monkeypatch.setattr("shared.store.disk.DiskStore.writer", read_only)
    with structlog.testing.capture_logs() as lines:
        monkeypatch.setattr("rack.poll._log", structlog.get_logger())
        async with running_rack(region, tmp_path) as rack:
            assert await rack.boot(KERNEL) == (200, image[KERNEL])
            for version in ("1", "1", "2"):
                if version == "2":
                    region.publish(ubuntu("2"))
                await rack.poller.poll()
                assert isinstance(rack.error(), DiskFailed)
                assert tree_bytes(tmp_path) == image
            assert region.reports[-1].error.code == "disk_failed"
    assert [line["code"] for line in lines if line["action"] == "poll"] == ["disk_failed"]
    monkeypatch.undo()
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        assert rack.error() is None
        assert tree_bytes(tmp_path) == ubuntu("2")


def test_the_lock_of_a_read_only_disk_is_the_file_as_it_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path, really = tmp_path / "lock", os.open

    def opened(name: str, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_CREAT):
            raise OSError(errno.EROFS, os.strerror(errno.EROFS))
        return really(name, flags, mode)

    with hold(path):
        monkeypatch.setattr("rack.lock.os.open", opened)
        with pytest.raises(InUse, match="read-only"), hold(path):
            pass
    with hold(path):
        pass
    path.unlink()
    with hold(path):
        assert not path.exists()


def test_a_lock_behind_a_link_is_none_and_what_the_link_leads_to_stays(tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_bytes(b"somebody else's")
    (tmp_path / "lock").symlink_to("elsewhere")
    with pytest.raises(OSError, match="symbolic link"), hold(tmp_path / "lock"):
        pass
    assert (tmp_path / "elsewhere").read_bytes() == b"somebody else's"


async def test_a_disk_that_becomes_read_only_is_told_although_nothing_is_to_be_fetched(
    region: FakeRegion, rack: Rack, monkeypatch: pytest.MonkeyPatch
) -> None:
    region.publish(ubuntu("1"))
    await rack.poller.poll()
    assert rack.error() is None
    monkeypatch.setattr("rack.state.write_whole", read_only)
    monkeypatch.setattr("shared.store.disk.DiskStore.require_writable", read_only)
    await rack.poller.poll()
    assert isinstance(rack.error(), DiskFailed)
    assert region.reports[-1].error.code == "disk_failed"
    assert region.reports[-1].pending == ()
    assert await rack.boot(KERNEL) == (200, ubuntu("1")[KERNEL])
