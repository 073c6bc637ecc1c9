"""Where the database is and as whom this process comes, read from REGION_DATABASE_URL once and for everybody.

Both spellings of TLS are taken: SQLAlchemy's (`ssl=require`) and libpq's (`sslmode=verify-full&sslrootcert=/…`,
https://www.postgresql.org/docs/15/libpq-connect.html#LIBPQ-PARAMKEYWORDS). Several hosts are tried in their order.
"""

import getpass
import inspect
import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import asyncpg
from sqlalchemy.dialects.postgresql.asyncpg import PGDialect_asyncpg
from sqlalchemy.engine import make_url

TLS_PARAMETERS = frozenset(
    {
        "sslmode",
        "sslrootcert",
        "sslcert",
        "sslkey",
        "sslpassword",
        "sslcrl",
        "sslnegotiation",
        "ssl_min_protocol_version",
        "ssl_max_protocol_version",
    }
)
"""libpq's, which asyncpg reads from a URL only."""

PARAMETERS = TLS_PARAMETERS | inspect.signature(asyncpg.connect).parameters.keys()
"""What a database's URL may name after its question mark."""

DEFAULT_PORT = 5432


@dataclass(frozen=True, slots=True)
class Address:
    """A database and a role. `place` is for people and logs: it never shows a password."""

    hosts: tuple[str, ...]
    port: int
    database: str
    role: str
    arguments: Mapping[str, Any] = field(repr=False)
    """What `asyncpg.connect` takes."""

    @property
    def wants_tls(self) -> bool:
        """True if nothing but TLS will do."""
        mode = str(
            self.arguments.get("ssl") or parse_qs(urlsplit(self.arguments.get("dsn", "")).query).get("sslmode", [""])[0]
        )
        return mode not in ("", "disable", "allow", "prefer")

    @property
    def place(self) -> str:
        """Such as `bootferry at db.example:5432/bootferry`; the socket's directory where there is no host."""
        return f"{self.role} at {','.join(self.hosts)}:{self.port}/{self.database}"


def parse(url: str) -> Address:
    """The address that `url` tells. Raises sqlalchemy.exc.ArgumentError, ValueError."""
    parsed = make_url(url)
    tls = {name: value for name, value in parsed.query.items() if name in TLS_PARAMETERS}
    dialect = PGDialect_asyncpg()  # type: ignore[no-untyped-call]
    given = dialect.create_connect_args(  # type: ignore[no-untyped-call]
        parsed.difference_update_query(TLS_PARAMETERS)
    )[1]
    arguments: dict[str, Any] = {**given, **({"dsn": f"postgresql://?{urlencode(tls)}"} if tls else {})}
    hosts = _listed(arguments.get("host") or os.environ.get("PGHOST") or "/var/run/postgresql")
    ports = _listed(arguments.get("port") or os.environ.get("PGPORT") or DEFAULT_PORT)
    role = arguments.get("user") or os.environ.get("PGUSER") or getpass.getuser()
    return Address(hosts, int(ports[0]), str(arguments.get("database") or role), str(role), arguments)


def _listed(value: object) -> tuple[str, ...]:
    return tuple(str(one) for one in value) if isinstance(value, list | tuple) else tuple(str(value).split(","))
