"""What the rack's audit makes of names that share one file: in the store, in the tree, in trees of before."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest

from rack.audit import Place, doubts, places, settle
from rack.tree import Link, Tree, tree_path
from shared.digest import Sha256
from shared.mark import VERIFIED_AT, holds_verified, set_mark
from shared.names import RelativePath
from shared.store.disk import DiskStore
from tests.stores import put, stored_path

CONTENT = b"a kernel"
A, SIZE = Sha256.of(CONTENT), len(CONTENT)
NAME = RelativePath("ubuntu/amd64/ga-24.04/noble/stable/boot-kernel")
TREE = Tree("1-1-0", {NAME: Link(A, SIZE, "noble")}, {})


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path)


@pytest.fixture
def link(store: DiskStore, tmp_path: Path) -> Path:
    """A file of the store, its name in the current tree, and one in a tree of before."""
    put(store, CONTENT)
    path = tree_path(tmp_path, TREE, NAME)
    path.parent.mkdir(parents=True)
    store.link(A, path)
    store.link(A, tmp_path / "before")
    return path


def rot(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(CONTENT[::-1])
    set_mark(path)


def test_a_file_with_several_names_is_one_doubt(store: DiskStore, tmp_path: Path, link: Path) -> None:
    found = list(places(tmp_path, [(A, SIZE)], TREE))
    assert doubts(store, found, set()) == []
    [doubt] = doubts(store, found, {A})
    assert (doubt.stored, doubt.paths) == (True, [link])
    os.utime(link)
    [doubt] = doubts(store, found, set())
    assert settle(store, doubt)
    assert doubts(store, found, set()) == []
    assert (tmp_path / "before").stat().st_mtime == VERIFIED_AT


@pytest.mark.parametrize("tree", [TREE, None], ids=["in-the-tree", "not-in-a-tree-yet"])
def test_a_wrong_file_loses_its_names_and_its_mark_under_every_other(
    store: DiskStore, tmp_path: Path, link: Path, tree: Tree | None
) -> None:
    rot(link)
    [doubt] = doubts(store, places(tmp_path, [(A, SIZE)], tree), {A})
    assert not settle(store, doubt)
    assert not stored_path(store, A).exists()
    assert link.exists() is (tree is None)
    assert not holds_verified(tmp_path / "before", SIZE)


def test_a_name_whose_file_the_store_has_lost_is_read_by_itself(store: DiskStore, tmp_path: Path, link: Path) -> None:
    store.remove(A)
    rot(link)
    [doubt] = doubts(store, places(tmp_path, [(A, SIZE)], TREE), {A})
    assert (doubt.stored, doubt.paths, doubt.name) == (False, [link], str(link))
    assert not settle(store, doubt)
    assert not link.exists()
    assert not holds_verified(tmp_path / "before", SIZE)
    assert doubts(store, [Place(None, A, SIZE), Place(link, A, SIZE)], {A}) == []


@pytest.mark.parametrize("stored", [True, False], ids=["in-the-store", "in-the-tree-only"])
@pytest.mark.parametrize("call", ["open", "preadv"])
@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM])
def test_a_file_that_cannot_be_read_keeps_its_names_and_its_mark(
    store: DiskStore, tmp_path: Path, link: Path, number: int, call: str, stored: bool
) -> None:
    if not stored:
        store.remove(A)
    [doubt] = doubts(store, places(tmp_path, [(A, SIZE)], TREE), {A})

    def fail(*_args: Any, **_options: Any) -> int:
        raise OSError(number, os.strerror(number))

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, call, fail)
        with pytest.raises(OSError, match=r"\w"):
            settle(store, doubt)
    assert holds_verified(link, SIZE)
    assert stored_path(store, A).exists() is stored
    assert settle(store, doubt)
