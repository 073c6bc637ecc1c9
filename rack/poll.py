"""Poll: one round that makes this disk equal to what the region publishes.

It audits the disk, asks for the manifest, waits for an operator where that takes much away (`brake.py`), pulls what is
missing, swaps the tree, reports and prunes, in this order (`beat.py` says when). Whatever fails, the tree that machines
boot from stays: only a manifest signed by this rack's region, not older than the last one and no other of its number,
with bytes that were verified, ever changes it.

The region has so much time for each of its answers, whatever it sends meanwhile (`Habits`): a slow one, or one that
drips, never keeps this rack from the next poll. What did not arrive in time is kept, and the next poll goes on with it.
"""

import asyncio
import random
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from rack import audit, brake, tree
from rack.belief import Belief, Round, fault, pending
from rack.client import Published, Region
from rack.identity import Identity, follow
from rack.moving import move
from rack.prune import prune
from rack.pull import diff, fitting, pull
from rack.renewal import recover
from rack.state import State
from shared import __version__
from shared.audit import due_since
from shared.digest import Sha256
from shared.disk import disk_error, write_whole
from shared.download import Transfer
from shared.errors import (
    BadSignature,
    BootferryError,
    FetchError,
    ForkedManifest,
    InvalidRequestSignature,
    NoRoom,
    Replayed,
    TimedOut,
    TooOld,
    WaitsForConfirmation,
)
from shared.logs import logger
from shared.patience import Patience, asked_s, is_regions, is_transient, patiently
from shared.promises import POLL_PERIOD
from shared.signing import SEQUENCE_AHEAD, fingerprint
from shared.sizes import spoken_size
from shared.store.disk import DiskStore
from shared.wire.envelope import open_envelope
from shared.wire.manifest import MANIFEST_TYPE, Manifest
from shared.wire.report import Fault, Knows, Pending, Report

REPORT_EVERY_S = 5.0
ASK_WITHIN_S = 150.0
REPORT_WITHIN_S = 60.0
PULL_FOR_S = POLL_PERIOD.total_seconds()

_MS = timedelta(milliseconds=1)

_log = logger(__name__)


@dataclass(frozen=True, slots=True)
class Habits:
    """How a rack goes about its polls; tests go faster."""

    at_once: int = 4
    prune_grace_s: float = 3600.0
    patience: Patience = field(default_factory=Patience)
    report_every_s: float = REPORT_EVERY_S
    ask_within_s: float = ASK_WITHIN_S
    report_within_s: float = REPORT_WITHIN_S
    pull_for_s: float = PULL_FOR_S
    report_again: Patience = field(default_factory=lambda: Patience(first_s=5.0, most_s=60.0))


class Poller:
    """The polls of one enrolled rack, alone in `root`. `recover` first; then `poll`, which waits for the one before."""

    def __init__(
        self,
        root: Path,
        store: DiskStore,
        identity: Identity,
        region: Region,
        transfer: Transfer,
        *,
        habits: Habits,
        rng: random.Random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        elapsed_s: Callable[[], float] = time.monotonic,
        port: int = 0,
        host: str = "",
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.belief = Belief()
        self._root, self._store, self._identity, self._region, self._transfer = root, store, identity, region, transfer
        self._habits, self._rng, self._now, self._told = habits, rng, now, told
        # The daily reading goes by this clock: whoever sets the machine's does not stop it for as long as that was off.
        self._steady, self._began_at, self._began_s = elapsed_s, now(), elapsed_s()
        self._host, self._port = host, port
        self._state = State()
        self._etag = ""
        self._waiting: Published | None = None
        self._polling = asyncio.Lock()
        self._last_audit: datetime | None = None
        self._unread: frozenset[Sha256] = frozenset()
        self._reported: tuple[Knows, tuple[Pending, ...], Fault] | None = None
        self._logged: tuple[str, str] | None = None
        self._failed: list[BootferryError] = []
        self._untaken = 0
        self.report_due_s = float("inf")
        """When to send the last report again, by the loop's clock; never, if the region took it."""

    def recover(self) -> None:
        """Believe again what was believed when the last process ended, as far as it verifies. Blocks.

        Raises OSError when the disk cannot be read.
        """
        state, region = State.load(self._root), fingerprint(self._identity.region_key)
        # Floors are the region's, whichever of its keys has signed what set them.
        if state.region in {fingerprint(key) for key in (self._identity.region_key, *self._identity.former)}:
            self._state, state.region = state, region
        else:
            self._state = State(region=region, sequence=state.sequence)
        self.belief.tree = tree.load_current(self._root)
        try:
            tree.clear_unfinished(self._root)
        except OSError as error:
            # Only room is lost by it; a rack serves what it has from a disk that takes nothing.
            told = disk_error(error, self._root)
            _log.warning(f"What an earlier process left half built stays. {told}", action="recover", code=told.code)
        try:
            kept = (self._root / "manifest.json").read_bytes()
            manifest, knows = self._opened(kept, *self._identity.former)
        except FileNotFoundError:
            return
        except BootferryError as error:
            _log.warning("The manifest kept here is not used.", action="recover", error=str(error), code=error.code)
            return
        self.belief.manifest, self.belief.knows = manifest, knows
        self._remember(manifest, knows)
        self._measure(Round())

    @property
    def floor(self) -> tuple[int, int]:
        """The (epoch, serial) of the newest manifest ever accepted from this region."""
        return self._state.floor

    @property
    def busy(self) -> bool:
        """True while a poll is under way."""
        return self._polling.locked()

    async def poll(self) -> None:
        """One poll, from the manifest to the pruning. Never raises: what went wrong is in `belief.last_error`."""
        async with self._polling:
            went = Round()
            errors = went.errors
            audited: list[BootferryError] = []
            await self._attempt(lambda: asyncio.to_thread(self._store.require_writable), audited)
            # A disk that takes nothing: what is missing cannot come, and what is held is served.
            unwritable = next(iter(audited), None)
            await self._attempt(self._audit, audited)
            await self._attempt(self._ask, errors)
            away = next((error for error in errors if isinstance(error, FetchError) or is_regions(error)), None)
            errors += audited
            if (manifest := self.belief.manifest) is not None:
                await self._attempt(lambda: self._pull(manifest, went, away or unwritable), errors)
                if unwritable is None:
                    await self._attempt(lambda: self._advance(manifest, went), errors)
                errors += went.images.values()
                await self._attempt(lambda: self._move(manifest), errors)
            await self._attempt(lambda: asyncio.to_thread(self._measure, went), errors)
            self.belief.last_error = went.error
            self.belief.last_poll_at = self._now()
            refused: list[BootferryError] = []
            if away is None:
                await self._attempt(lambda: self._report_patiently(went), refused)
            errors += refused
            if unwritable is None or isinstance(unwritable, NoRoom):
                await self._attempt(lambda: asyncio.to_thread(self._prune), errors)
            self.belief.polls[errors[0].code if errors else "ok"] += 1
            await self._attempt(lambda: self._conclude(errors), errors)
            self._put_off(refused)
            self._failed = [error for error in errors if error not in refused]

    async def report_again(self) -> None:
        """Send the report that the region did not take, as things are now. Never raises."""
        async with self._polling:
            went, refused = Round(self._failed), list[BootferryError]()
            await self._attempt(lambda: self._report(went), refused)
            self._put_off(refused)
            await self._attempt(lambda: self._conclude(went.errors + refused), [])

    async def _attempt(self, step: Callable[[], Awaitable[None]], errors: list[BootferryError]) -> None:
        try:
            await step()
        except BootferryError as error:
            errors.append(error)
        except OSError as error:
            errors.append(disk_error(error, self._root))
        except Exception as error:
            # A mistake of ours in one step must not end the process that machines boot from (I4).
            _log.exception("A step of the poll failed in a way nobody foresaw.", action="poll")
            errors.append(BootferryError(f"The rack made a mistake ({type(error).__name__}); its log says where."))

    # --- the region's word

    async def _ask(self) -> None:
        try:
            await self._ask_once()
        except (BadSignature, InvalidRequestSignature) as error:
            # The region's key may have been rotated meanwhile, or this rack's renewed.
            refused = isinstance(error, InvalidRequestSignature)
            if not (refused and await self._has_other_key()) and not await self._follow():
                raise
            await self._ask_once()

    async def _has_other_key(self) -> bool:
        """True if the region knows this rack by another key, which it has from now on."""
        async with self._within(self._habits.ask_within_s):
            if not await recover(self._root, self._identity, self._region):
                return False
        fresh = fingerprint(self._identity.key)
        _log.info("This rack's key was renewed; it signs with the new one.", action="renew", fingerprint=fresh)
        return True

    async def _follow(self) -> bool:
        """True if the region has another key by now, for which the one that this rack knew vouches.

        Raises BadSignature, InvalidDocument for a chain of keys that leads nowhere.
        """
        try:
            async with self._within(self._habits.ask_within_s):
                chain = await self._region.keys()
        except FetchError:
            return False
        if not await asyncio.to_thread(follow, self._root, self._identity, chain):
            return False
        self._state.region = fingerprint(self._identity.region_key)
        self._etag, self._waiting = "", None
        _log.info(
            "The region's key was rotated, and the one before vouches for it; this rack believes the new one.",
            action="follow",
            fingerprint=self._state.region,
        )
        return True

    async def _ask_once(self) -> None:
        async with self._within(self._habits.ask_within_s):
            published = await patiently(lambda: self._region.manifest(self._etag), self._habits.patience, self._rng)
        # Where there is no news, one that waits is looked at again: what this rack shows may have changed.
        if (found := published or self._waiting) is not None:
            await asyncio.to_thread(self._accept, found)

    async def _move(self, manifest: Manifest) -> None:
        """Go where the region says that it is."""
        if not manifest.region_url:
            return
        before = self._identity.region_url
        async with self._within(self._habits.ask_within_s):
            if await move(self._root, self._identity, self._region, manifest.region_url, self._state.floor):
                _log.info(
                    f"The region has moved to {self._identity.region_url}; this rack has followed.",
                    action="move",
                    before=str(before),
                )

    @asynccontextmanager
    async def _within(self, seconds: float) -> AsyncIterator[None]:
        """Inside, the region is waited for, so many seconds at most. Raises TimedOut."""
        try:
            async with asyncio.timeout(seconds):
                yield
        except TimeoutError as error:
            raise TimedOut(str(self._identity.region_url), seconds) from error

    def _accept(self, published: Published) -> None:
        manifest, knows = self._opened(published.envelope)
        shown = self.belief.tree.images() if self.belief.tree else set()
        try:
            brake.require_confirmed(manifest, shown, self._state.confirmed)
        except WaitsForConfirmation:
            # It is asked for by its ETag, as if it had been accepted: it need not travel again every five minutes.
            self._waiting, self._etag = published, published.etag
            raise
        if knows != self.belief.knows:
            write_whole(self._root / "manifest.json", published.envelope)
            _log.info(
                "The region publishes a new manifest.",
                action="manifest",
                epoch=manifest.epoch,
                serial=manifest.serial,
                files=len(manifest.files()),
            )
        self._remember(manifest, knows)
        self._state.save(self._root)
        self.belief.manifest, self.belief.knows = manifest, knows
        self._etag, self._waiting = published.etag, None

    def _remember(self, manifest: Manifest, knows: Knows) -> None:
        """What is accepted never falls (I3), a confirmation neither."""
        self._state.floor, self._state.floor_sha256 = manifest.order, knows.sha256
        self._state.confirmed = brake.confirmed(manifest, self._state.confirmed)

    def _opened(self, envelope: bytes, *former: Ed25519PublicKey) -> tuple[Manifest, Knows]:
        """The manifest this rack's region has signed, not older than the last one (I2, I3) and no other of its number.

        What this rack has kept itself may also be signed by a `former` key of the region.

        Raises TooOld, ForkedManifest, BadSignature, InvalidDocument.
        """
        keys, origin = [self._identity.region_key, *former], f"{self._identity.region_url}'s manifest"
        payload = open_envelope(envelope, MANIFEST_TYPE, keys, origin=origin)
        manifest = Manifest.parse(payload)
        if manifest.order < self._state.floor:
            raise TooOld("The region's manifest", _spoken(manifest.order), _spoken(self._state.floor))
        sha256 = Sha256.of(payload)
        if manifest.order == self._state.floor and self._state.floor_sha256 not in ("", sha256):
            raise ForkedManifest(*manifest.order)
        return manifest, Knows(*manifest.order, sha256)

    # --- the disk

    async def _audit(self) -> None:
        now = self._began_at + timedelta(seconds=self._steady() - self._began_s)
        found = await asyncio.to_thread(self._doubts, now)
        unread: dict[Sha256, OSError] = {}
        for doubt in found:
            try:
                right = await asyncio.to_thread(audit.settle, self._store, doubt)
            except OSError as error:
                unread[doubt.sha256] = error
                _log.error(f"A file here cannot be read; it stays. {error}", action="audit", path=doubt.name)
                continue
            if not right:
                _log.warning(
                    "A file here was not what it had been; it is served no more and will be pulled again.",
                    action="audit",
                    sha256=doubt.sha256,
                    path=doubt.name,
                )
        self._last_audit, self._unread = now, frozenset(unread)
        if unread:
            raise next(iter(unread.values()))

    def _doubts(self, now: datetime) -> list[audit.Doubt]:
        wanted = self.belief.manifest.files() if self.belief.manifest else {}
        places = list(audit.places(self._root, wanted.items(), self.belief.tree))
        due = due_since({place.sha256 for place in places}, self._last_audit, now) | self._unread
        return audit.doubts(self._store, places, due)

    async def _pull(self, manifest: Manifest, went: Round, away: BootferryError | None) -> None:
        """Fetch what is missing, unless something is `away`, region or disk: then each missing file lacks that."""
        await asyncio.to_thread(self._measure, went)
        missing = diff(manifest, self.belief.held)
        if away is not None:
            for sha256, _ in missing:
                went.miss(sha256, away)
        elif missing:
            await self._fetch(manifest, missing, went)

    async def _fetch(self, manifest: Manifest, missing: list[tuple[Sha256, int]], went: Round) -> None:
        _log.info("Pulling files.", action="pull", files=len(missing), bytes=self.belief.bytes_left)
        if self.belief.bytes_left > self.belief.bytes_free:
            # What nothing names any more is kept for a while out of courtesy only: it makes room first.
            await asyncio.to_thread(self._prune, grace_s=0.0)
        missing, refused = await asyncio.to_thread(fitting, manifest, missing, self._store)
        for sha256, error in refused.items():
            went.miss(sha256, error)
        done = asyncio.Event()
        watch = asyncio.create_task(self._while_pulling(manifest, went, done))
        try:
            async with asyncio.timeout(self._habits.pull_for_s):
                await pull(
                    self._transfer,
                    self._store,
                    self._region.file_url,
                    missing,
                    went.miss,
                    at_once=self._habits.at_once,
                    patience=self._habits.patience,
                    rng=self._rng,
                    arrived=self.belief.pulled,
                )
        except TimeoutError:
            # No fault: what has arrived is kept, and the next poll, which is due now, goes on with the newest manifest.
            _log.info("The pull goes on with the next poll.", action="pull")
        except asyncio.CancelledError:
            watch.cancel()
            raise
        finally:
            # Not cancelled otherwise: two threads must never build a tree at the same time.
            done.set()
            await asyncio.wait([watch])

    async def _while_pulling(self, manifest: Manifest, went: Round, done: asyncio.Event) -> None:
        """Put each image into the tree when it is whole, and tell the region when that changes what it should know."""
        passing: list[BootferryError] = []
        while True:
            try:
                await asyncio.wait_for(done.wait(), self._habits.report_every_s)
            except TimeoutError:
                # What fails here fails again at the end of the poll, and is told there.
                passing.clear()
                await self._attempt(lambda: self._advance(manifest, went), passing)
                await self._attempt(lambda: asyncio.to_thread(self._measure, went), passing)
                if self._reported != (self.belief.knows, self.belief.pending, fault(went.error)):
                    await self._attempt(lambda: self._report(went), passing)
            else:
                return

    async def _advance(self, manifest: Manifest, went: Round) -> None:
        before = self.belief.tree
        after, went.images = await asyncio.to_thread(tree.advance, self._root, self._store, manifest, before)
        self.belief.tree = after
        if after is not None and (before is None or after.name != before.name):
            _log.info("Machines boot from a new tree.", action="swap", tree=after.name, images=len(after.images()))

    def _measure(self, went: Round) -> None:
        """Compare the disk with the manifest; what went wrong so far says why an image is pending."""
        belief, manifest = self.belief, self.belief.manifest
        files = manifest.files() if manifest else {}
        belief.held = frozenset(sha256 for sha256, size in files.items() if self._store.has(sha256, size))
        belief.bytes_left = self._store.bytes_missing(files.items())
        belief.bytes_free = self._store.bytes_free()
        if manifest is not None:
            behind = tree.behind(self._root, manifest, belief.tree)
            belief.faults = {image: told for image, told in went.faults(manifest).items() if image in behind}
            belief.pending = pending(behind, belief.faults)

    def _prune(self, grace_s: float | None = None) -> None:
        if (manifest := self.belief.manifest) is not None:
            self._state.unwanted = prune(
                self._root,
                self._store,
                manifest,
                self.belief.tree,
                self._state.unwanted,
                now=self._now().timestamp(),
                grace_s=self._habits.prune_grace_s if grace_s is None else grace_s,
            )

    # --- what others are told

    async def _report_patiently(self, went: Round) -> None:
        await patiently(lambda: self._report(went), self._habits.patience, self._rng)

    async def _report(self, went: Round) -> None:
        try:
            await self._report_once(went)
        except Replayed as error:
            # aiohttp sends a request again when a connection breaks, and a rack's directory may be a restored one.
            self._state.sequence = error.sequence
            await self._report_once(went)

    async def _report_once(self, went: Round) -> None:
        belief = self.belief
        report = Report(
            sequence=self._next_sequence(),
            version=__version__,
            address=await self._address(),
            knows=belief.knows,
            pending=belief.pending,
            bytes_left=belief.bytes_left,
            bytes_free=belief.bytes_free,
            error=fault(went.error),
        )
        async with self._within(self._habits.report_within_s):
            await self._region.report(report)
        self._reported = report.knows, report.pending, report.error

    def _next_sequence(self) -> int:
        """A greater one than before, milliseconds since 1970 by the region's clock; a wrong clock's is forgotten."""
        state, now_ms = self._state, int(self._region.now().timestamp() * 1000)
        state.sequence = max(state.sequence + 1, now_ms) if state.sequence < now_ms + SEQUENCE_AHEAD // _MS else now_ms
        return state.sequence

    def _put_off(self, refused: list[BootferryError]) -> None:
        """When the report that was `refused`, if any, is sent again: pauses grow, and the region may ask for longer."""
        if not refused or not is_transient(refused[0]):
            self._untaken, self.report_due_s = 0, float("inf")
            return
        self._untaken += 1
        pause_s = self._habits.report_again.pause_s(self._untaken, self._rng)
        self.report_due_s = asyncio.get_running_loop().time() + max(asked_s(refused[0]), pause_s)

    async def _address(self) -> str:
        """Where machines reach this rack, as far as it can know: as `host:port`."""
        everywhere = self._host in ("", "0.0.0.0", "::")  # noqa: S104
        host = await self._region.own_address() if everywhere else self._host
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}" if host else ""

    async def _conclude(self, errors: list[BootferryError]) -> None:
        """Remember how the poll went; the log hears of it when it changed, not every five minutes."""
        error = errors[0] if errors else None
        self.belief.last_error = error
        key = (error.code, str(getattr(error, "url", ""))) if error else None
        if key != self._logged:
            if error:
                _log.warning(str(error), action="poll", code=error.code, errors=len(errors))
            else:
                _log.info("All is well again.", action="poll")
            self._logged = key
        self._told(self.summary())
        self._state.last_poll_at = self._now().timestamp()
        self._state.error_code, self._state.error = (error.code, str(error)) if error else ("", "")
        self._state.faults = {image: (why.code, why.sentence) for image, why in self.belief.faults.items()}
        await asyncio.to_thread(self._state.save, self._root)

    def summary(self) -> str:
        """What machines get, and how the last poll went: in one sentence, for the service manager."""
        belief = self.belief
        images = len(belief.tree.images()) if belief.tree else 0
        shows = f"Shows {images} {'image' if images == 1 else 'images'}"
        if belief.last_poll_at is None:
            return f"{shows}; no poll yet."
        at = f"{belief.last_poll_at:%Y-%m-%d %H:%M} UTC"
        if belief.last_error is not None:
            return f"{shows}; the poll of {at} failed: {belief.last_error}"
        left = f", {spoken_size(belief.bytes_left)} left to pull" if belief.bytes_left else ""
        return f"{shows}; last poll {at}{left}."


def _spoken(order: tuple[int, int]) -> str:
    return f"epoch {order[0]}, serial {order[1]}"
