"""The schema and the way to it."""

import asyncio

import pytest
from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection
from sqlalchemy.ext.asyncio import AsyncEngine

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
