"""PostgreSQL as a process that can be killed and started again on the same data, any number of times."""

import os
import random
import signal
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import asyncpg

from deploy.local import postgres


@dataclass(slots=True)
class Database:
    """One server. `name` is the database that the region uses."""

    server: postgres.Server
    name: str = "region"
    process: "subprocess.Popen[bytes] | None" = None

    @property
    def url(self) -> str:
        """For the region."""
        return self.server.url(self.name)

    @property
    def log(self) -> Path:
        return self.server.data.parent / "log"

    def start(self) -> None:
        """Start it, or see that it runs; what an earlier server left running on this data is stopped first. Blocks."""
        if self.process is not None and self.process.poll() is None:
            return
        postgres.stop_orphans(self.server.data)
        with self.log.open("ab") as output:
            self.process = subprocess.Popen(
                self.server.command(),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                env=postgres.clean_environment(os.environ),
                start_new_session=True,
            )
        postgres.wait_until_ready(self.server, self.process, self.log)

    def kill(self, rng: random.Random) -> str:
        """kill -9 of the whole server, of its first process alone, or of one of its others; which it was."""
        assert self.process is not None
        mode = rng.choice(["all", "first", "backend"])
        others = sorted(postgres.using(self.server.data) - {self.process.pid})
        chosen = {"all": [self.process.pid, *others], "first": [self.process.pid], "backend": others[-1:]}[mode]
        if mode == "backend" and others:
            chosen = [rng.choice(others)]
        for pid in chosen:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if mode != "backend":
            self.process.wait()
            self.process = None
        return mode

    def kill_all(self) -> None:
        """Nothing of the server is left."""
        for pid in postgres.using(self.server.data):
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if self.process is not None:
            self.process.wait()
            self.process = None
        while postgres.using(self.server.data):
            time.sleep(0.01)

    async def connect(self, name: str | None = None) -> "asyncpg.Connection[Any]":
        """A connection of the test's own. Raises OSError, asyncpg.PostgresError."""
        return await asyncpg.connect(
            host=str(self.server.socket), port=postgres.PORT, user=postgres.ROLE, database=name or self.name, timeout=10
        )


@contextmanager
def database(directory: Path, *, fsync: bool = False) -> Iterator[Database]:
    """A server in `directory`, not started yet; nothing of it runs after the block."""
    with postgres.prepared(directory, fsync=fsync) as server:
        made = Database(server)
        try:
            yield made
        finally:
            made.kill_all()
