"""Archives: the files in a tar file, unpacked as if its maker were hostile.

The bytes are the ones a signed stream promises, and still they are somebody else's: nothing is created but plain files
and directories below one fresh directory, names are parsed before use, and every amount has a cap. The tar format is
POSIX pax (IEEE 1003.1) and GNU's, as Python's `tarfile` reads them; compression is none or xz.
"""

import io
import lzma
import os
import posixpath
import shutil
import tarfile
from collections.abc import Mapping
from pathlib import Path
from typing import IO, BinaryIO, NamedTuple

from shared.digest import Hasher, Sha256
from shared.disk import sync_directory
from shared.errors import InvalidDocument, InvalidValue
from shared.mark import set_mark
from shared.names import RelativePath
from shared.sizes import spoken_size

MAX_MEMBERS = 10_000
MAX_DEPTH = 16
MAX_PATH_BYTES = 512
MAX_HEADER_BYTES = 64 * 1024
"""What a member may say of itself beyond its 512 bytes: long names, pax records. `tarfile` reads it as a whole."""

MAX_UNPACKED_BYTES = 512 * 1024 * 1024
"""What one archive may decompress to, headers included, and what its files may be, links counted as the files they
become; real bootloader archives hold a few megabytes."""

MAX_DECODER_BYTES = 128 * 1024 * 1024
"""Memory the xz decoder may take; `xz -9` needs 65 MiB (xz(1))."""

_MALFORMED = (InvalidValue, ValueError, OverflowError, RecursionError)
"""What reading the header of a member can raise: a header before a header before a header is a recursion."""

_XZ_MAGIC = b"\xfd7zXZ\x00"
_READ_SIZE = 256 * 1024


class Content(NamedTuple):
    """What the bytes behind a name are; `size` in bytes."""

    sha256: Sha256
    size: int


def _why(error: Exception) -> str:
    if isinstance(error, _Refused | InvalidValue):
        return str(error).rstrip(".")
    if isinstance(error, EOFError):
        return "its end is missing"
    if isinstance(error, lzma.LZMAError) and "memory" in str(error).lower():
        return f"unpacking it takes more memory than {spoken_size(MAX_DECODER_BYTES)}"
    return "it is damaged, or no archive of the kind .tar.xz"


def unpack(
    packed: BinaryIO, into: Path, *, origin: str, max_bytes: int = MAX_UNPACKED_BYTES
) -> dict[RelativePath, Content]:
    """The files of `packed`, now flushed below the new directory `into`, mode 0644 and marked as verified. Blocks.

    Links to members of the archive become those members; owners, special bits and empty directories are dropped.
    `origin` names the archive in errors. Raises InvalidDocument, and leaves no `into` behind; OSError.
    """
    shutil.rmtree(into, ignore_errors=True)
    into.mkdir(mode=0o755, parents=True)
    try:
        plain = _Plain(packed, max_bytes)
        with tarfile.open(fileobj=plain, mode="r|", tarinfo=_Member) as members:
            found = _members(members, into, max_bytes)
        for directory, _, _ in os.walk(into):
            sync_directory(Path(directory))
    except (tarfile.TarError, lzma.LZMAError, EOFError, _Refused, *_MALFORMED) as error:
        shutil.rmtree(into, ignore_errors=True)
        raise InvalidDocument(origin, _why(error)) from error
    except BaseException:
        shutil.rmtree(into, ignore_errors=True)
        raise
    return found


class _Refused(Exception):
    """Something in the archive that no boot loader needs."""


class _Member(tarfile.TarInfo):
    """A member whose headers are no larger than any that is meant well."""

    def _proc_member(self, members: tarfile.TarFile) -> tarfile.TarInfo:
        if self.type == tarfile.GNUTYPE_SPARSE:
            raise _Refused(f"{self.name[:80]} is sparse")
        if self.type not in (*tarfile.REGULAR_TYPES, tarfile.DIRTYPE) and self.size > MAX_HEADER_BYTES:
            raise _Refused(f"a header in it has {self.size} bytes")
        return super()._proc_member(members)  # type: ignore[misc, no-any-return]

    def _proc_gnusparse_10(self, *_arguments: object) -> None:
        raise _Refused("a member of it is sparse")


def _members(members: tarfile.TarFile, into: Path, max_bytes: int) -> dict[RelativePath, Content]:
    """Every file, now written: those that are members, then those that links to members become.

    Each is counted before it is written, so that no archive makes more bytes than `max_bytes`.
    """
    found: dict[RelativePath, Content] = {}
    links: dict[RelativePath, RelativePath] = {}
    for count, member in enumerate(members, start=1):
        if count > MAX_MEMBERS:
            raise _Refused(f"it has more than {MAX_MEMBERS} members")
        if member.isdir():
            continue
        path = _path(member.name)
        found.pop(path, None)
        links.pop(path, None)
        if member.issym() or member.islnk():
            links[path] = _target(path, member)
        elif member.isreg() and not member.issparse() and (content := members.extractfile(member)):
            found[path] = _write(into / path, content, member.size)
        else:
            raise _Refused(f"{path} is neither a plain file nor a directory")
    targets = {path: _followed(path, links) for path in links}
    for path, target in targets.items():
        if target not in found:
            raise _Refused(f"{path} links to {target}, which is no file in it")
    linked = sum(found[target].size for target in targets.values())
    if linked + sum(content.size for content in found.values()) > max_bytes:
        raise _Refused(f"its links become more than {max_bytes} bytes")
    for path, target in targets.items():
        with (into / target).open("rb") as content:
            found[path] = _write(into / path, content, found[target].size)
    return found


def _path(name: str) -> RelativePath:
    """The name as a path below the directory it is unpacked into; a leading `./` is how tar writes many of them."""
    path = RelativePath(name.removeprefix("./"))
    if len(path.encode()) > MAX_PATH_BYTES or path.count("/") >= MAX_DEPTH:
        raise _Refused(f"the name {path[:40]}… is longer or deeper than any boot loader's")
    return path


def _target(path: RelativePath, member: tarfile.TarInfo) -> RelativePath:
    """The member a link stands for. A symbolic link counts from its own directory, a hard link from the top."""
    if member.islnk():
        return _path(member.linkname)
    if member.linkname.startswith("/"):
        raise _Refused(f"{path} links out of it, to {member.linkname}")
    return _path(posixpath.normpath(posixpath.join(posixpath.dirname(path), member.linkname)))


def _followed(path: RelativePath, links: Mapping[RelativePath, RelativePath]) -> RelativePath:
    for _ in range(16):
        if path not in links:
            return path
        path = links[path]
    raise _Refused(f"{path} links to itself")


def _write(target: Path, content: IO[bytes], size: int) -> Content:
    try:
        target.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        # A later member of the same name replaces the earlier one, as tar would.
        target.unlink(missing_ok=True)
        descriptor = os.open(target, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC, 0o644)
    except (FileExistsError, NotADirectoryError, IsADirectoryError) as error:
        raise _Refused(f"{target.name} is both a file and a directory") from error
    hasher = Hasher()
    with os.fdopen(descriptor, "wb") as file:
        while chunk := content.read(_READ_SIZE):
            file.write(chunk)
            hasher.update(chunk)
        file.flush()
        os.fchmod(file.fileno(), 0o644)
        set_mark(file.fileno())
        os.fsync(file.fileno())
    if hasher.size != size:
        raise _Refused(f"{target.name} ends after {hasher.size} of {size} bytes")
    return Content(hasher.digest(), size)


class _Plain(io.RawIOBase):
    """The decompressed bytes of a file, of which at most `max_bytes` are ever given out."""

    def __init__(self, packed: BinaryIO, max_bytes: int) -> None:
        self._packed = packed
        self._left = max_bytes
        self._cap = max_bytes
        self._decoder = _decoder() if packed.read(len(_XZ_MAGIC)) == _XZ_MAGIC else None
        packed.seek(0)

    def read(self, size: int = -1) -> bytes:
        """The next bytes: `size` of them unless the end is near, as tarfile expects of a stream."""
        chunks: list[bytes] = []
        while size > 0 and (chunk := self._next(min(size, _READ_SIZE))):
            chunks.append(chunk)
            size -= len(chunk)
            self._left -= len(chunk)
            if self._left < 0:
                raise _Refused(f"it unpacks to more than {self._cap} bytes")
        return b"".join(chunks)

    def _next(self, most: int) -> bytes:
        if self._decoder is None:
            return self._packed.read(most)
        while True:
            if self._decoder.eof and not self._begin_stream(self._decoder.unused_data):
                return b""
            packed = self._packed.read(_READ_SIZE) if self._decoder.needs_input else b""
            if self._decoder.needs_input and not packed:
                raise EOFError("its end is missing")
            if chunk := self._decoder.decompress(packed, most):
                return chunk

    def _begin_stream(self, unused: bytes) -> bool:
        """Go on to the next of several xz streams in a row; zeros between them are padding (xz format, section 2.2)."""
        while not (unused := unused.lstrip(b"\0")):
            if not (unused := self._packed.read(_READ_SIZE)):
                return False
        self._packed.seek(-len(unused), os.SEEK_CUR)
        self._decoder = _decoder()
        return True


def _decoder() -> lzma.LZMADecompressor:
    return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=MAX_DECODER_BYTES)
