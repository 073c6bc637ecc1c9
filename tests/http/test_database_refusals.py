"""Every way a database refuses: one sentence with the address and what to do, within two seconds, and its recovery.

The region is never ended by one, never silent about one, and works by itself once the operator has mended it.
"""

import asyncio
import os
import re
import signal
import socket
import ssl
import sys
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path
from typing import Any

import pytest
import structlog.testing
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from region import app
from region.configuration import RegionConfiguration
from region.database import refusals, watch
from region.database.connection import transaction
from region.database.refusals import DISK_FULL, LOCKED, DatabaseAway, Refusal
from region.process import Region, running
from tests.http.conftest import free_port
from tests.http.database_cluster import Cluster, cluster  # noqa: F401
from tests.http.database_gate import Gate, Way, gate
from tests.http.lateness import lateness

Eventually = Callable[..., Awaitable[object]]
PASSWORD = "c4n4ry"
RETRY_S = 0.3
"""In these tests; what it is otherwise, `test_a_process_…` sees."""

QUIET_S = 1.0
RULES = "host all all 127.0.0.1/32 scram-sha-256\nlocal all app trust\n"


@dataclass(slots=True)
class Journal:
    """What the watch tells, and when."""

    lines: list[tuple[float, str, str]] = field(default_factory=list)

    def error(self, event: str, **_ids: object) -> None:
        self.lines.append((time.monotonic(), "error", event))

    def info(self, event: str, **_ids: object) -> None:
        self.lines.append((time.monotonic(), "info", event))


@dataclass(slots=True)
class World:
    """A database of its own behind a gate, and where a region that uses it lives."""

    cluster: Cluster
    gate: Gate
    directory: Path
    monkeypatch: pytest.MonkeyPatch
    journal: Journal
    query: str = ""
    host: str = "127.0.0.1"
    socket: bool = False

    @property
    def url(self) -> str:
        if self.socket:
            return f"postgresql://app@/region?host={self.cluster.server.socket}&port={self.cluster.port}"
        return f"postgresql://app:{PASSWORD}@{self.host}:{self.gate.port}/region{self.query}"

    @property
    def place(self) -> str:
        """How the log names the database."""
        if self.socket:
            return f"(app at {self.cluster.server.socket}:{self.cluster.port}/region)"
        return f"(app at {self.host}:{self.gate.port}/region)"

    @asynccontextmanager
    async def region(self) -> AsyncIterator[Region]:
        """A region that runs."""
        built = app.build(
            RegionConfiguration(
                database_url=self.url,
                data_dir=self.directory / "region",
                default_source_url=f"http://127.0.0.1:{free_port()}/",
            )
        )
        stopped = []
        built.stop = lambda: stopped.append(True)
        async with running(built):
            yield built
            assert (stopped, built.fatal) == ([], None), "no refusal ends the process"


@pytest.fixture
async def world(
    cluster: Cluster,  # noqa: F811
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> AsyncIterator[World]:
    """A world that is well."""
    journal = Journal()
    monkeypatch.setattr(watch, "log", journal)
    monkeypatch.setattr(watch, "RETRY_S", RETRY_S)
    monkeypatch.setattr(watch, "QUIET_S", QUIET_S)
    await cluster.let_in(RULES)
    await cluster.tell(
        # What a test that failed has left, too.
        "DROP DATABASE IF EXISTS region WITH (FORCE)",
        "DROP DATABASE IF EXISTS elsewhere WITH (FORCE)",
        "DROP ROLE IF EXISTS app",
        "DROP ROLE IF EXISTS somebody",
        f"CREATE ROLE app LOGIN PASSWORD '{PASSWORD}'",
        "CREATE DATABASE region OWNER app",
    )
    async with gate(cluster.port) as before:
        yield World(cluster, before, tmp_path, monkeypatch, journal)
        before.cut()


# --- the ways; inside each the database refuses, after it the operator has mended that

Refusing = Callable[[World], Any]


def statement(refuse: str, mend: str, *, database: str = "postgres") -> Refusing:
    """A way that is a statement of the superuser."""

    @asynccontextmanager
    async def refusing(world: World) -> AsyncIterator[None]:
        await world.cluster.tell(refuse, database=database)
        await world.cluster.end_sessions()
        try:
            yield
        finally:
            await world.cluster.tell(mend, database=database)

    return refusing


def rules(refuse: str) -> Refusing:
    """A way of pg_hba.conf."""

    @asynccontextmanager
    async def refusing(world: World) -> AsyncIterator[None]:
        await world.cluster.let_in(refuse)
        await world.cluster.end_sessions()
        yield
        await world.cluster.let_in(RULES)

    return refusing


def way(refuse: Way) -> Refusing:
    """A way of the gate's."""

    @asynccontextmanager
    async def refusing(world: World) -> AsyncIterator[None]:
        world.gate.way = refuse
        if refuse is not Way.FROZEN:
            world.gate.cut()
        yield
        world.gate.way = Way.THROUGH
        world.gate.cut()

    return refusing


@asynccontextmanager
async def not_running(world: World) -> AsyncIterator[None]:
    await world.gate.close()
    world.gate.cut()
    yield
    await world.gate.open()


@asynccontextmanager
async def no_database(world: World) -> AsyncIterator[None]:
    # Whoever comes meanwhile waits at the gate: nobody may be inside.
    world.gate.way = Way.FROZEN
    await world.cluster.tell(
        "SELECT pg_terminate_backend(pid, 5000) FROM pg_stat_activity WHERE datname = 'region'",
        "ALTER DATABASE region RENAME TO elsewhere",
    )
    world.gate.way = Way.THROUGH
    yield
    await world.cluster.tell("ALTER DATABASE elsewhere RENAME TO region")


@asynccontextmanager
async def no_role(world: World) -> AsyncIterator[None]:
    """Without a password to hide it behind, PostgreSQL says that there is no such role."""
    await world.cluster.let_in("host all all 127.0.0.1/32 trust\n")
    await world.cluster.tell("ALTER ROLE app RENAME TO somebody")
    await world.cluster.end_sessions()
    yield
    await world.cluster.tell("ALTER ROLE somebody RENAME TO app")


@asynccontextmanager
async def latin1(world: World) -> AsyncIterator[None]:
    await world.cluster.tell(
        "DROP DATABASE region WITH (FORCE)",
        "CREATE DATABASE region OWNER app ENCODING 'LATIN1' LC_COLLATE 'C' LC_CTYPE 'C' TEMPLATE template0",
    )
    yield
    await world.cluster.tell("DROP DATABASE region WITH (FORCE)", "CREATE DATABASE region OWNER app")


@asynccontextmanager
async def newer(world: World) -> AsyncIterator[None]:
    """Somebody has started a later version, which has migrated it."""
    await world.cluster.tell(
        "CREATE TABLE alembic_version (version_num text)",
        "INSERT INTO alembic_version VALUES ('9999')",
        "ALTER TABLE alembic_version OWNER TO app",
        database="region",
    )
    yield
    await world.cluster.tell("DROP TABLE alembic_version", database="region")


@asynccontextmanager
async def not_resolved(world: World) -> AsyncIterator[None]:
    with names(world, {"db.example": None}):
        world.gate.cut()
        yield


@asynccontextmanager
async def nameserver_silent(world: World) -> AsyncIterator[None]:
    with names(world, {"db.example": ""}):
        world.gate.cut()
        yield


def _lookup(known: dict[str, str | None]) -> Callable[..., Any]:
    """What knows these names too; None is no name, and of an empty one no nameserver says anything."""
    look_up = socket.getaddrinfo

    def looked_up(host: Any, *arguments: Any, **named: Any) -> Any:
        found = known.get(host, host)
        if found == "":
            time.sleep(3)
        if not found:
            raise socket.gaierror(socket.EAI_NONAME, "Name or service not known")
        return look_up(found, *arguments, **named)

    return looked_up


@contextmanager
def names(world: World, known: dict[str, str | None]) -> Iterator[None]:
    before = socket.getaddrinfo
    keep_names(world, known)
    yield
    world.monkeypatch.setattr(socket, "getaddrinfo", before)


def keep_names(world: World, known: dict[str, str | None]) -> None:
    world.monkeypatch.setattr(socket, "getaddrinfo", _lookup(known))


def certificate(directory: Path, name: str) -> tuple[ssl.SSLContext, Path]:
    """A server's side of TLS for 127.0.0.1, and the file of the certificate that vouches for it: itself."""
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    now = datetime.now(UTC)
    made = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=0), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem, file = made.public_bytes(serialization.Encoding.PEM), directory / f"{name}.pem"
    file.write_bytes(pem)
    chain = directory / f"{name}.both.pem"
    chain.write_bytes(
        pem
        + key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    )
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(chain)
    return context, file


@asynccontextmanager
async def no_tls(world: World) -> AsyncIterator[None]:
    world.gate.tls = None
    world.gate.cut()
    yield
    world.gate.tls, _ = certificate(world.directory, "gate")


@asynccontextmanager
async def wrong_certificate(world: World) -> AsyncIterator[None]:
    world.gate.tls, _ = certificate(world.directory, "somebody")
    world.gate.cut()
    yield
    world.gate.tls = good_certificate(world)


def good_certificate(world: World) -> ssl.SSLContext:
    if not (world.directory / "gate.both.pem").exists():
        return certificate(world.directory, "gate")[0]
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(world.directory / "gate.both.pem")
    return context


# --- how the region comes there, where it is not a password over TCP


def over_tls(world: World) -> None:
    world.gate.tls, file = certificate(world.directory, "gate")
    world.query = f"?sslmode=verify-full&sslrootcert={file}"


def requiring_tls(world: World) -> None:
    world.gate.tls = good_certificate(world)
    world.query = "?ssl=require"


def by_name(world: World) -> None:
    world.host = "db.example"
    keep_names(world, {"db.example": "127.0.0.1"})


def by_socket(world: World) -> None:
    world.socket = True


@dataclass(frozen=True, slots=True)
class Case:
    refusing: Refusing
    sentence: str
    remedy: str
    comes: Callable[[World], None] = lambda _: None


READ_ONLY = statement(
    "ALTER DATABASE region SET default_transaction_read_only = on",
    "ALTER DATABASE region RESET default_transaction_read_only",
)
CASES = {
    "password": Case(
        statement("ALTER ROLE app PASSWORD 'another'", f"ALTER ROLE app PASSWORD '{PASSWORD}'"),
        "The database does not take the region's password PLACE.",
        "Correct it in REGION_DATABASE_URL",
    ),
    "role that may not log in": Case(
        statement("ALTER ROLE app NOLOGIN", "ALTER ROLE app LOGIN"),
        'The database does not know the region\'s role, or lets it not log in: role "app" is not permitted to log in'
        " PLACE.",
        "CREATE ROLE … LOGIN",
    ),
    "no such role": Case(
        no_role,
        'The database does not know the region\'s role, or lets it not log in: role "app" does not exist PLACE.',
        "CREATE ROLE … LOGIN",
    ),
    "no such database": Case(no_database, "The database does not exist yet PLACE.", "CREATE DATABASE … OWNER …"),
    "no longer open": Case(
        statement("ALTER DATABASE region ALLOW_CONNECTIONS false", "ALTER DATABASE region ALLOW_CONNECTIONS true"),
        'The database refuses the region\'s log-in: database "region" is not currently accepting connections PLACE.',
        "PostgreSQL's log",
    ),
    "not let in": Case(
        rules("host all all 127.0.0.1/32 reject\n"),
        "The database lets the region not in from here, or not without TLS: pg_hba.conf rejects connection for host"
        ' "127.0.0.1", user "app", database "region", no encryption PLACE.',
        "hostssl",
    ),
    "not the role": Case(
        rules("local all app peer\n"),
        'The database does not believe that the region is its role: Peer authentication failed for user "app" PLACE.',
        "pg_ident.conf",
        by_socket,
    ),
    "read-only": Case(READ_ONLY, "The database is read-only PLACE.", "the primary"),
    "no connection left": Case(
        statement("ALTER ROLE app CONNECTION LIMIT 0", "ALTER ROLE app CONNECTION LIMIT -1"),
        'The database has no connection left: too many connections for role "app" PLACE.',
        "max_connections",
    ),
    "no schema to use": Case(
        statement("ALTER ROLE app SET search_path = nowhere", "ALTER ROLE app RESET search_path"),
        "The database does not let the region's role use its tables: it may use none of the schemas in search_path"
        " PLACE.",
        "ALTER DATABASE … OWNER TO …",
    ),
    "not running": Case(not_running, "The database is not running PLACE.", "start PostgreSQL"),
    "frozen": Case(way(Way.FROZEN), "The database does not answer PLACE.", "overloaded or frozen"),
    "who closes the connection": Case(
        way(Way.CLOSING),
        "What answers in the database's place ends the connection at once PLACE.",
        "the address and port in REGION_DATABASE_URL",
    ),
    "starting": Case(way(Way.STARTING), "The database is starting, or shutting down PLACE.", "PostgreSQL's log"),
    "another service": Case(
        way(Way.WEB_SERVER),
        "What answers in the database's place does not speak as PostgreSQL does PLACE.",
        "the address and port in REGION_DATABASE_URL",
    ),
    "too old": Case(way(Way.OLD), "The database's PostgreSQL is too old: it is 14 PLACE.", "PostgreSQL 15 or later"),
    "a pooler": Case(
        way(Way.POOLING),
        "A pooler before the database gives each transaction to another session PLACE.",
        "pool by session",
    ),
    "no TLS there": Case(
        no_tls,
        "The database offers no TLS, and the region must use it PLACE.",
        "`ssl` in postgresql.conf",
        requiring_tls,
    ),
    "another's certificate": Case(
        wrong_certificate,
        "The database's certificate is not trusted: self-signed certificate PLACE.",
        "sslrootcert",
        over_tls,
    ),
    "no such name": Case(
        not_resolved,
        "The database's host name cannot be resolved: Name or service not known PLACE.",
        "the name in DNS",
        by_name,
    ),
    "no nameserver": Case(
        nameserver_silent,
        "The nameserver does not answer for the database's host name PLACE.",
        "/etc/resolv.conf",
        by_name,
    ),
}
AT_START = CASES | {
    "another's database": Case(
        statement("ALTER DATABASE region OWNER TO bootferry", "ALTER DATABASE region OWNER TO app"),
        "The database does not let the region's role use its tables: permission denied for schema public PLACE.",
        "ALTER DATABASE … OWNER TO …",
    ),
    "another encoding": Case(
        latin1, "The database does not keep its text as UTF-8: it is LATIN1 PLACE.", "ENCODING 'UTF8'"
    ),
    "a newer version's": Case(
        newer, "The database belongs to a newer version of Bootferry PLACE.", "Install that version"
    ),
}
WHILE_IT_RUNS = CASES | {
    "another's tables": Case(
        statement("ALTER TABLE files OWNER TO bootferry", "ALTER TABLE files OWNER TO app", database="region"),
        "The database does not let the region's role use its tables: files PLACE.",
        "REASSIGN OWNED",
    ),
}


async def is_told(world: World, case: Case, eventually: Eventually) -> None:
    """One line comes within two seconds, is the right one, shows no password, and comes only once."""
    async with lateness() as late:
        lost_at = time.monotonic()
        await eventually(lambda: world.journal.lines)
    at, level, line = world.journal.lines[0]
    assert level == "error"
    assert at - lost_at - late.total_s < 2.0, (at - lost_at, late.total_s)
    assert line.startswith(case.sentence.replace("PLACE", world.place)), line
    assert world.place in line
    assert case.remedy in line
    assert PASSWORD not in line
    await asyncio.sleep(4 * RETRY_S)
    assert [told for _, _, told in world.journal.lines] == [line], "it is told once"


async def is_over(world: World, eventually: Eventually) -> None:
    await eventually(lambda: world.journal.lines[-1][1] == "info")
    line = world.journal.lines[-1][2]
    assert re.fullmatch(r"The database answers again, after [1-9][0-9]? s\.", line), line


def others(lines: list[Any]) -> list[Any]:
    """What others than the watch have told that an operator reads at night; the mirror is away all the time."""
    return [
        line for line in lines if line["log_level"] != "debug" and line.get("action") not in ("read", "import", "sync")
    ]


@pytest.mark.parametrize("case", AT_START.values(), ids=AT_START)
async def test_a_region_that_starts_tells_why_it_waits_and_begins_when_that_is_mended(
    world: World, case: Case, eventually: Eventually
) -> None:
    case.comes(world)
    async with AsyncExitStack() as stack:
        told = stack.enter_context(structlog.testing.capture_logs())
        async with case.refusing(world):
            built = await stack.enter_async_context(world.region())
            await is_told(world, case, eventually)
            assert not built.ready.is_set()
            assert others(told) == []
        await asyncio.wait_for(built.ready.wait(), 20)
        await is_over(world, eventually)


@pytest.mark.parametrize("case", WHILE_IT_RUNS.values(), ids=WHILE_IT_RUNS)
async def test_a_region_that_runs_tells_the_loss_and_the_recovery(
    world: World, case: Case, eventually: Eventually
) -> None:
    case.comes(world)
    async with world.region() as built:
        await asyncio.wait_for(built.ready.wait(), 20)
        # Whoever is on the way to the gate has arrived then.
        await asyncio.sleep(0.5)
        assert world.journal.lines == []
        with structlog.testing.capture_logs() as told:
            async with case.refusing(world):
                await is_told(world, case, eventually)
                assert others(told) == []
            await is_over(world, eventually)
            assert others(told) == []


async def test_a_changed_reason_is_told_and_the_span_is_that_of_the_whole_loss(
    world: World, eventually: Eventually
) -> None:
    async with world.region() as built:
        await asyncio.wait_for(built.ready.wait(), 20)
        await asyncio.sleep(0.5)
        async with not_running(world):
            await eventually(lambda: len(world.journal.lines) == 1)
            await asyncio.sleep(2)
            world.gate.way = Way.STARTING
        await eventually(lambda: "starting, or shutting down" in world.journal.lines[-1][2])
        world.gate.way = Way.THROUGH
        await eventually(lambda: "answers again" in world.journal.lines[-1][2])
    span = re.search(r"after (\d+) s", world.journal.lines[-1][2])
    assert span is not None
    assert int(span[1]) >= 2


async def test_what_only_those_meet_who_write_is_told_on_their_word(world: World, eventually: Eventually) -> None:
    async with world.region() as built:
        await asyncio.wait_for(built.ready.wait(), 20)
        for _ in range(3):
            built.watch.doubt(DISK_FULL)
            await asyncio.sleep(0.5)
        [(_, level, line)] = world.journal.lines
        assert (level, line.startswith(f"The database's disk is full {world.place}. Make room there.")) == (
            "error",
            True,
        )
        await asyncio.wait_for(built.watch.well(), 1)
        await is_over(world, eventually)
        assert len(world.journal.lines) == 2


async def test_whoever_is_refused_has_the_watch_look(world: World, eventually: Eventually) -> None:
    """Sessions that there are go on under a password of before; new ones are refused."""
    async with world.region() as built:
        await asyncio.wait_for(built.ready.wait(), 20)
        await asyncio.sleep(0.5)
        await world.cluster.tell("ALTER ROLE app PASSWORD 'another'")
        await asyncio.sleep(2)
        assert world.journal.lines == [], "nobody has asked for a new one"
        await built.request_engine.dispose()
        with pytest.raises(DatabaseAway, match="does not take the region's password"):
            async with transaction(built.request_engine):
                pass
        await is_told(world, CASES["password"], eventually)
        await world.cluster.tell(f"ALTER ROLE app PASSWORD '{PASSWORD}'")
        await is_over(world, eventually)


async def test_a_database_that_is_only_busy_is_not_told(world: World) -> None:
    async with world.region() as built:
        await asyncio.wait_for(built.ready.wait(), 20)
        for _ in range(3):
            built.watch.doubt(LOCKED)
            await asyncio.sleep(0.6)
        assert world.journal.lines == []


async def test_a_session_that_was_ended_alone_is_no_loss(world: World) -> None:
    async with world.region() as built:
        await asyncio.wait_for(built.ready.wait(), 20)
        for _ in range(3):
            await world.cluster.end_sessions()
            await asyncio.sleep(0.7)
        assert world.journal.lines == []


async def test_a_process_tries_every_five_seconds_and_goes_on_by_itself(
    world: World, tmp_path: Path, eventually: Eventually
) -> None:
    """With nothing of it changed: the first line, what the file of the log shows, and the recovery."""
    log = tmp_path / "log"
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGION_")}
    environment |= {
        "REGION_DATABASE_URL": world.url,
        "REGION_DATA_DIR": str(tmp_path / "region"),
        "REGION_PORT": str(free_port()),
        "REGION_DEFAULT_SOURCE_URL": f"http://127.0.0.1:{free_port()}/",
    }
    case = CASES["password"]
    async with case.refusing(world):
        with log.open("wb") as output:
            process = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "region", "serve"), env=environment, stderr=output
            )
        try:
            await eventually(lambda: "region's password" in log.read_text(), within_s=30)
            came = world.gate.came
            await asyncio.sleep(7)
            # The look of five seconds later, and of ten at most; a try of TLS first makes two of each.
            assert 1 <= world.gate.came - came <= 4
            assert process.returncode is None
        except BaseException:
            process.kill()
            raise
    try:
        await eventually(lambda: "The region is ready." in log.read_text(), within_s=30)
        told = log.read_text()
        assert told.count("The database does not take the region's password") == 1
        assert "It is tried again every 5 seconds." in told
        assert re.search(r"The database answers again, after [0-9]+ s\.", told)
        assert PASSWORD not in told
        assert "Traceback" not in told
    finally:
        process.send_signal(signal.SIGTERM)
        assert await asyncio.wait_for(process.wait(), 20) == 0


def test_the_operating_page_names_every_reason() -> None:
    page = (Path(__file__).parents[2] / "docs" / "operating.md").read_text()
    missing = {
        refusal.reason
        for refusal in vars(refusals).values()
        if isinstance(refusal, Refusal) and f"| {refusal.reason.partition(':')[0]} |" not in page
    }
    assert missing == set()
