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

    `changed_first` is what somebody else sends before; None where the change is a removal, which cannot happen twice.
    """

    path: str
    method: str
    body: Any = None
    changed_first: Any = None
    verb: str = ""
    gone: str | None = None

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


@pytest.fixture
async def nouns(running: Running) -> AsyncIterator[dict[str, Noun]]:
    """Everything that can be changed, as it stands in a region whose import hangs."""
    client = running.client
    running.upstream.misbehave("*", Hang(None))
    token = await client("POST", "/operator-tokens", json={"name": "Bob"})
    assert token.headers["Cache-Control"] == "no-store"
    assert token.headers["Location"] == f"/api/v1/operator-tokens/{token.json['id']}"
    started = await client("POST", "/imports")
    rack_id = await enrolled(client, "rack-1")
    yield {
        "settings": Noun("/settings", "PATCH", {"retention_days": 30}, {"retention_days": 7}),
        "sync": Noun("/sync", "PATCH", {"enabled": True}, {"enabled": False}),
        "token": Noun(f"/operator-tokens/{token.json['id']}", "DELETE", gone=f"/operator-tokens/{'0' * 12}"),
        "rack": Noun(f"/racks/{rack_id}", "DELETE", gone=f"/racks/{'0' * 32}"),
        "import": Noun(f"/imports/{started.json['id']}", "POST", verb="/cancel", gone=f"/imports/{NOWHERE}"),
    }
    running.upstream.behave()


async def test_a_change_goes_through_for_who_has_seen_the_thing_as_it_is(
    running: Running, nouns: dict[str, Noun]
) -> None:
    for name, noun in nouns.items():
        changed = await noun.change(running.client, f"{OTHER}, {await noun.seen(running.client)}")
        assert changed.status < 300, (name, changed.json)
        if changed.body:
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
                missing = await running.client(noun.method, f"{noun.gone}{noun.verb}", headers=headers)
                assert (missing.status, missing.json["code"]) == (404, "not_found"), (name, expected)


async def test_a_refusal_says_who_when_and_how(running: Running, nouns: dict[str, Noun]) -> None:
    for name, noun in nouns.items():
        if noun.changed_first is None:
            continue
        seen = await noun.seen(running.client)
        assert (await noun.change(running.client, seen, noun.changed_first)).status == 200
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
        # A rack or token that the first one removed is not there for the second.
        assert statuses[0] < 300, (name, statuses)
        assert statuses[1] == (404 if noun.method == "DELETE" else 412), (name, statuses)


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


async def test_a_password_changes_the_tag_and_is_not_in_it(running: Running) -> None:
    tags = []
    for password in ("one", "two", "one"):
        changed = await running.client("PATCH", "/settings", json={"proxy": f"http://ann:{password}@proxy.example:1/"})
        tags.append(changed.headers["ETag"])
    assert len(set(tags)) == 3


NOT_YET = {"/api/v1/sources/{source_id}", "/api/v1/images/{image_id}/pin"}
CHANGES_NOTHING_THAT_IS_SEEN = {"/api/v1/session", "/api/v1/racks/{rack_id}/report"}


def test_every_change_takes_if_match_and_documents_its_refusal() -> None:
    for path, methods in api.description()["paths"].items():
        if path in NOT_YET | CHANGES_NOTHING_THAT_IS_SEEN:
            continue
        for method, operation in methods.items():
            if method in ("patch", "put", "delete") or (method == "post" and path.endswith("/cancel")):
                named = [given["name"] for given in operation.get("parameters", ()) if given["in"] == "header"]
                assert named == ["If-Match"], (method, path)
                assert "412" in operation["responses"], (method, path)
