"""`settings`: what holds for the whole region."""

from collections.abc import Iterable, Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output, suggest, words
from region.cli.exits import Misused
from region.cli.names import pick
from region.cli.output import Cell, Format
from region.cli.plan import DryRun, effects_and_bytes
from region.cli.session import Output, Yes, call, confirm

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]


def show(chosen: Output = Format.TABLE) -> None:
    """Show the settings."""

    async def read(api: "Api") -> tuple[Item, list[dict[str, Any]]]:
        return await api.get("settings"), await api.list("sources")

    found, known = call(read)
    _show(chosen, found, known)


def change(
    proxy: Annotated[
        str | None, typer.Option(metavar="URL", help="The way to sources that name no proxy of their own.")
    ] = None,
    no_proxy: Annotated[bool, typer.Option("--no-proxy", help="Reach them directly.")] = False,
    retention_days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="How many days finished imports and activity are kept."),
    ] = None,
    bootloaders_from: Annotated[
        str | None,
        typer.Option(
            metavar="SOURCE",
            autocompletion=suggest.sources,
            help="The one source that bootloaders come from, its name or number.",
        ),
    ] = None,
    dry_run: DryRun = False,
    yes: Yes = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Change the settings, and show them.

    Before other bootloaders come, those that are added, replaced or withdrawn are shown, and you are asked.
    """
    changes: dict[str, Any] = {} if retention_days is None else {"retention_days": retention_days}
    if (proxy is not None and no_proxy) or not (changes or proxy is not None or no_proxy or bootloaders_from):
        raise Misused(
            "Say one of --proxy URL and --no-proxy, or --retention-days, or --bootloaders-from, or several of them."
        )
    if proxy is not None or no_proxy:
        changes["proxy"] = proxy or None

    async def plan(api: "Api") -> tuple[list[dict[str, Any]], Item, str | None]:
        known = await api.list("sources")
        if bootloaders_from:
            changes["bootloader_source_id"] = int(pick(known, "source", bootloaders_from)["id"])
        answer = await api.ask("PATCH", "settings", body=changes, query={"dry_run": "true"})
        return known, answer.body, answer.etag

    async def save(api: "Api") -> Item:
        headers = {"If-Match": etag} if etag else None
        return (await api.ask("PATCH", "settings", body=changes, headers=headers)).body

    known, planned, etag = call(plan)
    if dry_run:
        if not output.show_data(chosen, planned):
            output.draw_lines(effects_and_bytes(planned))
            output.note("This was a dry run; nothing was changed.")
        return
    output.draw_lines(effects_and_bytes(planned), stderr=chosen is not Format.TABLE)
    if replaced := len(planned.get("bootloaders_change", ())) + len(planned.get("bootloaders_withdraw", ())):
        confirm(f"{words.counted(replaced, 'bootloader')} will be replaced on every rack. Go on?", yes=yes)
    saved = call(save)
    _show(chosen, saved, known)
    if saved.get("import_id") and chosen is Format.TABLE:
        number = saved["import_id"]
        output.say(f"Import {number} brings the bootloaders; see it with: bootferry import show {number}")


def source_of_bootloaders(settings: Item, known: Iterable[Item]) -> str:
    """The name of the source that bootloaders come from; empty when there is none."""
    source_id = settings.get("bootloader_source_id")
    names = {item.get("id"): str(item.get("name")) for item in known}
    return "" if source_id is None else names.get(source_id, f"source {source_id}")


def _show(chosen: Format, found: Item, known: Iterable[Item]) -> None:
    days = found.get("retention_days")
    nowhere = Cell("no source; choose one with: bootferry settings set --bootloaders-from SOURCE", "yellow")
    output.show_facts(
        chosen,
        found,
        [
            ("Proxy", str(found.get("proxy") or "none")),
            ("Retention", "unknown" if days is None else f"{days} day{'' if days == 1 else 's'}"),
            ("Bootloaders come from", source_of_bootloaders(found, known) or nowhere),
        ],
    )
