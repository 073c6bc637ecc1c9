"""Telling systemd how we are: the notify protocol of sd_notify(3), without its library."""

import os
import re
import socket
from collections.abc import Mapping

FIRST_HANDED_OVER = 3
"""The lowest descriptor of a socket that the service manager hands over (SD_LISTEN_FDS_START)."""


def notify(state: str, environ: Mapping[str, str] = os.environ) -> None:
    """Tell the service manager `state` (`READY=1`, `STOPPING=1`, `WATCHDOG=1` …); silent where there is none."""
    address = environ.get("NOTIFY_SOCKET", "")
    if address[:1] not in ("/", "@"):
        return
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as channel:
        try:
            channel.sendto(state.encode(), address.replace("@", "\0", 1) if address[0] == "@" else address)
        except OSError:
            # A service manager that went away is no reason to stop serving.
            return


def watchdog_interval_s(environ: Mapping[str, str] = os.environ) -> float | None:
    """How often to send `WATCHDOG=1` (half the time systemd waits), or None where no watchdog was asked for."""
    microseconds = environ.get("WATCHDOG_USEC", "")
    if not re.fullmatch("[1-9][0-9]*", microseconds) or environ.get("WATCHDOG_PID", str(os.getpid())) != str(
        os.getpid()
    ):
        return None
    return int(microseconds) / 2_000_000


def handed_over(port: int, environ: Mapping[str, str] = os.environ) -> socket.socket | None:
    """The socket that listens at this TCP port and that the service manager has opened for us (sd_listen_fds(3)).

    So a process that may not open a port below 1024 serves there, and no connection is refused while it starts again.
    None where there is no such socket.
    """
    count = environ.get("LISTEN_FDS", "")
    if environ.get("LISTEN_PID") != str(os.getpid()) or not re.fullmatch("[1-9][0-9]?", count):
        return None
    for descriptor in range(FIRST_HANDED_OVER, FIRST_HANDED_OVER + int(count)):
        try:
            # A copy, which the programs that we start do not inherit.
            found = socket.socket(fileno=os.dup(descriptor))
        except OSError:
            continue
        if found.family in (socket.AF_INET, socket.AF_INET6) and found.getsockname()[1] == port:
            return found
        found.close()
    return None
