"""/settings and /storage: what holds for the whole region."""

import asyncio
import shutil

from fastapi import APIRouter
from pydantic import Field
from sqlalchemy import text

from region.api.deps import Admin, TheRegion, Transaction, Viewer
from region.api.models import Shape
from region.api.problems import documented
from region.people import activity, settings
from shared.http import parse_url, shown

router = APIRouter(tags=["settings"])


class SettingsFields(Shape):
    """What to change."""

    proxy: str | None = Field(
        max_length=2048,
        description="The way to sources that name no proxy of their own; empty or null: none.",
        examples=["http://proxy.example.org:3128"],
    )


class SettingsShown(Shape):
    """The settings as they stand. A password in the proxy's address is not shown."""

    proxy: str | None


class StorageShown(Shape):
    """The region's disk. `free_bytes` is what images may still take."""

    free_bytes: int
    total_bytes: int
    held_bytes: int
    files: int


def _shown(found: settings.Preferences) -> SettingsShown:
    return SettingsShown(proxy=shown(parse_url(found.proxy)) if found.proxy else None)


@router.get("/settings", summary="Show the settings")
async def get_settings(_operator: Viewer, connection: Transaction) -> SettingsShown:
    return _shown(await settings.get(connection))


@router.patch("/settings", summary="Change the settings", responses=documented(422))
async def change_settings(
    operator: Admin, region: TheRegion, connection: Transaction, fields: SettingsFields
) -> SettingsShown:
    before = _shown(await settings.get(connection))
    await settings.set_proxy(connection, str(parse_url(fields.proxy)) if fields.proxy else None)
    after = _shown(await settings.get(connection))
    await activity.record(
        connection,
        operator,
        region.now(),
        "settings.changed",
        f"Set the proxy to {after.proxy}." if after.proxy else "Took the proxy away.",
        before=before.model_dump(),
        after=after.model_dump(),
    )
    return after


@router.get("/storage", summary="Show the region's disk")
async def get_storage(_operator: Viewer, region: TheRegion, connection: Transaction) -> StorageShown:
    files, held = (await connection.execute(text("SELECT count(*), coalesce(sum(size), 0)::bigint FROM files"))).one()
    usage = await asyncio.to_thread(shutil.disk_usage, region.store.root)
    free = await asyncio.to_thread(region.store.bytes_free)
    return StorageShown(free_bytes=free, total_bytes=usage.total, held_bytes=held, files=files)
