"""The guard against overwriting each other, over real HTTP: for every noun the same rules."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from deploy.local.mirror.faults import Hang
from region import api
from shared.names import Name
from shared.signing import encode_bytes, public_bytes
from shared.wire.enrolment import EnrolmentRequest, EnrolmentToken
from tests.http.conftest import Answer, Client, Running

OTHER = '"0123456789abcdef0123456789abcdef"'
NOWHERE = "99"


@dataclass(frozen=True, slots=True)
class Noun:
    """A thing that is read at `path` and changed by `method`; `verb` follows the path, `gone` is where nothing is.

    `changed_first` is what somebody else sends before; None where the change is a removal, which cannot happen twice:
    `second` is what whoever comes second is told then.
    """

    path: str
    method: str
    body: Any = None
    changed_first: Any = None
    verb: str = ""
    gone: str | None = None
    second: int = 412

    async def seen(self, client: Client) -> str:
        """The ETag of the thing as it is now."""
        answer = await client("GET", self.path)
        assert answer.status == 200, answer.body
        etag: str = answer.headers["ETag"]
        return etag

    async def change(self, client: Client, if_match: str | None, body: Any = None) -> Answer:
        """Change it."""
        headers = {} if if_match is None else {"If-Match": if_match}
        given = {} if self.body is None else {"json": body or self.body}
        return await client(self.method, f"{self.path}{self.verb}", headers=headers, **given)


async def enrolled(client: Client, name: str) -> str:
    """The id of a rack that has just enrolled."""
    made = await client("POST", "/enrolment-tokens")
    assert made.headers["Cache-Control"] == "no-store"
    token = EnrolmentToken.parse(made.json["token"])
    key = encode_bytes(public_bytes(Ed25519PrivateKey.generate()))
    asked = EnrolmentRequest(Name(name), key, token.region_fingerprint)
    assert (await client("POST", "/racks/enrol", data=asked.sealed(token))).status == 201
    [rack] = [rack for rack in await client.items("/racks") if rack["name"] == name]
    rack_id: str = rack["id"]
    return rack_id


async def sources_and_pins(running: Running) -> dict[str, Noun]:
    """Two sources to change and to remove, two images to pin and to unpin, and what nobody vouches for any longer."""
    client = running.client
    fields = {"url": running.upstream.url, "unsigned": True}
    ids = []
    for name in ("Second", "Third"):
        added = await client("POST", "/sources", json={"name": name, **fields})
        ids.append(added.json["id"])
        assert added.headers["ETag"] == (await client("GET", f"/sources/{ids[-1]}")).headers["ETag"]
    assert (
        await client("POST", "/selections", json={"os": "ubuntu", "release": "noble", "arch": "amd64"})
    ).status == 202
    newest, older = [version["name"] for version in await client.items("/images/ubuntu:noble:amd64/versions")][:2]
    held = (await client("GET", "/images/ubuntu:resolute:amd64")).json["held_version"]
    assert (await client("PUT", "/images/ubuntu:resolute:amd64/pin", json={"version": held})).status == 202
    unsigned = {"unsigned": True, "confirm_unsigned": True}
    assert (await client("PATCH", "/sources/1?held=keep", json=unsigned)).status == 200
    assert await client.items("/unvouched")
    nowhere = "/images/ubuntu:nowhere:amd64"
    return {
        "source": Noun(f"/sources/{ids[0]}", "PATCH", {"priority": 2}, {"priority": 3}, gone=f"/sources/{NOWHERE}"),
        "older documents": Noun(f"/sources/{ids[0]}", "POST", verb="/accept-older", gone=f"/sources/{NOWHERE}"),
        "removed source": Noun(f"/sources/{ids[1]}", "DELETE", gone=f"/sources/{NOWHERE}", second=404),
        "pin": Noun(
            "/images/ubuntu:noble:amd64", "PUT", {"version": newest}, {"version": older}, verb="/pin", gone=nowhere
        ),
        "removed pin": Noun("/images/ubuntu:resolute:amd64", "DELETE", verb="/pin", gone=nowhere, second=404),
        "unvouched": Noun("/unvouched", "DELETE"),
    }


@pytest.fixture
async def nouns(running: Running) -> AsyncIterator[dict[str, Noun]]:
    """Everything that can be changed, as it stands in a region whose import hangs."""
    client = running.client
    running.upstream.misbehave("*", Hang(None))
    token = await client("POST", "/operator-tokens", json={"name": "Bob"})
    assert token.headers["Cache-Control"] == "no-store"
    assert token.headers["Location"] == f"/api/v1/operator-tokens/{token.json['id']}"
    trusted = await sources_and_pins(running)
    started = await client("POST", "/imports")
    enrolment_token = await client("POST", "/enrolment-tokens")
    assert enrolment_token.headers["Cache-Control"] == "no-store"
    assert enrolment_token.headers["Location"] == f"/api/v1/enrolment-tokens/{enrolment_token.json['id']}"
    rack_id = await enrolled(client, "rack-1")
    yield {
        "settings": Noun("/settings", "PATCH", {"retention_days": 30}, {"retention_days": 7}),
        "sync": Noun("/sync", "PATCH", {"enabled": True}, {"enabled": False}),
        "token": Noun(
            f"/operator-tokens/{token.json['id']}", "DELETE", gone=f"/operator-tokens/{'0' * 12}", second=404
        ),
        "enrolment token": Noun(
            enrolment_token.headers["Location"].removeprefix("/api/v1"),
            "DELETE",
            gone=f"/enrolment-tokens/{'0' * 64}",
            second=404,
        ),
        "rack": Noun(f"/racks/{rack_id}", "DELETE", gone=f"/racks/{'0' * 32}", second=404),
        "import": Noun(f"/imports/{started.json['id']}", "POST", verb="/cancel", gone=f"/imports/{NOWHERE}"),
        **trusted,
    }
    running.upstream.behave()


async def test_a_change_goes_through_for_who_has_seen_the_thing_as_it_is(
    running: Running, nouns: dict[str, Noun]
) -> None:
    for name, noun in nouns.items():
        changed = await noun.change(running.client, f"{OTHER}, {await noun.seen(running.client)}")
        assert changed.status < 300, (name, changed.json)
        if changed.body and name != "removed source":
            assert changed.headers["ETag"] == await noun.seen(running.client), name


async def test_a_star_matches_whatever_is_there(running: Running, nouns: dict[str, Noun]) -> None:
    for name, noun in nouns.items():
        assert (await noun.change(running.client, "*")).status < 300, name


async def test_who_has_seen_something_else_changes_nothing(running: Running, nouns: dict[str, Noun]) -> None:
    for name, noun in nouns.items():
        before = await noun.seen(running.client)
        refused = await noun.change(running.client, OTHER)
        assert (refused.status, refused.json["code"]) == (412, "precondition_failed"), name
        assert "look again" in refused.json["detail"], name
        assert await noun.seen(running.client) == before, name


async def test_what_does_not_exist_is_not_found_whatever_is_expected(running: Running, nouns: dict[str, Noun]) -> None:
    for name, noun in nouns.items():
        if noun.gone is not None:
            for expected in (None, "*", OTHER):
                headers = {} if expected is None else {"If-Match": expected}
                given = {} if noun.body is None else {"json": noun.body}
                missing = await running.client(noun.method, f"{noun.gone}{noun.verb}", headers=headers, **given)
                assert (missing.status, missing.json["code"]) == (404, "not_found"), (name, expected)


async def test_a_refusal_says_who_when_and_how(running: Running, nouns: dict[str, Noun]) -> None:
    for name, noun in nouns.items():
        if noun.changed_first is None:
            continue
        seen = await noun.seen(running.client)
        assert (await noun.change(running.client, seen, noun.changed_first)).status < 300, name
        refused = await noun.change(running.client, seen)
        newest = (await running.client.items("/activity?limit=1"))[0]
        assert refused.status == 412, name
        for told in (newest["who"], newest["at"][:19].replace("T", " "), newest["sentence"].rstrip(".")):
            assert told in refused.json["detail"], (name, refused.json)


async def test_of_two_at_once_one_changes_it_and_the_other_is_told(running: Running, nouns: dict[str, Noun]) -> None:
    for name, noun in nouns.items():
        seen = await noun.seen(running.client)
        bodies = (noun.body, noun.changed_first) if noun.changed_first else (None, None)
        if name == "sync":
            bodies = (noun.changed_first, noun.changed_first)
        statuses = sorted(
            answer.status
            for answer in await asyncio.gather(*(noun.change(running.client, seen, body) for body in bodies))
        )
        # What the first one removed is not there for the second.
        assert statuses[0] < 300, (name, statuses)
        assert statuses[1] == noun.second, (name, statuses)


async def test_an_import_that_others_joined_is_not_stopped_by_who_has_not_seen_that(
    running: Running, eventually: Callable[..., Awaitable[object]]
) -> None:
    running.upstream.misbehave("*", Hang(None))
    client = running.client
    await client("POST", "/imports")

    async def runs() -> bool:
        state: str = (await client.items("/imports?limit=1"))[0]["state"]
        return state == "running"

    await eventually(runs)
    waiting = await client("POST", "/imports", json={"images": ["ubuntu:resolute:amd64"]})
    seen = waiting.headers["ETag"]
    bob = (await client("POST", "/operator-tokens", json={"name": "Bob", "role": "operator"})).json["token"]
    joined = await Client(client.session, client.base, bob)("POST", "/imports")
    assert joined.json["id"] == waiting.json["id"]
    noun = Noun(f"/imports/{joined.json['id']}", "POST", verb="/cancel")
    refused = await noun.change(client, seen)
    assert refused.status == 412
    assert "Bob" in refused.json["detail"]
    stopped = await noun.change(client, joined.headers["ETag"])
    assert (stopped.status, stopped.json["state"]) == (202, "cancelled")
    running.upstream.behave()


async def test_an_image_is_unselected_by_who_has_seen_it_or_the_selection(running: Running) -> None:
    client, image = running.client, "/images/ubuntu:resolute:amd64"
    tag = (await client("GET", image)).headers["ETag"]
    selection = (await client("GET", "/selections")).headers["ETag"]
    [version] = {found["name"] for found in await client.items(f"{image}/versions") if found["held"]}
    for seen in (tag, selection, "*"):
        planned = await client("DELETE", f"{image}?dry_run=true", headers={"If-Match": seen})
        assert planned.status == 200, planned.json
    assert (await client("PUT", f"{image}/pin", json={"version": version})).status == 202
    refused = await client("DELETE", image, headers={"If-Match": tag})
    assert (refused.status, refused.json["code"]) == (412, "precondition_failed")
    assert (await client("DELETE", image, headers={"If-Match": selection})).status == 202


async def test_a_plan_leaves_the_tag_of_a_source_as_it_was(running: Running) -> None:
    client = running.client
    seen = (await client("GET", "/sources/1")).headers["ETag"]
    for method, fields in (("PATCH", {"url": "http://other.example/"}), ("DELETE", None)):
        planned = await client(method, "/sources/1?dry_run=true", json=fields, headers={"If-Match": seen})
        assert (planned.status, planned.headers["ETag"]) == (200, seen), planned.json
        assert "Location" not in planned.headers
        assert (await client("GET", "/sources/1")).headers["ETag"] == seen


async def test_two_who_change_different_fields_of_a_source_at_once_undo_nothing(running: Running) -> None:
    changes = [{"name": "Ours"}, {"priority": 77}, {"proxy": "http://proxy.example:1/"}]
    done = await asyncio.gather(*(running.client("PATCH", "/sources/1", json=fields) for fields in changes))
    assert [answer.status for answer in done] == [200, 200, 200]
    found = (await running.client("GET", "/sources/1")).json
    assert (found["name"], found["priority"], found["proxy"]) == ("Ours", 77, "http://proxy.example:1/")


async def test_a_sources_password_changes_its_tag_and_is_not_in_it(running: Running) -> None:
    tags = []
    for password in ("one", "two", "one"):
        proxy = f"http://ann:{password}@proxy.example:1/"
        tags.append((await running.client("PATCH", "/sources/1", json={"proxy": proxy})).headers["ETag"])
    assert len(set(tags)) == 3


async def test_a_password_changes_the_tag_and_is_not_in_it(running: Running) -> None:
    tags = []
    for password in ("one", "two", "one"):
        changed = await running.client("PATCH", "/settings", json={"proxy": f"http://ann:{password}@proxy.example:1/"})
        tags.append(changed.headers["ETag"])
    assert len(set(tags)) == 3


CHANGES_NOTHING_THAT_IS_SEEN = {"/api/v1/session", "/api/v1/racks/{rack_id}/report", "/api/v1/racks/{rack_id}/key"}
"""Nor may somebody else change it: a rack's own requests count once each, in their order."""


def test_every_change_takes_if_match_and_documents_its_refusal() -> None:
    for path, methods in api.description()["paths"].items():
        if path in CHANGES_NOTHING_THAT_IS_SEEN:
            continue
        for method, operation in methods.items():
            if method in ("patch", "put", "delete") or (method == "post" and path.endswith("/cancel")):
                named = [given["name"] for given in operation.get("parameters", ()) if given["in"] == "header"]
                assert named == ["If-Match"], (method, path)
                assert "412" in operation["responses"], (method, path)
