"""What the sample mirror offers, in the names and fields of the stable stream of images.maas.io (July 2026).

It departs from the real one in three places: every LTS has the same five kernels on amd64 and arm64, CentOS 6.6 is
still there, and one product is of a kind no reader knows.
"""

from collections.abc import Iterator
from typing import Any, NamedTuple

Fields = dict[str, Any]  # the fields of one product, one version or one item, as the documents have them

BOOTLOADERS = "com.ubuntu.maas:stable:1:bootloader-download"
CENTOS = "com.ubuntu.maas:stable:centos-bases-download"
UBUNTU = "com.ubuntu.maas:stable:v3:download"


class Release(NamedTuple):
    version: str
    codename: str
    support_eol: str
    support_esm_eol: str
    lts: bool = False
    serials: tuple[str, ...] = ("20260701",)

    @property
    def name(self) -> str:
        return self.codename.split()[0].lower()

    @property
    def title(self) -> str:
        return f"{self.version} LTS" if self.lts else self.version


RELEASES = (
    Release("22.04", "Jammy Jellyfish", "2027-06-01", "2032-04-21", lts=True),
    Release("24.04", "Noble Numbat", "2029-05-31", "2034-04-25", lts=True, serials=("20260624", "20260701")),
    Release("24.10", "Oracular Oriole", "2025-01-01", "2025-01-01", serials=("20250430", "20250620")),
    Release("25.04", "Plucky Puffin", "2025-01-01", "2025-01-01", serials=("20250916", "20250928")),
    Release("25.10", "Questing Quokka", "2026-07-09", "2026-07-09"),
    Release("26.04", "Resolute Raccoon", "2031-05-29", "2036-04-23", lts=True),
)
ARCHITECTURES = ("amd64", "arm64")


class Kernel(NamedTuple):
    name: str  # how the product's name ends; `kflavor` folded in, as racks name it
    subarch: str
    kflavor: str
    kpackage: str


def kernels(release: Release) -> tuple[Kernel, ...]:
    """The kernels of a release: one in an interim release, five in an LTS."""
    ga, hwe = f"ga-{release.version}", f"hwe-{release.version}"
    general = Kernel(ga, ga, "generic", "linux-generic")
    if not release.lts:
        return (general,)
    return (
        general,
        Kernel(f"{ga}-lowlatency", ga, "lowlatency", "linux-image-lowlatency"),
        Kernel(hwe, hwe, "generic", f"linux-generic-{hwe}"),
        Kernel(f"{hwe}-edge", f"{hwe}-edge", "generic", f"linux-generic-{hwe}-edge"),
        Kernel(f"{hwe}-lowlatency", hwe, "lowlatency", f"linux-lowlatency-{hwe}"),
    )


class Centos(NamedTuple):
    version: str
    release: str
    title: str
    support_eol: str
    serials: tuple[str, ...]


CENTOS_RELEASES = (
    Centos("6.6", "centos66", "CentOS 6.6", "2020-11-30", ("20180501_01",)),
    Centos("7.0", "centos70", "CentOS 7", "2024-06-30", ("20240604_01", "20240622_01")),
    Centos("8", "8", "CentOS 8", "2029-05-31", ("20211104_01",)),
)


class Package(NamedTuple):
    name: str
    release: str
    version: str
    files: tuple[str, ...]


class Bootloader(NamedTuple):
    os: str
    type: str
    arch: str
    arches: str  # not always spelt alike upstream: a space may follow the comma
    serials: tuple[str, ...]
    packages: tuple[Package, ...]

    @property
    def product(self) -> str:
        return f"com.ubuntu.maas.stable:1:{self.os}:{self.type}:{self.arch}"


_PXELINUX_FILES = (
    "chain.c32",
    "ifcpu.c32",
    "ifcpu64.c32",
    "ldlinux.c32",
    "libcom32.c32",
    "libutil.c32",
    "lpxelinux.0",
    "pxelinux.0",
)
_GRUB_VERSION, _SHIM_VERSION = "1.187.6+2.06-2ubuntu14.4", "1.51.3+15.7-0ubuntu1"
_BOOTLOADERS = (
    Bootloader(
        "grub-efi-signed",
        "uefi",
        "amd64",
        "amd64",
        ("20230222.0", "20231004.0"),
        (
            Package("grub2-signed", "jammy", _GRUB_VERSION, ("grubx64.efi",)),
            Package("shim-signed", "jammy", _SHIM_VERSION, ("bootx64.efi",)),
        ),
    ),
    Bootloader(
        "grub-efi",
        "uefi",
        "arm64",
        "arm64",
        ("20231004.0",),
        (
            Package("grub2-signed", "jammy", _GRUB_VERSION, ("grubaa64.efi",)),
            Package("shim-signed", "jammy", _SHIM_VERSION, ("bootaa64.efi",)),
        ),
    ),
    Bootloader(
        "grub-ieee1275",
        "open-firmware",
        "ppc64el",
        "ppc64el,ppc64",
        ("20210509.0",),
        (Package("grub2", "xenial", "2.02~beta2-36ubuntu3.32", ("bootppc64.bin",)),),
    ),
    Bootloader(
        "pxelinux",
        "pxe",
        "amd64",
        "amd64, i386",
        ("20230615.0",),
        (Package("syslinux", "jammy", "3:6.04~git20190206.bf6db5b4+dfsg1-3ubuntu1", _PXELINUX_FILES),),
    ),
    Bootloader(
        "pxelinux",
        "pxe",
        "i386",
        "i386,amd64",
        ("20210203.0",),
        (Package("syslinux", "focal", "3:6.04~git20190206.bf6db5b4+dfsg1-2", _PXELINUX_FILES),),
    ),
)


class Product(NamedTuple):
    """A product before its first version: where it stands, what it is, and the serials it starts with."""

    content_id: str
    name: str
    fields: Fields
    serials: tuple[str, ...]


def initial_products() -> Iterator[Product]:
    """Every product of a fresh mirror."""
    for release in RELEASES:
        for arch in ARCHITECTURES:
            yield from (_ubuntu(release, arch, kernel) for kernel in kernels(release))
    yield from map(_centos, CENTOS_RELEASES)
    yield from map(_bootloader, _BOOTLOADERS)
    name = "com.ubuntu.maas.stable:v3:maas_supported:24.04:amd64"
    yield Product(UBUNTU, name, {"arch": "amd64", "label": "stable", "maas_supported": "3.7"}, ("20260701",))


def items_of(fields: Fields, version: str) -> dict[str, Fields]:
    """The items a version of this product consists of, by key; digest and size are for whoever makes the files.

    All kernels of a release, architecture and version name one squashfs and one manifest of it.
    """
    if "kflavor" in fields:
        return _ubuntu_items(fields, version)
    if fields.get("os") == "centos":
        base = f"centos/{fields['release']}/{fields['arch']}/{version}"
        return {
            "manifest": {"ftype": "manifest", "path": f"{base}/root-tgz.manifest"},
            "root-tgz": {"ftype": "root-tgz", "path": f"{base}/root-tgz"},
        }
    if "bootloader-type" in fields:
        base = f"bootloaders/{fields['bootloader-type']}/{fields['arch']}/{version}"
        return {
            package.name: {
                "ftype": "archive.tar.xz",
                "path": f"{base}/{package.name}.tar.xz",
                "src_package": package.name,
                "src_release": package.release,
                "src_version": package.version,
            }
            for package in _packages(fields)
        }
    return {"support": {"ftype": "support-matrix", "path": f"maas_supported/{version}/support-matrix"}}


def archive_members(fields: Fields, key: str) -> tuple[str, ...]:
    """The names of the files in the archive that is item `key` of this product; none where the item is no archive."""
    return next((package.files for package in _packages(fields) if package.name == key), ())


def _packages(fields: Fields) -> tuple[Package, ...]:
    kind = fields.get("os"), fields.get("bootloader-type"), fields["arch"]
    return next((b.packages for b in _BOOTLOADERS if (b.os, b.type, b.arch) == kind), ())


def _ubuntu(release: Release, arch: str, kernel: Kernel) -> Product:
    fields = {
        "arch": arch,
        "kflavor": kernel.kflavor,
        "krel": release.name,
        "label": "stable",
        "os": "ubuntu",
        "release": release.name,
        "release_codename": release.codename,
        "release_title": release.title,
        "subarch": kernel.subarch,
        "subarches": _subarches(release, kernel),
        "support_eol": release.support_eol,
        "support_esm_eol": release.support_esm_eol,
        "version": release.version,
    }
    name = f"com.ubuntu.maas.stable:v3:boot:{release.version}:{arch}:{kernel.name}"
    return Product(UBUNTU, name, fields, release.serials)


def _subarches(release: Release, kernel: Kernel) -> str:
    """The machines a kernel supports. Edge kernels name the hwe ones after bionic, the others name the ga ones."""
    versions = [f"{year}.{month}" for year in range(16, 27) for month in ("04", "10")]
    versions = versions[: versions.index(release.version) + 1]
    names = [f"ga-{version}" for version in versions]
    if kernel.subarch.endswith("-edge"):
        bionic = versions.index("18.04") + 1
        hwe = [v for v in versions[bionic:] if v in ("18.10", "19.04", "19.10") or (v[1] in "02468" and v[3:] == "04")]
        names = names[:bionic] + [f"hwe-{version}" for version in hwe]
    return ",".join(["generic", *(f"hwe-{letter}" for letter in "pqrstuvw"), *names])


def _ubuntu_items(fields: Fields, version: str) -> dict[str, Fields]:
    base = f"{fields['release']}/{fields['arch']}/{version}"
    kpackage = next(
        kernel.kpackage
        for release in RELEASES
        for kernel in kernels(release)
        if (release.name, kernel.subarch, kernel.kflavor) == (fields["release"], fields["subarch"], fields["kflavor"])
    )
    boot = {
        ftype: {
            "ftype": ftype,
            "kpackage": kpackage,
            "path": f"{base}/{fields['subarch']}/{fields['kflavor']}/{ftype}",
        }
        for ftype in ("boot-initrd", "boot-kernel")
    }
    return {
        **boot,
        "manifest": {"ftype": "manifest", "path": f"{base}/squashfs.manifest"},
        "squashfs": {"ftype": "squashfs", "path": f"{base}/squashfs"},
    }


def _centos(centos: Centos) -> Product:
    fields = {
        "arch": "amd64",
        "label": "stable",
        "os": "centos",
        "release": centos.release,
        "release_title": centos.title,
        "subarch": "generic",
        "subarches": "generic",
        "support_eol": centos.support_eol,
        "version": centos.version,
    }
    name = f"com.ubuntu.maas.stable:centos-bases:{centos.version}:amd64"
    return Product(CENTOS, name, fields, centos.serials)


def _bootloader(bootloader: Bootloader) -> Product:
    fields = {
        "arch": bootloader.arch,
        "arches": bootloader.arches,
        "bootloader-type": bootloader.type,
        "label": "stable",
        "os": bootloader.os,
    }
    return Product(BOOTLOADERS, bootloader.product, fields, bootloader.serials)
