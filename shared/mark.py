"""The mark of a verified file: its modification time is one fixed moment.

Rules, for the region and the rack alike:

- The mark is set when the file's digest was found right, after its last byte was written.
- Whoever writes to the bytes afterwards moves the time, and with it takes the mark away. Hard links share it.
- The time is compared by the nanosecond: a file touched by one nanosecond is a touched file.
- Nothing else is proved: rot and forgery leave the mark alone. They are found by reading, see `shared.audit`.
"""

import os
import stat
from pathlib import Path

VERIFIED_AT = 1_000_000_000
"""The modification time of a verified file, in seconds since 1970; nothing real is likely to carry it."""

_VERIFIED_AT_NS = VERIFIED_AT * 10**9


def set_mark(file: int | Path) -> None:
    """Mark the file, by its descriptor or its path, as verified. Raises OSError."""
    os.utime(file, ns=(_VERIFIED_AT_NS, _VERIFIED_AT_NS), follow_symlinks=isinstance(file, int))


def take_mark(path: Path | str, *, dir_fd: int | None = None) -> None:
    """Take the mark away from the file, in the directory `dir_fd` if given, and from all its hard links.

    Raises OSError.
    """
    os.utime(path, dir_fd=dir_fd, follow_symlinks=False)


def is_verified(found: os.stat_result, size: int) -> bool:
    """True if this is a regular file of `size` bytes that nobody has written to since it was verified."""
    return stat.S_ISREG(found.st_mode) and found.st_size == size and found.st_mtime_ns == _VERIFIED_AT_NS


def holds_verified(path: Path, size: int) -> bool:
    """True if such a file is at `path` itself, not behind a link. Raises OSError when nobody can tell."""
    try:
        return is_verified(path.lstat(), size)
    except (FileNotFoundError, NotADirectoryError):
        return False
