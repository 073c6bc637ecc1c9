"""`make run`: what each service is told, and what is refused before anything starts."""

import json
import os
import socket
import threading
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from deploy.local.failure import Failure
from deploy.local.postgres import locked
from deploy.local.run import (
    Options,
    answers,
    banner,
    check_ports,
    check_upstream,
    common_environment,
    follow_region,
    labelled,
    output,
    parsed,
    rack_environment,
    region_environment,
)

OPTIONS = Options(run_dir=Path("/r"), region_port=5240, rack_port=5248, upstream_port=5280, sample=True)


@pytest.mark.parametrize(
    ("arguments", "expected"),
    [
        pytest.param([], replace(OPTIONS, run_dir=Path.cwd() / ".run"), id="defaults"),
        pytest.param(["--run-dir", "/r", "--upstream", "maas.io"], replace(OPTIONS, sample=False), id="maas.io"),
        pytest.param(["--run-dir", "/r", "--rack-port", "1"], replace(OPTIONS, rack_port=1), id="port"),
    ],
)
def test_parsed(arguments: list[str], expected: Options) -> None:
    assert parsed(arguments) == expected


@pytest.mark.parametrize(
    "arguments",
    [
        pytest.param(["--rack-port", "0"], id="port-zero"),
        pytest.param(["--rack-port", "65536"], id="port-too-large"),
        pytest.param(["--rack-port", ""], id="port-empty"),
        pytest.param(["--upstream", "elsewhere"], id="unknown-upstream"),
    ],
)
def test_parsed_refuses(arguments: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        parsed(arguments)
    assert f"argument {arguments[0]}: invalid" in capsys.readouterr().err


def test_the_region_of_a_sample_run_begins_with_the_sample_mirror() -> None:
    environment = region_environment(OPTIONS, "postgresql+asyncpg://db", {"PATH": "/bin"})
    assert environment["REGION_DATABASE_URL"] == "postgresql+asyncpg://db"
    assert environment["REGION_DEFAULT_SOURCE_URL"] == "http://127.0.0.1:5280/"
    assert environment["REGION_DEFAULT_SOURCE_KEYRING"] == "/r/upstream/keyring.gpg"
    assert environment["REGION_ADMIN_TOKEN_FILE"] == "/r/admin-token"
    assert environment["PATH"] == "/bin"


def test_the_region_of_a_real_run_keeps_its_own_default_source() -> None:
    environment = region_environment(replace(OPTIONS, sample=False), "postgresql+asyncpg://db", {})
    assert not [name for name in environment if name.startswith("REGION_DEFAULT_SOURCE")]
    assert "Upstream" not in banner(replace(OPTIONS, sample=False))


def test_the_rack_is_told_nothing_of_the_database() -> None:
    environment = rack_environment(OPTIONS, {})
    assert environment["RACK_DATA_DIR"] == "/r/rack"
    assert not [name for name in environment if name.startswith("REGION_")]


def test_services_see_the_callers_environment_without_makes() -> None:
    caller = {"MAKEFLAGS": "-n", "NOTIFY_SOCKET": "/run/n", "REGION_LOG_LEVEL": "debug", "BOOTFERRY_CONFIG_DIR": "/c"}
    environment = common_environment(OPTIONS, caller)
    assert environment == {"REGION_LOG_LEVEL": "debug", "BOOTFERRY_CONFIG_DIR": "/c", "PYTHONUNBUFFERED": "1"}
    assert common_environment(OPTIONS, {})["BOOTFERRY_CONFIG_DIR"] == "/r/etc"


@pytest.mark.parametrize(
    ("variable", "field"),
    [("REGION_PORT", "region_port"), ("RACK_PORT", "rack_port"), ("UPSTREAM_PORT", "upstream_port")],
)
def test_a_port_in_use_is_refused_with_the_variable_to_set(variable: str, field: str) -> None:
    region_port, rack_port, upstream_port = free_ports(3)
    free = Options(Path("/r"), region_port, rack_port, upstream_port, sample=True)
    check_ports(free)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        number = taken.getsockname()[1]
        with pytest.raises(Failure, match=rf"Port {number} on 127.0.0.1 is in use: .*`make run {variable}=\d+`"):
            check_ports(replace(free, **{field: number}))


def test_a_port_is_only_for_one() -> None:
    (number,) = free_ports(1)
    with pytest.raises(Failure, match="must be different ports"):
        check_ports(Options(Path("/r"), number, number, number, sample=True))


def test_a_mirror_that_is_not_started_needs_no_port() -> None:
    region_port, rack_port = free_ports(2)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        check_ports(Options(Path("/r"), region_port, rack_port, taken.getsockname()[1], sample=False))


def free_ports(count: int) -> list[int]:
    sockets = [socket.socket() for _ in range(count)]
    try:
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]
    finally:
        for each in sockets:
            each.close()


def test_a_run_directory_is_only_for_one(tmp_path: Path) -> None:
    with (
        locked(tmp_path / "lock"),
        pytest.raises(Failure, match=f"{tmp_path} is in use by another Bootferry"),
        locked(tmp_path / "lock"),
    ):
        pass
    with locked(tmp_path / "lock"):
        pass


def test_answers_asks_loopback_itself(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(200 if self.path == "/readyz" else 503)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with HTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        port = server.server_address[1]
        try:
            assert answers(port, "/readyz")
            assert not answers(port, "/elsewhere")
        finally:
            server.shutdown()
            thread.join()
    assert not answers(port, "/readyz")


def test_the_banner_names_what_a_person_looks_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    shown = banner(replace(OPTIONS, run_dir=tmp_path / ".run"))
    for wanted in ("http://127.0.0.1:5240/docs", "http://127.0.0.1:5248/images/", "make publish", "Ctrl-C"):
        assert wanted in shown
    assert '"Authorization: Bearer $(cat .run/admin-token)" http://127.0.0.1:5240/api/v1/images' in shown
    assert f"$(cat {os.fspath(OPTIONS.admin_token)})" in banner(OPTIONS)


def test_a_line_is_coloured_only_where_asked() -> None:
    assert labelled("rack", "hello", colour=False) == "rack     | hello"
    assert labelled("rack", "hello", colour=True) == "\x1b[33mrack     |\x1b[0m hello"


def test_a_run_directory_keeps_the_upstream_it_began_with(tmp_path: Path) -> None:
    begun = replace(OPTIONS, run_dir=tmp_path)
    check_upstream(begun)
    check_upstream(begun)
    with pytest.raises(
        Failure, match="was begun with UPSTREAM=sample UPSTREAM_PORT=5280: say so again, or set RUN_DIR"
    ):
        check_upstream(replace(begun, sample=False))
    with pytest.raises(Failure, match="UPSTREAM_PORT=5280"):
        check_upstream(replace(begun, upstream_port=5281))


def test_an_enrolled_rack_follows_its_region_to_another_port(tmp_path: Path) -> None:
    enrolment = tmp_path / "region.json"
    enrolment.write_text('{"region_url": "http://127.0.0.1:5240/", "rack_id": "7"}')
    follow_region(enrolment, "http://127.0.0.1:5240")
    assert json.loads(enrolment.read_text())["region_url"] == "http://127.0.0.1:5240/"
    follow_region(enrolment, "http://127.0.0.1:15240")
    assert json.loads(enrolment.read_text()) == {"region_url": "http://127.0.0.1:15240", "rack_id": "7"}
    assert enrolment.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [enrolment]


async def test_a_short_command_that_fails_is_quoted() -> None:
    assert await output(["sh", "-c", "echo noise; cat"], dict(os.environ), standard_input="token") == "token"
    with pytest.raises(Failure, match=r"^sh -c failed; it said:\nno such region$"):
        await output(["sh", "-c", "echo no such region >&2; exit 1"], dict(os.environ))
