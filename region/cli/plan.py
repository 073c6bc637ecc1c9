"""What a change leads to: shown, agreed to, and told when it is saved."""

from collections.abc import Iterator, Mapping
from typing import Annotated, Any, NamedTuple

import typer

from region.cli import imports, output, words
from region.cli.names import shown
from region.cli.output import Cell, Format
from region.cli.session import Wait as Wait
from region.cli.session import confirm

Item = Mapping[str, Any]
DryRun = Annotated[bool, typer.Option("--dry-run", help="Show the plan and change nothing.")]


class How(NamedTuple):
    """How a change is to be made."""

    dry_run: bool
    yes: bool
    wait: int
    chosen: Format


def agreed(plan: Item, how: How) -> bool:
    """True if the plan was shown, and whoever types wants it; False if it was a dry run. Raises Failed, Misused."""
    if how.dry_run:
        if not output.show_data(how.chosen, plan):
            output.draw_lines(lines(plan))
            output.note("This was a dry run; nothing was changed.")
        return False
    output.draw_lines(lines(plan), stderr=how.chosen is not Format.TABLE)
    if asked := question(plan):
        confirm(asked, yes=how.yes)
    return True


def tell_saved(saved: Item, how: How) -> None:
    """Tell which import carries the change out, or wait for what is awaited. Raises Failed when that is no good one."""
    tell_import(saved, "Saved.", wait=how.wait, chosen=how.chosen)


def tell_import(started: Item, done: str, *, wait: int, chosen: Format) -> None:
    """`done`, and which import carries it out; or wait for what is awaited. Raises Failed when that is no good one."""
    if wait:
        imports.wait_for(started["import_id"], wait, chosen)
    elif not output.show_data(chosen, started):
        number = started.get("import_id")
        output.say(f"{done} Import {number} carries it out; see it with: bootferry import show {number}")


def lines(plan: Item) -> Iterator[Cell]:
    """The plan in words: an image a line, then what is fetched and the room that is left."""
    unavailable = set(plan.get("unavailable", ()))
    for said, images in sorted(plan.get("means", {}).items()):
        meant = words.listed(map(shown, images)) if images else "nothing that is known"
        yield Cell(f"  = {shown(said)}   means {meant}")
    come, go = plan.get("kernels_add", {}), plan.get("kernels_remove", {})
    for image in sorted(plan.get("add", ())):
        remark = "   no source offers it at the moment" if image in unavailable else ""
        kernels = f"   kernels {words.listed(come[image])}" if come.get(image) and plan.get("left_out_bytes") else ""
        yield Cell(f"  + {shown(image)}{remark}{kernels}", "green")
    for image in sorted(plan.get("remove", ())):
        yield Cell(f"  - {shown(image)}   will be deleted from the region and every rack", "red")
    for image in sorted((come.keys() | go.keys()) - set(plan.get("add", ()))):
        for kernels, sign, verb, style in ((come, "+", "come", "green"), (go, "-", "go", "red")):
            if kernels.get(image):
                yield Cell(f"  {sign} {shown(image)}   kernels {words.listed(kernels[image])} {verb}", style)
    yield from effects(plan)
    if spared := plan.get("left_out_bytes"):
        yield Cell(f"Kernels that are left out spare {words.size(spared)}.")
    rooms = [_room(plan, "on the region")]
    if rack := plan.get("tightest_rack"):
        rooms.append(_room(rack, f"on the rack {rack.get('name')}, which has least"))
    yield Cell(f"{_fetching(plan)}; afterwards {words.listed(rooms)}.")


def effects(plan: Item) -> Iterator[Cell]:
    """What becomes of images that stay selected, and of bootloaders; then what to think about before. A line each."""
    for image in sorted(plan.get("moved", ())):
        yield Cell(f"  ~ {shown(image)}   from another source", "yellow")
    for field, sign, remark, style in (
        ("bootloaders_add", "+", "comes with it", "green"),
        ("bootloaders_change", "~", "is replaced", "yellow"),
        ("bootloaders_withdraw", "-", "is withdrawn from the region and every rack", "red"),
    ):
        for bootloader in sorted(plan.get(field, ())):
            yield Cell(f"  {sign} {shown(bootloader)}   {remark}", style)
    for warning in plan.get("warnings", ()):
        yield Cell(f"  ! {words.slashed(warning)}", "yellow")


def effects_and_bytes(plan: Item) -> Iterator[Cell]:
    """`effects`, and what the import after it fetches; nothing where nothing changes."""
    told = list(effects(plan))
    yield from told
    if told and plan.get("fetch_bytes"):
        yield Cell(f"{_fetching(plan)}.")


def _fetching(plan: Item) -> str:
    fetch = plan.get("fetch_bytes", 0)
    return f"{words.size(fetch)} to fetch" if fetch else "Nothing to fetch"


def _room(place: Item, where: str) -> str:
    free = place.get("free_bytes_after", 0)
    return f"{words.size(free)} free {where}" if free >= 0 else f"{words.size(-free)} too few {where}"


def question(plan: Item) -> str:
    """What to ask before this is done; empty when nobody needs to be asked."""
    removed, rack = len(plan.get("remove", ())), plan.get("tightest_rack") or {}
    if plan.get("free_bytes_after", 0) < 0:
        return "It does not fit on the region's disk. Save it nevertheless?"
    if rack.get("free_bytes_after", 0) < 0:
        return f"It does not fit on the disk of the rack {rack.get('name')}. Save it nevertheless?"
    return f"{words.counted(removed, 'image')} will be deleted. Go on?" if removed else ""
