"""Region and racks are upgraded in either order, across one minor version.

What racks of 0.1 send stands in `tests/golden/`, byte for byte as that release signed it, and is sent to a region of
now. What a rack of now sends to a region of 0.1 has the fields and the headers of then, and no others; that region
answers 404 to what it does not know.
"""

import asyncio
import base64
import json
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text
from yarl import URL

from region import api, app
from region.configuration import RegionConfiguration
from region.database.connection import transaction
from region.edge.server import build_server
from region.publishing import manifest
from shared.signing import encode_bytes, fingerprint, private_pem, public_bytes
from tests.conftest import Clock
from tests.http.conftest import Client, free_port
from tests.http.fake_region import FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import running_rack
from tests.unit.test_golden import AT, MANIFEST, RACK_ID, RACK_KEY, REGION, TOKEN, read, requests

GOLDEN_REQUESTS = [
    pytest.param(name, request, id=f"{name} {request['method']} {request['target'][:20]}")
    for name in ("requests-1.json", "requests-2.json")
    for request in requests(name)
]


@pytest.fixture
async def region(tmp_path: Path, database_url: str) -> AsyncIterator[Client]:
    """A region of now, at the moment and with the key of the golden messages; it knows their rack and their token."""
    port = free_port()
    settings = RegionConfiguration(
        database_url=database_url, data_dir=tmp_path / "region", port=port, default_source_url="http://127.0.0.1:1/"
    )
    (tmp_path / "region" / "keys").mkdir(parents=True)
    (tmp_path / "region" / "keys" / "region.key").write_bytes(private_pem(REGION))
    built = app.build(settings, now=Clock(AT))
    await built.prepare()
    async with transaction(built.engine) as connection:
        await connection.execute(
            text("INSERT INTO racks (id, name, public_key, enrolled_at) VALUES (:id, 'golden', :key, :at)"),
            {"id": RACK_ID, "key": RACK_KEY, "at": AT},
        )
        await connection.execute(
            text("""
                INSERT INTO enrolment_tokens (id, public_key, created_at, expires_at, uses_left)
                VALUES (:id, :key, :at, :until, 1)
            """),
            {
                "id": fingerprint(TOKEN.key()),
                "key": encode_bytes(public_bytes(TOKEN.key())),
                "at": AT,
                "until": AT + timedelta(hours=1),
            },
        )
        await connection.execute(text("UPDATE region SET epoch = 1789000000, serial = 7"))
        await manifest.write(connection, manifest.sign(MANIFEST, REGION), AT)
    server = build_server(api.create(built), host="127.0.0.1", port=port, shutdown_grace_s=1)
    serving = asyncio.create_task(server.serve())
    async with aiohttp.ClientSession() as session:
        await asyncio.wait_for(built.ready.wait(), 20)
        yield Client(session, f"http://127.0.0.1:{port}", None)
        server.should_exit = True
        await asyncio.wait_for(serving, 20)
    await built.request_engine.dispose()


@pytest.mark.parametrize(("name", "request_of_then"), GOLDEN_REQUESTS)
async def test_a_region_of_now_takes_what_racks_of_0_1_signed(
    region: Client, name: str, request_of_then: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    # Their sequence is of a later day than their signature.
    for module in ("racks", "reports"):
        monkeypatch.setattr(f"region.fleet.{module}.furthest_sequence", lambda _: 2**60)
    method, target = request_of_then["method"], request_of_then["target"]
    async with region.session.request(
        method,
        URL(region.base + target, encoded=True),
        headers=request_of_then["headers"],
        data=request_of_then["body"],
    ) as response:
        status, body = response.status, await response.read()
    if "/files/" in target:
        assert (status, json.loads(body)["code"]) == (503, "unavailable"), (
            "the manifest names it; it is not on this disk"
        )
    elif method == "PUT":
        assert status == 204
    else:
        # A rack of then reads what its region said then: nothing of it is new until an operator asks for that.
        assert (status, body) == (200, read("manifest.envelope"))


@pytest.mark.parametrize(
    ("envelope", "fields"),
    [
        ("enrolment-request-1.envelope", {"rack_id", "name", "public_key", "nonce"}),
        ("enrolment-request-2.envelope", {"rack_id", "name", "public_key", "nonce"}),
    ],
)
async def test_a_region_of_now_enrols_racks_of_0_1(region: Client, envelope: str, fields: set[str]) -> None:
    # The golden rack's own key enrols here for the first time.
    answer = await region("POST", "/racks/enrol", data=read(envelope))
    assert answer.status == 409, "its key is known already"
    other = Ed25519PrivateKey.generate()
    document = json.loads(base64.b64decode(json.loads(read(envelope))["payload"]))
    document |= {"name": "rack-of-then", "public_key": encode_bytes(public_bytes(other))}
    answer = await region("POST", "/racks/enrol", data=sealed(TOKEN.key(), document))
    assert answer.status == 201
    payload = json.loads(base64.b64decode(json.loads(answer.body)["payload"]))
    assert payload.keys() == fields


def sealed(key: Ed25519PrivateKey, document: dict[str, Any]) -> bytes:
    """An envelope as racks of 0.1 made it, spelled out."""
    kind, payload = "application/vnd.bootferry.enrolment-request+json", json.dumps(document).encode()
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind.encode(), len(payload), payload)
    signature = base64.b64encode(key.sign(signed)).decode()
    encoded = base64.b64encode(payload).decode()
    return (
        f'{{"payloadType":"{kind}","payload":"{encoded}",'
        f'"signatures":[{{"keyid":"{fingerprint(key)}","sig":"{signature}"}}]}}'
    ).encode()


@pytest.fixture
async def region_of_then() -> AsyncIterator[FakeRegion]:
    """A region of 0.1: it knows nothing of the keys' succession, nor of racks' next keys."""
    async with FakeRegion.running() as made:
        made.keys_status = made.change_status = 404
        yield made


async def test_a_rack_of_now_says_to_a_region_of_0_1_what_that_reads(
    region_of_then: FakeRegion, tmp_path: Path
) -> None:
    region_of_then.publish(ubuntu("1"))
    async with running_rack(region_of_then, tmp_path) as rack:
        await rack.poller.poll()
        assert rack.error() is None
        assert tree_bytes(tmp_path) == ubuntu("1")
    [_, _, golden] = requests("requests-2.json")
    said = [json.loads(body) for body in region_of_then.bodies if b"bootferry-report" in body]
    assert said
    for report in said:
        assert list(report) == list(json.loads(golden["body"]))
    for request in region_of_then.requests:
        if request.path in ("/api/v1/region", "/api/v1/racks/enrol"):
            continue
        own = {
            name.title() for name in request.headers if name.lower().startswith(("signature", "bootferry", "content-d"))
        }
        expected = (
            set(golden["headers"])
            if request.method == "PUT"
            else set(golden["headers"])
            - {
                "Content-Digest",
                "Bootferry-Sequence",
            }
        )
        assert own == expected
    assert {request.path.split("/")[3] for request in region_of_then.requests} <= {
        "region",
        "racks",
        "manifest",
        "files",
    }
