"""Audit: are the bytes on this disk still the ones that were verified?

Hard links share their bytes, so what is audited is the file behind the names (its inode), once. A file is in doubt when
it was touched since it was verified, has another size, or its turn of the day has come; then it is read. What was read
and is wrong loses its names at once: better no answer than a wrong one. What could not be read (too many open files, a
disk that fails) keeps them, is told, and is read again by the next audit: nobody knows that it is wrong.
"""

import os
import stat
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

from rack.tree import Tree, tree_path
from shared.digest import Sha256
from shared.disk import hash_file
from shared.mark import is_verified, set_mark, take_mark
from shared.store.disk import DiskStore


@dataclass(frozen=True, slots=True)
class Place:
    """A name on this disk and what its bytes must be; `path` is None for the store's own. `size` in bytes."""

    path: Path | None
    sha256: Sha256
    size: int


@dataclass(slots=True)
class Doubt:
    """One file to be read again: `stored` if the store has it, and the other names of it that were looked at."""

    sha256: Sha256
    size: int
    stored: bool = False
    paths: list[Path] = field(default_factory=list)

    @property
    def name(self) -> str:
        """How the log names it."""
        return self.sha256 if self.stored else str(self.paths[0])


def places(root: Path, wanted: Iterable[tuple[Sha256, int]], tree: Tree | None) -> Iterator[Place]:
    """Every name whose bytes a machine may get, now or from the next tree."""
    for sha256, size in wanted:
        yield Place(None, sha256, size)
    if tree is not None:
        for path, name in tree.names.items():
            yield Place(tree_path(root, tree, path), name.sha256, name.size)


def doubts(store: DiskStore, found: Iterable[Place], due: Collection[Sha256]) -> list[Doubt]:
    """The files behind `found` that must be read before they are trusted: those touched, and those in `due`.

    A name that is not there is no doubt: it is missing, and whoever builds the next tree sees it. Blocks.
    """
    files: dict[tuple[int, int, Sha256], Doubt] = {}
    in_doubt: set[tuple[int, int, Sha256]] = set()
    for place in found:
        status = store.status(place.sha256) if place.path is None else _status(place.path)
        if status is None:
            continue
        key = (status.st_dev, status.st_ino, place.sha256)
        doubt = files.setdefault(key, Doubt(place.sha256, place.size))
        if place.path is None:
            doubt.stored = True
        else:
            doubt.paths.append(place.path)
        if place.sha256 in due or not is_verified(status, place.size):
            in_doubt.add(key)
    return [files[key] for key in files if key in in_doubt]


def _status(path: Path) -> os.stat_result | None:
    try:
        return path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None


def settle(store: DiskStore, doubt: Doubt) -> bool:
    """Read the file. True if its bytes are right: it is marked as verified again. False: its names are gone.

    Blocks for as long as the reading takes. Raises OSError when the file cannot be read, which then keeps its names and
    its mark; or when the names of a wrong file cannot be removed.
    """
    if doubt.stored:
        return _settle_stored(store, doubt)
    path = doubt.paths[0]
    if _is_right(path, doubt):
        path.chmod(0o444)
        set_mark(path)
        return True
    _drop(doubt.paths)
    return False


def _settle_stored(store: DiskStore, doubt: Doubt) -> bool:
    status = store.status(doubt.sha256)
    if status is not None and status.st_size == doubt.size and store.digest_of(doubt.sha256) == doubt.sha256:
        store.reinstate(doubt.sha256)
        return True
    # Takes the mark from the names nobody looked at too, which are those in earlier trees.
    store.disown(doubt.sha256)
    store.remove(doubt.sha256)
    _drop(doubt.paths)
    return False


def _drop(paths: Iterable[Path]) -> None:
    for name in paths:
        if not name.is_symlink() and name.is_file():
            # Takes the mark from the names nobody looked at too: those in `unpacked/` and in earlier trees.
            take_mark(name)
        name.unlink(missing_ok=True)


def _is_right(path: Path, doubt: Doubt) -> bool:
    """Raises OSError when nobody can tell."""
    found = _status(path)
    if found is None or not stat.S_ISREG(found.st_mode) or found.st_size != doubt.size:
        return False
    try:
        return hash_file(path).digest() == doubt.sha256
    except FileNotFoundError:
        return False
