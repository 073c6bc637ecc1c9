"""What is held: the one way to change it.

One call of `change` is one step that racks see: versions become held, others are withdrawn, and the manifest that says
so is signed, in the caller's transaction. The rules:

- A version becomes held when all its files are stored, its source's trust is the one it was read under, and a present
  voucher stands behind the document that lists it. Who signed that is kept with the version (I8).
- Whatever was held in its place is withdrawn with it: a place never shows two versions, and never nothing in between.
- A manifest is written only when it says something else than the last one, or of another epoch, or names another
  address of the region, or when one of its names passes to another place: what the other processes remember must not
  outlive that; or when an operator has confirmed that it may take much away.
- A region that has never published begins only with `begin`, at the end of an import, and with a manifest that names
  something. Its racks may hold all that a region before it published: one that names the first few images alone would
  tell them to drop the rest.
- Nothing here reads all that is held: the places that change are read, the rest is remembered. What is remembered
  counts only while it is the manifest in the database; a process whose memory is another reads again first.
- Nobody publishes with another key than the one the region's row names: a process that runs while the key is rotated
  has to take the new one first (`region.actions.succession`).
- Locks are taken in one order: the import's lease (by the caller), the region's row, sources, versions.

Who decides what to hold is `region.importing.plan`; when changes are gathered into one, `region.importing.holding`.
"""

from collections.abc import Collection
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import Row, select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue import versions
from region.database.tables import region
from region.database.tables import versions as versions_table
from region.database.topics import Topic, notify
from region.publishing import manifest, since
from region.publishing.manifest import Published, Shown
from shared.errors import Unavailable
from shared.signing import fingerprint
from shared.wire.manifest import Manifest


@dataclass(slots=True)
class Publisher:
    """The region's key, and what this process remembers of the manifest it last saw or made."""

    key: Ed25519PrivateKey
    places: dict[str, Shown] = field(default_factory=dict)
    published: Published | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What `change` did: the versions that became held, those withdrawn, and the manifest if there is a new one."""

    held: frozenset[int]
    withdrawn: frozenset[int]
    published: Published | None


async def change(
    connection: AsyncConnection,
    publisher: Publisher,
    now: datetime,
    *,
    hold: Collection[int] = (),
    withdraw: Collection[int] = (),
    confirmed: bool = False,
    begin: bool = False,
) -> Change:
    """Hold and withdraw these versions, and publish. A version that may not become held (see above) is left as it is.

    `confirmed`: an operator has confirmed that the manifest may take much away. `begin`: it may be the region's first.
    Raises BadSignature or InvalidDocument when the manifest in the database is not this region's; Unavailable when the
    publisher's key is not the region's any more.
    """
    row = (await connection.execute(select(region).with_for_update())).one()
    if row.fingerprint != fingerprint(publisher.key):
        raise Unavailable("The region's key was rotated, and this process has not taken the new one yet")
    await remember(connection, publisher)
    allowed = await _vouched(connection, hold)
    held = await versions.whole(connection, allowed) if allowed else set()
    await connection.execute(
        text("""
            UPDATE versions SET held_at = :now, vouched_by = documents.vouched_by
            FROM products JOIN stream_documents AS documents USING (source_id, content_id)
            WHERE products.id = versions.product_id AND versions.id = ANY(:held) AND versions.held_at IS NULL
        """),
        {"held": sorted(held), "now": now},
    )
    replaced = await connection.scalars(
        text("""
            SELECT others.id FROM versions AS others
            JOIN products ON products.id = others.product_id
            WHERE others.held_at IS NOT NULL AND NOT others.id = ANY(:held) AND products.place IN (
                SELECT products.place FROM versions JOIN products ON products.id = versions.product_id
                WHERE versions.id = ANY(:held))
        """),
        {"held": sorted(held)},
    )
    withdrawn = (set(withdraw) | set(replaced)) - held
    places = await _places(connection, held | withdrawn)
    await connection.execute(
        update(versions_table)
        .where(versions_table.c.id.in_(withdrawn), versions_table.c.held_at.is_not(None))
        .values(held_at=None, vouched_by=None)
    )
    published = await _publish(connection, publisher, row, places, now, confirmed=confirmed, begin=begin)
    if held or withdrawn:
        await notify(connection, Topic.IMAGES)
    return Change(frozenset(held), frozenset(withdrawn), published)


async def remember(connection: AsyncConnection, publisher: Publisher) -> None:
    """What the publisher remembers is what the database says was published last."""
    newest = await manifest.newest(connection)
    known = publisher.published
    if known is not None and newest == (*known.manifest.order, known.sha256):
        return
    publisher.published = await manifest.current(connection, publisher.key)
    publisher.places = await manifest.shown(connection)


async def _vouched(connection: AsyncConnection, version_ids: Collection[int]) -> set[int]:
    """Those of the versions that a present voucher stands behind, of sources read under the trust they still have.

    Their sources' trust stays as it is until this transaction ends.
    """
    if not version_ids:
        return set()
    await connection.execute(
        text("""
            SELECT id FROM sources WHERE id IN (
                SELECT products.source_id FROM versions JOIN products ON products.id = versions.product_id
                WHERE versions.id = ANY(:ids))
            ORDER BY id FOR SHARE
        """),
        {"ids": sorted(version_ids)},
    )
    rows = await connection.scalars(
        text("""
            SELECT versions.id
            FROM versions JOIN products ON products.id = versions.product_id
            JOIN sources ON sources.id = products.source_id
            JOIN stream_documents AS documents USING (source_id, content_id)
            WHERE versions.id = ANY(:ids) AND sources.keyring_readable
              AND sources.read_revision = sources.trust_revision AND documents.vouched_by && sources.vouchers
        """),
        {"ids": sorted(version_ids)},
    )
    return set(rows)


async def _places(connection: AsyncConnection, version_ids: Collection[int]) -> list[str]:
    rows = await connection.scalars(
        text("""
            SELECT DISTINCT products.place FROM versions JOIN products ON products.id = versions.product_id
            WHERE versions.id = ANY(:ids)
        """),
        {"ids": sorted(version_ids)},
    )
    return list(rows)


async def _publish(
    connection: AsyncConnection,
    publisher: Publisher,
    row: Row[Any],
    places: list[str],
    now: datetime,
    *,
    confirmed: bool,
    begin: bool,
) -> Published | None:
    """The new manifest, when there is one to write."""
    fresh = await manifest.shown(connection, places) if places else {}
    shown = {place: said for place, said in publisher.places.items() if place not in places} | fresh
    entries = manifest.entries(shown)
    before = publisher.published
    if before is None and not (begin and entries):
        return None
    if (
        before is not None
        and not confirmed
        and before.manifest.epoch == row.epoch
        and before.manifest.entries == entries
        and before.manifest.region_url == (row.url or "")
        and publisher.places == shown
    ):
        return None
    order = (row.epoch, row.serial + 1)
    made = manifest.sign(
        Manifest(
            *order,
            created_at=now,
            entries=entries,
            confirmed=order if confirmed else (row.confirmed_epoch, row.confirmed_serial),
            region_url=row.url or "",
        ),
        publisher.key,
    )
    await connection.execute(
        update(region).values(
            serial=order[1],
            confirmed_epoch=made.manifest.confirmed[0],
            confirmed_serial=made.manifest.confirmed[1],
        )
    )
    await manifest.write(connection, made, now)
    await since.record(connection, None if before is None else before.manifest, made.manifest)
    await notify(connection, Topic.MANIFEST, Topic.IMAGES)
    publisher.places, publisher.published = shown, made
    return made
