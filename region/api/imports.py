"""/imports: the runs that bring images in; and /sync, the hourly one."""

from datetime import datetime, timedelta
from typing import Annotated, Literal, Self

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field, model_validator

from region.actions import imports as acts
from region.actions import sync
from region.api.deps import Changer, IfMatch, TheRegion, Transaction, Viewer
from region.api.models import ImageId, Limit, Page, Shape, paged
from region.api.problems import documented
from region.catalogue import aliases
from region.importing import imports
from shared.names import ImageKey

router = APIRouter(tags=["imports"])
ImportId = Annotated[int, Path(ge=1, le=2**63 - 1)]


class ImportFields(Shape):
    """Which images to bring up to date; all that are selected when left out."""

    images: list[ImageId] | None = Field(None, min_length=1, max_length=1000)


class ImportShown(Shape):
    """A run. `error` is one sentence that says what to do; empty unless it failed or was stopped."""

    id: int
    trigger: Literal["schedule", "operator", "selection", "healing", "retry"]
    requested_by: str
    requested_at: datetime
    scope: list[str] | None = Field(
        description="The images it brings, by id; null: all that are selected; empty: none, it only reads."
    )
    source_id: int | None = Field(description="The one source it reads; null: all that are enabled.")
    state: Literal["queued", "running", "succeeded", "failed", "cancelled"]
    started_at: datetime | None
    finished_at: datetime | None
    cancel_requested: bool
    stopped: list[str] = Field(description="Images that were stopped alone, by id.")
    bytes_total: int
    bytes_done: int
    error_code: str
    error: str
    retry_at: datetime | None = Field(
        description="It failed for a reason that may pass, and is tried again by itself then; null otherwise."
    )


class ImageProgressShown(Shape):
    """How far the run is with one image."""

    bytes_total: int
    bytes_done: int
    code: str
    error: str


class ImportDetail(ImportShown):
    """A run with its images, by id."""

    images: dict[str, ImageProgressShown]


class SyncFields(Shape):
    """The switch, and how often; what is left out stays."""

    enabled: bool | None = Field(None, description="Null: it stays as it is.")
    interval_seconds: int | None = Field(
        None, ge=300, le=604_800, description="How often the sync runs, at least every 5 minutes to once a week."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if self.enabled is None and self.interval_seconds is None:
            raise ValueError("name at least one field to change")
        return self


class SyncShown(Shape):
    """The hourly sync of the region. Racks poll every five minutes; that cannot be switched off."""

    enabled: bool
    interval_seconds: int = Field(description="How often it runs.")
    last_run_at: datetime | None
    next_run_at: datetime | None = Field(description="Null while the sync is switched off.")


@router.post("/imports", status_code=202, summary="Import now", responses=documented(409, 422))
async def start_import(
    operator: Changer,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    fields: ImportFields | None = None,
) -> ImportShown:
    scope = None
    if fields is not None and fields.images is not None:
        scope = frozenset([await aliases.image(connection, ImageKey.parse(said)) for said in fields.images])
    started = await acts.start(connection, operator, scope, region.now())
    response.headers["Location"] = f"/api/v1/imports/{started.id}"
    return _shown(started, response)


@router.get("/imports", summary="List imports, newest first")
async def list_imports(
    _operator: Viewer,
    connection: Transaction,
    request: Request,
    response: Response,
    limit: Limit = 50,
    cursor: Annotated[int | None, Query(ge=1, le=2**63 - 1, description="`next` of the page before.")] = None,
) -> Page[ImportShown]:
    found = await imports.list_recent(connection, limit + 1, cursor)
    return paged(request, response, found, limit, ImportShown, lambda entry: str(entry.id))


@router.get("/imports/{import_id}", summary="Show an import and its images", responses=documented(404))
async def get_import(
    _operator: Viewer, connection: Transaction, response: Response, import_id: ImportId
) -> ImportDetail:
    entry = _shown(await imports.get(connection, import_id), response)
    progress = await imports.images_of(connection, import_id)
    return ImportDetail(
        **entry.model_dump(),
        images={image: ImageProgressShown.model_validate(found) for image, found in progress.items()},
    )


@router.post(
    "/imports/{import_id}/cancel", status_code=202, summary="Stop an import", responses=documented(404, 409, 412)
)
async def cancel_import(
    operator: Changer,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    import_id: ImportId,
) -> ImportShown:
    return _shown(await acts.cancel(connection, operator, import_id, region.now(), if_match=if_match), response)


@router.post(
    "/imports/{import_id}/images/{image_id}/cancel",
    status_code=202,
    summary="Stop one image of an import",
    responses=documented(404, 409, 412),
)
async def cancel_import_image(
    operator: Changer,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    import_id: ImportId,
    image_id: ImageId,
) -> ImportShown:
    image = ImageKey.parse(image_id)
    stopped = await acts.stop_image(connection, operator, import_id, image, region.now(), if_match=if_match)
    return _shown(stopped, response)


@router.get("/sync", summary="Show the hourly sync")
async def get_sync(_operator: Viewer, connection: Transaction, response: Response) -> SyncShown:
    return _sync(await imports.schedule(connection), response)


@router.patch(
    "/sync", summary="Switch the hourly sync on or off, or say how often it runs", responses=documented(412, 422)
)
async def change_sync(
    operator: Changer,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    fields: SyncFields,
) -> SyncShown:
    interval = None if fields.interval_seconds is None else timedelta(seconds=fields.interval_seconds)
    changed = await sync.switch(
        connection, operator, fields.enabled, region.now(), interval=interval, if_match=if_match
    )
    return _sync(changed, response)


def _shown(found: imports.Import, response: Response) -> ImportShown:
    response.headers["ETag"] = acts.etag(found)
    return ImportShown.model_validate(found)


def _sync(schedule: imports.Schedule, response: Response) -> SyncShown:
    response.headers["ETag"] = sync.etag(schedule)
    return SyncShown(
        enabled=schedule.enabled,
        interval_seconds=int(schedule.interval.total_seconds()),
        last_run_at=schedule.last_run_at,
        next_run_at=schedule.next_run_at if schedule.enabled else None,
    )
