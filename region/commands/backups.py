"""`backup` and `restore`: the whole region in one file."""

import asyncio
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, BinaryIO

import typer

from region.commands.running import configured, disk_told, run

if TYPE_CHECKING:
    from region.process import Region


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

    with disk_told("backup", file):
        run(write)
        with bundle.opened(file) as made:
            typer.echo(
                f"{file} holds this region ({made.rows} rows, both keys) and was read again. Whoever reads it has the"
                " region's secrets: encrypt it before it leaves this machine."
            )


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

    with disk_told("backup", file):
        if dry_run:
            with bundle.opened(file) as read:
                head, rows = read.head, read.rows
            typer.echo(f"{file} is whole: a region's backup of {head.made_at:%Y-%m-%d %H:%M:%S} UTC, {rows} rows.")
            return
        # Root's file may be nobody else's to read: it is opened before the region's user goes on.
        with bundle.open_regular(file) as opened:
            asyncio.run(_restore(file, opened, replace=replace))


async def _restore(file: Path, opened: BinaryIO, *, replace: bool) -> None:
    from datetime import UTC, datetime

    from region import app
    from region.backup.restore import adopt
    from region.backup.restore import restore as act
    from region.database.address import parse
    from region.database.connection import create_engine
    from region.database.watch import Watch

    configuration = configured()
    engine = create_engine(configuration.database_url)
    watch = Watch(parse(configuration.database_url))
    try:
        await watch.require_well()
        done = await act(engine, configuration, file, datetime.now(UTC), replace=replace, file=opened)
    finally:
        await engine.dispose()
    made_at = f"{done.head.made_at:%Y-%m-%d %H:%M:%S} UTC"
    typer.echo(f"The region of {made_at} is back ({done.rows} rows). Epoch {done.epoch} has begun.")
    for kept in done.kept_keys:
        typer.echo(f"The key that was there is {kept} now.")
    if done.configuration:
        typer.echo(done.configuration)
    region = app.build(configuration)
    try:
        found = await adopt(region.engine, region.store, region.now())
    finally:
        await region.engine.dispose()
    typer.echo(f"{found} files were found on this machine; an import waits that fetches what is missing.")
    typer.echo(
        f"Racks that were removed and tokens that were revoked since {made_at} count again: look at 'bootferry racks'"
        " and 'bootferry token list'. Start bootferry-region now."
    )
