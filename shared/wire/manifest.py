"""The Manifest: what a region wants its racks to hold. JSON, carried in a signed envelope (`shared.wire.envelope`).

    {"format": "bootferry-manifest:1", "epoch": 1789000000, "serial": 7, "created_at": "2026-07-01T00:00:00+00:00",
     "confirmed": [1789000000, 5], "region_url": "https://region.example:5240",
     "entries": [{"path": "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel", "kind": "file", "sha256": "…", "size": 1,
                  "image": "ubuntu:noble:amd64", "version": "20260701"},
                 {"path": "bootloader/uefi/amd64", "kind": "archive", "sha256": "…", "size": 2,
                  "image": "bootloader:uefi:amd64", "version": "20260623.0"}, …]}

- `path` is below the rack's tree. An `archive` is a tar file unpacked into the directory `path`; several archives may
  share one directory.
- `image` is what the entry changes together with, `version` the version of it.
- `confirmed` is the order of the last manifest of which an operator confirmed that it takes much away; (0, 0): none.
- `region_url` is where racks reach the region, when that is another address than the one they enrolled by: a rack goes
  there once it has seen that it is the same region (`rack.moving`). Absent: each stays where it is.
- A reader ignores fields it does not know, so that a later region can say more; `group`, `keep` and `patches` are
  reserved. Manifests of before have no `image` and no `version`: they are told from the shape of the path.
"""

from datetime import UTC, datetime
from enum import StrEnum

import msgspec

from shared.digest import Sha256
from shared.errors import InvalidDocument
from shared.names import RelativePath
from shared.wire.envelope import MAX_ENVELOPE_BYTES
from shared.wire.messages import Format, Whole, decode, encode

MANIFEST_TYPE = "application/vnd.bootferry.manifest+json"
MANIFEST_FORMAT = "bootferry-manifest:1"
MAX_MANIFEST_BYTES = MAX_ENVELOPE_BYTES * 3 // 4
"""An envelope is a third larger than what it carries."""

_WHAT = "The manifest"
_OLD_DEPTH = 6
"""`<os>/<arch>/<subarch>/<release>/<label>/<ftype>`"""

Order = tuple[int, int]


class Kind(StrEnum):
    """What a rack does with an entry's bytes."""

    FILE = "file"
    ARCHIVE = "archive"


class Entry(msgspec.Struct, frozen=True):
    """One name in a rack's tree and the file it stands for; `size` in bytes."""

    path: RelativePath
    kind: Kind
    sha256: Sha256
    size: Whole
    image: str = ""
    version: str = ""


class _Document(msgspec.Struct):
    epoch: Whole
    serial: Whole
    created_at: datetime
    entries: tuple[Entry, ...]
    confirmed: tuple[Whole, Whole] = (0, 0)
    region_url: str = ""


class Manifest(msgspec.Struct, frozen=True):
    """What a region wants its racks to hold.

    A Manifest that exists is consistent: no two files share a path, no file is a directory of another entry, and one
    digest has one size. `(epoch, serial)` orders manifests of one region; see `order`.
    """

    epoch: int
    serial: int
    created_at: datetime
    entries: tuple[Entry, ...]
    confirmed: Order = (0, 0)
    region_url: str = ""

    def __post_init__(self) -> None:
        sizes: dict[Sha256, int] = {}
        files: set[str] = set()
        directories: set[str] = set()
        for entry in self.entries:
            if sizes.setdefault(entry.sha256, entry.size) != entry.size:
                raise InvalidDocument(_WHAT, f"{entry.sha256} has two sizes")
            parents = entry.path.split("/")
            depth = len(parents) - (entry.kind is Kind.FILE)
            directories.update("/".join(parents[: index + 1]) for index in range(depth))
            if entry.kind is Kind.FILE:
                if entry.path in files:
                    raise InvalidDocument(_WHAT, f"{entry.path} is named twice")
                files.add(entry.path)
        if clash := files & directories:
            raise InvalidDocument(_WHAT, f"{min(clash)} is both a file and a directory")

    @property
    def order(self) -> Order:
        """Compares manifests of one region: the greater is the newer. What a rack has accepted never falls (I3)."""
        return (self.epoch, self.serial)

    def files(self) -> dict[Sha256, int]:
        """The distinct files named, digest to size in bytes."""
        return {entry.sha256: entry.size for entry in self.entries}

    def images(self) -> dict[str, list[Entry]]:
        """The entries by image."""
        found: dict[str, list[Entry]] = {}
        for entry in self.entries:
            found.setdefault(entry.image, []).append(entry)
        return found

    def encode(self) -> bytes:
        """The bytes to sign; equal manifests give equal bytes."""
        document: dict[str, object] = {
            "format": MANIFEST_FORMAT,
            "epoch": self.epoch,
            "serial": self.serial,
            "created_at": self.created_at.astimezone(UTC).isoformat(),
            "entries": self.entries,
        }
        if self.confirmed != (0, 0):
            document["confirmed"] = self.confirmed
        if self.region_url:
            document["region_url"] = self.region_url
        return encode(document)

    @classmethod
    def parse(cls, payload: bytes) -> "Manifest":
        """The manifest in `payload`, whose signature has been verified before. Raises InvalidDocument."""
        said = decode(_WHAT, payload, Format, MAX_MANIFEST_BYTES).format
        if said != MANIFEST_FORMAT:
            raise InvalidDocument(_WHAT, f"its format is {said[:100]!r}, not {MANIFEST_FORMAT!r}")
        document = decode(_WHAT, payload, _Document, MAX_MANIFEST_BYTES)
        if document.created_at.tzinfo is None:
            raise InvalidDocument(_WHAT, "its created_at must carry its UTC offset")
        return cls(
            document.epoch,
            document.serial,
            document.created_at,
            tuple(entry if entry.image else _of_old(entry) for entry in document.entries),
            document.confirmed,
            document.region_url,
        )


def _of_old(entry: Entry) -> Entry:
    """An entry of a manifest that did not say its image: the kernels and root of one os, release and architecture are
    one image whatever their subarchitecture; anything else goes by its directory."""
    parts = entry.path.split("/")
    if entry.kind is Kind.FILE and len(parts) == _OLD_DEPTH:
        os, arch, _, release, _, _ = parts
        image = f"{os}:{release}:{arch}"
    else:
        image = ":".join(parts if entry.kind is Kind.ARCHIVE else parts[:-1])
    return msgspec.structs.replace(entry, image=image)
