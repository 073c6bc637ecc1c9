"""The rack as a program: what `run` does, and what its ends mean to whoever started it."""

import os
import signal
import sys
from collections.abc import Callable

from rack.lock import InUse
from shared.configuration import EX_CONFIG
from shared.errors import BootferryError, InvalidConfiguration
from shared.standard_output import stop_writing


def run() -> None:
    """Be a rack until told to stop."""
    from rack import app
    from rack.configuration import RackConfiguration
    from shared import logs

    configuration = RackConfiguration.load()
    logs.configure(configuration.log_level, configuration.log_format)
    app.run(configuration)


def told(command: Callable[[], None]) -> int:
    """The exit status of `command`; what it raises on purpose is one sentence on stderr."""
    try:
        command()
        sys.stdout.flush()
    except InvalidConfiguration as error:
        print(error, file=sys.stderr)  # noqa: T201
        return EX_CONFIG
    except InUse as error:
        print(error, file=sys.stderr)  # noqa: T201
        return os.EX_TEMPFAIL
    except BootferryError as error:
        print(error, file=sys.stderr)  # noqa: T201
        return 1
    except BrokenPipeError:
        stop_writing()
        return 1
    except OSError as error:
        print(f"{error.filename or 'The disk'}: {error.strerror}.", file=sys.stderr)  # noqa: T201
        return 1
    except KeyboardInterrupt:
        return 128 + signal.SIGINT
    return os.EX_OK
