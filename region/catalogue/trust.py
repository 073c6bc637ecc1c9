"""Trust: which signatures a source is believed by, and whether they still are the ones somebody began with (I8).

- A source is believed by its *vouchers*: the primary fingerprints of the keys in its keyring that are not revoked, or
  `unsigned:<url>` for a source that an operator declared unsigned.
- The bytes of a keyring are always stored. A path on this machine, or the name of a keyring that Bootferry ships, only
  refreshes them: `look` reads it again, at each of the four moments at which trust counts (a reading begins, a reading
  is recorded, a plan is made, a version becomes held). One that cannot be read changes no trust: nothing new is planned
  from the source until it can, and what it offers stays.
- `trust_revision` rises when URL, mode or vouchers change. Whoever began under one revision may not write under
  another: `require`.
- A document or a held version is vouched for while one of those who signed it is a voucher. Hence a key that is added,
  or one of two that is removed while documents carry both, lapses nothing.

What is not done here: signatures are checked by `region.stream.openpgp`; what lapses because of a change is told by
`region.actions.sources`, and what wins by `region.catalogue.targets`.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import select, text, update
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.database.connection import transaction
from region.database.tables import sources
from region.database.topics import Topic, notify
from region.stream.keys import MAX_KEYRING_BYTES, judge, parse_keyring, shipped_keyring
from shared.errors import BootferryError, InvalidKeyring, KeyExpired
from shared.logs import logger
from shared.regular_file import read_regular

log = logger(__name__)


class TrustChanged(BootferryError):
    """The source's trust is another than the one this work began with; nothing of it was written."""

    code = "trust_changed"

    def __init__(self, name: str) -> None:
        super().__init__(f"The trust of the source {name} was changed meanwhile; what was read of it is read again.")


class KeyringUnreadable(InvalidKeyring):
    """The keyring's file on the region cannot be read now. What was accepted under it stays."""

    code = "keyring_unreadable"

    def __init__(self, path: str, why: str) -> None:
        super().__init__(f"{path} cannot be read on the region ({why})")


@dataclass(frozen=True, slots=True)
class Keyring:
    """The keyring of a signed source: the bytes that count, and where they are refreshed from, if anywhere."""

    content: bytes | None
    path: str | None = None
    name: str | None = None


def unsigned_voucher(url: str) -> str:
    """Who vouches for an unsigned source: its URL, and nobody else."""
    return f"unsigned:{url}"


def vouchers_of(url: str, keyring: bytes | None, now: datetime, *, unsigned: bool) -> tuple[str, ...]:
    """Who vouches for a source with this URL and keyring; nobody where its keyring could never be read.

    A key that has expired signs nothing new and still vouches for what it signed.
    """
    if unsigned:
        return (unsigned_voucher(url),)
    keys = judge(keyring, now) if keyring is not None else ()
    return tuple(sorted(key.fingerprint for key in keys if key.problem in ("", KeyExpired.code)))


def read_keyring(keyring: Keyring) -> bytes | None:
    """The bytes of the keyring now, binary OpenPGP. Blocks. Raises KeyringUnreadable, InvalidKeyring, InvalidValue."""
    if keyring.name is not None:
        return shipped_keyring(keyring.name)
    if keyring.path is None:
        return keyring.content
    path = Path(keyring.path)
    try:
        content = read_regular(path, MAX_KEYRING_BYTES)
    except (OSError, ValueError) as error:
        raise KeyringUnreadable(keyring.path, getattr(error, "strerror", None) or "it is no path") from error
    return parse_keyring(content)


async def look(engine: AsyncEngine, source_id: int, now: datetime) -> int:
    """Read the source's keyring again where it may have changed by itself; the trust revision as it is now.

    A keyring that cannot be read, or holds no key, is remembered as such. Raises InvalidKeyring then; Unavailable.
    """
    async with transaction(engine) as connection:
        row = (await connection.execute(select(sources).where(sources.c.id == source_id))).one_or_none()
    if row is None:
        return 0
    if row.keyring_path is None and row.keyring_name is None:
        return int(row.trust_revision)
    problem: InvalidKeyring | None = None
    content: bytes | None = None
    try:
        content = await asyncio.to_thread(
            read_keyring, Keyring(row.keyring, path=row.keyring_path, name=row.keyring_name)
        )
    except InvalidKeyring as error:
        problem = error
    if content == row.keyring and row.keyring_readable:
        return int(row.trust_revision)
    async with transaction(engine) as connection:
        if problem is None:
            return await _refresh(connection, source_id, row.keyring_path, row.keyring_name, content, now)
        await _set_unreadable(connection, source_id, row.keyring_path, row.keyring_name)
    # Only now: an error inside the transaction would take back what it has written.
    raise problem


async def look_all(engine: AsyncEngine, now: datetime) -> None:
    """`look` at every source; one whose keyring cannot be read costs nothing but itself. Raises Unavailable."""
    async with transaction(engine) as connection:
        ids: Sequence[int] = (
            await connection.scalars(
                select(sources.c.id).where(
                    sources.c.removed_at.is_(None),
                    sources.c.keyring_path.is_not(None) | sources.c.keyring_name.is_not(None),
                )
            )
        ).all()
    for source_id in ids:
        try:
            await look(engine, source_id, now)
        except InvalidKeyring as error:
            log.warning(f"A source's keyring is not usable. {error}", action="trust", code=error.code, source=source_id)


async def require(connection: AsyncConnection, source_id: int, revision: int) -> None:
    """Until this transaction ends the source's trust is the one of `revision`. Raises TrustChanged unless it is now."""
    row = (
        await connection.execute(
            select(sources.c.name, sources.c.trust_revision)
            .where(sources.c.id == source_id, sources.c.removed_at.is_(None))
            .with_for_update(read=True)
        )
    ).one_or_none()
    if row is None or row.trust_revision != revision:
        raise TrustChanged(row.name if row else f"number {source_id}")


async def _refresh(
    connection: AsyncConnection,
    source_id: int,
    path: str | None,
    name: str | None,
    content: bytes | None,
    now: datetime,
) -> int:
    """The keyring read from `path` or `name` counts now, unless an operator changed the source meanwhile."""
    row = (await connection.execute(select(sources).where(sources.c.id == source_id).with_for_update())).one_or_none()
    if row is None or (row.keyring_path, row.keyring_name) != (path, name):
        return int(row.trust_revision) if row else 0
    vouchers = list(vouchers_of(row.url, content, now, unsigned=False))
    revision = int(row.trust_revision) + (set(vouchers) != set(row.vouchers))
    await connection.execute(
        update(sources)
        .where(sources.c.id == source_id)
        .values(keyring=content, vouchers=vouchers, trust_revision=revision, keyring_readable=True)
    )
    if revision != row.trust_revision:
        log.warning(
            f"The keyring of the source {row.name} has changed; what its keys do not vouch for lapses.",
            action="trust",
            source=row.name,
            vouchers=vouchers,
        )
    await notify(connection, Topic.SOURCES, Topic.IMAGES)
    return revision


async def _set_unreadable(connection: AsyncConnection, source_id: int, path: str | None, name: str | None) -> None:
    """The keyring from `path` or `name` cannot be read, unless an operator changed the source meanwhile."""
    done = await connection.execute(
        update(sources)
        .where(
            sources.c.id == source_id,
            sources.c.keyring_path.is_not_distinct_from(path),
            sources.c.keyring_name.is_not_distinct_from(name),
            sources.c.keyring_readable,
        )
        .values(keyring_readable=False)
    )
    if done.rowcount:
        await notify(connection, Topic.SOURCES, Topic.IMAGES)


@dataclass(frozen=True, slots=True)
class Unvouched:
    """A held version that no present voucher of its source stands behind."""

    version_id: int
    image: str
    place: str
    version: str
    source: str
    vouched_by: Sequence[str]
    held_at: datetime


async def unvouched(connection: AsyncConnection, source_id: int | None = None) -> list[Unvouched]:
    """What is held and no longer vouched for, by image and place; of one source where `source_id` names it."""
    rows = await connection.execute(
        text("""
            SELECT versions.id AS version_id, products.image, products.place, versions.name AS version,
                   sources.name AS source, coalesce(versions.vouched_by, '{}') AS vouched_by, versions.held_at
            FROM versions JOIN products ON products.id = versions.product_id
            JOIN sources ON sources.id = products.source_id
            WHERE versions.held_at IS NOT NULL AND NOT coalesce(versions.vouched_by && sources.vouchers, false)
              AND (CAST(:source_id AS integer) IS NULL OR sources.id = :source_id)
            ORDER BY products.image, products.place
        """),
        {"source_id": source_id},
    )
    return [Unvouched(**row) for row in rows.mappings()]
