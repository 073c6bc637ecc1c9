"""No secret shows anywhere (I7): each is a canary here, used in earnest, and looked for in everything that was said.

What is done: log-ins, tokens, an enrolment; sources and proxies with passwords, by a proxy that refuses, one that is
not there, to a mirror that refuses; requests that are wrong in every way, with a secret in them; commands; a new key;
errors of the database in the midst of it, whose tracebacks are in the log; a database that is not there.

What is searched: the logs of all processes at level debug, what commands print, every answer with its head but the one
that hands the secret over, the events, the metrics, and every row of every table.
"""

import asyncio
import base64
import contextlib
import hashlib
import json
import secrets
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncEngine

from region.database.connection import transaction
from tests.e2e.conftest import Ferry
from tests.e2e.site import Service
from tests.http.conftest import free_port

pytestmark = [pytest.mark.e2e, pytest.mark.timeout(300)]

REFUSING_PROXY = b"HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"
REFUSING_MIRROR = b"HTTP/1.1 401 Unauthorized\r\nWWW-Authenticate: Basic\r\nContent-Length: 0\r\n\r\n"


def canary(what: str) -> str:
    """A password that is odd enough to be quoted wrongly, and easy to find."""
    return f"{what}/@ {secrets.token_hex(8)}"


@dataclass
class Said:
    """Everything that was said, by where; and what must not be in it."""

    texts: dict[str, str] = field(default_factory=dict)
    forms: dict[str, str] = field(default_factory=dict)
    """What is looked for in all of it: the form to what it is of."""
    hashes: dict[str, str] = field(default_factory=dict)
    """What the database may hold, and nobody else: hashes of secrets."""

    def hide(self, what: str, secret: str | bytes, *, user: str = "") -> None:
        """Look for this secret too, in every form it could take."""
        raw = secret if isinstance(secret, bytes) else secret.encode()
        forms = {
            raw.hex(),
            base64.b64encode(raw).decode().rstrip("="),
            base64.urlsafe_b64encode(raw).decode().rstrip("="),
        }
        if isinstance(secret, str):
            forms |= {secret, quote(secret), quote(secret, safe=""), json.dumps(secret)[1:-1], repr(secret)[1:-1]}
            forms.add(base64.b64encode(f"{user}:{secret}".encode()).decode().rstrip("="))
        self.forms |= dict.fromkeys(forms, what)
        self.hashes[hashlib.sha256(raw).hexdigest()] = f"the hash of {what}"

    def add(self, where: str, said: str) -> None:
        self.texts[where] = self.texts.get(where, "") + said

    def found(self) -> list[str]:
        """What shows, and where."""
        showing = []
        for where, said in self.texts.items():
            sought = self.forms if where.startswith("table ") else self.forms | self.hashes | {"bfs1:": "a sealed text"}
            showing += [f"{what} in {where}: {_around(said, form)}" for form, what in sought.items() if form in said]
        return showing


def _around(said: str, form: str) -> str:
    at = said.index(form)
    return said[max(0, at - 120) : at + len(form) + 40]


@dataclass
class Listener:
    """A server that answers the same to everybody and keeps what it was sent."""

    port: int
    heads: list[bytes]


@contextlib.asynccontextmanager
async def listening(answer: bytes) -> AsyncIterator[Listener]:
    heads: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with contextlib.suppress(ConnectionError, asyncio.IncompleteReadError):
            heads.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer)
            await writer.drain()
        writer.close()

    server = await asyncio.start_server(serve, "127.0.0.1", 0)
    async with server:
        yield Listener(server.sockets[0].getsockname()[1], heads)


class Caller:
    """A caller whose every answer is kept, with its head, unless it hands over a secret."""

    def __init__(self, said: Said, session: aiohttp.ClientSession, base: str, token: str) -> None:
        self._said, self._session, self._base, self._token = said, session, base, token

    async def __call__(self, method: str, path: str, *, hands_over: bool = False, **given: Any) -> tuple[int, Any]:
        headers = {"Authorization": f"Bearer {self._token}"} | given.pop("headers", {})
        async with self._session.request(method, f"{self._base}{path}", headers=headers, **given) as response:
            body = await response.read()
            if not hands_over:
                self._said.add("answers", f"{method} {path} {response.status} {response.raw_headers!r} {body!r}\n")
            with contextlib.suppress(ValueError):
                return response.status, json.loads(body)
            return response.status, response.cookies


def ran(said: Said, service: Service, *arguments: str, module: str = "", **environment: str) -> int:
    """Run a command of a service, keep what it prints, and answer its exit status."""
    done = subprocess.run(
        [sys.executable, "-m", module or service.arguments[0], *arguments],
        env=service.environment | environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    said.add("commands", f"{arguments[0]} {done.returncode}\n{done.stdout}\n{done.stderr}\n")
    return done.returncode


async def read_tables(said: Said, engine: AsyncEngine) -> None:
    """Every row of every table."""
    async with transaction(engine) as connection:
        names = list(await connection.scalars(text("SELECT tablename FROM pg_tables WHERE schemaname = 'public'")))
        for name in names:
            rows = await connection.scalars(text(f"SELECT CAST(t AS text) FROM {name} t"))  # noqa: S608
            said.add(f"table {name}", "\n".join(rows))


@contextlib.asynccontextmanager
async def broken(engine: AsyncEngine, statement: str, undo: str) -> AsyncIterator[None]:
    """Inside, the database is broken by `statement`."""
    async with transaction(engine) as connection:
        await connection.execute(text(statement))
    try:
        yield
    finally:
        async with transaction(engine) as connection:
            await connection.execute(text(undo))


def wrong_requests(secret: str) -> Iterator[tuple[str, str, dict[str, Any]]]:
    """Requests that are refused, with a password in a place where a refusal could quote it."""
    quoted = quote(secret, safe="")
    signed = {"name": "x", "keyring_name": "ubuntu"}
    for url in (
        f"http://u:{quoted}@127.0.0.1:port/",
        f"http://u:{quoted}@/",
        f"ftp://u:{quoted}@127.0.0.1/",
        f"http://u:{quoted}@127.0.0.1/#part",
        f"http:/u:{quoted}@127.0.0.1/",
        f"u:{quoted}@127.0.0.1",
        f"http://u:{secret}@127.0.0.1/",
        f"http://u:{quoted}@127.0.0.1/" + "x" * 3000,
    ):
        yield "POST", "/api/v1/sources", {"json": {**signed, "url": url}}
        yield "POST", "/api/v1/sources/probe", {"json": {**signed, "url": url}}
        yield "POST", "/api/v1/sources", {"json": {**signed, "url": "http://127.0.0.1:1/", "proxy": url}}
        yield "PATCH", "/api/v1/sources/1", {"json": {"url": url}}
        yield "PATCH", "/api/v1/settings", {"json": {"proxy": url}}
    good = f"http://u:{quoted}@127.0.0.1:1/"
    yield "POST", "/api/v1/sources", {"json": {**signed, "url": {"is": good}}}
    yield "POST", "/api/v1/sources", {"json": {**signed, "url": [good]}}
    yield "POST", "/api/v1/sources", {"json": {**signed, "url": good, "proxxy": good}}
    yield "POST", "/api/v1/sources", {"json": {**signed, "url": good, "priority": good}}
    yield "POST", "/api/v1/sources", {"json": {**signed, "url": good, "keyring": secret}}
    yield "POST", "/api/v1/sources", {"data": f'{{"url": "{good}", '.encode()}
    yield "PATCH", "/api/v1/settings", {"json": {"proxy": good, "retention_days": -1}}
    yield "PATCH", "/api/v1/settings", {"json": good}
    yield "POST", "/api/v1/session", {"json": {"token": {"is": secret}}}
    yield "POST", "/api/v1/session", {"json": {"token": secret}}
    yield "POST", "/api/v1/session", {"json": {"token": secret * 20}}
    yield "POST", "/api/v1/session", {"json": {"tokn": secret}}
    yield "GET", "/api/v1/images", {"headers": {"Authorization": f"Bearer {secret}"}}
    yield "GET", "/api/v1/images", {"headers": {"Authorization": f"Basic {base64.b64encode(secret.encode()).decode()}"}}
    yield "POST", "/api/v1/racks/enrol", {"data": secret.encode()}


@dataclass
class Stage:
    """What the acts share. `quoted` are the passwords as a URL takes them."""

    said: Said
    ferry: Ferry
    engine: AsyncEngine
    session: aiohttp.ClientSession
    call: Caller
    admin: str
    passwords: dict[str, str]
    proxy: Listener
    mirror: Listener
    operators_token: str = ""
    source: str = ""

    @property
    def quoted(self) -> dict[str, str]:
        return {what: quote(password, safe="") for what, password in self.passwords.items()}

    @property
    def base(self) -> str:
        return self.ferry.region.base

    @property
    def closed(self) -> str:
        """The mirror that wants a password."""
        return f"http://u:{self.quoted['mirror']}@127.0.0.1:{self.mirror.port}/maas/"

    @property
    def refusing(self) -> str:
        """The proxy that takes no password."""
        return f"http://u:{self.quoted['proxy']}@127.0.0.1:{self.proxy.port}/"

    async def run(self, service: Service, *arguments: str, module: str = "", **environment: str) -> int:
        return await asyncio.to_thread(ran, self.said, service, *arguments, module=module, **environment)

    async def fail(self, method: str, path: str, **given: Any) -> None:
        status, _ = await self.call(method, path, **given)
        assert status >= 500, (method, path)


def key_in(path: Path) -> bytes:
    """The secret half of an Ed25519 key."""
    key = load_pem_private_key(path.read_bytes(), None)
    assert isinstance(key, Ed25519PrivateKey)
    return key.private_bytes_raw()


async def start(said: Said, ferry: Ferry, passwords: dict[str, str]) -> str:
    """The region runs, with a password for its database; the first administrator's token."""
    for what, password in passwords.items():
        said.hide(f"the {what} password", password, user="u")
    quoted = quote(passwords["database"], safe="")
    url = ferry.database_url.replace("//bootferry@", f"//bootferry:{quoted}@")
    assert quoted in url
    ferry.region.environment |= {"REGION_DATABASE_URL": url, "REGION_LOG_LEVEL": "debug"}
    ferry.rack.environment["RACK_LOG_LEVEL"] = "debug"
    await ferry.site.start_region(ferry.region)
    data = ferry.site.directory / "region"
    admin = (data / "admin-token").read_text().strip()
    said.hide("the administrator's token", admin.split("_", 2)[2])
    said.hide("the secrets key", (data / "keys" / "secrets.key").read_bytes())
    said.hide("the region's key", key_in(data / "keys" / "region.key"))
    said.forms["BEGIN PRIVATE KEY"] = "a private key's file"
    return admin


async def hear(stage: Stage) -> None:
    headers = {"Authorization": f"Bearer {stage.admin}"}
    async with stage.session.get(f"{stage.base}/api/v1/events", headers=headers) as response:
        async for chunk in response.content.iter_any():
            stage.said.add("events", chunk.decode())


async def log_in(stage: Stage) -> None:
    fields = {"name": "Ann", "role": "admin"}
    _, made = await stage.call("POST", "/api/v1/operator-tokens", json=fields, hands_over=True)
    stage.operators_token = made["token"]
    stage.said.hide("an operator's token", made["token"].split("_", 2)[2])
    async with stage.session.post(f"{stage.base}/api/v1/session", json={"token": made["token"]}) as response:
        cookie = response.cookies["bf_session"].value
        stage.said.add("answers", (await response.read()).decode())
    stage.said.hide("a session's cookie", cookie)
    status, _ = await stage.call("GET", "/api/v1/session", headers={"Cookie": f"bf_session={cookie}"})
    assert status == 200
    await stage.call("GET", "/api/v1/operator-tokens")


async def enrol(stage: Stage) -> None:
    rack = stage.ferry.rack
    _, enrolment = await stage.call("POST", "/api/v1/enrolment-tokens", json={}, hands_over=True)
    stage.said.hide("an enrolment token", enrolment["token"][-43:])
    way = f"http://u:{stage.quoted['racks-proxy']}@127.0.0.1:{stage.proxy.port}"
    arguments = ("enrol", "--region", stage.base, "--token", enrolment["token"], "--name", "rack-1")
    assert await stage.run(rack, *arguments, RACK_PROXY=way) != 0
    assert await stage.run(rack, *arguments) == 0
    assert await stage.run(rack, *arguments, "--again") != 0, "it was used"
    stage.said.hide("the rack's key", key_in(stage.ferry.site.directory / "rack-1" / "identity" / "rack.key"))
    await stage.ferry.site.start_rack(rack, stage.ferry.region)


async def read_sources(stage: Stage) -> None:
    """Probe, add and change a mirror that wants a password, by ways that do not lead to it."""
    port, quoted = stage.mirror.port, stage.quoted
    missing = f"http://u:{quoted['proxy']}@127.0.0.1:1/"
    for way in (None, stage.refusing, missing):
        for address in (stage.closed, f"https://u:{quoted['mirror']}@127.0.0.1:{port}/"):
            fields = {"name": "closed", "url": address, "unsigned": True, "proxy": way}
            status, _ = await stage.call("POST", "/api/v1/sources/probe", json=fields)
            assert status in (502, 504), way
    fields = {"name": "closed", "url": stage.closed, "unsigned": True}
    status, added = await stage.call("POST", "/api/v1/sources", json=fields)
    assert (status, added["url"]) == (201, f"http://***@127.0.0.1:{port}/maas/")
    stage.source = f"/api/v1/sources/{added['id']}?held=keep"
    await stage.call("PATCH", "/api/v1/settings", json={"proxy": stage.refusing})
    await stage.call("PATCH", "/api/v1/settings", json={"proxy": None})
    for changes in (
        {"name": "renamed"},
        {"url": added["url"], "proxy": stage.refusing},
        {"url": f"http://***@127.0.0.1:{stage.proxy.port}/"},
        {"proxy": missing},
        {"proxy": ""},
        {"url": f"http://u:{quoted['new']}@127.0.0.1:{port}/maas/"},
    ):
        await stage.call("PATCH", stage.source, json=changes)
        await sync(stage)
    basic = {what: base64.b64encode(f"u:{password}".encode()) for what, password in stage.passwords.items()}
    for what, listener in (
        ("mirror", stage.mirror),
        ("new", stage.mirror),
        ("proxy", stage.proxy),
        ("racks-proxy", stage.proxy),
    ):
        assert any(basic[what] in head for head in listener.heads), f"the {what} password was sent where it belongs"


async def sync(stage: Stage) -> None:
    _, begun = await stage.call("POST", "/api/v1/imports")

    async def ended() -> bool:
        _, found = await stage.ferry.site.api(stage.ferry.region, "GET", f"/imports/{begun['id']}")
        return found["state"] not in ("queued", "running")

    await stage.ferry.site.until(ended)
    await stage.call("GET", f"/api/v1/imports/{begun['id']}")


async def ask_wrongly(stage: Stage) -> None:
    for method, path, given in wrong_requests(stage.passwords["request"]):
        headers = {"Content-Type": "application/json"} | given.pop("headers", {})
        status, _ = await stage.call(method, path, headers=headers, **given)
        assert 400 <= status < 500, (method, path, given)


async def fail_in_the_database(stage: Stage) -> None:
    """Errors of the database in the midst of what carries a secret; their tracebacks are in the log."""
    logging_in = ("POST", "/api/v1/session", {"token": stage.operators_token})
    changing = ("PATCH", stage.source, {"url": stage.closed})
    making = ("POST", "/api/v1/operator-tokens", {"name": "Bob"})
    never = "ADD CONSTRAINT never CHECK ({0}) NOT VALID", "DROP CONSTRAINT never"
    for table, condition, (method, path, fields) in (
        ("sessions", "created_at IS NULL", logging_in),
        ("sources", "url_credentials IS NULL", changing),
        ("operator_tokens", "name <> 'Bob'", making),
    ):
        async with broken(
            stage.engine, f"ALTER TABLE {table} {never[0].format(condition)}", f"ALTER TABLE {table} {never[1]}"
        ):
            await stage.fail(method, path, json=fields)
    for table, (method, path, fields) in (
        ("operator_tokens", logging_in),
        ("activity", making),
        ("sessions", logging_in),
        ("sources", changing),
    ):
        async with broken(
            stage.engine, f"ALTER TABLE {table} RENAME TO elsewhere", f"ALTER TABLE elsewhere RENAME TO {table}"
        ):
            await stage.fail(method, path, json=fields)


async def look_at_everything(stage: Stage) -> None:
    region, rack = stage.ferry.region, stage.ferry.rack
    profile = {"BOOTFERRY_URL": stage.base, "BOOTFERRY_TOKEN": stage.admin}
    for arguments in (["sources"], ["source", "show", "renamed"], ["settings"], ["activity", "-o", "json"]):
        assert await stage.run(region, *arguments, module="region.cli.main", **profile) == 0, stage.said.texts[
            "commands"
        ][-800:]
    assert await stage.run(region, "key", "rotate-secrets") == 0
    new = stage.ferry.site.directory / "region" / "keys" / "secrets.key"
    stage.said.hide("the new secrets key", new.read_bytes())
    await sync(stage)
    for path in (
        "sources",
        "settings",
        "activity?limit=500",
        "images",
        "imports",
        "racks",
        "unvouched",
        "storage",
        "region",
    ):
        await stage.call("GET", f"/api/v1/{path}")
    for base in (region.base, rack.base):
        async with stage.session.get(f"{base}/metrics", headers={"Authorization": f"Bearer {stage.admin}"}) as response:
            assert response.status == 200
            stage.said.add("metrics", await response.text())
    assert await stage.run(rack, "status") == 0


async def lose_the_database(stage: Stage) -> None:
    """Start on databases that are not there, or whose address is none."""
    site, password = stage.ferry.site, stage.quoted["database"]
    for number, address in enumerate(("127.0.0.1:1", "127.0.0.1:port")):
        port = free_port()
        environment = {"REGION_DATABASE_URL": f"postgresql://u:{password}@{address}/x", "REGION_PORT": str(port)}
        log = site.directory / f"lost-{number}.log"
        lost = Service(["region", "serve"], stage.ferry.region.environment | environment, log, port)
        site.services.append(lost)
        lost.start()

        def told(lost: Service = lost) -> bool:
            return "The database is not running" in lost.log.read_text() or "not usable" in lost.log.read_text()

        await site.until(told)
        await lost.stop()


async def test_no_secret_shows_in_anything_that_is_said(ferry: Ferry, engine: AsyncEngine) -> None:
    said = Said()
    passwords = {what: canary(what) for what in ("database", "mirror", "proxy", "racks-proxy", "request", "new")}
    admin = await start(said, ferry, passwords)
    async with (
        aiohttp.ClientSession(cookie_jar=aiohttp.DummyCookieJar()) as session,
        listening(REFUSING_PROXY) as proxy,
        listening(REFUSING_MIRROR) as mirror,
    ):
        call = Caller(said, session, ferry.region.base, admin)
        stage = Stage(said, ferry, engine, session, call, admin, passwords, proxy, mirror)
        hearing = asyncio.create_task(hear(stage))
        for act in (
            log_in,
            enrol,
            read_sources,
            ask_wrongly,
            fail_in_the_database,
            look_at_everything,
            lose_the_database,
        ):
            await act(stage)
        hearing.cancel()
        await asyncio.gather(hearing, return_exceptions=True)
    await ferry.rack.stop()
    await ferry.region.stop()
    for service in ferry.site.services:
        said.add(service.log.name, service.log.read_text())
    await read_tables(said, engine)

    log = said.texts["region.log"]
    assert log.count("Traceback") >= 3, "errors of the database came through whole"
    assert "CheckViolation" in log
    assert "***@127.0.0.1" in said.texts["answers"]
    assert "bfs1:" in said.texts["table sources"]
    assert "data:" in said.texts["events"]
    assert said.found() == []
