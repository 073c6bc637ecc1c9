"""How a rack and a region come to know each other: tokens, requests and answers that pass for nothing else."""

import json
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from shared.errors import BadSignature, InvalidDocument, InvalidValue, WrongClock
from shared.names import Name
from shared.signing import encode_bytes, fingerprint, public_bytes
from shared.wire.enrolment import ANSWER_TYPE, REQUEST_TYPE, Enrolment, EnrolmentRequest, EnrolmentToken
from shared.wire.envelope import seal

REGION = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
RACK = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
STRANGER = Ed25519PrivateKey.from_private_bytes(b"s" * 32)
TOKEN = EnrolmentToken(fingerprint(REGION), b"t" * 32)
RACK_KEY = encode_bytes(public_bytes(RACK))
REQUEST = EnrolmentRequest(Name("rack-1"), RACK_KEY, fingerprint(REGION))
ANSWER = Enrolment("7", Name("rack-1"), RACK_KEY)
# 0xff bytes are underscores in base64url: parts that hold their own separator.
UNDERSCORES = EnrolmentToken("ff" * 32, b"\xff" * 32)

keys = st.binary(min_size=32, max_size=32)


# --- tokens -------------------------------------------------------------------------------------------------------


@given(keys, keys)
def test_a_token_travels_as_text(region_fingerprint: bytes, secret: bytes) -> None:
    token = EnrolmentToken(region_fingerprint.hex(), secret)
    assert EnrolmentToken.parse(str(token)) == token
    assert public_bytes(EnrolmentToken.parse(str(token)).key()) == public_bytes(token.key())


@pytest.mark.parametrize(
    "text",
    [
        pytest.param(str(TOKEN), id="as-it-is"),
        pytest.param(f"  {TOKEN}\n", id="pasted-with-its-line"),
    ],
)
def test_a_token(text: str) -> None:
    assert EnrolmentToken.parse(text) == TOKEN


def test_a_token_may_hold_its_separator_anywhere() -> None:
    assert str(UNDERSCORES).count("_") > 80
    assert EnrolmentToken.parse(str(UNDERSCORES)) == UNDERSCORES


NO_TOKENS = [
    pytest.param("", id="empty"),
    pytest.param("bfe_", id="prefix-only"),
    pytest.param(str(TOKEN)[:-1], id="cut"),
    pytest.param(str(TOKEN) + "A", id="longer"),
    pytest.param(str(TOKEN).removeprefix("bfe_"), id="without-prefix"),
    pytest.param(str(TOKEN).replace("bfe_", "bf_"), id="operator-prefix"),
    pytest.param(str(TOKEN).replace("bfe_", "bfo_"), id="another-prefix"),
    pytest.param("bfe_" + "A" * 42 + "__" + str(TOKEN)[48:], id="no-first-part"),
    pytest.param("bfe_" + "A" * 42 + "_" + str(TOKEN)[47:], id="short-first-part"),
    pytest.param(str(TOKEN)[:47] + "-" + str(TOKEN)[48:], id="other-separator"),
    pytest.param(str(TOKEN)[:20] + " " + str(TOKEN)[21:], id="space-within"),
    pytest.param(str(TOKEN)[:-1] + "ü", id="not-ascii"),
    pytest.param(str(TOKEN)[:-1] + "\ud800", id="surrogate"),
    pytest.param(str(TOKEN)[:-2] + "==", id="padded"),
    pytest.param(str(TOKEN).upper(), id="in-capitals"),
]


@pytest.mark.parametrize("text", NO_TOKENS)
def test_no_token_and_no_word_of_it_in_the_error(text: str) -> None:
    with pytest.raises(InvalidValue) as caught:
        EnrolmentToken.parse(text)
    shown = f"{caught.value} {caught.value!r} {caught.value.__cause__!r} {caught.value.__context__!r}"
    assert "enrolment token" in shown
    for secret in (str(TOKEN)[6:30], str(TOKEN)[50:70]):
        assert secret not in shown
        assert secret.upper() not in shown


def test_a_token_shows_its_secret_only_when_asked_for_its_text() -> None:
    # Tracebacks with locals, log lines and assertions print the repr.
    assert repr(TOKEN.secret)[2:-1] not in repr(TOKEN)
    assert encode_bytes(TOKEN.secret) not in repr(TOKEN)


# --- the rack asks ------------------------------------------------------------------------------------------------


def test_a_request_proves_the_token_without_sending_it() -> None:
    envelope = REQUEST.sealed(TOKEN)
    assert EnrolmentRequest.claimed_token(envelope) == fingerprint(TOKEN.key())
    assert EnrolmentRequest.open(envelope, TOKEN.key().public_key()) == REQUEST
    assert encode_bytes(TOKEN.secret).encode() not in envelope


def request(**changes: Any) -> bytes:
    fields = {"name": "rack-1", "public_key": RACK_KEY, "region_fingerprint": fingerprint(REGION)} | changes
    said = {name: value for name, value in fields.items() if value is not ...}
    return seal(TOKEN.key(), REQUEST_TYPE, json.dumps(said).encode())


NO_REQUESTS = [
    pytest.param(request(name=...), "the field 'name' is missing", id="no-name"),
    pytest.param(request(name="../rack"), "is not a name", id="name-climbs"),
    pytest.param(request(name=7), "is not a name", id="name-as-number"),
    pytest.param(request(public_key="AAAA"), "is not a public key", id="short-key"),
    pytest.param(request(public_key=None), "base64url", id="key-null"),
    pytest.param(seal(TOKEN.key(), REQUEST_TYPE, b"[]"), "", id="list"),
    pytest.param(seal(TOKEN.key(), REQUEST_TYPE, b"\xff"), "", id="not-utf-8"),
    pytest.param(seal(TOKEN.key(), REQUEST_TYPE, b"[" * 10_000), "", id="deeply-nested"),
    pytest.param(seal(TOKEN.key(), ANSWER_TYPE, b"{}"), REQUEST_TYPE.replace("+", r"\+"), id="another-kind"),
]


NO_REQUESTS += [
    pytest.param(request(nonce=7, created_at="2026-07-01T12:00:00Z"), "is not a nonce", id="nonce-as-number"),
    pytest.param(request(nonce="AB" * 16, created_at="2026-07-01T12:00:00Z"), "is not a nonce", id="nonce-in-capitals"),
]


@pytest.mark.parametrize(("envelope", "why"), NO_REQUESTS)
def test_no_request(envelope: bytes, why: str) -> None:
    with pytest.raises(InvalidDocument, match=f"^The enrolment request cannot be read: .*{why}"):
        EnrolmentRequest.open(envelope, TOKEN.key().public_key())


def test_a_request_by_another_token_is_refused() -> None:
    with pytest.raises(BadSignature):
        EnrolmentRequest.open(REQUEST.sealed(UNDERSCORES), TOKEN.key().public_key())


NONCE, AT = "ab" * 16, datetime(2026, 7, 1, 12, tzinfo=UTC)


def test_a_request_says_when_it_was_made_and_is_one_of_its_own() -> None:
    asked = replace(REQUEST, nonce=NONCE, created_at=AT)
    assert EnrolmentRequest.open(asked.sealed(TOKEN), TOKEN.key().public_key()) == asked
    for off_s in (0, 300, -300):
        asked.require_made_at(AT + timedelta(seconds=off_s))
    for off_s in (301, -301, 86_400 * 3650):
        with pytest.raises(WrongClock) as caught:
            asked.require_made_at(AT + timedelta(seconds=off_s))
        assert (caught.value.nonce, caught.value.behind_s) == (NONCE, off_s)
    # A rack of 0.1 says neither, and the region's clock may say what it wants.
    REQUEST.require_made_at(AT + timedelta(days=3650))


SAYS_HALF = [
    pytest.param({"nonce": NONCE}, "created_at", id="no-time"),
    pytest.param({"created_at": AT.isoformat()}, "nonce", id="no-nonce"),
    pytest.param({"nonce": "", "created_at": AT.isoformat()}, "nonce", id="an-empty-nonce"),
    pytest.param({"nonce": "g" * 32, "created_at": AT.isoformat()}, "nonce", id="another-alphabet"),
    pytest.param({"nonce": NONCE, "created_at": "2026-07-01T12:00:00"}, "UTC offset", id="no-offset"),
    pytest.param({"nonce": NONCE, "created_at": 1782907200}, "UTC offset", id="a-number"),
    pytest.param({"nonce": NONCE, "created_at": "noon"}, "cannot be read", id="no-time-at-all"),
    pytest.param({"nonce": NONCE, "created_at": ""}, "cannot be read", id="an-empty-time"),
]


@pytest.mark.parametrize(("said", "why"), SAYS_HALF)
def test_a_request_says_both_or_neither(said: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidDocument, match=why):
        EnrolmentRequest.open(request(**said), TOKEN.key().public_key())


def test_the_answer_is_to_this_very_request() -> None:
    asked = replace(REQUEST, nonce=NONCE, created_at=AT)
    answered = replace(ANSWER, nonce=NONCE)
    assert Enrolment.open(answered.sealed(REGION), REGION.public_key(), asked) == answered
    for other in ("", "cd" * 16):
        with pytest.raises(BadSignature, match="another request"):
            Enrolment.open(replace(ANSWER, nonce=other).sealed(REGION), REGION.public_key(), asked)


NO_CLAIMS = [
    pytest.param(b"", id="empty"),
    pytest.param(b"{}", id="no-signatures"),
    pytest.param(b'{"signatures": []}', id="empty-list"),
    pytest.param(b'{"signatures": {"0": 1}}', id="object"),
    pytest.param(b'{"signatures": [{}]}', id="no-key-id"),
    pytest.param(b'{"signatures": ["a"]}', id="text"),
    pytest.param(b"[" * 16_000, id="deeply-nested"),
    pytest.param(b"\xff", id="not-utf-8"),
]


@pytest.mark.parametrize("envelope", NO_CLAIMS)
def test_no_claim(envelope: bytes) -> None:
    with pytest.raises(InvalidDocument, match="not a signed envelope"):
        EnrolmentRequest.claimed_token(envelope)


# --- the region answers -------------------------------------------------------------------------------------------


def test_the_answer_is_for_the_rack_that_asked() -> None:
    assert Enrolment.open(ANSWER.sealed(REGION), REGION.public_key(), REQUEST) == ANSWER


def answer(**changes: Any) -> bytes:
    fields = {"rack_id": "7", "name": "rack-1", "public_key": RACK_KEY} | changes
    said = {name: value for name, value in fields.items() if value is not ...}
    return seal(REGION, ANSWER_TYPE, json.dumps(said).encode())


NO_ANSWERS = [
    pytest.param(ANSWER.sealed(STRANGER), BadSignature, "none of its 1 signatures", id="by-a-stranger"),
    pytest.param(
        Enrolment("7", Name("rack-1"), encode_bytes(public_bytes(STRANGER))).sealed(REGION),
        BadSignature,
        "another rack's key",
        id="for-another-rack",
    ),
    pytest.param(REQUEST.sealed(TOKEN), InvalidDocument, "where", id="our-own-request-sent-back"),
    pytest.param(seal(REGION, REQUEST_TYPE, b"{}"), InvalidDocument, "where", id="another-kind"),
    pytest.param(answer(rack_id=...), InvalidDocument, "the field 'rack_id' is missing", id="no-id"),
    pytest.param(answer(rack_id=None), InvalidDocument, "rack_id", id="id-null"),
    pytest.param(answer(rack_id='7";keyid="8'), InvalidDocument, "rack_id", id="id-no-request-can-carry"),
    pytest.param(answer(name=""), InvalidDocument, "is not a name", id="empty-name"),
    pytest.param(seal(REGION, ANSWER_TYPE, b"[]"), InvalidDocument, "cannot be read", id="list"),
    pytest.param(seal(REGION, ANSWER_TYPE, b"[" * 10_000), InvalidDocument, "cannot be read", id="deeply-nested"),
]


@pytest.mark.parametrize(("envelope", "error", "why"), NO_ANSWERS)
def test_no_answer(envelope: bytes, error: type[Exception], why: str) -> None:
    with pytest.raises(error, match=why):
        Enrolment.open(envelope, REGION.public_key(), REQUEST)
