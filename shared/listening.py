"""Listening: a service takes its port before it begins, so that one that is taken is told in one sentence."""

import errno
import socket
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from shared.errors import Conflict, InvalidConfiguration
from shared.systemd import handed_over

BACKLOG = 1_024
"""Connections that the kernel holds until they are taken; net.core.somaxconn caps it."""


@contextmanager
def listening(service: str, host: str, port: int, setting: str = "") -> Iterator[list[socket.socket]]:
    """Inside, whoever connects to `port` of `host` waits to be taken; one socket for each address of a name.

    `service` begins the names of the settings: "REGION"; `setting` is the port's where it is not REGION_PORT. Raises
    Conflict when another process has the port; InvalidConfiguration when the address is none of this machine's, or the
    port is forbidden to this user.
    """
    with ExitStack() as stack:
        yield [stack.enter_context(found) for found in _sockets(service, host, port, setting or f"{service}_PORT")]


def _sockets(service: str, host: str, port: int, setting: str) -> list[socket.socket]:
    # Where the region listens decides whether it may speak without TLS: only a rack takes a port as somebody opened it.
    if service == "RACK" and (given := handed_over(port)) is not None:
        return [given]
    made: list[socket.socket] = []
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        for family, _, _, _, address in dict.fromkeys(found):
            # Asked for all of IPv6, a machine that speaks IPv4 only is meant too.
            both = family == socket.AF_INET6 and address[0] == "::" and socket.has_dualstack_ipv6()
            made.append(socket.create_server(address, family=family, backlog=BACKLOG, dualstack_ipv6=both))
    except socket.gaierror as error:
        raise InvalidConfiguration(f"{service}_HOST {host} is no address of this machine: {error.strerror}.") from error
    except OSError as error:
        for listener in made:
            listener.close()
        if error.errno == errno.EADDRINUSE:
            raise Conflict(
                f"Port {port} of {host} is in use by another process; stop it, or set {setting} or {service}_HOST."
            ) from error
        raise InvalidConfiguration(
            f"The {service.lower()} cannot listen at {service}_HOST {host}, {setting} {port}: {error.strerror}."
        ) from error
    return made
