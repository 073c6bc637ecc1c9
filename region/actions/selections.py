"""What an operator does to the selection: change it, or see what a change would lead to.

- An image, a rule or a kernel of which no source knows anything cannot be selected: NotFound. Of several kernels or
  labels it is enough that one is known: the plan warns of the others.
- What is selected already may be sent again, whatever has become of it meanwhile.
- An image or rule is selected once from one source, whatever kernels are named with it.
"""

from collections import Counter, defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import effect
from region.actions.effect import Effect, State
from region.catalogue import meant, products, selections, sources, wanted
from region.catalogue.facts import Meanings, Wish, Wishes
from region.catalogue.kernels import is_kernel, is_label
from region.catalogue.meant import Offered
from region.catalogue.patterns import SUPPORTED, is_exact
from region.importing import imports
from region.people import activity
from region.people.activity import Actor
from shared.errors import Conflict, InvalidValue, NotFound
from shared.layout import BOOTLOADER
from shared.names import ImageKey, Name

ACTION, SUBJECT = "selection.changed", "selection"
"""How the activity names a change of the selection, and the selection."""

FORESIGHT = timedelta(days=90)
"""How long before the support of a release ends that a rule means, plans warn of it."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What a change of the selection leads to, the import that carries it out, and the selection's revision.

    `meanings` is what is selected afterwards, and what it means.
    """

    effect: Effect
    meanings: Meanings
    import_id: int | None
    revision: int


class SelectedByRule(Conflict):
    """An image cannot be unselected alone, as a rule means it."""

    code = "selected_by_rule"

    def __init__(self, image: ImageKey, rule: str) -> None:
        super().__init__(
            f"{image} is selected by the rule {rule}; unselect the rule, and select by name what is to stay."
        )


async def select(
    connection: AsyncConnection, actor: Actor, wished: Wishes, now: datetime, *, dry_run: bool = False
) -> Selected:
    """Exactly `wished` is selected and an import is asked for. A dry run leaves everything as it was.

    Raises NotFound for what no source (not the named one) knows; InvalidValue for a bootloader, and for one image or
    rule that is named twice.
    """
    _require_once(wished)
    await selections.revision(connection, for_update=True)
    before = await effect.look(connection)
    fresh = sorted(wished - before.wishes, key=_order)
    for wish in fresh:
        await _require_known(connection, wish)
    async with connection.begin_nested() as attempt:
        await selections.replace(connection, wished, now)
        await wanted.refresh(connection, now)
        after = await effect.look(connection)
        unknown = await _unknown(connection, {wish: after.meanings[wish] for wish in fresh})
        found = await _effect(connection, before, after, unknown, now)
        if dry_run:
            await attempt.rollback()
    if dry_run:
        return Selected(found, after.meanings, None, await selections.revision(connection))
    import_id = await imports.enqueue(connection, "selection", actor.name, now)
    await activity.record(
        connection,
        actor,
        now,
        ACTION,
        _sentence(found),
        subject=SUBJECT,
        before=_recorded(before),
        after=_recorded(after),
    )
    return Selected(found, after.meanings, import_id, await selections.revision(connection))


async def without(connection: AsyncConnection, image: ImageKey) -> Wishes:
    """The selection without the image. Raises NotFound when it is not selected; SelectedByRule."""
    meanings = await selections.meanings(connection)
    naming = {wish for wish, images in meanings.items() if image in images}
    if not naming:
        raise NotFound("selected image", image)
    if rules := sorted(str(wish.image) for wish in naming if not is_exact(wish.image)):
        raise SelectedByRule(image, rules[0])
    return frozenset(meanings.keys() - naming)


def _order(wish: Wish) -> tuple[str, int]:
    return str(wish.image), wish.source_id or 0


def _require_once(wished: Wishes) -> None:
    counted = Counter((wish.image, wish.source_id) for wish in wished)
    for (image, _), count in sorted(counted.items(), key=str):
        if count > 1:
            why = "it is named more than once with other kernels or labels; name it once, with all of them"
            raise InvalidValue("selection", str(image), why)


async def _require_known(connection: AsyncConnection, wish: Wish) -> None:
    """Raises InvalidValue, NotFound; what a rule means is known afterwards only."""
    if wish.image.os == BOOTLOADER:
        raise InvalidValue("image", str(wish.image), "bootloaders come with every import, without being selected")
    source = None if wish.source_id is None else await sources.get(connection, wish.source_id)
    if not is_exact(wish.image):
        return
    image = ImageKey(*map(Name, wish.image))
    if not await products.is_known(connection, source.id if source else None, image):
        raise NotFound(f"image that {source.name if source else 'a source'} offers called", image)


async def _unknown(connection: AsyncConnection, meanings: Meanings) -> list[str]:
    """A sentence for each kernel and label that nobody offers. Raises NotFound when that leaves nothing of a wish."""
    for wish, images in meanings.items():
        if not images:
            raise NotFound("image that a source offers for the rule", wish.image)
    limited = {wish: images for wish, images in meanings.items() if wish.kernels is not None or wish.labels is not None}
    if not limited:
        return []
    offered: dict[ImageKey, list[Offered]] = defaultdict(list)
    for entry in await meant.kernels(connection, frozenset().union(*limited.values())):
        offered[entry.image].append(entry)
    return [
        told
        for wish, images in limited.items()
        for told in _unknown_of(
            wish,
            {
                (entry.kernel, entry.label)
                for image in images
                for entry in offered[image]
                if wish.source_id in (None, entry.source_id)
            },
        )
    ]


def _unknown_of(wish: Wish, offered: Collection[tuple[str, str]]) -> list[str]:
    """`_unknown` of one wish; `offered` are kernels and their labels of the images that it means."""
    if not any(wish.takes(kernel, label) for kernel, label in offered):
        of_kernel = replace(wish, labels=None)
        if any(of_kernel.takes(kernel, label) for kernel, label in offered):
            raise NotFound(f"label of {wish.image} called", " or ".join(sorted(wish.labels or ())))
        raise NotFound(f"kernel of {wish.image} called", " or ".join(sorted(wish.kernels or ())))
    return [
        *(
            f"No source offers the kernel {said} of {wish.image}."
            for said in sorted(wish.kernels or ())
            if not any(is_kernel(said, kernel) for kernel, _ in offered)
        ),
        *(
            f"No source offers the label {said} of {wish.image}."
            for said in sorted(wish.labels or ())
            if not any(is_label(said, label) for _, label in offered)
        ),
    ]


async def _effect(
    connection: AsyncConnection, before: State, after: State, unknown: Iterable[str], now: datetime
) -> Effect:
    found = effect.compare(before, after)
    spared = 0
    if any(wish.kernels is not None or wish.labels is not None for wish in after.wishes):
        spared = sum(size for sha256, size in (await meant.left_out(connection)).items() if sha256 not in found.needed)
    today = now.date()
    endings = [
        f"Support of {ending.os}/{ending.release} ends on {ending.support_eol}"
        + (f"; {ending.os}/{ending.rule} means it no longer after that." if ending.rule == SUPPORTED else ".")
        for ending in await meant.ending(connection, today, today + FORESIGHT)
    ]
    return replace(found, warnings=(*found.warnings, *unknown, *endings), left_out_bytes=spared)


def _recorded(state: State) -> dict[str, object]:
    """What the activity keeps: the images, and how rules and kernels were said."""
    said = [
        {
            "image": str(wish.image),
            **({} if wish.kernels is None else {"kernels": sorted(wish.kernels)}),
            **({} if wish.labels is None else {"labels": sorted(wish.labels)}),
        }
        for wish in sorted(state.wishes, key=_order)
        if not is_exact(wish.image) or wish.kernels is not None or wish.labels is not None
    ]
    return {"images": sorted(state.images)} | ({"said": said} if said else {})


def _sentence(found: Effect) -> str:
    """What a change did, for people."""
    touched = (found.kernels_add.keys() | found.kernels_remove.keys()) - found.add
    parts = [
        f"{verb} {effect.counted(images)}"
        for verb, images in (
            ("selected", found.add),
            ("unselected", found.remove),
            ("changed the kernels of", frozenset(touched)),
        )
        if images
    ]
    told = " and ".join(parts) or "saved the selection as it was"
    return f"{told[:1].upper()}{told[1:]}."
