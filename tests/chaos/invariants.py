"""What must hold (I1 to I6 of the architecture's list), looked at from outside: the disk, the database, the mirror.

Every check answers sentences, each beginning with the invariant that does not hold; none means that it holds. Nothing
here asks Bootferry's own code what it believes: digests are computed, documents parsed, signatures verified anew.
"""

import base64
import json
from collections.abc import Iterable
from hashlib import sha256
from pathlib import Path
from typing import Any

import asyncpg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from tests.chaos.legit import Legit

Found = list[str]


def digest_of(path: Path) -> str:
    """What a plain file hashes to; "" where there is none."""
    try:
        return "" if path.is_symlink() else sha256(path.read_bytes()).hexdigest()
    except (FileNotFoundError, NotADirectoryError):
        return ""


def stored_path(root: Path, digest: str) -> Path:
    """Where a store on a disk keeps a file."""
    return root / "files" / digest[:2] / digest


# --- the region


async def rows(connection: "asyncpg.Connection[Any]") -> dict[str, tuple[int, object]]:
    """The files that rows say are stored: size, and since when; nothing where there is no such table yet."""
    try:
        found = await connection.fetch("SELECT sha256, size, stored_at FROM files")
    except asyncpg.UndefinedTableError:
        return {}
    return {row["sha256"]: (row["size"], row["stored_at"]) for row in found}


async def region_rows(connection: "asyncpg.Connection[Any]", store: Path) -> Found:
    """I1: each row that says a file is stored has that exact file. May be asked while the region runs."""
    before = await rows(connection)
    doubtful = {
        digest
        for digest, (size, _) in before.items()
        if digest_of(path := stored_path(store, digest)) != digest or path.stat().st_size != size
    }
    if not doubtful:
        return []
    # A file leaves by its row first: what lost its row meanwhile was right to go.
    after = await rows(connection)
    wrong = [digest for digest in sorted(doubtful) if after.get(digest) == before[digest]]
    return [f"I1: the row of {digest[:12]} has no such file ({_seen(store, digest)})" for digest in wrong]


def _seen(store: Path, digest: str) -> str:
    path = stored_path(store, digest)
    return f"{path.stat().st_size} bytes with another digest" if path.exists() else "nothing is there"


async def region_at_rest(connection: "asyncpg.Connection[Any]", store: Path) -> Found:
    """No orphan, nothing in incoming/: for a region that has nothing to do and whose grace is over."""
    known = set(await rows(connection))
    lying = {path.name for path in (store / "files").glob("*/*")}
    leaving = await connection.fetchval("SELECT count(*) FROM leaving_files")
    found = [f"orphan: the region's file {name[:12]} has no row" for name in sorted(lying - known)]
    found += [f"incoming: the region keeps {path.name[:12]}" for path in _lying(store / "incoming")]
    return found + ([f"orphan: {leaving} files of the region still leave"] if leaving else [])


async def held_files(connection: "asyncpg.Connection[Any]") -> Found:
    """A held version has rows for all of its files."""
    missing = await connection.fetch("""
        SELECT DISTINCT items.sha256 FROM items JOIN versions ON versions.id = items.version_id
        WHERE versions.held_at IS NOT NULL AND NOT EXISTS (SELECT FROM files WHERE files.sha256 = items.sha256)
    """)
    return [f"I1: {row['sha256'][:12]} is held, and has no row" for row in missing]


# --- the rack


def signed_manifest(root: Path) -> dict[str, Any] | None:
    """The manifest that a rack keeps, its signature verified; None where there is none. Raises InvalidSignature."""
    try:
        envelope = json.loads((root / "manifest.json").read_bytes())
        region = json.loads((root / "identity" / "region.json").read_bytes())
    except FileNotFoundError:
        return None
    payload = base64.b64decode(envelope["payload"])
    kind = envelope["payloadType"].encode()
    # DSSE, the pre-authentication encoding.
    signed = b"DSSEv1 %d %s %d %s" % (len(kind), kind, len(payload), payload)
    key = region["region_key"]
    public = Ed25519PublicKey.from_public_bytes(base64.urlsafe_b64decode(key + "=" * (-len(key) % 4)))
    public.verify(base64.b64decode(envelope["signatures"][0]["sig"]), signed)
    found: dict[str, Any] = json.loads(payload)
    return found


def tree_names(root: Path) -> dict[str, Path]:
    """What lies below a rack's `current`, by name."""
    current = root / "current"
    return {str(path.relative_to(current)): path for path in current.rglob("*") if path.is_file()}


def rack_tree(root: Path, legit: Legit, *, had_one: bool) -> Found:
    """I2 and I4: what `current` shows are right bytes, no image mixes versions, and it is not empty after the first."""
    names = tree_names(root)
    if not names:
        return ["I4: the rack's tree is empty"] if had_one else []
    found, images = [], dict[str, set[str]]()
    for name, path in names.items():
        digest = digest_of(path)
        if not legit.allows(name, digest):
            found.append(f"I2: {name} of the tree has wrong bytes ({path.stat().st_size} of them)")
        elif not name.startswith("bootloader/"):
            os, arch, _, release, *_ = name.split("/")
            images.setdefault(f"{os}:{release}:{arch}", set()).add(legit.version(name, digest))
    found += [f"I2: {image} mixes {sorted(seen)}" for image, seen in images.items() if len(seen) > 1]
    return found


def rack_equals(root: Path, wanted: dict[str, str]) -> Found:
    """I6: the tree shows exactly these names with these digests."""
    shown = {name: digest_of(path) for name, path in tree_names(root).items()}
    found = [f"I6: {name} is missing" for name in sorted(wanted.keys() - shown.keys())]
    found += [f"I6: {name} is still shown" for name in sorted(shown.keys() - wanted.keys())]
    return found + [f"I6: {name} is not the newest" for name in wanted if shown.get(name, wanted[name]) != wanted[name]]


def rack_at_rest(root: Path) -> Found:
    """No orphan, nothing half done: for a rack whose last poll succeeded and whose grace is over."""
    try:
        manifest = signed_manifest(root)
    except (InvalidSignature, ValueError, KeyError) as error:
        return [f"I2: the rack's manifest does not verify: {error!r}"]
    wanted = {entry["sha256"] for entry in manifest["entries"]} if manifest else set()
    archives = {entry["sha256"] for entry in manifest["entries"] if entry["kind"] == "archive"} if manifest else set()
    lying = {path.name for path in (root / "files").glob("*/*")}
    found = [f"orphan: the rack's file {name[:12]} is in no manifest" for name in sorted(lying - wanted)]
    found += [f"I6: the rack lacks {name[:12]} of its manifest" for name in sorted(wanted - lying)]
    found += [
        f"I1: the rack's file {path.name[:12]} has other bytes"
        for path in (root / "files").glob("*/*")
        if digest_of(path) != path.name
    ]
    found += [f"incoming: the rack keeps {path.name[:12]}" for path in _lying(root / "incoming")]
    trees = {path.name.removesuffix(".json") for path in _lying(root / "trees")}
    current = (root / "current").readlink().name if (root / "current").is_symlink() else ""
    found += [f"orphan: the tree {name} lies here" for name in sorted(trees - {current})]
    unpacked = {path.name.removesuffix(".json") for path in _lying(root / "unpacked")}
    found += [f"orphan: the archive {name[:12]} lies here unpacked" for name in sorted(unpacked - archives)]
    return found + _half_done(root.glob("*.new")) + _half_done(root.glob(".*.new"))


def _half_done(paths: Iterable[Path]) -> Found:
    return [f"orphan: {path.name} was left half done" for path in paths]


def _lying(directory: Path) -> list[Path]:
    return sorted(directory.iterdir()) if directory.is_dir() else []
