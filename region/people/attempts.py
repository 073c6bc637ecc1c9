"""Failed log-ins, counted by address in this process, so that nobody can try secrets without end. Pure."""

from collections import deque

from shared.errors import TooManyAttempts

ATTEMPTS = 10
ATTEMPTS_WINDOW_S = 60.0
MAX_ADDRESSES = 10_000


class Attempts:
    """ATTEMPTS failures within ATTEMPTS_WINDOW_S, then no more for a while. `now` counts seconds, monotonically."""

    def __init__(self) -> None:
        self._failed: dict[str, deque[float]] = {}

    def require_another(self, address: str, now: float) -> None:
        """Raises TooManyAttempts unless this address may try once more."""
        failed = self._failed.get(address)
        if failed is None:
            return
        while failed and failed[0] <= now - ATTEMPTS_WINDOW_S:
            failed.popleft()
        if len(failed) >= ATTEMPTS:
            raise TooManyAttempts(int(failed[0] + ATTEMPTS_WINDOW_S - now) + 1)

    def note_failed(self, address: str, now: float) -> bool:
        """One more log-in from this address has failed. True if that was the last one it had."""
        if len(self._failed) >= MAX_ADDRESSES:
            self._failed.clear()
        failed = self._failed.setdefault(address, deque())
        failed.append(now)
        return len(failed) == ATTEMPTS
