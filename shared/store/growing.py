"""The growing file of a store on a disk: how bytes arrive, and the order of flushes that makes them a stored file.

    incoming/3c64c612…            what has arrived, locked by its writer
    incoming/3c64c612….5f1c02aa   the same, begun while somebody held the lock of the first

- The lock is flock(2): the kernel lets it go when the process has ended, not while it sleeps or hangs. Whoever finds it
  taken begins a file of its own and waits for nobody; both end in the same stored file, as their bytes are the same.
- Order: bytes, mode and mark; fsync of the file; the rename by which it appears; fsync of its directory; and of the
  directories above it, once for each in a process.
- A write or a flush that failed is never tried again on the same file: the kernel may have dropped the bytes and call
  the next flush a success (fsync(2), "fsyncgate"). What has arrived is thrown away, and where not even that works, this
  process remembers that nobody may resume from it.
"""

import fcntl
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path

from shared.digest import Hasher, Sha256
from shared.disk import hash_open
from shared.errors import Conflict
from shared.mark import set_mark
from shared.store.base import Writer
from shared.store.below import clear, directory, make_directory, names_it

INCOMING, FILES = "incoming", "files"


@dataclass(frozen=True, slots=True)
class Memory:
    """What a process knows of its store.

    `flushed` are shelves whose own names it has flushed; `spoiled` names in `incoming/` that nobody may resume from;
    `unsure` stored files whose names may be gone after a loss of power. Of the last two it could not take them away.
    """

    flushed: set[str] = field(default_factory=set)
    spoiled: set[str] = field(default_factory=set)
    unsure: set[str] = field(default_factory=set)


def shelf_of(sha256: Sha256) -> str:
    """The directory below `files/` that a file lies in."""
    return sha256[:2]


class DiskWriter(Writer):
    """A growing file in `incoming/` below `root`, to be filed in `files/`."""

    def __init__(self, root: Path, sha256: Sha256, size: int, memory: Memory) -> None:
        super().__init__(sha256, size)
        self._root, self._memory = root, memory
        self._name, self._descriptor = _open_locked(root, sha256, memory)
        try:
            if os.fstat(self._descriptor).st_size > size:
                os.ftruncate(self._descriptor, 0)
            self._hasher = hash_open(self._descriptor)
            os.lseek(self._descriptor, 0, os.SEEK_END)
        except BaseException:
            self.close()
            raise

    def write(self, chunk: bytes) -> None:
        """Append `chunk` and hash it. Raises OSError, after which nothing of the file is left."""
        with self._or_thrown_away():
            view = memoryview(chunk)
            while view:
                view = view[os.write(self._descriptor, view) :]
        self._hasher.update(chunk)

    def restart(self) -> None:
        """Drop what has arrived and begin anew. Raises OSError, after which nothing of the file is left."""
        with self._or_thrown_away():
            os.ftruncate(self._descriptor, 0)
            os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._hasher = Hasher()

    def commit(self) -> None:
        """File it: after this returns the store holds it, verified, also after a loss of power."""
        self._require_promised()
        with self._or_thrown_away():
            os.fchmod(self._descriptor, 0o444)
            set_mark(self._descriptor)
            os.fsync(self._descriptor)
            with directory(self._root, INCOMING) as incoming, directory(self._root, FILES, make=True) as files:
                if not names_it(incoming, self._name, self._descriptor):
                    raise Conflict(f"What had arrived of {self.sha256} was removed while it was written; fetch again.")
                self._file(incoming, files)
        self.close()

    def _file(self, incoming: int, files: int) -> None:
        shelf = shelf_of(self.sha256)
        if make_directory(files, shelf):
            # Somebody may have cleared the disk under a process that remembers the directory.
            self._memory.flushed.discard(shelf)
        with directory(self._root, FILES, shelf) as into:
            try:
                os.rename(self._name, self.sha256, src_dir_fd=incoming, dst_dir_fd=into)
            except FileNotFoundError as error:
                raise Conflict(f"What had arrived of {self.sha256} was removed just now; fetch it again.") from error
            try:
                flush_shelf(into, files, shelf, self._memory)
            except OSError:
                # It may be gone after a loss of power: nobody shall find it and believe it.
                self._memory.unsure.add(self.sha256)
                with suppress(OSError):
                    os.unlink(self.sha256, dir_fd=into)
                    self._memory.unsure.discard(self.sha256)
                raise

    def discard(self) -> None:
        """Drop what has arrived; nobody resumes from it."""
        try:
            self._remove_arrived()
        finally:
            self.close()

    def close(self) -> None:
        """Stop writing, let the lock go and keep what has arrived; harmless after any end."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1

    @contextmanager
    def _or_thrown_away(self) -> Iterator[None]:
        try:
            yield
        except OSError:
            # Before anything is tried: a disk that fails may not let it be removed either.
            self._memory.spoiled.add(self._name)
            with suppress(OSError):
                self._remove_arrived()
                self._memory.spoiled.discard(self._name)
            self.close()
            raise

    def _remove_arrived(self) -> None:
        with directory(self._root, INCOMING) as incoming:
            if names_it(incoming, self._name, self._descriptor):
                os.unlink(self._name, dir_fd=incoming)


def flush_shelf(shelf: int, files: int, name: str, memory: Memory) -> None:
    """Make the names in the open directory `name` below the open `files` survive a loss of power, and its own name.

    Raises OSError.
    """
    os.fsync(shelf)
    if name not in memory.flushed:
        os.fsync(files)
        memory.flushed.add(name)


def _open_locked(root: Path, sha256: Sha256, memory: Memory) -> tuple[str, int]:
    """Name and descriptor of a file in `incoming/`, made if need be, that nobody else has locked. Raises OSError."""
    with directory(root, INCOMING, make=True) as incoming:
        name: str = sha256
        while True:
            descriptor = _open(incoming, name)
            try:
                if not locked(descriptor):
                    os.close(descriptor)
                    name = f"{sha256}.{secrets.token_hex(4)}"
                    continue
                if name in memory.spoiled:
                    clear(incoming, name)
                    memory.spoiled.discard(name)
                if names_it(incoming, name, descriptor):
                    return name, descriptor
            except BaseException:
                os.close(descriptor)
                raise
            # It was committed or removed between the two calls: writing to it now would write to a stored file.
            os.close(descriptor)


def _open(incoming: int, name: str) -> int:
    flags = os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
    try:
        return os.open(name, flags, 0o600, dir_fd=incoming)
    except PermissionError:
        # Killed while it was being committed: whole perhaps, and read-only already.
        descriptor = os.open(name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, dir_fd=incoming)
        try:
            os.fchmod(descriptor, 0o600)
        finally:
            os.close(descriptor)
        return os.open(name, flags, 0o600, dir_fd=incoming)


def locked(descriptor: int) -> bool:
    """True if the open file is locked by this descriptor now. Raises OSError."""
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
