"""Change the region's settings."""

from datetime import datetime
from typing import TypedDict

from sqlalchemy.ext.asyncio import AsyncConnection

from region.actions import guard
from region.people import activity, settings
from region.people.activity import Actor
from region.people.settings import MAX_RETENTION_DAYS, MIN_RETENTION_DAYS, Preferences
from shared.errors import InvalidValue
from shared.http import parse_url, shown

SUBJECT = "settings"


class Changes(TypedDict, total=False):
    """What to change; what is left out stays as it is. An empty `proxy` means none."""

    proxy: str | None
    retention_days: int


def etag(found: Preferences) -> str:
    """The settings' ETag."""
    # The revision stands for the proxy's password.
    return guard.tag(SUBJECT, proxy=_shown(found.proxy), retention_days=found.retention_days, revision=found.revision)


async def change(
    connection: AsyncConnection, actor: Actor, changes: Changes, now: datetime, *, if_match: str | None = None
) -> Preferences:
    """The settings after these changes. Raises InvalidValue, PreconditionFailed."""
    before = await settings.get(connection, for_update=True)
    await guard.require_unchanged(connection, if_match, etag(before), SUBJECT, "the region's settings")
    proxy, retention_days = before.proxy, changes.get("retention_days", before.retention_days)
    if "proxy" in changes:
        proxy = str(parse_url(changes["proxy"])) if changes["proxy"] else None
    if not MIN_RETENTION_DAYS <= retention_days <= MAX_RETENTION_DAYS:
        raise InvalidValue(
            "retention in days", retention_days, f"it must lie between {MIN_RETENTION_DAYS} and {MAX_RETENTION_DAYS}"
        )
    if (proxy, retention_days) == (before.proxy, before.retention_days):
        return before
    await settings.change(connection, proxy=proxy, retention_days=retention_days)
    after = await settings.get(connection)
    await activity.record(
        connection,
        actor,
        now,
        "settings.changed",
        _sentence(before, after),
        subject=SUBJECT,
        before=_recorded(before),
        after=_recorded(after),
    )
    return after


def _sentence(before: Preferences, after: Preferences) -> str:
    parts = []
    if after.proxy != before.proxy:
        parts.append(f"set the proxy to {_shown(after.proxy)}" if after.proxy else "took the proxy away")
    if after.retention_days != before.retention_days:
        parts.append(f"set the retention to {after.retention_days} day{'s' if after.retention_days > 1 else ''}")
    told = " and ".join(parts)
    return f"{told[:1].upper()}{told[1:]}."


def _recorded(found: Preferences) -> dict[str, object]:
    return {"proxy": _shown(found.proxy), "retention_days": found.retention_days}


def _shown(proxy: str | None) -> str | None:
    return shown(parse_url(proxy)) if proxy else None
