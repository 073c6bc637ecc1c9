"""What a shell may complete an argument to: names that the region has at the moment.

Whoever presses Tab waits: the region has a second and a half to answer. Without an answer, or without a log-in, there
is nothing to suggest, and nothing is said about it.
"""

import io
from collections.abc import Callable, Mapping
from contextlib import redirect_stderr
from typing import TYPE_CHECKING, Any

from region.cli.names import image_of
from region.cli.session import WHOLE_PAGE, call

if TYPE_CHECKING:
    from region.cli.client import Api

LIMIT_S = 1.5

Item = Mapping[str, Any]


def images(incomplete: str) -> list[str]:
    """Images that are selected or held."""
    return _known("images", lambda item: str(image_of(item)), incomplete)


def offers(incomplete: str) -> list[str]:
    """Images that sources offer."""
    return _known("available", lambda item: str(image_of(item)), incomplete)


def selected(incomplete: str) -> list[str]:
    """Images and rules that are selected, as they were said."""
    return _known("selections", lambda item: str(image_of(item)), incomplete)


def racks(incomplete: str) -> list[str]:
    """Names of racks."""
    return _known("racks", lambda item: str(item.get("name")), incomplete, limit=WHOLE_PAGE)


def sources(incomplete: str) -> list[str]:
    """Names of sources; the number of one whose name has a blank, because a shell would take that for two words."""
    return _known("sources", _of_source, incomplete)


def _of_source(item: Item) -> str:
    name = str(item.get("name"))
    return str(item.get("id")) if any(character.isspace() for character in name) else name


def _known(noun: str, name: Callable[[Item], str], incomplete: str, **query: int) -> list[str]:
    async def read(api: "Api") -> list[dict[str, Any]]:
        import asyncio

        async with asyncio.timeout(LIMIT_S):
            return await api.list(noun, **query)

    try:
        with redirect_stderr(io.StringIO()):
            found = [name(item) for item in call(read)]
    except Exception:
        # A shell that completes a word has no place for a complaint.
        return []
    return [each for each in found if each.startswith(incomplete) and each.isprintable()]
