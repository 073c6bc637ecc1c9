"""nginx and HAProxy before a region, with the configuration that is shipped: ports and paths are all that differ."""

import os
import shutil
import socket
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.http.client.calls import has_ipv6
from tests.http.conftest import free_port

DEPLOY = Path(__file__).parents[2] / "deploy"


@dataclass(frozen=True, slots=True)
class Proxy:
    """One that runs. `log` is what it says of requests."""

    port: int
    plain_port: int
    log: Path
    has_ipv6: bool

    @property
    def base(self) -> str:
        return f"https://127.0.0.1:{self.port}"


def require(program: str) -> str:
    """Where it is. Skips the test, where it is not; never in CI."""
    found = shutil.which(program, path=f"{os.environ.get('PATH', '')}:/usr/sbin")
    if found is None:
        if os.environ.get("CI"):
            pytest.fail(f"there is no {program}: run `make proxies`")
        pytest.skip(f"there is no {program}: run `make proxies`")
    return found


def changed(shipped: Path, changes: Mapping[str, str]) -> str:
    """The shipped text with each of these replaced; each must be there."""
    text = shipped.read_text()
    for old, new in changes.items():
        assert old in text, f"{shipped.name} has no {old!r}"
        text = text.replace(old, new)
    return text


@contextmanager
def nginx(
    directory: Path, region_port: int, pair: tuple[Path, Path], store: Path, *, user: str = "root"
) -> Iterator[Proxy]:
    """nginx, with `deploy/nginx/bootferry-region.conf`. As root its workers are `user`'s."""
    program = require("nginx")
    directory.mkdir()
    proxy = Proxy(free_port(), free_port(), directory / "access.log", has_ipv6())
    changes = {
        "127.0.0.1:5240": f"127.0.0.1:{region_port}",
        "listen 80;": f"listen 127.0.0.1:{proxy.plain_port};",
        "listen [::]:80;": f"listen [::1]:{proxy.plain_port};" if proxy.has_ipv6 else "",
        "listen 443 ssl;": f"listen 127.0.0.1:{proxy.port} ssl;",
        "listen [::]:443 ssl;": f"listen [::1]:{proxy.port} ssl;" if proxy.has_ipv6 else "",
        "/etc/ssl/region.pem": str(pair[0]),
        "/etc/ssl/private/region.key": str(pair[1]),
        "/var/lib/bootferry/region/store/": f"{store}/",
    }
    (directory / "bootferry-region.conf").write_text(changed(DEPLOY / "nginx" / "bootferry-region.conf", changes))
    places = "\n".join(
        f"{kind}_temp_path {directory}/{kind};" for kind in ("client_body", "proxy", "fastcgi", "uwsgi", "scgi")
    )
    (directory / "nginx.conf").write_text(
        f"{f'user {user};' if os.geteuid() == 0 else ''} daemon off; worker_processes 1; pid {directory}/pid;\n"
        f"events {{ worker_connections 512; }}\nhttp {{\n{places}\n"
        "log_format told '$remote_addr $request_method $uri $status $body_bytes_sent"
        " accel=$upstream_http_x_accel_redirect';\n"
        f"access_log {proxy.log} told;\ninclude {directory}/bootferry-region.conf;\n}}\n"
    )
    errors = directory / "error.log"
    with _running([program, "-c", str(directory / "nginx.conf"), "-e", str(errors)], proxy, errors):
        yield proxy


@contextmanager
def haproxy(
    directory: Path, region_port: int, pair: tuple[Path, Path], changes: Mapping[str, str] | None = None
) -> Iterator[Proxy]:
    """HAProxy, with `deploy/haproxy/bootferry-region.cfg`."""
    program = require("haproxy")
    directory.mkdir()
    proxy = Proxy(free_port(), free_port(), directory / "log", has_ipv6())
    both = directory / "region.pem"
    both.write_bytes(pair[0].read_bytes() + pair[1].read_bytes())

    def bind(port: int, port_here: int, rest: str) -> tuple[str, str]:
        binds = [f"bind {address}:{port_here}{rest}" for address in ("127.0.0.1", *(["::1"] * proxy.has_ipv6))]
        return f"bind :::{port} v4v6{rest}", "\n    ".join(binds)

    ours = dict(
        [
            ("127.0.0.1:5240", f"127.0.0.1:{region_port}"),
            ("/etc/haproxy/region.pem", str(both)),
            bind(80, proxy.plain_port, ""),
            bind(443, proxy.port, f" ssl crt {both} alpn http/1.1"),
        ]
    )
    config = directory / "haproxy.cfg"
    config.write_text(changed(DEPLOY / "haproxy" / "bootferry-region.cfg", ours | dict(changes or {})))
    with _running([program, "-db", "-f", str(config)], proxy, proxy.log):
        yield proxy


@contextmanager
def _running(command: list[str], proxy: Proxy, log: Path) -> Iterator[None]:
    with log.open("ab") as out, subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=out, stderr=out) as process:
        try:
            for port in (proxy.port, proxy.plain_port):
                _await(port, process, log)
            yield
        finally:
            process.terminate()


def _await(port: int, process: "subprocess.Popen[bytes]", log: Path) -> None:
    while process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
        except OSError:
            continue
        return
    raise AssertionError(f"the proxy ended with {process.returncode}: {log.read_text()}")
