"""Make every small change to the modules that decide and parse, and see a test fail. Prints the survivors.

    python -m tests.mutants.small [part of a module's path …]

`modules.toml` says which tests stand for a module; `equivalents.toml` names the changes that change nothing, with the
reason. Exit status 1 if fewer than 95 of 100 of the others are noticed, or a named equivalent is no longer there.
"""

import queue
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

from tests.mutants.changes import Change, changes
from tests.mutants.copies import ROOT, WORKERS, Runs, all_pass, runs_in_copies, spoiled

GOAL = 0.95
TIMEOUT_S = 60.0
HERE = Path(__file__).parent

Equivalent = tuple[str, str, str, str]
"""A module's path, the line without its indentation, what stands there, what the change makes of it."""


def main(wanted: Sequence[str]) -> int:
    """Exit status."""
    modules: dict[str, list[str]] = tomllib.loads((HERE / "modules.toml").read_text())
    chosen = {path: tests for path, tests in modules.items() if not wanted or any(part in path for part in wanted)}
    named = _equivalents()
    noticed = total = 0
    met: set[Equivalent] = set()
    with ExitStack() as stack:
        free = runs_in_copies(stack, sorted({test for tests in chosen.values() for test in tests}))
        for path, tests in chosen.items():
            started = time.monotonic()
            source = (ROOT / path).read_bytes()
            lines = source.decode().splitlines()
            found = {
                change: (path, lines[change.line - 1].strip(), change.was, change.becomes) for change in changes(source)
            }
            met |= named & set(found.values())
            worth = [change for change, key in found.items() if key not in named]
            if not all_pass(free, tests, timeout_s=10 * TIMEOUT_S):
                print("The tests must pass before anything is changed.")
                return 2
            with ThreadPoolExecutor(WORKERS) as threads:
                told = list(threads.map(lambda one, at=path, by=tests: _noticed(at, one, by, free), worth))
            total, noticed = total + len(worth), noticed + sum(told)
            print(f"{path}: {sum(told)} of {len(worth)} noticed in {time.monotonic() - started:.0f} s", flush=True)
            for change, was_noticed in zip(worth, told, strict=True):
                if not was_noticed:
                    print(f"  {change.line}: {change.was!r} -> {change.becomes!r}", flush=True)
    gone = {key for key in named if key[0] in chosen} - met
    for key in sorted(gone):
        print(f"No longer there: {key}")
    print(f"{noticed} of {total} small changes noticed ({noticed / max(total, 1):.1%}), {len(met)} equivalents named.")
    return 0 if noticed >= GOAL * total and not gone else 1


def _equivalents() -> set[Equivalent]:
    entries = tomllib.loads((HERE / "equivalents.toml").read_text()).get("equivalent", [])
    return {(entry["module"], entry["line"], entry["was"], entry["becomes"]) for entry in entries}


def _noticed(path: str, change: Change, tests: Sequence[str], free: "queue.Queue[Runs]") -> bool:
    runs = free.get()
    file = runs.copy / path
    try:
        with spoiled(file, change.made(file.read_bytes())):
            status, _ = runs.run(tests, timeout_s=TIMEOUT_S)
    finally:
        free.put(runs)
    # A module that cannot be imported any more (2), or a test that waits for ever, is noticed by everybody.
    return status != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
