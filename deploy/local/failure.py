"""The one way a local command gives up."""

import sys
from collections.abc import Callable


class Failure(Exception):
    """A local command cannot go on. Its text is one sentence that says what to do next."""


def exit_status(main: Callable[[], None]) -> int:
    """What `main` comes to as an exit status: 0, or 1 with the failure's sentence on standard error."""
    try:
        main()
    except Failure as failure:
        print(f"bootferry: {failure}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130
    return 0
