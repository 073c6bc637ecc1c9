"""Call a region in all the ways its description allows, and in some it does not: python -m … DATABASE_URL DIRECTORY.

Run it in a network of its own: among other things it names sources at made-up addresses. Exit status: schemathesis's.
"""

import asyncio
import sys
from pathlib import Path

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import serve
from region import api, app
from region.configuration import RegionConfiguration
from region.edge.server import build_server
from shared.logs import configure
from tests.conftest import NOW

CHECKS = "not_a_server_error,status_code_conformance,content_type_conformance,response_schema_conformance"
ENDLESS = ("events", "manifest_events")
"""Event streams have no end that a client could wait for."""

SETTINGS = """
[[operations]]
include-operation-id = "probe_source"
checks.not_a_server_error.expected-statuses = ["2xx", "3xx", "4xx", 502]
"""
"""A probe tells of a mirror that does not answer with 502, as its description says; nothing else may end with 5xx."""

DESCRIPTION = Path(__file__).parents[2] / "docs" / "openapi.json"


async def main(database_url: str, directory: Path, examples: int, port: int = 5240) -> int:
    """schemathesis's exit status: 0 when every answer was one that the description promises."""
    mirror = Mirror.create(directory / "upstream", now=NOW, sizes=TINY)
    async with serve(mirror, host="127.0.0.1") as upstream:
        configuration = RegionConfiguration(
            database_url=database_url,
            data_dir=directory / "region",
            port=port,
            default_source_url=upstream.url,
            default_source_keyring=mirror.keyring_path,
        )
        region = app.build(configuration)
        server = build_server(api.create(region), host="127.0.0.1", port=port, shutdown_grace_s=1)
        serving = asyncio.create_task(server.serve())
        await asyncio.wait_for(region.ready.wait(), 20)
        token = (configuration.data_dir / "admin-token").read_text().strip()
        (directory / "schemathesis.toml").write_text(SETTINGS)
        excluded = [argument for name in ENDLESS for argument in ("--exclude-operation-id", name)]
        calls = await asyncio.create_subprocess_exec(
            *(str(Path(sys.executable).with_name("schemathesis")), "--config-file", "schemathesis.toml"),
            *("run", str(DESCRIPTION)),
            *("--url", f"http://127.0.0.1:{port}", "--header", f"Authorization: Bearer {token}"),
            *("--checks", CHECKS, "--phases", "examples,coverage,fuzzing", "--max-examples", str(examples)),
            *("--seed", "1", "--suppress-health-check", "all", "--no-color"),
            *("--request-timeout", "20", *excluded),
            cwd=directory,
        )
        status = await calls.wait()
        server.should_exit = True
        await serving
        return status


if __name__ == "__main__":
    configure("error", "text", sys.stderr)
    sys.exit(asyncio.run(main(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))))
