"""Two processes that import, the first one stopped by a signal until long after its lease, then woken."""

import asyncio
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from pathlib import Path

from sqlalchemy import text

from deploy.local.mirror.faults import Hang
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server
from region.database.connection import transaction
from region.importing.importer import run_next
from shared.digest import Sha256
from tests.db.bench import Bench, paths_asked
from tests.stores import incoming_path

LEASE_S = 2.0


@asynccontextmanager
async def another_process(
    directory: Path, database_url: str, mirror: Mirror, server: Server
) -> AsyncIterator[asyncio.subprocess.Process]:
    """One that carries out the next import, and has begun to look for it."""
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "tests.db.importing", directory, database_url, mirror.directory, server.url, str(LEASE_S)),
        cwd=Path(__file__).parents[2],
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        assert process.stdout is not None
        while await process.stdout.readline() != b"ready\n":
            assert process.returncode is None
        yield process
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()


async def test_a_stopped_importer_blocks_nobody_and_changes_nothing_when_it_wakes(
    bench: Bench,
    tmp_path: Path,
    database_url: str,
    server: Server,
    mirror: Mirror,
    eventually: Callable[..., Awaitable[object]],
) -> None:
    file = mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    sha256 = Sha256(file.sha256)
    partial = incoming_path(bench.region.store, sha256)
    server.misbehave(file.path, Hang(after=3000), times=1)
    async with another_process(tmp_path / "region", database_url, mirror, server) as first:
        import_id = await bench.ask()
        await eventually(lambda: partial.exists() and partial.stat().st_size == 3000)
        first.send_signal(signal.SIGSTOP)

        async def carried_out() -> bool:
            return await run_next(bench.region.importer)

        # It may have been stopped in the middle of a transaction, which PostgreSQL ends after a while.
        await eventually(carried_out, within_s=60)
        done = await bench.import_of(import_id)
        assert (done.state, done.error_code) == ("succeeded", ""), "the sleeper still has the file's lock"
        assert paths_asked(server).count(file.path) == 2
        manifest, stored = await bench.manifest(), await bench.stored()
        first.send_signal(signal.SIGCONT)
        assert first.stdout is not None
        output = await asyncio.wait_for(first.stdout.read(), 20)
        assert b"is carried on by another process" in output
        assert output.endswith(b"imported\n")
        assert await first.wait() == 0
    assert (await bench.import_of(import_id)) == done
    assert (await bench.manifest(), await bench.stored()) == (manifest, stored)
    assert await bench.stored() == set(manifest.files()) == {sha256 for sha256, _ in bench.region.store.held()}
    async with transaction(bench.region.engine) as connection:
        assert await connection.scalar(text("SELECT count(DISTINCT (epoch, serial)) FROM manifests")) == manifest.serial
    assert (await bench.import_now()).state == "succeeded"
    assert list(partial.parent.iterdir()) == []


async def test_an_importer_that_slept_past_its_lease_and_was_not_missed_carries_on(
    bench: Bench,
    tmp_path: Path,
    database_url: str,
    server: Server,
    mirror: Mirror,
    eventually: Callable[..., Awaitable[object]],
) -> None:
    """A lease that nobody has taken is still this process's: it has lost nothing and says so to nobody."""
    file = mirror.expected("resolute", "amd64", "ga-26.04")["squashfs"]
    partial = incoming_path(bench.region.store, Sha256(file.sha256))
    server.misbehave(file.path, Hang(after=3000), times=1)
    async with another_process(tmp_path / "region", database_url, mirror, server) as only:
        import_id = await bench.ask()
        await eventually(lambda: partial.exists() and partial.stat().st_size == 3000)
        only.send_signal(signal.SIGSTOP)
        await asyncio.sleep(LEASE_S + 1)
        only.send_signal(signal.SIGCONT)
        async with transaction(bench.region.engine) as connection:

            async def alive() -> bool:
                found = "SELECT lease_until > clock_timestamp() AND fence = 1 FROM imports WHERE id = :id"
                return bool(await connection.scalar(text(found), {"id": import_id}))

            await eventually(alive)
    found = await bench.import_of(import_id)
    assert (found.state, found.error_code) == ("running", "")
