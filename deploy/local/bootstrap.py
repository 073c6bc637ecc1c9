"""What every target of the Makefile asks first: is `.venv` as requirements.lock says? If not, it is made so.

Standard library only. With nothing to do this takes a few milliseconds, so the modules that do it are imported late.
An interrupted run is carried on by the next, and two at once wait for each other.
"""

import fcntl
import hashlib
import os
import sys
from pathlib import Path

from deploy.local.failure import Failure, exit_status

CHECKOUT = Path(__file__).resolve().parents[2]


def wanted_state(checkout: Path) -> str:
    """A digest of all that decides what `.venv` holds: the interpreter, the place, and both files' contents."""
    facts = (
        sys.version.encode(),
        os.fsencode(sys.executable),
        os.fsencode(checkout),
        (checkout / "requirements.lock").read_bytes(),
        (checkout / "pyproject.toml").read_bytes(),
    )
    return hashlib.sha256(b"\0".join(hashlib.sha256(fact).digest() for fact in facts)).hexdigest()


def is_made(checkout: Path) -> bool:
    """Whether the environment was made, to its end, from what is here now, and its interpreter is still there."""
    stamp, python = stamp_of(checkout), checkout / ".venv" / "bin" / "python"
    return stamp.exists() and python.exists() and stamp.read_text() == wanted_state(checkout)


def stamp_of(checkout: Path) -> Path:
    """The file that holds the state an environment was made from. It is written last, and removed first."""
    return checkout / ".venv" / "bootferry-stamp"


def make_environment(checkout: Path) -> None:
    """Return once the environment of the checkout is made. Raises Failure, OSError."""
    cache = checkout / ".cache"
    cache.mkdir(exist_ok=True)
    with (cache / "bootstrap.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if is_made(checkout):
            return
        from deploy.local import environment

        stamp_of(checkout).unlink(missing_ok=True)
        environment.make(checkout, os.environ)
        stamp_of(checkout).write_text(wanted_state(checkout))


def main() -> None:
    """Make sure of the environment of this checkout. Raises Failure."""
    try:
        if not is_made(CHECKOUT):
            make_environment(CHECKOUT)
    except PermissionError as error:
        raise Failure(
            f"{error.filename} is not yours to write: make it yours, or work in a checkout of your own."
        ) from error
    except OSError as error:
        raise Failure(
            f"{error.filename or CHECKOUT}: {error.strerror or error}; mend that, then run this again."
        ) from error


if __name__ == "__main__":
    sys.exit(exit_status(main))
