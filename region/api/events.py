"""/events: word that something changed, for pages and programs that watch. The facts are read where they are."""

import time
from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter, Request
from fastapi.sse import EventSourceResponse, ServerSentEvent

from region.api.deps import TheRegion, Viewer, look_again
from region.api.problems import documented
from region.database.topics import FOR_THE_REGION, Topic
from region.process import Region
from shared.errors import Refused, Unavailable

router = APIRouter(tags=["events"])

LOOK_AGAIN_S = 5.0
"""How often it is asked whether whoever listens may still listen; at once when somebody changed something."""

ALIVE, ALIVE_S = "alive", 15.0
"""What is said when there was nothing else to say for so long: a comment would be no event for a page."""


@router.get(
    "/events",
    summary="Hear what changes, as server-sent events",
    response_class=EventSourceResponse,
    responses=documented(401, 503),
)
async def events(region: TheRegion, request: Request, _operator: Viewer) -> AsyncIterator[ServerSentEvent]:
    watched = [topic for topic in Topic if topic not in FOR_THE_REGION]
    with region.topics.subscribe(*watched) as subscription:
        # Whoever connects has missed what came before: everything counts as changed.
        topics: Sequence[Topic] = watched
        looked_at = said_at = time.monotonic()
        while True:
            for topic in topics:
                yield ServerSentEvent(event=topic.value, data={})
            if topics:
                said_at = time.monotonic()
            elif time.monotonic() - said_at >= ALIVE_S:
                said_at = time.monotonic()
                yield ServerSentEvent(event=ALIVE, data={})
            topics = await subscription.next(LOOK_AGAIN_S)
            # Who removes a token, or logs out, leaves an activity; that a time runs out, nobody tells.
            if Topic.ACTIVITY in topics or time.monotonic() - looked_at >= LOOK_AGAIN_S:
                looked_at = time.monotonic()
                if not await _still_valid(region, request):
                    return


async def _still_valid(region: Region, request: Request) -> bool:
    try:
        await look_again(region, request)
    except Refused:
        return False
    except Unavailable:
        # Whoever listens learns of nothing meanwhile.
        return True
    return True
