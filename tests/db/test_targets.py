"""The view `targets`, held against a small reference in Python, and its rules one by one."""

import asyncio
import itertools
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime

import pytest
from hypothesis import HealthCheck, given
from hypothesis import settings as examples
from hypothesis import strategies as st
from sqlalchemy import insert, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deploy.local import postgres
from region.catalogue import selections, targets, wanted
from region.catalogue.facts import Target, Wish
from region.database import tables
from region.database.connection import create_engine, transaction
from shared.names import ImageKey
from tests import reference
from tests.conftest import TEMPLATE
from tests.reference import Product, Source, Version

NOW = datetime(2026, 7, 23, 12, 0, tzinfo=UTC)
NOBLE, JAMMY = (ImageKey.parse(f"ubuntu:{release}:amd64") for release in ("noble", "jammy"))
GRUB = ImageKey.parse("bootloader:uefi:amd64")
PLACES = [
    (NOBLE, "ga-24.04", "stable"),
    (NOBLE, "hwe-24.04", "stable"),
    (NOBLE, "ga-24.04", "candidate"),
    (JAMMY, "ga-22.04", "stable"),
    (GRUB, "uefi", "stable"),
]


@dataclass(frozen=True)
class Catalogue:
    """All the view looks at."""

    sources: list[Source]
    products: list[Product]
    wishes: frozenset[Wish]
    pins: Mapping[ImageKey, str]
    bootloader_source: int | None


@st.composite
def catalogues(draw: st.DrawFn) -> Catalogue:
    numbers = itertools.count(1)
    sources = [
        Source(n, priority, *draw(st.tuples(st.booleans(), st.booleans(), st.booleans())))
        for n, priority in enumerate(draw(st.permutations([10, 20, 30])), start=1)
    ]
    products = []
    for source, (image, kernel, label) in itertools.product(sources, PLACES):
        if draw(st.booleans()):
            continue
        names = draw(st.lists(st.sampled_from(["1", "2", "9", "10", "20260701.10"]), unique=True, max_size=3))
        versions = tuple(Version(next(numbers), name, draw(st.booleans()), draw(st.booleans())) for name in names)
        products.append(
            Product(
                next(numbers),
                source.id,
                image,
                f"{image.release}/{kernel}/{label}",
                draw(st.booleans()),
                versions,
                kernel,
                label,
                bootloader=image == GRUB,
            )
        )
    some = st.none() | st.frozensets(st.sampled_from(["ga-24.04", "hwe-24.04", "ga-22.04"]), min_size=1)
    wishes = draw(
        st.lists(
            st.builds(
                Wish,
                st.sampled_from([None, 1, 2, 3]),
                st.sampled_from([NOBLE, JAMMY]),
                some,
                st.none() | st.just(frozenset({"stable"})),
            ),
            max_size=4,
            unique_by=lambda wish: (wish.source_id, wish.image),
        )
    )
    return Catalogue(
        sources,
        products,
        frozenset(wishes),
        draw(st.dictionaries(st.sampled_from([NOBLE, JAMMY]), st.sampled_from(["1", "2", "9"]), max_size=2)),
        draw(st.sampled_from([None, 1, 2])),
    )


async def write(connection: AsyncConnection, catalogue: Catalogue) -> None:
    """The catalogue as rows; ids are those of the reference."""
    for source in catalogue.sources:
        vouchers = ["unsigned:u"] if source.unsigned else ["KEY"]
        await connection.execute(
            text("""
                INSERT INTO sources (id, name, url, keyring, unsigned, priority, created_at, vouchers, trust_revision,
                                     read_revision)
                OVERRIDING SYSTEM VALUE VALUES (:id, :name, 'http://x/', :keyring, :unsigned, :priority, :now,
                                                :vouchers, 2, :read)
            """),
            {
                "id": source.id,
                "name": f"source {source.id}",
                "keyring": None if source.unsigned else b"k",
                "unsigned": source.unsigned,
                "priority": source.priority,
                "now": NOW,
                "vouchers": vouchers,
                "read": 2 if source.current else 1,
            },
        )
        for content_id in ("", "images"):
            await connection.execute(
                insert(tables.stream_documents).values(
                    source_id=source.id,
                    content_id=content_id,
                    path="p",
                    updated=NOW,
                    vouched_by=[*(vouchers if source.vouched else []), "ANOTHER"],
                )
            )
    for product in catalogue.products:
        await connection.execute(
            text("""
                INSERT INTO products (id, source_id, content_id, name, kind, os, release, arch, subarch, label, title,
                                      version, codename, offered, image, place)
                OVERRIDING SYSTEM VALUE VALUES (:id, :source_id, 'images', :name, :kind, :os, :release, :arch, :kernel,
                                                :label, '', '', '', :offered, :image, :place)
            """),
            {
                "id": product.id,
                "source_id": product.source_id,
                "name": f"product {product.id}",
                "kind": "bootloader" if product.bootloader else "boot",
                **product.image._asdict(),
                "kernel": product.kernel,
                "label": product.label,
                "offered": product.listed,
                "image": str(product.image),
                "place": product.place,
            },
        )
        for version in product.versions:
            await connection.execute(
                text("""
                    INSERT INTO versions (id, product_id, name, offered, held_at)
                    OVERRIDING SYSTEM VALUE VALUES (:id, :product_id, :name, :offered, :held_at)
                """),
                {
                    "id": version.id,
                    "product_id": product.id,
                    "name": version.name,
                    "offered": version.offered,
                    "held_at": NOW if version.held else None,
                },
            )
            await connection.execute(
                insert(tables.items).values(
                    version_id=version.id, key="k", ftype="boot-kernel", path="p", sha256="0" * 64, size=1
                )
            )
    await connection.execute(
        insert(tables.region).values(
            id=1, fingerprint="f", epoch=1, created_at=NOW, bootloader_source_id=catalogue.bootloader_source
        )
    )
    await selections.replace(connection, catalogue.wishes, NOW)
    await wanted.refresh(connection, NOW)
    for image, version_name in catalogue.pins.items():
        await connection.execute(insert(tables.pins).values(**image._asdict(), version=version_name, created_at=NOW))


def told(found: list[Target]) -> list[tuple[object, ...]]:
    return [(*entry.image, entry.place, entry.version_id, entry.held, entry.offered, entry.current) for entry in found]


async def _compare(engine: AsyncEngine, catalogue: Catalogue) -> None:
    async with engine.connect() as connection:
        await write(connection, catalogue)
        seen = await targets.list_all(connection)
        await connection.rollback()
    expected = reference.targets(
        catalogue.wishes, catalogue.sources, catalogue.products, catalogue.pins, catalogue.bootloader_source
    )
    assert told(seen) == told(expected)


def test_the_view_says_what_the_reference_says(database_server: postgres.Server) -> None:
    """One database for all examples; each is rolled back."""
    with asyncio.Runner() as runner:
        runner.run(database_server.clone(TEMPLATE, "targets"))
        engine = create_engine(database_server.url("targets"))

        @examples(max_examples=150, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(catalogues())
        def compare(catalogue: Catalogue) -> None:
            runner.run(_compare(engine, catalogue))

        try:
            compare()
        finally:
            runner.run(engine.dispose())
            runner.run(database_server.drop_database("targets"))


async def test_what_is_wanted_of_whom_is_told_from_the_selections_and_the_products(engine: AsyncEngine) -> None:
    products = [
        Product(n, source, NOBLE, f"noble/{kernel}/stable", True, (Version(n + 10, "1", True, False),), kernel)
        for n, (source, kernel) in enumerate([(1, "ga"), (1, "hwe"), (2, "ga"), (2, "hwe")], start=1)
    ]
    wishes = frozenset({Wish(None, NOBLE, frozenset({"ga"})), Wish(2, NOBLE)})
    async with transaction(engine) as connection:
        await write(connection, Catalogue([Source(1, 10), Source(2, 20)], products, wishes, {}, None))
        rows = await connection.execute(text("SELECT source_id, kernel, named FROM wanted ORDER BY 1, 2"))
        assert [tuple(row) for row in rows] == [(1, "ga", False), (2, "ga", True), (2, "hwe", True)]
        await selections.replace(connection, [Wish(1, NOBLE)], NOW)
        await wanted.refresh(connection, NOW)
        rows = await connection.execute(text("SELECT source_id, kernel, named FROM wanted ORDER BY 1, 2"))
        assert [tuple(row) for row in rows] == [(1, "ga", True), (1, "hwe", True)]


@pytest.mark.parametrize(
    ("wishes", "signed_lists", "winner"),
    [
        pytest.param([Wish(None, NOBLE)], True, 1, id="signed before unsigned, whatever the priorities"),
        pytest.param([Wish(None, NOBLE)], False, 2, id="the unsigned one where no signed one lists it"),
        pytest.param([Wish(None, NOBLE), Wish(2, NOBLE)], True, 2, id="the unsigned one that a selection names"),
    ],
)
async def test_an_unsigned_source_wins_from_a_signed_one_only_by_name(
    engine: AsyncEngine, wishes: list[Wish], signed_lists: bool, winner: int
) -> None:
    products = [
        Product(n, n, NOBLE, "noble/ga/stable", n == 2 or signed_lists, (Version(n + 10, "1", True, False),))
        for n in (1, 2)
    ]
    sources = [Source(1, 10), Source(2, 20, unsigned=True)]
    async with transaction(engine) as connection:
        await write(connection, Catalogue(sources, products, frozenset(wishes), {}, None))
        assert [target.source_id for target in await targets.list_all(connection)] == [winner]


async def test_a_source_whose_offers_lapsed_loses_the_image_to_nobody(engine: AsyncEngine) -> None:
    products = [Product(n, n, NOBLE, "noble/ga/stable", True, (Version(n + 10, "1", True, n == 2),)) for n in (1, 2)]
    sources = [Source(1, 10), Source(2, 20, vouched=False)]
    async with transaction(engine) as connection:
        await write(connection, Catalogue(sources, products, frozenset({Wish(None, NOBLE)}), {}, None))
        assert await targets.list_all(connection) == []
