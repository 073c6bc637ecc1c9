"""A few schedules of the model, the same at each run; `make chaos` runs a thousand, each time others."""

from pathlib import Path

import pytest

from deploy.local.postgres import Server
from tests.chaos import model

pytestmark = pytest.mark.timeout(300)


def test_a_few_schedules_of_faults_violate_nothing(database_server: Server, small: Path, tmp_path: Path) -> None:
    place = tmp_path / "small"
    place.symlink_to(small)
    before = model.Model.done["schedules"]
    model.schedules(database_server, place, count=3, number=7, steps=8)
    assert model.Model.done["schedules"] - before >= 3
