"""The region answers as its description says: statuses, headers that callers act on, bodies that fit their shape."""

import re
from collections.abc import Iterator
from typing import Any

from jsonschema import Draft202012Validator

from region import api
from tests.http.conftest import Answer, Client, Running, imported

DOCUMENT = api.description()
ACTED_ON = {"ETag", "Location", "Link", "Retry-After", "X-Request-Id"}
NOBLE = {"os": "ubuntu", "release": "noble", "arch": "amd64"}


def operation_at(method: str, path: str) -> tuple[str, dict[str, Any]]:
    """The operation of the description that answers this request, and its place there."""
    plain = f"/api/v1{path.partition('?')[0]}"
    for template, methods in sorted(DOCUMENT["paths"].items()):
        if re.fullmatch(re.sub(r"\{\w+\}", "[^/]+", template), plain) and method.lower() in methods:
            return f"{method} {template}", methods[method.lower()]
    raise AssertionError(f"{method} {path} is not in the description")


def fits(method: str, path: str, answer: Answer, may_lack: set[str]) -> str:
    """Asserts that the answer is one that the description allows; answers the operation's place there."""
    where, operation = operation_at(method, path)
    case = (where, answer.status, answer.body[:500])
    described = operation["responses"].get(str(answer.status))
    assert described is not None, case
    headers = set(described["headers"])
    assert headers - may_lack <= {name for name in ACTED_ON if name in answer.headers} <= headers, (case, headers)
    content = described.get("content", {})
    media_type = answer.headers.get("Content-Type", "").partition(";")[0]
    if not content:
        assert answer.body == b"", case
        return where
    schema = content[media_type]["schema"]
    if media_type.endswith("json"):
        validator = Draft202012Validator({**schema, "components": DOCUMENT["components"]})
        assert [error.message for error in validator.iter_errors(answer.json)] == [], case
    return where


async def test_every_operation_of_operators_answers_as_described(running: Running) -> None:
    client, seen = running.client, set()

    async def call(method: str, path: str, *, may_lack: set[str] | None = None, **given: Any) -> Answer:
        answer = await client(method, path, **given)
        assert answer.status < 400, (method, path, answer.body)
        seen.add(fits(method, path, answer, {"Link"} if may_lack is None else may_lack))
        return answer

    image = "/images/ubuntu:resolute:amd64"
    for path in ("/images", image, f"{image}/versions", f"{image}/racks", "/bootloaders", "/available", "/selections"):
        await call("GET", path)
    for path in ("/sources", "/sources/1", "/unvouched", "/imports", "/imports/1", "/sync", "/racks", "/session"):
        await call("GET", path)
    for path in ("/operator-tokens", "/activity", "/settings", "/storage", "/region"):
        await call("GET", path)
    version = (await call("GET", image)).json["held_version"]
    await call("PUT", f"{image}/pin", json={"version": version})
    await call("DELETE", f"{image}/pin")
    no_location = {"Location"}
    await call("POST", "/selections?dry_run=true", json=NOBLE, may_lack=no_location)
    await call("POST", "/selections", json=NOBLE)
    await call("PUT", "/selections", json={"items": [NOBLE, {**NOBLE, "release": "resolute"}]})
    chosen = await call("GET", "/selections")
    await call("DELETE", f"/selections/{chosen.json['items'][0]['id']}")
    await call("DELETE", f"{image}?dry_run=true", may_lack=no_location)
    fields = {"name": "Second", "url": running.upstream.url, "unsigned": True}
    await call("POST", "/sources/probe", json=fields)
    added = await call("POST", "/sources", json=fields)
    second = f"/sources/{added.json['id']}"
    await call("PATCH", f"{second}?dry_run=true", json={"priority": 3}, may_lack=no_location)
    await call("PATCH", second, json={"priority": 3})
    await call("POST", f"{second}/read")
    await call("POST", f"{second}/accept-older")
    await call("DELETE", f"{second}?dry_run=true", may_lack=no_location)
    await call("DELETE", second, may_lack={"ETag"})
    await call("DELETE", "/unvouched")
    await call("POST", "/manifest/confirmation")
    await call("POST", "/racks/poll")
    started = await call("POST", "/imports")
    await imported(client, started.json["id"])
    await call("PATCH", "/sync", json={"enabled": False})
    await call("PATCH", "/settings", json={"retention_days": 30})
    enrolment_token = await call("POST", "/enrolment-tokens")
    await call("GET", "/enrolment-tokens")
    await call("GET", f"/enrolment-tokens/{enrolment_token.json['id']}")
    await call("DELETE", f"/enrolment-tokens/{enrolment_token.json['id']}")
    token = await call("POST", "/operator-tokens", json={"name": "Bob", "role": "viewer"})
    await call("GET", f"/operator-tokens/{token.json['id']}")
    await call("DELETE", f"/operator-tokens/{token.json['id']}")
    await call("GET", "/activity?limit=1", may_lack=set())
    await call("POST", "/session", json={"token": client.token})
    await call("DELETE", "/session", headers={"Sec-Fetch-Site": "same-origin"})
    operators = {
        f"{method.upper()} {path}"
        for path, methods in DOCUMENT["paths"].items()
        for method, operation in methods.items()
        if {"operator_token": []} in operation["security"]
    }
    # Of these some need a rack, one an import that runs, one has no end, one answers bytes and one text.
    assert operators - seen == {
        "GET /metrics",
        "GET /api/v1/racks/{rack_id}",
        "DELETE /api/v1/racks/{rack_id}",
        "POST /api/v1/racks/{rack_id}/poll",
        "POST /api/v1/imports/{import_id}/cancel",
        "POST /api/v1/imports/{import_id}/images/{image_id}/cancel",
        "GET /api/v1/events",
        "GET /api/v1/files/{sha256}",
    }


# --- what nobody should send --------------------------------------------------------------------------------------

ODD_IDS = ("0", "-1", "x", "1.5", "9" * 30, "%00", "%F0%9F%9A%A2", "a" * 3000)
ODD_BODIES: tuple[Any, ...] = (None, 7, "text", [], [{}], {"colour": 1}, {"": None}, {"__proto__": {}}, True)
ODD_VALUES: tuple[Any, ...] = (None, True, -1, 10**30, 1.5, "", "\x00", "\ud800", "🚢" * 50, "a\nb", {}, [None])


def bad_requests(template: str, operation: dict[str, Any]) -> Iterator[tuple[str, Any]]:
    """Requests for an operation, a path and a body each, in which one thing is wrong; dry runs where there are."""
    path = template.removeprefix("/api/v1")
    content = operation.get("requestBody", {}).get("content", {}).get("application/json")
    for placeholder in re.findall(r"\{\w+\}", path):
        yield from ((path.replace(placeholder, odd), {} if content else None) for odd in ODD_IDS)
    there = re.sub(r"\{image_id\}", "ubuntu:resolute:amd64", re.sub(r"\{(?!image_id)\w+\}", "1", path))
    for parameter in operation.get("parameters", ()):
        name = parameter["name"]
        if parameter["in"] == "query" and name == "dry_run":
            yield from ((f"{there}?dry_run={odd}", None) for odd in ODD_IDS if odd != "0")
        elif parameter["in"] == "query":
            yield from ((f"{there}?{name}={odd}&dry_run=true", None) for odd in ODD_IDS)
    if content is not None:
        yield from ((f"{there}?dry_run=true", body) for body in ODD_BODIES)
        shape = DOCUMENT["components"]["schemas"][content["schema"]["$ref"].rpartition("/")[2]]
        for field in shape["properties"]:
            # In a change of a few fields nothing else is wrong with a field alone.
            others = {} if operation["operationId"].startswith("change_") else content["example"]
            yield from ((f"{there}?dry_run=true", {**others, field: value}) for value in ODD_VALUES)


async def test_no_bad_request_is_a_fault_of_the_region(running: Running) -> None:
    """Every operation of operators, with ids, bodies, fields and switches that are wrong: a refusal in one sentence."""
    sent = 0
    for template, methods in DOCUMENT["paths"].items():
        for method, operation in methods.items():
            if {"operator_token": []} not in operation["security"] or template.endswith("/events"):
                continue
            for path, body in bad_requests(template, operation):
                sent += 1
                answer = await running.client(method, path, json=body)
                case = (method, path[:200], str(body)[:200], answer.status, answer.body[:300])
                # What a probe meets on its way is told with 502 and 504.
                assert answer.status < 500 or answer.status in (502, 504), case
                if answer.status >= 400:
                    sentence = answer.json["detail"]
                    assert answer.headers["Content-Type"] == "application/problem+json", case
                    assert sentence.endswith("."), case
                    assert sentence.isprintable(), case
                    assert len(sentence) < 500, case
    assert sent > 800
    assert (await running.client("GET", "/images")).status == 200


async def test_a_dry_run_decides_nothing_whatever_it_is_told_of_what_is_held(running: Running) -> None:
    before = (await running.client("GET", "/sources/1")).json
    for held in ("keep", "withdraw"):
        planned = await running.client(
            "PATCH", f"/sources/1?dry_run=true&held={held}", json={"url": "http://other.example/", "unsigned": True}
        )
        assert (planned.status, planned.json["code"]) == (409, "unsigned_not_confirmed")
        for method, fields in (("PATCH", {"url": "http://other.example/"}), ("DELETE", None)):
            planned = await running.client(method, f"/sources/1?dry_run=true&held={held}", json=fields)
            assert planned.status == 200, planned.body
        assert (await running.client("GET", "/sources/1")).json == before
        assert await running.client.items("/unvouched") == []
    refused = await running.client("DELETE", "/sources/1?held=perhaps")
    assert (refused.status, refused.json["code"]) == (422, "invalid_request")


async def test_roles_may_do_what_the_description_says(running: Running) -> None:
    """Whoever only looks changes nothing, and an operator changes neither sources nor people nor racks."""
    changes = {
        "viewer": [
            *(("PUT", "/images/ubuntu:resolute:amd64/pin"), ("DELETE", "/images/ubuntu:resolute:amd64/pin")),
            *(("DELETE", "/unvouched"), ("DELETE", "/unvouched?dry_run=true"), ("POST", "/imports")),
            *(("PUT", "/selections"), ("POST", "/selections"), ("DELETE", "/images/ubuntu:resolute:amd64")),
            *(
                ("PATCH", "/sync"),
                ("POST", "/imports/1/cancel"),
                ("POST", "/imports/1/images/ubuntu:noble:amd64/cancel"),
            ),
            *(("POST", "/racks/poll"), ("POST", "/sources/1/read"), ("POST", "/manifest/confirmation")),
        ],
        "operator": [
            *(("POST", "/sources"), ("POST", "/sources/probe"), ("PATCH", "/sources/1"), ("DELETE", "/sources/1")),
            *(("PATCH", "/sources/1?dry_run=true"), ("DELETE", "/sources/1?dry_run=true&held=keep")),
            *(("PATCH", "/settings"), ("POST", "/enrolment-tokens"), ("DELETE", f"/racks/{'0' * 32}")),
            *(("GET", "/operator-tokens"), ("POST", "/operator-tokens"), ("GET", f"/operator-tokens/{'0' * 12}")),
            *(("DELETE", f"/operator-tokens/{'0' * 12}"), ("GET", "/enrolment-tokens")),
            *(("GET", f"/enrolment-tokens/{'0' * 64}"), ("DELETE", f"/enrolment-tokens/{'0' * 64}")),
        ],
    }
    changes["viewer"] += changes["operator"]
    for role, refused in changes.items():
        made = await running.client("POST", "/operator-tokens", json={"name": role, "role": role})
        client = Client(running.client.session, running.client.base, made.json["token"])
        for method, path in refused:
            answer = await client(method, path)
            assert (answer.status, answer.json["code"]) == (403, "forbidden"), (role, method, path, answer.body)
        for path in ("/images", "/sources", "/unvouched", "/racks", "/settings", "/selections"):
            assert (await client("GET", path)).status == 200, (role, path)
