"""The guard against overwriting each other: an ETag names what somebody has seen, and a change honours its If-Match.

    before = await settings.get(connection, for_update=True)
    await guard.require_unchanged(connection, if_match, etag(before), SUBJECT, "the settings")

- A tag is a digest of what describes a thing. What changes by itself is no part of it: when the thing was last seen,
  how far it has come.
- No secret is part of it either, because a short one could be guessed from its digest; a number that counts the changes
  stands for it.
- The row is locked before it is compared, so that of two who have seen the same, one changes it and the other is told.
- A thing that does not exist is NotFound, whatever was expected of it (RFC 9110 §13.2.1).
- Without If-Match a change goes through: whoever does not look first has nothing to be warned of.
"""

import json
from typing import Any

from sqlalchemy.ext.asyncio import AsyncConnection

from region.people import activity
from region.people.activity import Entry
from shared.conditions import matches
from shared.digest import Sha256
from shared.errors import PreconditionFailed


def tag(noun: str, **described: Any) -> str:
    """The strong ETag of a thing: the same for the same description, whoever asks which process."""
    text = json.dumps([noun, described], sort_keys=True, default=str)
    return f'"{Sha256.of(text.encode())[:32]}"'


def is_unchanged(if_match: str | None, etag: str) -> bool:
    """True if a change may go on: nothing was expected, or a thing with this tag."""
    return if_match is None or matches(if_match, etag)


def changed(what: str, last: Entry | None) -> PreconditionFailed:
    """The error that says so. `what` is the thing in words, like "the settings"; `last` is who changed it last."""
    if last is None:
        told = "nobody is on record as having changed it"
    else:
        origin = f" from {last.address}" if last.address else ""
        told = f"{last.who} changed it at {last.at:%Y-%m-%d %H:%M:%S} UTC{origin} ({last.sentence.rstrip('.')})"
    return PreconditionFailed(f"You have not seen the latest state of {what}: {told}; look again before you save.")


async def require_unchanged(
    connection: AsyncConnection, if_match: str | None, etag: str, subject: str, what: str
) -> None:
    """Raises PreconditionFailed unless the thing with this tag is one that If-Match names.

    `subject` is the thing in the activity, where it is looked up who changed it last. The caller has locked its row.
    """
    if not is_unchanged(if_match, etag):
        raise changed(what, await activity.last(connection, subject))
