"""A store without paths: it shows that the contract needs none, and it is harmed by method calls."""

import errno
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

from shared.digest import Hasher, Sha256
from shared.errors import Conflict, DiskFailed, NoRoom
from shared.store.base import Store, Writer


@dataclass(slots=True)
class Kept:
    """A file of the store, and whether it carries the mark."""

    content: bytes
    marked: bool = True


@dataclass(frozen=True, slots=True)
class MemoryFile:
    """A stored file, open; it has no descriptor."""

    content: bytes

    @property
    def size(self) -> int:
        """Its length in bytes."""
        return len(self.content)

    def fileno(self) -> None:
        """None: there is no descriptor."""

    def read_at(self, offset: int, count: int) -> bytes:
        """The `count` bytes from `offset` on, fewer only where the file ends."""
        return self.content[offset : offset + count]

    def close(self) -> None:
        """Nothing to let go."""


@dataclass(slots=True)
class MemoryStore(Store):
    """At most `capacity` bytes, complete and arriving ones together."""

    capacity: int = 2**62
    files: dict[Sha256, Kept] = field(default_factory=dict)
    arriving: dict[str, bytearray] = field(default_factory=dict)
    locked: set[str] = field(default_factory=set)
    begun: int = 0
    where: str = "memory"

    def has(self, sha256: Sha256, size: int) -> bool:
        kept = self.files.get(sha256)
        return kept is not None and kept.marked and len(kept.content) == size

    def secure(self, sha256: Sha256, size: int) -> bool:
        return self.has(sha256, size)

    def held(self, beginning: str = "") -> Iterator[tuple[Sha256, int]]:
        for sha256, kept in list(self.files.items()):
            if sha256.startswith(beginning):
                yield sha256, len(kept.content)

    def open(self, sha256: Sha256, size: int) -> MemoryFile | None:
        return MemoryFile(self.files[sha256].content) if self.has(sha256, size) else None

    def writer(self, sha256: Sha256, size: int) -> "MemoryWriter":
        return MemoryWriter(self, sha256, size)

    def digest_of(self, sha256: Sha256) -> Sha256 | None:
        kept = self.files.get(sha256)
        return None if kept is None else Sha256.of(kept.content)

    def reinstate(self, sha256: Sha256) -> None:
        self.files[sha256].marked = True

    def disown(self, sha256: Sha256) -> None:
        if sha256 in self.files:
            self.files[sha256].marked = False

    def remove(self, *digests: Sha256) -> None:
        for sha256 in digests:
            self.files.pop(sha256, None)
            for name in [name for name in self.arriving if name.startswith(sha256)]:
                del self.arriving[name]
                self.locked.discard(name)

    def clear_incoming(self, keep: Iterable[Sha256]) -> None:
        kept = set(keep)
        for name in [name for name in self.arriving if name.partition(".")[0] not in kept]:
            del self.arriving[name]

    @contextmanager
    def alone(self, work: str) -> Iterator[bool]:
        if work in self.locked:
            yield False
            return
        self.locked.add(work)
        try:
            yield True
        finally:
            self.locked.discard(work)

    def bytes_free(self) -> int:
        return max(0, self.capacity - self._used())

    def bytes_total(self) -> int:
        return self.capacity

    def require_writable(self) -> None:
        if not self.bytes_free():
            raise full()

    def fault(self, error: OSError, needed: int = 0) -> NoRoom | DiskFailed:
        if error.errno == errno.ENOSPC:
            return NoRoom(self.where, needed, self.bytes_free())
        return DiskFailed(self.where, error)

    def _arrived(self, sha256: Sha256) -> int:
        return len(self.arriving.get(sha256, b""))

    def _used(self) -> int:
        return sum(len(kept.content) for kept in self.files.values()) + sum(map(len, self.arriving.values()))


def full() -> OSError:
    """What a full disk says."""
    return OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


class MemoryWriter(Writer):
    """The growing bytes of one digest in `store.arriving`."""

    def __init__(self, store: MemoryStore, sha256: Sha256, size: int) -> None:
        super().__init__(sha256, size)
        store.begun += 1
        self._name = f"{sha256}.{store.begun}" if sha256 in store.locked else str(sha256)
        store.locked.add(self._name)
        self._store, self._open = store, True
        self._bytes = store.arriving.setdefault(self._name, bytearray())
        if len(self._bytes) > size:
            self._bytes.clear()
        self._hasher.update(self._bytes)

    def write(self, chunk: bytes) -> None:
        """Append `chunk`; without room for it nothing is left."""
        if len(chunk) > self._store.bytes_free():
            self.discard()
            raise full()
        self._bytes += chunk
        self._hasher.update(chunk)

    def restart(self) -> None:
        """Drop what has arrived and begin anew."""
        self._bytes.clear()
        self._hasher = Hasher()

    def commit(self) -> None:
        """File it."""
        self._require_promised()
        if self._store.arriving.get(self._name) is not self._bytes:
            raise Conflict(f"What had arrived of {self.sha256} was removed.")
        del self._store.arriving[self._name]
        self._store.files[self.sha256] = Kept(bytes(self._bytes))
        self.close()

    def discard(self) -> None:
        """Drop what has arrived."""
        if self._store.arriving.get(self._name) is self._bytes:
            del self._store.arriving[self._name]
        self.close()

    def close(self) -> None:
        """Let the lock go."""
        if self._open:
            self._open = False
            if self._store.arriving.get(self._name, self._bytes) is self._bytes:
                self._store.locked.discard(self._name)
