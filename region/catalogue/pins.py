"""Pins: an image held at one version until an operator unpins it."""

from datetime import datetime

from sqlalchemy import delete, select, text
from sqlalchemy.dialects.postgresql import insert
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import pins
from shared.errors import NotFound
from shared.names import ImageKey


async def pin(connection: AsyncConnection, image: ImageKey, version: str, now: datetime) -> None:
    """The image stays at `version` after this. Raises NotFound when no such version is offered or held."""
    known = await connection.scalar(
        text("""
            SELECT count(*) FROM versions JOIN products ON products.id = versions.product_id
            WHERE (os, release, arch) = (:os, :release, :arch) AND kind <> 'bootloader' AND versions.name = :version
        """),
        {**image._asdict(), "version": version},
    )
    if not known:
        raise NotFound(f"version of {image} named", version)
    await connection.execute(
        insert(pins)
        .values(**image._asdict(), version=version, created_at=now)
        .on_conflict_do_update(index_elements=[pins.c.os, pins.c.release, pins.c.arch], set_={"version": version})
    )


async def unpin(connection: AsyncConnection, image: ImageKey) -> None:
    """The image follows its source again. Raises NotFound when it is not pinned."""
    gone = await connection.execute(
        delete(pins).where(pins.c.os == image.os, pins.c.release == image.release, pins.c.arch == image.arch)
    )
    if gone.rowcount == 0:
        raise NotFound("pin of", image)


async def pinned(connection: AsyncConnection, image: ImageKey) -> str | None:
    """The version the image is pinned to."""
    version: str | None = await connection.scalar(
        select(pins.c.version).where(pins.c.os == image.os, pins.c.release == image.release, pins.c.arch == image.arch)
    )
    return version
