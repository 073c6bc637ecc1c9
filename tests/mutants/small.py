"""Make every small change to the modules that decide and parse, and see a test fail. Prints the survivors.

    python -m tests.mutants.small [--again FILE] [part of a module's path …]

With `--again` only the survivors that FILE names are changed again, which is what an earlier run has printed.
`modules.toml` says which tests stand for a module; `equivalents.toml` names the changes that change nothing, with the
reason. Exit status 1 if fewer than 95 of 100 of the others are noticed, or a named equivalent is no longer there.
"""

import argparse
import queue
import re
import sys
import time
import tomllib
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path

from tests.mutants.changes import Change, changes
from tests.mutants.copies import ROOT, WORKERS, Runs, all_pass, runs_in_copies, spoiled

GOAL = 0.95
MOST_S = 60.0
HERE = Path(__file__).parent

Equivalent = tuple[str, str, str, str]
"""A module's path, the line without its indentation, what stands there, what the change makes of it."""


def main(arguments: Sequence[str]) -> int:
    """Exit status."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--again", type=Path)
    parser.add_argument("wanted", nargs="*")
    asked = parser.parse_args(arguments)
    wanted: list[str] = asked.wanted
    survivors = None if asked.again is None else {_without_line(line) for line in asked.again.read_text().splitlines()}
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
            worth = [
                change
                for change, key in found.items()
                if key not in named and (survivors is None or _without_line(_told(path, change)) in survivors)
            ]
            if not all_pass(free, tests, timeout_s=10 * MOST_S):
                print("The tests must pass before anything is changed.")
                return 2
            # What takes so much longer than it should goes on for ever.
            run = _Run(path, tests, min(MOST_S, 10 + 10 * (time.monotonic() - started)), free)
            with ThreadPoolExecutor(WORKERS) as threads:
                told = list(threads.map(run.notices, worth))
            total, noticed = total + len(worth), noticed + sum(told)
            print(f"{path}: {sum(told)} of {len(worth)} noticed in {time.monotonic() - started:.0f} s", flush=True)
    gone = {key for key in named if key[0] in chosen} - met
    for key in sorted(gone):
        print(f"No longer there: {key}")
    print(f"{noticed} of {total} small changes noticed ({noticed / max(total, 1):.1%}), {len(met)} equivalents named.")
    return 0 if noticed >= GOAL * total and not gone else 1


def _told(path: str, change: Change) -> str:
    return f"  {path}:{change.line}: {change.was!r} -> {change.becomes!r}"


def _without_line(told: str) -> str:
    """A survivor's line by what was changed alone: lines move."""
    return re.sub(r":[0-9]+:", ":", told, count=1)


def _equivalents() -> set[Equivalent]:
    entries = tomllib.loads((HERE / "equivalents.toml").read_text()).get("equivalent", [])
    return {(entry["module"], entry["line"], entry["was"], entry["becomes"]) for entry in entries}


@dataclass(frozen=True, slots=True)
class _Run:
    """The tests that stand for the module at `path`."""

    path: str
    tests: Sequence[str]
    timeout_s: float
    free: "queue.Queue[Runs]"

    def notices(self, change: Change) -> bool:
        """True if a test fails with this change; one that none notices is printed at once."""
        runs = self.free.get()
        file = runs.copy / self.path
        try:
            with spoiled(file, change.made(file.read_bytes())):
                status, _ = runs.run(self.tests, timeout_s=self.timeout_s)
        finally:
            self.free.put(runs)
        if status == 0:
            print(_told(self.path, change), flush=True)
        # A module that cannot be imported any more (2), or a test that waits for ever, is noticed by everybody.
        return status != 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
