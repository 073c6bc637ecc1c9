"""System packages: the few things Bootferry needs that no Python package index carries.

Standard library only: this runs before there is anything else.
"""

import os
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass

from deploy.local.failure import Failure, exit_status


@dataclass(frozen=True)
class Package:
    """One Debian package: the program that shows it is there, and what it is for."""

    name: str
    program: str
    purpose: str


GPGV = Package("gpgv", program="gpgv", purpose="verifies the signature of every stream")
CA_CERTIFICATES = Package("ca-certificates", program="update-ca-certificates", purpose="verifies the package index")

CHROMIUM = Package("chromium", program="chromium", purpose="runs the browser tests")
FILE_SYSTEMS = (
    Package("e2fsprogs", program="mkfs.ext4", purpose="makes file systems whose power tests cut"),
    Package("xfsprogs", program="mkfs.xfs", purpose="makes file systems whose power tests cut"),
)
PROMETHEUS = Package("prometheus", program="promtool", purpose="checks metrics, rules and what they fire on")

PROXIES = (
    Package("nginx", program="nginx", purpose="stands before a region in tests"),
    Package("haproxy", program="haproxy", purpose="stands before a region in tests"),
)
MACHINES = (
    Package("debootstrap", program="debootstrap", purpose="makes the machines that packages are installed on"),
    Package("systemd-container", program="systemd-nspawn", purpose="boots the machines that packages are installed on"),
    Package("iproute2", program="ip", purpose="makes the network between those machines"),
)

NEEDED = (GPGV,)
"""What running and testing Bootferry takes."""


@dataclass(frozen=True)
class Install:
    """The caller may install these, and should."""

    names: tuple[str, ...]


@dataclass(frozen=True)
class Refuse:
    """The caller cannot go on; `sentence` says what to do."""

    sentence: str


def decide(missing: Collection[Package], *, is_root: bool, has_apt: bool) -> Install | Refuse | None:
    """What to do about `missing` packages; None when none is."""
    if not missing:
        return None
    names = tuple(package.name for package in missing)
    if is_root and has_apt:
        return Install(names)
    wanted = " and ".join(f"{package.name} (it {package.purpose})" for package in missing)
    if has_apt:
        return Refuse(f"Bootferry needs {wanted}: run `sudo apt-get install -y {' '.join(names)}`, then this again.")
    return Refuse(f"Bootferry needs {wanted}: install it with this system's package manager, then run this again.")


def missing(needed: Iterable[Package], *, which: Callable[[str], str | None] = shutil.which) -> list[Package]:
    """Those of `needed` whose program is not there."""
    return [package for package in needed if which(package.program) is None]


def ensure(absent: Collection[Package]) -> None:
    """Return once the `absent` packages are installed. Raises Failure where the caller may not or apt cannot."""
    decision = decide(absent, is_root=os.geteuid() == 0, has_apt=shutil.which("apt-get") is not None)
    match decision:
        case Refuse(sentence):
            raise Failure(sentence)
        case Install(names):
            print(f"Installing {', '.join(names)} with apt …", flush=True)
            install(names)


def install(names: Collection[str]) -> None:
    """Install packages with apt, fetching its package lists only if it does not find them. Raises Failure."""
    # A fresh container has no lists at all, and old lists name versions the mirror no longer has.
    if apt_get("install", *names).returncode != 0:
        apt_get("update")
        attempt = apt_get("install", *names)
        if attempt.returncode != 0:
            why = (attempt.stdout.strip().splitlines() or ["it gave no reason"])[-1]
            raise Failure(f"apt-get could not install {' '.join(names)} ({why}); install it, then run this again.")


def apt_get(command: str, *names: str) -> "subprocess.CompletedProcess[str]":
    """Run one apt-get command that never asks, and waits for another apt for a minute."""
    options = ["-q", "-y", "--no-install-recommends", "-o", "DPkg::Lock::Timeout=60"]
    return subprocess.run(
        ["apt-get", command, *options, *names],
        # Run level 1 starts no service: of prometheus only its tool is wanted.
        env=os.environ | {"DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C", "RUNLEVEL": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


def ensure_for_tests(packages: Iterable[Package], tests: str, environ: Mapping[str, str]) -> None:
    """Return with these installed, or having said that `tests` will skip. In CI they must not: raises Failure."""
    try:
        ensure(missing(packages))
    except Failure as failure:
        if environ.get("CI"):
            raise
        print(f"The {tests} will be skipped. {failure}", flush=True)


MORE = {
    "--browser": ([CHROMIUM], "browser tests"),
    "--file-systems": (FILE_SYSTEMS, "tests that cut the power"),
    "--promtool": ([PROMETHEUS], "tests of metrics and alerts by promtool"),
    "--proxies": (PROXIES, "tests of the examples of nginx and HAProxy"),
}
"""What some tests take besides, by the option that asks for it."""


def main() -> None:
    """Make sure that every system package is there; with options, what more tests take, too."""
    ensure(missing(NEEDED))
    for option, (packages, tests) in MORE.items():
        if option in sys.argv[1:]:
            ensure_for_tests(packages, tests, os.environ)


if __name__ == "__main__":
    sys.exit(exit_status(main))
