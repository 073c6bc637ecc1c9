"""What a kernel or label that an operator names means: named cases, then true metadata."""

from collections.abc import Iterable
from pathlib import Path

import pytest

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from region.catalogue.facts import Wish
from region.catalogue.kernels import is_kernel, is_label
from region.stream.documents import Product, parse_products
from shared.names import ImageKey
from tests.conftest import NOW
from tests.unit.test_real_scale import needs_real_data, read


@pytest.mark.parametrize(
    ("said", "kernel", "expected"),
    [
        pytest.param("ga-24.04", "ga-24.04", True, id="its name"),
        pytest.param("ga-24.04", "ga-22.04", False, id="the name of another release's kernel"),
        pytest.param("hwe-24.04-lowlatency-edge", "hwe-24.04-lowlatency-edge", True, id="its name with a flavour"),
        pytest.param("ga-24.04", "ga-24.04-lowlatency", False, id="a name means no flavour of it"),
        pytest.param("ga", "ga-24.04", True, id="its kind"),
        pytest.param("ga", "hwe-24.04", False, id="the other kind"),
        pytest.param("ga", "ga-24.04-lowlatency", False, id="a kind means no flavour of it"),
        pytest.param("hwe", "hwe-24.04-edge", False, id="a kind does not mean its edge"),
        pytest.param("hwe-edge", "hwe-24.04-edge", True, id="the edge of a kind"),
        pytest.param("hwe-edge", "hwe-24.04-lowlatency-edge", False, id="the edge without a flavour"),
        pytest.param("ga-lowlatency", "ga-24.04-lowlatency", True, id="a kind with a flavour"),
        pytest.param("hwe-lowlatency-edge", "hwe-24.04-lowlatency-edge", True, id="a kind with a flavour, edge last"),
        pytest.param("hwe-edge-lowlatency", "hwe-24.04-lowlatency-edge", False, id="parts in another order"),
        pytest.param("ga-64k", "ga-24.04-64k", True, id="a flavour that begins with a digit"),
        pytest.param("hwe", "hwe-t", True, id="a release's letter instead of its number"),
        pytest.param("generic", "generic", True, id="a kernel without a release"),
        pytest.param("ga", "generic", False, id="no kind of one without a release"),
        pytest.param("generic", "generic-lpae", False, id="the beginning of a name"),
        pytest.param("*", "xgene-uboot", True, id="all"),
        pytest.param("", "ga-24.04", False, id="nothing"),
        pytest.param("GA", "ga-24.04", False, id="names have their case"),
        pytest.param("24.04", "ga-24.04", False, id="a number alone"),
    ],
)
def test_what_a_kernel_means(said: str, kernel: str, expected: bool) -> None:
    assert is_kernel(said, kernel) is expected


@pytest.mark.parametrize(
    ("said", "expected"),
    [("stable", True), ("*", True), ("candidate", False), ("stab", False), ("", False)],
)
def test_what_a_label_means(said: str, expected: bool) -> None:
    assert is_label(said, "stable") is expected


def taken(products: Iterable[Product], release: str, arch: str, *kernels: str) -> list[str]:
    wish = Wish(None, ImageKey.parse(f"ubuntu:{release}:{arch}"), frozenset(kernels) or None)
    return sorted(
        str(product.subarch)
        for product in products
        if (product.release, product.arch) == (release, arch) and wish.takes(product.subarch, product.label)
    )


@needs_real_data
@pytest.mark.parametrize(
    ("release", "arch", "kernels", "expected"),
    [
        pytest.param("noble", "amd64", ["ga"], ["ga-24.04"], id="one of six"),
        pytest.param("noble", "amd64", ["hwe", "hwe-edge"], ["hwe-24.04", "hwe-24.04-edge"], id="two kinds"),
        pytest.param("noble", "amd64", ["ga-24.04", "ga"], ["ga-24.04"], id="the same twice"),
        pytest.param(
            "jammy", "amd64", ["ga-lowlatency", "hwe-lowlatency-edge"],
            ["ga-22.04-lowlatency", "hwe-22.04-lowlatency-edge"], id="flavours",
        ),
        pytest.param("jammy", "amd64", ["ga-24.04"], [], id="another release's"),
        pytest.param("precise", "amd64", ["hwe"], ["hwe-p", "hwe-q", "hwe-r", "hwe-s", "hwe-t"], id="letters"),
        pytest.param("resolute", "amd64", ["hwe"], [], id="none of that kind yet"),
    ],
)  # fmt: skip
def test_what_kernels_mean_of_the_stable_stream(
    release: str, arch: str, kernels: list[str], expected: list[str]
) -> None:
    products = read("com.ubuntu.maas:stable:v3:download").products
    assert taken(products, release, arch, *kernels) == expected


@needs_real_data
def test_all_kernels_of_the_stable_stream_are_meant_by_a_star_and_by_none() -> None:
    products = read("com.ubuntu.maas:stable:v3:download").products
    for release, arch in {(product.release, product.arch) for product in products}:
        every = sorted(str(p.subarch) for p in products if (p.release, p.arch) == (release, arch))
        assert taken(products, release, arch, "*") == taken(products, release, arch) == every


def test_what_kernels_mean_of_the_sample_mirror(tmp_path: Path) -> None:
    mirror = Mirror.create(tmp_path / "mirror", now=NOW, sizes=TINY)
    [path] = (mirror.root / "streams/v1").glob("*v3*download.json")
    products = parse_products(path.read_bytes(), path.name).products
    assert taken(products, "noble", "arm64", "ga", "hwe-lowlatency") == ["ga-24.04", "hwe-24.04-lowlatency"]
