"""A database of the code before trust, targets and reports by exception comes up, and racks are told the same.

It is filled by an import of now, and carried over into the tables of then, column by column: what both have is written
as it was, and what only then was there is spelled out here. (How a rack's directory of before comes up is in
`tests/http/test_rack_upgrade.py`, how its reports are counted in `tests/db/test_since.py`.)
"""

import json
from collections.abc import AsyncIterator
from dataclasses import dataclass
from pathlib import Path

import pytest
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncConnection

from deploy.local import postgres
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from region.actions import effect
from region.catalogue import bootloaders, sources, trust
from region.database import connection as database
from region.database.connection import create_engine, transaction
from shared.wire.envelope import open_envelope, seal
from shared.wire.manifest import MANIFEST_TYPE, Manifest
from tests.conftest import Clock
from tests.db.bench import CENTOS_8, JAMMY, NOBLE, RESOLUTE, Bench, build, paths_asked, small_mirror
from tests.db.rows import select_images, selected

# The tables of then, each with its columns; those in _GIVEN have other values than now.
_THEN = {
    "region": "id, fingerprint, epoch, serial, created_at, default_selected_at, proxy, selection_revision",
    "sync_schedule": "id, enabled, last_run_at, next_run_at",
    "sources": "id, name, url, keyring, keyring_path, unsigned, priority, proxy, ca_bundle, created_at, last_read_at,"
    " error_code, error, skipped",
    "stream_documents": "source_id, content_id, path, updated, etag, skipped, listed",
    "products": "id, source_id, content_id, name, kind, os, release, arch, subarch, label, title, version, codename,"
    " support_eol, bootloader_type, is_ga, offered",
    "versions": "id, product_id, name, offered, held_at, held_serial",
    "items": "version_id, key, ftype, path, sha256, size",
    "files": "sha256, size, stored_at, unneeded_since",
    "selections": "id, source_id, os, release, arch, created_at",
    "pins": "os, release, arch, version, created_at",
    "imports": "id, trigger, requested_by, requested_at, scope, state, started_at, finished_at, cancel_requested,"
    " lease_owner, lease_until, fence, bytes_total, bytes_done, error_code, error",
    "manifests": "epoch, serial, envelope, created_at",
    "operator_tokens": "id, name, role, secret_sha256, created_at, expires_at, last_used_at",
}
_GIVEN = {
    # Either the contents or the path, never both.
    "sources": {"keyring": "CASE WHEN keyring_path IS NULL THEN keyring END"},
    "versions": {"held_serial": "CASE WHEN held_at IS NOT NULL THEN (SELECT serial FROM region) END"},
}


@dataclass
class Upgraded:
    """A region of now on a database of then. `before` is what racks were told last; `bench` has not imported yet."""

    bench: Bench
    before: Manifest
    held: set[int]
    signed: Server
    unsigned: Server
    third_signer: str

    def told(self, found: Manifest) -> set[tuple[str, str, str, int]]:
        """What racks are told, without what manifests of then did not say."""
        return {(entry.path, str(entry.kind), entry.sha256, entry.size) for entry in found.entries}

    async def require_same(self) -> None:
        """Racks are told what they were told before, and the same versions are held."""
        assert self.told(await self.bench.manifest()) == self.told(self.before)
        async with transaction(self.bench.region.engine) as connection:
            held = set(await connection.scalars(text("SELECT id FROM versions WHERE held_at IS NOT NULL")))
        assert held == self.held


@pytest.fixture
async def upgraded(
    request: pytest.FixtureRequest,
    bench: Bench,
    mirror: Mirror,
    server: Server,
    clock: Clock,
    tmp_path: Path,
    database_server: postgres.Server,
) -> AsyncIterator[Upgraded]:
    """Noble and CentOS of a source with a keyring file, jammy of an unsigned one, resolute of one with two keys.

    The keyring file is not there during the upgrade where a test asks for "away".
    """
    third, fourth = (small_mirror(tmp_path / name, seed=seed) for name, seed in (("third", 7), ("fourth", 8)))
    third.unsigned()
    name = "of_before_all"
    async with serve(third) as unsigned, serve(fourth) as two_keys:
        async with transaction(bench.region.engine) as connection:
            now = bench.region.now()
            wished = sources.wish(name="unsigned", url=unsigned.url, unsigned=True, priority=20)
            await sources.create(connection, wished, now)
            keyring = fourth.keyring + Key.generate().keyring
            wished = sources.wish(name="two keys", url=two_keys.url, keyring=keyring, priority=30)
            await sources.create(connection, wished, now)
            await select_images(connection, (1, NOBLE), (1, CENTOS_8), (2, JAMMY), (3, RESOLUTE))
        assert (await bench.import_now()).state == "succeeded"
        before = await bench.manifest()
        await database_server.create_database(name)
        old = create_engine(database_server.url(name))
        async with transaction(bench.region.engine) as now_, transaction(old) as then:
            await then.run_sync(_to_then)
            await _carry_back(now_, then, bench)
        await old.dispose()
        built = build(tmp_path / "region", database_server.url(name), server, mirror, clock)
        built.configuration = built.configuration.model_copy(update={"migrate_on_start": True})
        if getattr(request, "param", "") == "away":
            mirror.keyring_path.rename(mirror.keyring_path.with_suffix(".away"))
        await built.prepare()
        for serving in (server, unsigned, two_keys):
            serving.requests.clear()
        async with transaction(bench.region.engine) as connection:
            held = set(await connection.scalars(text("SELECT id FROM versions WHERE held_at IS NOT NULL")))
        yield Upgraded(Bench(built), before, held, server, unsigned, fourth.fingerprint)
        await built.engine.dispose()
        await database_server.drop_database(name)


def _to_then(connection: Connection) -> None:
    from alembic import command

    configuration = database._configuration()
    configuration.attributes["connection"] = connection
    command.upgrade(configuration, "0002")


async def _carry_back(now: AsyncConnection, then: AsyncConnection, bench: Bench) -> None:
    for table, columns in _THEN.items():
        names = columns.split(", ")
        given = _GIVEN.get(table, {})
        asked = ", ".join(f"{given[name]} AS {name}" if name in given else name for name in names)
        rows = (await now.execute(text(f"SELECT {asked} FROM {table}"))).mappings().all()  # noqa: S608
        for row in rows:
            values = dict(row)
            if table == "manifests":
                values["envelope"] = _old_envelope(bench, row["envelope"])
            await then.execute(
                text(
                    f"INSERT INTO {table} ({columns}) OVERRIDING SYSTEM VALUE"  # noqa: S608
                    f" VALUES ({', '.join(f':{name}' for name in names)})"
                ),
                values,
            )
        if rows and names[0] == "id" and isinstance(rows[0]["id"], int) and table not in ("region", "sync_schedule"):
            counter = f"pg_get_serial_sequence('{table}', 'id')"
            await then.execute(text(f"SELECT setval({counter}, (SELECT max(id) FROM {table}))"))  # noqa: S608


def _old_envelope(bench: Bench, envelope: bytes) -> bytes:
    """The manifest as it was written when entries said neither image nor version, and nobody confirmed anything."""
    key = bench.region.key
    payload = json.loads(open_envelope(envelope, MANIFEST_TYPE, [key.public_key()], origin="it"))
    payload = {name: payload[name] for name in ("format", "epoch", "serial", "created_at")} | {
        "entries": [{name: entry[name] for name in ("path", "kind", "sha256", "size")} for entry in payload["entries"]]
    }
    return seal(key, MANIFEST_TYPE, json.dumps(payload).encode())


async def test_racks_are_told_the_same_before_anything_was_read(upgraded: Upgraded) -> None:
    region = upgraded.bench.region
    await upgraded.require_same()
    await region.memory.refresh()
    assert region.memory.published is not None
    assert region.memory.published.manifest.order == upgraded.before.order
    assert region.memory.published_sizes == upgraded.before.files()
    async with transaction(region.engine) as connection:
        assert await selected(connection) == {(1, NOBLE), (1, CENTOS_8), (2, JAMMY), (3, RESOLUTE)}
        assert await trust.unvouched(connection) == []
        state = await effect.look(connection)
        assert [loader.type for loader in await bootloaders.list_all(connection, region.now())] == ["pxe"]
    plan = state.plan
    assert (plan.imports, plan.withdraw, plan.unavailable) == ((), frozenset(), frozenset())
    assert {target.version_id for target in state.targets} == upgraded.held
    assert all(target.current for target in state.targets), "what is lost is fetched again before the next reading"
    assert {target.source_id for target in state.targets if target.bootloader} == {1}
    for image in (NOBLE, CENTOS_8, JAMMY, RESOLUTE):
        found = await upgraded.bench.image(image)
        assert (found.status, found.vouched) == ("stored", True)
    assert await upgraded.bench.stored() >= set(upgraded.before.files())


async def test_the_first_import_after_an_upgrade_fetches_nothing_and_says_who_signed(
    upgraded: Upgraded, mirror: Mirror
) -> None:
    bench = upgraded.bench
    assert (await bench.import_now("schedule")).state == "succeeded"
    await upgraded.require_same()
    after = await bench.manifest()
    assert after.order == (upgraded.before.epoch, upgraded.before.serial + 1)
    assert after.entries == upgraded.before.entries, "it says images and versions now"
    assert paths_asked(upgraded.signed) == paths_asked(upgraded.unsigned) == []
    assert (await bench.image(NOBLE)).vouched_by == [mirror.fingerprint]
    assert (await bench.image(JAMMY)).vouched_by == [f"unsigned:{upgraded.unsigned.url}"]
    assert len((await bench.source(3)).vouchers) == 2
    assert (await bench.image(RESOLUTE)).vouched_by == [upgraded.third_signer], "and not the key that never signed"
    published = mirror.publish(release="noble", arch="amd64")
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image(NOBLE)).held_version == published.version


async def test_mirrors_that_are_away_after_an_upgrade_change_nothing(upgraded: Upgraded) -> None:
    bench = upgraded.bench
    async with transaction(bench.region.engine) as connection:
        await connection.execute(text("UPDATE sources SET url = 'http://127.0.0.1:1/'"))
    for trigger in ("schedule", "operator"):
        assert (await bench.import_now(trigger)).state == "failed"
        await upgraded.require_same()


async def test_what_is_unselected_before_the_next_reading_is_all_that_goes(upgraded: Upgraded) -> None:
    bench = upgraded.bench
    async with transaction(bench.region.engine) as connection:
        await select_images(connection, (1, NOBLE), (2, JAMMY), (3, RESOLUTE))
        await connection.execute(text("UPDATE sources SET url = 'http://127.0.0.1:1/'"))
    await bench.import_now("selection")
    gone = upgraded.told(upgraded.before) - upgraded.told(await bench.manifest())
    assert {path.split("/")[0] for path, *_ in gone} == {"centos"}


@pytest.mark.parametrize("upgraded", ["away"], indirect=True)
async def test_a_keyring_that_was_away_during_the_upgrade_counts_when_it_is_back(
    upgraded: Upgraded, mirror: Mirror
) -> None:
    bench = upgraded.bench
    await upgraded.require_same()
    failed = await bench.import_now("operator")
    assert (failed.state, failed.error_code) == ("failed", "keyring_unreadable")
    await upgraded.require_same()
    mirror.keyring_path.with_suffix(".away").rename(mirror.keyring_path)
    assert (await bench.import_now("schedule")).state == "succeeded"
    await upgraded.require_same()
    assert paths_asked(upgraded.signed) == []
    image = await bench.image(NOBLE)
    assert (image.status, image.vouched, image.vouched_by) == ("stored", True, [mirror.fingerprint])
