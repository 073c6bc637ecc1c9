"""The committed description of the API is the one the code gives."""

import json
import os
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
from jsonschema import Draft202012Validator
from openapi_spec_validator import validate

from region import api
from region.api import examples
from shared.wire.report import parse_report

DOCUMENT = Path(__file__).parents[2] / "docs" / "openapi.json"


def test_the_committed_description_is_true() -> None:
    assert json.loads(DOCUMENT.read_text()) == json.loads(json.dumps(api.description())), "run: make openapi"


def test_it_describes_what_callers_need() -> None:
    document = api.description()
    assert document["openapi"].startswith("3.1")
    operations = [
        (path, method, operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]
    names = [operation["operationId"] for _, method, operation in operations if method != "head"]
    assert len(names) == len(set(names))
    for path, method, operation in operations:
        assert operation.get("summary"), (method, path)
        assert operation.get("tags"), (method, path)
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                assert list(response["content"]) == ["application/problem+json"], (method, path, status)


def test_every_reference_leads_somewhere() -> None:
    document = api.description()
    for reference in _references(document):
        kind, name = reference.removeprefix("#/components/").split("/")
        assert name in document["components"][kind], reference


def _references(part: object) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for value in part.values() for found in _references(value)]
    if isinstance(part, list):
        return [found for value in part for found in _references(value)]
    return []


@pytest.mark.parametrize("secret", ["bf_", "bfe_"])
def test_examples_hold_no_token(secret: str) -> None:
    assert f'"{secret}' not in DOCUMENT.read_text().replace('"bf_session"', "the cookie's name")


# --- what linters and generators of clients need ------------------------------------------------------------------


def _operations() -> list[tuple[str, dict[str, Any]]]:
    document = api.description()
    return [
        (f"{method.upper()} {path}", operation)
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    ]


def test_it_is_valid_openapi() -> None:
    validate(api.description())


def test_every_operation_is_described_and_says_who_may_call_it() -> None:
    document = api.description()
    schemes = document["components"]["securitySchemes"]
    assert document["servers"]
    for where, operation in _operations():
        assert operation["description"].endswith("."), where
        assert all(scheme in schemes for choice in operation["security"] for scheme in choice), where


def test_nobody_forgets_who_is_asked_for() -> None:
    anybody = {operation["operationId"] for _, operation in _operations() if operation["security"] == []}
    assert anybody == {"log_in", "enrol_rack", "get_region", "get_region_keys", "livez", "readyz"}
    racks = {
        operation["operationId"] for _, operation in _operations() if operation["security"] == [{"rack_signature": []}]
    }
    assert racks == {"get_manifest", "manifest_events", "report", "change_rack_key"}


def test_every_request_and_answer_has_an_example_that_fits_its_schema() -> None:
    schemas = api.description()["components"]["schemas"]
    for where, operation in _operations():
        bodies = [("request", operation["requestBody"])] if "requestBody" in operation else []
        bodies += [(status, response) for status, response in operation["responses"].items()]
        for which, body in bodies:
            for media_type, content in body.get("content", {}).items():
                assert "example" in content, (where, which, media_type)
                validator = Draft202012Validator(
                    {**content["schema"], "components": {"schemas": schemas}},
                    format_checker=Draft202012Validator.FORMAT_CHECKER,
                )
                assert not list(validator.iter_errors(content["example"])), (where, which, media_type)


def test_a_body_that_may_be_left_out_is_never_null() -> None:
    """Generated clients would send it as null of a kind json does not know."""
    bodies = [operation["requestBody"] for _, operation in _operations() if "requestBody" in operation]
    assert [body for body in bodies if "anyOf" in body["content"].get("application/json", {}).get("schema", {})] == []


def test_every_example_is_of_a_shape_there_is_and_every_word_of_an_operation() -> None:
    schemas = set(api.description()["components"]["schemas"])
    assert set(examples.SHAPES) <= schemas
    assert set(examples.OPERATIONS) == {operation["operationId"] for _, operation in _operations()}


def test_the_example_of_a_report_is_one() -> None:
    parse_report(json.dumps(examples.REPORT).encode())


def test_every_answer_names_the_headers_that_callers_act_on() -> None:
    headers = {}
    for where, operation in _operations():
        for status, response in operation["responses"].items():
            headers[f"{where} {status}"] = set(response["headers"])
            assert "X-Request-Id" in response["headers"], (where, status)
            assert ("Retry-After" in response["headers"]) == (status in ("429", "503")), (where, status)
    assert headers["PATCH /api/v1/sources/{source_id} 200"] == {"ETag", "Location", "X-Request-Id"}
    assert headers["GET /api/v1/imports 200"] == {"Link", "X-Request-Id"}
    assert headers["GET /api/v1/storage 200"] == {"X-Request-Id"}


def test_every_refusal_names_the_codes_of_its_status() -> None:
    for where, operation in _operations():
        for status, response in operation["responses"].items():
            if int(status) >= 400:
                example = response["content"]["application/problem+json"]["example"]
                assert example["status"] == int(status), where
                assert f"`{example['code']}`" in response["description"], where


LINTERS = {
    "redocly": ("lint", str(DOCUMENT), "--format=stylish"),
    "spectral": ("lint", "--ruleset", str(DOCUMENT.parent / "spectral.yaml"), str(DOCUMENT)),
}


@pytest.mark.parametrize("linter", LINTERS)
def test_linters_find_nothing_wrong(linter: str) -> None:
    program = shutil.which(linter, path=f"{os.environ.get('OPENAPI_LINTERS', '')}:{os.environ['PATH']}")
    if program is None:
        pytest.skip(f"{linter}, a program of npm's, is not on the PATH; `make apilint` fetches it and runs this")
    silent = os.environ | {"REDOCLY_TELEMETRY": "off", "REDOCLY_SUPPRESS_UPDATE_NOTICE": "true"}
    run = subprocess.run(
        [program, *LINTERS[linter]], env=silent, capture_output=True, text=True, timeout=120, check=False
    )
    assert run.returncode == 0, run.stdout + run.stderr
