"""Racks over HTTP: signed reports of either version come in, pages of racks and what each lacks go out."""

import asyncio
import base64
import hashlib
import itertools
import json
import secrets
import time
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import text

from region.database.connection import transaction
from region.fleet.showing import LIVE_FOR
from region.publishing import held
from shared.names import Name
from shared.signing import encode_bytes, fingerprint, public_bytes, sign_request
from shared.wire.correction import Correction
from shared.wire.enrolment import EnrolmentRequest, EnrolmentToken
from shared.wire.report import Fault, Knows, OldReport, Pending, Report
from tests.http.conftest import Answer, Running
from tests.stores import put

RESOLUTE = "ubuntu:resolute:amd64"
SEQUENCES = itertools.count(time.time_ns() // 1_000_000)
Eventually = Callable[..., Awaitable[object]]


class Rack:
    """A rack that an administrator has enrolled by hand."""

    def __init__(self, running: Running, number: int) -> None:
        self.running = running
        self.id, self.name = f"{number:032x}", f"rack-{number:02}"
        self.key = Ed25519PrivateKey.generate()

    async def enrol(self) -> None:
        async with transaction(self.running.region.engine) as connection:
            await connection.execute(
                text("INSERT INTO racks (id, name, public_key, enrolled_at) VALUES (:id, :name, :key, :now)"),
                {
                    "id": self.id,
                    "name": self.name,
                    "key": encode_bytes(public_bytes(self.key)),
                    "now": datetime.now(UTC),
                },
            )
            await connection.execute(text("SELECT pg_notify('bootferry', 'rack_key:' || :id)"), {"id": self.id})

    async def ask(self, method: str, path: str, body: bytes | None = None, **headers: str) -> Answer:
        signed = self.signed(method, path, body)
        return await self.running.as_nobody()(method, path, headers=signed | headers, data=body)

    def signed(self, method: str, path: str, body: bytes | None, **given: Any) -> dict[str, str]:
        """The headers of a request of this rack, which may differ from what is right by what is given."""
        asked: dict[str, Any] = {
            "region": self.running.region.fingerprint,
            "now": datetime.now(UTC),
            "nonce": secrets.token_hex(16),
            "sequence": None if method in ("GET", "HEAD") else next(SEQUENCES),
        }
        return sign_request(
            self.key, self.id, method=method, path_and_query=f"/api/v1{path}", body=body, **(asked | given)
        )

    async def report(self, knows: Knows, *pending: Pending, error: Fault | None = None) -> None:
        sequence = time.time_ns() // 1_000_000
        report = Report(
            sequence=sequence, version="9", knows=knows, pending=pending, bytes_free=10, error=error or Fault()
        )
        body = report.encode()
        assert (await self.ask("PUT", f"/racks/{self.id}/report", body)).status == 204

    async def shown(self) -> Any:
        return (await self.running.client("GET", f"/racks/{self.id}")).json


@pytest.fixture
async def rack(running: Running, eventually: Eventually) -> Rack:
    made = Rack(running, 1)
    await made.enrol()
    await eventually(lambda: running.region.rack_keys.get(made.id))
    return made


def known(running: Running) -> Knows:
    published = running.region.memory.published
    assert published is not None
    return Knows(*published.manifest.order, published.sha256)


async def status(running: Running) -> tuple[str, int]:
    image = (await running.client("GET", f"/images/{RESOLUTE}")).json
    return image["status"], image["racks_synced"]


async def test_a_rack_that_waits_for_an_operator_has_a_status_of_its_own(running: Running, rack: Rack) -> None:
    sentence = "The region's manifest would take away 2 of the 3 images this rack shows."
    await rack.report(known(running), error=Fault("waits_for_confirmation", sentence))
    shown = await rack.shown()
    assert (shown["status"], shown["last_error"]) == ("waiting_for_operator", sentence)
    await rack.report(known(running), error=Fault("disk_failed", "The disk cannot be read."))
    assert (await rack.shown())["status"] == "failing"


async def test_what_a_rack_lacks_is_told_with_the_reason(running: Running, rack: Rack) -> None:
    assert (await rack.shown())["status"] == "never_seen"
    polled = await rack.ask("GET", "/manifest")
    assert polled.status == 200
    assert polled.headers["ETag"].endswith(f'-{known(running).sha256[:16]}"')
    assert (await rack.ask("GET", "/manifest", **{"If-None-Match": polled.headers["ETag"]})).status == 304

    await rack.report(known(running), Pending(RESOLUTE, "20260701", "wrong_digest"))
    shown = await rack.shown()
    assert (shown["status"], shown["images_pending"], shown["knows"]["serial"]) == (
        "outdated",
        1,
        known(running).serial,
    )
    assert shown["pending"] == [
        {"image": RESOLUTE, "state": "pending", "shown_version": "20260701", "code": "wrong_digest"}
    ]
    assert await status(running) == ("waiting_for_racks", 0)
    on_racks = await running.client.items(f"/images/{RESOLUTE}/racks")
    assert on_racks == [
        {
            "rack_id": rack.id,
            "name": rack.name,
            "live": True,
            "state": "pending",
            "shown_version": "20260701",
            "code": "wrong_digest",
        }
    ]

    await rack.report(known(running))
    shown = await rack.shown()
    assert (shown["status"], shown["images_pending"], shown["pending"]) == ("synced", 0, [])
    assert shown["images_total"] > 1, "bootloaders are images to a rack"
    assert await status(running) == ("synced", 1)
    (on_rack,) = await running.client.items(f"/images/{RESOLUTE}/racks")
    image = (await running.client("GET", f"/images/{RESOLUTE}")).json
    assert (on_rack["state"], on_rack["shown_version"]) == ("shown", image["version"])
    assert all(one["racks_synced"] == 1 for one in await running.client.items("/bootloaders"))


async def test_a_rack_of_before_reports_every_digest(running: Running, rack: Rack) -> None:
    published = running.region.memory.published
    assert published is not None
    manifest = published.manifest
    for less, expected in ((1, "outdated"), (0, "synced")):
        held = frozenset(sorted(manifest.files())[less:])
        old = OldReport(
            sequence=time.time_ns() // 1_000_000,
            version="0",
            epoch=manifest.epoch,
            serial=manifest.serial,
            held=held,
            bytes_left=0,
            bytes_free=1,
        )
        assert (await rack.ask("PUT", f"/racks/{rack.id}/report", old.encode())).status == 204
        shown = await rack.shown()
        assert (shown["status"], shown["images_pending"] > 0) == (expected, expected != "synced")


async def test_a_rack_that_knows_more_than_the_region_is_ahead_of_its_database(running: Running, rack: Rack) -> None:
    await rack.report(Knows(known(running).epoch, known(running).serial + 1, "ab" * 32))
    assert (await rack.shown())["status"] == "ahead"
    assert {one["state"] for one in (await rack.shown())["pending"]} == {"ahead"}
    assert await status(running) == ("waiting_for_racks", 0)
    # Another manifest than ours under the same name is none of ours either.
    await rack.report(Knows(known(running).epoch, known(running).serial, "ab" * 32))
    assert (await rack.shown())["status"] == "ahead"
    await rack.report(known(running))
    assert (await rack.shown())["status"] == "synced"


async def test_racks_come_in_pages(running: Running) -> None:
    for number in (3, 1, 4, 2, 5):
        await Rack(running, number).enrol()
    for start in ("/racks", f"/images/{RESOLUTE}/racks"):
        seen: list[str] = []
        path: str | None = f"{start}?limit=2"
        while path:
            answer = await running.client("GET", path)
            seen += [entry["name"] for entry in answer.json["items"]]
            cursor = answer.json["next"]
            assert ("Link" in answer.headers) == (cursor is not None)
            path = f"{start}?limit=2&cursor={cursor}" if cursor else None
        assert seen == [f"rack-{number:02}" for number in range(1, 6)]
    assert (await running.client("GET", "/racks?cursor=../x")).status == 422
    assert (await running.client("GET", "/images/ubuntu:bionic:amd64/racks")).status == 404
    metrics = (await running.client("GET", "/metrics")).body.decode()
    assert "bootferry_racks 5.0" in metrics
    assert "bootferry_racks_left_bytes 0.0" in metrics
    assert 'bootferry_racks_in_state{state="never_seen"} 5.0' in metrics
    assert "rack-01" not in metrics, "what is told must not grow with the racks"


async def test_nothing_is_published_yet(running: Running, rack: Rack) -> None:
    running.region.memory._published = None
    polled = await rack.ask("GET", "/manifest")
    assert (polled.status, polled.body) == (204, b"")
    assert (await running.client("GET", "/metrics")).status == 200


async def test_a_rack_out_of_reach_that_polls_again_is_told(running: Running, rack: Rack) -> None:
    await rack.report(known(running))
    async with transaction(running.region.engine) as connection:
        await connection.execute(text("UPDATE racks SET last_seen_at = :then"), {"then": datetime.now(UTC) - LIVE_FOR})
    assert (await rack.shown())["status"] == "unreachable"
    (on_rack,) = await running.client.items(f"/images/{RESOLUTE}/racks")
    assert on_rack["state"] == "unreachable"
    with running.region.topics.subscribe() as told:
        await rack.ask("GET", "/manifest")
        await running.region.sightings.flush()
        heard = set(await told.next(10))
        while not {"racks", "images"} <= heard:
            heard |= set(await told.next(10))
    assert (await rack.shown())["status"] == "synced"


def a_report() -> bytes:
    return Report(sequence=time.time_ns() // 1_000_000, version="9", bytes_free=10).encode()


async def test_a_change_counts_once_and_whoever_sends_it_again_is_told_where_the_rack_is(
    running: Running, rack: Rack
) -> None:
    path, nobody = f"/racks/{rack.id}/report", running.as_nobody()
    for sequence, nonce in ((7, "7" * 32), (9, "9" * 32)):
        body = a_report()
        headers = rack.signed("PUT", path, body, sequence=sequence, nonce=nonce)
        assert (await nobody("PUT", path, headers=headers, data=body)).status == 204
        seen = await rack.shown()
        # A body that says something new, so that nothing but the request's sequence tells them apart.
        newer = Report(sequence=time.time_ns() // 1_000_000 + 60_000, version="replayed", bytes_free=1).encode()
        for again, sent in (
            (headers, body),
            (rack.signed("PUT", path, newer, sequence=sequence, nonce=nonce), newer),
            (rack.signed("PUT", path, newer, sequence=sequence - 1, nonce=nonce), newer),
        ):
            refused = await nobody("PUT", path, headers=again, data=sent)
            assert (refused.status, refused.json["code"]) == (401, "replayed")
            correction = Correction.open(
                refused.headers["Bootferry-Correction"], running.region.key.public_key(), nonce
            )
            assert correction.sequence == sequence
        assert await rack.shown() == seen
    reading = rack.signed("GET", "/manifest", None)
    for _ in range(2):
        assert (await nobody("GET", "/manifest", headers=reading)).status == 200


async def test_a_rack_whose_clock_is_wrong_is_told_the_regions_time_and_a_stranger_is_not(
    running: Running, rack: Rack
) -> None:
    nobody, nonce = running.as_nobody(), "ab" * 16
    for wrong in (timedelta(days=-3650), timedelta(seconds=-310), timedelta(seconds=310), timedelta(days=3650)):
        headers = rack.signed("GET", "/manifest", None, now=datetime.now(UTC) + wrong, nonce=nonce)
        refused = await nobody("GET", "/manifest", headers=headers)
        assert (refused.status, refused.json["code"]) == (401, "wrong_clock")
        correction = Correction.open(refused.headers["Bootferry-Correction"], running.region.key.public_key(), nonce)
        assert abs((correction.at - datetime.now(UTC)).total_seconds()) < 10
        assert correction.sequence == 0

        stranger = Rack(running, 1)
        headers = stranger.signed("GET", "/manifest", None, now=datetime.now(UTC) + wrong, nonce=nonce)
        refused = await nobody("GET", "/manifest", headers=headers)
        assert (refused.status, refused.json["code"]) == (401, "request_signature_invalid")
        assert "Bootferry-Correction" not in refused.headers


async def test_a_request_meant_for_another_region_opens_nothing(running: Running, rack: Rack) -> None:
    headers = rack.signed("GET", "/manifest", None, region="cd" * 32)
    refused = await running.as_nobody()("GET", "/manifest", headers=headers)
    assert (refused.status, refused.json["code"]) == (401, "request_signature_invalid")


async def test_a_rack_of_0_1_is_still_heard(running: Running, rack: Rack) -> None:
    # It signs with http-message-signatures, over neither region nor sequence; a report's own sequence orders it.
    path = f"/racks/{rack.id}/report"
    for method, target, body, status in (("GET", "/manifest", None, 200), ("PUT", path, a_report(), 204)):
        message = requests_signed_by_0_1(rack.key, rack.id, method, f"/api/v1{target}", body, datetime.now(UTC))
        assert (await running.as_nobody()(method, target, headers=message, data=body)).status == status
    assert (await rack.shown())["version"] == "9"
    older = Report(sequence=1, version="replayed", bytes_free=1).encode()
    message = requests_signed_by_0_1(rack.key, rack.id, "PUT", f"/api/v1{path}", older, datetime.now(UTC))
    assert (await running.as_nobody()("PUT", path, headers=message, data=older)).status == 204
    assert (await rack.shown())["version"] == "9"


def requests_signed_by_0_1(
    key: Ed25519PrivateKey, key_id: str, method: str, target: str, body: bytes | None, now: datetime
) -> dict[str, str]:
    """The headers that a rack of 0.1 sends."""
    digest = f"sha-256=:{base64.b64encode(hashlib.sha256(body or b'').digest()).decode()}:"
    covered = '"@method" "@path" "@query"' + ("" if body is None else ' "content-digest"')
    parameters = f'({covered});created={int(now.timestamp())};keyid="{key_id}";alg="ed25519";tag="bootferry-rack"'
    lines = [f'"@method": {method}', f'"@path": {target}', '"@query": ?']
    lines += [] if body is None else [f'"content-digest": {digest}']
    signature = key.sign("\n".join([*lines, f'"@signature-params": {parameters}']).encode())
    headers = {
        "Signature-Input": f"rack={parameters}",
        "Signature": f"rack=:{base64.b64encode(signature).decode()}:",
    }
    return headers if body is None else headers | {"Content-Digest": digest}


async def test_a_rack_reports_for_itself_only(running: Running, rack: Rack, eventually: Eventually) -> None:
    other = Rack(running, 2)
    await other.enrol()
    await eventually(lambda: running.region.rack_keys.get(other.id))
    answer = await rack.ask("PUT", f"/racks/{other.id}/report", a_report())
    assert (answer.status, answer.json["code"]) == (403, "forbidden")
    assert (await other.shown())["status"] == "never_seen"
    assert (await rack.ask("PUT", f"/racks/{rack.id}/report", a_report())).status == 204


async def token_of(running: Running, **fields: int) -> tuple[Answer, EnrolmentToken]:
    made = await running.client("POST", "/enrolment-tokens", json=fields)
    assert made.status == 201
    return made, EnrolmentToken.parse(made.json["token"])


def enrolment(token: EnrolmentToken, name: str = "attic", off: timedelta = timedelta()) -> bytes:
    key = encode_bytes(public_bytes(Ed25519PrivateKey.generate()))
    created_at = datetime.now(UTC) + off
    return EnrolmentRequest(Name(name), key, token.region_fingerprint, "ab" * 16, created_at).sealed(token)


async def test_the_command_that_is_shown_does_not_show_the_token(running: Running) -> None:
    made, _ = await token_of(running)
    assert made.json["command"] == f"bootferry-rack enrol --region {running.client.base}"


async def test_tokens_are_listed_in_pages_and_a_revoked_one_lets_nobody_in(running: Running) -> None:
    made = [await token_of(running, uses=2) for _ in range(3)]
    (first, secret), *_ = made
    ids: list[str] = []
    path: str | None = "/enrolment-tokens?limit=2"
    while path:
        page = await running.client("GET", path)
        ids += [item["id"] for item in page.json["items"]]
        path = f"/enrolment-tokens?limit=2&cursor={page.json['next']}" if page.json["next"] else None
        for _, token in made:
            assert encode_bytes(token.secret).encode() not in page.body
    assert ids == sorted(answer.json["id"] for answer, _ in made)

    nobody = running.as_nobody()
    assert (await nobody("POST", "/racks/enrol", data=enrolment(secret))).status == 201
    shown = await running.client("GET", f"/enrolment-tokens/{first.json['id']}")
    assert (shown.json["uses_left"], shown.json["made_by"]) == (1, "first administrator")
    assert shown.headers["ETag"] == first.headers["ETag"], "to be used changes no ETag"
    assert (await running.client("DELETE", f"/enrolment-tokens/{first.json['id']}")).status == 204
    refused = await nobody("POST", "/racks/enrol", data=enrolment(secret, "cellar"))
    assert (refused.status, refused.json["code"]) == (401, "token_unknown")
    assert [rack["name"] for rack in await running.client.items("/racks")] == ["attic"]
    newest = (await running.client.items("/activity?limit=1"))[0]
    assert (newest["action"], newest["subject"]) == (
        "enrolment_token.removed",
        f"enrolment_token:{first.json['id']}",
    )
    assert (newest["who"], newest["before"]["uses_left"]) == ("first administrator", 1)


async def test_a_removed_rack_does_not_come_back_by_its_enrolment(running: Running) -> None:
    _, token = await token_of(running, uses=3)
    sent, nobody = enrolment(token), running.as_nobody()
    answered = await nobody("POST", "/racks/enrol", data=sent)
    assert answered.status == 201
    again = await nobody("POST", "/racks/enrol", data=sent)
    assert (again.status, again.json["code"]) == (409, "conflict")
    (rack,) = await running.client.items("/racks")
    assert (await running.client("DELETE", f"/racks/{rack['id']}")).status == 204
    again = await nobody("POST", "/racks/enrol", data=sent)
    assert (again.status, again.json["code"]) == (403, "key_barred")
    assert await running.client.items("/racks") == []


async def test_an_enrolment_of_another_time_is_told_the_regions(running: Running) -> None:
    _, token = await token_of(running)
    for off in (timedelta(seconds=310), timedelta(seconds=-310), timedelta(days=-3650)):
        refused = await running.as_nobody()("POST", "/racks/enrol", data=enrolment(token, off=off))
        assert (refused.status, refused.json["code"]) == (401, "wrong_clock")
        assert ("behind" if off < timedelta() else "ahead") in refused.json["detail"]
        correction = Correction.open(
            refused.headers["Bootferry-Correction"], running.region.key.public_key(), "ab" * 16
        )
        assert abs((correction.at - datetime.now(UTC)).total_seconds()) < 10
    assert (await running.as_nobody()("POST", "/racks/enrol", data=enrolment(token))).status == 201


async def test_enrolments_that_fail_are_counted_before_anything_is_looked_at(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    nobody = running.as_nobody()
    _, token = await token_of(running, uses=2)
    # What holds a good token costs no attempt.
    for _ in range(25):
        assert (await nobody("POST", "/racks/enrol", data=enrolment(token, off=timedelta(days=1)))).status == 401
    stranger = EnrolmentToken(running.region.fingerprint, b"x" * 32)
    bodies = [b"", b"[]", enrolment(stranger), enrolment(EnrolmentToken("ab" * 32, token.secret))]
    statuses = [(await nobody("POST", "/racks/enrol", data=bodies[number % 4])).status for number in range(20)]
    assert 429 not in statuses

    async def never(*_arguments: object) -> None:
        raise AssertionError("the database was asked")

    monkeypatch.setattr("region.actions.racks.enrol", never)
    refused = await nobody("POST", "/racks/enrol", data=enrolment(token))
    assert (refused.status, refused.json["code"]) == (429, "too_many_attempts")
    assert 1 <= int(refused.headers["Retry-After"]) <= 122
    assert "enrolments" in refused.json["detail"]
    refusals = [entry for entry in await running.client.items("/activity") if entry["action"] == "enrolment.refused"]
    assert len(refusals) == 1


async def test_a_rack_gets_the_files_of_its_manifest_and_no_others(running: Running, rack: Rack) -> None:
    published = running.region.memory.published
    assert published is not None
    for sha256, size in published.manifest.files().items():
        answer = await rack.ask("GET", f"/files/{sha256}")
        assert (answer.status, len(answer.body)) == (200, size)
    # A file that is stored, and that no manifest ever named.
    content = b"somebody's upload"
    sha256 = put(running.region.store, content)
    async with transaction(running.region.engine) as connection:
        await connection.execute(
            text("INSERT INTO files (sha256, size, stored_at) VALUES (:sha256, :size, now())"),
            {"sha256": sha256, "size": len(content)},
        )
    assert (await running.client("GET", f"/files/{sha256}")).body == content
    for method in ("GET", "HEAD"):
        refused = await rack.ask(method, f"/files/{sha256}")
        assert refused.status == 404
    assert (await rack.ask("GET", f"/files/{sha256}")).json["code"] == "not_found"


async def test_a_rack_that_asks_before_word_of_a_manifest_has_come_is_not_refused(running: Running, rack: Rack) -> None:
    # As in a process that another one's publishing has not reached yet.
    memory, published = running.region.memory, running.region.memory.published
    assert published is not None
    memory._published, memory._published_sizes, memory._named_until = None, {}, {}
    sha256 = next(iter(published.manifest.files()))
    assert (await rack.ask("GET", f"/files/{sha256}")).status == 200


async def test_hints_say_within_which_time_to_ask_and_which_one_is_an_imports_last(
    running: Running, rack: Rack
) -> None:
    region, engine = running.region, running.region.engine

    async def hint(response: aiohttp.ClientResponse) -> dict[str, Any]:
        async with asyncio.timeout(10):
            while not (line := await response.content.readline()).startswith(b"data:"):
                pass
        found: dict[str, Any] = json.loads(line.removeprefix(b"data:"))
        return found

    serial = known(running).serial
    path = "/api/v1/manifest/events"
    signed = rack.signed("GET", "/manifest/events", None)
    async with running.client.session.get(f"{running.client.base}{path}", headers=signed) as response:
        first = await hint(response)
        assert first == {"epoch": region.memory.published.manifest.epoch, "serial": serial} | {  # type: ignore[union-attr]
            "within_seconds": 2,
            "last": True,
        }
        async with transaction(engine) as connection:
            # An import that runs elsewhere.
            await connection.execute(
                text("""
                    INSERT INTO imports (trigger, requested_by, requested_at, state, lease_owner, lease_until)
                    VALUES ('operator', 'Ann', now(), 'running', 'another', now() + interval '1 hour')
                """)
            )
            await held.change(connection, region.publisher, datetime.now(UTC), confirmed=True)
        assert ((found := await hint(response))["serial"], found["last"]) == (serial + 1, False)
        async with transaction(engine) as connection:
            await connection.execute(
                text("UPDATE imports SET state = 'succeeded', finished_at = now() WHERE lease_owner = 'another'")
            )
            await connection.execute(text("SELECT pg_notify('bootferry', 'imports')"))
        assert ((found := await hint(response))["serial"], found["last"]) == (serial + 1, True)


async def test_more_racks_are_given_more_time(running: Running, rack: Rack) -> None:
    region = running.region
    region.rack_keys._known |= {f"{number:032x}": "" for number in range(100, 3099)}
    path = "/api/v1/manifest/events"
    signed = rack.signed("GET", "/manifest/events", None)
    async with running.client.session.get(f"{running.client.base}{path}", headers=signed) as response:
        async with asyncio.timeout(10):
            while not (line := await response.content.readline()).startswith(b"data:"):
                pass
        assert json.loads(line.removeprefix(b"data:"))["within_seconds"] == 60


async def test_operators_are_answered_while_reports_of_many_racks_wait_for_the_database(
    running: Running, eventually: Eventually
) -> None:
    racks = [Rack(running, number) for number in range(1, 41)]
    for rack in racks:
        await rack.enrol()
    await eventually(lambda: all(running.region.rack_keys.get(rack.id) for rack in racks))
    body = Report(sequence=time.time_ns() // 1_000_000, version="9", knows=Knows(), bytes_free=1).encode()
    async with transaction(running.region.engine) as connection:
        await connection.execute(text("SELECT 1 FROM racks FOR UPDATE"))
        reports = [asyncio.create_task(rack.ask("PUT", f"/racks/{rack.id}/report", body)) for rack in racks]
        await asyncio.sleep(0.5)
        assert (await running.client("GET", "/settings")).status == 200
        assert not any(report.done() for report in reports)
    assert {answer.status for answer in await asyncio.gather(*reports)} <= {204, 503}


def next_key(key: Ed25519PrivateKey) -> bytes:
    return json.dumps({"format": "bootferry-rack-key:1", "public_key": encode_bytes(public_bytes(key))}).encode()


async def test_a_racks_next_key_takes_the_place_of_the_one_that_signed_it(
    running: Running, rack: Rack, eventually: Eventually
) -> None:
    old, fresh = rack.key, Ed25519PrivateKey.generate()
    path, body = f"/racks/{rack.id}/key", next_key(fresh)
    signed = rack.signed("PUT", path, body)
    assert (await running.as_nobody()("PUT", path, headers=signed, data=body)).status == 204

    async def refused() -> bool:
        return (await rack.ask("GET", "/manifest")).status == 401

    await eventually(refused)
    rack.key = fresh

    async def accepted() -> bool:
        return (await rack.ask("GET", "/manifest")).status == 200

    await eventually(accepted)
    await rack.report(known(running))
    assert (await rack.shown())["fingerprint"] == fingerprint(fresh)
    # The word counts once, and the old key gives none any more.
    assert (await running.as_nobody()("PUT", path, headers=signed, data=body)).status == 401
    told = (await running.client("GET", "/activity?limit=1")).json["items"][0]
    assert (told["action"], told["who"], told["subject"]) == ("rack.key_rotated", "rack-01", f"rack:{rack.id}")
    assert (told["before"], told["after"]) == ({"fingerprint": fingerprint(old)}, {"fingerprint": fingerprint(fresh)})
    async with transaction(running.region.engine) as connection:
        barred = await connection.scalar(text("SELECT public_key FROM barred_keys"))
    assert barred == encode_bytes(public_bytes(old))
    assert (await rack.ask("PUT", path, next_key(old))).status == 403


async def test_a_key_that_was_left_names_no_successor_to_a_process_that_has_not_heard(
    running: Running, rack: Rack
) -> None:
    old, path = rack.key, f"/racks/{rack.id}/key"
    assert (await rack.ask("PUT", path, next_key(Ed25519PrivateKey.generate()))).status == 204
    async with transaction(running.region.engine) as connection:
        now = await connection.scalar(text("SELECT public_key FROM racks"))
    # A process that was asleep while the key was changed.
    running.region.rack_keys._known[rack.id] = old.public_key()
    assert (await rack.ask("PUT", path, next_key(Ed25519PrivateKey.generate()))).status == 401
    async with transaction(running.region.engine) as connection:
        assert await connection.scalar(text("SELECT public_key FROM racks")) == now


async def test_a_rack_changes_no_other_key_and_takes_no_others(
    running: Running, rack: Rack, eventually: Eventually
) -> None:
    other = Rack(running, 2)
    await other.enrol()
    await eventually(lambda: running.region.rack_keys.get(other.id))
    fresh = next_key(Ed25519PrivateKey.generate())
    assert (await rack.ask("PUT", f"/racks/{other.id}/key", fresh)).status == 403
    assert (await rack.ask("PUT", f"/racks/{rack.id}/key", next_key(other.key))).status == 409
    assert (await rack.ask("PUT", f"/racks/{rack.id}/key", next_key(rack.key))).status == 409
    assert (await rack.ask("PUT", f"/racks/{rack.id}/key", b'{"format": "x", "public_key": "y"}')).status == 422
    body = fresh.replace(b'"public_key": "', b'"public_key": "AA')
    assert (await rack.ask("PUT", f"/racks/{rack.id}/key", body)).status == 422
    assert (await rack.ask("GET", "/manifest")).status == 200
