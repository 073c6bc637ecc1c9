"""How a service ends that nobody stopped.

A part of a service is a task that has no end. One that ends although nobody stopped it, by an error that nobody foresaw
or by returning, takes the process with it: the service manager starts it anew, whole. A service that goes on without
one of its parts looks well and is not.
"""

import asyncio
from collections.abc import Awaitable

from shared.errors import BootferryError
from shared.logs import logger

log = logger(__name__)


async def part(name: str, work: Awaitable[None]) -> None:
    """Do `work`, which is to have no end. Raises BootferryError when it ends, with the reason.

    `name` begins the sentence: "The importer".
    """
    try:
        await work
    except BootferryError:
        raise
    except Exception as error:
        why = str(leaf(error)) or type(leaf(error)).__name__
        raise BootferryError(f"{name} has ended unexpectedly, and the process with it: {why}") from error
    raise BootferryError(f"{name} has ended unexpectedly, and the process with it")


def reason_of(error: BaseException) -> BootferryError:
    """Why a part has ended, told to the log, once."""
    first = leaf(error)
    reason = first if isinstance(first, BootferryError) else BootferryError(f"The process ends: {first!r}")
    cause = reason.__cause__ if reason is first else first
    foreseen = cause is None or isinstance(cause, BootferryError | OSError)
    log.critical(str(reason), action="end", code=reason.code, exc_info=None if foreseen else cause)
    return reason


def leaf(error: BaseException | None) -> BaseException | None:
    """The first error of a group, in whatever groups it lies."""
    while isinstance(error, BaseExceptionGroup):
        error = error.exceptions[0]
    return error


def unheard(loop: asyncio.AbstractEventLoop, context: dict[str, object]) -> None:
    """An event loop's exception handler: of a connection that broke while nobody waited for it any longer, no word."""
    future = context.get("future")
    if isinstance(context.get("exception"), OSError) and future is not None and not isinstance(future, asyncio.Task):
        log.debug("A connection broke that nobody waits for.", action="connect", why=str(context["exception"]))
    else:
        loop.default_exception_handler(context)
