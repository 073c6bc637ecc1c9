"""Effects: what a change leads to, told before it is made: the plan before and the plan after, compared."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, replace

from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import bootloaders, selections, targets, versions
from region.catalogue.facts import Held, Target, Wishes
from region.catalogue.sources import Source
from region.importing.plan import Plan, plan
from shared.digest import Sha256


@dataclass(frozen=True, slots=True)
class State:
    """What is selected, where bootloaders come from, what should be held, what is, and what an import does about it."""

    wishes: Wishes
    bootloader_source: Source | None
    targets: list[Target]
    held: list[Held]
    plan: Plan

    @property
    def images(self) -> frozenset[str]:
        """The ids of the images that are selected."""
        return frozenset(str(wish.image) for wish in self.wishes)


@dataclass(frozen=True, slots=True)
class Effect:
    """What a change leads to; images and bootloaders by id, sizes in bytes, a file that several share counted once.

    `moved` are images that stay selected and come from another source. `bootloaders_…` are those that the change and
    the import after it add, replace or withdraw. `warnings` are sentences. `needed` are the files of all targets,
    `fetch` those of them that have to be fetched.
    """

    add: frozenset[str]
    remove: frozenset[str]
    moved: frozenset[str]
    unavailable: frozenset[str]
    bootloaders_add: frozenset[str]
    bootloaders_change: frozenset[str]
    bootloaders_withdraw: frozenset[str]
    warnings: tuple[str, ...]
    needed: Mapping[Sha256, int]
    fetch: Mapping[Sha256, int]

    @property
    def fetch_bytes(self) -> int:
        """Bytes to fetch."""
        return sum(self.fetch.values())


async def look(connection: AsyncConnection) -> State:
    """The state as this transaction sees it."""
    wished = await selections.wishes(connection)
    wanted = await targets.list_all(connection)
    held = await versions.held(connection)
    return State(wished, await bootloaders.source(connection), wanted, held, plan(wished, wanted, held))


def without(state: State, withdrawn: Collection[int]) -> State:
    """The state when these versions are held no longer."""
    wanted = [replace(target, held=target.held and target.version_id not in withdrawn) for target in state.targets]
    held = [version for version in state.held if version.version_id not in withdrawn]
    return replace(state, targets=wanted, held=held, plan=plan(state.wishes, wanted, held))


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
        bootloaders_add=frozenset(str(target.image) for target in loaders if target.place not in held_at),
        bootloaders_change=frozenset(str(target.image) for target in loaders if target.place in held_at),
        bootloaders_withdraw=_bootloaders(before) - _bootloaders(after),
        warnings=(*_without_source(before, after), *_without_bootloader(after)),
        needed=after.plan.needed,
        fetch=after.plan.fetch,
    )


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
        for arch in sorted({wish.image.arch for wish in state.wishes} - offered)
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
