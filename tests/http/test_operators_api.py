"""Log-in, tokens, activity, pins and the guard against overwriting each other, over real HTTP."""

from datetime import timedelta

import aiohttp
import pytest

from region.database.connection import transaction
from region.people.operators import Role, create_token
from region.people.sessions import SESSION_IDLE
from tests.http.conftest import Client, Running, imported
from tests.http.test_if_match import enrolled

NOBLE = {"os": "ubuntu", "release": "noble", "arch": "amd64"}
RESOLUTE = {"os": "ubuntu", "release": "resolute", "arch": "amd64"}
IMAGE = "/images/ubuntu:resolute:amd64"


async def logged_in(running: Running, session: aiohttp.ClientSession) -> Client:
    """A browser's client: a cookie, no token."""
    browser = Client(session, running.client.base, None)
    answer = await browser("POST", "/session", json={"token": running.client.token})
    assert answer.status == 200
    cookie = answer.headers["Set-Cookie"]
    assert "HttpOnly" in cookie
    assert "SameSite=strict" in cookie
    assert str(running.client.token) not in cookie
    return browser


@pytest.fixture
async def jar() -> aiohttp.CookieJar:
    """Cookies for an address instead of a name."""
    return aiohttp.CookieJar(unsafe=True)


async def test_a_browser_logs_in_and_out(running: Running, jar: aiohttp.CookieJar) -> None:
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        browser = await logged_in(running, session)
        assert (await browser("GET", "/session")).json["role"] == "admin"
        assert (await browser("GET", "/images")).status == 200
        assert (await browser("DELETE", "/session", headers={"Sec-Fetch-Site": "same-origin"})).status == 204
        assert (await browser("GET", "/images")).status == 401


SITES = {
    "the page itself": ({"Sec-Fetch-Site": "same-origin"}, 202),
    "an older browser": ({"Origin": "{base}"}, 202),
    "another site": ({"Sec-Fetch-Site": "cross-site"}, 403),
    "a sibling site": ({"Sec-Fetch-Site": "same-site"}, 403),
    "another site in an older browser": ({"Origin": "https://evil.example"}, 403),
    "nobody says": ({}, 403),
}


async def test_a_cookie_changes_things_for_our_own_page_only(running: Running, jar: aiohttp.CookieJar) -> None:
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        browser = await logged_in(running, session)
        for case, (headers, status) in SITES.items():
            sent = {name: value.format(base=browser.base) for name, value in headers.items()}
            answer = await browser("POST", "/imports", headers=sent)
            assert answer.status == status, case
            if status == 403:
                assert answer.json["code"] == "cross_origin", case


async def test_a_session_ends_when_idle_or_with_its_token(running: Running, jar: aiohttp.CookieJar) -> None:
    async with transaction(running.region.engine) as connection:
        token = await create_token(connection, "somebody", Role.VIEWER, running.region.now())
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        browser = Client(session, running.client.base, None)
        assert (await browser("POST", "/session", json={"token": token})).status == 200
        assert (await browser("GET", "/images")).status == 200
        token_id = token.split("_")[1]
        assert (await running.client("DELETE", f"/operator-tokens/{token_id}")).status == 204
        assert (await browser("GET", "/images")).status == 401
    assert timedelta(hours=12) == SESSION_IDLE


async def test_log_ins_are_limited(running: Running) -> None:
    nobody = running.as_nobody()
    statuses = [(await nobody("POST", "/session", json={"token": "bf_wrong"})).status for _ in range(11)]
    assert statuses == [401] * 10 + [429]
    refused = await nobody("POST", "/session", json={"token": running.client.token})
    assert (refused.status, refused.json["code"]) == (429, "too_many_attempts")
    assert int(refused.headers["Retry-After"]) > 0


async def test_tokens_are_made_listed_and_removed(running: Running) -> None:
    made = await running.client("POST", "/operator-tokens", json={"name": "night shift", "role": "operator"})
    assert made.status == 201
    token = made.json["token"]
    assert (await Client(running.client.session, running.client.base, token)("GET", "/images")).status == 200
    listed = {entry["name"]: entry for entry in await running.client.items("/operator-tokens")}
    assert listed["night shift"]["last_used_at"] is not None
    assert token.split("_", 2)[2] not in str(listed)
    assert (await running.client("DELETE", f"/operator-tokens/{listed['night shift']['id']}")).status == 204
    last = await running.client("DELETE", f"/operator-tokens/{listed['first administrator']['id']}")
    assert (last.status, last.json["code"]) == (409, "conflict")
    past = await running.client("POST", "/operator-tokens", json={"name": "x", "expires_at": "2020-01-01T00:00:00Z"})
    assert (past.status, past.json["code"]) == (422, "invalid_value")


async def test_every_change_leaves_a_row(running: Running) -> None:
    client = running.client
    await client("PATCH", "/sync", json={"enabled": False})
    await client("POST", "/imports", json={"images": ["ubuntu:resolute:amd64"]})
    await client("PUT", "/selections", json={"items": [NOBLE]})
    await client("PATCH", "/settings", json={"proxy": "http://somebody:secret@proxy.example:3128"})
    source = await client("POST", "/sources", json={"name": "second", "url": running.upstream.url, "unsigned": True})
    await client("DELETE", f"/sources/{source.json['id']}")
    await client("POST", "/enrolment-tokens")
    entries = await client.items("/activity")
    assert [entry["action"] for entry in reversed(entries)] == [
        "sync.switched",
        "import.started",
        "selection.changed",
        "settings.changed",
        "source.added",
        "source.removed",
        "enrolment_token.created",
    ]
    assert {(entry["who"], entry["address"]) for entry in entries} == {("first administrator", "127.0.0.1")}
    changed = next(entry for entry in entries if entry["action"] == "selection.changed")
    assert changed["before"] == {"images": ["ubuntu:resolute:amd64"]}
    assert changed["after"] == {"images": ["ubuntu:noble:amd64"]}
    assert "secret" not in str(entries)
    shown = {"proxy": "http://***@proxy.example:3128", "retention_days": 400, "bootloader_source_id": 1}
    assert (await client("GET", "/settings")).json == shown


async def test_two_operators_do_not_overwrite_each_other(running: Running) -> None:
    seen = (await running.client("GET", "/selections")).headers["ETag"]
    first = await running.client("PUT", "/selections", json={"items": [NOBLE]}, headers={"If-Match": seen})
    assert first.status == 202
    second = await running.client("PUT", "/selections", json={"items": [RESOLUTE]}, headers={"If-Match": seen})
    assert (second.status, second.json["code"]) == (412, "precondition_failed")
    assert "first administrator" in second.json["detail"]
    again = await running.client(
        "PUT", "/selections", json={"items": [RESOLUTE]}, headers={"If-Match": first.headers["ETag"]}
    )
    assert again.status == 202


async def test_a_pinned_image_stays_and_an_unpinned_one_moves_on(running: Running) -> None:
    client = running.client
    [image] = await client.items("/images")
    old = image["version"]
    assert (await client("PUT", f"{IMAGE}/pin", json={"version": "19700101"})).status == 404
    pinned = await client("PUT", f"{IMAGE}/pin", json={"version": old})
    await imported(client, pinned.json["import_id"])
    running.mirror.publish(version="20260801", release="resolute", arch="amd64")
    run = await client("POST", "/imports")
    await imported(client, run.json["id"])
    image = (await client("GET", IMAGE)).json
    assert (image["pinned_version"], image["held_version"], image["status"]) == (old, old, "stored")
    versions = {version["name"]: version for version in await client.items(f"{IMAGE}/versions")}
    assert (versions["20260801"]["offered"], versions["20260801"]["held"]) == (True, False)

    unpinned = await client("DELETE", f"{IMAGE}/pin")
    await imported(client, unpinned.json["import_id"])
    image = (await client("GET", IMAGE)).json
    assert (image["pinned_version"], image["held_version"], image["status"]) == (None, "20260801", "stored")
    assert (await client("DELETE", f"{IMAGE}/pin")).status == 404


async def test_an_image_is_given_up_by_its_name(running: Running) -> None:
    planned = await running.client("DELETE", IMAGE, params={"dry_run": "true"})
    assert (planned.status, planned.json["remove"]) == (200, ["ubuntu:resolute:amd64"])
    given_up = await running.client("DELETE", IMAGE)
    assert given_up.status == 202
    await imported(running.client, given_up.json["import_id"])
    assert await running.client.items("/images") == []
    assert (await running.client("DELETE", IMAGE)).status == 404


async def test_bootloaders_come_by_themselves(running: Running) -> None:
    found = {(entry["type"], entry["arch"]): entry["held"] for entry in await running.client.items("/bootloaders")}
    assert found == {
        ("open-firmware", "ppc64el"): True,
        ("pxe", "amd64"): True,
        ("pxe", "i386"): True,
        ("uefi", "amd64"): True,
        ("uefi", "arm64"): True,
    }


async def test_the_page_and_the_disk_are_shown(running: Running) -> None:
    storage = (await running.client("GET", "/storage")).json
    assert storage["held_bytes"] > 0
    assert storage["free_bytes"] <= storage["total_bytes"]
    async with running.client.session.get(f"{running.client.base}/") as page:
        assert page.status == 200
        assert "'unsafe-inline'" not in page.headers["Content-Security-Policy"]


async def test_log_ins_and_their_failures_are_in_the_activity(running: Running, jar: aiohttp.CookieJar) -> None:
    async with aiohttp.ClientSession(cookie_jar=jar) as session:
        browser = await logged_in(running, session)
        out = await browser("DELETE", "/session", headers={"Sec-Fetch-Site": "same-origin"})
        assert out.status == 204
    nobody = running.as_nobody()
    for _ in range(15):
        refused = await nobody("POST", "/session", json={"token": "bf_wrong"})
    assert refused.status == 429
    entries = await running.client.items("/activity")
    assert [(entry["action"], entry["who"], entry["address"]) for entry in reversed(entries)] == [
        ("session.opened", "first administrator", "127.0.0.1"),
        ("session.closed", "first administrator", "127.0.0.1"),
        ("session.failed", "somebody unknown", "127.0.0.1"),
        ("session.refused", "somebody unknown", "127.0.0.1"),
    ]
    about = await running.client.items("/activity?subject=address:127.0.0.1")
    assert [entry["action"] for entry in about] == ["session.refused", "session.failed"]
    [token] = await running.client.items("/operator-tokens")
    assert await running.client.items(f"/activity?subject=token:{token['id']}") == [], "a log-in does not change it"


async def test_answers_that_carry_a_secret_are_not_stored(running: Running) -> None:
    for path, fields in (
        ("/operator-tokens", {"name": "Bob"}),
        ("/enrolment-tokens", {}),
        ("/session", {"token": running.client.token}),
    ):
        answer = await running.client("POST", path, json=fields)
        assert (answer.status < 300, answer.headers["Cache-Control"]) == (True, "no-store"), path


async def test_a_rack_that_enrols_is_in_the_activity(running: Running) -> None:
    rack_id = await enrolled(running.client, "rack-1")
    newest = (await running.client.items(f"/activity?subject=rack:{rack_id}"))[0]
    assert (newest["who"], newest["action"], newest["address"]) == ("rack-1", "rack.enrolled", "127.0.0.1")


async def test_what_changes_nothing_leaves_no_row(running: Running) -> None:
    before = await running.client("GET", "/settings")
    for path, fields in (
        ("/settings", {"proxy": ""}),
        ("/settings", {"retention_days": 400}),
        ("/sync", {"enabled": True}),
    ):
        assert (await running.client("PATCH", path, json=fields)).status == 200
    assert await running.client.items("/activity") == []
    assert (await running.client("GET", "/settings")).headers["ETag"] == before.headers["ETag"]


REFUSED_SETTINGS = [{}, {"retention_days": 0}, {"retention_days": 3651}, {"retention_days": None}, {"proxy": "ftp://x"}]


async def test_settings_that_make_no_sense_are_refused(running: Running) -> None:
    for fields in REFUSED_SETTINGS:
        refused = await running.client("PATCH", "/settings", json=fields)
        assert refused.status == 422, fields
        assert refused.json["detail"].endswith("."), fields
    shown = (await running.client("GET", "/settings")).json
    assert shown == {"proxy": None, "retention_days": 400, "bootloader_source_id": 1}
