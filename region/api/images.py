"""/images: what operators look at. Status is derived, never stored."""

from datetime import datetime
from typing import Annotated, Literal

from fastapi import APIRouter, Query, Request, Response
from pydantic import Field

from region import images, offers, sources
from region.api.deps import TheRegion, Transaction, Viewer
from region.api.models import ImageId, ImageName, Limit, OfferShown, Page, link_next
from region.api.problems import documented
from region.plan import ImageKey

router = APIRouter(tags=["images"])

Status = Literal["queued", "downloading", "waiting_for_racks", "stored", "synced", "failed", "unavailable", "retiring"]


class ImageShown(ImageName):
    """An image and where it is. Sizes in bytes.

    `stored`: whole on the region, and no rack is enrolled. `synced`: every live rack serves all of the newest version.
    `unavailable`: selected, no longer offered; what is held is kept. `retiring`: no longer selected, about to go.
    """

    id: ImageId
    title: str = Field(examples=["24.04 LTS"])
    source_id: int | None
    selected: bool
    status: Status
    progress: int = Field(ge=0, le=100, description="Percent of what the region has to fetch.")
    version: str = Field(description="The newest version, the one the status speaks of.", examples=["20260705"])
    held_version: str = Field(description="The newest version that is whole and served; empty before the first.")
    size_bytes: int
    bytes_done: int
    racks_synced: int = Field(description="Live racks that serve all of it.")
    racks_live: int
    racks_total: int
    support_eol: str | None
    updated_at: datetime | None = Field(description="When the held version became whole.")
    error_code: str
    error: str = Field(description="What went wrong last, a sentence; empty when nothing did.")


@router.get("/images", summary="List images that are selected or held")
async def list_images(
    _operator: Viewer,
    region: TheRegion,
    connection: Transaction,
    request: Request,
    response: Response,
    limit: Limit = 1000,
    cursor: Annotated[str | None, Query(description="`next` of the page before.")] = None,
) -> Page[ImageShown]:
    found = await images.list_all(connection, region.now(), limit=limit + 1, after=cursor)
    following = found[limit - 1].id if len(found) > limit else None
    link_next(request, response, following)
    return Page(items=[ImageShown.model_validate(image) for image in found[:limit]], next=following)


@router.get("/images/{image_id}", summary="Show an image", responses=documented(404, 422))
async def get_image(_operator: Viewer, region: TheRegion, connection: Transaction, image_id: ImageId) -> ImageShown:
    return ImageShown.model_validate(await images.get(connection, ImageKey.parse(image_id), region.now()))


@router.get("/available", summary="List what a source offers to select from", responses=documented(404))
async def list_available(
    _operator: Viewer,
    connection: Transaction,
    source_id: Annotated[int | None, Query(ge=1, le=2**31 - 1, description="The winning source when left out.")] = None,
) -> Page[OfferShown]:
    if source_id is None:
        known = await sources.list_all(connection)
        if not known:
            return Page(items=[])
        source_id = known[0].id
    else:
        await sources.get(connection, source_id)
    return Page(items=[OfferShown.model_validate(offer) for offer in await offers.list_all(connection, source_id)])
