"""Carries a plan out: reads the sources, fetches what is missing, makes whole versions visible, withdraws old ones.

One import runs at a time, on a lease. Every write shows the lease's fencing number, so that a runner which was thought
dead and wakes up again changes nothing. Finished files are kept whatever happens; a version becomes visible in the one
transaction that also withdraws the version it replaces and signs the manifest.
"""

import asyncio
import errno
import random
import time
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, suppress
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.catalogue import files, products, selections, sources
from region.catalogue.versions import File
from region.database.connection import transaction
from region.database.tables import versions
from region.database.topics import Topic, notify
from region.importing import imports, reading
from region.importing.imports import Claim, ImageProgress, LeaseLost
from region.importing.plan import Import, Plan, plan
from region.people import settings
from region.publishing import manifest
from region.stream.documents import newest_lts
from shared.digest import Sha256
from shared.download import Transfer, download
from shared.errors import (
    BootferryError,
    Conflict,
    DiskFailed,
    FetchError,
    HttpStatus,
    InvalidConfiguration,
    NoRoom,
    Unavailable,
    WrongDigest,
    WrongSize,
)
from shared.logs import logger
from shared.names import ImageKey
from shared.store import Store, disk_error

PROGRESS_PERIOD_S = 1.0
DEFAULT_ARCH = "amd64"
ATTEMPTS = 4
"""How often a file is asked for within one import, when the network rather than the file is at fault."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Importer:
    """What carrying an import out takes. `now` and `jitter` (0 to 1) are the only clock and dice."""

    engine: AsyncEngine
    store: Store
    key: Ed25519PrivateKey
    parallel_downloads: int
    owner: str
    now: Callable[[], datetime]
    jitter: Callable[[], float] = random.random
    lease_s: float = imports.LEASE_S


@dataclass(slots=True)
class _Run:
    """One import under way, in bytes per file; what is written once a second."""

    claim: Claim
    proxy: str | None = None
    totals: dict[Sha256, int] = field(default_factory=dict)
    done: dict[Sha256, int] = field(default_factory=dict)
    images: dict[ImageKey, set[Sha256]] = field(default_factory=dict)
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    errors: dict[ImageKey, BootferryError] = field(default_factory=dict)
    source_errors: list[BootferryError] = field(default_factory=list)
    waiting: BootferryError | None = None

    def progress(self) -> dict[ImageKey, ImageProgress]:
        """What is known per image; a file that images share counts for each of them."""
        found = {}
        for image, digests in self.images.items():
            error = self.errors.get(image)
            found[image] = ImageProgress(
                bytes_total=sum(self.totals[sha256] for sha256 in digests),
                bytes_done=sum(self.done.get(sha256, 0) for sha256 in digests),
                code=error.code if error else "",
                error=str(error) if error else "",
            )
        return found


class WithdrawalWaits(BootferryError):
    """An unattended import has left alone what an operator should decide."""

    code = "withdrawal_waits"

    def __init__(self, withdrawn: int, held: int) -> None:
        super().__init__(
            f"{withdrawn} of {held} held versions would go with nothing in their place; sync by hand to let them."
        )


class _Cancelled(BootferryError):
    """An operator stopped the import."""

    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The import was stopped; what had arrived is kept.")


async def run_next(importer: Importer) -> bool:
    """Claim an import and carry it out. False says: there was none to claim. Raises Unavailable."""
    async with transaction(importer.engine) as connection:
        claim = await imports.claim(connection, importer.owner, importer.lease_s)
    if claim is None:
        return False
    log.info("An import begins.", action="import", import_id=claim.import_id, trigger=claim.trigger)
    run = _Run(claim)
    failures: list[BootferryError] = []
    try:
        async with asyncio.TaskGroup() as tasks:
            heart = tasks.create_task(_heartbeat(importer, run))
            await _carry_out(importer, run)
            heart.cancel()
    except asyncio.CancelledError:
        with suppress(Unavailable):
            async with transaction(importer.engine) as connection:
                await imports.release(connection, claim)
        raise
    except ExceptionGroup as group:
        failures.append(_told(group, importer.store.root))
    failures += [*run.source_errors, *run.errors.values()]
    match failures:
        case [] if run.waiting is not None:
            state, code, error = "succeeded", run.waiting.code, str(run.waiting)
        case []:
            state, code, error = "succeeded", "", ""
        case [_Cancelled() as stopped, *_]:
            state, code, error = "cancelled", stopped.code, str(stopped)
        case [first, *_]:
            state, code, error = "failed", first.code, str(first)
    ended = {"action": "import", "import_id": claim.import_id, "state": state, "bytes": sum(run.done.values())}
    try:
        async with transaction(importer.engine) as connection:
            await _write_progress(importer, run, connection)
            await imports.finish(connection, claim, state, importer.now(), code, error)
    except LeaseLost as lost:
        log.warning(str(lost), **ended)
        return True
    if state == "failed":
        log.warning(f"An import failed. {error}", code=code, **ended)
    else:
        log.info(f"An import {state}.", **ended)
    return True


def _told(group: ExceptionGroup[Exception], root: Path) -> BootferryError:
    """What an operator is told of the fault that ended an import.

    Raises Unavailable: the database went away, and whoever finds it back first carries on from what is stored.
    """
    first: Exception = group
    while isinstance(first, ExceptionGroup):
        first = first.exceptions[0]
    if isinstance(first, Unavailable):
        raise first
    if isinstance(first, BootferryError):
        return first
    if isinstance(first, OSError):
        # Faults of the network are FetchErrors: what is left is the disk.
        return disk_error(first, root)
    log.error("An import met a fault of ours.", action="import", exc_info=first)
    return BootferryError("The import met a fault of the region's own; its log says more.")


async def _heartbeat(importer: Importer, run: _Run) -> None:
    """Write progress and extend the lease once a second; a lease that could not be extended in time is lost."""
    extended = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_PERIOD_S)
        try:
            async with transaction(importer.engine) as connection:
                stop = await _write_progress(importer, run, connection)
        except Unavailable:
            if time.monotonic() - extended > importer.lease_s:
                raise LeaseLost(run.claim.import_id) from None
            continue
        extended = time.monotonic()
        if stop:
            raise _Cancelled


async def _carry_out(importer: Importer, run: _Run) -> None:
    async with transaction(importer.engine) as connection:
        known_sources = await sources.list_all(connection)
        run.proxy = (await settings.get(connection)).proxy
    for source in known_sources:
        await _read(importer, run, source)

    wanted = await _plan(importer)
    chosen = [
        entry
        for entry in wanted.imports
        if run.claim.scope is None or entry.product.bootloader or str(entry.product.image) in run.claim.scope
    ]
    await asyncio.to_thread(importer.store.clear_incoming, wanted.fetch)
    for entry in chosen:
        run.images.setdefault(entry.product.image, set()).update(file.sha256 for file in entry.missing)
        run.totals |= {file.sha256: file.size for file in entry.missing}
    try:
        await asyncio.to_thread(importer.store.require_room, run.totals.items())
    except NoRoom as error:
        log.warning(f"Nothing is fetched. {error}", action="fetch", code=error.code)
        run.errors = dict.fromkeys(run.images, error)
    else:
        await _fetch(importer, run, chosen, {source.id: source for source in known_sources})
    await _retire(importer, run)


async def _write_progress(importer: Importer, run: _Run, connection: AsyncConnection) -> bool:
    """True says: somebody asked to stop."""
    total, done = sum(run.totals.values()), sum(run.done.values())
    return await imports.record_progress(connection, run.claim, run.progress(), total, done, importer.lease_s)


async def _read(importer: Importer, run: _Run, source: sources.Source) -> None:
    """Read one source into the catalogue. A source that fails is remembered as failed and costs the others nothing."""
    code = sentence = ""
    skipped: list[str] = []
    try:
        async with transaction(importer.engine) as connection:
            known = await products.accepted(connection, source.id)
        async with reading.connect(source, reading.keyring_of(source), run.proxy) as connected:
            found = await reading.read(connected, known)
        skipped = list(found.skipped)
        if found.reading is not None:
            async with transaction(importer.engine) as connection:
                await imports.require_lease(connection, run.claim)
                await sources.get(connection, source.id, keep=True)
                skipped += await products.record(connection, source.id, found.reading)
                await _select_default(connection, source, found.reading, importer.now())
                await notify(connection, Topic.IMAGES)
        for error in found.failed.values():
            code, sentence = error.code, str(error)
            run.source_errors.append(error)
    except (LeaseLost, Unavailable):
        raise
    except BootferryError as error:
        code, sentence = error.code, str(error)
        run.source_errors.append(error)
    if sentence:
        log.warning(f"A source could not be read. {sentence}", action="read", source=source.name, code=code)
    async with transaction(importer.engine) as connection:
        await imports.require_lease(connection, run.claim)
        await sources.record_reading(
            connection, source.id, importer.now(), code=code, sentence=sentence, skipped=skipped[:1000]
        )
        await notify(connection, Topic.SOURCES)


async def _select_default(
    connection: AsyncConnection, source: sources.Source, reading: products.Reading, now: datetime
) -> None:
    """Select the newest LTS for amd64 where nobody has selected anything yet."""
    if not await selections.default_is_due(connection):
        return
    offered = [product for _, stream in reading.changed for product in stream.products]
    release = newest_lts(offered, DEFAULT_ARCH)
    if release is not None:
        image = ImageKey.parse(f"ubuntu:{release}:{DEFAULT_ARCH}")
        await selections.replace(connection, [(source.id, image)], now)
        log.info("The newest Ubuntu LTS was selected, as nobody had chosen yet.", action="select", image=str(image))


async def _plan(importer: Importer) -> Plan:
    async with transaction(importer.engine) as connection:
        wanted = await selections.wanted(connection)
        return plan(wanted, await products.facts(connection, wanted), await products.stored(connection))


async def _fetch(
    importer: Importer, run: _Run, chosen: list[Import], known_sources: Mapping[int, sources.Source]
) -> None:
    """Fetch every missing file once, and publish each version as soon as its last file is stored."""
    waiting: dict[Sha256, list[_Waiting]] = defaultdict(list)
    wanted: dict[Sha256, tuple[File, int]] = {}
    for entry in chosen:
        version = _Waiting(entry, {file.sha256 for file in entry.missing})
        for file in entry.missing:
            waiting[file.sha256].append(version)
            wanted.setdefault(file.sha256, (file, entry.product.source_id))

    async with AsyncExitStack() as stack:
        executor = stack.enter_context(ThreadPoolExecutor(importer.parallel_downloads, "download"))
        roads: dict[int, tuple[reading.Upstream, Transfer]] = {}
        for source_id in {entry.product.source_id for entry in chosen}:
            # Files are named by digest: who signed the stream has vouched for them already.
            try:
                connected = await stack.enter_async_context(reading.connect(known_sources[source_id], None, run.proxy))
            except InvalidConfiguration as error:
                run.errors |= {entry.product.image: error for entry in chosen if entry.product.source_id == source_id}
                continue
            roads[source_id] = (connected, Transfer(connected.session, executor, proxy=connected.proxy))
        slots = asyncio.Semaphore(importer.parallel_downloads)
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(_publish(importer, run, [entry for entry in chosen if not entry.missing]))
            for file, source_id in wanted.values():
                if source_id not in roads:
                    continue
                tasks.create_task(_fetch_for(importer, run, slots, *roads[source_id], file, waiting[file.sha256]))


@dataclass(slots=True)
class _Waiting:
    """A version and the files it still lacks."""

    entry: Import
    missing: set[Sha256]


async def _fetch_for(
    importer: Importer,
    run: _Run,
    slots: asyncio.Semaphore,
    connected: reading.Upstream,
    transfer: Transfer,
    file: File,
    waiting: list[_Waiting],
) -> None:
    """Fetch one file and publish the versions that waited for nothing else; its failure costs those versions only."""
    async with slots:
        try:
            await _fetch_one(importer, run, connected, transfer, file)
        except (FetchError, DiskFailed, NoRoom, Conflict) as error:
            log.warning(f"A file could not be fetched. {error}", action="fetch", code=error.code)
            for version in waiting:
                run.errors.setdefault(version.entry.product.image, error)
            return
    for version in waiting:
        version.missing.discard(file.sha256)
    await _publish(importer, run, [version.entry for version in waiting if not version.missing])


async def _fetch_one(
    importer: Importer, run: _Run, connected: reading.Upstream, transfer: Transfer, file: File
) -> None:
    """Fetch and record one file; a network that falters is asked again, a mirror with other bytes is not."""

    def progress(done: int) -> None:
        run.done[file.sha256] = done

    for attempt in range(1, ATTEMPTS + 1):
        try:
            await download(transfer, importer.store, connected.url(file.path), file.sha256, file.size, progress)
        except FetchError as error:
            if attempt == ATTEMPTS or not _is_passing(error):
                raise
            await asyncio.sleep(2 ** (attempt - 1) * (0.5 + importer.jitter()))
            continue
        async with transaction(importer.engine) as connection:
            await imports.require_lease(connection, run.claim)
            if await files.record(connection, importer.store, file.sha256, file.size, importer.now()):
                return
            await connection.rollback()
    raise DiskFailed(str(importer.store.root), OSError(errno.EIO, f"{file.sha256} went away again and again"))


def _is_passing(error: FetchError) -> bool:
    if isinstance(error, HttpStatus):
        return error.status >= 500 or error.status == 429
    return not isinstance(error, WrongDigest | WrongSize)


async def _publish(importer: Importer, run: _Run, entries: Sequence[Import]) -> None:
    """Make whole versions visible and withdraw what they replace, in one transaction.

    One at a time: all of them write the manifest, and would wait for each other with a connection in their hands.
    """
    if not entries:
        return
    async with run.publishing, transaction(importer.engine) as connection:
        await imports.require_lease(connection, run.claim)
        whole = set(
            await connection.scalars(
                text("""
                    SELECT items.version_id FROM items
                    LEFT JOIN files ON files.sha256 = items.sha256 AND files.size = items.size
                    WHERE items.version_id = ANY(:ids)
                    GROUP BY items.version_id HAVING bool_and(files.sha256 IS NOT NULL)
                """),
                {"ids": [entry.version.id for entry in entries]},
            )
        )
        visible = [entry for entry in entries if entry.version.id in whole]
        await connection.execute(
            update(versions)
            .where(versions.c.id.in_(whole), versions.c.held_at.is_(None))
            .values(held_at=importer.now())
        )
        replaced = [
            version.id
            for entry in visible
            for version in entry.product.versions
            if version.held and version.id != entry.version.id
        ]
        await _withdraw(importer, connection, replaced)
    for entry in visible:
        log.info(
            "A version is whole and visible.", action="publish", slot=entry.product.slot, version=entry.version.name
        )


async def _retire(importer: Importer, run: _Run) -> None:
    """Withdraw what nobody wants or what has been replaced, except what an unattended run must not decide."""
    decided = await _plan(importer)
    retire = decided.retire
    attended = run.claim.trigger in ("operator", "selection") and run.claim.scope is None
    if decided.needs_operator and not attended:
        retire -= decided.withdrawn
        run.waiting = WithdrawalWaits(len(decided.withdrawn), decided.held)
        log.warning(str(run.waiting), action="retire", import_id=run.claim.import_id)
    async with transaction(importer.engine) as connection:
        await imports.require_lease(connection, run.claim)
        await _withdraw(importer, connection, sorted(retire))


async def _withdraw(importer: Importer, connection: AsyncConnection, version_ids: list[int]) -> None:
    """From here on these versions are not held; the manifest says what is, and the grace of unneeded files begins."""
    await connection.execute(
        update(versions).where(versions.c.id.in_(version_ids)).values(held_at=None, held_serial=None)
    )
    await manifest.publish(connection, importer.key, importer.now())
    await files.mark_unneeded(connection, importer.now())
