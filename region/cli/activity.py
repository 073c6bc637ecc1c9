"""`activity`: who changed what, and from where."""

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import words
from region.cli.lists import Listing, lists
from region.cli.output import Column
from region.cli.session import call

if TYPE_CHECKING:
    from region.cli.client import Api


@lists()
def list_recent(
    limit: Annotated[int, typer.Option("--limit", "-n", min=1, max=10_000, help="How many.")] = 20,
) -> Listing:
    """List who changed what, the newest first. As JSON or YAML, with the state before and after."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("activity", most=limit)

    now = datetime.now(UTC)
    return Listing(
        call(read),
        [
            Column("WHEN", lambda item: words.ago(item.get("at"), now), key=lambda item: item.get("at")),
            Column("WHO", lambda item: str(item.get("who"))),
            Column("FROM", lambda item: str(item.get("address") or "-")),
            Column("WHAT", lambda item: words.slashed(str(item.get("sentence")))),
            Column("ABOUT", lambda item: words.slashed(str(item.get("subject") or "-")), wide=True),
        ],
        empty="Nobody has changed anything yet.",
        name=lambda item: str(item.get("id")),
    )
