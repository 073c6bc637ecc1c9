"""Effects: what a change leads to, told before it is made: the plan before and the plan after, compared."""

from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import bootloaders, selections, targets, versions
from region.catalogue.facts import Held, Meanings, Target, Wishes
from region.catalogue.sources import Source
from region.importing.plan import Plan, plan
from shared.digest import Sha256


@dataclass(frozen=True, slots=True)
class State:
    """What is selected, where bootloaders come from, what should be held, what is, and what an import does about it."""

    meanings: Meanings
    bootloader_source: Source | None
    targets: list[Target]
    held: list[Held]
    plan: Plan

    @property
    def images(self) -> frozenset[str]:
        """The ids of the images that are selected."""
        return frozenset(str(image) for images in self.meanings.values() for image in images)

    @property
    def wishes(self) -> Wishes:
        """What is selected, as it was said."""
        return frozenset(self.meanings)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change leads to; images and bootloaders by id, sizes in bytes, a file that several share counted once.

    `moved` are images that stay selected and come from another source. `kernels_add` and `kernels_remove` are the
    kernels that come and go, of images that are selected afterwards; `left_out_bytes` what kernels that are offered of
    them and not selected would take beside what is needed. `bootloaders_…` are those that the change and
    the import after it add, replace or withdraw. `warnings` are sentences. `needed` are the files of all targets,
    `fetch` those of them that have to be fetched.
    """

    add: frozenset[str]
    remove: frozenset[str]
    moved: frozenset[str]
    unavailable: frozenset[str]
    kernels_add: Mapping[str, frozenset[str]]
    kernels_remove: Mapping[str, frozenset[str]]
    bootloaders_add: frozenset[str]
    bootloaders_change: frozenset[str]
    bootloaders_withdraw: frozenset[str]
    warnings: tuple[str, ...]
    needed: Mapping[Sha256, int]
    fetch: Mapping[Sha256, int]
    left_out_bytes: int = 0

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch."""
        return sum(self.fetch.values())


async def look(connection: AsyncConnection) -> State:
    """The state as this transaction sees it."""
    meanings = await selections.meanings(connection)
    wanted = await targets.list_all(connection)
    held = await versions.held(connection)
    return State(meanings, await bootloaders.source(connection), wanted, held, plan(meanings, wanted, held))


def without(state: State, withdrawn: Collection[int]) -> State:
    """The state when these versions are held no longer."""
    wanted = [replace(target, held=target.held and target.version_id not in withdrawn) for target in state.targets]
    held = [version for version in state.held if version.version_id not in withdrawn]
    return replace(state, targets=wanted, held=held, plan=plan(state.meanings, wanted, held))


def compare(before: State, after: State) -> Effect:
    """What leads from `before` to `after`, and what the import after it does."""
    was, will = _sources(before), _sources(after)
    held_at = {version.place: version for version in after.held if version.bootloader}
    loaders = [target for target in after.targets if target.bootloader and not target.held]
    return Effect(
        add=after.images - before.images,
        remove=before.images - after.images,
        moved=frozenset(
            image
            for image in after.images & before.images
            if image in was and will.get(image, was[image]) != was[image]
        ),
        unavailable=frozenset(map(str, after.plan.unavailable)),
        kernels_add=_by_image(_kernels(after) - _kernels(before)),
        kernels_remove=_by_image(_kernels_that_go(before, after)),
        bootloaders_add=frozenset(str(target.image) for target in loaders if target.place not in held_at),
        bootloaders_change=frozenset(str(target.image) for target in loaders if target.place in held_at),
        bootloaders_withdraw=_bootloaders(before) - _bootloaders(after),
        warnings=(*_without_source(before, after), *_without_bootloader(after), *_without_image(after), *_stays(after)),
        needed=after.plan.needed,
        fetch=after.plan.fetch,
    )


def counted(images: Collection[str]) -> str:
    """Images as a sentence names them: a few by id, more by their number."""
    return ", ".join(sorted(images)) if len(images) <= 3 else f"{len(images)} images"


def _kernels(state: State) -> set[tuple[str, str]]:
    """Images that are selected and their kernels that should be held."""
    return {(str(target.image), target.kernel) for target in state.targets if not target.bootloader}


def _kernels_that_go(before: State, after: State) -> set[tuple[str, str]]:
    """Of images that are selected afterwards."""
    parting: set[tuple[str, str]] = set()
    staying: set[tuple[str, str]] = set()
    for version in after.held:
        goes = version.version_id in after.plan.parting
        (parting if goes else staying).add((str(version.image), version.kernel))
    gone = (_kernels(before) | parting) - _kernels(after) - staying
    return {(image, kernel) for image, kernel in gone if image in after.images}


def _by_image(kernels: Iterable[tuple[str, str]]) -> dict[str, frozenset[str]]:
    found: dict[str, set[str]] = defaultdict(set)
    for image, kernel in kernels:
        found[image].add(kernel)
    return {image: frozenset(names) for image, names in found.items()}


def _without_image(state: State) -> list[str]:
    """A sentence for each rule that means nothing."""
    empty = sorted(str(wish.image) for wish, images in state.meanings.items() if not images)
    return [f"The rule {rule} means no image that is known now." for rule in empty]


def _stays(state: State) -> list[str]:
    """A sentence when images that nobody selects any longer stay until others are held."""
    parting = state.plan.parting - state.plan.withdraw
    images = {str(version.image) for version in state.held if version.version_id in parting}
    if not images:
        return []
    return [f"What is held of {counted(images)} and selected no longer goes once what takes its place is held."]


def _bootloaders(state: State) -> frozenset[str]:
    """The ids of the bootloaders that are held. No plan withdraws one that nothing replaces."""
    return frozenset(str(version.image) for version in state.held if version.bootloader)


def _sources(state: State) -> dict[str, int]:
    return {str(target.image): target.source_id for target in state.targets}


def _without_source(before: State, after: State) -> list[str]:
    """A sentence when the change takes away the source that bootloaders come from."""
    if before.bootloader_source is None or after.bootloader_source is not None:
        return []
    name = before.bootloader_source.name
    return [
        f"Bootloaders come from {name}: no new ones come after this, until another source is chosen in the settings."
    ]


def _without_bootloader(state: State) -> list[str]:
    """A sentence for each selected architecture for whose machines no bootloader is offered."""
    offered = {target.image.arch for target in state.targets if target.bootloader}
    held = {version.image.arch for version in state.held if version.bootloader}
    return [
        f"{_nobody_offers(state.bootloader_source, arch)};"
        f" {'what is held for it stays' if arch in held else f'machines of {arch} need one from elsewhere'}."
        for arch in sorted({image.arch for images in state.meanings.values() for image in images} - offered)
    ]


def _nobody_offers(source: Source | None, arch: str) -> str:
    if source is None:
        return f"No bootloader for {arch} is offered, as no source is chosen for bootloaders"
    if source.read_revision != source.trust_revision:
        return (
            f"No bootloader for {arch} is known, as {source.name}, where bootloaders come from, was not read yet under"
            " the trust it has now"
        )
    return f"No bootloader for {arch} is offered by {source.name}, where bootloaders come from"
