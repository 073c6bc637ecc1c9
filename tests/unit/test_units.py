"""The systemd units: what they promise to operators, and the modes that web and TFTP servers depend on."""

import os
import shutil
import stat
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from shared.disk import make_directory
from shared.signing import load_or_create_key
from shared.store.disk import DiskStore
from tests.stores import put, stored_path

UNITS = Path(__file__).parents[2] / "deploy" / "systemd"
SERVICES = ("bootferry-rack.service", "bootferry-region.service")


def unit(name: str) -> dict[str, dict[str, list[str]]]:
    """The unit's sections: by name, every value it has."""
    found: dict[str, dict[str, list[str]]] = {}
    section = ""
    for line in (UNITS / name).read_text().splitlines():
        if line.startswith("["):
            section = line.strip("[]")
        elif line and not line.startswith("#"):
            key, _, value = line.partition("=")
            found.setdefault(section, {}).setdefault(key, []).append(value)
    return found


def service(name: str) -> dict[str, list[str]]:
    return unit(name)["Service"]


@pytest.mark.skipif(shutil.which("systemd-analyze") is None, reason="systemd is not installed here")
@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_exposed_less_than_one_and_a_half(name: str) -> None:
    # The threshold is in tenths of the score.
    ended = subprocess.run(
        ["systemd-analyze", "security", "--offline=true", "--threshold=15", "--no-pager", UNITS / name],
        capture_output=True,
        text=True,
        check=False,
    )
    assert ended.returncode == 0, ended.stdout.splitlines()[-1:] or ended.stderr


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_started_again_unless_its_settings_are_unusable(name: str) -> None:
    found = unit(name)
    assert found["Unit"]["StartLimitIntervalSec"] == ["0"]
    assert found["Service"]["Restart"] == ["always"]
    assert found["Service"]["RestartPreventExitStatus"] == ["78"]
    assert found["Service"]["Type"] == ["notify"]
    assert found["Service"]["WatchdogSec"] == ["60"]


def test_the_two_services_are_two_users() -> None:
    users = {name: (service(name)["User"], service(name)["Group"]) for name in SERVICES}
    assert users == {
        "bootferry-rack.service": (["bootferry-rack"], ["bootferry-rack"]),
        "bootferry-region.service": (["bootferry-region"], ["bootferry-region"]),
    }


@pytest.mark.parametrize("name", SERVICES)
def test_the_commands_are_those_that_the_packages_install(name: str) -> None:
    (command,) = service(name)["ExecStart"]
    program, word = command.split()
    assert program == f"/usr/bin/{name.removesuffix('.service')}"
    assert word == ("serve" if "region" in name else "run")


@pytest.fixture
def umask_of_the_region() -> Iterator[None]:
    before = os.umask(int(service("bootferry-region.service")["UMask"][0], 8))
    yield
    os.umask(before)


@pytest.mark.usefixtures("umask_of_the_region")
def test_the_group_of_the_region_reads_files_and_no_key(tmp_path: Path) -> None:
    assert service("bootferry-region.service")["StateDirectoryMode"] == ["0750"]
    store = DiskStore(tmp_path / "store")
    path = stored_path(store, put(store, b"kernel"))
    assert mode(path) == 0o444
    for directory in (tmp_path / "store", path.parent.parent, path.parent):
        assert mode(directory) == 0o750
    make_directory(tmp_path / "keys")
    load_or_create_key(tmp_path / "keys" / "region.key")
    assert (mode(tmp_path / "keys"), mode(tmp_path / "keys" / "region.key")) == (0o700, 0o600)


def test_others_pass_through_the_directory_of_a_rack_and_list_nothing() -> None:
    found = service("bootferry-rack.service")
    assert (found["StateDirectoryMode"], found["UMask"]) == (["0711"], ["0077"])


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_port_that_only_root_may_open_is_the_racks_by_its_socket() -> None:
    assert unit("bootferry-rack.socket")["Socket"]["ListenStream"] == ["80"]
    for name in SERVICES:
        assert service(name)["CapabilityBoundingSet"] == [""]


def test_secrets_come_from_where_only_root_can_read() -> None:
    assert service("bootferry-region.service")["LoadCredential"] == ["region_database_url", "region.key", "secrets.key"]
