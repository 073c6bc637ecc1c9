"""The contract of a store: files by their SHA-256, complete and verified, or not there at all.

Rules that every store keeps, and every caller may rely on:

- A file appears in one step, after its size and its digest were found right. Nothing writes to it again.
- When `Writer.commit` has returned, the file survives a loss of power.
- A file carries a mark that it was verified; whoever touches its bytes takes the mark away. `has` and `open` look at
  the mark and never read: rot that leaves the mark alone is found by whoever reads, see `shared.audit`.
- What has arrived of a file is a prefix to resume from and proves nothing: it is hashed again by whoever resumes.
- Writers of one digest do not wait for each other: each has what arrives to itself, and whoever begins takes over what
  one that has ended left behind. So a process that hangs in the middle of a file keeps nobody from it.
- After a write or a flush that failed, what has arrived is thrown away: nobody can say what of it is on the disk.
- OSError is no verdict on a file: only bytes that were read and differ are wrong, and only a name that is not there is
  gone. Whoever cannot read tells it and leaves the file alone.
- No name from outside reaches the store; a digest is the only one it takes.
- Every method may block on a disk or a network: call it in a thread, and never inside a database transaction.
- Faults of what lies below are OSError; `fault` turns one into what an operator is told.

Who owns what:

| | |
|---|---|
| the store | where bytes are, the mark, locks, flushing |
| a writer | one growing file, its hash and its lock, until it ends |
| the caller | which files are wanted, which may go, and that nobody fetches what is being removed |

Not done here: no store counts references, fetches, or decides that a file may go.

    with closing(store.writer(sha256, size)) as writer:
        for chunk in chunks:
            writer.write(chunk)
        writer.commit()
"""

from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from shared.digest import Hasher, Sha256
from shared.errors import DiskFailed, InvalidValue, NoRoom


class StoredFile(Protocol):
    """A stored file, open: its bytes stay readable until `close`, whatever is removed or replaced meanwhile."""

    @property
    def size(self) -> int:
        """Its length in bytes."""

    def fileno(self) -> int | None:
        """A descriptor for sendfile(2), which the file keeps; None where there is none and `read_at` must do."""

    def read_at(self, offset: int, count: int) -> bytes:
        """The `count` bytes from `offset` on, fewer only where the file ends. Raises OSError."""

    def close(self) -> None:
        """Let it go; harmless when repeated."""


class Writer(ABC):
    """A writer of a growing file. It ends by `commit`, `discard` or `close`; then only `close` is allowed."""

    def __init__(self, sha256: Sha256, size: int) -> None:
        self.sha256 = sha256
        self.size = size
        self._hasher = Hasher()

    @property
    def arrived(self) -> int:
        """How many bytes have arrived, those of earlier writers included."""
        return self._hasher.size

    def digest(self) -> Sha256:
        """The digest of the bytes that have arrived."""
        return self._hasher.digest()

    @abstractmethod
    def write(self, chunk: bytes) -> None:
        """Append `chunk` and hash it. Raises OSError: nothing of the file is left then, and the writer has ended."""

    @abstractmethod
    def restart(self) -> None:
        """Drop what has arrived and begin anew."""

    @abstractmethod
    def commit(self) -> None:
        """File it: after this returns the store holds it, verified, also after a loss of power.

        Raises InvalidValue when the bytes are not the promised ones, Conflict when somebody has removed what had
        arrived: nothing appears in the store then. Raises OSError: nothing of the file is left then, and the writer has
        ended.
        """

    @abstractmethod
    def discard(self) -> None:
        """Drop what has arrived; nobody resumes from it."""

    @abstractmethod
    def close(self) -> None:
        """Stop writing and keep what has arrived for the next writer; harmless after any end."""

    def _require_promised(self) -> None:
        if self.arrived != self.size:
            raise InvalidValue("number of bytes", self.arrived, f"{self.sha256} has {self.size}")
        if (found := self.digest()) != self.sha256:
            raise InvalidValue("digest of these bytes", str(self.sha256), f"they hash to {found}")


class Store(ABC):
    """A store. `where` is for sentences only: it names the place to people, and nobody builds a path from it."""

    where: str

    @abstractmethod
    def has(self, sha256: Sha256, size: int) -> bool:
        """True if the file was verified with this digest, has this size, and nobody has written to it since."""

    @abstractmethod
    def secure(self, sha256: Sha256, size: int) -> bool:
        """True if `has` is; the file then survives a loss of power, however the process ended that has filed it.

        For whoever finds a file it has not filed itself and is about to write down that it is there. Raises OSError.
        """

    @abstractmethod
    def held(self, beginning: str = "") -> Iterator[tuple[Sha256, int]]:
        """Every file whose digest has this `beginning`, with its size in bytes, touched ones too; partial ones not."""

    @abstractmethod
    def open(self, sha256: Sha256, size: int) -> StoredFile | None:
        """The file, to be read; None when `has` would be false. Raises OSError: nobody knows what the file is then."""

    def location(self, sha256: Sha256) -> str | None:
        """A URL under which anybody who is told it may read the file for a while; None where the store has no such."""
        return None

    @abstractmethod
    def writer(self, sha256: Sha256, size: int) -> Writer:
        """A writer of this file. What has arrived earlier is read and hashed; more than `size` bytes are dropped.

        While another writer is at work on this digest, this one begins at its first byte. Raises OSError.
        """

    @abstractmethod
    def digest_of(self, sha256: Sha256) -> Sha256 | None:
        """What the bytes filed under `sha256` really hash to; None when there is no such file.

        Raises OSError when they cannot be read: nobody knows what they are then.
        """

    @abstractmethod
    def reinstate(self, sha256: Sha256) -> None:
        """Mark the file as verified again: its bytes were read and are right."""

    @abstractmethod
    def disown(self, sha256: Sha256) -> None:
        """Take the file's mark away: its bytes were read and are wrong, or nobody knows. No file is no error."""

    @abstractmethod
    def remove(self, *digests: Sha256) -> None:
        """Remove the files and what has arrived of them; those that are not there are no error.

        It takes effect before it returns, or never: the caller may let others fetch the files again at once.
        """

    @abstractmethod
    def clear_incoming(self, keep: Iterable[Sha256]) -> None:
        """Drop what has arrived of files nobody waits for any more, that is of all but `keep`."""

    @abstractmethod
    def alone(self, work: str) -> AbstractContextManager[bool]:
        """True inside, if no other process that uses this store is inside with the same `work`; never waits.

        Whoever is inside stays alone until it leaves or its process ends, however long it sleeps in between.
        """

    @abstractmethod
    def bytes_free(self) -> int:
        """Bytes that may still be written here; never negative."""

    @abstractmethod
    def bytes_total(self) -> int:
        """Bytes that what lies below can hold in all, whoever has written them."""

    @abstractmethod
    def require_writable(self) -> None:
        """Raises OSError unless a file can be made and removed here just now."""

    @abstractmethod
    def fault(self, error: OSError, needed: int = 0) -> NoRoom | DiskFailed:
        """What an operator may be told about `error` of a method here; `needed` bytes were to be written."""

    @abstractmethod
    def _arrived(self, sha256: Sha256) -> int:
        """How many bytes have arrived of a file that is not complete."""

    def bytes_missing(self, wanted: Iterable[tuple[Sha256, int]]) -> int:
        """Bytes still to fetch until all of `wanted` are held; what has arrived is deducted."""
        return sum(
            size - min(size, self._arrived(sha256)) for sha256, size in set(wanted) if not self.has(sha256, size)
        )

    def require_room(self, wanted: Iterable[tuple[Sha256, int]]) -> None:
        """Raises NoRoom unless all of `wanted` fit together; nothing is written."""
        needed, free = self.bytes_missing(wanted), self.bytes_free()
        if needed > free:
            raise NoRoom(self.where, needed, free)
