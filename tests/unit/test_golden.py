"""One document of each wire format, spelled out in `tests/golden/`: what was sent yesterday is still read tomorrow.

What these files hold was written by the release whose format they are of; a test that fails here says that racks or
regions in the field are no longer understood. A new format gets a new file; none is ever changed.
"""

import base64
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from shared.digest import Sha256
from shared.names import Name, RelativePath
from shared.signing import encode_bytes, fingerprint, public_bytes, sign_request, verify_request
from shared.wire import correction, enrolment, envelope
from shared.wire import manifest as manifest_wire
from shared.wire.correction import Correction
from shared.wire.enrolment import Enrolment, EnrolmentRequest, EnrolmentToken
from shared.wire.envelope import open_envelope, seal
from shared.wire.manifest import Entry, Kind, Manifest
from shared.wire.rack_key import NextKey
from shared.wire.report import Fault, Knows, OldReport, Pending, Report, parse_report
from shared.wire.succession import Signed, follow, sign

GOLDEN = Path(__file__).parent.parent / "golden"
REGION = Ed25519PrivateKey.from_private_bytes(b"r" * 32)
RACK = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
RACK_ID = "0123456789abcdef0123456789abcdef"
RACK_KEY = "gyClGXfYw4yopJJ8Zw31gh5El2GUXhXp77JqFQnSMOo"
KERNEL = Sha256("ca978112ca1bbdcafac231b39a23dc4da786eff8147c4e72b9807785afee48bb")
GRUB = Sha256("3e23e8160039594a33894f6564e1b1348bbd7a0088d42c4acb73eeaed59c009d")
AT = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)

MANIFEST_TYPE = "application/vnd.bootferry.manifest+json"
REQUEST_TYPE = "application/vnd.bootferry.enrolment-request+json"
ANSWER_TYPE = "application/vnd.bootferry.enrolment+json"


def read(name: str) -> bytes:
    return (GOLDEN / name).read_bytes()


def manifest(*, versions: tuple[str, str], confirmed: tuple[int, int]) -> Manifest:
    return Manifest(
        1789000000,
        7,
        AT,
        (
            Entry(
                RelativePath("ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"),
                Kind.FILE,
                KERNEL,
                1,
                "ubuntu:noble:amd64",
                versions[0],
            ),
            Entry(RelativePath("bootloader/uefi/amd64"), Kind.ARCHIVE, GRUB, 1, "bootloader:uefi:amd64", versions[1]),
        ),
        confirmed,
    )


MANIFEST = manifest(versions=("20260701", "20260623.0"), confirmed=(1789000000, 6))
TOKEN = EnrolmentToken(fingerprint(REGION), b"t" * 32)


def test_messages_go_by_the_types_that_racks_and_regions_in_the_field_know() -> None:
    assert envelope.MEDIA_TYPE == "application/vnd.dsse.envelope.v1+json"
    assert manifest_wire.MANIFEST_TYPE == MANIFEST_TYPE
    assert (enrolment.REQUEST_TYPE, enrolment.ANSWER_TYPE) == (REQUEST_TYPE, ANSWER_TYPE)


def test_an_enrolment_has_16_kib_at_most() -> None:
    # A region reads so much of a request, and a rack twice as much of an answer.
    assert enrolment.MAX_ENROLMENT_BYTES == 16 * 1024


def test_a_correction_travels_in_a_field_that_racks_in_the_field_read() -> None:
    assert (correction.CORRECTION_HEADER, correction.MAX_CORRECTION_BYTES) == ("Bootferry-Correction", 4096)


def test_a_manifest_is_written_and_read() -> None:
    assert MANIFEST.encode() == read("manifest.json")
    assert seal(REGION, MANIFEST_TYPE, read("manifest.json")) == read("manifest.envelope")
    payload = open_envelope(read("manifest.envelope"), MANIFEST_TYPE, [REGION.public_key()], origin="The manifest")
    assert Manifest.parse(payload) == MANIFEST


def test_a_manifest_that_says_where_the_region_is_has_one_field_more() -> None:
    moved = msgspec.structs.replace(MANIFEST, region_url="https://region-2.example.org:5240")
    assert moved.encode() == read("manifest-moved.json")
    assert seal(REGION, MANIFEST_TYPE, read("manifest-moved.json")) == read("manifest-moved.envelope")
    payload = open_envelope(
        read("manifest-moved.envelope"), MANIFEST_TYPE, [REGION.public_key()], origin="The manifest"
    )
    assert Manifest.parse(payload) == moved
    # Readers of 0.1 ignore it: without it the document is the one they know.
    document = json.loads(payload)
    assert document.pop("region_url") == "https://region-2.example.org:5240"
    assert document == json.loads(read("manifest.json"))


def test_a_racks_next_key_is_written_and_read() -> None:
    later = Ed25519PrivateKey.from_private_bytes(b"n" * 32)
    assert NextKey.of(later.public_key()).encode() == read("rack-key.json")
    assert NextKey.parse(read("rack-key.json")) == encode_bytes(public_bytes(later))


def test_a_manifest_of_before_images_had_names_is_read() -> None:
    payload = open_envelope(
        read("manifest-before-images.envelope"), MANIFEST_TYPE, [REGION.public_key()], origin="The manifest"
    )
    assert payload == read("manifest-before-images.json")
    assert Manifest.parse(payload) == manifest(versions=("", ""), confirmed=(0, 0))


def test_a_report_is_written_and_read() -> None:
    report = Report(
        sequence=1789000000000,
        version="0.1.0",
        address="10.0.0.2:5248",
        knows=Knows(1789000000, 7, KERNEL),
        pending=(Pending("ubuntu:noble:amd64", "20260701", "connection_lost"),),
        bytes_left=1,
        bytes_free=2,
        error=Fault("connection_lost", "It was lost."),
    )
    assert report.encode() == read("report-2.json")
    assert parse_report(read("report-2.json")) == report


def test_a_report_of_version_1_is_read() -> None:
    assert parse_report(read("report-1.json")) == OldReport(
        1789000000000,
        "0.1.0",
        1789000000,
        7,
        frozenset([KERNEL]),
        1,
        2,
        "connection_lost",
        "It was lost.",
        "10.0.0.2:5248",
    )


def test_an_enrolment_token_is_written_and_read() -> None:
    assert f"{TOKEN}\n".encode() == read("enrolment-token.txt")
    assert EnrolmentToken.parse(read("enrolment-token.txt").decode()) == TOKEN


def test_an_enrolment_of_version_1_is_read() -> None:
    asked = EnrolmentRequest.open(read("enrolment-request-1.envelope"), TOKEN.key().public_key())
    assert asked == EnrolmentRequest(Name("rack-1"), RACK_KEY, fingerprint(REGION))
    answered = Enrolment.open(read("enrolment-1.envelope"), REGION.public_key(), asked)
    assert answered == Enrolment(RACK_ID, Name("rack-1"), RACK_KEY)


def test_an_enrolment_is_written_and_read() -> None:
    asked = EnrolmentRequest(Name("rack-1"), RACK_KEY, fingerprint(REGION), "ab" * 16, AT)
    assert asked.sealed(TOKEN) == read("enrolment-request-2.envelope")
    assert EnrolmentRequest.open(read("enrolment-request-2.envelope"), TOKEN.key().public_key()) == asked
    answered = Enrolment(RACK_ID, Name("rack-1"), RACK_KEY, "ab" * 16)
    assert answered.sealed(REGION) == read("enrolment-2.envelope")
    assert Enrolment.open(read("enrolment-2.envelope"), REGION.public_key(), asked) == answered
    # A region of 0.1 answers no nonce: the key in the answer is one that was made for this request.
    assert Enrolment.open(read("enrolment-1.envelope"), REGION.public_key(), asked) == answered


def requests(name: str) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = json.loads(read(name))
    assert [request["method"] for request in found] == ["GET", "GET", "PUT"]
    return found


@pytest.mark.parametrize(("name", "nonce"), [("requests-1.json", ""), ("requests-2.json", "ab" * 16)])
def test_signed_requests_are_read(name: str, nonce: str) -> None:
    for request in requests(name):
        head = verify_request(
            RACK.public_key(),
            RACK_ID,
            request["method"],
            request["target"],
            {header.lower(): value for header, value in request["headers"].items()},
            None if request["body"] is None else request["body"].encode(),
            region=fingerprint(REGION),
            now=AT,
        )
        assert (head.sequence, head.nonce) == (request.get("sequence"), nonce)


def test_a_signed_request_is_written() -> None:
    for request in requests("requests-2.json"):
        body = None if request["body"] is None else request["body"].encode()
        asked = (RACK, RACK_ID, fingerprint(REGION), request["method"], request["target"], body)
        signed = sign_request(*asked, now=AT, nonce="ab" * 16, sequence=request["sequence"])
        assert signed == request["headers"]


def test_a_correction_is_written_and_read() -> None:
    said = Correction(1782907200.5, 1789000000000, "ab" * 16)
    assert said.sealed(REGION).encode() == read("correction.envelope")
    assert Correction.open(read("correction.envelope").decode(), REGION.public_key(), "ab" * 16) == said


@pytest.mark.parametrize(
    ("name", "kind", "key"),
    [
        ("manifest.envelope", MANIFEST_TYPE, REGION),
        ("manifest-before-images.envelope", MANIFEST_TYPE, REGION),
        ("enrolment-request-1.envelope", REQUEST_TYPE, TOKEN.key()),
        ("enrolment-1.envelope", ANSWER_TYPE, REGION),
        ("enrolment-request-2.envelope", REQUEST_TYPE, TOKEN.key()),
        ("enrolment-2.envelope", ANSWER_TYPE, REGION),
        ("correction.envelope", "application/vnd.bootferry.correction+json", REGION),
    ],
)
def test_an_envelope_is_what_any_reader_of_dsse_reads(name: str, kind: str, key: Ed25519PrivateKey) -> None:
    document = json.loads(read(name))
    assert list(document) == ["payloadType", "payload", "signatures"]
    payload = base64.b64decode(document["payload"], validate=True)
    (signature,) = document["signatures"]
    assert document["payloadType"] == kind
    assert signature["keyid"] == fingerprint(key)
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    key.public_key().verify(base64.b64decode(signature["sig"], validate=True), signed)


def test_a_succession_is_written_and_read() -> None:
    later = Ed25519PrivateKey.from_private_bytes(b"l" * 32)
    key = encode_bytes(public_bytes(REGION))
    envelope = read("succession.envelope").decode()
    assert sign(REGION, later.public_key(), AT) == Signed(key, envelope)
    [found] = follow(fingerprint(REGION), [Signed(key, envelope)])
    assert fingerprint(found) == fingerprint(later)
