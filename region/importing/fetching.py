"""Fetching: every missing file once, by whichever road leads to it.

A file has a road for each source and path that lists its digest: that of the version it is wanted for first, the others
after. A road that fails costs nothing but itself; the bytes are the right ones by their digest, whoever sends them.
When all roads have failed, those whose failure may pass are tried again after growing pauses, and not before the moment
that a mirror asks for (`Retry-After`); if that is longer than patience lasts, the file fails for now.
"""

import asyncio
import errno
import random
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, field

from region.catalogue.facts import File
from region.catalogue.sources import Source
from region.catalogue.versions import Road
from region.importing import reading
from region.importing.plan import Import
from region.meters import Meters
from region.secrets import Address, Secrets
from shared.digest import Sha256
from shared.download import Transfer, download
from shared.errors import BootferryError, Conflict, DiskFailed, FetchError, InvalidConfiguration, NoRoom
from shared.logs import logger
from shared.names import ImageKey
from shared.patience import Patience
from shared.store.base import Store

log = logger(__name__)


class NoRoad(BootferryError):
    """No source that was read under its present trust lists the file."""

    code = "no_road"

    def __init__(self, sha256: str) -> None:
        super().__init__(f"No source offers the file {sha256[:12]}… at the moment; look at the sources' errors.")


class ImageStopped(BootferryError):
    """An operator stopped this image of an import; the others went on."""

    code = "image_stopped"

    def __init__(self) -> None:
        super().__init__("The image was stopped; what had arrived is kept, and the next sync goes on with it.")


class Stops:
    """The images that are not to be fetched any further in this run; whoever listens is told when there are more."""

    def __init__(self) -> None:
        self._images: set[ImageKey] = set()
        self._told: list[Callable[[], None]] = []

    def __contains__(self, image: ImageKey) -> bool:
        return image in self._images

    def add(self, images: Iterable[ImageKey]) -> None:
        """These are stopped."""
        before = len(self._images)
        self._images.update(images)
        if len(self._images) > before:
            for tell in self._told:
                tell()

    def listen(self, tell: Callable[[], None]) -> None:
        """Call `tell` now, and whenever there are more."""
        self._told.append(tell)
        tell()


@dataclass(frozen=True, slots=True)
class Fetching:
    """How to fetch. `progress` holds the bytes of each file that have arrived."""

    store: Store
    parallel: int
    patience: Patience
    rng: random.Random
    proxy: Address | None
    secrets: Secrets
    progress: dict[Sha256, int]
    meters: Meters
    stops: Stops = field(default_factory=Stops)


@dataclass(frozen=True, slots=True)
class _Way:
    """A road with a session to walk it."""

    connected: reading.Upstream
    transfer: Transfer
    road: Road
    source: str


_Connections = dict[int, tuple[reading.Upstream, Transfer, str] | InvalidConfiguration]
"""By source: the session, the way to move bytes, and the source's name."""


async def fetch(
    fetching: Fetching,
    sources: Mapping[int, Source],
    wanted: Sequence[Import],
    roads: Mapping[Sha256, Sequence[Road]],
    stored: Callable[[Sha256, int], None],
    errors: dict[ImageKey, BootferryError],
) -> None:
    """Fetch every file that `wanted` lacks; `stored` is called for each that has arrived.

    What fails is put down in `errors` for each image that waited for it, the first failure of each.
    """
    files: dict[Sha256, tuple[File, list[Import]]] = {}
    for entry in wanted:
        for file in entry.missing:
            files.setdefault(file.sha256, (file, []))[1].append(entry)
    slots = asyncio.Semaphore(fetching.parallel)
    async with AsyncExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(fetching.parallel, "download"))
        connections: _Connections = {}
        for source_id in {road.source_id for known in roads.values() for road in known} & sources.keys():
            try:
                connected = await stack.enter_async_context(
                    reading.connect(sources[source_id], fetching.proxy, fetching.secrets)
                )
            except InvalidConfiguration as error:
                connections[source_id] = error
                continue
            transfer = Transfer(connected.session, executor, proxy=connected.proxy)
            connections[source_id] = (connected, transfer, sources[source_id].name)

        async def bring(file: File, waiting: Sequence[Import]) -> None:
            async with slots:
                error = await _bring(fetching, file, waiting[0], roads, connections)
            if error is None:
                stored(file.sha256, file.size)
                return
            log.debug(f"A file could not be fetched. {error}", action="fetch", code=error.code, file=file.sha256)
            for entry in waiting:
                errors.setdefault(entry.image, error)

        async with asyncio.TaskGroup() as tasks:
            bringing = [(tasks.create_task(bring(file, waiting)), waiting) for file, waiting in files.values()]
            fetching.stops.listen(lambda: _let_go(bringing, fetching.stops, errors))


def _let_go(
    bringing: Iterable[tuple[asyncio.Task[None], Sequence[Import]]],
    stops: Stops,
    errors: dict[ImageKey, BootferryError],
) -> None:
    """Fetch no further what only stopped images wait for."""
    for task, waiting in bringing:
        if not task.done() and all(entry.image in stops for entry in waiting):
            task.cancel()
            for entry in waiting:
                errors.setdefault(entry.image, ImageStopped())


async def _bring(
    fetching: Fetching,
    file: File,
    wanted_for: Import,
    roads: Mapping[Sha256, Sequence[Road]],
    connections: _Connections,
) -> BootferryError | None:
    """Why the store does not hold the file; None when it does."""
    try:
        await _fetch_one(fetching, file, _ways(file, wanted_for, roads, connections))
        await asyncio.to_thread(_require_stored, fetching.store, file)
    except OSError as fault:
        return fetching.store.fault(fault, file.size)
    except (FetchError, DiskFailed, NoRoom, NoRoad, InvalidConfiguration, Conflict) as error:
        return error
    return None


def _ways(
    file: File,
    wanted_for: Import,
    roads: Mapping[Sha256, Sequence[Road]],
    connections: _Connections,
) -> list[_Way]:
    """The ways to the file, best first. Raises NoRoad; InvalidConfiguration when that is why there is none."""
    own = Road(wanted_for.source_id, file.path)
    known = sorted(roads.get(file.sha256, ()), key=lambda road: (road != own, road.source_id != own.source_id))
    ways = []
    refused: InvalidConfiguration | None = None
    for road in known:
        match connections.get(road.source_id):
            case (connected, transfer, source):
                ways.append(_Way(connected, transfer, road, source))
            case InvalidConfiguration() as error:
                refused = refused or error
    if not ways:
        raise refused or NoRoad(file.sha256)
    return ways


def _require_stored(store: Store, file: File) -> None:
    """Raises DiskFailed when the disk has not kept what it has just been given."""
    if not store.has(file.sha256, file.size):
        raise DiskFailed(store.where, OSError(errno.EIO, f"{file.sha256} went away at once"))


async def _fetch_one(fetching: Fetching, file: File, ways: Sequence[_Way]) -> None:
    """When this returns the store holds the file. Raises what the best road met last."""

    def progress(done: int) -> None:
        fetching.progress[file.sha256] = done

    failures = 0
    while True:
        first: FetchError | None = None
        failures += 1
        passing: list[tuple[_Way, float]] = []
        for way in ways:
            try:
                await download(
                    way.transfer,
                    fetching.store,
                    way.connected.url(way.road.path),
                    file.sha256,
                    file.size,
                    progress,
                )
            except FetchError as error:
                first = first or error
                wait_s = fetching.patience.wait_s(error, failures, fetching.rng)
                if wait_s is not None:
                    passing.append((way, wait_s))
            else:
                fetching.meters.fetched.labels(way.source).inc(file.size)
                return
        if first is not None and not passing:
            raise first
        ways = [way for way, _ in passing]
        # Who asks to be left alone for longer is asked together with the others: none of them before its time.
        await asyncio.sleep(max(wait_s for _, wait_s in passing))
