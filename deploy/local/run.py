"""`make run`: a database, a sample mirror, a region and a rack, in the foreground, on loopback, until Ctrl-C.

$RUN_DIR/
    lock          held while this runs
    admin-token   the region's administrator, mode 0600
    postgres/     see deploy.local.postgres
    upstream/     the sample mirror, see deploy.local.mirror
    region/       the region's key and files
    rack/         the rack's key, files and tree
"""

import argparse
import asyncio
import contextlib
import errno
import http
import http.client
import json
import os
import signal
import socket
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from deploy.local import postgres
from deploy.local.child import command, die_with
from deploy.local.failure import Failure, exit_status
from deploy.local.printer import printing
from deploy.local.supervisor import Service, Supervisor, guardian

HOST = "127.0.0.1"
DATABASE = "region"
RACK_NAME = "rack-1"
GRACE_SECONDS = 30  # a person who watches does not want to wait a day for a prune
PROBE_TIMEOUT_S = 2.0
ENROL_TIMEOUT_S = 60.0
LARGEST_ANSWER = 1 << 20  # bytes
COLOURS = {"postgres": 36, "upstream": 35, "region": 34, "rack": 33}  # ECMA-48 SGR


@dataclass(frozen=True)
class Options:
    """What the caller of `make run` may choose. `sample` leaves the real mirror alone."""

    run_dir: Path
    region_port: int
    rack_port: int
    upstream_port: int
    sample: bool

    @property
    def region_url(self) -> str:
        return f"http://{HOST}:{self.region_port}"

    @property
    def rack_url(self) -> str:
        return f"http://{HOST}:{self.rack_port}"

    @property
    def admin_token(self) -> Path:
        return self.run_dir / "admin-token"


def parsed(arguments: Sequence[str]) -> Options:
    """The options in a command line; argparse's exit, with a sentence, if they are none."""
    parser = argparse.ArgumentParser(prog="make run", usage=argparse.SUPPRESS, description=__doc__)
    parser.add_argument("--run-dir", type=Path, default=Path(".run"))
    parser.add_argument("--region-port", type=port, default=5240)
    parser.add_argument("--rack-port", type=port, default=5248)
    parser.add_argument("--upstream-port", type=port, default=5280)
    parser.add_argument("--upstream", choices=("sample", "maas.io"), default="sample")
    chosen = parser.parse_args(arguments)
    return Options(
        run_dir=chosen.run_dir.absolute(),
        region_port=chosen.region_port,
        rack_port=chosen.rack_port,
        upstream_port=chosen.upstream_port,
        sample=chosen.upstream == "sample",
    )


def port(text: str) -> int:
    """A TCP port. Raises ValueError."""
    number = int(text)
    if not 0 < number < 1 << 16:
        raise ValueError(text)
    return number


def check_ports(options: Options) -> None:
    """Return if every port we need is free. Raises Failure, which names the variable to set."""
    wanted = {"REGION_PORT": options.region_port, "RACK_PORT": options.rack_port}
    if options.sample:
        wanted["UPSTREAM_PORT"] = options.upstream_port
    for variable, number in wanted.items():
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            try:
                probe.bind((HOST, number))
            except OSError as error:
                why = "is in use" if error.errno == errno.EADDRINUSE else f"cannot be used ({error.strerror})"
                example = f"make run {variable}={number + 10000 if number < 50000 else number - 10000}"
                raise Failure(f"Port {number} on {HOST} {why}: choose another, as in `{example}`.") from error
    if len(set(wanted.values())) < len(wanted):
        raise Failure(f"{', '.join(wanted)} must be different ports: they are {', '.join(map(str, wanted.values()))}.")


def check_upstream(options: Options) -> None:
    """Return if the run directory is new, or was begun with the same upstream. Raises Failure.

    The region remembers the source it began with, so another upstream later on would only be a source that is away.
    """
    wanted = f"UPSTREAM=sample UPSTREAM_PORT={options.upstream_port}" if options.sample else "UPSTREAM=maas.io"
    record = options.run_dir / "upstream.begun"
    begun = record.read_text().strip() if record.exists() else wanted
    if begun != wanted:
        raise Failure(f"{options.run_dir} was begun with {begun}: say so again, or set RUN_DIR to another directory.")
    record.write_text(f"{wanted}\n")


def region_environment(options: Options, database_url: str, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of every command of the region."""
    ours = {
        "REGION_DATABASE_URL": database_url,
        "REGION_DATA_DIR": str(options.run_dir / "region"),
        "REGION_HOST": HOST,
        "REGION_PORT": str(options.region_port),
        "REGION_PRUNE_GRACE_SECONDS": str(GRACE_SECONDS),
        "REGION_ADMIN_TOKEN_FILE": str(options.admin_token),
    }
    if options.sample:
        ours["REGION_DEFAULT_SOURCE_URL"] = f"http://{HOST}:{options.upstream_port}/"
        ours["REGION_DEFAULT_SOURCE_KEYRING"] = str(options.run_dir / "upstream" / "keyring.gpg")
    return common_environment(options, base) | ours


def rack_environment(options: Options, base: Mapping[str, str]) -> dict[str, str]:
    """The environment of every command of the rack."""
    return common_environment(options, base) | {
        "RACK_DATA_DIR": str(options.run_dir / "rack"),
        "RACK_HOST": HOST,
        "RACK_PORT": str(options.rack_port),
        "RACK_PRUNE_GRACE_SECONDS": str(GRACE_SECONDS),
    }


def common_environment(options: Options, base: Mapping[str, str]) -> dict[str, str]:
    """What all services get to see: the caller's environment, without make's part in it, nor a service manager's."""
    dropped = {"MAKEFLAGS", "MAKELEVEL", "MAKEOVERRIDES", "MFLAGS", "NOTIFY_SOCKET", "CREDENTIALS_DIRECTORY"}
    # Every start would compile all our modules anew.
    dropped |= {"PYTHONDONTWRITEBYTECODE"}
    # Settings in /etc belong to an installed Bootferry, not to this one.
    defaults = {"BOOTFERRY_CONFIG_DIR": str(options.run_dir / "etc")}
    return defaults | {name: value for name, value in base.items() if name not in dropped} | {"PYTHONUNBUFFERED": "1"}


def program(name: str) -> str:
    """A console script of our own environment."""
    return str(Path(sys.executable).with_name(name))


def service(name: str, argv: Sequence[str], environment: Mapping[str, str], *, port: int, path: str) -> Service:
    """A service that dies with us and is ready when it answers 200 at the path."""
    return Service(
        name=name,
        argv=command(argv, death_signal=signal.SIGKILL),
        environment=environment,
        is_ready=lambda _pid: answers(port, path),
    )


def answers(port: int, path: str) -> bool:
    """Whether GET of the path on loopback answers 200 now; never through a proxy."""
    connection = http.client.HTTPConnection(HOST, port, timeout=PROBE_TIMEOUT_S)
    try:
        connection.request("GET", path)
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


async def start_all(supervisor: Supervisor, options: Options, server: postgres.Server, base: Mapping[str, str]) -> None:
    """Start everything in order; return when all of it is ready. Raises Failure."""
    database = Service(
        name="postgres",
        argv=server.command(),
        environment=postgres.clean_environment(base),
        is_ready=server.is_ready,
        stop_steps=postgres.STOP_STEPS[:-1],
        guarded=False,
    )
    mirror_argv = [sys.executable, "-m", "deploy.local.mirror", "serve", "--dir", str(options.run_dir / "upstream")]
    mirror = service(
        "upstream",
        [*mirror_argv, "--host", HOST, "--port", str(options.upstream_port)],
        common_environment(options, base),
        port=options.upstream_port,
        path="/streams/v1/index.sjson",
    )
    region_env = region_environment(options, server.url(DATABASE), base)
    rack_env = rack_environment(options, base)
    region_argv = [program("bootferry-region"), "serve"]
    region = service("region", region_argv, region_env, port=options.region_port, path="/readyz")
    rack_argv = [program("bootferry-rack"), "run"]
    rack = service("rack", rack_argv, rack_env, port=options.rack_port, path="/livez")

    enrolment = options.run_dir / "rack" / "identity" / "region.json"
    if enrolment.exists():
        # All was ready before, so what imports its modules side by side is ready sooner. Each waits for the next.
        follow_region(enrolment, options.region_url)
        await supervisor.start(database)
        await supervisor.start(*([mirror] if options.sample else []), region, rack)
        return
    await supervisor.start(database, *([mirror] if options.sample else []))
    if not await server.has_database(DATABASE):
        await server.create_database(DATABASE)
    await supervisor.start(region)
    await enrol(options, rack_env)
    await supervisor.start(rack)


def follow_region(enrolment: Path, region_url: str) -> None:
    """Let an enrolled rack find its region, which may listen on another port than at the last start."""
    document = json.loads(enrolment.read_text())
    if document["region_url"].rstrip("/") != region_url:
        moved = enrolment.with_suffix(".new")
        moved.touch(mode=0o600)
        moved.write_text(json.dumps(document | {"region_url": region_url}, indent=2) + "\n")
        moved.replace(enrolment)


async def enrol(options: Options, rack_env: Mapping[str, str]) -> None:
    """Make the rack known to the region, with a token used once. Raises Failure."""
    token = await asyncio.to_thread(enrolment_token, options)
    argv = [program("bootferry-rack"), "enrol", "--region", options.region_url, "--name", RACK_NAME]
    # On standard input, because everyone on this machine sees the arguments of a command.
    await output(argv, rack_env, standard_input=token)


def enrolment_token(options: Options) -> str:
    """A new token from the region's API, which is there already; another process would first import it all again.

    Blocks. Raises Failure.
    """
    connection = http.client.HTTPConnection(HOST, options.region_port, timeout=ENROL_TIMEOUT_S)
    try:
        credentials = {"Authorization": f"Bearer {options.admin_token.read_text().strip()}"}
        connection.request("POST", "/api/v1/enrolment-tokens", headers=credentials)
        answer = connection.getresponse()
        body = answer.read(LARGEST_ANSWER)
        if answer.status != http.HTTPStatus.CREATED:
            raise Failure(f"The region gave no enrolment token; it said:\n{body.decode(errors='replace')}")
        return str(json.loads(body)["token"])
    except FileNotFoundError:
        raise Failure(f"{options.admin_token} is gone, so no rack can be enrolled: set RUN_DIR to a new one.") from None
    except (OSError, http.client.HTTPException) as error:
        raise Failure(f"The region gave no enrolment token ({error}); see its lines above.") from error
    finally:
        connection.close()


async def output(argv: Sequence[str], environment: Mapping[str, str], *, standard_input: str = "") -> str:
    """The last line a short command writes on standard output. Raises Failure with what it wrote on the other."""
    process = await asyncio.create_subprocess_exec(
        *command(argv, death_signal=signal.SIGKILL),
        env=environment,
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
        start_new_session=True,
    )
    try:
        said, complaint = await asyncio.wait_for(process.communicate(f"{standard_input}\n".encode()), ENROL_TIMEOUT_S)
    except TimeoutError:
        raise Failure(f"{Path(argv[0]).name} {argv[1]} did not end in {ENROL_TIMEOUT_S:.0f} seconds.") from None
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    if process.returncode != 0:
        raise Failure(f"{Path(argv[0]).name} {argv[1]} failed; it said:\n{complaint.decode(errors='replace').strip()}")
    return (said.decode().strip().splitlines() or [""])[-1].strip()


def banner(options: Options) -> str:
    """What a person who just typed `make run` wants to know."""
    here = Path.cwd()
    token = options.admin_token.relative_to(here) if options.admin_token.is_relative_to(here) else options.admin_token
    rows = [
        ("Images page", f"{options.region_url}/"),
        ("API docs", f"{options.region_url}/docs"),
        ("Rack", f"{options.rack_url}/images/…"),
        ("Admin token", str(token)),
    ]
    if options.sample:
        rows.append(
            ("Upstream", f"http://{HOST}:{options.upstream_port}/ (a sample; `make publish` adds a new version)")
        )
    listing = "\n".join(f"  {name:<12} {value}" for name, value in rows)
    curl = f'curl -H "Authorization: Bearer $(cat {token})" {options.region_url}/api/v1/images'
    farewell = "Ctrl-C stops everything; the next `make run` carries on."
    return f"\nBootferry is ready.\n\n{listing}\n\n  {curl}\n\n{farewell}\n"


async def run(options: Options, server: postgres.Server, base: Mapping[str, str]) -> None:
    """Everything, from the first service to the last, until we are told to stop. Raises Failure."""
    loop = asyncio.get_running_loop()
    stop_asked = asyncio.Event()
    colour = sys.stdout.isatty() and "NO_COLOR" not in base
    # Without a reader there is nobody in front of this foreground program any more.
    reader_left = partial(loop.call_soon_threadsafe, stop_asked.set)
    with guardian() as line_to_guardian, printing(sys.stdout.fileno(), on_closed=reader_left) as say:
        supervisor = Supervisor(line_to_guardian, lambda name, line: say(labelled(name, line, colour=colour)))

        def ask() -> None:
            if stop_asked.is_set():
                supervisor.kill()
            stop_asked.set()

        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            loop.add_signal_handler(number, ask)

        async def work() -> None:
            await start_all(supervisor, options, server, base)
            say(banner(options))
            await stop_asked.wait()

        working = asyncio.create_task(work())
        asked = asyncio.create_task(stop_asked.wait())
        failing = asyncio.create_task(supervisor.failure())
        try:
            await asyncio.wait({working, asked, failing}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            say("Stopping …")
            await supervisor.stop()
            done = [task for task in (failing, working) if task.done()]
            for task in (working, asked, failing):
                task.cancel()
        if not stop_asked.is_set():
            for task in done:
                if failure := task.result():
                    raise failure


def labelled(name: str, line: str, *, colour: bool) -> str:
    """A service's line as it is shown, its name in front."""
    label = f"{name:<{max(map(len, COLOURS))}} |"
    return f"\x1b[{COLOURS[name]}m{label}\x1b[0m {line}" if colour else f"{label} {line}"


def main() -> None:
    """Run until told to stop. Raises Failure."""
    if "MAKELEVEL" in os.environ:
        # Killing make, which started us, must not leave us behind.
        die_with(os.getppid(), signal.SIGTERM)
    options = parsed(sys.argv[1:])
    try:
        options.run_dir.mkdir(parents=True, exist_ok=True)
        with contextlib.ExitStack() as held:
            held.enter_context(postgres.locked(options.run_dir / "lock"))
            check_upstream(options)
            check_ports(options)
            server = held.enter_context(postgres.prepared(options.run_dir / "postgres", fsync=True))
            asyncio.run(run(options, server, os.environ))
    except PermissionError as error:
        raise Failure(f"{error.filename} is not yours to use: set RUN_DIR to a directory of your own.") from error


if __name__ == "__main__":
    sys.exit(exit_status(main))
