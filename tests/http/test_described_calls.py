"""No call that the API's description allows, or nearly allows, meets a fault of ours or an answer not described."""

import asyncio
import sys
from pathlib import Path

import pytest

from tests.alone import alone, is_possible

EXAMPLES = 15
"""Of each operation, besides the limits of every field, in some seconds."""


@pytest.mark.timeout(600)
async def test_every_answer_is_one_that_the_description_promises(tmp_path: Path, database_url: str) -> None:
    if not await asyncio.to_thread(is_possible):
        pytest.skip("This user may make no network of its own, and a made-up source must not be asked for real.")
    command = [sys.executable, "-m", "tests.http.described_calls", database_url, str(tmp_path), str(EXAMPLES)]
    process = await asyncio.create_subprocess_exec(
        *alone(command), stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    printed, _ = await process.communicate()
    assert process.returncode == 0, printed.decode()[-8000:]
