"""How long, and in how much memory, the region takes in a stream of real size: parse, catalogue, plan.

    python -m tests.bench.real_scale [--stream DIR]

DIR holds `streams/v1/*.json`; without it the sample mirror's small stream is measured. Everything runs against a real
PostgreSQL. The first reading writes every row; the second finds nothing changed.
"""

import argparse
import asyncio
import resource
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path

from deploy.local import postgres
from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.scratch import scratch_directory
from region.actions import effect
from region.catalogue import products, selections, sources, wanted
from region.catalogue.facts import Wish
from region.catalogue.patterns import Pattern
from region.catalogue.products import INDEX, Document, Reading
from region.database.connection import create_engine, migrate, transaction
from region.stream.documents import Index, Products, parse_index, parse_products
from shared.names import ImageKey, RelativePath


def read(root: Path) -> tuple[Index, list[tuple[RelativePath, Products]]]:
    """The stream below `root`, parsed."""
    index = parse_index((root / "streams/v1/index.json").read_bytes(), "index")
    return index, [
        (entry.path, parse_products((root / entry.path).read_bytes(), entry.path)) for entry in index.entries
    ]


def tell(what: str, began: float) -> None:
    print(f"{what:<36}{(time.perf_counter() - began) * 1000:>9.0f} ms")


VOUCHERS = ("unsigned:http://x/",)


async def measure(url: str, root: Path) -> None:
    engine = create_engine(url)
    await migrate(engine)
    began = time.perf_counter()
    index, streams = read(root)
    tell("parse", began)
    now = datetime.now(UTC)
    reading = Reading(
        Document(INDEX, RelativePath("streams/v1/index.json"), index.updated, "", vouched_by=VOUCHERS),
        frozenset(stream.content_id for _, stream in streams),
        [
            (Document(stream.content_id, path, stream.updated, "", vouched_by=VOUCHERS), stream)
            for path, stream in streams
        ],
    )
    async with transaction(engine) as connection:
        source = await sources.create(
            connection, sources.wish(name="bench", url="http://x/", unsigned=True, priority=1), now
        )
    for what in ("catalogue, first reading", "catalogue, nothing changed"):
        began = time.perf_counter()
        async with transaction(engine) as connection:
            await products.record(connection, source.id, reading, source.trust_revision, now)
        tell(what, began)
    offered = [product for _, stream in streams for product in stream.products]
    everything = {
        Wish(source.id, ImageKey(product.os, product.release, product.arch))
        for product in offered
        if product.bootloader_type is None
    }
    began = time.perf_counter()
    async with transaction(engine) as connection:
        await selections.replace(connection, everything, now)
        await wanted.refresh(connection, now)
        decided = (await effect.look(connection)).plan
    tell("selection, targets and plan, all images selected", began)
    rules = [Wish(None, Pattern("ubuntu", f"lts:{n}", arch)) for n in range(1, 100) for arch in ("amd64", "arm64", "*")]
    async with transaction(engine) as connection:
        await selections.replace(connection, rules[:200], now)
        for what in ("200 rules, what they mean", "200 rules, nothing changed"):
            began = time.perf_counter()
            await wanted.refresh(connection, now)
            tell(what, began)
        await connection.rollback()
    items = sum(len(version.items) for product in offered for version in product.versions)
    print(f"{len(offered)} products, {items} items, {len(decided.imports)} imports, {decided.fetch_bytes / 1e9:.1f} GB")
    print(f"peak memory of this process {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024:.0f} MiB")
    await engine.dispose()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else "")
    parser.add_argument("--stream", type=Path, help="the root of a mirror's metadata")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch, scratch_directory() as directory:
        root = arguments.stream
        if root is None:
            root = Mirror.create(Path(scratch) / "upstream", now=datetime.now(UTC), sizes=TINY).root
        with postgres.running(directory, fsync=False) as server:
            asyncio.run(server.create_database("bench"))
            asyncio.run(measure(server.url("bench"), root))


if __name__ == "__main__":
    main()
