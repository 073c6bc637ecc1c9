"""`token …`: how people and programs prove who they are to the region."""

from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import TYPE_CHECKING, Annotated, Any

import typer

from region.cli import output, words
from region.cli.lists import Listing, lists
from region.cli.names import pick
from region.cli.output import Cell, Column, Format
from region.cli.session import Output, Yes, call, confirm

if TYPE_CHECKING:
    from region.cli.client import Api

Item = Mapping[str, Any]


class Role(StrEnum):
    """What a token lets somebody do; each role may do what the ones before it may."""

    VIEWER = "viewer"
    OPERATOR = "operator"
    ADMIN = "admin"


@lists()
def list_all() -> Listing:
    """List operators' tokens, without their secrets."""

    async def read(api: "Api") -> list[dict[str, Any]]:
        return await api.list("operator-tokens")

    now = datetime.now(UTC)
    return Listing(
        call(read),
        [
            Column("TOKEN", lambda item: str(item.get("id"))),
            Column("NAME", lambda item: str(item.get("name"))),
            Column("ROLE", lambda item: str(item.get("role"))),
            Column(
                "MADE", lambda item: words.ago(item.get("created_at"), now), key=lambda item: item.get("created_at")
            ),
            Column("EXPIRES", lambda item: _expiry(item, now), key=lambda item: item.get("expires_at")),
            Column(
                "LAST USED",
                lambda item: words.ago(item.get("last_used_at"), now),
                key=lambda item: item.get("last_used_at"),
            ),
        ],
        empty="There is no token.",
    )


def create(
    name: Annotated[str, typer.Argument(metavar="NAME", help="Who will have it; activity shows this name.")],
    role: Annotated[
        Role, typer.Option(metavar="viewer|operator|admin", help="A viewer sees everything and changes nothing.")
    ] = Role.VIEWER,
    days: Annotated[
        float | None, typer.Option(min=0.01, max=36_500, help="How long it works; for ever when left out.")
    ] = None,
    chosen: Output = Format.TABLE,
) -> None:
    """Make a token, and print it: this once."""
    expires_at = None if days is None else datetime.now(UTC) + timedelta(days=days)

    async def make(api: "Api") -> Item:
        wished = {"name": name, "role": role.value} | ({"expires_at": expires_at.isoformat()} if expires_at else {})
        return (await api.ask("POST", "operator-tokens", body=wished)).body

    made = call(make)
    if not output.show_data(chosen, made):
        output.note(f"The token of {name}, a{'' if role is Role.VIEWER else 'n'} {role}; it is not shown again:")
        output.say(str(made.get("token")))


def remove(
    token: Annotated[str, typer.Argument(metavar="TOKEN", help="Its id, or its name where only one has that.")],
    yes: Yes = False,
    chosen: Output = Format.TABLE,
) -> None:
    """Remove a token: whoever has it is locked out at once, log-ins of the page too."""

    async def find(api: "Api") -> Item:
        return pick(await api.list("operator-tokens"), "token", token)

    async def forget(api: "Api") -> None:
        await api.ask("DELETE", "operator-tokens", str(found["id"]))

    found = call(find)
    confirm(f"The token of {found.get('name')} ({found.get('role')}) will not work any more. Remove it?", yes=yes)
    call(forget)
    if not output.show_data(chosen, found):
        output.say(f"The token of {found.get('name')} was removed.")


def _expiry(item: Item, now: datetime) -> str | Cell:
    until = words.moment(item.get("expires_at"))
    if until is None:
        return "never"
    told = words.ago(item["expires_at"], now)
    return Cell(told, "red") if until <= now else told
