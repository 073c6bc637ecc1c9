"""The package index, as far as it takes to fetch one wheel: no pip, no trust beyond the digests of our lock.

Standard library only. An index is one that serves the simple repository API, in JSON (PEP 691) or HTML (PEP 503).
"""

import base64
import hashlib
import json
import platform
import re
import ssl
import urllib.error
import urllib.request
from collections.abc import Mapping
from dataclasses import dataclass
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urljoin, urlsplit, urlunsplit

from deploy.local import packages
from deploy.local.failure import Failure

DEFAULT_INDEX = "https://pypi.org/simple"
INDEX_VARIABLES = ("UV_DEFAULT_INDEX", "UV_INDEX_URL", "PIP_INDEX_URL")
SIMPLE_API = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"
LARGEST_PAGE = 64 << 20  # bytes; uv's own page is a few MB
LARGEST_WHEEL = 256 << 20  # bytes
TIMEOUT_S = 60.0


@dataclass(frozen=True)
class Pin:
    """One package of the lock: the only version, and the SHA-256 digests (hex) of the files that may be it."""

    name: str
    version: str
    sha256: frozenset[str]


@dataclass(frozen=True)
class Wheel:
    """A file an index offers."""

    filename: str
    url: str


@dataclass(frozen=True)
class Machine:
    """What decides which wheels run here: the processor, and the C library with its version."""

    processor: str
    libc: str  # as wheels call it: manylinux (glibc) or musllinux
    libc_version: tuple[int, int]


def pinned(lock: str, name: str) -> Pin:
    """The pin of one package in the text of a requirements.lock. Raises Failure if it is not in there."""
    match = re.search(rf"^{re.escape(name)}==(\S+) \\\n((?:[ \t]+--hash=\S+(?: \\)?\n)+)", lock, re.MULTILINE)
    if match is None:
        raise Failure(
            f"requirements.lock does not pin {name} with hashes: restore it, or make it anew with `make lock`."
        )
    return Pin(name, match[1], frozenset(re.findall(r"--hash=sha256:([0-9a-f]{64})\b", match[2])))


def offered(page: bytes, content_type: str, address: str) -> list[Wheel]:
    """The files on a project's page of an index, in JSON (PEP 691) or HTML (PEP 503). Raises ValueError."""
    if "json" in content_type:
        files = [(entry["filename"], entry["url"]) for entry in json.loads(page)["files"]]
    else:
        files = [(urlsplit(link).path.rpartition("/")[2], link) for link in links(page.decode())]
    return [Wheel(filename, urljoin(address, url)) for filename, url in files]


def links(page: str) -> list[str]:
    """The targets of a page's links."""
    found: list[str] = []

    class Anchors(HTMLParser):
        def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
            found.extend(value for name, value in attrs if tag == "a" and name == "href" and value)

    Anchors().feed(page)
    return found


def fits(filename: str, pin: Pin, machine: Machine) -> bool:
    """Whether this file is a wheel of the pinned version that runs on the machine (PEP 427, PEP 600, PEP 656)."""
    if not filename.startswith(f"{pin.name}-{pin.version}-") or not filename.endswith(".whl"):
        return False
    tags = filename.removesuffix(".whl").rpartition("-")[2].split(".")
    for tag in tags:
        match = re.fullmatch(rf"{machine.libc}_(\d+)_(\d+)_{re.escape(machine.processor)}", tag)
        if match and (int(match[1]), int(match[2])) <= machine.libc_version:
            return True
    return False


def this_machine() -> Machine:
    """The machine we are on."""
    name, version = platform.libc_ver()
    if name == "glibc":
        major, minor = re.findall(r"\d+", version)[:2]
        return Machine(platform.machine(), "manylinux", (int(major), int(minor)))
    return Machine(platform.machine(), "musllinux", (1, 2))


def index_address(environ: Mapping[str, str]) -> str:
    """The package index to use: the one uv or pip is told to use, else the Python package index."""
    return next((environ[name] for name in INDEX_VARIABLES if environ.get(name)), DEFAULT_INDEX).rstrip("/")


def without_credentials(address: str) -> tuple[str, str | None]:
    """An address without user and password, and the Authorization header that stands for them."""
    parts = urlsplit(address)
    credentials, _, host = parts.netloc.rpartition("@")
    if not credentials:
        return address, None
    token = base64.b64encode(unquote(credentials).encode()).decode()
    return urlunsplit(parts._replace(netloc=host)), f"Basic {token}"


def get(address: str, *, accept: str, limit: int, environ: Mapping[str, str]) -> tuple[bytes, str]:
    """GET an address through the environment's proxy and certificates: body and content type. Raises Failure."""
    plain, authorization = without_credentials(address)
    request = urllib.request.Request(plain, headers={"Accept": accept, "User-Agent": "bootferry-bootstrap"})
    if authorization:
        request.add_unredirected_header("Authorization", authorization)
    context = ssl.create_default_context(cafile=environ.get("SSL_CERT_FILE") or environ.get("PIP_CERT") or None)
    try:
        with urllib.request.urlopen(request, timeout=TIMEOUT_S, context=context) as answer:
            body: bytes = answer.read(limit + 1)
            content_type: str = answer.headers.get_content_type()
    except (OSError, ValueError) as error:  # URLError, timeouts and TLS errors are OSErrors
        reason = getattr(error, "reason", error)
        raise Failure(
            f"{plain} cannot be fetched ({reason}): check the network, HTTPS_PROXY and SSL_CERT_FILE, "
            "or name another package index in UV_DEFAULT_INDEX."
        ) from error
    if len(body) > limit:
        raise Failure(f"{plain} is larger than {limit} bytes: name another package index in UV_DEFAULT_INDEX.")
    return body, content_type


def fetch(pin: Pin, machine: Machine, environ: Mapping[str, str]) -> bytes:
    """The wheel of a pinned package for the machine; its digest is one the pin lists. Raises Failure."""
    address = f"{index_address(environ)}/{pin.name}/"
    page, content_type = get(address, accept=SIMPLE_API, limit=LARGEST_PAGE, environ=environ)
    shown = without_credentials(address)[0]
    try:
        wheels = [wheel for wheel in offered(page, content_type, address) if fits(wheel.filename, pin, machine)]
    except (ValueError, KeyError, TypeError) as error:
        raise Failure(f"{shown} is no page of a package index: name another one in UV_DEFAULT_INDEX.") from error
    if not wheels:
        raise Failure(
            f"{shown} offers no {pin.name} {pin.version} for {machine.processor} {machine.libc}: "
            "name another package index in UV_DEFAULT_INDEX."
        )
    body, _ = get(wheels[0].url, accept="*/*", limit=LARGEST_WHEEL, environ=environ)
    if hashlib.sha256(body).hexdigest() not in pin.sha256:
        raise Failure(
            f"{wheels[0].filename} from {shown} is not a file requirements.lock lists: do not trust that index."
        )
    return body


def ensure_certificates(environ: Mapping[str, str]) -> None:
    """Return once there are certificates to verify the package index with. Raises Failure."""
    paths = ssl.get_default_verify_paths()  # of existing places only
    bundle = environ.get("SSL_CERT_FILE") or environ.get("PIP_CERT") or paths.cafile
    if bundle or not index_address(environ).startswith("https:"):
        return
    if paths.capath and any(Path(paths.capath).iterdir()):
        return
    packages.ensure([packages.CA_CERTIFICATES])
