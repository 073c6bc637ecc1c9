"""The supervisor: order, last words, and that nothing is left whoever is killed."""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from deploy.local.child import command
from deploy.local.failure import Failure
from deploy.local.guardian import watched
from deploy.local.printer import printing
from deploy.local.supervisor import Service, Supervisor, guardian

CHECKOUT = Path(__file__).parents[2]


def eventually(holds: Callable[[], bool], seconds: float = 10.0) -> bool:
    deadline = time.monotonic() + seconds
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.02)
    return holds()


def lives(pid: int) -> bool:
    """Whether the process runs; a zombie nobody has waited for does not."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def shell(
    name: str, script: str, *, is_ready: Callable[[int], bool] = lambda _pid: True, patience_s: float = 5.0
) -> Service:
    """A service that is a shell script."""
    argv = command(["/bin/sh", "-c", script], death_signal=signal.SIGKILL)
    return Service(name, argv, dict(os.environ), is_ready, stop_steps=((signal.SIGTERM, patience_s),))


async def test_services_stop_in_the_opposite_order_and_are_heard_to_the_end() -> None:
    said: list[str] = []

    def polite(name: str) -> Service:
        script = "trap 'echo bye; exit 0' TERM; echo ready; while :; do sleep 0.05; done"
        return shell(name, script, is_ready=lambda _pid: f"{name}: ready" in said)

    with guardian() as line_to_guardian:
        supervisor = Supervisor(line_to_guardian, lambda name, line: said.append(f"{name}: {line}"))
        await supervisor.start(polite("database"))
        await supervisor.start(polite("region"))
        await supervisor.start(polite("rack"))
        await supervisor.stop()
    assert said[-3:] == ["rack: bye", "region: bye", "database: bye"]


async def test_a_service_that_does_not_listen_is_killed_with_all_it_started() -> None:
    said: list[str] = []
    script = "trap '' TERM; sleep 600 & echo $! $$; wait"
    with guardian() as line_to_guardian:
        supervisor = Supervisor(line_to_guardian, lambda _name, line: said.append(line))
        await supervisor.start(shell("deaf", script, is_ready=lambda _pid: bool(said), patience_s=0.2))
        await supervisor.stop()
    assert eventually(lambda: not any(lives(int(pid)) for pid in said[0].split()))


async def test_a_service_that_ends_is_named_with_its_last_words() -> None:
    with guardian() as line_to_guardian:
        supervisor = Supervisor(line_to_guardian, lambda _name, _line: None)
        await supervisor.start(shell("region", "echo one; echo no space left >&2; exit 3"))
        failure = await supervisor.failure()
        await supervisor.stop()
    assert str(failure) == (
        "region ended with exit status 3; the others are stopped too. The last it said:\n  one\n  no space left"
    )


async def test_a_service_that_is_killed_is_noticed_though_its_child_holds_the_pipe() -> None:
    with guardian() as line_to_guardian:
        supervisor = Supervisor(line_to_guardian, lambda _name, _line: None)
        await supervisor.start(shell("region", "sleep 600 & kill -9 $$"))
        failure = await asyncio.wait_for(supervisor.failure(), 5)
        await supervisor.stop()
    assert str(failure).startswith("region was ended by SIGKILL;")


async def test_kill_makes_stop_short() -> None:
    with guardian() as line_to_guardian:
        supervisor = Supervisor(line_to_guardian, lambda _name, _line: None)
        await supervisor.start(shell("deaf", "trap '' TERM; while :; do sleep 0.05; done", patience_s=60.0))
        stopping = asyncio.create_task(supervisor.stop())
        await asyncio.sleep(0)
        supervisor.kill()
        await asyncio.wait_for(stopping, 5)


SUPERVISE = """
import asyncio, os, signal
from deploy.local.child import command
from deploy.local.supervisor import Service, Supervisor, guardian

async def main(line_to_guardian):
    supervisor = Supervisor(line_to_guardian, lambda _name, line: print(line, flush=True))
    argv = command(["/bin/sh", "-c", "sleep 600 & echo $$ $!; wait"], death_signal=signal.SIGKILL)
    await supervisor.start(*(Service(str(n), argv, dict(os.environ), is_ready=lambda _: True) for n in range(2)))
    await asyncio.sleep(600)

with guardian() as line_to_guardian:
    asyncio.run(main(line_to_guardian))
"""


def test_a_killed_supervisor_leaves_neither_services_nor_what_they_started() -> None:
    supervisor = subprocess.Popen([sys.executable, "-c", SUPERVISE], stdout=subprocess.PIPE, text=True, cwd=CHECKOUT)
    assert supervisor.stdout is not None
    with supervisor.stdout:
        pids = [int(pid) for _ in range(2) for pid in supervisor.stdout.readline().split()]
    assert len(pids) == 4
    assert all(lives(pid) for pid in pids)
    supervisor.kill()
    supervisor.wait()
    assert eventually(lambda: not any(lives(pid) for pid in pids))


def test_a_command_whose_parent_is_gone_does_not_start(tmp_path: Path) -> None:
    mark = tmp_path / "mark"
    argv = command(["touch", str(mark)], death_signal=signal.SIGKILL)
    ended = subprocess.run(["/bin/sh", "-c", '"$@"; exit $?', "sh", *argv], check=False)  # a parent, but not the one
    assert ended.returncode == 128 + signal.SIGKILL
    assert not mark.exists()


def test_a_command_that_cannot_start_says_so() -> None:
    ended = subprocess.run(
        command(["/no/such/program"], death_signal=signal.SIGKILL), capture_output=True, text=True, check=False
    )
    assert ended.returncode == 1
    assert ended.stderr == "/no/such/program cannot be started: No such file or directory.\n"


@pytest.mark.parametrize(
    ("lines", "left"),
    [
        pytest.param([], set(), id="nothing"),
        pytest.param(["watch 7\n", "watch 8\n"], {7, 8}, id="two"),
        pytest.param(["watch 7\n", "watch 8\n", "forget 7\n"], {8}, id="one-stopped"),
        pytest.param(["forget 7\n", "nonsense\n", "\n"], set(), id="nonsense"),
    ],
)
def test_the_guardian_watches(lines: list[str], left: set[int]) -> None:
    assert watched(lines) == left


def test_printing_drops_lines_rather_than_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.printer.MOST_LINES", 10)
    monkeypatch.setattr("deploy.local.printer.FLUSH_TIMEOUT_S", 0.1)
    reading, writing = os.pipe()
    os.set_blocking(reading, False)
    began = time.monotonic()
    try:
        with printing(writing, on_closed=lambda: None) as say:
            for _ in range(200):
                say("x" * 4096)
        assert time.monotonic() - began < 2
    finally:
        os.close(reading)
        os.close(writing)


def test_printing_reports_a_reader_that_left_and_carries_on() -> None:
    reading, writing = os.pipe()
    left: list[bool] = []
    os.close(reading)
    with contextlib.closing(os.fdopen(writing, "wb", buffering=0)):
        with printing(writing, on_closed=lambda: left.append(True)) as say:
            say("one")
            say("two")
        assert left == [True]


def test_printing_keeps_the_order() -> None:
    reading, writing = os.pipe()
    with os.fdopen(reading) as reader:
        with printing(writing, on_closed=lambda: None) as say:
            say("one")
            say("two\nthree")
        os.close(writing)
        assert reader.read() == "one\ntwo\nthree\n"


async def test_a_service_that_is_never_ready_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("deploy.local.supervisor.READY_TIMEOUT_S", 0.2)
    never = shell("region", "sleep 600", is_ready=lambda _pid: False)
    with guardian() as line_to_guardian:
        supervisor = Supervisor(line_to_guardian, lambda _name, _line: None)
        with pytest.raises(Failure, match="region is not ready after"):
            await supervisor.start(never)
        await supervisor.stop()
