"""Scratch directories go with their process, however it ends."""

import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import pytest

from deploy.local.scratch import abandoned, scratch_directory

CHECKOUT = Path(__file__).parents[2]
HOLD = """
import sys
from pathlib import Path
from deploy.local.scratch import scratch_directory
with scratch_directory(Path(sys.argv[1])) as made:
    (made / "data").write_bytes(bytes(1000))
    print(made, flush=True)
    sys.stdin.read()
"""


def hold(place: Path) -> "tuple[subprocess.Popen[str], Path]":
    """A process that has a scratch directory until its input ends, and that directory."""
    argv = [sys.executable, "-c", HOLD, str(place)]
    holder = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert holder.stdout is not None
    with holder.stdout:
        return holder, Path(holder.stdout.readline().strip())


def test_it_goes_with_the_block(tmp_path: Path) -> None:
    with scratch_directory(tmp_path) as made:
        assert made.stat().st_mode & 0o777 == 0o711
        (made / "data").touch()
    assert list(tmp_path.iterdir()) == []


def test_what_a_killed_process_left_goes_with_the_next_and_what_is_in_use_stays(tmp_path: Path) -> None:
    living, kept = hold(tmp_path)
    killed, left = hold(tmp_path)
    with living, killed:
        killed.kill()
        assert killed.wait(10) == -signal.SIGKILL
        assert list(abandoned(tmp_path)) == [left]
        with scratch_directory(tmp_path):
            assert not left.exists()
            assert (kept / "data").exists()
        living.communicate("", timeout=10)
    assert list(tmp_path.iterdir()) == []


def test_nothing_else_is_ever_taken_for_one(tmp_path: Path) -> None:
    (tmp_path / "bootferry-of-somebody").mkdir()
    (tmp_path / "bootferry-scratch-file").touch()
    (tmp_path / "bootferry-scratch-link").symlink_to(tmp_path / "bootferry-of-somebody")
    with scratch_directory(tmp_path):
        pass
    assert len(list(tmp_path.iterdir())) == 3


def test_one_that_somebody_took_for_abandoned_before_it_was_locked_is_made_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made: list[str] = []

    def make_and_lose_the_first(**given: Any) -> str:
        made.append(mkdtemp(**given))
        if len(made) == 1:
            Path(made[0]).rmdir()
        return made[-1]

    monkeypatch.setattr(tempfile, "mkdtemp", make_and_lose_the_first)
    with scratch_directory(tmp_path) as path:
        assert [str(path)] == made[1:]
