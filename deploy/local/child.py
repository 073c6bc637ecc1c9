"""A command that cannot outlive the process that started it, and that may run as a lesser user.

`command()` wraps an argument list; this file, run as a program, is the wrapper. It becomes the command (exec), so the
process id the caller sees is the command's own. Linux only: the promise rests on PR_SET_PDEATHSIG, prctl(2). It holds
for the *thread* that starts the command, so start commands from the main thread.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Sequence
from dataclasses import dataclass

PR_SET_PDEATHSIG = 1


@dataclass(frozen=True)
class Account:
    """The user and group, by number, that a command runs as."""

    uid: int
    gid: int


def command(argv: Sequence[str], *, death_signal: signal.Signals, account: Account | None = None) -> list[str]:
    """`argv`, to be started by this process: it gets `death_signal` when this process dies, however it dies."""
    lesser = f"{account.uid}:{account.gid}" if account else "-"
    # Isolated and without site-packages: only this file and the standard library, in a few milliseconds.
    return [sys.executable, "-I", "-S", __file__, str(os.getpid()), str(int(death_signal)), lesser, *argv]


def die_with(parent: int, death_signal: int) -> None:
    """After this the process gets `death_signal` when `parent`, which started it, dies. Raises OSError."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(PR_SET_PDEATHSIG, death_signal, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent:  # it died before we asked
        signal.raise_signal(death_signal)


def main(arguments: Sequence[str]) -> None:
    """Drop to the account, tie this process to its parent, become the command."""
    parent, death_signal, lesser, *argv = arguments
    if lesser != "-":
        uid, gid = map(int, lesser.split(":"))
        os.setgroups([])
        os.setgid(gid)
        os.setuid(uid)
    # Last, because the kernel forgets the death signal when a process changes its user.
    die_with(int(parent), int(death_signal))
    # Python ignores these two for itself, and what is ignored stays ignored across exec.
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGXFSZ, signal.SIG_DFL)
    try:
        os.execvp(argv[0], argv)  # noqa: S606 (becoming another program is what this one is for)
    except OSError as error:
        sys.exit(f"{argv[0]} cannot be started: {error.strerror}.")


if __name__ == "__main__":
    main(sys.argv[1:])
