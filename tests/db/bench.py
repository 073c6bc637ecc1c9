"""A region on real parts, for tests of imports: a signed mirror over HTTP, a PostgreSQL, a store.

The fixtures that make them are in `tests/db/conftest.py`.
"""

import base64
import json
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

from sqlalchemy import text

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import File, Mirror
from deploy.local.mirror.server import Server
from region import app
from region.catalogue import images, sources
from region.catalogue.images import Image
from region.catalogue.sources import Source
from region.configuration import RegionConfiguration
from region.database.connection import transaction
from region.importing import imports
from region.importing.importer import run_next
from region.importing.imports import Import
from region.process import Region
from region.publishing import manifest
from shared.digest import Sha256
from shared.names import ImageKey
from shared.patience import Patience
from shared.wire.manifest import Manifest
from tests.conftest import NOW, Clock
from tests.db.rows import select_images

RESOLUTE = ImageKey.parse("ubuntu:resolute:amd64")
NOBLE = ImageKey.parse("ubuntu:noble:amd64")
JAMMY = ImageKey.parse("ubuntu:jammy:amd64")
CENTOS_8 = ImageKey.parse("centos:8:amd64")
Eventually = Callable[[Callable[[], object]], Awaitable[object]]
Fields = dict[str, Any]
KERNELS = ("ga", "ga-lowlatency", "hwe", "hwe-edge", "hwe-lowlatency")


LEFT_OUT = ("*:arm64*", "*lowlatency", "*edge", "*:2?.10:*", "*:25.04:*", "*:6.6:*", "*:7.0:*", "*grub*", "*i386")


def small_mirror(directory: Path, *, seed: int) -> Mirror:
    """With another seed it has other bytes under the same names; its key is its own."""
    made = Mirror.create(directory, now=NOW - timedelta(hours=1), sizes=TINY, seed=seed)
    for pattern in LEFT_OUT:
        made.drop_product(pattern)
    return made


@dataclass
class Bench:
    """A region under test, with what tests ask and tell it."""

    region: Region

    async def import_now(self, trigger: str = "operator", scope: Iterable[ImageKey] | None = None) -> Import:
        """What became of an import that was asked for just now."""
        import_id = await self.ask(trigger, scope)
        assert await run_next(self.region.importer)
        return await self.import_of(import_id)

    async def ask(self, trigger: str = "operator", scope: Iterable[ImageKey] | None = None) -> int:
        async with transaction(self.region.engine) as connection:
            wanted = None if scope is None else frozenset(scope)
            return await imports.enqueue(connection, trigger, "a test", self.region.now(), wanted)

    async def import_of(self, import_id: int) -> Import:
        async with transaction(self.region.engine) as connection:
            return await imports.get(connection, import_id)

    async def select(self, *chosen: tuple[int, ImageKey] | ImageKey) -> None:
        """Select exactly these images, from the first source where none is named."""
        wanted = [(1, entry) if isinstance(entry, ImageKey) else entry for entry in chosen]
        async with transaction(self.region.engine) as connection:
            await select_images(connection, *wanted, now=self.region.now())

    async def manifest(self) -> Manifest:
        async with transaction(self.region.engine) as connection:
            published = await manifest.current(connection, self.region.key)
        return published.manifest if published else Manifest(0, 0, self.region.now(), ())

    async def manifests_since(self, serial: int) -> list[Manifest]:
        """Every manifest after the one with `serial`, oldest first."""
        async with transaction(self.region.engine) as connection:
            envelopes = await connection.scalars(
                text("SELECT envelope FROM manifests WHERE serial > :serial ORDER BY serial"), {"serial": serial}
            )
            found = [Manifest.parse(_payload(envelope)) for envelope in envelopes]
        assert [entry.serial for entry in found] == list(range(serial + 1, serial + 1 + len(found)))
        return found

    async def image(self, key: ImageKey = RESOLUTE) -> Image:
        async with transaction(self.region.engine) as connection:
            return await images.get(connection, key, self.region.now())

    async def source(self, source_id: int = 1) -> Source:
        async with transaction(self.region.engine) as connection:
            return await sources.get(connection, source_id)

    async def add_source(self, server: Server, mirror: Mirror, *, name: str = "second", priority: int = 20) -> int:
        wished = sources.wish(name=name, url=server.url, keyring=mirror.keyring, priority=priority)
        async with transaction(self.region.engine) as connection:
            return (await sources.create(connection, wished, self.region.now())).id

    async def stored(self) -> set[Sha256]:
        """What the rows say is stored; the disk is asked whether that is so (I1)."""
        async with transaction(self.region.engine) as connection:
            rows = await connection.execute(text("SELECT sha256, size FROM files"))
            found = {Sha256(row.sha256): row.size for row in rows}
        for sha256, size in found.items():
            assert self.region.store.has(sha256, size)
            assert self.region.store.digest_of(sha256) == sha256
        return set(found)

    async def digests_at(self, slot: str) -> dict[str, str]:
        """The files of a directory of the racks' tree, by ftype."""
        entries = (await self.manifest()).entries
        return {
            entry.path.rpartition("/")[2]: entry.sha256 for entry in entries if entry.path.rpartition("/")[0] == slot
        }


def _payload(envelope: bytes) -> bytes:
    return base64.b64decode(json.loads(envelope)["payload"])


def slot(release: str = "resolute", version: str = "26.04", kernel: str = "ga", arch: str = "amd64") -> str:
    branch, *flavour = kernel.split("-", 1)
    return f"ubuntu/{arch}/{'-'.join([f'{branch}-{version}', *flavour])}/{release}/stable"


def digests(files: dict[str, File]) -> dict[str, str]:
    return {ftype: file.sha256 for ftype, file in files.items()}


def paths_asked(server: Server, pattern: str = "*") -> list[str]:
    """What was asked for below `pattern`, the stream's own documents left out."""
    return [request.path for request in server.asked(pattern) if not request.path.startswith("streams/")]


def build(directory: Path, database_url: str, server: Server, mirror: Mirror, clock: Clock) -> Region:
    settings = RegionConfiguration(
        database_url=database_url,
        data_dir=directory,
        default_source_url=server.url,
        default_source_keyring=mirror.keyring_path,
        migrate_on_start=False,
    )
    built = app.build(settings, now=clock)
    # No patience between attempts: what is waited for is tried at once.
    built.importer = replace(built.importer, patience=Patience(first_s=0.0))
    return built


def rewrite_products(mirror: Mirror, which: Callable[[Fields], bool], change: Callable[[Fields], object]) -> None:
    """Let upstream say something else of its products, and sign that."""
    path = mirror.directory / "mirror.json"
    state = json.loads(path.read_bytes())
    for document in state["documents"].values():
        for product in document.values():
            if which(product):
                change(product)
    path.write_text(json.dumps(state))
    mirror.rewrite()
