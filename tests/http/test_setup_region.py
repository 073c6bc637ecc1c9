"""`bootferry-region setup` and `doctor`, on a real PostgreSQL; the machine's own programs are watched."""

import asyncio
import json
import os
import re
import shutil
import socket
import stat
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from region.commands import setup
from region.commands.doctor import Doctor
from region.commands.setup import Wish
from region.configuration import RegionConfiguration
from region.database.connection import create_engine, transaction
from shared import checkup, machine
from shared.checkup import Finding
from shared.errors import BootferryError, Conflict, InvalidConfiguration
from shared.machine import Machine
from shared.signing import private_pem
from tests.http.client.certificates import Authority
from tests.http.conftest import Running, free_port
from tests.http.database_cluster import Cluster, cluster  # noqa: F401

pytestmark = pytest.mark.skipif(os.geteuid() != 0, reason="a service is set up by root")
CHECKOUT = Path(__file__).parents[2]
needs_psql = pytest.mark.skipif(shutil.which("psql") is None, reason="psql is not installed here")


@dataclass
class Programs:
    """A directory of programs before all others in PATH, and what they were asked."""

    directory: Path

    def add(self, name: str, body: str) -> None:
        """A program that notes its words, and then does `body`."""
        program = self.directory / name
        program.write_text(f'#!/bin/sh\necho "{name} $*" >> {self.directory}/asked\n{body}\n')
        program.chmod(0o755)

    @property
    def asked(self) -> list[str]:
        found = self.directory / "asked"
        return found.read_text().splitlines() if found.exists() else []


@pytest.fixture
def programs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Programs:
    directory = tmp_path / "programs"
    directory.mkdir()
    monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
    return Programs(directory)


@dataclass
class Bare:
    """A machine with a PostgreSQL and nothing of ours."""

    cluster: Cluster
    directory: Path
    programs: Programs
    machine: Machine

    def set_up(self, wish: Wish = Wish(user="root")) -> list[str]:  # noqa: B008 - frozen
        """What `bootferry-region setup` says."""
        said: list[str] = []
        setup.run(wish, self.machine, said.append, self.directory / "credstore")
        return said

    def tell(self, *statements: str) -> None:
        asyncio.run(self.cluster.tell(*statements))


@pytest.fixture
def bare(
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
    programs: Programs,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Bare]:
    place = cluster.server.socket
    for name in list(os.environ):
        if name.startswith("REGION_"):
            monkeypatch.delenv(name)
    monkeypatch.setenv("BOOTFERRY_CONFIG_DIR", str(tmp_path / "etc"))
    monkeypatch.setenv("REGION_DATABASE_URL", f"postgresql:///bootferry?host={place}&port={cluster.port}")
    monkeypatch.setenv("REGION_DATA_DIR", str(tmp_path / "var" / "region"))
    monkeypatch.setenv("REGION_PORT", str(free_port()))
    monkeypatch.setenv("USER", "root")
    monkeypatch.setenv("LOGNAME", "root")
    # The superuser of the tests' cluster has another name, and no system user.
    programs.add("runuser", f'shift 3; PGHOST={place} PGPORT={cluster.port} PGUSER=bootferry exec "$@"')
    programs.add("systemctl", "echo LoadState=loaded; echo ActiveState=active; echo UnitFileState=enabled")
    asyncio.run(cluster.let_in("local all all trust\n"))
    booted = tmp_path / "booted"
    booted.mkdir()
    made = Bare(cluster, tmp_path, programs, Machine(booted))
    made.tell("DROP DATABASE IF EXISTS bootferry WITH (FORCE)", "DROP ROLE IF EXISTS root", "DROP ROLE IF EXISTS other")
    yield made
    made.tell("DROP DATABASE IF EXISTS bootferry WITH (FORCE)", "DROP ROLE IF EXISTS root", "DROP ROLE IF EXISTS other")


@needs_psql
def test_a_bare_machine_has_a_region_and_a_second_time_changes_nothing(bare: Bare) -> None:
    said = bare.set_up()
    assert said[:2] == [
        "PostgreSQL has the role root now; it logs in as the system user of that name.",
        "PostgreSQL has the database bootferry now; it belongs to root.",
    ]
    data = bare.directory / "var" / "region"
    assert stat.S_IMODE(data.stat().st_mode) == 0o750
    assert {path.name for path in (data / "keys").iterdir()} == {"region.key", "secrets.key"}
    token = (data / "admin-token").read_text().strip()
    assert said[-1].endswith(f": {token}")
    started = [line for line in bare.programs.asked if line.startswith("systemctl") and "show" not in line]
    assert started == ["systemctl enable bootferry-region.service", "systemctl start bootferry-region.service"]

    before = (data / "keys" / "region.key").read_bytes()
    again = bare.set_up()
    assert not [line for line in again if token in line or "PostgreSQL has" in line]
    assert (data / "keys" / "region.key").read_bytes() == before

    found = asyncio.run(Doctor(RegionConfiguration.load(), bare.machine, lambda: datetime.now(UTC)).examine())
    wrong = {one.what for one in found if not one.good}
    # Its mirror is on the internet, which no test asks; this machine may have little room.
    assert wrong <= {"sources", "directory"}, found


@needs_psql
def test_a_database_of_somebody_else_is_said_and_left_alone(bare: Bare) -> None:
    bare.tell("CREATE ROLE other", "CREATE DATABASE bootferry OWNER other")
    with pytest.raises(
        BootferryError, match=r"does not let the region's role use its tables: permission denied .*ALTER"
    ):
        bare.set_up()
    bare.tell('ALTER DATABASE bootferry OWNER TO "root"')
    assert bare.set_up()


def test_without_postgresql_it_says_what_to_install(bare: Bare) -> None:
    bare.programs.add("runuser", "echo 'psql: not found' >&2; exit 127")
    with pytest.raises(Conflict, match=r"cannot be asked \(psql: not found\): apt install postgresql, or name another"):
        bare.set_up()


def test_a_database_elsewhere_is_a_secret_of_root(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    bare.tell("CREATE ROLE other LOGIN PASSWORD 'c4n4ry'", "CREATE DATABASE bootferry OWNER other")
    asyncio.run(bare.cluster.let_in("host all all 127.0.0.1/32 scram-sha-256\n"))
    monkeypatch.delenv("REGION_DATABASE_URL")
    url = f"postgresql://other:c4n4ry@127.0.0.1:{bare.cluster.port}/bootferry"
    said = bare.set_up(Wish(database_url=url, user="root"))
    kept = bare.directory / "credstore" / "region_database_url"
    assert kept.read_text() == f"{url}\n"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    assert "c4n4ry" not in "".join(said)
    assert not [line for line in bare.programs.asked if line.startswith("runuser")]
    monkeypatch.delenv("REGION_DATABASE_URL")
    # What root is given next time comes from where it was put.
    assert not [line for line in bare.set_up() if "database's address" in line]
    with pytest.raises(Conflict, match="Another database is configured already"):
        bare.set_up(Wish(database_url=url.replace("other:", "somebody:"), user="root"))


def test_what_an_operator_has_set_stays_and_what_nobody_has_set_is_written(
    bare: Bare, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = bare.directory / "etc" / "region.toml"
    settings.parent.mkdir()
    settings.write_text('# Ours.\nname = "region"\nlog_level = "info"\n')
    settings.chmod(0o640)
    said: list[str] = []
    assert setup._write_settings({"name": 'the "north"'}, said.append)
    assert settings.read_text() == '# Ours.\nlog_level = "info"\nname = "the \\"north\\""\n'
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640
    assert RegionConfiguration.load().name == 'the "north"'
    assert not setup._write_settings({"name": "south"}, said.append)
    assert said[-1] == "name stays as it is set already."
    monkeypatch.setenv("REGION_NAME", "east")
    assert not setup._write_settings({"name": "west"}, said.append)


def test_a_certificate_that_cannot_be_used_is_not_written_down(bare: Bare) -> None:
    wished = {"host": "0.0.0.0", "tls_certificate": "/nowhere.pem", "tls_key": "/nowhere.key"}  # noqa: S104
    with pytest.raises(InvalidConfiguration, match=r"/nowhere\.pem cannot be read"):
        bare.set_up(Wish(settings=wished, user="root"))
    assert not (bare.directory / "etc" / "region.toml").exists()


@needs_psql
def test_a_region_with_a_certificate_is_set_up_to_be_reached(bare: Bare, tmp_path: Path) -> None:
    certificate, key = Authority.create(tmp_path).pair("region.test")
    wished = {"host": "0.0.0.0", "tls_certificate": str(certificate), "tls_key": str(key)}  # noqa: S104
    said = bare.set_up(Wish(settings=wished, user="root"))
    assert any(line.startswith("The region's address is https://0.0.0.0:") for line in said)
    assert RegionConfiguration.load().tls_key == key
    assert bare.set_up(Wish(settings=wished, user="root"))


def test_the_install_page_names_commands_and_options_that_there_are() -> None:
    page = (CHECKOUT / "docs" / "install.md").read_text()
    typed = set(re.findall(r"(?m)^bootferry-(region|rack) ([a-z-]+)(.*)$", page))
    assert {(program, command) for program, command, _ in typed} >= {
        ("region", "setup"),
        ("region", "doctor"),
        ("region", "rack-token"),
        ("rack", "setup"),
        ("rack", "doctor"),
    }
    for program, command, rest in sorted(typed):
        told = subprocess.run(
            [sys.executable, "-m", program, command, "--help"], cwd=CHECKOUT, capture_output=True, text=True, check=True
        ).stdout
        for option in re.findall(r"--[a-z-]+", rest):
            assert option in told, (program, command, option)


def test_nobody_but_root_sets_up(bare: Bare, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(Conflict, match="run it as root"):
        bare.set_up()


@pytest.mark.parametrize("error", [Conflict("So it is"), InvalidConfiguration("The setting is wrong")])
def test_what_the_service_part_raises_comes_back(error: BootferryError) -> None:
    def work() -> None:
        assert os.getuid() == 65534
        raise error

    with pytest.raises(InvalidConfiguration if isinstance(error, InvalidConfiguration) else BootferryError) as raised:
        setup._as_user(65534, 65534, "nobody", work)
    assert str(raised.value) == str(error)


def test_a_unit_that_does_not_start_is_told(programs: Programs, tmp_path: Path) -> None:
    programs.add("systemctl", '[ "$1" = show ] && echo LoadState=loaded && exit 0\necho "Job failed." >&2; exit 1')
    with pytest.raises(Conflict, match=r"systemctl enable x\.service failed: Job failed"):
        machine.start(Machine(tmp_path), "x.service", changed=True)
    programs.add("systemctl", "echo LoadState=not-found")
    assert machine.start(Machine(tmp_path), "x.service", changed=True).startswith("systemd knows no x.service")
    assert machine.start(Machine(tmp_path / "no"), "x.service", changed=True).startswith("systemd does not run")


# --- the doctor

Faulty = Callable[["Patient"], None]


@dataclass
class Patient:
    """A region that runs, and what is wrong about it."""

    running: Running
    monkeypatch: pytest.MonkeyPatch
    machine: Machine
    programs: Programs
    configuration: RegionConfiguration
    ahead: timedelta = timedelta()
    taken: socket.socket | None = None

    async def examine(self) -> dict[str, Finding]:
        now = lambda: datetime.now(UTC) + self.ahead  # noqa: E731
        return {found.what: found for found in await Doctor(self.configuration, self.machine, now).examine()}

    @property
    def keys(self) -> Path:
        return self.configuration.data_dir / "keys"


@pytest.fixture
def patient(running: Running, monkeypatch: pytest.MonkeyPatch, programs: Programs, tmp_path: Path) -> Patient:
    monkeypatch.setattr(checkup, "LEAST_FREE_BYTES", 1)
    programs.add(
        "systemctl",
        "echo LoadState=loaded; echo ActiveState=active; echo UnitFileState=enabled; echo LimitNOFILE=65536",
    )
    return Patient(running, monkeypatch, Machine(tmp_path), programs, running.region.configuration)


async def test_a_region_that_is_well_has_nothing_wrong(patient: Patient) -> None:
    found = await patient.examine()
    assert {what: one.sentence for what, one in found.items() if not one.good} == {}
    assert found["sources"].sentence == "'maas.io' can be reached."
    assert found["clock"].sentence == "This machine's clock and the source 'maas.io' agree."


def _readable_key(patient: Patient) -> None:
    (patient.keys / "secrets.key").chmod(0o644)


def _other_key(patient: Patient) -> None:
    (patient.keys / "region.key").write_bytes(private_pem(Ed25519PrivateKey.generate()))


def _no_key(patient: Patient) -> None:
    (patient.keys / "secrets.key").unlink()


def _open_directory(patient: Patient) -> None:
    patient.configuration.data_dir.chmod(0o777)


def _other_owner(patient: Patient) -> None:
    os.chown(patient.configuration.data_dir, 65534, 65534)


def _little_room(patient: Patient) -> None:
    patient.monkeypatch.setattr(checkup, "LEAST_FREE_BYTES", 2**62)


def _few_inodes(patient: Patient) -> None:
    patient.monkeypatch.setattr(checkup, "LEAST_FREE_INODES", 2**62)


def _no_gpgv(patient: Patient) -> None:
    patient.monkeypatch.setattr(shutil, "which", lambda _: None)


def _wrong_clock(patient: Patient) -> None:
    patient.ahead = timedelta(minutes=10)


def _port_taken(patient: Patient) -> None:
    patient.taken = socket.create_server(("127.0.0.1", 0))
    patient.configuration = patient.configuration.model_copy(update={"port": patient.taken.getsockname()[1]})
    patient.monkeypatch.setattr("region.commands.doctor.ASK_WITHIN_S", 0.2)


def _few_files(patient: Patient) -> None:
    patient.programs.add("systemctl", "echo LoadState=loaded; echo ActiveState=active; echo LimitNOFILE=1024")


def _not_enabled(patient: Patient) -> None:
    patient.programs.add("systemctl", "echo LoadState=loaded; echo ActiveState=active; echo UnitFileState=disabled")


def _ended(patient: Patient) -> None:
    patient.programs.add("systemctl", "echo LoadState=loaded; echo ActiveState=failed")


def _no_unit(patient: Patient) -> None:
    patient.programs.add("systemctl", "echo LoadState=not-found")


def _no_certificate(patient: Patient) -> None:
    settings = {"tls_certificate": Path("/nowhere.pem"), "tls_key": Path("/nowhere.key")}
    patient.configuration = patient.configuration.model_copy(update=settings)


def _left_out(patient: Patient) -> None:
    patient.configuration = patient.configuration.model_copy(update={"host": "0.0.0.0"})  # noqa: S104


def _no_database(patient: Patient) -> None:
    patient.configuration = patient.configuration.model_copy(
        update={"database_url": "postgresql+asyncpg://ann@127.0.0.1:1/x"}
    )


FAULTS: dict[str, tuple[Faulty, str, str]] = {
    "a key that others read": (_readable_key, "keys", "Others than its owner may read"),
    "another key": (_other_key, "keys", "are not those that the database knows"),
    "no key": (_no_key, "keys", "put it back from its backup"),
    "a directory that others write": (_open_directory, "directory", "chmod go-w"),
    "another's directory": (_other_owner, "directory", "belongs to nobody, not to root: chown -R root"),
    "little room": (_little_room, "directory", "make room there"),
    "few inodes": (_few_inodes, "directory", "inodes left"),
    "no gpgv": (_no_gpgv, "gpgv", "apt install gpgv"),
    "a wrong clock": (_wrong_clock, "clock", "seconds ahead of the source 'maas.io': set it"),
    "a port in use": (_port_taken, "port", "Another program listens"),
    "few files": (_few_files, "open files", "Only 1024 files may be open at once: LimitNOFILE=65536"),
    "a unit that is not enabled": (_not_enabled, "unit", "systemctl enable bootferry-region.service"),
    "a unit that ended": (_ended, "unit", "does not run (it is failed): systemctl start"),
    "no unit": (_no_unit, "unit", "install the package"),
    "no certificate": (_no_certificate, "TLS", "/nowhere.pem cannot be read"),
    "TLS left out": (_left_out, "TLS", "set REGION_TLS_CERTIFICATE and REGION_TLS_KEY"),
    "no database": (_no_database, "database", "The database is not running (ann at 127.0.0.1:1/x)"),
}


@pytest.mark.parametrize(("break_it", "what", "sentence"), FAULTS.values(), ids=FAULTS)
async def test_the_doctor_finds_what_is_wrong_and_says_what_to_do(
    patient: Patient, break_it: Faulty, what: str, sentence: str
) -> None:
    break_it(patient)
    found = (await patient.examine())[what]
    if patient.taken:
        patient.taken.close()
    assert not found.good
    assert sentence in found.sentence


async def test_the_doctor_finds_a_source_that_is_away_and_a_newer_schema(patient: Patient) -> None:
    engine = create_engine(patient.configuration.database_url)
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE sources SET url = 'http://127.0.0.1:1/'"))
    found = await patient.examine()
    assert "The source 'maas.io'" in found["sources"].sentence
    assert "Nothing answers at http://127.0.0.1:1/" in found["sources"].sentence
    async with transaction(engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '9999'"))
    found = await patient.examine()
    assert found["schema"].sentence.startswith("The database belongs to a newer version of Bootferry")
    await engine.dispose()


def test_the_command_ends_with_one_and_answers_for_programs(tmp_path: Path) -> None:
    environment = {
        "PATH": os.environ["PATH"],
        "BOOTFERRY_CONFIG_DIR": str(tmp_path),
        "REGION_DATABASE_URL": "postgresql://ann@127.0.0.1:1/x",
        "REGION_DATA_DIR": str(tmp_path / "nowhere"),
    }
    done = subprocess.run(
        [sys.executable, "-m", "region", "doctor", "-o", "json"],
        env=environment,
        capture_output=True,
        text=True,
        check=False,
        timeout=60,
    )
    assert (done.returncode, done.stderr) == (1, "")
    answer = json.loads(done.stdout)
    assert answer["good"] is False
    assert [found["what"] for found in answer["findings"]][:2] == ["directory", "database"]
    assert "nowhere is not there: run setup" in answer["findings"][0]["sentence"]
    # A look changes nothing.
    assert not (tmp_path / "nowhere").exists()


def test_a_finding_is_a_line() -> None:
    found = [Finding("database", False, "It is away."), Finding("port", True, "It is free.")]
    assert [*checkup.lines(found, checkup.Output.TEXT)] == [
        "WRONG  database  It is away.",
        "ok     port      It is free.",
    ]
    assert not checkup.is_good(found)
    assert checkup.is_good([replace(found[0], good=True)])
