"""Which addresses a request may go to. Pure: nothing here looks a name up or connects.

- NEVER: no image comes from there, and what answers there may be the machine's own metadata service or another
  machine's console: link-local, multicast, unspecified and reserved addresses, and the metadata addresses of clouds.
- PRIVATE: where mirrors and regions of a house live. Good where an operator named such a place; a redirect from a
  public address never leads there.
- An IPv6 address that carries an IPv4 address (RFC 4291, 6052, 8215, 3056, 4380) is what the carried one is, too.

Not done here: names. Whoever connects asks about the address that the name led to.
"""

import ipaddress
import socket
from collections.abc import Iterator

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

_NEVER = tuple(
    map(
        ipaddress.ip_network,
        (
            "0.0.0.0/8",
            "169.254.0.0/16",
            "224.0.0.0/4",
            "240.0.0.0/4",
            "100.100.100.200/32",  # Alibaba Cloud's metadata
            "168.63.129.16/32",  # Azure's
            "192.0.0.192/32",  # Oracle Cloud's
            "::/128",
            "fe80::/10",
            "ff00::/8",
            "fd00:ec2::/32",  # Amazon's: metadata, time, names
            "fd20:ce::/32",  # Google's
        ),
    )
)
_PRIVATE = tuple(
    map(
        ipaddress.ip_network,
        (
            "10.0.0.0/8",
            "100.64.0.0/10",
            "127.0.0.0/8",
            "172.16.0.0/12",
            "192.0.0.0/24",
            "192.168.0.0/16",
            "198.18.0.0/15",
            "::1/128",
            "64:ff9b:1::/48",
            "fc00::/7",
            "fec0::/10",
        ),
    )
)
_MAPPED = ipaddress.ip_network("::ffff:0:0/96")
_COMPATIBLE = ipaddress.ip_network("::/96")
_NAT64 = ipaddress.ip_network("64:ff9b::/96")
_LOCAL_NAT64 = ipaddress.ip_network("64:ff9b:1::/48")
_SIX_TO_FOUR = ipaddress.ip_network("2002::/16")
_TEREDO = ipaddress.ip_network("2001::/32")


def literal(host: str) -> Address | None:
    """The address that `host` spells, in any way the system's resolver takes for one; None for a name.

    Besides the usual forms: decimal, octal and hexadecimal IPv4, IPv4 of fewer parts, a dot at the end, a scope.
    """
    plain = host.removesuffix(".").partition("%")[0].strip("[]")
    try:
        return ipaddress.ip_address(plain)
    except ValueError:
        pass
    if plain != "".join(plain.split()):
        # inet_aton would take the first word.
        return None
    try:
        return ipaddress.IPv4Address(socket.inet_aton(plain))
    except (OSError, ValueError):
        return None


def is_forbidden(address: Address) -> bool:
    """True if no request may ever go there."""
    return any(one in network for one in _meanings(address) for network in _NEVER)


def is_private(address: Address) -> bool:
    """True if the address is one of this machine or of a house, so that a public place may not lead there."""
    return any(one in network for one in _meanings(address) for network in _PRIVATE)


def _meanings(address: Address) -> Iterator[Address]:
    """The address, and every IPv4 address that some gateway or kernel may take it for."""
    yield address
    if not isinstance(address, ipaddress.IPv6Address):
        return
    bits = int(address)
    if address in _MAPPED or address in _NAT64 or (address in _COMPATIBLE and bits > 1):
        yield _ipv4(bits)
    elif address in _LOCAL_NAT64:
        # Where the IPv4 address stands depends on how much of the prefix a network uses (RFC 6052, section 2.2), and
        # the byte after the first 64 bits is never part of it.
        joined = (bits >> 64) << 56 | bits & (2**56 - 1)
        found = [*(_ipv4(joined >> (120 - length - 32)) for length in (48, 56, 64)), _ipv4(bits)]
        # Read at the wrong place it begins with the zeros before it.
        yield from (one for one in found if int(one) >> 24)
    elif address in _SIX_TO_FOUR:
        yield _ipv4(bits >> 80)
    elif address in _TEREDO:
        yield _ipv4(bits >> 64)
        yield _ipv4(~bits)


def _ipv4(bits: int) -> ipaddress.IPv4Address:
    return ipaddress.IPv4Address(bits & (2**32 - 1))
