"""The agent: keeps this disk equal to what the region publishes, and knows what the rack believes, in one place.

A poll asks for the manifest, audits the disk, pulls what is missing, swaps the tree, reports and prunes. It happens
every five minutes counted from the start of the process, at once on `wake`, and soon after the region's event stream
hints that the manifest changed. Whatever fails, the tree that machines boot from stays: only a manifest signed by this
rack's region, not older than the last one, with bytes that were verified, ever changes it.
"""

import asyncio
import random
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import aclosing
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

from rack import audit, tree
from rack.client import Published, Region
from rack.disk import write_whole
from rack.identity import Identity
from rack.pull import diff, pull
from rack.state import State, after_grace
from rack.tree import Tree
from shared import __version__
from shared.digest import Sha256
from shared.download import Transfer
from shared.errors import BootferryError, FetchError, SignatureError, TooOld
from shared.logs import logger
from shared.patience import Patience, is_regions, patiently
from shared.promises import POLL_PERIOD
from shared.signing import fingerprint
from shared.store import Store, disk_error
from shared.wire.envelope import open_envelope
from shared.wire.manifest import MANIFEST_TYPE, Manifest
from shared.wire.report import OldReport

PERIOD_S = POLL_PERIOD.total_seconds()

JITTER_S = 15.0
FIRST_POLL_WITHIN_S = 2.0
HINT_WITHIN_S = 2.0
REPORT_EVERY_S = 5.0
DOUBT_EVERY_S = 10.0

_log = logger(__name__)


@dataclass(slots=True)
class Belief:
    """What this rack believes; whoever shows it reads it here. Sizes in bytes."""

    manifest: Manifest | None = None
    tree: Tree | None = None
    held: frozenset[Sha256] = frozenset()
    bytes_left: int = 0
    bytes_free: int = 0
    last_poll_at: datetime | None = None
    last_error: BootferryError | None = None
    polls: Counter[str] = field(default_factory=Counter)
    """How polls ended: `ok`, or the code of the first error."""


@dataclass(frozen=True, slots=True)
class Habits:
    """How the agent goes about it; tests go faster."""

    at_once: int = 4
    prune_grace_s: float = 3600.0
    patience: Patience = field(default_factory=Patience)
    reconnect: Patience = field(default_factory=lambda: Patience(most_s=60.0))
    hint_within_s: float = HINT_WITHIN_S
    report_every_s: float = REPORT_EVERY_S


def next_beat(tick: int, elapsed_s: float, jitter_s: float) -> tuple[int, float]:
    """The tick after `tick` and when it is due, in seconds since the process began, `elapsed_s` of which are over.

    Ticks stay on the grid of whole periods, so jitter never adds up; those that a long poll has slept through are one.
    """
    following = max(tick + 1, int(elapsed_s // PERIOD_S))
    return following, following * PERIOD_S + jitter_s


class Agent:
    """The agent of one enrolled rack, alone in `root`. `recover` first; then `run`, or `poll` one at a time."""

    def __init__(
        self,
        root: Path,
        store: Store,
        identity: Identity,
        region: Region,
        transfer: Transfer,
        *,
        habits: Habits,
        rng: random.Random,
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
        port: int = 0,
        host: str = "",
        told: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.belief = Belief()
        self._root, self._store, self._identity, self._region, self._transfer = root, store, identity, region, transfer
        self._habits, self._rng, self._now, self._told = habits, rng, now, told
        self._host, self._port = host, port
        self._state = State()
        self._etag = ""
        self._polling = asyncio.Lock()
        self._wake = asyncio.Event()
        self._hinted = (0, 0)
        self._last_audit: datetime | None = None
        self._last_doubt_s = float("-inf")
        self._logged: tuple[str, str] | None = None

    def recover(self) -> None:
        """Believe again what was believed when the last process ended, as far as it verifies. Blocks.

        Raises OSError when the disk cannot be read.
        """
        state, region = State.load(self._root), fingerprint(self._identity.region_key)
        self._state = state if state.region == region else State(region=region, sequence=state.sequence)
        self.belief.tree = tree.load_current(self._root)
        tree.clear_unfinished(self._root)
        try:
            manifest = self._opened((self._root / "manifest.json").read_bytes())
        except FileNotFoundError:
            return
        except BootferryError as error:
            _log.warning("The manifest kept here is not used.", action="recover", error=str(error), code=error.code)
            return
        self.belief.manifest = manifest
        self._state.floor = max(self._state.floor, manifest.order)
        self._measure()

    async def run(self) -> None:
        """Poll until cancelled. Partial files stay and are resumed."""
        async with asyncio.TaskGroup() as tasks:
            tasks.create_task(self._beat())
            tasks.create_task(self._listen())

    def wake(self) -> None:
        """Poll at once; during a poll, once more right after it."""
        self._wake.set()

    def doubt(self) -> None:
        """A machine asked for something that is not as it was verified: look soon, but not for every request."""
        if time.monotonic() - self._last_doubt_s >= DOUBT_EVERY_S:
            self._last_doubt_s = time.monotonic()
            self.wake()

    async def poll(self) -> None:
        """One poll, from the manifest to the pruning. Never raises: what went wrong is in `belief.last_error`."""
        async with self._polling:
            errors: list[BootferryError] = []
            await self._attempt(self._ask, errors)
            reachable = not any(isinstance(error, FetchError) or is_regions(error) for error in errors)
            await self._attempt(self._audit, errors)
            if (manifest := self.belief.manifest) is not None:
                if reachable:
                    await self._attempt(lambda: self._pull(manifest, errors), errors)
                await self._attempt(lambda: self._advance(manifest, errors), errors)
            self.belief.last_error = errors[0] if errors else None
            self.belief.last_poll_at = self._now()
            if reachable:
                await self._attempt(self._report, errors)
            await self._attempt(lambda: asyncio.to_thread(self._prune), errors)
            await self._attempt(lambda: self._conclude(errors), errors)

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
        published = await patiently(lambda: self._region.manifest(self._etag), self._habits.patience, self._rng)
        if published is not None:
            await asyncio.to_thread(self._accept, published)

    def _accept(self, published: Published) -> None:
        manifest = self._opened(published.envelope)
        known = self.belief.manifest
        if known is None or known != manifest:
            write_whole(self._root / "manifest.json", published.envelope)
            _log.info(
                "The region publishes a new manifest.",
                action="manifest",
                epoch=manifest.epoch,
                serial=manifest.serial,
                files=len(manifest.files()),
            )
        self._state.floor = manifest.order
        self._state.save(self._root)
        self.belief.manifest, self._etag = manifest, published.etag

    def _opened(self, envelope: bytes) -> Manifest:
        """The manifest this rack's region has signed, not older than the last one (I2, I3)."""
        payload = open_envelope(
            envelope, MANIFEST_TYPE, [self._identity.region_key], origin=f"{self._identity.region_url}'s manifest"
        )
        manifest = Manifest.parse(payload)
        if manifest.order < self._state.floor:
            raise TooOld("The region's manifest", _spoken(manifest.order), _spoken(self._state.floor))
        return manifest

    # --- the disk

    async def _audit(self) -> None:
        now = self._now()
        found = await asyncio.to_thread(self._doubts, now)
        for doubt in found:
            if not await asyncio.to_thread(audit.settle, doubt):
                _log.warning(
                    "A file here was not what it had been; it is served no more and will be pulled again.",
                    action="audit",
                    sha256=doubt.sha256,
                    path=str(doubt.paths[0].relative_to(self._root)),
                )
        self._last_audit = now

    def _doubts(self, now: datetime) -> list[audit.Doubt]:
        wanted = self.belief.manifest.files() if self.belief.manifest else {}
        places = list(audit.places(self._root, self._store, wanted.items(), self.belief.tree))
        due = audit.due_today({place.sha256 for place in places}, self._last_audit, now)
        return audit.doubts(places, due)

    async def _pull(self, manifest: Manifest, errors: list[BootferryError]) -> None:
        await asyncio.to_thread(self._measure)
        missing = diff(manifest, self.belief.held)
        if not missing:
            return
        _log.info("Pulling files.", action="pull", files=len(missing), bytes=self.belief.bytes_left)
        if self.belief.bytes_left > self.belief.bytes_free:
            # What nothing names any more is kept for a while out of courtesy only: it makes room first.
            await asyncio.to_thread(self._prune, grace_s=0.0)
        done = asyncio.Event()
        watch = asyncio.create_task(self._while_pulling(manifest, done))
        try:
            errors += await pull(
                self._transfer,
                self._store,
                self._region.file_url,
                missing,
                at_once=self._habits.at_once,
                patience=self._habits.patience,
                rng=self._rng,
            )
        except asyncio.CancelledError:
            watch.cancel()
            raise
        finally:
            # Not cancelled otherwise: two threads must never build a tree at the same time.
            done.set()
            await asyncio.wait([watch])

    async def _while_pulling(self, manifest: Manifest, done: asyncio.Event) -> None:
        """Put each image into the tree when it is whole, and tell the region how far the pull is."""
        passing: list[BootferryError] = []
        while True:
            try:
                await asyncio.wait_for(done.wait(), self._habits.report_every_s)
            except TimeoutError:
                # What fails here fails again at the end of the poll, and is told there.
                passing.clear()
                await self._attempt(lambda: self._advance(manifest, passing), passing)
                await self._attempt(self._report, passing)
            else:
                return

    async def _advance(self, manifest: Manifest, errors: list[BootferryError]) -> None:
        before = self.belief.tree
        after, stale = await asyncio.to_thread(tree.advance, self._root, self._store, manifest, before)
        errors += stale
        self.belief.tree = after
        await asyncio.to_thread(self._measure)
        if after is not None and after is not before:
            _log.info("Machines boot from a new tree.", action="swap", tree=after.name, images=len(after.images()))

    def _measure(self) -> None:
        files = self.belief.manifest.files() if self.belief.manifest else {}
        self.belief.held = frozenset(sha256 for sha256, size in files.items() if self._store.has(sha256, size))
        self.belief.bytes_left = self._store.bytes_missing(files.items())
        self.belief.bytes_free = self._store.bytes_free()

    def _prune(self, grace_s: float | None = None) -> None:
        """Remove what neither the manifest nor the tree names, once it has been so for the grace."""
        manifest, current = self.belief.manifest, self.belief.tree
        if manifest is None:
            return
        wanted: set[str] = set(manifest.files())
        shown = {name.archive or name.sha256 for name in current.names.values()} if current else set()
        found = {f"file:{sha256}" for sha256, _ in self._store.held() if sha256 not in wanted | shown}
        found |= {f"unpacked:{name}" for name in tree.archives_on_disk(self._root) if name not in wanted | shown}
        found |= {f"tree:{name}" for name in tree.trees_on_disk(self._root) if not current or name != current.name}
        grace = self._habits.prune_grace_s if grace_s is None else grace_s
        due, self._state.unwanted = after_grace(found, self._state.unwanted, self._now().timestamp(), grace)
        for thing in due:
            kind, _, name = thing.partition(":")
            if kind == "file":
                self._store.remove(Sha256(name))
            elif kind == "tree":
                tree.drop_tree(self._root, name)
            else:
                tree.drop_archive(self._root, name)
        self._store.clear_incoming(Sha256(name) for name in wanted)
        if due:
            _log.info("Files that nothing names any more were removed.", action="prune", things=len(due))

    # --- what others are told

    async def _report(self) -> None:
        belief, state = self.belief, self._state
        state.sequence = max(state.sequence + 1, int(self._now().timestamp() * 1000))
        error = belief.last_error
        epoch, serial = belief.tree.order if belief.tree else (0, 0)
        await self._region.report(
            OldReport(
                sequence=state.sequence,
                version=__version__,
                epoch=epoch,
                serial=serial,
                held=belief.held,
                bytes_left=belief.bytes_left,
                bytes_free=belief.bytes_free,
                error_code=error.code if error else "",
                error=str(error)[:1000] if error else "",
                address=await self._address(),
            )
        )

    async def _address(self) -> str:
        """Where machines reach this rack, as far as it can know: as `host:port`."""
        everywhere = self._host in ("", "0.0.0.0", "::")  # noqa: S104
        host = await self._region.own_address() if everywhere else self._host
        return f"[{host}]:{self._port}" if ":" in host else f"{host}:{self._port}" if host else ""

    async def _conclude(self, errors: list[BootferryError]) -> None:
        """Remember how the poll went; the log hears of it when it changed, not every five minutes."""
        error = errors[0] if errors else None
        self.belief.last_error = error
        self.belief.polls[error.code if error else "ok"] += 1
        key = (error.code, str(getattr(error, "url", ""))) if error else None
        if key != self._logged:
            if error:
                _log.warning(str(error), action="poll", code=error.code, errors=len(errors))
            else:
                _log.info("All is well again.", action="poll")
            self._logged = key
        self._told(str(error) if error else self._summary())
        self._state.last_poll_at = self._now().timestamp()
        self._state.error_code, self._state.error = (error.code, str(error)) if error else ("", "")
        await asyncio.to_thread(self._state.save, self._root)

    def _summary(self) -> str:
        images = len(self.belief.tree.images()) if self.belief.tree else 0
        return f"serves {images} images, {self.belief.bytes_left} bytes left to pull"

    # --- when

    async def _beat(self) -> None:
        loop = asyncio.get_running_loop()
        began = loop.time()
        tick, due = 0, self._rng.uniform(0, FIRST_POLL_WITHIN_S)
        while True:
            try:
                await asyncio.wait_for(self._wake.wait(), max(0.0, began + due - loop.time()))
            except TimeoutError:
                tick, due = next_beat(tick, loop.time() - began, self._rng.uniform(-JITTER_S, JITTER_S))
            self._wake.clear()
            await self.poll()

    async def _listen(self) -> None:
        loop = asyncio.get_running_loop()
        failures = 0
        while True:
            try:
                async with aclosing(self._region.hints()) as hints:
                    fresh = True
                    async for order in hints:
                        if failures:
                            _log.info("The region's event stream is back.", action="listen")
                        failures = 0
                        if self._worth_asking(order, fresh=fresh):
                            loop.call_later(self._rng.uniform(0, self._habits.hint_within_s), self.wake)
                        fresh = False
                why = "it ended"
            except BootferryError as error:
                why = str(error)
            except Exception as error:
                # Haste is all this task gives; no mistake in it may end the process (I4).
                why = repr(error)
            if not failures:
                _log.info(
                    "The region's event stream is cut; polling every five minutes goes on.", action="listen", why=why
                )
            failures += 1
            await asyncio.sleep(self._habits.reconnect.pause_s(failures, self._rng))

    def _worth_asking(self, order: tuple[int, int], *, fresh: bool) -> bool:
        """A newer manifest, or a region that is back after a poll failed, or while one may be failing.

        Each hint counts once: it is unsigned, and whoever can fake it must not make this rack poll without end.
        """
        if fresh:
            self._hinted = (0, 0)
        newer = order > max(self._state.floor, self._hinted)
        self._hinted = max(order, self._hinted)
        failed = isinstance(self.belief.last_error, FetchError | SignatureError)
        return newer or (fresh and (failed or self._polling.locked()))


def _spoken(order: tuple[int, int]) -> str:
    return f"epoch {order[0]}, serial {order[1]}"
