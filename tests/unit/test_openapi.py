"""The committed description of the API is the one the code gives."""

import json
from pathlib import Path

import pytest

from region import api

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
    schemas = document["components"]["schemas"]
    for reference in _references(document):
        assert reference.removeprefix("#/components/schemas/") in schemas, reference


def _references(part: object) -> list[str]:
    if isinstance(part, dict):
        own = [part["$ref"]] if isinstance(part.get("$ref"), str) else []
        return own + [found for value in part.values() for found in _references(value)]
    if isinstance(part, list):
        return [found for value in part for found in _references(value)]
    return []


@pytest.mark.parametrize("secret", ["bf_", "bfe_"])
def test_examples_hold_no_token(secret: str) -> None:
    assert f'"{secret}' not in DOCUMENT.read_text()
