"""The schema and the way to it."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from alembic import command
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, text
from sqlalchemy.ext.asyncio import AsyncEngine

import migrations
from deploy.local import postgres
from region.database.connection import create_engine, is_migrated, migrate, transaction
from region.database.tables import metadata
from shared.errors import Unavailable


async def test_migrations_lead_to_the_tables_the_code_speaks_of(engine: AsyncEngine) -> None:
    def differences(connection: Connection) -> object:
        context = MigrationContext.configure(connection, opts={"compare_server_default": True})
        return compare_metadata(context, metadata)

    async with transaction(engine) as connection:
        assert await connection.run_sync(differences) == []
        assert await is_migrated(connection)


async def test_processes_that_start_together_migrate_once(database_server: postgres.Server) -> None:
    await database_server.create_database("together")
    engines = [create_engine(database_server.url("together")) for _ in range(4)]
    try:
        await asyncio.gather(*map(migrate, engines))
        async with transaction(engines[0]) as connection:
            assert await is_migrated(connection)
    finally:
        for engine in engines:
            await engine.dispose()
        await database_server.drop_database("together")


@pytest.mark.parametrize(
    "url",
    [
        pytest.param("postgresql+asyncpg:///x?host=/nowhere/at/all", id="no socket"),
        pytest.param("postgresql+asyncpg://nobody@127.0.0.1:1/x", id="nothing listens"),
    ],
)
async def test_a_database_that_is_away_is_unavailable(url: str) -> None:
    engine = create_engine(url)
    with pytest.raises(Unavailable):
        async with transaction(engine):
            pass
    await engine.dispose()


async def test_a_database_that_does_not_exist_yet_is_unavailable(database_server: postgres.Server) -> None:
    engine = create_engine(database_server.url("never_made"))
    with pytest.raises(Unavailable):
        async with transaction(engine):
            pass
    await engine.dispose()


async def test_a_fault_of_the_disk_is_not_blamed_on_the_database(engine: AsyncEngine) -> None:
    with pytest.raises(IsADirectoryError):
        async with transaction(engine):
            raise IsADirectoryError


async def test_what_was_written_down_before_has_its_subject_after_an_upgrade(database_server: postgres.Server) -> None:
    await database_server.create_database("before_people")
    engine = create_engine(database_server.url("before_people"))

    def to(revision: str) -> Callable[[Connection], None]:
        def upgrade(connection: Connection) -> None:
            configuration = Config()
            configuration.set_main_option("script_location", str(Path(migrations.__file__).parent))
            configuration.attributes["connection"] = connection
            command.upgrade(configuration, revision)

        return upgrade

    try:
        async with transaction(engine) as connection:
            await connection.run_sync(to("0002"))
            for action in ("settings.changed", "selection.changed", "sync.switched", "rack.removed"):
                await connection.execute(
                    text("""
                        INSERT INTO activity (at, who, address, action, sentence)
                        VALUES (now(), 'Ann', '', :action, 'Did it.')
                    """),
                    {"action": action},
                )
            await connection.run_sync(to("head"))
            found = (await connection.scalars(text("SELECT subject FROM activity ORDER BY id"))).all()
        assert found == ["settings", "selection", "sync", ""]
    finally:
        await engine.dispose()
        await database_server.drop_database("before_people")
