"""The facts that decisions take: what is wished for, what should be held, what is. Nothing is read here."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import NamedTuple

from region.catalogue.kernels import is_kernel, is_label
from region.catalogue.patterns import Pattern
from shared.digest import Sha256
from shared.layout import BOOTLOADER
from shared.names import ImageKey, RelativePath


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants, as it was said.

    `image` is an image, or a pattern of images (`region.catalogue.patterns`). `source_id` None: whichever source wins.
    `kernels`, `labels` None: all; else what `region.catalogue.kernels` says of each.
    """

    source_id: int | None
    image: ImageKey | Pattern
    kernels: frozenset[str] | None = None
    labels: frozenset[str] | None = None

    def takes(self, kernel: str, label: str) -> bool:
        """True if this kernel and label of the image are wanted."""
        return (self.kernels is None or any(is_kernel(said, kernel) for said in self.kernels)) and (
            self.labels is None or any(is_label(said, label) for said in self.labels)
        )


Wishes = frozenset[Wish]
"""A whole selection."""

Meanings = Mapping[Wish, frozenset[ImageKey]]
"""A whole selection, and the images that each wish means now."""


class File(NamedTuple):
    """Bytes a version needs, `size` in bytes; `path` is below the root of the version's own source."""

    sha256: Sha256
    size: int
    path: RelativePath
    stored: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What one place should hold; `kernel` is the one it is of.

    `offered` is false for a pinned version that is only held. `current`: its source was read under its present trust.
    """

    image: ImageKey
    place: str
    source_id: int
    version_id: int
    version: str
    kernel: str
    held: bool
    offered: bool
    current: bool
    files: tuple[File, ...]

    @property
    def bootloader(self) -> bool:
        """True for what comes without being selected."""
        return self.image.os == BOOTLOADER


@dataclass(frozen=True, slots=True)
class Held:
    """A version that is held. `kernel` and `label` are what a selection may name; `place` its directory on racks."""

    version_id: int
    version: str
    source_id: int
    image: ImageKey
    place: str
    kernel: str
    label: str
    bootloader: bool
    files: tuple[File, ...]
