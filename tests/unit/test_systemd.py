"""What the service manager hears, over a real socket."""

import fcntl
import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from shared.systemd import notify, watchdog_interval_s

ROOT = Path(__file__).parents[2]


@contextmanager
def manager(address: str) -> Iterator[socket.socket]:
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as listening:
        listening.bind(address)
        listening.settimeout(5)
        yield listening


def test_a_state_arrives_at_a_path(tmp_path: Path) -> None:
    address = str(tmp_path / "notify")
    with manager(address) as listening:
        notify("READY=1\nSTATUS=Serving.", {"NOTIFY_SOCKET": address})
        assert listening.recv(100) == b"READY=1\nSTATUS=Serving."


def test_a_state_arrives_at_an_abstract_address() -> None:
    name = f"bootferry-test-{os.getpid()}"
    with manager(f"\0{name}") as listening:
        notify("STOPPING=1", {"NOTIFY_SOCKET": f"@{name}"})
        assert listening.recv(100) == b"STOPPING=1"


def test_the_environment_is_asked_by_default(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "notify")
    monkeypatch.setenv("NOTIFY_SOCKET", address)
    with manager(address) as listening:
        notify("WATCHDOG=1")
        assert listening.recv(100) == b"WATCHDOG=1"


@pytest.mark.parametrize(
    "environ",
    [
        pytest.param({}, id="no-manager"),
        pytest.param({"NOTIFY_SOCKET": ""}, id="empty"),
        pytest.param({"NOTIFY_SOCKET": "/nonexistent/notify"}, id="gone"),
        pytest.param({"NOTIFY_SOCKET": "/" + "x" * 200}, id="longer-than-an-address"),
        pytest.param({"NOTIFY_SOCKET": "@nobody-listens-here"}, id="abstract-and-gone"),
        pytest.param({"NOTIFY_SOCKET": "vsock:2:1234"}, id="another-kind"),
        pytest.param({"NOTIFY_SOCKET": "relative"}, id="relative"),
    ],
)
def test_without_a_listener_nothing_happens(environ: dict[str, str]) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    notify("READY=1", environ)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


@pytest.mark.parametrize(
    ("environ", "interval_s"),
    [
        pytest.param({}, None, id="none"),
        pytest.param({"WATCHDOG_USEC": "30000000"}, 15.0, id="half-the-time"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": str(os.getpid())}, 15.0, id="for-this-process"),
        pytest.param({"WATCHDOG_USEC": "30000000", "WATCHDOG_PID": "1"}, None, id="for-another-process"),
        pytest.param({"WATCHDOG_USEC": ""}, None, id="empty"),
        pytest.param({"WATCHDOG_USEC": "-1"}, None, id="negative"),
        pytest.param({"WATCHDOG_USEC": "soon"}, None, id="no-number"),
        pytest.param({"WATCHDOG_USEC": "²"}, None, id="superscript"),
        # sd_watchdog_enabled(3) refuses it too; as an interval it would be a busy loop.
        pytest.param({"WATCHDOG_USEC": "0"}, None, id="zero"),
    ],
)
def test_watchdog(environ: dict[str, str], interval_s: float | None) -> None:
    assert watchdog_interval_s(environ) == interval_s


HAND_OVER = """
import os, socket, sys
from shared.systemd import handed_over
os.environ["LISTEN_PID"] = sys.argv[2] or str(os.getpid())
found = handed_over(int(sys.argv[1]))
print(found and (found.getsockname()[1], found.get_inheritable()))
"""


def hand_over(port: int, *sockets: socket.socket, pid: str = "", count: str = "") -> str:
    """What a process says of the socket at `port` that it is started with these, as systemd would."""
    moved = [fcntl.fcntl(given.fileno(), fcntl.F_DUPFD, 20) for given in sockets]
    # The shell moves them to where systemd puts them.
    redirect = " ".join(f"{3 + number}<&{descriptor}" for number, descriptor in enumerate(moved))
    try:
        ended = subprocess.run(
            ["bash", "-c", f'exec {redirect}; exec "$@"', "-", sys.executable, "-c", HAND_OVER, str(port), pid],
            env=os.environ | {"LISTEN_FDS": count or str(len(sockets)), "PYTHONPATH": str(ROOT)},
            pass_fds=moved,
            capture_output=True,
            text=True,
            check=True,
        )
    finally:
        for descriptor in moved:
            os.close(descriptor)
    return ended.stdout.strip()


def test_a_socket_that_systemd_opened_is_found_by_its_port() -> None:
    with (
        socket.socket(socket.AF_UNIX) as strange,
        socket.create_server(("127.0.0.1", 0)) as other,
        socket.create_server(("127.0.0.1", 0)) as wanted,
    ):
        port = wanted.getsockname()[1]
        assert hand_over(port, strange, other, wanted) == f"({port}, False)"
        assert hand_over(port, other) == "None"


def test_a_socket_of_another_process_and_nonsense_are_left_alone() -> None:
    with socket.create_server(("127.0.0.1", 0)) as wanted:
        port = wanted.getsockname()[1]
        assert hand_over(port, wanted, pid="1") == "None"
        for count in ("0", "-1", "x", "100"):
            assert hand_over(port, wanted, count=count) == "None"
