"""Other names of releases: `ubuntu/24.04` is `ubuntu/noble`, by the version that sources give the release.

Such a name begins with a digit. It is resolved once, where it is said: what is selected stays the release that was
meant, whatever a source says of its version later.
"""

from collections import defaultdict
from collections.abc import Collection, Mapping

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from shared.errors import InvalidValue
from shared.names import ImageKey, Name

Said = tuple[str, str]
"""An os, and one of its releases by its name or version."""


async def releases(connection: AsyncConnection, said: Collection[Said]) -> Mapping[Said, str]:
    """The release that each means; what was said itself where nothing is known of it.

    A name means the release of that name, whatever version others have. Raises InvalidValue when several releases have
    the version.
    """
    found = {each: each[1] for each in said}
    numbers = {each for each in said if each[1][:1].isdecimal()}
    if not numbers:
        return found
    rows = await connection.execute(
        text("""
            SELECT DISTINCT os, release, version FROM products
            WHERE kind <> 'bootloader' AND os = ANY(:names) AND version <> ''
              AND EXISTS (SELECT FROM sources WHERE sources.id = source_id AND removed_at IS NULL)
        """),
        {"names": sorted({os for os, _ in numbers})},
    )
    named: set[Said] = set()
    by_version: dict[Said, set[str]] = defaultdict(set)
    for row in rows:
        named.add((row.os, row.release))
        by_version[row.os, row.version].add(row.release)
    for os, number in numbers - named:
        meant = sorted(by_version[os, number])
        if len(meant) > 1:
            why = f"it is the version of {' and '.join(meant)}; name one of them"
            raise InvalidValue("release", f"{os}/{number}", why)
        if meant:
            found[os, number] = meant[0]
    return found


async def image(connection: AsyncConnection, said: ImageKey) -> ImageKey:
    """The image that is meant. Raises InvalidValue."""
    meant = await releases(connection, [(said.os, said.release)])
    return said._replace(release=Name(meant[said.os, said.release]))
