"""Which racks show which image as published: one rule, in SQL, for lists, counts and single things.

A rack shows an image as the current manifest says when

- it is live: it was heard within three polls (`LIVE_FOR`);
- what it knows is a manifest of ours, of the present epoch (otherwise its state is `ahead`, or `behind`);
- the image says what it says since no later manifest than that (otherwise `behind`);
- it does not report the image as pending (otherwise `pending`).

Racks are counted as a histogram of the serials they know, against the serial since which each image is as it is, less
the racks that report it as pending. The cost grows with racks plus images plus exceptions, never with racks times
images.
"""

from datetime import timedelta

POLL_PERIOD = timedelta(minutes=5)
LIVE_FOR = 3 * POLL_PERIOD
"""A rack unseen for three polls is unreachable."""

AHEAD = "(racks.ahead AND racks.epoch >= region.epoch)"
"""What the rack knows is no manifest of ours. Once a greater epoch has begun, it is merely behind."""

STATE = f"""
    CASE WHEN {AHEAD} THEN 'ahead'
         WHEN racks.epoch <> region.epoch OR published_images.since > racks.serial THEN 'behind'
         WHEN rack_images.image IS NOT NULL THEN 'pending'
         ELSE 'shown'
    END
"""
"""Of one rack and one published image, by the rack's last report; beside `region`, and `rack_images` joined by both."""

COUNTS = """
histogram AS MATERIALIZED (
    SELECT racks.serial, coalesce(racks.last_seen_at > :live_after, false) AS live,
           racks.epoch = (SELECT epoch FROM region) AND NOT racks.ahead AS ours, count(*) AS racks
    FROM racks GROUP BY 1, 2, 3
),
fleet_counts AS (
    SELECT coalesce(sum(racks), 0)::bigint AS racks_total,
           coalesce(sum(racks) FILTER (WHERE live), 0)::bigint AS racks_live
    FROM histogram
),
exceptions AS (
    SELECT rack_images.image, count(*) AS racks
    FROM published_images
    JOIN rack_images USING (image)
    JOIN racks ON racks.id = rack_images.rack_id
    WHERE racks.last_seen_at > :live_after AND racks.epoch = (SELECT epoch FROM region) AND NOT racks.ahead
      AND published_images.since <= racks.serial
    GROUP BY rack_images.image
),
showing AS (
    SELECT published_images.image,
           (coalesce((SELECT sum(racks) FROM histogram WHERE live AND ours AND serial >= published_images.since), 0)
            - coalesce(exceptions.racks, 0))::bigint AS racks
    FROM published_images LEFT JOIN exceptions USING (image)
)
"""
"""CTEs, after `WITH` or a comma: `showing` (image, racks) and `fleet_counts` (racks_total, racks_live). Of one image
alone where a CTE named `published_images` before them leaves only that. Parameter: `live_after`."""
