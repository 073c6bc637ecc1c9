"""bootferry-region: the region's service, and the few things that only its own machine can do."""

import asyncio
import signal
import sys
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, TypeVar

import typer

from shared import __version__, checkup, machine
from shared.command_line import Program
from shared.configuration import EX_CONFIG
from shared.endings import unheard
from shared.errors import BootferryError, InvalidConfiguration, InvalidValue
from shared.listening import listening
from shared.logs import configure, logger
from shared.standard_output import stop_writing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from region.process import Region

SHUTDOWN_GRACE_S = 10
"""How long transfers under way may take to end after SIGTERM."""

CREDENTIALS = Path("/etc/credstore")
"""Where systemd finds the credentials that the unit names."""

DATABASE_CREDENTIAL = "region_database_url"

_Answer = TypeVar("_Answer")

# What a command needs is imported inside it: `--help` and shell completion must not wait for SQLAlchemy.
cli = Program(
    help="The region of Bootferry: keep the selected boot images, and serve them to operators and racks.",
    no_args_is_help=True,
    add_completion=True,
)


def _version(asked: bool) -> None:
    if asked:
        typer.echo(f"bootferry-region {__version__}")
        raise typer.Exit


@cli.callback()
def common(
    _version: Annotated[
        bool, typer.Option("--version", callback=_version, is_eager=True, help="Show the version and exit.")
    ] = False,
) -> None:
    """Settings come from REGION_… variables, systemd credentials and /etc/bootferry/region.toml, in this order."""


@cli.command()
def serve() -> None:
    """Run the region until it is told to stop."""
    from region import api
    from region.edge.house import House, HouseLimits, raise_open_files
    from region.edge.server import build_server
    from region.listening import certificate_of

    region = _build()
    configuration = region.configuration
    certificate = region.certificate = certificate_of(configuration)
    open_files = raise_open_files()
    # A stranger's connection is a file like any other: half of them are for who is known, and for the disk.
    limits = HouseLimits()
    strangers = min(limits.connections, open_files // 2)
    house = House(
        replace(limits, connections=strangers, of_one_address=min(limits.of_one_address, strangers * 3 // 4)),
        configuration.trusted_proxies,
    )
    server = build_server(
        api.create(region),
        host=configuration.host,
        port=configuration.port,
        shutdown_grace_s=SHUTDOWN_GRACE_S,
        certificate=certificate,
        house=house,
        proxies=[str(network) for network in configuration.trusted_proxies],
    )

    def stop() -> None:
        server.should_exit = True

    region.stop = stop
    # uvicorn raises the signal again when it has stopped; to be told to stop is no failure.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, lambda *_: None)
    log = logger(__name__)
    scheme = "http" if certificate is None else "https"
    with listening("REGION", configuration.host, configuration.port) as listeners:
        log.info(
            f"The region listens on {scheme}://{configuration.host}:{configuration.port}/.",
            action="start",
            version=__version__,
            open_files=open_files,
            strangers=strangers,
        )
        log.info(f"The keys of this region are in {region.keys.directory}.", action="start")
        server.run(sockets=listeners)
    if reason := region.fatal or getattr(server, "fatal", None):
        raise reason


@cli.command()
def migrate() -> None:
    """Bring the database's schema up to date."""
    from region.database.connection import migrate as migrate_database

    _run(lambda region: migrate_database(region.engine))


@cli.command()
def rack_token(
    hours: Annotated[float, typer.Option(min=0.02, max=720, help="How long the token may be used.")] = 24,
    uses: Annotated[int, typer.Option(min=1, max=1000, help="How many racks may use it.")] = 1,
) -> None:
    """Print a token that lets a rack enrol: bootferry-rack enrol --region URL, which asks for it."""
    from region.actions import racks
    from region.people.activity import CONSOLE

    async def make(region: "Region", connection: "AsyncConnection") -> str:
        token, _ = await racks.make_enrolment_token(
            connection, CONSOLE, region.fingerprint, region.now(), lifetime=timedelta(hours=hours), uses=uses
        )
        return str(token)

    typer.echo(_in_transaction(make))


@cli.command()
def admin_token(
    name: Annotated[str, typer.Option(metavar="NAME", help="Whose token it is.")] = "administrator",
) -> None:
    """Print a new administrator's token, for when the first one was lost."""
    from region.actions import people
    from region.people.activity import CONSOLE
    from region.people.operators import Role

    async def make(region: "Region", connection: "AsyncConnection") -> str:
        secret, _ = await people.make_token(connection, CONSOLE, name, Role.ADMIN, region.now())
        return secret

    typer.echo(_in_transaction(make))


@cli.command()
def openapi() -> None:
    """Print the description of the HTTP API (OpenAPI 3.1)."""
    import json

    from region import api

    typer.echo(json.dumps(api.description(), indent=1, ensure_ascii=False))


@cli.command()
def new_epoch() -> None:
    """Make racks take this region's manifests again after its database was restored from a backup."""
    from region.actions.region import new_epoch as act
    from region.people.activity import CONSOLE

    async def begin(region: "Region", connection: "AsyncConnection") -> str:
        epoch = await act(connection, CONSOLE, region.publisher, region.now())
        return f"Epoch {epoch} has begun; racks take its manifest at their next poll."

    typer.echo(_in_transaction(begin))


@cli.command()
def move(
    url: Annotated[str, typer.Argument(metavar="URL", help="Where racks reach this region from now on.")] = "",
    withdraw: Annotated[bool, typer.Option("--withdraw", help="Tell racks of no other address any more.")] = False,
) -> None:
    """Tell racks, signed, that they reach this region at another address; each follows once it answers there.

    Let the present address go on answering until 'bootferry racks' shows that all have followed: a rack that cannot
    follow says so there, and stays.
    """
    from region.actions.region import move as act
    from region.people.activity import CONSOLE

    if bool(url) == withdraw:
        raise InvalidValue("address", url, "say one of URL and --withdraw")

    async def tell(region: "Region", connection: "AsyncConnection") -> str:
        told = await act(connection, CONSOLE, region.publisher, url, region.now())
        if not told:
            return "Racks are told of no other address any more; those that have followed stay where they are."
        return f"Racks are told to reach the region at {told}, and follow at their next poll if it answers there."

    typer.echo(_in_transaction(tell))


@cli.command()
def backup(
    file: Annotated[Path, typer.Argument(help="Where the backup goes; one that is there already is replaced.")],
) -> None:
    """Write the database, the keys and region.toml into one file, and read it again.

    The region may run meanwhile. The file has all secrets of the region; only its owner may read it (mode 0600).
    """
    from region.backup import bundle, save

    async def write(region: "Region") -> None:
        configuration = region.configuration.config_file()
        await save.save(region.engine, region.keys, configuration, file, region.now())

    with _disk_told(file):
        _run(write)
        with bundle.opened(file) as made:
            typer.echo(
                f"{file} holds this region ({made.rows} rows, both keys) and was read again. Whoever reads it has the"
                " region's secrets: encrypt it before it leaves this machine."
            )


@cli.command()
def restore(
    file: Annotated[Path, typer.Argument(help="A backup.")],
    replace: Annotated[
        bool, typer.Option("--replace", help="Put the backup in the place of another region, or of other keys.")
    ] = False,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Only read the backup, and say what it is of.")] = False,
) -> None:
    """Make this the region of a backup, in a new epoch; stop every process of the region before.

    Files that are on this machine are found again; the others are fetched by the import that waits.
    """
    from region.backup import bundle

    with _disk_told(file):
        if dry_run:
            with bundle.opened(file) as read:
                head, rows = read.head, read.rows
            typer.echo(f"{file} is whole: a region's backup of {head.made_at:%Y-%m-%d %H:%M:%S} UTC, {rows} rows.")
            return
        asyncio.run(_restore(file, replace=replace))


async def _restore(file: Path, *, replace: bool) -> None:
    from datetime import UTC, datetime

    from region.backup.restore import adopt
    from region.backup.restore import restore as act
    from region.configuration import RegionConfiguration
    from region.database.address import parse
    from region.database.connection import create_engine
    from region.database.watch import Watch

    configuration = RegionConfiguration.load()
    configure(configuration.log_level, configuration.log_format)
    engine = create_engine(configuration.database_url)
    watch = Watch(parse(configuration.database_url))
    try:
        await watch.require_well()
        done = await act(engine, configuration, file, datetime.now(UTC), replace=replace)
    finally:
        await engine.dispose()
    made_at = f"{done.head.made_at:%Y-%m-%d %H:%M:%S} UTC"
    typer.echo(f"The region of {made_at} is back ({done.rows} rows). Epoch {done.epoch} has begun.")
    for kept in done.kept_keys:
        typer.echo(f"The key that was there is {kept} now.")
    if done.configuration:
        typer.echo(done.configuration)
    region = _build()
    try:
        found = await adopt(region.engine, region.store, region.now())
    finally:
        await region.engine.dispose()
    typer.echo(f"{found} files were found on this machine; an import waits that fetches what is missing.")
    typer.echo(
        f"Racks that were removed and tokens that were revoked since {made_at} count again: look at 'bootferry racks'"
        " and 'bootferry token list'. Start bootferry-region now."
    )


@cli.command()
def setup(
    database_url_file: Annotated[
        str,
        typer.Option(
            metavar="FILE",
            help="Read the database's address from a file; - is standard input. Without it, a database is made on this"
            " machine's PostgreSQL.",
        ),
    ] = "",
    name: Annotated[str, typer.Option(metavar="NAME", help="How the region calls itself.")] = "",
    listen: Annotated[str, typer.Option(metavar="ADDRESS", help="The address to listen on; with TLS: 0.0.0.0.")] = "",
    tls_certificate: Annotated[str, typer.Option(metavar="FILE", help="The certificate chain (PEM).")] = "",
    tls_key: Annotated[
        str, typer.Option(metavar="FILE", help="Its key (PEM), which the service's user can read.")
    ] = "",
    user: Annotated[str, typer.Option(metavar="USER", help="The system user of the service.")] = "bootferry-region",
    start: Annotated[bool, typer.Option(help="Enable and start the unit.")] = True,
) -> None:
    """Make what the region needs on this machine, and start it; run again, it makes what is missing."""
    from region.setup import Wish, run

    configure("error", "text")
    given = ""
    if database_url_file:
        try:
            given = sys.stdin.readline() if database_url_file == "-" else Path(database_url_file).read_text()
        except OSError as error:
            raise InvalidValue("file", database_url_file, error.strerror or "it cannot be read") from error
    decided = {"name": name, "host": listen, "tls_certificate": tls_certificate, "tls_key": tls_key}
    settings = {setting: value for setting, value in decided.items() if value}
    with _disk_told(Path("/etc/bootferry")):
        run(Wish(given.strip(), settings, user, start), machine.Machine(), typer.echo, CREDENTIALS)


@cli.command()
def doctor(
    output: Annotated[checkup.Output, typer.Option("--output", "-o", help="How to answer.")] = checkup.Output.TEXT,
) -> None:
    """Look at everything that could be wrong on this machine, and say in one sentence each what to do.

    It ends with 1 when something is wrong.
    """
    from datetime import UTC, datetime

    from region.configuration import RegionConfiguration
    from region.doctor import Doctor

    machine.take_credentials(CREDENTIALS, DATABASE_CREDENTIAL)
    configuration = RegionConfiguration.load()
    configure("error", configuration.log_format)
    machine.become_owner(configuration.data_dir)
    found = asyncio.run(Doctor(configuration, machine.Machine(), lambda: datetime.now(UTC)).examine())
    for line in checkup.lines(found, output):
        typer.echo(line)
    if not checkup.is_good(found):
        raise typer.Exit(1)


@contextmanager
def _disk_told(file: Path) -> Iterator[None]:
    from shared.disk import disk_error

    try:
        yield
    except FileNotFoundError as error:
        raise InvalidValue("backup", str(file), error.strerror or "it is not there") from error
    except OSError as error:
        raise disk_error(error, file.parent) from error


keys_cli = Program(help="The keys of this region.", no_args_is_help=True)
cli.add_typer(keys_cli, name="key")


@keys_cli.command()
def rotate() -> None:
    """Sign what racks are told with a new key, for which the old one vouches: running processes and racks follow."""
    from region.actions.succession import rotate as act
    from region.database.connection import transaction
    from region.people.activity import CONSOLE

    async def change(region: "Region") -> str:
        await region.prepare()
        async with transaction(region.engine) as connection:
            after = await act(connection, CONSOLE, region.keys, region.publisher, region.now())
        # The new key counts now; this puts its file in place, as every start would.
        await region.prepare()
        return f"The region's key is {after} now. Racks follow at their next poll. Back up {region.keys.directory}."

    typer.echo(_run(change))


@keys_cli.command()
def forget() -> None:
    """Go on with the region.key that is there, when the one before is lost; racks have to be enrolled again."""
    from region.actions.succession import forget as act
    from region.database.connection import transaction
    from region.people.activity import CONSOLE

    async def go_on(region: "Region") -> str:
        async with transaction(region.engine) as connection:
            await act(connection, CONSOLE, region.keys, region.now())
        return f"The region's key is {region.fingerprint} now. Remove each rack, and enrol it again."

    typer.echo(_run(go_on))


@keys_cli.command()
def rotate_secrets() -> None:
    """Seal the passwords of mirrors and proxies with a new secrets.key; running processes take it by themselves."""
    from region.actions.secrets import rotate
    from region.keys import install_next_secrets_key
    from region.people.activity import CONSOLE

    async def change(region: "Region", connection: "AsyncConnection") -> "Region":
        await rotate(connection, CONSOLE, region.keys, region.now())
        return region

    region = _in_transaction(change)
    install_next_secrets_key(region.keys)
    typer.echo(f"Passwords are sealed with a new key now. Back up {region.keys.directory}.")


@keys_cli.command()
def forget_secrets() -> None:
    """Go on with the secrets.key that is there, when the one before is lost; passwords have to be given again."""
    from region.actions.secrets import forget
    from region.database.connection import transaction
    from region.people.activity import CONSOLE

    async def go_on(region: "Region") -> None:
        async with transaction(region.engine) as connection:
            await forget(connection, CONSOLE, region.keys, region.now())

    _run(go_on)
    typer.echo("Done. Give the passwords of mirrors and proxies again; a source says so while it lacks one.")


def _build() -> "Region":
    from region import app
    from region.configuration import RegionConfiguration

    configuration = RegionConfiguration.load()
    configure(configuration.log_level, configuration.log_format)
    return app.build(configuration)


def _run(job: Callable[["Region"], Awaitable[_Answer]]) -> _Answer:
    from region.configuration import RegionConfiguration
    from region.database.refusals import DatabaseAway

    machine.take_credentials(CREDENTIALS, DATABASE_CREDENTIAL)
    machine.become_owner(RegionConfiguration.load().data_dir)
    region = _build()

    async def run() -> _Answer:
        asyncio.get_running_loop().set_exception_handler(unheard)
        try:
            await region.watch.require_well()
            return await job(region)
        except DatabaseAway as error:
            raise region.watch.spoken(error) from error
        finally:
            await region.engine.dispose()

    return asyncio.run(run())


def _in_transaction(job: Callable[["Region", "AsyncConnection"], Awaitable[_Answer]]) -> _Answer:
    """`job` in one transaction of a database whose first rows are there."""
    from region.database.connection import transaction

    async def run(region: "Region") -> _Answer:
        await region.prepare()
        async with transaction(region.engine) as connection:
            return await job(region, connection)

    return _run(run)


def main() -> None:
    """The console script. Errors are one sentence on stderr; it exits with 78 for unusable settings, 1 for others."""
    try:
        status = cli(standalone_mode=False)
        sys.stdout.flush()
        sys.exit(status if isinstance(status, int) else 0)
    except typer.TyperException as error:
        if told := error.format_message():
            typer.echo(f"bootferry-region: {told}", err=True)
            typer.echo("Try 'bootferry-region --help'.", err=True)
        sys.exit(2)
    except (typer.Abort, KeyboardInterrupt):
        sys.exit(128 + signal.SIGINT)
    except BrokenPipeError:
        stop_writing()
        sys.exit(1)
    except InvalidConfiguration as error:
        typer.echo(f"bootferry-region: {error}", err=True)
        sys.exit(EX_CONFIG)
    except BootferryError as error:
        typer.echo(f"bootferry-region: {error}", err=True)
        sys.exit(1)


if __name__ == "__main__":
    main()
