"""What both services do with plain files: write small documents whole, flush names, hash, tell faults. It blocks.

A name survives a loss of power once the directory it is in was flushed, not before (fsync(2)).
"""

import errno
import json
import os
import shutil
import tempfile
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from shared.digest import Hasher
from shared.errors import DiskFailed, InvalidDocument, NoInodes, NoRoom

READ_SIZE = 1024 * 1024


Owner = tuple[int, int]
"""Whose a file is: the number of a user and of a group."""


def owner_of(directory: Path) -> Owner | None:
    """Whose new files in `directory` must be so that its owner can use them; None where they are so by themselves.

    That is: where root makes them in somebody else's directory. Raises OSError.
    """
    found = directory.stat()
    return (found.st_uid, found.st_gid) if os.geteuid() == 0 else None


def make_directory(path: Path, *, mode: int = 0o700) -> None:
    """After this returns `path` is a directory, also after a loss of power; what was missing above it too.

    A new directory belongs to the owner of the one it is in. Raises OSError.
    """
    missing = [path, *path.parents]
    missing = missing[: next(index for index, directory in enumerate(missing) if directory.exists())]
    for directory in reversed(missing):
        directory.mkdir(mode=mode, exist_ok=True)
        if (owner := owner_of(directory.parent)) is not None:
            os.chown(directory, *owner)
        sync_directory(directory.parent)


def write_whole(path: Path, content: bytes, *, mode: int = 0o644, owner: Owner | None = None) -> None:
    """After this returns `path` holds exactly `content`, also after a loss of power; before, what it held.

    One writer of a path at a time. Raises OSError.
    """
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    if owner is not None:
        os.fchown(descriptor, *owner)
    _fill(descriptor, content)
    staged.replace(path)
    sync_directory(path.parent)


def create_whole(path: Path, content: bytes) -> None:
    """Like `write_whole` with mode 0600, for a file that nothing may ever replace; any number of writers at a time.

    Raises FileExistsError when there is one already, which then survives a loss of power too; OSError.
    """
    descriptor, name = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    staged = Path(name)
    try:
        _fill(descriptor, content)
        # A link, unlike a rename, never replaces what another process has just made.
        os.link(staged, path)
    finally:
        staged.unlink()
        sync_directory(path.parent)


def load_or_create(path: Path, make: Callable[[], bytes]) -> bytes:
    """What is kept at `path` (mode 0600), made on first use; of processes that race, all get the same bytes.

    When this returns, the file and the directories that were made for it survive a loss of power. Raises OSError.
    """
    make_directory(path.parent)
    if path.exists():
        # Another process may have made it just now, and what is begun with it must not outlive it.
        with suppress(OSError):
            sync_directory(path.parent)
    else:
        with suppress(FileExistsError):
            create_whole(path, make())
    return path.read_bytes()


def _fill(descriptor: int, content: bytes) -> None:
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())


def sync_directory(path: Path) -> None:
    """Make the names in `path` survive a loss of power. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def read_document(path: Path) -> Mapping[str, Any]:
    """The JSON object in `path`. Raises FileNotFoundError, InvalidDocument."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidDocument(str(path), "it is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidDocument(str(path), "it is not a JSON object")
    return document


def hash_file(path: Path) -> Hasher:
    """A hasher that has read all of `path`, which is no symbolic link. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    try:
        return hash_open(descriptor)
    finally:
        os.close(descriptor)


def hash_open(descriptor: int) -> Hasher:
    """A hasher that has read an open file from its beginning to its end; the pages it took are given back."""
    hasher = Hasher()
    buffer = memoryview(bytearray(READ_SIZE))
    while count := os.preadv(descriptor, [buffer], hasher.size):
        hasher.update(buffer[:count])
    os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
    return hasher


def disk_error(error: OSError, root: Path, needed: int = 0) -> NoRoom | DiskFailed:
    """What an operator may be told about `error`; `needed` bytes were to be written below `root`.

    A file system can be out of inodes while it has bytes: that is `NoInodes`.
    """
    if error.errno not in (errno.ENOSPC, errno.EDQUOT):
        return DiskFailed(str(root), error)
    try:
        free, inodes = shutil.disk_usage(root).free, os.statvfs(root)
    except OSError:
        return DiskFailed(str(root), error)
    if error.errno == errno.ENOSPC and inodes.f_files > 0 and inodes.f_favail == 0:
        return NoInodes(str(root), needed, free)
    return NoRoom(str(root), needed, free)
