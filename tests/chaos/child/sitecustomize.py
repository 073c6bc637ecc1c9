"""Loaded by Python in the processes of a power-cut run, which puts this directory on PYTHONPATH; see `flushes.py`."""

import os
import sys

if omitted_or_log := (os.environ.get("CHAOS_OMIT_FSYNC", ""), os.environ.get("CHAOS_FSYNC_LOG", "")):
    sys.path.insert(0, os.path.dirname(os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))))  # noqa: PTH100, PTH120
    from tests.chaos import flushes

    flushes.install(*omitted_or_log)
