"""Work in threads that somebody always waits for: a job nobody watches may still write, remove or hold a lock."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
T = TypeVar("T")


async def in_thread(work: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
    """What `work` returns, run in a thread. When this is cancelled, it ends after the thread has: keep `work` short."""
    return await ended(asyncio.ensure_future(asyncio.to_thread(work, *args, **kwargs)))


async def ended(future: asyncio.Future[T]) -> T:
    """The result of `future`, which has ended when this returns or raises, however often the wait is cancelled."""
    cancelled: asyncio.CancelledError | None = None
    while not future.done():
        try:
            await asyncio.wait([future])
        except asyncio.CancelledError as error:
            cancelled = error
    if cancelled is not None:
        future.exception()
        raise cancelled
    return future.result()
