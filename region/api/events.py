"""/events: word that something changed, for pages and programs that watch. The facts are read where they are."""

from collections.abc import AsyncIterator, Sequence

from fastapi import APIRouter
from fastapi.sse import EventSourceResponse, ServerSentEvent

from region.api.deps import TheRegion, Viewer
from region.api.problems import documented
from region.database.topics import FOR_THE_REGION, Topic

router = APIRouter(tags=["events"])


@router.get(
    "/events",
    summary="Hear what changes, as server-sent events",
    response_class=EventSourceResponse,
    responses=documented(401, 503),
)
async def events(region: TheRegion, _operator: Viewer) -> AsyncIterator[ServerSentEvent]:
    watched = [topic for topic in Topic if topic not in FOR_THE_REGION]
    with region.topics.subscribe(*watched) as subscription:
        # Whoever connects has missed what came before: everything counts as changed.
        topics: Sequence[Topic] = watched
        while True:
            for topic in topics:
                yield ServerSentEvent(event=topic.value, data={})
            topics = await subscription.next()
