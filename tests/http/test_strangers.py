"""Many strangers at a real region process, and requests that anybody can send; see `tests.bench.strangers`."""

import statistics
import subprocess
import sys
from pathlib import Path

import pytest

from tests.bench.strangers import SINGLE, cpu_ms, crowd, site


async def test_strangers_cost_little_time_and_memory(tmp_path: Path, database_url: str) -> None:
    async with site(tmp_path, database_url) as region:
        for _ in range(10):
            await region.call("GET", "/images")
        before = region.memory_mb()
        # What is made once is not made on the loop either.
        assert await cpu_ms(region, SINGLE["GET /api/v1/openapi.json"]) < 50
        for name, sent in SINGLE.items():
            # The CPU of the loop is what no other process adds to: it cannot stand still for longer than that.
            assert min([await cpu_ms(region, sent) for _ in range(2)]) < 50, name
        seen = await crowd(region, idle=300, half=100)
        assert seen.state == "succeeded"
        assert seen.refused == 0
        assert statistics.median(seen.calls_ms) < 200
        assert region.memory_mb() - before < 32


@pytest.mark.parametrize(("soft", "hard", "raised"), [(256, 1024, 1024), (300, 300, 300)])
def test_the_limit_of_open_files_is_raised(soft: int, hard: int, raised: int) -> None:
    program = (
        "import resource; from region.edge.house import raise_open_files;"
        f"resource.setrlimit(resource.RLIMIT_NOFILE, ({soft}, {hard}));"
        "print(raise_open_files(), resource.getrlimit(resource.RLIMIT_NOFILE)[0])"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True, timeout=60)
    assert said.stdout.split() == [str(raised)] * 2
