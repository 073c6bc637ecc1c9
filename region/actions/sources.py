"""What an operator does to sources, and to what was believed because of them.

- A change of a source's URL, keyring or mode changes its trust: what it offers and no remaining voucher stands behind
  lapses, and what is held of that stays served until an operator withdraws it. Whoever makes such a change says which
  of the two he wants, and can see before what it concerns.
- A signed source becomes unsigned only with a confirmation of its own.
- A new source has the lowest priority: it takes nothing from the others.
- A change is applied to the source as it is once it is locked, so that of two who change different fields at once,
  neither undoes what the other did.
- A document older than one accepted before is refused; an operator may let in, once and within a day, the documents
  that are there: a mirror was restored, or a document from the future had been accepted.
- When the source that bootloaders come from is removed, no other takes its place: what is held of them stays, or is
  withdrawn as the operator says, and nothing new comes until one is chosen (`region.actions.settings`).
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Any, TypedDict

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import effect, guard
from region.actions.effect import Effect, State
from region.catalogue import offers, products, selections, sources, trust, wanted
from region.catalogue.sources import Source, SourceWish
from region.catalogue.trust import Keyring, Unvouched, read_keyring
from region.database.topics import Topic, notify
from region.importing import imports
from region.importing.imports import Import
from region.people import activity
from region.people.activity import Actor
from region.publishing import held as publishing
from region.publishing.held import Publisher
from region.secrets import NO_SECRETS, Secrets
from region.stream.keys import SHIPPED_KEYRINGS, key_ids, usable_keyring
from shared.errors import Conflict, InvalidValue


class HeldChoice(StrEnum):
    """What becomes of held versions that nobody vouches for after a change."""

    KEEP = "keep"
    """They stay served, and say who signed them."""
    WITHDRAW = "withdraw"
    """They are withdrawn in the same step."""


class HeldUndecided(Conflict):
    """The change needs a decision about what is held."""

    code = "held_undecided"

    def __init__(self, name: str, count: int) -> None:
        super().__init__(
            f"Nobody would vouch for {count} held versions of {name} after this; say what becomes of them:"
            " held=keep to go on serving them, or held=withdraw."
        )


class UnsignedNotConfirmed(Conflict):
    """A signed source would become unsigned, and nobody confirmed that."""

    code = "unsigned_not_confirmed"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} would be believed without any signature after this; say confirm_unsigned if that is what you want."
        )


@dataclass(frozen=True, slots=True)
class Lapse:
    """What a change of a source's trust concerns: images it offers that lapse, and what is held of it."""

    images: Sequence[str]
    held: Sequence[Unvouched]


@dataclass(frozen=True, slots=True)
class SourceChanged:
    """The source after a change (or as it was removed), what lapsed, and what the import after it does.

    The import is None in a dry run, the effect None for a new source, which takes nothing from anybody. `etag` is that
    of the source as it stands, which a dry run has not changed; None once it is gone.
    """

    source: Source
    lapse: Lapse
    effect: Effect | None
    import_id: int | None
    etag: str | None


class Changes(TypedDict, total=False):
    """What to change of a source; what is left out stays as it is. `keyring` is binary, of `keyring_of`.

    Whoever changes one of the four that say what it is believed by (keyring, its path, its name, unsigned) gives all.
    """

    name: str
    url: str
    keyring: bytes | None
    keyring_path: str | None
    keyring_name: str | None
    unsigned: bool
    priority: int
    proxy: str | None
    ca_bundle: str | None
    stale_after_days: int
    enabled: bool


def subject(source_id: int) -> str:
    """How the activity names a source."""
    return f"source:{source_id}"


async def etag(connection: AsyncConnection, source: Source) -> str:
    """A source's ETag. How its last reading went is no part of it.

    The id of the newest entry about it counts its changes, and stands for the passwords that its addresses may carry.
    """
    last = await activity.last(connection, subject(source.id))
    return guard.tag("source", id=source.id, changed=0 if last is None else last.id, **described(source))


OLDER_ACCEPTED_FOR = timedelta(days=1)
"""How long a source's older documents are waited for, once an operator lets them in."""

UNVOUCHED = "unvouched"
"""How the activity names all that is held and nobody vouches for."""


def unvouched_etag(found: Sequence[Unvouched]) -> str:
    """The ETag of all that is held and nobody vouches for."""
    return guard.tag(UNVOUCHED, versions=sorted((entry.version_id, sorted(entry.vouched_by)) for entry in found))


async def keyring_of(
    content: bytes | None, path: str | None, name: str | None, now: datetime
) -> tuple[bytes | None, str | None]:
    """A keyring in binary form, and its shipped name, from whichever of the three an operator gave.

    Raises InvalidValue for more than one, InvalidKeyring when no key in it can be used.
    """
    ways = {"keyring": content, "keyring_path": path, "keyring_name": name}
    given = [way for way, value in ways.items() if value is not None]
    if len(given) > 1:
        why = "give its contents, its path on the region, or a shipped one's name"
        raise InvalidValue("single keyring", " and ".join(given), why)
    if name is not None:
        # `ubuntu` is how people call it; what is kept is the name it is shipped under.
        return await asyncio.to_thread(read_keyring, Keyring(None, name=name)), SHIPPED_KEYRINGS[0]
    if path is not None:
        content = await asyncio.to_thread(read_keyring, Keyring(None, path=path))
    return (None if content is None else await asyncio.to_thread(usable_keyring, content, now)), None


async def add(
    connection: AsyncConnection, actor: Actor, wished: SourceWish, now: datetime, secrets: Secrets = NO_SECRETS
) -> SourceChanged:
    """The new source; an import that reads it is asked for. Raises Conflict when name or priority is taken."""
    source = await sources.create(connection, wished, now, secrets)
    sentence = f"Added the source {source.name}{', unsigned' if source.unsigned else ''}."
    await activity.record(
        connection, actor, now, "source.added", sentence, subject=subject(source.id), after=described(source)
    )
    return await _followed(connection, actor, source, Lapse((), ()), None, now)


async def change(
    connection: AsyncConnection,
    actor: Actor,
    publisher: Publisher,
    source_id: int,
    changes: Changes,
    now: datetime,
    *,
    confirm_unsigned: bool = False,
    held: HeldChoice | None = None,
    dry_run: bool = False,
    if_match: str | None = None,
    secrets: Secrets = NO_SECRETS,
) -> SourceChanged:
    """The source with these changes. A dry run tells what would lapse.

    `***` in an address stands for the user name and password that are kept for the same server.

    Raises NotFound; PreconditionFailed; InvalidValue for changes that do not fit together; UnsignedNotConfirmed;
    HeldUndecided when something held would lapse and `held` does not say what becomes of it; Conflict when the name or
    priority is taken.
    """
    before = await _lock(connection, source_id, if_match)
    fields: dict[str, Any] = {name: getattr(before, name) for name in Changes.__annotations__}
    shown = {"url": before.address.shown, "proxy": before.proxy_address.shown if before.proxy_address else None}
    wished = sources.wish(**(fields | shown | dict(changes)), stored=before)
    if wished.unsigned and not before.unsigned and not confirm_unsigned:
        raise UnsignedNotConfirmed(before.name)
    offered, unvouched = await offers.images(connection, before.id), await trust.unvouched(connection, before.id)
    seen = await effect.look(connection)
    async with connection.begin_nested() as attempt:
        source = await sources.change(connection, before, wished, now, secrets)
        # Which source a rule follows depends on how sources stand to each other.
        await wanted.refresh(connection, now)
        known = {entry.version_id for entry in unvouched}
        lapse = Lapse(
            sorted(offered - await offers.images(connection, source.id)),
            [entry for entry in await trust.unvouched(connection, source.id) if entry.version_id not in known],
        )
        found = _by_rules(effect.compare(seen, await _settled(connection, lapse, held)))
        if dry_run:
            await attempt.rollback()
    if dry_run:
        return SourceChanged(source, lapse, found, None, await etag(connection, before))
    await _settle(connection, publisher, source.name, lapse, held, now)
    await activity.record(
        connection,
        actor,
        now,
        "source.changed",
        _sentence(before, source),
        subject=subject(source.id),
        before=described(before),
        after=described(source),
    )
    return await _followed(connection, actor, source, lapse, found, now)


def _sentence(before: Source, after: Source) -> str:
    if before.enabled == after.enabled:
        return f"Changed the source {after.name}."
    return f"{'Enabled' if after.enabled else 'Disabled'} the source {after.name}."


async def read(connection: AsyncConnection, actor: Actor, source_id: int, now: datetime) -> Import:
    """The run that reads this source, and imports nothing; one that waits already takes it in.

    Raises NotFound; Conflict for a source that is disabled.
    """
    source = await sources.get(connection, source_id)
    if not source.enabled:
        raise Conflict(f"The source {source.name} is disabled, and not read before it is enabled.")
    import_id = await imports.enqueue(connection, "operator", actor.name, now, (), source_id=source_id)
    await activity.record(
        connection, actor, now, "source.read", f"Asked to read the source {source.name}.", subject=subject(source_id)
    )
    return await imports.get(connection, import_id)


async def accept_older(
    connection: AsyncConnection, actor: Actor, source_id: int, now: datetime, *, if_match: str | None = None
) -> SourceChanged:
    """The next reading of the source may bring documents older than those accepted before; an import is asked for.

    It must begin within a day, and once it has brought all documents no other may. Raises NotFound, PreconditionFailed.
    """
    await _lock(connection, source_id, if_match)
    source = await sources.accept_older(connection, source_id, now + OLDER_ACCEPTED_FOR)
    floors = await products.accepted(connection, source_id)
    await activity.record(
        connection,
        actor,
        now,
        "source.older_accepted",
        f"Let the source {source.name} bring documents older than those accepted before, once.",
        subject=subject(source_id),
        before={"updated": {name or "index": floor.updated.isoformat() for name, floor in sorted(floors.items())}},
    )
    return await _followed(connection, actor, source, Lapse((), ()), None, now)


async def remove(
    connection: AsyncConnection,
    actor: Actor,
    publisher: Publisher,
    source_id: int,
    now: datetime,
    *,
    held: HeldChoice | None = None,
    dry_run: bool = False,
    if_match: str | None = None,
) -> SourceChanged:
    """The source is gone. Selections that named it mean whichever source wins; what is held of it is kept or withdrawn.

    Raises NotFound; PreconditionFailed; HeldUndecided when something is held of it and `held` does not say what becomes
    of it.
    """
    source = await _lock(connection, source_id, if_match)
    offered = await offers.images(connection, source_id)
    seen = await effect.look(connection)
    gave_bootloaders = seen.bootloader_source is not None and seen.bootloader_source.id == source_id
    async with connection.begin_nested() as attempt:
        await selections.unname(connection, source_id)
        await sources.remove(connection, source_id, now)
        await wanted.refresh(connection, now)
        lapse = Lapse(sorted(offered), await trust.unvouched(connection, source_id))
        found = _by_rules(effect.compare(seen, await _settled(connection, lapse, held)))
        if dry_run:
            await attempt.rollback()
    if dry_run:
        return SourceChanged(source, lapse, found, None, await etag(connection, source))
    await _settle(connection, publisher, source.name, lapse, held, now)
    await sources.forget_removed(connection)
    sentence = f"Removed the source {source.name}{'; bootloaders come from no source now' if gave_bootloaders else ''}."
    await activity.record(
        connection, actor, now, "source.removed", sentence, subject=subject(source_id), before=described(source)
    )
    return replace(await _followed(connection, actor, source, lapse, found, now), etag=None)


async def withdraw_unvouched(
    connection: AsyncConnection,
    actor: Actor,
    publisher: Publisher,
    now: datetime,
    *,
    dry_run: bool = False,
    if_match: str | None = None,
) -> Sequence[Unvouched]:
    """Withdraw what is held and nobody vouches for; answers what that was. Machines lose it with the next poll.

    Raises PreconditionFailed.
    """
    await selections.revision(connection, for_update=True)
    found = await trust.unvouched(connection)
    await guard.require_unchanged(
        connection, if_match, unvouched_etag(found), UNVOUCHED, "what is held and nobody vouches for"
    )
    if found and not dry_run:
        await publishing.change(
            connection, publisher, now, withdraw=[entry.version_id for entry in found], confirmed=True
        )
        await sources.forget_removed(connection)
        images = sorted({entry.image for entry in found})
        await activity.record(
            connection,
            actor,
            now,
            "unvouched.withdrawn",
            f"Withdrew {len(found)} versions that nobody vouches for.",
            subject=UNVOUCHED,
            before={"images": images},
        )
        await imports.enqueue(connection, "operator", actor.name, now)
    return found


def described(source: Source) -> dict[str, Any]:
    """How a source is described, `***` for its secrets: what the activity keeps of it."""
    return {
        "name": source.name,
        "url": source.address.shown,
        "unsigned": source.unsigned,
        "key_ids": [] if source.keyring is None else list(key_ids(source.keyring)),
        "keyring_path": source.keyring_path,
        "keyring_name": source.keyring_name,
        "priority": source.priority,
        "proxy": source.proxy_address.shown if source.proxy_address else None,
        "ca_bundle": source.ca_bundle,
        "stale_after_days": source.stale_after_days,
        "enabled": source.enabled,
    }


async def _lock(connection: AsyncConnection, source_id: int, if_match: str | None) -> Source:
    """The source, locked until this transaction ends. Raises NotFound, PreconditionFailed."""
    # The lock of the region's row comes before those of sources.
    await selections.revision(connection, for_update=True)
    source = await sources.get(connection, source_id, for_update=True)
    if if_match is not None:
        await guard.require_unchanged(
            connection, if_match, await etag(connection, source), subject(source_id), f"the source {source.name}"
        )
    return source


async def _settle(
    connection: AsyncConnection,
    publisher: Publisher,
    name: str,
    lapse: Lapse,
    held: HeldChoice | None,
    now: datetime,
) -> None:
    if not lapse.held:
        return
    if held is None:
        raise HeldUndecided(name, len(lapse.held))
    if held is HeldChoice.WITHDRAW:
        await publishing.change(
            connection, publisher, now, withdraw=[entry.version_id for entry in lapse.held], confirmed=True
        )


async def _settled(connection: AsyncConnection, lapse: Lapse, held: HeldChoice | None) -> State:
    """The state as it will be once it is done with what lapses as `held` says."""
    after = await effect.look(connection)
    if held is not HeldChoice.WITHDRAW:
        return after
    return effect.without(after, {entry.version_id for entry in lapse.held})


def _by_rules(found: Effect) -> Effect:
    """The same, with a warning when rules mean other images after the change of a source."""
    told = [
        f"{effect.counted(images)} {one if len(images) == 1 else more}"
        for images, one, more in ((found.add, "comes", "come"), (found.remove, "goes", "go"))
        if images
    ]
    if not told:
        return found
    return replace(found, warnings=(*found.warnings, f"Rules mean other images after this: {', '.join(told)}."))


async def _followed(
    connection: AsyncConnection, actor: Actor, source: Source, lapse: Lapse, found: Effect | None, now: datetime
) -> SourceChanged:
    import_id = await imports.enqueue(connection, "operator", actor.name, now)
    await notify(connection, Topic.SOURCES, Topic.IMAGES, Topic.SETTINGS)
    return SourceChanged(source, lapse, found, import_id, await etag(connection, source))
