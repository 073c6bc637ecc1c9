"""How a rack and a region come to know each other's keys, once, without a secret on the wire.

A token is `bfe_<region's fingerprint>_<secret>`, both 32 bytes as base64url. The secret is the seed of an Ed25519 key
of which the region keeps the public half only: what proves the secret is a signature, and a stolen database enrols
nobody.

    rack    GET  /api/v1/region        its public key; the rack compares it with the fingerprint in the token
    rack    POST /api/v1/racks/enrol   envelope by the token's key: the rack's name and key, the region's fingerprint, a
                                       nonce, and when it was made
    region  201                        envelope by the region's key: the rack's id, name and public key, and the nonce

- A region takes what was made within five minutes of its own time; a rack whose clock is further off is told the time,
  for its nonce (`shared.wire.correction`).
- Racks of 0.1 send neither nonce nor time, and are taken until 0.3; regions of 0.1 answer no nonce. The key in a
  request was made for it, so an answer that names the key is never one of before.
"""

import json
import re
from dataclasses import asdict, dataclass, field, replace
from datetime import UTC, datetime
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import BadSignature, InvalidDocument, InvalidValue
from shared.names import Name
from shared.signing import (
    KEY_ID,
    decode_bytes,
    encode_bytes,
    parse_public_key,
    public_bytes,
    require_made_now,
)
from shared.wire.envelope import claimed_signer, open_envelope, seal

REQUEST_TYPE = "application/vnd.bootferry.enrolment-request+json"
ANSWER_TYPE = "application/vnd.bootferry.enrolment+json"
MAX_ENROLMENT_BYTES = 16 * 1024


@dataclass(frozen=True, slots=True)
class EnrolmentToken:
    """What an operator carries from the region to a rack. Whoever holds it may enrol: shown once, spent once."""

    region_fingerprint: str
    secret: bytes = field(repr=False)

    @classmethod
    def parse(cls, text: str) -> Self:
        """The token in `text`. Raises InvalidValue, which does not repeat the token (I7)."""
        # base64url may hold "_" itself: the two parts are cut by length, not by the separator.
        prefix, body = text.strip()[:4], text.strip()[4:]
        try:
            fingerprint, secret = decode_bytes(body[:43]), decode_bytes(body[44:])
        except InvalidValue:
            fingerprint = secret = b""
        if prefix != "bfe_" or len(fingerprint) != 32 or len(secret) != 32 or body[43:44] != "_":
            raise InvalidValue("enrolment token", "what was given", "it must be bfe_ and two parts of 43 characters")
        return cls(fingerprint.hex(), secret)

    def __str__(self) -> str:
        return f"bfe_{encode_bytes(bytes.fromhex(self.region_fingerprint))}_{encode_bytes(self.secret)}"

    def key(self) -> Ed25519PrivateKey:
        """The key whose signature proves the secret."""
        return Ed25519PrivateKey.from_private_bytes(self.secret)


@dataclass(frozen=True, slots=True)
class EnrolmentRequest:
    """A rack asks to be known as `name` by `public_key` (base64url)."""

    name: Name
    public_key: str
    region_fingerprint: str
    nonce: str = ""
    created_at: datetime | None = None

    def sealed(self, token: EnrolmentToken) -> bytes:
        """The envelope to send."""
        said = asdict(self)
        if self.created_at is None:
            del said["nonce"], said["created_at"]
        else:
            said["created_at"] = self.created_at.astimezone(UTC).isoformat()
        return seal(token.key(), REQUEST_TYPE, json.dumps(said).encode())

    def require_made_at(self, now: datetime) -> None:
        """Raises WrongClock unless this was made within five minutes of `now`. A rack of 0.1 says no time."""
        if self.created_at is None:
            return
        behind_s = (now - self.created_at).total_seconds()
        require_made_now(now, behind_s, self.nonce)

    @classmethod
    def open(cls, envelope: bytes, token_key: Ed25519PublicKey) -> Self:
        """The request, made by whoever holds the token of `token_key`. Raises BadSignature, InvalidDocument."""
        origin = "The enrolment request"
        payload = open_envelope(envelope, REQUEST_TYPE, [token_key], origin=origin)
        try:
            document = json.loads(payload)
            key = parse_public_key(document["public_key"])
            asked = cls(Name(document["name"]), encode_bytes(public_bytes(key)), str(document["region_fingerprint"]))
            if "nonce" not in document and "created_at" not in document:
                return asked
            return replace(asked, nonce=_nonce(document["nonce"]), created_at=_moment(document["created_at"]))
        except (ValueError, KeyError, TypeError, RecursionError, InvalidValue) as error:
            raise InvalidDocument(origin, _reason(error)) from error

    @staticmethod
    def claimed_token(envelope: bytes) -> str:
        """The fingerprint of the token's key by which the envelope claims to be signed. Raises InvalidDocument."""
        return claimed_signer(envelope, origin="The enrolment request")


@dataclass(frozen=True, slots=True)
class Enrolment:
    """The region knows this rack from now on: requests signed by the rack's key and carrying `rack_id` are accepted."""

    rack_id: str
    name: Name
    public_key: str
    nonce: str = ""

    def sealed(self, region_key: Ed25519PrivateKey) -> bytes:
        """The envelope to answer with."""
        return seal(region_key, ANSWER_TYPE, json.dumps(asdict(self)).encode())

    @classmethod
    def open(cls, envelope: bytes, region_key: Ed25519PublicKey, asked: EnrolmentRequest) -> Self:
        """The region's answer to `asked`. Raises BadSignature, also for another rack's answer; InvalidDocument."""
        origin = "The region's answer to the enrolment"
        payload = open_envelope(envelope, ANSWER_TYPE, [region_key], origin=origin)
        try:
            document = json.loads(payload)
            answer = cls(
                _rack_id(document["rack_id"]),
                Name(document["name"]),
                str(document["public_key"]),
                str(document.get("nonce", asked.nonce)),
            )
        except (ValueError, KeyError, TypeError, RecursionError, InvalidValue) as error:
            raise InvalidDocument(origin, _reason(error)) from error
        if answer.public_key != asked.public_key:
            raise BadSignature(origin, "it is meant for another rack's key")
        if answer.nonce != asked.nonce:
            raise BadSignature(origin, "it answers another request")
        return answer


def _rack_id(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch(KEY_ID, value):
        raise InvalidValue("rack_id", value, "it must be 1 to 64 letters, digits and dashes")
    return value


def _nonce(value: object) -> str:
    if not isinstance(value, str) or not re.fullmatch("[0-9a-f]{32}", value):
        raise InvalidValue("nonce", value, "it must be 32 hexadecimal digits")
    return value


def _moment(value: object) -> datetime:
    moment = datetime.fromisoformat(value) if isinstance(value, str) else None
    if moment is None or moment.tzinfo is None:
        raise InvalidValue("created_at", value, "it must be a time with its UTC offset")
    return moment


def _reason(error: Exception) -> str:
    match error:
        case KeyError():
            return f"the field {error} is missing"
        case InvalidValue():
            return str(error).rstrip(".")
        case json.JSONDecodeError() | UnicodeDecodeError():
            return "it is not JSON"
        case RecursionError():
            return "it is nested too deeply"
    return "it does not have the form of one"
