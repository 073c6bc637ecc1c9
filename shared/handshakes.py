"""TLS for a server: each new connection is known, and counted, before its handshake begins.

asyncio's own servers tell nobody of a connection until its handshake is done, which a stranger can put off. Here

- a connection enters when it is made, and may be refused, or closed while it still shakes hands;
- a handshake ends within `HANDSHAKE_S`, and a goodbye within `GOODBYE_S`;
- each handshake takes the certificate that counts when it begins;
- who speaks HTTP without TLS is told so, in HTTP;
- a connection holds a buffer of `BUFFER_BYTES` and no more: the loops' own 256 KiB are for who sends much.

It is asyncio's TLS on either loop: uvloop's has no place to begin between a connection and its first bytes.
"""

import asyncio
import ssl
import time
from asyncio.sslproto import SSLProtocol
from collections.abc import Callable

from shared.logs import logger

HANDSHAKE_S = 10.0
GOODBYE_S = 5
BUFFER_BYTES = 16 * 1024
_TOLD_EVERY_S = 60.0

_TOLD = b"This port speaks TLS: begin the address with https.\n"
_NO_TLS = (
    b"HTTP/1.1 400 Bad Request\r\nContent-Type: text/plain\r\nConnection: close\r\nContent-Length: %d\r\n\r\n%b"
    % (len(_TOLD), _TOLD)
)

Leave = Callable[[], None]
Enter = Callable[[str, Callable[[], None]], Leave | None]
"""(the other side's address, what closes the connection) to what says that its handshake is over; None refuses it."""

_log = logger(__name__)


class Handshakes:
    """The handshakes of one server."""

    def __init__(
        self,
        context: Callable[[], ssl.SSLContext],
        enter: Enter = lambda _host, _close: lambda: None,
        *,
        within_s: float = HANDSHAKE_S,
    ) -> None:
        self._context, self.enter, self._within_s = context, enter, within_s
        self.under_way: dict[_Connection, asyncio.Transport] = {}
        self._told_at = -_TOLD_EVERY_S
        self.failed = 0
        """Handshakes that were begun and led to no connection."""

    def protocol(self, make: Callable[[], asyncio.Protocol]) -> asyncio.BufferedProtocol:
        """What to give a new plain connection; what `make` makes gets the connection inside TLS."""
        return _Connection(self, make, self._context(), self._within_s)

    def close(self) -> None:
        """End those under way."""
        for transport in list(self.under_way.values()):
            transport.abort()

    def note_failure(self, host: str, error: BaseException | None) -> None:
        """One led to nothing; of those for whose end there is a reason, one a minute is told."""
        self.failed += 1
        if error is None or time.monotonic() - self._told_at < _TOLD_EVERY_S:
            return
        self._told_at = time.monotonic()
        why = "it took too long" if isinstance(error, ConnectionAbortedError) else "the other side went away"
        if isinstance(error, ssl.SSLError) and error.reason:
            why = error.reason.lower().replace("_", " ")
        _log.info(f"A TLS handshake failed: {why}.", action="tls", client=host, failed=self.failed)


class _Connection(SSLProtocol):
    """TLS on one connection."""

    max_size = BUFFER_BYTES

    def __init__(
        self,
        handshakes: Handshakes,
        make: Callable[[], asyncio.Protocol],
        context: ssl.SSLContext,
        within_s: float,
    ) -> None:
        super().__init__(
            asyncio.get_running_loop(),
            _Inside(self, make),
            context,
            None,  # type: ignore[arg-type]  # nobody waits for it
            server_side=True,
            ssl_handshake_timeout=within_s,  # type: ignore[arg-type]  # typeshed: whole seconds
            ssl_shutdown_timeout=GOODBYE_S,
        )
        self._handshakes = handshakes
        self._leave: Leave | None = None
        self._host = ""
        self._plain: asyncio.Transport | None = None
        self._reads_into: memoryview | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        peer = transport.get_extra_info("peername")
        self._host = str(peer[0]) if isinstance(peer, tuple) and peer else ""
        self._leave = self._handshakes.enter(self._host, transport.abort)
        if self._leave is None:
            transport.abort()
            return
        self._handshakes.under_way[self] = self._plain = transport
        super().connection_made(transport)

    def get_buffer(self, n: int) -> memoryview:
        self._reads_into = super().get_buffer(n)
        return self._reads_into

    def buffer_updated(self, nbytes: int) -> None:
        plain, self._plain = self._plain, None
        # A method of HTTP begins with a letter, a record of TLS with 22 (RFC 8446, section 5.1).
        if plain is not None and self._reads_into is not None and 65 <= self._reads_into[0] <= 90:
            plain.write(_NO_TLS)
            plain.close()
            return
        super().buffer_updated(nbytes)

    def is_through(self) -> None:
        """The handshake is over."""
        if self._leave is not None:
            self._handshakes.under_way.pop(self, None)
            self._leave()
            self._leave = None

    def connection_lost(self, exc: BaseException | None) -> None:
        if self._leave is not None:
            self.is_through()
            self._handshakes.note_failure(self._host, exc)
        super().connection_lost(exc)


class _Inside(asyncio.Protocol):
    """What stands inside TLS until the handshake is over, and makes place then."""

    def __init__(self, connection: _Connection, make: Callable[[], asyncio.Protocol]) -> None:
        self._connection, self._make = connection, make

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        self._connection.is_through()
        protocol = self._make()
        transport.set_protocol(protocol)
        protocol.connection_made(transport)
