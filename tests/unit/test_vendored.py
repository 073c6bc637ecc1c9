"""What is not ours: every vendored file is listed with its version and licence, and is the file that was listed."""

import json
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parent.parent.parent
DIRECTORIES = ("region/web/static/vendor", "tests/browser/vendor")
LICENCES = {"MIT", "Apache-2.0", "UFL-1.0", "MPL-2.0"}


def listed(directory: str) -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads((ROOT / directory / "VENDORED.json").read_bytes())
    return entries


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_every_vendored_file_is_listed_with_its_digest(directory: str) -> None:
    promised = {name: digest for entry in listed(directory) for name, digest in entry["files"].items()}
    found = {
        path.name: sha256(path.read_bytes()).hexdigest()
        for path in (ROOT / directory).iterdir()
        if path.name != "VENDORED.json"
    }
    assert found == promised


@pytest.mark.parametrize("directory", DIRECTORIES)
def test_every_vendored_package_has_a_version_and_a_licence_we_may_ship(directory: str) -> None:
    for entry in listed(directory):
        versions, licences = entry["version"].split(", "), entry["licence"].split(", ")
        assert len(versions) == len(licences) == len(entry["name"].split(", "))
        assert all(part.replace(".", "").isdigit() for part in versions), entry["name"]
        assert set(licences) <= LICENCES
        assert entry["licence_file"] in entry["files"]
        assert entry["source"].startswith("https://")


def test_the_page_names_no_other_host_and_nothing_inline() -> None:
    web = ROOT / "region" / "web"
    ours = [web / "index.html", *(web / "static" / "css").glob("*.css"), *(web / "static" / "app").glob("*.js")]
    assert len(ours) > 20
    for path in ours:
        text = path.read_text()
        assert "style=" not in text, path
        for word in ("@import", "url(http", "data:"):
            assert word not in text, path
    page = (web / "index.html").read_text()
    assert "://" not in page
    assert "<style" not in page
    assert page.count("<script") == page.count('<script type="module" src="/static/')
