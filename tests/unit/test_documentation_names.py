"""The pages about the code speak of what exists: architecture, security, reliability and CONTRIBUTING.

paths       what stands in backticks and has a slash, or ends like a file, is there
functions   in a row with a file, the names in the next cell are defined in that file; "`name` in `file`" likewise
tests       what begins with test_ is a test
writers     the table under "Kept by" names each table, and exactly the modules that write it
"""

import ast
import re
from pathlib import Path

import pytest

from region.database.tables import metadata

CHECKOUT = Path(__file__).parents[2]
ARCHITECTURE = CHECKOUT / "docs" / "architecture.md"
PAGES = [
    ARCHITECTURE,
    *(CHECKOUT / name for name in ("docs/security.md", "docs/reliability.md", "CONTRIBUTING.md")),
]
PLACES = ("bootferry", "region", "rack", "shared", "migrations", "deploy", "tests", "docs")

NAMES = re.compile(r"`(\w+(?:\.\w+)?)`")


def text_of(page: Path) -> str:
    """The page without its fenced and indented blocks."""
    return re.sub(r"^```.*?^```$|^    .*$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)


def defined_in(path: Path) -> set[str]:
    """What a module defines: functions, classes and values by name, methods as `Class.method`."""
    found: set[str] = set()
    for node in ast.parse(path.read_text()).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name):
                found.add(name)
            case ast.ClassDef(name=name, body=body):
                found |= {name, *(f"{name}.{getattr(inner, 'name', '')}" for inner in body)}
            case ast.Assign(targets=[ast.Name(id=name)]) | ast.AnnAssign(target=ast.Name(id=name)):
                found.add(name)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_path_exists(page: Path) -> None:
    quoted = re.findall(r"`([\w./-]+)`", text_of(page))
    paths = [
        name for name in quoted if (name.split("/")[0] in PLACES and "/" in name) or name.endswith((".md", ".toml"))
    ]
    assert paths
    assert not {path for path in paths if not (CHECKOUT / path).exists()}


def test_every_function_is_in_its_file() -> None:
    text = text_of(ARCHITECTURE)
    named = [(file, name) for name, file in re.findall(r"`(\w+(?:\.\w+)?)` (?:in|of) `([\w/.]+\.py)`", text)]
    for file, cell in re.findall(r"^\| [^|]*\| `([\w/.]+\.py)` \|([^|]*)\|", text, re.MULTILINE):
        named += [(file, name) for name in NAMES.findall(cell)]
    assert len(named) > 40
    wrong = {(file, name) for file, name in named if name not in defined_in(CHECKOUT / file)}
    assert not wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_every_test_exists(page: Path) -> None:
    defined = {
        name
        for path in (CHECKOUT / "tests").rglob("test_*.py")
        for name in re.findall(r"def (test_\w+)", path.read_text())
    }
    named = set(re.findall(r"`(test_\w+)`", text_of(page)))
    assert named <= defined


def kept_by() -> dict[str, set[str]]:
    """Table and modules, as the page says."""
    section = text_of(ARCHITECTURE).partition("\n## Kept by\n")[2].partition("\n## ")[0]
    rows = re.findall(r"^\| (`[^|]+) \| ([^|]+) \|$", section, re.MULTILINE)
    return {table: set(re.findall(r"`([\w/]+\.py)`", cell)) for tables, cell in rows for table in NAMES.findall(tables)}


def writers_of(table: str) -> set[str]:
    """The modules whose code writes rows of a table."""
    said = re.compile(
        rf"(?:INSERT\s+INTO|UPDATE|DELETE\s+FROM)\s+{table}\b|\b(?:insert|upsert|update|delete)\({table}(?:_table)?\)"
    )
    return {
        str(path.relative_to(CHECKOUT)) for path in (CHECKOUT / "region").rglob("*.py") if said.search(path.read_text())
    }


def test_who_writes_which_table_is_said_truly() -> None:
    assert kept_by() == {table: writers_of(table) for table in metadata.tables}
