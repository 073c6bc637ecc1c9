"""Versions of products, as whoever decides about them sees them."""

from dataclasses import dataclass
from typing import NamedTuple

from shared.digest import Sha256
from shared.names import ImageKey, RelativePath


class File(NamedTuple):
    """Bytes a version needs; `path` is below the root of its source, `size` in bytes."""

    sha256: Sha256
    size: int
    path: RelativePath


@dataclass(frozen=True, slots=True)
class Version:
    """One version of a product, as the catalogue knows it. Of a pinned image, `offered` is the pinned version alone."""

    id: int
    name: str
    offered: bool
    held: bool
    files: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One product with the versions that are offered or held. `slot` is its directory in a rack's tree."""

    id: int
    source_id: int
    priority: int
    image: ImageKey
    slot: str
    bootloader: bool
    versions: tuple[Version, ...]

    def target(self) -> Version | None:
        """The newest version offered; None for a product that vanished."""
        offered = [version for version in self.versions if version.offered]
        return max(offered, key=lambda version: version.name.encode(), default=None)
