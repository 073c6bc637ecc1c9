"""Change the region's settings."""

from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import effect, guard
from region.actions.effect import Effect
from region.catalogue import bootloaders, sources
from region.importing import imports
from region.people import activity, settings
from region.people.activity import Actor
from region.people.settings import MAX_RETENTION_DAYS, MIN_RETENTION_DAYS, Preferences
from region.secrets import NO_SECRETS, Address, Secrets
from shared.errors import Conflict, InvalidValue

SUBJECT = "settings"


class Changes(TypedDict, total=False):
    """What to change; what is left out stays as it is. An empty `proxy` means none."""

    proxy: str | None
    retention_days: int
    bootloader_source_id: int


class SourceNotRead(Conflict):
    """Bootloaders were to come from a source of which nobody knows yet what it offers: no plan could name them."""

    code = "source_not_read"

    def __init__(self, name: str) -> None:
        super().__init__(
            f"{name} was not read yet under the trust it has now, so nobody knows which bootloaders it offers; sync,"
            " and choose it then."
        )


@dataclass(frozen=True, slots=True)
class SettingsChanged:
    """The settings after a change, or as they were before a dry run.

    `effect` and the import that carries it out are there when bootloaders come from another source; a dry run asks for
    no import.
    """

    settings: Preferences
    effect: Effect | None = None
    import_id: int | None = None


def etag(found: Preferences) -> str:
    """The settings' ETag."""
    # The revision stands for the proxy's password.
    return guard.tag(
        SUBJECT,
        proxy=_shown(found.proxy),
        retention_days=found.retention_days,
        bootloader_source_id=found.bootloader_source_id,
        revision=found.revision,
    )


async def change(
    connection: AsyncConnection,
    actor: Actor,
    changes: Changes,
    now: datetime,
    *,
    if_match: str | None = None,
    dry_run: bool = False,
    secrets: Secrets = NO_SECRETS,
) -> SettingsChanged:
    """The settings after these changes; a dry run changes nothing, and tells what would become of bootloaders.

    `***` in the proxy's address stands for the user name and password that are kept for the same server.

    Raises InvalidValue, PreconditionFailed; NotFound for a source that is not there, SourceNotRead for one of which
    nobody knows yet what it offers.
    """
    before = await settings.get(connection, for_update=True)
    await guard.require_unchanged(connection, if_match, etag(before), SUBJECT, "the region's settings")
    proxy, retention_days = before.proxy, changes.get("retention_days", before.retention_days)
    if "proxy" in changes:
        proxy = Address.parse(changes["proxy"], before.proxy) if changes["proxy"] else None
    if not MIN_RETENTION_DAYS <= retention_days <= MAX_RETENTION_DAYS:
        raise InvalidValue(
            "retention in days", retention_days, f"it must lie between {MIN_RETENTION_DAYS} and {MAX_RETENTION_DAYS}"
        )
    source_id = changes.get("bootloader_source_id", before.bootloader_source_id)
    found = None if source_id is None else await _choose(connection, before, source_id, dry_run=dry_run)
    if dry_run:
        return SettingsChanged(before, found)
    if (proxy, retention_days) != (before.proxy, before.retention_days):
        await settings.change(connection, proxy=proxy, retention_days=retention_days, secrets=secrets)
    after = await settings.get(connection)
    if after == before:
        return SettingsChanged(before)
    await activity.record(
        connection,
        actor,
        now,
        "settings.changed",
        await _sentence(connection, before, after),
        subject=SUBJECT,
        before=_recorded(before),
        after=_recorded(after),
    )
    return SettingsChanged(
        after, found, None if found is None else await imports.enqueue(connection, "operator", actor.name, now)
    )


async def _choose(connection: AsyncConnection, before: Preferences, source_id: int, *, dry_run: bool) -> Effect | None:
    """What it leads to that bootloaders come from this source; None if they do already.

    Raises NotFound, SourceNotRead.
    """
    # Locked, so that nobody removes or changes it meanwhile.
    source = await sources.get(connection, source_id, for_update=True)
    if source_id == before.bootloader_source_id:
        return None
    if source.read_revision != source.trust_revision:
        raise SourceNotRead(source.name)
    seen = await effect.look(connection)
    async with connection.begin_nested() as attempt:
        await bootloaders.choose_source(connection, source_id)
        found = effect.compare(seen, await effect.look(connection))
        if dry_run:
            await attempt.rollback()
    return found


async def _sentence(connection: AsyncConnection, before: Preferences, after: Preferences) -> str:
    parts = []
    if after.proxy != before.proxy:
        parts.append(f"set the proxy to {_shown(after.proxy)}" if after.proxy else "took the proxy away")
    if after.retention_days != before.retention_days:
        parts.append(f"set the retention to {after.retention_days} day{'s' if after.retention_days > 1 else ''}")
    if after.bootloader_source_id != before.bootloader_source_id and (chosen := await bootloaders.source(connection)):
        parts.append(f"chose {chosen.name} as the source that bootloaders come from")
    told = " and ".join(parts)
    return f"{told[:1].upper()}{told[1:]}."


def _recorded(found: Preferences) -> dict[str, object]:
    return {
        "proxy": _shown(found.proxy),
        "retention_days": found.retention_days,
        "bootloader_source_id": found.bootloader_source_id,
    }


def _shown(proxy: Address | None) -> str | None:
    return proxy.shown if proxy else None
