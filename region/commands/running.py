"""A region for the length of one command."""

import asyncio
import os
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TypeVar

from shared import machine
from shared.endings import unheard
from shared.errors import Conflict, InvalidValue
from shared.logs import configure

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from region.configuration import RegionConfiguration
    from region.process import Region

CREDENTIALS = Path("/etc/credstore")
"""Where systemd finds the credentials that the unit names."""

DATABASE_CREDENTIAL = "region_database_url"

_Answer = TypeVar("_Answer")


def configured() -> "RegionConfiguration":
    """The configuration as the unit has it; root, who may have typed the command, is the data's owner now."""
    from region.configuration import RegionConfiguration

    machine.take_credentials(CREDENTIALS, DATABASE_CREDENTIAL)
    configuration = RegionConfiguration.load()
    machine.become_owner(configuration.data_dir)
    configure(configuration.log_level, configuration.log_format)
    return configuration


def run(job: Callable[["Region"], Awaitable[_Answer]]) -> _Answer:
    """What `job` returns. Raises Unavailable, with what to do, unless the database is well."""
    from region import app
    from region.database.refusals import DatabaseAway

    region = app.build(configured())

    async def done() -> _Answer:
        asyncio.get_running_loop().set_exception_handler(unheard)
        try:
            await region.watch.require_well()
            return await job(region)
        except DatabaseAway as error:
            raise region.watch.spoken(error) from error
        finally:
            await region.engine.dispose()

    return asyncio.run(done())


def in_transaction(job: Callable[["Region", "AsyncConnection"], Awaitable[_Answer]]) -> _Answer:
    """What `job` returns, done in one transaction of a database whose first rows are there. Raises as `run` does."""
    from region.database.connection import transaction

    async def done(region: "Region") -> _Answer:
        await region.prepare()
        async with transaction(region.engine) as connection:
            return await job(region, connection)

    return run(done)


@contextmanager
def disk_told(what: str, file: Path) -> Iterator[None]:
    """Inside, a `what` in `file` that is not there raises InvalidValue, and a disk that refuses DiskFailed.

    What the region's user may not read or write raises Conflict, which says who that is.
    """
    from shared.disk import disk_error

    try:
        yield
    except FileNotFoundError as error:
        raise InvalidValue(what, str(file), error.strerror or "it is not there") from error
    except PermissionError as error:
        raise Conflict(
            f"The user {machine.name_of(os.geteuid())}, who does this, may not read or write {error.filename or file};"
            " choose a directory that is its own, like the region's data directory."
        ) from error
    except OSError as error:
        raise disk_error(error, file.parent) from error
