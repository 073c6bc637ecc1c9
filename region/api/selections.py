"""/selections: which images are wanted. Every change answers its plan first when `dry_run` asks for it."""

import asyncio
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Header, Path, Query, Response
from pydantic import Field
from sqlalchemy.ext.asyncio import AsyncConnection

from region.api.deps import Changer, TheRegion, Transaction, Viewer
from region.api.models import ImageName, Page, Shape
from region.api.problems import documented
from region.catalogue import products, selections, sources
from region.catalogue.selections import Wanted
from region.fleet import racks
from region.importing import imports
from region.importing.plan import plan
from region.people import activity
from region.people.operators import Operator
from region.process import Region
from shared.errors import NotFound, PreconditionFailed
from shared.names import ImageKey

router = APIRouter(prefix="/selections", tags=["selections"])
ACTION = "selection.changed"
"""How the activity names a change of the selection."""

SelectionId = Annotated[int, Path(ge=1, le=2**31 - 1)]


class SelectionFields(ImageName):
    """A wish. Without `source_id`, the source with the highest priority that offers the image is meant."""

    source_id: int | None = Field(None, ge=1, le=2**31 - 1)


class WholeSelection(Shape):
    """Everything that is to be selected; what is not in it is given up."""

    items: list[SelectionFields] = Field(max_length=10_000)


class SelectionShown(ImageName):
    """A wish that stands."""

    id: int
    source_id: int
    created_at: datetime


class RoomShown(Shape):
    """A rack's room, in bytes, before and after."""

    name: str
    free_bytes: int
    free_bytes_after: int


class PlanShown(Shape):
    """What a selection leads to. Bytes are on the region; a file that several images share counts once."""

    add: set[str] = Field(description="Images newly selected, by id.", examples=[["ubuntu:noble:amd64"]])
    remove: set[str] = Field(description="Images given up, by id.")
    moved: set[str] = Field(description="Images that stay selected and come from another source.")
    unavailable: set[str] = Field(description="Images selected that no source offers.")
    fetch_bytes: int
    free_bytes: int = Field(description="Free on the region now.")
    free_bytes_after: int = Field(description="Free on the region afterwards; negative says: it does not fit.")
    tightest_rack: RoomShown | None = Field(description="The live rack with the least room left; null without racks.")
    import_id: int | None = Field(None, description="The import that does it; null for a dry run.")


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the selection under way: one transaction that selects and asks for the import, or a dry run."""

    operator: Operator
    region: Region
    connection: AsyncConnection
    response: Response
    if_match: str | None
    dry_run: bool

    async def to(self, wished: Wanted) -> PlanShown:
        """From here on exactly `wished` is selected; a dry run only tells what that would lead to.

        Raises PreconditionFailed when the caller has seen another selection than there is.
        """
        await self._require_unchanged()
        before = await selections.wanted(self.connection)
        stored = await products.stored(self.connection)
        decided = plan(wished, await products.facts(self.connection, wished), stored)
        free = await asyncio.to_thread(self.region.store.bytes_free)
        room = await racks.tightest(self.connection, decided.needed, self.region.now())
        shown = PlanShown(
            add=_images(wished) - _images(before),
            remove=_images(before) - _images(wished),
            moved={str(image) for _, image in wished - before} & _images(before),
            unavailable={str(image) for image in decided.unavailable},
            fetch_bytes=decided.fetch_bytes,
            free_bytes=free,
            free_bytes_after=free - decided.fetch_bytes,
            tightest_rack=None if room is None else RoomShown.model_validate(room),
        )
        if self.dry_run:
            self.response.status_code = 200
            self.response.headers["ETag"] = _etag(await selections.revision(self.connection))
            return shown
        await selections.replace(self.connection, wished, self.region.now())
        shown.import_id = await imports.enqueue(self.connection, "selection", self.operator.name, self.region.now())
        self.response.headers["Location"] = f"/api/v1/imports/{shown.import_id}"
        self.response.headers["ETag"] = _etag(await selections.revision(self.connection))
        await activity.record(
            self.connection,
            self.operator,
            self.region.now(),
            ACTION,
            _sentence(shown),
            before={"images": sorted(_images(before))},
            after={"images": sorted(_images(wished))},
        )
        return shown

    async def _require_unchanged(self) -> None:
        etag = _etag(await selections.revision(self.connection, for_update=True))
        if self.if_match is None or self.if_match.strip() in ("*", etag):
            return
        last = next(
            (entry for entry in await activity.list_recent(self.connection, 200, None) if entry.action == ACTION), None
        )
        who = (
            f"{last.who} changed it at {last.at:%H:%M:%S} UTC ({last.sentence})"
            if last
            else "the region chose a default"
        )
        raise PreconditionFailed(
            f"The selection is not any more what you have seen: {who}; look again before you save."
        )


def _sentence(shown: PlanShown) -> str:
    """What a change did, for people."""
    parts = [
        f"{verb} {_counted(found)}" for verb, found in (("selected", shown.add), ("gave up", shown.remove)) if found
    ]
    told = " and ".join(parts) or "saved the selection as it was"
    return f"{told[:1].upper()}{told[1:]}."


def _counted(found: set[str]) -> str:
    return ", ".join(sorted(found)) if len(found) <= 3 else f"{len(found)} images"


def _etag(revision: int) -> str:
    return f'"selection-{revision}"'


def _images(wanted: Wanted) -> set[str]:
    return {str(image) for _, image in wanted}


def _change(
    operator: Changer,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: Annotated[str | None, Header(description="The ETag of the selection you have seen.")] = None,
    dry_run: Annotated[bool, Query(description="Answer the plan and change nothing.")] = False,
) -> _Change:
    return _Change(operator, region, connection, response, if_match, dry_run)


Change = Annotated[_Change, Depends(_change)]

PLANNED: dict[int | str, dict[str, Any]] = {
    200: {"model": PlanShown, "description": "The plan of a dry run; nothing was changed."},
    **documented(404, 412, 422),
}


@router.get("", summary="List what is selected")
async def list_selections(_operator: Viewer, connection: Transaction, response: Response) -> Page[SelectionShown]:
    response.headers["ETag"] = _etag(await selections.revision(connection))
    return Page(
        items=[
            SelectionShown(id=entry.id, source_id=entry.source_id, created_at=entry.created_at, **entry.image._asdict())
            for entry in await selections.list_all(connection)
        ]
    )


@router.put("", status_code=202, summary="Select exactly these images, all or nothing", responses=PLANNED)
async def replace_selection(change: Change, whole: WholeSelection) -> PlanShown:
    return await change.to(frozenset([await _resolve(change.connection, entry) for entry in whole.items]))


@router.post("", status_code=202, summary="Select one image", responses=PLANNED)
async def add_selection(change: Change, fields: SelectionFields) -> PlanShown:
    before = await selections.wanted(change.connection)
    return await change.to(before | {await _resolve(change.connection, fields)})


@router.delete("/{selection_id}", status_code=202, summary="Give one image up", responses=PLANNED)
async def remove_selection(change: Change, selection_id: SelectionId) -> PlanShown:
    entry = await selections.get(change.connection, selection_id)
    return await change.to(await selections.wanted(change.connection) - {(entry.source_id, entry.image)})


async def _resolve(connection: AsyncConnection, fields: SelectionFields) -> tuple[int, ImageKey]:
    """The wish with its source. Raises NotFound, also for an image that the source does not offer."""
    image = fields.key()
    if fields.source_id is not None:
        source = await sources.get(connection, fields.source_id)
        if not await products.is_known(connection, source.id, image):
            raise NotFound(f"image that {source.name} offers called", image)
        return source.id, image
    for source in await sources.list_all(connection):
        if await products.is_known(connection, source.id, image):
            return source.id, image
    raise NotFound("image that a source offers called", image)
