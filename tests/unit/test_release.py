"""What goes with a release: the list of what is in it, checksums, and the refusals."""

import json
import os
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from deploy.local.failure import Failure
from deploy.release import sbom
from deploy.release.moment import moment_of
from deploy.release.pins import pins, requirements
from deploy.release.release import require_clean, sign, write_sums
from deploy.release.wheel import build_sdist

CHECKOUT = Path(__file__).parents[2]
LOCK = (CHECKOUT / "requirements.lock").read_text()
PROJECT = (CHECKOUT / "pyproject.toml").read_text()
MOMENT = 1_790_000_000  # 2026-09-21T14:13:20Z


@pytest.fixture(scope="module")
def document() -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sbom.document(LOCK, PROJECT, "0.2.0", MOMENT))
    return found


def test_the_list_names_each_library_that_an_extra_brings_and_no_tool(document: dict[str, Any]) -> None:
    assert (document["bomFormat"], document["specVersion"]) == ("CycloneDX", "1.6")
    assert document["metadata"]["timestamp"] == "2026-09-21T14:13:20Z"
    wanted = set().union(*(requirements(LOCK, PROJECT, extra) for extra in ("cli", "rack", "region")))
    assert {component["name"] for component in document["components"]} == wanted
    assert "pytest" not in wanted
    assert len(wanted) > 40


def test_each_library_has_its_version_its_hashes_and_who_uses_it(document: dict[str, Any]) -> None:
    (aiohttp,) = (component for component in document["components"] if component["name"] == "aiohttp")
    pin = pins(LOCK)["aiohttp"]
    assert aiohttp["purl"] == f"pkg:pypi/aiohttp@{pin.version}"
    said = [(entry["name"], entry["value"]) for entry in aiohttp["properties"]]
    assert [value for name, value in said if name == "bootferry:extra"] == ["cli", "rack", "region"]
    assert [value for name, value in said if name == "bootferry:sha256"] == list(pin.sha256)
    assert len(pin.sha256) > 10


def test_what_a_library_needs_is_in_the_list(document: dict[str, Any]) -> None:
    known = {component["bom-ref"] for component in document["components"]}
    needs = {entry["ref"]: set(entry["dependsOn"]) for entry in document["dependencies"]}
    assert needs.keys() == known
    assert set().union(*needs.values()) <= known
    yarl = next(reference for reference in known if reference.startswith("pkg:pypi/yarl@"))
    assert yarl in needs[next(reference for reference in known if reference.startswith("pkg:pypi/aiohttp@"))]


def test_the_same_lock_gives_the_same_list(document: dict[str, Any]) -> None:
    assert json.loads(sbom.document(LOCK, PROJECT, "0.2.0", MOMENT)) == document
    assert json.loads(sbom.document(LOCK, PROJECT, "0.2.1", MOMENT))["serialNumber"] != document["serialNumber"]


def test_sha256sum_takes_the_checksums(tmp_path: Path) -> None:
    (tmp_path / "b.whl").write_bytes(b"b")
    (tmp_path / "a.deb").write_bytes(b"a")
    sums = write_sums(tmp_path)
    assert [line.split()[1] for line in sums.read_text().splitlines()] == ["a.deb", "b.whl"]
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=tmp_path, check=True)
    (tmp_path / "b.whl").write_bytes(b"c")
    assert subprocess.run(
        ["sha256sum", "--check", "SHA256SUMS"], cwd=tmp_path, check=False, capture_output=True
    ).returncode


@pytest.mark.skipif(shutil.which("gpg") is None, reason="gpg is not installed here")
def test_a_signature_is_of_the_key_that_is_named_and_the_same_each_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "home"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    quiet = ["gpg", "--batch", "--quiet", "--passphrase", "", "--faked-system-time", "1780000000!"]
    subprocess.run([*quiet, "--quick-generate-key", "release@example.test", "ed25519", "sign", "never"], check=True)
    sums = tmp_path / "SHA256SUMS"
    sums.write_text("0" * 64 + "  a.deb\n")
    try:
        first = sign(sums, "release@example.test", MOMENT).read_bytes()
        assert sign(sums, "release@example.test", MOMENT).read_bytes() == first
        verify = ["gpg", "--batch", "--verify", str(tmp_path / "SHA256SUMS.asc"), str(sums)]
        assert subprocess.run(verify, capture_output=True, check=False).returncode == 0
        sums.write_text("1" * 64 + "  a.deb\n")
        assert subprocess.run(verify, capture_output=True, check=False).returncode != 0
        with pytest.raises(Failure, match="could not be signed"):
            sign(sums, "nobody@example.test", MOMENT)
    finally:
        subprocess.run(["gpgconf", "--kill", "all"], check=False)


def git(checkout: Path, *arguments: str) -> None:
    identity = ["-c", "user.name=t", "-c", "user.email=t@example.test", "-c", "commit.gpgsign=false"]
    dated = os.environ | {"GIT_COMMITTER_DATE": f"@{MOMENT} +0000", "GIT_AUTHOR_DATE": f"@{MOMENT} +0000"}
    subprocess.run(["git", *identity, "-C", checkout, *arguments], check=True, capture_output=True, env=dated)


def test_a_release_is_made_of_a_commit_and_dated_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SOURCE_DATE_EPOCH", raising=False)
    monkeypatch.setenv("GIT_CEILING_DIRECTORIES", str(tmp_path))
    checkout = tmp_path / "checkout"
    checkout.mkdir()
    with pytest.raises(Failure, match="run this in a clone"):
        require_clean(checkout)
    assert moment_of(checkout) == 315_532_800
    git(checkout, "init")
    (checkout / "file").write_text("1")
    git(checkout, "add", "file")
    git(checkout, "commit", "-m", "first")
    require_clean(checkout)
    assert moment_of(checkout) == MOMENT
    (checkout / "file").write_text("2")
    with pytest.raises(Failure, match="commit or undo file first"):
        require_clean(checkout)
    monkeypatch.setenv("SOURCE_DATE_EPOCH", "1")
    assert moment_of(checkout) == 1


def test_the_source_distribution_can_be_built_from_and_tested(tmp_path: Path) -> None:
    made = build_sdist(CHECKOUT, tmp_path / "a")
    assert made.read_bytes() == build_sdist(CHECKOUT, tmp_path / "b").read_bytes()
    shutil.unpack_archive(made, tmp_path, filter="data")
    (top,) = tmp_path.glob("bootferry-*")
    names = {path.name for path in top.iterdir()}
    assert {"bootferry", "region", "rack", "shared", "migrations", "deploy", "tests", "Makefile", "LICENSE"} <= names
    assert not names & {".venv", ".cache", ".run", ".ci", "dist"}
    assert tomllib.loads((top / "pyproject.toml").read_text())["project"]["name"] == "bootferry"
