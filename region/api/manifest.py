"""/manifest: what racks are to hold, word that it changed, and an operator's word. A poll costs no query."""

import asyncio
from collections.abc import AsyncIterator

from fastapi import APIRouter, Request, Response
from fastapi.sse import EventSourceResponse, ServerSentEvent

from region.actions import region as acts
from region.api.deps import Changer, TheRack, TheRegion, Transaction
from region.api.models import Shape
from region.api.problems import documented
from region.database.topics import Changes, Topic
from region.process import Region
from shared.conditions import decide
from shared.wire.envelope import MEDIA_TYPE

router = APIRouter()

RACKS_A_SECOND = 50
"""So many racks are asked to come within one second of a hint."""

LEAST_SPREAD_S = 2


class ConfirmedShown(Shape):
    """The manifest that carries the confirmation."""

    epoch: int
    serial: int


@router.get(
    "/manifest",
    tags=["racks"],
    summary="The signed manifest: for bootferry-rack",
    response_class=Response,
    responses={
        200: {"content": {MEDIA_TYPE: {}}},
        204: {"description": "Nothing was published yet"},
        304: {"description": "Unchanged"},
        **documented(401, 503),
    },
)
async def get_manifest(region: TheRegion, _rack: TheRack, request: Request) -> Response:
    published = region.memory.published
    if published is None:
        return Response(status_code=204, headers={"Cache-Control": "no-cache"})
    headers = {"ETag": published.etag, "Cache-Control": "no-cache"}
    status, _ = decide("GET", request.headers.getlist, published.etag, len(published.envelope))
    if status == 304:
        return Response(status_code=304, headers=headers)
    return Response(published.envelope, headers=headers, media_type=MEDIA_TYPE)


@router.get(
    "/manifest/events",
    tags=["racks"],
    summary="Word that the manifest changed, or that an operator wants a poll: for bootferry-rack",
    response_class=EventSourceResponse,
    responses=documented(401, 503),
)
async def manifest_events(region: TheRegion, rack: TheRack) -> AsyncIterator[ServerSentEvent]:
    ended = asyncio.Event()
    with region.topics.subscribe(Topic.PUBLISHED, Topic.POLL) as subscription:

        def end() -> None:
            ended.set()
            subscription.wake()

        with region.rack_keys.watch(rack.id, end):
            # It may have been removed between its signature and this line.
            changed: Changes = {Topic.PUBLISHED: None}
            while not ended.is_set() and region.rack_keys.get(rack.id) is not None:
                if Topic.PUBLISHED in changed and (event := _word(region)):
                    yield event
                if event := _wish(region, rack.id, changed):
                    yield event
                changed = await subscription.changes()


def _word(region: Region) -> ServerSentEvent | None:
    if region.memory.published is None:
        return None
    epoch, serial = region.memory.published.manifest.order
    told = {"epoch": epoch, "serial": serial, "within_seconds": _spread_s(region), "last": region.memory.settled}
    return ServerSentEvent(event="manifest", data=told)


def _wish(region: Region, rack_id: str, changed: Changes) -> ServerSentEvent | None:
    """Word that an operator wants this rack to poll now; None where nobody does."""
    if Topic.POLL not in changed:
        return None
    asked = changed[Topic.POLL]
    if asked is not None and rack_id not in asked:
        return None
    return ServerSentEvent(event="poll", data={"within_seconds": 0 if asked else _spread_s(region)})


def _spread_s(region: Region) -> int:
    """Over so many seconds all racks may come."""
    return max(LEAST_SPREAD_S, len(region.rack_keys) // RACKS_A_SECOND)


@router.post(
    "/manifest/confirmation", tags=["racks"], summary="Confirm what the manifest takes away", responses=documented(409)
)
async def confirm_manifest(operator: Changer, region: TheRegion, connection: Transaction) -> ConfirmedShown:
    epoch, serial = await acts.confirm(connection, operator, region.publisher, region.now())
    return ConfirmedShown(epoch=epoch, serial=serial)
