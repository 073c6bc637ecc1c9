"""How a database refuses, each way with what is to be told: to whoever asked, and to the operator.

- `reason` begins a sentence. It is answered to everybody who asks, strangers too: it names no address and no role.
- `remedy` is for the log alone, after the address.
- What PostgreSQL says is recognised by its SQLSTATE (https://www.postgresql.org/docs/15/errcodes-appendix.html), and
  where one stands for several things by the function that said it: its words come in the language of the server.
"""

import errno
import re
import socket
import ssl
from dataclasses import dataclass, replace
from enum import Enum

import asyncpg
import sqlalchemy.exc

from shared.errors import Unavailable


class Told(Enum):
    """Who tells the log of a refusal."""

    SEEN = "seen"
    """The watch, which sees it by itself."""

    HEARD = "heard"
    """The watch, which takes the word of whoever met it: only those who write, or change the schema, can."""

    NOBODY = "nobody"
    """Nobody, for it passes in moments: the database is well, and busy. Whoever met it tries again."""


@dataclass(frozen=True, slots=True)
class Refusal:
    """One way a database refuses; `detail` is what there is to say about this time."""

    reason: str
    remedy: str
    told: Told = Told.SEEN
    detail: str = ""

    def because(self, detail: object) -> "Refusal":
        """The same, with a detail."""
        return replace(self, detail=" ".join(str(detail).split()).rstrip(". "))

    def sentence(self, place: str) -> str:
        """What the log says of it; `place` is the database's address."""
        return f"{self.reason}{': ' * bool(self.detail)}{self.detail} ({place}). {self.remedy}"


class DatabaseAway(Unavailable):
    """The database does not do what it should; `refusal` says what an operator can do about it."""

    def __init__(self, refusal: Refusal) -> None:
        self.refusal = refusal
        super().__init__(refusal.reason)


# Nobody answers there.
NO_ANSWER = Refusal(
    "The database does not answer",
    "Is its machine overloaded or frozen, or does a firewall drop what is sent there?",
)
NOT_RUNNING = Refusal(
    "The database is not running",
    "Nobody listens at this address: start PostgreSQL, or correct REGION_DATABASE_URL (and listen_addresses of"
    " PostgreSQL).",
)
SOCKET_FORBIDDEN = Refusal(
    "The database's socket may not be used",
    "Let the region's system user enter its directory (unix_socket_directories, unix_socket_permissions).",
)
NO_ROAD = Refusal(
    "There is no way to the database's machine",
    "Look at the network between, and at the host name in REGION_DATABASE_URL.",
)
NAME_UNKNOWN = Refusal(
    "The database's host name cannot be resolved", "Correct the host name in REGION_DATABASE_URL, or the name in DNS."
)
NAMESERVER_SILENT = Refusal(
    "The nameserver does not answer for the database's host name",
    "Look at /etc/resolv.conf, or write an address into REGION_DATABASE_URL.",
)
STRANGE = Refusal(
    "What answers in the database's place does not speak as PostgreSQL does",
    "Correct the address and port in REGION_DATABASE_URL.",
)
CUT_OFF = Refusal(
    "What answers in the database's place ends the connection at once",
    "Correct the address and port in REGION_DATABASE_URL; if it is PostgreSQL, see its log.",
)

# TLS on the way.
TLS_MISSING = Refusal(
    "The database offers no TLS, and the region must use it",
    "Turn on `ssl` in postgresql.conf, or take sslmode out of REGION_DATABASE_URL.",
)
CERTIFICATE = Refusal(
    "The database's certificate is not trusted",
    "Name its CA by sslrootcert in REGION_DATABASE_URL, and the host name as the certificate does; or renew it.",
)
CLIENT_CERTIFICATE = Refusal(
    "The database asks for a certificate of the region",
    "Name one by sslcert and sslkey in REGION_DATABASE_URL.",
)
TLS_FAILED = Refusal(
    "No TLS connection to the database comes about", "See PostgreSQL's log, and sslmode in REGION_DATABASE_URL."
)
SETTINGS = Refusal(
    "The database's address cannot be used as it is written",
    "Correct REGION_DATABASE_URL, and restart the region.",
)

# It answers, and lets this region do nothing.
PASSWORD = Refusal(
    "The database does not take the region's password",
    "Correct it in REGION_DATABASE_URL and restart the region, or set it in PostgreSQL: ALTER ROLE … PASSWORD '…'. The"
    " role may be missing, too.",
)
ROLE = Refusal(
    "The database does not know the region's role, or lets it not log in",
    "Make it: CREATE ROLE … LOGIN. Or correct the role in REGION_DATABASE_URL.",
)
NOT_THE_ROLE = Refusal(
    "The database does not believe that the region is its role",
    "Run the region as the system user of the same name, map it in pg_ident.conf, or give REGION_DATABASE_URL an"
    " address and a password.",
)
NOT_LET_IN = Refusal(
    "The database lets the region not in from here",
    "Add a line for this role, database and address to pg_hba.conf, and reload PostgreSQL.",
)
NOT_LET_IN_PLAIN = Refusal(
    "The database lets the region not in from here, or not without TLS",
    "Add a line for this role, database and address to pg_hba.conf, and reload PostgreSQL. If there is one that begins"
    " with hostssl, turn on `ssl` in postgresql.conf, and write sslmode=require into REGION_DATABASE_URL.",
)
LOG_IN = Refusal("The database refuses the region's log-in", "Look at REGION_DATABASE_URL, and at PostgreSQL's log.")
NO_DATABASE = Refusal(
    "The database does not exist yet", "Make it: CREATE DATABASE … OWNER …. Or correct its name in REGION_DATABASE_URL."
)
NOT_ALLOWED = Refusal(
    "The database does not let the region's role use its tables",
    "Let the role own the database and everything in it: ALTER DATABASE … OWNER TO …, and REASSIGN OWNED where tables"
    " are another role's.",
    Told.HEARD,
)
NO_SCHEMA = Refusal(
    "The database does not have this version's tables",
    "Run bootferry-region migrate, or set REGION_MIGRATE_ON_START=true.",
    Told.HEARD,
)
NEWER_SCHEMA = Refusal(
    "The database belongs to a newer version of Bootferry",
    "Install that version, or restore the backup made before the upgrade.",
    Told.HEARD,
)
TOO_OLD = Refusal("The database's PostgreSQL is too old", "Upgrade it to PostgreSQL 15 or later.")
NOT_UTF8 = Refusal(
    "The database does not keep its text as UTF-8",
    "Make another one: CREATE DATABASE … ENCODING 'UTF8' TEMPLATE template0.",
)
POOLER = Refusal(
    "A pooler before the database gives each transaction to another session",
    "Give REGION_DATABASE_URL PostgreSQL's own address, or let the pooler pool by session.",
)
NOT_TAKEN = Refusal(
    "What stands before the database does not take the region's connection",
    "If it is a pooler, give REGION_DATABASE_URL PostgreSQL's own address.",
)
READ_ONLY = Refusal(
    "The database is read-only",
    "Give REGION_DATABASE_URL the address of the primary, or promote this one; if it was made so, see"
    " default_transaction_read_only.",
)

# It has not what it needs.
STARTING = Refusal("The database is starting, or shutting down", "If that lasts, see PostgreSQL's log.")
NO_CONNECTION_LEFT = Refusal(
    "The database has no connection left",
    "Raise max_connections, or the role's and the database's CONNECTION LIMIT; pg_stat_activity shows who has them. A"
    " region process takes 24 at most.",
)
DISK_FULL = Refusal("The database's disk is full", "Make room there.", Told.HEARD)
NO_MEMORY = Refusal("The database has no memory left", "See PostgreSQL's log, and work_mem.", Told.HEARD)
LACKS = Refusal("The database lacks something; its log says what", "See PostgreSQL's log.", Told.HEARD)
DISK_FAILED = Refusal("The database cannot read or write its disk", "See PostgreSQL's log.", Told.HEARD)
DAMAGED = Refusal("The database met a fault of its own; its log says more", "See PostgreSQL's log.", Told.HEARD)

# It is well, and busy.
ALL_IN_USE = Refusal(
    "All connections to the database are in use: it is slow, or does not answer", "See pg_stat_activity.", Told.NOBODY
)
STOOD_STILL = Refusal("The database ended a transaction that stood still", "It is tried again.", Told.NOBODY)
OTHERS_FIRST = Refusal("The database let another change go first", "It is tried again.", Told.NOBODY)
LOCKED = Refusal("Something in the database is locked", "See pg_locks.", Told.NOBODY)
TOOK_TOO_LONG = Refusal("The database took too long", "See pg_stat_activity.", Told.NOBODY)

BY_STATE = {
    "08": NO_ANSWER,
    "08P01": NOT_TAKEN,
    "25006": READ_ONLY,
    "25P03": STOOD_STILL,
    "26000": POOLER,
    "28": LOG_IN,
    "28P01": PASSWORD,
    "3D000": NO_DATABASE,
    "40": OTHERS_FIRST,
    "42501": NOT_ALLOWED,
    "42P05": POOLER,
    "53100": DISK_FULL,
    "53200": NO_MEMORY,
    "53300": NO_CONNECTION_LEFT,
    "53": LACKS,
    "55P03": LOCKED,
    "57014": TOOK_TOO_LONG,
    "57": STARTING,
    "58": DISK_FAILED,
    "XX": DAMAGED,
}
"""By SQLSTATE, or its class of two characters."""

_BY_FUNCTION = {
    "InitializeSessionUserId": ROLE,
    "ClientAuthentication": NOT_LET_IN,
    "auth_failed": NOT_THE_ROLE,
    "check_ident_usermap": NOT_THE_ROLE,
    "check_usermap": NOT_THE_ROLE,
}
"""Who in PostgreSQL says 28000 (src/backend/libpq/auth.c, src/backend/utils/init/miscinit.c)."""

_BY_NUMBER = {
    errno.ECONNREFUSED: NOT_RUNNING,
    errno.ENOENT: NOT_RUNNING,
    errno.EACCES: SOCKET_FORBIDDEN,
    errno.EPERM: SOCKET_FORBIDDEN,
    errno.EHOSTUNREACH: NO_ROAD,
    errno.ENETUNREACH: NO_ROAD,
    errno.EADDRNOTAVAIL: NO_ROAD,
}


OUT_OF_STEP = (asyncpg.InterfaceError, asyncpg.InternalClientError)
"""What asyncpg raises for a connection that was used when it was gone, or that went in the middle of a word."""


def refusal_of(error: BaseException) -> Refusal | None:
    """How the database refused; None when it did not, and what was asked of it was wrong."""
    cause = error
    if isinstance(error, sqlalchemy.exc.DBAPIError):
        cause = getattr(error.orig, "__cause__", None) or error
    state = str(getattr(cause, "sqlstate", None) or "")
    if found := BY_STATE.get(state) or BY_STATE.get(state[:2]):
        return _precisely(found, cause) if isinstance(cause, asyncpg.PostgresError) else found
    away = isinstance(error, (sqlalchemy.exc.InterfaceError, asyncpg.InternalClientError)) or (
        isinstance(error, sqlalchemy.exc.DBAPIError) and error.connection_invalidated
    )
    return NO_ANSWER if away else None


def refusal_to_connect(error: Exception, *, wants_tls: bool = True) -> Refusal:
    """How the database refused a connection; every error of such an attempt is one."""
    if isinstance(error, ssl.SSLCertVerificationError):
        return CERTIFICATE.because(error.verify_message or error.reason or "")
    if isinstance(error, ssl.SSLError):
        wants = "CERTIFICATE_REQUIRED" in (error.reason or "")
        return CLIENT_CERTIFICATE if wants else TLS_FAILED.because(error.reason or error)
    if isinstance(error, socket.gaierror):
        return NAME_UNKNOWN.because(error.strerror or "")
    if isinstance(error, TimeoutError):
        return NO_ANSWER
    if isinstance(error, asyncpg.ClientConfigurationError):
        return SETTINGS.because(error)
    if "rejected SSL upgrade" in str(error):
        # Where TLS need not be, PostgreSQL says no in another way.
        return TLS_MISSING if wants_tls else STRANGE
    cut = isinstance(error, asyncpg.ConnectionDoesNotExistError | asyncpg.InterfaceError)
    if cut or (isinstance(error, ConnectionError) and error.errno in (None, errno.ECONNRESET, errno.EPIPE)):
        return CUT_OFF
    if isinstance(error, OSError):
        return _of_the_system(error)
    if isinstance(error, asyncpg.PostgresError):
        return refusal_of(error) or LOG_IN.because(error.args[0] if error.args else "")
    return refusal_of(error) or STRANGE.because(error)


def _precisely(found: Refusal, error: asyncpg.PostgresError) -> Refusal:
    said = str(error.args[0]) if error.args else ""
    if error.sqlstate == "28000":
        found = _BY_FUNCTION.get(error.server_source_function or "", found)
        if found is NOT_LET_IN and "no encryption" in said:
            found = NOT_LET_IN_PLAIN
        if found is NOT_LET_IN and "client certificate" in said:
            return CLIENT_CERTIFICATE
    # Only what is said of a connection: what is said of a statement may quote a row (I7).
    return found.because(said) if error.sqlstate in ("08P01", "28000", "42501", "53300") else found


def _of_the_system(error: OSError) -> Refusal:
    # Where a name has several addresses, asyncio puts the failures of all into one text.
    numbers = [error.errno] if error.errno else [int(number) for number in re.findall(r"\[Errno (\d+)\]", str(error))]
    return next((_BY_NUMBER[number] for number in numbers if number in _BY_NUMBER), NO_ANSWER)
