"""From a bare Python to an environment: reading the lock, choosing a wheel, trusting only its digest."""

import hashlib
import json
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from deploy.local.bootstrap import CHECKOUT, is_made, stamp_of, wanted_state
from deploy.local.environment import link_checkout, uv_environment
from deploy.local.failure import Failure
from deploy.local.index import (
    Machine,
    Pin,
    fetch,
    fits,
    index_address,
    offered,
    pinned,
    this_machine,
    without_credentials,
)

DEBIAN = Machine("x86_64", "manylinux", (2, 36))
ALPINE = Machine("x86_64", "musllinux", (1, 2))
PIN = Pin("uv", "0.13.9", frozenset())
WHEEL_NAME = "uv-0.13.9-py3-none-manylinux_2_17_x86_64.manylinux2014_x86_64.whl"

LOCK = f"""\
urllib3==2.0 \\
    --hash=sha256:{"a" * 64}
    # via something
uv==0.13.9 \\
    --hash=sha256:{"b" * 64} \\
    --hash=sha256:{"c" * 64}
    # via bootferry (pyproject.toml:dev)
uvicorn==0.54.0 \\
    --hash=sha256:{"d" * 64}
"""


def test_pinned_reads_one_package_and_all_its_digests() -> None:
    assert pinned(LOCK, "uv") == Pin("uv", "0.13.9", frozenset({"b" * 64, "c" * 64}))


@pytest.mark.parametrize(
    "lock",
    [
        pytest.param(LOCK.replace("uv==", "vu=="), id="not-there"),
        pytest.param("uv==0.13.9\n", id="without-hashes"),
        pytest.param("", id="empty"),
    ],
)
def test_pinned_refuses_a_lock_without_it(lock: str) -> None:
    with pytest.raises(Failure, match="does not pin uv with hashes"):
        pinned(lock, "uv")


def test_the_lock_of_this_checkout_pins_uv_and_names_no_address() -> None:
    lock = (CHECKOUT / "requirements.lock").read_text()
    assert pinned(lock, "uv").sha256
    assert "://" not in lock


@pytest.mark.parametrize(
    ("filename", "machine", "expected"),
    [
        pytest.param(WHEEL_NAME, DEBIAN, True, id="older-glibc-tag-runs"),
        pytest.param("uv-0.13.9-py3-none-manylinux_2_40_x86_64.whl", DEBIAN, False, id="newer-glibc-tag-does-not"),
        pytest.param(WHEEL_NAME, Machine("aarch64", "manylinux", (2, 36)), False, id="other-processor"),
        pytest.param(WHEEL_NAME, ALPINE, False, id="glibc-wheel-on-musl"),
        pytest.param("uv-0.13.9-py3-none-musllinux_1_1_x86_64.whl", ALPINE, True, id="musl"),
        pytest.param("uv-0.13.9-py3-none-manylinux_2_17_aarch64.musllinux_1_1_aarch64.whl", DEBIAN, False, id="arm"),
        pytest.param("uv-0.13.10-py3-none-manylinux_2_17_x86_64.whl", DEBIAN, False, id="other-version"),
        pytest.param("uv-0.13.9.tar.gz", DEBIAN, False, id="source"),
        pytest.param("uv-0.13.9-py3-none-win_amd64.whl", DEBIAN, False, id="windows"),
    ],
)
def test_fits(filename: str, machine: Machine, expected: bool) -> None:
    assert fits(filename, PIN, machine) is expected


@pytest.mark.parametrize(
    ("page", "content_type"),
    [
        pytest.param(
            json.dumps({"files": [{"filename": WHEEL_NAME, "url": f"../../files/{WHEEL_NAME}"}]}),
            "application/vnd.pypi.simple.v1+json",
            id="json",
        ),
        pytest.param(
            f'<!DOCTYPE html><a href="../../files/{WHEEL_NAME}#sha256=00" data-x="y">uv</a>', "text/html", id="html"
        ),
    ],
)
def test_offered_reads_both_forms_of_the_simple_api(page: str, content_type: str) -> None:
    (wheel,) = offered(page.encode(), content_type, "https://index.example/simple/uv/")
    assert wheel.filename == WHEEL_NAME
    assert wheel.url.partition("#")[0] == f"https://index.example/files/{WHEEL_NAME}"


@pytest.mark.parametrize(
    ("environ", "expected"),
    [
        pytest.param({}, "https://pypi.org/simple", id="default"),
        pytest.param({"PIP_INDEX_URL": "https://a.example/simple/"}, "https://a.example/simple", id="pip"),
        pytest.param(
            {"PIP_INDEX_URL": "https://a.example", "UV_DEFAULT_INDEX": "https://b.example"},
            "https://b.example",
            id="uv",
        ),
        pytest.param(
            {"UV_INDEX_URL": "", "PIP_INDEX_URL": "https://a.example"}, "https://a.example", id="empty-is-unset"
        ),
    ],
)
def test_index_address(environ: dict[str, str], expected: str) -> None:
    assert index_address(environ) == expected


def test_credentials_leave_the_address() -> None:
    plain, authorization = without_credentials("https://me:s%40cret@index.example:8443/simple/uv/")
    assert plain == "https://index.example:8443/simple/uv/"
    assert authorization == "Basic bWU6c0BjcmV0"  # me:s@cret
    assert without_credentials(plain) == (plain, None)


def test_uv_sees_one_index_and_the_callers_certificates() -> None:
    seen = uv_environment({"PIP_INDEX_URL": "https://a.example", "PIP_CERT": "/ca.pem", "VIRTUAL_ENV": "/x"}, CHECKOUT)
    assert seen["UV_DEFAULT_INDEX"] == "https://a.example"
    assert seen["SSL_CERT_FILE"] == "/ca.pem"
    assert seen["UV_PYTHON_DOWNLOADS"] == "never"
    assert "VIRTUAL_ENV" not in seen


@contextmanager
def index_with(files: dict[str, bytes]) -> Iterator[str]:
    """A package index on loopback that offers these files as uv; its address."""

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            if self.path == "/simple/uv/":
                listing = [{"filename": name, "url": f"/files/{name}"} for name in files]
                body, content_type = json.dumps({"files": listing}).encode(), "application/vnd.pypi.simple.v1+json"
            elif (name := self.path.rpartition("/")[2]) in files:
                body, content_type = files[name], "application/octet-stream"
            else:
                self.send_error(404)
                return
            self.send_response(200)
            self.send_header("Content-Type", content_type)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield f"http://127.0.0.1:{server.server_address[1]}/simple"
        finally:
            server.shutdown()
            thread.join()


def pin_of(content: bytes) -> Pin:
    return Pin("uv", "0.13.9", frozenset({hashlib.sha256(content).hexdigest()}))


@pytest.fixture(autouse=True)
def _no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("no_proxy", "127.0.0.1")


def test_fetch_takes_the_wheel_the_lock_lists() -> None:
    with index_with({"uv-0.13.9.tar.gz": b"source", WHEEL_NAME: b"wheel"}) as address:
        assert fetch(pin_of(b"wheel"), DEBIAN, {"PIP_INDEX_URL": address}) == b"wheel"


@pytest.mark.parametrize(
    ("files", "path", "sentence"),
    [
        pytest.param({WHEEL_NAME: b"forged"}, "", "is not a file requirements.lock lists", id="another-digest"),
        pytest.param({"uv-0.13.9.tar.gz": b"wheel"}, "", "offers no uv 0.13.9 for x86_64 manylinux", id="no-wheel"),
        pytest.param({}, "/elsewhere", "cannot be fetched \\(Not Found\\)", id="no-such-index"),
    ],
)
def test_fetch_refuses(files: dict[str, bytes], path: str, sentence: str) -> None:
    with index_with(files) as address, pytest.raises(Failure, match=sentence):
        fetch(pin_of(b"wheel"), DEBIAN, {"PIP_INDEX_URL": address + path})


def test_an_index_that_is_away_is_named_without_its_password() -> None:
    with pytest.raises(Failure) as refusal:
        fetch(pin_of(b"wheel"), DEBIAN, {"PIP_INDEX_URL": "http://me:secret@127.0.0.1:1/simple"})
    assert "http://127.0.0.1:1/simple/uv/ cannot be fetched" in str(refusal.value)
    assert "secret" not in str(refusal.value)


def test_this_machine_runs_the_oldest_wheels_of_its_kind() -> None:
    machine = this_machine()
    assert fits(f"uv-0.13.9-py3-none-{machine.libc}_1_0_{machine.processor}.whl", PIN, machine)


def made(checkout: Path) -> Path:
    """A checkout whose environment looks made."""
    (checkout / ".venv" / "bin").mkdir(parents=True)
    (checkout / ".venv" / "bin" / "python").symlink_to(sys.executable)
    (checkout / "requirements.lock").touch()
    (checkout / "pyproject.toml").touch()
    assert not is_made(checkout)
    stamp_of(checkout).write_text(wanted_state(checkout))
    assert is_made(checkout)
    return checkout


@pytest.mark.parametrize("name", ["requirements.lock", "pyproject.toml"])
def test_the_environment_is_made_anew_when_what_it_was_made_from_changes(tmp_path: Path, name: str) -> None:
    (made(tmp_path) / name).write_text("changed")
    assert not is_made(tmp_path)


def test_the_environment_is_made_anew_when_it_was_moved(tmp_path: Path) -> None:
    assert not is_made(made(tmp_path / "here").rename(tmp_path / "there"))


def test_the_environment_is_made_anew_when_its_interpreter_is_gone(tmp_path: Path) -> None:
    (made(tmp_path) / ".venv" / "bin" / "python").unlink()
    assert not is_made(tmp_path)


def test_console_scripts_start_from_a_path_with_spaces(tmp_path: Path) -> None:
    checkout = tmp_path / "a check out"
    binaries = checkout / ".venv" / "bin"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    (checkout / ".venv" / "lib" / version / "site-packages").mkdir(parents=True)
    binaries.mkdir()
    (binaries / "python").symlink_to(sys.executable)
    (checkout / ".venv" / "pyvenv.cfg").write_text(f"home = {Path(sys.base_prefix) / 'bin'}\n")
    (checkout / "pyproject.toml").write_text('[project.scripts]\nferry = "ferry:main"\n')
    (checkout / "ferry.py").write_text("import sys\ndef main():\n    print(sys.argv[1:])\n    return 7\n")
    link_checkout(checkout, binaries / "python")
    ended = subprocess.run([binaries / "ferry", "a b"], capture_output=True, text=True, check=False)
    assert (ended.stdout, ended.returncode) == ("['a b']\n", 7)
