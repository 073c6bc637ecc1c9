"""`make deb`: the Debian packages of this checkout, for the release that this runs on.

It lays out a tree of its own below .cache and has dpkg-buildpackage build it:

    bootferry-<version>.whl, <extra>.lock    what each private environment is made from, with hashes
    bin/, share/, settings/                  commands, manual pages, completions, and configuration files
    debian/                                  deploy/debian, the units, and a changelog

Two builds of a commit are the same bytes, on the same release and for the same architecture.
"""

import os
import platform
import shutil
import subprocess
import sys
import time
from collections.abc import Mapping
from email.utils import formatdate
from pathlib import Path

from deploy.local.environment import uv_environment, uv_program
from deploy.local.failure import Failure, exit_status
from deploy.local.packages import Package, ensure, missing
from deploy.release.moment import moment_of
from deploy.release.pages import write_pages
from deploy.release.pins import EXTRAS, part
from deploy.release.settings import write_settings
from deploy.release.wheel import build_wheel
from shared import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
BUILDING = (
    Package("debhelper", program="dh", purpose="builds Debian packages"),
    Package("dpkg-dev", program="dpkg-buildpackage", purpose="builds Debian packages"),
    Package("python3", program="/usr/bin/python3", purpose="is what the packages run with"),
)
MAINTAINER = "The Bootferry developers <bootferry@packages.debian.org>"


def release_suffix(os_release: Mapping[str, str]) -> str:
    """What tells packages of one release from those of the next, and sorts before it: `deb12`, `ubuntu24.04`.

    Raises Failure for anything that is neither Debian nor Ubuntu, or does not say its version.
    """
    name, version = os_release.get("ID", ""), os_release.get("VERSION_ID", "")
    if name not in ("debian", "ubuntu") or not version:
        raise Failure("Debian packages are built on Debian or Ubuntu: run this there.")
    return f"{'deb' if name == 'debian' else name}{version}"


def lay_out(checkout: Path, tree: Path, suffix: str, moment: int) -> None:
    """Make the tree that dpkg-buildpackage builds in. Raises Failure, OSError."""
    shutil.rmtree(tree, ignore_errors=True)
    tree.mkdir(parents=True)
    build_wheel(checkout, tree)
    lock, project = (checkout / "requirements.lock").read_text(), (checkout / "pyproject.toml").read_text()
    for extra in EXTRAS:
        (tree / f"{extra}.lock").write_text(part(lock, project, extra))
    write_pages(tree / "share", moment)
    write_settings(tree / "settings")
    shutil.copy(checkout / "CHANGELOG.md", tree)
    shutil.copytree(checkout / "deploy" / "debian", tree / "debian")
    for unit in (checkout / "deploy" / "systemd").iterdir():
        shutil.copy(unit, tree / "debian")
    (tree / "debian" / "bin").rename(tree / "bin")
    (tree / "debian" / "changelog").write_text(
        f"bootferry ({__version__}-1+{suffix}) unstable; urgency=medium\n\n"
        f"  * Bootferry {__version__}; what is new is in the changelog of that version.\n\n"
        f" -- {MAINTAINER}  {formatdate(moment)}\n"
    )


def build(tree: Path, uv: Path, environment: Mapping[str, str], into: Path, moment: int) -> list[Path]:
    """The packages, moved to `into`. Raises Failure; what the build said is in build.log beside `tree`."""
    log = tree.with_name("build.log")
    with log.open("w") as said:
        ended = subprocess.run(
            ["dpkg-buildpackage", "--build=binary", "--no-sign", "--no-check-builddeps"],
            cwd=tree,
            env={**environment, "UV": str(uv), "SOURCE_DATE_EPOCH": str(moment), "LC_ALL": "C.UTF-8"},
            stdin=subprocess.DEVNULL,
            stdout=said,
            stderr=subprocess.STDOUT,
            check=False,
        )
    if ended.returncode != 0:
        raise Failure(f"the packages could not be built; {log} says why.")
    into.mkdir(parents=True, exist_ok=True)
    return [Path(shutil.move(deb, into / deb.name)) for deb in sorted(tree.parent.glob("*.deb"))]


def main() -> None:
    """Build the packages into dist/, or the directory that the command line names. Raises Failure."""
    suffix = release_suffix(platform.freedesktop_os_release())
    ensure(missing(BUILDING))
    into = Path(sys.argv[1] if len(sys.argv) > 1 else CHECKOUT / "dist").resolve()
    work = CHECKOUT / ".cache" / "deb"
    shutil.rmtree(work, ignore_errors=True)
    began, moment = time.monotonic(), moment_of(CHECKOUT)
    lay_out(CHECKOUT, work / "bootferry", suffix, moment)
    environment = uv_environment(os.environ, CHECKOUT)
    for made in build(work / "bootferry", uv_program(CHECKOUT, os.environ), environment, into, moment):
        print(made)
    print(f"Built in {time.monotonic() - began:.0f} s.")


if __name__ == "__main__":
    sys.exit(exit_status(main))
