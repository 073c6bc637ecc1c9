"""`make release`: everything of a commit that goes out to others, in dist/, with its checksums.

    bootferry-….whl, bootferry-….tar.gz      wheel and source distribution
    bootferry*.deb                           the packages, for the release of Debian or Ubuntu this runs on
    bootferry-….oci.tar                      the container image; it needs root
    bootferry-….cdx.json                     what is in it (CycloneDX)
    SHA256SUMS, SHA256SUMS.asc               of all of the above; the signature is of the key that is named

A commit gives the same bytes each time, the signature included where the key is Ed25519.
"""

import argparse
import hashlib
import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from deploy.local.environment import uv_environment, uv_program
from deploy.local.failure import Failure, exit_status
from deploy.local.packages import Package, ensure, missing
from deploy.release import debs, image, sbom
from deploy.release.moment import moment_of
from deploy.release.wheel import build_sdist, build_wheel
from shared import __version__

CHECKOUT = Path(__file__).resolve().parents[2]
GPG = Package("gpg", program="gpg", purpose="signs the checksums")


def require_clean(checkout: Path) -> None:
    """Raises Failure unless this is a checkout of git's in which nothing differs from its commit."""
    said = subprocess.run(["git", "-C", checkout, "status", "--porcelain"], capture_output=True, text=True, check=False)
    if said.returncode != 0:
        raise Failure("a release is made of a commit: run this in a clone.")
    if said.stdout:
        raise Failure(f"a release is made of a commit: commit or undo {said.stdout.split()[-1]} first.")


def write_sums(dist: Path) -> Path:
    """SHA256SUMS of all files in `dist`, as sha256sum(1) reads it."""
    sums = dist / "SHA256SUMS"
    lines = []
    for path in sorted(dist.iterdir()):
        if path.is_file() and not path.name.startswith("SHA256SUMS"):
            with path.open("rb") as file:
                lines.append(f"{hashlib.file_digest(file, 'sha256').hexdigest()}  {path.name}\n")
    sums.write_text("".join(lines))
    return sums


def sign(sums: Path, key: str, moment: int) -> Path:
    """A detached signature beside `sums`, by a key of gpg's, dated `moment`. Raises Failure."""
    signature = sums.with_name(f"{sums.name}.asc")
    signature.unlink(missing_ok=True)
    options = ["--batch", "--armor", "--detach-sign", f"--faked-system-time={moment}!", f"--local-user={key}"]
    ended = subprocess.run(
        ["gpg", *options, f"--output={signature}", sums], capture_output=True, text=True, check=False
    )
    if ended.returncode != 0:
        raise Failure(f"the checksums could not be signed: {ended.stderr.strip().splitlines()[-1]}")
    return signature


def main() -> None:
    """Make a release. Raises Failure."""
    parser = argparse.ArgumentParser(prog="make release", description="Build all that goes out to others into dist/.")
    parser.add_argument("--key", default="", help="the key of gpg's that signs the checksums")
    options = parser.parse_args()
    require_clean(CHECKOUT)
    if os.geteuid() != 0:
        raise Failure("the container image can only be made by root: run this with sudo.")
    ensure(missing([*debs.BUILDING, image.DEBOOTSTRAP, *([GPG] if options.key else [])]))
    moment, dist = moment_of(CHECKOUT), CHECKOUT / "dist"
    shutil.rmtree(dist, ignore_errors=True)
    dist.mkdir()
    build_wheel(CHECKOUT, dist)
    build_sdist(CHECKOUT, dist)
    tree = CHECKOUT / ".cache" / "deb" / "bootferry"
    shutil.rmtree(tree.parent, ignore_errors=True)
    debs.lay_out(CHECKOUT, tree, debs.release_suffix(platform.freedesktop_os_release()), moment)
    debs.build(tree, uv_program(CHECKOUT, os.environ), uv_environment(os.environ, CHECKOUT), dist, moment)
    image.build_image(dist, moment)
    lock, project = (CHECKOUT / "requirements.lock").read_text(), (CHECKOUT / "pyproject.toml").read_text()
    (dist / f"bootferry-{__version__}.cdx.json").write_bytes(sbom.document(lock, project, __version__, moment))
    sums = write_sums(dist)
    if options.key:
        sign(sums, options.key, moment)
    print(sums.read_text(), end="")
    print(f"Signed by {options.key}." if options.key else "Nothing is signed: name a key of gpg's, make release KEY=….")


if __name__ == "__main__":
    sys.exit(exit_status(main))
