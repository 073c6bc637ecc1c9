"""The two messages between a region and its racks: the Manifest down, the Report up.

A Manifest is JSON, carried in a signed envelope (`shared.signing`):

    {"format": "bootferry-manifest:1", "epoch": 1789000000, "serial": 7, "created_at": "2026-07-01T00:00:00+00:00",
     "entries": [{"path": "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel", "kind": "file", "sha256": "…", "size": 1},
                 {"path": "bootloader/uefi/amd64", "kind": "archive", "sha256": "…", "size": 2}, …]}

`path` is below the rack's tree. An `archive` is a tar file unpacked into the directory `path`; several archives may
share one directory. A reader ignores fields it does not know, so that a later region can say more.

A Report is JSON in a request that the rack's key has signed: what the rack holds, not what it was told to hold.
"""

import json
import re
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from enum import StrEnum
from typing import Any

from shared.digest import Sha256
from shared.errors import InvalidDocument, InvalidValue
from shared.names import RelativePath

MANIFEST_TYPE = "application/vnd.bootferry.manifest+json"
MANIFEST_FORMAT = "bootferry-manifest:1"
MAX_MANIFEST_BYTES = 64 * 1024 * 1024
MAX_REPORT_BYTES = 8 * 1024 * 1024


class Kind(StrEnum):
    """What a rack does with an entry's bytes."""

    FILE = "file"
    ARCHIVE = "archive"


@dataclass(frozen=True, slots=True)
class Entry:
    """One name in a rack's tree and the file it stands for; `size` in bytes."""

    path: RelativePath
    kind: Kind
    sha256: Sha256
    size: int


@dataclass(frozen=True, slots=True)
class Manifest:
    """What a region wants its racks to hold.

    A Manifest that exists is consistent: no two files share a path, no file is a directory of another entry, and one
    digest has one size. `(epoch, serial)` orders manifests of one region; see `order`.
    """

    epoch: int
    serial: int
    created_at: datetime
    entries: tuple[Entry, ...]

    def __post_init__(self) -> None:
        sizes: dict[Sha256, int] = {}
        files: set[str] = set()
        directories: set[str] = set()
        for entry in self.entries:
            if sizes.setdefault(entry.sha256, entry.size) != entry.size:
                raise InvalidDocument("The manifest", f"{entry.sha256} has two sizes")
            parents = entry.path.split("/")
            depth = len(parents) - (entry.kind is Kind.FILE)
            directories.update("/".join(parents[: index + 1]) for index in range(depth))
            if entry.kind is Kind.FILE:
                if entry.path in files:
                    raise InvalidDocument("The manifest", f"{entry.path} is named twice")
                files.add(entry.path)
        if clash := files & directories:
            raise InvalidDocument("The manifest", f"{min(clash)} is both a file and a directory")

    @property
    def order(self) -> tuple[int, int]:
        """Compares manifests of one region: the greater is the newer. What a rack has accepted never falls (I3)."""
        return (self.epoch, self.serial)

    def files(self) -> dict[Sha256, int]:
        """The distinct files named, digest to size in bytes."""
        return {entry.sha256: entry.size for entry in self.entries}

    def encode(self) -> bytes:
        """The bytes to sign; equal manifests give equal bytes."""
        return json.dumps(
            {
                "format": MANIFEST_FORMAT,
                "epoch": self.epoch,
                "serial": self.serial,
                "created_at": self.created_at.astimezone(UTC).isoformat(),
                "entries": [asdict(entry) for entry in self.entries],
            },
            separators=(",", ":"),
        ).encode()

    @classmethod
    def parse(cls, payload: bytes) -> "Manifest":
        """The manifest in `payload`, whose signature has been verified before. Raises InvalidDocument."""
        document = _json_object("The manifest", payload, MAX_MANIFEST_BYTES)
        if document.get("format") != MANIFEST_FORMAT:
            raise InvalidDocument("The manifest", f"its format is {document.get('format')!r}, not {MANIFEST_FORMAT!r}")
        try:
            return cls(
                epoch=_whole(document, "epoch"),
                serial=_whole(document, "serial"),
                created_at=_moment(document, "created_at"),
                entries=tuple(
                    Entry(
                        path=RelativePath(entry["path"]),
                        kind=Kind(entry["kind"]),
                        sha256=Sha256(entry["sha256"]),
                        size=_whole(entry, "size"),
                    )
                    for entry in document["entries"]
                ),
            )
        except (KeyError, TypeError, ValueError, InvalidValue) as error:
            raise InvalidDocument("The manifest", _reason(error)) from error


@dataclass(frozen=True, slots=True)
class Report:
    """What a rack says it holds.

    `sequence` rises with every report of a rack (milliseconds since 1970), so that an old one cannot replace a newer.
    `epoch` and `serial` name the manifest whose tree the rack serves (0, 0 before the first). `held` are the files that
    are whole in its store. `bytes_left` and `bytes_free` in bytes. `error_code` and `error` are empty when all is
    well. `address` is where machines reach the rack, as `host:port`.
    """

    sequence: int
    version: str
    epoch: int
    serial: int
    held: frozenset[Sha256]
    bytes_left: int
    bytes_free: int
    error_code: str = ""
    error: str = ""
    address: str = ""

    def encode(self) -> bytes:
        """The body of the request."""
        return json.dumps(asdict(self) | {"held": sorted(self.held)}, separators=(",", ":")).encode()

    @classmethod
    def parse(cls, body: bytes) -> "Report":
        """The report in `body`. Raises InvalidDocument."""
        document = _json_object("The report", body, MAX_REPORT_BYTES)
        try:
            return cls(
                sequence=_whole(document, "sequence"),
                version=_text(document, "version", 64),
                epoch=_whole(document, "epoch"),
                serial=_whole(document, "serial"),
                held=frozenset(Sha256(digest) for digest in document["held"]),
                bytes_left=_whole(document, "bytes_left"),
                bytes_free=_whole(document, "bytes_free"),
                error_code=_text(document, "error_code", 64),
                error=_text(document, "error", 1000),
                address=_text(document, "address", 256),
            )
        except (KeyError, TypeError, ValueError, InvalidValue) as error:
            raise InvalidDocument("The report", _reason(error)) from error


def _json_object(what: str, payload: bytes, cap: int) -> Mapping[str, Any]:
    if len(payload) > cap:
        raise InvalidDocument(what, f"it has {len(payload)} bytes, over the {cap} allowed")
    try:
        document = json.loads(payload)
    except (ValueError, RecursionError) as error:
        raise InvalidDocument(what, "it is not JSON") from error
    if not isinstance(document, dict):
        raise InvalidDocument(what, "it is not a JSON object")
    return document


def _whole(document: Mapping[str, Any], field: str) -> int:
    value = document[field]
    if type(value) is not int or not 0 <= value < 2**63:
        raise InvalidValue("whole number", value, f"{field} must be one that is not negative")
    return value


def _text(document: Mapping[str, Any], field: str, cap: int) -> str:
    value = document.get(field, "")
    # PostgreSQL holds no NUL, and UTF-8 no lone surrogate.
    if not isinstance(value, str) or re.search("[\x00\ud800-\udfff]", value):
        raise InvalidValue("text", value, f"{field} must be one")
    return value[:cap]


def _moment(document: Mapping[str, Any], field: str) -> datetime:
    moment = datetime.fromisoformat(document[field])
    if moment.tzinfo is None:
        raise InvalidValue("time", document[field], f"{field} must carry its UTC offset")
    return moment


def _reason(error: Exception) -> str:
    return f"the field {error} is missing" if isinstance(error, KeyError) else str(error).rstrip(".")
