"""Ed25519 (RFC 8032): who said this?

Two things are signed: *messages* (a manifest, the answer to an enrolment), see `shared.wire.envelope`, and *requests*,
with HTTP message signatures (RFC 9421) of one fixed shape:

    Content-Digest: sha-256=:<base64>:                              a request with a body (RFC 9530)
    Bootferry-Region: <fingerprint of the region's key>
    Bootferry-Sequence: <a number that rises>                       every request but GET and HEAD
    Signature-Input: rack=("@method" "@path" "@query" "content-digest" "bootferry-region" "bootferry-sequence")
                     ;created=<seconds>;keyid="<rack's id>";alg="ed25519";nonce="<32 hex>";tag="bootferry-rack"
    Signature: rack=:<base64>:

- What a line above says is not there is not covered either; anything else is no signature, so that nothing is parsed
  but this.
- `@authority` is left out: racks may reach the region through a proxy that renames it. The region's fingerprint says
  whom a request is meant for.
- The sequence is compared by whoever makes the change, in the same transaction: a request counts once, in whichever
  process it arrives.
- `nonce` makes each request one of its own, so that an answer can name the one it answers (`shared.wire.correction`).
- Racks of 0.1 sign neither region, sequence nor nonce. They are accepted until 0.3.
"""

import base64
import binascii
import hashlib
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from shared.disk import load_or_create
from shared.errors import InvalidDocument, InvalidRequestSignature, InvalidValue, WrongClock

REQUEST_LIFETIME_S = 300
MAX_SEQUENCE = 2**63 - 1
SEQUENCE_AHEAD = timedelta(days=1)
"""Sequences are milliseconds since 1970; a region takes none that lies further ahead of its clock."""
KEY_ID = "[0-9a-zA-Z-]{1,64}"
"""What a rack's id looks like, as a regular expression."""

_READS = ("GET", "HEAD")
_HEADERS = ("content-digest", "bootferry-region", "bootferry-sequence")
_KEY_ID = re.compile(rf';keyid="({KEY_ID})"')
_INPUT = re.compile(
    r'rack=(\("@method" "@path" "@query"(?P<digest> "content-digest")?'
    r'(?P<region> "bootferry-region")?(?P<sequence> "bootferry-sequence")?\)'
    r';created=(?P<created>0|[1-9][0-9]{0,11});keyid="(?P<key_id>' + KEY_ID + r')";alg="ed25519"'
    r'(?:;nonce="(?P<nonce>[0-9a-f]{32})")?;tag="bootferry-rack")'
)
_SIGNATURE = re.compile(r"rack=:([A-Za-z0-9+/]{85}[AQgw]==):")
_DIGEST = re.compile(r"sha-256=:([A-Za-z0-9+/]{42}[AEIMQUYcgkosw048]=):")
_SEQUENCE = re.compile(r"[1-9][0-9]{0,18}")
_UNFIT = "it does not fit this request and the key this rack enrolled with"
_SHAPE = (
    "it does not cover @method, @path, @query, content-digest where there is a body, bootferry-region, and in a change"
    " bootferry-sequence, or does not say created, keyid, alg, nonce and tag, all in this order"
)


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

    It survives a loss of power once this has returned. Raises InvalidDocument when the file is not such a key; OSError.
    """
    load_or_create(path, lambda: private_pem(Ed25519PrivateKey.generate()))
    return load_key(path)


def private_pem(key: Ed25519PrivateKey) -> bytes:
    """What a file holds that keeps `key`: PKCS 8 in PEM, not encrypted."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def load_key(path: Path) -> Ed25519PrivateKey:
    """The private key kept at `path`. Raises FileNotFoundError; InvalidDocument when the file is not such a key."""
    try:
        key = load_pem_private_key(path.read_bytes(), password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as error:
        raise InvalidDocument(str(path), "it is not a PEM private key") from error
    if not isinstance(key, Ed25519PrivateKey):
        raise InvalidDocument(str(path), "it is not an Ed25519 key")
    return key


def sign_request(
    key: Ed25519PrivateKey,
    key_id: str,
    region: str,
    method: str,
    path_and_query: str,
    body: bytes | None,
    *,
    now: datetime,
    nonce: str,
    sequence: int | None = None,
) -> dict[str, str]:
    """The headers that make `verify_request` accept the request, once.

    `region` is the fingerprint of the region it is meant for, `nonce` 32 hexadecimal digits that were never used
    before, `sequence` a number above all before; a GET or HEAD has none.
    """
    headers: dict[str, str] = {}
    if body is not None:
        headers["Content-Digest"] = f"sha-256=:{base64.b64encode(hashlib.sha256(body).digest()).decode()}:"
    headers["Bootferry-Region"] = region
    if method not in _READS:
        headers["Bootferry-Sequence"] = str(sequence)
    covered = ['"@method"', '"@path"', '"@query"', *(f'"{name.lower()}"' for name in headers)]
    parameters = (
        f'({" ".join(covered)});created={int(now.timestamp())};keyid="{key_id}";alg="ed25519";nonce="{nonce}"'
        ';tag="bootferry-rack"'
    )
    signature = key.sign(_signature_base(method, path_and_query, headers, parameters))
    headers["Signature-Input"] = f"rack={parameters}"
    headers["Signature"] = f"rack=:{base64.b64encode(signature).decode()}:"
    return headers


def claimed_key_id(headers: Mapping[str, str]) -> str:
    """The key id a request claims to be signed with, to look the key up; nothing is proved by it.

    Raises InvalidRequestSignature when the request carries no RFC 9421 signature. `headers` has lower-case names.
    """
    found = _KEY_ID.search(headers.get("signature-input", ""))
    if not found or "signature" not in headers:
        raise InvalidRequestSignature("there is none")
    return found[1]


@dataclass(frozen=True, slots=True)
class Head:
    """What the head of a request vouches for: its method, path and query, and that the body has the SHA-256 `digest`.

    `digest` is None where no body was signed, `sequence` None for a GET or HEAD. A rack of 0.1 sends no sequence ever,
    and an empty `nonce`.
    """

    digest: bytes | None
    sequence: int | None
    nonce: str


def verify_head(
    key: Ed25519PublicKey,
    key_id: str,
    method: str,
    path_and_query: str,
    headers: Mapping[str, str],
    *,
    region: str,
    now: datetime,
    formerly: Collection[str] = (),
) -> Head:
    """What the holder of `key` sent to the region with the fingerprint `region` within five minutes of `now`.

    `formerly` are fingerprints that the region had before, and by which it may still be meant.
    The body is vouched for by `verify_body` alone, and a sequence by nobody but who compares it with the last one.
    `headers` has lower-case names. Raises InvalidRequestSignature; WrongClock when all is well but the time.
    """
    said = _INPUT.fullmatch(headers.get("signature-input", ""))
    signature = _SIGNATURE.fullmatch(headers.get("signature", ""))
    if signature is None:
        raise InvalidRequestSignature(_UNFIT)
    if said is None or said["key_id"] != key_id:
        raise InvalidRequestSignature(_SHAPE)
    if said["region"]:
        if not said["nonce"] or bool(said["sequence"]) == (method in _READS):
            raise InvalidRequestSignature(_SHAPE)
    elif said["nonce"] or said["sequence"]:
        raise InvalidRequestSignature(_SHAPE)
    covered = {name: headers.get(name, "") for name in _HEADERS if f'"{name}"' in said[1]}
    try:
        key.verify(base64.b64decode(signature[1]), _signature_base(method, path_and_query, covered, said[1]))
    except (InvalidSignature, UnicodeEncodeError) as error:
        raise InvalidRequestSignature(_UNFIT) from error
    if said["region"] and covered["bootferry-region"] not in (region, *formerly):
        raise InvalidRequestSignature("it is meant for another region; enrol the rack here")
    behind_s = now.timestamp() - int(said["created"])
    require_made_now(now, behind_s, said["nonce"] or "")
    return Head(
        _digest(covered["content-digest"]) if said["digest"] else None,
        _sequence(covered["bootferry-sequence"]) if said["sequence"] else None,
        said["nonce"] or "",
    )


def require_made_now(now: datetime, behind_s: float, nonce: str) -> None:
    """Raises WrongClock when something was made more than five minutes before `now`, or after it."""
    if abs(behind_s) > REQUEST_LIFETIME_S:
        raise WrongClock(f"{now.astimezone(UTC):%Y-%m-%d %H:%M:%S} UTC", behind_s, nonce)


def verify_body(head: Head, body: bytes) -> None:
    """Raises InvalidRequestSignature unless `body` is what the head was signed with."""
    signed = hashlib.sha256(b"").digest() if head.digest is None else head.digest
    if hashlib.sha256(body).digest() != signed:
        raise InvalidRequestSignature("the body is not the one that was signed")


def verify_request(
    key: Ed25519PublicKey,
    key_id: str,
    method: str,
    path_and_query: str,
    headers: Mapping[str, str],
    body: bytes | None,
    *,
    region: str,
    now: datetime,
    formerly: Collection[str] = (),
) -> Head:
    """`verify_head` and `verify_body` at once: method, path, query and body are vouched for."""
    head = verify_head(key, key_id, method, path_and_query, headers, region=region, now=now, formerly=formerly)
    verify_body(head, body or b"")
    return head


def _signature_base(method: str, path_and_query: str, headers: Mapping[str, str], parameters: str) -> bytes:
    """RFC 9421, section 2.5; the names of `headers` may have capitals."""
    path, _, query = path_and_query.partition("?")
    lines = [f'"@method": {method}', f'"@path": {path}', f'"@query": ?{query}']
    lines += [f'"{name.lower()}": {value}' for name, value in headers.items()]
    lines.append(f'"@signature-params": {parameters}')
    return "\n".join(lines).encode("ascii")


def _digest(said: str) -> bytes:
    found = _DIGEST.fullmatch(said)
    if found is None:
        raise InvalidRequestSignature("its content-digest is no sha-256")
    return base64.b64decode(found[1])


def _sequence(said: str) -> int:
    if not _SEQUENCE.fullmatch(said) or int(said) > MAX_SEQUENCE:
        raise InvalidRequestSignature("its bootferry-sequence is no whole number")
    return int(said)
