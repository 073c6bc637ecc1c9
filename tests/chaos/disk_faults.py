"""Faults of a disk: the n-th call that touches the watched directories fails with an errno, and nothing else does.

Inside `failing`, the calls of `os` that change or flush files below `roots` are counted, in the order in which they
come; the one with the number `at` (from 1) raises. With `at` 0 nothing fails and the count is what there is to fail.
"""

import errno
import io
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

BY_PATH = ("open", "rename", "replace", "link", "mkdir", "unlink", "rmdir", "symlink", "chmod")
BY_FILE = ("write", "fsync", "fchmod", "ftruncate", "preadv")
BY_EITHER = ("utime",)
WITHOUT_ROOM = frozenset({"open", "rename", "replace", "link", "mkdir", "symlink", "write", "fsync"})
"""What ENOSPC can come from; the other calls only fail by EIO."""


@dataclass(slots=True)
class Faults:
    """Where, which error, at which call; `calls` names those that were counted so far."""

    roots: tuple[str, ...]
    number: int
    at: int
    calls: list[str] = field(default_factory=list)
    lock: threading.Lock = field(default_factory=threading.Lock)

    def count(self, name: str, where: object, below: object = None) -> None:
        """Take one call down; `below` is the descriptor of the directory that a name is in, if there is one.

        Raises OSError when it is the call to fail.
        """
        path = f"{self._path(below)}/{where}" if isinstance(below, int) else self._path(where)
        if not f"{path}/".startswith(self.roots):
            return
        if self.number == errno.ENOSPC and name not in WITHOUT_ROOM:
            return
        with self.lock:
            self.calls.append(f"{name} {path}")
            fails = len(self.calls) == self.at
        if fails:
            raise OSError(self.number, os.strerror(self.number), path)

    def _path(self, where: object) -> str:
        if isinstance(where, int):
            try:
                return os.readlink(f"/proc/self/fd/{where}")  # noqa: PTH115 - it is called for every write
            except OSError:
                return ""
        return os.fspath(where) if isinstance(where, str | os.PathLike) else ""


@contextmanager
def failing(roots: tuple[Path, ...], number: int, at: int) -> Iterator[Faults]:
    """Inside, call `at` below one of `roots` raises OSError(`number`)."""
    faults = Faults(tuple(f"{root}/" for root in roots), number, at)
    real = {name: getattr(os, name) for name in (*BY_PATH, *BY_FILE, *BY_EITHER, "fdopen")}

    def counted(name: str) -> Callable[..., Any]:
        def call(where: Any, *rest: Any, **named: Any) -> Any:
            opens_to_read = name == "open" and rest and not rest[0] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)
            if not (opens_to_read and number == errno.ENOSPC):
                faults.count(name, where, named.get("dir_fd", named.get("src_dir_fd")))
            return real[name](where, *rest, **named)

        return call

    class CountedFile(io.FileIO):
        def write(self, data: Any) -> int:
            faults.count("write", self.fileno())
            return super().write(data)

    def fdopen(file: Any, mode: str = "r", *rest: Any, **named: Any) -> Any:
        if mode == "wb" and not rest and not named:
            return io.BufferedWriter(CountedFile(file, "wb"))
        return real["fdopen"](file, mode, *rest, **named)

    for name in real:
        setattr(os, name, fdopen if name == "fdopen" else counted(name))
    try:
        yield faults
    finally:
        for name, function in real.items():
            setattr(os, name, function)
