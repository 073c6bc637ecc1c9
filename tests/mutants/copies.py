"""Copies of this checkout in which a file may be spoiled, and tests run there, where no network leads anywhere."""

import contextlib
import json
import os
import queue
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Self

from tests.alone import alone

ROOT = Path(__file__).parents[2]
WORKERS = os.cpu_count() or 1


@contextlib.contextmanager
def copy_of_checkout() -> Iterator[Path]:
    """A directory with every file that git knows or would add, as it is now; removed in the end."""
    memory = Path("/dev/shm")
    with tempfile.TemporaryDirectory(prefix="bootferry-mutants-", dir=memory if memory.is_dir() else None) as directory:
        copy = Path(directory)
        listed = subprocess.run(
            ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        )
        for name in listed.stdout.decode().split("\0"):
            if name and (ROOT / name).is_file() and not name.startswith("docs/images/"):
                (copy / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copy2(ROOT / name, copy / name)
        yield copy


class Runs:
    """Runs of tests in one copy, one at a time, each in a process of its own that starts from `forks.py`."""

    def __init__(self, copy: Path, tests: Sequence[str]) -> None:
        self.copy = copy
        self._process = subprocess.Popen(
            alone([sys.executable, "-m", "tests.mutants.forks", *tests]),
            cwd=copy,
            env=_environment(copy),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        self._answer()

    def run(self, tests: Sequence[str], *, timeout_s: float) -> tuple[int | None, str]:
        """pytest's exit status (None when it took too long) and the end of what it printed."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps({"tests": list(tests), "timeout_s": timeout_s}) + "\n")
        self._process.stdin.flush()
        return self._answer()

    def _answer(self) -> tuple[int | None, str]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise RuntimeError(f"The process that forks runs in {self.copy} has ended with {self._process.wait()}.")
        answer = json.loads(line)
        return answer["status"], answer["printed"]

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._process.communicate()


def runs_in_copies(stack: contextlib.ExitStack, tests: Sequence[str]) -> "queue.Queue[Runs]":
    """As many copies as there are processors, each ready to run any of `tests`, until `stack` ends."""
    free: queue.Queue[Runs] = queue.Queue()
    copies = [stack.enter_context(copy_of_checkout()) for _ in range(WORKERS)]
    with ThreadPoolExecutor(WORKERS) as threads:
        for runs in threads.map(lambda copy: Runs(copy, tests), copies):
            free.put(stack.enter_context(runs))
    return free


def all_pass(free: "queue.Queue[Runs]", tests: Sequence[str], *, timeout_s: float) -> bool:
    """True if all tests pass in copies that nobody has spoiled, those of one file together, at the second try at last.

    What pytest said of those that do not is printed. A loaded machine fails a test that waits; nothing else may.
    """
    files: dict[str, list[str]] = {}
    for test in tests:
        files.setdefault(test.partition("::")[0], []).append(test)

    def run(named: Sequence[str]) -> bool:
        runs = free.get()
        try:
            for _ in range(2):
                status, printed = runs.run(named, timeout_s=timeout_s)
                if status == 0:
                    return True
                print(f"pytest ended with {status}:\n{printed}", flush=True)
        finally:
            free.put(runs)
        return False

    with ThreadPoolExecutor(WORKERS) as threads:
        return all(list(threads.map(run, files.values())))


@contextlib.contextmanager
def spoiled(file: Path, content: bytes) -> Iterator[None]:
    """Inside, `file`, a module's, holds `content`; then again what it held. No compiled file outlives either."""
    whole = file.read_bytes()
    try:
        file.write_bytes(content)
        _uncompiled(file)
        yield
    finally:
        file.write_bytes(whole)
        _uncompiled(file)


def _uncompiled(file: Path) -> None:
    # Python takes a compiled file for fresh by its source's size and the whole seconds of its time: of two changes in
    # one second it would run the first one twice.
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*"):
        compiled.unlink()


def _environment(copy: Path) -> dict[str, str]:
    return {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        # Before the editable install, which names the checkout itself.
        "PYTHONPATH": str(copy),
    }
