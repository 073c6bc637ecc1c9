"""/racks: operators see and remove them; racks enrol here and report."""

import time
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Query, Request, Response
from pydantic import Field

from region.actions import racks as acts
from region.api.deps import Admin, Changer, IfMatch, TheRack, TheRegion, Transaction, Viewer, address_of, correcting
from region.api.models import NOT_STORED, Limit, NameCursor, Page, Shape, paged
from region.api.problems import documented
from region.database.connection import transaction
from region.fleet import enrolment_tokens, racks, reports
from region.fleet.racks import Rack
from region.people.attempts import Attempts
from shared.errors import Conflict, Forbidden, Refused, SignatureError, Unavailable, WrongClock
from shared.signing import encode_bytes, public_bytes
from shared.wire.envelope import MEDIA_TYPE
from shared.wire.rack_key import NextKey
from shared.wire.report import OldReport, parse_report

router = APIRouter(tags=["racks"])
EnrolmentTokenId = Annotated[str, Path(pattern="^[0-9a-f]{64}$")]
RackId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class KnowsShown(Shape):
    """A manifest by its order; zeros before the first."""

    epoch: int
    serial: int


class RackShown(Shape):
    """A rack, by its last report.

    `never_seen`: it never polled; `unreachable`: it missed three polls; `ahead`: it knows a manifest that this region
    never published (was the database restored? run `bootferry-region new-epoch`); `waiting_for_operator`: it keeps
    images that the manifest takes away, until POST /manifest/confirmation; `failing`: see `last_error`;
    `pulling`: it has bytes to pull; `outdated`: it does not show all of the current manifest yet; `synced`: it does.
    """

    id: str
    name: str
    status: Literal[
        "never_seen", "unreachable", "ahead", "waiting_for_operator", "failing", "pulling", "outdated", "synced"
    ]
    fingerprint: str = Field(description="SHA-256 of the rack's public key.")
    enrolled_at: datetime
    last_seen_at: datetime | None
    address: str = Field(description="Where machines reach it, as it says.")
    version: str
    knows: KnowsShown
    images_pending: int = Field(description="Images of the current manifest that it does not show as published.")
    images_total: int = Field(description="Images of the current manifest, bootloaders among them.")
    bytes_left: int
    bytes_free: int
    last_error: str = Field(description="The sentence it reported last; empty when all is well.")
    last_error_code: str


class PendingShown(Shape):
    """An image that a rack does not show as published. `behind`: it has not learnt of that yet; `pending`: it tries."""

    image: str = Field(examples=["ubuntu:noble:amd64"])
    state: Literal["pending", "behind", "ahead"]
    shown_version: str = Field(description="What machines get of it meanwhile, as the rack says; empty for nothing.")
    code: str = Field(description="Why, where something went wrong.", examples=["connection_lost"])


class RackDetail(RackShown):
    """A rack, and the images it lacks."""

    pending: list[PendingShown]


class PollAsked(Shape):
    """Racks were asked to poll now. Each follows within seconds, four times in a row, and once a minute after that."""

    racks_live: int = Field(description="How many of them are live. One that is not polls when it is back.")


class TokenFields(Shape):
    """How long and how often an enrolment token may be used."""

    lifetime_seconds: int = Field(int(enrolment_tokens.TOKEN_LIFETIME.total_seconds()), ge=60, le=30 * 86_400)
    uses: int = Field(1, ge=1, le=1000)


class TokenShown(Shape):
    """The token. It is shown this once; `command` is what to type on the rack, which asks for the token then."""

    id: str
    token: str
    expires_at: datetime
    command: str


class EnrolmentTokenShown(Shape):
    """An enrolment token, without its secret. One that was spent or has expired lets nobody in."""

    id: str = Field(description="SHA-256 of its public half.")
    made_by: str = Field(description="Empty for one that a release before 0.2 made.")
    created_at: datetime
    expires_at: datetime
    uses_left: int


def _shown(rack: Rack) -> RackShown:
    own = {name: getattr(rack, name) for name in RackShown.model_fields if hasattr(rack, name)}
    return RackShown.model_validate(
        own
        | {
            "knows": {"epoch": rack.epoch, "serial": rack.serial},
            "last_error": rack.error,
            "last_error_code": rack.error_code,
        }
    )


@router.get("/racks", summary="List the racks, by name")
async def list_racks(
    _operator: Viewer,
    region: TheRegion,
    connection: Transaction,
    request: Request,
    response: Response,
    limit: Limit = 200,
    cursor: NameCursor = None,
) -> Page[RackShown]:
    found = await racks.list_page(connection, region.now(), limit=limit + 1, after=cursor)
    return paged(request, response, [_shown(rack) for rack in found], limit, RackShown, lambda rack: str(rack.name))


@router.get("/racks/{rack_id}", summary="Show a rack and what it lacks", responses=documented(404))
async def get_rack(
    _operator: Viewer, region: TheRegion, connection: Transaction, response: Response, rack_id: RackId
) -> RackDetail:
    rack = await racks.get(connection, rack_id, region.now())
    response.headers["ETag"] = acts.etag(rack)
    lacking = await racks.lacking(connection, rack_id)
    return RackDetail(**dict(_shown(rack)), pending=[PendingShown.model_validate(entry) for entry in lacking])


@router.delete("/racks/{rack_id}", status_code=204, summary="Remove a rack", responses=documented(404, 412))
async def remove_rack(
    operator: Admin, region: TheRegion, connection: Transaction, if_match: IfMatch, rack_id: RackId
) -> None:
    await acts.remove(connection, operator, rack_id, region.now(), if_match=if_match)


@router.post("/racks/poll", status_code=202, summary="Ask all racks to poll now")
async def poll_racks(operator: Changer, region: TheRegion, connection: Transaction) -> PollAsked:
    return PollAsked(racks_live=await acts.ask_to_poll(connection, operator, None, region.now()))


@router.post("/racks/{rack_id}/poll", status_code=202, summary="Ask a rack to poll now", responses=documented(404))
async def poll_rack(operator: Changer, region: TheRegion, connection: Transaction, rack_id: RackId) -> PollAsked:
    return PollAsked(racks_live=await acts.ask_to_poll(connection, operator, rack_id, region.now()))


@router.post("/enrolment-tokens", status_code=201, summary="Make a token that lets a rack enrol")
async def create_enrolment_token(
    operator: Admin,
    region: TheRegion,
    connection: Transaction,
    request: Request,
    response: Response,
    fields: TokenFields | None = None,
) -> TokenShown:
    wished = fields or TokenFields()
    secret, token = await acts.make_enrolment_token(
        connection,
        operator,
        region.fingerprint,
        region.now(),
        lifetime=timedelta(seconds=wished.lifetime_seconds),
        uses=wished.uses,
    )
    response.headers.update(NOT_STORED)
    response.headers["Location"] = f"/api/v1/enrolment-tokens/{token.id}"
    response.headers["ETag"] = acts.token_etag(token)
    base = str(request.base_url).rstrip("/")
    # Arguments are seen by every user of a machine: the token is not among them.
    command = f"bootferry-rack enrol --region {base}"
    return TokenShown(id=token.id, token=str(secret), expires_at=token.expires_at, command=command)


@router.get("/enrolment-tokens", summary="List enrolment tokens, by id")
async def list_enrolment_tokens(
    _operator: Admin,
    connection: Transaction,
    request: Request,
    response: Response,
    limit: Limit = 200,
    cursor: Annotated[str | None, Query(pattern="^[0-9a-f]{64}$", description="`next` of the page before.")] = None,
) -> Page[EnrolmentTokenShown]:
    found = await enrolment_tokens.list_page(connection, limit=limit + 1, after=cursor)
    return paged(request, response, found, limit, EnrolmentTokenShown, lambda token: str(token.id))


@router.get("/enrolment-tokens/{enrolment_token_id}", summary="Show an enrolment token", responses=documented(404))
async def get_enrolment_token(
    _operator: Admin, connection: Transaction, response: Response, enrolment_token_id: EnrolmentTokenId
) -> EnrolmentTokenShown:
    token = await enrolment_tokens.get(connection, enrolment_token_id)
    response.headers["ETag"] = acts.token_etag(token)
    return EnrolmentTokenShown.model_validate(token)


@router.delete(
    "/enrolment-tokens/{enrolment_token_id}",
    status_code=204,
    summary="Revoke an enrolment token",
    responses=documented(404, 412),
)
async def remove_enrolment_token(
    operator: Admin, region: TheRegion, connection: Transaction, if_match: IfMatch, enrolment_token_id: EnrolmentTokenId
) -> None:
    await acts.revoke_enrolment_token(connection, operator, enrolment_token_id, region.now(), if_match=if_match)


@router.post(
    "/racks/enrol",
    status_code=201,
    summary="Enrol a rack: for bootferry-rack",
    response_class=Response,
    responses={201: {"content": {MEDIA_TYPE: {}}}, **documented(401, 403, 409, 422, 429)},
)
async def enrol_rack(region: TheRegion, request: Request) -> Response:
    attempts: Attempts = request.app.state.enrolment_attempts
    address = address_of(request)
    # Before anything that costs: the database, a signature.
    attempts.require_another(address, time.monotonic())
    region.require_ready()
    envelope = await request.body()
    try:
        async with transaction(region.request_engine) as connection:
            with correcting(region):
                enrolment = await acts.enrol(connection, envelope, region.fingerprint, address, region.now())
    except (Conflict, WrongClock):
        # Whoever is told so holds a good token.
        raise
    except (Refused, SignatureError):
        if attempts.note_failed(address, time.monotonic()):
            async with transaction(region.request_engine) as connection:
                await acts.note_refused_enrolments(connection, address, region.now())
        raise
    return Response(enrolment.sealed(region.key), 201, media_type=MEDIA_TYPE)


@router.put(
    "/racks/{rack_id}/report",
    status_code=204,
    summary="Take a rack's report in: for bootferry-rack",
    responses=documented(401, 403, 422),
)
async def report(region: TheRegion, rack: TheRack, request: Request, rack_id: RackId) -> None:
    if rack.id != rack_id:
        raise Forbidden("A rack reports for itself only.")
    found = parse_report(await request.body())
    async with region.reports, transaction(region.request_engine) as connection:
        if isinstance(found, OldReport):
            published = region.memory.published
            found = await reports.modern(connection, found, None if published is None else published.manifest)
        with correcting(region):
            changed = await reports.record(connection, rack.id, found, region.now(), rack.head)
    region.gathered.say(changed)


@router.put(
    "/racks/{rack_id}/key",
    status_code=204,
    summary="Take a rack's next key: for bootferry-rack",
    responses=documented(401, 403, 409, 422),
)
async def change_rack_key(region: TheRegion, rack: TheRack, request: Request, rack_id: RackId) -> None:
    if rack.id != rack_id:
        raise Forbidden("A rack changes its own key only.")
    public_key = NextKey.parse(await request.body())
    async with transaction(region.request_engine) as connection:
        with correcting(region):
            signed_by, address = encode_bytes(public_bytes(rack.key)), address_of(request)
            await acts.change_key(connection, rack.id, public_key, rack.head, signed_by, address, region.now())
    # The rack comes back with its new key at once; the other processes hear of it within moments.
    with suppress(Unavailable):
        await region.rack_keys.read([rack.id])
