"""Copies of this checkout in which a file may be spoiled, and tests run there, where no network leads anywhere."""

import contextlib
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.alone import alone

ROOT = Path(__file__).parents[2]


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


def run_tests(copy: Path, tests: Sequence[str], *, timeout_s: float, workers: int = 0) -> tuple[int | None, str]:
    """pytest's exit status (None when it took too long) and what it printed."""
    arguments = ["-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line", *tests]
    if workers:
        arguments += ["--numprocesses", str(workers), "--dist", "loadgroup"]
    environment = {
        **{name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"},
        # Before the editable install, which names the checkout itself.
        "PYTHONPATH": str(copy),
    }
    process = subprocess.Popen(
        alone([sys.executable, "-m", "pytest", *arguments]),
        cwd=copy,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )
    try:
        printed, _ = process.communicate(timeout=timeout_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, 9)
        printed, _ = process.communicate()
        return None, printed.decode("utf-8", "replace")
    return process.returncode, printed.decode("utf-8", "replace")
