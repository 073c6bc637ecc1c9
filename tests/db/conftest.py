"""A small mirror, its server and a region that knows it, for the tests that import from one."""

import shutil
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import pytest

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from region.importing import importer
from tests.conftest import NOW, Clock
from tests.db.bench import Bench, build, small_mirror


@pytest.fixture(scope="session")
def small(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where a small mirror is: three LTS with two kernels each, CentOS 8 and one bootloader."""
    return small_mirror(tmp_path_factory.mktemp("small") / "mirror", seed=0).directory


@pytest.fixture
def mirror(request: pytest.FixtureRequest, tmp_path: Path, small: Path) -> Mirror:
    """A mirror as of an hour ago: small, or the whole sample where a test asks for that."""
    if getattr(request, "param", "small") == "whole":
        return Mirror.create(tmp_path / "mirror", now=NOW - timedelta(hours=1), sizes=TINY)
    shutil.copytree(small, tmp_path / "mirror")
    return Mirror.open(tmp_path / "mirror")


@pytest.fixture
async def server(mirror: Mirror) -> AsyncIterator[Server]:
    """`mirror`, served."""
    async with serve(mirror) as serving:
        yield serving


@pytest.fixture
async def bench(
    tmp_path: Path,
    database_url: str,
    server: Server,
    mirror: Mirror,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Bench]:
    """A region on its first start: it knows the mirror as its default source and has imported nothing."""
    monkeypatch.setattr(importer, "PROGRESS_PERIOD_S", 0.05)
    built = build(tmp_path / "region", database_url, server, mirror, clock)
    await built.prepare()
    yield Bench(built)
    await built.engine.dispose()
