"""/selections: which images are wanted. Every change answers its plan first when `dry_run` asks for it."""

import asyncio
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, Any

from fastapi import APIRouter, Depends, Path, Query, Response
from pydantic import AfterValidator, Field
from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.actions import selections as acts
from region.api.deps import Changer, IfMatch, TheRegion, Transaction, Viewer
from region.api.models import EffectShown, NameField, Page, Shape, parsed
from region.api.problems import documented
from region.catalogue import aliases, selections, trust
from region.catalogue.facts import Meanings, Wish, Wishes
from region.catalogue.kernels import ALL
from region.catalogue.patterns import ANY, Pattern, is_exact, parse_release
from region.fleet import racks
from region.people.operators import Operator
from region.process import Region
from shared.names import Name

router = APIRouter(prefix="/selections", tags=["selections"])
SelectionId = Annotated[int, Path(ge=1, le=2**31 - 1)]


KernelField = Annotated[str, AfterValidator(parsed(lambda said: said if said == ALL else Name(said)))]


class WishFields(Shape):
    """What is wished for, as it is said."""

    os: NameField = Field(examples=["ubuntu"])
    release: Annotated[str, AfterValidator(parsed(parse_release))] = Field(
        description=(
            "A release by its name or version, or a rule: `lts` and `lts:2` (the newest of those with long-term"
            " support), `supported` (all whose support has not ended), `*` (all)."
        ),
        examples=["noble"],
    )
    arch: Annotated[str, AfterValidator(parsed(lambda said: said if said == ANY else Name(said)))] = Field(
        description="An architecture, or `*` for all.", examples=["amd64"]
    )
    kernels: list[KernelField] | None = Field(
        None,
        min_length=1,
        max_length=64,
        description=(
            "Which kernels: by name (`hwe-24.04`), by kind without the release's number (`ga`, `hwe`, `hwe-edge`,"
            " `ga-lowlatency`), or `*`. All when left out."
        ),
        examples=[["ga"]],
    )
    labels: list[KernelField] | None = Field(
        None, min_length=1, max_length=64, description="Which labels, or `*`. All when left out.", examples=[["stable"]]
    )


class SelectionFields(WishFields):
    """A wish. Without `source_id`, whichever source wins the image is meant, now and later."""

    source_id: int | None = Field(None, ge=1, le=2**31 - 1)


class WholeSelection(Shape):
    """Everything that is to be selected; what is not in it is unselected."""

    items: list[SelectionFields] = Field(max_length=10_000)


class SelectionShown(WishFields):
    """A wish that stands, as it was said."""

    id: int
    source_id: int | None = Field(description="The source it names; null: whichever source wins the image.")
    images: list[str] = Field(description="The images it means now, by id.", examples=[["ubuntu:noble:amd64"]])
    created_at: datetime


class RoomShown(Shape):
    """A rack's room, in bytes, before and after."""

    name: str
    free_bytes: int
    free_bytes_after: int


class PlanShown(EffectShown):
    """What a selection leads to. Bytes are on the region; a file that several images share counts once."""

    add: set[str] = Field(description="Images newly selected, by id.", examples=[["ubuntu:noble:amd64"]])
    remove: set[str] = Field(description="Images unselected, by id.")
    moved: set[str] = Field(description="Images that stay selected and come from another source.")
    unavailable: set[str] = Field(description="Images selected that no source offers.")
    kernels_add: dict[str, list[str]] = Field(description="Kernels that come, by image.")
    kernels_remove: dict[str, list[str]] = Field(description="Kernels that go, by image that stays selected.")
    left_out_bytes: int = Field(description="What kernels that are offered and not selected would take besides.")
    means: dict[str, list[str]] = Field(
        description="The images that rules, and releases named by their version, mean: by how they were said."
    )
    free_bytes: int = Field(description="Free on the region now.")
    free_bytes_after: int = Field(description="Free on the region afterwards; negative says: it does not fit.")
    tightest_rack: RoomShown | None = Field(description="The live rack with the least room left; null without racks.")
    import_id: int | None = Field(None, description="The import that does it; null for a dry run.")


@dataclass(frozen=True, slots=True)
class _Change:
    """A change of the selection under way: one transaction that selects and asks for the import, or a dry run.

    Nobody else changes the selection while it is: what a route reads of it is what it changes.
    """

    operator: Operator
    region: Region
    connection: AsyncConnection
    revision: int
    """The selection's, before the change."""
    response: Response
    free_bytes: int
    if_match: str | None
    dry_run: bool
    aliases: dict[str, Pattern] = field(default_factory=dict)
    """What was said with a release's version, and what it means."""

    async def wishes(self, said: Sequence[SelectionFields]) -> frozenset[Wish]:
        """What is wished for. Raises InvalidValue."""
        meant = await aliases.releases(self.connection, {(fields.os, fields.release) for fields in said})
        found = set()
        for fields in said:
            image = Pattern(fields.os, meant[fields.os, fields.release], fields.arch)
            if image.release != fields.release:
                self.aliases[f"{fields.os}:{fields.release}:{fields.arch}"] = image
            found.add(
                Wish(
                    fields.source_id,
                    image,
                    None if fields.kernels is None else frozenset(fields.kernels),
                    None if fields.labels is None else frozenset(fields.labels),
                )
            )
        return frozenset(found)

    async def to(self, wished: Wishes, *, image_etag: str | None = None) -> PlanShown:
        """Exactly `wished` is selected; a dry run only tells what that would lead to.

        Raises PreconditionFailed when the caller has seen another selection than there is; for a change of one image,
        whose tag is `image_etag`, it is enough to have seen that.
        """
        await self._require_unchanged(image_etag)
        done = await acts.select(self.connection, self.operator, wished, self.region.now(), dry_run=self.dry_run)
        room = await racks.tightest(self.connection, done.effect.needed, self.region.now())
        self.response.headers["ETag"] = _etag(done.revision)
        if self.dry_run:
            self.response.status_code = 200
        else:
            self.response.headers["Location"] = f"/api/v1/imports/{done.import_id}"
        return _shown(done, self.free_bytes, room, self.aliases)

    async def _require_unchanged(self, image_etag: str | None) -> None:
        if image_etag is not None and guard.is_unchanged(self.if_match, image_etag):
            return
        await guard.require_unchanged(
            self.connection, self.if_match, _etag(self.revision), acts.SUBJECT, "the selection"
        )


def _shown(done: acts.Selected, free_bytes: int, room: racks.Room | None, said: Mapping[str, Pattern]) -> PlanShown:
    effect = done.effect
    return PlanShown(
        add=set(effect.add),
        remove=set(effect.remove),
        moved=set(effect.moved),
        unavailable=set(effect.unavailable),
        kernels_add={image: sorted(kernels) for image, kernels in sorted(effect.kernels_add.items())},
        kernels_remove={image: sorted(kernels) for image, kernels in sorted(effect.kernels_remove.items())},
        left_out_bytes=effect.left_out_bytes,
        means=_means(done.meanings, said),
        **EffectShown.of(effect).model_dump(),
        free_bytes=free_bytes,
        free_bytes_after=free_bytes - effect.fetch_bytes,
        tightest_rack=None if room is None else RoomShown.model_validate(room),
        import_id=done.import_id,
    )


def _means(meanings: Meanings, said: Mapping[str, Pattern]) -> dict[str, list[str]]:
    """By what was said; a rule that several sources are named for means what it means of all of them."""
    images: dict[str, set[str]] = defaultdict(set)
    for wish, meant in meanings.items():
        images[str(wish.image)] |= set(map(str, meant))
    rules = {str(wish.image) for wish in meanings if not is_exact(wish.image)}
    named = {alias: str(pattern) for alias, pattern in said.items()} | {rule: rule for rule in rules}
    return {each: sorted(images[pattern]) for each, pattern in sorted(named.items())}


def _etag(revision: int) -> str:
    return f'"selection-{revision}"'


async def _free_bytes(region: TheRegion) -> int:
    """Asked before the transaction begins, as the keyrings on disk are: neither is waited for inside it."""
    region.require_ready()
    await trust.look_all(region.request_engine, region.now())
    return await asyncio.to_thread(region.store.bytes_free)


async def _change(
    operator: Changer,
    region: TheRegion,
    free_bytes: Annotated[int, Depends(_free_bytes)],
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    dry_run: Annotated[bool, Query(description="Answer the plan and change nothing.")] = False,
) -> _Change:
    revision = await selections.revision(connection, for_update=True)
    return _Change(operator, region, connection, revision, response, free_bytes, if_match, dry_run)


Change = Annotated[_Change, Depends(_change)]

PLANNED: dict[int | str, dict[str, Any]] = {
    200: {"model": PlanShown, "description": "The plan of a dry run; nothing was changed."},
    **documented(404, 412, 422),
}


@router.get("", summary="List what is selected")
async def list_selections(_operator: Viewer, connection: Transaction, response: Response) -> Page[SelectionShown]:
    response.headers["ETag"] = _etag(await selections.revision(connection))
    meanings = await selections.meanings(connection)
    return Page(
        items=[
            SelectionShown(
                id=entry.id,
                source_id=entry.wish.source_id,
                created_at=entry.created_at,
                **entry.wish.image._asdict(),
                kernels=None if entry.wish.kernels is None else sorted(entry.wish.kernels),
                labels=None if entry.wish.labels is None else sorted(entry.wish.labels),
                images=sorted(map(str, meanings[entry.wish])),
            )
            for entry in await selections.list_all(connection)
        ]
    )


@router.put("", status_code=202, summary="Select exactly these images, all or nothing", responses=PLANNED)
async def replace_selection(change: Change, whole: WholeSelection) -> PlanShown:
    return await change.to(await change.wishes(whole.items))


@router.post("", status_code=202, summary="Select one image, or what a rule means", responses=PLANNED)
async def add_selection(change: Change, fields: SelectionFields) -> PlanShown:
    [wish] = await change.wishes([fields])
    before = await selections.wishes(change.connection)
    others = {other for other in before if (other.source_id, other.image) != (wish.source_id, wish.image)}
    return await change.to(frozenset(others | {wish}))


@router.delete(
    "/{selection_id}", status_code=202, summary="Unselect one image, or what a rule means", responses=PLANNED
)
async def remove_selection(change: Change, selection_id: SelectionId) -> PlanShown:
    entry = await selections.get(change.connection, selection_id)
    return await change.to(await selections.wishes(change.connection) - {entry.wish})
