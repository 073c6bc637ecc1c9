"""Carries a plan out: reads the sources, fetches what is missing, has whole versions held and others withdrawn.

- One import runs at a time, on a lease. Every write shows the lease's fencing number, so that a runner which was
  thought dead and wakes up again changes nothing.
- Each source's trust is looked at when its reading begins, when the reading is recorded, when the plan is made and when
  a version becomes held (`region.catalogue.trust`).
- Finished files are kept whatever happens.

How files are fetched is in `region.importing.fetching`, what becomes visible when in `region.importing.holding`.
"""

import asyncio
import random
import time
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.catalogue import files, products, selections, sources, targets, trust, versions, wanted
from region.catalogue.facts import Wish
from region.catalogue.products import Reading
from region.catalogue.trust import TrustChanged
from region.database.connection import transaction
from region.database.topics import Topic, notify
from region.importing import imports, reading, retries, room, upkeep
from region.importing.fetching import Fetching, ImageStopped, Stops, fetch
from region.importing.holding import Holding
from region.importing.imports import Claim, ImageProgress, LeaseLost
from region.importing.plan import Import, Plan, plan
from region.meters import Meters
from region.people import settings
from region.publishing import held
from region.publishing.held import Publisher
from region.secrets import Address, Secrets
from region.stream.documents import newest_lts
from shared.digest import Sha256
from shared.errors import BootferryError, Conflict, Unavailable
from shared.logs import logger
from shared.names import ImageKey
from shared.patience import Patience
from shared.store.base import Store

PROGRESS_PERIOD_S = 1.0
DEFAULT_ARCH = "amd64"
READINGS = 3
"""How often a source is read within one import, when its trust changes while it is read."""

log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Importer:
    """What carrying an import out takes. `now` and `rng` are the only clock and dice."""

    engine: AsyncEngine
    store: Store
    secrets: Secrets
    publisher: Publisher
    parallel_downloads: int
    owner: str
    now: Callable[[], datetime]
    rng: random.Random = field(default_factory=random.Random)
    patience: Patience = field(default_factory=Patience)
    lease_s: float = imports.LEASE_S
    reading_deadline_s: float = reading.DEADLINE_S
    meters: Meters = field(default_factory=Meters)
    ended: Callable[[str, datetime], None] = lambda _state, _now: None
    """Hears how each import has ended, and when."""


@dataclass(slots=True)
class _Run:
    """One import under way, in bytes per file; what is written once a second."""

    claim: Claim
    proxy: Address | None = None
    totals: dict[Sha256, int] = field(default_factory=dict)
    done: dict[Sha256, int] = field(default_factory=dict)
    images: dict[ImageKey, set[Sha256]] = field(default_factory=dict)
    errors: dict[ImageKey, BootferryError] = field(default_factory=dict)
    source_errors: list[BootferryError] = field(default_factory=list)
    waiting: BootferryError | None = None
    held: int = 0
    """Versions that have become whole."""
    stops: Stops = field(default_factory=Stops)
    recording: asyncio.Lock = field(default_factory=asyncio.Lock)

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
            f"{withdrawn} of {held} held versions would go though nobody unselected them; sync by hand to let them."
        )


class Cancelled(BootferryError):
    """An operator stopped the import."""

    code = "cancelled"

    def __init__(self) -> None:
        super().__init__("The import was stopped; what had arrived is kept.")


class _Disabled(Exception):
    """The source was disabled since the import began: nothing is said of a reading."""


async def run_next(importer: Importer) -> bool:
    """Claim an import and carry it out. False if there was none to claim. Raises Unavailable."""
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
        failures.append(_told(group, importer.store))
    # An image that an operator stopped is no failure of the others.
    failures += [*run.source_errors, *(error for error in run.errors.values() if not isinstance(error, ImageStopped))]
    match failures:
        case [] if run.waiting is not None:
            state, code, error = "succeeded", run.waiting.code, str(run.waiting)
        case []:
            state, code, error = "succeeded", "", ""
        case [Cancelled() as stopped, *_]:
            state, code, error = "cancelled", stopped.code, str(stopped)
        case [first, *_]:
            state, code, error = "failed", first.code, str(first)
    again = state == "failed" and not claim.only_reads and any(map(retries.may_pass, failures))
    retry_at = importer.now() + retries.pause(claim.tries) if again else None
    ended = {
        "action": "import",
        "import_id": claim.import_id,
        "state": state,
        "bytes": sum(run.done.values()),
        "held": run.held,
    }
    try:
        async with transaction(importer.engine) as connection:
            await _write_progress(importer, run, connection)
            await imports.finish(connection, claim, state, importer.now(), code, error, retry_at)
    except LeaseLost as lost:
        log.warning(str(lost), **ended)
        return True
    importer.ended(state, importer.now())
    if state == "failed":
        log.warning(
            f"An import failed. {error}",
            code=code,
            **ended,
            failures=len(failures),
            retry_at=retry_at and retry_at.isoformat(),
        )
    else:
        log.info("An import was stopped." if state == "cancelled" else "An import succeeded.", **ended)
    return True


def _told(group: ExceptionGroup[Exception], store: Store) -> BootferryError:
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
        return store.fault(first)
    log.error("An import met a fault of ours.", action="import", exc_info=first)
    return BootferryError("The import met a fault of the region's own; its log says more.")


async def _heartbeat(importer: Importer, run: _Run) -> None:
    """Write progress and extend the lease once a second.

    Raises LeaseLost when another process has it. Raises Unavailable when nobody could be asked for as long as a lease
    lasts: it may be anybody's now, and whoever finds the database back first claims it, perhaps this process again.
    """
    extended = time.monotonic()
    while True:
        await asyncio.sleep(PROGRESS_PERIOD_S)
        try:
            async with transaction(importer.engine) as connection:
                stop = await _write_progress(importer, run, connection)
        except Unavailable:
            if time.monotonic() - extended > importer.lease_s:
                raise
            continue
        extended = time.monotonic()
        if stop:
            raise Cancelled


async def _write_progress(importer: Importer, run: _Run, connection: AsyncConnection) -> bool:
    """True if somebody asked to stop all of it. Images that are to be stopped alone, are."""
    run.stops.add(map(ImageKey.parse, await imports.stopped_images(connection, run.claim.import_id)))
    total, done = sum(run.totals.values()), sum(run.done.values())
    return await imports.record_progress(connection, run.claim, run.progress(), total, done, importer.lease_s)


async def _carry_out(importer: Importer, run: _Run) -> None:
    async with transaction(importer.engine) as connection:
        known_sources = await sources.list_all(connection)
        run.proxy = (await settings.get(connection)).proxy
    async with asyncio.TaskGroup() as tasks:
        readings = [
            tasks.create_task(_read(importer, run, source.id))
            for source in known_sources
            if source.enabled and run.claim.source_id in (None, source.id)
        ]
    for done in readings:
        run.source_errors += done.result()
    if run.claim.only_reads:
        return

    await trust.look_all(importer.engine, importer.now())
    async with transaction(importer.engine) as connection:
        await imports.require_lease(connection, run.claim)
        await _look_at_rules(connection, importer.now())
        decided = await make_plan(connection)
        known_sources = await sources.list_all(connection)
    chosen = [entry for entry in decided.imports if _is_in_scope(run.claim, entry)]
    for entry in chosen:
        run.images.setdefault(entry.image, set()).update(file.sha256 for file in entry.missing)
        run.totals |= {file.sha256: file.size for file in entry.missing}
    try:
        await asyncio.to_thread(importer.store.clear_incoming, decided.fetch)
        too_large = await asyncio.to_thread(room.too_large, importer.store, chosen)
    except OSError as error:
        too_large = dict.fromkeys((entry.image for entry in chosen if entry.missing), importer.store.fault(error))
    for image, told in too_large.items():
        log.warning(f"An image is not fetched. {told}", action="fetch", code=told.code, image=str(image))
    run.errors |= too_large
    await _bring(importer, run, [entry for entry in chosen if entry.image not in too_large], known_sources)
    await _withdraw(importer, run)


def _is_in_scope(claim: Claim, entry: Import) -> bool:
    return claim.scope is None or entry.bootloader or str(entry.image) in claim.scope


async def _bring(importer: Importer, run: _Run, chosen: list[Import], known_sources: list[sources.Source]) -> None:
    """Fetch what is missing, and have each version held as soon as the last of its files is stored."""
    wanted_files = {file.sha256: file for entry in chosen for file in entry.missing}
    async with transaction(importer.engine) as connection:
        roads = await versions.roads(connection, wanted_files)
    for sha256 in await _stuck(importer, wanted_files):
        error = Conflict(f"{sha256} is being deleted and cannot be fetched before that has ended; sync again later.")
        del wanted_files[sha256]
        for entry in chosen:
            if sha256 in {file.sha256 for file in entry.missing}:
                run.errors.setdefault(entry.image, error)
    holding = Holding(importer.engine, importer.publisher, run.claim, importer.now)
    fetching = Fetching(
        store=importer.store,
        parallel=importer.parallel_downloads,
        patience=importer.patience,
        rng=importer.rng,
        proxy=run.proxy,
        secrets=importer.secrets,
        progress=run.done,
        meters=importer.meters,
        stops=run.stops,
    )
    async with asyncio.TaskGroup() as tasks:
        tasks.create_task(holding.run(chosen))
        try:
            await fetch(
                fetching,
                {source.id: source for source in known_sources},
                [
                    replace(entry, missing=tuple(f for f in entry.missing if f.sha256 in wanted_files))
                    for entry in chosen
                ],
                roads,
                holding.stored,
                run.errors,
            )
        finally:
            holding.close()
    run.held = holding.held
    for entry in chosen:
        if holding.refused & {file.sha256 for file in entry.missing}:
            run.errors.setdefault(entry.image, Conflict("A file that had arrived was being deleted; sync again later."))


async def _stuck(importer: Importer, wanted_files: Collection[Sha256]) -> set[Sha256]:
    """Those of the files that are being deleted, and still are after some waiting."""
    failures = 0
    while stuck := await upkeep.let_go(importer.engine, importer.store, wanted_files):
        failures += 1
        if failures >= importer.patience.attempts:
            break
        await asyncio.sleep(importer.patience.pause_s(failures, importer.rng))
    return stuck


async def _read(importer: Importer, run: _Run, source_id: int) -> list[BootferryError]:
    """Read one source into the catalogue, beside the others; answers what failed.

    A source that fails, or is slow, is remembered as failed after its own time and costs the others nothing else.
    """
    errors: list[BootferryError] = []
    skipped: list[str] = []
    try:
        for attempt in range(READINGS):
            try:
                skipped, failed = await _read_once(importer, run, source_id)
            except TrustChanged:
                if attempt == READINGS - 1:
                    raise
                continue
            errors += failed.values()
            break
    except (LeaseLost, Unavailable):
        raise
    except _Disabled:
        return []
    except BootferryError as error:
        errors.append(error)
    code, sentence = (errors[-1].code, str(errors[-1])) if errors else ("", "")
    if sentence:
        log.warning(f"A source could not be read. {sentence}", action="read", source=source_id, code=code)
    async with transaction(importer.engine) as connection:
        await imports.require_lease(connection, run.claim)
        for source in await sources.list_all(connection):
            if source.id == source_id:
                _warn_of_age(source, importer.now())
        await sources.record_reading(
            connection, source_id, importer.now(), code=code, sentence=sentence, skipped=skipped[:1000]
        )
        await notify(connection, Topic.SOURCES)
    return errors


def _warn_of_age(source: sources.Source, now: datetime) -> None:
    """Log once that the source's documents are old: not when they were at its last reading, too."""
    found = source.stale(now)
    if found is not None and (source.last_read_at is None or source.stale(source.last_read_at) is None):
        log.warning(str(found), action="read", source=source.id, code=found.code)


async def _read_once(importer: Importer, run: _Run, source_id: int) -> tuple[list[str], Mapping[str, BootferryError]]:
    """What of the stream was left alone, and the documents that failed.

    Raises TrustChanged, _Disabled, and then wrote nothing.
    """
    revision = await trust.look(importer.engine, source_id, importer.now())
    async with transaction(importer.engine) as connection:
        source = await sources.get(connection, source_id)
        # An operator lets older documents in, once: see `accept_older` in `region.actions.sources`.
        older = source.older_accepted_until is not None and source.older_accepted_until > importer.now()
        known = await products.accepted(connection, source_id, older=older)
    if not source.enabled:
        raise _Disabled
    if source.trust_revision != revision:
        raise TrustChanged(source.name)
    async with reading.connect(source, run.proxy, importer.secrets) as connected:
        found = await reading.read(
            connected,
            known,
            importer.now(),
            patience=importer.patience,
            rng=importer.rng,
            deadline_s=importer.reading_deadline_s,
        )
    await trust.look(importer.engine, source_id, importer.now())
    skipped = list(found.skipped)
    # One after the other: recordings write the same tables, and whoever comes first selects the default image.
    async with run.recording, transaction(importer.engine) as connection:
        await imports.require_lease(connection, run.claim)
        skipped += await products.record(
            connection, source_id, found.reading, revision, importer.now(), older=older, whole=not found.failed
        )
        if found.reading is not None:
            await _select_default(connection, found.reading, importer.now())
            await notify(connection, Topic.IMAGES)
    return skipped, found.failed


async def _select_default(connection: AsyncConnection, found: Reading, now: datetime) -> None:
    """Select the newest LTS for amd64 where nobody has selected anything yet."""
    if not await selections.default_is_due(connection):
        return
    offered = [product for _, stream in found.changed for product in stream.products]
    release = newest_lts(offered, DEFAULT_ARCH)
    if release is not None:
        image = ImageKey.parse(f"ubuntu:{release}:{DEFAULT_ARCH}")
        await selections.replace(connection, [Wish(None, image)], now)
        await wanted.refresh(connection, now)
        log.info("The newest Ubuntu LTS was selected, as nobody had chosen yet.", action="select", image=str(image))


async def _look_at_rules(connection: AsyncConnection, now: datetime) -> None:
    """What is wanted is as of now, and nobody changes what is selected until this transaction ends.

    Support ends on days on which no source says anything new.
    """
    await selections.revision(connection, for_update=True)
    await wanted.refresh(connection, now)


async def make_plan(connection: AsyncConnection) -> Plan:
    """What to do now, by what this transaction sees."""
    return plan(
        await selections.meanings(connection), await targets.list_all(connection), await versions.held(connection)
    )


async def _withdraw(importer: Importer, run: _Run) -> None:
    """Withdraw what nobody wants or what has been replaced, except what an unattended run must not decide."""
    attended = run.claim.trigger in imports.ATTENDED and run.claim.scope is None
    async with transaction(importer.engine) as connection:
        await imports.require_lease(connection, run.claim)
        await _look_at_rules(connection, importer.now())
        decided = await make_plan(connection)
        withdraw = decided.withdraw
        if decided.needs_operator and not attended:
            withdraw -= decided.lost
            run.waiting = WithdrawalWaits(len(decided.lost), decided.held)
            log.warning(str(run.waiting), action="withdraw", import_id=run.claim.import_id)
        done = await held.change(
            connection,
            importer.publisher,
            importer.now(),
            withdraw=withdraw,
            # What was unselected is an operator's deed, whoever carries it out.
            confirmed=bool(withdraw if attended else withdraw & decided.unwanted),
            begin=True,
        )
        await files.mark_unneeded(connection, importer.now())
        await sources.forget_removed(connection)
    if done.withdrawn:
        log.info(
            "What nobody wants any longer was withdrawn.",
            action="withdraw",
            versions=len(done.withdrawn),
            import_id=run.claim.import_id,
        )
    if done.published is not None:
        log.info(
            "A new manifest is published.",
            action="publish",
            serial=done.published.manifest.serial,
            import_id=run.claim.import_id,
        )
