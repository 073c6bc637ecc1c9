"""`images`, `image …`, `bootloaders`: what is selected or held, in which version, and where it is."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output, suggest, words
from region.cli.exits import Failed, Misused
from region.cli.lists import Listing, lists
from region.cli.names import Image, Release, image_of, parse, parse_image
from region.cli.offers import other_names
from region.cli.output import Cell, Column, Format
from region.cli.plan import DryRun, How, Wait, agreed, effects, tell_import, tell_saved
from region.cli.racks import STATES, state
from region.cli.session import WHOLE_PAGE, Output, Yes, call
from region.cli.settings import source_of_bootloaders

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]
ImageArgument = Annotated[
    str, typer.Argument(metavar="IMAGE", autocompletion=suggest.images, help="Such as ubuntu/noble/amd64.")
]

_STATUSES = {
    "queued": Cell("Queued", "yellow"),
    "downloading": Cell("Downloading", "cyan"),
    "waiting_for_racks": Cell("Waiting for racks", "yellow"),
    "stored": Cell("Stored", "green"),
    "synced": Cell("Synced", "green"),
    "failed": Cell("Failed", "red"),
    "unavailable": Cell("No longer offered", "yellow"),
    "unvouched": Cell("Not vouched for", "red"),
    "unselected": Cell("Will be deleted", "dim"),
}


@lists(_STATUSES)
def list_all(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE]...",
            autocompletion=suggest.images,
            help="Only these: an os, a release or an image; * stands for anything in its place.",
        ),
    ] = None,
) -> Listing:
    """List images that are selected or held, with their status."""

    async def read(api: "Api") -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        return await api.list("images"), await api.list("sources")

    (every, sources), now = call(read), datetime.now(UTC)
    found = [item for item in every if not images or any(_fits(image_of(item), pattern) for pattern in images)]
    names = {item.get("id"): str(item.get("name")) for item in sources}
    return Listing(
        found,
        [
            Column("IMAGE", lambda item: str(image_of(item))),
            Column("SIZE", _size, right=True, key=lambda item: item.get("size_bytes")),
            Column("STATUS", status),
            Column("RACKS", _racks, key=lambda item: item.get("racks_synced") if item.get("racks_total") else None),
            Column(
                "VERSION", lambda item: f"{item.get('version') or '-'}{' pinned' if item.get('pinned_version') else ''}"
            ),
            Column(
                "UPDATED", lambda item: words.ago(item.get("updated_at"), now), key=lambda item: item.get("updated_at")
            ),
            Column("HELD", lambda item: str(item.get("held_version") or "-"), wide=True),
            Column("SOURCE", lambda item: names.get(item.get("source_id"), "-"), wide=True),
            Column("RELEASE", lambda item: str(item.get("title") or "-"), wide=True),
            Column(
                "SUPPORT",
                lambda item: _supported(item.get("support_eol"), now) or "-",
                key=lambda item: item.get("support_eol"),
                wide=True,
            ),
        ],
        empty=f"No image that is selected or held fits {words.listed(images)}; see all with: bootferry images"
        if images and every
        else "No image is selected or held; see what there is with: bootferry available",
        notes=lambda items: [*_errors(items), *(f"\n{each['warning']}" for each in sources if each.get("warning"))],
    )


def _fits(image: Image, pattern: str) -> bool:
    """True if the image is one of `os`, `os/release` or `os/release/arch`; `*` in a part stands for anything."""
    parts = pattern.replace(":", "/").rstrip("/").split("/")
    return len(parts) <= len(image) and all(map(fnmatchcase, image, parts))


def show(image: ImageArgument, chosen: Output = Format.TABLE) -> None:
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
            ("Version", f"{version}, wanted; {held} is served" if held and held != version else version),
            ("Pinned", f"to {found['pinned_version']}" if found.get("pinned_version") else ""),
            ("Size", _size(found)),
            ("Racks", f"{_racks(found)} show it" if found.get("racks_total") else "none enrolled"),
            ("Updated", words.when(found.get("updated_at"), now)),
            ("Supported", _supported(found.get("support_eol"), now)),
            ("Error", Cell(words.slashed(str(found.get("error") or "")), "red")),
        ],
    )


@lists()
def list_versions(image: ImageArgument) -> Listing:
    """List the versions of an image that are offered or held, the newest first."""
    wanted = parse_image(image)

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("images", wanted.id, "versions")

    return Listing(
        call(read),
        [
            Column("VERSION", lambda item: str(item.get("name"))),
            Column("SIZE", _size, right=True, key=lambda item: item.get("size_bytes")),
            Column("OFFERED", lambda item: _yes(item.get("offered"))),
            Column("HELD", lambda item: _yes(item.get("held"))),
        ],
        empty=f"No source offers {wanted}, and no version of it is held; see what there is with: bootferry available",
    )


@lists(STATES, "state")
def list_racks(image: ImageArgument) -> Listing:
    """List the racks and what each shows of an image."""
    wanted = parse_image(image)

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("images", wanted.id, "racks", limit=WHOLE_PAGE)

    return Listing(
        call(read),
        [
            Column("RACK", lambda item: str(item.get("name"))),
            Column("STATE", state),
            Column("SHOWS", lambda item: str(item.get("shown_version") or "-")),
            Column("WHY", lambda item: str(item.get("code") or "-")),
        ],
        empty="No rack is enrolled; make a token for one with: bootferry rack token",
    )


def pin(
    image: ImageArgument,
    version: Annotated[str, typer.Argument(metavar="VERSION", help="As `image versions` lists it.")],
    dry_run: DryRun = False,
    wait: Wait = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Keep an image at one version, also when its source offers newer ones."""
    wanted = parse_image(image)

    async def keep(api: "Api") -> Item:
        query = {"dry_run": "true"} if dry_run else None
        return (await api.ask("PUT", "images", wanted.id, "pin", body={"version": version}, query=query)).body

    _tell_pin(call(keep), f"Pinned {wanted} to {version}.", How(dry_run, True, wait, chosen))


def unpin(image: ImageArgument, dry_run: DryRun = False, wait: Wait = False, chosen: Output = Format.TABLE) -> None:
    """Let an image follow its source again."""
    wanted = parse_image(image)

    async def follow(api: "Api") -> Item:
        query = {"dry_run": "true"} if dry_run else None
        return (await api.ask("DELETE", "images", wanted.id, "pin", query=query)).body

    _tell_pin(call(follow), f"Unpinned {wanted}.", How(dry_run, True, wait, chosen))


def _tell_pin(found: Item, done: str, how: How) -> None:
    if how.dry_run:
        if not output.show_data(how.chosen, found):
            output.draw_lines(effects(found))
            fetch = found.get("fetch_bytes")
            output.say(f"{words.size(fetch)} to fetch." if fetch else "Nothing to fetch.")
            output.note("This was a dry run; nothing was changed.")
        return
    output.draw_lines(effects(found), stderr=how.chosen is not Format.TABLE)
    tell_import(found, done, wait=how.wait, chosen=how.chosen)


def delete(
    image: ImageArgument, dry_run: DryRun = False, yes: Yes = False, wait: Wait = False, chosen: Output = Format.TABLE
) -> None:
    """Unselect one image, whatever source it is selected from. It is deleted from the region and from every rack."""
    wanted, how = parse_image(image), How(dry_run, yes, wait, chosen)

    async def ask(api: "Api", **query: str) -> Item:
        return (await api.ask("DELETE", "images", wanted.id, query=query)).body

    if agreed(call(lambda api: ask(api, dry_run="true")), how):
        tell_saved(call(ask), how)


@lists()
def list_bootloaders() -> Listing:
    """List the bootloaders. They come by themselves, with every import."""

    async def read(api: "Api") -> tuple[list[dict[str, Any]], str]:
        source = source_of_bootloaders(await api.get("settings"), await api.list("sources"))
        return await api.list("bootloaders"), source

    found, source = call(read)
    other = "bootferry settings set --bootloaders-from SOURCE"
    whence = (
        f"\nThey come from {source}; choose another source with: {other}"
        if source
        else f"\nNo source is chosen for them, so no new ones come; choose one with: {other}"
    )
    return Listing(
        found,
        [
            Column("BOOTLOADER", lambda item: str(item.get("os"))),
            Column("TYPE", lambda item: str(item.get("type"))),
            Column("ARCH", lambda item: str(item.get("arch"))),
            Column("SIZE", _size, right=True, key=lambda item: item.get("size_bytes")),
            Column("HELD", lambda item: _yes(item.get("held"))),
            Column("RACKS", _racks),
            Column("VERSION", lambda item: str(item.get("version") or "-")),
        ],
        empty="There is no bootloader yet; they come with the first import: bootferry sync",
        name=lambda item: f"bootloader/{item.get('type')}/{item.get('arch')}",
        says=whence if found else "",
    )


async def _find(api: "Api", wanted: Release | Image) -> Item:
    if isinstance(wanted, Image):
        return await api.get("images", wanted.id)
    meant = (await other_names(api, {wanted})).get(wanted, wanted)
    same = [item for item in await api.list("images") if image_of(item).of == meant]
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
    return Cell(f"{word.text} {item.get('progress', 0)}%", word.style) if found == "downloading" else word


def _size(item: Item) -> str:
    return words.size(item.get("size_bytes") or None)


def _yes(value: Any) -> str | Cell:
    return Cell("yes", "green") if value else "no"


def _racks(item: Item) -> str:
    total = item.get("racks_total")
    return f"{item.get('racks_synced', 0)} of {total}" if total else "-"


def _supported(until: Any, now: datetime) -> str | Cell:
    if not until:
        return ""
    return Cell(f"ended {until}", "yellow") if str(until) < f"{now:%Y-%m-%d}" else f"until {until}"


def _errors(found: Sequence[Item]) -> Iterator[str]:
    by_error: dict[str, list[str]] = {}
    for item in found:
        if item.get("error"):
            by_error.setdefault(str(item["error"]), []).append(str(image_of(item)))
    for error, names in by_error.items():
        yield f"\n{words.listed(names)}:\n{error}"
