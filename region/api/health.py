"""/livez, /readyz, /metrics: for those who watch over the process; and /region, who it is."""

import asyncio
from collections.abc import Iterator
from typing import Annotated

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily
from pydantic import Field

from region.api.deps import TheRegion, address_of, bearer, the_operator
from region.api.models import Shape
from region.api.problems import documented
from region.catalogue import files, images, sources
from region.database.connection import is_migrated, require_usable, transaction
from region.edge.admission import Strangers
from region.edge.house import Visitor
from region.fleet import racks
from region.importing import imports
from region.process import Region
from shared import __version__
from shared.errors import Unavailable
from shared.networks import within
from shared.signing import encode_bytes, public_bytes

probes = APIRouter(tags=["health"])
router = APIRouter(tags=["health"])


class RegionShown(Shape):
    """Who answers here. A rack compares `fingerprint` with its token before it says anything."""

    name: str
    version: str
    public_key: str
    fingerprint: str
    tls: bool = Field(
        description="Whether this request came inside TLS, on the region's own connection or by a trusted proxy's word."
    )


@router.get("/region", summary="Who this region is")
async def get_region(region: TheRegion, request: Request) -> RegionShown:
    return RegionShown(
        name=region.configuration.name,
        version=__version__,
        public_key=encode_bytes(public_bytes(region.key)),
        fingerprint=region.fingerprint,
        tls=request.url.scheme == "https",
    )


class SuccessionShown(Shape):
    """One of the region's keys vouches for the one after it."""

    key: str = Field(description="The public key that signed: 32 bytes as base64url.")
    envelope: str = Field(description="A DSSE envelope of the type application/vnd.bootferry.succession+json.")


class RegionKeysShown(Shape):
    """The region's present key, and how those before it lead to it, oldest first; the last 64 of them."""

    public_key: str
    fingerprint: str
    successions: list[SuccessionShown]


@router.get("/region/keys", summary="How the region's keys followed each other", responses=documented(503))
async def get_region_keys(region: TheRegion) -> RegionKeysShown:
    region.require_ready()
    return RegionKeysShown(
        public_key=encode_bytes(public_bytes(region.key)),
        fingerprint=region.fingerprint,
        successions=[SuccessionShown(key=one.signed.key, envelope=one.signed.envelope) for one in region.successions],
    )


@probes.get("/livez", summary="The process answers")
async def livez() -> dict[str, str]:
    return {"status": "alive"}


@probes.get("/readyz", summary="Database, schema and disk are usable", responses=documented(503))
async def readyz(request: Request) -> dict[str, str]:
    readiness: Readiness = request.app.state.readiness
    await readiness.require()
    return {"status": "ready"}


class Readiness:
    """Whether the region can work. However many ask, one look is made at a time, and answers them all."""

    def __init__(self, region: Region) -> None:
        self._region = region
        self._looking: asyncio.Task[None] | None = None

    async def require(self) -> None:
        """Raises Unavailable unless database, schema and disk are usable."""
        if self._looking is None or self._looking.done():
            self._looking = asyncio.create_task(_require_usable(self._region))
        # Who leaves must not end it for the others.
        await asyncio.shield(self._looking)


async def _require_usable(region: Region) -> None:
    region.require_ready()
    async with transaction(region.request_engine) as connection:
        if not await is_migrated(connection):
            raise Unavailable(
                "The database does not have this version's schema: run bootferry-region migrate", retry_after=60
            )
        await require_usable(connection)
    try:
        await asyncio.to_thread(region.store.require_writable)
    except OSError as error:
        raise Unavailable(f"The region's disk cannot be written ({error.strerror})", retry_after=60) from error
    if await asyncio.to_thread(region.store.bytes_free) == 0:
        raise Unavailable("The region's disk is full: free some room", retry_after=60)


async def _reader(
    region: TheRegion,
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> None:
    """Raises Unauthenticated unless an operator asks, or the address of somebody who may read the figures."""
    if not within(address_of(request), region.configuration.metrics_addresses or ()):
        the_operator(request)


@probes.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses=documented(401, 403, 503),
    dependencies=[Depends(_reader)],
)
async def metrics(region: TheRegion, request: Request) -> Response:
    region.require_ready()
    async with transaction(region.request_engine) as connection:
        known_images = await images.list_all(connection, region.now())
        known_racks = await racks.counted(connection, region.now())
        stored = await files.totals(connection)
        runs = await imports.counted(connection)
        known_sources = await sources.list_all(connection)
    published = region.memory.published
    order = published.manifest.order if published is not None else (0, 0)
    figures = [
        _gauge("bootferry_files", "Files stored.", stored.count),
        _gauge("bootferry_files_bytes", "Bytes of the files stored.", stored.size),
        _gauge("bootferry_disk_free_bytes", "Bytes free for files.", await asyncio.to_thread(region.store.bytes_free)),
        _gauge("bootferry_unreadable_files", "Stored files this process could not read.", len(region.clock.unread)),
        _gauge("bootferry_manifest_epoch", "Epoch of the current manifest.", order[0]),
        _gauge("bootferry_manifest_serial", "Serial of the current manifest.", order[1]),
        _gauge("bootferry_racks", "Racks enrolled.", len(known_racks)),
        _gauge("bootferry_racks_live", "Racks seen within three polls.", sum(rack.live for rack in known_racks)),
    ]
    by_image = GaugeMetricFamily("bootferry_image_status", "1 for an image's status.", labels=["image", "status"])
    for image in known_images:
        by_image.add_metric([image.id, image.status], 1)
    by_rack = GaugeMetricFamily("bootferry_rack_left_bytes", "Bytes a rack has still to pull.", labels=["rack"])
    for rack in known_racks:
        by_rack.add_metric([rack.name], rack.bytes_left)
    ages = GaugeMetricFamily(
        "bootferry_source_documents_age_seconds", "Age of the index that was accepted last.", labels=["source"]
    )
    stale = GaugeMetricFamily(
        "bootferry_source_stale", "1 when a source's documents are older than its limit.", labels=["source"]
    )
    for source in known_sources:
        if source.documents_updated_at is not None:
            ages.add_metric([source.name], (region.now() - source.documents_updated_at).total_seconds())
        stale.add_metric([source.name], int(source.stale(region.now()) is not None))
    by_state = GaugeMetricFamily("bootferry_imports", "Imports by state.", labels=["state"])
    for state, count in runs.items():
        by_state.add_metric([state], count)
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected([*figures, by_image, by_rack, by_state, ages, stale, *_strangers(request)]))
    return Response(generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)


def _strangers(request: Request) -> Iterator[GaugeMetricFamily | CounterMetricFamily]:
    """Of those who have shown neither token nor key: how many there are, and how often it was too many."""
    requests: Strangers = request.app.state.strangers
    yield _gauge("bootferry_strangers_requests", "Unauthenticated requests under way.", requests.under_way)
    refused = CounterMetricFamily(
        "bootferry_strangers_refused",
        "Unauthenticated requests refused, and connections closed, by what was limited.",
        labels=["what", "limit"],
    )
    for limit, count in sorted(requests.refused.items()):
        refused.add_metric(["request", limit], count)
    visitor: Visitor | None = getattr(request.state, "visitor", None)
    if visitor is not None:
        yield _gauge("bootferry_strangers", "Connections without an authenticated request.", visitor.house.strangers)
        for limit, count in sorted(visitor.house.closed.items()):
            refused.add_metric(["connection", limit], count)
    yield refused


class _Collected:
    """What was just read, in the shape prometheus-client collects."""

    def __init__(self, families: list[GaugeMetricFamily | CounterMetricFamily]) -> None:
        self._families = families

    def collect(self) -> list[GaugeMetricFamily | CounterMetricFamily]:
        return self._families
