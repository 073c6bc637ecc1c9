"""Envelopes: a message, its type, and who vouches for both. https://github.com/secure-systems-lab/dsse, envelope.md:

    {"payloadType":"<type>","payload":"<base64>","signatures":[{"keyid":"<64 hex>","sig":"<base64 of 64 bytes>"}]}

- The type is signed together with the bytes (protocol.md, "PAE"), so that one kind of message never passes for another.
- An envelope has exactly this spelling, with one to four signatures: it is read by its fixed beginning and end, and
  nothing of it is built before a signature was found good.
- Base64 (RFC 4648 section 4) is padded, and its unused bits are zero: one payload and one signature have one spelling.
- More than 16 MiB is no envelope, whoever signed it.
- `open_envelope` gives the payload to nobody who has not verified it.
"""

import base64
import binascii
import re
from collections.abc import Iterable

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import BadSignature, InvalidDocument
from shared.signing import fingerprint
from shared.sizes import spoken_size

MEDIA_TYPE = "application/vnd.dsse.envelope.v1+json"
MAX_ENVELOPE_BYTES = 16 * 1024 * 1024

_HEAD = re.compile(rb'\{"payloadType":"([A-Za-z0-9./+-]{1,128})","payload":"')
_SIGNATURE = rb'\{"keyid":"([0-9a-f]{64})","sig":"([A-Za-z0-9+/]{85}[AQgw]==)"\}'
_SIGNATURES = re.compile(_SIGNATURE)
_TAIL = re.compile(rb'","signatures":\[' + _SIGNATURE + rb"(?:," + _SIGNATURE + rb"){0,3}\]\}\Z")
_MAX_TAIL_BYTES = 1024
_BASE64_END = re.compile(rb"(?:[A-Za-z0-9+/]{4}|[A-Za-z0-9+/]{2}[AEIMQUYcgkosw048]=|[A-Za-z0-9+/][AQgw]==)\Z")
"""The last four characters of base64 whose unused bits are zero; Python's decoder takes any."""


def seal(key: Ed25519PrivateKey, payload_type: str, payload: bytes) -> bytes:
    """An envelope that says the holder of `key` vouches for `payload` being a `payload_type`."""
    signature = base64.b64encode(key.sign(_pre_authentication(payload_type, payload)))
    return b'{"payloadType":"%s","payload":"%s","signatures":[{"keyid":"%s","sig":"%s"}]}' % (
        payload_type.encode(),
        base64.b64encode(payload),
        fingerprint(key).encode(),
        signature,
    )


def open_envelope(envelope: bytes, payload_type: str, keys: Iterable[Ed25519PublicKey], *, origin: str) -> bytes:
    """The payload, for which one of `keys` has vouched as a `payload_type`. `origin` names the envelope in errors.

    Raises InvalidDocument when it is no envelope of that type, BadSignature when no key fits.
    """
    found_type, start, end = _framed(envelope, origin)
    if found_type != payload_type:
        raise InvalidDocument(origin, f"it holds {found_type!r} where {payload_type!r} is expected")
    try:
        if start != end and not _BASE64_END.match(envelope, end - 4, end):
            raise binascii.Error
        payload = base64.b64decode(memoryview(envelope)[start:end], validate=True)
    except binascii.Error as error:
        raise InvalidDocument(origin, "it is not a signed envelope") from error
    signed = _pre_authentication(payload_type, payload)
    signatures = [base64.b64decode(sig) for _, sig in _SIGNATURES.findall(envelope, end)]
    trusted = list(keys)
    for signature in signatures:
        for key in trusted:
            try:
                key.verify(signature, signed)
            except InvalidSignature:
                continue
            return payload
    raise BadSignature(origin, f"none of its {len(signatures)} signatures is by {_named(trusted)}")


def claimed_signer(envelope: bytes, *, origin: str) -> str:
    """The fingerprint of the key by which the envelope claims to be signed first; nothing is proved by it.

    Raises InvalidDocument.
    """
    _, _, end = _framed(envelope, origin)
    found = _SIGNATURES.search(envelope, end)
    assert found is not None  # noqa: S101 - `_framed` has matched it
    return found[1].decode()


def _framed(envelope: bytes, origin: str) -> tuple[str, int, int]:
    """The type, and where the payload begins and ends."""
    if len(envelope) > MAX_ENVELOPE_BYTES:
        raise InvalidDocument(origin, f"it is larger than {spoken_size(MAX_ENVELOPE_BYTES)}")
    head = _HEAD.match(envelope)
    tail = _TAIL.search(envelope, max(head.end(), len(envelope) - _MAX_TAIL_BYTES)) if head else None
    if head is None or tail is None:
        raise InvalidDocument(origin, "it is not a signed envelope")
    return head[1].decode(), head.end(), tail.start()


def _pre_authentication(payload_type: str, payload: bytes) -> bytes:
    kind = payload_type.encode()
    return b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)


def _named(keys: Iterable[Ed25519PublicKey]) -> str:
    return " or ".join(f"key {fingerprint(key)[:16]}" for key in keys) or "a known key"
