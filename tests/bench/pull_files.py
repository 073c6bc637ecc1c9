"""How long a verified pull takes, and what it costs: `shared.download` beside curl and a checksum.

    python -m tests.bench.pull_files --help

One server process sends the files with sendfile; each puller is a process of its own and its CPU time is counted alone,
the start of our interpreter included. Every puller ends with the files on disk, flushed. On a shared machine only the
ratios within one run mean anything.
"""

import argparse
import asyncio
import json
import os
import resource
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from aiohttp import web
from yarl import URL

from shared.digest import Sha256
from shared.disk import hash_file
from shared.download import Transfer, download
from shared.http import client_session
from shared.store.disk import DiskStore

HOST = "127.0.0.1"
MEGABYTE = 1_000_000


@dataclass(frozen=True)
class Offer:
    """What there is to pull: the server's URL, digests and the size in bytes each file has."""

    url: str
    digests: list[Sha256]
    size: int

    @property
    def gigabytes(self) -> float:
        return len(self.digests) * self.size / 1e9


@dataclass(frozen=True)
class Measured:
    """One pull: wall clock and CPU, in seconds."""

    wall: float
    cpu: float


Puller = Callable[[Offer, Path, int], None]


def main() -> None:
    """Pull the files in each way this machine knows and print a table."""
    options = _options()
    if options.serve:
        _serve(options.serve, options.port)
        return
    if options.pull:
        document = json.load(sys.stdin)
        offer = Offer(document["url"], [Sha256(digest) for digest in document["digests"]], document["size"])
        asyncio.run(_pull(offer, options.pull, options.parallel))
        return
    with tempfile.TemporaryDirectory(prefix="pull-files-", dir=options.directory) as name:
        directory = Path(name)
        _require_room(directory, 2 * options.files * options.megabytes * MEGABYTE)
        digests = _make_files(directory / "offered", options.files, options.megabytes * MEGABYTE)
        with _started(directory / "offered") as url:
            _compare(Offer(url, digests, options.megabytes * MEGABYTE), directory, options.parallel, options.rounds)


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--files", type=int, default=12, help="how many files there are (%(default)s)")
    parser.add_argument(
        "--megabytes", type=int, default=64, help="size of each file, in millions of bytes (%(default)s)"
    )
    parser.add_argument("--parallel", type=int, default=4, help="files pulled at once (%(default)s)")
    parser.add_argument("--rounds", type=int, default=3, help="pulls of each kind; medians are shown (%(default)s)")
    parser.add_argument("--directory", type=Path, help="where to work; the system's temporary directory when unset")
    parser.add_argument("--serve", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--pull", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _require_room(directory: Path, needed: int) -> None:
    if (free := shutil.disk_usage(directory).free) < needed:
        sys.exit(f"{needed / 1e9:.1f} GB are needed in {directory} and {free / 1e9:.1f} are free; name a --directory.")


def _make_files(directory: Path, count: int, size: int) -> list[Sha256]:
    directory.mkdir()
    digests = []
    for number in range(count):
        draft = directory / f"draft-{number}"
        with draft.open("wb") as file:
            for start in range(0, size, MEGABYTE):
                file.write(os.urandom(min(MEGABYTE, size - start)))
        digests.append(hash_file(draft).digest())
        draft.rename(directory / digests[-1])
    os.sync()
    for digest in digests:
        # Hashing gave the pages back; the server is to read from memory.
        (directory / digest).read_bytes()
    return digests


def _serve(directory: Path, port: int) -> None:
    app = web.Application()
    app.router.add_static("/", directory)
    web.run_app(app, host=HOST, port=port, access_log=None, print=None)


@contextmanager
def _started(directory: Path) -> Iterator[str]:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    process = subprocess.Popen([sys.executable, "-m", __spec__.name, "--serve", str(directory), "--port", str(port)])
    try:
        _await_port(port)
        yield f"http://{HOST}:{port}/"
    finally:
        process.terminate()
        process.wait()


def _await_port(port: int) -> None:
    deadline = time.monotonic() + 10
    while True:
        try:
            socket.create_connection((HOST, port)).close()
            return
        except ConnectionRefusedError:
            if time.monotonic() > deadline:
                raise
            time.sleep(0.05)


def _compare(offer: Offer, directory: Path, parallel: int, rounds: int) -> None:
    pullers = _pullers()
    measured: dict[str, list[Measured]] = {name: [] for name in pullers}
    for _ in range(rounds):
        # In turns, so that a noisy minute does not fall on one of them alone.
        for name, pull in pullers.items():
            measured[name].append(_measure(pull, offer, directory / "pulled", parallel))
    print(f"{len(offer.digests)} files of {offer.size / 1e6:.0f} MB, {parallel} at once, medians of {rounds}")
    print(f"{'puller':32} {'wall s':>7} {'MB/s':>6} {'CPU s/GB':>9}")
    for name, runs in measured.items():
        wall = statistics.median(run.wall for run in runs)
        cpu = statistics.median(run.cpu for run in runs)
        print(f"{name:32} {wall:7.2f} {offer.gigabytes * 1e3 / wall:6.0f} {cpu / offer.gigabytes:9.2f}")


def _pullers() -> dict[str, Puller]:
    pullers: dict[str, Puller] = {"shared.download": _ours}
    if shutil.which("curl") is None:
        print("curl is not installed: nothing to compare with")
        return pullers
    pullers["curl -Z, unverified"] = partial(_curl, [])
    for name, checksum in (("sha256sum", ["sha256sum"]), ("openssl dgst", ["openssl", "dgst", "-sha256", "-r"])):
        if shutil.which(checksum[0]):
            pullers[f"curl -Z, then {name}"] = partial(_curl, checksum)
    return pullers


def _measure(pull: Puller, offer: Offer, target: Path, parallel: int) -> Measured:
    target.mkdir()
    os.sync()
    before, start = _children_cpu(), time.monotonic()
    pull(offer, target, parallel)
    measured = Measured(time.monotonic() - start, _children_cpu() - before)
    shutil.rmtree(target)
    return measured


def _children_cpu() -> float:
    """CPU seconds of every process waited for; the server, still running, is not among them."""
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime


def _ours(offer: Offer, target: Path, parallel: int) -> None:
    command = [sys.executable, "-m", __spec__.name, "--pull", str(target), "--parallel", str(parallel)]
    said = json.dumps({"url": offer.url, "digests": offer.digests, "size": offer.size})
    subprocess.run(command, input=said, text=True, check=True)


async def _pull(offer: Offer, target: Path, parallel: int) -> None:
    store = DiskStore(target)
    slots = asyncio.Semaphore(parallel)

    async def one(transfer: Transfer, sha256: Sha256) -> None:
        async with slots:
            await download(transfer, store, URL(offer.url) / sha256, sha256, offer.size, lambda _size: None)

    with ThreadPoolExecutor(parallel) as executor:
        async with client_session() as session, asyncio.TaskGroup() as tasks:
            for sha256 in offer.digests:
                tasks.create_task(one(Transfer(session, executor), sha256))


def _curl(checksum: list[str], offer: Offer, target: Path, parallel: int) -> None:
    command = ["curl", "--silent", "--fail", "-Z", "--parallel-max", str(parallel), "--remote-name-all"]
    # With -Z, curl shows its progress whatever it is told.
    subprocess.run(
        [*command, *(offer.url + digest for digest in offer.digests)], cwd=target, check=True, capture_output=True
    )
    if checksum:
        said = subprocess.run(
            [*checksum, *offer.digests], cwd=target, check=True, capture_output=True, text=True
        ).stdout
        if [line.split()[0] for line in said.splitlines()] != offer.digests:
            raise ValueError(f"{checksum[0]} found other bytes than were offered")
    for digest in offer.digests:
        with (target / digest).open("rb") as file:
            os.fsync(file.fileno())


if __name__ == "__main__":
    main()
