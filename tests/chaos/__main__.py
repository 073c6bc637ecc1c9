"""`python -m tests.chaos [--seed N] [--seconds S] [--only kill,power,…]`: every part, one after the other.

The seconds are shared by the parts that take as long as they are given; the seed is the same for all. Exit status 1
when any part found a violation.
"""

import argparse
import random
import subprocess
import sys

TIMED = {"kill": 3, "power": 3, "model": 3}
"""The parts that go on while they have time, and their shares of it."""

FIXED = ("disk", "network", "herd")
"""The parts that have an end of their own."""


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=random.SystemRandom().randrange(10**6))
    parser.add_argument("--seconds", type=float, default=900, help="for the parts that go on while they have time")
    parser.add_argument("--only", default=",".join([*TIMED, *FIXED]))
    options = parser.parse_args()
    chosen = options.only.split(",")
    shares = sum(TIMED.get(part, 0) for part in chosen)
    failed = []
    for part in chosen:
        arguments = [sys.executable, "-m", f"tests.chaos.{part}", "--seed", str(options.seed)]
        if part in TIMED:
            arguments += ["--seconds", str(options.seconds * TIMED[part] / shares)]
        if subprocess.run(arguments, check=False).returncode != 0:
            failed.append(part)
    print(f"chaos: violations in {', '.join(failed)}" if failed else f"chaos: no violation (seed {options.seed})")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
