"""Files by their SHA-256, on one file system.

    <root>/files/3c/3c64c612…     complete and verified; mode 0444, modification time VERIFIED_AT
    <root>/incoming/3c64c612…     on its way; what is there is a prefix to resume from, nothing more

A file appears under `files/` by one rename, after its size and digest were found right and its bytes were flushed.
Nothing writes there again. Its modification time is the mark of that check: whoever touches the bytes afterwards moves
it, so `Store.has` tells without reading. Rot that moves no clock is found by `slice_of_day`, which reads everything
once a day.
"""

import errno
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from datetime import datetime
from pathlib import Path

from shared.digest import Hasher, Sha256
from shared.errors import DiskFailed, InvalidValue, NoRoom

VERIFIED_AT = 1_000_000_000
"""The modification time of a verified file, in seconds since 1970; nothing real is likely to carry it."""

SLICE_S = 300
"""One slice of the daily reading covers so many seconds of the day."""

READ_SIZE = 1024 * 1024
HEADROOM_BYTES = 64 * 1024 * 1024
"""What a disk keeps free beside the files, for trees, databases and logs."""


class Store:
    """The files below `root`. Most methods only look at names; `digest_of` and `commit` take long: off the loop."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self._files = root / "files"
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._files.mkdir(exist_ok=True)

    def path(self, sha256: Sha256) -> Path:
        """Where the file is, when it is complete."""
        return self._files / sha256[:2] / sha256

    def incoming(self, sha256: Sha256) -> Path:
        """Where its bytes are collected until it is complete."""
        return self._incoming / sha256

    def has(self, sha256: Sha256, size: int) -> bool:
        """True says: the file was verified with this digest, has this size, and nobody has written to it since."""
        try:
            found = self.path(sha256).stat()
        except FileNotFoundError:
            return False
        return found.st_size == size and found.st_mtime_ns == VERIFIED_AT * 10**9

    def held(self) -> Iterator[tuple[Sha256, int]]:
        """Every file below `files/`, with its size in bytes, whether touched or not."""
        for directory in sorted(self._files.iterdir()):
            if directory.is_symlink() or not directory.is_dir():
                continue
            with os.scandir(directory) as entries:
                for entry in entries:
                    try:
                        sha256, found = Sha256(entry.name), entry.stat(follow_symlinks=False)
                    except (InvalidValue, FileNotFoundError):
                        # A stranger's file, or one that went away meanwhile: neither is held.
                        continue
                    if stat.S_ISREG(found.st_mode) and entry.path == str(self.path(sha256)):
                        yield sha256, found.st_size

    def digest_of(self, sha256: Sha256) -> Sha256 | None:
        """What the bytes filed under `sha256` really hash to; None when there are none, or none that can be read."""
        try:
            return hash_file(self.path(sha256)).digest()
        except OSError:
            return None

    def commit(self, sha256: Sha256) -> None:
        """File the complete, verified `incoming(sha256)`: after this returns it survives a loss of power."""
        source, target = self.incoming(sha256), self.path(sha256)
        with source.open("rb") as file:
            os.fchmod(file.fileno(), 0o444)
            os.utime(file.fileno(), (VERIFIED_AT, VERIFIED_AT))
            os.fsync(file.fileno())
        target.parent.mkdir(parents=True, exist_ok=True)
        source.replace(target)
        sync_directory(target.parent)
        sync_directory(self._files)

    def reinstate(self, sha256: Sha256) -> None:
        """Mark the file as verified again: its bytes were read and are right, only its clock had moved."""
        path = self.path(sha256)
        path.chmod(0o444)
        os.utime(path, (VERIFIED_AT, VERIFIED_AT))

    def remove(self, *digests: Sha256) -> None:
        """Forget the files and anything collected of them."""
        for sha256 in digests:
            _clear(self.path(sha256))
            _clear(self.incoming(sha256))

    def clear_incoming(self, keep: Iterable[Sha256]) -> None:
        """Drop partial files nobody waits for any more."""
        kept = set(keep)
        self._incoming.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._incoming.iterdir()):
            if path.name not in kept or not stat.S_ISREG(path.lstat().st_mode):
                _clear(path)

    def require_writable(self) -> None:
        """Returning says: a file can be made and removed here just now. Raises OSError."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._incoming, prefix="."):
            pass

    def bytes_free(self) -> int:
        """Bytes this process may still write here, headroom deducted; never negative."""
        return max(0, shutil.disk_usage(self.root).free - HEADROOM_BYTES)

    def bytes_missing(self, wanted: Iterable[tuple[Sha256, int]]) -> int:
        """Bytes still to fetch until all of `wanted` are held; what lies in `incoming/` is deducted."""
        return sum(
            size - min(size, self._collected(sha256)) for sha256, size in set(wanted) if not self.has(sha256, size)
        )

    def require_room(self, wanted: Iterable[tuple[Sha256, int]]) -> None:
        """Returning says: all of `wanted` fit together. Raises NoRoom before a byte is written."""
        needed, free = self.bytes_missing(wanted), self.bytes_free()
        if needed > free:
            raise NoRoom(str(self.root), needed, free)

    def _collected(self, sha256: Sha256) -> int:
        try:
            return self.incoming(sha256).stat().st_size
        except FileNotFoundError:
            return 0


def hash_file(path: Path) -> Hasher:
    """A hasher that has read all of `path`. Blocks: call it off the loop. Raises FileNotFoundError."""
    hasher = Hasher()
    buffer = memoryview(bytearray(READ_SIZE))
    with path.open("rb", buffering=0) as file:
        while count := file.readinto(buffer):
            hasher.update(buffer[:count])
        os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
    return hasher


def _clear(path: Path) -> None:
    """Nothing is at `path` any more, whatever it was."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


def disk_error(error: OSError, root: Path, needed: int = 0) -> NoRoom | DiskFailed:
    """What an operator may be told about `error`; `needed` bytes were to be written below `root`."""
    if error.errno in (errno.ENOSPC, errno.EDQUOT):
        return NoRoom(str(root), needed, shutil.disk_usage(root).free)
    return DiskFailed(str(root), error)


def slice_of_day(files: Iterable[Sha256], now: datetime) -> list[Sha256]:
    """Those of `files` to be read again at `now`: each once a day, an even share every five minutes."""
    slices = 86_400 // SLICE_S
    turn = int(now.timestamp()) // SLICE_S % slices
    return [sha256 for sha256 in files if int(sha256[:8], 16) % slices == turn]


def sync_directory(path: Path) -> None:
    """Make the names in `path` survive a loss of power."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
