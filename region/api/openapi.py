"""The OpenAPI document: what FastAPI derives from the routes, and what it cannot know.

- Every operation says who may call it: an operator by token or session, a rack by its signature, or anybody.
- Every operation, request and answer has an example; they are data in `region.api.examples`, by the shape's name.
- Every refusal is a Problem, with an example, and names the codes that its status may have.
- Every answer names the headers that a caller may act on.
- FastAPI's `itemSchema` of event streams belongs to OpenAPI 3.2, which linters and generators of 3.1 refuse.
"""

from collections.abc import Iterator
from http import HTTPStatus
from typing import Any

from fastapi import FastAPI

from region.api import examples, problems
from region.api.deps import SESSION_COOKIE
from region.api.problems import ROWS, Problem, documented
from region.edge.problem import PROBLEM_JSON
from shared import errors
from shared.wire.correction import CORRECTION_HEADER
from shared.wire.envelope import MEDIA_TYPE

_SCHEMES = {
    "operator_token": {
        "type": "http",
        "scheme": "bearer",
        "description": "An operator's token, made by an administrator; it begins with `bf_`.",
    },
    "session": {
        "type": "apiKey",
        "in": "cookie",
        "name": SESSION_COOKIE,
        "description": "What POST /session sets. A change must also come from the region's own page.",
    },
    "rack_signature": {
        "type": "apiKey",
        "in": "header",
        "name": "Signature",
        "description": (
            "RFC 9421, beside `Signature-Input`: Ed25519 by the key the rack enrolled with, over method, path, query,"
            " `Content-Digest`, `Bootferry-Region` and, in a change, `Bootferry-Sequence`."
        ),
    },
}
_Security = list[dict[str, list[str]]]
_OPERATOR: _Security = [{"operator_token": []}, {"session": []}]
_RACK: _Security = [{"rack_signature": []}]
_OTHERWISE: dict[str, _Security] = {"get_file": [*_OPERATOR, *_RACK], "log_out": [{"session": []}]}
"""Operations that find out themselves who asks."""

_REFUSED: dict[int, tuple[str, str]] = {
    int(problems.status_of(error)): (error.code, str(error))
    for error in (
        errors.Refused("The request was not acceptable."),
        errors.Unauthenticated(),
        errors.Forbidden("night shift is a viewer; this takes the role operator."),
        errors.NotFound("source", 7),
        errors.Conflict("There is a source named Our mirror already; choose another name."),
        errors.PreconditionFailed(
            "You have not seen the latest state of the selection: night shift changed it at 2026-07-05 12:00:00 UTC"
            " from 10.1.0.7 (Selected ubuntu:noble:amd64); look again before you save."
        ),
        errors.InvalidValue("image", "ubuntu", "it must be os:release:architecture, like ubuntu:noble:amd64"),
        errors.TooManyAttempts(30),
        errors.NameNotFound("https://mirror.example.org/maas/", "mirror.example.org"),
        errors.TimedOut("https://mirror.example.org/maas/", 30),
        errors.Unavailable("The database does not answer"),
        errors.NoRoom("/var/lib/bootferry", 612_000_000, 1_000_000),
    )
} | problems.FRAMEWORK_ONLY

_HEADERS: dict[str, dict[str, Any]] = {
    "X-Request-Id": {
        "description": "The request's own, or one made for it. The region's log has it too.",
        "schema": {"type": "string"},
        "example": "d94aa3f0efe21092",
    },
    "Retry-After": {
        "description": "Seconds to wait before the request is sent again.",
        "schema": {"type": "integer", "minimum": 1},
        "example": 7,
    },
    "ETag": {
        "description": "Names this state; send it as `If-Match` with a change.",
        "schema": {"type": "string"},
        "example": '"0f1e2d3c4b5a69788796a5b4c3d2e1f0"',
    },
    "Location": {
        "description": "What was made: mostly the import that carries the change out. None in a dry run.",
        "schema": {"type": "string", "format": "uri-reference"},
        "example": "/api/v1/imports/42",
    },
    CORRECTION_HEADER: {
        "description": "DSSE: the region's time, or the greatest sequence that it knows, for the refused request.",
        "schema": {"type": "string"},
        "example": examples.CORRECTION,
    },
    "Link": {
        "description": 'The page that follows, with `rel="next"` (RFC 8288); none on the last one.',
        "schema": {"type": "string"},
        "example": '<https://region.example.org:5240/api/v1/imports?cursor=41>; rel="next"',
    },
}
_SELECTING = {"remove_image", "replace_selection", "add_selection", "remove_selection"}
_LOCATED = _SELECTING | {
    *("pin_image", "unpin_image", "add_source", "change_source", "remove_source", "accept_older", "read_source"),
    *("start_import", "create_operator_token", "create_enrolment_token"),
}
"""Operations whose answer has a Location."""
_TAGGED = _LOCATED | {
    *("get_image", "list_selections", "get_source", "list_unvouched", "withdraw_unvouched"),
    *(
        "get_import",
        "cancel_import",
        "cancel_import_image",
        "get_sync",
        "change_sync",
        "get_rack",
        "get_operator_token",
    ),
    "get_enrolment_token",
    *("get_settings", "change_settings", "get_manifest", "get_file"),
}
"""Operations whose answer has an ETag."""

_TEXT = {"type": "string"}
_PLAIN_SHAPES: dict[str, dict[str, Any]] = {
    "application/octet-stream": {"type": "string", "format": "binary"},
    MEDIA_TYPE: {"type": "object", "description": "DSSE: a payload in base64, and who signed it."},
    "text/event-stream": _TEXT,
    "text/plain": _TEXT,
}
_RAW_BODIES = {
    "enrol_rack": (MEDIA_TYPE, examples.BODIES[MEDIA_TYPE]),
    "report": ("application/json", examples.REPORT),
    "change_rack_key": ("application/json", examples.NEXT_KEY),
}
"""Requests that are read as bytes."""


def describe(app: FastAPI) -> None:
    """Make `app.openapi()` answer the whole document."""
    derive = app.openapi

    def openapi() -> dict[str, Any]:
        if app.openapi_schema:
            return app.openapi_schema
        document = derive()
        _complete(document)
        return document

    app.openapi = openapi  # type: ignore[method-assign]


def _complete(document: dict[str, Any]) -> None:
    components = document.setdefault("components", {})
    components["securitySchemes"] = _SCHEMES
    components["headers"] = _HEADERS
    schemas = components.setdefault("schemas", {})
    schemas["Problem"] = Problem.model_json_schema()
    for unused in ("HTTPValidationError", "ValidationError"):
        schemas.pop(unused, None)
    document["servers"] = [{"url": "/", "description": "The region that answers this document."}]
    for operation in operations(document):
        name = operation["operationId"]
        operation.setdefault("description", examples.OPERATIONS.get(name, ""))
        found = {scheme for choice in operation.get("security", ()) for scheme in choice}
        asked = _RACK if "rack_signature" in found else _OPERATOR if found else []
        operation["security"] = _OTHERWISE.get(name, asked)
        for parameter in operation.get("parameters", ()):
            if parameter["name"].lower() in examples.PARAMETERS:
                parameter["example"] = examples.PARAMETERS[parameter["name"].lower()]
        _complete_request(operation)
        _complete_answers(operation)


def operations(document: dict[str, Any]) -> Iterator[dict[str, Any]]:
    """Every operation of the document."""
    for path in document["paths"].values():
        yield from path.values()


def _complete_request(operation: dict[str, Any]) -> None:
    if raw := _RAW_BODIES.get(operation["operationId"]):
        media_type, example = raw
        content = {media_type: {"schema": {"type": "object"}, "example": example}}
        operation["requestBody"] = {"required": True, "content": content}
    for media_type, content in operation.get("requestBody", {}).get("content", {}).items():
        if media_type == "application/json":
            operation["responses"] |= {str(status): found for status, found in documented(415).items()}
            # A body that may be left out need not be null too, and generated clients send what is left out as null.
            shapes = [choice for choice in content["schema"].get("anyOf", ()) if "$ref" in choice]
            if len(shapes) == 1:
                content["schema"] = shapes[0]
            if (example := _example(content["schema"], "")) is not None:
                content.setdefault("example", example)


def _complete_answers(operation: dict[str, Any]) -> None:
    responses = operation["responses"]
    if operation["operationId"] == "metrics":
        responses["200"]["content"] = {"text/plain": {}}
    for status, response in responses.items():
        if int(status) >= HTTPStatus.BAD_REQUEST:
            response.update(_refusal(int(status)))
        elif status == "206":
            response["content"] = {"application/octet-stream": {}}
        for media_type, content in response.get("content", {}).items():
            content.pop("itemSchema", None)
            if media_type in _PLAIN_SHAPES:
                content |= {"schema": _PLAIN_SHAPES[media_type], "example": examples.BODIES[media_type]}
            elif operation["operationId"] in examples.PROBES and media_type == "application/json":
                content["example"] = examples.PROBES[operation["operationId"]]
            elif media_type == "application/json" and (example := _example(content["schema"], status)) is not None:
                content["example"] = example
        names = sorted(_headers(operation, int(status)))
        response["headers"] = {name: {"$ref": f"#/components/headers/{name}"} for name in names}
    operation["responses"] = dict(sorted(responses.items()))


def _headers(operation: dict[str, Any], status: int) -> set[str]:
    """The headers that an operation's answer with this status has, or may have."""
    name, found = operation["operationId"], {"X-Request-Id"}
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        found.add("Retry-After")
    if status == HTTPStatus.UNAUTHORIZED and any("rack_signature" in choice for choice in operation["security"]):
        found.add(CORRECTION_HEADER)
    if status < HTTPStatus.BAD_REQUEST:
        found |= {"ETag"} if name in _TAGGED else set()
        found |= {"Location"} if name in _LOCATED else set()
        found |= {"Link"} if any(given["name"] == "cursor" for given in operation.get("parameters", ())) else set()
    return found


def _refusal(status: int) -> dict[str, Any]:
    codes = {kind.code for kind, row in ROWS.items() if row.status == status}
    if status in problems.FRAMEWORK_ONLY:
        codes.add(problems.FRAMEWORK_ONLY[status][0])
    if status == HTTPStatus.UNPROCESSABLE_ENTITY:
        codes.add("invalid_request")
    code, detail = _REFUSED[status]
    phrase = HTTPStatus(status).phrase
    listed = ", ".join(f"`{name}`" for name in sorted(codes))
    example = Problem(title=phrase, status=status, detail=detail, code=code, request_id="d94aa3f0efe21092")
    return {
        "description": f"{phrase}: {listed}",
        "content": {
            PROBLEM_JSON: {"schema": {"$ref": "#/components/schemas/Problem"}, "example": example.model_dump()}
        },
    }


def _example(schema: dict[str, Any], status: str) -> Any:
    """The example of the shape that `schema` refers to, alone or as the items of a page."""
    name = str(schema.get("$ref", "")).rpartition("/")[2]
    if name.startswith("Page_"):
        item = examples.SHAPES.get(name.removeprefix("Page_").removesuffix("_"))
        return None if item is None else {"items": [item], "next": None}
    return examples.ANSWERS.get((name, status), examples.SHAPES.get(name))
