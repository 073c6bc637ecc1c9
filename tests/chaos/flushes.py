"""Which fsync is which: every call of os.fsync by the place that asked for it, to be listed, or left out as a mutant.

A place is the nearest caller outside of `shared/disk.py`, and the helpers on the way: `shared/store/disk.py:commit`, or
`rack/tree.py:_point>sync_directory`. Two calls in one function are told apart by their order in it. Used inside a test,
and by `child/sitecustomize.py` in processes; production code knows nothing of it. Standard library only.
"""

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType

HELPERS = ("shared/disk.py",)
_real = os.fsync


def place() -> str:
    """The place of the fsync that is being called."""
    frame: FrameType | None = sys._getframe(1)
    chain: list[str] = []
    while frame is not None:
        name = _short(frame.f_code.co_filename)
        if name in HELPERS:
            chain.append(frame.f_code.co_name)
        elif name and not name.startswith("tests/"):
            line = frame.f_lineno - frame.f_code.co_firstlineno
            return ">".join([f"{name}:{frame.f_code.co_name}+{line}", *reversed(chain)])
        frame = frame.f_back
    return ">".join(["elsewhere", *reversed(chain)])


def _short(filename: str) -> str:
    for top in ("shared", "region", "rack", "tests"):
        if f"/{top}/" in filename and "/site-packages/" not in filename:
            return f"{top}/{filename.rpartition(f'/{top}/')[2]}"
    return ""


@contextmanager
def watched(after: Callable[[int, str], None], *, omitted: str = "") -> Iterator[None]:
    """Inside, `after` hears of every fsync that was carried out: its descriptor and place. `omitted` is left out."""

    def fsync(file: int) -> None:
        where = place()
        if where != omitted:
            _real(file)
            after(file, where)

    os.fsync = fsync  # type: ignore[assignment]
    try:
        yield
    finally:
        os.fsync = _real


def install(omitted: str, log: str) -> None:
    """For the rest of this process: leave out `omitted`, and append every place to the file `log`, each once."""
    seen: set[str] = set()

    def fsync(file: int) -> None:
        where = place()
        if log and where not in seen:
            seen.add(where)
            with open(log, "a") as out:  # noqa: PTH123 - as few imports as can be
                out.write(f"{where}\n")
        if where != omitted:
            _real(file)

    os.fsync = fsync  # type: ignore[assignment]
