"""`sync`, `stop`, `imports`, `import show`, `auto-sync`: the runs that bring images in."""

from collections.abc import Mapping
from datetime import UTC, datetime
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output, suggest, words
from region.cli.exits import Failed, Misused
from region.cli.lists import Listing, lists
from region.cli.names import Image, parse_image, shown
from region.cli.output import Cell, Column, Format
from region.cli.session import Awaited, Output, Wait, call

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]

_STATES = {
    "queued": Cell("Queued", "yellow"),
    "running": Cell("Running", "cyan"),
    "succeeded": Cell("Succeeded", "green"),
    "failed": Cell("Failed", "red"),
    "cancelled": Cell("Stopped", "yellow"),
}
_TRIGGERS = {
    "schedule": "the hourly sync",
    "healing": "a damaged file",
    "retry": "another attempt",
    "selection": "a selection by ",
}


class Switch(StrEnum):
    """The two positions of the switch."""

    ON = "on"
    OFF = "off"


def sync(
    images: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="[IMAGE]...",
            autocompletion=suggest.images,
            help="Such as ubuntu/noble/amd64; all that are selected when left out.",
        ),
    ] = None,
    wait: Wait = Awaited.NOTHING,
    chosen: Output = Format.TABLE,
) -> None:
    """Bring images up to date now.

    Reads every source, fetches what is new and deletes what is no longer selected. A run that waits already takes this
    wish in: asking twice is one import.
    """
    wanted = [parse_image(text).id for text in images or ()]

    async def start(api: "Api") -> Item:
        return (await api.ask("POST", "imports", body={"images": wanted} if wanted else None)).body

    run = call(start)
    if wait:
        wait_for(run["id"], wait, chosen)
    elif not output.show_data(chosen, run):
        output.say(f"Import {run['id']} is {_state(run).text.lower()}; see it with: bootferry import show {run['id']}")


def wait_for(import_id: int, awaited: int, chosen: Format) -> None:
    """Watch an import to its end and tell how it ended; then wait for the racks, where they are awaited.

    Raises Failed unless it succeeded, and when a rack stays unable to show it.
    """

    async def watch(api: "Api") -> Item:
        from region.cli.follow import follow, watcher

        with watcher() as watching:
            return await follow(api, import_id, watching)

    run = call(watch)
    if not output.show_data(chosen, run):
        output.say(_summary(run))
    if run.get("state") != "succeeded":
        code = run.get("error_code") or str(run.get("state"))
        raise Failed(code, str(run.get("error") or f"Import {import_id} {_state(run).text.lower()}."))
    if awaited >= Awaited.RACKS:
        wait_for_racks(run)


def wait_for_racks(run: Item) -> None:
    """Wait until every live rack shows what this import brought. Raises Failed when one stays unable to."""

    async def watch(api: "Api") -> None:
        from region.cli.follow import until_racks

        await until_racks(api, frozenset(run.get("images") or ()), output.note)

    call(watch)


def _scope(run: Item) -> str:
    match run.get("scope"):
        case None:
            return "all that is selected"
        case []:
            return (
                f"nothing: source {run['source_id']} is read" if run.get("source_id") else "nothing: sources are read"
            )
        case images:
            return ", ".join(map(shown, images))


def _summary(run: Item) -> str:
    number, images = run.get("id"), run.get("images") or {}
    begun = f"Import {number} {_state(run).text.lower()}"
    if run.get("scope") == []:
        return f"{begun}: what is offered is known now."
    if not images:
        return f"{begun}: there was nothing to fetch."
    took = _took(run)
    return f"{begun}: {words.size(run.get('bytes_done'))} fetched{f' in {took}' if took else ''}."


def stop(
    what: Annotated[
        str | None,
        typer.Argument(
            metavar="[IMPORT|IMAGE]",
            autocompletion=suggest.images,
            help="The number of an import, or one image of those under way; all imports when left out.",
        ),
    ] = None,
    chosen: Output = Format.TABLE,
) -> None:
    """Stop the import that runs, and the one that waits; or one image of them. What has arrived is kept."""
    if what is not None and not what.isascii():
        raise Misused("Name an import by its number, or an image such as ubuntu/noble/amd64.")
    if what is not None and not what.isdigit():
        _stop_image(parse_image(what), chosen)
        return
    number = None if what is None else int(what)

    async def cancel(api: "Api") -> list[Item]:
        under_way = (
            [item["id"] for item in await api.list("imports", most=10) if item.get("state") in ("queued", "running")]
            if number is None
            else [number]
        )
        # The waiting one first: it must not begin when the running one ends.
        return [(await api.ask("POST", "imports", str(found), "cancel")).body for found in sorted(under_way)[::-1]]

    stopped = call(cancel)
    if output.show_data(chosen, stopped):
        return
    for run in stopped:
        ended = run.get("state") == "cancelled"
        output.say(f"Import {run.get('id')} {'was stopped' if ended else 'will stop within seconds'}.")
    if not stopped:
        output.say("No import runs or waits.")


def _stop_image(image: Image, chosen: Format) -> None:
    async def cancel(api: "Api") -> list[Item]:
        return [
            (await api.ask("POST", "imports", str(item["id"]), "images", image.id, "cancel")).body
            for item in await api.list("imports", most=10)
            if item.get("state") in ("queued", "running")
        ]

    stopped = call(cancel)
    if output.show_data(chosen, stopped):
        return
    for run in stopped:
        output.say(f"{image} will stop within seconds in import {run.get('id')}; the next sync goes on with it.")
    if not stopped:
        output.say("No import runs or waits.")


@lists(_STATES, "state")
def list_recent(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many.")] = 20,
) -> Listing:
    """List imports, the newest first."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("imports", most=limit)

    found, now = call(read), datetime.now(UTC)
    latest = found[0] if found else {}
    return Listing(
        found,
        [
            Column("IMPORT", lambda item: str(item.get("id")), right=True, key=lambda item: item.get("id")),
            Column("STATE", _state),
            Column("STARTED BY", _origin),
            Column(
                "WHEN", lambda item: words.ago(item.get("requested_at"), now), key=lambda item: item.get("requested_at")
            ),
            Column("TOOK", _took, key=_took_s),
            Column("FETCHED", _fetched, right=True, key=lambda item: item.get("bytes_done")),
            Column("ERROR", lambda item: str(item.get("error_code") or "-"), wide=True),
        ],
        empty="There has been no import yet; begin one with: bootferry sync",
        notes=lambda _: [f"\nImport {latest.get('id')}: {latest['error']}"] if latest.get("error") else [],
    )


def show(
    number: Annotated[int, typer.Argument(metavar="IMPORT", help="Its number.")],
    wait: Wait = Awaited.NOTHING,
    chosen: Output = Format.TABLE,
) -> None:
    """Show one import, with its images."""
    if wait:
        wait_for(number, wait, chosen)
        return

    async def read(api: "Api") -> Item:
        return await api.get("imports", str(number))

    run, now = call(read), datetime.now(UTC)
    output.show_facts(
        chosen,
        run,
        [
            ("Import", str(run.get("id"))),
            ("State", Cell("Stopping", "yellow") if _stopping(run) else _state(run)),
            ("Started by", _origin(run)),
            ("Of", _scope(run)),
            ("Requested", words.when(run.get("requested_at"), now)),
            ("Finished", words.when(run["finished_at"], now) if run.get("finished_at") else ""),
            ("Took", _took(run)),
            ("Fetched", _fetched(run)),
            ("Error", Cell(words.slashed(str(run.get("error") or "")), "red")),
            ("Tries again", words.when(run["retry_at"], now) if run.get("retry_at") else ""),
        ],
    )
    images = run.get("images")
    if chosen is Format.TABLE and images:
        rows = [{"image": shown(image), **state} for image, state in sorted(images.items())]
        errors = [Column("ERROR", lambda row: Cell(words.slashed(str(row.get("error") or "")), "red"))]
        output.say("")
        output.table(
            rows,
            [
                Column("IMAGE", lambda row: row["image"]),
                Column("FETCHED", lambda row: words.size(row.get("bytes_done")), right=True),
                Column("OF", lambda row: words.size(row.get("bytes_total")), right=True),
                *(errors if any(row.get("error") for row in rows) else []),
            ],
        )


def auto_sync(
    switch: Annotated[Switch | None, typer.Argument(metavar="[on|off]", help="Left out, it stays as it is.")] = None,
    every: Annotated[
        int | None,
        typer.Option(min=5, max=10_080, metavar="MINUTES", help="How often it runs, at least every 5 minutes."),
    ] = None,
    chosen: Output = Format.TABLE,
) -> None:
    """Show the region's hourly sync, switch it on or off, or say how often it runs.

    Racks poll every 5 minutes whatever this says.
    """
    changes: dict[str, Any] = {} if switch is None else {"enabled": switch is Switch.ON}
    changes |= {} if every is None else {"interval_seconds": every * 60}

    async def change(api: "Api") -> Item:
        if not changes:
            return await api.get("sync")
        return (await api.ask("PATCH", "sync", body=changes)).body

    found, now = call(change), datetime.now(UTC)
    if output.show_data(chosen, found):
        return
    period = _period(found.get("interval_seconds", 3600))
    last = f"it ran {words.ago(found['last_run_at'], now)}" if found.get("last_run_at") else "it has never run"
    if found.get("enabled"):
        due = words.moment(found.get("next_run_at"))
        following = "now" if due is None or due <= now else words.ago(found["next_run_at"], now)
        output.say(f"Automatic sync is on, every {period}: {last} and is due {following}.")
    else:
        output.say(f"Automatic sync is off: {last}.")


def _period(seconds: int) -> str:
    """`hour`, `90 minutes`, `2 days`: in the largest unit that it is whole in."""
    length, unit = next(
        (length, unit)
        for length, unit in ((86_400, "day"), (3600, "hour"), (60, "minute"), (1, "second"))
        if seconds % length == 0
    )
    return words.counted(seconds // length, unit).removeprefix("1 ")


def _state(run: Item) -> Cell:
    state = str(run.get("state", ""))
    return _STATES.get(state, Cell(state.replace("_", " ").capitalize()))


def _stopping(run: Item) -> bool:
    return bool(run.get("cancel_requested")) and run.get("state") == "running"


def _origin(run: Item) -> str:
    by, trigger = str(run.get("requested_by") or ""), str(run.get("trigger") or "")
    told = _TRIGGERS.get(trigger, "")
    return f"{told}{by}" if trigger == "selection" else told or by or trigger


def _took_s(run: Item) -> float | None:
    begun, ended = words.moment(run.get("started_at")), words.moment(run.get("finished_at"))
    return (ended - begun).total_seconds() if begun and ended else None


def _took(run: Item) -> str:
    seconds = _took_s(run)
    return "" if seconds is None else words.span(seconds)


def _fetched(run: Item) -> str:
    done, total = run.get("bytes_done"), run.get("bytes_total")
    return words.size(done) if done == total else f"{words.size(done)} of {words.size(total)}"
