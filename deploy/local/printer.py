"""Printing that never makes the printer wait: a reader that is slow loses lines, and one that leaves is reported."""

import os
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager

MOST_LINES = 20_000
FLUSH_TIMEOUT_S = 1.0


@contextmanager
def printing(descriptor: int, *, on_closed: Callable[[], object]) -> Iterator[Callable[[str], None]]:
    """A function that prints one text and a newline to the descriptor, and returns at once.

    A terminal that is paused, or a pipe nobody reads, must not stop the services whose lines these are. Lines beyond
    the newest MOST_LINES unread ones are dropped, and their number is printed. `on_closed` is called, in a thread, when
    there is no reader any more.
    """
    waiting: queue.Queue[str | None] = queue.Queue(MOST_LINES)
    dropped = 0

    def say(text: str) -> None:
        nonlocal dropped
        try:
            waiting.put_nowait(f"({dropped} lines were dropped here)\n{text}" if dropped else text)
            dropped = 0
        except queue.Full:
            dropped += 1

    def drain() -> None:
        try:
            while (text := waiting.get()) is not None:
                write_all(descriptor, f"{text}\n".encode())
        except OSError:
            on_closed()
            while waiting.get() is not None:
                pass

    # A daemon, and os.write instead of sys.stdout: a reader that never reads must not keep us from ending.
    thread = threading.Thread(target=drain, name="printer", daemon=True)
    thread.start()
    try:
        yield say
    finally:
        try:
            waiting.put(None, timeout=FLUSH_TIMEOUT_S)
            thread.join(FLUSH_TIMEOUT_S)
        except queue.Full:
            pass


def write_all(descriptor: int, data: bytes) -> None:
    """Write all of it. Raises OSError."""
    while data:
        data = data[os.write(descriptor, data) :]
