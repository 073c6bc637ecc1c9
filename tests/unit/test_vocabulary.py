"""One word per concept: page, command line, API, documentation and log say the same words, and none of the others.

statuses    each status of the API is shown by the same word on the page, by `bootferry` and in docs/operating.md
words       no sentence that people read uses a word for which the project has another
"""

import ast
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from region.cli import images, imports, racks
from region.cli.output import Cell

CHECKOUT = Path(__file__).parents[2]
PAGE = CHECKOUT / "region" / "web" / "static" / "app"

STATUSES = [
    pytest.param("IMAGE", images._STATUSES, "The status of an image", id="image"),
    pytest.param("RACK", racks._STATUSES, "The status of a rack", id="rack"),
    pytest.param("IMPORT", imports._STATES, "The state of an import", id="import"),
]


@pytest.mark.parametrize(("page", "cells", "heading"), STATUSES)
def test_each_status_is_shown_by_one_word_everywhere(page: str, cells: Mapping[str, Cell], heading: str) -> None:
    shown = {status: cell.text for status, cell in cells.items()}
    assert set(shown) in enumerations_of_api(), "the command line knows other statuses than the API"
    assert words_of_page(page) == shown, "the page says other words than the command line"
    assert words_of_documentation(heading) == shown, "docs/operating.md says other words than the command line"


def enumerations_of_api() -> list[set[str]]:
    """The sets of words that fields of the API's answers may have."""
    schemas = json.loads((CHECKOUT / "docs" / "openapi.json").read_text())["components"]["schemas"].values()
    return [
        set(field["enum"]) for one in schemas for field in (one, *one.get("properties", {}).values()) if "enum" in field
    ]


def words_of_page(table: str) -> dict[str, str]:
    """Status and word in a table of words.js."""
    [body] = re.findall(
        rf"^export const {table} = {{$(.*?)^}};$", (PAGE / "words.js").read_text(), re.DOTALL | re.MULTILINE
    )
    return dict(re.findall(r'^  (\w+): \{\s*word: "([^"]+)"', body, re.MULTILINE))


def words_of_documentation(heading: str) -> dict[str, str]:
    """Status and word in the table under a heading of docs/operating.md."""
    [section] = re.findall(
        rf"^## {heading}$(.*?)^## ", (CHECKOUT / "docs" / "operating.md").read_text(), re.DOTALL | re.MULTILINE
    )
    return dict(re.findall(r"^\| `(\w+)` \| ([^|]+?) \|", section, re.MULTILINE))


SAY_INSTEAD = [
    (r"remotes?|feeds?", "source"),
    (r"artifacts?", "item"),
    (r"blobs?|(?<!JSON )(?<!not an )objects?(?! stor|-src| missing)", "file"),
    (r"nodes?|(?<!name a )hosts?(?![ -]names?)", "machine"),
    (r"g[ia]ven? (\w+ )?up|giv(es|ing) (\w+ )?up", "unselect"),
    (r"retir\w+", "withdraw"),
    (r"refresh\w*", "sync, or read again"),
]

SQL = re.compile(r"\b(SELECT|WHERE|VALUES)\b")


def of_scripts(directory: Path) -> Iterator[str]:
    """What the page's scripts may show: the text between tags, and strings of several words."""
    for path in sorted(directory.glob("*.js")):
        code = re.sub(r"^\s*(//|/?\*).*$|^import .*$", "", path.read_text(), flags=re.MULTILINE)
        code = re.sub(r"\bObject\.", "", code)
        yield from re.findall(r'"([^"\n]* [^"\n]*)"', code)
        for template in re.findall(r"`([^`]*)`", code):
            yield re.sub(r"\$\{[^}]*\}|<[^>]*>", " … ", template)


def of_programs(*directories: str, documented: bool) -> Iterator[str]:
    """Strings of several words in Python; with what documents a function where the program shows that as its help."""
    for directory in directories:
        for path in sorted((CHECKOUT / directory).rglob("*.py")):
            tree = ast.parse(path.read_text())
            explained = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr) and not documented}
            for node in ast.walk(tree):
                if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in explained:
                    yield node.value


def of_pages(*names: str) -> Iterator[str]:
    """Lines of documentation, without what is code."""
    for name in names:
        text = re.sub(r"^```.*?^```$", "", (CHECKOUT / name).read_text(), flags=re.DOTALL | re.MULTILINE)
        yield from re.sub(r"`[^`]*`|\]\([^)]*\)", "…", text).splitlines()


def of_api() -> Iterator[str]:
    """Summaries and descriptions of the API."""

    def walk(value: Any) -> Iterator[str]:
        if isinstance(value, dict):
            for key, inner in value.items():
                if key in ("summary", "description") and isinstance(inner, str):
                    yield re.sub(r"`[^`]*`", "…", inner)
                else:
                    yield from walk(inner)
        elif isinstance(value, list):
            for inner in value:
                yield from walk(inner)

    yield from walk(json.loads((CHECKOUT / "docs" / "openapi.json").read_text()))


SHOWN = {
    "page": lambda: of_scripts(PAGE),
    "command line": lambda: of_programs("region/cli", documented=True),
    "log and errors": lambda: of_programs("region", "rack", "shared", documented=False),
    "documentation": lambda: of_pages(
        "docs/operating.md", "docs/architecture.md", "README.md", "CONTRIBUTING.md", "deploy/README.md"
    ),
    "API": of_api,
}


@pytest.mark.parametrize("where", SHOWN)
def test_no_sentence_says_another_word_for_what_has_one(where: str) -> None:
    found = [
        f"{sentence.strip()!r} says {match[0]!r}, where it means {word}"
        for sentence in SHOWN[where]()
        if " " in sentence.strip() and not SQL.search(sentence)
        for pattern, word in SAY_INSTEAD
        if (match := re.search(rf"\b({pattern})\b", sentence, re.IGNORECASE))
    ]
    assert not found, "\n".join(found)


def test_a_forbidden_word_is_found() -> None:
    """The rules find what they are for, and leave alone what only looks like it."""
    wrong = (
        "The feed is empty.",
        "An image is given up.",
        "Give images up.",
        "Retiring",
        "No such host.",
        "The blob is gone.",
    )
    right = ("It is not a JSON object.", "The host name does not resolve.", "Given names", "An object store", "hostile")
    for sentence in (*wrong, *right):
        is_found = any(re.search(rf"\b({pattern})\b", sentence, re.IGNORECASE) for pattern, _ in SAY_INSTEAD)
        assert is_found == (sentence in wrong), sentence


UNCLEAR = r"(Returning|True|False) says|From here on|\b(not|no) any more\b|any more what"


@pytest.mark.parametrize("directory", ["region", "rack", "shared", "migrations", "deploy"])
def test_no_line_is_hard_to_read_at_first(directory: str) -> None:
    """People whose first language it is not read "True if …" and "Raises X unless …" at once."""
    found = [
        f"{path.relative_to(CHECKOUT)}: {line.strip()}"
        for path in sorted((CHECKOUT / directory).rglob("*.py"))
        for line in path.read_text().splitlines()
        if re.search(UNCLEAR, line)
    ]
    assert not found, "\n".join(found)
