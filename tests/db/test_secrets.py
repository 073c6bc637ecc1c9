"""Passwords of mirrors and proxies in the database: sealed, from the first start of this code on; and their key."""

import json
import re
import traceback
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import pytest
from alembic import command
from sqlalchemy import Connection, text
from sqlalchemy.exc import DBAPIError
from sqlalchemy.ext.asyncio import AsyncEngine

from deploy.local import postgres
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server
from region import app, keys
from region.actions import secrets as key_acts
from region.actions import settings as settings_acts
from region.actions import sources as acts
from region.catalogue import sources
from region.catalogue.sources import Source
from region.database import connection as database
from region.database.connection import create_engine, transaction
from region.people import activity, settings
from region.people.activity import Actor
from region.process import Region
from region.secrets import Clear, Sealed
from shared.errors import InvalidConfiguration, InvalidValue
from tests.conftest import NOW, Clock
from tests.db.bench import Bench, build

ANN = Actor("Ann", "192.0.2.1")
PASSWORD = "correct horse"
CANARY = "c4n4ry"
MIRROR = "https://ann:correct%20horse@mirror.example/maas/"
PROXY = "http://bob:correct%20horse@proxy.example:3128/"


async def everything(engine: AsyncEngine) -> str:
    """All rows of all tables, as text."""
    async with transaction(engine) as connection:
        names = list(await connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")))
        rows = [await connection.scalar(text(f"SELECT json_agg({name}) FROM {name}")) for name in names]  # noqa: S608
    return json.dumps(rows, default=str)


async def add(region: Region, **fields: Any) -> Source:
    wished = sources.wish(
        **{"name": "closed", "url": MIRROR, "proxy": PROXY, "unsigned": True, "priority": 5, **fields}
    )
    async with transaction(region.engine) as connection:
        return (await acts.add(connection, ANN, wished, NOW, region.secrets)).source


async def change(region: Region, source: Source, **changes: Any) -> Source:
    async with transaction(region.engine) as connection:
        done = await acts.change(
            connection,
            ANN,
            region.publisher,
            source.id,
            changes,  # type: ignore[arg-type]
            NOW,
            secrets=region.secrets,
        )
        return done.source


def opened(region: Region, source: Source) -> tuple[str, str]:
    proxy = source.proxy_address
    return str(region.secrets.url(source.address)), str(region.secrets.url(proxy)) if proxy else ""


async def test_passwords_are_sealed_in_the_database_and_shown_to_nobody(bench: Bench) -> None:
    source = await add(bench.region)
    assert opened(bench.region, source) == (MIRROR, PROXY)
    assert (source.url, source.proxy) == ("https://mirror.example/maas/", "http://proxy.example:3128/")
    assert list(source.vouchers) == ["unsigned:https://mirror.example/maas/"]
    async with transaction(bench.region.engine) as connection:
        await settings_acts.change(connection, ANN, {"proxy": PROXY}, NOW, secrets=bench.region.secrets)
        found = (await settings.get(connection)).proxy
        recorded = [entry.after for entry in await activity.list_recent(connection, 2, None)]
    assert found is not None
    assert str(bench.region.secrets.url(found)) == PROXY
    assert [(after or {})["proxy"] for after in recorded] == ["http://***@proxy.example:3128/"] * 2
    kept = await everything(bench.region.engine)
    assert "mirror.example" in kept
    assert not [secret for secret in ("ann:", "bob", "correct") if secret in kept]


async def test_a_change_that_sends_the_mask_back_keeps_the_password(bench: Bench) -> None:
    region = bench.region
    source = await add(region)
    changed = await change(
        region, source, url="https://***@mirror.example/other/", proxy="http://***@proxy.example:3128/"
    )
    assert opened(region, changed) == ("https://ann:correct%20horse@mirror.example/other/", PROXY)
    changed = await change(region, source, name="renamed")
    assert opened(region, changed) == ("https://ann:correct%20horse@mirror.example/other/", PROXY)
    changed = await change(region, source, url="https://ann:new@mirror.example/", proxy="")
    assert opened(region, changed) == ("https://ann:new@mirror.example/", "")
    with pytest.raises(InvalidValue, match="none are kept for this server"):
        await change(region, source, url="https://***@evil.example/")
    changed = await change(region, source, url="https://mirror.example/")
    assert (changed.url_credentials, changed.proxy_credentials) == (None, None)


async def test_the_proxys_password_stays_when_the_mask_comes_back(bench: Bench) -> None:
    async with transaction(bench.region.engine) as connection:
        for proxy in (PROXY, "http://***@proxy.example:3128/"):
            done = await settings_acts.change(
                connection, ANN, {"proxy": proxy, "retention_days": 7}, NOW, secrets=bench.region.secrets
            )
        assert done.settings.proxy is not None
        assert bench.region.secrets.open(done.settings.proxy.credentials or Clear("", "")) == Clear("bob", PASSWORD)


async def test_a_removed_source_leaves_no_password(bench: Bench) -> None:
    source = await add(bench.region)
    async with transaction(bench.region.engine) as connection:
        # What is held of it keeps its row.
        for statement in OF_BEFORE[-2:]:
            values = {"source": source.id, "signer": "unsigned:https://mirror.example/maas/"}
            named = re.findall(r":(\w+)", statement)
            await connection.execute(text(statement), {name: values[name] for name in named})
        await sources.remove(connection, source.id, NOW)
    kept = await everything(bench.region.engine)
    assert "mirror.example" in kept
    assert "bfs1" not in kept


OF_BEFORE = [
    "INSERT INTO region (id, fingerprint, epoch, created_at, proxy) VALUES (1, :own, 1, now(), :proxy)",
    "INSERT INTO sync_schedule (id, next_run_at) VALUES (1, now())",
    """
    INSERT INTO sources (name, url, proxy, unsigned, priority, created_at, vouchers)
    VALUES ('closed', :mirror, :proxy, true, 1, now(), ARRAY[CAST(:signer AS text)])
    """,
    """
    INSERT INTO stream_documents (source_id, content_id, path, updated, vouched_by)
    VALUES (1, '', 'p', now(), ARRAY[:signer, 'D94AA3F0EFE21092'])
    """,
    """
    INSERT INTO products (source_id, content_id, name, kind, os, release, arch, subarch, label, title, version,
                          codename, image, place)
    VALUES (:source, 'c', 'n', 'k', 'o', 'r', 'a', 's', 'l', 't', 'v', 'c', 'i', 'p')
    """,
    """
    INSERT INTO versions (product_id, name, held_at, vouched_by)
    SELECT id, '1', now(), ARRAY[CAST(:signer AS text)] FROM products WHERE name = 'n'
    """,
]


@pytest.fixture
async def before(
    database_server: postgres.Server, tmp_path: Path, server: Server, mirror: Mirror, clock: Clock
) -> AsyncIterator[Region]:
    """A region on a database of before, where passwords stood in URLs; it has not started yet."""
    await database_server.create_database("in_the_clear")
    built = build(tmp_path / "upgraded", database_server.url("in_the_clear"), server, mirror, clock)
    built.configuration = built.configuration.model_copy(update={"migrate_on_start": True})

    def to_then(connection: Connection) -> None:
        configuration = database._configuration()
        configuration.attributes["connection"] = connection
        command.upgrade(configuration, "0007")

    async with transaction(built.engine) as connection:
        await connection.run_sync(to_then)
        values: dict[str, object] = {"mirror": MIRROR, "proxy": PROXY, "signer": f"unsigned:{MIRROR}", "source": 1}
        values["own"] = built.fingerprint
        for statement in OF_BEFORE:
            named = re.findall(r":(\w+)", statement)
            await connection.execute(text(statement), {name: values[name] for name in named})
    yield built
    await built.engine.dispose()
    await database_server.drop_database("in_the_clear")


async def test_passwords_of_before_are_sealed_at_the_next_start(before: Region) -> None:
    assert "correct%20horse" in await everything(before.engine)
    await before.prepare()
    kept = await everything(before.engine)
    assert "correct" not in kept
    assert "unsigned:https://mirror.example/maas/" in kept
    async with transaction(before.engine) as connection:
        [source] = await sources.list_all(connection)
        proxy = (await settings.get(connection)).proxy
        vouched = await connection.scalar(
            text("SELECT count(*) FROM versions, sources WHERE versions.vouched_by && sources.vouchers")
        )
    assert opened(before, source) == (MIRROR, PROXY)
    assert source.trust_revision == 1
    assert vouched == 1
    assert proxy is not None
    assert str(before.secrets.url(proxy)) == PROXY
    sealed = source.url_credentials
    await before.prepare()
    async with transaction(before.engine) as connection:
        assert (await sources.list_all(connection))[0].url_credentials == sealed


def another_process(bench: Bench) -> Region:
    """Another process of the same region, that reads the keys anew."""
    return app.build(bench.region.configuration, now=bench.region.now)


async def test_with_another_key_a_process_does_not_start_and_says_the_way_out(bench: Bench) -> None:
    source = await add(bench.region)
    path = bench.region.keys.directory / "secrets.key"
    kept = path.read_bytes()
    path.unlink()
    other = another_process(bench)
    with pytest.raises(InvalidConfiguration, match=r"put it there from its backup; .* key forget-secrets"):
        await other.prepare()
    path.write_bytes(kept)
    again = another_process(bench)
    await again.prepare()
    assert opened(again, source)[0] == MIRROR
    for built in (other, again):
        await built.engine.dispose()


async def test_without_the_lost_key_its_sources_say_what_to_do(bench: Bench) -> None:
    source = await add(bench.region, proxy=None)
    (bench.region.keys.directory / "secrets.key").write_bytes(b"k" * 32)
    other = another_process(bench)
    async with transaction(other.engine) as connection:
        await key_acts.forget(connection, ANN, other.keys, NOW)
    await other.prepare()
    done = await Bench(other).import_now()
    assert (done.state, done.error_code) == ("failed", "secret_unreadable")
    async with transaction(other.engine) as connection:
        found = {entry.name: entry for entry in await sources.list_all(connection)}
    assert "give them again" in found["closed"].error
    assert found["maas.io"].error == "", "the other source goes on"
    changed = await change(other, source, url=MIRROR)
    assert opened(other, changed)[0] == MIRROR
    await other.engine.dispose()


@pytest.mark.parametrize("is_installed", [True, False], ids=["whole", "broken off after the commit"])
async def test_a_new_key_seals_everything_anew_and_every_process_follows(bench: Bench, is_installed: bool) -> None:
    source = await add(bench.region)
    old = bench.region.secrets.fingerprint
    turning = another_process(bench)
    async with transaction(turning.engine) as connection:
        await key_acts.rotate(connection, ANN, turning.keys, NOW)
    if is_installed:
        keys.install_next_secrets_key(turning.keys)
        assert [path.name for path in sorted(turning.keys.directory.iterdir())] == ["region.key", "secrets.key"]
    fresh = turning.secrets.fingerprint
    assert fresh != old
    kept = await everything(turning.engine)
    assert (old[:16] in kept, fresh[:16] in kept) == (False, True)
    # A process that was running all the while opens what is sealed anew, and seals with the new key.
    async with transaction(bench.region.engine) as connection:
        assert opened(bench.region, await sources.get(connection, source.id)) == (MIRROR, PROXY)
    changed = await change(bench.region, source, url="https://carol:x@mirror.example/")
    assert isinstance(changed.url_credentials, Sealed)
    assert fresh[:16] in changed.url_credentials.text
    later = another_process(bench)
    await later.prepare()
    assert [path.name for path in sorted(later.keys.directory.iterdir())] == ["region.key", "secrets.key"]
    assert opened(later, changed)[0] == "https://carol:x@mirror.example/"
    for built in (turning, later):
        await built.engine.dispose()


async def test_a_rotation_that_failed_changes_nothing(bench: Bench) -> None:
    source = await add(bench.region)
    turning = another_process(bench)
    with pytest.raises(ZeroDivisionError):
        async with transaction(turning.engine) as connection:
            await key_acts.rotate(connection, ANN, turning.keys, NOW)
            raise ZeroDivisionError
    later = another_process(bench)
    await later.prepare()
    assert later.secrets.fingerprint == bench.region.secrets.fingerprint
    assert opened(later, source)[0] == MIRROR
    for built in (turning, later):
        await built.engine.dispose()


async def test_with_another_key_for_the_manifest_a_process_does_not_start(bench: Bench) -> None:
    (bench.region.keys.directory / "region.key").unlink()
    other = another_process(bench)
    with pytest.raises(InvalidConfiguration, match="from its backup, or point REGION_KEYS to the directory"):
        await other.prepare()
    await other.engine.dispose()


@pytest.mark.parametrize(
    "statement",
    [
        pytest.param(
            "INSERT INTO sessions (secret_sha256, token_id, created_at, last_used_at) SELECT :canary, '', now(), now()",
            id="no such token",
        ),
        pytest.param("INSERT INTO racks (id) VALUES (:canary)", id="a column that is missing"),
        pytest.param("UPDATE region SET proxy = :canary, retention_days = 0", id="a row that is not allowed"),
        pytest.param("INSERT INTO pins VALUES (:canary, 'r', 'a', 'v', now())", id="a row that is there"),
        pytest.param("SELECT * FROM nowhere WHERE x = :canary", id="no such table"),
    ],
)
async def test_an_error_of_the_database_quotes_no_value(bench: Bench, database_url: str, statement: str) -> None:
    engine = create_engine(database_url)
    async with transaction(engine) as connection:
        await connection.execute(text("INSERT INTO pins VALUES (:os, 'r', 'a', 'v', now())"), {"os": CANARY})
    with pytest.raises(DBAPIError) as raised:
        async with transaction(engine) as connection:
            await connection.execute(text(statement), {"canary": CANARY})
    told = "".join(traceback.format_exception(raised.value)) + repr(raised.value)
    assert CANARY not in told
    assert "DETAIL" not in told
    await engine.dispose()
