"""A store on one file system.

    <root>/files/3c/3c64c612…     complete and verified; mode 0444, marked as `shared.mark` tells
    <root>/files/.<work>          locked by the one process that is at that work (`alone`)
    <root>/incoming/3c64c612…     what has arrived; locked by its writer, mode 0600

Bytes, mode and mark are flushed before the one rename that makes the file appear, the directories after it. Locks are
flock(2): the kernel lets them go when the process has ended, and not while it only sleeps.
"""

import errno
import fcntl
import os
import shutil
import stat
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path

from shared.digest import Hasher, Sha256
from shared.disk import disk_error, hash_file, hash_open, sync_directory
from shared.errors import Conflict, DiskFailed, InvalidValue, NoRoom
from shared.mark import holds_verified, is_verified, set_mark, take_mark
from shared.store.base import Store, Writer

HEADROOM_BYTES = 64 * 1024 * 1024
"""What a disk keeps free beside the files, for trees, databases and logs."""


class DiskFile(FileIO):
    """A stored file, open for reading: the contract's `StoredFile`, and a plain file object besides."""

    def __init__(self, descriptor: int, size: int) -> None:
        super().__init__(descriptor)
        self.size = size

    def read_at(self, offset: int, count: int) -> bytes:
        """The `count` bytes from `offset` on, fewer only where the file ends. Raises OSError."""
        return os.pread(self.fileno(), count, offset)


class DiskStore(Store):
    """The files below `root`; the directories are made as they are needed. Raises OSError."""

    def __init__(self, root: Path) -> None:
        self.where = str(root)
        self._root = root
        self._files = root / "files"
        self._incoming = root / "incoming"
        self._incoming.mkdir(parents=True, exist_ok=True)
        self._files.mkdir(exist_ok=True)
        self._flushed: set[Path] = set()

    def has(self, sha256: Sha256, size: int) -> bool:
        """True if the file was verified with this digest, has this size, and nobody has written to it since."""
        return holds_verified(self._path(sha256), size)

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
                    if stat.S_ISREG(found.st_mode) and entry.path == str(self._path(sha256)):
                        yield sha256, found.st_size

    def open(self, sha256: Sha256, size: int) -> DiskFile | None:
        """The file, to be read; None when `has` would be false."""
        try:
            descriptor = os.open(self._path(sha256), os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                return None
            raise
        if not is_verified(os.fstat(descriptor), size):
            os.close(descriptor)
            return None
        return DiskFile(descriptor, size)

    def writer(self, sha256: Sha256, size: int) -> "DiskWriter":
        """The writer of this file. Raises Conflict while another writer is at work on this digest; OSError."""
        return DiskWriter(self._incoming / sha256, self._path(sha256), sha256, size, self._flushed)

    def digest_of(self, sha256: Sha256) -> Sha256 | None:
        """What the bytes filed under `sha256` really hash to; None when there are none, or none that can be read."""
        try:
            return hash_file(self._path(sha256)).digest()
        except OSError:
            # A disk that cannot read the bytes any more has lost them.
            return None

    def reinstate(self, sha256: Sha256) -> None:
        """Mark the file as verified again: its bytes were read and are right. Its hard links are marked with it."""
        path = self._path(sha256)
        path.chmod(0o444)
        set_mark(path)

    def disown(self, sha256: Sha256) -> None:
        """Take the file's mark away, and with it that of all its hard links. No file is no error."""
        try:
            take_mark(self._path(sha256))
        except (FileNotFoundError, NotADirectoryError):
            return

    def remove(self, *digests: Sha256) -> None:
        """Remove the files and what has arrived of them. Hard links elsewhere, and whoever has one open, keep them."""
        for sha256 in digests:
            _clear(self._path(sha256))
            _clear(self._incoming / sha256)

    def clear_incoming(self, keep: Iterable[Sha256]) -> None:
        """Drop what has arrived of files nobody waits for any more, and whatever else lies there."""
        kept = set(keep)
        self._incoming.mkdir(parents=True, exist_ok=True)
        for path in sorted(self._incoming.iterdir()):
            if path.name not in kept or not stat.S_ISREG(path.lstat().st_mode):
                _clear(path)

    @contextmanager
    def alone(self, work: str) -> Iterator[bool]:
        """True inside, if no other process is inside with the same `work`, a plain word. Raises OSError."""
        self._files.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self._files / f".{work}", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        try:
            yield _locked(descriptor)
        finally:
            os.close(descriptor)

    def require_writable(self) -> None:
        """Raises OSError unless a file can be made and removed here just now."""
        self._incoming.mkdir(parents=True, exist_ok=True)
        with tempfile.NamedTemporaryFile(dir=self._incoming, prefix="."):
            pass

    def bytes_free(self) -> int:
        """Bytes this process may still write here, headroom deducted; never negative."""
        return max(0, shutil.disk_usage(self._root).free - HEADROOM_BYTES)

    def bytes_total(self) -> int:
        """The size of the file system in bytes."""
        return shutil.disk_usage(self._root).total

    def fault(self, error: OSError, needed: int = 0) -> NoRoom | DiskFailed:
        """What an operator may be told about `error`; `needed` bytes were to be written here."""
        return disk_error(error, self._root, needed)

    # --- what only a disk can do

    def link(self, sha256: Sha256, target: Path) -> None:
        """Make `target` another name of the file. Raises FileNotFoundError when the file is not here; OSError."""
        target.hardlink_to(self._path(sha256))

    def status(self, sha256: Sha256) -> os.stat_result | None:
        """What the file system says of the file, by which its hard links are known; None when it is not here."""
        try:
            return self._path(sha256).lstat()
        except (FileNotFoundError, NotADirectoryError):
            return None

    def name_below(self, sha256: Sha256) -> str:
        """The file's name relative to the store's directory, for a web server in front that sends it (nginx)."""
        return str(self._path(sha256).relative_to(self._root))

    # --- where things are

    def _path(self, sha256: Sha256) -> Path:
        return self._files / sha256[:2] / sha256

    def _arrived(self, sha256: Sha256) -> int:
        try:
            return (self._incoming / sha256).lstat().st_size
        except FileNotFoundError:
            return 0


class DiskWriter(Writer):
    """The growing file `incoming`, to become `target`.

    `flushed` are the directories below `files/` whose own names this process has flushed: that is needed once for each,
    not once for each file in it.
    """

    def __init__(self, incoming: Path, target: Path, sha256: Sha256, size: int, flushed: set[Path]) -> None:
        super().__init__(sha256, size)
        self._incoming, self._target, self._flushed = incoming, target, flushed
        self._descriptor = _open_locked(incoming)
        try:
            if os.fstat(self._descriptor).st_size > size:
                os.ftruncate(self._descriptor, 0)
            self._hasher = hash_open(self._descriptor)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except BaseException:
            self.close()
            raise

    def write(self, chunk: bytes) -> None:
        """Append `chunk` and hash it. Raises OSError; what was written before is kept."""
        view = memoryview(chunk)
        while view:
            view = view[os.write(self._descriptor, view) :]
        self._hasher.update(chunk)

    def restart(self) -> None:
        """Drop what has arrived and begin anew."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hasher = Hasher()

    def commit(self) -> None:
        """File it: after this returns the store holds it, verified, also after a loss of power."""
        self._require_promised()
        os.fchmod(self._descriptor, 0o444)
        set_mark(self._descriptor)
        os.fsync(self._descriptor)
        if not _is_at(self._descriptor, self._incoming):
            raise Conflict(f"What had arrived of {self.sha256} was removed while it was written; fetch it again.")
        directory = self._target.parent
        if not directory.is_dir():
            # Somebody may have cleared the disk under a process that remembers the directory.
            self._flushed.discard(directory)
            directory.mkdir(parents=True, exist_ok=True)
        self._incoming.replace(self._target)
        sync_directory(directory)
        if directory not in self._flushed:
            sync_directory(directory.parent)
            self._flushed.add(directory)
        self.close()

    def discard(self) -> None:
        """Drop what has arrived; nobody resumes from it."""
        try:
            if _is_at(self._descriptor, self._incoming):
                self._incoming.unlink(missing_ok=True)
        finally:
            self.close()

    def close(self) -> None:
        """Stop writing, let the lock go and keep what has arrived; harmless after any end."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def _open_locked(path: Path) -> int:
    """A descriptor of the file at `path`, made if need be, that nobody else has locked. Raises Conflict; OSError."""
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            descriptor = os.open(path, flags, 0o600)
        except PermissionError:
            # Killed while it was being committed: whole perhaps, and read-only already.
            path.chmod(0o600)
            descriptor = os.open(path, flags, 0o600)
        if not _locked(descriptor):
            os.close(descriptor)
            raise Conflict(f"{path.name} is being downloaded already; wait for that to end.")
        if _is_at(descriptor, path):
            return descriptor
        # It was committed or removed between the two calls: writing to it now would write to a stored file.
        os.close(descriptor)


def _locked(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _is_at(descriptor: int, path: Path) -> bool:
    """True if `path` names the open file."""
    try:
        return os.path.samestat(os.fstat(descriptor), path.lstat())
    except FileNotFoundError:
        return False


def _clear(path: Path) -> None:
    """Nothing is at `path` any more, whatever it was."""
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
