"""Belief: what a rack believes, in one place. Whoever shows, serves or reports it reads it here.

The poll writes it; nobody else does.
"""

from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime

from rack.tree import Tree
from shared.digest import Sha256
from shared.errors import BootferryError
from shared.wire.manifest import Manifest


@dataclass(slots=True)
class Belief:
    """What this rack believes. Sizes in bytes."""

    manifest: Manifest | None = None
    tree: Tree | None = None
    held: frozenset[Sha256] = frozenset()
    bytes_left: int = 0
    bytes_free: int = 0
    last_poll_at: datetime | None = None
    last_error: BootferryError | None = None
    polls: Counter[str] = field(default_factory=Counter)
    """How polls ended: `ok`, or the code of the first error."""
