"""What the tests of the client session share: one call, and ports at which something is wrong."""

import asyncio
import socket
from collections.abc import Iterator
from contextlib import contextmanager

import aiohttp
import pytest
from yarl import URL

from shared.http import read_capped, request, require_ok

SECRET = "hunter2"
CONNECT_TIMEOUT_S, READ_TIMEOUT_S = 0.2, 0.3
GREETING = b"hello, rack"


async def get(session: aiohttp.ClientSession, url: str, *, proxy: str | None = None) -> bytes:
    """The body behind the URL, in a few seconds or never."""
    async with asyncio.timeout(5):
        async with request(session, "GET", URL(url), proxy=URL(proxy) if proxy else None) as answer:
            await require_ok(answer)
            return await read_capped(answer, 1000)


@contextmanager
def refused_port(family: socket.AddressFamily = socket.AF_INET) -> Iterator[int]:
    """A port at which nobody listens, and at which nobody else will meanwhile."""
    with socket.socket(family) as bound:
        bound.bind(("::1" if family is socket.AF_INET6 else "127.0.0.1", 0))
        yield bound.getsockname()[1]


@contextmanager
def deaf_port() -> Iterator[int]:
    """A port that answers no further connection: its backlog is full."""
    with socket.socket() as listening, socket.socket() as first, socket.socket() as second:
        listening.bind(("127.0.0.1", 0))
        listening.listen(0)
        for waiting in (first, second):
            waiting.setblocking(False)
            waiting.connect_ex(listening.getsockname())
        yield listening.getsockname()[1]


def has_ipv6() -> bool:
    try:
        with socket.socket(socket.AF_INET6) as probe:
            probe.bind(("::1", 0))
    except OSError:
        return False
    return True


needs_ipv6 = pytest.mark.skipif(not has_ipv6(), reason="this machine has no IPv6 loopback")
