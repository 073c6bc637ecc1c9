"""/sources: where images come from."""

from datetime import datetime
from typing import Annotated, Self, cast

from fastapi import APIRouter, Query, Response
from fastapi import Path as PathParameter
from pydantic import Field, model_validator

from region.actions import imports as import_acts
from region.actions import sources as acts
from region.actions.sources import HeldChoice, SourceChanged
from region.api.deps import Admin, Changer, IfMatch, TheRegion, Transaction, Viewer
from region.api.imports import ImportShown
from region.api.models import EffectShown, OfferShown, Page, Shape
from region.api.problems import documented
from region.catalogue import offers, sources, trust
from region.catalogue.sources import Source, SourceWish
from region.database.connection import transaction
from region.importing import reading
from region.people import settings
from region.stream.keys import key_ids

router = APIRouter(tags=["sources"])
SourceId = Annotated[int, PathParameter(ge=1, le=2**31 - 1, description="The source's number.")]
PathField = Annotated[str, Field(min_length=1, max_length=4096)]


class SourceFields(Shape):
    """A source as an operator describes it: one of `keyring`, `keyring_path`, `keyring_name`, or `unsigned: true`."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$", examples=["Our mirror"])
    url: str = Field(
        max_length=2048,
        description=(
            "The mirror's root. A user name and password in it are kept sealed and shown as `***`; sent back, `***`"
            " keeps them."
        ),
        examples=["https://mirror.example.org/maas/"],
    )
    keyring: str | None = Field(
        None, max_length=1_500_000, description="The public keys: armoured, or binary as base64. Null on answers."
    )
    keyring_path: PathField | None = Field(None, description="Or where the keyring lies on the region.")
    keyring_name: str | None = Field(
        None, max_length=64, description="Or the name of a keyring that Bootferry ships.", examples=["ubuntu"]
    )
    unsigned: bool = Field(False, description="Take the source without any signature. Everybody is told so, for ever.")
    priority: int | None = Field(
        None, ge=-1_000_000, le=1_000_000, description="The greater wins an image that several offer."
    )
    proxy: str | None = Field(None, max_length=2048, examples=["http://proxy.example.org:3128"])
    ca_bundle: str | None = Field(
        None, max_length=4096, description="More certificates to trust, a file on the region."
    )

    stale_after_days: int = Field(
        30, ge=0, le=3650, description="Warn everybody when its documents are older than so many days; 0: never."
    )

    async def wish(self, default_priority: int, now: datetime, stored: Source | None = None) -> SourceWish:
        """What the operator wants; `***` means a user name and password of `stored`.

        Raises InvalidValue, InvalidKeyring.
        """
        keyring, keyring_name = await acts.keyring_of(
            None if self.keyring is None else self.keyring.encode(), self.keyring_path, self.keyring_name, now
        )
        return sources.wish(
            name=self.name,
            url=self.url,
            keyring=keyring,
            keyring_path=self.keyring_path,
            keyring_name=keyring_name,
            unsigned=self.unsigned,
            priority=default_priority if self.priority is None else self.priority,
            proxy=self.proxy,
            ca_bundle=self.ca_bundle,
            stored=stored,
            stale_after_days=self.stale_after_days,
        )


class SourceChange(Shape):
    """The fields to change; what is left out stays as it is."""

    name: str | None = Field(None, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")
    url: str | None = Field(None, max_length=2048)
    keyring: str | None = Field(None, max_length=1_500_000)
    keyring_path: PathField | None = None
    keyring_name: str | None = Field(None, max_length=64)
    unsigned: bool | None = None
    confirm_unsigned: bool = Field(False, description="Yes, a signed source is to become an unsigned one.")
    priority: int | None = Field(None, ge=-1_000_000, le=1_000_000)
    proxy: str | None = Field(None, max_length=2048, description="An empty text means: none any more.")
    ca_bundle: str | None = Field(None, max_length=4096, description="An empty text means: none any more.")
    stale_after_days: int | None = Field(None, ge=0, le=3650, description="0 means: never warn.")
    enabled: bool | None = Field(
        None, description="False: it is not read, and nothing new is taken from it; what is held of it stays."
    )

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one field to change")
        return self

    async def changes(self, now: datetime) -> acts.Changes:
        """The fields that were given, the keyring read. Raises InvalidValue, InvalidKeyring."""
        given = {
            name: value
            for name in self.model_fields_set - {"confirm_unsigned"}
            if (value := getattr(self, name)) is not None
        }
        if given.keys() & {"keyring", "keyring_path", "keyring_name", "unsigned"}:
            # A new way to trust replaces the old one.
            keyring, name = await acts.keyring_of(
                None if self.keyring is None else self.keyring.encode(), self.keyring_path, self.keyring_name, now
            )
            given |= {
                "keyring": keyring,
                "keyring_path": self.keyring_path,
                "keyring_name": name,
                "unsigned": bool(self.unsigned),
            }
        return cast("acts.Changes", given)


class SourceShown(Shape):
    """A source, and how its last reading went. `error` is empty when it went well, `warning` when nothing is odd."""

    id: int
    name: str
    url: str
    unsigned: bool
    key_ids: list[str] = Field(description="Fingerprints of the keys that may have signed it.")
    keyring_path: str | None
    keyring_name: str | None
    enabled: bool = Field(description="False: it is not read, and offers nothing new.")
    current: bool = Field(
        description="True if it was read under the trust it has now; nothing new is taken of another."
    )
    priority: int
    proxy: str | None
    ca_bundle: str | None
    last_read_at: datetime | None
    error_code: str
    error: str
    skipped: list[str] = Field(description="What of the stream could not be used, a sentence each.")
    stale_after_days: int
    documents_updated_at: datetime | None = Field(description="The date its index bears.")
    warning_code: str = Field(description="`stale`: its documents are older than `stale_after_days`; else empty.")
    warning: str = Field(
        description="What everybody is to be told of it although nothing failed: a sentence, or empty."
    )
    older_accepted_until: datetime | None = Field(
        description="Until then one reading may bring documents older than those accepted before; null: none may."
    )


class Probe(Shape):
    """What a source offers right now; nothing of it was saved."""

    url: str
    signed_by: list[str] = Field(description="Fingerprints of the keyring's keys; empty for an unsigned source.")
    images: list[OfferShown]
    skipped: list[str]


class UnvouchedShown(Shape):
    """A held version that nobody whom its source is believed by has signed."""

    image: str
    place: str = Field(description="Its directory on racks.")
    version: str
    source: str
    vouched_by: list[str] = Field(description="Fingerprints of the keys that signed it.")
    held_at: datetime


class LapseShown(EffectShown):
    """What a change of a source concerns: what lapses by its trust, what comes from elsewhere, and the bootloaders."""

    lapses: list[str] = Field(description="Images it offered that nobody vouches for after it, by id.")
    held: list[UnvouchedShown] = Field(description="What is held and nobody would vouch for.")
    moved: set[str] = Field(description="Images that stay selected and come from another source, by id.")


class SourceChangedShown(SourceShown, LapseShown):
    """The source after a change, or as a dry run would leave it, and what lapses by it."""


Held = Annotated[
    HeldChoice | None,
    Query(description="What becomes of what is held and would lapse: keep goes on serving it, withdraw does not."),
]
DryRun = Annotated[bool, Query(description="Answer what would lapse, and change nothing.")]


def _shown(source: Source, now: datetime) -> SourceShown:
    computed = {"key_ids", "current", "url", "proxy", "warning_code", "warning"}
    warning = source.stale(now)
    return SourceShown(
        key_ids=[] if source.keyring is None else list(key_ids(source.keyring)),
        current=source.keyring_readable and source.read_revision == source.trust_revision,
        # A user name and password are shown as *** (I7).
        url=source.address.shown,
        proxy=source.proxy_address.shown if source.proxy_address else None,
        warning_code=warning.code if warning else "",
        warning=str(warning) if warning else "",
        **{name: getattr(source, name) for name in SourceShown.model_fields if name not in computed},
    )


def _name(done: SourceChanged, response: Response) -> None:
    """Name the import that follows, and the source as it stands, in the answer's head."""
    if done.import_id is not None:
        response.headers["Location"] = f"/api/v1/imports/{done.import_id}"
    if done.etag is not None:
        response.headers["ETag"] = done.etag


def _lapse(done: SourceChanged) -> LapseShown:
    return LapseShown(
        lapses=list(done.lapse.images),
        held=[_unvouched(entry) for entry in done.lapse.held],
        moved=set(done.effect.moved) if done.effect else set(),
        **EffectShown.of(done.effect).model_dump(),
    )


def _unvouched(entry: trust.Unvouched) -> UnvouchedShown:
    return UnvouchedShown.model_validate({name: getattr(entry, name) for name in UnvouchedShown.model_fields})


@router.get("/sources", summary="List the sources, the one that wins first")
async def list_sources(_operator: Viewer, region: TheRegion, connection: Transaction) -> Page[SourceShown]:
    return Page(items=[_shown(source, region.now()) for source in await sources.list_all(connection)])


@router.post("/sources", status_code=201, summary="Add a source", responses=documented(409, 422))
async def add_source(
    operator: Admin, region: TheRegion, connection: Transaction, response: Response, fields: SourceFields
) -> SourceShown:
    wished = await fields.wish(await sources.lowest_priority(connection), region.now())
    done = await acts.add(connection, operator, wished, region.now(), region.secrets)
    _name(done, response)
    return _shown(done.source, region.now())


@router.post(
    "/sources/probe",
    summary="Try a source: see what it offers, or precisely why not, before anything is saved",
    responses=documented(404, 422, 502, 504),
)
async def probe_source(
    _operator: Admin,
    region: TheRegion,
    fields: SourceFields,
    source_id: Annotated[
        int | None,
        Query(ge=1, le=2**31 - 1, description="The source whose user name and password `***` in an address means."),
    ] = None,
) -> Probe:
    async with transaction(region.request_engine) as connection:
        proxy = (await settings.get(connection)).proxy
        stored = None if source_id is None else await sources.get(connection, source_id)
    wished = await fields.wish(1, region.now(), stored)
    async with reading.connect(wished, proxy, region.secrets) as connected:
        found = await reading.read(connected, {}, region.now())
    for error in found.failed.values():
        raise error
    products = [product for _, stream in found.reading.changed for product in stream.products] if found.reading else []
    return Probe(
        url=wished.address.shown,
        signed_by=[] if wished.keyring is None else list(key_ids(wished.keyring)),
        images=[OfferShown.model_validate(offer) for offer in offers.of_products(products)],
        skipped=list(found.skipped),
    )


@router.get("/sources/{source_id}", summary="Show a source", responses=documented(404))
async def get_source(
    _operator: Viewer, region: TheRegion, connection: Transaction, response: Response, source_id: SourceId
) -> SourceShown:
    found = await sources.get(connection, source_id)
    response.headers["ETag"] = await acts.etag(connection, found)
    return _shown(found, region.now())


@router.patch(
    "/sources/{source_id}",
    summary="Change a source, or see what a change lapses",
    responses=documented(404, 409, 412, 422),
)
async def change_source(
    operator: Admin,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    source_id: SourceId,
    fields: SourceChange,
    held: Held = None,
    dry_run: DryRun = False,
) -> SourceChangedShown:
    done = await acts.change(
        connection,
        operator,
        region.publisher,
        source_id,
        await fields.changes(region.now()),
        region.now(),
        confirm_unsigned=fields.confirm_unsigned,
        held=held,
        dry_run=dry_run,
        if_match=if_match,
        secrets=region.secrets,
    )
    _name(done, response)
    return SourceChangedShown(**_shown(done.source, region.now()).model_dump(), **_lapse(done).model_dump())


@router.post(
    "/sources/{source_id}/read",
    status_code=202,
    summary="Read a source's documents, and import nothing",
    responses=documented(404, 409),
)
async def read_source(
    operator: Changer, region: TheRegion, connection: Transaction, response: Response, source_id: SourceId
) -> ImportShown:
    started = await acts.read(connection, operator, source_id, region.now())
    response.headers["Location"] = f"/api/v1/imports/{started.id}"
    response.headers["ETag"] = import_acts.etag(started)
    return ImportShown.model_validate(started)


@router.post(
    "/sources/{source_id}/accept-older",
    status_code=202,
    summary="Accept a source's present documents once, although older than those accepted before",
    responses=documented(404, 412),
)
async def accept_older(
    operator: Admin,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    source_id: SourceId,
) -> SourceShown:
    done = await acts.accept_older(connection, operator, source_id, region.now(), if_match=if_match)
    _name(done, response)
    return _shown(done.source, region.now())


@router.delete(
    "/sources/{source_id}", summary="Remove a source, or see what that lapses", responses=documented(404, 409, 412)
)
async def remove_source(
    operator: Admin,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    source_id: SourceId,
    held: Held = None,
    dry_run: DryRun = False,
) -> LapseShown:
    done = await acts.remove(
        connection,
        operator,
        region.publisher,
        source_id,
        region.now(),
        held=held,
        dry_run=dry_run,
        if_match=if_match,
    )
    _name(done, response)
    return _lapse(done)


@router.get("/unvouched", summary="List what is held and nobody vouches for any longer")
async def list_unvouched(_operator: Viewer, connection: Transaction, response: Response) -> Page[UnvouchedShown]:
    found = await trust.unvouched(connection)
    response.headers["ETag"] = acts.unvouched_etag(found)
    return Page(items=[_unvouched(entry) for entry in found])


@router.delete("/unvouched", summary="Withdraw all that nobody vouches for any longer", responses=documented(412))
async def withdraw_unvouched(
    operator: Changer,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    if_match: IfMatch,
    dry_run: Annotated[bool, Query(description="Answer what would be withdrawn, and change nothing.")] = False,
) -> Page[UnvouchedShown]:
    found = await acts.withdraw_unvouched(
        connection, operator, region.publisher, region.now(), dry_run=dry_run, if_match=if_match
    )
    response.headers["ETag"] = acts.unvouched_etag(found if dry_run else [])
    return Page(items=[_unvouched(entry) for entry in found])
