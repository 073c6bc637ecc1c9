"""The way of one request: which addresses it may lead to, looked at when they are connected to.

- What `shared.addresses` forbids is never connected to, however the URL spells it and whatever name leads there.
- A private address is good for the URL that was asked for. A redirect leads to one only while every address that has
  answered so far was private, too.
- What is looked at is what is connected to: nobody can change a name's address in between. A connection that another
  request has left open is looked at like a new one.
- A proxy's own address is the operator's choice. Behind one, names are the proxy's to look up; a target that spells an
  address is looked at, and a redirect may spell a private one only where the URL that was asked for spells one, too.
"""

import errno
import ipaddress
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from typing import Any

import aiohttp
from yarl import URL

from shared.addresses import Address, is_forbidden, is_private, literal

AddressInfo = tuple[Any, ...]
"""As `socket.getaddrinfo` gives it: family, type, protocol, canonical name, address."""


def system_socket(info: AddressInfo) -> socket.socket:
    """A socket for this address, not connected yet."""
    family, kind, protocol, *_ = info
    return socket.socket(family, kind, protocol)


class Refused(OSError):
    """An address that this way may not lead to. As an OSError it costs a name its one address, not its others."""

    def __init__(self, address: Address) -> None:
        # The same text for each: aiohappyeyeballs passes on one error where all are alike.
        super().__init__(errno.EACCES, "the address is not one a request may go to")
        self.address = str(address)


@dataclass(slots=True)
class Way:
    """Where one request may go. It begins at the URL that was asked for, and what it meets there decides the rest."""

    proxied: bool = False
    private: bool = True

    def require_named(self, target: URL) -> None:
        """Behind a proxy, raises Refused for a URL that spells an address this way may not lead to.

        Else the address that is connected to is looked at, however it was spelled.
        """
        address = literal(target.host or "") if self.proxied else None
        if address is not None:
            self.require(address)

    def require(self, address: Address) -> None:
        """Raises Refused unless this way may lead to the address."""
        if is_forbidden(address) or (not self.private and is_private(address)):
            raise Refused(address)

    def met(self, address: Address) -> None:
        """Take in where the connection leads: past a public address, no private one comes."""
        self.require(address)
        self.private = is_private(address)

    def turn(self, home: URL, target: URL) -> None:
        """A redirect leads to `target`. Behind a proxy nobody knows what address answered; what was named counts."""
        if self.proxied and target.host != home.host:
            own = literal(home.host or "")
            self.private = own is not None and is_private(own)


_WAY: ContextVar[Way] = ContextVar("way")


@contextmanager
def going(way: Way) -> Iterator[None]:
    """Inside, what this task connects to is connected to on this way."""
    before = _WAY.set(way)
    try:
        yield
    finally:
        _WAY.reset(before)


def guarded(open_socket: Callable[[AddressInfo], socket.socket]) -> Callable[[AddressInfo], socket.socket]:
    """`open_socket`, less the addresses that the request under way may not go to."""

    def guard(info: AddressInfo) -> socket.socket:
        way = _WAY.get(Way())
        if not way.proxied:
            way.require(_address(info[4]))
        return open_socket(info)

    return guard


class Connector(aiohttp.TCPConnector):
    """Looks at each connection before anything is sent, one that was kept from another request too."""

    async def connect(self, req: Any, traces: Any, timeout: Any) -> Any:
        connection = await super().connect(req, traces, timeout)
        way = _WAY.get(Way())
        peer = connection.transport.get_extra_info("peername") if connection.transport else None
        if not way.proxied and peer:
            try:
                way.met(_address(peer))
            except Refused:
                connection.close()
                raise
        return connection


def _address(where: tuple[Any, ...]) -> Address:
    """The address of a socket's name; its scope says only through which card it is reached."""
    return ipaddress.ip_address(str(where[0]).partition("%")[0])
