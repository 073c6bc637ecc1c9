"""Patience: which failures pass by themselves, and how long to wait before trying again. One policy for both services.

- Only a FetchError that may be gone in a moment is tried again (`is_transient`); bytes that are wrong stay wrong.
- Pauses double, with a random part, so that all the racks of a region that comes back do not ask in the same moment.
- Who answers `Retry-After` is not asked before. If that is longer than patience lasts, the failure is final for now:
  the next poll or sync is the next attempt.

Whoever has a loop of their own asks `Patience.wait_s` after each failure:

    wait_s = patience.wait_s(error, failures, rng)
    if wait_s is None:
        raise error
    await asyncio.sleep(wait_s)
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar

from shared.errors import (
    AddressForbidden,
    BootferryError,
    ConnectionRefused,
    FetchError,
    HttpStatus,
    NameNotFound,
    ProxyFailed,
    RedirectRefused,
    TimedOut,
    TlsFailed,
    TooLarge,
    Unauthenticated,
    WrongDigest,
    WrongSize,
)

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Patience:
    """At most `attempts` tries, with pauses that begin at `first_s` seconds and double up to `most_s`.

    A pause that the other side asks for may be as long as `asked_most_s`.
    """

    attempts: int = 4
    first_s: float = 1.0
    most_s: float = 10.0
    asked_most_s: float = 30.0

    def pause_s(self, failures: int, rng: random.Random) -> float:
        """Seconds to wait after so many failures in a row: between half and all of the doubled pause."""
        return min(self.most_s, self.first_s * 2.0 ** min(failures - 1, 32)) * rng.uniform(0.5, 1.0)

    def wait_s(self, error: BootferryError, failures: int, rng: random.Random) -> float | None:
        """Seconds to wait before the next try, after so many failures in a row, `error` the last; None: do not try."""
        asked = asked_s(error)
        if failures >= self.attempts or not is_transient(error) or asked > self.asked_most_s:
            return None
        return max(asked, self.pause_s(failures, rng))


def asked_s(error: BootferryError) -> float:
    """How many seconds the other side asks to be left alone for; 0 where it does not say."""
    return error.retry_after if isinstance(error, HttpStatus) else 0.0


def is_transient(error: BootferryError) -> bool:
    """True if the same request may well succeed in a moment."""
    match error:
        case HttpStatus():
            return error.status in (408, 425, 429) or error.status >= 500
        case WrongDigest() | WrongSize() | TooLarge() | AddressForbidden() | RedirectRefused() | TlsFailed():
            return False
        case _:
            return isinstance(error, FetchError)


def is_regions(error: BootferryError) -> bool:
    """True if the failure is about the region or the way to it, so that no other file would fare better."""
    match error:
        case NameNotFound() | ConnectionRefused() | TimedOut() | TlsFailed() | ProxyFailed() | AddressForbidden():
            return True
        case HttpStatus():
            return error.status in (401, 403, 429, 502, 503, 504)
        case _:
            return isinstance(error, Unauthenticated)


async def patiently(attempt: Callable[[], Awaitable[T]], patience: Patience, rng: random.Random) -> T:
    """What `attempt` returns, tried again after transient failures. Raises the last FetchError, or the first other."""
    failures = 0
    while True:
        try:
            return await attempt()
        except FetchError as error:
            failures += 1
            wait_s = patience.wait_s(error, failures, rng)
            if wait_s is None:
                raise
        await asyncio.sleep(wait_s)
