"""A process that has imported what tests need of others, and forks one child for each run: a run costs no start.

    python -m tests.mutants.forks test …     in a copy, in a network of its own; see `copies.py`

It collects the tests once, then forgets every module of ours: a child imports those from the copy's files as they are
then, and nothing but the packages of others is shared. It reads one JSON object a line, `{"tests", "timeout_s"}`, and
answers one, `{"status", "printed"}`: pytest's exit status, null if the run took too long, and the end of its words.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import sys
import tempfile
from collections.abc import Sequence
from typing import IO, NoReturn

import pytest

OURS = ("bootferry", "deploy", "migrations", "rack", "region", "shared", "tests")
PRINTED_BYTES = 4000
OPTIONS = ("-x", "-q", "-p", "no:cacheprovider", "--no-header", "--tb=line")


def main(tests: Sequence[str]) -> None:
    """Until standard input ends."""
    orders, answers = _apart()
    pytest.main([*OPTIONS, "--collect-only", *tests])
    _forget()
    print(json.dumps({"status": 0, "printed": ""}), file=answers, flush=True)
    for line in orders:
        order = json.loads(line)
        status, printed = _run(order["tests"], order["timeout_s"])
        print(json.dumps({"status": status, "printed": printed}), file=answers, flush=True)


def _apart() -> tuple[IO[str], IO[str]]:
    """Orders and answers on descriptors of their own, which no test reads or writes by mistake."""
    orders, answers = os.fdopen(os.dup(0)), os.fdopen(os.dup(1), "w")
    nothing = os.open(os.devnull, os.O_RDWR)
    for standard in (0, 1, 2):
        os.dup2(nothing, standard)
    return orders, answers


def _forget() -> None:
    for name in list(sys.modules):
        if name.partition(".")[0] in OURS:
            del sys.modules[name]
    importlib.invalidate_caches()
    gc.collect()
    gc.freeze()  # what no run can free no run has to look through


def _run(tests: Sequence[str], timeout_s: float) -> tuple[int | None, str]:
    with tempfile.TemporaryFile() as output:
        child = os.fork()
        if child == 0:
            _be_a_run(tests, output.fileno())
        ended = os.pidfd_open(child)
        try:
            in_time = bool(select.select([ended], [], [], timeout_s)[0])
        finally:
            os.close(ended)
        if not in_time:
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child, signal.SIGKILL)
        _, waited = os.waitpid(child, 0)
        output.seek(max(0, os.fstat(output.fileno()).st_size - PRINTED_BYTES))
        printed = output.read().decode("utf-8", "replace")
        return os.waitstatus_to_exitcode(waited) if in_time else None, printed


def _be_a_run(tests: Sequence[str], output: int) -> NoReturn:
    os.setsid()
    os.dup2(output, 1)
    os.dup2(output, 2)
    sys.exit(pytest.main([*OPTIONS, *tests]))


if __name__ == "__main__":
    main(sys.argv[1:])
