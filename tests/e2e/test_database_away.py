"""The region stays up while its database is away, and goes on when it is back."""

from collections.abc import Iterator
from pathlib import Path

import pytest

from deploy.local import postgres
from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import serve
from deploy.local.scratch import scratch_directory
from tests.conftest import NOW
from tests.e2e.site import Site

pytestmark = [pytest.mark.e2e]


@pytest.fixture
def database_directory() -> Iterator[Path]:
    """A place whose socket has the same address each time the server starts."""
    with scratch_directory() as directory:
        yield directory


async def test_requests_are_told_to_come_back_and_the_region_recovers(
    site: Site, tmp_path: Path, database_directory: Path
) -> None:
    mirror = Mirror.create(tmp_path / "upstream", now=NOW, sizes=TINY)
    async with serve(mirror, host="127.0.0.1") as upstream:
        with postgres.running(database_directory, fsync=False) as server:
            url = server.url("region")
            region = site.add_region("region", url, upstream.url, mirror.keyring_path)
            region.start()
            await site.until(lambda: site._answers(f"{region.base}/livez"))
            async with site.session.get(f"{region.base}/readyz") as response:
                assert (response.status, int(response.headers["Retry-After"]) in range(5, 11)) == (503, True)

            # The database is made only now: the region was waiting for it.
            await server.create_database("region")
            await site.until(lambda: site._answers(f"{region.base}/readyz"))

            async def stored() -> bool:
                return set((await site.statuses(region)).values()) == {"stored"}

            await site.until(stored)

        status, problem = await site.api(region, "GET", "/images")
        assert (status, problem["code"]) == (503, "unavailable")
        async with site.session.get(f"{region.base}/livez") as response:
            assert response.status == 200

        with postgres.running(database_directory, fsync=False) as server:
            assert server.url("region") == url
            await site.until(lambda: site._answers(f"{region.base}/readyz"))
            assert await site.statuses(region)
            assert await region.stop() == 0
