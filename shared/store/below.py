"""Names below a directory, none of them reached through a link: openat(2), one component after the other.

A link in the place of a directory of ours is somebody's mistake or somebody's trap: what lies behind it is not ours. To
all of these functions such a directory is not there.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ABSENT = frozenset({errno.ENOENT, errno.ENOTDIR, errno.ELOOP})
"""What open(2) says where there is no such name, or where a link stands in its place. Anything else says nothing."""

_DIRECTORY = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC


@contextmanager
def directory(root: Path, *names: str, make: bool = False) -> Iterator[int]:
    """A descriptor of the directory `names` below `root`, made if need be with `make`; `root` itself may be a link.

    Raises NotADirectoryError where a link or a file stands in its place; FileNotFoundError; OSError.
    """
    descriptor = os.open(root, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        for name in names:
            below = _step(descriptor, name, make)
            os.close(descriptor)
            descriptor = below
        yield descriptor
    finally:
        os.close(descriptor)


def _step(parent: int, name: str, make: bool) -> int:
    try:
        return os.open(name, _DIRECTORY, dir_fd=parent)
    except FileNotFoundError:
        if not make:
            raise
    make_directory(parent, name)
    return os.open(name, _DIRECTORY, dir_fd=parent)


def make_directory(parent: int, name: str) -> bool:
    """True if there was none. Raises OSError."""
    try:
        os.mkdir(name, dir_fd=parent)
    except FileExistsError:
        return False
    return True


def names(parent: int) -> list[str]:
    """Every name in the open directory. Raises OSError."""
    return os.listdir(parent)


def status(parent: int, name: str) -> os.stat_result | None:
    """What the file system says of `name` itself, link or not; None where there is none. Raises OSError."""
    try:
        return os.stat(name, dir_fd=parent, follow_symlinks=False)
    except FileNotFoundError:
        return None


def names_it(parent: int, name: str, descriptor: int) -> bool:
    """True if `name` is the open file."""
    found = status(parent, name)
    return found is not None and os.path.samestat(os.fstat(descriptor), found)


def clear(parent: int, name: str) -> None:
    """Nothing is at `name` any more, whatever it was. Raises OSError."""
    found = status(parent, name)
    if found is None:
        return
    if stat.S_ISDIR(found.st_mode):
        shutil.rmtree(name, dir_fd=parent)
        return
    try:
        os.unlink(name, dir_fd=parent)
    except FileNotFoundError:
        return
