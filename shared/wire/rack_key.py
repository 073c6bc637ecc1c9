"""A rack's next key: the present one vouches for it, and it takes that one's place.

    PUT /api/v1/racks/{id}/key     {"format": "bootferry-rack-key:1", "public_key": "<32 bytes as base64url>"}

The request is signed by the present key, as every request of a rack (`shared.signing`): the signature covers the body,
the rack's id, the region it is meant for and a sequence, so the word counts once, here, and for this rack. From the
answer (204) on the region takes the new key, and the old one opens nothing any more.

A rack that did not hear the answer does not know which of the two counts. It keeps both, and asks with either: the
region takes exactly one.
"""

from typing import Self

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from shared.errors import InvalidDocument, InvalidValue
from shared.signing import encode_bytes, parse_public_key, public_bytes
from shared.wire.messages import decode, encode

RACK_KEY_FORMAT = "bootferry-rack-key:1"
MAX_RACK_KEY_BYTES = 1024
_WHAT = "The rack's next key"


class NextKey(msgspec.Struct, frozen=True):
    """The key a rack has from now on."""

    format: str
    public_key: str

    @classmethod
    def of(cls, key: Ed25519PublicKey) -> Self:
        """The message that names `key`."""
        return cls(RACK_KEY_FORMAT, encode_bytes(public_bytes(key)))

    def encode(self) -> bytes:
        """The body to sign and send."""
        return encode(self)

    @staticmethod
    def parse(body: bytes) -> str:
        """The key in `body`, as base64url. Raises InvalidDocument."""
        said = decode(_WHAT, body, NextKey, MAX_RACK_KEY_BYTES)
        if said.format != RACK_KEY_FORMAT:
            raise InvalidDocument(_WHAT, f"its format is {said.format[:100]!r}, not {RACK_KEY_FORMAT!r}")
        try:
            return encode_bytes(public_bytes(parse_public_key(said.public_key)))
        except InvalidValue as error:
            raise InvalidDocument(_WHAT, "it is no Ed25519 key") from error
