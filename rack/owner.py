"""Whose a rack's data directory is: a command that root types there must not lock the service out of it."""

import os
import stat
from pathlib import Path

from shared import machine


def become_owner(data_dir: Path) -> None:
    """Go on as the user `data_dir` belongs to, where root has typed the command; else nothing changes.

    - So nothing a command makes there is root's, however it ends. A directory that is root's, or not there yet, is left
      to whoever starts the service: systemd hands a new one over.
    - What root has left at its top and in `identity/` before is handed over first. Links are not followed, and files
      with a second name somewhere are left alone: the owner must not come to own what lies elsewhere.

    Raises OSError.
    """
    if os.geteuid() != 0 or not data_dir.is_dir():
        return
    owner = data_dir.stat()
    if owner.st_uid == 0:
        return
    for directory in (data_dir, data_dir / "identity"):
        _hand_over(directory, owner.st_uid, owner.st_gid)
    machine.become_owner(data_dir)


def _hand_over(directory: Path, uid: int, gid: int) -> None:
    try:
        opened = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except (FileNotFoundError, NotADirectoryError):
        return
    try:
        for name in os.listdir(opened):  # noqa: PTH208 - a path could lead elsewhere by now, a descriptor cannot
            found = os.stat(name, dir_fd=opened, follow_symlinks=False)
            own = stat.S_ISDIR(found.st_mode) or (stat.S_ISREG(found.st_mode) and found.st_nlink == 1)
            if found.st_uid == 0 and own:
                os.chown(name, uid, gid, dir_fd=opened, follow_symlinks=False)
    finally:
        os.close(opened)
