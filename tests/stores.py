"""Stores for tests: what every test does with one, and where a store on a disk keeps things, to harm them.

The layout is the one drawn in `shared/store/disk.py`.
"""

from contextlib import closing
from pathlib import Path

from shared.digest import Sha256
from shared.store.base import Store


def put(store: Store, content: bytes) -> Sha256:
    """File `content`, as a download does."""
    sha256 = Sha256.of(content)
    with closing(store.writer(sha256, len(content))) as writer:
        writer.restart()
        writer.write(content)
        writer.commit()
    return sha256


def begin(store: Store, sha256: Sha256, prefix: bytes, size: int = 2**60) -> None:
    """Leave `prefix` as what has arrived of a file."""
    with closing(store.writer(sha256, size)) as writer:
        writer.restart()
        writer.write(prefix)


def content_of(store: Store, sha256: Sha256, size: int) -> bytes | None:
    """What a reader of the file gets; None when the store has no such."""
    file = store.open(sha256, size)
    if file is None:
        return None
    with closing(file):
        return file.read_at(0, file.size + 1)


def stored_path(store: Store, sha256: Sha256) -> Path:
    """Where a store on a disk has a complete file."""
    return Path(store.where) / "files" / sha256[:2] / sha256


def incoming_path(store: Store, sha256: Sha256) -> Path:
    """Where a store on a disk has what has arrived of a file."""
    return Path(store.where) / "incoming" / sha256


def descriptors() -> int:
    """How many files and sockets this process has open."""
    return len(list(Path("/proc/self/fd").iterdir()))
