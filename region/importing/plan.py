"""Decide, before anything is done: what to bring in and what to withdraw. Pure.

- A target that is not whole, or not held, is imported, if its source was read under its present trust.
- A held version is withdrawn when the target of its place is held and another one, when nobody wants its image (or its
  kernel of it), or when its image has come whole from another source that has nothing in its place.
- Of an image that stays selected with other kernels than before, what nobody wants goes once something that is wanted
  of it is held and all of its targets are: no selected image is left with nothing.
- An image that a rule means no longer goes once every image that the rule means instead, of its architecture, is held
  in this way; never when there is none.
- What leaves a rule, and what its image's new source does not have, is taken away by the course of time or by upstream
  rather than by an operator: it is counted as lost, and an unattended run waits when that is too much at once.
- Everything else that is held stays: a product that vanished, an image whose offers lapsed, a bootloader without a
  successor. A file of it that was lost is fetched again.

Who wins an image is decided in `region.catalogue.targets`, what a selection means in `region.catalogue.rules`.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Literal

from region.catalogue.facts import File, Held, Meanings, Target, Wish
from region.catalogue.patterns import ANY, is_moving
from shared.digest import Sha256
from shared.names import ImageKey

WITHDRAWAL_LIMIT = 5
"""More than one in so many held versions that no operator has taken away wait for one."""


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

    `withdraw` are ids of held versions; `lost` are those of them that no operator took away, `unwanted` those that
    an operator has unselected. `parting` are held versions that nobody wants, whether they go now or once others are
    held.
    `unavailable` are images that are selected and that no source offers now. `held` counts held versions.
    `needed` are all files of the targets, `fetch` those of them to be fetched; digest to size in bytes.
    """

    imports: tuple[Import, ...]
    withdraw: frozenset[int]
    lost: frozenset[int]
    unavailable: frozenset[ImageKey]
    held: int
    unwanted: frozenset[int] = frozenset()
    parting: frozenset[int] = frozenset()
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


def plan(selected: Meanings, targets: Iterable[Target], held: Iterable[Held]) -> Plan:
    """Compare what is selected, what should be held and what is."""
    target_of = {target.place: target for target in targets}
    held_at: dict[str, list[Held]] = defaultdict(list)
    for version in held:
        held_at[version.place].append(version)
    by_image: dict[ImageKey, list[Target]] = defaultdict(list)
    for target in target_of.values():
        by_image[target.image].append(target)
    judge = _judge(selected, by_image, held_at)

    imports = [_import(target) for target in target_of.values() if target.current and not _is_whole(target)]
    withdraw: set[int] = set()
    lost: set[int] = set()
    unwanted: set[int] = set()
    for place, version in ((place, version) for place, versions in held_at.items() for version in versions):
        match _fate(version, target_of.get(place), by_image[version.image], judge):
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
        parting=frozenset(
            version.version_id for versions in held_at.values() for version in versions if not judge.wants(version)
        ),
        unavailable=frozenset(image for image in judge.wishes if not by_image.get(image)),
        held=sum(map(len, held_at.values())),
        needed={file.sha256: file.size for target in target_of.values() for file in target.files},
        fetch={file.sha256: file.size for entry in imports for file in entry.missing},
    )


@dataclass(frozen=True, slots=True)
class _Judge:
    """What is selected, arranged by image. `settled`: something that is wanted of it is held, and all its targets are.

    `rules` are those that images leave by themselves: os and architecture, and the images they mean.
    """

    wishes: Mapping[ImageKey, list[Wish]]
    settled: frozenset[ImageKey]
    rules: list[tuple[str, str, frozenset[ImageKey]]]

    def wants(self, version: Held) -> bool:
        """A bootloader stays until another takes its place."""
        return version.bootloader or any(
            wish.takes(version.kernel, version.label) for wish in self.wishes.get(version.image, ())
        )

    def of_unwanted(self, image: ImageKey) -> Literal["stay", "lost", "unwanted"]:
        """What becomes of a version of the image that nobody wants."""
        if image in self.wishes:
            return "unwanted" if image in self.settled else "stay"
        left = [images for os, arch, images in self.rules if os == image.os and arch in (ANY, image.arch)]
        if not left:
            return "unwanted"
        successors = {each for images in left for each in images if each.arch == image.arch}
        return "lost" if successors and successors <= self.settled else "stay"


def _judge(selected: Meanings, targets: Mapping[ImageKey, list[Target]], held_at: Mapping[str, list[Held]]) -> _Judge:
    wishes: dict[ImageKey, list[Wish]] = defaultdict(list)
    for wish, images in selected.items():
        for image in images:
            wishes[image].append(wish)
    rules = [(wish.image.os, wish.image.arch, images) for wish, images in selected.items() if is_moving(wish.image)]
    found = _Judge(wishes, frozenset(), rules)
    something = {version.image for versions in held_at.values() for version in versions if found.wants(version)}
    settled = frozenset(image for image in something if all(target.held for target in targets.get(image, ())))
    return replace(found, settled=settled)


def _fate(
    version: Held, target: Target | None, targets: Iterable[Target], judge: _Judge
) -> Literal["stay", "withdraw", "lost", "unwanted"]:
    """What becomes of a held version; `target` is that of its place, `targets` are those of its image."""
    if target is not None and target.version_id == version.version_id:
        return "stay"
    if not judge.wants(version):
        return judge.of_unwanted(version.image)
    if target is not None:
        return "withdraw" if target.held else "stay"
    return "lost" if _came_from_elsewhere(version, targets) else "stay"


def _is_whole(target: Target) -> bool:
    return target.held and not _missing(target.files)


def _missing(files: Iterable[File]) -> tuple[File, ...]:
    return tuple(file for file in files if not file.stored)


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
