"""/racks: operators see and remove them; racks enrol here and report."""

from datetime import datetime, timedelta
from typing import Annotated, Literal

from fastapi import APIRouter, Path, Request, Response
from pydantic import Field

from region.actions import racks as acts
from region.api.deps import Admin, IfMatch, TheRack, TheRegion, Transaction, Viewer, address_of
from region.api.models import NOT_STORED, Page, Shape
from region.api.problems import documented
from region.fleet import racks
from region.fleet.racks import Rack
from region.process import Region
from shared.errors import Forbidden, InvalidDocument
from shared.wire.envelope import MEDIA_TYPE
from shared.wire.report import OldReport, parse_report

router = APIRouter(tags=["racks"])
RackId = Annotated[str, Path(pattern="^[0-9a-f]{32}$")]


class RackShown(Shape):
    """A rack. `never_seen`: it never polled; `unreachable`: it missed three polls; `failing`: see `last_error`."""

    id: str
    name: str
    status: Literal["never_seen", "unreachable", "failing", "pulling", "outdated", "synced"]
    fingerprint: str = Field(description="SHA-256 of the rack's public key.")
    enrolled_at: datetime
    last_seen_at: datetime | None
    address: str = Field(description="Where machines reach it, as it says.")
    version: str
    epoch: int
    serial: int = Field(description="The manifest whose tree it serves; 0 before the first.")
    files_held: int
    files_total: int = Field(description="Files of the current manifest.")
    bytes_left: int
    bytes_free: int
    last_error: str = Field(description="The sentence it reported last; empty when all is well.")
    last_error_code: str


class TokenFields(Shape):
    """How long and how often an enrolment token may be used."""

    lifetime_seconds: int = Field(int(racks.TOKEN_LIFETIME.total_seconds()), ge=60, le=30 * 86_400)
    uses: int = Field(1, ge=1, le=1000)


class TokenShown(Shape):
    """The token. It is shown this once; `command` is what to type on the rack."""

    token: str
    expires_at: datetime
    command: str


def _shown(rack: Rack, region: Region) -> RackShown:
    newest = region.memory.published.manifest.order
    if rack.last_seen_at is None:
        status: str = "never_seen"
    elif not rack.live:
        status = "unreachable"
    elif rack.error:
        status = "failing"
    elif rack.bytes_left:
        status = "pulling"
    else:
        status = "synced" if (rack.epoch, rack.serial) == newest else "outdated"
    return RackShown.model_validate(
        {
            "status": status,
            "files_held": rack.held,
            "files_total": len(region.memory.published_sizes),
            "last_error": rack.error,
            "last_error_code": rack.error_code,
            **{name: getattr(rack, name) for name in RackShown.model_fields if hasattr(rack, name)},
        }
    )


@router.get("/racks", summary="List the racks")
async def list_racks(_operator: Viewer, region: TheRegion, connection: Transaction) -> Page[RackShown]:
    return Page(items=[_shown(rack, region) for rack in await racks.list_all(connection, region.now())])


@router.get("/racks/{rack_id}", summary="Show a rack", responses=documented(404))
async def get_rack(
    _operator: Viewer, region: TheRegion, connection: Transaction, response: Response, rack_id: RackId
) -> RackShown:
    rack = await racks.get(connection, rack_id, region.now())
    response.headers["ETag"] = acts.etag(rack)
    return _shown(rack, region)


@router.delete("/racks/{rack_id}", status_code=204, summary="Remove a rack", responses=documented(404, 412))
async def remove_rack(
    operator: Admin, region: TheRegion, connection: Transaction, if_match: IfMatch, rack_id: RackId
) -> None:
    await acts.remove(connection, operator, rack_id, region.now(), if_match=if_match)


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
    token, expires_at = await acts.make_enrolment_token(
        connection,
        operator,
        region.fingerprint,
        region.now(),
        lifetime=timedelta(seconds=wished.lifetime_seconds),
        uses=wished.uses,
    )
    response.headers.update(NOT_STORED)
    base = str(request.base_url).rstrip("/")
    return TokenShown(
        token=str(token), expires_at=expires_at, command=f"bootferry-rack enrol --region {base} --token {token}"
    )


@router.post(
    "/racks/enrol",
    status_code=201,
    summary="Enrol a rack: for bootferry-rack",
    response_class=Response,
    responses={201: {"content": {MEDIA_TYPE: {}}}, **documented(401, 403, 409, 422)},
)
async def enrol_rack(region: TheRegion, connection: Transaction, request: Request) -> Response:
    enrolment = await acts.enrol(
        connection, await request.body(), region.fingerprint, address_of(request), region.now()
    )
    return Response(enrolment.sealed(region.key), 201, media_type=MEDIA_TYPE)


@router.put(
    "/racks/{rack_id}/report",
    status_code=204,
    summary="Take a rack's report in: for bootferry-rack",
    responses=documented(401, 403, 422),
)
async def report(region: TheRegion, connection: Transaction, rack: TheRack, request: Request, rack_id: RackId) -> None:
    if rack.id != rack_id:
        raise Forbidden("A rack reports for itself only.")
    found = parse_report(await request.body())
    if not isinstance(found, OldReport):
        raise InvalidDocument("The report", "this region does not take reports of its version yet")
    await racks.record_report(connection, rack.id, found, region.now())
