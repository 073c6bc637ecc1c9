"""The region's API as curl sees it."""

import asyncio
import errno
import io
import json
from typing import Any

import pytest
from sqlalchemy import text

from deploy.local.mirror.faults import Status
from region.catalogue import selections
from region.database.connection import transaction
from region.people.operators import Role, create_token
from shared.digest import Sha256
from shared.store.disk import DiskFile, DiskStore
from tests.conftest import NOW
from tests.http.conftest import Client, Running, imported
from tests.stores import stored_path

NOBLE = {"os": "ubuntu", "release": "noble", "arch": "amd64"}
RESOLUTE = {"os": "ubuntu", "release": "resolute", "arch": "amd64"}


async def test_the_newest_lts_arrives_without_anyone_asking(running: Running) -> None:
    images = await running.client.items("/images")
    assert [(image["id"], image["status"], image["progress"]) for image in images] == [
        ("ubuntu:resolute:amd64", "stored", 100)
    ]
    expected = running.mirror.expected("resolute", "amd64", "ga-26.04")
    for file in expected.values():
        answer = await running.client("GET", f"/files/{file.sha256}")
        assert (answer.status, Sha256.of(answer.body)) == (200, file.sha256)
        assert answer.headers["ETag"] == f'"{file.sha256}"'
    schedule = (await running.client("GET", "/sync")).json
    assert schedule["enabled"]
    assert schedule["interval_seconds"] == 3600
    assert schedule["last_run_at"] is not None


async def test_a_selection_is_planned_then_imported_then_given_up(running: Running) -> None:
    client = running.client
    wished = {"items": [NOBLE, RESOLUTE]}
    planned = await client("PUT", "/selections", params={"dry_run": "true"}, json=wished)
    assert planned.status == 200
    assert planned.json["add"] == ["ubuntu:noble:amd64"]
    assert planned.json["import_id"] is None
    assert len(await client.items("/selections")) == 1

    saved = await client("PUT", "/selections", json=wished)
    assert saved.status == 202
    assert saved.headers["Location"] == f"/api/v1/imports/{saved.json['import_id']}"
    run = await imported(client, saved.json["import_id"])
    assert run["state"] == "succeeded"
    assert sum(image["bytes_done"] for image in run["images"].values()) == planned.json["fetch_bytes"]
    assert {image["status"] for image in await client.items("/images")} == {"stored"}

    given_up = await client("PUT", "/selections", json={"items": [NOBLE]})
    assert given_up.json["remove"] == ["ubuntu:resolute:amd64"]
    await imported(client, given_up.json["import_id"])
    assert [image["id"] for image in await client.items("/images")] == ["ubuntu:noble:amd64"]


async def test_one_image_is_selected_and_given_up(running: Running) -> None:
    client = running.client
    added = await client("POST", "/selections", json=NOBLE)
    assert added.status == 202
    [noble] = [entry for entry in await client.items("/selections") if entry["release"] == "noble"]
    dry = await client("DELETE", f"/selections/{noble['id']}", params={"dry_run": "true"})
    assert (dry.status, dry.json["remove"]) == (200, ["ubuntu:noble:amd64"])
    assert (await client("DELETE", f"/selections/{noble['id']}")).status == 202
    assert (await client("DELETE", f"/selections/{noble['id']}")).status == 404


async def test_what_is_available_names_the_source_that_would_win(running: Running) -> None:
    """An unsigned source of a greater priority was named, which wins an image only where a selection names it."""
    client = running.client
    mirror = {"name": "lab", "url": running.upstream.url, "unsigned": True, "priority": 99}
    added = await client("POST", "/sources", json=mirror)
    assert added.status == 201, added.body
    await imported(client, int(added.headers["Location"].rsplit("/", 1)[1]))
    lab = added.json["id"]
    assert {image["source_id"] for image in await client.items("/available")} == {1}
    assert {image["source_id"] for image in await client.items(f"/available?source_id={lab}")} == {lab}

    named = await client("PUT", "/selections", json={"items": [RESOLUTE, NOBLE | {"source_id": lab}]})
    assert named.status == 202, named.body
    available = {(image["release"], image["arch"]): image["source_id"] for image in await client.items("/available")}
    assert [available[release, "amd64"] for release in ("noble", "resolute", "jammy")] == [lab, 1, 1]


async def test_two_who_select_at_once_both_get_what_they_selected(running: Running) -> None:
    """Each read the selection before the other had written it: the image of the first was unselected again."""
    client = running.client
    jammy = NOBLE | {"release": "jammy"}
    async with transaction(running.region.engine) as connection:
        await selections.revision(connection, for_update=True)
        asking = [asyncio.create_task(client("POST", "/selections", json=image)) for image in (NOBLE, jammy)]
        async with transaction(running.region.engine) as other:
            for _ in range(100):
                if await other.scalar(text("SELECT count(*) FROM pg_locks WHERE NOT granted")) == 2:
                    break
                await asyncio.sleep(0.01)
    assert [answer.status for answer in await asyncio.gather(*asking)] == [202, 202]
    assert {entry["release"] for entry in await client.items("/selections")} == {"resolute", "noble", "jammy"}


async def test_the_sync_is_switched(running: Running) -> None:
    off = await running.client("PATCH", "/sync", json={"enabled": False})
    assert (off.json["enabled"], off.json["next_run_at"]) == (False, None)
    often = await running.client("PATCH", "/sync", json={"interval_seconds": 300})
    assert (often.status, often.json["enabled"], often.json["interval_seconds"]) == (200, False, 300)
    assert often.headers["ETag"] != off.headers["ETag"]
    for refused in ({"interval_seconds": 299}, {"interval_seconds": 604_801}, {}, {"enabled": None}):
        assert (await running.client("PATCH", "/sync", json=refused)).status == 422
    assert (await running.client("PATCH", "/sync", json={"interval_seconds": 3600})).status == 200
    on = await running.client("PATCH", "/sync", json={"enabled": True})
    assert on.json["next_run_at"] is not None


async def test_a_new_version_takes_the_place_of_the_old_one(running: Running) -> None:
    running.mirror.publish(version="20260702", release="resolute", arch="amd64")
    started = await running.client("POST", "/imports")
    assert (await imported(running.client, started.json["id"]))["state"] == "succeeded"
    [image] = await running.client.items("/images")
    assert (image["version"], image["held_version"]) == ("20260702", "20260702")


async def test_a_file_lost_on_the_region_is_healed_and_never_served_wrong(running: Running) -> None:
    kernel = running.mirror.expected("resolute", "amd64", "ga-26.04")["boot-kernel"]
    path = stored_path(running.region.store, Sha256(kernel.sha256))
    path.chmod(0o644)
    path.write_bytes(b"x" * kernel.size)
    await running.region.clock.audit()
    for _ in range(200):
        answer = await running.client("GET", f"/files/{kernel.sha256}")
        if answer.status == 200:
            break
        assert answer.status in (404, 503)
        await asyncio.sleep(0.05)
    assert Sha256.of(answer.body) == kernel.sha256


REFUSALS: dict[str, tuple[str, str, dict[str, Any], int, str]] = {
    "no such address": ("GET", "/nothing", {}, 404, "not_found"),
    "no such method": ("DELETE", "/images", {}, 405, "method_not_allowed"),
    "path as name": ("POST", "/selections", {"json": {**NOBLE, "release": "../x"}}, 422, "invalid_request"),
    "unknown field": ("POST", "/selections", {"json": {**NOBLE, "colour": 1}}, 422, "invalid_request"),
    "not json": ("POST", "/selections", {"data": b"{"}, 422, "invalid_request"),
    "not offered": ("POST", "/selections", {"json": {**NOBLE, "release": "warty"}}, 404, "not_found"),
    "no such source": ("POST", "/selections", {"json": {**NOBLE, "source_id": 9}}, 404, "not_found"),
    "not an image id": ("GET", "/images/ubuntu", {}, 422, "invalid_request"),
    "no such image": ("GET", "/images/ubuntu:warty:amd64", {}, 404, "not_found"),
    "no such import": ("GET", "/imports/99", {}, 404, "not_found"),
    "cancel what has ended": ("POST", "/imports/1/cancel", {}, 409, "conflict"),
    "not a digest": ("GET", "/files/xyz", {}, 422, "invalid_value"),
    "no such file": ("GET", f"/files/{'0' * 64}", {}, 404, "not_found"),
    "no such rack": ("GET", "/racks/" + "0" * 32, {}, 404, "not_found"),
    "not an enrolment": ("POST", "/racks/enrol", {"data": b"hello"}, 422, "invalid_document"),
    "too large": ("POST", "/sources", {"data": io.BytesIO(bytes(9_000_000))}, 413, "body_too_large"),
    "page of nothing": ("GET", "/imports?limit=0", {}, 422, "invalid_request"),
    "cursor with a NUL": ("GET", "/images?cursor=%00", {}, 422, "invalid_request"),
    "images that are no text": ("POST", "/imports", {"json": {"images": [None, 1]}}, 422, "invalid_request"),
    "path with a NUL": (
        "POST",
        "/sources",
        {"json": {"name": "x", "url": "http://x/", "keyring_path": "/etc/\x00"}},
        422,
        "keyring_unreadable",
    ),
    "the end of time": (
        "POST",
        "/operator-tokens",
        {"json": {"name": "x", "expires_at": "9999-12-31T23:59:59-23:59"}},
        422,
        "invalid_value",
    ),
    "not text at all": ("POST", "/selections", {"data": b"\xff\xfe"}, 422, "invalid_request"),
    "versions of no image": ("GET", "/images/ubuntu:zzz:amd64/versions", {}, 404, "not_found"),
    "a bootloader selected": (
        "POST",
        "/selections",
        {"json": {"os": "bootloader", "release": "uefi", "arch": "amd64"}},
        422,
        "invalid_value",
    ),
    "source in use": ("DELETE", "/sources/1", {}, 409, "held_undecided"),
}


async def test_refusals_are_problems(running: Running) -> None:
    for case, (method, path, given, status, code) in REFUSALS.items():
        answer = await running.client(method, path, **given)
        assert (answer.status, answer.json["code"]) == (status, code), case
        assert answer.headers["Content-Type"] == "application/problem+json", case
        assert answer.json["detail"].endswith("."), case
        assert answer.json["request_id"] == answer.headers["X-Request-Id"], case


PROBES: dict[str, tuple[dict[str, Any], int, str]] = {
    "no such name": ({"url": "http://nowhere.invalid/", "unsigned": True}, 502, "name_not_found"),
    "nobody there": ({"url": "http://127.0.0.1:1/", "unsigned": True}, 502, "connection_refused"),
    "metadata service": ({"url": "http://169.254.169.254/", "unsigned": True}, 502, "address_forbidden"),
    "not http": ({"url": "ftp://x/", "unsigned": True}, 422, "invalid_value"),
    "404": ({"url": "{mirror}nothing/", "unsigned": True}, 502, "http_status"),
    "not a keyring": ({"url": "{mirror}", "keyring": "x"}, 422, "keyring_invalid"),
    "neither keyring nor unsigned": ({"url": "{mirror}"}, 422, "invalid_value"),
    "no such keyring": ({"url": "{mirror}", "keyring_path": "/nowhere"}, 422, "keyring_unreadable"),
    "another's keyring": ({"url": "{mirror}", "keyring_path": "{shipped}"}, 422, "signature_unknown_key"),
}


async def test_a_probe_says_precisely_why_not(running: Running) -> None:
    from region.stream.keys import DEFAULT_KEYRING

    words = {"mirror": running.upstream.url, "shipped": str(DEFAULT_KEYRING)}
    for case, (fields, status, code) in PROBES.items():
        filled = {name: value.format(**words) if isinstance(value, str) else value for name, value in fields.items()}
        answer = await running.client("POST", "/sources/probe", json={"name": "new", **filled})
        assert (answer.status, answer.json["code"]) == (status, code), (case, answer.json)
    assert len(await running.client.items("/sources")) == 1


async def test_a_probe_shows_what_is_offered_and_saves_nothing(running: Running) -> None:
    fields = {"name": "new", "url": running.upstream.url, "keyring_path": str(running.mirror.keyring_path)}
    answer = await running.client("POST", "/sources/probe", json=fields)
    assert answer.status == 200
    assert answer.json["signed_by"] == [running.mirror.fingerprint]
    offered = {f"{image['os']}:{image['release']}:{image['arch']}" for image in answer.json["images"]}
    assert {"ubuntu:noble:amd64", "ubuntu:noble:arm64", "centos:centos66:amd64"} <= offered
    available = await running.client.items("/available")
    assert {f"{image['os']}:{image['release']}:{image['arch']}" for image in available} == offered
    assert [image | {"source_id": None} for image in available] == answer.json["images"]
    assert {image["source_id"] for image in available} == {1}


async def test_an_unsigned_mirror_is_refused_unless_declared(running: Running) -> None:
    running.mirror.unsigned()
    fields = {"name": "new", "url": running.upstream.url}
    signed = await running.client(
        "POST", "/sources/probe", json={**fields, "keyring_path": str(running.mirror.keyring_path)}
    )
    assert (signed.status, signed.json["code"]) == (422, "unsigned")
    declared = await running.client("POST", "/sources", json={**fields, "unsigned": True})
    assert declared.status == 201
    assert declared.json["unsigned"] is True
    assert declared.json["key_ids"] == []


async def test_a_source_is_changed_and_forgotten(running: Running) -> None:
    fields = {"name": "second", "url": f"{running.upstream.url}streams/v1/index.sjson", "unsigned": True}
    made = await running.client("POST", "/sources", json=fields)
    assert made.json["url"] == running.upstream.url
    path = f"/sources/{made.json['id']}"
    assert (await running.client("POST", "/sources", json=fields)).json["code"] == "conflict"
    changed = await running.client(
        "PATCH", path, json={"name": "renamed", "keyring_path": str(running.mirror.keyring_path)}
    )
    assert (changed.status, changed.json["name"], changed.json["unsigned"]) == (200, "renamed", False)
    assert (await running.client("PATCH", path, json={})).status == 422
    gone = await running.client("DELETE", path)
    assert (gone.status, gone.json["held"]) == (200, [])
    assert (await running.client("GET", path)).status == 404


async def test_an_upstream_fault_changes_nothing_that_is_held(running: Running) -> None:
    running.upstream.misbehave("*", Status(500))
    started = await running.client("POST", "/imports")
    run = await imported(running.client, started.json["id"])
    assert (run["state"], run["error_code"]) == ("failed", "http_status")
    [image] = await running.client.items("/images")
    assert (image["status"], image["error_code"]) == ("stored", "http_status")
    [source] = await running.client.items("/sources")
    assert source["error"]


@pytest.mark.parametrize(
    ("role", "allowed"),
    [
        pytest.param(Role.VIEWER, {"GET /images"}, id="viewer"),
        pytest.param(Role.OPERATOR, {"GET /images", "POST /imports"}, id="operator"),
        pytest.param(Role.ADMIN, {"GET /images", "POST /imports", "POST /enrolment-tokens"}, id="admin"),
    ],
)
async def test_a_role_allows_what_it_says(running: Running, role: Role, allowed: set[str]) -> None:
    async with transaction(running.region.engine) as connection:
        token = await create_token(connection, "somebody", role, NOW)
    client = Client(running.client.session, running.client.base, token)
    for request in ("GET /images", "POST /imports", "POST /enrolment-tokens"):
        answer = await client(*request.split())
        assert (answer.status < 300) == (request in allowed), (request, answer.json)
        if request not in allowed:
            assert (answer.status, answer.json["code"]) == (403, "forbidden")


@pytest.mark.parametrize(
    ("token", "code"),
    [
        pytest.param(None, "unauthenticated", id="none"),
        pytest.param("rubbish", "token_unknown", id="rubbish"),
        pytest.param(f"bf_{'0' * 12}_{'A' * 43}", "token_unknown", id="unknown"),
    ],
)
async def test_nobody_gets_in(running: Running, token: str | None, code: str) -> None:
    client = Client(running.client.session, running.client.base, token)
    for path in ("/images", "/files/" + "0" * 64, "/manifest", "/events"):
        answer = await client("GET", path)
        assert answer.status == 401, path
        assert "WWW-Authenticate" in answer.headers
    assert (await client("GET", "/images")).json["code"] == code


async def test_events_tell_what_changed(running: Running) -> None:
    client = running.client
    url = f"{client.base}/api/v1/events"
    async with client.session.get(url, headers={"Authorization": f"Bearer {client.token}"}) as response:
        assert response.headers["Content-Type"].startswith("text/event-stream")

        async def heard(topic: str) -> None:
            async for line in response.content:
                if line.strip() == f"event: {topic}".encode():
                    return

        await asyncio.wait_for(heard("sync"), 5)
        await client("PATCH", "/sync", json={"enabled": False})
        await asyncio.wait_for(heard("sync"), 5)


async def test_lists_page_by_cursor(running: Running) -> None:
    for _ in range(3):
        started = await running.client("POST", "/imports")
        await imported(running.client, started.json["id"])
    seen: list[int] = []
    path: str | None = "/imports?limit=2"
    while path:
        answer = await running.client("GET", path)
        seen += [entry["id"] for entry in answer.json["items"]]
        cursor = answer.json["next"]
        assert ("Link" in answer.headers) == (cursor is not None)
        path = f"/imports?limit=2&cursor={cursor}" if cursor else None
    assert seen == sorted(seen, reverse=True)
    assert len(seen) == len(set(seen)) == 4


async def test_probes_answer_head(running: Running) -> None:
    nobody = running.as_nobody()
    for path in ("/livez", "/readyz"):
        answer = await nobody("HEAD", path)
        assert (answer.status, answer.body) == (200, b"")
        assert answer.headers["Content-Length"] == (await nobody("GET", path)).headers["Content-Length"]


async def test_health_and_docs_answer_everyone_and_metrics_a_viewer(running: Running) -> None:
    nobody = running.as_nobody()
    assert (await nobody("GET", "/livez")).status == 200
    assert (await nobody("GET", "/readyz")).status == 200
    assert (await nobody("GET", "/metrics")).status == 401
    metrics = (await running.client("GET", "/metrics")).body.decode()
    assert 'bootferry_image_status{image="ubuntu:resolute:amd64",status="stored"} 1.0' in metrics
    assert "bootferry_unreadable_files 0.0" in metrics
    assert 'bootferry_source_stale{source="maas.io"} 1.0' in metrics, "the sample mirror is of July 2026"
    assert float(metrics.partition('bootferry_source_documents_age_seconds{source="maas.io"} ')[2].split()[0]) > 0
    docs = await nobody("GET", "/docs")
    assert b"//" not in docs.body.replace(b"http://www.w3.org", b""), "the page must not name another host"
    assert "default-src 'self'" in docs.headers["Content-Security-Policy"]
    for asset in ("/static/vendor/swagger-ui-bundle.js", "/static/vendor/swagger-ui.css", "/static/docs.js"):
        assert (await nobody("GET", asset)).status == 200


async def test_a_request_id_is_taken_over_or_made(running: Running) -> None:
    given = await running.client("GET", "/images", headers={"X-Request-Id": "from-my-proxy.1"})
    assert given.headers["X-Request-Id"] == "from-my-proxy.1"
    bad = await running.client("GET", "/images", headers={"X-Request-Id": "x" * 100})
    assert len(bad.headers["X-Request-Id"]) == 32


async def test_no_secret_is_answered(running: Running) -> None:
    everything = ""
    for path in ("/images", "/sources", "/racks", "/imports", "/selections", "/region", "/openapi.json", "/metrics"):
        everything += (await running.client("GET", path)).body.decode()
    assert str(running.client.token) not in everything
    assert json.dumps(running.mirror.keyring.hex()) not in everything
    assert "PRIVATE" not in everything


async def test_a_file_that_cannot_be_read_is_503_and_an_audit_reads_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel = Sha256(running.mirror.expected("resolute", "amd64", "ga-26.04")["boot-kernel"].sha256)
    opened, read = DiskStore.open, DiskStore.digest_of
    audited: list[Sha256] = []

    def stuck(store: DiskStore, sha256: Sha256, size: int) -> DiskFile | None:
        if sha256 == kernel:
            raise OSError(errno.EMFILE, "Too many open files")
        return opened(store, sha256, size)

    def note(store: DiskStore, sha256: Sha256) -> Sha256 | None:
        audited.append(sha256)
        return read(store, sha256)

    monkeypatch.setattr(DiskStore, "digest_of", note)
    with monkeypatch.context() as patch:
        patch.setattr(DiskStore, "open", stuck)
        answer = await running.client("GET", f"/files/{kernel}")
        assert (answer.status, answer.json["code"]) == (503, "unavailable")
        assert int(answer.headers["Retry-After"]) > 0
    for _ in range(200):
        if kernel in audited:
            break
        await asyncio.sleep(0.05)
    assert kernel in audited
    assert (await running.client("GET", f"/files/{kernel}")).status == 200


async def test_a_touched_file_is_healed_as_soon_as_somebody_asks_for_it(running: Running) -> None:
    kernel = running.mirror.expected("resolute", "amd64", "ga-26.04")["boot-kernel"]
    path = stored_path(running.region.store, Sha256(kernel.sha256))
    path.chmod(0o644)
    path.write_bytes(b"x" * kernel.size)
    for _ in range(200):
        answer = await running.client("GET", f"/files/{kernel.sha256}")
        if answer.status == 200:
            break
        assert answer.status in (404, 503)
        await asyncio.sleep(0.05)
    assert Sha256.of(answer.body) == kernel.sha256


async def test_kernels_and_rules_are_said_planned_and_shown(running: Running) -> None:
    client = running.client
    wish = {"os": "ubuntu", "release": "22.04", "arch": "amd64", "kernels": ["ga", "hwe-64k"], "labels": ["*"]}
    planned = await client("POST", "/selections", params={"dry_run": "true"}, json=wish)
    assert planned.status == 200, planned.body
    assert planned.json["means"] == {"ubuntu:22.04:amd64": ["ubuntu:jammy:amd64"]}
    assert planned.json["add"] == ["ubuntu:jammy:amd64"]
    assert planned.json["kernels_add"]["ubuntu:jammy:amd64"] == ["ga-22.04"]
    assert planned.json["left_out_bytes"] > 0
    assert "No source offers the kernel hwe-64k of ubuntu:jammy:amd64." in planned.json["warnings"]

    assert (await client("POST", "/selections", json=wish)).status == 202
    saved = await client("POST", "/selections", json={"os": "ubuntu", "release": "lts:2", "arch": "*"})
    meant = [f"ubuntu:{release}:{arch}" for release in ("noble", "resolute") for arch in ("amd64", "arm64")]
    assert saved.json["means"] == {"ubuntu:lts:2:*": meant}
    shown = {(entry["release"], entry["arch"]): entry for entry in await client.items("/selections")}
    assert shown["jammy", "amd64"]["kernels"] == ["ga", "hwe-64k"]
    assert shown["jammy", "amd64"]["labels"] == ["*"]
    assert shown["lts:2", "*"]["kernels"] is None
    assert shown["lts:2", "*"]["images"] == meant
    again = await client("PUT", "/selections", json={"items": [
        {name: entry[name] for name in ("os", "release", "arch", "kernels", "labels", "source_id")}
        for entry in reversed(shown.values())
    ]})  # fmt: skip
    assert (again.json["add"], again.json["remove"], again.json["kernels_remove"]) == ([], [], {})

    refused = await client("DELETE", "/images/ubuntu:24.04:amd64")
    assert (refused.status, refused.json["code"]) == (409, "selected_by_rule")
    assert (await client("DELETE", "/images/ubuntu:22.04:amd64", params={"dry_run": "true"})).json["remove"] == [
        "ubuntu:jammy:amd64"
    ]
    assert (await client("GET", "/images/ubuntu:24.04:amd64")).json["id"] == "ubuntu:noble:amd64"
    offers = {offer["release"]: offer["release_version"] for offer in await client.items("/available")}
    assert offers["noble"] == "24.04"


@pytest.mark.parametrize(
    ("change", "status", "code"),
    [
        pytest.param({"kernels": []}, 422, "invalid_request", id="no kernel at all"),
        pytest.param({"kernels": ["../x"]}, 422, "invalid_request", id="a kernel that climbs"),
        pytest.param({"kernels": ["ga"] * 65}, 422, "invalid_request", id="too many kernels"),
        pytest.param({"kernels": ["ga-99"]}, 404, "not_found", id="a kernel nobody offers"),
        pytest.param({"labels": ["beta"]}, 404, "not_found", id="a label nobody offers"),
        pytest.param({"release": "lts:0"}, 422, "invalid_request", id="the newest none"),
        pytest.param({"release": "9.99"}, 404, "not_found", id="a version nobody offers"),
        pytest.param({"arch": "s390x", "release": "*"}, 404, "not_found", id="a rule that selects nothing"),
        pytest.param({"os": "*"}, 422, "invalid_request", id="every os"),
        pytest.param({"arch": "amd*"}, 422, "invalid_request", id="some architectures"),
    ],
)
async def test_wishes_that_nobody_can_fulfil(running: Running, change: dict[str, Any], status: int, code: str) -> None:
    refused = await running.client("POST", "/selections", json=NOBLE | change)
    assert (refused.status, refused.json["code"]) == (status, code)
    assert refused.json["detail"].count(". ") == 0, "one sentence"
    assert len(await running.client.items("/selections")) == 1


async def test_one_image_named_twice_with_other_kernels_is_refused(running: Running) -> None:
    twice = {"items": [NOBLE | {"kernels": ["ga"]}, NOBLE | {"kernels": ["hwe"]}]}
    refused = await running.client("PUT", "/selections", json=twice)
    assert (refused.status, refused.json["code"]) == (422, "invalid_value")
