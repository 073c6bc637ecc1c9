"""What the service manager is told of this process: `systemctl status` shows it.

- A region that waits for its database has started: it answers, and says why it waits. So it is READY then, and nobody
  ends it for having waited long. `systemctl start` need not wait for the database either.
- Until then it asks for more time as it goes, for a migration may take long.
"""

from collections.abc import Callable
from datetime import datetime

STARTING_S = 10.0
"""How often a process that starts asks for more time."""

MORE_TIME = "EXTEND_TIMEOUT_USEC=60000000"
"""sd_notify(3): a minute from now."""


class Standing:
    """How this process stands. `notify` tells the service manager (`shared.systemd`)."""

    def __init__(self, notify: Callable[[str], None]) -> None:
        self._notify = notify
        self._ready = self._is_up = False
        self._away = ""
        self._imported = ""

    def database(self, why: str) -> None:
        """The database is away because of `why`, which begins a sentence; "" when it is well again."""
        self._away = why
        self._up()

    def ready(self) -> None:
        """Everything works."""
        self._ready, self._away = True, ""
        self._up()

    def imported(self, state: str, now: datetime) -> None:
        """An import has ended in the `state`: `succeeded`, `failed` or `cancelled`."""
        outcome = {"succeeded": "last import", "cancelled": "last import stopped"}.get(state, "last import failed")
        self._imported = f"{outcome} {now:%Y-%m-%d %H:%M} UTC"
        self._notify(f"STATUS={self.sentence}")

    def alive(self) -> None:
        """The loop turns."""
        self._notify("WATCHDOG=1" if self._is_up else f"WATCHDOG=1\n{MORE_TIME}")

    @property
    def sentence(self) -> str:
        """The state in one sentence."""
        if self._away:
            return f"Waits for the database: {self._away}."
        if not self._ready:
            return "Starts."
        return f"Ready; {self._imported}." if self._imported else "Ready."

    def _up(self) -> None:
        self._is_up = True
        self._notify(f"READY=1\nSTATUS={self.sentence}")
