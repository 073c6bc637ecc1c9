"""/sources: where images come from."""

from datetime import datetime
from pathlib import Path
from typing import Annotated, Any, Self

from fastapi import APIRouter, Response
from fastapi import Path as PathParameter
from pydantic import Field, model_validator

from region.api.deps import Admin, TheRegion, Transaction, Viewer
from region.api.models import OfferShown, Page, Shape
from region.api.problems import documented
from region.catalogue import offers, sources
from region.catalogue.sources import Source, SourceWish
from region.database.connection import transaction
from region.database.topics import Topic, notify
from region.importing import imports, reading
from region.people import activity, settings
from region.publishing import manifest
from region.stream import openpgp
from shared.errors import InvalidKeyring
from shared.http import parse_url, shown

router = APIRouter(prefix="/sources", tags=["sources"])
SourceId = Annotated[int, PathParameter(ge=1, le=2**31 - 1, description="The source's number.")]


class SourceFields(Shape):
    """A source as an operator describes it. Give `keyring`, or `keyring_path`, or say `unsigned: true`."""

    name: str = Field(min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$", examples=["Our mirror"])
    url: str = Field(max_length=2048, description="The mirror's root.", examples=["https://mirror.example.org/maas/"])
    keyring: str | None = Field(
        None, max_length=1_500_000, description="The public keys: armoured, or binary as base64. Null on answers."
    )
    keyring_path: str | None = Field(None, max_length=4096, description="Or where the keyring lies on the region.")
    unsigned: bool = Field(False, description="Take the source without any signature. Everybody is told so, for ever.")
    priority: int | None = Field(None, ge=1, le=1_000_000, description="The greater wins an image that several offer.")
    proxy: str | None = Field(None, max_length=2048, examples=["http://proxy.example.org:3128"])
    ca_bundle: str | None = Field(
        None, max_length=4096, description="More certificates to trust, a file on the region."
    )

    def wish(self, default_priority: int) -> SourceWish:
        """What the operator wants. Raises InvalidValue, InvalidKeyring."""
        return sources.wish(
            name=self.name,
            url=self.url,
            keyring=None if self.keyring is None else self.keyring.encode(),
            keyring_path=self.keyring_path,
            unsigned=self.unsigned,
            priority=self.priority or default_priority,
            proxy=self.proxy,
            ca_bundle=self.ca_bundle,
        )


class SourceChange(Shape):
    """The fields to change; what is left out stays as it is."""

    name: str | None = Field(None, min_length=1, max_length=64, pattern=r"^[^\x00-\x1f]+$")
    url: str | None = Field(None, max_length=2048)
    keyring: str | None = Field(None, max_length=1_500_000)
    keyring_path: str | None = Field(None, max_length=4096)
    unsigned: bool | None = None
    priority: int | None = Field(None, ge=1, le=1_000_000)
    proxy: str | None = Field(None, max_length=2048, description="An empty text means: none any more.")
    ca_bundle: str | None = Field(None, max_length=4096, description="An empty text means: none any more.")

    @model_validator(mode="after")
    def _something(self) -> Self:
        if not self.model_fields_set:
            raise ValueError("name at least one field to change")
        return self

    def wish(self, before: Source) -> SourceWish:
        """The source with these changes. Raises InvalidValue, InvalidKeyring."""
        given = {name: getattr(self, name) for name in self.model_fields_set}
        fields: dict[str, Any] = {name: getattr(before, name) for name in SourceWish.__slots__}
        if given.keys() & {"keyring", "keyring_path", "unsigned"}:
            # A new way to trust replaces the old one.
            fields |= {"keyring": None, "keyring_path": None, "unsigned": False}
        if isinstance(given.get("keyring"), str):
            given["keyring"] = given["keyring"].encode()
        return sources.wish(**(fields | {name: value for name, value in given.items() if value is not None}))


class SourceShown(Shape):
    """A source, and how its last reading went. `error` is empty when it went well."""

    id: int
    name: str
    url: str
    unsigned: bool
    key_ids: list[str] = Field(description="Fingerprints of the keys that may have signed it.")
    keyring_path: str | None
    priority: int
    proxy: str | None
    ca_bundle: str | None
    last_read_at: datetime | None
    error_code: str
    error: str
    skipped: list[str] = Field(description="What of the stream could not be used, a sentence each.")


class Probe(Shape):
    """What a source offers right now; nothing of it was saved."""

    url: str
    signed_by: list[str] = Field(description="Fingerprints of the keyring's keys; empty for an unsigned source.")
    images: list[OfferShown]
    skipped: list[str]


def _shown(source: Source) -> SourceShown:
    try:
        key_ids = [] if source.unsigned else list(openpgp.key_ids(source.trusted_keyring()))
    except InvalidKeyring:
        # The file went away after it was named; the next reading says so in `error`.
        key_ids = []
    fields = {name: getattr(source, name) for name in SourceShown.model_fields if name != "key_ids"}
    # Addresses may carry a password (I7).
    fields["url"] = shown(parse_url(source.url))
    fields["proxy"] = shown(parse_url(source.proxy)) if source.proxy else None
    return SourceShown(key_ids=key_ids, **fields)


def _recorded(source: Source) -> dict[str, Any]:
    """What the activity keeps of a source: how it was described, not how its readings went."""
    kept = {"name", "url", "unsigned", "key_ids", "keyring_path", "priority", "proxy", "ca_bundle"}
    return _shown(source).model_dump(mode="json", include=kept)


@router.get("", summary="List the sources, the one that wins first")
async def list_sources(_operator: Viewer, connection: Transaction) -> Page[SourceShown]:
    return Page(items=[_shown(source) for source in await sources.list_all(connection)])


@router.post("", status_code=201, summary="Add a source", responses=documented(409, 422))
async def add_source(
    operator: Admin, region: TheRegion, connection: Transaction, response: Response, fields: SourceFields
) -> SourceShown:
    wished = fields.wish(await sources.next_priority(connection))
    source = await sources.create(connection, wished, region.now())
    import_id = await imports.enqueue(connection, "operator", operator.name, region.now())
    response.headers["Location"] = f"/api/v1/imports/{import_id}"
    sentence = f"Added the source {source.name}{', unsigned' if source.unsigned else ''}."
    await activity.record(connection, operator, region.now(), "source.added", sentence, after=_recorded(source))
    await notify(connection, Topic.SOURCES)
    return _shown(source)


@router.post(
    "/probe",
    summary="Try a source: see what it offers, or precisely why not, before anything is saved",
    responses=documented(422, 502),
)
async def probe_source(_operator: Admin, region: TheRegion, fields: SourceFields) -> Probe:
    async with transaction(region.engine) as connection:
        proxy = (await settings.get(connection)).proxy
    wished = fields.wish(default_priority=1)
    keyring = wished.keyring
    if wished.keyring_path is not None:
        keyring = sources.read_keyring(Path(wished.keyring_path))
    async with reading.connect(wished, keyring, proxy) as connected:
        found = await reading.read(connected, {})
    for error in found.failed.values():
        raise error
    products = [product for _, stream in found.reading.changed for product in stream.products] if found.reading else []
    return Probe(
        url=shown(parse_url(wished.url)),
        signed_by=[] if keyring is None else list(openpgp.key_ids(keyring)),
        images=[OfferShown.model_validate(offer) for offer in offers.of_products(products)],
        skipped=list(found.skipped),
    )


@router.get("/{source_id}", summary="Show a source", responses=documented(404))
async def get_source(_operator: Viewer, connection: Transaction, source_id: SourceId) -> SourceShown:
    return _shown(await sources.get(connection, source_id))


@router.patch("/{source_id}", summary="Change a source", responses=documented(404, 409, 422))
async def change_source(
    operator: Admin,
    region: TheRegion,
    connection: Transaction,
    response: Response,
    source_id: SourceId,
    fields: SourceChange,
) -> SourceShown:
    before = await sources.get(connection, source_id)
    source = await sources.change(connection, source_id, fields.wish(before))
    import_id = await imports.enqueue(connection, "operator", operator.name, region.now())
    response.headers["Location"] = f"/api/v1/imports/{import_id}"
    await activity.record(
        connection,
        operator,
        region.now(),
        "source.changed",
        f"Changed the source {source.name}.",
        before=_recorded(before),
        after=_recorded(source),
    )
    await notify(connection, Topic.SOURCES)
    return _shown(source)


@router.delete("/{source_id}", status_code=204, summary="Forget a source", responses=documented(404, 409))
async def remove_source(operator: Admin, region: TheRegion, connection: Transaction, source_id: SourceId) -> None:
    source = await sources.get(connection, source_id)
    await sources.remove(connection, source_id)
    await manifest.publish(connection, region.key, region.now())
    sentence = f"Removed the source {source.name}."
    await activity.record(connection, operator, region.now(), "source.removed", sentence, before=_recorded(source))
    await notify(connection, Topic.SOURCES)
