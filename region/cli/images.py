"""`images`, `image show`: the images that are selected or held, and where they are."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output, words
from region.cli.exits import Failed, Misused
from region.cli.names import Image, Release, image_of, parse
from region.cli.output import Cell, Column, Format
from region.cli.session import Output, call

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]

_STATUSES = {
    "queued": Cell("Queued", "yellow"),
    "downloading": Cell("Downloading", "cyan"),
    "waiting_for_racks": Cell("Waiting for racks", "yellow"),
    "stored": Cell("Stored", "green"),
    "synced": Cell("Synced", "green"),
    "failed": Cell("Failed", "red"),
    "unavailable": Cell("No longer offered", "yellow"),
    "retiring": Cell("Will be deleted", "dim"),
}


def list_all(chosen: Output = Format.TABLE) -> None:
    """List images that are selected or held, with their status."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("images")

    found, now = call(read), datetime.now(UTC)
    output.show_list(
        chosen,
        found,
        [
            Column("IMAGE", lambda item: str(image_of(item))),
            Column("SIZE", _size, right=True),
            Column("STATUS", status),
            Column("RACKS", _racks),
            Column("VERSION", lambda item: item.get("version") or "-"),
            Column("UPDATED", lambda item: words.ago(item.get("updated_at"), now)),
        ],
        empty="No image is selected or held; see what there is with: bootferry available",
    )
    if chosen is Format.TABLE:
        _tell_errors(found)


def show(
    image: Annotated[str, typer.Argument(metavar="IMAGE", help="Such as ubuntu/noble/amd64.")],
    chosen: Output = Format.TABLE,
) -> None:
    """Show one image."""
    wanted = parse(image)

    async def read(api: "Api") -> tuple[Item, str]:
        found = await _find(api, wanted)
        names = {item.get("id"): str(item.get("name")) for item in await api.list("sources")}
        return found, names.get(found.get("source_id"), "")

    (found, source), now = call(read), datetime.now(UTC)
    version, held = found.get("version") or "", found.get("held_version") or ""
    output.show_facts(
        chosen,
        found,
        [
            ("Image", str(image_of(found))),
            ("Title", str(found.get("title") or "")),
            ("Status", status(found)),
            ("Selected", "yes" if found.get("selected") else "no"),
            ("Source", source),
            ("Version", f"{version}, newest; {held} is served" if held and held != version else version),
            ("Size", _size(found)),
            ("Racks", f"{_racks(found)} serve it" if found.get("racks_total") else "none enrolled"),
            ("Updated", words.when(found.get("updated_at"), now)),
            ("Supported", _supported(found.get("support_eol"), now)),
            ("Error", Cell(str(found.get("error") or ""), "red")),
        ],
    )


async def _find(api: "Api", wanted: Release | Image) -> Item:
    if isinstance(wanted, Image):
        return await api.get("images", wanted.id)
    same = [item for item in await api.list("images") if image_of(item).of == wanted]
    if len(same) > 1:
        known = words.listed(item.get("arch") for item in same)
        raise Misused(f"There is {wanted} for {known}; name one, as in {image_of(same[0])}.")
    if not same:
        raise Failed("not_found", f"{wanted} is neither selected nor held; see what is with: bootferry images")
    return same[0]


def status(item: Item) -> Cell:
    """The status of an image in words; a status nobody here knows is shown as it is."""
    found = str(item.get("status", ""))
    word = _STATUSES.get(found, Cell(found.replace("_", " ").capitalize()))
    return Cell(f"{word.text} {item.get('progress', 0)} %", word.style) if found == "downloading" else word


def _size(item: Item) -> str:
    return words.size(item.get("size_bytes") or None)


def _racks(item: Item) -> str:
    total = item.get("racks_total")
    return f"{item.get('racks_synced', 0)} of {total}" if total else "-"


def _supported(until: Any, now: datetime) -> str | Cell:
    if not until:
        return ""
    return Cell(f"ended {until}", "yellow") if str(until) < f"{now:%Y-%m-%d}" else f"until {until}"


def _tell_errors(found: list[dict[str, Any]]) -> None:
    by_error: dict[str, list[str]] = {}
    for item in found:
        if item.get("error"):
            by_error.setdefault(str(item["error"]), []).append(str(image_of(item)))
    for error, names in by_error.items():
        output.note(f"\n{words.listed(names)}:\n{error}")
