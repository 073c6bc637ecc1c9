"""Sources: where images come from, and whose signature vouches for them."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import delete, func, insert, select, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from region.database.tables import products, selections, sources, stream_documents, versions
from region.stream.documents import ProductKind
from region.stream.openpgp import MAX_KEYRING_BYTES, parse_keyring
from shared.errors import Conflict, InvalidKeyring, InvalidValue, NotFound
from shared.http import parse_url

_BELOW_ROOT = ("streams/v1/index.sjson", "streams/v1/index.json", "streams/v1/", "streams/v1", "streams/", "streams")


@dataclass(frozen=True, slots=True)
class SourceWish:
    """A source as an operator describes it; exactly one of `keyring`, `keyring_path` and `unsigned` is set.

    `url` is the mirror's root and ends in a slash. `keyring` is binary OpenPGP. The greater `priority` wins an image.
    """

    name: str
    url: str
    keyring: bytes | None
    keyring_path: str | None
    unsigned: bool
    priority: int
    proxy: str | None
    ca_bundle: str | None


@dataclass(frozen=True, slots=True)
class Source(SourceWish):
    """A source the region knows. `error_code` and `error` say how the last reading failed; empty when it went well."""

    id: int
    created_at: datetime
    last_read_at: datetime | None
    error_code: str
    error: str
    skipped: Sequence[str]

    def trusted_keyring(self) -> bytes:
        """The keyring, read from the region's disk where it is a path. Raises InvalidKeyring."""
        return self.keyring if self.keyring is not None else read_keyring(Path(self.keyring_path or ""))


def wish(
    *,
    name: str,
    url: str,
    keyring: bytes | None = None,
    keyring_path: str | None = None,
    unsigned: bool = False,
    priority: int,
    proxy: str | None = None,
    ca_bundle: str | None = None,
) -> SourceWish:
    """What an operator asked for, made regular. Raises InvalidValue, InvalidKeyring."""
    if keyring is not None and keyring_path is not None:
        raise InvalidValue("usable source", name, "give either the path of a keyring or its contents, not both")
    if unsigned == (keyring is not None or keyring_path is not None):
        raise InvalidValue("usable source", name, "give a keyring, or declare it unsigned; one of the two")
    if keyring_path is not None:
        read_keyring(Path(keyring_path))
    if ca_bundle and not Path(ca_bundle).is_file():
        raise InvalidValue("CA bundle", ca_bundle, "there is no such file on the region")
    root = str(parse_url(url).with_query(None))
    for ending in _BELOW_ROOT:
        root = root.removesuffix(ending) if root.endswith(f"/{ending}") else root
    return SourceWish(
        name=name,
        url=root if root.endswith("/") else f"{root}/",
        keyring=parse_keyring(keyring) if keyring is not None else None,
        keyring_path=keyring_path,
        unsigned=unsigned,
        priority=priority,
        proxy=str(parse_url(proxy)) if proxy else None,
        ca_bundle=ca_bundle or None,
    )


def read_keyring(path: Path) -> bytes:
    """The keyring in a file on the region, as binary OpenPGP. Raises InvalidKeyring."""
    try:
        with path.open("rb") as file:
            return parse_keyring(file.read(MAX_KEYRING_BYTES + 1))
    except (OSError, ValueError) as error:
        why = getattr(error, "strerror", None) or error
        raise InvalidKeyring(f"{path} cannot be read on the region ({why})") from error


async def list_all(connection: AsyncConnection) -> list[Source]:
    """All sources, the one that wins first."""
    rows = await connection.execute(select(sources).order_by(sources.c.priority.desc()))
    return [Source(**row) for row in rows.mappings()]


async def get(connection: AsyncConnection, source_id: int, *, keep: bool = False) -> Source:
    """The source; with `keep` nobody removes it until this transaction ends. Raises NotFound."""
    query = select(sources).where(sources.c.id == source_id)
    row = (await connection.execute(query.with_for_update(read=True) if keep else query)).mappings().one_or_none()
    if row is None:
        raise NotFound("source", source_id)
    return Source(**row)


async def next_priority(connection: AsyncConnection) -> int:
    """A priority above all others: the newest source wins unless its operator says otherwise."""
    highest: int | None = await connection.scalar(select(func.max(sources.c.priority)))
    return (highest or 0) + 10


async def create(connection: AsyncConnection, wished: SourceWish, now: datetime) -> Source:
    """The new source. Raises Conflict when its name or priority is taken."""
    try:
        row = await connection.execute(insert(sources).values(**_columns(wished), created_at=now).returning(sources))
    except IntegrityError as error:
        raise _taken(wished, error) from error
    return Source(**row.mappings().one())


async def change(connection: AsyncConnection, source_id: int, wished: SourceWish) -> Source:
    """The source as it is now. What was accepted from another address or signer binds nobody any more.

    Raises NotFound; Conflict when its name or priority is taken.
    """
    before = await get(connection, source_id)
    try:
        row = await connection.execute(
            update(sources).where(sources.c.id == source_id).values(**_columns(wished)).returning(sources)
        )
    except IntegrityError as error:
        raise _taken(wished, error) from error
    if _origin(before) != _origin(wished):
        await connection.execute(delete(stream_documents).where(stream_documents.c.source_id == source_id))
    return Source(**row.mappings().one())


async def remove(connection: AsyncConnection, source_id: int) -> None:
    """Forget a source, its bootloaders included. Raises NotFound; Conflict while images of it are selected or held.

    The caller publishes the manifest in the same transaction.
    """
    source = await get(connection, source_id)
    in_use = await connection.scalar(
        select(
            select(selections.c.id).where(selections.c.source_id == source_id).exists()
            | select(versions.c.id)
            .join(products)
            .where(
                products.c.source_id == source_id,
                products.c.kind != ProductKind.BOOTLOADER,
                versions.c.held_at.is_not(None),
            )
            .exists()
        )
    )
    if in_use:
        raise Conflict(f"The source {source.name} still has selected or held images; unselect them and sync first.")
    await connection.execute(delete(sources).where(sources.c.id == source_id))


async def record_reading(
    connection: AsyncConnection, source_id: int, now: datetime, *, code: str, sentence: str, skipped: Sequence[str]
) -> None:
    """Remember how the last reading of the source went; `code` and `sentence` are empty when all went well."""
    await connection.execute(
        update(sources)
        .where(sources.c.id == source_id)
        .values(last_read_at=now, error_code=code, error=sentence, skipped=list(skipped))
    )


def _columns(wished: SourceWish) -> dict[str, object]:
    return {field: getattr(wished, field) for field in SourceWish.__slots__}


def _origin(wished: SourceWish) -> tuple[object, ...]:
    return (wished.url, wished.keyring, wished.keyring_path, wished.unsigned)


def _taken(wished: SourceWish, error: IntegrityError) -> Conflict:
    if "uq_sources_name" in str(error.orig):
        return Conflict(f"There is a source named {wished.name} already; choose another name.")
    return Conflict(f"Another source has the priority {wished.priority}; choose another number.")
