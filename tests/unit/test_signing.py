"""Whose word it is: envelopes, requests and the file a key lives in."""

import base64
import hashlib
import json
import os
import stat
import subprocess
import sys
import tracemalloc
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat
from http_message_signatures import HTTPMessageSigner, HTTPMessageVerifier, algorithms
from http_message_signatures.resolvers import MappingKeyResolver
from hypothesis import example, given
from hypothesis import strategies as st

from shared import signing
from shared.errors import BadSignature, InvalidDocument, InvalidRequestSignature, InvalidValue, WrongClock
from shared.signing import (
    Head,
    claimed_key_id,
    decode_bytes,
    encode_bytes,
    fingerprint,
    load_or_create_key,
    parse_public_key,
    public_bytes,
    sign_request,
    verify_body,
    verify_head,
    verify_request,
)
from shared.wire.correction import Correction
from shared.wire.envelope import open_envelope, seal

# RFC 8032, section 7.1, test 1.
SECRET = bytes.fromhex("9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60")
PUBLIC = "d75a980182b10ab7d54bfed3c964073a0ee172f3daa62325af021a68f707511a"
KEY = Ed25519PrivateKey.from_private_bytes(SECRET)
STRANGER = Ed25519PrivateKey.from_private_bytes(bytes(32))
TYPE = "application/vnd.bootferry.manifest+json"
PAYLOAD = b'{"serial": 7}'
NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)


def opened(envelope: bytes | dict[str, Any], *keys: Ed25519PrivateKey) -> bytes:
    raw = envelope if isinstance(envelope, bytes) else json.dumps(envelope, separators=(",", ":")).encode()
    return open_envelope(raw, TYPE, [key.public_key() for key in keys or (KEY,)], origin="The manifest")


def sealed(payload: bytes = PAYLOAD, kind: str = TYPE, key: Ed25519PrivateKey = KEY) -> dict[str, Any]:
    document: dict[str, Any] = json.loads(seal(key, kind, payload))
    return document


def with_signatures(*signatures: dict[str, Any]) -> dict[str, Any]:
    return sealed() | {"signatures": list(signatures)}


OURS = sealed()["signatures"][0]
THEIRS = sealed(key=STRANGER)["signatures"][0]


# --- keys ---------------------------------------------------------------------------------------------------------


def test_a_key_is_named_by_the_digest_of_its_public_bytes() -> None:
    assert public_bytes(KEY).hex() == public_bytes(KEY.public_key()).hex() == PUBLIC
    assert fingerprint(KEY) == fingerprint(KEY.public_key())
    assert fingerprint(KEY) == "21fe31dfa154a261626bf854046fd2271b7bed4b6abe45aa58877ef47f9721b9"


NO_KEYS = [
    pytest.param("", id="empty"),
    pytest.param(encode_bytes(bytes(31)), id="31-bytes"),
    pytest.param(encode_bytes(bytes(33)), id="33-bytes"),
    pytest.param("!" * 43, id="no-base64"),
    pytest.param(PUBLIC, id="hexadecimal"),
    pytest.param("ü" * 43, id="not-ascii"),
    pytest.param("\ud800" * 43, id="surrogates"),
    pytest.param(None, id="nothing"),
    pytest.param(bytes(32), id="bytes"),
]


@pytest.mark.parametrize("text", NO_KEYS)
def test_no_public_key(text: object) -> None:
    with pytest.raises(InvalidValue):
        parse_public_key(text)


@given(st.binary(max_size=64))
@example(b"\xfb\xff\xfe")
def test_base64url_has_no_padding_and_travels_in_urls(raw: bytes) -> None:
    text = encode_bytes(raw)
    assert not set(text) & set("+/=")
    assert decode_bytes(text) == raw


@pytest.mark.parametrize("text", ["+/+/", "AA==", "A", "AA AA", "AAAA\n", "AB", "AAB", "__", "_" * 43])
def test_other_alphabets_and_padding_are_refused(text: str) -> None:
    with pytest.raises(InvalidValue):
        decode_bytes(text)


def test_base64url_may_end_in_any_letter() -> None:
    assert encode_bytes(bytes.fromhex("000017")) == "AAAX"


def test_what_is_wrong_with_base64url_is_told() -> None:
    with pytest.raises(InvalidValue, match="it has other characters"):
        decode_bytes("AA AA")
    with pytest.raises(InvalidValue, match="bits that mean nothing"):
        decode_bytes("AB")


# --- the file of a key --------------------------------------------------------------------------------------------


def test_a_key_is_made_once_and_kept_private(tmp_path: Path) -> None:
    path = tmp_path / "new" / "region.key"
    key = load_or_create_key(path)
    assert public_bytes(load_or_create_key(path)) == public_bytes(key)
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    assert [entry.name for entry in path.parent.iterdir()] == ["region.key"]


def test_processes_that_race_get_the_same_key(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path; from shared.signing import fingerprint, load_or_create_key;"
        "sys.stdin.read(1); print(fingerprint(load_or_create_key(Path(sys.argv[1]))))"
    )
    command = [sys.executable, "-c", script, str(tmp_path / "key")]
    racers = [subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) for _ in range(4)]
    answers = [racer.communicate("x")[0] for racer in racers]
    assert len(set(answers)) == 1
    assert len(answers[0].strip()) == 64


def test_processes_of_the_same_number_in_two_containers_get_the_same_key(tmp_path: Path) -> None:
    # Threads share a process number, as the first processes of two containers do.
    for attempt in range(20):
        path = tmp_path / str(attempt) / "key"
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(load_or_create_key, [path] * 4))
        assert len({fingerprint(key) for key in found}) == 1
        assert [entry.name for entry in path.parent.iterdir()] == ["key"]


def pem(key: Any, password: bytes | None = None) -> bytes:
    encryption = BestAvailableEncryption(password) if password else NoEncryption()
    raw: bytes = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption)
    return raw


NO_KEY_FILES = [
    pytest.param(lambda: b"", "not a PEM private key", id="empty"),
    pytest.param(lambda: b"\x00" * 100, "not a PEM private key", id="noise"),
    pytest.param(lambda: pem(KEY)[:-30], "not a PEM private key", id="cut"),
    pytest.param(lambda: pem(KEY, b"password"), "not a PEM private key", id="encrypted"),
    pytest.param(lambda: pem(ec.generate_private_key(ec.SECP256R1())), "not an Ed25519 key", id="elliptic"),
    pytest.param(lambda: pem(rsa.generate_private_key(65537, 2048)), "not an Ed25519 key", id="rsa"),
]


@pytest.mark.parametrize(("content", "why"), NO_KEY_FILES)
def test_another_file_is_refused_and_left_alone(tmp_path: Path, content: Callable[[], bytes], why: str) -> None:
    path = tmp_path / "region.key"
    path.write_bytes(before := content())
    with pytest.raises(InvalidDocument, match=why):
        load_or_create_key(path)
    assert path.read_bytes() == before


def test_a_link_waiting_where_the_key_is_staged_is_not_followed(tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    (tmp_path / f".key.{os.getpid()}").symlink_to(victim)
    with suppress(OSError):
        load_or_create_key(tmp_path / "key")
    assert victim.read_bytes() == b"precious"


# --- envelopes ----------------------------------------------------------------------------------------------------


def test_the_form_is_dsse() -> None:
    # https://github.com/secure-systems-lab/dsse, protocol.md: PAE is over the type and the *decoded* payload.
    envelope = sealed(b"hello world", "http://example.com/HelloWorld")
    signed = b"DSSEv1 29 http://example.com/HelloWorld 11 hello world"
    assert base64.b64decode(envelope["payload"]) == b"hello world"
    KEY.public_key().verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    assert envelope["signatures"][0]["keyid"] == fingerprint(KEY)


@given(st.binary(max_size=500))
def test_what_was_sealed_opens(payload: bytes) -> None:
    assert opened(seal(KEY, TYPE, payload)) == payload


OPENS = [
    pytest.param(sealed(), [KEY], id="by-its-key"),
    pytest.param(sealed(), [STRANGER, KEY], id="by-the-second-key-trusted"),
    pytest.param(with_signatures(THEIRS, OURS), [KEY], id="by-the-second-signature"),
    pytest.param(with_signatures(*[THEIRS] * 3, OURS), [KEY], id="by-the-fourth-signature"),
    pytest.param(with_signatures(OURS | {"keyid": THEIRS["keyid"]}), [KEY], id="a-key-id-is-a-hint-only"),
]

BAD = [
    pytest.param(sealed(key=STRANGER), id="by-a-stranger"),
    pytest.param(with_signatures(THEIRS | {"keyid": OURS["keyid"]}), id="stranger-under-our-key-id"),
    pytest.param(sealed() | {"payload": base64.b64encode(PAYLOAD + b" ").decode()}, id="payload-longer"),
    pytest.param(sealed() | {"payload": base64.b64encode(PAYLOAD[:-1]).decode()}, id="payload-shorter"),
    pytest.param(sealed() | {"payload": ""}, id="payload-gone"),
    pytest.param(sealed(kind="application/other") | {"payloadType": TYPE}, id="another-kind-relabelled"),
    # Were lengths not signed, the end of the type could become the beginning of the payload.
    pytest.param(sealed(b"json " + PAYLOAD, TYPE[:-4]) | {"payloadType": TYPE}, id="border-moved"),
]

NO_ENVELOPES = [
    pytest.param(with_signatures({"sig": OURS["sig"]}), "not a signed envelope", id="without-a-key-id"),
    pytest.param(sealed() | {"more": 1}, "not a signed envelope", id="with-fields-of-a-later-version"),
    pytest.param(with_signatures(), "not a signed envelope", id="by-nobody"),
    pytest.param(with_signatures(*[THEIRS] * 4, OURS), "not a signed envelope", id="beyond-the-fourth"),
    pytest.param(with_signatures({"sig": ""}), "not a signed envelope", id="empty-signature"),
    pytest.param(with_signatures({"sig": "AAAA"}), "not a signed envelope", id="short-signature"),
    pytest.param(b"", "not a signed envelope", id="empty"),
    pytest.param(PAYLOAD, "not a signed envelope", id="bare-payload"),
    pytest.param(b"[]", "not a signed envelope", id="list"),
    pytest.param(b"null", "not a signed envelope", id="null"),
    pytest.param(b"\xff", "not a signed envelope", id="not-utf-8"),
    pytest.param(b"[" * 100_000, "not a signed envelope", id="deeply-nested"),
    pytest.param(sealed() | {"payload": 1}, "not a signed envelope", id="payload-as-number"),
    pytest.param(sealed() | {"payload": "!"}, "not a signed envelope", id="payload-no-base64"),
    pytest.param(sealed() | {"payload": "ü"}, "not a signed envelope", id="payload-not-ascii"),
    pytest.param(sealed() | {"signatures": {"sig": OURS["sig"]}}, "not a signed envelope", id="signature-as-object"),
    pytest.param(sealed() | {"signatures": None}, "not a signed envelope", id="signatures-null"),
    pytest.param(with_signatures({"keyid": "a"}), "not a signed envelope", id="signature-missing"),
    pytest.param(with_signatures({"sig": None}), "not a signed envelope", id="signature-null"),
    pytest.param(sealed(kind="application/other"), "'application/other' where", id="another-kind"),
    pytest.param(sealed() | {"payloadType": [TYPE]}, "not a signed envelope", id="kind-as-list"),
    pytest.param(sealed() | {"payloadType": TYPE.upper()}, "where", id="kind-in-capitals"),
]


@pytest.mark.parametrize(("envelope", "keys"), OPENS)
def test_an_envelope_opens(envelope: dict[str, Any], keys: list[Ed25519PrivateKey]) -> None:
    assert opened(envelope, *keys) == PAYLOAD


@pytest.mark.parametrize("envelope", BAD)
def test_a_bad_signature_gives_nothing_away(envelope: dict[str, Any]) -> None:
    with pytest.raises(
        BadSignature, match=rf"^The signature of the manifest is not good: .*{fingerprint(KEY)[:16]}\.$"
    ):
        opened(envelope)


@pytest.mark.parametrize(("envelope", "why"), NO_ENVELOPES)
def test_no_envelope(envelope: bytes | dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidDocument, match=f"^The manifest cannot be read: .*{why}"):
        opened(envelope)


SPELLINGS = [
    # "YQ==" is "a"; what follows decodes to the same, or to nothing that anybody signed.
    pytest.param(b"a", "YR==", id="unused-bits-of-one-byte"),
    pytest.param(b"ab", "YWJ=", id="unused-bits-of-two-bytes"),
    pytest.param(b"a", "YQ", id="without-padding"),
    pytest.param(b"a", "YQ=", id="half-a-padding"),
    pytest.param(b"abc", "YWJj====", id="padding-of-nothing"),
    pytest.param(b"a", "YQ==YQ==", id="two-ends"),
    pytest.param(b"abc", "YW\\nJj", id="with-an-escape"),
    pytest.param(b"abc", "YW Jj", id="with-a-space"),
    pytest.param(b"\xfb\xff", "-_8=", id="of-another-alphabet"),
]


@pytest.mark.parametrize(("payload", "spelling"), SPELLINGS)
def test_a_payload_has_one_spelling(payload: bytes, spelling: str) -> None:
    envelope = seal(KEY, TYPE, payload)
    proper = base64.b64encode(payload)
    with pytest.raises(InvalidDocument, match="not a signed envelope"):
        opened(envelope.replace(b'"payload":"%s"' % proper, b'"payload":"%s"' % spelling.encode()))
    assert opened(envelope) == payload


def test_a_signature_has_one_spelling() -> None:
    signature = OURS["sig"]
    assert signature[85] in "AQgw"
    for other in {"A": "BCP", "Q": "RSf", "g": "hiv", "w": "xy/"}[signature[85]]:
        spelled = signature[:85] + other + "=="
        assert base64.b64decode(spelled) == base64.b64decode(signature)
        with pytest.raises(InvalidDocument, match="not a signed envelope"):
            opened(with_signatures(OURS | {"sig": spelled}))


def test_an_envelope_of_16_mib_to_the_byte_is_the_largest() -> None:
    limit = 16 * 1024 * 1024
    [kind] = [kind for more in range(4) if (limit - len(seal(KEY, kind := TYPE + "x" * more, b""))) % 4 == 0]
    room = (limit - len(seal(KEY, kind, b""))) // 4 * 3
    largest = seal(KEY, kind, bytes(room))
    assert len(largest) == limit
    assert open_envelope(largest, kind, [KEY.public_key()], origin="It") == bytes(room)


def test_without_a_key_nobody_has_vouched() -> None:
    with pytest.raises(BadSignature, match="none of its 1 signatures is by a known key"):
        open_envelope(seal(KEY, TYPE, b"{}"), TYPE, [], origin="It")


def test_an_envelope_is_at_most_16_mib() -> None:
    # An empty payload's envelope, so that what is left of 16 MiB is the payload's.
    room = (16 * 1024 * 1024 - len(seal(KEY, TYPE, b""))) // 4 * 3
    largest = seal(KEY, TYPE, bytes(room))
    assert 16 * 1024 * 1024 - 4 <= len(largest) <= 16 * 1024 * 1024
    assert opened(largest) == bytes(room)
    with pytest.raises(InvalidDocument, match="larger than 16"):
        opened(seal(KEY, TYPE, bytes(room + 3)))


@pytest.mark.parametrize(
    "content",
    [
        pytest.param(b"[" * (8 * 1024 * 1024), id="brackets"),
        pytest.param(b'{"a":{' * 1_000_000, id="objects"),
        pytest.param(b"[" + b"[]," * 2_000_000 + b"[]]", id="many-lists"),
    ],
)
def test_what_nobody_signed_is_never_built(content: bytes) -> None:
    # Parsed as JSON, each of these is hundreds of megabytes of objects; here it is text, copied a few times.
    envelope = seal(STRANGER, TYPE, content)
    for raw in (envelope, content, envelope[:-2] + b"," + content + b"]}"):
        tracemalloc.start()
        try:
            with pytest.raises((BadSignature, InvalidDocument)):
                opened(raw)
            assert tracemalloc.get_traced_memory()[1] < 32 * 1024 * 1024
        finally:
            tracemalloc.stop()


def test_without_a_key_nothing_opens() -> None:
    with pytest.raises(BadSignature):
        open_envelope(seal(KEY, TYPE, PAYLOAD), TYPE, [], origin="The manifest")


@given(st.integers(0, len(seal(KEY, TYPE, PAYLOAD)) - 1), st.integers(1, 255))
def test_no_flipped_byte_changes_what_opens(at: int, by: int) -> None:
    envelope = bytearray(seal(KEY, TYPE, PAYLOAD))
    envelope[at] ^= by
    with suppress(InvalidDocument, BadSignature):
        assert opened(bytes(envelope)) == PAYLOAD  # as when only the key id, a hint, was hit


def test_an_enormous_type_is_not_repeated_in_full() -> None:
    with pytest.raises(InvalidDocument) as caught:
        opened(sealed() | {"payloadType": "x" * 10_000})
    assert len(str(caught.value)) < 1000


# --- requests -----------------------------------------------------------------------------------------------------


REGION = "ab" * 32
NONCE = "0123456789abcdef" * 2


@dataclass
class _Message:
    """A request as http-message-signatures reads it."""

    method: str
    target: str
    headers: dict[str, str]

    @property
    def url(self) -> str:
        return f"http://region{self.target}"


@dataclass(frozen=True)
class Sent:
    """A signed request as the region meets it."""

    method: str = "POST"
    target: str = "/api/v1/racks/7/report?full=1"
    body: bytes | None = b'{"held": []}'
    headers: dict[str, str] = field(default_factory=dict)
    key_id: str = "rack-7"

    def signed(
        self, at: datetime = NOW, key: Ed25519PrivateKey = KEY, region: str = REGION, sequence: int | None = 9
    ) -> "Sent":
        made = sign_request(
            key,
            self.key_id,
            region,
            self.method,
            self.target,
            self.body,
            now=at,
            nonce=NONCE,
            sequence=None if self.method == "GET" else sequence,
        )
        return replace(self, headers={name.lower(): value for name, value in made.items()})

    def signed_by_the_library(self, *extra: str, at: datetime = NOW, nonce: str | None = None) -> "Sent":
        """Signed by http-message-signatures, which is how racks of 0.1 sign."""
        message = _Message(self.method, self.target, dict(self.headers))
        HTTPMessageSigner(
            signature_algorithm=algorithms.ED25519,
            key_resolver=MappingKeyResolver(private_keys={self.key_id: KEY}, public_keys={}),
        ).sign(
            message,
            key_id=self.key_id,
            created=at,
            nonce=nonce,
            label="rack",
            tag="bootferry-rack",
            covered_component_ids=("@method", "@path", "@query", *extra),
            body=self.body,
            use_existing_digest="content-digest" in self.headers,
        )
        return replace(self, headers={name.lower(): value for name, value in message.headers.items()})

    def verify(self, now: datetime = NOW, key: Ed25519PrivateKey = KEY, region: str = REGION) -> Head:
        return verify_request(
            key.public_key(),
            self.key_id,
            self.method,
            self.target,
            self.headers,
            self.body,
            region=region,
            now=now,
        )

    def but(self, **headers: str | None) -> "Sent":
        changed = self.headers | {name.replace("_", "-"): value for name, value in headers.items()}
        return replace(self, headers={name: value for name, value in changed.items() if value is not None})


POST = Sent().signed()
GET = Sent("GET", "/api/v1/manifest", None).signed()

ACCEPTED = [
    pytest.param(Sent(), id="body-and-query"),
    pytest.param(Sent("GET", "/api/v1/manifest", None), id="no-body-no-query"),
    pytest.param(Sent("GET", "/api/v1/manifest", b""), id="empty-body"),
    pytest.param(Sent("GET", "/files?a=1&b=%2F&a=2&c", None), id="query-with-repeats"),
    pytest.param(Sent("GET", "/files/a%20b%2Fc", None), id="escapes"),
    pytest.param(Sent("GET", "//files", None), id="two-slashes"),
    pytest.param(Sent("GET", "/", None), id="root"),
    pytest.param(Sent(body=bytes(range(256)) * 40), id="binary-body"),
]


@pytest.mark.parametrize("request_", ACCEPTED)
def test_a_signed_request_is_accepted(request_: Sent) -> None:
    request_.signed().verify()


def test_the_order_and_company_of_headers_do_not_matter() -> None:
    headers = {"accept": "*/*", **dict(reversed(POST.headers.items())), "host": "proxy.example", "x-request-id": "1"}
    replace(POST, headers=headers).verify()
    assert claimed_key_id(headers) == "rack-7"


OTHERS = [
    pytest.param(replace(POST, method="PUT"), id="method-changed"),
    pytest.param(replace(POST, target="/api/v1/racks/8/report?full=1"), id="path-changed"),
    pytest.param(replace(POST, target="/api/v1/racks/7/report?full=0"), id="query-changed"),
    pytest.param(replace(POST, target="/api/v1/racks/7/report"), id="query-dropped"),
    pytest.param(replace(POST, target="/api/v1/racks/7/report?full=1&"), id="query-longer"),
    pytest.param(replace(GET, target="/api/v1/manifest?full=1"), id="query-added"),
    pytest.param(replace(POST, body=b'{"held":  []}'), id="body-swapped"),
    pytest.param(replace(POST, body=b""), id="body-emptied"),
    pytest.param(replace(POST, body=None), id="body-dropped"),
    pytest.param(replace(GET, body=b"{}"), id="body-added"),
    pytest.param(POST.but(content_digest=None), id="digest-dropped"),
    pytest.param(
        replace(GET, body=POST.body).but(content_digest=POST.headers["content-digest"]), id="digest-not-signed"
    ),
    pytest.param(POST.but(signature=None), id="signature-dropped"),
    pytest.param(POST.but(signature_input=None), id="input-dropped"),
    pytest.param(POST.but(signature=Sent().signed(key=STRANGER).headers["signature"]), id="stranger's-signature"),
    pytest.param(POST.but(signature=GET.headers["signature"]), id="signature-of-another-request"),
    pytest.param(POST.but(signature="rack=:AAAA:"), id="short-signature"),
    pytest.param(POST.but(signature="rack=1"), id="signature-as-number"),
    pytest.param(POST.but(signature="\x00\xff"), id="signature-no-structured-field"),
    pytest.param(
        POST.but(signature_input=POST.headers["signature-input"].replace('"@query"', '"@path"')), id="covered-twice"
    ),
    pytest.param(
        POST.but(signature_input=POST.headers["signature-input"].replace(' "@query"', "")), id="query-uncovered"
    ),
    pytest.param(
        POST.but(signature_input=POST.headers["signature-input"].replace("bootferry-rack", "another")), id="other-tag"
    ),
    pytest.param(
        POST.but(signature_input=POST.headers["signature-input"].replace("rack-7", "rack-8")), id="other-key-id"
    ),
    pytest.param(
        POST.but(signature_input=POST.headers["signature-input"].replace("ed25519", "hmac-sha256")),
        id="other-algorithm",
    ),
]


@pytest.mark.parametrize("request_", OTHERS)
def test_any_other_request_is_refused(request_: Sent) -> None:
    with pytest.raises(InvalidRequestSignature, match=r"^The request's signature is not good: .+\.$"):
        request_.verify()


SHAPES = [
    pytest.param('"@query" "content-digest"', '"content-digest" "@query"', id="another-order"),
    pytest.param('"@method"', '"@method";sf', id="a-parameter"),
    pytest.param(";created=", ";expires=1;created=", id="a-time-of-expiry"),
    pytest.param(";created=1", ";created=01", id="a-zero-before-the-time"),
    pytest.param(";created=", ";created=-", id="before-1970"),
    pytest.param(f'nonce="{NONCE}"', 'nonce="1"', id="a-short-nonce"),
    pytest.param("rack=(", "other=(", id="another-label"),
    pytest.param("rack=(", "a=1, rack=(", id="a-second-member"),
    pytest.param("rack=(", "rack= (", id="a-space"),
    pytest.param('rack"', 'rack";x', id="a-parameter-more"),
]


@pytest.mark.parametrize("request_", [pytest.param(GET, id="get"), pytest.param(POST, id="post")])
def test_the_library_takes_what_we_sign(request_: Sent) -> None:
    # So do regions of 0.1: whoever upgrades the racks first loses nothing.
    (result,) = _library_verifies(request_)
    names = ["@method", "@path", "@query", "content-digest", "bootferry-region", "bootferry-sequence"]
    expected = names if request_ is POST else [name for name in names if name not in ("content-digest", names[-1])]
    assert [name.strip('"') for name in result.covered_components if "signature-params" not in name] == expected
    assert result.nonce == NONCE


def _library_verifies(request_: Sent) -> list[Any]:
    class Verifier(HTTPMessageVerifier):
        def validate_created_and_expires(self, sig_input: Any, max_age: timedelta | None = None) -> None:
            """The library asks the machine's clock."""

    found: list[Any] = Verifier(
        signature_algorithm=algorithms.ED25519,
        key_resolver=MappingKeyResolver(public_keys={request_.key_id: KEY.public_key()}, private_keys={}),
    ).verify(
        _Message(request_.method, request_.target, dict(request_.headers)),
        max_age=None,
        expect_tag="bootferry-rack",
        body=request_.body or b"",
    )
    return found


targets = st.from_regex(r"/([A-Za-z0-9._~/-]|%20|%2F){0,20}(\?([A-Za-z0-9=&._~-]|%3d){0,20})?", fullmatch=True)


@given(st.sampled_from(["GET", "PUT", "POST", "DELETE"]), targets, st.none() | st.binary(max_size=40), st.booleans())
def test_we_and_the_library_agree(method: str, target: str, body: bytes | None, ours: bool) -> None:
    sent = Sent(method, target, body)
    if ours:
        signed = sent.signed()
        _library_verifies(signed)
    else:
        named = {"bootferry-region": REGION} | ({} if method == "GET" else {"bootferry-sequence": "9"})
        # The library puts content-digest last; ours stands where it was told to.
        digest = ("content-digest",) if body is not None else ()
        digested = {"content-digest": Sent("POST", "/", body).signed().headers["content-digest"]} if digest else {}
        signed = replace(sent, headers=named | digested).signed_by_the_library(*digest, *named, nonce=NONCE)
    head = signed.verify()
    assert (head.sequence, head.nonce) == (None if method == "GET" else 9, NONCE)


@pytest.mark.parametrize(("before", "after"), SHAPES)
def test_a_good_signature_of_another_shape_is_refused(before: str, after: str) -> None:
    # Whatever RFC 9421 allows besides, this key has really signed it.
    parameters = POST.headers["signature-input"].replace(before, after)
    names = ["content-digest", "bootferry-region", "bootferry-sequence"]
    lines = ['"@method": POST', '"@path": /api/v1/racks/7/report', '"@query": ?full=1']
    lines += [f'"{name}": {POST.headers[name]}' for name in names]
    base = "\n".join([*lines, f'"@signature-params": {parameters.partition("=")[2]}'])
    signature = base64.b64encode(KEY.sign(base.encode())).decode()
    with pytest.raises(InvalidRequestSignature):
        POST.but(signature_input=parameters, signature=f"rack=:{signature}:").verify()


def test_a_request_by_another_name_than_the_keys_is_refused() -> None:
    signed = Sent(key_id="rack-8").signed()
    signed.verify()
    with pytest.raises(InvalidRequestSignature):
        replace(signed, key_id="rack-7").verify()


def test_a_request_for_another_region_is_refused() -> None:
    with pytest.raises(InvalidRequestSignature, match="another region"):
        POST.verify(region="cd" * 32)
    with pytest.raises(InvalidRequestSignature):
        POST.but(bootferry_region="cd" * 32).verify(region="cd" * 32)


@pytest.mark.parametrize(
    ("method", "region", "sequence", "nonce", "taken"),
    [
        pytest.param("HEAD", True, False, True, True, id="a-head"),
        pytest.param("HEAD", True, True, True, False, id="a-head-with-a-sequence"),
        pytest.param("GET", True, False, False, False, id="no-nonce"),
        pytest.param("GET", False, False, False, True, id="as-racks-of-before"),
        pytest.param("GET", False, False, True, False, id="of-before-with-a-nonce"),
        pytest.param("PUT", False, True, False, False, id="of-before-with-a-sequence"),
        pytest.param("PUT", False, True, True, False, id="of-before-with-both"),
    ],
)
def test_region_sequence_and_nonce_come_together(
    method: str, region: bool, sequence: bool, nonce: bool, taken: bool
) -> None:
    headers = ({"bootferry-region": REGION} if region else {}) | ({"bootferry-sequence": "9"} if sequence else {})
    sent = Sent(method, "/api/v1/region", None, headers).signed_by_the_library(*headers, nonce=NONCE if nonce else None)
    if taken:
        sent.verify()
    else:
        with pytest.raises(InvalidRequestSignature, match="it does not cover"):
            sent.verify()


def test_a_body_is_digested_by_sha_256_and_by_nothing_else() -> None:
    digest = "sha-512=:" + base64.b64encode(hashlib.sha512(POST.body or b"").digest()).decode() + ":"
    headers = {"bootferry-region": REGION, "bootferry-sequence": "9", "content-digest": digest}
    sent = replace(POST, headers=headers).signed_by_the_library(
        "content-digest", "bootferry-region", "bootferry-sequence", nonce=NONCE
    )
    with pytest.raises(InvalidRequestSignature, match="its content-digest is no sha-256"):
        sent.verify()


def test_a_sequence_is_signed_with_every_change_and_with_nothing_else() -> None:
    assert POST.verify().sequence == 9
    assert Sent().signed(sequence=2**63 - 1).verify().sequence == 2**63 - 1
    assert GET.verify().sequence is None
    with pytest.raises(InvalidRequestSignature):
        POST.but(bootferry_sequence="10").verify()
    without = replace(POST, headers={"bootferry-region": REGION, "content-digest": POST.headers["content-digest"]})
    with pytest.raises(InvalidRequestSignature, match="bootferry-sequence"):
        without.signed_by_the_library("content-digest", "bootferry-region", nonce=NONCE).verify()
    reading = replace(GET, headers={"bootferry-region": REGION, "bootferry-sequence": "9"})
    with pytest.raises(InvalidRequestSignature, match="bootferry-sequence"):
        reading.signed_by_the_library("bootferry-region", "bootferry-sequence", nonce=NONCE).verify()


@pytest.mark.parametrize(
    "said", ["0", "-1", "1.5", "+1", "\u0661", "9223372036854775808", "99999999999999999999", "", "None"]
)
def test_a_sequence_is_a_whole_number_that_postgresql_holds(said: str) -> None:
    headers = POST.headers | {"bootferry-sequence": said}
    named = ("content-digest", "bootferry-region", "bootferry-sequence")
    with pytest.raises(InvalidRequestSignature):
        if said.isascii() and said:
            replace(POST, headers=headers).signed_by_the_library(*named, nonce=NONCE).verify()
        else:
            replace(POST, headers=headers).verify()


def test_the_head_is_verified_before_the_body_is_there() -> None:
    head = verify_head(KEY.public_key(), "rack-7", "POST", POST.target, POST.headers, region=REGION, now=NOW)
    assert head.digest == hashlib.sha256(b'{"held": []}').digest()
    verify_body(head, b'{"held": []}')
    for other in (b'{"held": [] }', b"", b"{}"):
        with pytest.raises(InvalidRequestSignature, match="the body is not"):
            verify_body(head, other)
    unsigned = GET.verify()
    assert unsigned.digest is None
    verify_body(unsigned, b"")
    with pytest.raises(InvalidRequestSignature, match="the body is not"):
        verify_body(unsigned, b"{}")


@pytest.mark.parametrize("request_", ACCEPTED)
def test_a_rack_of_0_1_signs_neither_region_nor_sequence(request_: Sent) -> None:
    head = request_.signed_by_the_library().verify()
    assert (head.sequence, head.nonce) == (None, "")
    with pytest.raises(InvalidRequestSignature):
        replace(request_.signed_by_the_library(), method="DELETE").verify()


def test_who_is_refused_for_the_time_alone_is_told_it() -> None:
    for request_ in (POST, GET):
        for ahead_s in (301, -301):
            with pytest.raises(WrongClock) as caught:
                request_.verify(NOW + timedelta(seconds=ahead_s))
            assert (caught.value.behind_s, caught.value.nonce) == (ahead_s, NONCE)
            assert f"301 seconds {'behind' if ahead_s > 0 else 'ahead'} of the region's" in str(caught.value)
    with pytest.raises(WrongClock) as caught:
        GET.signed_by_the_library(at=NOW - timedelta(seconds=301)).verify()
    assert (caught.value.behind_s, caught.value.nonce) == (301, ""), "a rack of 0.1 names no request"
    # Nothing is told to who does not hold the key.
    with pytest.raises(InvalidRequestSignature) as refused:
        Sent().signed(key=STRANGER).verify(NOW + timedelta(days=1))
    assert not isinstance(refused.value, WrongClock)


def test_a_correction_answers_one_request_of_one_region() -> None:
    said = Correction(NOW.timestamp(), 7, NONCE)
    header = said.sealed(STRANGER)
    assert header.isascii()
    assert header.isprintable()
    assert Correction.open(header, STRANGER.public_key(), NONCE) == said
    assert said.at == NOW
    with pytest.raises(BadSignature, match="another request"):
        Correction.open(header, STRANGER.public_key(), "f" * 32)
    with pytest.raises(BadSignature):
        Correction.open(header, KEY.public_key(), NONCE)
    with pytest.raises(InvalidDocument):
        Correction.open(seal(STRANGER, TYPE, b"{}").decode(), STRANGER.public_key(), NONCE)


def test_a_signature_that_covers_less_is_refused_though_it_is_good() -> None:
    lax = Sent("GET", "/api/v1/manifest", None).signed_by_the_library()
    # The query is what a rack's own library would leave out: a good signature over method and path only.
    base = '"@method": GET\n"@path": /api/v1/manifest\n"@signature-params": '
    parameters = lax.headers["signature-input"].removeprefix("rack=").replace(' "@query"', "")
    signature = base64.b64encode(KEY.sign((base + parameters).encode())).decode()
    forged = lax.but(signature_input=f"rack={parameters}", signature=f"rack=:{signature}:")
    with pytest.raises(InvalidRequestSignature, match="@query"):
        forged.verify()


def test_limits_of_requests() -> None:
    assert (signing.REQUEST_LIFETIME_S, signing.MAX_SEQUENCE) == (300, 9_223_372_036_854_775_807)
    assert timedelta(hours=24) == signing.SEQUENCE_AHEAD


@pytest.mark.parametrize("skew_s", [0, 1, 6, 60, 300, -1, -60, -300], ids=lambda skew: f"{skew:+}-s")
@pytest.mark.parametrize("now", [NOW, datetime.now(UTC).replace(microsecond=0), datetime(2040, 1, 1, tzinfo=UTC)],
                         ids=["past", "present", "future"])  # fmt: skip
def test_five_minutes_of_skew_either_way_are_accepted(now: datetime, skew_s: int) -> None:
    Sent().signed(at=now + timedelta(seconds=skew_s)).verify(now)


@pytest.mark.parametrize("skew_s", [301, 86_400, -301, -86_400])
def test_a_request_of_another_time_is_refused(skew_s: int) -> None:
    replayed = Sent().signed(at=NOW + timedelta(seconds=skew_s))
    with pytest.raises(InvalidRequestSignature, match="another time than now, 2026-07-01 12:00:00 UTC"):
        replayed.verify(NOW)


def test_a_request_without_a_time_is_refused() -> None:
    parameters = '("@method" "@path" "@query");keyid="rack-7";tag="bootferry-rack"'
    base = f'"@method": GET\n"@path": /\n"@query": ?\n"@signature-params": {parameters}'
    signature = base64.b64encode(KEY.sign(base.encode())).decode()
    headers = {"signature-input": f"rack={parameters}", "signature": f"rack=:{signature}:"}
    with pytest.raises(InvalidRequestSignature, match="created"):
        Sent("GET", "/", None, headers).verify()


CLAIMS = [
    pytest.param({}, None, id="unsigned"),
    pytest.param({"signature": "rack=:AAAA:"}, None, id="no-input"),
    pytest.param({"signature-input": POST.headers["signature-input"]}, None, id="no-signature"),
    pytest.param({"signature-input": 'rack=();keyid=""', "signature": ""}, None, id="empty"),
    pytest.param({"signature-input": 'rack=();keyid="a b"', "signature": ""}, None, id="space"),
    pytest.param({"signature-input": f'rack=();keyid="{"a" * 65}"', "signature": ""}, None, id="too-long"),
    pytest.param({"signature-input": f'rack=();keyid="{"a" * 64}"', "signature": ""}, "a" * 64, id="longest"),
    pytest.param(POST.headers, "rack-7", id="ours"),
]


@pytest.mark.parametrize(("headers", "key_id"), CLAIMS)
def test_claimed_key_id(headers: dict[str, str], key_id: str | None) -> None:
    if key_id is None:
        with pytest.raises(InvalidRequestSignature, match="there is none"):
            claimed_key_id(headers)
    else:
        assert claimed_key_id(headers) == key_id


header = st.binary(max_size=60).map(lambda raw: raw.decode("latin-1"))


@given(
    header | st.sampled_from(['rack=("@method");created=1', "rack=()"]),
    header | st.just("rack=:AAAA:"),
)
@example('rack=("@method" "@path" "@query");created=99999999999999;keyid="rack-7";tag="bootferry-rack"', "rack=:AAAA:")
@example('rack=("@signature-params");created=1;keyid="rack-7";tag="bootferry-rack"', "rack=:AAAA:")
def test_no_header_raises_anything_else(signature_input: str, signature: str) -> None:
    with pytest.raises(InvalidRequestSignature):
        GET.but(signature_input=signature_input, signature=signature).verify()
