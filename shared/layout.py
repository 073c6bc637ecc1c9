"""Layout: the names in a rack's tree, the ones that the racks of MAAS have. Machines ask for files by them.

    <os>/<arch>/<subarch>/<release>/<label>/<ftype>     ubuntu/amd64/ga-24.04/noble/stable/boot-kernel
    <os>/<arch>/generic/<release>/<label>/<ftype>       the same, for machines that ask for no particular kernel
    bootloader/<type>/<arch>/…                          the members of the archives of that place

- Names are built here and nowhere else, and never parsed back: what image an entry belongs to, and in which version, is
  said beside its name (`shared.wire.manifest.Entry`).
- No part can climb out of its place: each is parsed as a `Name` first. Raises InvalidValue otherwise.
- `bootloader` is no os that a source may offer images of: its place belongs to bootloaders.

    >>> file_path(place("ubuntu", "amd64", "ga-24.04", "noble", "stable"), "boot-kernel")
    'ubuntu/amd64/ga-24.04/noble/stable/boot-kernel'
"""

from shared.names import Name, RelativePath

BOOTLOADER = "bootloader"
GENERIC = "generic"


def place(os: str, arch: str, subarch: str, release: str, label: str) -> RelativePath:
    """The directory of one product: the files of one kernel of one image."""
    return _joined(os, arch, subarch, release, label)


def generic_place(os: str, arch: str, release: str, label: str) -> RelativePath:
    """The directory for machines that ask for no particular kernel; it names the files of the release's first one."""
    return place(os, arch, GENERIC, release, label)


def bootloader_place(kind: str, arch: str) -> RelativePath:
    """The directory that bootloader archives of one type (`uefi`, `pxe`, `open-firmware`) are unpacked into."""
    return _joined(BOOTLOADER, kind, arch)


def file_path(directory: RelativePath, ftype: str) -> RelativePath:
    """The name of one file of a product; `ftype` says what it is for, like `boot-initrd`."""
    return RelativePath(f"{directory}/{Name(ftype)}")


def _joined(*parts: str) -> RelativePath:
    return RelativePath("/".join(Name(part) for part in parts))
