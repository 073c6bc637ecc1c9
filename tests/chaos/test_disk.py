"""A disk that fails in the middle of an import or a pull: some of its calls here, all of them in `make chaos`."""

import errno
from pathlib import Path

import pytest

from deploy.local.postgres import Server
from tests.chaos import disk
from tests.chaos.report import Report

pytestmark = pytest.mark.timeout(300)


async def test_a_pull_whose_disk_fails_at_some_call_keeps_what_is_served_and_ends_whole(tmp_path: Path) -> None:
    report = Report("disk", 0)
    await disk.rack(tmp_path, report, every=23)
    assert report.violations == []
    assert sum(report.done.values()) >= 8


async def test_an_import_whose_disk_fails_at_some_call_keeps_what_is_held_and_ends_whole(
    tmp_path: Path, database_server: Server
) -> None:
    report = Report("disk", 0)
    await disk.region(tmp_path, database_server, report, every=23)
    assert report.violations == []
    assert sum(report.done.values()) >= 3
    assert errno.ENOSPC in disk.ERRORS
    assert errno.EIO in disk.ERRORS
