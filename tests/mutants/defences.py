"""The table of defences, read and checked."""

import tomllib
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.copies import ROOT

TABLE = Path(__file__).with_name("defences.toml")


@dataclass(frozen=True, slots=True)
class Defence:
    """A defence: what it is for, where it stands (`file`, `text`), what is left without it, and who must notice."""

    name: str
    file: str
    text: str
    without: str
    tests: tuple[str, ...]

    def taken_out(self, root: Path) -> str:
        """The file's text without the defence. Raises ValueError unless `text` stands there exactly once."""
        whole = (root / self.file).read_text()
        found = whole.count(self.text)
        if found != 1:
            raise ValueError(f"{self.file} has the text of “{self.name}” {found} times; it must be there once.")
        return whole.replace(self.text, self.without)


def read(table: Path = TABLE, root: Path = ROOT) -> list[Defence]:
    """Every defence of the table. Raises ValueError for two of one name, one that cannot be taken out, a test's file
    that is not there."""
    found = [
        Defence(entry["name"], entry["file"], entry["text"], entry["without"], tuple(entry["tests"]))
        for entry in tomllib.loads(table.read_text())["defence"]
    ]
    names = [defence.name for defence in found]
    for defence in found:
        if names.count(defence.name) > 1:
            raise ValueError(f"There are several defences named “{defence.name}”.")
        defence.taken_out(root)
        for test in defence.tests:
            path, _, name = test.partition("::")
            if not (root / path).is_file() or name.partition("[")[0] not in (root / path).read_text():
                raise ValueError(f"“{defence.name}” names the test {test}, which there is not.")
        if not defence.tests:
            raise ValueError(f"“{defence.name}” names no test.")
    return found
