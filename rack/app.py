"""`bootferry-rack run`: everything a rack is made of is built here, and taken down in the reverse order."""

import asyncio
import random
import resource
import signal
import socket
from collections.abc import AsyncIterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack, ExitStack, asynccontextmanager, suppress
from datetime import UTC, datetime

from aiohttp import web
from yarl import URL

from rack import serve
from rack.beat import Beat
from rack.client import Region
from rack.configuration import RackConfiguration
from rack.connections import Runner, SecureSite
from rack.identity import Identity, load
from rack.lock import hold
from rack.poll import Habits, Poller
from rack.pull import PACE
from shared import __version__, tls
from shared.download import Transfer
from shared.endings import part, reason_of, unheard
from shared.http import client_session
from shared.listening import listening
from shared.logs import logger
from shared.store.disk import DiskStore
from shared.systemd import notify, watchdog_interval_s
from shared.tls import Certificate

UNWATCHED_S = 3600.0
"""How often a service manager that keeps no watch is told all the same."""

_log = logger(__name__)


def run(configuration: RackConfiguration) -> None:
    """Be a rack until SIGTERM or SIGINT. SIGHUP polls now.

    Raises InvalidConfiguration when the configuration or the missing enrolment forbid a start, Conflict when the port
    or the data directory is another process's.
    """
    # Whoever finds the lock may ask for a poll; before there is a beat, that must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    certificate = tls.configured(configuration.tls_certificate, configuration.tls_key, "RACK_")
    identity = load(configuration.data_dir)
    with ExitStack() as stack:
        stack.enter_context(hold(configuration.data_dir / "lock"))
        listeners = stack.enter_context(listening("RACK", configuration.host, configuration.port))
        secure: tuple[Certificate, Sequence[socket.socket]] | None = None
        if certificate is not None:
            secured = listening("RACK", configuration.host, configuration.tls_port, "RACK_TLS_PORT")
            secure = certificate, stack.enter_context(secured)
        _allow_many_connections()
        asyncio.run(_serve(configuration, identity, listeners, secure))


async def _serve(
    configuration: RackConfiguration,
    identity: Identity,
    listeners: Sequence[socket.socket],
    secure: tuple[Certificate, Sequence[socket.socket]] | None,
) -> None:
    loop = asyncio.get_running_loop()
    loop.set_exception_handler(unheard)
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with AsyncExitStack() as stack:
        poller, beat = await stack.enter_async_context(_polling(configuration, identity))
        loop.add_signal_handler(signal.SIGHUP, beat.wake)
        await asyncio.to_thread(poller.recover)

        server = Runner(
            serve.application(
                configuration.data_dir,
                poller.belief,
                beat.doubt,
                configuration.metrics_addresses,
                secure[0] if secure else None,
            )
        )
        stack.push_async_callback(server.cleanup)
        await server.setup()
        for listener in listeners:
            await web.SockSite(server, listener).start()
        if secure is not None:
            certificate, secured = secure
            for listener in secured:
                await SecureSite(server, listener, certificate).start()
        _log.info(
            "The rack serves machines.",
            action="start",
            rack=identity.name,
            region=str(identity.region_url),
            address=f"{configuration.host}:{configuration.port}",
            tls_port=configuration.tls_port if secure else None,
            tree=poller.belief.tree.name if poller.belief.tree else "none yet",
            version=__version__,
        )
        notify(f"READY=1\nSTATUS={poller.summary()}")

        parts = {"The poll": beat.run(), "The watchdog": _watchdog()}
        if secure is not None:
            parts["What reads the certificate again"] = tls.follow(secure[0])
        working = [asyncio.create_task(part(name, work)) for name, work in parts.items()]
        for task in working:
            stack.push_async_callback(_ended, task)
        stopping = asyncio.create_task(stop.wait())
        await asyncio.wait([*working, stopping], return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        notify("STOPPING=1")
        for task in working:
            if task.done() and (error := task.exception()) is not None:
                raise reason_of(error)
        _log.info("The rack stops; partial files are kept.", action="stop")


@asynccontextmanager
async def _polling(configuration: RackConfiguration, identity: Identity) -> AsyncIterator[tuple[Poller, Beat]]:
    proxy = URL(configuration.proxy) if configuration.proxy else None
    rng = random.Random()  # noqa: S311 - jitter, not a secret
    async with client_session(ca_bundle=configuration.ca_bundle, ca_certificates=identity.ca_certificates) as session:
        region = Region(session, identity, now=lambda: datetime.now(UTC), proxy=proxy)
        with ThreadPoolExecutor(configuration.parallel_downloads, "download") as executor:
            transfer = Transfer(session, executor, proxy, region.sign, PACE)
            store = DiskStore(configuration.data_dir)
            poller = Poller(
                configuration.data_dir,
                store,
                identity,
                region,
                transfer,
                habits=Habits(
                    at_once=configuration.parallel_downloads, prune_grace_s=float(configuration.prune_grace_seconds)
                ),
                rng=rng,
                host=configuration.host,
                port=configuration.port,
                told=lambda sentence: notify(f"STATUS={sentence}"),
            )
            yield poller, Beat(poller, region, rng=rng)


async def _ended(task: asyncio.Task[None]) -> None:
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def _watchdog() -> None:
    """Tell systemd that the loop turns: it is the loop that machines wait for."""
    while True:
        notify("WATCHDOG=1")
        await asyncio.sleep(watchdog_interval_s() or UNWATCHED_S)


def _allow_many_connections() -> None:
    """A connection and its file are two descriptors; the usual soft limit would end at 500 machines at once."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    with suppress(ValueError, OSError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
