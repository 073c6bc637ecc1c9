"""OpenPGP's outer shapes (RFC 9580): ASCII armour to binary, binary to packets. Nothing here is checked or trusted."""

import base64
import binascii
import re
from collections.abc import Iterator
from typing import NamedTuple

ARMOUR = re.compile(
    rb"-----BEGIN PGP ([A-Z ]{1,40})-----[ \t\r]*\n"
    rb"(?:[A-Za-z-]{1,40}:[^\n]*\n)*"  # headers
    rb"[ \t\r]*\n"
    rb"([A-Za-z0-9+/=\s]*?)"
    rb"(?:\n=[A-Za-z0-9+/]{4}\s*)?"  # a checksum: RFC 9580, section 6.1 says not to look at it
    rb"-----END PGP \1-----"
)

# RFC 9580, section 5: packet types.
SIGNATURE, SECRET_KEY, PUBLIC_KEY, SECRET_SUBKEY, MARKER, TRUST, USER_ID = 2, 5, 6, 7, 10, 12, 13
PUBLIC_SUBKEY, USER_ATTRIBUTE = 14, 17


class Packet(NamedTuple):
    """One OpenPGP packet: its type, its body, and header and body as they stood."""

    tag: int
    body: bytes
    raw: bytes


class Malformed(ValueError):
    """Bytes are not whole OpenPGP packets or armour; the text completes a sentence."""


def blocks_of(raw: bytes) -> Iterator[bytes]:
    """The binary OpenPGP data in `raw`."""
    if not raw.strip():
        return
    if raw[0] & 0x80:
        yield raw
    elif raw[8:12] == b"KBXf":
        raise Malformed("it is a keybox, GnuPG's own database; export the keys from it (gpg --export)")
    elif b"-----BEGIN PGP" in raw:
        blocks = list(ARMOUR.finditer(raw))
        if len(blocks) != raw.count(b"-----BEGIN PGP"):
            raise Malformed("a block of its ASCII armour is damaged or cut off")
        for block in blocks:
            if block[1] == b"PRIVATE KEY BLOCK":
                raise Malformed("it holds a secret key; export the public key alone (gpg --armor --export)")
            yield from_base64(block[2])
    else:
        yield from_base64(raw)


def from_base64(text: bytes) -> bytes:
    try:
        return base64.b64decode(b"".join(text.split()), validate=True)
    except binascii.Error:
        raise Malformed("it is neither binary, nor ASCII armour, nor base64") from None


MAX_PACKETS = 10_000
"""Debian's keyring of all its developers has fewer; a million bytes can hold half a million."""


def packets_of(data: bytes) -> list[Packet]:
    """`data` as OpenPGP packets (RFC 9580, section 4.2), at most MAX_PACKETS of them. Raises Malformed."""
    packets: list[Packet] = []
    start = 0
    while start < len(data):
        if len(packets) == MAX_PACKETS:
            raise Malformed(f"it has more than {MAX_PACKETS} packets")
        tag, header, length = _packet_header(data, start)
        end = start + header + length
        if end > len(data):
            raise Malformed("an OpenPGP packet in it is cut off")
        packets.append(Packet(tag, data[start + header : end], data[start:end]))
        start = end
    return packets


def _packet_header(data: bytes, start: int) -> tuple[int, int, int]:
    """The packet's type, and how many bytes its header and its body have."""
    first, rest = data[start], data[start + 1 : start + 6]
    if not first & 0x80:
        raise Malformed("it is not OpenPGP data")
    if not first & 0x40:
        tag, width = first >> 2 & 0x0F, (1, 2, 4, 0)[first & 3]
    elif rest[:1] < b"\xc0":
        tag, width = first & 0x3F, 1
    elif rest[:1] < b"\xe0" and len(rest) > 1:
        return first & 0x3F, 3, (rest[0] - 192 << 8) + rest[1] + 192
    elif rest[:1] == b"\xff":
        return first & 0x3F, 6, int.from_bytes(rest[1:], "big")
    else:
        tag = width = 0
    if not width or len(rest) < width:
        raise Malformed("an OpenPGP packet in it has no definite length")
    return tag, 1 + width, int.from_bytes(rest[:width], "big")
