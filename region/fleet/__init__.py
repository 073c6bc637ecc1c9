"""The fleet: the racks a region knows, and what they report.

`racks` are who they are and what they lack, `reports` takes in what they say, `showing` is the one rule which rack
shows which image, `keys` their public keys in memory, `sightings` when each was heard, `enrolment_tokens` what lets
them in.
"""
