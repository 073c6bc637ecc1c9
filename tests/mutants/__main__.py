"""Take each defence out in turn and see the tests it names fail. Prints the survivors; exit status 1 if there are any.

python -m tests.mutants [part of a defence's name …]
"""

import os
import queue
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.mutants import defences
from tests.mutants.copies import copy_of_checkout, run_tests
from tests.mutants.defences import Defence

TIMEOUT_S = 180.0
FAILED = 1
"""pytest's exit status when tests ran and at least one failed; any other is no proof."""


def main(wanted: Sequence[str]) -> int:
    """Exit status."""
    chosen = [one for one in defences.read() if not wanted or any(part in one.name for part in wanted)]
    workers = os.cpu_count() or 1
    started = time.monotonic()
    with ExitStack() as stack:
        copies: queue.Queue[Path] = queue.Queue()
        for _ in range(workers):
            copies.put(stack.enter_context(copy_of_checkout()))
        copy = copies.queue[0]
        named = sorted({test for one in chosen for test in one.tests})
        status, printed = run_tests(copy, named, timeout_s=1800, workers=workers)
        if status != 0:
            print(printed)
            print("The tests must pass before anything is taken out.")
            return 2
        print(f"{len(named)} tests pass with every defence in its place.", flush=True)
        with ThreadPoolExecutor(workers) as threads:
            told = list(threads.map(lambda one: _survives(one, copies), chosen))
    survivors = [one.name for one, survived in zip(chosen, told, strict=True) if survived]
    print(f"{len(chosen)} defences taken out in {time.monotonic() - started:.0f} s; survivors: {len(survivors)}.")
    for name in survivors:
        print(f"  {name}")
    return 1 if survivors else 0


def _survives(defence: Defence, copies: "queue.Queue[Path]") -> bool:
    copy = copies.get()
    file = copy / defence.file
    whole = file.read_text()
    try:
        file.write_text(defence.taken_out(copy))
        status, printed = run_tests(copy, defence.tests, timeout_s=TIMEOUT_S)
    finally:
        file.write_text(whole)
        copies.put(copy)
    # A test that waits for ever without the defence has noticed, too.
    noticed = status is None or status == FAILED
    print(f"{'noticed ' if noticed else 'SURVIVES'}  {defence.name}", flush=True)
    if not noticed:
        print(f"          pytest ended with {status}: {printed.strip()[-300:]}", flush=True)
    return not noticed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
