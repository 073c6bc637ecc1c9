"""`bootferry-region setup`: from an installed package to a region that runs. Run again, it adds what is missing.

1. The database: the one that is configured or given; else one on this machine's PostgreSQL, made as its superuser.
2. /etc/bootferry/region.toml gets the settings that this decides; what is set there already stays.
3. The directories of the service, its keys, the database's schema and first rows, all made as the service's user.
4. The unit is enabled and started, where systemd runs the machine.
"""

import asyncio
import os
import re
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from region.commands.running import CREDENTIALS, DATABASE_CREDENTIAL
from region.configuration import RegionConfiguration
from shared import machine as machines
from shared.disk import write_whole
from shared.errors import BootferryError, Conflict, InvalidConfiguration, InvalidValue
from shared.machine import Machine
from shared.tls import read_pair

USER = "bootferry-region"
DATABASE = "bootferry"
UNIT = "bootferry-region.service"
DATA_MODE = 0o750


@dataclass(frozen=True, slots=True)
class Wish:
    """What an operator says of it; nothing has to be said."""

    database_url: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Of region.toml, by name."""

    user: str = USER
    start: bool = True


def run(wish: Wish, machine: Machine, say: Callable[[str], None], credentials: Path = CREDENTIALS) -> None:
    """Set the region up, and tell each step. Raises BootferryError, OSError. Blocks."""
    machines.require_root()
    if not re.fullmatch("[a-z_][a-z0-9_-]*", wish.user):
        raise InvalidValue("system user", wish.user, "it must be small letters, digits, - and _")
    machines.take_credentials(credentials, DATABASE_CREDENTIAL)
    if {"tls_certificate", "tls_key"} <= wish.settings.keys():
        # Before it is written down: what is set there already stays.
        read_pair(Path(wish.settings["tls_certificate"]), Path(wish.settings["tls_key"]))
    changed = _settle_database(wish, machine, say, credentials)
    changed |= _write_settings(wish.settings, say)
    configuration = RegionConfiguration.load()
    owner = machines.user(wish.user, machine, home=configuration.data_dir)
    machines.own_directory(configuration.data_dir, owner, DATA_MODE)
    token = configuration.admin_token_file or configuration.data_dir / "admin-token"
    fresh = not token.exists()
    _as_user(owner.pw_uid, owner.pw_gid, wish.user, lambda: asyncio.run(_prepare(configuration)))
    say(f"The database has this version's schema, and the keys are in {_keys(configuration)}: back them up.")
    if wish.start:
        say(machines.start(machine, UNIT, changed=changed))
    scheme = "http" if configuration.tls_certificate is None else "https"
    say(f"The region's address is {scheme}://{configuration.host}:{configuration.port}/.")
    if configuration.tls_certificate is None:
        say(
            "Others reach it once it speaks TLS: setup --listen 0.0.0.0 --tls-certificate FILE --tls-key FILE; or"
            " through a proxy."
        )
    if fresh and token.exists():
        say(f"The first administrator's token, shown this once (it is in {token}, too): {token.read_text().strip()}")


def _keys(configuration: RegionConfiguration) -> Path:
    from region.keys import key_directory

    return key_directory(configuration)[0]


# --- the database


def _settle_database(wish: Wish, machine: Machine, say: Callable[[str], None], credentials: Path) -> bool:
    """True if the database's address was written down just now."""
    configured = _configured("database_url")
    if wish.database_url:
        if not _is_local(configured) and configured != wish.database_url:
            raise Conflict(
                "Another database is configured already: correct REGION_DATABASE_URL, or leave this one away."
            )
        if configured == wish.database_url:
            return False
        # A secret: only root reads it there, and systemd hands it to the service.
        credentials.mkdir(mode=0o700, exist_ok=True)
        write_whole(credentials / DATABASE_CREDENTIAL, f"{wish.database_url}\n".encode(), mode=0o600)
        os.environ[DATABASE_CREDENTIAL.upper()] = wish.database_url
        say(f"The database's address is in {credentials / DATABASE_CREDENTIAL}, for root alone.")
        return True
    if _is_local(configured):
        _make_database(machine, wish.user, say)
    return False


def _is_local(url: str) -> bool:
    """True if it is none, or this machine's own, where the service logs in by its system user."""
    return not url or ("host=/" in url and "@" not in url and f"/{DATABASE}?" in url)


def _configured(setting: str) -> str:
    """What the environment or region.toml sets already; "" for nothing."""
    if found := os.environ.get(f"REGION_{setting.upper()}"):
        return found
    return str(_settings().get(setting, ""))


def _make_database(machine: Machine, role: str, say: Callable[[str], None]) -> None:
    """The role and the database of this machine's PostgreSQL are there when this returns. Raises Conflict."""
    roles = _ask(machine, f"SELECT 1 FROM pg_roles WHERE rolname = '{role}'")
    if not roles:
        _ask(machine, f'CREATE ROLE "{role}" LOGIN')
        say(f"PostgreSQL has the role {role} now; it logs in as the system user of that name.")
    if not _ask(machine, f"SELECT 1 FROM pg_database WHERE datname = '{DATABASE}'"):
        _ask(machine, f"CREATE DATABASE {DATABASE} OWNER \"{role}\" ENCODING 'UTF8' TEMPLATE template0")
        say(f"PostgreSQL has the database {DATABASE} now; it belongs to {role}.")


def _ask(machine: Machine, statement: str) -> str:
    words = (
        "runuser",
        "-u",
        "postgres",
        "--",
        "psql",
        "-X",
        "-q",
        "-A",
        "-t",
        "-v",
        "ON_ERROR_STOP=1",
        "-d",
        "postgres",
    )
    done = machine.run(*words, given=statement)
    if done.status == 0:
        return done.out
    why = (done.err.splitlines() or ["psql failed"])[-1]
    raise Conflict(
        f"This machine's PostgreSQL cannot be asked ({why}): apt install postgresql, or name another database with"
        " --database-url-file."
    )


# --- the settings


def _settings() -> Mapping[str, object]:
    try:
        return tomllib.loads(RegionConfiguration.config_file().read_text())
    except FileNotFoundError:
        return {}
    except (ValueError, OSError):
        # The same as any command says of it.
        RegionConfiguration.load()
        raise


def _write_settings(decided: Mapping[str, str], say: Callable[[str], None]) -> bool:
    """True if the file was changed. What is set in it already stays."""
    file, known = RegionConfiguration.config_file(), _settings()
    fresh = {}
    for name, value in decided.items():
        # What the package's own file says is nobody's decision.
        default = RegionConfiguration.model_fields[name].default
        if known.get(name, default) == default and default != value and f"REGION_{name.upper()}" not in os.environ:
            fresh[name] = value
        elif known.get(name) != value:
            say(f"{name} stays as it is set already.")
    if not fresh:
        return False
    before = file.read_text() if file.exists() else ""
    for name in fresh:
        before = re.sub(rf"(?m)^{name} *=.*\n?", "", before)
    added = "".join(f"{name} = {_quoted(value)}\n" for name, value in fresh.items())
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o755)
    mode = file.stat().st_mode & 0o777 if file.exists() else 0o644
    write_whole(file, (before + ("" if before.endswith("\n") or not before else "\n") + added).encode(), mode=mode)
    say(f"{', '.join(fresh)} was written into {file}.")
    return True


def _quoted(value: str) -> str:
    return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'


# --- as the service


async def _prepare(configuration: RegionConfiguration) -> None:
    from region import app
    from region.database.refusals import DatabaseAway
    from region.listening import certificate_of

    certificate_of(configuration)
    region = app.build(configuration)
    try:
        await region.watch.require_well()
        await region.prepare()
    except DatabaseAway as error:
        raise region.watch.spoken(error) from error
    finally:
        await region.engine.dispose()


def _as_user(uid: int, gid: int, name: str, work: Callable[[], None]) -> None:
    """Do `work` as this user, in a process of its own. Raises BootferryError, with what it has raised. Blocks."""
    if os.geteuid() == uid:
        work()
        return
    reading, writing = os.pipe()
    child = os.fork()
    if child == 0:
        status, said = 1, ""
        try:
            os.close(reading)
            os.initgroups(name, gid)
            os.setgid(gid)
            os.setuid(uid)
            # Whoever logs in without a name is this user, and no longer root.
            os.environ |= {"USER": name, "LOGNAME": name}
            os.umask(0o027)
            work()
            status = 0
        except InvalidConfiguration as error:
            status, said = 78, str(error)
        except BootferryError as error:
            said = str(error)
        except BaseException as error:
            said = repr(error)
        finally:
            os.write(writing, said.encode()[:60_000])
            os._exit(status)
    os.close(writing)
    with os.fdopen(reading, "rb") as told:
        said = told.read().decode(errors="replace")
    _, ended = os.waitpid(child, 0)
    status = os.waitstatus_to_exitcode(ended)
    if status == 78:
        raise InvalidConfiguration(said)
    if status != 0:
        raise BootferryError(said or "The service's part of the setup ended without a word")
