"""The commands of `bootferry-rack`, as people type them."""

import asyncio
import json
import os
import re
import signal
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Annotated, Any

import typer
from yarl import URL

from rack import enrolling, program
from rack import identity as identities
from rack.client import Region
from rack.configuration import RackConfiguration
from rack.lock import holder
from rack.owner import become_owner
from rack.renewal import renew
from rack.state import State
from rack.tree import Tree, behind, load_current, shown_by
from shared import __version__, checkup, machine
from shared.command_line import Program
from shared.errors import BootferryError, Conflict
from shared.http import client_session
from shared.promises import POLL_PERIOD
from shared.signing import fingerprint
from shared.sizes import spoken_size
from shared.store.disk import DiskStore
from shared.wire.envelope import open_envelope
from shared.wire.manifest import MANIFEST_TYPE, Manifest

_SECRET = re.compile(r"bfe_[A-Za-z0-9_-]+")

# What both `enrol` and `setup` ask.
RegionUrl = Annotated[
    str, typer.Option(metavar="URL", help="The region's address, for instance https://region.example:5240.")
]
TokenFile = Annotated[
    str,
    typer.Option(
        metavar="FILE",
        help="Read the token that an operator made on the region from a file; - is standard input. Without it, the"
        " token is asked for.",
    ),
]
CaBundle = Annotated[
    Path | None,
    typer.Option(metavar="FILE", help="More certificates to trust for this region (PEM); this rack keeps them."),
]
RackName = Annotated[
    str, typer.Option(metavar="NAME", help="What operators call this rack. [default: this machine's host name]")
]

cli = Program(
    name="bootferry-rack",
    help="A rack of Bootferry: keep a verified copy of a region's boot images, and serve it to machines.\n\n"
    "Settings are RACK_… in the environment or /etc/bootferry/rack.toml.",
    no_args_is_help=True,
    add_completion=True,
)


class Output(StrEnum):
    """How `status` answers."""

    TEXT = "text"
    JSON = "json"


def command_line(arguments: Sequence[str]) -> int:
    """Run the command in `arguments`; the exit status. No message repeats an enrolment token (I7)."""
    try:
        status = cli(args=list(arguments), prog_name="bootferry-rack", standalone_mode=False)
    except typer.TyperException as error:
        message = error.format_message() if hasattr(error, "format_message") else str(error)
        if message:
            typer.echo(_SECRET.sub("bfe_…", message), err=True)
            typer.echo("Try 'bootferry-rack --help'.", err=True)
        return 2
    except (typer.Abort, KeyboardInterrupt):
        return 128 + signal.SIGINT
    return status if isinstance(status, int) else 0


def _told(command: Callable[[], None]) -> None:
    if status := program.told(command):
        raise typer.Exit(status)


def _configured() -> RackConfiguration:
    """The configuration; root, who may have typed the command, is the data directory's owner now."""
    configuration = RackConfiguration.load()
    become_owner(configuration.data_dir)
    return configuration


def _version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"bootferry-rack {__version__}")
        raise typer.Exit


@cli.callback()
def options(
    version: Annotated[
        bool, typer.Option("--version", help="Show the version and exit.", callback=_version, is_eager=True)
    ] = False,
) -> None:
    pass


@cli.command()
def run() -> None:
    """Poll the region and serve machines, until SIGTERM. SIGHUP polls now."""
    _told(program.run)


@cli.command()
def enrol(
    region: RegionUrl,
    token_file: TokenFile = "",
    # For scripts of 0.1; it warns.
    token: Annotated[str, typer.Option(hidden=True)] = "",
    ca_bundle: CaBundle = None,
    name: RackName = "",
    again: Annotated[
        bool, typer.Option("--again", help="Replace the enrolment this rack has, with a new key.")
    ] = False,
) -> None:
    """Make this rack known to a region, once.

    The region's key is checked against the token before anything is sent, and the token's secret never is. Give the
    token as a file, or when you are asked; not as an argument: every user of a machine sees those.
    """
    _told(lambda: asyncio.run(enrolling.enrol(region, token_file, token, name, ca_bundle, again=again)))


key_cli = Program(help="The key of this rack.", no_args_is_help=True)
cli.add_typer(key_cli, name="key")


@key_cli.command()
def rotate() -> None:
    """Have another key, for which the present one vouches: the region takes no other from then on.

    A running bootferry-rack goes on with it at once. If the region does not answer, either key may count: the rack
    finds out by itself at its next poll, and you may run this again.
    """
    _told(lambda: asyncio.run(_rotate()))


async def _rotate() -> None:
    configuration = _configured()
    root = configuration.data_dir
    identity = identities.load(root)
    proxy = URL(configuration.proxy) if configuration.proxy else None
    async with client_session(ca_bundle=configuration.ca_bundle, ca_certificates=identity.ca_certificates) as session:
        region = Region(session, identity, now=lambda: datetime.now(UTC), proxy=proxy)
        await renew(root, identity, region, State.load(root).sequence)
    typer.echo(f"The key of this rack is {fingerprint(identity.key)[:16]}… now; the one before opens nothing any more.")
    if (process := holder(root / "lock")) is not None:
        # It is refused by its old key, and finds the new one.
        os.kill(process, signal.SIGHUP)


@cli.command()
def poll() -> None:
    """Have the running rack poll its region now."""
    _told(_poll)


def _poll() -> None:
    configuration = _configured()
    process = holder(configuration.data_dir / "lock")
    if process is None:
        raise Conflict(f"No bootferry-rack runs in {configuration.data_dir}; start it, then it polls by itself.")
    os.kill(process, signal.SIGHUP)
    minutes = round(POLL_PERIOD.total_seconds() / 60)
    typer.echo(
        f"bootferry-rack (process {process}) polls now; if a poll is under way, once more right after it, which is"
        f" within some {minutes} minutes."
    )


@cli.command()
def status(
    output: Annotated[Output, typer.Option("--output", "-o", help="How to answer.")] = Output.TEXT,
) -> None:
    """Say what this rack holds, whether it runs or not."""
    _told(lambda: _status(output))


def _status(output: Output) -> None:
    facts = _facts(_configured())
    if output is Output.JSON:
        typer.echo(json.dumps(facts, indent=2))
        return
    manifest, tree, process = facts["manifest"], facts["tree"], facts["process"]
    error = facts["last_error"]
    lines = {
        "Rack": f"{facts['name']} ({facts['rack_id']})",
        "Region": facts["region"],
        "Process": process if process is not None else "not running",
        "Last poll": facts["last_poll_at"] or "never",
        "Last error": error["sentence"] if error else "none",
        "Manifest": f"epoch {manifest['epoch']}, serial {manifest['serial']}" if manifest else "none yet",
        "Files": f"{facts['files_held']} of {facts['files_wanted']}, {spoken_size(facts['bytes_left'])} left to pull",
        "Free": spoken_size(facts["bytes_free"]),
        "Tree": tree["name"] if tree else "none yet",
    }
    for label, value in lines.items():
        typer.echo(f"{label + ':':<12}{value}")
    for line in _image_lines(tree["versions"] if tree else {}, facts["pending"]):
        typer.echo(line)


@cli.command()
def setup(
    region: RegionUrl,
    token_file: TokenFile = "",
    token: Annotated[str, typer.Option(hidden=True)] = "",
    ca_bundle: CaBundle = None,
    name: RackName = "",
    user: Annotated[str, typer.Option(metavar="USER", help="The system user of the service.")] = "bootferry-rack",
    start: Annotated[bool, typer.Option(help="Enable and start the unit.")] = True,
) -> None:
    """Make what the rack needs on this machine, enrol it, and start it; run again, it makes what is missing."""

    def work() -> None:
        from rack.setup import Wish, run

        run(
            Wish(region, user, start),
            machine.Machine(),
            typer.echo,
            lambda: asyncio.run(enrolling.enrol(region, token_file, token, name, ca_bundle, again=False)),
        )

    _told(work)


@cli.command()
def doctor(
    output: Annotated[checkup.Output, typer.Option("--output", "-o", help="How to answer.")] = checkup.Output.TEXT,
) -> None:
    """Look at everything that could be wrong on this machine, and say in one sentence each what to do.

    It ends with 1 when something is wrong.
    """
    _told(lambda: _doctor(output))


def _doctor(output: checkup.Output) -> None:
    from rack.doctor import Doctor

    configuration = RackConfiguration.load()
    machine.become_owner(configuration.data_dir)
    doctor = Doctor(configuration, machine.Machine(), lambda: datetime.now(UTC))
    checkup.tell(asyncio.run(doctor.examine()), output)


def _image_lines(versions: Mapping[str, str], pending: Sequence[Mapping[str, Any]]) -> Iterator[str]:
    """Each image with the version machines get, and for those that are pending what they should get, and why not."""
    waiting = {entry["image"]: entry for entry in pending}
    images = sorted({*versions, *waiting})
    width = max(map(len, images), default=0)
    for image in images:
        line = f"  {image:<{width}}  {versions.get(image, 'nothing yet')}"
        if (entry := waiting.get(image)) is not None:
            same = entry["wanted_version"] == versions.get(image)
            line += ", files missing or damaged" if same else f", pending {entry['wanted_version']}"
            line += f": {entry['error']['sentence']} ({entry['error']['code']})" if entry["error"] else ""
        yield line


def _facts(configuration: RackConfiguration) -> dict[str, Any]:
    root = configuration.data_dir
    identity, state, tree = identities.load(root), State.load(root), load_current(root)
    manifest = _manifest(configuration, identity)
    store = DiskStore(root)
    files = manifest.files() if manifest else {}
    versions = {image: shown.version for image, shown in sorted(tree.shown.items())} if tree else {}
    return {
        "name": identity.name,
        "rack_id": identity.rack_id,
        "region": str(identity.region_url),
        "region_fingerprint": fingerprint(identity.region_key),
        "data_dir": str(root),
        "process": holder(root / "lock"),
        "last_poll_at": datetime.fromtimestamp(state.last_poll_at, UTC).isoformat() if state.last_poll_at else None,
        "last_error": {"code": state.error_code, "sentence": state.error} if state.error else None,
        "manifest": {"epoch": manifest.epoch, "serial": manifest.serial} if manifest else None,
        "files_wanted": len(files),
        "files_held": sum(store.has(sha256, size) for sha256, size in files.items()),
        "bytes_left": store.bytes_missing(files.items()),
        "bytes_free": store.bytes_free(),
        "tree": {"name": tree.name, "images": sorted(tree.images()), "versions": versions} if tree else None,
        "pending": _pending(root, manifest, tree, state) if manifest else [],
    }


def _pending(root: Path, manifest: Manifest, tree: Tree | None, state: State) -> list[dict[str, Any]]:
    """The images that machines do not get as the manifest says, as the disk is now; why, the last poll has said."""
    images, found = manifest.images(), []
    for image, version in sorted(behind(root, manifest, tree).items()):
        code, sentence = state.faults.get(image, ("", ""))
        found.append(
            {
                "image": image,
                "shown_version": version,
                "wanted_version": shown_by(images[image]).version,
                "error": {"code": code, "sentence": sentence} if code else None,
            }
        )
    return found


def _manifest(configuration: RackConfiguration, identity: identities.Identity) -> Manifest | None:
    path = configuration.data_dir / "manifest.json"
    try:
        keys = [identity.region_key, *identity.former]
        return Manifest.parse(open_envelope(path.read_bytes(), MANIFEST_TYPE, keys, origin=str(path)))
    except (FileNotFoundError, BootferryError):
        return None
