"""What an operator does to the selection: change it, or see what a change would lead to."""

from dataclasses import dataclass
from datetime import datetime

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import effect
from region.actions.effect import Effect
from region.catalogue import products, selections, sources, wanted
from region.catalogue.facts import Wish, Wishes
from region.importing import imports
from region.people import activity
from region.people.activity import Actor
from shared.errors import InvalidValue, NotFound
from shared.layout import BOOTLOADER

ACTION, SUBJECT = "selection.changed", "selection"
"""How the activity names a change of the selection, and the selection."""


@dataclass(frozen=True, slots=True)
class Selected:
    """What a change of the selection leads to, the import that carries it out, and the selection's revision."""

    effect: Effect
    import_id: int | None
    revision: int


async def select(
    connection: AsyncConnection, actor: Actor, wished: Wishes, now: datetime, *, dry_run: bool = False
) -> Selected:
    """Exactly `wished` is selected and an import is asked for. A dry run leaves everything as it was.

    Raises NotFound for an image that no source (not the named one) knows, InvalidValue for a bootloader.
    """
    await selections.revision(connection, for_update=True)
    before = await effect.look(connection)
    for wish in wished - before.wishes:
        await _require_known(connection, wish)
    async with connection.begin_nested() as attempt:
        await selections.replace(connection, wished, now)
        await wanted.refresh(connection)
        after = await effect.look(connection)
        if dry_run:
            await attempt.rollback()
    found = effect.compare(before, after)
    if dry_run:
        return Selected(found, None, await selections.revision(connection))
    import_id = await imports.enqueue(connection, "selection", actor.name, now)
    await activity.record(
        connection,
        actor,
        now,
        ACTION,
        _sentence(found),
        subject=SUBJECT,
        before={"images": sorted(before.images)},
        after={"images": sorted(after.images)},
    )
    return Selected(found, import_id, await selections.revision(connection))


async def _require_known(connection: AsyncConnection, wish: Wish) -> None:
    if wish.image.os == BOOTLOADER:
        raise InvalidValue("image", str(wish.image), "bootloaders come with every import, without being selected")
    if wish.source_id is None:
        if not await products.is_known(connection, None, wish.image):
            raise NotFound("image that a source offers called", wish.image)
        return
    source = await sources.get(connection, wish.source_id)
    if not await products.is_known(connection, source.id, wish.image):
        raise NotFound(f"image that {source.name} offers called", wish.image)


def _sentence(found: Effect) -> str:
    """What a change did, for people."""
    parts = [
        f"{verb} {_counted(images)}"
        for verb, images in (("selected", found.add), ("unselected", found.remove))
        if images
    ]
    told = " and ".join(parts) or "saved the selection as it was"
    return f"{told[:1].upper()}{told[1:]}."


def _counted(images: frozenset[str]) -> str:
    return ", ".join(sorted(images)) if len(images) <= 3 else f"{len(images)} images"
