"""`racks`, `rack …`: the services that pull from the region and serve machines."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output, suggest, words
from region.cli.exits import Misused
from region.cli.lists import Listing, lists
from region.cli.names import pick, shown
from region.cli.output import Cell, Column, Format
from region.cli.session import WHOLE_PAGE, Output, Yes, call, confirm

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]
RackArgument = Annotated[
    str,
    typer.Argument(metavar="RACK", autocompletion=suggest.racks, help="Its name, or its id or the beginning of that."),
]

_AHEAD = (
    "it knows a manifest that this region never published. Was the database restored?"
    " Run on the region: bootferry-region new-epoch"
)

_STATUSES = {
    "never_seen": Cell("Never seen", "yellow"),
    "unreachable": Cell("Unreachable", "red"),
    "ahead": Cell("Ahead", "red"),
    "waiting_for_operator": Cell("Waiting for an operator", "yellow"),
    "failing": Cell("Failing", "red"),
    "pulling": Cell("Pulling", "cyan"),
    "outdated": Cell("Outdated", "yellow"),
    "synced": Cell("Synced", "green"),
}

STATES = {
    "shown": Cell("Shown", "green"),
    "pending": Cell("Pending", "yellow"),
    "behind": Cell("Behind", "yellow"),
    "ahead": Cell("Ahead", "red"),
    "unreachable": Cell("Unreachable", "red"),
}


@lists(_STATUSES)
def list_all() -> Listing:
    """List the racks and how far they are."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("racks", limit=WHOLE_PAGE)

    now = datetime.now(UTC)
    return Listing(
        call(read),
        [
            Column("RACK", lambda item: str(item.get("name"))),
            Column("STATUS", _status),
            Column("ADDRESS", lambda item: str(item.get("address") or "-")),
            Column(
                "SEEN", lambda item: words.ago(item.get("last_seen_at"), now), key=lambda item: item.get("last_seen_at")
            ),
            Column("LACKS", _lacks, right=True, key=lambda item: item.get("images_pending")),
            Column("LEFT", _left, right=True, key=lambda item: item.get("bytes_left")),
            Column(
                "FREE",
                lambda item: words.size(item.get("bytes_free") or None),
                right=True,
                key=lambda item: item.get("bytes_free"),
            ),
            Column("ID", lambda item: str(item.get("id", ""))[:12], wide=True),
            Column("RELEASE", lambda item: str(item.get("version") or "-"), wide=True),
            Column(
                "ENROLLED",
                lambda item: words.ago(item.get("enrolled_at"), now),
                key=lambda item: item.get("enrolled_at"),
                wide=True,
            ),
        ],
        empty="No rack is enrolled; make a token for one with: bootferry rack token",
        notes=_errors,
    )


def _errors(found: Sequence[Item]) -> Iterator[str]:
    for item in found:
        if item.get("last_error"):
            yield f"\n{item.get('name')}: {item['last_error']}"
        if item.get("status") == "ahead":
            yield f"\n{item.get('name')}: {_AHEAD}"


def show(rack: RackArgument, chosen: Output = Format.TABLE) -> None:
    """Show one rack, and the images it lacks."""

    async def read(api: "Api") -> Item:
        return await api.get("racks", str((await _find(api, rack))["id"]))

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
            ("Lacks", f"{_lacks(found)} images" if found.get("images_pending") else "no image"),
            (
                "Left",
                f"{words.size(found.get('bytes_left'))} to pull" if found.get("bytes_left") else "nothing to pull",
            ),
            ("Free", words.size(found.get("bytes_free") or None)),
            ("Key", str(found.get("fingerprint") or "")),
            ("Error", Cell(words.slashed(str(found.get("last_error") or "")), "red")),
        ],
    )
    if chosen is not Format.TABLE:
        return
    if found.get("status") == "ahead":
        output.note(f"\n{_AHEAD}")
    if found.get("pending"):
        output.note("")
        output.show_list(
            chosen,
            found["pending"],
            [
                Column("LACKS", lambda item: shown(str(item.get("image")))),
                Column("STATE", state),
                Column("SHOWS", lambda item: str(item.get("shown_version") or "-")),
                Column("WHY", lambda item: str(item.get("code") or "-")),
            ],
            empty="",
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
    output.note(f"Run this on {racks} within {left}; it asks for the token below, which is not shown again:")
    output.note(str(found.get("command")))
    output.say(str(found.get("token")))


@lists()
def tokens() -> Listing:
    """List enrolment tokens, without their secrets."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("enrolment-tokens", limit=WHOLE_PAGE)

    now = datetime.now(UTC)
    found = sorted(call(read), key=lambda item: str(item.get("created_at")), reverse=True)
    return Listing(
        found,
        [
            Column("TOKEN", lambda item: str(item.get("id", ""))[:12]),
            Column("MADE BY", lambda item: str(item.get("made_by") or "-")),
            Column(
                "MADE", lambda item: words.ago(item.get("created_at"), now), key=lambda item: item.get("created_at")
            ),
            Column(
                "EXPIRES", lambda item: words.ago(item.get("expires_at"), now), key=lambda item: item.get("expires_at")
            ),
            Column(
                "USES LEFT", lambda item: str(item.get("uses_left")), right=True, key=lambda item: item.get("uses_left")
            ),
        ],
        empty="There is no enrolment token; make one with: bootferry rack token",
    )


def revoke(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id as `rack tokens` shows it, or all of it.")],
    yes: Yes = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Revoke an enrolment token: it lets no rack in any longer. Racks that used it stay."""

    async def find(api: "Api") -> Item:
        found = await api.list("enrolment-tokens", limit=WHOLE_PAGE)
        return pick([{**item, "name": str(item.get("id", ""))[:12]} for item in found], "enrolment token", token)

    async def forget(api: "Api") -> None:
        await api.ask("DELETE", "enrolment-tokens", str(found["id"]))

    found = call(find)
    confirm(f"The enrolment token {str(found['id'])[:12]} will let no rack in any longer. Revoke it?", yes=yes)
    call(forget)
    if not output.show_data(chosen, found):
        output.say(f"The enrolment token {str(found['id'])[:12]} was revoked.")


def remove(rack: RackArgument, yes: Yes = False, chosen: Output = Format.TABLE) -> None:
    """Remove a rack: the region forgets its key. It must enrol again to come back."""

    async def find(api: "Api") -> Item:
        return await _find(api, rack)

    async def forget(api: "Api") -> None:
        await api.ask("DELETE", "racks", str(found["id"]))

    found = call(find)
    confirm(f"The rack {found.get('name')} will have to enrol again to come back. Remove it?", yes=yes)
    call(forget)
    if not output.show_data(chosen, found):
        output.say(f"The rack {found.get('name')} was removed.")


def poll(
    rack: Annotated[
        str | None,
        typer.Argument(
            metavar="[RACK]", autocompletion=suggest.racks, help="Its name, or its id or the beginning of that."
        ),
    ] = None,
    every: Annotated[bool, typer.Option("--all", help="All racks.")] = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Ask a rack, or all of them, to poll the region now.

    Each follows within seconds, four times in a row; after that once a minute.
    """
    if (rack is None) is not every:
        raise Misused("Name one rack, or say --all.")

    async def ask(api: "Api") -> tuple[str, Item]:
        if rack is None:
            return "", (await api.ask("POST", "racks", "poll")).body
        found = await _find(api, rack)
        return str(found.get("name")), (await api.ask("POST", "racks", str(found["id"]), "poll")).body

    name, asked = call(ask)
    if output.show_data(chosen, asked):
        return
    live = asked.get("racks_live", 0)
    if not name:
        output.say(f"{words.counted(live, 'live rack')} {'was' if live == 1 else 'were'} asked to poll now.")
    elif live:
        output.say(f"The rack {name} was asked to poll now; see it with: bootferry rack show {name}")
    else:
        output.say(f"The rack {name} is not live: it polls when it is back.")


def confirm_removal(yes: Yes = False, chosen: Output = Format.TABLE) -> None:
    """Let racks drop images that they hold on to.

    A rack keeps what the manifest takes away, when that is more than half of the images it shows, until an operator
    confirms it. This confirms it for every rack.
    """

    async def look(api: "Api") -> list[dict[str, Any]]:
        return await api.list("racks", limit=WHOLE_PAGE)

    async def act(api: "Api") -> Item:
        return (await api.ask("POST", "manifest", "confirmation")).body

    waiting = [item for item in call(look) if item.get("status") == "waiting_for_operator"]
    for item in waiting:
        output.note(f"{item.get('name')}: {item.get('last_error')}")
    asked = "will drop these images" if waiting else "waits, as far as they have reported; confirm it all the same"
    confirm(f"{words.counted(len(waiting), 'rack') if waiting else 'No rack'} {asked}. Go on?", yes=yes)
    done = call(act)
    if not output.show_data(chosen, done):
        output.say("Confirmed: racks take what the manifest takes away with their next poll.")


async def _find(api: "Api", rack: str) -> Item:
    return pick(await api.list("racks", limit=WHOLE_PAGE), "rack", rack)


def _status(item: Item) -> Cell:
    found = str(item.get("status", ""))
    return _STATUSES.get(found, Cell(found.replace("_", " ").capitalize()))


def state(item: Item) -> Cell:
    """How an image is on a rack, in words; a state nobody here knows is shown as it is."""
    found = str(item.get("state", ""))
    return STATES.get(found, Cell(found.replace("_", " ").capitalize()))


def _lacks(item: Item) -> str:
    return f"{item['images_pending']} of {item.get('images_total')}" if item.get("images_pending") else "-"


def _left(item: Item) -> str:
    return words.size(item["bytes_left"]) if item.get("bytes_left") else "-"
