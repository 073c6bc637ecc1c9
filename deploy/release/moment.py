"""The moment a release is dated with: that of its commit, so that whoever builds it again gets the same bytes."""

import os
import subprocess
from pathlib import Path

FIRST = 315_532_800
"""1980-01-01: archives of wheels know no earlier time."""


def moment_of(checkout: Path) -> int:
    """Seconds since 1970: SOURCE_DATE_EPOCH where it is set, else the commit's; outside git, 1980-01-01."""
    if given := os.environ.get("SOURCE_DATE_EPOCH"):
        return int(given)
    said = subprocess.run(
        ["git", "-C", checkout, "log", "-1", "--format=%ct"], capture_output=True, text=True, check=False
    )
    return int(said.stdout) if said.returncode == 0 and said.stdout.strip() else FIRST
