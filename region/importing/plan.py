"""Decide, before anything is done: what to bring in and what to withdraw. Pure.

- A target that is not whole, or not held, is imported, if its source was read under its present trust.
- A held version is withdrawn when the target of its place is held and another one, when nobody wants its image (or its
  kernel of it), or when its image has come whole from another source that has nothing in its place.
- The last of these is taken away by upstream rather than by an operator: it is counted as lost, and an unattended run
  waits when that is too much at once.
- Everything else that is held stays: a product that vanished, an image whose offers lapsed, a bootloader without a
  successor. A file of it that was lost is fetched again.

Who wins an image is decided in `region.catalogue.targets`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from region.catalogue.facts import File, Held, Target, Wishes
from shared.digest import Sha256
from shared.names import ImageKey

WITHDRAWAL_LIMIT = 5
"""More than one in so many held versions taken away by upstream, without a successor, wait for an operator."""


@dataclass(frozen=True, slots=True)
class Import:
    """Bring a version in: `missing` of its files are not stored."""

    image: ImageKey
    place: str
    source_id: int
    version_id: int
    version: str
    bootloader: bool
    missing: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    `withdraw` are ids of held versions; `lost` are those of them that upstream, not an operator, took away, `unwanted`
    those that an operator has unselected.
    `unavailable` are images that are selected and that no source offers now. `held` counts held versions.
    `needed` are all files of the targets, `fetch` those of them to be fetched; digest to size in bytes.
    """

    imports: tuple[Import, ...]
    withdraw: frozenset[int]
    lost: frozenset[int]
    unavailable: frozenset[ImageKey]
    held: int
    unwanted: frozenset[int] = frozenset()
    needed: Mapping[Sha256, int] = field(default_factory=dict)
    fetch: Mapping[Sha256, int] = field(default_factory=dict)

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch, a file that several versions share counted once."""
        return sum(self.fetch.values())

    @property
    def needs_operator(self) -> bool:
        """True if an unattended run must leave `lost` alone."""
        return len(self.lost) * WITHDRAWAL_LIMIT > self.held


def plan(selected: Wishes, targets: Iterable[Target], held: Iterable[Held]) -> Plan:
    """Compare what is selected, what should be held and what is."""
    target_of = {target.place: target for target in targets}
    held_at: dict[str, list[Held]] = defaultdict(list)
    for version in held:
        held_at[version.place].append(version)
    by_image: dict[ImageKey, list[Target]] = defaultdict(list)
    for target in target_of.values():
        by_image[target.image].append(target)

    imports = [_import(target) for target in target_of.values() if target.current and not _is_whole(target)]
    withdraw: set[int] = set()
    lost: set[int] = set()
    unwanted: set[int] = set()
    for place, version in ((place, version) for place, versions in held_at.items() for version in versions):
        match _fate(version, target_of.get(place), by_image[version.image], selected):
            case "withdraw":
                withdraw.add(version.version_id)
            case "lost":
                lost.add(version.version_id)
            case "unwanted":
                unwanted.add(version.version_id)
            case "stay" if place not in target_of and (missing := _missing(version.files)):
                imports.append(_again(version, missing))
    return Plan(
        imports=tuple(sorted(imports, key=lambda entry: (entry.image, entry.place, entry.version))),
        withdraw=frozenset(withdraw | lost | unwanted),
        lost=frozenset(lost),
        unwanted=frozenset(unwanted),
        unavailable=frozenset(wish.image for wish in selected if not by_image.get(wish.image)),
        held=sum(map(len, held_at.values())),
        needed={file.sha256: file.size for target in target_of.values() for file in target.files},
        fetch={file.sha256: file.size for entry in imports for file in entry.missing},
    )


def _fate(
    version: Held, target: Target | None, targets: Iterable[Target], selected: Wishes
) -> Literal["stay", "withdraw", "lost", "unwanted"]:
    """What becomes of a held version; `target` is that of its place, `targets` are those of its image."""
    if target is not None and target.version_id == version.version_id:
        return "stay"
    if not _is_wanted(version, selected):
        return "unwanted"
    if target is not None:
        return "withdraw" if target.held else "stay"
    return "lost" if _came_from_elsewhere(version, targets) else "stay"


def _is_whole(target: Target) -> bool:
    return target.held and not _missing(target.files)


def _missing(files: Iterable[File]) -> tuple[File, ...]:
    return tuple(file for file in files if not file.stored)


def _is_wanted(version: Held, selected: Wishes) -> bool:
    """A bootloader stays until another takes its place."""
    return version.bootloader or any(
        wish.image == version.image and wish.takes(version.kernel, version.label) for wish in selected
    )


def _came_from_elsewhere(version: Held, targets: Iterable[Target]) -> bool:
    """True if another source has won the image and all of what it has for it is held."""
    winners = list(targets)
    return (
        bool(winners)
        and not version.bootloader
        and all(target.held and target.source_id != version.source_id for target in winners)
    )


def _import(target: Target) -> Import:
    return Import(
        image=target.image,
        place=target.place,
        source_id=target.source_id,
        version_id=target.version_id,
        version=target.version,
        bootloader=target.bootloader,
        missing=_missing(target.files),
    )


def _again(version: Held, missing: tuple[File, ...]) -> Import:
    return Import(
        image=version.image,
        place=version.place,
        source_id=version.source_id,
        version_id=version.version_id,
        version=version.version,
        bootloader=version.bootloader,
        missing=missing,
    )
