"""A store on one file system.

    <root>/files/3c/3c64c612…     complete and verified; mode 0444, marked as `shared.mark` tells
    <root>/files/.<work>          locked by the one process that is at that work (`alone`)
    <root>/incoming/3c64c612…     what has arrived; locked by its writer, mode 0600

Nothing below `root` is reached through a link (`shared.store.below`): where one stands, there is no file. How a file
grows, and in which order it is flushed, is in `shared.store.growing`.
"""

import errno
import os
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from secrets import token_hex
from types import TracebackType

from shared.digest import Sha256
from shared.disk import disk_error, hash_open, sync_directory
from shared.errors import DiskFailed, InvalidValue, NoRoom
from shared.mark import is_verified, set_mark, take_mark
from shared.store import below
from shared.store.base import Store
from shared.store.below import ABSENT
from shared.store.growing import FILES, INCOMING, DiskWriter, Memory, flush_shelf, locked, shelf_of

HEADROOM_BYTES = 64 * 1024 * 1024
"""What a disk keeps free beside the files, for trees, databases and logs."""

_READ = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
"""O_NONBLOCK: a pipe that somebody has put in the place of a file must not be waited for."""


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
        self._memory = Memory()
        made = not root.is_dir()
        root.mkdir(parents=True, exist_ok=True)
        with below.directory(root) as descriptor:
            for name in (INCOMING, FILES):
                made |= below.make_directory(descriptor, name)
        # A process may have made them and died before they were flushed.
        try:
            sync_directory(root)
            sync_directory(root.parent)
        except OSError:
            # A disk that only reads has nothing to flush.
            if made:
                raise

    def has(self, sha256: Sha256, size: int) -> bool:
        """True if the file was verified with this digest, has this size, and nobody has written to it since."""
        found = self.status(sha256)
        return found is not None and is_verified(found, size)

    def secure(self, sha256: Sha256, size: int) -> bool:
        """True if `has` is; the file then survives a loss of power, whoever filed it and however that one ended."""
        shelf = shelf_of(sha256)
        try:
            with below.directory(self._root, FILES) as files, below.directory(self._root, FILES, shelf) as into:
                if sha256 in self._memory.unsure:
                    # A second flush of what could not be flushed proves nothing: it is fetched again.
                    below.clear(into, sha256)
                    self._memory.unsure.discard(sha256)
                descriptor = os.open(sha256, _READ, dir_fd=into)
                try:
                    if not is_verified(os.fstat(descriptor), size):
                        return False
                    os.fsync(descriptor)
                finally:
                    os.close(descriptor)
                flush_shelf(into, files, shelf, self._memory)
        except OSError as error:
            if error.errno in ABSENT:
                return False
            raise
        return True

    def held(self, beginning: str = "") -> Iterator[tuple[Sha256, int]]:
        """Every file below `files/` whose digest has this `beginning`, with its size in bytes, touched or not."""
        with below.directory(self._root, FILES) as files:
            shelves = sorted(name for name in below.names(files) if name.startswith(beginning[:2]))
        for shelf in shelves:
            try:
                with below.directory(self._root, FILES, shelf) as into, os.scandir(into) as entries:
                    for entry in entries:
                        if entry.name.startswith(beginning) and (found := _filed(entry, shelf)) is not None:
                            yield found
            except OSError as error:
                # A stranger's file or link, or a directory that went away meanwhile.
                if error.errno not in ABSENT:
                    raise

    def open(self, sha256: Sha256, size: int) -> DiskFile | None:
        """The file, to be read; None when `has` would be false."""
        descriptor = self._open(sha256)
        if descriptor is None:
            return None
        try:
            if is_verified(os.fstat(descriptor), size):
                return DiskFile(descriptor, size)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)
        return None

    def writer(self, sha256: Sha256, size: int) -> DiskWriter:
        """A writer of this file. Raises OSError."""
        return DiskWriter(self._root, sha256, size, self._memory)

    def digest_of(self, sha256: Sha256) -> Sha256 | None:
        """What the bytes filed under `sha256` really hash to; None when there is no such file. Raises OSError."""
        descriptor = self._open(sha256)
        if descriptor is None:
            return None
        try:
            return hash_open(descriptor).digest() if stat.S_ISREG(os.fstat(descriptor).st_mode) else None
        finally:
            os.close(descriptor)

    def reinstate(self, sha256: Sha256) -> None:
        """Mark the file as verified again: its bytes were read and are right. Its hard links are marked with it."""
        with below.directory(self._root, FILES, shelf_of(sha256)) as into:
            descriptor = os.open(sha256, _READ, dir_fd=into)
        try:
            os.fchmod(descriptor, 0o444)
            set_mark(descriptor)
        finally:
            os.close(descriptor)

    def disown(self, sha256: Sha256) -> None:
        """Take the file's mark away, and with it that of all its hard links. No file is no error."""
        with _NothingThere(), below.directory(self._root, FILES, shelf_of(sha256)) as into:
            take_mark(sha256, dir_fd=into)

    def remove(self, *digests: Sha256) -> None:
        """Remove the files and what has arrived of them. Hard links elsewhere, and whoever has one open, keep them."""
        for sha256 in digests:
            with _NothingThere(), below.directory(self._root, FILES, shelf_of(sha256)) as into:
                below.clear(into, sha256)
        with _NothingThere(), below.directory(self._root, INCOMING) as incoming:
            for name in below.names(incoming):
                if name.partition(".")[0] in digests:
                    below.clear(incoming, name)

    def clear_incoming(self, keep: Iterable[Sha256]) -> None:
        """Drop what has arrived of files nobody waits for any more, and whatever else lies there."""
        kept = set(keep)
        with below.directory(self._root, INCOMING, make=True) as incoming:
            for name in sorted(below.names(incoming)):
                found = below.status(incoming, name)
                if found is not None and not (name.partition(".")[0] in kept and stat.S_ISREG(found.st_mode)):
                    below.clear(incoming, name)

    @contextmanager
    def alone(self, work: str) -> Iterator[bool]:
        """True inside, if no other process is inside with the same `work`, a plain word. Raises OSError."""
        with below.directory(self._root, FILES, make=True) as files:
            descriptor = _open_lock(files, f".{work}")
        try:
            yield locked(descriptor)
        finally:
            os.close(descriptor)

    def require_writable(self) -> None:
        """Raises OSError unless a file can be made and removed here just now."""
        name = f".{token_hex(8)}"
        with below.directory(self._root, INCOMING, make=True) as incoming:
            os.close(os.open(name, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600, dir_fd=incoming))
            os.unlink(name, dir_fd=incoming)

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
        with below.directory(self._root, FILES, shelf_of(sha256)) as into:
            found = below.status(into, sha256)
            if found is None or not stat.S_ISREG(found.st_mode):
                raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), sha256)
            os.link(sha256, target, src_dir_fd=into, follow_symlinks=False)

    def status(self, sha256: Sha256) -> os.stat_result | None:
        """What the file system says of the file, by which its hard links are known; None when it is not here."""
        with _NothingThere(), below.directory(self._root, FILES, shelf_of(sha256)) as into:
            return below.status(into, sha256)
        return None

    def name_below(self, sha256: Sha256) -> str:
        """The file's name relative to the store's directory, for a web server in front that sends it (nginx)."""
        return f"{FILES}/{shelf_of(sha256)}/{sha256}"

    # --- where things are

    def _open(self, sha256: Sha256) -> int | None:
        """A descriptor to read what is filed under `sha256`; None when there is nothing, or a link. Raises OSError."""
        with _NothingThere(), below.directory(self._root, FILES, shelf_of(sha256)) as into:
            return os.open(sha256, _READ, dir_fd=into)
        return None

    def _arrived(self, sha256: Sha256) -> int:
        with _NothingThere(), below.directory(self._root, INCOMING) as incoming:
            found = below.status(incoming, sha256)
            return 0 if found is None else found.st_size
        return 0


class _NothingThere:
    """Inside, a name that is not there, or a link in the place of a directory, ends the block and nothing else."""

    def __enter__(self) -> None:
        pass

    def __exit__(
        self, _kind: type[BaseException] | None, error: BaseException | None, _trace: TracebackType | None
    ) -> bool:
        return isinstance(error, OSError) and error.errno in ABSENT


def _filed(entry: "os.DirEntry[str]", shelf: str) -> tuple[Sha256, int] | None:
    """Digest and size of a file on its shelf; None when it is a stranger's, or went away meanwhile. Raises OSError."""
    try:
        sha256, found = Sha256(entry.name), entry.stat(follow_symlinks=False)
    except (InvalidValue, FileNotFoundError):
        return None
    ours = stat.S_ISREG(found.st_mode) and entry.name == sha256 and shelf_of(sha256) == shelf
    return (sha256, found.st_size) if ours else None


def _open_lock(files: int, name: str) -> int:
    flags = os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
    try:
        return os.open(name, os.O_RDWR | flags, 0o600, dir_fd=files)
    except OSError as error:
        if error.errno != errno.EROFS:
            raise
    # A disk that only reads is audited all the same.
    return os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC, dir_fd=files)
