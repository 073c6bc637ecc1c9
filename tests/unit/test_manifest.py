"""The Manifest and the Report: what a reader may rely on once either exists."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from shared.digest import Sha256
from shared.errors import InvalidDocument
from shared.names import RelativePath
from shared.sizes import spoken_size
from shared.wire.manifest import MANIFEST_FORMAT, MAX_MANIFEST_BYTES, Entry, Kind, Manifest
from shared.wire.report import (
    MAX_REPORT_BYTES,
    UNKNOWN_VERSION,
    Fault,
    Knows,
    OldReport,
    Pending,
    Report,
    parse_report,
)

NOW = datetime(2026, 7, 1, 12, 0, tzinfo=UTC)
A, B = Sha256.of(b"a"), Sha256.of(b"b")


def entry(path: str, kind: Kind = Kind.FILE, sha256: Sha256 = A, size: int = 1) -> Entry:
    return Entry(RelativePath(path), kind, sha256, size, "os:release:arch", "1")


def manifest(*entries: Entry) -> Manifest:
    return Manifest(1789000000, 7, NOW, entries)


def document(**changes: Any) -> dict[str, Any]:
    return {
        "format": MANIFEST_FORMAT,
        "epoch": 1789000000,
        "serial": 7,
        "created_at": NOW.isoformat(),
        "entries": [entry_document()],
    } | changes


def report(**changes: Any) -> dict[str, Any]:
    """A report as it is."""
    return {
        "format": "bootferry-report:2",
        "sequence": 1,
        "version": "0.1.0",
        "address": "10.0.0.2:5248",
        "knows": {"epoch": 1, "serial": 2, "sha256": A},
        "pending": [{"image": "ubuntu:noble:amd64", "shown_version": "20260701", "code": "connection_lost"}],
        "bytes_left": 3,
        "bytes_free": 4,
        "error": {"code": "connection_lost", "sentence": "It was lost."},
    } | changes


def old_report(**changes: Any) -> dict[str, Any]:
    """A report of version 1."""
    return {
        "sequence": 1,
        "version": "0.1.0",
        "epoch": 1,
        "serial": 2,
        "held": [A],
        "bytes_left": 3,
        "bytes_free": 4,
    } | changes


def entry_document(**changes: Any) -> dict[str, Any]:
    said = {"path": "a/b", "kind": "file", "sha256": A, "size": 1, "image": "os:release:arch", "version": "1"}
    return said | changes


CONSISTENT = [
    pytest.param([], id="empty"),
    pytest.param([entry("a"), entry("b")], id="one-file-two-names"),
    pytest.param([entry("a/b"), entry("a/c", sha256=B)], id="two-files-in-one-directory"),
    pytest.param([entry("a", Kind.ARCHIVE), entry("a", Kind.ARCHIVE, B)], id="two-archives-share-a-directory"),
    pytest.param([entry("a", Kind.ARCHIVE), entry("a/b", sha256=B)], id="file-beside-an-unpacked-archive"),
    pytest.param([entry("a"), entry("a.b"), entry("ab")], id="names-that-begin-alike"),
]

INCONSISTENT = [
    pytest.param([entry("a"), entry("a", sha256=B)], "named twice", id="two-files-one-name"),
    pytest.param([entry("a"), entry("a")], "named twice", id="same-file-twice"),
    pytest.param([entry("a", size=1), entry("b", size=2)], "two sizes", id="one-digest-two-sizes"),
    pytest.param([entry("a"), entry("a/b")], "both a file and a directory", id="file-is-a-parent"),
    pytest.param([entry("a/b/c"), entry("a/b")], "both a file and a directory", id="parent-becomes-a-file"),
    pytest.param([entry("a"), entry("a", Kind.ARCHIVE)], "both a file and a directory", id="archive-into-a-file"),
    pytest.param([entry("a"), entry("a/b", Kind.ARCHIVE)], "both a file and a directory", id="archive-below-a-file"),
]


@pytest.mark.parametrize("entries", CONSISTENT)
def test_a_consistent_manifest_travels_unchanged(entries: list[Entry]) -> None:
    sent = manifest(*entries)
    assert Manifest.parse(sent.encode()) == sent


@pytest.mark.parametrize(("entries", "why"), INCONSISTENT)
def test_an_inconsistent_manifest_cannot_exist(entries: list[Entry], why: str) -> None:
    with pytest.raises(InvalidDocument, match=why):
        manifest(*entries)
    listed = [entry_document(path=e.path, kind=e.kind, sha256=e.sha256, size=e.size) for e in entries]
    with pytest.raises(InvalidDocument, match=why):
        Manifest.parse(json.dumps(document(entries=listed)).encode())


def test_files_are_distinct() -> None:
    named = manifest(entry("a"), entry("b"), entry("c", Kind.ARCHIVE, B, 2))
    assert named.files() == {A: 1, B: 2}


@pytest.mark.parametrize(
    ("older", "newer"),
    [
        pytest.param((1, 7), (1, 8), id="serial-rises"),
        pytest.param((1, 9), (1, 10), id="numbers-not-text"),
        pytest.param((1, 7), (2, 0), id="a-new-epoch-begins-at-0"),
    ],
)
def test_order(older: tuple[int, int], newer: tuple[int, int]) -> None:
    assert Manifest(*older, NOW, ()).order < Manifest(*newer, NOW, ()).order


def test_equal_manifests_give_equal_bytes() -> None:
    elsewhere = NOW.astimezone(timezone(timedelta(hours=2)))
    assert Manifest(1, 2, NOW, ()) == Manifest(1, 2, elsewhere, ())
    assert Manifest(1, 2, NOW, ()).encode() == Manifest(1, 2, elsewhere, ()).encode()


def test_a_later_region_may_say_more() -> None:
    said = document(patches=[1], entries=[entry_document(mode=0o644)])
    assert Manifest.parse(json.dumps(said).encode()) == manifest(entry("a/b"))


IMAGES_OF_BEFORE = [
    pytest.param("ubuntu/amd64/ga-24.04/noble/stable/boot-kernel", "file", "ubuntu:noble:amd64", id="ga-kernel"),
    pytest.param("ubuntu/amd64/hwe-24.04/noble/stable/boot-kernel", "file", "ubuntu:noble:amd64", id="hwe-kernel"),
    pytest.param("ubuntu/arm64/ga-24.04/noble/stable/squashfs", "file", "ubuntu:noble:arm64", id="arm64"),
    pytest.param("ubuntu/amd64/ga-24.04/noble/candidate/squashfs", "file", "ubuntu:noble:amd64", id="another-label"),
    pytest.param("bootloader/uefi/amd64", "archive", "bootloader:uefi:amd64", id="archive"),
    pytest.param("bootloader/a/b/c/d/e", "archive", "bootloader:a:b:c:d:e", id="archive-as-deep-as-a-kernel"),
    pytest.param("bootloader/uefi/amd64/notes", "file", "bootloader:uefi:amd64", id="file-beside-an-archive"),
    pytest.param("top", "file", "", id="file-at-the-top"),
]


@pytest.mark.parametrize(("path", "kind", "image"), IMAGES_OF_BEFORE)
def test_what_changed_together_before_manifests_said_it(path: str, kind: str, image: str) -> None:
    said = document(entries=[{"path": path, "kind": kind, "sha256": A, "size": 1}])
    (found,) = Manifest.parse(json.dumps(said).encode()).entries
    assert (found.path, found.image, found.version) == (path, image, "")


MANIFEST_REFUSED = [
    pytest.param(document(format="bootferry-manifest:2"), "its format is", id="another-format"),
    pytest.param(document(format=None), "its format is", id="no-format"),
    pytest.param({"format": MANIFEST_FORMAT}, "epoch", id="nothing-else"),
    pytest.param(document(epoch=-1), "epoch", id="negative-epoch"),
    pytest.param(document(epoch=1.5), "epoch", id="fractional-epoch"),
    pytest.param(document(serial=True), "serial", id="true-is-no-number"),
    pytest.param(document(serial="7"), "serial", id="text-is-no-number"),
    pytest.param(document(serial=2**63), "serial", id="more-than-a-database-holds"),
    pytest.param(document(created_at="yesterday"), "created_at", id="no-time"),
    pytest.param(document(created_at="2026-07-01T00:00:00"), "UTC offset", id="time-without-offset"),
    pytest.param(document(created_at=0), "", id="time-as-number"),
    pytest.param(document(entries=None), "", id="no-entries"),
    pytest.param(document(entries={"a": 1}), "", id="entries-as-object"),
    pytest.param(document(entries=["a"]), "", id="entry-as-text"),
    pytest.param(document(entries=[entry_document(path="../a")]), "relative path", id="path-climbs"),
    pytest.param(document(entries=[entry_document(path="a\ud800")]), "not JSON", id="path-no-disk-can-hold"),
    pytest.param(document(entries=[entry_document(kind="link")]), "link", id="unknown-kind"),
    pytest.param(document(entries=[entry_document(sha256="0")]), "SHA-256", id="no-digest"),
    pytest.param(document(entries=[entry_document(size=-1)]), "size", id="negative-size"),
    pytest.param(document(entries=[{"path": "a"}]), "the field 'kind' is missing", id="field-missing"),
]

REPORT_REFUSED = [
    pytest.param(report(format="bootferry-report:3"), "its format is", id="another-format"),
    pytest.param({"format": "bootferry-report:2"}, "the field 'sequence' is missing", id="nothing-else"),
    pytest.param(report(sequence=-1), "sequence", id="negative-sequence"),
    pytest.param(report(knows={"epoch": 1.5, "serial": 1, "sha256": A}), "epoch", id="fractional-epoch"),
    pytest.param(report(knows={"epoch": 1, "serial": 1, "sha256": "0"}), "SHA-256", id="knows-no-digest"),
    pytest.param(report(knows=None), "knows", id="knows-null"),
    pytest.param(report(pending=None), "pending", id="lacks-null"),
    pytest.param(report(pending=[{"image": "ubuntu/noble"}]), "os:release:architecture", id="lacks-no-image"),
    pytest.param(report(pending=[{"image": "a:../b:c"}]), "name", id="lacks-what-climbs"),
    pytest.param(report(pending=[{}]), "image", id="lacks-nobody-knows-what"),
    pytest.param(report(error={"sentence": "a\x00b"}), "sentence", id="text-with-nul"),
    pytest.param(report(bytes_left=2**63), "bytes_left", id="more-than-a-database-holds"),
]

OLD_REPORT_REFUSED = [
    pytest.param({}, "the field 'sequence' is missing", id="old-empty"),
    pytest.param(old_report(sequence=-1), "sequence", id="old-negative-sequence"),
    pytest.param(old_report(bytes_free=1.0), "bytes_free", id="old-fractional-bytes"),
    pytest.param(old_report(bytes_left=2**63), "bytes_left", id="old-more-than-a-database-holds"),
    pytest.param(old_report(held=None), "", id="old-holds-null"),
    pytest.param(old_report(held=["0"]), "SHA-256", id="old-holds-no-digest"),
    pytest.param(old_report(version=1), "version", id="old-version-as-number"),
    pytest.param(old_report(error="a\x00b"), "error", id="old-text-with-nul"),
    pytest.param(old_report(error="a\ud800b"), "not JSON", id="old-text-no-database-can-hold"),
    pytest.param(old_report(address=["a"]), "address", id="old-address-as-list"),
]

NO_OBJECT = [
    pytest.param(b"", id="empty"),
    pytest.param(b"{", id="cut"),
    pytest.param(b"[]", id="list"),
    pytest.param(b"\xff\xfe{}", id="not-utf-8"),
    pytest.param(b'{"a":' * 100_000, id="deeply-nested"),
    pytest.param(b'{"serial":' + b"9" * 5000 + b"}", id="endless-number"),
]


@pytest.mark.parametrize(("said", "why"), MANIFEST_REFUSED)
def test_no_manifest(said: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidDocument, match=f"^The manifest cannot be read: .*{why}"):
        Manifest.parse(json.dumps(said).encode())


@pytest.mark.parametrize(("said", "why"), REPORT_REFUSED + OLD_REPORT_REFUSED)
def test_no_report(said: dict[str, Any], why: str) -> None:
    with pytest.raises(InvalidDocument, match=f"^The report cannot be read: .*{why}"):
        parse_report(json.dumps(said).encode())


@pytest.mark.parametrize("payload", NO_OBJECT)
def test_no_json_object(payload: bytes) -> None:
    with pytest.raises(InvalidDocument, match=r"^The manifest"):
        Manifest.parse(payload)
    with pytest.raises(InvalidDocument, match=r"^The report"):
        parse_report(payload)


def test_a_manifest_has_12_mib_and_a_report_8_mib_at_most() -> None:
    # 12 MiB are what base64 lets into an envelope of 16 MiB.
    manifest_bytes, report_bytes = 12 * 1024 * 1024, 8 * 1024 * 1024
    sent = manifest(entry("a")).encode()
    assert Manifest.parse(sent + b" " * (manifest_bytes - len(sent))) == manifest(entry("a"))
    with pytest.raises(InvalidDocument, match="it is larger than 12"):
        Manifest.parse(sent + b" " * (manifest_bytes - len(sent) + 1))
    said = Report(sequence=1, version="0.1.0")
    body = said.encode()
    assert parse_report(body + b" " * (report_bytes - len(body))) == said
    with pytest.raises(InvalidDocument, match="it is larger than 8"):
        parse_report(body + b" " * (report_bytes - len(body) + 1))


def test_the_entries_of_an_image_change_together() -> None:
    kernel, root = entry("a/kernel"), entry("a/root", sha256=B)
    loader = Entry(RelativePath("boot"), Kind.ARCHIVE, B, 1, "bootloader:uefi:amd64", "2")
    assert manifest(kernel, loader, root).images() == {
        "os:release:arch": [kernel, root],
        "bootloader:uefi:amd64": [loader],
    }


@pytest.mark.parametrize("confirmed", [(0, 0), (0, 1), (1, 0), (1789000000, 6)])
def test_a_confirmation_travels_and_none_is_not_said(confirmed: tuple[int, int]) -> None:
    sent = Manifest(1789000000, 7, NOW, (), confirmed)
    assert Manifest.parse(sent.encode()) == sent
    assert ("confirmed" in json.loads(sent.encode())) is (confirmed != (0, 0))


def test_caps() -> None:
    with pytest.raises(InvalidDocument, match=f"it is larger than {spoken_size(MAX_REPORT_BYTES)}"):
        parse_report(b" " * (MAX_REPORT_BYTES + 1))
    with pytest.raises(InvalidDocument, match=f"it is larger than {spoken_size(MAX_MANIFEST_BYTES)}"):
        Manifest.parse(b" " * (MAX_MANIFEST_BYTES + 1))


def test_what_a_rack_says_of_its_images_is_cut() -> None:
    said = report(
        version="v" * 100,
        address="a" * 300,
        pending=[{"image": "ubuntu:noble:amd64", "shown_version": "s" * 200, "code": "c" * 100}],
    )
    parsed = parse_report(json.dumps(said).encode())
    assert isinstance(parsed, Report)
    assert (parsed.version, parsed.address) == ("v" * 64, "a" * 256)
    assert parsed.pending == (Pending("ubuntu:noble:amd64", "s" * 128, "c" * 64),)
    old = parse_report(json.dumps(old_report(version="v" * 100, address="a" * 300)).encode())
    assert (old.version, old.address) == ("v" * 64, "a" * 256)


def test_what_is_not_said_is_nothing() -> None:
    assert parse_report(b'{"format": "bootferry-report:2", "sequence": 1, "version": "0.1.0"}') == Report(
        sequence=1,
        version="0.1.0",
        address="",
        knows=Knows(0, 0, ""),
        pending=(),
        bytes_left=0,
        bytes_free=0,
        error=Fault("", ""),
    )
    old = parse_report(json.dumps(old_report()).encode())
    assert isinstance(old, OldReport)
    assert (old.error_code, old.error, old.address) == ("", "", "")


def test_what_a_rack_says_at_length_is_cut() -> None:
    old = parse_report(json.dumps(old_report(error="x" * 5000, error_code="y" * 100)).encode())
    assert isinstance(old, OldReport)
    assert (len(old.error), len(old.error_code), old.address) == (1000, 64, "")
    parsed = parse_report(json.dumps(report(error={"code": "y" * 100, "sentence": "x" * 5000})).encode())
    assert isinstance(parsed, Report)
    assert (len(parsed.error.sentence), len(parsed.error.code)) == (1000, 64)


def test_a_report_is_what_it_says() -> None:
    assert parse_report(json.dumps(report()).encode()) == Report(
        sequence=1,
        version="0.1.0",
        address="10.0.0.2:5248",
        knows=Knows(1, 2, A),
        pending=(Pending("ubuntu:noble:amd64", "20260701", "connection_lost"),),
        bytes_left=3,
        bytes_free=4,
        error=Fault("connection_lost", "It was lost."),
    )
    assert json.loads(Report(sequence=1, version="0.1.0").encode())["format"] == "bootferry-report:2"


@pytest.mark.parametrize(
    ("said", "field"),
    [
        (report(version="\x00"), "version"),
        (report(address="\x00"), "address"),
        (report(error={"code": "\x00"}), "code"),
        (report(error={"sentence": "\x00"}), "sentence"),
        (report(pending=[{"image": "a:b:c", "shown_version": "\x00"}]), "shown_version"),
        (report(pending=[{"image": "a:b:c", "code": "\x00"}]), "code"),
        (old_report(version="\x00"), "version"),
        (old_report(error_code="\x00"), "error_code"),
        (old_report(error="\x00"), "error"),
        (old_report(address="\x00"), "address"),
    ],
)
def test_a_text_that_no_database_can_hold_is_named(said: dict[str, Any], field: str) -> None:
    with pytest.raises(InvalidDocument, match=f": {field} must be one"):
        parse_report(json.dumps(said).encode())


def test_what_a_rack_knows_compares_with_what_was_published() -> None:
    assert Knows(1789000000, 7).order == (1789000000, 7)


def test_what_is_shown_without_a_version_is_called_unknown() -> None:
    # The page and the command line show this word, and racks in the field send it.
    assert UNKNOWN_VERSION == "unknown"


def test_equal_reports_of_version_1_give_equal_bytes() -> None:
    digests = sorted(Sha256.of(str(number).encode()) for number in range(50))
    sent = OldReport(1, "0.1.0", 1, 2, frozenset(digests), 3, 4)
    assert json.loads(sent.encode())["held"] == digests


def test_reports_that_differ_by_their_sequence_say_the_same() -> None:
    first, second = (Report(sequence=number, version="0.1.0", bytes_free=4) for number in (1, 2))
    assert first.says() == second.says() != Report(sequence=1, version="0.1.0", bytes_free=5).says()


whole = st.integers(0, 2**63 - 1)
digests = st.binary(max_size=4).map(Sha256.of)
# Alphabets are spelled out: naming them by category makes a fresh checkout count all of Unicode first.
text = st.text("aZ0 /.\n\x7f\xe9\u2028\U0001f427", max_size=20)


@given(
    st.builds(
        OldReport,
        sequence=whole,
        version=text,
        epoch=whole,
        serial=whole,
        held=st.frozensets(digests, max_size=5),
        bytes_left=whole,
        bytes_free=whole,
        error_code=text,
        error=text,
        address=text,
    )
)
def test_every_report_of_version_1_travels_unchanged(sent: OldReport) -> None:
    assert parse_report(sent.encode()) == sent


names = st.sampled_from(["ubuntu:noble:amd64", "bootloader:uefi:amd64", "centos:8:arm64"])


@given(
    st.builds(
        Report,
        sequence=whole,
        version=text,
        address=text,
        knows=st.builds(Knows, epoch=whole, serial=whole, sha256=st.just("") | digests.map(str)),
        pending=st.lists(st.builds(Pending, image=names, shown_version=text, code=text), max_size=3).map(tuple),
        bytes_left=whole,
        bytes_free=whole,
        error=st.builds(Fault, code=text, sentence=text),
    )
)
def test_every_report_travels_unchanged(sent: Report) -> None:
    assert parse_report(sent.encode()) == sent


anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.sampled_from(["", "a/b", "file", NOW.isoformat(), A]),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["path", "kind", "sha256", "size", ""]), inner, max_size=4)
    ),
    max_leaves=8,
)


@settings(max_examples=40)
@given(
    st.dictionaries(
        st.sampled_from(["epoch", "serial", "created_at", "entries", "held", "version", "knows", "pending", "error"]),
        anything,
    )
)
def test_any_json_is_a_message_or_refused_as_a_document(changes: dict[str, Any]) -> None:
    for parse, said in (
        (Manifest.parse, document(**changes)),
        (parse_report, old_report(**changes)),
        (parse_report, report(**changes)),
    ):
        try:
            parse(json.dumps(said).encode())
        except InvalidDocument as error:
            assert str(error).endswith(".")
