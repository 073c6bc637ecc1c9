"""/settings and /storage: what holds for the whole region."""

import asyncio
from typing import Annotated, Any, Self

from fastapi import APIRouter, Query, Response
from pydantic import Field, model_validator

from region.actions import settings as acts
from region.actions.settings import SettingsChanged
from region.api.deps import Admin, IfMatch, TheRegion, Transaction, Viewer
from region.api.models import EffectShown, Shape
from region.api.problems import documented
from region.catalogue import files
from region.people import settings
from region.people.settings import MAX_RETENTION_DAYS, MIN_RETENTION_DAYS, Preferences

router = APIRouter(tags=["settings"])

RetentionDays = Annotated[
    int,
    Field(
        ge=MIN_RETENTION_DAYS,
        le=MAX_RETENTION_DAYS,
        description="How many days finished imports and activity are kept.",
        examples=[400],
    ),
]


def _without_default(schema: dict[str, Any]) -> None:
    """What is left out stays: a generated client must not send a value of its own accord."""
    del schema["default"]


class SettingsFields(Shape):
    """What to change; what is left out stays as it is."""

    proxy: str | None = Field(
        None,
        max_length=2048,
        description="The way to sources that name no proxy of their own; empty or null: none.",
        examples=["http://proxy.example.org:3128"],
    )
    retention_days: RetentionDays = Field(400, json_schema_extra=_without_default)
    bootloader_source_id: int = Field(
        1,
        ge=1,
        le=2**31 - 1,
        description="The number of the one source that bootloaders come from.",
        examples=[2],
        json_schema_extra=_without_default,
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one field to change")
        return self

    def changes(self) -> acts.Changes:
        """The fields that were given."""
        given = acts.Changes()
        if "proxy" in self.model_fields_set:
            given["proxy"] = self.proxy
        if "retention_days" in self.model_fields_set:
            given["retention_days"] = self.retention_days
        if "bootloader_source_id" in self.model_fields_set:
            given["bootloader_source_id"] = self.bootloader_source_id
        return given


class SettingsShown(Shape):
    """The settings as they stand. A user name and password in the proxy's address are shown as `***`."""

    proxy: str | None
    retention_days: RetentionDays
    bootloader_source_id: int | None = Field(
        description="The one source that bootloaders come from; null: none was chosen since the last one was removed."
    )


class SettingsChangedShown(SettingsShown, EffectShown):
    """The settings after a change, or as a dry run left them, and what the change does to bootloaders."""

    import_id: int | None = Field(description="The import that brings other bootloaders; null when none is needed.")


class StorageShown(Shape):
    """The region's disk. `free_bytes` is what images may still take."""

    free_bytes: int
    total_bytes: int
    held_bytes: int
    files: int


@router.get("/settings", summary="Show the settings")
async def get_settings(_operator: Viewer, connection: Transaction, response: Response) -> SettingsShown:
    return _shown(await settings.get(connection), response)


@router.patch(
    "/settings", summary="Change the settings, or see what a change leads to", responses=documented(404, 409, 412, 422)
)
async def change_settings(
    operator: Admin,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    fields: SettingsFields,
    dry_run: Annotated[bool, Query(description="Answer what would become of bootloaders, and change nothing.")] = False,
) -> SettingsChangedShown:
    done = await acts.change(
        connection,
        operator,
        fields.changes(),
        region.now(),
        if_match=if_match,
        dry_run=dry_run,
        secrets=region.secrets,
    )
    return _changed(done, response)


@router.get("/storage", summary="Show the region's disk")
async def get_storage(_operator: Viewer, region: TheRegion, connection: Transaction) -> StorageShown:
    stored = await files.totals(connection)
    total = await asyncio.to_thread(region.store.bytes_total)
    free = await asyncio.to_thread(region.store.bytes_free)
    return StorageShown(free_bytes=free, total_bytes=total, held_bytes=stored.size, files=stored.count)


def _shown(found: Preferences, response: Response) -> SettingsShown:
    response.headers["ETag"] = acts.etag(found)
    proxy = found.proxy.shown if found.proxy else None
    return SettingsShown(
        proxy=proxy, retention_days=found.retention_days, bootloader_source_id=found.bootloader_source_id
    )


def _changed(done: SettingsChanged, response: Response) -> SettingsChangedShown:
    if done.import_id is not None:
        response.headers["Location"] = f"/api/v1/imports/{done.import_id}"
    return SettingsChangedShown(
        **_shown(done.settings, response).model_dump(),
        **EffectShown.of(done.effect).model_dump(),
        import_id=done.import_id,
    )
