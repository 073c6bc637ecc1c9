"""Since when the manifest says of each image what it says now: `published_images`, which counting racks rests on.

- An image's *content* is its paths, with kind, digest and size of each; a new name for the same files changes nothing.
- `since` is the serial of the first manifest, without a break, of the present epoch that names this content. A rack
  that knows this manifest or a later one of ours, and does not report the image as pending, shows it as published.
- A new epoch begins anew: all of it is said since its first manifest.
- Rows of images that stay as they are, are not written.
"""

import hashlib
from collections.abc import Iterable

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.wire.manifest import Entry, Manifest

_UPSERT = text("""
    INSERT INTO published_images (image, version, since, content)
    SELECT given.image, given.version, :serial, given.content
    FROM unnest(CAST(:images AS text[]), CAST(:versions AS text[]), CAST(:contents AS text[]))
         AS given (image, version, content)
    ON CONFLICT (image) DO UPDATE SET
        version = excluded.version,
        since = CASE WHEN :same_epoch AND published_images.content = excluded.content THEN published_images.since
                     ELSE excluded.since END,
        content = excluded.content
""")


async def record(connection: AsyncConnection, before: Manifest | None, after: Manifest) -> None:
    """Take in that `after` is published, in its own transaction; `before` is the manifest it follows."""
    same_epoch = before is not None and before.epoch == after.epoch
    old = before.images() if before is not None and same_epoch else {}
    new = after.images()
    changed = {image: entries for image, entries in new.items() if old.get(image) != entries}
    if not same_epoch or old.keys() - new.keys():
        await connection.execute(text("DELETE FROM published_images WHERE image <> ALL(:named)"), {"named": list(new)})
    if changed:
        await connection.execute(
            _UPSERT,
            {
                "serial": after.serial,
                "same_epoch": same_epoch,
                "images": list(changed),
                "versions": [version_of(entries) for entries in changed.values()],
                "contents": [content_of(entries) for entries in changed.values()],
            },
        )


def version_of(entries: Iterable[Entry]) -> str:
    """The version an image is known by: the newest of its kernels'. Versions order as byte strings."""
    return max((entry.version for entry in entries), default="")


def content_of(entries: Iterable[Entry]) -> str:
    """The digest of what a rack shows for an image: equal when there is nothing for a rack to do."""
    lines = sorted(f"{entry.path}\0{entry.kind}\0{entry.sha256}\0{entry.size}\n" for entry in entries)
    return hashlib.sha256("".join(lines).encode()).hexdigest()
