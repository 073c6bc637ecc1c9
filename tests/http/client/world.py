"""An internet of a test's own: what names lead to, and sockets that say they are connected to it."""

import errno
import socket
from dataclasses import dataclass, field
from typing import Any

from aiohttp.abc import AbstractResolver, ResolveResult

from shared.way import AddressInfo

DISGUISES = ["2852039166", "0251.0376.0251.0376", "169.254.43518", "0", "169.254.169.254."]


class Diverted(socket.socket):
    """A socket that says it is connected where it was meant to go, and is connected to the same port of 127.0.0.1."""

    meant: tuple[str, int] = ("", 0)

    def connect(self, address: Any) -> None:
        self.meant = (address[0], address[1])
        super().connect(("127.0.0.1", address[1]))

    def getpeername(self) -> tuple[str, int]:
        return self.meant


@dataclass
class World(AbstractResolver):
    """Names and addresses as a test wants them. No connection leaves this machine, whoever takes what guard out."""

    names: dict[str, list[str]] = field(default_factory=dict)
    opened: list[str] = field(default_factory=list)

    def open_socket(self, info: AddressInfo) -> socket.socket:
        self.opened.append(str(info[4][0]))
        if info[0] != socket.AF_INET:
            raise ConnectionRefusedError(errno.ECONNREFUSED, "nobody lives there")
        return Diverted(socket.AF_INET, socket.SOCK_STREAM)

    async def resolve(
        self, host: str, port: int = 0, family: socket.AddressFamily = socket.AF_INET
    ) -> list[ResolveResult]:
        if host not in self.names:
            # Numbers in disguise are what the system's resolver takes for addresses without asking anybody.
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_NUMERICHOST)
            addresses = [str(info[4][0]) for info in found]
        else:
            addresses = self.names[host]
        return [
            ResolveResult(
                hostname=host,
                host=address,
                port=port,
                family=socket.AF_INET6 if ":" in address else socket.AF_INET,
                proto=0,
                flags=socket.AI_NUMERICHOST,
            )
            for address in addresses
        ]

    async def close(self) -> None:
        pass
