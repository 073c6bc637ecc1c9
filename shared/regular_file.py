"""A small regular file that somebody named: read whole, or refused.

- A pipe, a device, a socket or a directory is refused before it is opened: opening one can wait for ever, or do harm.
- A file that grows without end is read up to a limit.
- Links are followed: whoever names a path says what is behind it.
"""

import errno
import os
import stat
from pathlib import Path


def read_regular(path: Path, most: int) -> bytes:
    """The file's bytes, at most `most` + 1 of them: one more says that it is larger. Blocks while the disk does.

    Raises OSError, with a `strerror` that says why, also when it is no regular file; ValueError for what is no path.
    """
    _require_regular(path.stat())
    # Whatever took its place meanwhile: opening it waits for nobody and makes nothing our terminal.
    descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY | os.O_CLOEXEC)
    with os.fdopen(descriptor, "rb") as file:
        _require_regular(os.fstat(descriptor))
        return file.read(most + 1)


def _require_regular(found: os.stat_result) -> None:
    if not stat.S_ISREG(found.st_mode):
        raise OSError(errno.EINVAL, "it is no regular file")
