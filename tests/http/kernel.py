"""A rack's directory with one file for machines, and how they ask for it."""

import os
from pathlib import Path

from rack.tree import Link, Tree
from shared.digest import Sha256
from shared.mark import VERIFIED_AT
from shared.names import RelativePath
from tests.http.fake_region import noise

KERNEL = Path("trees", "1-1-0", "kernel")
CONTENT = noise("kernel", 20_000_000)
GET = b"GET /images/kernel HTTP/1.1\r\nHost: rack\r\n\r\n"
LIVEZ = b"GET /livez HTTP/1.1\r\nHost: rack\r\nConnection: close\r\n\r\n"


def tree_of_one(root: Path) -> Tree:
    """A tree below `root` that has `CONTENT` by the name `kernel`, verified."""
    path = root / KERNEL
    path.parent.mkdir(parents=True)
    path.write_bytes(CONTENT)
    os.utime(path, (VERIFIED_AT, VERIFIED_AT))
    return Tree("1-1-0", {RelativePath("kernel"): Link(Sha256.of(CONTENT), len(CONTENT), "a")})
