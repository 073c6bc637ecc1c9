"""OpenPGP packets made by hand (RFC 9580): keys, self-signatures, and a document that looks signed. Nothing is real."""

import base64
import hashlib

CREATED = 1_767_225_600
"""When the keys were made: 2026-01-01T00:00:00Z."""


def packet(tag: int, body: bytes) -> bytes:
    """In the new format, with a length of five octets."""
    return bytes([0xC0 | tag, 0xFF]) + len(body).to_bytes(4, "big") + body


def rsa_body(bits: int = 2048, *, algorithm: int = 1, says: int | None = None) -> bytes:
    """A version 4 RSA key whose modulus has so many bits, all of them set, and says that it has `says`."""
    modulus = ((1 << bits) - 1).to_bytes((bits + 7) // 8, "big")
    stated = bits if says is None else says
    return (
        b"\x04" + CREATED.to_bytes(4, "big") + bytes([algorithm]) + stated.to_bytes(2, "big") + modulus + b"\0\x11" * 9
    )


def other_body(algorithm: int, material: bytes = b"\x01\x02\x03") -> bytes:
    """A version 4 key of another kind."""
    return b"\x04" + CREATED.to_bytes(4, "big") + bytes([algorithm]) + material


def fingerprint(body: bytes) -> str:
    return hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False).hexdigest().upper()


def subpacket(kind: int, content: bytes) -> bytes:
    """With the shortest length that says how long it is."""
    size = len(content) + 1
    if size < 192:
        length = bytes([size])
    elif size < 16_320:
        length = bytes([(size - 192 >> 8) + 192, (size - 192) & 0xFF])
    else:
        length = b"\xff" + size.to_bytes(4, "big")
    return length + bytes([kind]) + content


def number(kind: int, value: int) -> bytes:
    return subpacket(kind, value.to_bytes(4, "big"))


def signature_body(kind: int, hashed: bytes, unhashed: bytes = b"", *, after: bytes = b"\xab\xcd\0\x01\x01") -> bytes:
    """A version 4 signature that nobody made; `after` are the quick check and the numbers."""
    areas = len(hashed).to_bytes(2, "big") + hashed + len(unhashed).to_bytes(2, "big") + unhashed
    return bytes([4, kind, 1, 10]) + areas + after


def clear_signed(
    text: bytes = b'{"format": "index:1.0"}', packets: bytes = b"\xc2\x01\x04", padding: bytes = b""
) -> bytes:
    """What has the form of a clear-signed text."""
    return (
        b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n"
        + text
        + b"\n-----BEGIN PGP SIGNATURE-----\n\n"
        + base64.b64encode(packets)
        + b"\n-----END PGP SIGNATURE-----\n"
        + padding
    )
