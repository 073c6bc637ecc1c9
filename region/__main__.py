"""bootferry-region: the region's service, and the few things that only its own machine can do."""

import asyncio
import signal
import sys
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from region.commands import backups, keys
from region.commands.running import CREDENTIALS, configured, disk_told, in_transaction, run
from shared import __version__, checkup, machine
from shared.command_line import Program
from shared.configuration import EX_CONFIG
from shared.errors import BootferryError, InvalidConfiguration, InvalidValue
from shared.listening import listening
from shared.logs import configure, logger
from shared.standard_output import stop_writing

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from region.process import Region

SHUTDOWN_GRACE_S = 10
"""How long transfers under way may take to end after SIGTERM."""

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
    from region import api, app
    from region.configuration import RegionConfiguration
    from region.edge.house import House, HouseLimits, raise_open_files
    from region.edge.server import build_server
    from region.listening import certificate_of

    configuration = RegionConfiguration.load()
    configure(configuration.log_level, configuration.log_format)
    region = app.build(configuration)
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

    run(lambda region: migrate_database(region.engine))


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

    typer.echo(in_transaction(make))


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

    typer.echo(in_transaction(make))


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

    typer.echo(in_transaction(begin))


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

    typer.echo(in_transaction(tell))


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
    from region.commands.setup import Wish, run

    configure("error", "text")
    given = ""
    if database_url_file:
        try:
            given = sys.stdin.readline() if database_url_file == "-" else Path(database_url_file).read_text()
        except OSError as error:
            raise InvalidValue("file", database_url_file, error.strerror or "it cannot be read") from error
    decided = {"name": name, "host": listen, "tls_certificate": tls_certificate, "tls_key": tls_key}
    settings = {setting: value for setting, value in decided.items() if value}
    with disk_told("directory", Path("/etc/bootferry/region.toml")):
        run(Wish(given.strip(), settings, user, start), machine.Machine(), typer.echo, CREDENTIALS)


@cli.command()
def doctor(
    output: Annotated[checkup.Output, typer.Option("--output", "-o", help="How to answer.")] = checkup.Output.TEXT,
) -> None:
    """Look at everything that could be wrong on this machine, and say in one sentence each what to do.

    It ends with 1 when something is wrong.
    """
    from datetime import UTC, datetime

    from region.commands.doctor import Doctor

    configuration = configured()
    configure("error", configuration.log_format)
    doctor = Doctor(configuration, machine.Machine(), lambda: datetime.now(UTC))
    checkup.tell(asyncio.run(doctor.examine()), output)


cli.command()(backups.backup)
cli.command()(backups.restore)
cli.add_typer(keys.cli, name="key")


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
