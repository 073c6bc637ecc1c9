"""The parsers that read what comes from outside, as functions of bytes that raise only when something is wrong."""

import io
import json
import tarfile
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rack.archive import unpack
from region.stream import documents, keys
from shared.conditions import decide
from shared.errors import BootferryError
from shared.signing import claimed_key_id, encode_bytes, public_bytes, sign_request, verify_head
from shared.wire.correction import Correction
from shared.wire.enrolment import REQUEST_TYPE, EnrolmentRequest, EnrolmentToken
from shared.wire.envelope import claimed_signer, open_envelope, seal
from shared.wire.manifest import MANIFEST_TYPE, Manifest
from shared.wire.rack_key import NextKey
from shared.wire.report import parse_report

KEY = Ed25519PrivateKey.from_private_bytes(b"k" * 32)
NOW = datetime(2026, 7, 23, 12, 0, tzinfo=UTC)
ETAG = '"abc"'
FILE_BYTES = 1000


@dataclass(frozen=True, slots=True)
class Target:
    """`read` returns, or raises BootferryError, whatever the bytes; `seeds` are bytes for which it returns."""

    read: Callable[[bytes], object]
    seeds: tuple[bytes, ...]


def _envelope(data: bytes) -> None:
    claimed_signer(data, origin="it")
    payload = open_envelope(data, MANIFEST_TYPE, [KEY.public_key()], origin="it")
    assert payload == _PAYLOAD, "nobody but the key's holder can have made another envelope"


def _enrolment(data: bytes) -> None:
    EnrolmentRequest.open(seal(KEY, REQUEST_TYPE, data), KEY.public_key())


def _token(data: bytes) -> None:
    text = data.decode("latin-1")
    assert str(EnrolmentToken.parse(text)) == text.strip(), "a token has one spelling"


def _request(data: bytes) -> None:
    lines = [line.partition(": ") for line in data.decode("latin-1").split("\n")]
    headers = {name.lower(): value for name, _, value in lines}
    claimed = claimed_key_id(headers)
    head = verify_head(KEY.public_key(), claimed, "PUT", "/r?a=b", headers, region=_REGION, now=NOW)
    assert (head.digest, head.sequence, head.nonce) == _SAID, "nobody but the key's holder can have signed another"


def _correction(data: bytes) -> None:
    said = Correction.open(data.decode("latin-1"), KEY.public_key(), "n")
    assert said == _CORRECTION


def _conditions(data: bytes) -> None:
    names = ("range", "if-range", "if-match", "if-none-match")
    lines = dict(zip(names, data.decode("latin-1").split("\n"), strict=False))
    status, part = decide("GET", lambda name: [lines[name]] if name in lines else [], ETAG, FILE_BYTES)
    assert status in (200, 206, 304, 412, 416)
    assert (len(part) > 0) == (status in (200, 206))
    assert part.step == 1 and 0 <= part.start <= part.stop <= FILE_BYTES


def _archive(data: bytes) -> None:
    with tempfile.TemporaryDirectory() as directory:
        below = Path(directory) / "below"
        refusal = None
        try:
            unpack(io.BytesIO(data), below / "into", origin="it", max_bytes=100_000)
        except BootferryError as error:
            refusal = error
        written = {path for path in Path(directory).rglob("*") if path.is_symlink() or path.is_file()}
        assert all(path.is_relative_to(below / "into") and not path.is_symlink() for path in written)
        assert sum(path.stat().st_size for path in written) <= 1_000_000
        if refusal is not None:
            assert not written
            raise refusal


_REGION = "0" * 64
_SAID = (sha256(b"body").digest(), 7, "ab" * 16)
_CORRECTION = Correction(NOW.timestamp(), 7, "n")
_PAYLOAD = b'{"format":"bootferry-manifest:1"}'


def _index() -> bytes:
    entry = {
        "format": "products:1.0",
        "datatype": "image-ids",
        "path": "streams/v1/a.json",
        "updated": "Thu, 23 Jul 2026 12:00:00 +0000",
    }
    return json.dumps({"format": "index:1.0", "updated": entry["updated"], "index": {"a:b": entry}}).encode()


def _products() -> bytes:
    item = {"ftype": "boot-kernel", "path": "noble/k", "sha256": "0" * 64, "size": 1, "kflavor": "generic"}
    product = {
        "os": "ubuntu",
        "release": "noble",
        "version": "24.04",
        "arch": "amd64",
        "subarch": "ga-24.04",
        "label": "stable",
        "kflavor": "generic",
        "release_title": "24.04 LTS",
        "support_eol": "2029-05-31",
        "versions": {
            "20260701": {
                "items": {ftype: {**item, "ftype": ftype} for ftype in ("boot-kernel", "boot-initrd", "squashfs")}
            }
        },
    }
    whole = {
        "format": "products:1.0",
        "content_id": "a:b",
        "datatype": "image-ids",
        "updated": "Thu, 23 Jul 2026 12:00:00 +0000",
        "products": {"a.b:v3:boot:24.04:amd64:ga-24.04": product},
    }
    return json.dumps(whole).encode()


def _tar() -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w:xz", preset=0) as archive:
        for name, kind in (
            ("a", tarfile.REGTYPE),
            ("d", tarfile.DIRTYPE),
            ("d/l", tarfile.SYMTYPE),
            ("h", tarfile.LNKTYPE),
        ):
            member = tarfile.TarInfo(name)
            member.type, member.linkname = kind, {"d/l": "../a", "h": "a"}.get(name, "")
            member.size = 3 if kind == tarfile.REGTYPE else 0
            archive.addfile(member, io.BytesIO(b"abc"))
    return packed.getvalue()


def _enrolment_request() -> bytes:
    said = {"name": "rack", "public_key": encode_bytes(public_bytes(KEY)), "region_fingerprint": "0" * 64}
    return json.dumps({**said, "nonce": "a" * 32, "created_at": NOW.isoformat()}).encode()


def _signed_request() -> bytes:
    signed = sign_request(KEY, "rack", _REGION, "PUT", "/r?a=b", b"body", now=NOW, nonce=_SAID[2], sequence=_SAID[1])
    return "\n".join(f"{name}: {value}" for name, value in signed.items()).encode()


def _report() -> bytes:
    return json.dumps(
        {
            "format": "bootferry-report:2",
            "sequence": 1,
            "version": "0.1.0",
            "address": "10.0.0.2:5248",
            "knows": {"epoch": 1, "serial": 1, "sha256": "0" * 64},
            "bytes_left": 0,
            "bytes_free": 0,
            "pending": [{"image": "ubuntu:noble:amd64", "shown_version": "", "code": ""}],
            "error": {"code": "", "sentence": ""},
        }
    ).encode()


TARGETS: Mapping[str, Target] = {
    "index": Target(lambda data: documents.parse_index(data, "it"), (_index(),)),
    "products": Target(lambda data: documents.parse_products(data, "it"), (_products(),)),
    "keyring": Target(
        lambda data: keys.judge(keys.parse_keyring(data), NOW), (keys.shipped_keyring("ubuntu-cloudimage"),)
    ),
    "envelope": Target(_envelope, (seal(KEY, MANIFEST_TYPE, _PAYLOAD),)),
    "manifest": Target(Manifest.parse, (Manifest(1, 1, NOW, ()).encode(),)),
    "enrolment": Target(_enrolment, (_enrolment_request(),)),
    "request": Target(_request, (_signed_request(),)),
    "correction": Target(_correction, (_CORRECTION.sealed(KEY).encode(),)),
    "token": Target(_token, (str(EnrolmentToken("0" * 64, b"s" * 32)).encode(),)),
    "report": Target(parse_report, (_report(),)),
    "rack key": Target(NextKey.parse, (NextKey.of(KEY.public_key()).encode(),)),
    "conditions": Target(_conditions, (b'bytes=0-9\n"abc"\n*\n"x", W/"y"', b"bytes=-5", b"bytes=2000-")),
    "archive": Target(_archive, (_tar(),)),
}
