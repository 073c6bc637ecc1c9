"""`bootferry-rack setup` and `doctor`, with a region that misbehaves on request."""

import asyncio
import json
import os
import socket
import stat
import sys
from asyncio.subprocess import PIPE
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from rack import identity as identities
from rack.configuration import RackConfiguration
from rack.doctor import Doctor
from shared import checkup
from shared.checkup import Finding
from shared.errors import InvalidConfiguration, InvalidToken
from shared.machine import Machine
from tests.http.conftest import free_port
from tests.http.fake_region import FakeRegion, ubuntu
from tests.http.running_rack import running_rack

CHECKOUT = Path(__file__).parents[2]


@dataclass
class Bare:
    """A machine with nothing of a rack."""

    directory: Path
    port: int

    @property
    def root(self) -> Path:
        return self.directory / "var" / "rack"

    async def told(self, *arguments: str, text: str = "") -> tuple[int | None, str, str]:
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "rack", *arguments),
            cwd=CHECKOUT,
            env={
                "PATH": os.environ["PATH"],
                "BOOTFERRY_CONFIG_DIR": str(self.directory / "no-settings"),
                "RACK_DATA_DIR": str(self.root),
                "RACK_HOST": "127.0.0.1",
                "RACK_PORT": str(self.port),
            },
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        out, err = await asyncio.wait_for(process.communicate(text.encode()), 30)
        return process.returncode, out.decode(), err.decode()


@pytest.fixture
def bare(tmp_path: Path) -> Bare:
    return Bare(tmp_path, free_port())


@pytest.mark.skipif(os.geteuid() != 0, reason="a service is set up by root")
async def test_a_bare_machine_has_a_rack_and_a_second_time_changes_nothing(bare: Bare, region: FakeRegion) -> None:
    asked = ("setup", "--region", str(region.url), "--token-file", "-", "--name", "rack-a", "--user", "root")
    status, out, err = await bare.told(*asked, text=f"{region.token}\n")
    assert (status, err) == (0, "")
    assert "This rack is enrolled as rack-a" in out
    assert "systemd does not run this machine" in out
    assert stat.S_IMODE(bare.root.stat().st_mode) == 0o711
    before = (bare.root / "identity" / "region.json").read_bytes()
    status, out, err = await bare.told(*asked)
    assert (status, err) == (0, "")
    assert f"This rack is enrolled already, as rack-a at {region.url}." in out
    assert (bare.root / "identity" / "region.json").read_bytes() == before
    status, _, err = await bare.told("setup", "--region", "http://127.0.0.1:1", "--user", "root")
    assert status == 1
    assert "bootferry-rack enrol --region http://127.0.0.1:1 --again" in err


@pytest.mark.skipif(os.geteuid() != 0, reason="a service is set up by root")
async def test_a_token_that_is_refused_leaves_a_rack_that_can_be_set_up(bare: Bare, region: FakeRegion) -> None:
    region.token_fault = InvalidToken.code
    asked = ("setup", "--region", str(region.url), "--token-file", "-", "--user", "root")
    status, out, err = await bare.told(*asked, text=f"{region.token}\n")
    assert status == 1
    assert err.count("\n") == 1
    assert str(region.token) not in out + err
    region.token_fault = ""
    assert (await bare.told(*asked, text=f"{region.token}\n"))[0] == 0


# --- the doctor


@dataclass
class Patient:
    """An enrolled rack with a tree, and what is wrong about it."""

    region: FakeRegion
    configuration: RackConfiguration
    monkeypatch: pytest.MonkeyPatch
    ahead: timedelta = timedelta()
    taken: socket.socket | None = None

    @property
    def root(self) -> Path:
        return self.configuration.data_dir

    async def examine(self) -> dict[str, Finding]:
        now = lambda: datetime.now(UTC) + self.ahead  # noqa: E731
        doctor = Doctor(self.configuration, Machine(self.root / "not-booted"), now)
        return {found.what: found for found in await doctor.examine()}


@pytest.fixture
async def patient(region: FakeRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Patient:
    monkeypatch.setattr(checkup, "LEAST_FREE_BYTES", 1)
    root = tmp_path / "rack"
    async with running_rack(region, root) as rack:
        region.publish(ubuntu("1"))
        await rack.poller.poll()
        assert rack.poller.belief.last_error is None
    root.chmod(0o711)
    configuration = RackConfiguration(data_dir=root, host="127.0.0.1", port=free_port())
    return Patient(region, configuration, monkeypatch)


async def test_a_rack_that_is_well_has_nothing_wrong(patient: Patient) -> None:
    found = await patient.examine()
    assert {what: one.sentence for what, one in found.items() if not one.good} == {}
    assert found["known there"].sentence == "The region takes this rack's requests."
    assert found["tree"].sentence == "Machines get 1 images, and every file is as it was verified."


def _not_enrolled(patient: Patient) -> None:
    (patient.root / "identity" / "region.json").unlink()


def _readable_key(patient: Patient) -> None:
    (patient.root / "identity" / "rack.key").chmod(0o640)


def _away(patient: Patient) -> None:
    document = json.loads((patient.root / "identity" / "region.json").read_text())
    document["region_url"] = "http://127.0.0.1:1"
    (patient.root / "identity" / "region.json").write_text(json.dumps(document))


def _removed(patient: Patient) -> None:
    document = json.loads((patient.root / "identity" / "region.json").read_text())
    document["rack_id"] = "0" * 32
    (patient.root / "identity" / "region.json").write_text(json.dumps(document))


def _hole(patient: Patient) -> None:
    next((patient.root / "current").resolve().rglob("squashfs")).unlink()


def _closed(patient: Patient) -> None:
    patient.root.chmod(0o700)


def _closed_file(patient: Patient) -> None:
    next((patient.root / "current").resolve().rglob("squashfs")).chmod(0o600)


def _wrong_clock(patient: Patient) -> None:
    patient.ahead = timedelta(minutes=-10)


def _port_taken(patient: Patient) -> None:
    patient.taken = socket.create_server(("127.0.0.1", patient.configuration.port))


def _no_links(patient: Patient) -> None:
    def link(*_: object) -> None:
        raise PermissionError(1, "Operation not permitted")

    patient.monkeypatch.setattr(os, "link", link)


FAULTS: dict[str, tuple[Callable[[Patient], None], str, str]] = {
    "not enrolled": (_not_enrolled, "enrolment", "bootferry-rack enrol --region URL"),
    "a key that others read": (_readable_key, "enrolment", "Others than its owner may read"),
    "the region is away": (_away, "region", "Nothing answers at http://127.0.0.1:1/api/v1/region"),
    "the region does not know it": (_removed, "known there", "enrol it again"),
    "a file is missing": (_hole, "tree", "1 files of the tree are missing or damaged"),
    "nobody may enter": (_closed, "readable", "chmod a+x"),
    "nobody may read": (_closed_file, "readable", "chmod a+r"),
    "a wrong clock": (_wrong_clock, "clock", "seconds behind the region: set it (timedatectl set-ntp true)"),
    "a port in use": (_port_taken, "port", "Another program listens"),
    "no hard links": (_no_links, "hard links", "trees are made of them: use ext4"),
}


@pytest.mark.parametrize(("break_it", "what", "sentence"), FAULTS.values(), ids=FAULTS)
async def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(
    patient: Patient, break_it: Callable[[Patient], None], what: str, sentence: str
) -> None:
    break_it(patient)
    found = (await patient.examine())[what]
    if patient.taken:
        patient.taken.close()
    assert not found.good, found
    assert sentence in found.sentence


async def test_the_command_ends_with_one_and_answers_for_programs(bare: Bare) -> None:
    bare.root.mkdir(parents=True)
    status, out, err = await bare.told("doctor", "-o", "json")
    assert (status, err) == (1, "")
    wrong = {found["what"] for found in json.loads(out)["findings"] if not found["good"]}
    assert {"enrolment", "region", "known there"} <= wrong
    # A look changes nothing.
    assert [*bare.root.iterdir()] == []


def test_what_is_not_enrolled_is_no_identity(tmp_path: Path) -> None:
    """Setting up takes exactly this for a rack that is not enrolled yet."""
    with pytest.raises(InvalidConfiguration):
        identities.load(tmp_path)
