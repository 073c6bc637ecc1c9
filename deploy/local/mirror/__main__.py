"""`python -m deploy.local.mirror`: serve the sample mirror, or publish a new version into it."""

import argparse
import asyncio
import signal
import sys
from datetime import UTC, datetime
from pathlib import Path

from deploy.local.mirror import content
from deploy.local.mirror.mirror import Mirror, Published
from deploy.local.mirror.server import serve

SIZES = {"sample": content.SAMPLE, "tiny": content.TINY}


def main(arguments: list[str] | None = None) -> int:
    """Exit status 0 when what was asked for was done; 1 after one sentence on stderr that says why it was not."""
    options = parser().parse_args(arguments)
    try:
        if options.command == "serve":
            asyncio.run(run(options))
        else:
            say(describe(publish(options)))
    except (OSError, LookupError, ValueError) as error:
        sys.stderr.write(f"{error}\n")
        return 1
    return 0


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="python -m deploy.local.mirror", description="Bootferry's sample upstream mirror."
    )
    commands = whole.add_subparsers(dest="command", required=True)

    serving = commands.add_parser(
        "serve",
        help="serve the mirror in the foreground, creating it where there is none",
        description="Serve the mirror in the foreground until SIGTERM or SIGINT. One line on stdout says that it is "
        "ready, with its URL, its keyring and its key. A mirror that is there is served as it is.",
    )
    serving.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    serving.add_argument("--port", type=int, default=5280, help="port; 0 picks a free one (default: %(default)s)")
    serving.add_argument("--sizes", choices=SIZES, default="sample", help="file sizes of a new mirror")

    publishing = commands.add_parser(
        "publish",
        help="publish a new daily version",
        description="Publish a new version into the mirror. A server on it serves the version at once; nothing needs "
        "to be told. Each product keeps its two newest versions.",
    )
    publishing.add_argument("--os", default="ubuntu", help="operating system, or bootloader (default: %(default)s)")
    publishing.add_argument("--release", help="release, such as noble (default: all of the operating system)")
    publishing.add_argument("--arch", help="architecture, such as amd64 (default: all)")
    publishing.add_argument("--version", help="serial, such as 20260702 (default: the day after the newest)")

    for command in serving, publishing:
        command.add_argument("--dir", type=Path, required=True, help="directory of the mirror, its key and keyring")
    return whole


async def run(options: argparse.Namespace) -> None:
    stop = asyncio.Event()
    for number in signal.SIGTERM, signal.SIGINT:
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    mirror = await asyncio.to_thread(
        Mirror.create, options.dir, now=datetime.now(UTC).replace(microsecond=0), sizes=SIZES[options.sizes]
    )
    async with serve(mirror, host=options.host, port=options.port) as server:
        say(f"Sample mirror at {server.url} with keyring {mirror.keyring_path} of key {mirror.fingerprint}")
        await stop.wait()


def publish(options: argparse.Namespace) -> Published:
    try:
        mirror = Mirror.open(options.dir)
    except FileNotFoundError as error:
        raise LookupError(f"There is no mirror in {options.dir}; `serve` makes one.") from error
    now = datetime.now(UTC).replace(microsecond=0)
    return mirror.publish(
        options.version,
        os=options.os,
        release=options.release,
        arch=options.arch,
        updated=now if now > mirror.updated else None,
    )


def describe(published: Published) -> str:
    megabytes = sum(file.size for file in published.files) / 1e6
    lines = [f"Published {published.version}: {len(published.files)} files, {megabytes:.1f} MB, in"]
    return "\n  ".join([*lines, *published.products])


def say(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
