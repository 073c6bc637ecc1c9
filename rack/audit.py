"""Audit: are the bytes on this disk still the ones that were verified?

Hard links share their bytes, so what is audited is the file behind the names (its inode), once. A file is in doubt when
it was touched since it was verified, has another size, or its turn of the day has come; then it is read. What is wrong
loses its names at once: better no answer than a wrong one.
"""

import os
from collections.abc import Collection, Iterable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

from rack.disk import is_verified
from rack.tree import Tree, tree_path
from shared.digest import Sha256
from shared.store import SLICE_S, VERIFIED_AT, Store, hash_file, slice_of_day

_DAY_SLICES = 86_400 // SLICE_S


@dataclass(frozen=True, slots=True)
class Place:
    """A name on this disk and what its bytes must be; `size` in bytes."""

    path: Path
    sha256: Sha256
    size: int


@dataclass(slots=True)
class Doubt:
    """One file to be read again, and those of its names that were looked at."""

    sha256: Sha256
    size: int
    paths: list[Path] = field(default_factory=list)


def places(root: Path, store: Store, wanted: Iterable[tuple[Sha256, int]], tree: Tree | None) -> Iterator[Place]:
    """Every name whose bytes a machine may get, now or from the next tree."""
    for sha256, size in wanted:
        yield Place(store.path(sha256), sha256, size)
    if tree is not None:
        for path, name in tree.names.items():
            yield Place(tree_path(root, tree, path), name.sha256, name.size)


def doubts(found: Iterable[Place], due: Collection[Sha256]) -> list[Doubt]:
    """The files behind `found` that must be read before they are trusted: those touched, and those in `due`.

    A name that is not there is no doubt: it is missing, and whoever builds the next tree sees it. Blocks.
    """
    files: dict[tuple[int, int, Sha256], Doubt] = {}
    in_doubt: set[tuple[int, int, Sha256]] = set()
    for place in found:
        try:
            status = place.path.lstat()
        except (FileNotFoundError, NotADirectoryError):
            continue
        key = (status.st_dev, status.st_ino, place.sha256)
        files.setdefault(key, Doubt(place.sha256, place.size)).paths.append(place.path)
        if place.sha256 in due or not is_verified(status, place.size):
            in_doubt.add(key)
    return [files[key] for key in files if key in in_doubt]


def settle(doubt: Doubt) -> bool:
    """Read the file. True says: its bytes are right and it is marked as verified again. False: its names are gone.

    Blocks for as long as the reading takes. Raises OSError when the names of a wrong file cannot be removed.
    """
    path = doubt.paths[0]
    if _is_right(path, doubt):
        path.chmod(0o444)
        os.utime(path, (VERIFIED_AT, VERIFIED_AT))
        return True
    for name in doubt.paths:
        if not name.is_symlink() and name.is_file():
            # Takes the mark from the names nobody looked at too: those in `unpacked/` and in earlier trees.
            os.utime(name)
        name.unlink(missing_ok=True)
    return False


def _is_right(path: Path, doubt: Doubt) -> bool:
    try:
        plain = path.is_file() and not path.is_symlink() and path.stat().st_size == doubt.size
        return plain and hash_file(path).digest() == doubt.sha256
    except OSError:
        # A disk that cannot read the bytes any more has lost them.
        return False


def due_today(files: Collection[Sha256], last: datetime | None, now: datetime) -> set[Sha256]:
    """Those of `files` whose turn to be read again has come since `last`, so that each is read once a day.

    No slice of the day is left out when two audits are more than a slice apart, and none is read twice when they are
    closer. `last` is None for the first audit of a process.
    """
    turn = _turn(now)
    begin = turn - 1 if last is None else max(_turn(last), turn - _DAY_SLICES)
    return {
        sha256
        for missed in range(turn - begin)
        for sha256 in slice_of_day(files, now - timedelta(seconds=missed * SLICE_S))
    }


def _turn(moment: datetime) -> int:
    return int(moment.timestamp()) // SLICE_S
