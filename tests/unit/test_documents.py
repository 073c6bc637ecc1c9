"""Documents of a stream: what is read, what is skipped and why, what is refused."""

import copy
import json
import tracemalloc
from collections.abc import Callable
from contextlib import suppress
from datetime import UTC, date, datetime
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from region.stream import documents
from region.stream.documents import (
    MAX_ITEM_BYTES,
    ROOT_FTYPES,
    IndexEntry,
    Item,
    Product,
    ProductKind,
    Products,
    Version,
    newest_lts,
    parse_index,
    parse_products,
    version_key,
)
from shared.digest import Sha256
from shared.errors import InvalidDocument
from shared.names import Name, RelativePath

URL = "http://mirror.example/streams/v1/products.sjson"
UPDATED = "Thu, 23 Jul 2026 10:07:14 +0000"

type_json = dict[str, Any]


def item(ftype: str, path: str | None = None, **fields: object) -> type_json:
    path = path or f"noble/amd64/20260701/{ftype}"
    return {"ftype": ftype, "path": path, "sha256": Sha256.of(path.encode()), "size": 1000 + len(path), **fields}


def version(*ftypes: str, path: str = "noble/amd64/20260701", **tags: object) -> type_json:
    return {"items": {ftype: item(ftype, f"{path}/{ftype}") for ftype in ftypes}, **tags}


BOOT = ("boot-kernel", "boot-initrd", "squashfs", "manifest")


def ubuntu(**fields: object) -> type_json:
    """The fields of com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04."""
    return {
        "arch": "amd64",
        "kflavor": "generic",
        "krel": "noble",
        "label": "stable",
        "os": "ubuntu",
        "release": "noble",
        "release_codename": "Noble Numbat",
        "release_title": "24.04 LTS",
        "subarch": "ga-24.04",
        "subarches": "generic,ga-24.04",
        "support_eol": "2029-05-31",
        "version": "24.04",
        "versions": {"20260701": version(*BOOT)},
        **fields,
    }


def centos(**fields: object) -> type_json:
    return {
        "arch": "amd64",
        "label": "stable",
        "os": "centos",
        "release": "centos70",
        "release_title": "CentOS 7",
        "subarch": "generic",
        "support_eol": "2024-06-30",
        "version": "7.0",
        "versions": {"20240701_01": version("root-tgz", "manifest", path="centos/centos70/amd64/20240701_01")},
        **fields,
    }


def bootloader(**fields: object) -> type_json:
    """Two archives share one ftype; their keys tell them apart."""
    path = "bootloaders/uefi/amd64/20231004.0"
    return {
        "arch": "amd64",
        "arches": "amd64",
        "bootloader-type": "uefi",
        "label": "stable",
        "os": "grub-efi-signed",
        "versions": {
            "20231004.0": {
                "items": {
                    name: item("archive.tar.xz", f"{path}/{name}.tar.xz") for name in ("grub2-signed", "shim-signed")
                }
            }
        },
        **fields,
    }


def document(offered: type_json, **fields: object) -> type_json:
    return {
        "content_id": "com.ubuntu.maas:stable:v3:download",
        "datatype": "image-ids",
        "format": "products:1.0",
        "updated": UPDATED,
        "products": offered,
        **fields,
    }


def parse(products: type_json, **fields: object) -> Products:
    return parse_products(json.dumps(document(products, **fields)).encode(), URL)


def only(parsed: Products) -> Product:
    assert parsed.skipped == ()
    (product,) = parsed.products
    return product


def test_a_kernel_with_its_root_image_is_a_boot_product() -> None:
    path = "noble/amd64/20260701/boot-kernel"
    product = only(parse({"p": ubuntu(versions={"20260701": version("boot-kernel", "boot-initrd")})}))
    assert product == Product(
        name="p",
        kind=ProductKind.BOOT,
        os=Name("ubuntu"),
        release=Name("noble"),
        arch=Name("amd64"),
        subarch=Name("ga-24.04"),
        label=Name("stable"),
        title="24.04 LTS",
        version="24.04",
        codename="Noble Numbat",
        support_eol=date(2029, 5, 31),
        bootloader_type=None,
        is_ga=True,
        versions=(
            Version(
                Name("20260701"),
                (
                    Item(Name("boot-kernel"), Name("boot-kernel"), RelativePath(path), Sha256.of(path.encode()), 1032),
                    Item(
                        Name("boot-initrd"),
                        Name("boot-initrd"),
                        RelativePath("noble/amd64/20260701/boot-initrd"),
                        Sha256.of(b"noble/amd64/20260701/boot-initrd"),
                        1032,
                    ),
                ),
            ),
        ),
    )
    assert product.lts


def test_a_root_image_without_a_kernel_is_a_root_product() -> None:
    product = only(parse({"p": centos()}))
    assert (product.kind, product.release, product.subarch, product.title) == (
        "root",
        "centos70",
        "generic",
        "CentOS 7",
    )
    assert not product.lts
    assert not product.is_ga


def test_archives_with_a_bootloader_type_are_a_bootloader() -> None:
    product = only(parse({"p": bootloader()}))
    assert (product.kind, product.os, product.release) == ("bootloader", "grub-efi-signed", "grub-efi-signed")
    assert (product.subarch, product.bootloader_type, product.title) == ("uefi", "uefi", "grub-efi-signed (uefi)")
    assert [i.key for i in product.versions[0].items] == ["grub2-signed", "shim-signed"]


def test_a_document_says_what_it_is_and_of_when() -> None:
    parsed = parse({}, updated="Thu, 23 Jul 2026 12:07:14 +0200")
    assert parsed.content_id == "com.ubuntu.maas:stable:v3:download"
    assert parsed.updated == datetime(2026, 7, 23, 10, 7, 14, tzinfo=UTC)
    assert parsed.updated.tzinfo is UTC


@pytest.mark.parametrize("ftype", sorted(ROOT_FTYPES))
def test_every_root_image_that_maas_deploys_makes_a_product(ftype: str) -> None:
    assert only(parse({"p": centos(versions={"1": version(ftype)})})).kind is ProductKind.ROOT


@pytest.mark.parametrize(
    ("release", "subarch", "kflavor", "folded", "is_ga"),
    [
        pytest.param("noble", "ga-24.04", "generic", "ga-24.04", True, id="ga"),
        pytest.param("noble", "ga-24.04", None, "ga-24.04", True, id="no flavour is the generic one"),
        pytest.param("noble", "hwe-24.04", "generic", "hwe-24.04", False, id="hwe"),
        pytest.param("noble", "ga-24.04", "lowlatency", "ga-24.04-lowlatency", False, id="flavour"),
        pytest.param("noble", "hwe-24.04-edge", "lowlatency", "hwe-24.04-lowlatency-edge", False, id="edge is last"),
        pytest.param("noble", "ga-24.04-lowlatency", "lowlatency", "ga-24.04-lowlatency", False, id="already folded"),
        pytest.param("precise", "highbank", "highbank", "highbank", False, id="a board"),
        pytest.param("noble", "generic-lpae", "generic-lpae", "generic-lpae", False, id="a flavour of its own"),
        pytest.param("noble", "xgene-uboot", "generic", "xgene-uboot", False, id="a loader"),
        pytest.param("precise", "hwe-p", "generic", "hwe-p", True, id="before ga had its name"),
        pytest.param("precise", "hwe-t", "generic", "hwe-t", False, id="a later release's kernel"),
        pytest.param("noble", None, None, "generic", False, id="no subarchitecture"),
        pytest.param("noble", "ga-22.04", "generic", "ga-22.04", False, id="another release's ga kernel"),
    ],
)
def test_the_kernel_flavour_folds_into_the_subarchitecture(
    release: str, subarch: str | None, kflavor: str | None, folded: str, is_ga: bool
) -> None:
    product = only(parse({"p": ubuntu(release=release, subarch=subarch, kflavor=kflavor)}))
    assert (product.subarch, product.is_ga) == (folded, is_ga)


@pytest.mark.parametrize(
    ("fields", "attribute", "value"),
    [
        pytest.param({"release_title": None}, "title", "24.04", id="the version where there is no title"),
        pytest.param({"release_title": "", "version": ""}, "title", "noble", id="the release where there is neither"),
        pytest.param({"release_codename": None}, "codename", "", id="no code name"),
        pytest.param({"version": 24.04}, "version", "24.04", id="a number is text"),
        pytest.param({"version": ["24.04"]}, "version", "", id="a list is no tag"),
        pytest.param({"support_eol": "some day"}, "support_eol", None, id="an end of life that is no date"),
        pytest.param({"support_eol": None}, "support_eol", None, id="no end of life"),
    ],
)
def test_descriptions_may_be_missing(fields: type_json, attribute: str, value: object) -> None:
    assert getattr(only(parse({"p": ubuntu(**fields)})), attribute) == value


def test_tags_inherit_and_the_later_one_wins() -> None:
    product = ubuntu(arch=None, versions={"1": {**version(*BOOT), "label": "candidate"}})
    kernel = product["versions"]["1"]["items"]["boot-kernel"]
    kernel["arch"] = "arm64"
    del kernel["sha256"]
    parsed = only(parse({"p": product}, arch="arm64", label="stable", sha256="AB" * 32))
    assert (parsed.arch, parsed.label) == ("arm64", "candidate")
    assert parsed.versions[0].items[0].sha256 == "ab" * 32


def test_products_and_versions_ascend_by_name_as_byte_strings() -> None:
    versions = {name: version(*BOOT, path=name) for name in ("20260701", "20260701.1", "20251231", "9")}
    parsed = parse({"b": ubuntu(arch="arm64", versions=versions), "a": ubuntu(versions=versions)})
    assert [product.name for product in parsed.products] == ["a", "b"]
    assert [v.name for v in parsed.products[0].versions] == ["20251231", "20260701", "20260701.1", "9"]


def with_item(**fields: object) -> Callable[[type_json], None]:
    """A change to the kernel of the older of two versions."""
    return lambda product: product["versions"]["1"]["items"]["boot-kernel"].update(fields)


def without(*path: str) -> Callable[[type_json], None]:
    def change(product: type_json) -> None:
        *parents, last = path
        for key in parents:
            product = product[key]
        del product[last]

    return change


def another(ftype: str) -> Callable[[type_json], None]:
    return lambda product: product["versions"]["1"]["items"].update(more=item(ftype, "1/more"))


@pytest.mark.parametrize(
    ("change", "why"),
    [
        pytest.param(without("versions", "1", "items", "boot-initrd"), "It has no boot-initrd.", id="no initrd"),
        pytest.param(without("versions", "1", "items"), "no items", id="no items"),
        pytest.param(lambda p: p["versions"].update({"1": 5}), "no items", id="a number"),
        pytest.param(lambda p: p["versions"]["1"].update(items=[]), "no items", id="items in a list"),
        pytest.param(
            lambda p: p["versions"]["1"]["items"].update(x=5), "item x is not an object", id="an item that is a number"
        ),
        pytest.param(another("boot-kernel"), "2 items of the ftype boot-kernel", id="two kernels"),
        pytest.param(with_item(ftype=None), "boot-kernel has no ftype", id="no ftype"),
        pytest.param(with_item(ftype=["boot-kernel"]), "has no ftype", id="an ftype in a list"),
        pytest.param(with_item(path=None), "has no path", id="no path"),
        pytest.param(with_item(path="../../etc/passwd"), "not a relative path", id="a path that climbs"),
        pytest.param(with_item(path="//etc/passwd"), "not a relative path", id="an absolute path"),
        pytest.param(with_item(path="a/%2e%2e/b"), "no %, ? or #", id="a path that climbs once it is unescaped"),
        pytest.param(with_item(path="a%2fb"), "no %, ? or #", id="a path with a slash that is escaped"),
        pytest.param(with_item(path="a?b"), "no %, ? or #", id="a path with a query"),
        pytest.param(with_item(path="a#b"), "no %, ? or #", id="a path with a fragment"),
        pytest.param(with_item(path="a\\b"), "not a relative path", id="a path with a backslash"),
        pytest.param(with_item(path="a\nb"), "not a relative path", id="a path with a line break"),
        pytest.param(with_item(path="a\ud800"), "control characters", id="a path with half a character"),
        pytest.param(with_item(sha256=None), "has no sha256", id="no digest"),
        pytest.param(with_item(sha256="ab"), "not a SHA-256 digest", id="a short digest"),
        pytest.param(with_item(size=None), "no size in bytes", id="no size"),
        pytest.param(with_item(size=True), "no size in bytes", id="a size that is a truth"),
        pytest.param(with_item(size=1.5), "no size in bytes", id="a size with a fraction"),
        pytest.param(with_item(size=1e3), "no size in bytes", id="a size with a point, though whole"),
        pytest.param(with_item(size="large"), "no size in bytes", id="a size in words"),
        pytest.param(with_item(size="15046662"), "no size in bytes", id="a size in digits"),
        pytest.param(with_item(size=int("1" * 4000)), "outside 0 to", id="a size without end"),
        pytest.param(with_item(size=-1), "outside 0 to", id="a negative size"),
        pytest.param(with_item(size=MAX_ITEM_BYTES + 1), "outside 0 to", id="an absurd size"),
        pytest.param(with_item(arch="arm64"), "another arch than its product", id="an item of another architecture"),
        pytest.param(
            lambda p: p["versions"]["1"].update(label="candidate"), "belongs to another product", id="another label"
        ),
        pytest.param(
            lambda p: p["versions"]["1"]["items"].update({"Boot-Kernel": item("squashfs", "1/s")}),
            "boot-kernel and Boot-Kernel differ by case alone",
            id="two keys that differ by case",
        ),
        pytest.param(
            lambda p: p["versions"]["1"]["items"].update({"b d": item("squashfs")}),
            "not a name",
            id="a key with a space",
        ),
    ],
)
def test_a_bad_version_costs_only_itself(change: Callable[[type_json], None], why: str) -> None:
    product = ubuntu(versions={name: version("boot-kernel", "boot-initrd", path=name) for name in ("1", "2")})
    change(product)
    parsed = parse({"p": product})
    assert [v.name for p in parsed.products for v in p.versions] == ["2"]
    assert [skipped.name for skipped in parsed.skipped] == ["p 1"]
    assert why in parsed.skipped[0].why


def test_an_empty_file_has_a_size() -> None:
    product = ubuntu()
    product["versions"]["20260701"]["items"]["manifest"]["size"] = 0
    sizes = {str(i.ftype): i.size for i in only(parse({"p": product})).versions[0].items}
    assert sizes["manifest"] == 0


@pytest.mark.parametrize(
    ("inherited", "size"),
    [pytest.param(7, 7, id="a number"), pytest.param("7", None, id="a text is no size above, too")],
)
def test_a_size_may_stand_above_and_is_a_number_there_too(inherited: object, size: int | None) -> None:
    product = ubuntu(size=inherited)
    del product["versions"]["20260701"]["items"]["manifest"]["size"]
    found = [i.size for p in parse({"p": product}).products for i in p.versions[0].items if i.ftype == "manifest"]
    assert found == ([] if size is None else [size])


def test_one_slash_before_a_path_is_taken_off() -> None:
    product = ubuntu()
    product["versions"]["20260701"]["items"]["manifest"]["path"] = "/noble/manifest"
    paths = {str(i.ftype): i.path for i in only(parse({"p": product})).versions[0].items}
    assert paths["manifest"] == "noble/manifest"
    assert [e.path for e in parse_index(index({"a": entry(path="/streams/v1/a.json")}), URL).entries] == [
        "streams/v1/a.json"
    ]


def test_versions_that_differ_by_case_alone_are_one_the_first_by_name() -> None:
    parsed = parse({"p": ubuntu(versions={name: version(*BOOT, path=name) for name in ("1a", "1A", "2")})})
    assert [v.name for v in parsed.products[0].versions] == ["1A", "2"]
    assert [(s.name, s.why) for s in parsed.skipped] == [("p 1a", "Its name differs from 1A by case alone.")]


def test_products_of_one_tree_that_differ_by_case_alone_are_one_the_first_by_name() -> None:
    parsed = parse({"a": ubuntu(), "b": ubuntu(release="Noble"), "c": centos()})
    assert [p.name for p in parsed.products] == ["a", "c"]
    assert [(s.name, s.why) for s in parsed.skipped] == [
        ("b", "It has, but for their case, the os, release, architecture, kernel and label of a.")
    ]


@pytest.mark.parametrize(
    ("name", "product", "why"),
    [
        pytest.param("bad", 5, "not an object", id="a number"),
        pytest.param("bad", ubuntu(versions=None), "no versions", id="no versions"),
        pytest.param("bad", ubuntu(versions={}), "no versions", id="no version"),
        pytest.param("bad", ubuntu(versions=[1]), "no versions", id="versions in a list"),
        pytest.param("bad", ubuntu(os=None), "no os", id="no os"),
        pytest.param("bad", ubuntu(arch=None), "no arch", id="no architecture"),
        pytest.param("bad", ubuntu(label=None), "no label", id="no label"),
        pytest.param("bad", ubuntu(release=None), "no release", id="no release"),
        pytest.param("bad", ubuntu(release="../noble"), "not a name", id="a release that climbs"),
        pytest.param("bad", ubuntu(os=""), "not a name", id="an empty os"),
        pytest.param(
            "bad", ubuntu(release_title="24.04\x1b[2J"), "control characters", id="a title that clears screens"
        ),
        pytest.param("bad", ubuntu(release_title="\u202e24.04"), "control characters", id="a title from right to left"),
        pytest.param("bad", ubuntu(release_title="\ud83d"), "control characters", id="half a character"),
        pytest.param("bad", ubuntu(version="1" * 300), "longer than 256", id="a long version"),
        pytest.param("n" * 300, ubuntu(arch="arm64"), "longer than 256", id="a long name"),
        pytest.param("bad\n", ubuntu(arch="arm64"), "control characters", id="a name with a line break"),
        pytest.param(
            "bad",
            {**ubuntu(), "versions": {"1": version("maas_supported")}},
            "its ftypes: maas_supported",
            id="an unknown kind",
        ),
        pytest.param(
            "bad", bootloader(**{"bootloader-type": None}), "neither a kernel", id="archives of no bootloader"
        ),
    ],
)
def test_a_bad_product_costs_only_itself(name: str, product: object, why: str) -> None:
    parsed = parse({"a": centos(), name: product})
    assert [p.name for p in parsed.products] == ["a"]
    (skipped,) = parsed.skipped
    assert skipped.name.startswith(name[:3])
    assert skipped.name.isprintable()
    assert len(skipped.name) < 300
    assert why in skipped.why


def test_a_product_without_a_usable_version_is_skipped_after_its_versions() -> None:
    parsed = parse({"p": ubuntu(versions={"1": version("boot-kernel")})})
    assert parsed.products == ()
    assert [(skipped.name, skipped.why) for skipped in parsed.skipped] == [
        ("p 1", "It has no boot-initrd."),
        ("p", "None of its versions can be used."),
    ]


def test_an_unknown_ftype_is_left_out_and_named_once() -> None:
    versions = {name: version(*BOOT, "boot-vtpm", path=name) for name in ("1", "2", "3")}
    parsed = parse({"p": ubuntu(versions=versions)})
    assert [len(v.items) for v in parsed.products[0].versions] == [4, 4, 4]
    ((name, why),) = [(skipped.name, skipped.why) for skipped in parsed.skipped]
    assert name == "ftype boot-vtpm"
    assert "3 of them" in why


def test_products_of_one_image_and_kernel_are_one_the_first_by_name() -> None:
    parsed = parse({"b": ubuntu(), "a": ubuntu(subarch="ga-24.04-lowlatency", kflavor="generic"), "c": ubuntu()})
    assert [p.name for p in parsed.products] == ["a", "b"]
    assert [(s.name, s.why) for s in parsed.skipped] == [
        ("c", "It has the os, release, architecture, kernel and label of b.")
    ]


RESERVED = "Its os is bootloader, a name that only bootloaders have on racks."


@pytest.mark.parametrize(
    ("product", "versions", "skipped"),
    [
        pytest.param(ubuntu(os="bootloader"), None, [("odd", RESERVED)], id="a kernel"),
        pytest.param(centos(os="bootloader"), None, [("odd", RESERVED)], id="a root image"),
        pytest.param(
            ubuntu(versions={"1": version(*BOOT, os="bootloader"), "2": version(*BOOT)}),
            ["2"],
            [("odd 1", RESERVED)],
            id="one version",
        ),
        pytest.param(bootloader(os="bootloader"), ["20231004.0"], [], id="a bootloader may be called so"),
    ],
)
def test_no_image_has_the_os_that_racks_keep_bootloaders_under(
    product: type_json, versions: list[str] | None, skipped: list[tuple[str, str]]
) -> None:
    parsed = parse({"odd": product, "good": ubuntu(arch="arm64")})
    found = {p.name: [v.name for v in p.versions] for p in parsed.products}
    assert found.pop("good") == ["20260701"], "it costs the others nothing"
    assert found.get("odd") == versions
    assert [(entry.name, entry.why) for entry in parsed.skipped] == skipped


def test_a_path_with_two_digests_is_believed_of_neither() -> None:
    good = version(*BOOT, path="good")
    first, second = version(*BOOT, path="1"), version(*BOOT, path="2")
    second["items"]["squashfs"] = item("squashfs", "1/squashfs", sha256="ab" * 32)
    parsed = parse({"a": ubuntu(versions={"1": good, "2": first}), "b": ubuntu(arch="arm64", versions={"2": second})})
    assert [(p.name, [v.name for v in p.versions]) for p in parsed.products] == [("a", ["1"])]
    assert [skipped.name for skipped in parsed.skipped] == ["a 2", "b 2", "b"]
    assert "1/squashfs two digests" in parsed.skipped[0].why


def test_a_digest_with_two_sizes_is_believed_of_neither() -> None:
    product = ubuntu()
    items = product["versions"]["20260701"]["items"]
    items["manifest"] = {**items["squashfs"], "ftype": "manifest", "path": "elsewhere", "size": 5}
    assert [skipped.name for skipped in parse({"p": product}).skipped] == ["p 20260701", "p"]


def test_kernels_share_one_file() -> None:
    shared = version(*BOOT)
    parsed = parse({"a": ubuntu(versions={"1": shared}), "b": ubuntu(subarch="hwe-24.04", versions={"1": shared})})
    assert parsed.skipped == ()
    assert len(parsed.products) == 2


def nested(depth: int) -> bytes:
    return b'{"format": ' + b"[" * depth + b"]" * depth + b"}"


@pytest.mark.parametrize("parser", [pytest.param(parse_index, id="index"), pytest.param(parse_products, id="products")])
@pytest.mark.parametrize(
    ("payload", "why"),
    [
        pytest.param(b"", "not JSON", id="empty"),
        pytest.param(b"<html>", "not JSON", id="a page"),
        pytest.param(b"[]", "its format is none", id="a list"),
        pytest.param(b"{}", "its format is None", id="no format"),
        pytest.param(b'{"format": "products:2.0"}', "its format is products:2.0", id="a format to come"),
        pytest.param(b'\xef\xbb\xbf{"format": "products:1.0"}', "not JSON", id="a byte order mark"),
        pytest.param('{"format": "é"}'.encode("latin-1"), "not UTF-8 at byte 12", id="not UTF-8"),
        pytest.param('{"format": "x"}'.encode("utf-16"), "not UTF-8", id="UTF-16"),
        pytest.param(b'{"size": NaN}', "NaN is not a number", id="not a number"),
        pytest.param(b'{"size": -Infinity}', "-Infinity is not a number", id="infinity"),
        pytest.param(b'{"b": 1, "c": 2, "b": 3}', "the key 'b' is there twice", id="a key twice"),
        pytest.param(b'{"b": 1, "c": 2, "\\u0062": 3}', "the key 'b' is there twice", id="a key twice, once escaped"),
        pytest.param(nested(100_000), "nested too deeply", id="deep"),
        pytest.param(b'{"size": 01}', "not JSON from line 1, column 11 on", id="a number that is none"),
        pytest.param(b'{"a": 1,\n "b": tru}', "not JSON from line 2, column [0-9]+ on", id="a word that is none"),
        pytest.param(b'{"a": "\\x"}', "not JSON", id="an escape that is none"),
        pytest.param(b'{"format": "products:1.0"} {}', "not JSON", id="two documents"),
        pytest.param(b" " * (32 * 1024 * 1024 + 1), "larger than 33.6 MB", id="too large"),
    ],
)
def test_what_is_not_a_document_is_refused_by_name(
    parser: Callable[[bytes, str], object], payload: bytes, why: str
) -> None:
    with pytest.raises(InvalidDocument, match=why) as caught:
        parser(payload, URL)
    assert str(caught.value).startswith(f"{URL} cannot be read: ")
    assert caught.value.__cause__ is None
    assert len(str(caught.value)) < 400


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        pytest.param({"updated": None}, "'updated' is not a date", id="no date"),
        pytest.param({"updated": "2026-07-23"}, "'updated' is not a date", id="a date of another form"),
        pytest.param(
            {"updated": "Fri, 31 Dec 9999 23:59:59 -2359"}, "'updated' is not a date", id="after the last day"
        ),
        pytest.param(
            {"updated": "Mon, 01 Jan 2024 99:00:00 +0000"}, "'updated' is not a date", id="an impossible hour"
        ),
        pytest.param({"content_id": None}, "no content_id", id="no content id"),
        pytest.param({"content_id": "a\nb"}, "control characters", id="a content id with a line break"),
        pytest.param({"products": []}, "'products' is not an object", id="products in a list"),
        pytest.param({"products": None}, "'products' is not an object", id="no products"),
    ],
)
def test_a_document_without_its_own_fields_is_refused(fields: type_json, why: str) -> None:
    with pytest.raises(InvalidDocument, match=why):
        parse_products(json.dumps(document({}, **fields)).encode(), URL)


def test_too_many_products_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "MAX_PRODUCTS", 1)
    with pytest.raises(InvalidDocument, match="more products than 1, the most it may have"):
        parse({"a": ubuntu(), "b": centos()})


@pytest.mark.parametrize(
    ("limit", "most", "why"),
    [
        pytest.param("MAX_VERSIONS", 3, "more versions than any document may have", id="versions"),
        pytest.param("MAX_ITEMS", 15, "more items than any document may have", id="items"),
    ],
)
def test_too_many_parts_are_refused_counted_over_all_products(
    monkeypatch: pytest.MonkeyPatch, limit: str, most: int, why: str
) -> None:
    four = {"a": ubuntu(versions={v: version(*BOOT, path=v) for v in "12"})}
    assert len(parse(four | {"b": ubuntu(arch="arm64")}).products) == 2
    monkeypatch.setattr(documents, limit, most)
    with pytest.raises(InvalidDocument, match=why):
        parse(four | {"b": ubuntu(arch="arm64", versions={v: version(*BOOT, path=v) for v in "12"})})


def test_what_is_skipped_is_named_a_thousand_times_and_counted_after_that() -> None:
    parsed = parse({f"{n:04}": 5 for n in range(1200)})
    assert len(parsed.skipped) == 1001
    assert parsed.skipped[999].name == "0999"
    assert parsed.skipped[1000].why == "200 more parts of the document cannot be used either."


def test_a_key_that_stands_twice_costs_what_it_stands_in() -> None:
    text = json.dumps(document({"a": ubuntu(), "b": centos()}))
    twice = text.replace('"os": "centos"', '"os": "centos", "os": "ubuntu"')
    assert twice != text
    parsed = parse_products(twice.encode(), URL)
    assert [p.name for p in parsed.products] == ["a"]
    assert [(s.name, s.why) for s in parsed.skipped] == [("b", "It is not JSON (the key 'os' is there twice).")]
    twice = text.replace('"ftype": "root-tgz"', '"ftype": "root-tgz", "ftype": "squashfs"')
    assert twice != text
    parsed = parse_products(twice.encode(), URL)
    assert [p.name for p in parsed.products] == ["a"]


@pytest.mark.parametrize(
    "odd",
    [
        pytest.param(b'{"x": {"y": 1, "y": 2}}', id="a key that stands twice"),
        pytest.param(b"1" * 5000, id="a number without end"),
        pytest.param(b"1e999", id="a number beyond all"),
        pytest.param(b"[" * 500 + b"]" * 500, id="depth"),
        pytest.param(rb'"\ud800"', id="half a character"),
    ],
)
def test_a_field_nobody_reads_is_not_built_and_costs_nothing(odd: bytes) -> None:
    payload = json.dumps(document({"p": ubuntu(unread="HERE")})).encode().replace(b'"HERE"', odd)
    assert only(parse_products(payload, URL)).name == "p"


@pytest.mark.parametrize(
    ("text", "read"),
    [
        pytest.param(rb"\ud83d\ude00", "\U0001f600", id="a pair is a character"),
        pytest.param(rb"\\ud800", "\\ud800", id="a backslash that is escaped begins no escape"),
        pytest.param(rb"\uD83D\uDE00", "\U0001f600", id="capital digits"),
    ],
)
def test_whole_characters_are_read_as_they_are(text: bytes, read: str) -> None:
    # The second field makes the document one that has halves of characters.
    fields = ubuntu(release_title="HERE", unread="THERE")
    payload = json.dumps(document({"p": fields})).encode().replace(b"HERE", text, 1)
    payload = payload.replace(b"THERE", rb"\udc00").replace(b'"T' + text, rb'"\udc00')
    assert only(parse_products(payload, URL)).title == read


def test_a_document_of_half_characters_is_refused() -> None:
    payload = json.dumps(document({"p": ubuntu(unread="HERE")})).encode().replace(b"HERE", rb"\ud800" * 10_001)
    with pytest.raises(InvalidDocument, match="more than 10000 halves of characters"):
        parse_products(payload, URL)


def test_bytes_that_are_not_utf_8_are_named_wherever_they_are() -> None:
    payload = json.dumps(document({"p": ubuntu(unread="é" * 300_000 + "HERE")}), ensure_ascii=False).encode()
    at = payload.index(b"HERE")
    with pytest.raises(InvalidDocument, match=f"not UTF-8 at byte {at + 1}"):
        parse_products(payload.replace(b"HERE", b"H\xffRE"), URL)


def index(entries: object) -> bytes:
    return json.dumps({"format": "index:1.0", "updated": UPDATED, "index": entries}).encode()


def entry(**fields: object) -> type_json:
    return {
        "datatype": "image-ids",
        "format": "products:1.0",
        "path": "streams/v1/com.ubuntu.maas:stable:v3:download.sjson",
        "products": ["com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04"],
        "updated": UPDATED,
        **fields,
    }


def test_an_index_names_its_product_files() -> None:
    parsed = parse_index(index({"com.ubuntu.maas:stable:v3:download": entry(), "other": entry(updated=None)}), URL)
    moment = datetime(2026, 7, 23, 10, 7, 14, tzinfo=UTC)
    path = RelativePath("streams/v1/com.ubuntu.maas:stable:v3:download.sjson")
    assert parsed.updated == moment
    assert parsed.entries == (
        IndexEntry("com.ubuntu.maas:stable:v3:download", path, moment),
        IndexEntry("other", path, None),
    )
    assert parsed.skipped == ()


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        pytest.param("bad", 5, "not an object", id="a number"),
        pytest.param("bad", entry(datatype="image-downloads"), "says image-downloads", id="other data"),
        pytest.param("bad", entry(format="products:2.0"), "products:2.0", id="a format to come"),
        pytest.param("bad", entry(path=None), "not a relative path", id="no path"),
        pytest.param("bad", entry(path="../../secret"), "not a relative path", id="a path that climbs"),
        pytest.param("bad", entry(path="a\udc00"), "control characters", id="half a character"),
        pytest.param("bad\x00", entry(), "control characters", id="a name with a control character"),
    ],
)
def test_a_bad_entry_costs_only_itself(name: str, fields: object, why: str) -> None:
    parsed = parse_index(index({"a": entry(), name: fields}), URL)
    assert [e.content_id for e in parsed.entries] == ["a"]
    ((skipped, reason),) = [(s.name, s.why) for s in parsed.skipped]
    assert skipped.startswith("bad")
    assert why in reason


@pytest.mark.parametrize(
    ("lower", "higher"),
    [
        pytest.param("24.04", "26.04", id="years"),
        pytest.param("6.6", "7", id="shorter and higher"),
        pytest.param("9.10", "24.04", id="by number, not by letter"),
        pytest.param("24.04", "24.04.1", id="point release"),
        pytest.param("8-beta", "8.1", id="words before numbers"),
        pytest.param("", "1", id="none before any"),
    ],
)
def test_versions_order_by_number(lower: str, higher: str) -> None:
    assert version_key(lower) < version_key(higher)


@pytest.mark.parametrize(
    ("changes", "release"),
    [
        pytest.param([], None, id="nothing offered"),
        pytest.param([{"version": "9.04", "release": "jaunty"}, {}], "noble", id="highest number"),
        pytest.param(
            [{}, {"version": "25.10", "release": "questing", "release_title": "25.10"}], "noble", id="long-term only"
        ),
        pytest.param(
            [{}, {"version": "26.04", "release": "resolute", "arch": "arm64"}], "noble", id="this architecture"
        ),
        pytest.param([{}, {"version": "26", "release": "other", "os": "debian"}], "noble", id="Ubuntu only"),
        pytest.param(
            [{}, {"version": "26.04", "release": "resolute", "versions": {"1": version("squashfs", path="r")}}],
            "noble",
            id="what boots",
        ),
    ],
)
def test_the_newest_long_term_release_is_chosen(changes: list[type_json], release: str | None) -> None:
    parsed = parse({str(n): ubuntu(**change) for n, change in enumerate(changes)})
    assert parsed.skipped == ()
    assert newest_lts(parsed.products, "amd64") == release


REAL_LIKE = document({"a": ubuntu(), "b": centos(), "c": bootloader()})
ODD = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(10**20), 10**20),
    st.floats(),
    st.text(st.characters(), max_size=20),
    st.sampled_from(
        ["", "../x", "a" * 2000, "\ud800", "ubuntu", "20260701", [], {}, [{}], {"items": {}}, {"a": {"b": 1}}]
    ),
)


def places(node: object) -> list[tuple[Any, str]]:
    """Every (object, key) below `node`."""
    if not isinstance(node, dict):
        return []
    return [place for key, child in node.items() for place in [(node, key), *places(child)]]


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(data=st.data())
def test_no_change_to_a_document_raises_anything_but_invalid_document(data: st.DataObject) -> None:
    mutated = copy.deepcopy(REAL_LIKE)
    for _ in range(data.draw(st.integers(1, 4))):
        if not (found := places(mutated)):
            break
        parent, key = found[data.draw(st.integers(0, len(found) - 1))]
        match data.draw(st.sampled_from(["replace", "remove", "rename"])):
            case "replace":
                parent[key] = copy.deepcopy(data.draw(ODD))
            case "remove":
                del parent[key]
            case "rename":
                parent[data.draw(st.text(max_size=10))] = parent.pop(key)
    payload = bytearray(json.dumps(mutated).encode())
    for position in data.draw(st.lists(st.integers(0, len(payload) - 1), max_size=2)):
        payload[position] = data.draw(st.integers(0, 255))
    try:
        parsed = parse_products(bytes(payload), URL)
    except InvalidDocument as error:
        assert error.where == URL
    else:
        assert all(product.versions for product in parsed.products)
        texts = [skipped.name + skipped.why for skipped in parsed.skipped]
        texts += [product.name + product.title + product.version + product.codename for product in parsed.products]
        assert all(text.encode() and text.isprintable() for text in texts)


def hostile(begin: str, part: str, end: str) -> bytes:
    """Four million bytes of the same, in a document of one product."""
    head = json.dumps(document({"p": ubuntu(unread="HERE", versions={"1": {"items": {"x": "THERE"}}})}))
    parts = ",".join(part.replace("#", str(number)) for number in range(4_000_000 // (len(part) + 5)))
    return (
        head.replace('"HERE"', f"{begin}{parts}{end}") if begin == "[" else head.replace('"x": "THERE"', parts)
    ).encode()


@pytest.mark.parametrize(
    "payload",
    [
        pytest.param(hostile("[", "[]", "]"), id="lists in a field nobody reads"),
        pytest.param(hostile("[", '{"a": "#"}', "]"), id="objects in a field nobody reads"),
        pytest.param(hostile("", '"#": {}', ""), id="items without end"),
    ],
)
def test_a_hostile_document_costs_little_more_memory_than_its_own_bytes(payload: bytes) -> None:
    tracemalloc.start()
    try:
        with suppress(InvalidDocument):
            parse_products(payload, URL)
        peak = tracemalloc.get_traced_memory()[1]
    finally:
        tracemalloc.stop()
    # Built whole they take 38 to 70 MB.
    assert peak < 25_000_000, peak
