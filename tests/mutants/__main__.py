"""Take each defence out in turn and see the tests it names fail. Prints the survivors; exit status 1 if there are any.

python -m tests.mutants [part of a defence's name …]
"""

import queue
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

from tests.mutants import defences
from tests.mutants.copies import WORKERS, Runs, all_pass, runs_in_copies, spoiled
from tests.mutants.defences import Defence

TIMEOUT_S = 180.0
FAILED = 1
"""pytest's exit status when tests ran and at least one failed; any other is no proof."""


def main(wanted: Sequence[str]) -> int:
    """Exit status."""
    chosen = [one for one in defences.read() if not wanted or any(part in one.name for part in wanted)]
    named = sorted({test for one in chosen for test in one.tests})
    started = time.monotonic()
    with ExitStack() as stack:
        free = runs_in_copies(stack, named)
        if not all_pass(free, named, timeout_s=1800):
            print("The tests must pass before anything is taken out.")
            return 2
        print(
            f"{len(named)} tests pass with every defence in its place, {time.monotonic() - started:.0f} s.", flush=True
        )
        with ThreadPoolExecutor(WORKERS) as threads:
            told = list(threads.map(lambda one: _survives(one, free), chosen))
    survivors = [one.name for one, survived in zip(chosen, told, strict=True) if survived]
    print(f"{len(chosen)} defences taken out in {time.monotonic() - started:.0f} s; survivors: {len(survivors)}.")
    for name in survivors:
        print(f"  {name}")
    return 1 if survivors else 0


def _survives(defence: Defence, free: "queue.Queue[Runs]") -> bool:
    runs = free.get()
    started = time.monotonic()
    try:
        with spoiled(runs.copy / defence.file, defence.taken_out(runs.copy).encode()):
            status, printed = runs.run(defence.tests, timeout_s=TIMEOUT_S)
    finally:
        free.put(runs)
    # A test that waits for ever without the defence has noticed, too.
    noticed = status is None or status == FAILED
    took_s = time.monotonic() - started
    print(f"{'noticed ' if noticed else 'SURVIVES'} {took_s:4.0f} s  {defence.name}", flush=True)
    if not noticed:
        print(f"          pytest ended with {status}: {printed.strip()[-300:]}", flush=True)
    return not noticed


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
