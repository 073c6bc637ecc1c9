"""A site for one test, cleaned away after it."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import aiohttp
import pytest

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from tests.conftest import NOW
from tests.e2e.site import Service, Site
from tests.http.conftest import upstream

__all__ = ["upstream"]
"""A fixture of another folder, for the tests of this one too."""


@pytest.fixture
async def site(tmp_path: Path) -> AsyncIterator[Site]:
    """An empty site; what a test leaves running is killed."""
    async with aiohttp.ClientSession() as session:
        made = Site(tmp_path, session)
        yield made
        for service in reversed(made.services):
            if service.process is not None:
                service.process.kill()
                service.process.wait()


@dataclass(frozen=True, slots=True)
class Ferry:
    """One mirror, one region, one rack."""

    site: Site
    mirror: Mirror
    upstream: Server
    region: Service
    rack: Service
    database_url: str

    def rack_file(self, path: str) -> Path:
        """A name in the tree the rack serves now."""
        return self.site.directory / "rack-1" / "current" / path


@pytest.fixture
async def ferry(site: Site, database_url: str, tmp_path: Path) -> AsyncIterator[Ferry]:
    """The region runs; the rack is not enrolled yet. The kernel is large enough to be caught in the middle."""
    mirror = Mirror.create(tmp_path / "upstream", now=NOW, sizes=TINY | {"squashfs": 24_000_000})
    async with serve(mirror, host="127.0.0.1") as upstream:
        region = site.add_region(
            "region", database_url, upstream.url, mirror.keyring_path, REGION_PRUNE_GRACE_SECONDS="0"
        )
        rack = site.add_rack("rack-1", RACK_PRUNE_GRACE_SECONDS="0")
        yield Ferry(site, mirror, upstream, region, rack, database_url)
