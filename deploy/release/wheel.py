"""The wheel and the source distribution, the same bytes each time they are built from the same commit."""

import os
import subprocess
import sys
from pathlib import Path

from deploy.local.failure import Failure
from deploy.release.moment import moment_of


def build_wheel(checkout: Path, into: Path) -> Path:
    """The wheel of this checkout, made in `into` without a network. Raises Failure."""
    return _build(checkout, into, "wheel")


def build_sdist(checkout: Path, into: Path) -> Path:
    """The source distribution of this checkout, made in `into` without a network. Raises Failure."""
    return _build(checkout, into, "sdist")


def _build(checkout: Path, into: Path, kind: str) -> Path:
    # hatchling writes the moment into its archives, not the files' own times.
    environment = os.environ | {"SOURCE_DATE_EPOCH": str(moment_of(checkout))}
    ended = subprocess.run(
        [sys.executable, "-m", "hatchling", "build", "--target", kind, "--directory", into.resolve()],
        cwd=checkout,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    if ended.returncode != 0:
        raise Failure(f"the {kind} cannot be built: {(ended.stderr or ended.stdout).strip()}")
    (made,) = into.glob("*.whl" if kind == "wheel" else "*.tar.gz")
    return made
