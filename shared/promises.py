"""Promises: what Bootferry keeps whatever is configured, and what follows from it. No setting changes these.

- A rack polls its region every five minutes.
- A region syncs with its sources every hour.
"""

from datetime import timedelta

POLL_PERIOD = timedelta(minutes=5)
"""A rack asks its region for the manifest once in each."""

SYNC_PERIOD = timedelta(hours=1)
"""A region looks for new versions once in each."""

LIVE_FOR = 3 * POLL_PERIOD
"""A rack that was not seen for three polls is unreachable; until then it counts as live."""
