"""The selection as a file: read from YAML or JSON without asking anybody, and written as it is read.

- It says exactly what is selected: `docs/selection.schema.json` is its schema, and `read` is as strict.
- It has no anchors and no aliases, no key twice, no key that is not known here, and no image twice from one source.
- The order of its entries, and of the names in them, means nothing.
"""

import sys
from collections import defaultdict
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from region.cli import words
from region.cli.names import ALL, Image, Release, image_of, parse_wish
from shared.errors import InvalidDocument, InvalidValue
from shared.names import Name

MAX_FILE_BYTES = 1_000_000
KEYS = ("image", "arches", "kernels", "labels", "source")

Item = Mapping[str, Any]
Names = frozenset[str] | None


class Clause(NamedTuple):
    """An image, or a rule, as the file says it; `source` is the name or number of one, None for whichever wins."""

    image: Image
    source: str | None
    kernels: Names
    labels: Names


def write(selections: Iterable[Item], names: Mapping[int, str]) -> dict[str, Any]:
    """Selections of the API in the form of the file; `names` are those of sources."""
    arches: dict[tuple[Release, str, tuple[str, ...], tuple[str, ...]], list[str]] = defaultdict(list)
    for item in selections:
        image = image_of(item)
        kernels, labels = (tuple(sorted(item.get(key) or ())) for key in ("kernels", "labels"))
        arches[image.of, source_name(item, names), kernels, labels].append(image.arch)
    return {
        "images": [
            {"image": str(release), "arches": sorted(found)}
            | ({"kernels": list(kernels)} if kernels else {})
            | ({"labels": list(labels)} if labels else {})
            | ({"source": source} if source else {})
            for (release, source, kernels, labels), found in sorted(arches.items())
        ]
    }


def source_name(item: Item, names: Mapping[int, str]) -> str:
    """The source a selection names; empty when whichever source wins is meant."""
    source_id = item.get("source_id")
    return "" if source_id is None else names.get(source_id, str(source_id))


def read(file: str) -> list[Clause]:
    """What a file says. Raises InvalidDocument."""
    where = "What came on stdin" if file == "-" else file
    found = _parsed(where, _content(where, file))
    if not isinstance(found, dict) or found.keys() != {"images"} or not isinstance(found["images"], list):
        raise InvalidDocument(where, "it must have one key, images, with a list of images")
    clauses = [clause for number, entry in enumerate(found["images"], 1) for clause in _entry(where, number, entry)]
    seen: set[tuple[Image, str | None]] = set()
    for clause in clauses:
        if (clause.image, clause.source) in seen:
            raise InvalidDocument(
                where, f"{clause.image} is named twice; name it once, with all its kernels and labels"
            )
        seen.add((clause.image, clause.source))
    return clauses


def _content(where: str, file: str) -> bytes:
    try:
        if file == "-":
            text = sys.stdin.buffer.read(MAX_FILE_BYTES + 1)
        else:
            with Path(file).open("rb") as opened:
                text = opened.read(MAX_FILE_BYTES + 1)
    except OSError as error:
        raise InvalidDocument(where, str(error.strerror)) from error
    if len(text) > MAX_FILE_BYTES:
        raise InvalidDocument(where, f"it is larger than {words.size(MAX_FILE_BYTES)}")
    return text


def _parsed(where: str, text: bytes) -> Any:
    import yaml

    class Loader(yaml.SafeLoader):
        """Plain values only. A few bytes of anchors stand for gigabytes, and of a key twice one would count."""

        def compose_node(self, parent: yaml.Node | None, index: int) -> yaml.Node | None:
            if self.check_event(yaml.AliasEvent):
                raise InvalidDocument(where, "it uses an anchor; write out what it stands for")
            return super().compose_node(parent, index)

        def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
            keys = [key.value for key, _ in node.value if isinstance(key, yaml.ScalarNode)]
            if len(set(keys)) < len(keys):
                raise InvalidDocument(where, f"line {node.start_mark.line + 1} begins something that has a key twice")
            return super().construct_mapping(node, deep)

    try:
        return yaml.load(text, Loader)  # noqa: S506 - a SafeLoader
    except RecursionError as error:
        raise InvalidDocument(where, "it is nested too deeply") from error
    except (yaml.YAMLError, UnicodeDecodeError, ValueError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidDocument(where, f"it is not YAML{at}") from error


def _entry(where: str, number: int, entry: Any) -> list[Clause]:
    if not isinstance(entry, dict) or not {"image"} <= entry.keys() <= set(KEYS):
        unknown = sorted(str(key) for key in entry.keys() - set(KEYS)) if isinstance(entry, dict) else []
        why = f"entry {number} must have image, and may have arches, kernels, labels and source"
        raise InvalidDocument(where, f"{why}; {words.listed(unknown)} is none of them" if unknown else why)
    arches = _names(where, number, entry, "arches", "amd64")
    kernels, labels = (_names(where, number, entry, key, of) for key, of in (("kernels", "ga"), ("labels", "stable")))
    try:
        named = parse_wish(str(entry["image"]))
        if isinstance(named, Image) and arches:
            raise InvalidDocument(where, f"entry {number}: {named} names its architecture already; leave arches out")
        images = [parse_wish(f"{named}/{arch}") for arch in dict.fromkeys(arches)] if arches else [named]
        for said in (*(kernels or ()), *(labels or ())):
            if said != ALL:
                Name(said)
    except InvalidValue as error:
        raise InvalidDocument(where, f"entry {number}: {str(error).rstrip('.')}") from error
    if not all(isinstance(image, Image) for image in images):
        raise InvalidDocument(where, f"entry {number} names no architecture; add arches, such as [amd64]")
    source = entry.get("source")
    return [
        Clause(
            image,
            None if source is None else str(source),
            None if kernels is None else frozenset(kernels),
            None if labels is None else frozenset(labels),
        )
        for image in images
        if isinstance(image, Image)
    ]


def _names(where: str, number: int, entry: Mapping[str, Any], key: str, example: str) -> list[str] | None:
    found = entry.get(key)
    if found is None or (isinstance(found, list) and found and all(isinstance(name, str) for name in found)):
        return found
    raise InvalidDocument(where, f"the {key} of entry {number} must be a list of names, such as [{example}]")
