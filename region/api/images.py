"""/images: what operators look at. Status is derived, never stored."""

from datetime import datetime
from typing import Annotated, Any, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from region.actions import pins as acts
from region.actions import selections as selection_acts
from region.api.deps import Changer, IfMatch, TheRegion, Transaction, Viewer
from region.api.models import (
    EffectShown,
    ImageId,
    ImageName,
    Limit,
    NameCursor,
    NameField,
    OfferShown,
    Page,
    Shape,
    paged,
)
from region.api.problems import documented
from region.api.selections import PLANNED, Change, PlanShown
from region.catalogue import aliases, bootloaders, images, offers, pins, sources, targets
from region.fleet import racks
from shared.errors import NotFound
from shared.names import ImageKey

router = APIRouter(tags=["images"])

Status = Literal[
    "queued", "downloading", "waiting_for_racks", "stored", "synced", "failed", "unavailable", "unvouched", "unselected"
]


class ImageShown(ImageName):
    """An image and where it is. Sizes in bytes.

    `stored`: whole on the region, and no rack is enrolled. `synced`: every live rack shows all of the newest version.
    `unavailable`: selected, no longer offered; what is held is kept. `unvouched`: its offers lapsed, because nobody
    whom its source is believed by has signed them; what is held is kept. `unselected`: no longer selected, about to go.
    """

    id: ImageId
    title: str = Field(examples=["24.04 LTS"])
    source_id: int | None
    selected: bool
    status: Status
    progress: int = Field(ge=0, le=100, description="Percent of what the region has to fetch.")
    version: str = Field(description="The newest version, the one the status speaks of.", examples=["20260705"])
    pinned_version: str | None = Field(description="The version it is pinned to; null while it follows its source.")
    held_version: str = Field(description="The newest version that is whole and served; empty before the first.")
    size_bytes: int
    bytes_done: int
    vouched: bool = Field(description="False when something is held of it that nobody vouches for any longer.")
    vouched_by: list[str] = Field(description="Fingerprints of the keys that signed what is held.")
    racks_synced: int = Field(description="Live racks that show all of it.")
    racks_live: int
    racks_total: int
    support_eol: str | None
    updated_at: datetime | None = Field(description="When the held version became whole.")
    error_code: str
    error: str = Field(description="What went wrong last, a sentence; empty when nothing did.")


class VersionShown(Shape):
    """One version of an image, over all its kernels. `size_bytes` counts shared files once."""

    name: str
    offered: bool
    held: bool
    size_bytes: int


class OnRackShown(Shape):
    """How an image is on a rack.

    `shown`: as published; `pending`: the rack knows what is published and lacks it; `behind`: it has not learnt of it
    yet; `ahead`: it knows a manifest that this region never published; `unreachable`: it missed three polls.
    """

    rack_id: str
    name: str
    live: bool
    state: Literal["shown", "pending", "behind", "ahead", "unreachable"]
    shown_version: str = Field(description="What machines get of it there; empty for nothing, or where not known.")
    code: str = Field(description="Why the rack lacks it, where something went wrong.", examples=["connection_lost"])


class PinFields(Shape):
    """Which version to stay at."""

    version: NameField = Field(examples=["20260705"])


class PinChangedShown(EffectShown):
    """What a change of a pin leads to, and the import that carries it out."""

    moved: set[str] = Field(description="Images that stay selected and come from another source, by id.")
    import_id: int | None = Field(None, description="The import that does it; null for a dry run.")


PIN_PLANNED: dict[int | str, dict[str, Any]] = {
    200: {"model": PinChangedShown, "description": "The plan of a dry run; nothing was changed."},
    **documented(404, 412, 422),
}
DryRun = Annotated[bool, Query(description="Answer the plan and change nothing.")]


class BootloaderShown(Shape):
    """A bootloader. It needs no selection."""

    os: str
    type: str = Field(examples=["uefi"])
    arch: str
    version: str
    held: bool
    size_bytes: int
    racks_synced: int
    racks_total: int


@router.get("/images", summary="List images that are selected or held")
async def list_images(
    _operator: Viewer,
    region: TheRegion,
    connection: Transaction,
    request: Request,
    response: Response,
    limit: Limit = 1000,
    cursor: Annotated[
        str | None, Query(pattern=r"^[A-Za-z0-9._+~:-]{1,400}$", description="`next` of the page before.")
    ] = None,
) -> Page[ImageShown]:
    found = await images.list_all(connection, region.now(), limit=limit + 1, after=cursor)
    return paged(request, response, found, limit, ImageShown, lambda image: str(image.id))


@router.get("/images/{image_id}", summary="Show an image", responses=documented(404, 422))
async def get_image(
    _operator: Viewer, region: TheRegion, connection: Transaction, response: Response, image_id: ImageId
) -> ImageShown:
    key = await aliases.image(connection, ImageKey.parse(image_id))
    found = await images.get(connection, key, region.now())
    response.headers["ETag"] = acts.etag(key, found.pinned_version)
    return ImageShown.model_validate(found)


@router.delete("/images/{image_id}", status_code=202, summary="Unselect an image", responses=PLANNED | documented(409))
async def remove_image(change: Change, image_id: ImageId) -> PlanShown:
    image = await aliases.image(change.connection, ImageKey.parse(image_id))
    wished = await selection_acts.without(change.connection, image)
    return await change.to(wished, image_etag=acts.etag(image, await pins.pinned(change.connection, image)))


@router.get(
    "/images/{image_id}/versions", summary="List an image's versions, newest first", responses=documented(404, 422)
)
async def list_versions(_operator: Viewer, connection: Transaction, image_id: ImageId) -> Page[VersionShown]:
    found = await images.versions_of(connection, await aliases.image(connection, ImageKey.parse(image_id)))
    if not found:
        raise NotFound("image called", image_id)
    return Page(items=[VersionShown.model_validate(version) for version in found])


@router.get("/images/{image_id}/racks", summary="Show where an image is, rack by rack", responses=documented(404, 422))
async def list_image_racks(
    _operator: Viewer,
    region: TheRegion,
    connection: Transaction,
    request: Request,
    response: Response,
    image_id: ImageId,
    limit: Limit = 200,
    cursor: NameCursor = None,
) -> Page[OnRackShown]:
    image = await aliases.image(connection, ImageKey.parse(image_id))
    if not await racks.is_published(connection, str(image)):
        await images.get(connection, image, region.now())
    found = await racks.on_racks(connection, str(image), region.now(), limit=limit + 1, after=cursor)
    return paged(request, response, found, limit, OnRackShown, lambda rack: str(rack.name))


@router.put("/images/{image_id}/pin", status_code=202, summary="Pin an image to a version", responses=PIN_PLANNED)
async def pin_image(
    operator: Changer,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    image_id: ImageId,
    fields: PinFields,
    dry_run: DryRun = False,
) -> PinChangedShown:
    key = await aliases.image(connection, ImageKey.parse(image_id))
    done = await acts.pin(connection, operator, key, fields.version, region.now(), if_match=if_match, dry_run=dry_run)
    return _pin_changed(done, response)


@router.delete(
    "/images/{image_id}/pin",
    status_code=202,
    summary="Let an image follow its source",
    responses=PIN_PLANNED,
)
async def unpin_image(
    operator: Changer,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    image_id: ImageId,
    dry_run: DryRun = False,
) -> PinChangedShown:
    key = await aliases.image(connection, ImageKey.parse(image_id))
    done = await acts.unpin(connection, operator, key, region.now(), if_match=if_match, dry_run=dry_run)
    return _pin_changed(done, response)


def _pin_changed(done: acts.Pinned, response: Response) -> PinChangedShown:
    response.headers["ETag"] = done.etag
    if done.import_id is None:
        response.status_code = 200
    else:
        response.headers["Location"] = f"/api/v1/imports/{done.import_id}"
    return PinChangedShown(
        moved=set(done.effect.moved), import_id=done.import_id, **EffectShown.of(done.effect).model_dump()
    )


@router.get("/bootloaders", summary="List the bootloaders, which come by themselves")
async def list_bootloaders(_operator: Viewer, region: TheRegion, connection: Transaction) -> Page[BootloaderShown]:
    found = await bootloaders.list_all(connection, region.now())
    return Page(items=[BootloaderShown.model_validate(bootloader) for bootloader in found])


@router.get("/available", summary="List what there is to select from", responses=documented(404))
async def list_available(
    _operator: Viewer,
    connection: Transaction,
    source_id: Annotated[
        int | None,
        Query(ge=1, le=2**31 - 1, description="One source's offers; else each image from the one that wins it."),
    ] = None,
) -> Page[OfferShown]:
    if source_id is not None:
        asked = [(await sources.get(connection, source_id)).id]
    else:
        known = [source for source in await sources.list_all(connection) if source.enabled]
        asked = [source.id for source in sorted(known, key=lambda each: each.unsigned)]
    winners = {} if source_id is not None else await targets.winners(connection)
    found: dict[ImageKey, OfferShown] = {}
    for each in asked:
        for offer in await offers.list_all(connection, each):
            shown = OfferShown.model_validate(offer).model_copy(update={"source_id": each})
            if shown.key() not in found or winners.get(shown.key()) == each:
                found[shown.key()] = shown
    return Page(items=list(found.values()))
