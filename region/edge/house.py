"""Who is in the house: the connections of strangers, limited in number and in what they make us hold.

A connection is a stranger's until one of its requests was authenticated; after that it does not count.

- All strangers together, those of one address, and the bytes of heads that strangers have not sent to their end, each
  have a limit. The one of an address is wide: a thousand racks may stand behind one, and each begins as a stranger.
- When a limit is passed, the connection that has been silent longest is closed, never the newcomer. Silent is who asks
  nothing: idle, with half a head, with half a body, or not taking its answer. Bytes that trickle in are silence too.
- A TLS handshake is the dearest thing a stranger can ask for: there is a rate of them, in all and for one address, and
  who comes above it is refused. While it lasts the connection is a silent one.
- Addresses of IPv6 count by their /64, which is what one customer has. What comes through a trusted proxy counts in
  the total alone.
"""

import contextlib
import resource
import time
from collections import Counter, OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from region.edge.rates import Rate, Rates
from shared.logs import logger
from shared.networks import Network, address_key, within

_TOLD_EVERY_S = 60.0
_MANY_FILES = 2**20

log = logger(__name__)

_HANDSHAKES = Rate(2_000, 200, burst_of_one_address=1_500, each_second_of_one_address=150)


@dataclass(frozen=True, slots=True)
class HouseLimits:
    """How many strangers there may be."""

    connections: int = 2_000
    of_one_address: int = 1_500
    held_bytes: int = 4 * 1024 * 1024
    handshakes: Rate = _HANDSHAKES


@dataclass(slots=True, eq=False)
class Visitor:
    """One connection. `close` ends it at once."""

    house: "House"
    address: str
    close: Callable[[], None]
    silent: bool = True
    held_bytes: int = 0
    counted: bool = field(default=False, init=False)

    def is_busy(self) -> None:
        """Its request is whole, or its answer goes out."""
        self.silent = False
        self.house.forget_silence(self)

    def is_silent(self) -> None:
        """It is its turn to say or to take something."""
        if not self.silent:
            self.silent = True
            self.house.note_silence(self)

    def holds(self, count: int) -> None:
        """It has sent so many bytes of a head, which is not whole."""
        self.house.note_bytes(self, count)

    def is_known(self) -> None:
        """One of its requests was authenticated."""
        self.house.leave(self)


class House:
    """The strangers of one server."""

    def __init__(
        self,
        limits: HouseLimits | None = None,
        proxies: Sequence[Network] = (),
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._limits = limits or HouseLimits()
        self._proxies = proxies
        self._clock = clock
        self._handshakes = Rates(self._limits.handshakes)
        self._silent: OrderedDict[Visitor, None] = OrderedDict()
        self._silent_at: dict[str, OrderedDict[Visitor, None]] = {}
        self._holding: OrderedDict[Visitor, None] = OrderedDict()
        self._at: Counter[str] = Counter()
        self._held_bytes = 0
        self._told_at = -_TOLD_EVERY_S
        self.closed: Counter[str] = Counter()
        """Connections closed, or refused, because a limit was passed, by what was limited."""

    @property
    def strangers(self) -> int:
        """Connections that count."""
        return self._at.total()

    def enter(self, host: str, close: Callable[[], None]) -> Visitor:
        """A new connection from `host`. Others may be closed for it."""
        visitor = Visitor(self, "" if within(host, self._proxies) else address_key(host), close)
        visitor.counted = True
        self._at[visitor.address] += 1
        self.note_silence(visitor)
        while self.strangers > self._limits.connections and self._close_first(self._silent, visitor, "connections"):
            pass
        of_address = self._silent_at[visitor.address]
        while (
            visitor.address
            and self._at[visitor.address] > self._limits.of_one_address
            and self._close_first(of_address, visitor, "address")
        ):
            pass
        return visitor

    def shake_hands(self, host: str, close: Callable[[], None]) -> Callable[[], None] | None:
        """A new connection from `host`, before its TLS handshake; None if it is refused.

        What it answers is to be called when the handshake is over. The connection enters once more then.
        """
        if not within(host, self._proxies) and not self._handshakes.take(address_key(host), self._clock()):
            self.closed["handshakes"] += 1
            return None
        visitor = self.enter(host, close)
        return lambda: self.leave(visitor)

    def leave(self, visitor: Visitor) -> None:
        """It counts no longer: it was authenticated, or has gone."""
        if not visitor.counted:
            return
        self.forget_silence(visitor)
        # Not by `note_bytes`, which closes others: of thousands that go at once, each would go inside the one before.
        self._held_bytes -= visitor.held_bytes
        visitor.held_bytes = 0
        self._holding.pop(visitor, None)
        visitor.counted = False
        self._at[visitor.address] -= 1
        if not self._at[visitor.address]:
            del self._at[visitor.address]
            self._silent_at.pop(visitor.address, None)

    def note_silence(self, visitor: Visitor) -> None:
        """It is silent now."""
        if visitor.counted:
            self._silent[visitor] = None
            self._silent_at.setdefault(visitor.address, OrderedDict())[visitor] = None

    def forget_silence(self, visitor: Visitor) -> None:
        """It is silent no longer."""
        if visitor.counted:
            self._silent.pop(visitor, None)
            self._silent_at.get(visitor.address, OrderedDict()).pop(visitor, None)

    def note_bytes(self, visitor: Visitor, count: int) -> None:
        """It makes us hold `count` bytes. Others, or it itself, may be closed for that."""
        if not visitor.counted:
            return
        self._held_bytes += count - visitor.held_bytes
        visitor.held_bytes = count
        if count:
            self._holding.setdefault(visitor)
        else:
            self._holding.pop(visitor, None)
        while self._held_bytes > self._limits.held_bytes and self._close_first(self._holding, None, "bytes"):
            pass

    def _close_first(self, among: "OrderedDict[Visitor, None]", newcomer: Visitor | None, limit: str) -> bool:
        """Close the first of them. True if there was one beside the newcomer."""
        first = next(iter(among), None)
        if first is None or first is newcomer:
            return False
        self.leave(first)
        self.closed[limit] += 1
        first.close()
        if time.monotonic() - self._told_at >= _TOLD_EVERY_S:
            self._told_at = time.monotonic()
            log.warning(
                "The house is full: silent connections of strangers are closed, the oldest first.",
                action="admit",
                limit=limit,
                client=first.address or "a proxy's",
                strangers=self.strangers,
            )
        return True


def raise_open_files() -> int:
    """How many files this process may have open, raised to what the system grants it."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if soft != hard:
        with contextlib.suppress(ValueError, OSError):
            resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return _MANY_FILES if soft == resource.RLIM_INFINITY else soft
