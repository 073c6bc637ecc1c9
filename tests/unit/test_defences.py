"""The table of defences is true: each stands where it says, and each test it names is there."""

from pathlib import Path

import pytest

from tests.mutants import defences
from tests.mutants.defences import Defence

ROW = """
[[defence]]
name = "one"
file = "a.py"
text = "x = 1"
without = "x = 2"
tests = ["test_a.py::test_x"]
"""


def test_every_defence_of_the_table_can_be_taken_out() -> None:
    assert defences.read()


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (("x = 1", "x = 3"), "0 times"),
        (('"a.py"', '"twice.py"'), "2 times"),
        (("test_a.py", "test_b.py"), "which there is not"),
        (("test_x", "test_y"), "which there is not"),
        (('["test_a.py::test_x"]', "[]"), "names no test"),
    ],
)
def test_a_row_that_is_no_longer_true_is_told(tmp_path: Path, change: tuple[str, str], why: str) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "twice.py").write_text("x = 1\nx = 1\n")
    (tmp_path / "test_a.py").write_text("def test_x(): ...\n")
    table = tmp_path / "table.toml"
    table.write_text(ROW)
    assert defences.read(table, tmp_path) == [Defence("one", "a.py", "x = 1", "x = 2", ("test_a.py::test_x",))]
    table.write_text(ROW.replace(*change))
    with pytest.raises(ValueError, match=why):
        defences.read(table, tmp_path)


def test_two_defences_of_one_name_are_told(tmp_path: Path) -> None:
    (tmp_path / "a.py").write_text("x = 1\n")
    (tmp_path / "test_a.py").write_text("def test_x(): ...\n")
    table = tmp_path / "table.toml"
    table.write_text(ROW * 2)
    with pytest.raises(ValueError, match="several"):
        defences.read(table, tmp_path)
