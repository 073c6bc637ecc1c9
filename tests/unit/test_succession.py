"""The region's keys, one after the other: whom somebody may believe who knows one of them."""

import itertools
import json
from collections.abc import Sequence
from datetime import UTC, datetime

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.errors import BadSignature, BootferryError, InvalidDocument
from shared.signing import encode_bytes, fingerprint, public_bytes
from shared.wire.envelope import seal
from shared.wire.succession import Signed, follow, parse_chain, sign

NOW = datetime(2026, 11, 28, 12, tzinfo=UTC)
TYPE = "application/vnd.bootferry.succession+json"
A, B, C, D, THIEF = (Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(1, 6))


def text(key: Ed25519PrivateKey) -> str:
    return encode_bytes(public_bytes(key))


def step(before: Ed25519PrivateKey, after: Ed25519PrivateKey) -> Signed:
    return sign(before, after.public_key(), NOW)


def forged(
    signer: Ed25519PrivateKey,
    *,
    key: Ed25519PrivateKey = A,
    before: Ed25519PrivateKey = A,
    after: str = text(B),
    kind: str = TYPE,
    form: str = "bootferry-succession:1",
) -> Signed:
    """A succession from A to B, made otherwise in one thing."""
    said = {"format": form, "before": fingerprint(before), "after": after, "made_at": "2026-11-28T12:00:00Z"}
    return Signed(text(key), seal(signer, kind, json.dumps(said).encode()).decode())


CHAIN = [step(A, B), step(B, C), step(C, D)]


def test_the_helper_that_forges_makes_a_good_one_when_nothing_is_forged() -> None:
    assert [fingerprint(key) for key in follow(fingerprint(A), [forged(A)])] == [fingerprint(B)]


@pytest.mark.parametrize(
    ("known", "chain", "found"),
    [
        pytest.param(A, CHAIN, [B, C, D], id="from the first"),
        pytest.param(B, CHAIN, [C, D], id="from one in the middle"),
        pytest.param(D, CHAIN, [], id="the newest is known"),
        pytest.param(A, [], [], id="never rotated"),
        pytest.param(THIEF, CHAIN, [], id="another region"),
        pytest.param(A, CHAIN[:1], [B], id="cut short"),
        pytest.param(A, CHAIN[1:], [], id="its beginning is missing"),
        pytest.param(C, [forged(THIEF, key=A), *CHAIN[1:]], [D], id="what comes before is for others"),
    ],
)
def test_who_knows_one_key_finds_those_after_it(
    known: Ed25519PrivateKey, chain: Sequence[Signed], found: list[Ed25519PrivateKey]
) -> None:
    assert [fingerprint(key) for key in follow(fingerprint(known), chain)] == [fingerprint(key) for key in found]


@pytest.mark.parametrize(
    ("chain", "error"),
    [
        pytest.param([forged(THIEF)], BadSignature, id="signed by somebody else"),
        pytest.param([forged(B)], BadSignature, id="signed by the new key alone"),
        pytest.param([forged(A, before=C)], BadSignature, id="speaks of another key"),
        pytest.param([forged(A, kind="application/vnd.bootferry.manifest+json")], InvalidDocument, id="another type"),
        pytest.param([forged(A, form="bootferry-succession:2")], InvalidDocument, id="another format"),
        pytest.param([forged(A, after="AAAA")], InvalidDocument, id="names no key"),
        pytest.param([forged(A, after=text(A))], BadSignature, id="leads to itself"),
        pytest.param([Signed(text(A), "{}")], InvalidDocument, id="no envelope"),
        pytest.param([Signed("AAAA", CHAIN[0].envelope)], InvalidDocument, id="signed by no key"),
        pytest.param([step(A, B), step(C, D)], BadSignature, id="one is left out"),
        pytest.param([step(A, B), step(B, A)], BadSignature, id="back to the first"),
        pytest.param([step(A, B), step(B, C), step(C, B)], BadSignature, id="in a circle"),
        pytest.param([step(A, B), step(A, THIEF)], BadSignature, id="two by one key"),
        pytest.param([step(A, B), forged(THIEF, key=B, before=B)], BadSignature, id="bad after a good one"),
        pytest.param(
            [step(A, B), forged(THIEF, key=THIEF, before=B, after=text(C))],
            BadSignature,
            id="by a key that none has named",
        ),
        pytest.param([step(A, B)] * 65, InvalidDocument, id="more than 64"),
    ],
)
def test_a_bad_chain_leads_nowhere(chain: Sequence[Signed], error: type[BootferryError]) -> None:
    with pytest.raises(error):
        follow(fingerprint(A), chain)


def test_no_key_that_was_left_comes_back_by_the_word_of_one_after_it() -> None:
    with pytest.raises(BadSignature, match="leads back to the key"):
        follow(fingerprint(B), [step(B, A)], left={fingerprint(A)})


def test_a_stolen_key_leads_nobody_away_who_has_left_it() -> None:
    assert follow(fingerprint(B), [step(A, THIEF)], left={fingerprint(A)}) == []
    assert follow(fingerprint(B), [step(A, B), step(A, THIEF)], left={fingerprint(A)}) == []


def test_64_successions_are_followed_and_not_one_more() -> None:
    keys = [Ed25519PrivateKey.from_private_bytes(bytes([number]) * 32) for number in range(100, 166)]
    chain = [step(before, after) for before, after in itertools.pairwise(keys)]
    assert len(chain) == 65
    assert fingerprint(follow(fingerprint(keys[0]), chain[:64])[-1]) == fingerprint(keys[64])
    with pytest.raises(InvalidDocument, match="it has more than 64 successions"):
        follow(fingerprint(keys[0]), chain)


def test_what_a_key_says_when_it_goes_has_1024_bytes_at_most() -> None:
    said = {
        "format": "bootferry-succession:1",
        "before": fingerprint(A),
        "after": text(B),
        "made_at": "2026-11-28T12:00:00Z",
    }
    whole = json.dumps(said).encode().ljust(1024)
    assert len(follow(fingerprint(A), [Signed(text(A), seal(A, TYPE, whole).decode())])) == 1
    with pytest.raises(InvalidDocument, match="larger than"):
        follow(fingerprint(A), [Signed(text(A), seal(A, TYPE, whole + b" ").decode())])


def chain_of(count: int) -> bytes:
    one = {"key": CHAIN[0].key, "envelope": CHAIN[0].envelope}
    return json.dumps({"public_key": text(D), "successions": [one] * count}).encode()


def test_an_answer_of_64_successions_is_read_and_no_longer_one() -> None:
    assert len(chain_of(64)) < 64 * 1024
    assert parse_chain(chain_of(64)) == [CHAIN[0]] * 64
    with pytest.raises(InvalidDocument):
        parse_chain(chain_of(65))
    with pytest.raises(InvalidDocument, match="larger than"):
        parse_chain(b'{"successions": []}' + b" " * (64 * 1024))


@pytest.mark.parametrize("body", [b"", b"[]", b"\xff", b'{"successions": [1]}', b'{"successions": [{"key": "x"}]}'])
def test_what_is_no_list_of_keys_is_told_so(body: bytes) -> None:
    with pytest.raises(InvalidDocument):
        parse_chain(body)


def test_a_region_that_says_nothing_of_its_keys_has_one() -> None:
    assert parse_chain(b"{}") == []
