"""Every refusal a caller can provoke: its status, its code, a sentence in our own words, and its request's id."""

import asyncio
import io
import json
import re
import shutil
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest
from yarl import URL

from deploy.local.mirror.faults import Cut, Endless, Fault, HugeHeader, Redirect, Status
from region.database.connection import transaction
from region.people.operators import Role, create_token
from tests.conftest import NOW
from tests.http.conftest import Answer, Client, Running, free_port

NOBLE = {"os": "ubuntu", "release": "noble", "arch": "amd64"}
INDEX = "*/index.*json"

LIBRARY_WORDS = re.compile(
    r"\[?Errno|Connect call failed|ssl:|_ssl\.c|Value error|Input should|unable to parse|Field required|Extra inputs"
    r"|valid (string|integer|boolean|list|dictionary)|Object of|Expected `|Object missing|Expecting|pydantic|msgspec"
    r"|asyncpg|sqlalchemy|Traceback|aiohttp|Cannot connect|Response payload|Server disconnected|ClientConnector"
    r"|_parsing|loc\b|not available at the moment|did nothing",
    re.IGNORECASE,
)


def refused(answer: Answer, status: int, code: str, says: str, case: str) -> None:
    """Asserts that `answer` is a problem with that status, code and sentence."""
    assert (answer.status, answer.json["code"]) == (status, code), (case, answer.json)
    sentence = answer.json["detail"]
    assert says in sentence, (case, sentence)
    assert answer.headers["Content-Type"] == "application/problem+json", case
    assert answer.json["request_id"] == answer.headers["X-Request-Id"], case
    assert answer.json["status"] == status, case
    assert sentence.endswith("."), (case, sentence)
    assert not sentence.endswith(".."), (case, sentence)
    assert sentence.isprintable(), (case, sentence)
    assert not LIBRARY_WORDS.search(sentence), (case, sentence)
    assert ("Retry-After" in answer.headers) == (status in (429, 503)), case


Given = dict[str, Any]
BROKEN = {"headers": {"Content-Type": "application/json"}, "data": b"{"}
FORM = {"headers": {"Content-Type": "application/x-www-form-urlencoded"}, "data": b"os=ubuntu"}

REQUESTS: dict[str, tuple[str, str, Given, int, str, str]] = {
    "no address": ("GET", "/nothing", {}, 404, "not_found", "There is nothing at this address"),
    "no method": ("DELETE", "/images", {}, 405, "method_not_allowed", "the Allow header"),
    "too large": ("POST", "/sources", {"data": io.BytesIO(bytes(9_000_000))}, 413, "body_too_large", "send less."),
    "a form": ("POST", "/selections", FORM, 415, "unsupported_media_type", "send application/json."),
    "no body": ("POST", "/selections", {}, 422, "invalid_request", "The request lacks its body"),
    "not JSON": ("POST", "/selections", BROKEN, 422, "invalid_request", "is not JSON; send one JSON value, in UTF-8."),
    "a list for an object": ("POST", "/selections", {"json": []}, 422, "invalid_request", "it must be a JSON object."),
    "a field too few": ("POST", "/selections", {"json": {}}, 422, "invalid_request", "The request lacks its os;"),
    "a field too many": (
        *("POST", "/selections", {"json": {**NOBLE, "colour": 1}}, 422, "invalid_request"),
        "The request's colour is not acceptable: there is no such field.",
    ),
    "a number for text": (
        *("POST", "/selections", {"json": {**NOBLE, "os": 7}}, 422, "invalid_request"),
        "The request's os is not acceptable: it must be text.",
    ),
    "a name that is none": (
        *("POST", "/selections", {"json": {**NOBLE, "release": "../x"}}, 422, "invalid_request"),
        "The request's release is not acceptable: '../x' is not a release: name one, as in noble or 24.04, or say lts",
    ),
    "text for a number": (
        *("GET", "/imports?limit=many", {}, 422, "invalid_request"),
        "The request's limit is not acceptable: it must be a whole number.",
    ),
    "a number too small": (
        *("GET", "/imports?limit=0", {}, 422, "invalid_request"),
        "The request's limit is not acceptable: it must be 1 or more.",
    ),
    "a number too large": (
        *("GET", "/imports?limit=9999", {}, 422, "invalid_request"),
        "The request's limit is not acceptable: it must be 1000 or less.",
    ),
    "text for a switch": (
        *("PATCH", "/sync", {"json": {"enabled": "perhaps"}}, 422, "invalid_request"),
        "The request's enabled is not acceptable: it must be true or false.",
    ),
    "a role that is none": (
        *("POST", "/operator-tokens", {"json": {"name": "x", "role": "king"}}, 422, "invalid_request"),
        "The request's role is not acceptable: it must be one of 'viewer', 'operator', 'admin'.",
    ),
    "a time that is none": (
        *("POST", "/operator-tokens", {"json": {"name": "x", "expires_at": "soon"}}, 422, "invalid_request"),
        "it must be a date and time with its UTC offset",
    ),
    "an empty name": (
        *("POST", "/operator-tokens", {"json": {"name": ""}}, 422, "invalid_request"),
        "The request's name is not acceptable: it must have 1 characters or more.",
    ),
    "text for a list": (
        *("PUT", "/selections", {"json": {"items": "all"}}, 422, "invalid_request"),
        "The request's items is not acceptable: it must be a list.",
    ),
    "a wish in a list": (
        *("PUT", "/selections", {"json": {"items": [NOBLE, {**NOBLE, "arch": None}]}}, 422, "invalid_request"),
        "The request's items.1.arch is not acceptable: it must be text.",
    ),
    "no change at all": (
        *("PATCH", "/sources/1", {"json": {}}, 422, "invalid_request"),
        "The request's body is not acceptable: name at least one field to change.",
    ),
    "a token in the past": (
        *("POST", "/operator-tokens", {"json": {"name": "x", "expires_at": "2001-01-01T00:00:00Z"}}),
        *(422, "invalid_value", "is not a time of expiry: it must lie ahead"),
    ),
    "not a digest": ("GET", "/files/xyz", {}, 422, "invalid_value", "it must be 64 hexadecimal digits."),
    "no source": ("GET", "/sources/7", {}, 404, "not_found", "There is no source 7; check the name"),
    "an import that has ended": (
        *("POST", "/imports/1/cancel", {}, 409, "conflict"),
        "The import 1 has ended already: it succeeded.",
    ),
    "another selection": (
        *("POST", "/selections", {"json": NOBLE, "headers": {"If-Match": '"selection-0"'}}),
        *(412, "precondition_failed", "You have not seen the latest state of the selection: "),
    ),
    "not an enrolment": ("POST", "/racks/enrol", {"data": b"hello"}, 422, "invalid_document", "cannot be read: "),
    "no signature": ("GET", "/manifest", {}, 401, "request_signature_invalid", "signature is not good: there is none;"),
}


async def test_what_a_request_does_wrong(running: Running) -> None:
    for case, (method, path, given, status, code, says) in REQUESTS.items():
        refused(await running.client(method, path, **given), status, code, says, case)


async def test_a_signature_that_is_none_is_told_in_our_words(running: Running) -> None:
    key_id = running.region.fingerprint[:32]
    running.region.rack_keys._known[key_id] = running.region.key.public_key()
    parameters = f'("@method" "@path");created=1;keyid="{key_id}";tag="bootferry-rack"'
    for case, (given, says) in {
        "nonsense": ("nonsense", "it does not fit this request and the key this rack enrolled with;"),
        "by another key": (f"rack=:{'A' * 86}==:", "signature is not good: it does not "),
    }.items():
        headers = {"Signature-Input": f"rack={parameters}", "Signature": given}
        answer = await running.as_nobody()("GET", "/manifest", headers=headers)
        refused(answer, 401, "request_signature_invalid", says, case)


async def test_who_asks(running: Running) -> None:
    nobody = running.as_nobody()
    refused(await nobody("GET", "/images"), 401, "unauthenticated", "The request names nobody; send", "nobody")
    stranger = Client(nobody.session, nobody.base, f"bf_{'0' * 12}_{'x' * 43}")
    refused(await stranger("GET", "/images"), 401, "token_unknown", "is not known to the region", "stranger")
    async with transaction(running.region.engine) as connection:
        token = await create_token(connection, "somebody", Role.VIEWER, NOW)
    viewer = Client(nobody.session, nobody.base, token)
    refused(await viewer("POST", "/imports"), 403, "forbidden", "somebody is a viewer; this takes the role", "viewer")
    cookie = {"Cookie": "bf_session=x", "Sec-Fetch-Site": "cross-site"}
    refused(await nobody("POST", "/imports", headers=cookie), 403, "cross_origin", "region's own page", "another site")
    for _ in range(10):
        await nobody("POST", "/session", json={"token": "bf_no"})
    answer = await nobody("POST", "/session", json={"token": "bf_no"})
    refused(answer, 429, "too_many_attempts", "Too many log-ins failed from this address; try again in", "log-ins")


async def test_what_a_file_cannot_be(running: Running) -> None:
    kernel = running.mirror.expected("resolute", "amd64", "ga-26.04")["boot-kernel"]
    path = f"/files/{kernel.sha256}"
    answer = await running.client("GET", path, headers={"If-Match": '"other"'})
    refused(answer, 412, "precondition_failed", "which If-Match does not name", "another etag")
    answer = await running.client("GET", path, headers={"Range": "bytes=9999999999-"})
    refused(answer, 416, "range_not_satisfiable", "ask for bytes below", "no such range")


async def test_what_the_region_lacks(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    running.region.ready.clear()
    answer = await running.client("GET", "/images")
    refused(answer, 503, "unavailable", "The region has not begun yet: it waits for its database; try", "no database")
    running.region.ready.set()
    shutil.rmtree(running.region.store.where)
    answer = await running.client("GET", "/storage")
    refused(answer, 503, "disk_failed", "failed (No such file or directory); what is held is untouched", "no disk")
    await asyncio.to_thread(Path(running.region.store.where).mkdir)
    monkeypatch.setattr(type(running.region.store), "bytes_free", lambda _: 0)
    answer = await running.client("GET", "/readyz")
    refused(answer, 503, "unavailable", "The region's disk is full: free some room; try again in", "no room")


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A CA bundle that is none."""
    path = tmp_path / "ca.pem"
    path.write_text("no certificate")
    return path


PROBES: dict[str, tuple[Given, int, str, str]] = {
    "a bundle that is none": ({"ca_bundle": "{bundle}"}, 422, "invalid_configuration", "no certificates in PEM form."),
    "no bundle": ({"ca_bundle": "/nowhere"}, 422, "invalid_value", "there is no such file on the region."),
    "no name": ({"url": "http://nowhere.invalid/"}, 502, "name_not_found", "The name nowhere.invalid was not found"),
    "nobody there": ({"url": "http://127.0.0.1:{port}/"}, 502, "connection_refused", "Nothing answers at "),
    "no TLS": ({"url": "{tls}"}, 502, "tls_failed", "(the other side does not speak TLS there)"),
    "metadata": ({"url": "http://169.254.169.254/"}, 502, "address_forbidden", "leads to 169.254.169.254"),
    "not http": ({"url": "ftp://x/"}, 422, "invalid_value", "it must begin with http:// or https://"),
    "no port": ({"url": "http://x:seven/"}, 422, "invalid_value", "its host name or its port is not one."),
    "no proxy": (
        *({"url": "http://mirror.invalid/", "proxy": "http://127.0.0.1:{port}/"}, 502, "proxy_failed"),
        "failed (nothing answers at 127.0.0.1, port {port})",
    ),
    "no proxy for TLS": (
        *({"url": "https://mirror.invalid/", "proxy": "http://127.0.0.1:{port}/"}, 502, "proxy_failed"),
        "failed (nothing answers at 127.0.0.1, port {port})",
    ),
    "not a keyring": ({"unsigned": False, "keyring": "x"}, 422, "keyring_invalid", "The keyring cannot be used: "),
    "no keyring": (
        *({"unsigned": False, "keyring_path": "/nowhere"}, 422, "keyring_unreadable"),
        "/nowhere cannot be read on the region (No such file or directory).",
    ),
    "another's keyring": (
        *({"unsigned": False, "keyring_path": "{shipped}"}, 422, "signature_unknown_key"),
        "ask the mirror's owner which key is right.",
    ),
}


async def test_what_a_probe_meets_on_its_way(running: Running, bundle: Path) -> None:
    from region.stream.keys import DEFAULT_KEYRING

    mirror = running.upstream.url
    words = {
        "port": str(free_port()),
        "tls": mirror.replace("http:", "https:"),
        "bundle": str(bundle),
        "shipped": str(DEFAULT_KEYRING),
    }
    for case, (fields, status, code, says) in PROBES.items():
        sent = {"name": "new", "url": mirror, "unsigned": True} | {
            name: value.format(**words) if isinstance(value, str) else value for name, value in fields.items()
        }
        answer = await running.client("POST", "/sources/probe", json=sent)
        refused(answer, status, code, says.format(**words), case)


FAULTS: dict[str, tuple[Fault, str, str]] = {
    "not there": (Status(404), "http_status", "answered 404"),
    "down": (Status(503), "http_status", "answered 503"),
    "elsewhere": (Redirect("ftp://mirror.example/"), "redirect_refused", "it leads to no http or https address."),
    "in circles": (Redirect(None), "redirect_refused", "more than 5 in a row."),
    "nothing at all": (Cut(None), "connection_lost", "was lost (the other side closed it);"),
    "cut off": (Cut(10), "connection_lost", "was lost (it ended before all bytes had come);"),
    "a head too large": (HugeHeader(100_000), "fetch_failed", "does not speak HTTP as it should"),
    "without end": (Endless(), "too_large", "the most such a document may be."),
}


@pytest.fixture
async def faulty(running: Running) -> AsyncIterator[Callable[[Fault], Any]]:
    """A probe of the sample mirror, which has this fault meanwhile."""

    async def probe(fault: Fault) -> Answer:
        running.upstream.misbehave(INDEX, fault)
        fields = {"name": "new", "url": running.upstream.url, "unsigned": True}
        try:
            return await running.client("POST", "/sources/probe", json=fields)
        finally:
            running.upstream.behave()

    yield probe


async def test_what_a_mirror_does_wrong(faulty: Callable[[Fault], Any]) -> None:
    for case, (fault, code, says) in FAULTS.items():
        refused(await faulty(fault), 502, code, says, case)


async def test_what_a_mirror_signs_wrong(running: Running) -> None:
    fields = {"name": "new", "url": running.upstream.url}
    signed = {**fields, "keyring_path": str(running.mirror.keyring_path)}
    probe = "/sources/probe"
    index = running.mirror.root / "streams/v1/index.sjson"
    running.mirror.replace("streams/v1/index.sjson", index.read_bytes().replace(b"index:1.0", b"index:2.0"))
    answer = await running.client("POST", probe, json=signed)
    refused(answer, 422, "signature_bad", "the text was changed after the key", "changed")
    running.mirror.replace("streams/v1/index.json", b'{"format": ')
    answer = await running.client("POST", probe, json={**fields, "unsigned": True})
    refused(answer, 422, "invalid_document", "it is not JSON from line 1, column 12 on.", "not JSON")
    running.mirror.unsigned()
    answer = await running.client("POST", probe, json=signed)
    refused(answer, 422, "unsigned", "is not signed; give the source's signed address", "unsigned")


@pytest.mark.parametrize(
    ("version", "hosts", "status"),
    [
        pytest.param("1.1", ["a"], 200, id="one"),
        pytest.param("1.1", [], 400, id="none"),
        pytest.param("1.1", ["a", "b"], 400, id="two"),
        pytest.param("1.0", [], 200, id="none, in HTTP 1.0"),
    ],
)
async def test_a_request_names_one_host(running: Running, version: str, hosts: list[str], status: int) -> None:
    """RFC 9112 §3.2: a proxy before the region may have believed the other one."""
    url = URL(running.client.base)
    reader, writer = await asyncio.open_connection(url.host, url.port)
    lines = [f"GET /livez HTTP/{version}", *(f"Host: {host}" for host in hosts), "Connection: close", "", ""]
    writer.write("\r\n".join(lines).encode())
    answer = (await asyncio.wait_for(reader.read(), 10)).decode()
    writer.close()
    head, _, body = answer.partition("\r\n\r\n")
    assert int(head.split(" ")[1]) == status, answer
    if status == 400:
        problem = json.loads(body)
        assert (problem["code"], problem["detail"].count(".")) == ("bad_host_name", 1)
        assert f"x-request-id: {problem['request_id']}" in head.lower()
