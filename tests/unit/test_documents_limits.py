"""Limits and names of documents, spelled out: what a mirror may say at most, and which words it may use."""

import json
import time
from datetime import UTC, datetime
from typing import Any

import pytest

from region.stream import documents
from region.stream.documents import ProductKind, parse_index
from shared.errors import InvalidDocument
from tests.unit.test_documents import (
    BOOT,
    UPDATED,
    URL,
    bootloader,
    centos,
    document,
    item,
    only,
    parse,
    ubuntu,
    version,
)


def why(parsed: documents.Products) -> list[tuple[str, str]]:
    return [(skipped.name, skipped.why) for skipped in parsed.skipped]


def test_a_document_has_so_much_at_most() -> None:
    assert documents.MAX_DOCUMENT_BYTES == 32 * 1024 * 1024
    assert documents.MAX_ITEM_BYTES == 64 * 1024**3
    assert documents.MAX_PRODUCTS == 100_000
    assert documents.MAX_VERSIONS == 50_000
    assert documents.MAX_ITEMS == 100_000
    assert (documents.MAX_FIELDS, documents.MAX_SKIPPED, documents.MAX_TEXT_CHARACTERS) == (1000, 1000, 256)


def test_a_document_of_32_mib_to_the_byte_is_read() -> None:
    said = json.dumps(document({})).encode()
    whole = said + b" " * (32 * 1024 * 1024 - len(said))
    assert documents.parse_products(whole, URL).products == ()
    with pytest.raises(InvalidDocument, match="it is larger than"):
        documents.parse_products(whole + b" ", URL)


ROOTS = "squashfs root-image root-image.gz root-tgz root-tbz root-txz root.tgz root.tbz root.txz root-dd root-dd.tar"
DISKS = "root-dd.raw root-dd.bz2 root-dd.gz root-dd.xz root-dd.tgz root-dd.tar.bz2 root-dd.tar.xz"


@pytest.mark.parametrize("ftype", [*ROOTS.split(), *DISKS.split()])
def test_root_images_go_by_these_names(ftype: str) -> None:
    assert only(parse({"p": centos(versions={"1": version(ftype)})})).kind is ProductKind.ROOT


@pytest.mark.parametrize("ftype", ["boot-dtb", "manifest", "squashfs.manifest"])
def test_what_comes_beside_an_image_goes_by_these_names(ftype: str) -> None:
    (one,) = only(parse({"p": ubuntu(versions={"1": version("boot-kernel", "boot-initrd", ftype)})})).versions
    assert ftype in [entry.ftype for entry in one.items]


def test_kinds_are_stored_by_these_words() -> None:
    assert [kind.value for kind in ProductKind] == ["boot", "root", "bootloader"]


@pytest.mark.parametrize(("size", "taken"), [(0, True), (64 * 1024**3, True), (64 * 1024**3 + 1, False), (-1, False)])
def test_a_file_has_64_gib_at_most(size: int, taken: bool) -> None:
    product = centos(versions={"1": {"items": {"squashfs": item("squashfs", size=size)}}})
    assert bool(parse({"p": product}).products) is taken


@pytest.mark.parametrize(("length", "taken"), [(256, True), (257, False)])
def test_a_text_has_256_characters_at_most(length: int, taken: bool) -> None:
    assert bool(parse({"p": ubuntu(version="1" * length)}).products) is taken


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("n" * 120, "n" * 120),
        ("n" * 121, "n" * 117 + "..."),
        ("n" * 300, "n" * 117 + "..."),
        ("a\x07b", "a?b"),
    ],
)
def test_a_name_from_outside_is_shown_short_and_printable(name: str, shown: str) -> None:
    assert [name for name, _ in why(parse({name: 3}))] == [shown]


def test_a_time_without_a_zone_is_of_utc(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", "Asia/Kathmandu")
    time.tzset()
    try:
        parsed = parse({}, updated="Thu, 23 Jul 2026 12:07:14 -0000")
    finally:
        monkeypatch.delenv("TZ")
        time.tzset()
    assert parsed.updated == datetime(2026, 7, 23, 12, 7, 14, tzinfo=UTC)


def index(**entries: Any) -> bytes:
    return json.dumps({"format": "index:1.0", "updated": UPDATED, "index": entries}).encode()


ENTRY = {"datatype": "image-ids", "format": "products:1.0", "path": "streams/v1/a.json"}


def test_an_entry_of_an_index_that_says_a_thing_twice_is_skipped() -> None:
    payload = index(a=ENTRY, b=ENTRY).replace(b'"b": {', b'"b": {"path": "x", ')
    parsed = parse_index(payload, URL)
    assert [entry.content_id for entry in parsed.entries] == ["a"]
    (skipped,) = parsed.skipped
    assert (skipped.name, skipped.why) == ("b", "It is not JSON (the key 'path' is there twice).")


def test_a_path_that_cannot_be_printed_is_named_as_a_path() -> None:
    (skipped,) = parse_index(index(a=ENTRY | {"path": "a\u200bb"}), URL).skipped
    assert "Its path a?b is longer than 256 characters, or has control characters." in skipped.why
    product = centos(versions={"1": {"items": {"squashfs": item("squashfs", "a\u200bb")}}})
    assert "Its path a?b is" in why(parse({"p": product}))[0][1]


def test_a_name_that_cannot_be_printed_is_named_as_a_name() -> None:
    told = "Its name a?b is longer than 256 characters, or has control characters."
    assert why(parse({"a\x07b": centos()})) == [("a?b", told)]


def test_products_that_stand_twice_are_told() -> None:
    payload = json.dumps(document({"p": 1})).encode().replace(b'{"p": 1}', b'{"p": 1, "p": 2}')
    with pytest.raises(InvalidDocument, match=r"its 'products' is not JSON \(the key 'p' is there twice\)"):
        documents.parse_products(payload, URL)


def test_a_product_of_no_kind_names_five_of_its_ftypes() -> None:
    told = "It is neither a kernel, nor a root image, nor a bootloader; its ftypes: "
    parsed = parse({"p": centos(versions={"1": version(*"fedcba")})})
    assert why(parsed)[0] == ("p", f"{told}a, b, c, d, e.")
    assert why(parse({"p": centos(versions={"1": {"items": {}}})}))[0] == ("p", f"{told}none.")


def test_an_item_that_says_what_its_product_does_not_is_another_image() -> None:
    product = ubuntu(kflavor=None)
    product["versions"]["20260701"]["items"]["squashfs"]["kflavor"] = "lowlatency"
    parsed = parse({"p": product})
    assert any("Its item squashfs has another kflavor than its product." in text for _, text in why(parsed))


def test_a_version_without_what_makes_its_kind_is_skipped() -> None:
    parsed = parse({"p": centos(versions={"1": version("squashfs"), "2": version("manifest")})})
    assert [one.name for one in parsed.products[0].versions] == ["1"]
    assert any("It has no root image." in text for _, text in why(parsed))
    loaders = bootloader()
    loaders["versions"]["9"] = version("manifest")
    assert any("It has no archive.tar.xz." in text for _, text in why(parse({"p": loaders})))


def test_a_root_image_with_a_type_of_bootloader_is_a_root_image() -> None:
    assert only(parse({"p": centos(**{"bootloader-type": "uefi"})})).kind is ProductKind.ROOT


def test_no_root_image_is_a_ga_kernel() -> None:
    assert not only(parse({"p": centos(version="7", subarch="ga-7")})).is_ga
    assert only(parse({"p": ubuntu(versions={"1": version(*BOOT)})})).is_ga


def test_what_is_skipped_after_a_thousand_is_called_others() -> None:
    skipped = parse({f"p{number}": 3 for number in range(1003)}).skipped
    assert (len(skipped), skipped[-1].name) == (1001, "others")
    assert skipped[-1].why.startswith("3 more parts")


def test_tags_of_a_version_count_for_its_items_and_those_of_a_product_too() -> None:
    squashfs = item("squashfs", "a/b")
    del squashfs["sha256"], squashfs["ftype"]
    product = centos(ftype="squashfs", versions={"1": {"items": {"root": squashfs}, "sha256": "ab" * 32}})
    (one,) = only(parse({"p": product})).versions
    assert [(entry.key, entry.ftype, entry.sha256) for entry in one.items] == [("root", "squashfs", "ab" * 32)]


def test_a_version_that_says_a_thing_twice_is_skipped_alone() -> None:
    product = centos(versions={"1": version("squashfs"), "2": version("squashfs")})
    payload = json.dumps(document({"p": product})).encode().replace(b'"2": {', b'"2": {"items": {}, ')
    parsed = documents.parse_products(payload, URL)
    assert [one.name for one in parsed.products[0].versions] == ["1"]
    assert any("It is not JSON (the key 'items' is there twice)." in text for _, text in why(parsed))


def test_a_newest_version_that_is_none_says_nothing_of_its_product() -> None:
    parsed = parse({"p": centos(versions={"1": version("squashfs"), "2": 5})})
    assert [(found.name, [one.name for one in found.versions]) for found in parsed.products] == [("p", ["1"])]
    assert why(parsed) == [("p 2", "It has no items.")]


def test_what_an_older_version_calls_its_product_does_not_matter() -> None:
    versions = {"1": version("squashfs", path="1", release_title="a\x07"), "2": version("squashfs", path="2")}
    product = only(parse({"p": centos(versions=versions)}))
    assert [one.name for one in product.versions] == ["1", "2"]


def test_a_thousand_unknown_ftypes_are_named_and_the_rest_counted() -> None:
    odd = {f"o{number:04}": item(f"odd-{number:04}", f"o/{number}") for number in range(1003)}
    again = {"p1": item("odd-0000", "o/again")}
    parsed = parse({"p": centos(versions={"1": {"items": {"root": item("squashfs"), **odd, **again}}})})
    left_out = "No rack uses files of this ftype; {} of them were left out."
    assert why(parsed) == [
        ("ftype odd-0000", left_out.format(2)),
        *((f"ftype odd-{number:04}", left_out.format(1)) for number in range(1, 1000)),
        ("ftype others", left_out.format(3)),
    ]


def test_a_date_has_256_characters_at_most() -> None:
    assert parse({}, updated=UPDATED.ljust(256)).updated == datetime(2026, 7, 23, 10, 7, 14, tzinfo=UTC)
    with pytest.raises(InvalidDocument, match="its 'updated' is not a date"):
        parse({}, updated=UPDATED.ljust(257))
