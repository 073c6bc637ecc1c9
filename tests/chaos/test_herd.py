"""A small herd; `make chaos` drives twenty thousand racks and a thousand agents."""

from pathlib import Path

import pytest

from deploy.local.postgres import Server
from tests.chaos import herd
from tests.chaos.report import Report

pytestmark = pytest.mark.timeout(300)


async def test_all_of_a_small_herd_come_through(database_server: Server, tmp_path: Path) -> None:
    found = Report("herd", seed=1)
    await herd.agents(database_server, tmp_path, found, 5)
    await herd.racks(database_server, tmp_path, found, 30)
    assert [sentence for sentence in found.violations if not sentence.startswith("operator: GET /images took")] == []
    assert found.done == {"real agents through": 5, "simulated racks through": 30}
