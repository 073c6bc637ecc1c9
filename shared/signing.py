"""Ed25519 (RFC 8032): who said this?

Two things are signed: *messages* (a manifest, the answer to an enrolment), see `shared.wire.envelope`, and *requests*.

A *request* of a rack is signed with HTTP message signatures (RFC 9421) over its method, path, query and, where it has a
body, its Content-Digest (RFC 9530). `@authority` is left out: racks may reach the region through a proxy that renames
it, and a key is known to one region only.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Mapping, MutableMapping
from contextlib import suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key
from http_message_signatures import (
    HTTPMessageSignaturesException,
    HTTPMessageSigner,
    HTTPMessageVerifier,
    algorithms,
)
from http_message_signatures import InvalidSignature as InvalidHttpSignature
from http_message_signatures.digests import ContentDigest
from http_message_signatures.resolvers import MappingKeyResolver

from shared.disk import create_whole
from shared.errors import InvalidDocument, InvalidRequestSignature, InvalidValue

REQUEST_LIFETIME_S = 300
_REQUEST_TAG = "bootferry-rack"
_COVERED = ("@method", "@path", "@query")
_KEY_ID = re.compile(r';keyid="([0-9a-zA-Z-]{1,64})"')


def public_bytes(key: Ed25519PrivateKey | Ed25519PublicKey) -> bytes:
    """The 32 bytes of the public key."""
    return (key.public_key() if isinstance(key, Ed25519PrivateKey) else key).public_bytes_raw()


def parse_public_key(text: object) -> Ed25519PublicKey:
    """The key in `text`, 32 bytes as unpadded base64url. Raises InvalidValue."""
    try:
        return Ed25519PublicKey.from_public_bytes(decode_bytes(text))
    except ValueError as error:
        raise InvalidValue("public key", text, "it must be an Ed25519 key, 32 bytes as base64url") from error


def encode_bytes(raw: bytes) -> str:
    """`raw` as unpadded base64url (RFC 4648 section 5)."""
    return base64.urlsafe_b64encode(raw).rstrip(b"=").decode()


def decode_bytes(text: object) -> bytes:
    """The bytes in `text`: unpadded base64url whose unused bits are zero, their one spelling. Raises InvalidValue."""
    if not isinstance(text, str):
        raise InvalidValue("base64url text", text, "it must be text")
    try:
        if not re.fullmatch("[A-Za-z0-9_-]*", text):
            raise ValueError(text)
        raw = base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))
    except (ValueError, binascii.Error) as error:
        raise InvalidValue("base64url text", text, "it has other characters") from error
    if encode_bytes(raw) != text:
        raise InvalidValue("base64url text", text, "its last character has bits that mean nothing")
    return raw


def fingerprint(key: Ed25519PrivateKey | Ed25519PublicKey) -> str:
    """The SHA-256 of the public key's 32 bytes, hexadecimal: how people and tokens name a key."""
    return hashlib.sha256(public_bytes(key)).hexdigest()


def load_or_create_key(path: Path) -> Ed25519PrivateKey:
    """The private key kept at `path` (PEM, mode 0600), made on first use; of processes that race, all get the same one.

    Raises InvalidDocument when the file is not such a key.
    """
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        fresh = Ed25519PrivateKey.generate().private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
        with suppress(FileExistsError):
            create_whole(path, fresh)
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidDocument(str(path), "it is not a PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidDocument(str(path), "it is not an Ed25519 key")
    return key


@dataclass(slots=True)
class _Message:
    """A request as http-message-signatures reads it; path and query decide, the origin is not covered."""

    method: str
    path_and_query: str
    headers: MutableMapping[str, str] = field(default_factory=dict)

    @property
    def url(self) -> str:
        return f"http://region{self.path_and_query}"


def sign_request(
    key: Ed25519PrivateKey, key_id: str, method: str, path_and_query: str, body: bytes | None, *, now: datetime
) -> dict[str, str]:
    """The headers that make `verify_request` accept the request: Signature, Signature-Input and Content-Digest."""
    message = _Message(method, path_and_query)
    HTTPMessageSigner(
        signature_algorithm=algorithms.ED25519,
        key_resolver=MappingKeyResolver(private_keys={key_id: key}, public_keys={}),
    ).sign(
        message,
        key_id=key_id,
        created=now,
        label="rack",
        tag=_REQUEST_TAG,
        covered_component_ids=_COVERED,
        body=body,
    )
    return dict(message.headers)


class _Verifier(HTTPMessageVerifier):
    """The library's, but for time: it asks the machine's clock and grants 5 seconds; `verify_request` asks `now`."""

    def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:
        """Nothing: `created` is judged by `verify_request`, and our requests carry no `expires`."""


def claimed_key_id(headers: Mapping[str, str]) -> str:
    """The key id a request claims to be signed with, to look the key up; nothing is proved by it.

    Raises InvalidRequestSignature when the request carries no RFC 9421 signature. `headers` has lower-case names.
    """
    found = _KEY_ID.search(headers.get("signature-input", ""))
    if not found or "signature" not in headers:
        raise InvalidRequestSignature("there is none")
    return found[1]


def _why(said: str) -> str:
    """What the library says of a signature, in our words."""
    if found := re.search(r"component (\S+) was not covered", said):
        return f"it does not cover {found[1]}"
    if "created" in said or "future" in said:
        return "it does not say as `created` when it was made, or another time than now"
    if "digest" in said.lower():
        return "the body is not the one that was signed"
    return "it does not fit this request and the key this rack enrolled with"


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a request vouches for: its method, path and query, and the digest of a body that follows."""

    covered: Mapping[str, str]
    has_digest: bool


def verify_head(
    key: Ed25519PublicKey,
    key_id: str,
    method: str,
    path_and_query: str,
    headers: Mapping[str, str],
    *,
    now: datetime,
) -> Head:
    """What the holder of `key` sent within five minutes of `now`. The body is vouched for by `verify_body` alone.

    `headers` has lower-case names. Raises InvalidRequestSignature.
    """
    try:
        results = _Verifier(
            signature_algorithm=algorithms.ED25519,
            key_resolver=MappingKeyResolver(public_keys={key_id: key}, private_keys={}),
        ).verify(
            _Message(method, path_and_query, dict(headers)),
            max_age=None,
            expect_tag=_REQUEST_TAG,
            require_components=_COVERED,
        )
    except (InvalidHttpSignature, HTTPMessageSignaturesException, ValueError) as error:
        raise InvalidRequestSignature(_why(str(error))) from error
    created = results[0].parameters.get("created")
    skew_s = abs(now.timestamp() - created) if isinstance(created, int) else None
    if skew_s is None or skew_s > REQUEST_LIFETIME_S:
        raise InvalidRequestSignature(
            f"it was created at another time than now, {now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC"
        )
    return Head(results[0].covered_components, "content-digest" in headers)


def verify_body(head: Head, body: bytes) -> None:
    """Raises InvalidRequestSignature unless `body` is what the head was signed with."""
    try:
        vouched = ContentDigest.verify_components(head.covered, body)
    except (InvalidHttpSignature, HTTPMessageSignaturesException, ValueError) as error:
        raise InvalidRequestSignature(_why(str(error))) from error
    if not vouched and (body or head.has_digest):
        raise InvalidRequestSignature('it does not cover "content-digest"')


def verify_request(
    key: Ed25519PublicKey,
    key_id: str,
    method: str,
    path_and_query: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    now: datetime,
) -> None:
    """`verify_head` and `verify_body` at once: method, path, query and body are vouched for."""
    verify_body(verify_head(key, key_id, method, path_and_query, headers, now=now), body or b"")
