"""Runs of tests on spoiled copies: each sees the files as they are then, and ends in time."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.alone import is_possible
from tests.mutants.copies import Runs, copy_of_checkout, spoiled

MODULE = "shared/layout.py"
TEST = "tests/unit/test_mutant_example.py"
TIMEOUT = 30.0


@pytest.fixture(scope="module")
def runs() -> Iterator[Runs]:
    if not is_possible():
        pytest.skip("no network of its own can be made here")
    with copy_of_checkout() as copy:
        (copy / TEST).write_text(
            "import time\n\nfrom shared import layout\n\n\n"
            "def test_it() -> None:\n    assert layout.EXAMPLE == 1\n\n\n"
            "def test_for_ever() -> None:\n    time.sleep(100)\n"
        )
        (copy / MODULE).write_text("EXAMPLE = 1\n")
        with Runs(copy, [TEST]) as running:
            yield running


def test_each_run_sees_a_module_as_it_is_now(runs: Runs) -> None:
    def status() -> int | None:
        return runs.run([f"{TEST}::test_it"], timeout_s=TIMEOUT)[0]

    assert status() == 0
    # Of one length and within one second: what Python compiled of one must not be taken for the other.
    for content, expected in [(b"EXAMPLE = 2\n", 1), (b"EXAMPLE = 1\n", 0), (b"EXAMPLE = 3\n", 1)]:
        with spoiled(runs.copy / MODULE, content):
            assert status() == expected
    assert status() == 0


def test_a_run_that_takes_too_long_has_no_status_and_the_next_one_has(runs: Runs) -> None:
    assert runs.run([f"{TEST}::test_for_ever"], timeout_s=1.5)[0] is None
    assert runs.run([f"{TEST}::test_it"], timeout_s=TIMEOUT)[0] == 0


def test_what_a_run_printed_is_told(runs: Runs) -> None:
    with spoiled(runs.copy / MODULE, b"EXAMPLE = 2\n"):
        _, printed = runs.run([f"{TEST}::test_it"], timeout_s=TIMEOUT)
    assert "assert 2 == 1" in printed


def test_a_file_is_as_it_was_after_an_error(tmp_path: Path) -> None:
    (tmp_path / "module.py").write_bytes(b"whole")
    with pytest.raises(ZeroDivisionError), spoiled(tmp_path / "module.py", b"spoiled"):
        raise ZeroDivisionError
    assert (tmp_path / "module.py").read_bytes() == b"whole"
