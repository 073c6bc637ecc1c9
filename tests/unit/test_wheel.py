"""The wheel: what it brings into an environment, and that each command starts with its own extra alone."""

import json
import os
import re
import subprocess
import sys
import tomllib
import zipfile
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution
from pathlib import Path
from typing import Any

import pytest

from deploy.local.failure import Failure
from deploy.release.pins import part, pins
from deploy.release.wheel import build_wheel

CHECKOUT = Path(__file__).parents[2]
LOCK = (CHECKOUT / "requirements.lock").read_text()
PROJECT = (CHECKOUT / "pyproject.toml").read_text()

COMMANDS = {
    "cli": ("bootferry", "operator"),
    "rack": ("bootferry-rack", "rack"),
    "region": ("bootferry-region", "region"),
}
OTHERS = {
    "cli": {"alembic", "asyncpg", "cryptography", "fastapi", "prometheus_client", "sqlalchemy", "structlog", "uvicorn"},
    "rack": {
        "alembic",
        "apscheduler",
        "asyncpg",
        "fastapi",
        "platformdirs",
        "sqlalchemy",
        "starlette",
        "uvicorn",
        "yaml",
    },
    "region": {"platformdirs", "yaml"},
}
"""Libraries that only another extra brings."""

EVERY_MODULE = """
import importlib, pkgutil, sys, warnings
warnings.simplefilter("error", ImportWarning)
import bootferry
sys.path.insert(0, bootferry.__path__[0])
def walk(name):
    module = importlib.import_module(name)
    for found in pkgutil.iter_modules(getattr(module, "__path__", ())):
        whole = f"{{name}}.{{found.name}}"
        if whole not in {leave_out!r}:
            walk(whole)
for name in {begin!r}:
    walk(name)
print(*sorted({{name.partition(".")[0] for name in sys.modules}}))
"""
OURS = {
    # The operator's command takes of `shared` what it needs and no more.
    "cli": (["region.cli"], []),
    "rack": (["rack", "shared"], []),
    "region": (["region", "shared", "migrations"], ["region.cli", "migrations.env"]),
}


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return build_wheel(CHECKOUT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def environments(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """By extra the interpreter of an environment that holds the wheel, and what the lock pins for the extra."""
    return {extra: environment(extra, wheel, tmp_path_factory.mktemp(extra)) for extra in COMMANDS}


def environment(extra: str, wheel: Path, at: Path) -> Path:
    subprocess.run([sys.executable, "-m", "venv", "--without-pip", at], check=True, env=clean())
    (site_packages,) = at.glob("lib/python3.*/site-packages")
    for name in pins(part(LOCK, PROJECT, extra)) if extra else ():
        for top in tops(name):
            link = site_packages / top.name
            if not link.exists():
                link.symlink_to(top)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(site_packages)
    return at / "bin" / "python"


def tops(name: str) -> Iterator[Path]:
    """What a package that is installed here has put at the top of site-packages; nothing, if it is not for here."""
    try:
        found = distribution(name)
    except PackageNotFoundError:
        return
    for first in {Path(str(path)).parts[0] for path in found.files or ()} - {"..", "__pycache__"}:
        yield Path(str(found.locate_file(first)))


def clean() -> dict[str, str]:
    return {name: value for name, value in os.environ.items() if not name.startswith(("PYTHON", "REGION_", "RACK_"))}


def run(python: Path, code: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [python, "-I", "-c", code, *arguments], capture_output=True, text=True, check=False, cwd="/", env=clean()
    )


def start(python: Path, extra: str, *arguments: str) -> "subprocess.CompletedProcess[str]":
    program, function = COMMANDS[extra]
    code = f"import sys, bootferry; sys.argv[0] = {program!r}; bootferry.{function}_command()"
    return run(python, code, *arguments)


def test_the_wheel_puts_one_name_into_an_environment(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        files = archive.namelist()
    tops_of_wheel = {name.partition("/")[0] for name in files}
    assert {name for name in tops_of_wheel if not re.fullmatch(r"bootferry-[0-9.]+\.dist-info", name)} == {"bootferry"}
    inside = {name.split("/")[1] for name in files if name.startswith("bootferry/")}
    assert inside == {"__init__.py", "region", "rack", "shared", "migrations"}
    assert {"bootferry/region/web/index.html", "bootferry/migrations/env.py"} <= set(files)
    assert any(name.endswith("/ubuntu-cloudimage-keyring.gpg") for name in files)
    assert not [name for name in files if "__pycache__" in name or "/tests/" in name]


def test_two_builds_of_the_wheel_are_the_same_bytes(wheel: Path, tmp_path: Path) -> None:
    again = build_wheel(CHECKOUT, tmp_path)
    assert (again.name, again.read_bytes()) == (wheel.name, wheel.read_bytes())


@pytest.mark.parametrize("extra", COMMANDS)
def test_a_command_starts_with_its_extra_alone(environments: dict[str, Path], extra: str) -> None:
    ended = start(environments[extra], extra, "--help")
    assert (ended.returncode, ended.stderr) == (0, "")
    assert "Usage" in ended.stdout


@pytest.mark.parametrize("extra", COMMANDS)
def test_no_module_of_a_command_needs_a_library_of_another(environments: dict[str, Path], extra: str) -> None:
    begin, leave_out = OURS[extra]
    ended = run(environments[extra], EVERY_MODULE.format(begin=begin, leave_out=leave_out))
    assert (ended.returncode, ended.stderr) == (0, "")
    assert not set(ended.stdout.split()) & OTHERS[extra]


@pytest.mark.parametrize("extra", COMMANDS)
def test_a_command_without_its_libraries_says_which_extra_brings_them(wheel: Path, tmp_path: Path, extra: str) -> None:
    ended = start(environment("", wheel, tmp_path), extra, "--help")
    assert ended.returncode == 1
    assert re.fullmatch(rf"{COMMANDS[extra][0]} lacks \w+: install bootferry\[{extra}\]\.\n", ended.stderr)


def test_what_is_called_like_ours_in_an_environment_is_not_taken_for_it(wheel: Path, tmp_path: Path) -> None:
    python = environment("rack", wheel, tmp_path)
    (site_packages,) = tmp_path.glob("lib/python3.*/site-packages")
    for name in ("shared", "rack", "region"):
        (site_packages / f"{name}.py").write_text("raise AssertionError('somebody else')\n")
    assert start(python, "rack", "--help").returncode == 0


@pytest.mark.parametrize("extra", COMMANDS)
def test_the_part_of_an_extra_is_what_its_packages_ask_for(extra: str) -> None:
    found = part(LOCK, PROJECT, extra)
    assert set(pins(found)) >= asked_for(extra)
    for line in found.splitlines():
        assert line in LOCK
    for pin in re.split(r"\n(?=[a-z])", found):
        assert re.search(r"\n    --hash=sha256:[0-9a-f]{64}", pin)


def asked_for(extra: str) -> set[str]:
    """What is asked for by what is installed here, extras followed: another way to the same names."""
    table: dict[str, Any] = tomllib.loads(PROJECT)["project"]
    todo = [*table["dependencies"], *table["optional-dependencies"][extra]]
    found: set[str] = set()
    while todo:
        requirement = todo.pop()
        name = re.sub(r"[-_.]+", "-", re.split(r"[^A-Za-z0-9._-]", requirement, maxsplit=1)[0]).lower()
        extras = re.findall(r"[a-z0-9]+", (re.search(r"\[([^\]]*)\]", requirement) or ["", ""])[1])
        marker = requirement.partition(";")[2]
        if name in found or ("extra" not in marker and marker and not here(marker)):
            continue
        found.add(name)
        for further in distribution(name).requires or ():
            wanted = re.search(r"extra == ['\"]([\w-]+)['\"]", further)
            if wanted is None or wanted[1] in extras:
                todo.append(further)
    return found


def here(marker: str) -> bool:
    from packaging.markers import Marker

    return Marker(marker.strip()).evaluate()


def test_an_extra_that_is_none_and_a_lock_that_lacks_a_package_are_refused() -> None:
    with pytest.raises(Failure, match="has no extra racks: name one of cli, rack, region"):
        part(LOCK, PROJECT, "racks")
    with pytest.raises(Failure, match="does not pin aiohttp, typer"):
        part(
            "", '[project]\ndependencies = ["aiohttp>=3", "typer"]\n[project.optional-dependencies]\ncli = []\n', "cli"
        )


def test_the_metadata_names_the_extras(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("/METADATA"))
    assert (
        json.dumps(sorted(re.findall(r"^Provides-Extra: (\w+)$", metadata, re.MULTILINE)))
        == '["cli", "rack", "region"]'
    )
    always = re.findall(r"^Requires-Dist: ([\w-]+)[^;\n]*$", metadata, re.MULTILINE)
    assert sorted(always) == ["aiohttp", "typer"]
