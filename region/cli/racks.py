"""`racks`, `rack …`: the services that pull from the region and serve machines."""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output, words
from region.cli.names import pick
from region.cli.output import Cell, Column, Format
from region.cli.session import Output, Yes, call, confirm

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]
RackArgument = Annotated[str, typer.Argument(metavar="RACK", help="Its name, or its id or the beginning of that.")]

_STATUSES = {
    "never_seen": Cell("Never seen", "yellow"),
    "unreachable": Cell("Unreachable", "red"),
    "failing": Cell("Failing", "red"),
    "pulling": Cell("Pulling", "cyan"),
    "outdated": Cell("Outdated", "yellow"),
    "synced": Cell("Synced", "green"),
}


def list_all(chosen: Output = Format.TABLE) -> None:
    """List the racks and how far they are."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("racks")

    found, now = call(read), datetime.now(UTC)
    output.show_list(
        chosen,
        found,
        [
            Column("RACK", lambda item: str(item.get("name"))),
            Column("STATUS", _status),
            Column("ADDRESS", lambda item: str(item.get("address") or "-")),
            Column("SEEN", lambda item: words.ago(item.get("last_seen_at"), now)),
            Column("LEFT", _left, right=True),
            Column("FREE", lambda item: words.size(item.get("bytes_free") or None), right=True),
        ],
        empty="No rack is enrolled; make a token for one with: bootferry rack token",
    )
    if chosen is Format.TABLE:
        for item in found:
            if item.get("last_error"):
                output.note(f"\n{item.get('name')}: {item['last_error']}")


def show(rack: RackArgument, chosen: Output = Format.TABLE) -> None:
    """Show one rack."""

    async def read(api: "Api") -> Item:
        return pick(await api.list("racks"), "rack", rack)

    found, now = call(read), datetime.now(UTC)
    output.show_facts(
        chosen,
        found,
        [
            ("Rack", str(found.get("name"))),
            ("Id", str(found.get("id"))),
            ("Status", _status(found)),
            ("Address", str(found.get("address") or "")),
            ("Seen", words.when(found.get("last_seen_at"), now)),
            ("Enrolled", words.when(found.get("enrolled_at"), now)),
            ("Version", str(found.get("version") or "")),
            ("Files", str(found.get("files_held", ""))),
            (
                "Left",
                f"{words.size(found.get('bytes_left'))} to pull" if found.get("bytes_left") else "nothing to pull",
            ),
            ("Free", words.size(found.get("bytes_free") or None)),
            ("Key", str(found.get("fingerprint") or "")),
            ("Error", Cell(str(found.get("last_error") or ""), "red")),
        ],
    )


def token(
    hours: Annotated[float, typer.Option(min=0.02, max=720, help="How long it may be used.")] = 24,
    uses: Annotated[int, typer.Option(min=1, max=1000, help="How many racks may use it.")] = 1,
    chosen: Output = Format.TABLE,
) -> None:
    """Make a token that lets a rack enrol. It is shown this once."""

    async def make(api: "Api") -> Item:
        wished = {"lifetime_seconds": round(hours * 3600), "uses": uses}
        return (await api.ask("POST", "enrolment-tokens", body=wished)).body

    found = call(make)
    if output.show_data(chosen, found):
        return
    racks = "the rack" if uses == 1 else f"each rack, {uses} at most,"
    left = words.span(hours * 3600) if hours < 1 else f"{hours:g} {'hour' if hours == 1 else 'hours'}"
    output.note(f"Run this on {racks} within {left}; the token is not shown again:")
    output.say(str(found.get("command")))


def remove(rack: RackArgument, yes: Yes = False, chosen: Output = Format.TABLE) -> None:
    """Remove a rack: the region forgets its key. It must enrol again to come back."""

    async def find(api: "Api") -> Item:
        return pick(await api.list("racks"), "rack", rack)

    async def forget(api: "Api") -> None:
        await api.ask("DELETE", "racks", str(found["id"]))

    found = call(find)
    confirm(f"The rack {found.get('name')} will have to enrol again to come back. Remove it?", yes=yes)
    call(forget)
    if not output.show_data(chosen, found):
        output.say(f"The rack {found.get('name')} was removed.")


def _status(item: Item) -> Cell:
    found = str(item.get("status", ""))
    return _STATUSES.get(found, Cell(found.replace("_", " ").capitalize()))


def _left(item: Item) -> str:
    return words.size(item["bytes_left"]) if item.get("bytes_left") else "-"
