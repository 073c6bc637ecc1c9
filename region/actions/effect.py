"""Effects: what a change leads to, told before it is made: the plan before and the plan after, compared."""

from collections.abc import Mapping
from dataclasses import dataclass

from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import selections, targets, versions
from region.catalogue.facts import Held, Target, Wishes
from region.importing.plan import Plan, plan
from shared.digest import Sha256


@dataclass(frozen=True, slots=True)
class State:
    """What is selected, what should be held, what is, and what an import would do about it."""

    wishes: Wishes
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

    `moved` are images that stay selected and come from another source. `bootloaders_…` are those that the next import
    would add, replace or withdraw. `warnings` are sentences. `needed` are the files of all targets, `fetch` those of
    them that have to be fetched.
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
    return State(wished, wanted, held, plan(wished, wanted, held))


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
        bootloaders_withdraw=frozenset(
            str(version.image)
            for version in after.held
            if version.bootloader and version.version_id in after.plan.withdraw and not _has_target(after, version)
        ),
        warnings=tuple(_without_bootloader(after)),
        needed=after.plan.needed,
        fetch=after.plan.fetch,
    )


def _has_target(state: State, version: Held) -> bool:
    return any(target.place == version.place for target in state.targets)


def _sources(state: State) -> dict[str, int]:
    return {str(target.image): target.source_id for target in state.targets}


def _without_bootloader(state: State) -> list[str]:
    """A sentence for each selected architecture whose machines would find nothing to boot with."""
    known = {target.image.arch for target in state.targets if target.bootloader}
    known |= {version.image.arch for version in state.held if version.bootloader}
    return [
        f"No bootloader for {arch} is offered by the source that bootloaders come from;"
        f" machines of {arch} need one from elsewhere."
        for arch in sorted({wish.image.arch for wish in state.wishes} - known)
    ]
