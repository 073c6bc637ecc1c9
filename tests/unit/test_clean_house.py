"""A run of tests leaves what its failed tests made, and nothing else."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).parents[2]
LARGE = 9_000_000
RUNS = {
    "passed": f"(tmp_path / 'file').write_bytes(bytes({LARGE}))",
    "failed": f"(tmp_path / 'file').write_bytes(bytes({LARGE})); raise AssertionError",
    "interrupted": f"(tmp_path / 'file').write_bytes(bytes({LARGE})); raise KeyboardInterrupt",
    "killed": f"(tmp_path / 'file').write_bytes(bytes({LARGE})); os.kill(os.getpid(), 9)",
    "leaving": f"""
    scratch.MEMORY = Path({{place!r}})
    (Path(tempfile.mkdtemp(prefix=scratch.PREFIX, dir=scratch.MEMORY)) / "file").write_bytes(bytes({LARGE}))
""",
}
TEST = """
import os, tempfile
from pathlib import Path
from deploy.local import scratch
def test_before(tmp_path):
    (tmp_path / "file").write_bytes(bytes(9_000_000))
def test_it(tmp_path):
    {body}
"""


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the runs of this test keep their temporary directories."""
    made = tmp_path / "place"
    made.mkdir()
    return made


def run(name: str, place: Path) -> "subprocess.CompletedProcess[str]":
    """A run of one test, under this project's settings."""
    test = place.parent / f"test_{name}.py"
    test.write_text(TEST.format(body=RUNS[name].format(place=str(place))))
    argv = ["-c", "pyproject.toml", "--rootdir", str(CHECKOUT), "-p", "tests.conftest", "-p", "no:cacheprovider"]
    return subprocess.run(
        [sys.executable, "-m", "pytest", *argv, str(test)],
        cwd=CHECKOUT,
        env={key: value for key, value in os.environ.items() if not key.startswith("PYTEST_")}
        | {"PYTEST_DEBUG_TEMPROOT": str(place)},
        capture_output=True,
        text=True,
        check=False,
    )


def left(place: Path) -> int:
    return sum(path.stat().st_size for path in place.rglob("*") if path.is_file())


@pytest.mark.parametrize(("name", "status"), [("passed", 0), ("interrupted", 2)])
def test_nothing_stays_of_a_run_without_a_failure(place: Path, name: str, status: int) -> None:
    ended = run(name, place)
    assert ended.returncode == status, ended.stdout
    assert left(place) == 0


def test_what_a_failed_test_made_stays_until_the_next_run(place: Path) -> None:
    assert run("failed", place).returncode == 1
    assert LARGE <= left(place) < LARGE + 10_000
    assert run("failed", place).returncode == 1
    assert LARGE <= left(place) < LARGE + 10_000


def test_what_a_killed_run_left_goes_with_the_next(place: Path) -> None:
    run("killed", place)
    assert left(place) >= LARGE
    assert run("passed", place).returncode == 0
    assert left(place) == 0


def test_a_run_that_leaves_more_fails(place: Path) -> None:
    ended = run("leaving", place)
    assert ended.returncode == 1
    assert "bytes behind" in ended.stderr
    assert "2 passed" in ended.stdout
