"""The mark of a verified file means the same to the region and the rack."""

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from rack.audit import Place, doubts
from shared.digest import Sha256
from shared.mark import VERIFIED_AT, holds_verified, is_verified, set_mark, take_mark
from shared.store.disk import DiskStore
from tests.stores import put, stored_path

CONTENT = b"a kernel"
SIZE = len(CONTENT)


def region_takes_it(store: DiskStore, path: Path) -> bool:
    return store.has(Sha256.of(CONTENT), SIZE)


def rack_takes_it(store: DiskStore, path: Path) -> bool:
    return doubts(store, [Place(path, Sha256.of(CONTENT), SIZE)], set()) == []


@pytest.mark.parametrize("takes", [region_takes_it, rack_takes_it])
@pytest.mark.parametrize(("nanoseconds", "verified"), [(0, True), (1, False), (-1, False), (50, False)])
def test_one_nanosecond_decides_alike_for_region_and_rack(
    tmp_path: Path, takes: Callable[[DiskStore, Path], bool], nanoseconds: int, verified: bool
) -> None:
    """As a float of seconds, 50 nanoseconds more are the same time: 53 bits do not hold them."""
    store = DiskStore(tmp_path)
    path = stored_path(store, put(store, CONTENT))
    os.utime(path, ns=(0, VERIFIED_AT * 10**9 + nanoseconds))
    assert takes(store, path) is verified


def test_the_mark_is_set_by_path_or_descriptor_and_taken_away(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    assert not holds_verified(path, SIZE)
    set_mark(path)
    assert holds_verified(path, SIZE)
    assert not holds_verified(path, SIZE + 1)
    take_mark(path)
    assert not holds_verified(path, SIZE)
    with path.open("rb") as file:
        set_mark(file.fileno())
        assert is_verified(os.fstat(file.fileno()), SIZE)


def test_the_mark_is_one_moment_of_2001_on_every_disk_there_is(tmp_path: Path) -> None:
    # Files of every release carry it: another moment would make each of them unverified.
    path = tmp_path / "file"
    path.write_bytes(CONTENT)
    set_mark(path)
    assert path.stat().st_mtime_ns == 1_000_000_000_000_000_000


def test_a_mark_is_neither_set_nor_taken_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    (tmp_path / "link").symlink_to("file")
    set_mark(tmp_path / "link")
    assert not holds_verified(tmp_path / "file", SIZE)
    set_mark(tmp_path / "file")
    take_mark(tmp_path / "link")
    assert holds_verified(tmp_path / "file", SIZE)


def test_a_link_or_a_directory_is_no_verified_file(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(CONTENT)
    set_mark(tmp_path / "file")
    (tmp_path / "link").symlink_to("file")
    assert not holds_verified(tmp_path / "link", SIZE)
    set_mark(tmp_path)
    assert not holds_verified(tmp_path, tmp_path.stat().st_size)
    assert not holds_verified(tmp_path / "nothing", 0)
    assert not holds_verified(tmp_path / "file" / "below", 0)
