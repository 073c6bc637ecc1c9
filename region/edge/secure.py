"""The region's HTTP server inside TLS: uvicorn, with handshakes that count (`shared.handshakes`)."""

import asyncio
import socket
from typing import Any, cast

import uvicorn

from region.edge.house import House
from shared import tls
from shared.endings import part, reason_of
from shared.errors import BootferryError
from shared.handshakes import Handshakes
from shared.tls import Certificate


class SecureServer(uvicorn.Server):
    """A server whose connections all speak TLS, by the newest pair of `certificate`."""

    def __init__(self, config: uvicorn.Config, certificate: Certificate, house: House, handshake_s: float) -> None:
        super().__init__(config)
        self._certificate = certificate
        self._handshakes = Handshakes(lambda: certificate.context, house.shake_hands, within_s=handshake_s)
        self._following: asyncio.Task[None] | None = None
        self.fatal: BootferryError | None = None
        """Why the server has ended by itself."""
        inside = cast(Any, config.http)

        def newcomer(**given: Any) -> asyncio.BufferedProtocol:
            return self._handshakes.protocol(lambda: cast(asyncio.Protocol, inside(**given)))

        config.http = cast(Any, newcomer)

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Begin to listen, and to look at the certificate's files."""
        following = part("What reads the certificate again", tls.follow(self._certificate))
        self._following = asyncio.create_task(following)
        self._following.add_done_callback(self._ended)
        await super().startup(sockets)

    def _ended(self, following: "asyncio.Task[None]") -> None:
        if not following.cancelled() and (error := following.exception()) is not None:
            self.fatal, self.should_exit = reason_of(error), True

    def _log_started_message(self, listeners: Any) -> None:
        """Nothing: it would say http."""

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Let answers end; a handshake has nobody waiting for it yet."""
        if self._following is not None:
            self._following.cancel()
        self._handshakes.close()
        await super().shutdown(sockets)
