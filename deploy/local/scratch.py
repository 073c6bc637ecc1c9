"""Directories for what a test or a benchmark makes: in memory where the machine allows, and gone after their process.

    <place>/bootferry-scratch-…    locked, flock(2), for as long as the process that made it lives

A process that is killed removes nothing, but the kernel lets go of its locks. So whoever makes the next directory sees
which ones have lost their process, and removes them.
"""

import fcntl
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

PREFIX = "bootferry-scratch-"
MEMORY = Path("/dev/shm")  # noqa: S108 (mkdtemp below makes the part that nobody can guess)
NEEDED_BYTES = 512 << 20


def scratch_place() -> Path:
    """Where scratch directories are made: in memory, or where temporary files go when memory is short."""
    usable = MEMORY.is_dir() and os.access(MEMORY, os.W_OK) and shutil.disk_usage(MEMORY).free > NEEDED_BYTES
    return MEMORY if usable else Path(tempfile.gettempdir())


@contextmanager
def scratch_directory(place: Path | None = None) -> Iterator[Path]:
    """A directory for the block, which other users may pass through; those that killed processes left are removed."""
    place = place or scratch_place()
    for left in abandoned(place):
        shutil.rmtree(left, ignore_errors=True)
    path, lock = _make(place)
    try:
        path.chmod(0o711)  # PostgreSQL may run as another user
        yield path
    finally:
        shutil.rmtree(path, ignore_errors=True)
        os.close(lock)


def abandoned(place: Path) -> Iterator[Path]:
    """This user's scratch directories in `place` whose process has ended, each locked until the next is asked for."""
    for path in place.glob(f"{PREFIX}*"):
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
        except OSError:
            continue  # gone meanwhile, or not ours to open
        try:
            if os.fstat(lock).st_uid == os.geteuid() and _locked(lock):
                yield path
        finally:
            os.close(lock)


def _make(place: Path) -> tuple[Path, int]:
    while True:
        path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=place))
        # Before it is locked somebody may take it for an abandoned one.
        try:
            lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
        except FileNotFoundError:
            continue
        if _locked(lock) and path.exists():
            return path, lock
        os.close(lock)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
