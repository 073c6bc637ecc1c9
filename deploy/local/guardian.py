"""The last one to leave: ends process groups whose supervisor died without doing so itself.

The death signal of `child` reaches the processes a supervisor started, not those they started in turn. So a supervisor
also keeps one guardian, run as a program, and tells it on its standard input which process groups there are: lines of
`watch GROUP` and `forget GROUP`. End of file, which comes when the supervisor dies, means: kill every group still
watched.
"""

import contextlib
import os
import signal
import sys
from collections.abc import Iterable


def watched(lines: Iterable[str]) -> set[int]:
    """The process groups left to end when the lines are over."""
    groups: set[int] = set()
    for line in lines:
        match line.split():
            case ["watch", group]:
                groups.add(int(group))
            case ["forget", group]:
                groups.discard(int(group))
    return groups


if __name__ == "__main__":
    for group in watched(sys.stdin):
        with contextlib.suppress(ProcessLookupError):
            os.killpg(group, signal.SIGKILL)
