"""What a region starts with: a database's address that cannot be one ends it with a sentence and shows no password."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from region.configuration import RegionConfiguration
from shared.errors import InvalidConfiguration

PASSWORD = "c4n4ry"
UNUSABLE = [
    pytest.param(f"postgresql://ann:{PASSWORD}@server:port/x", id="a port in words"),
    pytest.param(f"postgresql://ann:{PASSWORD}/@server/x", id="a password with a slash"),
    pytest.param(f"postgresql://ann:{PASSWORD}@server:99999/x", id="a port too great"),
    pytest.param(f"postgresql://ann:{PASSWORD}@server:0/x", id="port 0"),
    pytest.param(f"postgresql://ann:{PASSWORD}@[::1/x", id="half an address"),
    pytest.param(f"postgresql://ann:{PASSWORD}@{'a' * 64}/x", id="a name too long"),
    pytest.param(f"postgresql://ann:{PASSWORD}@/x?host=a&port=one", id="a port in words behind"),
    pytest.param(f"postgresql://ann:{PASSWORD}@server/x?sslmod=require", id="a parameter that is none"),
    pytest.param(f"mysql://ann:{PASSWORD}@server/x", id="another database"),
    pytest.param(f"ann:{PASSWORD}@server", id="no scheme"),
    pytest.param(PASSWORD, id="a word"),
    pytest.param("postgresql:", id="nothing behind"),
]
USABLE = [
    "postgresql:///bootferry",
    "postgres://ann:p%40ss@server:6432/bootferry",
    "postgresql+asyncpg://ann@/x?host=/var/run/postgresql&port=5433",
    "postgresql://[::1]:5432/x?ssl=require",
    "postgresql://ann@/x?host=one:5432&host=two:5432",
]


@pytest.fixture(autouse=True)
def _alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("BOOTFERRY_CONFIG_DIR", str(tmp_path))
    for name in list(os.environ):
        if name.startswith("REGION_"):
            monkeypatch.delenv(name)


@pytest.mark.parametrize("url", UNUSABLE)
def test_an_address_of_a_database_that_cannot_be_one_is_refused(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGION_DATABASE_URL", url)
    with pytest.raises(InvalidConfiguration, match="The setting REGION_DATABASE_URL is not usable: it") as refused:
        RegionConfiguration.load()
    assert PASSWORD not in str(refused.value)


@pytest.mark.parametrize("url", USABLE)
def test_an_address_of_a_database_is_taken_as_people_write_it(url: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("REGION_DATABASE_URL", url)
    assert RegionConfiguration.load().database_url.startswith("postgresql+asyncpg://")


@pytest.mark.parametrize("command", ["serve", "migrate", "rack-token"])
def test_the_process_ends_with_78_and_one_sentence(tmp_path: Path, command: str) -> None:
    environment = os.environ | {
        "REGION_DATABASE_URL": f"postgresql://ann:{PASSWORD}@server:port/x",
        "REGION_DATA_DIR": str(tmp_path / "data"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "region", command],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert done.returncode == 78
    assert done.stdout == ""
    [sentence] = done.stderr.splitlines()
    assert sentence.startswith("bootferry-region: The setting REGION_DATABASE_URL is not usable: it must look like")
    assert PASSWORD not in sentence


def test_no_password_is_in_what_the_configuration_says_of_itself() -> None:
    configuration = RegionConfiguration(
        database_url=f"postgresql://ann:{PASSWORD}@server/x",
        default_source_url=f"https://ann:{PASSWORD}@mirror.example/",
    )
    assert PASSWORD not in repr(configuration) + str(configuration)
