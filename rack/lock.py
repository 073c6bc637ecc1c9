"""The lock of a rack's data directory: one process writes there; the file says which.

The kernel drops the lock with the process, however it ends, so a stale file never blocks anybody. On a disk that is
read-only the file is locked as it is, where there is one: nobody can write there, and a rack serves what it has.
"""

import errno
import fcntl
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from shared.disk import make_directory
from shared.errors import Conflict


class InUse(Conflict):
    """Another process works in the data directory."""


@contextmanager
def hold(path: Path) -> Iterator[None]:
    """Inside, this process alone holds the lock at `path`. Raises InUse when another does."""
    make_directory(path.parent, mode=0o755)
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
        with _hold_read_only(path):
            yield
        return
    try:
        if not _locked(descriptor):
            raise InUse(
                f"Another bootferry-rack (process {_written(descriptor) or 'unknown'}) works in {path.parent};"
                " stop it, or give this one its own RACK_DATA_DIR."
            )
        with suppress(OSError):
            # A full disk takes no number, and the lock holds without.
            os.ftruncate(descriptor, 0)
            os.write(descriptor, f"{os.getpid()}\n".encode())
        yield
    finally:
        os.close(descriptor)


@contextmanager
def _hold_read_only(path: Path) -> Iterator[None]:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        yield
        return
    try:
        if not _locked(descriptor):
            raise InUse(f"Another bootferry-rack works in {path.parent}, whose disk is read-only; stop it.")
        yield
    finally:
        os.close(descriptor)


def holder(path: Path) -> int | None:
    """The id of the process that holds the lock at `path`, or None when nobody does."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except FileNotFoundError:
        return None
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return _written(descriptor)
    else:
        return None
    finally:
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    # `holder` takes the lock for a moment to see whether it is free; that is no other rack.
    for _ in range(5):
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(0.02)
        else:
            return True
    return False


def _written(descriptor: int) -> int | None:
    text = os.pread(descriptor, 32, 0).strip()
    return int(text) if text.isdigit() else None
