"""Importing: the hourly sync and every other run that brings bytes in.

`clock` says when, `reading` reads a mirror's documents, `plan` decides (pure), `importer` carries it out: `fetching`
brings files by their roads, `holding` has whole versions held, many at a time. `imports` is the leased row that says
how far it is and which process may write, `retries` when a failed one is tried again, `room` what fits. `upkeep`
removes, audits and adopts files, `housekeeping` removes old records.
"""
