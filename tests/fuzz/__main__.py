"""Let atheris look for bytes that a parser does not expect: python -m tests.fuzz SECONDS [name of a target …].

Every target in turn, `SECONDS` each. What it found lies in .cache/fuzz/found; exit status 1 if there is anything.
"""

import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

HERE = Path(".cache/fuzz")


def main(seconds: int, names: Sequence[str]) -> int:
    """Exit status."""
    from tests.fuzz.targets import TARGETS

    found = HERE / "found"
    found.mkdir(parents=True, exist_ok=True)
    failed = []
    for name in names or TARGETS:
        corpus = HERE / "corpus" / name
        corpus.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(TARGETS[name].seeds):
            (corpus / f"seed-{number}").write_bytes(seed)
        print(f"{name}: {seconds} s", flush=True)
        options = [f"-max_total_time={seconds}", "-max_len=65536", "-timeout=10", "-rss_limit_mb=1024", "-verbosity=0"]
        command = [sys.executable, "-m", "tests.fuzz", "--one", name, *options, "-print_final_stats=1"]
        if subprocess.run([*command, f"-artifact_prefix={found}/{name}-", str(corpus)], check=False).returncode:
            failed.append(name)
    print(f"Something was found in: {', '.join(failed)}; see {found}." if failed else "Nothing was found.")
    return 1 if failed else 0


def one(name: str, options: Sequence[str]) -> None:
    """Look at one target in this process; ends it."""
    import atheris

    with atheris.instrument_imports(include=["shared", "region", "rack"]):
        from shared.errors import BootferryError
        from tests.fuzz.targets import TARGETS

    def read(data: bytes) -> None:
        with suppress(BootferryError):
            TARGETS[name].read(data)

    atheris.Setup(["fuzz", *options], read)
    atheris.Fuzz()


if __name__ == "__main__":
    if sys.argv[1] == "--one":
        one(sys.argv[2], sys.argv[3:])
    sys.exit(main(int(sys.argv[1]), sys.argv[2:]))
