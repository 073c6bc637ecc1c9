"""A PostgreSQL that listens on TCP and lets in whom a test says: for what the tests' own server is too simple for."""

import os
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass

import asyncpg
import pytest

from deploy.local import postgres
from deploy.local.scratch import scratch_directory
from tests.http.conftest import free_port


@dataclass(frozen=True, slots=True)
class Cluster:
    """A PostgreSQL with passwords, at `port` of this machine; its superuser comes by the socket."""

    server: postgres.Server
    port: int

    async def tell(self, *statements: str, database: str = "postgres") -> None:
        """Carry the statements out as the superuser."""
        connection = await asyncpg.connect(
            host=str(self.server.socket), port=self.port, user=postgres.ROLE, database=database
        )
        try:
            for statement in statements:
                await connection.execute(statement)
        finally:
            await connection.close()

    async def let_in(self, rules: str) -> None:
        """Whoever `rules` (lines of pg_hba.conf) let in may come, beside the superuser."""
        file = self.server.data.parent / "pg_hba.conf"
        file.write_text(f"local all {postgres.ROLE} peer map=starter\n{rules}")
        await self.tell("SELECT pg_reload_conf()")

    async def end_sessions(self) -> None:
        """End those of everybody else."""
        await self.tell("SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE usename <> current_user")


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """A cluster for this module."""
    port = free_port()
    with scratch_directory() as directory, postgres.prepared(directory, fsync=False) as server:
        with (directory / "log").open("wb") as log:
            process = subprocess.Popen(
                [*server.command(), "-c", "listen_addresses=127.0.0.1", "-p", str(port)],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                env=postgres.clean_environment(os.environ),
                start_new_session=True,
            )
        try:
            postgres.wait_until_ready(server, process, directory / "log")
            yield Cluster(server, port)
        finally:
            postgres.stop(process)
