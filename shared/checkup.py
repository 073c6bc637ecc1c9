"""A checkup of a service: each thing an operator could have wrong is looked at, and has one sentence.

A check returns what is so. What is wrong it raises: a BootferryError, whose sentence says what to do, or an OSError.
"""

import contextlib
import errno
import json
import os
import resource
from collections.abc import Awaitable, Callable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from pathlib import Path

import typer

from shared.endings import leaf
from shared.errors import BootferryError, DiskFailed
from shared.machine import Machine, name_of
from shared.sizes import spoken_size

LEAST_FREE_BYTES = 5 * 1024**3
LEAST_FREE_INODES = 10_000
LEAST_OPEN_FILES = 4_096
MOST_BEHIND_S = 60.0
"""A clock that differs by more is wrong; a rack's may differ by five minutes before its requests are refused."""


class Output(StrEnum):
    """How a checkup answers."""

    TEXT = "text"
    JSON = "json"


@dataclass(frozen=True, slots=True)
class Finding:
    """What one check found; `sentence` says what is so, or what to do."""

    what: str
    good: bool
    sentence: str


Check = Callable[[], Awaitable[str]]


async def examine(checks: Mapping[str, Check]) -> list[Finding]:
    """What each check found, in their order. Never raises: a check that broke off has found something wrong."""
    return [await _finding(what, check) for what, check in checks.items()]


async def _finding(what: str, check: Check) -> Finding:
    try:
        return Finding(what, True, await check())
    except Exception as error:
        first = leaf(error)
        if isinstance(first, OSError) and not isinstance(first, BootferryError):
            first = DiskFailed(str(first.filename or "This machine"), first)
        told = str(first) if isinstance(first, BootferryError) else f"It could not be looked at: {first!r}."
        return Finding(what, False, told)


def lines(findings: Sequence[Finding], output: Output) -> Iterator[str]:
    """The findings as they are printed."""
    if output is Output.JSON:
        yield json.dumps({"good": is_good(findings), "findings": [asdict(found) for found in findings]}, indent=2)
        return
    width = max(len(found.what) for found in findings)
    for found in findings:
        yield f"{'ok   ' if found.good else 'WRONG'}  {found.what:<{width}}  {found.sentence}"


def is_good(findings: Sequence[Finding]) -> bool:
    """True if nothing is wrong."""
    return all(found.good for found in findings)


def tell(findings: Sequence[Finding], output: Output) -> None:
    """Print the findings. Raises typer.Exit, with 1, when something is wrong."""
    for line in lines(findings, output):
        typer.echo(line)
    if not is_good(findings):
        raise typer.Exit(1)


# --- what both services have


def directory(path: Path, setting: str) -> str:
    """The data directory is there, this user's alone to change, and has room. Raises BootferryError, OSError."""
    if not path.is_dir():
        raise BootferryError(f"{path} is not there: run setup, or correct {setting}.")
    found, user = path.stat(), os.geteuid()
    if found.st_uid != user:
        raise BootferryError(
            f"{path} belongs to {name_of(found.st_uid)}, not to {name_of(user)}: chown -R {name_of(user)} {path}."
        )
    if found.st_mode & 0o022:
        raise BootferryError(f"Others than its owner may write in {path}: chmod go-w {path}.")
    try:
        probe = os.open(path, os.O_RDWR | os.O_TMPFILE | os.O_CLOEXEC, 0o600)
        os.close(probe)
    except OSError as error:
        # Some file systems know no file without a name.
        if error.errno not in (errno.EOPNOTSUPP, errno.EISDIR):
            raise
    room = os.statvfs(path)
    free = room.f_bavail * room.f_frsize
    if free < LEAST_FREE_BYTES:
        raise BootferryError(
            f"Only {spoken_size(free)} are free below {path}, and one image takes about 1 GB: make room there."
        )
    if room.f_files and room.f_favail < LEAST_FREE_INODES:
        raise BootferryError(f"The file system of {path} has only {room.f_favail} inodes left (df -i): make room.")
    return f"{path} belongs to {name_of(user)}; {spoken_size(free)} are free."


def secret(path: Path) -> None:
    """Raises BootferryError unless nobody but its owner may read the file; OSError."""
    if path.stat().st_mode & 0o077:
        raise BootferryError(f"Others than its owner may read {path}: chmod 600 {path}.")


def open_files(unit: Mapping[str, str]) -> str:
    """Enough files may be open. Raises BootferryError."""
    limit = unit.get("LimitNOFILE", "")
    most = int(limit) if limit.isdigit() else resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    if most != resource.RLIM_INFINITY and most < LEAST_OPEN_FILES:
        raise BootferryError(f"Only {most} files may be open at once: LimitNOFILE=65536 in the unit.")
    return "Any number of files may be open." if most == resource.RLIM_INFINITY else f"{most} files may be open."


def unit(machine: Machine, name: str) -> str:
    """The unit is enabled and runs. Raises BootferryError. Blocks."""
    if not machine.has_systemd:
        return "systemd does not run this machine; start the service yourself."
    found = machine.unit(name)
    if found.get("LoadState") != "loaded":
        raise BootferryError(f"systemd knows no {name}: install the package, or copy the unit to /etc/systemd/system.")
    if found.get("ActiveState") != "active":
        raise BootferryError(
            f"{name} does not run (it is {found.get('ActiveState')}): systemctl start {name}; journalctl -u {name} says"
            " why it ended."
        )
    if found.get("UnitFileState") not in ("enabled", "enabled-runtime", "static", "linked"):
        raise BootferryError(
            f"{name} runs, but the next start of the machine does not start it: systemctl enable {name}."
        )
    return f"{name} runs. {found.get('StatusText', '')}".strip()


def clock(said: str | None, now: datetime, whose: str) -> str:
    """This machine's clock is right, by the header Date of somebody's answer. Raises BootferryError."""
    with contextlib.suppress(ValueError, TypeError):
        behind = (parsedate_to_datetime(said or "") - now).total_seconds()
        if abs(behind) > MOST_BEHIND_S:
            where = "behind" if behind > 0 else "ahead of"
            raise BootferryError(
                f"This machine's clock is {abs(behind):.0f} seconds {where} {whose}: set it (timedatectl set-ntp true)."
            )
        return f"This machine's clock and {whose} agree."
    return f"The clock was not compared: {whose} says no time."
