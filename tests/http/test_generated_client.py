"""A client that somebody else's generator makes of docs/openapi.json works on a region that runs."""

import asyncio
import os
import shutil
from asyncio.subprocess import PIPE, STDOUT
from pathlib import Path

import pytest

from tests.http.conftest import Running

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"
CALLS = Path(__file__).with_name("generated_client.py")
GENERATOR = "openapi-python-client"


def found() -> Path | None:
    """The generator on this machine."""
    places = [os.environ.get("OPENAPI_CLIENT_GENERATOR"), os.environ["PATH"]]
    program = shutil.which(GENERATOR, path=":".join(filter(None, places)))
    return None if program is None else Path(program).absolute()


async def run(*command: str | Path, environment: dict[str, str]) -> str:
    """What the program printed. Fails the test unless it ended well."""
    process = await asyncio.create_subprocess_exec(*command, env=environment, stdout=PIPE, stderr=STDOUT)
    told = (await asyncio.wait_for(process.communicate(), 90))[0].decode()
    assert process.returncode == 0, told
    return told


@pytest.mark.skipif(
    found() is None, reason=f"{GENERATOR} is not on the PATH; `make apiclient` fetches it and runs this"
)
@pytest.mark.timeout(240)
async def test_a_generated_client_works(running: Running, tmp_path: Path) -> None:
    generator = found()
    assert generator is not None
    beside = generator.parent
    environment = os.environ | {"PATH": f"{beside}:{os.environ['PATH']}", "PYTHONPATH": str(tmp_path)}
    package = tmp_path / "region_client"
    told = await run(
        *(generator, "generate", "--path", DOCUMENT, "--output-path", package, "--meta", "none", "--fail-on-warning"),
        environment=environment,
    )
    assert "warning" not in told.lower(), told
    token, mirror = running.client.token or "", running.upstream.url
    told = await run(beside / "python", CALLS, running.client.base, token, mirror, environment=environment)
    assert len(told.splitlines()) >= 10, told
