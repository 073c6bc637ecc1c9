"""The stable stream of images.maas.io at its true size, and a made-up one as large that is there on every machine."""

import json
from collections import Counter
from pathlib import Path

import pytest

from region.stream.documents import Product, ProductKind, Products, newest_lts, parse_index, parse_products
from shared.digest import Sha256

STABLE = Path(__file__).parents[3] / "shared" / "data" / "stable-stream"

needs_real_data = pytest.mark.skipif(
    not STABLE.is_dir(), reason=f"the stable stream's metadata is not beside this checkout, at {STABLE}"
)


def read(content_id: str) -> Products:
    path = STABLE / "streams" / "v1" / f"{content_id}.json"
    return parse_products(path.read_bytes(), path.name)


def distinct(products: tuple[Product, ...]) -> tuple[int, int, int]:
    """How many items there are, on how many paths, and how many bytes they are when every digest is kept once."""
    items = [item for product in products for version in product.versions for item in version.items]
    return len(items), len({item.path for item in items}), sum({item.sha256: item.size for item in items}.values())


@needs_real_data
def test_the_index_names_three_product_files() -> None:
    index = parse_index((STABLE / "streams" / "v1" / "index.json").read_bytes(), "index.json")
    assert index.skipped == ()
    assert {entry.content_id for entry in index.entries} == {
        "com.ubuntu.maas:stable:1:bootloader-download",
        "com.ubuntu.maas:stable:centos-bases-download",
        "com.ubuntu.maas:stable:v3:download",
    }
    assert all((STABLE / entry.path).is_file() for entry in index.entries)


@needs_real_data
def test_every_ubuntu_product_is_read() -> None:
    parsed = read("com.ubuntu.maas:stable:v3:download")
    assert parsed.skipped == ()
    assert len(parsed.products) == 199
    assert {product.kind for product in parsed.products} == {ProductKind.BOOT}
    items, paths, size_bytes = distinct(parsed.products)
    assert (items, paths, round(size_bytes / 1e9, 1)) == (2326, 1646, 122.6)
    assert len({product.release for product in parsed.products}) == 16
    assert newest_lts(parsed.products, "amd64") == "resolute"
    assert {product.version for product in parsed.products if product.release == "resolute"} == {"26.04"}
    assert sum(product.is_ga for product in parsed.products) == 79


@needs_real_data
def test_no_image_has_two_kernels_that_answer_as_generic() -> None:
    parsed = read("com.ubuntu.maas:stable:v3:download")
    generic = Counter((product.release, product.arch) for product in parsed.products if product.is_ga)
    assert set(generic.values()) == {1}
    assert "precise" in {release for release, _ in generic}


@needs_real_data
@pytest.mark.parametrize(
    ("content_id", "kind", "products", "items"),
    [
        pytest.param("com.ubuntu.maas:stable:1:bootloader-download", "bootloader", 5, 13, id="bootloaders"),
        pytest.param("com.ubuntu.maas:stable:centos-bases-download", "root", 2, 8, id="CentOS"),
    ],
)
def test_what_is_not_ubuntu_is_read_too(content_id: str, kind: str, products: int, items: int) -> None:
    parsed = read(content_id)
    assert parsed.skipped == ()
    assert {product.kind for product in parsed.products} == {kind}
    assert len(parsed.products) == products
    assert distinct(parsed.products)[0] == items


RELEASES, ARCHES, DAYS = 16, ("amd64", "arm64", "armhf", "ppc64el"), ("20260701", "20260715", "20260722")
KERNELS = (("ga", "generic"), ("ga", "lowlatency"), ("hwe", "generic"))
FTYPES = ("boot-kernel", "boot-initrd", "squashfs", "manifest")


def made_up() -> bytes:
    """192 products of 16 releases, 2,304 items: the kernels of a release, architecture and day share one squashfs."""
    products = {}
    for release in range(RELEASES):
        year, lts = 11 + release, release % 2
        for arch in ARCHES:
            for branch, kflavor in KERNELS:
                versions = {}
                for day in DAYS:
                    items = {}
                    for ftype in FTYPES:
                        kernel = f"{branch}/{kflavor}/" if ftype.startswith("boot-") else ""
                        path = f"r{release}/{arch}/{day}/{kernel}{ftype}"
                        items[ftype] = {"ftype": ftype, "path": path, "sha256": Sha256.of(path.encode()), "size": 1000}
                    versions[day] = {"items": items}
                products[f"org.example:v3:boot:{year}.04:{arch}:{branch}-{year}.04-{kflavor}"] = {
                    "arch": arch,
                    "kflavor": kflavor,
                    "label": "stable",
                    "os": "ubuntu",
                    "release": f"r{release}",
                    "release_title": f"{year}.04 LTS" if lts else f"{year}.04",
                    "subarch": f"{branch}-{year}.04",
                    "version": f"{year}.04",
                    "versions": versions,
                }
    document = {
        "content_id": "org.example:stable:v3:download",
        "datatype": "image-ids",
        "format": "products:1.0",
        "updated": "Thu, 23 Jul 2026 10:07:14 +0000",
        "products": products,
    }
    return json.dumps(document, indent=1).encode()


def test_a_made_up_stream_as_large_is_read() -> None:
    parsed = parse_products(made_up(), "made-up")
    assert parsed.skipped == ()
    assert len(parsed.products) == 192
    # Per release, architecture and day: two files for each of three kernels, and two that they share.
    paths = 16 * 4 * 3 * (2 * 3 + 2)
    assert distinct(parsed.products) == (2304, paths, paths * 1000)
    assert len({(p.arch, p.subarch, p.release) for p in parsed.products}) == 192
    assert newest_lts(parsed.products, "arm64") == "r15"
    assert sum(product.is_ga for product in parsed.products) == 16 * 4
