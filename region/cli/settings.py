"""`settings`: what holds for the whole region."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output
from region.cli.exits import Misused
from region.cli.output import Format
from region.cli.session import Output, call

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]


def show(chosen: Output = Format.TABLE) -> None:
    """Show the settings."""

    async def read(api: "Api") -> Item:
        return await api.get("settings")

    _show(chosen, call(read))


def change(
    proxy: Annotated[
        str | None, typer.Option(metavar="URL", help="The way to sources that name no proxy of their own.")
    ] = None,
    no_proxy: Annotated[bool, typer.Option("--no-proxy", help="Reach them directly.")] = False,
    retention_days: Annotated[
        int | None,
        typer.Option(min=1, max=3650, help="How many days finished imports and activity are kept."),
    ] = None,
    chosen: Output = Format.TABLE,
) -> None:
    """Change the settings, and show them."""
    changes: dict[str, Any] = {} if retention_days is None else {"retention_days": retention_days}
    if (proxy is not None and no_proxy) or not (changes or proxy is not None or no_proxy):
        raise Misused("Say one of --proxy URL and --no-proxy, or --retention-days, or both.")
    if proxy is not None or no_proxy:
        changes["proxy"] = proxy or None

    async def save(api: "Api") -> Item:
        return (await api.ask("PATCH", "settings", body=changes)).body

    _show(chosen, call(save))


def _show(chosen: Format, found: Item) -> None:
    days = found.get("retention_days")
    output.show_facts(
        chosen,
        found,
        [
            ("Proxy", str(found.get("proxy") or "none")),
            ("Retention", "unknown" if days is None else f"{days} day{'' if days == 1 else 's'}"),
        ],
    )
