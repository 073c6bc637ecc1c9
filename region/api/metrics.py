"""/metrics: figures for Prometheus, in its text format.

- Names, units and kinds follow https://prometheus.io/docs/practices/naming/; `promtool check metrics` takes all.
- What is asked costs one transaction, and as many series as there are sources, images and states: racks are counted.
- While the database is away, what this process counts itself is answered, and `bootferry_database_up` is 0.
- Each process of a region answers for itself: of what is read from the database (gauges) all say the same, so look at
  the greatest; what it counted itself adds up.
"""

import asyncio
import platform
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, get_args

from fastapi import APIRouter, Depends, Request, Response
from fastapi.security import HTTPAuthorizationCredentials
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from region.api.deps import TheRegion, address_of, bearer, the_operator
from region.api.images import Status
from region.api.problems import documented
from region.catalogue import files, images, sources, versions
from region.catalogue.files import Totals
from region.catalogue.images import Image
from region.catalogue.sources import Source
from region.database.connection import transaction
from region.edge.admission import Strangers
from region.edge.house import Visitor
from region.fleet import racks
from region.importing import imports
from region.importing.imports import Schedule
from region.process import Region
from shared import __version__
from shared.errors import Unavailable
from shared.networks import within

router = APIRouter(tags=["health"])

CALM = frozenset({"synced", "stored", "unselected"})
"""The statuses of an image that is as it should be; with any other it is behind."""


async def _reader(
    region: TheRegion,
    request: Request,
    _documented: Annotated[HTTPAuthorizationCredentials | None, Depends(bearer)],
) -> None:
    """Raises Unauthenticated unless an operator asks, or the address of somebody who may read the figures."""
    if not within(address_of(request), region.configuration.metrics_addresses or ()):
        the_operator(request)


@router.get(
    "/metrics",
    summary="Figures for Prometheus",
    response_class=Response,
    responses=documented(401, 403, 503),
    dependencies=[Depends(_reader)],
)
async def metrics(region: TheRegion, request: Request) -> Response:
    try:
        region.require_ready()
        async with transaction(region.request_engine) as connection:
            read = _Read(
                now=region.now(),
                images=await images.list_all(connection, region.now()),
                racks=await racks.counted(connection, region.now()),
                stored=await files.totals(connection),
                imports=await imports.counted(connection),
                sources=await sources.list_all(connection),
                held_bytes=await versions.held_bytes(connection),
                sync=await imports.schedule(connection),
            )
    except Unavailable:
        read = None
    free, total = await asyncio.to_thread(lambda: (region.store.bytes_free(), region.store.bytes_total()))
    families = [
        *_process(region),
        _gauge("bootferry_database_up", "1 while the database is usable.", int(read is not None)),
        _gauge("bootferry_disk_free_bytes", "Bytes free for files.", free),
        _gauge("bootferry_disk_size_bytes", "Bytes the disk of the files has in all.", total),
        *(read.families() if read is not None else ()),
        *_strangers(request),
    ]
    registry = CollectorRegistry(auto_describe=False)
    registry.register(_Collected(families))
    return Response(generate_latest(region.meters.registry) + generate_latest(registry), media_type=CONTENT_TYPE_LATEST)


def _gauge(name: str, documentation: str, value: float) -> GaugeMetricFamily:
    return GaugeMetricFamily(name, documentation, value=value)


def _optional(name: str, documentation: str, value: float | None) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation)
    if value is not None:
        family.add_metric([], value)
    return family


def _seconds(moment: datetime | None) -> float | None:
    return None if moment is None else moment.timestamp()


def _labelled(name: str, documentation: str, label: str, values: Iterable[tuple[str, float]]) -> GaugeMetricFamily:
    family = GaugeMetricFamily(name, documentation, labels=[label])
    for said, value in values:
        family.add_metric([said], value)
    return family


def _process(region: Region) -> Iterator[Metric]:
    """What this process knows without asking anybody."""
    built = GaugeMetricFamily("bootferry_build_info", "1; its labels say what runs.", labels=["version", "python"])
    built.add_metric([__version__, platform.python_version()], 1)
    yield built
    published = region.memory.published
    order = published.manifest.order if published is not None else (0, 0)
    yield _optional(
        "bootferry_tls_certificate_expires_timestamp_seconds",
        "When the certificate in use ends; none without TLS.",
        region.certificate.pair.expires_at.timestamp() if region.certificate else None,
    )
    yield _gauge("bootferry_unreadable_files", "Stored files this process could not read.", len(region.clock.unread))
    yield _gauge("bootferry_manifest_epoch", "Epoch of the current manifest.", order[0])
    yield _gauge("bootferry_manifest_serial", "Serial of the current manifest.", order[1])


@dataclass(frozen=True, slots=True)
class _Read:
    """What one transaction has found."""

    now: datetime
    images: Iterable[Image]
    racks: racks.Counted
    stored: Totals
    imports: Mapping[str, int]
    sources: Iterable[Source]
    held_bytes: Mapping[str, int]
    sync: Schedule

    def families(self) -> Iterator[Metric]:
        """Everything, as Prometheus is told."""
        yield _gauge("bootferry_files", "Files stored.", self.stored.count)
        yield _gauge("bootferry_files_bytes", "Bytes of the files stored.", self.stored.size)
        yield from self._images()
        yield from self._racks()
        yield from self._sources()
        yield from self._sync()
        yield _labelled("bootferry_imports", "Imports on record, by state.", "state", self.imports.items())

    def _images(self) -> Iterator[Metric]:
        by_image = GaugeMetricFamily("bootferry_image_status", "1 for an image's status.", labels=["image", "status"])
        counts: dict[str, int] = dict.fromkeys(get_args(Status), 0)
        for image in self.images:
            by_image.add_metric([image.id, image.status], 1)
            counts[image.status] += 1
        yield by_image
        yield _labelled("bootferry_images", "Images by status.", "status", counts.items())
        behind = sum(count for status, count in counts.items() if status not in CALM)
        yield _gauge("bootferry_images_behind", "Selected images that are not everywhere they should be.", behind)

    def _racks(self) -> Iterator[Metric]:
        found = self.racks
        total = sum(found.by_status.values())
        yield _gauge("bootferry_racks", "Racks enrolled.", total)
        yield _gauge("bootferry_racks_live", "Racks seen within three polls.", found.live)
        yield _labelled("bootferry_racks_in_state", "Racks by status.", "state", found.by_status.items())
        yield _gauge("bootferry_racks_left_bytes", "Bytes that all racks have still to pull.", found.bytes_left)
        yield _optional(
            "bootferry_racks_least_free_bytes", "Bytes free on the live rack with the least.", found.bytes_free
        )
        yield _optional(
            "bootferry_racks_oldest_sighting_timestamp_seconds",
            "When the rack that was heard longest ago was heard, in seconds since 1970.",
            _seconds(found.first_seen_at),
        )
        yield _optional(
            "bootferry_racks_newest_sighting_timestamp_seconds",
            "When a rack was heard last, in seconds since 1970.",
            _seconds(found.last_seen_at),
        )

    def _sources(self) -> Iterator[Metric]:
        read, documents, stale, failing = [], [], [], []
        errors = GaugeMetricFamily(
            "bootferry_source_error", "1 for the code of a failing source's error.", labels=["source", "code"]
        )
        for source in self.sources:
            failing.append((source.name, int(source.error_code != "")))
            stale.append((source.name, int(source.stale(self.now) is not None)))
            if source.error_code:
                errors.add_metric([source.name, source.error_code], 1)
            # Nobody reads one that is disabled: its last reading does not grow old.
            if source.enabled and source.last_good_at is not None:
                read.append((source.name, source.last_good_at.timestamp()))
            if source.documents_updated_at is not None:
                documents.append((source.name, (self.now - source.documents_updated_at).total_seconds()))
        yield _labelled("bootferry_source_failing", "1 when a source's last reading failed.", "source", failing)
        yield errors
        yield _labelled(
            "bootferry_source_last_good_reading_timestamp_seconds",
            "When a source was last read and accepted, in seconds since 1970.",
            "source",
            read,
        )
        yield _labelled(
            "bootferry_source_documents_age_seconds", "Age of the index that was accepted last.", "source", documents
        )
        yield _labelled(
            "bootferry_source_stale", "1 when a source's documents are older than its limit.", "source", stale
        )
        yield _labelled(
            "bootferry_source_held_bytes",
            "Bytes of the files that are held from a source; files that two share count for both.",
            "source",
            self.held_bytes.items(),
        )

    def _sync(self) -> Iterator[Metric]:
        yield _gauge("bootferry_sync_enabled", "1 while the regular sync is switched on.", int(self.sync.enabled))
        yield _optional(
            "bootferry_sync_last_timestamp_seconds",
            "When the regular sync began last, in seconds since 1970.",
            _seconds(self.sync.last_run_at),
        )
        yield _gauge(
            "bootferry_sync_interval_seconds", "How often the region syncs.", self.sync.interval.total_seconds()
        )
        yield _gauge(
            "bootferry_sync_next_timestamp_seconds",
            "When the next regular sync is due, in seconds since 1970.",
            self.sync.next_run_at.timestamp(),
        )


def _strangers(request: Request) -> Iterator[Metric]:
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


class _Collected(Collector):
    """What was just read, in the shape prometheus-client collects."""

    def __init__(self, families: list[Metric]) -> None:
        self._families = families

    def collect(self) -> list[Metric]:
        return self._families
