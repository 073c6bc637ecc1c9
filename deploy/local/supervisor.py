"""A foreground supervisor: starts services, shows what they say, and stops them in the opposite order.

Nothing it starts outlives it. Each service is a process group of its own, so that Ctrl-C on a terminal reaches the
supervisor alone and the order is its to choose. When the supervisor is killed, `child` ends the services and the
guardian ends what they had started.
"""

import asyncio
import contextlib
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

from deploy.local.failure import Failure

TAIL_LINES = 20
LONGEST_LINE = 16 << 10  # bytes shown as one line
READY_TIMEOUT_S = 90.0


@dataclass(frozen=True)
class Service:
    """One long-running command. `argv` comes from `child.command`, so that it dies with us."""

    name: str
    argv: Sequence[str]
    environment: Mapping[str, str]
    is_ready: Callable[[int], bool]
    """Whether it is, given its process id; asked in a thread, a few times a second."""
    stop_steps: Sequence[tuple[signal.Signals, float]] = ((signal.SIGTERM, 5.0),)
    """How it is stopped: a signal, and seconds until the next; SIGKILL for its whole group comes last."""
    guarded: bool = True
    """Whether the guardian kills its group when the supervisor died; not if its death signal lets it do that itself."""


@dataclass
class Child:
    """A service that was started."""

    service: Service
    process: asyncio.subprocess.Process
    tail: deque[str] = field(default_factory=lambda: deque(maxlen=TAIL_LINES))
    tasks: list[asyncio.Task[None]] = field(default_factory=list)


class Supervisor:
    """The services of one run. Use `start` while all is well, and `stop` at the end, whatever happened."""

    def __init__(self, guardian: IO[str], show: Callable[[str, str], None]) -> None:
        self._guardian = guardian
        self._show = show
        self._children: list[Child] = []
        self._stopping = False
        self._ended: asyncio.Queue[Child] = asyncio.Queue()

    async def start(self, *services: Service) -> None:
        """Start services side by side; return when all are ready. Raises Failure when one takes too long."""
        children = [await self._spawn(service) for service in services]
        await asyncio.gather(*(until_ready(child) for child in children))

    async def failure(self) -> Failure:
        """Wait until a service ends unasked, and say so with its last words."""
        child = await self._ended.get()
        status = child.process.returncode or 0
        how = f"was ended by {signal.Signals(-status).name}" if status < 0 else f"ended with exit status {status}"
        last_words = "".join(f"\n  {line}" for line in child.tail) or " nothing."
        return Failure(f"{child.service.name} {how}; the others are stopped too. The last it said:{last_words}")

    async def stop(self) -> None:
        """Stop every service, the last started first, each gently; then kill what is left of it."""
        self._stopping = True
        for child in reversed(self._children):
            for step, wait_s in child.service.stop_steps:
                if child.process.returncode is None:
                    child.process.send_signal(step)
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(child.process.wait(), wait_s)
            kill_group(child.process.pid)
            await child.process.wait()
            self._tell_guardian(f"forget {child.process.pid}")
            await asyncio.wait(child.tasks, timeout=1.0)

    def kill(self) -> None:
        """End every service at once. `stop` returns soon after."""
        for child in self._children:
            kill_group(child.process.pid)

    async def _spawn(self, service: Service) -> Child:
        # Not asyncio's own pipe: its `wait` would last until everyone who inherited the pipe has closed it.
        reader, output = await open_pipe()
        try:
            process = await asyncio.create_subprocess_exec(
                *service.argv,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                env=service.environment,
                start_new_session=True,
            )
        finally:
            os.close(output)
        child = Child(service, process)
        self._children.append(child)
        if service.guarded:
            self._tell_guardian(f"watch {process.pid}")
        listening = asyncio.create_task(self._listen(child, reader))
        child.tasks += [listening, asyncio.create_task(self._watch(child, listening))]
        return child

    async def _listen(self, child: Child, reader: asyncio.StreamReader) -> None:
        async for line in lines(reader):
            child.tail.append(line)
            self._show(child.service.name, line)

    async def _watch(self, child: Child, listening: asyncio.Task[None]) -> None:
        await child.process.wait()
        await asyncio.wait([listening], timeout=0.5)  # for its last words
        if not self._stopping:
            self._ended.put_nowait(child)

    def _tell_guardian(self, line: str) -> None:
        with contextlib.suppress(OSError):  # it was killed; the services still die with us
            self._guardian.write(f"{line}\n")
            self._guardian.flush()


async def until_ready(child: Child) -> None:
    """Return when the service is ready. Raises Failure when it takes too long; never, when it has ended."""
    deadline = time.monotonic() + READY_TIMEOUT_S
    while not await asyncio.to_thread(child.service.is_ready, child.process.pid):
        if child.process.returncode is not None:
            await asyncio.Event().wait()  # `failure` speaks about it
        if time.monotonic() > deadline:
            raise Failure(
                f"{child.service.name} is not ready after {READY_TIMEOUT_S:.0f} seconds; see its lines above."
            )
        await asyncio.sleep(0.1)


async def open_pipe() -> tuple[asyncio.StreamReader, int]:
    """A pipe: the end to read from, and the descriptor to write to, which is the caller's to close."""
    loop = asyncio.get_running_loop()
    descriptor, output = os.pipe()
    reader = asyncio.StreamReader(loop=loop)
    await loop.connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader, loop=loop), os.fdopen(descriptor, "rb"))
    return reader, output


async def lines(stream: asyncio.StreamReader) -> AsyncIterator[str]:
    """What a process says, line by line; a line that is too long comes in pieces."""
    rest = b""
    while chunk := await stream.read(LONGEST_LINE):
        *whole, rest = (rest + chunk).split(b"\n")
        for line in whole:
            yield line.decode(errors="replace").rstrip("\r")
        if len(rest) > LONGEST_LINE:
            yield rest.decode(errors="replace")
            rest = b""
    if rest:
        yield rest.decode(errors="replace")


def kill_group(group: int) -> None:
    """Kill whatever is left of a process group of ours."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, signal.SIGKILL)


@contextmanager
def guardian() -> Iterator[IO[str]]:
    """A guardian for the block: where to write its lines."""
    program = Path(__file__).with_name("guardian.py")
    process = subprocess.Popen(
        [sys.executable, "-I", "-S", str(program)],
        stdin=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    assert process.stdin is not None  # noqa: S101 (we asked for a pipe)
    try:
        yield process.stdin
    finally:
        with contextlib.suppress(OSError):
            process.stdin.close()
        process.wait()
