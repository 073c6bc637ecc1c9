"""Disk: small documents written whole or not at all, and how a verified file is recognised.

A verified file of the rack, in the store or unpacked from an archive, carries the modification time
`shared.store.VERIFIED_AT`; hard links share it. Whoever writes to the bytes moves it.
"""

import json
import os
import stat
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from shared.errors import InvalidDocument
from shared.store import VERIFIED_AT, sync_directory


def write_whole(path: Path, content: bytes, *, mode: int = 0o644) -> None:
    """After this returns `path` holds exactly `content`, also after a loss of power; before, what it held. Blocks."""
    staged = path.with_name(f".{path.name}.new")
    staged.unlink(missing_ok=True)
    descriptor = os.open(staged, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, mode)
    with os.fdopen(descriptor, "wb") as file:
        file.write(content)
        file.flush()
        os.fsync(file.fileno())
    staged.replace(path)
    sync_directory(path.parent)


def read_document(path: Path) -> Mapping[str, Any]:
    """The JSON object in `path`. Raises FileNotFoundError, InvalidDocument."""
    try:
        document = json.loads(path.read_bytes())
    except ValueError as error:
        raise InvalidDocument(str(path), "it is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidDocument(str(path), "it is not a JSON object")
    return document


def is_verified(found: os.stat_result, size: int) -> bool:
    """True says: a regular file of `size` bytes that nobody has written to since it was verified."""
    return stat.S_ISREG(found.st_mode) and found.st_size == size and found.st_mtime == VERIFIED_AT


def holds_verified(path: Path, size: int) -> bool:
    """True says: at `path`, itself and not behind a link, is such a file."""
    try:
        return is_verified(path.lstat(), size)
    except (FileNotFoundError, NotADirectoryError):
        return False
