"""A short run of `make chaos`: a few kills of each process, then everything converges."""

from pathlib import Path

import pytest

from deploy.local.scratch import scratch_directory
from tests.chaos import kill
from tests.chaos.report import Report

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


async def test_what_is_killed_in_the_middle_of_its_work_loses_nothing() -> None:
    report = Report("kill", seed=7)
    with scratch_directory() as directory:
        await kill.run(Path(directory), report, kinds=["region", "rack", "database"], kills=2, seconds=250)
    assert report.violations == []
    assert [kill.counted(report, kind) for kind in ("region", "rack", "database")] == [2, 2, 2]
