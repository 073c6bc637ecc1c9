"""`key`: replacing the keys of this region, or going on without one that is lost."""

from typing import TYPE_CHECKING

import typer

from region.commands.running import in_transaction, run
from shared.command_line import Program

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

    from region.process import Region

cli = Program(help="The keys of this region.", no_args_is_help=True)


@cli.command()
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

    typer.echo(run(change))


@cli.command()
def forget() -> None:
    """Go on with the region.key that is there, when the one before is lost; racks have to be enrolled again."""
    from region.actions.succession import forget as act
    from region.database.connection import transaction
    from region.people.activity import CONSOLE

    async def go_on(region: "Region") -> str:
        async with transaction(region.engine) as connection:
            await act(connection, CONSOLE, region.keys, region.now())
        return f"The region's key is {region.fingerprint} now. Remove each rack, and enrol it again."

    typer.echo(run(go_on))


@cli.command()
def rotate_secrets() -> None:
    """Seal the passwords of mirrors and proxies with a new secrets.key; running processes take it by themselves."""
    from region.actions.secrets import rotate
    from region.keys import install_next_secrets_key
    from region.people.activity import CONSOLE

    async def change(region: "Region", connection: "AsyncConnection") -> "Region":
        await rotate(connection, CONSOLE, region.keys, region.now())
        return region

    region = in_transaction(change)
    install_next_secrets_key(region.keys)
    typer.echo(f"Passwords are sealed with a new key now. Back up {region.keys.directory}.")


@cli.command()
def forget_secrets() -> None:
    """Go on with the secrets.key that is there, when the one before is lost; passwords have to be given again."""
    from region.actions.secrets import forget
    from region.database.connection import transaction
    from region.people.activity import CONSOLE

    async def go_on(region: "Region") -> None:
        async with transaction(region.engine) as connection:
            await forget(connection, CONSOLE, region.keys, region.now())

    run(go_on)
    typer.echo("Done. Give the passwords of mirrors and proxies again; a source says so while it lacks one.")
