"""`storage`: the region's disk."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from region.cli import output, words
from region.cli.output import Format
from region.cli.session import Output, call

if TYPE_CHECKING:
    from region.cli.client import Api


def show(chosen: Output = Format.TABLE) -> None:
    """Show the region's disk: what is held, and what is free."""

    async def read(api: "Api") -> Mapping[str, Any]:
        return await api.get("storage")

    found = call(read)
    output.show_facts(
        chosen,
        found,
        [
            ("Free", words.size(found.get("free_bytes"))),
            ("Disk", words.size(found.get("total_bytes"))),
            ("Held", f"{words.size(found.get('held_bytes'))} in {words.counted(found.get('files', 0), 'file')}"),
        ],
    )
