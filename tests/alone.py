"""Commands in a network of their own, which has a loopback and leads nowhere: what they ask for cannot leave.

`alone(command)` is what to start; `python -m tests.alone command …` is its inner half.
"""

import fcntl
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Sequence

_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1


def alone(command: Sequence[str]) -> list[str]:
    """The command that runs `command` in a network of its own. Needs `tests` on Python's path."""
    return [*_unshare(), sys.executable, "-m", "tests.alone", *command]


def is_possible() -> bool:
    """True if this user may make a network of its own here."""
    try:
        return subprocess.run([*_unshare(), "true"], check=False, capture_output=True).returncode == 0
    except OSError:
        return False


def _unshare() -> list[str]:
    if os.geteuid() == 0:
        return ["unshare", "--net"]
    return ["unshare", "--net", "--map-current-user", "--keep-caps"]


def _bring_loopback_up() -> None:
    others = [name for _, name in socket.if_nameindex() if name != "lo"]
    if others:
        raise RuntimeError(f"This network is not one of its own: it has {', '.join(others)}.")
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as control:
        asked = struct.pack("16sH14x", b"lo", 0)
        [flags] = struct.unpack("16xH14x", fcntl.ioctl(control, _SIOCGIFFLAGS, asked))
        fcntl.ioctl(control, _SIOCSIFFLAGS, struct.pack("16sH14x", b"lo", flags | _IFF_UP))


if __name__ == "__main__":
    _bring_loopback_up()
    os.execvp(sys.argv[1], sys.argv[1:])  # noqa: S606
