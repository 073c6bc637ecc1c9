"""`select`, `unselect`, `selection show`, `selection apply`: which images are wanted.

Every change is one `PUT` of the whole selection: all of it is saved or nothing. It carries the ETag of the selection
that its plan was made from, so that nobody's meanwhile is overwritten.
"""

import sys
from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from region.cli import output, words
from region.cli.exits import Failed, Misused
from region.cli.names import Image, Release, image_of, parse, pick
from region.cli.offers import offered
from region.cli.output import Column, Format
from region.cli.plan import DryRun, How, Wait, agreed, tell_saved
from region.cli.session import Output, Yes, call
from shared.errors import InvalidDocument, InvalidValue

if TYPE_CHECKING:
    from region.cli.client import Api

MAX_FILE_BYTES = 1_000_000

Item = Mapping[str, Any]
Images = Annotated[list[str], typer.Argument(metavar="IMAGE...", help="Such as ubuntu/noble, or ubuntu/noble/amd64.")]
Arches = Annotated[
    list[str] | None, typer.Option("--arch", "-a", metavar="ARCH", help="Such as amd64; may be given several times.")
]


class Wish(NamedTuple):
    """An image and the source it is wanted from; without one, whichever source wins it is meant."""

    image: Image
    source_id: int | None


Wishes = frozenset[Wish]


def select(
    images: Images,
    arch: Arches = None,
    source: Annotated[
        str | None,
        typer.Option("--source", "-s", metavar="SOURCE", help="Take them from this source, its name or number."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Select images. The region fetches them and hands them to every rack.

    Without --arch, a release that is offered for one architecture alone is meant for that one.
    """

    async def change(api: "Api", before: Wishes) -> Wishes:
        meant = None if source is None else int(pick(await api.list("sources"), "source", source)["id"])
        wanted = _named(images, arch)
        if any(isinstance(found, Release) for found in wanted):
            wanted = _with_arch(wanted, await offered(api, meant))
        meant_images = {image for image in wanted if isinstance(image, Image)}
        if meant is None:
            return before | {Wish(image, None) for image in meant_images - {wish.image for wish in before}}
        others = frozenset(wish for wish in before if wish.image not in meant_images)
        return others | {Wish(image, meant) for image in meant_images}

    carry_out(change, How(dry_run, yes, wait, chosen))


def unselect(
    images: Images,
    arch: Arches = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Unselect images. They are deleted from the region and from every rack.

    Without --arch, every architecture of a release is meant.
    """

    async def change(_api: "Api", before: Wishes) -> Wishes:
        unwanted = set(_named(images, arch))
        return frozenset(wish for wish in before if not {wish.image, wish.image.of} & unwanted)

    carry_out(change, How(dry_run, yes, wait, chosen))


def show(chosen: Output = Format.TABLE) -> None:
    """Show what is selected; as YAML or JSON, in the form that `selection apply` takes."""

    async def read(api: "Api") -> tuple[list[dict[str, Any]], dict[int, str]]:
        return await api.list("selections"), {s["id"]: str(s.get("name")) for s in await api.list("sources")}

    found, names = call(read)
    if output.show_data(chosen, document(found, names)):
        return
    output.show_list(
        chosen,
        found,
        [
            Column("IMAGE", lambda item: str(image_of(item))),
            Column("SOURCE", lambda item: _source_name(item, names) or "whichever wins"),
        ],
        empty="Nothing is selected; see what there is with: bootferry available",
    )


def apply(
    file: Annotated[str, typer.Argument(metavar="FILE", help="A YAML file, or - for stdin.")],
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Select exactly what a file says, and unselect everything else.

    The file is what `bootferry selection show -o yaml` prints. Applying it again changes nothing.

    \b
    images:
      - image: ubuntu/noble
        arches: [amd64, arm64]
        source: maas.io          # may be left out
    """
    entries = read_document(file)

    async def change(api: "Api", before: Wishes) -> Wishes:
        known = await api.list("sources")
        selected: dict[Image, set[Wish]] = defaultdict(set)
        for wish in before:
            selected[wish.image].add(wish)
        wished: set[Wish] = set()
        for image, source in entries:
            if source is not None:
                wished.add(Wish(image, int(pick(known, "source", source)["id"])))
            else:
                # Without a source, an image stays with the one it is selected from: the file is fulfilled already.
                wished |= selected.get(image) or {Wish(image, None)}
        return frozenset(wished)

    carry_out(change, How(dry_run, yes, wait, chosen))


def document(selections: Iterable[Item], names: Mapping[int, str]) -> dict[str, Any]:
    """Selections in the form of the file."""
    arches: dict[tuple[Release, str], list[str]] = defaultdict(list)
    for item in selections:
        image = image_of(item)
        arches[image.of, _source_name(item, names)].append(image.arch)
    return {
        "images": [
            {"image": str(release), "arches": sorted(found)} | ({"source": source} if source else {})
            for (release, source), found in sorted(arches.items())
        ]
    }


def _source_name(item: Item, names: Mapping[int, str]) -> str:
    """The source a selection names; empty when whichever source wins is meant."""
    source_id = item.get("source_id")
    return "" if source_id is None else names.get(source_id, str(source_id))


def read_document(file: str) -> list[tuple[Image, str | None]]:
    """The images of a file, each with its source where it names one. Raises InvalidDocument."""
    import yaml

    where = "What came on stdin" if file == "-" else file
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
    try:
        found = yaml.safe_load(text)
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        mark = getattr(error, "problem_mark", None)
        at = f" at line {mark.line + 1}, column {mark.column + 1}" if mark else ""
        raise InvalidDocument(where, f"it is not YAML{at}") from error
    if not isinstance(found, dict) or found.keys() != {"images"} or not isinstance(found["images"], list):
        raise InvalidDocument(where, "it must have one key, images, with a list of images")
    return [wish for number, entry in enumerate(found["images"], 1) for wish in _entry(where, number, entry)]


def _entry(where: str, number: int, entry: Any) -> list[tuple[Image, str | None]]:
    if not isinstance(entry, dict) or not {"image"} <= entry.keys() <= {"image", "arches", "source"}:
        raise InvalidDocument(where, f"entry {number} must have image, and may have arches and source")
    arches, source = entry.get("arches"), entry.get("source")
    if not (arches is None or (isinstance(arches, list) and arches and all(isinstance(a, str) for a in arches))):
        raise InvalidDocument(where, f"the arches of entry {number} must be a list of names, such as [amd64]")
    try:
        images = _named([str(entry["image"])], arches)
    except (InvalidValue, Misused) as error:
        raise InvalidDocument(where, f"entry {number}: {str(error).rstrip('.')}") from error
    if not all(isinstance(image, Image) for image in images):
        raise InvalidDocument(where, f"entry {number} names no architecture; add arches, such as [amd64]")
    return [(image, None if source is None else str(source)) for image in images if isinstance(image, Image)]


def _named(texts: Iterable[str], arches: Iterable[str] | None) -> list[Release | Image]:
    """The images named by releases and architectures. Raises InvalidValue, Misused."""
    found: list[Release | Image] = []
    for text in texts:
        named = parse(text)
        if isinstance(named, Image) and arches:
            raise Misused(f"{named} names its architecture already; leave --arch out, or write {named.of}.")
        if isinstance(named, Release) and arches:
            found += [Image(*named, arch) for arch in dict.fromkeys(arches)]
        else:
            found.append(named)
    return found


def _with_arch(wanted: Iterable[Release | Image], known: Mapping[Image, Item]) -> list[Release | Image]:
    """The same, releases replaced by the one image they can mean. Raises Misused, Failed."""
    found: list[Release | Image] = []
    for image in wanted:
        if isinstance(image, Release):
            same = sorted(offer for offer in known if offer.of == image)
            if not same:
                raise Failed("not_found", f"No source offers {image}; see what there is with: bootferry available")
            if len(same) > 1:
                arches = words.listed(offer.arch for offer in same)
                raise Misused(f"{image} is offered for {arches}; say which with --arch, as in --arch {same[0].arch}.")
            found += same
        else:
            found.append(image)
    return found


def carry_out(change: "Callable[[Api, Wishes], Awaitable[Wishes]]", how: How) -> None:
    """Show what a change of the selection leads to; unless it is a dry run, ask where images go, and save it."""

    async def decide(api: "Api") -> tuple[Wishes, Wishes, str | None, Item]:
        before, etag = await _selected(api)
        wished = await change(api, before)
        return before, wished, etag, await _put(api, wished, dry_run=True)

    async def save(api: "Api") -> Item:
        return await _put(api, wished, etag=etag)

    before, wished, etag, plan = call(decide)
    if wished == before:
        if not output.show_data(how.chosen, plan):
            output.say("Nothing to change: that is what is selected.")
    elif agreed(plan, how):
        tell_saved(call(save), how)


async def _selected(api: "Api") -> tuple[Wishes, str | None]:
    """The whole selection, and its ETag where the region gives one."""
    pages = [page async for page in api.pages("selections")]
    wishes = frozenset(Wish(image_of(item), item.get("source_id")) for page in pages for item in page.items)
    return wishes, pages[0].etag


async def _put(api: "Api", wished: Wishes, *, dry_run: bool = False, etag: str | None = None) -> Item:
    items = [
        {**wish.image._asdict(), **({} if wish.source_id is None else {"source_id": wish.source_id})}
        for wish in sorted(wished, key=str)
    ]
    answer = await api.ask(
        "PUT",
        "selections",
        body={"items": items},
        query={"dry_run": "true"} if dry_run else None,
        headers={"If-Match": etag} if etag else None,
    )
    return answer.body
