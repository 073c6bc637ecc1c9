"""How fast the region serves a warm file, and how long a small request waits meanwhile.

    python -m tests.bench.serve_files --help

Each server is a process of its own. One client process reads on all connections and lets the kernel drop the bytes
(MSG_TRUNC), so that the server is what is measured; inside TLS it decrypts nothing but the handshake. Another asks for
a small answer every 5 ms. On a shared machine only the ratios within one run mean anything.
"""

import argparse
import asyncio
import os
import selectors
import shutil
import socket
import ssl
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from pathlib import Path
from typing import Literal

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import FileResponse, PlainTextResponse, Response
from starlette.routing import Route

from region.edge.content import file_response
from region.edge.server import build_server
from shared.digest import Hasher, Sha256
from shared.store.disk import DiskStore
from shared.tls import Certificate
from tests.http.client.certificates import Authority
from tests.stores import stored_path

SERVERS = ("uvloop", "asyncio", "chunks", "starlette", "nginx", "tls", "nginx-tls")
"""Ours: sendfile on either loop, and chunks of 1 MiB. Then Starlette's FileResponse, and nginx. Both inside TLS."""
HOST = "127.0.0.1"
READ_BYTES = 4 * 1024 * 1024
PROBE_EVERY_S = 0.005


@dataclass(frozen=True)
class Measured:
    """One server under one load: bytes per second, CPU seconds per gigabyte, latencies in seconds."""

    rate: float
    cpu: float
    latencies: list[float]


def main() -> None:
    """Measure every server asked for and print a table."""
    options = _options()
    if options.serve:
        _serve(options.serve, Path(options.root), options.port)
        return
    with tempfile.TemporaryDirectory(prefix="serve-files-") as name:
        root = Path(name)
        Authority.create(root).pair(HOST, into=root / "served")
        sha256 = _store_file(root, options.megabytes * 1_000_000)
        print(f"{'server':10} {'clients':>7} {'MB/s':>7} {'CPU s/GB':>9} {'p50 ms':>8} {'p99 ms':>8}")
        for server in options.server:
            if server.startswith("nginx") and shutil.which("nginx") is None:
                print(f"{server:10} is not installed")
                continue
            for clients in options.clients:
                with _started(server, root) as (process, port):
                    trusted = root / "authority.pem" if server.endswith("tls") else None
                    measured = _measure(process, port, f"/files/{sha256}", clients, options.seconds, trusted)
                print(
                    f"{server:10} {clients:7} {measured.rate / 1e6:7.0f} {measured.cpu:9.2f}"
                    f" {statistics.median(measured.latencies) * 1e3:8.2f}"
                    f" {statistics.quantiles(measured.latencies, n=100)[98] * 1e3:8.2f}",
                    flush=True,
                )


def _options() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--clients", type=int, nargs="+", default=[1, 8, 64], help="connections that read the file")
    parser.add_argument("--server", nargs="+", choices=SERVERS, default=SERVERS, help="what to measure")
    parser.add_argument("--megabytes", type=int, default=256, help="size of the file")
    parser.add_argument("--seconds", type=float, default=3, help="how long each load lasts")
    parser.add_argument("--serve", choices=SERVERS, help=argparse.SUPPRESS)
    parser.add_argument("--root", help=argparse.SUPPRESS)
    parser.add_argument("--port", type=int, help=argparse.SUPPRESS)
    return parser.parse_args()


def _store_file(root: Path, size: int) -> Sha256:
    store = DiskStore(root)
    chunks = [os.urandom(min(READ_BYTES, size - start)) for start in range(0, size, READ_BYTES)]
    hasher = Hasher()
    for chunk in chunks:
        hasher.update(chunk)
    with closing(store.writer(hasher.digest(), size)) as writer:
        for chunk in chunks:
            writer.write(chunk)
        writer.commit()
    # The benchmark is about warm files.
    stored_path(store, hasher.digest()).read_bytes()
    return hasher.digest()


def _serve(server: str, root: Path, port: int) -> None:
    store = DiskStore(root)

    async def ours(request: Request) -> Response:
        sha256 = Sha256(request.path_params["sha256"])
        if server == "chunks":
            request.scope["extensions"] = {}
        return await file_response(request, store, sha256, stored_path(store, sha256).stat().st_size)

    async def starlette(request: Request) -> Response:
        return FileResponse(stored_path(store, Sha256(request.path_params["sha256"])))

    async def small(request: Request) -> Response:
        return PlainTextResponse("small")

    app = Starlette(routes=[Route("/files/{sha256}", starlette if server == "starlette" else ours), Route("/", small)])
    if server == "starlette":
        uvicorn.run(app, host=HOST, port=port, log_level="error", access_log=False, loop="uvloop", http="httptools")
    else:
        loop: Literal["uvloop", "asyncio"] = "asyncio" if server == "asyncio" else "uvloop"
        certificate = Certificate(root / "served.pem", root / "served.key") if server == "tls" else None
        build_server(app, host=HOST, port=port, shutdown_grace_s=1, certificate=certificate, loop=loop).run()


@contextmanager
def _started(server: str, root: Path) -> Iterator[tuple[subprocess.Popen[bytes], int]]:
    with socket.create_server((HOST, 0)) as free:
        port = free.getsockname()[1]
    if server.startswith("nginx"):
        command = ["nginx", "-c", str(_nginx_config(root, port, tls=server == "nginx-tls")), "-e", "stderr"]
    else:
        command = [sys.executable, "-m", __spec__.name, "--serve", server, "--root", str(root), "--port", str(port)]
    process = subprocess.Popen(command)
    try:
        _await_port(port)
        yield process, port
    finally:
        process.terminate()
        process.wait()


def _nginx_config(root: Path, port: int, *, tls: bool) -> Path:
    config = root / "nginx.conf"
    # TLS 1.3, as the region speaks it to the same client.
    pair = f"ssl_certificate {root}/served.pem; ssl_certificate_key {root}/served.key; ssl_protocols TLSv1.3;"
    config.write_text(
        f"daemon off; master_process off; pid {root}/nginx.pid; error_log stderr error;\n"
        "events {}\n"
        "http { access_log off; sendfile on; sendfile_max_chunk 512k; server {\n"
        f"  listen {HOST}:{port}{' ssl' if tls else ''}; {pair if tls else ''}\n"
        f"  location ~ ^/files/((..).*)$ {{ alias {root}/files/$2/$1; }}\n"
        '  location / { return 200 "small"; }\n'
        "} }\n"
    )
    return config


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


def _measure(
    process: subprocess.Popen[bytes], port: int, path: str, clients: int, seconds: float, trusted: Path | None
) -> Measured:
    context = get_context("spawn")
    with context.Pool(2) as pool:
        pool.starmap(_warm_up, [(port, trusted)] * 2)
        before = _cpu_seconds(process.pid)
        reading = pool.apply_async(_read if trusted is None else _read_secure, (port, path, clients, seconds, trusted))
        probing = pool.apply_async(_probe, (port, seconds, trusted))
        received, elapsed = reading.get()
        latencies = probing.get()
        cpu = _cpu_seconds(process.pid) - before
    return Measured(received / elapsed, cpu / (received / 1e9), latencies)


def _warm_up(port: int, trusted: Path | None) -> None:
    asyncio.run(_ask(port, 0.1, trusted))


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def _read(port: int, path: str, clients: int, seconds: float, _trusted: None) -> tuple[int, float]:
    """(bytes received, seconds) on `clients` connections, each asking again as soon as it has the file."""
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    scratch = bytearray(READ_BYTES)
    left: dict[socket.socket, int] = {}
    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            connection = socket.create_connection((HOST, port))
            connection.sendall(request)
            left[connection] = 0
            selector.register(connection, selectors.EVENT_READ)
        received, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            for key, _events in selector.select(timeout=1):
                connection = key.fileobj  # type: ignore[assignment]
                if left[connection] == 0:
                    left[connection], count = _start_of_body(connection)
                else:
                    count = connection.recv_into(scratch, READ_BYTES, socket.MSG_TRUNC)
                    left[connection] -= count
                if left[connection] == 0:
                    connection.sendall(request)
                received += count
        elapsed = time.monotonic() - start
    for connection in left:
        connection.close()
    return received, elapsed


def _read_secure(port: int, path: str, clients: int, seconds: float, trusted: Path) -> tuple[int, float]:
    """As `_read`, inside TLS, with a connection for each file: past its head nothing is decrypted."""
    trust = ssl.create_default_context(cafile=trusted)
    request = f"GET {path} HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode()
    scratch = bytearray(READ_BYTES)
    left: dict[socket.socket, int] = {}

    def begin() -> socket.socket:
        with trust.wrap_socket(socket.create_connection((HOST, port)), server_hostname=HOST) as inside:
            inside.sendall(request)
            still, _ = _start_of_body(inside)
            connection = socket.socket(fileno=os.dup(inside.fileno()))
        left[connection] = still
        return connection

    with selectors.DefaultSelector() as selector:
        for _ in range(clients):
            selector.register(begin(), selectors.EVENT_READ)
        received, start = 0, time.monotonic()
        while time.monotonic() - start < seconds:
            for key, _events in selector.select(timeout=1):
                connection: socket.socket = key.fileobj  # type: ignore[assignment]
                count = connection.recv_into(scratch, READ_BYTES, socket.MSG_TRUNC)
                received += count
                left[connection] -= count
                if left[connection] <= 0:
                    del left[connection]
                    selector.unregister(connection)
                    connection.close()
                    selector.register(begin(), selectors.EVENT_READ)
        elapsed = time.monotonic() - start
        for key in list(selector.get_map().values()):
            key.fileobj.close()  # type: ignore[union-attr]
    return received, elapsed


def _start_of_body(connection: socket.socket) -> tuple[int, int]:
    """(bytes of the body still to come, bytes of the body received) once the response's head has been read."""
    head = b""
    while b"\r\n\r\n" not in head:
        head += connection.recv(4096)
    head, _, body = head.partition(b"\r\n\r\n")
    if not head.startswith(b"HTTP/1.1 200"):
        raise RuntimeError(head.decode())
    length = next(int(line[15:]) for line in head.split(b"\r\n") if line.lower().startswith(b"content-length:"))
    return length - len(body), len(body)


def _probe(port: int, seconds: float, trusted: Path | None) -> list[float]:
    return asyncio.run(_ask(port, seconds, trusted))


async def _ask(port: int, seconds: float, trusted: Path | None) -> list[float]:
    trust = None if trusted is None else ssl.create_default_context(cafile=trusted)
    reader, writer = await asyncio.open_connection(HOST, port, ssl=trust)
    latencies, end = [], time.monotonic() + seconds
    while time.monotonic() < end:
        start = time.monotonic()
        writer.write(f"GET / HTTP/1.1\r\nHost: {HOST}\r\n\r\n".encode())
        await reader.readuntil(b"\r\n\r\n")
        await reader.readexactly(len("small"))
        latencies.append(time.monotonic() - start)
        await asyncio.sleep(PROBE_EVERY_S)
    writer.close()
    return latencies


if __name__ == "__main__":
    main()
