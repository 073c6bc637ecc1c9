"""Where the region listens, and that nobody's token goes over a network in the clear unless an operator said so."""

import ipaddress
import socket

from region.configuration import RegionConfiguration
from shared.errors import InvalidConfiguration
from shared.logs import logger
from shared.tls import Certificate, configured

log = logger(__name__)


def certificate_of(configuration: RegionConfiguration) -> Certificate | None:
    """What the region speaks TLS with; None for plain HTTP. Blocks.

    Raises InvalidConfiguration: the certificate cannot be used; or there is none, and others than this machine could
    connect, which takes `allow_plain_http`.
    """
    certificate = configured(configuration.tls_certificate, configuration.tls_key, "REGION_")
    if certificate is not None or is_loopback(configuration.host):
        return certificate
    if not configuration.allow_plain_http:
        raise InvalidConfiguration(
            f"REGION_HOST {configuration.host} can be reached from other machines, and without TLS everybody on the way"
            " reads tokens: set REGION_TLS_CERTIFICATE and REGION_TLS_KEY, or listen at 127.0.0.1 behind a proxy that"
            " speaks TLS, or set REGION_ALLOW_PLAIN_HTTP=true."
        )
    log.warning(
        f"The region listens at {configuration.host} without TLS, as REGION_ALLOW_PLAIN_HTTP says: whoever shares the"
        " network reads tokens.",
        action="start",
    )
    return None


def is_loopback(host: str) -> bool:
    """True if only this machine reaches what listens at `host`. Raises InvalidConfiguration. Blocks."""
    if not host:
        return False
    try:
        found = {str(info[4][0]) for info in socket.getaddrinfo(host, None, type=socket.SOCK_STREAM)}
    except (OSError, UnicodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "it is no host name"
        raise InvalidConfiguration(f"REGION_HOST {host} is no address of this machine: {why}.") from error
    return all(ipaddress.ip_address(address.partition("%")[0]).is_loopback for address in found)
