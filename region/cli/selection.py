"""`select`, `unselect`, `selection show|check|diff|apply`: which images are wanted.

Every change is one `PUT` of the whole selection: all of it is saved or nothing. It carries the ETag of the selection
that its plan was made from, so that nobody's meanwhile is overwritten.
"""

from collections import defaultdict
from collections.abc import Awaitable, Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from region.cli import output, selection_file, suggest, words
from region.cli.exits import Failed, Misused, SelectionDiffers
from region.cli.lists import Listing, lists
from region.cli.names import ALL, Image, Release, image_of, is_rule, parse_wish, pick, shown
from region.cli.offers import offered, other_names
from region.cli.output import Cell, Column, Format
from region.cli.plan import DryRun, How, Wait, agreed, tell_saved
from region.cli.selection_file import Clause, Names, source_name
from region.cli.session import Output, Yes, call

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]
Images = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...",
        autocompletion=suggest.offers,
        help="Such as ubuntu/noble, ubuntu/24.04, ubuntu/noble/amd64; or a rule: ubuntu/lts:2, ubuntu/supported.",
    ),
]
Selected = Annotated[
    list[str],
    typer.Argument(
        metavar="IMAGE...",
        autocompletion=suggest.selected,
        help="Such as ubuntu/noble, or ubuntu/noble/amd64; or a rule, as `selection show` lists it.",
    ),
]
Arches = Annotated[
    list[str] | None,
    typer.Option("--arch", "-a", metavar="ARCH", help="Such as amd64, or '*'; may be given several times."),
]
File = Annotated[str, typer.Argument(metavar="FILE", help="A YAML file, or - for stdin.")]


KINDS = ("ga", "hwe", "hwe-edge", "ga-lowlatency", "hwe-lowlatency", "hwe-lowlatency-edge")
"""What a shell completes a kernel with."""


class Wish(NamedTuple):
    """An image or a rule and the source it is wanted from; without one, whichever source wins it is meant.

    `kernels`, `labels` None: all of them.
    """

    image: Image
    source_id: int | None
    kernels: Names = None
    labels: Names = None


Wishes = frozenset[Wish]


def select(
    images: Images,
    arch: Arches = None,
    kernel: Annotated[
        list[str] | None,
        typer.Option(
            "--kernel",
            "-k",
            metavar="KERNEL",
            help="This kernel alone: ga, hwe, hwe-edge, ga-24.04, or '*'; may be given several times.",
            autocompletion=lambda: list(KINDS),
        ),
    ] = None,
    label: Annotated[
        list[str] | None,
        typer.Option("--label", "-l", metavar="LABEL", help="This label alone, such as stable, or '*'."),
    ] = None,
    source: Annotated[
        str | None,
        typer.Option("--source", "-s", metavar="SOURCE", help="Take them from this source, its name or number."),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Select images, or what a rule means. The region fetches them and hands them to every rack.

    Without --arch, a release that is offered for one architecture alone is meant for that one. Of what is selected
    already --kernel and --label say which kernels and labels it is to have.

    \b
    ubuntu/lts        the newest release with long-term support
    ubuntu/lts:2      the newest two of them
    ubuntu/supported  all releases whose support has not ended
    'ubuntu/*'        all releases that are offered
    """

    async def change(api: "Api", before: Wishes) -> Wishes:
        meant = None if source is None else int(pick(await api.list("sources"), "source", source)["id"])
        wanted = await _named(api, images, arch, meant)
        found = set(before)
        for image in await _with_arch(api, wanted, meant):
            same = {wish for wish in before if wish.image == image}
            found -= same
            if meant is not None:
                found.add(_with(Wish(image, meant), same, kernel, label))
            elif same:
                found |= {_with(wish, {wish}, kernel, label) for wish in same}
            else:
                found.add(_with(Wish(image, None), same, kernel, label))
        return frozenset(found)

    carry_out(change, How(dry_run, yes, wait, chosen))


def unselect(
    images: Selected,
    arch: Arches = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Unselect images or rules. What is held of them is deleted from the region and from every rack.

    Without --arch, every architecture of a release is meant.
    """

    async def change(api: "Api", before: Wishes) -> Wishes:
        gone: set[Wish] = set()
        for image in await _named(api, images, arch, None):
            same = {wish for wish in before if image in (wish.image, wish.image.of)}
            if not same:
                output.note(f"{image} is not selected{await _by_rule(api, image)}.")
            gone |= same
        return before - gone

    carry_out(change, How(dry_run, yes, wait, chosen))


@lists(watch=False)
def show() -> Listing:
    """Show what is selected; as YAML or JSON, in the form that `selection apply` takes."""

    async def read(api: "Api") -> tuple[list[dict[str, Any]], dict[int, str]]:
        return await api.list("selections"), {s["id"]: str(s.get("name")) for s in await api.list("sources")}

    found, names = call(read)
    some = [
        Column(heading, lambda item, key=key: words.listed(item.get(key) or ["all"]))  # type: ignore[misc]
        for heading, key in (("KERNELS", "kernels"), ("LABELS", "labels"))
        if any(item.get(key) for item in found)
    ]
    rules = [Column("MEANS", _means)] if any(_is_rule(item) for item in found) else []
    return Listing(
        found,
        [
            Column("IMAGE", lambda item: str(image_of(item))),
            *some,
            *rules,
            Column("SOURCE", lambda item: source_name(item, names) or "whichever wins"),
        ],
        empty="Nothing is selected; see what there is with: bootferry available",
        document=lambda items: selection_file.write(items, names),
    )


def check(
    file: File,
    offline: Annotated[bool, typer.Option("--offline", help="Ask no region.")] = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Check a file that says what is to be selected, and whether the region could select it. Nothing is changed.

    Its schema is docs/selection.schema.json.
    """
    entries = selection_file.read(file)
    if offline:
        output.say(f"{file} is in order: {words.counted(len(entries), 'selection')}. No region was asked.")
        return

    async def ask(api: "Api") -> Item:
        before, _ = await _selected(api)
        return await _put(api, await _of_file(api, entries, before), dry_run=True)

    plan = call(ask)
    if not output.show_data(chosen, plan):
        output.draw_lines(Cell(f"  ! {words.slashed(warning)}", "yellow") for warning in plan.get("warnings", ()))
        output.say(f"{file} is in order: {words.counted(len(entries), 'selection')}, and the region can take it.")


def diff(file: File, chosen: Output = Format.TABLE) -> None:
    """Show how the selection differs from a file; exit code 1 if it does. Nothing is changed."""
    entries = selection_file.read(file)

    async def read(api: "Api") -> tuple[Wishes, Wishes, dict[int, str]]:
        before, _ = await _selected(api)
        names = {item["id"]: str(item.get("name")) for item in await api.list("sources")}
        return before, await _of_file(api, entries, before), names

    before, wished, names = call(read)
    come, go = (sorted(_told(wish, names) for wish in some) for some in (wished - before, before - wished))
    if not output.show_data(chosen, {"add": come, "remove": go}):
        output.draw_lines(
            [*(Cell(f"  + {told}", "green") for told in come), *(Cell(f"  - {told}", "red") for told in go)]
        )
    if come or go:
        raise SelectionDiffers(file)
    if chosen is Format.TABLE:
        output.say(f"The selection is what {file} says.")


def apply(
    file: File,
    dry_run: DryRun = False,
    yes: Yes = False,
    wait: Wait = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Select exactly what a file says, and unselect everything else.

    The file is what `bootferry selection show -o yaml` prints. Applying it again changes nothing.

    \b
    images:
      - image: ubuntu/noble      # or a rule: ubuntu/lts:2, ubuntu/supported
        arches: [amd64, arm64]   # or ["*"]
        kernels: [ga, hwe]       # may be left out: all; so may labels
        source: maas.io          # may be left out
    """
    entries = selection_file.read(file)

    async def change(api: "Api", before: Wishes) -> Wishes:
        return await _of_file(api, entries, before)

    carry_out(change, How(dry_run, yes, wait, chosen))


async def _of_file(api: "Api", entries: Iterable[Clause], before: Wishes) -> Wishes:
    """What a file wishes for. Without a source, an image stays with those it is selected from.

    Raises Failed, Misused.
    """
    sources = await api.list("sources")
    named = await other_names(api, {clause.image.of for clause in entries})
    selected: dict[Image, set[int | None]] = defaultdict(set)
    for wish in before:
        selected[wish.image].add(wish.source_id)
    found: set[Wish] = set()
    for clause in entries:
        image = Image(*named.get(clause.image.of, clause.image.of), clause.image.arch)
        if clause.source is not None:
            meant: set[int | None] = {int(pick(sources, "source", clause.source)["id"])}
        else:
            meant = selected.get(image) or {None}
        found |= {Wish(image, source_id, clause.kernels, clause.labels) for source_id in meant}
    return frozenset(found)


def _with(wish: Wish, same: Iterable[Wish], kernels: list[str] | None, labels: list[str] | None) -> Wish:
    """The wish with these kernels and labels; where none are given, with those that it was selected with, `same`."""
    kept_kernels, kept_labels = {each.kernels for each in same}, {each.labels for each in same}
    return wish._replace(
        kernels=frozenset(kernels) if kernels else (kept_kernels.pop() if len(kept_kernels) == 1 else None),
        labels=frozenset(labels) if labels else (kept_labels.pop() if len(kept_labels) == 1 else None),
    )


async def _named(
    api: "Api", texts: Iterable[str], arches: Iterable[str] | None, source_id: int | None
) -> list[Release | Image]:
    """The images named by releases and architectures. Raises InvalidValue, Misused."""
    found: list[Release | Image] = []
    for text in texts:
        named = parse_wish(text)
        if isinstance(named, Image) and arches:
            raise Misused(f"{named} names its architecture already; leave --arch out, or write {named.of}.")
        if isinstance(named, Release) and arches:
            found += [Image(*named, arch) for arch in dict.fromkeys(arches)]
        else:
            found.append(named)
    of = {image if isinstance(image, Release) else image.of for image in found}
    other = await other_names(api, of, source_id)
    for release, meant in sorted(other.items()):
        output.note(f"{release} is {meant}.")
    return [
        other.get(image, image) if isinstance(image, Release) else Image(*other.get(image.of, image.of), image.arch)
        for image in found
    ]


async def _with_arch(api: "Api", wanted: Iterable[Release | Image], source_id: int | None) -> list[Image]:
    """The same, releases replaced by the one image they can mean. Raises Misused, Failed."""
    found: list[Image] = []
    for image in wanted:
        if isinstance(image, Image):
            found.append(image)
            continue
        known = await offered(api, source_id)
        same = [offer for offer in known if offer.of == image or (is_rule(image.name) and offer.os == image.os)]
        arches = sorted({offer.arch for offer in same})
        if not arches:
            raise Failed("not_found", f"No source offers {image}; see what there is with: bootferry available")
        if len(arches) > 1:
            raise Misused(
                f"{image} is offered for {words.listed(arches)}; say which with --arch, as in --arch {arches[0]}."
            )
        found.append(Image(*image, arches[0]))
    return found


async def _by_rule(api: "Api", image: Release | Image) -> str:
    """Why an image is there nevertheless; empty when no rule means it."""
    for item in await api.list("selections"):
        if _is_rule(item) and any(shown(each).startswith(str(image)) for each in item.get("images", ())):
            return f" by its name, but the rule {image_of(item)} means it"
    return ""


def _is_rule(item: Item) -> bool:
    return is_rule(str(item.get("release"))) or item.get("arch") == ALL


def _means(item: Item) -> str:
    """The images a rule means: a few by name, more by their number."""
    if not _is_rule(item):
        return ""
    images = [shown(image) for image in item.get("images", ())]
    if not images:
        return "nothing that is known"
    return words.listed(images) if len(images) <= 3 else words.counted(len(images), "image")


def _told(wish: Wish, names: Mapping[int, str]) -> str:
    """A wish in one line."""
    said = [str(wish.image)]
    said += [f"kernels {words.listed(sorted(wish.kernels))}"] if wish.kernels else []
    said += [f"labels {words.listed(sorted(wish.labels))}"] if wish.labels else []
    said += [f"from {names.get(wish.source_id, str(wish.source_id))}"] if wish.source_id is not None else []
    return ", ".join(said)


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
    wishes = frozenset(
        Wish(image_of(item), item.get("source_id"), _set(item.get("kernels")), _set(item.get("labels")))
        for page in pages
        for item in page.items
    )
    return wishes, pages[0].etag


def _set(names: list[str] | None) -> Names:
    return None if names is None else frozenset(names)


async def _put(api: "Api", wished: Wishes, *, dry_run: bool = False, etag: str | None = None) -> Item:
    items = [
        wish.image._asdict()
        | ({} if wish.source_id is None else {"source_id": wish.source_id})
        | ({} if wish.kernels is None else {"kernels": sorted(wish.kernels)})
        | ({} if wish.labels is None else {"labels": sorted(wish.labels)})
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
