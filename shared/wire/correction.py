"""The Correction: what a region tells a rack whose request it refused for its time or its sequence, signed.

    HTTP/1.1 401
    Bootferry-Correction: <envelope>        payload {"now": 1782907200.5, "sequence": 0, "nonce": "…"}

- `now` is the region's time, in seconds since 1970: a rack whose clock is wrong signs with it and believes its own
  clock for everything else. `sequence` is the greatest that the rack has ever said; 0 where it was not looked up.
- `nonce` is that of the refused request. A rack believes the answer to what it has just sent and no other, so that
  nobody sets its clock with an answer of yesterday.
- A region says it to nobody whose signature does not fit: it signs nothing for strangers.
"""

from datetime import UTC, datetime
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import BadSignature
from shared.wire.envelope import open_envelope, seal
from shared.wire.messages import Whole, decode, encode

CORRECTION_HEADER = "Bootferry-Correction"
CORRECTION_TYPE = "application/vnd.bootferry.correction+json"
MAX_CORRECTION_BYTES = 4096
_ORIGIN = "The region's correction"


class Correction(msgspec.Struct, frozen=True):
    """The region's time, and the greatest sequence that it knows of a rack."""

    now: Annotated[float, msgspec.Meta(ge=0, le=100_000_000_000)]
    sequence: Whole
    nonce: str

    @property
    def at(self) -> datetime:
        """The region's time when it answered."""
        return datetime.fromtimestamp(self.now, UTC)

    def sealed(self, region_key: Ed25519PrivateKey) -> str:
        """What the header says."""
        return seal(region_key, CORRECTION_TYPE, encode(self)).decode()

    @classmethod
    def open(cls, header: str, region_key: Ed25519PublicKey, nonce: str) -> "Correction":
        """What it said of the request with this nonce. Raises InvalidDocument; BadSignature, also for another."""
        payload = open_envelope(header.encode(), CORRECTION_TYPE, [region_key], origin=_ORIGIN)
        said = decode(_ORIGIN, payload, cls, MAX_CORRECTION_BYTES)
        if said.nonce != nonce:
            raise BadSignature(_ORIGIN, "it answers another request")
        return said
