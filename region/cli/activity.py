"""`activity`: who changed what, and from where."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output, words
from region.cli.output import Column, Format
from region.cli.session import Output, call

if TYPE_CHECKING:
    from region.cli.client import Api


def list_recent(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many.")] = 20,
    chosen: Output = Format.TABLE,
) -> None:
    """List who changed what, the newest first. As JSON or YAML, with the state before and after."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("activity", most=limit)

    now = datetime.now(UTC)
    output.show_list(
        chosen,
        call(read),
        [
            Column("WHEN", lambda item: words.ago(item.get("at"), now)),
            Column("WHO", lambda item: str(item.get("who"))),
            Column("FROM", lambda item: str(item.get("address") or "-")),
            Column("WHAT", lambda item: str(item.get("sentence"))),
        ],
        empty="Nobody has changed anything yet.",
    )
