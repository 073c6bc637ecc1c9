"""What is held: processes that meet, transactions that fail, and a crash or a lost lease at any step of an import."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deploy.local.mirror.faults import Slow, Status
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server
from region.catalogue import trust
from region.database.connection import transaction
from region.importing import holding, importer, upkeep
from region.importing.importer import run_next
from region.process import Region
from region.publishing import held, manifest
from region.publishing.held import Change, Publisher
from region.stream.documents import Product
from shared.digest import Sha256
from shared.names import Name
from shared.wire.manifest import Manifest
from tests.conftest import Clock
from tests.db.bench import JAMMY, NOBLE, Bench, Eventually, build, digests, slot
from tests.db.rows import EPOCH, NOW, kernel, make_region, make_source, store_files

GA, HWE, JAMMY_GA = (
    f"ubuntu/amd64/{folder}/stable" for folder in ("ga-24.04/noble", "hwe-24.04/noble", "ga-22.04/jammy")
)
GENERIC = "ubuntu/amd64/generic/noble/stable"


@pytest.fixture
def key() -> Ed25519PrivateKey:
    return Ed25519PrivateKey.generate()


@pytest.fixture
async def ids(engine: AsyncEngine, key: Ed25519PrivateKey) -> dict[tuple[str, str], int]:
    """Versions of a region that holds nothing yet and has all their files, by place and name."""
    async with transaction(engine) as connection:
        await make_region(connection, key)
        await make_source(
            connection,
            kernel("1", "2"),
            kernel("1", "2", subarch="hwe-24.04"),
            kernel("1", "2", subarch="ga-22.04", release="jammy", version="22.04"),
            generic(),
        )
        await store_files(
            connection, [Sha256(sha256) for sha256 in await connection.scalars(text("SELECT sha256 FROM items"))]
        )
        rows = await connection.execute(
            text("SELECT place, versions.name, versions.id FROM versions JOIN products ON products.id = product_id")
        )
        return {(row.place, row.name): row.id for row in rows}


def generic() -> Product:
    """A kernel that is called generic, with the very files of the one the release came with."""
    ga = kernel("1")
    return replace(ga, name="org.example:noble:amd64:generic", subarch=Name("generic"), is_ga=False)


async def changed(
    engine: AsyncEngine, publisher: Publisher, *, hold: Collection[int] = (), withdraw: Collection[int] = ()
) -> Change:
    async with transaction(engine) as connection:
        return await held.change(connection, publisher, NOW, hold=hold, withdraw=withdraw, begin=True)


async def said(engine: AsyncEngine, key: Ed25519PrivateKey) -> Manifest:
    """The manifest in the database, which is what a process that remembers nothing would publish now."""
    async with transaction(engine) as connection:
        published = await manifest.current(connection, key)
        assert published is not None
        assert published.manifest.entries == manifest.entries(await manifest.shown(connection))
        held_twice = await connection.scalars(
            text("""
                SELECT place FROM versions JOIN products ON products.id = product_id
                WHERE held_at IS NOT NULL GROUP BY place HAVING count(*) > 1
            """)
        )
        assert held_twice.all() == []
        return published.manifest


def places(found: Manifest) -> set[str]:
    return {entry.path.rpartition("/")[0] for entry in found.entries}


# Two processes, one memory each


async def test_a_process_that_slept_publishes_what_others_hold_as_well(
    engine: AsyncEngine, key: Ed25519PrivateKey, ids: dict[tuple[str, str], int]
) -> None:
    one, two = Publisher(key), Publisher(key)
    await changed(engine, one, hold=[ids[GA, "1"]])
    await changed(engine, two, hold=[ids[HWE, "1"]])
    await changed(engine, two, hold=[ids[GA, "2"]])
    await changed(engine, one, hold=[ids[JAMMY_GA, "1"]])
    found = await said(engine, key)
    assert found.order == (EPOCH, 4)
    assert places(found) == {GA, GENERIC, HWE, JAMMY_GA, "ubuntu/amd64/generic/jammy/stable"}
    assert {entry.version for entry in found.entries if entry.path.startswith(GA)} == {"2"}
    await changed(engine, two, withdraw=[ids[JAMMY_GA, "1"]])
    assert places(await said(engine, key)) == {GA, GENERIC, HWE}


async def test_a_memory_of_the_same_serial_that_was_restored_away_does_not_count(
    engine: AsyncEngine, key: Ed25519PrivateKey, ids: dict[tuple[str, str], int]
) -> None:
    """Epoch and serial are the ones the process remembers, and the manifest is another."""
    one, two = Publisher(key), Publisher(key)
    await changed(engine, one, hold=[ids[GA, "1"]])
    await changed(engine, one, hold=[ids[HWE, "1"]])
    async with transaction(engine) as connection:
        await connection.execute(text("DELETE FROM manifests WHERE serial = 2"))
        await connection.execute(text("UPDATE region SET serial = 1"))
        await connection.execute(text("UPDATE versions SET held_at = NULL WHERE id = :id"), {"id": ids[HWE, "1"]})
    await changed(engine, two, hold=[ids[JAMMY_GA, "1"]])
    await changed(engine, one, hold=[ids[GA, "2"]])
    found = await said(engine, key)
    assert found.order == (EPOCH, 3)
    assert HWE not in places(found)
    assert JAMMY_GA in places(found)


async def test_a_name_that_passes_to_another_place_is_known_to_every_process(
    engine: AsyncEngine, key: Ed25519PrivateKey, ids: dict[tuple[str, str], int]
) -> None:
    """`generic` is a name of the release's own kernel as well: held for itself, it brings no new name, and stays."""
    one, two = Publisher(key), Publisher(key)
    await changed(engine, one, hold=[ids[GA, "1"]])
    await changed(engine, two, hold=[ids[GENERIC, "1"]])
    await changed(engine, one, withdraw=[ids[GA, "1"]])
    assert places(await said(engine, key)) == {GENERIC}


# A transaction that fails


async def test_what_was_rolled_back_is_not_remembered(
    engine: AsyncEngine, key: Ed25519PrivateKey, ids: dict[tuple[str, str], int]
) -> None:
    publisher = Publisher(key)
    await changed(engine, publisher, hold=[ids[GA, "1"], ids[HWE, "1"]])
    for hold, withdraw in (([ids[JAMMY_GA, "1"]], []), ([], [ids[HWE, "1"]]), ([ids[GENERIC, "1"]], [])):
        with pytest.raises(ZeroDivisionError):
            async with transaction(engine) as connection:
                await held.change(connection, publisher, NOW, hold=hold, withdraw=withdraw)
                raise ZeroDivisionError
        await changed(engine, publisher, hold=[ids[GA, "1"]])
        found = await said(engine, key)
        assert (found.order, places(found)) == ((EPOCH, 1), {GA, GENERIC, HWE})
    await changed(engine, publisher, withdraw=[ids[GA, "1"]])
    found = await said(engine, key)
    assert (found.order, places(found)) == ((EPOCH, 2), {HWE})


async def test_a_serial_that_was_rolled_back_is_taken_by_another_process(
    engine: AsyncEngine, key: Ed25519PrivateKey, ids: dict[tuple[str, str], int]
) -> None:
    one, two = Publisher(key), Publisher(key)
    await changed(engine, one, hold=[ids[GA, "1"]])
    with pytest.raises(ZeroDivisionError):
        async with transaction(engine) as connection:
            await held.change(connection, one, NOW, hold=[ids[HWE, "1"]])
            raise ZeroDivisionError
    await changed(engine, two, hold=[ids[JAMMY_GA, "1"]])
    await changed(engine, one, hold=[ids[GA, "2"]])
    found = await said(engine, key)
    assert (found.order, HWE in places(found), JAMMY_GA in places(found)) == ((EPOCH, 3), False, True)


# What may not be held


@pytest.mark.parametrize(
    "lapse",
    [
        pytest.param("UPDATE stream_documents SET vouched_by = '{another}'", id="nobody of today signed its document"),
        pytest.param(
            "UPDATE sources SET trust_revision = trust_revision + 1", id="its source was read under another trust"
        ),
        pytest.param("UPDATE sources SET keyring_readable = false", id="its source's keyring cannot be read"),
    ],
)
async def test_a_version_that_nobody_vouches_for_at_that_moment_is_not_held(
    engine: AsyncEngine, key: Ed25519PrivateKey, ids: dict[tuple[str, str], int], lapse: str
) -> None:
    """The plan that chose it may be older than the change: each of the three is looked at in the step itself (I8)."""
    publisher = Publisher(key)
    assert (await changed(engine, publisher, hold=[ids[GA, "1"]])).held == {ids[GA, "1"]}
    async with transaction(engine) as connection:
        await connection.execute(text(lapse))
    done = await changed(engine, publisher, hold=[ids[GA, "2"]])
    assert (done.held, done.withdrawn, done.published) == (frozenset(), frozenset(), None)


async def test_a_version_with_a_file_missing_is_not_held(
    engine: AsyncEngine, key: Ed25519PrivateKey, ids: dict[tuple[str, str], int]
) -> None:
    async with transaction(engine) as connection:
        await connection.execute(
            text("DELETE FROM files USING items WHERE items.sha256 = files.sha256 AND (version_id, key) = (:id, :key)"),
            {"id": ids[HWE, "1"], "key": "boot-kernel"},
        )
    done = await changed(engine, Publisher(key), hold=[ids[GA, "1"], ids[HWE, "1"]])
    assert done.held == {ids[GA, "1"]}
    assert HWE not in places(await said(engine, key))


# An import that is broken off at any step

STEPS = (importer, holding, trust, upkeep)


class Killed(BaseException):
    """The process is gone."""


class Breaker:
    """Lets a process have so many transactions. What it does to the next one is for `then` to say."""

    def __init__(self, engine: AsyncEngine, monkeypatch: pytest.MonkeyPatch) -> None:
        self.engine = engine
        self.left: int | None = None
        self.at_end = False
        self.then: Callable[[], Awaitable[None]]
        for module in STEPS:
            monkeypatch.setattr(module, "transaction", self.transaction)

    @asynccontextmanager
    async def transaction(self, engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
        breaks = False
        if engine is self.engine and self.left is not None:
            self.left -= 1
            breaks = self.left < 0
        if breaks and not self.at_end:
            await self.then()
        async with transaction(engine) as connection:
            yield connection
            if breaks and self.at_end:
                await self.then()


@dataclass
class Two:
    """Two processes of one region, and the breaker of one of them. Their mirror offers noble and a bootloader only."""

    bench: Bench
    second: Region
    breaker: Breaker

    async def take_over(self) -> None:
        """The lease of whoever runs the import has run out, and the second process carries it on."""
        async with transaction(self.second.engine) as connection:
            await connection.execute(
                text("UPDATE imports SET lease_until = clock_timestamp() - interval '1 second' WHERE state = 'running'")
            )
        await run_next(self.second.importer)

    async def everything(self) -> dict[str, Sequence[Any]]:
        """All rows that an import writes."""
        async with transaction(self.second.engine) as connection:
            return {
                table: (await connection.execute(text(f"SELECT * FROM {table} ORDER BY 1, 2"))).all()  # noqa: S608
                for table in ("region", "sources", "versions", "files", "manifests", "imports", "published_images")
            }

    async def require_right(self, names: Collection[str]) -> None:
        """What racks are told is what is held, is stored, and has all these names."""
        found = await said(self.bench.region.engine, self.bench.region.key)
        assert {entry.path for entry in found.entries} == set(names)
        assert found.files().keys() <= await self.bench.stored()


@pytest.fixture
async def two(
    bench: Bench,
    tmp_path: Path,
    database_url: str,
    server: Server,
    mirror: Mirror,
    clock: Clock,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[Two]:
    for pattern in ("*:22.04:*", "*:26.04:*", "*centos*"):
        mirror.drop_product(pattern)
    second = build(tmp_path / "region", database_url, server, mirror, clock)
    await second.prepare()
    # No heart beats: how many transactions an import has depends on what it does only.
    monkeypatch.setattr(importer, "PROGRESS_PERIOD_S", 3600)
    yield Two(bench, second, Breaker(bench.region.engine, monkeypatch))
    await second.engine.dispose()


async def test_an_import_that_was_killed_at_any_step_is_carried_on(two: Two, mirror: Mirror) -> None:
    """It dies at the end of each of its transactions, which is rolled back: what it remembers is of another time."""
    bench = two.bench
    await bench.select(NOBLE)
    await bench.import_now()
    names = {entry.path for entry in (await bench.manifest()).entries}
    two.breaker.at_end = True

    async def die() -> None:
        raise Killed

    for step in range(100):
        published = mirror.publish(release="noble", arch="amd64")
        import_id = await bench.ask("schedule")
        two.breaker.engine, two.breaker.left, two.breaker.then = bench.region.engine, step, die
        [ended] = await asyncio.gather(run_next(bench.region.importer), return_exceptions=True)
        two.breaker.left = None
        await two.require_right(names)
        if not isinstance(ended, BaseException):
            break
        await two.take_over()
        done = await bench.import_of(import_id)
        assert (done.state, done.error) == ("succeeded", ""), step
        await two.require_right(names)
        assert (await bench.image(NOBLE)).held_version == published.version
        # Whoever survived dies next: both remember something, and neither all of it.
        bench.region, two.second = two.second, bench.region
    assert step > 10


async def test_a_runner_that_slept_at_any_step_while_another_took_over_changes_nothing(
    two: Two, mirror: Mirror, clock: Clock
) -> None:
    """Meanwhile a newer version has come, and nobody wants the image any longer: what the sleeper knows is wrong."""
    bench = two.bench
    await bench.select(NOBLE)
    await bench.import_now()
    names = {entry.path for entry in (await bench.manifest()).entries}
    left_behind: list[dict[str, Sequence[Any]]] = []
    woken = asyncio.Event()

    async def sleep() -> None:
        if left_behind:
            await woken.wait()
            return
        left_behind.append({})
        await two.take_over()
        mirror.publish(release="noble", arch="amd64")
        await bench.ask("schedule")
        await run_next(two.second.importer)
        await bench.select()
        left_behind[0] = await two.everything()
        clock.pass_by(timedelta(minutes=1))
        woken.set()

    for step in range(100):
        mirror.publish(release="noble", arch="amd64")
        await bench.select(NOBLE)
        import_id = await bench.ask("schedule")
        two.breaker.left, two.breaker.then = step, sleep
        left_behind.clear()
        woken.clear()
        await run_next(bench.region.importer)
        two.breaker.left = None
        if not left_behind:
            break
        assert await two.everything() == left_behind[0], step
        assert (await bench.import_of(import_id)).state == "succeeded"
        await two.require_right(names)
    assert step > 10


async def test_what_was_recorded_and_not_held_is_held_by_the_next_without_a_byte(
    two: Two, mirror: Mirror, server: Server
) -> None:
    """The process dies between the last file's row and the version that it completes."""
    bench = two.bench
    await bench.select(NOBLE)

    async def die(*_: object, **__: object) -> None:
        raise Killed

    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(held, "change", die)
        await bench.ask()
        await asyncio.gather(run_next(bench.region.importer), return_exceptions=True)
    assert await bench.stored()
    asked = len(server.asked("noble/*"))
    await two.take_over()
    assert (await bench.image(NOBLE)).status == "stored"
    again = len({request.path for request in server.asked("noble/*")})
    assert len(server.asked("noble/*")) - asked == again - asked, "no file was fetched twice"


# The first manifest


async def test_the_first_manifest_is_published_at_the_end_of_the_first_import(
    bench: Bench, mirror: Mirror, server: Server, eventually: Eventually
) -> None:
    """The racks of a database made anew hold what it does not know yet: they are told of all images at once."""
    await bench.select(NOBLE, JAMMY)
    server.misbehave("jammy/*/squashfs", Slow(bytes_per_second=1000))
    await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: held_of(bench, "noble"))
    assert await manifests(bench) == []
    server.behave()
    assert await running
    assert await manifests(bench) == [1]
    for release, version in (("noble", "24.04"), ("jammy", "22.04")):
        found = await bench.digests_at(slot(release, version))
        assert found == digests(mirror.expected(release, "amd64", f"ga-{version}"))


async def test_later_manifests_wait_for_no_end(bench: Bench, server: Server, eventually: Eventually) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    await bench.select(NOBLE, JAMMY)
    server.misbehave("jammy/*/hwe-22.04/*/boot-kernel", Slow(bytes_per_second=200))
    await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: bench.digests_at(slot("jammy", "22.04")))
    server.behave()
    assert await running


async def test_a_first_import_that_held_nothing_publishes_nothing(bench: Bench, server: Server) -> None:
    await bench.select(NOBLE)
    server.misbehave("noble/*", Status(404))
    server.misbehave("bootloaders/*", Status(404))
    assert (await bench.import_now()).state == "failed"
    assert await manifests(bench) == []
    server.behave()
    assert (await bench.import_now()).state == "succeeded"
    assert await manifests(bench) == [1]


async def test_a_first_import_that_was_broken_off_publishes_with_the_next(
    two: Two, server: Server, eventually: Eventually
) -> None:
    bench = two.bench
    await bench.select(NOBLE)
    server.misbehave("noble/*/hwe-24.04/*/boot-kernel", Slow(bytes_per_second=200))
    await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: held_of(bench, "noble"))
    running.cancel()
    await asyncio.gather(running, return_exceptions=True)
    assert await manifests(bench) == []
    server.behave()
    await two.take_over()
    assert await manifests(bench) == [1]
    assert (await bench.digests_at(slot("noble", "24.04", "hwe"))).keys() >= {"boot-kernel", "squashfs"}


async def held_of(bench: Bench, release: str) -> int:
    """How many versions of the release are held."""
    async with transaction(bench.region.engine) as connection:
        found: int = await connection.scalar(
            text("""
                SELECT count(*) FROM versions JOIN products ON products.id = product_id
                WHERE held_at IS NOT NULL AND release = :release
            """),
            {"release": release},
        )
    return found


async def manifests(bench: Bench) -> list[int]:
    async with transaction(bench.region.engine) as connection:
        return list(await connection.scalars(text("SELECT serial FROM manifests ORDER BY serial")))
