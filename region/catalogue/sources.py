"""Sources: where images come from. What each is believed by is `region.catalogue.trust`."""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from sqlalchemy import RowMapping, delete, func, insert, select, text, update
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncConnection

from region.catalogue.freshness import STALE_AFTER_DAYS, Stale, stale
from region.catalogue.trust import vouchers_of
from region.database.tables import region, sources, stream_documents
from region.secrets import NO_SECRETS, Address, Clear, Sealed, Secrets, resealed, seal
from shared.errors import Conflict, InvalidValue, NotFound
from shared.http import parse_url

_BELOW_ROOT = ("streams/v1/index.sjson", "streams/v1/index.json", "streams/v1/", "streams/v1", "streams/", "streams")


@dataclass(frozen=True, slots=True)
class SourceWish:
    """A source as an operator describes it.

    `url` is the mirror's root and ends in a slash. `keyring` is binary OpenPGP, None for an `unsigned` source; it was
    read from `keyring_path` on the region, or is the shipped one called `keyring_name`, where one of these is set. The
    greater `priority` wins an image. Everybody is warned when its index is older than `stale_after_days`; 0: never.
    One that is not `enabled` is not read, and nothing new is taken from it; what is held of it stays.
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
    url_credentials: Clear | Sealed | None
    proxy_credentials: Clear | Sealed | None
    enabled: bool

    @property
    def address(self) -> Address:
        """The mirror's root, and what it is opened with."""
        return Address(self.url, self.url_credentials)

    @property
    def proxy_address(self) -> Address | None:
        """The source's own proxy, and what it is opened with."""
        return None if self.proxy is None else Address(self.proxy, self.proxy_credentials)


@dataclass(frozen=True, slots=True)
class Source(SourceWish):
    """A source the region knows. `error_code` and `error` say how the last reading failed; empty when it went well.
    `last_good_at` is when one went well last.

    `vouchers`, `trust_revision` and `read_revision` are those of `region.catalogue.trust`. Before
    `older_accepted_until` one reading may bring documents older than those accepted before.
    """

    id: int
    created_at: datetime
    last_read_at: datetime | None
    last_good_at: datetime | None
    error_code: str
    error: str
    skipped: Sequence[str]
    keyring_readable: bool
    vouchers: Sequence[str]
    trust_revision: int
    read_revision: int
    older_accepted_until: datetime | None
    documents_updated_at: datetime | None
    """The date of its index, as far as somebody vouches for that."""

    def stale(self, now: datetime) -> Stale | None:
        """What everybody is to be told of the age of its documents, if anything."""
        return None if not self.enabled else stale(self.name, self.documents_updated_at, self.stale_after_days, now)


def wish(
    *,
    name: str,
    url: str,
    keyring: bytes | None = None,
    keyring_path: str | None = None,
    keyring_name: str | None = None,
    unsigned: bool = False,
    priority: int,
    proxy: str | None = None,
    ca_bundle: str | None = None,
    stored: "Source | None" = None,
    stale_after_days: int = STALE_AFTER_DAYS,
    enabled: bool = True,
) -> SourceWish:
    """What an operator asked for, made regular; `keyring` is binary already. Raises InvalidValue.

    `***` in an address stands for the user name and password that the source `stored` has for the same server.
    """
    if unsigned == (keyring is not None):
        raise InvalidValue("usable source", name, "give a keyring, or declare it unsigned; one of the two")
    if ca_bundle and not Path(ca_bundle).is_file():
        raise InvalidValue("CA bundle", ca_bundle, "there is no such file on the region")
    address = Address.parse(url, stored.address if stored else None)
    way = Address.parse(proxy, stored.proxy_address if stored else None) if proxy else None
    root = str(parse_url(address.url).with_query(None))
    for ending in _BELOW_ROOT:
        root = root.removesuffix(ending) if root.endswith(f"/{ending}") else root
    return SourceWish(
        name=name,
        url=root if root.endswith("/") else f"{root}/",
        keyring=keyring,
        keyring_path=keyring_path,
        keyring_name=keyring_name,
        unsigned=unsigned,
        priority=priority,
        proxy=way.url if way else None,
        ca_bundle=ca_bundle or None,
        url_credentials=address.credentials,
        proxy_credentials=way.credentials if way else None,
        stale_after_days=stale_after_days,
        enabled=enabled,
    )


_DOCUMENTS_UPDATED_AT = (
    select(stream_documents.c.updated)
    .where(
        stream_documents.c.source_id == sources.c.id,
        stream_documents.c.content_id == "",
        stream_documents.c.vouched_by.bool_op("&&")(sources.c.vouchers),
    )
    .correlate(sources)
    .scalar_subquery()
    .label("documents_updated_at")
)
_CREDENTIALS = ("url_credentials", "proxy_credentials")
_COLUMNS = [
    _DOCUMENTS_UPDATED_AT if name == "documents_updated_at" else sources.c[name]
    for base in (SourceWish, Source)
    for name in base.__slots__
]


async def list_all(connection: AsyncConnection) -> list[Source]:
    """All sources, the one with the greatest priority first."""
    rows = await connection.execute(
        select(*_COLUMNS).where(sources.c.removed_at.is_(None)).order_by(sources.c.priority.desc())
    )
    return [_source(row) for row in rows.mappings()]


async def get(connection: AsyncConnection, source_id: int, *, for_update: bool = False) -> Source:
    """The source; with `for_update` nobody else changes it until this transaction ends. Raises NotFound."""
    query = select(*_COLUMNS).where(sources.c.id == source_id, sources.c.removed_at.is_(None))
    row = (await connection.execute(query.with_for_update() if for_update else query)).mappings().one_or_none()
    if row is None:
        raise NotFound("source", source_id)
    return _source(row)


async def lowest_priority(connection: AsyncConnection) -> int:
    """A priority below all others: a new source takes nothing from those that are there."""
    lowest: int | None = await connection.scalar(
        select(func.min(sources.c.priority)).where(sources.c.removed_at.is_(None))
    )
    return 10 if lowest is None else lowest - 10


async def create(
    connection: AsyncConnection, wished: SourceWish, now: datetime, secrets: Secrets = NO_SECRETS
) -> Source:
    """The new source. Raises Conflict when its name or priority is taken."""
    vouchers = list(vouchers_of(wished.url, wished.keyring, now, unsigned=wished.unsigned))
    try:
        row = await connection.execute(
            insert(sources).values(**_columns(wished), vouchers=vouchers, created_at=now).returning(*_COLUMNS)
        )
    except IntegrityError as error:
        raise _taken(wished, error) from error
    return await _keep_credentials(connection, _source(row.mappings().one()), wished, secrets)


async def change(
    connection: AsyncConnection, before: Source, wished: SourceWish, now: datetime, secrets: Secrets = NO_SECRETS
) -> Source:
    """The source as it is now; `before` is locked. Another URL, mode or keyring is another trust.

    One that is disabled counts as not read under the trust it has: nothing of it is planned, fetched or newly held, not
    even by an import under way, until it is enabled and was read again. Its last error is forgotten.

    What was accepted stays in the catalogue; who signed it says whether it still counts. ETags of another address are
    forgotten. Raises Conflict when the name or priority is taken.
    """
    vouchers = sorted(vouchers_of(wished.url, wished.keyring, now, unsigned=wished.unsigned))
    moved = before.url != wished.url
    disabled = before.enabled and not wished.enabled
    another = moved or before.unsigned != wished.unsigned or vouchers != sorted(before.vouchers)
    try:
        row = await connection.execute(
            update(sources)
            .where(sources.c.id == before.id)
            .values(
                **_columns(wished),
                vouchers=vouchers,
                keyring_readable=True,
                trust_revision=before.trust_revision + (another or disabled),
                error_code="" if disabled else before.error_code,
                error="" if disabled else before.error,
                # Whoever let older documents in meant those of before.
                older_accepted_until=None if another else before.older_accepted_until,
            )
            .returning(*_COLUMNS)
        )
    except IntegrityError as error:
        raise _taken(wished, error) from error
    if moved:
        await connection.execute(
            update(stream_documents).where(stream_documents.c.source_id == before.id).values(etag="")
        )
    return await _keep_credentials(connection, _source(row.mappings().one()), wished, secrets)


async def accept_older(connection: AsyncConnection, source_id: int, until: datetime) -> Source:
    """The source, of which one reading before `until` may bring documents older than those accepted before."""
    row = await connection.execute(
        update(sources).where(sources.c.id == source_id).values(older_accepted_until=until).returning(*_COLUMNS)
    )
    return _source(row.mappings().one())


async def remove(connection: AsyncConnection, source_id: int, now: datetime) -> None:
    """Forget a source, its passwords at once. It offers nothing after this; what is held of it stays until it is
    withdrawn.

    If bootloaders came from it, they come from no source now: none takes its place unless an operator chooses it.
    """
    await connection.execute(
        update(region)
        .where(region.c.bootloader_source_id == source_id)
        .values(bootloader_source_id=None, settings_revision=region.c.settings_revision + 1)
    )
    await connection.execute(
        update(sources)
        .where(sources.c.id == source_id)
        .values(
            removed_at=now,
            vouchers=[],
            url_credentials=None,
            proxy_credentials=None,
            trust_revision=sources.c.trust_revision + 1,
        )
    )
    await connection.execute(
        text("UPDATE products SET offered = false WHERE source_id = :source_id"), {"source_id": source_id}
    )
    await forget_removed(connection)


async def forget_removed(connection: AsyncConnection) -> None:
    """Removed sources of which nothing is held any longer leave the catalogue."""
    await connection.execute(
        delete(sources).where(
            sources.c.removed_at.is_not(None),
            text("""
                NOT EXISTS (SELECT FROM products JOIN versions ON versions.product_id = products.id
                            WHERE products.source_id = sources.id AND versions.held_at IS NOT NULL)
            """),
        )
    )


async def record_reading(
    connection: AsyncConnection, source_id: int, now: datetime, *, code: str, sentence: str, skipped: Sequence[str]
) -> None:
    """Remember how the last reading of the source went; `code` and `sentence` are empty when all went well."""
    good = {} if code else {"last_good_at": now}
    await connection.execute(
        update(sources)
        .where(sources.c.id == source_id)
        .values(last_read_at=now, error_code=code, error=sentence, skipped=list(skipped), **good)
    )


async def reseal(connection: AsyncConnection, secrets: Secrets) -> None:
    """All user names and passwords are sealed with the present key when this returns, those in URLs too.

    What cannot be opened stays as it is: its source says so when it is read.
    """
    rows = await connection.execute(select(*_COLUMNS).order_by(sources.c.id).with_for_update())
    for row in rows.mappings().all():
        found: dict[str, str | None] = {}
        for column in ("url", "proxy"):
            url, sealed = resealed(
                secrets, row[column], row[f"{column}_credentials"], f"sources.{column}_credentials", row["id"]
            )
            found |= {column: url, f"{column}_credentials": sealed}
        if any(row[column] != value for column, value in found.items()):
            await connection.execute(update(sources).where(sources.c.id == row["id"]).values(**found))


async def _keep_credentials(
    connection: AsyncConnection, source: Source, wished: SourceWish, secrets: Secrets
) -> Source:
    """The source with the credentials that were wished for, which needed its number to be sealed."""
    kept = {
        column: await seal(connection, secrets, getattr(wished, column), f"sources.{column}", source.id)
        for column in _CREDENTIALS
    }
    if not any(kept.values()):
        return source
    row = await connection.execute(update(sources).where(sources.c.id == source.id).values(**kept).returning(*_COLUMNS))
    return _source(row.mappings().one())


def _source(row: RowMapping) -> Source:
    sealed = {
        column: None if row[column] is None else Sealed(row[column], f"sources.{column}", row["id"])
        for column in _CREDENTIALS
    }
    return Source(**{**row, **sealed})


def _columns(wished: SourceWish) -> dict[str, object]:
    return {field: getattr(wished, field) for field in SourceWish.__slots__} | dict.fromkeys(_CREDENTIALS)


def _taken(wished: SourceWish, error: IntegrityError) -> Conflict:
    if "uq_sources_name" in str(error.orig):
        return Conflict(f"There is a source named {wished.name} already; choose another name.")
    return Conflict(f"Another source has the priority {wished.priority}; choose another number.")
