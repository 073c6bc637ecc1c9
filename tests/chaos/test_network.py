"""Faults of the network at some places; `make chaos` has them at all."""

from pathlib import Path

import pytest

from deploy.local.postgres import Server
from tests.chaos import network
from tests.chaos.report import Report

pytestmark = pytest.mark.timeout(300)


async def test_faults_of_the_network_change_nothing_that_lasts(
    database_server: Server, small: Path, tmp_path: Path
) -> None:
    report = Report("network", seed=0)
    await network.run(tmp_path, database_server, small, report, ["flip", "away"], every=6)
    assert report.violations == []
    assert report.done["flips at request n"] >= 2
    assert report.done["polls without a region"] == 48
