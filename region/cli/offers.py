"""`available`: the images that sources offer to select from."""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import suggest, words
from region.cli.exits import Misused
from region.cli.lists import Listing, lists
from region.cli.names import Image, Release, image_of, pick
from region.cli.output import Cell, Column
from region.cli.session import call

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]


@lists()
def list_all(
    source: Annotated[
        str | None,
        typer.Option(
            "--source",
            "-s",
            metavar="SOURCE",
            autocompletion=suggest.sources,
            help="Of this source alone, its name or number.",
        ),
    ] = None,
) -> Listing:
    """List the images that can be selected.

    An image that several sources offer is listed once, with the source that wins it.
    """

    async def read(api: "Api") -> tuple[list[dict[str, Any]], list[dict[str, Any]], set[Image]]:
        known = await api.list("sources")
        if source is not None:
            known = [dict(pick(known, "source", source))]
        selected = {image for item in await api.list("selections") for image in _images(item)}
        found = await offered(api, None if source is None else int(known[0]["id"]))
        return known, list(found.values()), selected

    known, found, selected = call(read)
    names = {item.get("id"): str(item.get("name")) for item in known}
    of_source = [Column("SOURCE", lambda item: names.get(item.get("source_id"), ""))] if len(known) > 1 else []
    return Listing(
        found,
        [
            *columns(datetime.now(UTC)),
            *of_source,
            Column("SELECTED", lambda item: Cell("yes", "green") if image_of(item) in selected else ""),
        ],
        empty="No source offers any image" + ("; add one with: bootferry source add" if not known else " yet."),
        notes=lambda _: (f"\n{item.get('name')}: {item['error']}" for item in known if item.get("error")),
    )


def _images(item: Item) -> list[Image]:
    """The images that a selection means."""
    return [Image(*image.split(":")) for image in item.get("images", ())] or [image_of(item)]


async def offered(api: "Api", source_id: int | None) -> dict[Image, dict[str, Any]]:
    """What the source offers; without one, what all offer, each image with the source that wins it."""
    asked = {} if source_id is None else {"source_id": source_id}
    return {image_of(item): item for item in await api.list("available", **asked)}


def columns(now: datetime) -> list[Column]:
    """What a table shows of an offer."""
    return [
        Column("IMAGE", lambda item: str(image_of(item))),
        Column("RELEASE", lambda item: str(item.get("title") or "")),
        Column(
            "SIZE", lambda item: words.size(item.get("size_bytes")), right=True, key=lambda item: item.get("size_bytes")
        ),
        Column("VERSION", lambda item: str(item.get("version") or "")),
        Column("SUPPORT", lambda item: _support(item, now), key=lambda item: item.get("support_eol")),
    ]


def _support(item: Item, now: datetime) -> Cell | str:
    until = item.get("support_eol")
    if not until:
        return ""
    return Cell(f"ended {until}", "dim") if str(until) < f"{now:%Y-%m-%d}" else f"until {until}"


async def other_names(api: "Api", releases: Iterable[Release], source_id: int | None = None) -> dict[Release, Release]:
    """The releases that are named by their version, such as ubuntu/24.04, and what they mean. Raises Misused."""
    numbers = {release for release in releases if release.name[:1].isdecimal()}
    if not numbers:
        return {}
    known = await offered(api, source_id)
    numbers -= {image.of for image in known}
    found: dict[Release, set[Release]] = defaultdict(set)
    for image, offer in known.items():
        if (number := Release(image.os, str(offer.get("release_version")))) in numbers:
            found[number].add(image.of)
    for number, meant in found.items():
        if len(meant) > 1:
            raise Misused(f"{number} may be {' or '.join(sorted(map(str, meant)))}; name one of them.")
    return {number: meant.pop() for number, meant in found.items()}
