"""Prometheus's own tool, which says what Prometheus would."""

import shutil
import subprocess

import pytest

needs_promtool = pytest.mark.skipif(
    shutil.which("promtool") is None, reason="promtool is not there; `make promtool` installs it from apt"
)


def promtool(*arguments: str, given: str = "") -> str:
    """What promtool says. Fails when it finds anything wrong."""
    ended = subprocess.run(["promtool", *arguments], input=given, capture_output=True, text=True, check=False)
    assert ended.returncode == 0, ended.stdout + ended.stderr
    return ended.stdout + ended.stderr
