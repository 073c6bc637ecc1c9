"""Images and their status, derived from what the selections mean, catalogue, files, imports and reports in one query.

An image is described by its *current* versions: its targets (`region.catalogue.targets`), or what is held where it has
none.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from sqlalchemy import text
from sqlalchemy.ext.asyncio import AsyncConnection

from region.fleet.showing import COUNTS, LIVE_FOR
from shared.errors import NotFound
from shared.names import ImageKey


@dataclass(frozen=True, slots=True)
class Image:
    """One image as operators see it. Sizes in bytes; `progress` in whole percent of what the region has to fetch.

    `vouched` is false for an image of which something is held that no present voucher stands behind; `vouched_by` are
    the signers of what is held.

    `racks_synced` counts live racks that show it as published, `racks_total` all enrolled racks. `error` is the
    sentence of what went wrong last, empty when nothing did; `error_code` its code.
    """

    os: str
    release: str
    arch: str
    title: str
    source_id: int | None
    selected: bool
    status: str
    progress: int
    version: str
    held_version: str
    pinned_version: str | None
    size_bytes: int
    bytes_done: int
    vouched: bool
    vouched_by: Sequence[str]
    racks_synced: int
    racks_live: int
    racks_total: int
    support_eol: str | None
    updated_at: datetime | None
    error_code: str
    error: str

    @property
    def id(self) -> str:
        """`ubuntu:noble:amd64`."""
        return f"{self.os}:{self.release}:{self.arch}"


_CURRENT = """
shown AS (
    SELECT os, release, arch FROM meant
    UNION
    SELECT os, release, arch FROM products
    WHERE kind <> 'bootloader'
      AND EXISTS (SELECT FROM versions WHERE product_id = products.id AND held_at IS NOT NULL)
),
selected AS (
    SELECT meant.os, meant.release, meant.arch,
           (array_agg(source_id ORDER BY sources.priority DESC NULLS LAST))[1] AS source_id
    FROM meant JOIN selections ON selections.id = meant.selection_id
    LEFT JOIN sources ON sources.id = selections.source_id
    GROUP BY meant.os, meant.release, meant.arch
),
listed AS (
    SELECT DISTINCT products.os, products.release, products.arch
    FROM wanted JOIN products
        ON products.source_id = wanted.source_id AND products.os = wanted.os AND products.release = wanted.release
        AND products.arch = wanted.arch AND products.subarch = wanted.kernel AND products.label = wanted.label
    WHERE products.offered
      AND EXISTS (SELECT FROM versions WHERE versions.product_id = products.id AND versions.offered)
),
offered AS (
    SELECT products.os, products.release, products.arch, products.source_id, products.title, products.support_eol,
           versions.id AS version_id, versions.name, versions.held_at
    FROM targets
    JOIN products ON products.id = targets.product_id AND products.kind <> 'bootloader'
    JOIN versions ON versions.id = targets.version_id
),
held AS (
    SELECT products.os, products.release, products.arch, products.source_id, products.title, products.support_eol,
           versions.id AS version_id, versions.name, versions.held_at, versions.vouched_by,
           coalesce(versions.vouched_by && sources.vouchers, false) AS vouched
    FROM products JOIN versions ON versions.product_id = products.id JOIN sources ON sources.id = products.source_id
    WHERE versions.held_at IS NOT NULL AND products.kind <> 'bootloader'
),
current AS (
    SELECT true AS offered, os, release, arch, source_id, title, support_eol, version_id, name, held_at
    FROM offered
    UNION ALL
    SELECT false, os, release, arch, source_id, title, support_eol, version_id, name, held_at FROM held
    WHERE NOT EXISTS (SELECT FROM offered WHERE (offered.os, offered.release, offered.arch)
                                              = (held.os, held.release, held.arch))
),
described AS (
    SELECT os, release, arch, bool_or(offered) AS offered, bool_and(held_at IS NOT NULL) AS held,
           min(source_id) AS source_id, min(title) AS title, min(support_eol) AS support_eol,
           max(name) AS version
    FROM current GROUP BY os, release, arch
),
held_described AS (
    SELECT os, release, arch, max(name) AS held_version, max(held_at) AS updated_at, min(title) AS title,
           bool_and(vouched) AS vouched, min(vouched_by) AS vouched_by
    FROM held GROUP BY os, release, arch
),
needed AS (
    SELECT DISTINCT current.os, current.release, current.arch, items.sha256, items.size
    FROM current JOIN items ON items.version_id = current.version_id
),
sizes AS (
    SELECT needed.os, needed.release, needed.arch, count(*) AS files, sum(needed.size) AS size_bytes,
           coalesce(sum(needed.size) FILTER (WHERE files.sha256 IS NOT NULL), 0) AS stored_bytes
    FROM needed LEFT JOIN files USING (sha256) GROUP BY needed.os, needed.release, needed.arch
)
"""
"""CTEs: what each image consists of now."""

_STATUS = f"""{_CURRENT},
{COUNTS},
readings AS (
    SELECT id, last_read_at IS NOT NULL AS was_read, error_code, error FROM sources WHERE removed_at IS NULL
    UNION ALL
    -- Whichever source wins may offer it: nobody does once all were read.
    SELECT NULL, bool_and(last_read_at IS NOT NULL), (array_agg(error_code ORDER BY error_code = '', priority DESC))[1],
           (array_agg(error ORDER BY error_code = '', priority DESC))[1]
    FROM sources WHERE removed_at IS NULL
),
facts AS (
    SELECT shown.os, shown.release, shown.arch,
           coalesce(described.title, held_described.title, shown.release) AS title,
           coalesce(described.source_id, selected.source_id) AS source_id,
           selected.os IS NOT NULL AS selected, listed.os IS NOT NULL AS listed,
           coalesce(held_described.vouched, true) AS vouched,
           coalesce(held_described.vouched_by, ARRAY[]::text[]) AS vouched_by,
           coalesce(described.offered, false) AS offered,
           coalesce(described.held AND sizes.stored_bytes = sizes.size_bytes, false) AS whole,
           described.version, held_described.held_version, described.support_eol, held_described.updated_at,
           coalesce(sizes.size_bytes, 0) AS size_bytes, coalesce(sizes.stored_bytes, 0) AS stored_bytes,
           coalesce(showing.racks, 0) AS racks_synced, fleet_counts.racks_live, fleet_counts.racks_total,
           latest.state AS import_state, latest.bytes_total AS import_total, latest.bytes_done AS import_done,
           coalesce(latest.error_code, '') AS import_error_code, coalesce(latest.error, '') AS import_error,
           pins.version AS pinned_version, coalesce(readings.was_read, false) AS was_read,
           coalesce(readings.error_code, '') AS source_error_code, coalesce(readings.error, '') AS source_error
    FROM shown
    CROSS JOIN fleet_counts
    LEFT JOIN selected USING (os, release, arch)
    LEFT JOIN listed USING (os, release, arch)
    LEFT JOIN described USING (os, release, arch)
    LEFT JOIN held_described USING (os, release, arch)
    LEFT JOIN sizes USING (os, release, arch)
    LEFT JOIN showing ON showing.image = shown.os || ':' || shown.release || ':' || shown.arch
    LEFT JOIN LATERAL (
        -- By index, image for image: there is a year of imports behind the latest one.
        SELECT imports.state, import_images.bytes_total, import_images.bytes_done, import_images.error_code,
               import_images.error
        FROM import_images JOIN imports ON imports.id = import_images.import_id
        WHERE import_images.os = shown.os AND import_images.release = shown.release
          AND import_images.arch = shown.arch
        ORDER BY import_images.import_id DESC LIMIT 1
    ) AS latest ON true
    LEFT JOIN pins USING (os, release, arch)
    LEFT JOIN readings ON readings.id IS NOT DISTINCT FROM coalesce(described.source_id, selected.source_id)
),
judged AS (
    SELECT facts.*,
        CASE
            WHEN NOT selected THEN 'unselected'
            WHEN whole AND offered AND racks_total = 0 THEN 'stored'
            WHEN whole AND offered AND racks_live > 0 AND racks_synced = racks_live THEN 'synced'
            WHEN whole AND offered THEN 'waiting_for_racks'
            WHEN import_state = 'running' AND import_error = '' THEN 'downloading'
            WHEN NOT offered AND listed THEN 'unvouched'
            WHEN NOT offered AND (held_version IS NOT NULL OR (was_read AND source_error = ''))
                THEN 'unavailable'
            WHEN import_error <> '' AND import_error_code <> 'image_stopped' OR source_error <> '' THEN 'failed'
            ELSE 'queued'
        END AS status
    FROM facts
)
SELECT os, release, arch, title, source_id, selected, status,
    CASE
        WHEN status = 'downloading' THEN
            CASE WHEN import_total > 0 THEN floor(100.0 * import_done / import_total) ELSE 0 END
        WHEN size_bytes > 0 THEN floor(100.0 * stored_bytes / size_bytes)
        ELSE 0
    END::integer AS progress,
    pinned_version, coalesce(version, '') AS version, coalesce(held_version, '') AS held_version,
    size_bytes::bigint AS size_bytes,
    CASE WHEN status = 'downloading' THEN import_done ELSE stored_bytes END::bigint AS bytes_done,
    vouched, vouched_by, racks_synced, racks_live, racks_total, support_eol::text AS support_eol, updated_at,
    CASE WHEN status = 'failed' THEN coalesce(nullif(import_error_code, ''), source_error_code)
         ELSE source_error_code
    END AS error_code,
    CASE WHEN status = 'failed' THEN coalesce(nullif(import_error, ''), source_error) ELSE source_error END AS error
FROM judged
WHERE CAST(:after AS text) IS NULL OR (os || ':' || release || ':' || arch) COLLATE "C" > :after
ORDER BY (os || ':' || release || ':' || arch) COLLATE "C"
LIMIT :limit
"""

_LIST = text(f"WITH {_STATUS}")

_ONLY = """
meant AS (SELECT * FROM meant WHERE (os, release, arch) = (:os, :release, :arch)),
products AS (SELECT * FROM products WHERE (os, release, arch) = (:os, :release, :arch)),
targets AS (SELECT * FROM targets WHERE image = :image),
published_images AS (SELECT * FROM published_images WHERE image = :image)
"""
"""CTEs that stand before their namesakes: after them the same query is about one image and costs as much."""

_ONE = text(f"WITH {_ONLY}, {_STATUS}")


async def list_all(
    connection: AsyncConnection, now: datetime, *, limit: int = 10_000, after: str | None = None
) -> Sequence[Image]:
    """Images that are selected or held, by id, those after the id `after`."""
    rows = await connection.execute(_LIST, {"live_after": now - LIVE_FOR, "after": after, "limit": limit})
    return [Image(**row) for row in rows.mappings()]


async def get(connection: AsyncConnection, key: ImageKey, now: datetime) -> Image:
    """The image. Raises NotFound when it is neither selected nor held."""
    given = {"live_after": now - LIVE_FOR, "after": None, "limit": 1, "image": str(key), **key._asdict()}
    row = (await connection.execute(_ONE, given)).mappings().one_or_none()
    if row is None:
        raise NotFound("selected or held image", key)
    return Image(**row)


@dataclass(frozen=True, slots=True)
class VersionShown:
    """One version of an image, over all its kernels that are selected or held. `size_bytes` counts shared files once.

    Of an image that is not selected all kernels count.
    """

    name: str
    offered: bool
    held: bool
    size_bytes: int


async def versions_of(connection: AsyncConnection, key: ImageKey) -> list[VersionShown]:
    """The versions of an image that are offered or held, newest first."""
    rows = await connection.execute(
        text("""
            WITH wished AS (
                SELECT kernel, label FROM wanted WHERE (os, release, arch) = (:os, :release, :arch)
            ),
            known AS (
                SELECT versions.* FROM versions JOIN products ON products.id = versions.product_id
                WHERE (os, release, arch) = (:os, :release, :arch) AND kind <> 'bootloader'
                  AND (NOT EXISTS (SELECT FROM wished) OR versions.held_at IS NOT NULL
                       OR (subarch, products.label) IN (SELECT kernel, label FROM wished))
            ),
            sizes AS (
                SELECT name, sum(size)::bigint AS size_bytes FROM (
                    SELECT DISTINCT known.name, items.sha256, items.size
                    FROM known JOIN items ON items.version_id = known.id
                ) AS files GROUP BY name
            )
            SELECT name, bool_or(offered) AS offered, bool_and(held_at IS NOT NULL) AS held,
                   min(size_bytes) AS size_bytes
            FROM known JOIN sizes USING (name)
            GROUP BY name ORDER BY name DESC
        """),
        key._asdict(),
    )
    return [VersionShown(**row) for row in rows.mappings()]
