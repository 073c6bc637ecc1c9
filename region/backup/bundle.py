"""A backup: one file (mode 0600), a plain tar, of which every byte that counts is named by its SHA-256.

    bootferry-backup.json      format, version, when it was made; the schema's revision, the fingerprints of both keys,
                               and the columns of each table
    tables/<table>             the rows, as PostgreSQL's COPY writes text (ISO dates, UTC)
    keys/region.key, keys/secrets.key
    configuration/region.toml  where there is one
    digests.json               of all before it the SHA-256 and size, of each table the number of rows

- It is written beside its place, flushed, read again from the disk, and only then takes its name: a file with the name
  is whole. Nothing is left of one that broke off. What has that name and is no backup is never replaced.
- Read, it is refused as a whole unless each member has its digest, size and rows, and none is missing or added.
- It has whatever the region has in secrets, in the clear: its mode is all that keeps them. No other file has any: rows
  wait for their turn in files without a name.
"""

import json
import os
import stat
import tarfile
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from dataclasses import dataclass
from datetime import datetime
from io import BytesIO
from pathlib import Path
from typing import Annotated, BinaryIO, cast

import msgspec

from shared.digest import Hasher
from shared.disk import READ_SIZE, sync_directory
from shared.errors import Conflict, InvalidDocument
from shared.wire.messages import Whole, decode, encode

FORMAT = "bootferry-backup:1"
HEAD, END = "bootferry-backup.json", "digests.json"
REGION_KEY, SECRETS_KEY, CONFIGURATION = "keys/region.key", "keys/secrets.key", "configuration/region.toml"
MAX_DOCUMENT_BYTES = 1024 * 1024

Name = Annotated[str, msgspec.Meta(pattern="^[a-z][a-z0-9_]{0,62}$")]
Digest = Annotated[str, msgspec.Meta(pattern="^[0-9a-f]{64}$")]


class Head(msgspec.Struct, frozen=True, kw_only=True):
    """What a backup is of. `revision` is the schema's, `tables` has the columns of each, in the order to fill them."""

    format: str = FORMAT
    version: str
    made_at: datetime
    revision: Annotated[str, msgspec.Meta(pattern="^[0-9]{4}$")]
    fingerprint: Digest
    secrets_fingerprint: Digest
    tables: dict[Name, list[Name]]


class Member(msgspec.Struct, frozen=True):
    """One file in a backup; `rows` is None where it is no table."""

    sha256: Digest
    size: Whole
    rows: Whole | None = None


class End(msgspec.Struct, frozen=True):
    """What stands before the end."""

    members: dict[str, Member]


class Writer:
    """A backup that is being written."""

    def __init__(self, file: BinaryIO, directory: Path, made_at: datetime) -> None:
        self._tar = tarfile.open(fileobj=file, mode="w", format=tarfile.USTAR_FORMAT)  # noqa: SIM115 - `end` closes it
        self._directory, self._made_at = directory, made_at
        self._members: dict[str, Member] = {}

    def add(self, name: str, content: bytes) -> None:
        """Add a small file."""
        self._add(name, BytesIO(content), len(content), None)

    @contextmanager
    def table(self, name: str) -> Iterator[tuple[BinaryIO, list[int]]]:
        """Inside, write the table's rows to the file, and their number to the list."""
        with tempfile.TemporaryFile(dir=self._directory) as spool:
            rows: list[int] = []
            yield cast(BinaryIO, spool), rows
            size = spool.tell()
            spool.seek(0)
            self._add(f"tables/{name}", cast(BinaryIO, spool), size, rows[0])

    def end(self) -> None:
        """Nothing comes after this."""
        self._add(END, BytesIO(content := encode(End(self._members))), len(content), None)
        self._tar.close()

    def _add(self, name: str, content: BinaryIO, size: int, rows: int | None) -> None:
        info = tarfile.TarInfo(name)
        info.size, info.mode, info.mtime = size, 0o600, int(self._made_at.timestamp())
        hasher = Hasher()
        while chunk := content.read(READ_SIZE):
            hasher.update(chunk)
        content.seek(0)
        self._tar.addfile(info, content)
        self._members[name] = Member(str(hasher.digest()), size, rows)


@contextmanager
def writing(path: Path, made_at: datetime) -> Iterator[Writer]:
    """Inside, the backup is written; afterwards it is at `path`, whole and read again, also after a loss of power.

    When something raises, `path` is as it was. Raises Conflict when something else than a backup is there; OSError.
    """
    _require_replaceable(path)
    descriptor, staged = tempfile.mkstemp(dir=path.parent, prefix=f".{path.name}.")
    try:
        with os.fdopen(descriptor, "wb") as file:
            writer = Writer(file, path.parent, made_at)
            yield writer
            writer.end()
            file.flush()
            os.fsync(file.fileno())
            # What is read again must come from the disk, not from what was just written.
            os.posix_fadvise(file.fileno(), 0, 0, os.POSIX_FADV_DONTNEED)
        with opened(Path(staged)):
            pass
        Path(staged).replace(path)
        sync_directory(path.parent)
    finally:
        with suppress(FileNotFoundError):
            Path(staged).unlink()


def _require_replaceable(path: Path) -> None:
    """Raises Conflict unless nothing is at `path`, or a regular file that begins as a backup does."""
    try:
        found = path.lstat()
    except FileNotFoundError:
        return
    if stat.S_ISREG(found.st_mode):
        with path.open("rb") as file:
            if file.read(len(HEAD) + 1) == HEAD.encode() + b"\0":
                return
    raise Conflict(f"{path} is there already and is no backup; choose another name.")


@dataclass(frozen=True, slots=True)
class Backup:
    """A backup that was read and is whole."""

    path: Path
    head: Head
    members: Mapping[str, Member]
    _tar: tarfile.TarFile

    @property
    def rows(self) -> int:
        """How many rows all its tables have."""
        return sum(member.rows or 0 for member in self.members.values())

    def content(self, name: str) -> bytes:
        """A small file; empty where there is no such."""
        if name not in self.members:
            return b""
        with self.file(name) as file:
            return file.read(MAX_DOCUMENT_BYTES)

    def file(self, name: str) -> BinaryIO:
        """A member, to be read."""
        found = self._tar.extractfile(name)
        assert found is not None  # noqa: S101 - `opened` has seen it
        return cast(BinaryIO, found)


def open_regular(path: Path) -> BinaryIO:
    """The file at `path`, to be read. Raises InvalidDocument for anything else than a file, which may wait; OSError."""
    if not stat.S_ISREG(path.stat().st_mode):
        raise InvalidDocument(str(path), "it is no regular file")
    return path.open("rb")


@contextmanager
def opened(path: Path, file: BinaryIO | None = None) -> Iterator[Backup]:
    """Inside, the backup at `path`, of which every byte was read. Raises InvalidDocument for a damaged one; OSError.

    `file` is the same, opened before by who may read it.
    """
    try:
        with nullcontext(file) if file else open_regular(path) as read, tarfile.open(fileobj=read, mode="r:") as tar:
            yield _read(path, tar)
    except tarfile.TarError as error:
        raise InvalidDocument(str(path), "it is no backup, or is damaged; take another one") from error


def _read(path: Path, tar: tarfile.TarFile) -> Backup:
    found: dict[str, Member] = {}
    documents: dict[str, bytes] = {}
    for info in tar:
        if not info.isreg() or info.name in found or END in found:
            raise InvalidDocument(str(path), f"it was changed: {info.name!r} does not belong there")
        file = tar.extractfile(info)
        assert file is not None  # noqa: S101 - it is regular
        hasher, lines = Hasher(), 0
        while chunk := file.read(READ_SIZE):
            hasher.update(chunk)
            lines += chunk.count(b"\n")
            if info.name in (HEAD, END):
                documents[info.name] = (documents.get(info.name, b"") + chunk)[: MAX_DOCUMENT_BYTES + 1]
        if hasher.size != info.size:
            raise InvalidDocument(str(path), f"it is cut short within {info.name}; take another one")
        rows = lines if info.name.startswith("tables/") else None
        found[info.name] = Member(str(hasher.digest()), info.size, rows)
    if END not in documents or HEAD not in documents:
        raise InvalidDocument(str(path), "it is no backup, or is cut short; take another one")
    del found[END]
    head = _head(path, documents[HEAD])
    promised = decode(f"{path}: {END}", documents[END], End, MAX_DOCUMENT_BYTES).members
    wrong = sorted(name for name in found.keys() | promised.keys() if found.get(name) != promised.get(name))
    wrong += sorted({REGION_KEY, SECRETS_KEY, *(f"tables/{table}" for table in head.tables)} - found.keys())
    if wrong:
        raise InvalidDocument(str(path), f"its {wrong[0]} is damaged or missing; take another one")
    return Backup(path, head, found, tar)


def _head(path: Path, content: bytes) -> Head:
    try:
        said = json.loads(content)["format"]
    except (ValueError, KeyError, TypeError):
        said = ""
    if said != FORMAT:
        raise InvalidDocument(str(path), f"its format is {said!r} and not {FORMAT}; a newer version may know it")
    return decode(f"{path}: {HEAD}", content, Head, MAX_DOCUMENT_BYTES)
