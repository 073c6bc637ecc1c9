"""The machine that a service is set up on: its programs, its users, and systemd where that runs it."""

import os
import pwd
import subprocess
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from shared.errors import Conflict

BOOTED = Path("/run/systemd/system")
"""It is there where systemd runs the machine: sd_booted(3)."""


@dataclass(frozen=True, slots=True)
class Done:
    """How a program has ended, and what it said."""

    status: int
    out: str
    err: str


@dataclass(frozen=True, slots=True)
class Machine:
    """This machine. Programs are found in PATH."""

    booted: Path = BOOTED

    @property
    def has_systemd(self) -> bool:
        """True if systemd runs this machine."""
        return self.booted.is_dir()

    def run(self, *arguments: str, given: str = "") -> Done:
        """Run a program to its end; one that is not there ends with 127. Blocks."""
        try:
            done = subprocess.run(arguments, input=given, capture_output=True, text=True, check=False)
        except OSError as error:
            return Done(127, "", f"{arguments[0]}: {error.strerror}")
        return Done(done.returncode, done.stdout.strip(), done.stderr.strip())

    def unit(self, name: str) -> Mapping[str, str]:
        """What systemd says of a unit (systemctl(1), show); nothing where it does not run this machine."""
        if not self.has_systemd:
            return {}
        wanted = "LoadState,ActiveState,UnitFileState,LimitNOFILE,StatusText"
        said = self.run("systemctl", "show", "-p", wanted, name).out
        return dict(line.partition("=")[::2] for line in said.splitlines())


def name_of(uid: int) -> str:
    """The name of a user; the number where it has none."""
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return str(uid)


def become_owner(directory: Path) -> None:
    """Go on as the user a directory belongs to, where root has typed the command: root may do what a service may not.

    A directory that is root's, or not there, changes nothing. Raises OSError.
    """
    if os.geteuid() != 0 or not directory.is_dir() or (owner := directory.stat()).st_uid == 0:
        return
    try:
        os.initgroups(pwd.getpwuid(owner.st_uid).pw_name, owner.st_gid)
    except KeyError:
        os.setgroups([owner.st_gid])
    os.setgid(owner.st_gid)
    os.setuid(owner.st_uid)
    # Whoever logs in somewhere without a name does so as this user.
    os.environ |= dict.fromkeys(("USER", "LOGNAME"), name_of(owner.st_uid))


def take_credentials(directory: Path, *names: str) -> None:
    """Settings that systemd would give the service as credentials, for a command that root has typed.

    What the environment sets already stays, and a credential that is not there is as good as absent. Raises OSError.
    """
    for name in names:
        file = directory / name
        if os.geteuid() == 0 and name.upper() not in os.environ and file.is_file():
            os.environ[name.upper()] = file.read_text().strip()


def require_root() -> None:
    """Raises Conflict unless root has typed the command."""
    if os.geteuid() != 0:
        raise Conflict("Setting up makes users' directories and starts a service: run it as root (sudo).")


def user(name: str, machine: Machine, *, home: Path) -> pwd.struct_passwd:
    """The system user a service runs as, made where the package has not. Raises Conflict."""
    with suppress(KeyError):
        return pwd.getpwnam(name)
    made = machine.run(
        *("useradd", "--system", "--home-dir", str(home), "--no-create-home", "--shell", "/usr/sbin/nologin", name)
    )
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise Conflict(f"The system user {name} cannot be made: {made.err or made.out or 'useradd failed'}.") from None


def own_directory(path: Path, owner: pwd.struct_passwd, mode: int) -> None:
    """After this the directory is there, and is the owner's; one that is there keeps its mode. Raises OSError."""
    if not path.is_dir():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
        path.mkdir(mode=mode)
        path.chmod(mode)
    os.chown(path, owner.pw_uid, owner.pw_gid)


def start(machine: Machine, unit: str, *, changed: bool) -> str:
    """The unit runs now, and after each start of the machine; what happened. Raises Conflict. Blocks."""
    if not machine.has_systemd:
        return "systemd does not run this machine: start the service yourself."
    if machine.unit(unit).get("LoadState") != "loaded":
        return f"systemd knows no {unit}: install the package, then systemctl enable --now {unit}."
    for words in (("enable", unit), ("restart" if changed else "start", unit)):
        done = machine.run("systemctl", *words)
        if done.status != 0:
            raise Conflict(f"systemctl {' '.join(words)} failed: {done.err or done.out}; see journalctl -u {unit}.")
    return f"{unit} is enabled and runs."
