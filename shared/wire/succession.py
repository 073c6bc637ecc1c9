"""Successions: the region's key names the one that comes after it, and racks that know it follow.

    GET /api/v1/region/keys     {"successions": [{"key": "<base64url>", "envelope": "<envelope>"}, …]}    oldest first
    payload of an envelope      {"format": "bootferry-succession:1", "before": "<fingerprint>", "after": "<base64url>",
                                 "made_at": "<RFC 3339>"}

`key` is the one that signed the envelope, and `before` its fingerprint; `after` is the key that takes its place. What
`follow` lets somebody believe who knows one key:

- It begins with the succession of the known key. Those before it are for others, and are not looked at.
- From there on each is signed by the key that the one before it has named: nothing is left out and nothing skipped.
- No key comes back: neither the known one, nor one that was left before it, nor one that the chain has named.
- More than 64 successions, or more than 64 KiB, are no chain.

Nobody vouches for the list as a whole: one that is cut short, or of yesterday, leads less far and nowhere else. Who has
stolen a key can name another one after it; whoever has followed the region by then has left that key, and stays.
"""

from collections.abc import Collection, Sequence
from datetime import datetime
from typing import Annotated

import msgspec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from shared.errors import BadSignature, InvalidDocument, InvalidValue
from shared.signing import encode_bytes, fingerprint, parse_public_key, public_bytes
from shared.wire.envelope import open_envelope, seal
from shared.wire.messages import decode, encode

SUCCESSION_TYPE = "application/vnd.bootferry.succession+json"
SUCCESSION_FORMAT = "bootferry-succession:1"
MAX_SUCCESSIONS = 64
MAX_CHAIN_BYTES = 64 * 1024
_MAX_PAYLOAD_BYTES = 1024
_CHAIN = "The list of the region's keys"
_ORIGIN = "The succession of the region's key"


class Succession(msgspec.Struct, frozen=True):
    """What a key says when it goes: which one it was, and which one comes after it."""

    format: str
    before: str
    after: str
    made_at: datetime


class Signed(msgspec.Struct, frozen=True):
    """A succession as it travels: the envelope, and the key that is said to have signed it."""

    key: str
    envelope: str


class _Chain(msgspec.Struct, frozen=True):
    successions: Annotated[list[Signed], msgspec.Meta(max_length=MAX_SUCCESSIONS)] = []


def sign(before: Ed25519PrivateKey, after: Ed25519PublicKey, now: datetime) -> Signed:
    """The succession from one key to the next."""
    said = Succession(SUCCESSION_FORMAT, fingerprint(before), encode_bytes(public_bytes(after)), now)
    return Signed(encode_bytes(public_bytes(before)), seal(before, SUCCESSION_TYPE, encode(said)).decode())


def parse_chain(body: bytes) -> Sequence[Signed]:
    """The successions in a region's answer; none of them is verified. Raises InvalidDocument."""
    return decode(_CHAIN, body, _Chain, MAX_CHAIN_BYTES).successions


def follow(known: str, chain: Sequence[Signed], left: Collection[str] = ()) -> list[Ed25519PublicKey]:
    """The keys that came after the one with the fingerprint `known`, oldest first; none when the chain names none.

    `left` are the fingerprints of keys that were left before. The last key is the one to believe. Raises BadSignature,
    InvalidDocument; nothing of such a chain is to be believed.
    """
    if len(chain) > MAX_SUCCESSIONS:
        raise InvalidDocument(_CHAIN, f"it has more than {MAX_SUCCESSIONS} successions")
    found: list[Ed25519PublicKey] = []
    seen, newest = {*left, known}, known
    for signed in chain:
        key = _key(signed.key)
        if not found and fingerprint(key) != known:
            continue
        after = _opened(signed, key, newest)
        newest = fingerprint(after)
        if newest in seen:
            raise BadSignature(_ORIGIN, f"it leads back to the key {newest[:16]}")
        seen.add(newest)
        found.append(after)
    return found


def _opened(signed: Signed, key: Ed25519PublicKey, wanted: str) -> Ed25519PublicKey:
    """The key that comes after the one with the fingerprint `wanted`, by that one's own word."""
    if fingerprint(key) != wanted:
        raise BadSignature(_ORIGIN, f"it is by the key {fingerprint(key)[:16]}, and {wanted[:16]} was to sign it")
    payload = open_envelope(signed.envelope.encode(), SUCCESSION_TYPE, [key], origin=_ORIGIN)
    said = decode(_ORIGIN, payload, Succession, _MAX_PAYLOAD_BYTES)
    if said.format != SUCCESSION_FORMAT:
        raise InvalidDocument(_ORIGIN, f"its format is not {SUCCESSION_FORMAT}")
    if said.before != wanted:
        raise BadSignature(_ORIGIN, "it speaks of another key than the one that signed it")
    return _key(said.after)


def _key(text: str) -> Ed25519PublicKey:
    try:
        return parse_public_key(text)
    except InvalidValue as error:
        raise InvalidDocument(_CHAIN, "a key in it is no Ed25519 key") from error
