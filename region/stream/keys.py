"""OpenPGP keyrings: which keys a source is believed by, and which of them may still be believed.

`parse_keyring` asks for nothing but shape; `judge` reads each key's kind, size, expiry and revocation from its packets;
`usable_keyring` does both and keeps what is good. Sections are those of RFC 9580.
"""

import hashlib
import importlib.resources
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Final, NamedTuple

from region.stream.packets import (
    MARKER,
    PUBLIC_KEY,
    PUBLIC_SUBKEY,
    SECRET_KEY,
    SECRET_SUBKEY,
    SIGNATURE,
    TRUST,
    USER_ATTRIBUTE,
    USER_ID,
    Malformed,
    Packet,
    blocks_of,
    packets_of,
)
from shared.errors import InvalidKeyring, InvalidValue, KeyAlgorithmRefused, KeyExpired, KeyRevoked, KeyTooSmall
from shared.sizes import spoken_size

DEFAULT_KEYRING: Final = importlib.resources.files("region.stream") / "keyrings" / "ubuntu-cloudimage-keyring.gpg"
"""The keys of images.maas.io: `DEFAULT_KEYRING.read_bytes()`."""
DEFAULT_KEYRING_SHA256: Final = "c2d40d925557dbe9a0745c12ca0dc98bed593ce9a6652f1b2faa1ff0858dbf2f"
DEFAULT_KEY_IDS: Final = (
    "D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81",
    "4A3CE3CD565D7EB5C810E2B97FF3F408476CF100",
)
"""Both keys in it: the UEC Image Automatic Signing Key of 2009 and the Ubuntu Cloud Image Builder of 2012."""
SHIPPED_KEYRINGS: Final = ("ubuntu-cloudimage", "ubuntu")
"""What `shipped_keyring` knows. The second is an alias: what is kept in a database is the first."""

MAX_KEYRING_BYTES = 1024 * 1024
MIN_RSA_BITS = 2048

_CERTIFICATE_PACKETS = frozenset({SIGNATURE, PUBLIC_KEY, USER_ID, PUBLIC_SUBKEY, USER_ATTRIBUTE})
# Section 9.1: 2 is RSA that only encrypts; 19 is ECDSA, 22 EdDSA. 27 and 28 (Ed25519, Ed448) gpgv does not know.
_RSA = frozenset({1, 3})
_SIGNING_ALGORITHMS = _RSA | {19, 22}
_ALGORITHM_NAMES = {2: "RSA that only encrypts", 16: "Elgamal", 17: "DSA", 18: "ECDH", 27: "Ed25519 of RFC 9580"}
# Section 5.2.1: signature types.
_CERTIFICATIONS = frozenset({0x10, 0x11, 0x12, 0x13})
_DIRECT_KEY, _KEY_REVOCATION = 0x1F, 0x20
# Section 5.2.3.7: subpacket types.
_SIGNATURE_CREATION_TIME, _KEY_EXPIRATION_TIME, _ISSUER_KEY_ID, _ISSUER_FINGERPRINT = 2, 9, 16, 33


@dataclass(frozen=True, slots=True)
class Key:
    """A primary key of a keyring; `refusal` says why it cannot be used, None when it can."""

    fingerprint: str
    refusal: InvalidKeyring | None = None

    @property
    def problem(self) -> str:
        """`key_too_small`, `key_algorithm`, `key_expired` or `key_revoked`; empty when the key can be used."""
        return self.refusal.code if self.refusal else ""

    @property
    def sentence(self) -> str:
        """The refusal's sentence; empty when the key can be used."""
        return str(self.refusal) if self.refusal else ""


def parse_keyring(raw: bytes) -> bytes:
    """The public keys in `raw` as gpgv wants them: binary, one after the other, nothing else.

    Takes binary, ASCII armour (several blocks, text between them), or binary in base64. Raises InvalidKeyring.
    """
    if len(raw) > MAX_KEYRING_BYTES:
        raise InvalidKeyring(f"it is larger than {spoken_size(MAX_KEYRING_BYTES)}")
    try:
        # As one: several blocks together have no more packets than one may have.
        packets = packets_of(b"".join(b"".join(packet.raw for packet in packets_of(block)) for block in blocks_of(raw)))
    except Malformed as error:
        raise InvalidKeyring(str(error)) from error
    kept = [packet for packet in packets if packet.tag not in (MARKER, TRUST)]
    for packet in kept:
        if packet.tag in (SECRET_KEY, SECRET_SUBKEY):
            raise InvalidKeyring("it holds a secret key; export the public key alone (gpg --export)")
        if packet.tag not in _CERTIFICATE_PACKETS:
            raise InvalidKeyring(f"it holds more than public keys (an OpenPGP packet of type {packet.tag})")
    if not kept:
        raise InvalidKeyring("it is empty")
    if kept[0].tag != PUBLIC_KEY:
        raise InvalidKeyring("it does not begin with a public key")
    _fingerprints(kept)
    return b"".join(packet.raw for packet in kept)


def key_ids(keyring: bytes) -> tuple[str, ...]:
    """The fingerprints of the primary keys in a parsed keyring: 40 capital hexadecimal digits each, in its order."""
    return _fingerprints(packets_of(keyring))


def judge(keyring: bytes, now: datetime) -> tuple[Key, ...]:
    """Each key of a parsed keyring, in its order, and why it cannot be used at `now` if it cannot.

    - RSA of 2048 bits or more, ECDSA and EdDSA are usable; DSA, RSA that only encrypts and what gpgv does not know are
      not.
    - A revocation by the key itself counts from the moment it is in the keyring, whatever reason it gives.
    - A key that is there several times is one key: what one copy says of it holds for all.
    - The key expires when its newest direct signature says so; where none does, when the newest of its user ids' newest
      signatures does that says anything. This is how gpgv reads it.

    Self-signatures are read here and not checked: gpgv checks them when it decides about a document. With which hash
    they were made does not matter, as the two shipped keys have SHA-1 ones of 2009 and 2012.
    """
    return tuple(
        Key(fingerprint, _refusal(fingerprint, copies, now)) for fingerprint, copies in _certificates(keyring).items()
    )


def usable_keyring(raw: bytes, now: datetime) -> bytes:
    """`parse_keyring(raw)` without the keys that `judge` refuses.

    Raises InvalidKeyring; when no key is left, the refusal of the first: KeyTooSmall, KeyAlgorithmRefused, KeyExpired,
    KeyRevoked.
    """
    keyring = parse_keyring(raw)
    refusals = {key.fingerprint: key.refusal for key in judge(keyring, now)}
    kept = [copies for fingerprint, copies in _certificates(keyring).items() if refusals[fingerprint] is None]
    if not kept:
        raise next(refusal for refusal in refusals.values() if refusal is not None)
    return b"".join(packet.raw for copies in kept for certificate in copies for packet in certificate)


def shipped_keyring(name: str) -> bytes:
    """The keyring that comes with Bootferry under this name (`ubuntu-cloudimage`, also called `ubuntu`).

    Raises InvalidValue for another name; InvalidKeyring when the file is not the one that was shipped.
    """
    if name not in SHIPPED_KEYRINGS:
        raise InvalidValue("shipped keyring", name, f"there are {' and '.join(SHIPPED_KEYRINGS)}")
    try:
        raw = DEFAULT_KEYRING.read_bytes()
    except OSError as error:
        raise InvalidKeyring(f"the shipped keyring {name} is not on this machine; install Bootferry again") from error
    if hashlib.sha256(raw).hexdigest() != DEFAULT_KEYRING_SHA256:
        raise InvalidKeyring(f"the shipped keyring {name} was changed on this machine; install Bootferry again")
    return parse_keyring(raw)


def unfit(keyring: bytes) -> dict[str, InvalidKeyring]:
    """Fingerprints, of primary keys and of subkeys, to why nothing may be signed by them whatever the day."""
    refused = {}
    for packet in packets_of(keyring):
        # A subkey of another version is none that gpgv could use.
        is_key = packet.tag in (PUBLIC_KEY, PUBLIC_SUBKEY) and packet.body[:1] == b"\x04" and len(packet.body) > 6
        if is_key and (refusal := _unfit(packet)):
            refused[_fingerprint(packet)] = refusal
    return refused


def _certificates(keyring: bytes) -> dict[str, list[list[Packet]]]:
    """By fingerprint: each copy of a primary key, with the packets that follow it."""
    found: dict[str, list[list[Packet]]] = {}
    for packet in packets_of(keyring):
        if packet.tag == PUBLIC_KEY:
            certificate: list[Packet] = []
            found.setdefault(_fingerprint(packet), []).append(certificate)
        certificate.append(packet)
    return found


def _refusal(fingerprint: str, copies: list[list[Packet]], now: datetime) -> InvalidKeyring | None:
    primary = copies[0][0]
    if refusal := _unfit(primary):
        return refusal
    own = [signature for certificate in copies for signature in _self_signatures(certificate, fingerprint)]
    if any(signature.type == _KEY_REVOCATION for signature in own):
        return KeyRevoked(fingerprint)
    seconds = _lifetime(own)
    if seconds:
        expires = datetime.fromtimestamp(int.from_bytes(primary.body[1:5], "big") + seconds, UTC)
        if expires <= now:
            return KeyExpired(fingerprint, expires)
    return None


def _unfit(key: Packet) -> InvalidKeyring | None:
    algorithm = key.body[5]
    if algorithm not in _SIGNING_ALGORITHMS:
        return KeyAlgorithmRefused(_fingerprint(key), _ALGORITHM_NAMES.get(algorithm, f"OpenPGP's number {algorithm}"))
    if algorithm in _RSA:
        # Section 3.2: how many bits, then the modulus; counted anew, as nothing holds a key to what it says of itself.
        length = (int.from_bytes(key.body[6:8], "big") + 7) // 8
        bits = int.from_bytes(key.body[8 : 8 + length], "big").bit_length()
        if bits < MIN_RSA_BITS:
            return KeyTooSmall(_fingerprint(key), bits, MIN_RSA_BITS)
    return None


class _SelfSignature(NamedTuple):
    """What a key says of itself, and of which user id (None: of the whole key). `lifetime_seconds` 0 means for ever."""

    type: int
    created: int
    lifetime_seconds: int | None
    user_id: bytes | None


def _self_signatures(certificate: list[Packet], fingerprint: str) -> Iterator[_SelfSignature]:
    user_id = None
    for packet in certificate:
        if packet.tag in (USER_ID, USER_ATTRIBUTE):
            user_id = packet.body
        elif packet.tag == PUBLIC_SUBKEY:
            return
        elif packet.tag == SIGNATURE and (signature := _self_signature(packet.body, fingerprint, user_id)):
            yield signature


def _self_signature(body: bytes, fingerprint: str, user_id: bytes | None) -> _SelfSignature | None:
    """A version 4 signature that the key itself issued (section 5.2.3), or None. Older ones know no expiry."""
    if body[:1] != b"\x04":
        return None
    hashed, rest = _area(body[4:])
    unhashed, _ = _area(rest)
    issuers = unhashed | hashed
    if _ISSUER_FINGERPRINT in issuers:
        is_own = issuers[_ISSUER_FINGERPRINT][1:].hex().upper() == fingerprint
    else:
        is_own = issuers.get(_ISSUER_KEY_ID, b"").hex().upper() == fingerprint[-16:]
    if not is_own:
        return None
    lifetime = hashed.get(_KEY_EXPIRATION_TIME)
    return _SelfSignature(
        type=body[1],
        created=int.from_bytes(hashed.get(_SIGNATURE_CREATION_TIME, b""), "big"),
        lifetime_seconds=None if lifetime is None else int.from_bytes(lifetime[:4], "big"),
        user_id=user_id,
    )


def _area(data: bytes) -> tuple[dict[int, bytes], bytes]:
    """The subpackets that `data` begins with, after two octets that say how long they are, and what follows them."""
    end = 2 + int.from_bytes(data[:2], "big")
    return dict(_subpackets(data[2:end])), data[end:]


def _subpackets(area: bytes) -> Iterator[tuple[int, bytes]]:
    """Section 5.2.3.7. What is cut off is left out."""
    at = 0
    while at < len(area):
        first = area[at]
        if first < 192:
            length, at = first, at + 1
        elif first < 255:
            length, at = (first - 192 << 8) + int.from_bytes(area[at + 1 : at + 2], "big") + 192, at + 2
        else:
            length, at = int.from_bytes(area[at + 1 : at + 5], "big"), at + 5
        if not length or at + length > len(area):
            return
        yield area[at] & 0x7F, area[at + 1 : at + length]
        at += length


def _lifetime(own: list[_SelfSignature]) -> int:
    """How many seconds after its creation the key ends; 0 for never."""
    direct = [signature for signature in own if signature.type == _DIRECT_KEY]
    newest = max(direct, key=lambda signature: signature.created, default=None)
    if newest is not None and newest.lifetime_seconds is not None:
        return newest.lifetime_seconds
    of_ids: dict[bytes, _SelfSignature] = {}
    for signature in own:
        if signature.type in _CERTIFICATIONS and signature.user_id is not None:
            known = of_ids.get(signature.user_id)
            if known is None or known.created <= signature.created:
                of_ids[signature.user_id] = signature
    for signature in sorted(of_ids.values(), key=lambda signature: signature.created, reverse=True):
        if signature.lifetime_seconds:
            return signature.lifetime_seconds
    return 0


def _fingerprint(packet: Packet) -> str:
    """Section 5.5.4.2. Raises InvalidKeyring."""
    version = packet.body[0] if packet.body else 0
    if version != 4 or not 6 < len(packet.body) <= 0xFFFF:
        raise InvalidKeyring(f"it holds a key of version {version}, and gpgv takes version 4 (RFC 4880) alone")
    content = b"\x99" + len(packet.body).to_bytes(2, "big") + packet.body
    return hashlib.sha1(content, usedforsecurity=False).hexdigest().upper()


def _fingerprints(packets: list[Packet]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(_fingerprint(packet) for packet in packets if packet.tag == PUBLIC_KEY))
