"""What strangers can do to a region: a real process, and what anybody may send it.

    python -m tests.bench.strangers [--idle 3000] [--half 200] [--rounds 5]

- Each of `SINGLE`, requests that anybody can send, alone: for how long the region's loop stood still (the longest
  answer to a /livez on another connection, asked every millisecond; the least of the rounds), and the CPU that the loop
  took for it, the least and the first: a loop cannot stand still for longer by its own doing.
- So many idle connections and so many half-sent requests, kept up for as long as an import takes: what an operator's
  call takes meanwhile, and that the import ends.
- The growth of the region's memory over all of that.

Goals: 50 ms for the loop, 200 ms for a call, 32 MB of memory. On a busy machine the time that others take counts too;
the CPU does not.
"""

import argparse
import asyncio
import contextlib
import os
import random
import resource
import statistics
import sys
import tempfile
import time
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import aiohttp

from deploy.local import postgres
from deploy.local.mirror.content import SAMPLE
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import serve
from deploy.local.scratch import scratch_directory
from tests.conftest import NOW
from tests.http.conftest import free_port

GOAL_STALL_MS, GOAL_CALL_MS, GOAL_GROWTH_MB = 50, 200, 32
COME_AGAIN_S = 5.0
SOURCES = [f"127.0.{number}.1" for number in range(1, 9)]
"""Where strangers come from: on Linux, all of 127.0.0.0/8 is this machine."""

_TOKEN = f"Authorization: Bearer bf_{'0' * 12}_{'x' * 43}"
_SIGNATURE = (
    f"Signature: rack=:{'A' * 86}==:",
    'Signature-Input: rack=("@method" "@path" "@query");created=1;keyid="00";tag="bootferry-rack"',
)
Line = tuple[asyncio.StreamReader, asyncio.StreamWriter]


def head(method: str, path: str, *lines: str) -> bytes:
    """A request's head."""
    return "\r\n".join([f"{method} {path} HTTP/1.1", "Host: region", *lines, "", ""]).encode()


def with_body(method: str, path: str, body: bytes, *lines: str) -> bytes:
    """A request, whole."""
    return head(method, path, f"Content-Length: {len(body)}", "Content-Type: application/json", *lines) + body


HALF_SENT = (
    head("POST", "/api/v1/racks/enrol", "Content-Length: 16000") + b"{" * 8_000,
    head("POST", "/api/v1/session", "Content-Length: 4000") + b"{" * 2_000,
    head("GET", "/api/v1/images", "X: " + "x" * 8_000)[:-2],
    head("PUT", "/api/v1/selections", "Content-Length: 1000", _TOKEN) + b"{",
)

SINGLE: Mapping[str, bytes] = {
    "GET /": head("GET", "/"),
    "GET /docs": head("GET", "/docs"),
    "GET /static, the largest": head("GET", "/static/vendor/swagger-ui-bundle.js"),
    "GET /api/v1/openapi.json": head("GET", "/api/v1/openapi.json"),
    "the same, 16 times at once": head("GET", "/api/v1/openapi.json") * 16,
    "GET /livez, 16 times at once": head("GET", "/livez") * 16,
    "GET /livez, 9,000 times at once": head("GET", "/livez") * 9_000,
    "GET /readyz": head("GET", "/readyz"),
    "GET /api/v1/region": head("GET", "/api/v1/region"),
    "GET /metrics": head("GET", "/metrics"),
    "GET of nothing": head("GET", "/nothing"),
    "a log-in": with_body("POST", "/api/v1/session", b'{"token": "bf_%s_%s"}' % (b"0" * 12, b"x" * 43)),
    "a log-in of brackets": with_body("POST", "/api/v1/session", b"[" * 4096),
    "a log-in of fields": with_body("POST", "/api/v1/session", b'{"a":1,' * 580 + b'"b":1}'),
    "an enrolment of noise": with_body("POST", "/api/v1/racks/enrol", os.urandom(16 * 1024)),
    "an enrolment of brackets": with_body("POST", "/api/v1/racks/enrol", b"[" * 16 * 1024),
    "an enrolment in chunks of a byte": head("POST", "/api/v1/racks/enrol", "Transfer-Encoding: chunked")
    + b"1\r\n{\r\n" * 16_384
    + b"0\r\n\r\n",
    "a megabyte in chunks of a byte": head("POST", "/api/v1/racks/enrol", "Transfer-Encoding: chunked")
    + b"1\r\n{\r\n" * 170_000
    + b"0\r\n\r\n",
    "8 MiB that nobody asked for": with_body("PUT", f"/api/v1/racks/{'0' * 32}/report", bytes(8 * 1024 * 1024)),
    "8 MiB with a signature": with_body("PUT", f"/api/v1/racks/{'0' * 32}/report", bytes(8 * 1024 * 1024), *_SIGNATURE),
    "a token of nobody": head("GET", "/api/v1/images", _TOKEN),
    "a cookie of 60,000 bytes": head("GET", "/api/v1/images", "Cookie: " + "a=b; " * 12_000),
    "a signature of 60,000 bytes": head(
        "GET", "/api/v1/manifest", "Signature: " + "a=:AA==:, " * 3_000, "Signature-Input: " + "a=();b, " * 3_750
    ),
    "a path of 60,000 bytes": head("GET", "/api/v1/files/" + "%41" * 20_000),
    "a query of 60,000 bytes": head("GET", "/api/v1/region?" + "a=b&" * 15_000),
    "a range of 60,000 bytes": head("GET", "/static/docs.js", "Range: bytes=" + "0-1," * 15_000 + "0-1"),
    "a header of 60,000 bytes": head("GET", "/livez", "X: " + "x" * 60_000),
    "13,000 headers": head("GET", "/livez", *["a:"] * 13_000),
}


@dataclass(frozen=True, slots=True)
class Site:
    """A region process that runs, and how an operator asks it."""

    session: aiohttp.ClientSession
    port: int
    pid: int
    token: str

    async def call(self, method: str, path: str, **given: object) -> tuple[int, object, float]:
        """Status, JSON, and the milliseconds it took."""
        started = time.perf_counter()
        url, headers = f"http://127.0.0.1:{self.port}/api/v1{path}", {"Authorization": f"Bearer {self.token}"}
        async with self.session.request(method, url, headers=headers, **given) as response:  # type: ignore[arg-type]
            body = await response.json() if response.status < 300 else None
            return response.status, body, (time.perf_counter() - started) * 1000

    async def connect(self, source: str = "127.0.0.1") -> Line:
        return await asyncio.open_connection("127.0.0.1", self.port, local_addr=(source, 0))

    async def strangers(self) -> float:
        """How many the region counts."""
        url, headers = f"http://127.0.0.1:{self.port}/metrics", {"Authorization": f"Bearer {self.token}"}
        async with self.session.get(url, headers=headers) as response:
            return float((await response.text()).partition("\nbootferry_strangers ")[2].split()[0])

    def memory_mb(self) -> float:
        """What the region's process has in memory."""
        status = Path(f"/proc/{self.pid}/status").read_text()
        return int(status.partition("VmRSS:")[2].split()[0]) / 1000

    def cpu_ms(self) -> float:
        """The CPU that the thread of the region's loop has taken."""
        return int(Path(f"/proc/{self.pid}/task/{self.pid}/schedstat").read_text().split()[0]) / 1e6


@asynccontextmanager
async def site(directory: Path, database_url: str) -> AsyncIterator[Site]:
    """A region that has the newest LTS of a sample mirror already."""
    mirror = Mirror.create(directory / "upstream", now=NOW, sizes=SAMPLE)
    port, data = free_port(), directory / "region"
    async with serve(mirror, host="127.0.0.1") as upstream, aiohttp.ClientSession() as session:
        environment = os.environ | {
            "REGION_DATABASE_URL": database_url,
            "REGION_DATA_DIR": str(data),
            "REGION_PORT": str(port),
            "REGION_DEFAULT_SOURCE_URL": upstream.url,
            "REGION_DEFAULT_SOURCE_KEYRING": str(mirror.keyring_path),
            "REGION_LOG_LEVEL": "error",
        }
        process = await asyncio.create_subprocess_exec(sys.executable, "-m", "region", "serve", env=environment)
        try:
            while not (data / "admin-token").is_file():  # noqa: ASYNC110 - nothing tells us
                await asyncio.sleep(0.1)
            found = Site(session, port, process.pid, (data / "admin-token").read_text().strip())
            await ended(found, 1)
            yield found
        finally:
            process.terminate()
            await process.wait()


async def ended(region: Site, import_id: int) -> str:
    """The state in which an import has ended."""
    while True:
        with contextlib.suppress(aiohttp.ClientError):
            status, body, _ = await region.call("GET", f"/imports/{import_id}")
            if status == 200 and isinstance(body, dict) and body["state"] not in ("queued", "running"):
                return str(body["state"])
        await asyncio.sleep(0.1)


async def _send(line: Line, sent: bytes) -> None:
    """Send it, and take what comes until nothing comes any longer."""
    reader, writer = line
    writer.write(sent)
    patience_s = 20.0 if sent else 0.3
    with contextlib.suppress(ConnectionError, TimeoutError):
        await asyncio.wait_for(writer.drain(), 2)
        while await asyncio.wait_for(reader.read(1024 * 1024), patience_s):
            patience_s = 0.3
    writer.transport.abort()


async def cpu_ms(region: Site, sent: bytes) -> float:
    """The CPU that this takes of the loop, and nothing else meanwhile."""
    line = await region.connect()
    await asyncio.sleep(0.1)
    before = region.cpu_ms()
    await _send(line, sent)
    return region.cpu_ms() - before


async def stall_ms(region: Site, sent: bytes) -> float:
    """The longest answer to a /livez on another connection while this is answered."""
    line, (reader, writer) = await region.connect(), await region.connect()
    worst, asking = 0.0, asyncio.create_task(_send(line, sent))
    while not asking.done():
        started = time.perf_counter()
        writer.write(head("GET", "/livez"))
        raw = await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(int(raw.lower().partition(b"content-length: ")[2].split()[0]))
        worst = max(worst, (time.perf_counter() - started) * 1000)
        await asyncio.sleep(0.001)
    writer.transport.abort()
    return worst


async def single(region: Site, rounds: int) -> dict[str, tuple[float, float]]:
    """Each of SINGLE: for how long the loop stood still, and its CPU; the least of the rounds, but the first CPU too.

    Others on the machine only ever make a stall longer.
    """
    found = {}
    for name, sent in {"nothing": b"", **SINGLE}.items():
        spent = [await cpu_ms(region, sent) for _ in range(rounds)]
        stalls = [await stall_ms(region, sent) for _ in range(rounds)]
        found[name] = (min(stalls), spent[0])
        print(f"{name:36} {min(stalls):8.1f} {min(spent):8.1f} {spent[0]:8.1f}", flush=True)
    return found


async def be_strangers(port: int, idle: int, half: int) -> None:
    """So many connections, for ever; one that is closed comes again after a while."""

    async def stay(number: int) -> None:
        source = SOURCES[number % len(SOURCES)]
        sent = HALF_SENT[number % len(HALF_SENT)] if number < half else b""
        while True:
            with contextlib.suppress(OSError):
                reader, writer = await asyncio.open_connection("127.0.0.1", port, local_addr=(source, 0))
                writer.write(sent)
                with contextlib.suppress(ConnectionError):
                    await reader.read()
                writer.transport.abort()
            await asyncio.sleep(COME_AGAIN_S * random.uniform(0.5, 1.5))

    raise_open_files()
    await asyncio.gather(*map(stay, range(half + idle)))


@asynccontextmanager
async def strangers(region: Site, idle: int, half: int) -> AsyncIterator[None]:
    """So many are there, from a process of their own."""
    arguments = [
        "-m",
        "tests.bench.strangers",
        "--strangers",
        str(region.port),
        "--idle",
        str(idle),
        "--half",
        str(half),
    ]
    process = await asyncio.create_subprocess_exec(sys.executable, *arguments)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


@dataclass(frozen=True, slots=True)
class Crowd:
    """What an operator saw: milliseconds of each call, how the import ended, and how far memory grew."""

    calls_ms: list[float]
    refused: int
    state: str
    growth_mb: float


async def crowd(region: Site, idle: int, half: int, least_s: float = 3.0) -> Crowd:
    """An operator selects an image and looks at the images, among strangers, until the import has ended."""
    before = region.memory_mb()
    most, calls, refused = before, [], 0
    async with strangers(region, idle, half):
        while await region.strangers() < min(idle + half, 1_900):  # noqa: ASYNC110 - nothing tells us
            await asyncio.sleep(0.1)
        # Then all have been there once, and those who were closed come again.
        await asyncio.sleep(COME_AGAIN_S / 2)
        _, selected, _ = await region.call(
            "POST", "/selections", json={"os": "ubuntu", "release": "noble", "arch": "amd64"}
        )
        assert isinstance(selected, dict)
        ending = asyncio.create_task(ended(region, 2))
        until = time.monotonic() + least_s
        while not ending.done() or time.monotonic() < until:
            status, _, took_ms = await region.call("GET", "/images")
            calls.append(took_ms)
            refused += status != 200
            most = max(most, region.memory_mb())
            await asyncio.sleep(0.05)
        return Crowd(calls, refused, await ending, most - before)


def raise_open_files() -> None:
    """Room for the strangers, who are all in this process."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


async def measure(directory: Path, database_url: str, idle: int, half: int, rounds: int) -> bool:
    async with site(directory, database_url) as region:
        for _ in range(20):
            await region.call("GET", "/images")
        before = region.memory_mb()
        print(f"{'a request of anybody':36} {'stall':>8} {'CPU':>8} {'first':>8}  (ms)")
        found = await single(region, rounds)
        worst = max(SINGLE, key=lambda name: found[name][0])
        grown = region.memory_mb() - before
        print(f"\nworst stall: {found[worst][0]:.1f} ms ({worst}); goal {GOAL_STALL_MS}; memory grew {grown:.1f} MB")
        alone = [(await region.call("GET", "/images"))[2] for _ in range(50)]
        print(f"\nGET /images alone: median {statistics.median(alone):.1f} ms, worst {max(alone):.1f} ms")
        seen = await crowd(region, idle, half, least_s=15)
        cuts = statistics.quantiles(seen.calls_ms, n=100)
        growth = region.memory_mb() - before
        print(
            f"with {idle} idle and {half} half-sent: {len(seen.calls_ms)} calls, median {cuts[49]:.1f} ms, "
            f"p95 {cuts[94]:.1f}, worst {max(seen.calls_ms):.1f}; goal {GOAL_CALL_MS}; {seen.refused} refused\n"
            f"the import {seen.state}; memory grew {seen.growth_mb:.1f} MB, {growth:.1f} in all; goal {GOAL_GROWTH_MB}"
        )
    return found[worst][0] < GOAL_STALL_MS and cuts[94] < GOAL_CALL_MS and seen.growth_mb < GOAL_GROWTH_MB


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--idle", type=int, default=3000, help="connections that say nothing")
    parser.add_argument("--half", type=int, default=200, help="connections with half a request")
    parser.add_argument("--rounds", type=int, default=5, help="how often each single request is sent")
    parser.add_argument("--strangers", type=int, help="be them, at the region with this port")
    options = parser.parse_args()
    if options.strangers:
        asyncio.run(be_strangers(options.strangers, options.idle, options.half))
    memory = "/dev/shm" if Path("/dev/shm").is_dir() else None
    with (
        tempfile.TemporaryDirectory(dir=memory) as scratch,
        scratch_directory() as directory,
        postgres.running(directory, fsync=False) as server,
    ):
        asyncio.run(server.create_database("strangers"))
        good = asyncio.run(measure(Path(scratch), server.url("strangers"), options.idle, options.half, options.rounds))
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
