"""Decisions are numbered, dated, and say what else there was and what they cost."""

import re
from pathlib import Path

import pytest

DIRECTORY = Path(__file__).parents[2] / "docs" / "decisions"
NOTES = sorted(DIRECTORY.glob("0*.md"))
BEFORE_THE_FORMAT = {"0005", "0008"}


def test_numbers_have_no_gap_and_each_note_is_listed() -> None:
    assert [int(path.name[:4]) for path in NOTES] == list(range(1, len(NOTES) + 1))
    listed = re.findall(r"\]\((\d{4}-[\w-]+\.md)\)", (DIRECTORY / "README.md").read_text())
    assert listed == [path.name for path in NOTES]


@pytest.mark.parametrize("path", NOTES, ids=lambda path: path.stem)
def test_a_note_has_what_a_note_must_have(path: Path) -> None:
    text = path.read_text()
    assert re.match(rf"# {path.name[:4]}: [A-Z`].*[^.]\n", text)
    if path.name[:4] not in BEFORE_THE_FORMAT:
        assert re.search(r"^Date: \d{4}-\d\d-\d\d$", text, re.MULTILINE)
        for part in ("Options", "Cost"):
            assert re.search(rf"^(\*\*|#+ )?{part}\b", text, re.MULTILINE), part


def test_a_note_that_replaces_another_is_named_by_it() -> None:
    """Whoever finds the old note is told of the new one, and the other way round."""

    def named(line: str) -> set[tuple[str, str]]:
        return {
            (path.name, other)
            for path in NOTES
            for other in re.findall(rf"^{line}: \[\d{{4}}\]\(([\w-]+\.md)\)$", path.read_text(), re.MULTILINE)
        }

    replaced = {(other, path) for path, other in named("Replaces")}
    assert replaced == named("Replaced by")
    assert {old[:4] for old, _ in replaced} >= BEFORE_THE_FORMAT
