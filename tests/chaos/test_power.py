"""A short run of the power cuts, where the machine lets us: root, loop devices, mkfs."""

import pytest

from deploy.local.scratch import scratch_directory
from tests.chaos import power
from tests.chaos.report import Report

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]


@pytest.mark.parametrize("kind", ["ext4", "xfs"])
async def test_a_cut_in_the_middle_of_the_work_loses_nothing(kind: str) -> None:
    if why := power.why_not(kind):
        pytest.skip(why)
    report = Report(f"power on {kind}", seed=3)
    with scratch_directory() as directory:
        await power.run(directory, report, kind=kind, cuts=1, seconds=250)
    assert report.violations == []
    assert sum(count for what, count in report.done.items() if "cuts" in what) == 1
