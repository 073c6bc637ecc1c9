"""The selection as a file: what is read, what is refused with which sentence, and the schema beside it."""

import json
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import Any

import jsonschema
import pytest
import yaml
from hypothesis import given
from hypothesis import settings as examples
from hypothesis import strategies as st

from region.cli.names import Image
from region.cli.selection_file import Clause, read, write
from shared.errors import InvalidDocument

SCHEMA = json.loads((Path(__file__).parents[2] / "docs" / "selection.schema.json").read_text())
NOBLE = Image("ubuntu", "noble", "amd64")


def of_text(tmp_path: Path, text: str) -> list[Clause]:
    file = tmp_path / "selection.yaml"
    file.write_text(text)
    return read(str(file))


def is_valid(document: Any) -> bool:
    return jsonschema.Draft202012Validator(SCHEMA).is_valid(document)


def clause(image: str, *, kernels: str = "", labels: str = "", source: str | None = None) -> Clause:
    named = Image(*image.split("/"))
    return Clause(named, source, frozenset(kernels.split()) or None, frozenset(labels.split()) or None)


@pytest.mark.parametrize(
    ("entry", "expected"),
    [
        ({"image": "ubuntu/noble/amd64"}, [clause("ubuntu/noble/amd64")]),
        ({"image": "ubuntu/noble", "arches": ["amd64", "arm64"]},
         [clause("ubuntu/noble/amd64"), clause("ubuntu/noble/arm64")]),
        ({"image": "ubuntu/24.04", "arches": ["amd64"]}, [clause("ubuntu/24.04/amd64")]),
        ({"image": "ubuntu/lts:2", "arches": ["*"]}, [clause("ubuntu/lts:2/*")]),
        ({"image": "ubuntu/supported/*"}, [clause("ubuntu/supported/*")]),
        ({"image": "centos/*/amd64"}, [clause("centos/*/amd64")]),
        ({"image": "ubuntu/noble/amd64", "kernels": ["ga", "hwe-24.04-lowlatency-edge"]},
         [clause("ubuntu/noble/amd64", kernels="ga hwe-24.04-lowlatency-edge")]),
        ({"image": "ubuntu/noble/amd64", "kernels": ["*"], "labels": ["stable"], "source": "maas.io"},
         [clause("ubuntu/noble/amd64", kernels="*", labels="stable", source="maas.io")]),
        ({"image": "ubuntu/noble/amd64", "source": 2}, [clause("ubuntu/noble/amd64", source="2")]),
        ({"image": "ubuntu/noble/amd64", "kernels": None, "arches": None}, [clause("ubuntu/noble/amd64")]),
    ],
)  # fmt: skip
def test_what_an_entry_says(tmp_path: Path, entry: dict[str, Any], expected: list[Clause]) -> None:
    assert of_text(tmp_path, yaml.safe_dump({"images": [entry]})) == expected
    assert of_text(tmp_path, json.dumps({"images": [entry]})) == expected
    assert is_valid({"images": [entry]})


@pytest.mark.parametrize(
    ("entry", "why"),
    [
        ({"arches": ["amd64"]}, "entry 1 must have image"),
        ({"image": "ubuntu/noble/amd64", "kernel": ["ga"]}, "kernel is none of them"),
        ({"image": "ubuntu/noble"}, "entry 1 names no architecture; add arches"),
        ({"image": "ubuntu/noble/amd64", "arches": ["amd64"]}, "names its architecture already; leave arches out"),
        ({"image": "ubuntu", "arches": ["amd64"]}, "entry 1: 'ubuntu' is not an image: write it as"),
        ({"image": "ubuntu/lts:0", "arches": ["amd64"]}, "is not a"),
        ({"image": "*/noble/amd64"}, "is not a name"),
        ({"image": "ubuntu/noble/amd*"}, "is not a name"),
        ({"image": "ubuntu/../amd64"}, "is not a"),
        (
            {"image": "ubuntu/noble/amd64", "kernels": []},
            "the kernels of entry 1 must be a list of names, such as [ga]",
        ),
        ({"image": "ubuntu/noble/amd64", "kernels": "ga"}, "the kernels of entry 1 must be a list of names"),
        ({"image": "ubuntu/noble/amd64", "kernels": ["g/a"]}, "is not a name"),
        ({"image": "ubuntu/noble/amd64", "labels": [1]}, "the labels of entry 1 must be a list of names"),
        ({"image": "ubuntu/noble", "arches": []}, "the arches of entry 1 must be a list of names, such as [amd64]"),
        ("ubuntu/noble/amd64", "entry 1 must have image"),
        (None, "entry 1 must have image"),
    ],
)
def test_an_entry_that_says_nothing_clear_is_refused(tmp_path: Path, entry: Any, why: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        of_text(tmp_path, yaml.safe_dump({"images": [entry]}))
    assert why in str(refused.value)
    assert not is_valid({"images": [entry]})


BOMB = "a: &a [x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nimages: [*c, *c]\n"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        pytest.param(BOMB, "it uses an anchor; write out what it stands for", id="anchors"),
        pytest.param("&a images: [*a]\n", "it uses an anchor", id="an anchor of itself"),
        pytest.param("images: " + "[" * 5000 + "]" * 5000, "it is nested too deeply", id="deep"),
        pytest.param("images: []\nimages: []\n", "line 1 begins something that has a key twice", id="a key twice"),
        pytest.param(
            "images:\n- image: ubuntu/noble/amd64\n  kernels: [ga]\n  kernels: [hwe]\n",
            "has a key twice",
            id="in entry",
        ),
        pytest.param("images: []\nkernels: [ga]\n", "it must have one key, images", id="an unknown key"),
        pytest.param("[]", "it must have one key, images", id="a list"),
        pytest.param("", "it must have one key, images", id="nothing"),
        pytest.param("images: {}", "with a list of images", id="no list"),
        pytest.param("images: [*]", "it is not YAML at line 1", id="a star without quotes"),
        pytest.param("images: [!!python/object:os.system {}]", "it is not YAML at line 1", id="a tag of a language"),
        pytest.param("images:\n\t- x", "it is not YAML at line 2", id="a tab"),
        pytest.param("images: [2026-99-99]", "it is not YAML", id="a day that is none"),
        pytest.param("#" * 1_000_001, "it is larger than 1.0 MB", id="huge"),
        pytest.param(
            "images: [{image: ubuntu/noble/amd64}, {image: ubuntu/noble, arches: [amd64], kernels: [ga]}]",
            "ubuntu/noble/amd64 is named twice; name it once, with all its kernels and labels",
            id="an image twice",
        ),
    ],
)
def test_a_file_that_is_none_is_refused(tmp_path: Path, text: str, why: str) -> None:
    with pytest.raises(InvalidDocument) as refused:
        of_text(tmp_path, text)
    assert why in str(refused.value)


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="No such file"):
        read(str(tmp_path / "nowhere.yaml"))


_names = st.none() | st.lists(st.sampled_from(["ga", "hwe", "hwe-edge", "ga-24.04", "*"]), min_size=1, unique=True)
_items = st.lists(
    st.fixed_dictionaries(
        {
            "os": st.sampled_from(["ubuntu", "centos"]),
            "release": st.sampled_from(["noble", "jammy", "lts", "lts:2", "supported", "*"]),
            "arch": st.sampled_from(["amd64", "arm64", "*"]),
            "source_id": st.sampled_from([None, 1, 2]),
            "kernels": _names,
            "labels": _names,
        }
    ),
    unique_by=lambda item: (item["os"], item["release"], item["arch"], item["source_id"]),
    max_size=6,
)


def said(item: dict[str, Any]) -> Clause:
    return Clause(
        Image(item["os"], item["release"], item["arch"]),
        {None: None, 1: "maas.io", 2: "Ours"}[item["source_id"]],
        None if item["kernels"] is None else frozenset(item["kernels"]),
        None if item["labels"] is None else frozenset(item["labels"]),
    )


@examples(max_examples=60, deadline=None, derandomize=True)
@given(_items, st.randoms())
def test_what_is_written_is_read_as_it_was_in_whatever_order(items: list[dict[str, Any]], rng: Any) -> None:
    document = write(items, {1: "maas.io", 2: "Ours"})
    assert is_valid(document)
    shuffled = items.copy()
    rng.shuffle(shuffled)
    assert write(shuffled, {1: "maas.io", 2: "Ours"}) == document
    with NamedTemporaryFile("w", suffix=".yaml") as file:
        yaml.safe_dump(document, file)
        file.flush()
        assert set(read(file.name)) == set(map(said, items))
