"""The region's key is rotated while the region runs: what it tells whom, and which requests it still takes."""

import asyncio
import os
import secrets
import sys
from asyncio.subprocess import PIPE
from collections.abc import Awaitable, Callable
from dataclasses import replace
from datetime import UTC, datetime, timedelta

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from region.database.connection import transaction
from shared.signing import encode_bytes, fingerprint, parse_public_key, public_bytes, sign_request
from shared.wire.envelope import open_envelope
from shared.wire.succession import follow, parse_chain
from tests.http.conftest import Answer, Running

Eventually = Callable[..., Awaitable[object]]
RACK_ID = "0" * 31 + "1"


async def rotate(running: Running) -> str:
    """What `bootferry-region key rotate` prints, on the region's machine."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("REGION_")}
    environment |= {
        "REGION_DATABASE_URL": running.region.configuration.database_url,
        "REGION_DATA_DIR": str(running.region.configuration.data_dir),
    }
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-m", "region", "key", "rotate", env=environment, stdout=PIPE, stderr=PIPE
    )
    told, complained = await process.communicate()
    assert process.returncode == 0, complained.decode()
    return told.decode()


async def test_a_region_that_runs_takes_the_new_key_by_itself_and_tells_how_the_keys_followed(
    running: Running, eventually: Eventually
) -> None:
    nobody = running.as_nobody()
    old = running.region.key
    published = running.region.memory.published
    assert published is not None
    assert parse_chain((await nobody("GET", "/region/keys")).body) == []

    told = await rotate(running)

    async def new_manifest() -> bool:
        now = running.region.memory.published
        return now is not None and now.manifest.order > published.manifest.order

    await eventually(new_manifest)
    said = (await nobody("GET", "/region")).json
    assert said["fingerprint"] != fingerprint(old)
    assert f"The region's key is {said['fingerprint']} now." in told
    answer = await nobody("GET", "/region/keys")
    assert answer.status == 200
    assert {name: answer.json[name] for name in ("public_key", "fingerprint")} == {
        name: said[name] for name in ("public_key", "fingerprint")
    }
    [found] = follow(fingerprint(old), parse_chain(answer.body))
    assert found == parse_public_key(said["public_key"])
    now = running.region.memory.published
    assert now is not None
    open_envelope(now.envelope, "application/vnd.bootferry.manifest+json", [found], origin="The manifest")
    # It goes on: an import, and what an operator confirms, are published with the new key.
    assert (await running.client("POST", "/manifest/confirmation")).status == 200


async def test_requests_are_taken_that_are_meant_for_the_key_before_and_for_no_other(
    running: Running, eventually: Eventually
) -> None:
    key, old = Ed25519PrivateKey.generate(), running.region.fingerprint
    async with transaction(running.region.engine) as connection:
        await connection.execute(
            text("INSERT INTO racks (id, name, public_key, enrolled_at) VALUES (:id, 'rack-1', :key, now())"),
            {"id": RACK_ID, "key": encode_bytes(public_bytes(key))},
        )
        await connection.execute(text("SELECT pg_notify('bootferry', 'rack_key:' || :id)"), {"id": RACK_ID})
    await eventually(lambda: running.region.rack_keys.get(RACK_ID))

    async def ask(meant: str) -> Answer:
        signed = sign_request(
            key,
            RACK_ID,
            meant,
            "GET",
            "/api/v1/manifest",
            None,
            now=datetime.now(UTC),
            nonce=secrets.token_hex(16),
        )
        return await running.as_nobody()("GET", "/manifest", headers=signed)

    await rotate(running)
    await eventually(lambda: running.region.fingerprint != old)
    assert (await ask(running.region.fingerprint)).status == 200
    assert (await ask(old)).status == 200
    assert (await ask("ab" * 32)).status == 401
    [kept] = running.region.successions
    running.region.successions = (replace(kept, made_at=datetime.now(UTC) - timedelta(days=30)),)
    refused = await ask(old)
    assert (refused.status, refused.json["code"]) == (401, "request_signature_invalid")
    assert (await ask(running.region.fingerprint)).status == 200
