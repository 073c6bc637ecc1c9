"""Who may call what: every operation of the API's description, called by everybody there is.

The description says which operations there are; this file says whom each lets in. An operation that is in one and not
in the other fails here. Whoever is not let in gets 401 or 403, whatever else he sends; whoever is let in never does.
"""

import itertools
import json
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from region import api
from region.database.connection import transaction
from shared.names import Name
from shared.signing import encode_bytes, public_bytes, sign_request
from shared.wire.enrolment import Enrolment, EnrolmentRequest, EnrolmentToken
from tests.http.conftest import Client, Running

PROBES = {"livez", "readyz"}
ANYBODY = PROBES | {"get_region", "get_region_keys", "log_in", "enrol_rack"}
VIEWERS = {
    "events",
    "get_image",
    "get_import",
    "get_rack",
    "get_session",
    "get_settings",
    "get_source",
    "get_storage",
    "get_sync",
    "list_activity",
    "list_available",
    "list_bootloaders",
    "list_image_racks",
    "list_images",
    "list_imports",
    "list_racks",
    "list_selections",
    "list_sources",
    "list_unvouched",
    "list_versions",
    "metrics",
}
OPERATORS = {
    "add_selection",
    "cancel_import",
    "cancel_import_image",
    "change_sync",
    "confirm_manifest",
    "pin_image",
    "poll_rack",
    "poll_racks",
    "read_source",
    "remove_image",
    "remove_selection",
    "replace_selection",
    "start_import",
    "unpin_image",
    "withdraw_unvouched",
}
ADMINS = {
    "accept_older",
    "add_source",
    "change_settings",
    "change_source",
    "create_enrolment_token",
    "get_enrolment_token",
    "list_enrolment_tokens",
    "remove_enrolment_token",
    "create_operator_token",
    "get_operator_token",
    "list_operator_tokens",
    "probe_source",
    "remove_operator_token",
    "remove_rack",
    "remove_source",
}
RACKS = {"get_manifest", "manifest_events", "report", "change_rack_key"}
VIEWERS_AND_RACKS = {"get_file"}
SESSIONS = {"log_out"}
"""Only who came with a cookie has something to end."""

HUMANS = ("viewer", "operator", "admin")
LETS_IN: dict[str, set[str]] = {
    "anonymous": ANYBODY,
    "expired": ANYBODY,
    "viewer": ANYBODY | VIEWERS | VIEWERS_AND_RACKS,
    "operator": ANYBODY | VIEWERS | VIEWERS_AND_RACKS | OPERATORS,
    "admin": ANYBODY | VIEWERS | VIEWERS_AND_RACKS | OPERATORS | ADMINS,
    "rack": ANYBODY | RACKS | VIEWERS_AND_RACKS,
    "removed rack": ANYBODY,
    "nobody's rack": ANYBODY,
}


@dataclass(frozen=True, slots=True)
class Operation:
    """One operation of the description; `path` has its parameters filled in with things that are not there."""

    id: str
    method: str
    path: str


@dataclass(frozen=True, slots=True)
class Rack:
    """A rack's own side: what it signs with."""

    id: str
    key: Ed25519PrivateKey
    region: str

    def signed(self, method: str, path: str, body: bytes | None) -> dict[str, str]:
        return sign_request(
            self.key,
            self.id,
            self.region,
            method,
            path,
            body,
            now=datetime.now(UTC),
            nonce=secrets.token_hex(16),
            sequence=None if method == "GET" else next(SEQUENCES),
        )


SEQUENCES = itertools.count(time.time_ns() // 1_000_000)
NOT_THERE = {
    "enrolment_token_id": "0" * 64,
    "image_id": "ubuntu:nowhere:amd64",
    "import_id": "999",
    "rack_id": "f" * 32,
    "selection_id": "999",
    "sha256": "0" * 64,
    "source_id": "999",
    "token_id": "0" * 12,
}


def operations() -> list[Operation]:
    """Everything that can be called, by the description that clients are given."""
    described = json.loads((Path(api.__file__).parents[2] / "docs" / "openapi.json").read_text())
    return [
        Operation(operation["operationId"], method.upper(), path.format_map(NOT_THERE))
        for path, methods in described["paths"].items()
        for method, operation in methods.items()
        if isinstance(operation, dict) and "operationId" in operation
    ]


def test_this_file_says_of_every_operation_whom_it_lets_in() -> None:
    said = [ANYBODY, VIEWERS, OPERATORS, ADMINS, RACKS, VIEWERS_AND_RACKS, SESSIONS]
    assert sorted(name for group in said for name in group) == sorted(operation.id for operation in operations())


async def status_of(
    running: Running, operation: Operation, headers: Mapping[str, str], body: bytes | None = None
) -> int:
    """The status of an answer; its body is left where it is, an event stream has no end."""
    timeout = aiohttp.ClientTimeout(total=20)
    url = f"{running.client.base}{operation.path}"
    async with running.client.session.request(
        operation.method, url, headers=headers, data=body, timeout=timeout
    ) as answer:
        return answer.status


async def a_rack(running: Running, name: str) -> Rack:
    """A rack that has just enrolled."""
    made = await running.client("POST", "/enrolment-tokens")
    token = EnrolmentToken.parse(made.json["token"])
    key = Ed25519PrivateKey.generate()
    asked = EnrolmentRequest(Name(name), encode_bytes(public_bytes(key)), token.region_fingerprint)
    answer = await running.as_nobody()("POST", "/racks/enrol", data=asked.sealed(token))
    assert answer.status == 201, answer.body
    enrolled = Enrolment.open(answer.body, running.region.key.public_key(), asked)
    return Rack(enrolled.rack_id, key, running.region.fingerprint)


async def a_token(client: Client, role: str) -> str:
    answer = await client("POST", "/operator-tokens", json={"name": f"a {role}", "role": role})
    assert answer.status == 201, answer.body
    token: str = answer.json["token"]
    return token


async def a_session(running: Running, token: str) -> dict[str, str]:
    """The headers of a browser that has logged in, for a request of the region's own page."""
    answer = await running.as_nobody()(
        "POST", "/session", json={"token": token}, headers={"Sec-Fetch-Site": "same-origin"}
    )
    assert answer.status == 200, answer.body
    return {"Cookie": answer.headers["Set-Cookie"].partition(";")[0], "Sec-Fetch-Site": "same-origin"}


@pytest.fixture
async def tokens(running: Running) -> dict[str, str]:
    """A token of each role, and one that has run out."""
    made = {role: await a_token(running.client, role) for role in HUMANS}
    made["expired"] = await a_token(running.client, "admin")
    async with transaction(running.region.engine) as connection:
        await connection.execute(
            text(
                "UPDATE operator_tokens SET expires_at = :then WHERE id = (SELECT max(id) FROM operator_tokens"
                " WHERE created_at = (SELECT max(created_at) FROM operator_tokens))"
            ),
            {"then": datetime.now(UTC) - timedelta(seconds=1)},
        )
    return made


def surprises(told: Mapping[tuple[str, str], int]) -> list[str]:
    """What was answered otherwise than this file says, a line each."""
    found = []
    for (who, name), status in told.items():
        let_in = name in LETS_IN[who]
        if let_in and status in (401, 403):
            found.append(f"{who} is kept out of {name} with {status}")
        if not let_in and status not in (401, 403):
            found.append(f"{who} calls {name} and gets {status}")
    return found


JSON = {"Content-Type": "application/json"}


async def test_a_token_opens_what_its_role_opens_and_nothing_else(running: Running, tokens: dict[str, str]) -> None:
    told = {}
    for who in ("anonymous", "expired", *HUMANS):
        headers = JSON | ({"Authorization": f"Bearer {tokens[who]}"} if who in tokens else {})
        for operation in operations():
            if operation.id not in SESSIONS | {"log_in"}:
                told[who, operation.id] = await status_of(running, operation, headers, b"[]")
    assert surprises(told) == []


async def test_a_session_opens_what_its_token_opens(running: Running, tokens: dict[str, str]) -> None:
    told, ends = {}, []
    for who in HUMANS:
        headers = JSON | await a_session(running, tokens[who])
        for operation in operations():
            if operation.id in SESSIONS:
                ends.append(operation)
            elif operation.id != "log_in":
                told[who, operation.id] = await status_of(running, operation, headers, b"[]")
        [end] = {one.id: one for one in ends}.values()
        whoami = Operation("get_session", "GET", "/api/v1/session")
        assert [await status_of(running, one, headers) for one in (whoami, end, whoami)] == [200, 204, 401]
    assert surprises(told) == []


async def test_another_sites_page_changes_nothing_with_a_session(running: Running, tokens: dict[str, str]) -> None:
    headers = JSON | await a_session(running, tokens["admin"]) | {"Sec-Fetch-Site": "cross-site"}
    changes = [one for one in operations() if one.method not in ("GET", "HEAD") and one.id not in ANYBODY]
    told = {one.id: await status_of(running, one, headers, b"[]") for one in changes if one.id not in RACKS}
    assert set(told.values()) == {403}, told


async def test_a_racks_signature_opens_what_is_its_own(running: Running, eventually: Callable[..., Any]) -> None:
    removed = await a_rack(running, "removed")
    rack = await a_rack(running, "rack")
    gone = await running.client("DELETE", f"/racks/{removed.id}")
    assert gone.status == 204
    strange = Rack("0" * 32, Ed25519PrivateKey.generate(), running.region.fingerprint)
    await eventually(lambda: running.region.rack_keys.get(removed.id) is None)
    told = {}
    for who, signer in (("rack", rack), ("removed rack", removed), ("nobody's rack", strange)):
        for operation in operations():
            if operation.id in SESSIONS | {"log_in"}:
                continue
            own = Operation(operation.id, operation.method, operation.path.replace(NOT_THERE["rack_id"], signer.id))
            body = None if own.method == "GET" else b"[]"
            headers = JSON | signer.signed(own.method, own.path, body)
            told[who, own.id] = await status_of(running, own, headers, body)
    assert surprises(told) == []


async def test_a_rack_reports_for_no_other(running: Running) -> None:
    rack, other = await a_rack(running, "rack"), await a_rack(running, "other")
    path = f"/api/v1/racks/{other.id}/report"
    body: Any = b"{}"
    answer = await running.as_nobody()(
        "PUT", path.removeprefix("/api/v1"), data=body, headers=JSON | rack.signed("PUT", path, body)
    )
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
