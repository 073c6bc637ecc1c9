"""Sources: what operators may say, and what is remembered of each."""

from datetime import timedelta

import pytest
from sqlalchemy import insert, text
from sqlalchemy.exc import IntegrityError
from sqlalchemy.ext.asyncio import AsyncEngine

from region.actions.sources import keyring_of
from region.catalogue import products, sources, versions
from region.catalogue.products import INDEX
from region.catalogue.sources import SourceWish, wish
from region.catalogue.trust import KeyringUnreadable
from region.database import tables
from region.database.connection import transaction
from region.stream.keys import DEFAULT_KEYRING, parse_keyring
from shared.errors import BootferryError, Conflict, InvalidKeyring, InvalidValue, NotFound
from tests.db.rows import NOBLE, NOW, STREAM, hold, kernel, make_source

KEYRING = DEFAULT_KEYRING.read_bytes()


def unsigned(name: str = "mirror", url: str = "http://mirror.example/", priority: int = 10) -> SourceWish:
    return wish(name=name, url=url, unsigned=True, priority=priority)


@pytest.mark.parametrize(
    ("given", "root"),
    [
        pytest.param("http://m.example", "http://m.example/", id="no path"),
        pytest.param("http://m.example/maas", "http://m.example/maas/", id="no slash at the end"),
        pytest.param("http://m.example/maas/", "http://m.example/maas/", id="a root"),
        pytest.param("http://m.example/maas/streams/v1/index.sjson", "http://m.example/maas/", id="the signed index"),
        pytest.param("http://m.example/maas/streams/v1/index.json", "http://m.example/maas/", id="the plain index"),
        pytest.param("http://m.example/streams/v1", "http://m.example/", id="the directory of the index"),
        pytest.param("http://m.example/mystreams/", "http://m.example/mystreams/", id="a path that only ends alike"),
        pytest.param("http://m.example/maas/?x=1", "http://m.example/maas/", id="a query"),
    ],
)
def test_the_address_of_a_source_is_its_root(given: str, root: str) -> None:
    assert unsigned(url=given).url == root


@pytest.mark.parametrize(
    ("fields", "error"),
    [
        pytest.param({}, InvalidValue, id="neither signed nor declared unsigned"),
        pytest.param({"keyring": KEYRING, "unsigned": True}, InvalidValue, id="a keyring, and unsigned"),
        pytest.param({"unsigned": True, "url": "ftp://m.example/"}, InvalidValue, id="not http"),
        pytest.param({"unsigned": True, "url": "http:///maas"}, InvalidValue, id="no host"),
        pytest.param({"unsigned": True, "proxy": "socks5://p.example"}, InvalidValue, id="a proxy that is not http"),
        pytest.param({"unsigned": True, "ca_bundle": "/nowhere/ca.pem"}, InvalidValue, id="a CA bundle not there"),
    ],
)
def test_a_wish_that_cannot_be(fields: dict[str, object], error: type[BootferryError]) -> None:
    whole: dict[str, object] = {"name": "m", "url": "http://m.example/", "priority": 1, **fields}
    with pytest.raises(error):
        wish(**whole)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("content", "path", "name", "error"),
    [
        pytest.param(KEYRING, "/etc/k", None, InvalidValue, id="two keyrings"),
        pytest.param(KEYRING, None, "ubuntu", InvalidValue, id="contents and a name"),
        pytest.param(b"", None, None, InvalidKeyring, id="an empty keyring"),
        pytest.param(b"not a key", None, None, InvalidKeyring, id="a keyring that is none"),
        pytest.param(None, "/nowhere/keyring.gpg", None, KeyringUnreadable, id="a keyring that is not there"),
        pytest.param(None, "/", None, KeyringUnreadable, id="a keyring that is a directory"),
        pytest.param(None, None, "debian", InvalidValue, id="a keyring that is not shipped"),
    ],
)
async def test_a_keyring_that_cannot_be(
    content: bytes | None, path: str | None, name: str | None, error: type[BootferryError]
) -> None:
    with pytest.raises(error):
        await keyring_of(content, path, name, NOW)


async def test_the_shipped_keyring_has_a_name() -> None:
    assert await keyring_of(None, None, "ubuntu", NOW) == (parse_keyring(KEYRING), "ubuntu-cloudimage")


async def test_the_source_with_the_highest_priority_comes_first(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        assert await sources.lowest_priority(connection) == 10
        for name, priority in (("low", 10), ("high", 30), ("middle", 20)):
            created = await sources.create(connection, unsigned(name, priority=priority), NOW)
            assert await sources.get(connection, created.id) == created
        assert [source.name for source in await sources.list_all(connection)] == ["high", "middle", "low"]
        assert await sources.lowest_priority(connection) == 0, "a new source takes nothing from the others"
        with pytest.raises(NotFound):
            await sources.get(connection, 99)


@pytest.mark.parametrize(
    ("second", "sentence"),
    [
        pytest.param(unsigned("first", priority=20), "a source named first already", id="the name"),
        pytest.param(unsigned("second", priority=10), "has the priority 10", id="the priority"),
    ],
)
@pytest.mark.parametrize("how", ["create", "change"])
async def test_what_only_one_source_can_have(engine: AsyncEngine, second: SourceWish, sentence: str, how: str) -> None:
    async with transaction(engine) as connection:
        await sources.create(connection, unsigned("first", priority=10), NOW)
        other = await sources.create(connection, unsigned("other", priority=99), NOW)
    with pytest.raises(Conflict, match=sentence):
        async with transaction(engine) as connection:
            if how == "create":
                await sources.create(connection, second, NOW)
            else:
                await sources.change(connection, other, second, NOW)
    async with transaction(engine) as connection:
        assert [source.name for source in await sources.list_all(connection)] == ["other", "first"]


@pytest.mark.parametrize(
    "trust",
    [
        pytest.param({}, id="none"),
        pytest.param({"unsigned": True, "keyring": KEYRING}, id="a keyring, and unsigned"),
        pytest.param({"keyring_path": "/etc/k", "keyring_name": "ubuntu-cloudimage"}, id="two keyrings"),
    ],
)
async def test_the_schema_knows_one_way_to_trust_only(engine: AsyncEngine, trust: dict[str, object]) -> None:
    fields = {"name": "m", "url": "http://m.example/", "priority": 1, "created_at": NOW, **trust}
    with pytest.raises(IntegrityError, match="one_way_to_trust"):
        async with transaction(engine) as connection:
            await connection.execute(insert(tables.sources).values(fields))


@pytest.mark.parametrize(
    ("wished", "believed"),
    [
        pytest.param(unsigned("renamed", "http://first.example/", 77), True, id="name and priority"),
        pytest.param(unsigned("first", "http://elsewhere.example/"), False, id="address"),
        pytest.param(wish(name="first", url="http://first.example/", keyring=KEYRING, priority=10), False, id="signer"),
    ],
)
async def test_what_was_accepted_binds_the_same_origin_only(
    engine: AsyncEngine, wished: SourceWish, believed: bool
) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection, kernel("20260701"))
        before = await sources.get(connection, source_id)
        changed = await sources.change(connection, before, wished, NOW)
        assert (changed.name, changed.url, changed.priority) == (wished.name, wished.url, wished.priority)
        assert changed.trust_revision == before.trust_revision + (not believed)
        known = await products.accepted(connection, source_id)
        assert {entry.believed for entry in known.values()} == {believed}
        assert set(known) == {INDEX, STREAM}


async def test_how_a_reading_went_is_remembered_until_the_next(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        source_id = await make_source(connection)
        assert (await sources.get(connection, source_id)).last_read_at is None
        for moment, code, sentence, skipped in (
            (NOW, "timed_out", "It did not answer.", ["a: why"]),
            (NOW + timedelta(hours=1), "", "", []),
        ):
            await sources.record_reading(connection, source_id, moment, code=code, sentence=sentence, skipped=skipped)
            source = await sources.get(connection, source_id)
            assert (source.last_read_at, source.error_code, source.error) == (moment, code, sentence)
            assert list(source.skipped) == skipped


async def test_a_removed_source_stays_until_nothing_is_held_of_it(engine: AsyncEngine) -> None:
    async with transaction(engine) as connection:
        held = await make_source(connection, kernel("20260701"), name="held", priority=2)
        idle = await make_source(connection, kernel("20260701"), name="idle", priority=3)
        await hold(connection, held, "20260701")
        for source_id in (held, idle):
            await sources.remove(connection, source_id, NOW)
            with pytest.raises(NotFound):
                await sources.get(connection, source_id)
            assert not await products.is_known(connection, source_id, NOBLE)
        assert await sources.list_all(connection) == []
        assert [version.source_id for version in await versions.held(connection)] == [held]
        # Name and priority are free again.
        await make_source(connection, name="held", priority=2)
        await connection.execute(text("UPDATE versions SET held_at = NULL"))
        await sources.forget_removed(connection)
        assert await connection.scalar(text("SELECT count(*) FROM sources")) == 1
