"""The tree machines boot from: names that link to verified bytes, replaced as a whole by one rename.

    <data_dir>/files, incoming            the store (shared/store/disk.py)
    <data_dir>/unpacked/<sha256>/…        the members of the archive with that digest
    <data_dir>/unpacked/<sha256>.json     their digests and sizes; written last, so it says the directory is whole
    <data_dir>/trees/<epoch>-<serial>-<n>/ubuntu/amd64/ga-24.04/noble/stable/boot-kernel
    <data_dir>/trees/<epoch>-<serial>-<n>.json    every name in it, with digest, size and image; the images' versions
    <data_dir>/current -> trees/<epoch>-<serial>-<n>

Everything below `trees/` is a hard link to a file of the store or of `unpacked/`: a tree costs names only, and a new
one stands complete beside the old one before `current` moves. Every user may read the trees, and nothing beside them.

An image changes as a whole. When a manifest names a version of which some file cannot be had yet, that image keeps the
names it has in the current tree, and every other image moves on; a tree never mixes two versions of one image. The
manifest says which entries are one image: nothing is read out of names, except in trees of before (`_of_before`).
"""

import json
import os
import shutil
import stat
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NamedTuple

from rack.archive import Content, unpack
from shared.digest import Sha256
from shared.disk import read_document, sync_directory, write_whole
from shared.errors import BootferryError, InvalidDocument, InvalidValue, Unavailable
from shared.mark import holds_verified
from shared.names import Name, RelativePath
from shared.store.disk import DiskStore
from shared.wire.manifest import Entry, Kind, Manifest
from shared.wire.messages import encode
from shared.wire.report import UNKNOWN_VERSION

PUBLIC_MODE = 0o755
"""Every directory of a tree has it, whatever the umask: a TFTP server reads the tree as a user of its own."""

TREE_FORMAT = "bootferry-tree:2"
TREE_FORMAT_OF_BEFORE = "bootferry-tree:1"


@dataclass(frozen=True, slots=True)
class Link:
    """One name in a tree: what its bytes are, the image it changes with, the archive it was unpacked from, if any."""

    sha256: Sha256
    size: int
    image: str
    archive: Sha256 | None = None


class Shown(NamedTuple):
    """What a tree shows of an image: the `version` for people, and a digest of the entries, "" where nobody knows."""

    version: str
    content: str


@dataclass(frozen=True, slots=True)
class Tree:
    """A tree on disk: its names, and by image what it shows of each."""

    name: str
    names: Mapping[RelativePath, Link]
    shown: Mapping[str, Shown] = field(default_factory=dict)

    def archives(self) -> set[Sha256]:
        """The archives it shows members of."""
        return {name.archive for name in self.names.values() if name.archive}

    def images(self) -> set[str]:
        """The images it shows."""
        return {name.image for name in self.names.values()}


@dataclass(slots=True)
class Draft:
    """A tree to be: where each name's bytes come from, and which images it carries over from the current tree.

    A source is the store, by digest, or a path. `faults` says why, for those images that stay behind although all their
    files are held. `entire` is true if it shows all of its manifest.
    """

    names: dict[RelativePath, Link] = field(default_factory=dict)
    sources: dict[RelativePath, Sha256 | Path] = field(default_factory=dict)
    shown: dict[str, Shown] = field(default_factory=dict)
    carried: set[str] = field(default_factory=set)
    faults: dict[str, BootferryError] = field(default_factory=dict)

    @property
    def entire(self) -> bool:
        return not self.carried


def shown_by(entries: Sequence[Entry]) -> Shown:
    """What a tree shows of an image that has these entries. Its version is the newest of theirs."""
    content = [(entry.path, entry.kind, entry.sha256, entry.size) for entry in entries]
    return Shown(max(entry.version for entry in entries) or UNKNOWN_VERSION, Sha256.of(encode(content)))


def tree_path(root: Path, tree: Tree, path: str) -> Path:
    """Where a name of `tree` is on disk."""
    return root / "trees" / tree.name / path


def unpacked_path(root: Path, archive: Sha256) -> Path:
    """Where the members of an archive are on disk."""
    return root / "unpacked" / archive


def plan(
    root: Path,
    manifest: Manifest,
    held: Collection[Sha256],
    unpacked: Mapping[Sha256, Mapping[RelativePath, Content]],
    current: Tree | None,
) -> Draft:
    """The best tree for `manifest` out of what is `held` and `unpacked`; touches no disk.

    Raises InvalidDocument when two images claim one name.
    """
    draft = Draft()
    for image, entries in manifest.images().items():
        whole = all(entry.sha256 in (held if entry.kind is Kind.FILE else unpacked) for entry in entries)
        try:
            names = _names(root, image, entries, unpacked) if whole else None
        except InvalidDocument as error:
            draft.faults[image] = error
            names = None
        if names is None:
            draft.carried.add(image)
            names = _carried(root, image, current)
            if current and image in current.shown:
                draft.shown[image] = current.shown[image]
        else:
            draft.shown[image] = shown_by(entries)
        for path, (name, source) in names.items():
            if path in draft.names:
                raise InvalidDocument("The manifest", f"two images claim the name {path}")
            draft.names[path], draft.sources[path] = name, source
    _refuse_nesting(draft.names)
    return draft


def _names(
    root: Path,
    image: str,
    entries: Iterable[Entry],
    unpacked: Mapping[Sha256, Mapping[RelativePath, Content]],
) -> dict[RelativePath, tuple[Link, Sha256 | Path]]:
    """Every name of one image. Where two archives share a directory and bring the same name, the later one has it."""
    names: dict[RelativePath, tuple[Link, Sha256 | Path]] = {}
    for entry in entries:
        if entry.kind is Kind.FILE:
            names[entry.path] = Link(entry.sha256, entry.size, image), entry.sha256
            continue
        for member, content in unpacked[entry.sha256].items():
            path = RelativePath(f"{entry.path}/{member}")
            source = unpacked_path(root, entry.sha256) / member
            names[path] = Link(content.sha256, content.size, image, entry.sha256), source
    _refuse_nesting(names)
    return names


def _carried(root: Path, image: str, current: Tree | None) -> dict[RelativePath, tuple[Link, Sha256 | Path]]:
    if current is None:
        return {}
    return {path: (name, tree_path(root, current, path)) for path, name in current.names.items() if name.image == image}


def _refuse_nesting(names: Collection[RelativePath]) -> None:
    directories = {path[:index] for path in names for index, letter in enumerate(path) if letter == "/"}
    if clash := directories.intersection(names):
        raise InvalidDocument("The manifest", f"{min(clash)} is both a file and a directory")


def advance(
    root: Path, store: DiskStore, manifest: Manifest, current: Tree | None
) -> tuple[Tree | None, dict[str, BootferryError]]:
    """The best tree for `manifest` that the disk allows now; it is what `current` points at when this returns. Blocks.

    Also mends the tree: a name whose link is gone is linked again once its bytes are held. The errors say, by image,
    why it stays behind although its files are held. Raises InvalidDocument, Unavailable, OSError; the old tree stays.
    """
    held = {sha256 for sha256, size in manifest.files().items() if store.has(sha256, size)}
    unpacked: dict[Sha256, Mapping[RelativePath, Content]] = {}
    faults: dict[str, BootferryError] = {}
    for entry in manifest.entries:
        if entry.kind is Kind.ARCHIVE and entry.sha256 in held and entry.sha256 not in unpacked:
            try:
                unpacked[entry.sha256] = _unpacked(root, store, entry)
            except InvalidDocument as error:
                faults[entry.image] = error
    draft = plan(root, manifest, held, unpacked, current)
    faults |= draft.faults
    if not draft.names and not draft.entire:
        return current, faults
    if current and draft.names == current.names and not _mendable(root, draft, current):
        _point_again(root, current)
        return _said_anew(root, current, draft.shown), faults
    return _build(root, store, draft, manifest.order), faults


def behind(root: Path, manifest: Manifest, current: Tree | None) -> dict[str, str]:
    """The images that machines do not get as `manifest` says, and the version of each that they get ("": none). Blocks.

    An image with a name whose bytes are gone or touched is among them, whatever its version.
    """
    broken = {current.names[path].image for path in holes(root, current)} if current else set()
    shown = current.shown if current else {}
    return {
        image: shown[image].version if image in shown else ""
        for image, entries in manifest.images().items()
        if image in broken or image not in shown or shown[image].content != shown_by(entries).content
    }


def holes(root: Path, tree: Tree) -> list[RelativePath]:
    """The names of `tree` whose bytes are gone or touched. Blocks."""
    return [path for path, name in tree.names.items() if not holds_verified(tree_path(root, tree, path), name.size)]


def _mendable(root: Path, draft: Draft, current: Tree) -> bool:
    return any(draft.names[path].image not in draft.carried for path in holes(root, current))


def _unpacked(root: Path, store: DiskStore, entry: Entry) -> Mapping[RelativePath, Content]:
    """The members of a held archive, unpacked now unless they lie here whole."""
    into = unpacked_path(root, entry.sha256)
    listing = into.with_name(f"{entry.sha256}.json")
    try:
        found = {
            RelativePath(path): Content(Sha256(sha256), int(size))
            for path, (sha256, size) in read_document(listing).items()
        }
        if all(holds_verified(into / path, content.size) for path, content in found.items()):
            return found
    except (FileNotFoundError, InvalidDocument, InvalidValue, ValueError, TypeError):
        pass
    listing.unlink(missing_ok=True)
    packed = store.open(entry.sha256, entry.size)
    if packed is None:
        raise Unavailable(f"The file {entry.sha256} is not here any longer")
    with packed:
        found = unpack(packed, into, origin=f"The archive {entry.path} ({entry.sha256[:12]}…)")
    write_whole(listing, json.dumps(found, separators=(",", ":")).encode())
    return found


def _build(root: Path, store: DiskStore, draft: Draft, order: tuple[int, int]) -> Tree:
    """Make the tree, then point `current` at it. Raises Unavailable when a file went away meanwhile; OSError."""
    trees = root / "trees"
    trees.mkdir(exist_ok=True)
    tree = Tree(_free_name(trees, order), draft.names, draft.shown)
    staging = trees / f"{tree.name}.new"
    shutil.rmtree(staging, ignore_errors=True)
    staging.mkdir()
    made = {staging}
    for path, source in draft.sources.items():
        target = staging / path
        if target.parent not in made:
            target.parent.mkdir(parents=True)
            made.update(parent for parent in target.parents if parent.is_relative_to(staging))
        try:
            if isinstance(source, Sha256):
                store.link(source, target)
            else:
                target.hardlink_to(source)
        except FileNotFoundError as error:
            # A carried image may have lost a file already; one that is new must be whole.
            if draft.names[path].image not in draft.carried:
                raise Unavailable(f"The file {path} is not on this rack's disk as it was verified") from error
    for directory in made:
        directory.chmod(PUBLIC_MODE)
        sync_directory(directory)
    staging.rename(trees / tree.name)
    write_whole(trees / f"{tree.name}.json", _encode(tree))
    _point(root / "current", f"trees/{tree.name}")
    return tree


def _said_anew(root: Path, tree: Tree, shown: Mapping[str, Shown]) -> Tree:
    """The same tree, which its document calls by other versions where `shown` does: the names need no moving for it."""
    if shown == tree.shown:
        return tree
    tree = replace(tree, shown=shown)
    write_whole(root / "trees" / f"{tree.name}.json", _encode(tree))
    return tree


def _free_name(trees: Path, order: tuple[int, int]) -> str:
    stem = f"{order[0]}-{order[1]}"
    taken = {entry.name.removesuffix(".json") for entry in trees.iterdir()}
    return next(name for count in range(len(taken) + 1) if (name := f"{stem}-{count}") not in taken)


def _point_again(root: Path, tree: Tree) -> None:
    """Put `current` back where somebody has removed or moved it: machines that use TFTP go by it."""
    link, target = root / "current", f"trees/{tree.name}"
    if not link.is_symlink() or str(link.readlink()) != target:
        _point(link, target)


def _point(link: Path, target: str) -> None:
    staged = link.with_name(f"{link.name}.new")
    staged.unlink(missing_ok=True)
    staged.symlink_to(target)
    staged.replace(link)
    sync_directory(link.parent)


def _encode(tree: Tree) -> bytes:
    names = {
        path: [name.sha256, name.size, name.image, *([name.archive] if name.archive else [])]
        for path, name in tree.names.items()
    }
    images = {image: shown._asdict() for image, shown in tree.shown.items()}
    document = {"format": TREE_FORMAT, "images": images, "names": names}
    return json.dumps(document, separators=(",", ":")).encode()


def load_current(root: Path) -> Tree | None:
    """The tree `current` points at, or None when there is none that can be read. Blocks."""
    try:
        name = Name((root / "current").readlink().name)
        document = read_document(root / "trees" / f"{name}.json")
        if document["format"] == TREE_FORMAT_OF_BEFORE:
            document = _of_before(document)
        if document["format"] != TREE_FORMAT or not (root / "trees" / name).is_dir():
            return None
        names = {RelativePath(path): _name(*fields) for path, fields in document["names"].items()}
        shown = {
            str(image): Shown(str(said["version"]), str(said["content"])) for image, said in document["images"].items()
        }
        return Tree(name, names, shown)
    except (OSError, InvalidDocument, InvalidValue, KeyError, TypeError, ValueError, AttributeError):
        return None


def _of_before(document: Mapping[str, Any]) -> dict[str, Any]:
    """The document of a tree of format 1, as one of now: images are called as manifests call them.

    They were called by their directory, with `*` for the kernel: `ubuntu/amd64/*/noble/stable` is `ubuntu:noble:amd64`,
    `bootloader/uefi/amd64` is `bootloader:uefi:amd64`. Labels of one release are one image now. Nobody said versions.
    """
    names = {}
    for path, (sha256, size, image, *archive) in document["names"].items():
        parts = image.split("/")
        if len(parts) == 5 and parts[2] == "*":
            parts = [parts[0], parts[3], parts[1]]
        names[path] = [sha256, size, ":".join(parts), *archive]
    images = {image: {"version": UNKNOWN_VERSION, "content": ""} for _, _, image, *_ in names.values()}
    return {"format": TREE_FORMAT, "images": images, "names": names}


def _name(sha256: str, size: int, image: str, archive: str | None = None) -> Link:
    return Link(Sha256(sha256), int(size), str(image), Sha256(archive) if archive else None)


def clear_unfinished(root: Path) -> None:
    """Drop what a process that ended in the middle has left half built, and let all into the trees. Blocks.

    Trees of 0.1 let nobody in but the rack itself.
    """
    for directory in (root / "trees", root / "unpacked"):
        directory.mkdir(parents=True, exist_ok=True)
        for entry in directory.iterdir():
            pair = entry.with_name(f"{entry.name}.json") if entry.is_dir() else entry.with_suffix("")
            if not pair.exists() or entry.name.endswith(".new"):
                _drop(entry)
    for name, _, _ in os.walk(root / "trees"):
        directory = Path(name)
        if stat.S_IMODE(directory.stat().st_mode) != PUBLIC_MODE:
            directory.chmod(PUBLIC_MODE)


def trees_on_disk(root: Path) -> set[str]:
    """The names of all trees, `current` or not. Blocks."""
    return {entry.name for entry in (root / "trees").iterdir() if entry.is_dir()}


def archives_on_disk(root: Path) -> set[str]:
    """The digests of all archives that lie here unpacked. Blocks."""
    return {entry.name for entry in (root / "unpacked").iterdir() if entry.is_dir()}


def drop_tree(root: Path, name: str) -> None:
    """Remove a tree that is not `current`. Requests that have opened its files end with their bytes. Blocks."""
    _drop(root / "trees" / f"{name}.json")
    _drop(root / "trees" / name)


def drop_archive(root: Path, archive: str) -> None:
    """Remove the unpacked members of an archive. Blocks."""
    _drop(root / "unpacked" / f"{archive}.json")
    _drop(root / "unpacked" / archive)


def _drop(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path, ignore_errors=True)
    else:
        path.unlink(missing_ok=True)
