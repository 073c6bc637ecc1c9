"""An OCI image out of a directory: one layer, the same bytes each time (image-spec 1.1: layer, config and manifest).

Standard library only, and no engine: the result is an image layout in a tar file, which docker, podman and skopeo load.
"""

import gzip
import hashlib
import io
import json
import os
import shutil
import stat
import tarfile
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

MANIFEST_TYPE = "application/vnd.oci.image.manifest.v1+json"
CONFIG_TYPE = "application/vnd.oci.image.config.v1+json"
LAYER_TYPE = "application/vnd.oci.image.layer.v1.tar+gzip"
INDEX_TYPE = "application/vnd.oci.image.index.v1+json"
CHUNK_BYTES = 1 << 20


def write_layer(root: Path, layer: BinaryIO, moment: int) -> None:
    """Write all below `root` as a tar file: in one order, nothing newer than `moment`, owners by number.

    Devices and sockets are left out: the engine makes them.
    """
    seen: dict[tuple[int, int], str] = {}
    with tarfile.open(fileobj=layer, mode="w", format=tarfile.PAX_FORMAT) as archive:
        for path in _below(root):
            status, name = path.lstat(), str(path.relative_to(root))
            entry = tarfile.TarInfo(name)
            entry.uid, entry.gid, entry.mode = status.st_uid, status.st_gid, stat.S_IMODE(status.st_mode)
            entry.mtime = min(int(status.st_mtime), moment)
            if stat.S_ISLNK(status.st_mode):
                entry.type, entry.linkname = tarfile.SYMTYPE, str(path.readlink())
                archive.addfile(entry)
            elif stat.S_ISDIR(status.st_mode):
                entry.type = tarfile.DIRTYPE
                archive.addfile(entry)
            elif stat.S_ISREG(status.st_mode):
                first = seen.setdefault((status.st_dev, status.st_ino), name)
                if first != name:
                    entry.type, entry.linkname = tarfile.LNKTYPE, first
                    archive.addfile(entry)
                    continue
                entry.size = status.st_size
                with path.open("rb") as file:
                    archive.addfile(entry, file)


def write_image(root: Path, into: Path, config: Mapping[str, Any], architecture: str, tag: str, moment: int) -> None:
    """Write the image to the file `into`: all of `root`, run as `config` says (config.md, "config")."""
    plain, packed = into.with_suffix(".layer"), into.with_suffix(".layer.gz")
    try:
        with plain.open("wb") as layer:
            write_layer(root, layer, moment)
        diff_id = _digest(plain)
        with (
            plain.open("rb") as source,
            packed.open("wb") as target,
            gzip.GzipFile(filename="", mode="wb", compresslevel=6, fileobj=target, mtime=0) as squeezed,
        ):
            shutil.copyfileobj(source, squeezed, CHUNK_BYTES)
        digest = _digest(packed)
        blobs: dict[str, bytes | Path] = {digest: packed}
        created = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(moment))
        described = {
            "created": created,
            "architecture": architecture,
            "os": "linux",
            "config": config,
            "rootfs": {"type": "layers", "diff_ids": [diff_id]},
            "history": [{"created": created, "created_by": "make image"}],
        }
        manifest = {
            "schemaVersion": 2,
            "mediaType": MANIFEST_TYPE,
            "config": _document(described, CONFIG_TYPE, blobs),
            "layers": [{"mediaType": LAYER_TYPE, "digest": digest, "size": packed.stat().st_size}],
        }
        entry = _document(manifest, MANIFEST_TYPE, blobs) | {
            "platform": {"architecture": architecture, "os": "linux"},
            # Podman and skopeo go by the one, Docker by the other.
            "annotations": {
                "org.opencontainers.image.ref.name": tag,
                "io.containerd.image.name": f"docker.io/library/{tag}",
            },
        }
        index = {"schemaVersion": 2, "mediaType": INDEX_TYPE, "manifests": [entry]}
        files: dict[str, bytes | Path] = {"oci-layout": b'{"imageLayoutVersion":"1.0.0"}', "index.json": _bytes(index)}
        files |= {f"blobs/{name.replace(':', '/')}": content for name, content in blobs.items()}
        _pack(files, into, moment)
    finally:
        plain.unlink(missing_ok=True)
        packed.unlink(missing_ok=True)


def _document(document: Mapping[str, Any], media_type: str, blobs: dict[str, bytes | Path]) -> dict[str, Any]:
    """Put a document among the blobs; its descriptor."""
    content = _bytes(document)
    digest = f"sha256:{hashlib.sha256(content).hexdigest()}"
    blobs[digest] = content
    return {"mediaType": media_type, "digest": digest, "size": len(content)}


def _bytes(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, sort_keys=True, separators=(",", ":")).encode()


def _pack(files: Mapping[str, bytes | Path], into: Path, moment: int) -> None:
    with tarfile.open(into, "w", format=tarfile.USTAR_FORMAT) as archive:
        for name, content in sorted(files.items()):
            entry = tarfile.TarInfo(name)
            entry.mode, entry.mtime = 0o644, moment
            if isinstance(content, Path):
                entry.size = content.stat().st_size
                with content.open("rb") as file:
                    archive.addfile(entry, file)
            else:
                entry.size = len(content)
                archive.addfile(entry, io.BytesIO(content))


def _below(root: Path) -> Iterator[Path]:
    with os.scandir(root) as entries:
        found = sorted(entries, key=lambda entry: entry.name)
    for entry in found:
        yield Path(entry.path)
        if entry.is_dir(follow_symlinks=False):
            yield from _below(Path(entry.path))


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return f"sha256:{hashlib.file_digest(file, 'sha256').hexdigest()}"
