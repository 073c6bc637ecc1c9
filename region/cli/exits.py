"""How `bootferry` ends: its exit codes, and the code and sentence of every error on the way there."""

from enum import IntEnum
from typing import NamedTuple

from shared.errors import (
    BootferryError,
    FetchError,
    HttpStatus,
    InvalidConfiguration,
    InvalidDocument,
    InvalidValue,
    RedirectRefused,
    Unauthenticated,
)


class ExitCode(IntEnum):
    """What a script may conclude from the exit code."""

    DONE = 0
    """What was asked for is so; also when it was so before."""

    REFUSED = 1
    """The region refused, the operator said no, an import failed or was stopped, or a file differs."""

    USAGE = 2
    """The command line, a file named on it or the configuration is not usable; the region was changed in nothing."""

    UNREACHABLE = 3
    """No region of API v1 answers at the address."""

    UNAUTHENTICATED = 4
    """There is no token, or the region does not take it."""

    INTERRUPTED = 130
    """Ctrl-C. What the region had begun goes on."""


class Failed(BootferryError):
    """The region's own verdict: `problem` is its code. The sentence says what to do."""

    def __init__(self, problem: str, sentence: str) -> None:
        self.problem = problem
        super().__init__(sentence)


class Misused(BootferryError):
    """The command line cannot be carried out as it is; the sentence says which one can."""

    code = "usage"


class SelectionDiffers(BootferryError):
    """A file and the region's selection do not say the same."""

    code = "selection_differs"

    def __init__(self, file: str) -> None:
        super().__init__(f"The selection is not what {file} says; make it so with: bootferry selection apply {file}")


class Ending(NamedTuple):
    """An error as the program tells it: a stable code, one sentence, and the exit code."""

    code: str
    detail: str
    exit_code: ExitCode


def ending(error: BootferryError) -> Ending:
    """How the program ends on this error."""
    match error:
        case Failed():
            return Ending(error.problem, str(error), ExitCode.REFUSED)
        case HttpStatus(status=401):
            told = error.detail or "The region does not take this token."
            return Ending(error.problem or error.code, told, ExitCode.UNAUTHENTICATED)
        case HttpStatus() if error.problem:
            return Ending(error.problem, error.detail, ExitCode.REFUSED)
        case RedirectRefused():
            told = f"{error} Log in with the address it leads to, if you trust it."
            return Ending(error.code, told, ExitCode.UNREACHABLE)
        case FetchError():
            return Ending(error.code, str(error), ExitCode.UNREACHABLE)
        case Unauthenticated():
            return Ending(error.code, str(error), ExitCode.UNAUTHENTICATED)
        case Misused() | InvalidValue() | InvalidDocument() | InvalidConfiguration():
            return Ending(error.code, str(error), ExitCode.USAGE)
        case _:
            return Ending(error.code, str(error), ExitCode.REFUSED)
