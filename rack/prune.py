"""Prune: what neither the manifest nor the tree names is deleted, once it has been so for the grace."""

from collections.abc import Collection, Mapping
from pathlib import Path

from rack import tree as trees
from rack.tree import Tree
from shared.digest import Sha256
from shared.logs import logger
from shared.store.disk import DiskStore
from shared.wire.manifest import Manifest

_log = logger(__name__)


def prune(
    root: Path,
    store: DiskStore,
    manifest: Manifest,
    current: Tree | None,
    since: Mapping[str, float],
    *,
    now: float,
    grace_s: float,
) -> dict[str, float]:
    """Delete files, unpacked archives and trees that nothing names; `now` in seconds since 1970. Blocks.

    `since` says since when each thing is unwanted, and so does the answer, for the next time. Partial files that nobody
    waits for go at once. Raises OSError.
    """
    wanted: set[str] = set(manifest.files())
    shown = {name.archive or name.sha256 for name in current.names.values()} if current else set()
    found = {f"file:{sha256}" for sha256, _ in store.held() if sha256 not in wanted | shown}
    found |= {f"unpacked:{name}" for name in trees.archives_on_disk(root) if name not in wanted | shown}
    found |= {f"tree:{name}" for name in trees.trees_on_disk(root) if not current or name != current.name}
    due, waiting = after_grace(found, since, now, grace_s)
    for thing in due:
        kind, _, name = thing.partition(":")
        if kind == "file":
            store.remove(Sha256(name))
        elif kind == "tree":
            trees.drop_tree(root, name)
        else:
            trees.drop_archive(root, name)
    store.clear_incoming(Sha256(name) for name in wanted)
    if due:
        _log.info("Files that nothing names any more were removed.", action="prune", things=len(due))
    return waiting


def after_grace(
    unwanted: Collection[str], since: Mapping[str, float], now: float, grace_s: float
) -> tuple[set[str], dict[str, float]]:
    """Of the things `unwanted` at `now`: those to be removed, and since when each of the others is unwanted.

    What is wanted again in between starts anew. A clock that was set back starts the grace anew too.
    """
    began = {name: min(since.get(name, now), now) for name in unwanted}
    due = {name for name, moment in began.items() if now - moment >= grace_s}
    return due, {name: moment for name, moment in began.items() if name not in due}
