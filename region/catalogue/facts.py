"""The facts that decisions take: what is wished for, what should be held, what is. Nothing is read here."""

from dataclasses import dataclass
from typing import NamedTuple

from shared.digest import Sha256
from shared.layout import BOOTLOADER
from shared.names import ImageKey, RelativePath


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator wants of one image. `source_id` None: whichever source wins; `kernels`, `labels` None: all."""

    source_id: int | None
    image: ImageKey
    kernels: frozenset[str] | None = None
    labels: frozenset[str] | None = None

    def takes(self, kernel: str, label: str) -> bool:
        """True if this kernel and label of the image are wanted."""
        return (self.kernels is None or kernel in self.kernels) and (self.labels is None or label in self.labels)


Wishes = frozenset[Wish]
"""A whole selection."""


class File(NamedTuple):
    """Bytes a version needs, `size` in bytes; `path` is below the root of the version's own source."""

    sha256: Sha256
    size: int
    path: RelativePath
    stored: bool


@dataclass(frozen=True, slots=True)
class Target:
    """What one place should hold.

    `offered` is false for a pinned version that is only held. `current`: its source was read under its present trust.
    """

    image: ImageKey
    place: str
    source_id: int
    version_id: int
    version: str
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
