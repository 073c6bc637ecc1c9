"""The page's style: every file of it is loaded, and no rule waits for a class that nothing has."""

import re
from pathlib import Path

import pytest

WEB = Path(__file__).parents[2] / "region" / "web"
FILES = sorted((WEB / "static" / "css").glob("*.css"))


def test_every_file_is_loaded_once_the_general_first() -> None:
    linked = re.findall(r'<link rel="stylesheet" href="/static/css/([\w-]+\.css)">', (WEB / "index.html").read_text())
    assert sorted(linked) == [path.name for path in FILES]
    assert linked[0] == "base.css"
    assert linked[-2:] == ["phone.css", "preference.css"], "what the others say is changed last"


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.stem)
def test_no_rule_is_for_a_class_that_nothing_has(path: Path) -> None:
    page = "".join(script.read_text() for script in (WEB / "static" / "app").glob("*.js"))
    given = set(
        re.findall(r"[\w-]+", " ".join(re.findall(r'class(?:Name)?=("[^"]*"|\$\{(?:[^{}]|\{[^{}]*\})*\})', page)))
    )
    begun = tuple(re.findall(r"([\w-]+-)\$\{", page))
    rules = re.sub(r"/\*.*?\*/|url\([^)]*\)", "", path.read_text(), flags=re.DOTALL)
    styled = {
        name for selector in re.findall(r"([^{}]+)\{", rules) for name in re.findall(r"\.([a-zA-Z][\w-]*)", selector)
    }
    assert not {name for name in styled - given if not name.startswith(begun)}
