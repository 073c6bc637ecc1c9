"""Decide, before anything is done: what to bring in and what to withdraw. Pure.

For each selected image the source with the highest priority that offers it wins. Of each of its products the newest
version offered is the *target*. A held version is withdrawn only when a target that takes its place is held, or when no
operator wants its image any more. A product that vanished upstream stays while its image is selected.

Bootloaders are wanted from every source of which an image is selected, and are never withdrawn without a successor.
"""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, field

from region.catalogue.versions import File, Product, Version
from shared.digest import Sha256
from shared.names import ImageKey

WITHDRAWAL_LIMIT = 5
"""More than one in so many held versions taken away by upstream, without a successor, wait for an operator."""


@dataclass(frozen=True, slots=True)
class Import:
    """Bring `version` in: `missing` of its files are not stored."""

    product: Product
    version: Version
    missing: tuple[File, ...]


@dataclass(frozen=True, slots=True)
class Plan:
    """What to do now.

    `retire` are ids of held versions whose successor is held or whose image nobody wants; `withdrawn` are those of them
    that upstream, not an operator, took away without a successor. `unavailable` are images that are selected and
    offered by no source. `held` counts held versions. `needed` are all files of the targets, digest to size in bytes.
    """

    imports: tuple[Import, ...]
    retire: frozenset[int]
    withdrawn: frozenset[int]
    unavailable: frozenset[ImageKey]
    held: int
    needed: Mapping[Sha256, int] = field(default_factory=dict)
    fetch: Mapping[Sha256, int] = field(default_factory=dict)

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch, a file that several versions share counted once."""
        return sum(self.fetch.values())

    @property
    def needs_operator(self) -> bool:
        """True says: an unattended run must leave `withdrawn` alone."""
        return len(self.withdrawn) * WITHDRAWAL_LIMIT > self.held


def plan(
    selected: Collection[tuple[int, ImageKey]],
    products: Iterable[Product],
    stored: Mapping[Sha256, int],
) -> Plan:
    """Compare what is selected (source id, image), offered and held (both in `products`), and `stored` (sizes)."""
    by_image: dict[ImageKey, list[Product]] = defaultdict(list)
    for product in products:
        by_image[product.image].append(product)
    for _, image in selected:
        by_image.setdefault(image, [])

    imports: list[Import] = []
    retire: set[int] = set()
    withdrawn: set[int] = set()
    unavailable: set[ImageKey] = set()
    needed: dict[Sha256, int] = {}
    for image, candidates in sorted(by_image.items()):
        wanted = _wanted(image, candidates, selected)
        chosen = _winning(candidates, wanted)
        targets = {slot: target for slot, product in chosen.items() if (target := product.target())}
        needed |= {file.sha256: file.size for target in targets.values() for file in target.files}
        imports += _incomplete(candidates, wanted, chosen, targets, stored)
        if wanted and not targets and not any(product.bootloader for product in candidates):
            unavailable.add(image)
        superseded, orphaned = _replaced(candidates, targets)
        retire |= superseded
        if not wanted:
            retire |= orphaned
        elif targets and all(target.held for target in targets.values()):
            winners = {product.source_id for product in chosen.values()}
            lost = {
                version.id
                for product in candidates
                if product.source_id not in winners
                for version in product.versions
                if version.id in orphaned
            }
            retire |= lost
            withdrawn |= lost
    return Plan(
        imports=tuple(imports),
        retire=frozenset(retire),
        withdrawn=frozenset(withdrawn),
        unavailable=frozenset(unavailable),
        held=sum(version.held for group in by_image.values() for product in group for version in product.versions),
        needed=needed,
        fetch={file.sha256: file.size for entry in imports for file in entry.missing},
    )


def _wanted(
    image: ImageKey, candidates: Iterable[Product], selected: Collection[tuple[int, ImageKey]]
) -> frozenset[int]:
    """The sources the image is wanted from; for bootloaders those in use that offer it, else those it is held of."""
    bootloaders = [product for product in candidates if product.bootloader]
    if not bootloaders:
        return frozenset(source_id for source_id, chosen in selected if chosen == image)
    in_use = {source_id for source_id, _ in selected}
    offering = frozenset(entry.source_id for entry in bootloaders if entry.source_id in in_use and entry.target())
    holding = frozenset(entry.source_id for entry in bootloaders if any(version.held for version in entry.versions))
    return offering or holding


def _winning(candidates: Iterable[Product], wanted: Collection[int]) -> dict[str, Product]:
    """By slot, the products of the wanted source with the highest priority that offers any; empty when none does."""
    offering = [product for product in candidates if product.source_id in wanted and product.target()]
    top = max((product.priority for product in offering), default=None)
    return {product.slot: product for product in offering if product.priority == top}


def _incomplete(
    candidates: Iterable[Product],
    wanted: Collection[int],
    chosen: Mapping[str, Product],
    targets: Mapping[str, Version],
    stored: Mapping[Sha256, int],
) -> list[Import]:
    """Targets that are not whole, and held versions without a target that lost a file: those are asked for again."""
    incomplete = [
        Import(chosen[slot], target, missing)
        for slot, target in targets.items()
        if (missing := _missing(target, stored)) or not target.held
    ]
    incomplete += [
        Import(product, version, missing)
        for product in candidates
        if product.slot not in targets and wanted
        for version in product.versions
        if version.held and (missing := _missing(version, stored))
    ]
    return incomplete


def _missing(version: Version, stored: Mapping[Sha256, int]) -> tuple[File, ...]:
    return tuple(file for file in version.files if stored.get(file.sha256) != file.size)


def _replaced(candidates: Iterable[Product], targets: Mapping[str, Version]) -> tuple[set[int], set[int]]:
    """Held versions whose slot has a held successor, and held versions whose slot has no target at all."""
    superseded: set[int] = set()
    orphaned: set[int] = set()
    for product in candidates:
        target = targets.get(product.slot)
        for version in product.versions:
            if not version.held or version is target:
                continue
            if target is None:
                orphaned.add(version.id)
            elif target.held:
                superseded.add(version.id)
    return superseded, orphaned
