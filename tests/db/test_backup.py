"""A region is saved and comes back: what is in the file, what comes of it, and what is refused."""

import os
import shutil
import stat
import tarfile
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local import postgres
from region import app, keys
from region.actions import people, racks, succession
from region.backup import bundle, restore, save
from region.configuration import RegionConfiguration
from region.database.connection import create_engine, is_migrated, transaction, upgrade
from region.database.tables import metadata
from region.importing import importer
from region.people.activity import CONSOLE
from region.people.operators import Role
from region.process import Region
from shared.errors import Conflict, InvalidConfiguration, InvalidDocument
from tests.conftest import Clock
from tests.db.bench import RESOLUTE, Bench

TABLES = sorted(metadata.tables.keys() - {"files", "leaving_files", "sessions", "enrolment_tokens"})


@dataclass
class Elsewhere:
    """Another machine: an empty database and an empty directory."""

    configuration: RegionConfiguration
    engine: AsyncEngine
    clock: Clock

    async def restore(self, path: Path, *, replace: bool = False) -> restore.Restored:
        return await restore.restore(self.engine, self.configuration, path, self.clock(), replace=replace)

    def build(self) -> Region:
        return app.build(self.configuration, now=self.clock)


@pytest.fixture
async def elsewhere(
    bench: Bench, database_server: postgres.Server, tmp_path: Path, clock: Clock, request: pytest.FixtureRequest
) -> AsyncIterator[Elsewhere]:
    name = f"elsewhere_{os.getpid()}_{abs(hash(request.node.name)) % 10**9}"
    await database_server.create_database(name)
    configuration = RegionConfiguration.model_validate(
        bench.region.configuration.model_dump(exclude={"database_url", "data_dir"})
        | {"database_url": database_server.url(name), "data_dir": tmp_path / "elsewhere", "migrate_on_start": True}
    )
    engine = create_engine(configuration.database_url)
    yield Elsewhere(configuration, engine, clock)
    await engine.dispose()
    await database_server.drop_database(name)


@pytest.fixture(autouse=True)
def config_dir(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    made = tmp_path / "etc"
    made.mkdir()
    monkeypatch.setenv("BOOTFERRY_CONFIG_DIR", str(made))
    return made


async def saved(bench: Bench, path: Path) -> Path:
    region = bench.region
    await save.save(region.engine, region.keys, region.configuration.config_file(), path, region.now())
    return path


def left(directory: Path) -> list[str]:
    """What backups have left in the directory, whole or not."""
    return [entry.name for entry in directory.iterdir() if "backup" in entry.name]


async def rows(engine: AsyncEngine, table: str) -> list[str]:
    async with transaction(engine) as connection:
        found = await connection.scalars(text(f"SELECT t::text FROM {table} AS t ORDER BY 1"))  # noqa: S608
        return list(found)


@pytest.fixture
async def filled(bench: Bench) -> Bench:
    """A region that holds an image, and has people, a rack's token and a log-in."""
    await bench.select(RESOLUTE)
    await bench.import_now()
    region = bench.region
    async with transaction(region.engine) as connection:
        await people.make_token(connection, CONSOLE, "somebody", Role.OPERATOR, region.now())
        await racks.make_enrolment_token(
            connection, CONSOLE, region.fingerprint, region.now(), lifetime=timedelta(hours=1), uses=1
        )
        await connection.execute(
            text(
                "INSERT INTO racks (id, name, public_key, enrolled_at, epoch)"
                " VALUES ('r1', E'tab\\tback\\\\slash', 'k', :now, 7)"
            ),
            {"now": region.now()},
        )
    return bench


async def test_a_backup_has_every_row_and_only_its_owner_reads_it(filled: Bench, tmp_path: Path) -> None:
    umask = os.umask(0)
    try:
        path = await saved(filled, tmp_path / "region.backup")
    finally:
        os.umask(umask)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert left(tmp_path) == ["region.backup"]
    with bundle.opened(path) as read:
        assert sorted(read.head.tables) == TABLES
        assert read.head.fingerprint == filled.region.fingerprint
        assert read.content("keys/region.key") == (filled.region.keys.directory / "region.key").read_bytes()
        assert read.content("keys/secrets.key") == (filled.region.keys.directory / "secrets.key").read_bytes()
        for table in TABLES:
            assert read.members[f"tables/{table}"].rows == len(await rows(filled.region.engine, table)), table
    with tarfile.open(path) as tar:
        assert {oct(member.mode) for member in tar} == {"0o600"}


async def test_a_region_comes_back_whole_in_a_new_epoch(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, clock: Clock
) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    before = await filled.manifest()
    shutil.rmtree(filled.region.keys.directory)
    clock.pass_by(timedelta(hours=2))
    done = await elsewhere.restore(path)
    assert done.epoch == int(clock().timestamp()) > before.epoch
    changed = {"region", "manifests", "published_images", "activity", "imports", "sync_schedule"}
    for table in TABLES:
        if table not in changed:
            assert await rows(elsewhere.engine, table) == await rows(filled.region.engine, table), table
    for table in ("files", "leaving_files", "sessions", "enrolment_tokens"):
        assert await rows(elsewhere.engine, table) == []

    back = elsewhere.build()
    try:
        await back.prepare()
        assert back.fingerprint == done.head.fingerprint == filled.region.fingerprint
        assert sorted(entry.name for entry in back.keys.directory.iterdir()) == ["region.key", "secrets.key"]
        after = Bench(back)
        manifest = await after.manifest()
        assert manifest.epoch == done.epoch
        assert manifest.entries == before.entries
        # Nothing is on the disk here: all of it is fetched again, and what is held is whole then.
        assert await after.stored() == set()
        assert await importer.run_next(back.importer)
        assert await after.stored() == {entry.sha256 for entry in before.entries}
        assert (await after.image()).status == (await filled.image()).status
        async with transaction(back.engine) as connection:
            assert await connection.scalar(text("SELECT count(*) FROM activity WHERE action = 'region.restored'")) == 1
            new = await connection.scalar(
                text(
                    "INSERT INTO selections (os, release, arch, created_at) VALUES ('a', 'b', 'c', now()) RETURNING id"
                )
            )
            assert new > max(await connection.scalars(text("SELECT id FROM selections WHERE os <> 'a'")))
    finally:
        await back.engine.dispose()
        await back.request_engine.dispose()


async def test_files_that_are_here_are_found_again(filled: Bench, elsewhere: Elsewhere, tmp_path: Path) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    stored = await filled.stored()
    shutil.copytree(filled.region.configuration.data_dir / "store", elsewhere.configuration.data_dir / "store")
    await elsewhere.restore(path)
    back = elsewhere.build()
    try:
        assert await restore.adopt(back.engine, back.store, back.now()) == len(stored)
        assert await Bench(back).stored() == stored
    finally:
        await back.engine.dispose()


async def test_an_epoch_follows_the_one_before_though_the_clock_went_back(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, clock: Clock
) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    before = await filled.manifest()
    clock.pass_by(-timedelta(days=400))
    assert (await elsewhere.restore(path)).epoch == before.epoch + 1


async def test_restored_in_its_own_place_it_is_as_it_was_then(filled: Bench, tmp_path: Path, clock: Clock) -> None:
    region = filled.region
    path = await saved(filled, tmp_path / "region.backup")
    async with transaction(region.engine) as connection:
        await connection.execute(text("DELETE FROM selections"))
    await region.engine.dispose()
    engine = create_engine(region.configuration.database_url)
    try:
        await restore.restore(engine, region.configuration, path, clock())
        assert len(await rows(engine, "selections")) == 1
    finally:
        await engine.dispose()


async def test_another_region_is_replaced_only_when_that_is_asked_for(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    other = elsewhere.build()
    await other.prepare()
    await other.engine.dispose()
    own = (other.keys.directory / "region.key").read_bytes()
    with pytest.raises(Conflict, match="holds another region than the backup; --replace"):
        await elsewhere.restore(path)
    assert (other.keys.directory / "region.key").read_bytes() == own
    assert sorted(entry.name for entry in other.keys.directory.iterdir()) == ["region.key", "secrets.key"]
    done = await elsewhere.restore(path, replace=True)
    assert [kept.name for kept in done.kept_keys] == ["region.key.before-restore", "secrets.key.before-restore"]
    assert done.kept_keys[0].read_bytes() == own
    back = elsewhere.build()
    await back.prepare()
    await back.engine.dispose()
    assert back.fingerprint == filled.region.fingerprint


async def test_other_keys_are_replaced_only_when_that_is_asked_for(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    own = keys.load(elsewhere.configuration)
    with pytest.raises(Conflict, match=r"region\.key and .*secrets\.key are others than the backup's; --replace"):
        await elsewhere.restore(path)
    assert keys.load(elsewhere.configuration).signing.private_bytes_raw() == own.signing.private_bytes_raw()
    async with transaction(elsewhere.engine) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0


async def test_a_key_that_was_rotated_since_the_backup_is_rotated_to_again(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, clock: Clock
) -> None:
    """As docs/operating.md says: racks believe the key of now, and go back to none."""
    region = filled.region
    path, old = await saved(filled, tmp_path / "region.backup"), region.fingerprint
    async with transaction(region.engine) as connection:
        fresh = await succession.rotate(connection, CONSOLE, region.keys, region.publisher, region.now())
    await region.follow_key()
    shutil.copytree(region.keys.directory, elsewhere.configuration.data_dir / "keys")
    done = await elsewhere.restore(path, replace=True)
    assert [kept.name for kept in done.kept_keys] == ["region.key.before-restore"]
    done.kept_keys[0].rename(done.kept_keys[0].with_name("region.key.new"))
    back = elsewhere.build()
    try:
        await back.prepare()
        assert back.fingerprint == old
        async with transaction(back.engine) as connection:
            assert await succession.rotate(connection, CONSOLE, back.keys, back.publisher, clock()) == fresh
        await back.prepare()
        assert back.fingerprint == fresh
        assert (await Bench(back).manifest()).epoch > done.epoch
    finally:
        await back.engine.dispose()


async def test_a_backup_that_was_opened_by_who_may_read_it_is_read(filled: Bench, tmp_path: Path) -> None:
    """Root opens it, and the region's user goes on."""
    path = await saved(filled, tmp_path / "region.backup")
    with bundle.open_regular(path) as file:
        path.unlink()
        with bundle.opened(path, file) as read:
            assert read.head.fingerprint == filled.region.fingerprint


async def test_nothing_is_restored_while_a_region_is_connected(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path
) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    another = create_engine(elsewhere.configuration.database_url)
    try:
        async with transaction(another) as connection:
            await connection.execute(text("SELECT 1"))
            with pytest.raises(Conflict, match="is connected to this database"):
                await elsewhere.restore(path)
    finally:
        await another.dispose()


async def test_a_restore_that_breaks_off_before_its_commit_has_changed_nothing(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    other = elsewhere.build()
    await other.prepare()
    before = {table: await rows(other.engine, table) for table in metadata.tables}

    async def broken(*_: object) -> int:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr(restore, "_begin", broken)
        await other.engine.dispose()
        with pytest.raises(ZeroDivisionError):
            await elsewhere.restore(path, replace=True)
    again = elsewhere.build()
    await again.prepare()
    assert again.fingerprint == other.fingerprint != filled.region.fingerprint
    assert {table: await rows(again.engine, table) for table in metadata.tables} == before
    await again.engine.dispose()


async def test_a_restore_that_breaks_off_after_its_commit_is_finished_by_the_next_start(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    other = elsewhere.build()
    await other.prepare()
    await other.engine.dispose()

    def broken(*_: object) -> list[Path]:
        raise ZeroDivisionError

    with monkeypatch.context() as patch:
        patch.setattr("region.backup.keyring.take", broken)
        with pytest.raises(ZeroDivisionError):
            await elsewhere.restore(path, replace=True)
    back = elsewhere.build()
    await back.prepare()
    await back.engine.dispose()
    assert back.fingerprint == filled.region.fingerprint
    assert sorted(entry.name for entry in back.keys.directory.iterdir()) == ["region.key", "secrets.key"]


async def columns_at(engine: AsyncEngine, revision: str) -> dict[str, list[str]]:
    """The columns that a version with this schema saved; nothing of it stays in the database."""
    async with engine.connect() as connection:
        await upgrade(connection, revision)
        rows = await connection.execute(
            text("SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'")
        )
        known = {(row.table_name, row.column_name) for row in rows}
        await connection.rollback()
    found = {
        table: [column for column in columns if (table, column) in known]
        for table, columns in save.columns_of().items()
    }
    return {table: columns for table, columns in found.items() if columns}


async def test_a_backup_of_a_schema_of_before_comes_up_in_the_one_of_now(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    then = await columns_at(elsewhere.engine, "0012")
    assert "last_good_at" not in then["sources"]
    async with transaction(filled.region.engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '0012'"))

    async def yes(_: object) -> bool:
        return True

    with monkeypatch.context() as patch:
        patch.setattr(save, "is_migrated", yes)
        patch.setattr(save, "columns_of", lambda: then)
        path = await saved(filled, tmp_path / "region.backup")
    await elsewhere.restore(path)
    async with transaction(elsewhere.engine) as connection:
        assert await connection.scalar(text("SELECT last_good_at = last_read_at FROM sources"))
        assert await is_migrated(connection)


async def test_a_backup_of_a_version_to_come_is_refused(filled: Bench, elsewhere: Elsewhere, tmp_path: Path) -> None:
    async with transaction(filled.region.engine) as connection:
        await connection.execute(text("UPDATE alembic_version SET version_num = '0999'"))
    with pytest.raises(Conflict, match="the schema of another version"):
        await saved(filled, tmp_path / "region.backup")
    assert not (tmp_path / "region.backup").exists()


async def test_a_backup_without_the_keys_of_its_database_is_not_made(filled: Bench, tmp_path: Path) -> None:
    (filled.region.keys.directory / "secrets.key").write_bytes(b"x" * 32)
    with pytest.raises(InvalidConfiguration, match=r"secrets\.key is not the one of this database"):
        await saved(filled, tmp_path / "region.backup")
    assert left(tmp_path) == []


async def test_what_is_no_backup_is_never_replaced_and_one_before_only_by_a_whole_one(
    filled: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "region.backup"
    path.write_text("precious")
    with pytest.raises(Conflict, match="is there already and is no backup"):
        await saved(filled, path)
    assert path.read_text() == "precious"
    path.unlink()
    await saved(filled, path)
    first = path.read_bytes()

    def damaged(_: Path) -> object:
        raise InvalidDocument("it", "it was damaged on the disk")

    with monkeypatch.context() as patch:
        patch.setattr(bundle, "opened", damaged)
        with pytest.raises(InvalidDocument):
            await saved(filled, path)
    assert path.read_bytes() == first
    assert left(tmp_path) == ["region.backup"]
    await saved(filled, path)


async def test_a_damaged_backup_is_refused_with_a_sentence(filled: Bench, elsewhere: Elsewhere, tmp_path: Path) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    whole = path.read_bytes()
    with bundle.opened(path) as read:
        members = dict(read.members)
    damaged = tmp_path / "damaged.backup"
    for position in range(0, len(whole), max(1, len(whole) // 400)):
        damaged.write_bytes(whole[:position] + bytes([whole[position] ^ 1]) + whole[position + 1 :])
        try:
            with bundle.opened(damaged) as read:
                # What is not named by a digest, between files and after them, may be anything.
                assert read.members == members
        except InvalidDocument as error:
            assert str(error).startswith(f"{damaged}")
    for length in range(0, len(whole) - 10_240, max(1, len(whole) // 100)):
        damaged.write_bytes(whole[:length])
        with pytest.raises(InvalidDocument):
            await elsewhere.restore(damaged)
    damaged.write_bytes(whole.replace(b"ubuntu", b"ubuntV", 1))
    with pytest.raises(InvalidDocument, match=r"its tables/\w+ is damaged or missing; take another one"):
        await elsewhere.restore(damaged)
    async with transaction(elsewhere.engine) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM pg_tables WHERE schemaname = 'public'")) == 0
    with pytest.raises(InvalidDocument, match="it is no regular file"):
        await elsewhere.restore(tmp_path)


async def test_the_configuration_comes_back_where_there_is_none(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, config_dir: Path
) -> None:
    place = config_dir / "region.toml"
    place.write_text('name = "north"\n')
    path = await saved(filled, tmp_path / "region.backup")
    place.write_text('name = "south"\n')
    assert "is another one than the backup's and stays" in (await elsewhere.restore(path)).configuration
    assert place.read_text() == 'name = "south"\n'
    place.unlink()
    assert "was put back" in (await elsewhere.restore(path)).configuration
    assert place.read_text() == 'name = "north"\n'
    assert stat.S_IMODE(place.stat().st_mode) == 0o600


async def test_rows_are_those_of_one_moment(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What is written while tables are copied is in none of them."""
    driver_of = save.driver_of

    async def meanwhile(connection: object) -> object:
        async with transaction(filled.region.request_engine) as other:
            await other.execute(text("INSERT INTO barred_keys VALUES ('late', 'late', now())"))
        return await driver_of(connection)  # type: ignore[arg-type]

    monkeypatch.setattr(save, "driver_of", meanwhile)
    path = await saved(filled, tmp_path / "region.backup")
    with bundle.opened(path) as read:
        assert read.members["tables/barred_keys"].rows == 0
    assert len(await rows(filled.region.engine, "barred_keys")) == 1


async def test_keys_that_systemd_gives_are_left_alone(
    filled: Bench, elsewhere: Elsewhere, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = await saved(filled, tmp_path / "region.backup")
    given = tmp_path / "credentials"
    given.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(given))
    (given / "region.key").write_bytes((filled.region.keys.directory / "region.key").read_bytes())
    with pytest.raises(InvalidConfiguration, match="come from systemd's credentials"):
        await elsewhere.restore(path, replace=True)
    (given / "secrets.key").write_bytes((filled.region.keys.directory / "secrets.key").read_bytes())
    await elsewhere.restore(path)
    assert sorted(entry.name for entry in given.iterdir()) == ["region.key", "secrets.key"]
