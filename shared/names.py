"""Names that came from outside: parsed into types that cannot climb out of a directory, or refused.

Both types are `str`, so they can be used as text everywhere; only their constructors decide what is acceptable.
"""

import re
from typing import NamedTuple, Self

from shared.errors import InvalidValue

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._+~-]{0,126}[A-Za-z0-9+~_-])?")
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\\\ud800-\udfff]")
# An escape (%2e%2e), a query and a fragment mean one thing in a URL and another on a disk.
_OF_URLS = re.compile("[%?#]")
MAX_PATH_BYTES = 1024


class Name(str):
    """One name: an os, release, architecture, label, ftype, version … It is safe as a single directory name.

    Letters, digits and `._+~-`, at most 128, beginning with a letter or digit and not ending in a dot.
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        if not isinstance(text, str) or not _NAME.fullmatch(text):
            raise InvalidValue(
                "name", text, "it must be 1 to 128 letters, digits and ._+~- and begin with a letter or digit"
            )
        return super().__new__(cls, text)


class RelativePath(str):
    """A path below some root, which means the same in a URL and on a disk.

    Segments joined by `/`, never absolute, never `.` or `..`, without control characters, backslashes and `%?#`.
    """

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        if not isinstance(text, str) or not text:
            raise InvalidValue("relative path", text, "it must be text and not empty")
        if _CONTROL.search(text) or len(text.encode()) > MAX_PATH_BYTES:
            raise InvalidValue(
                "relative path", text, f"it must be at most {MAX_PATH_BYTES} bytes of text without control characters"
            )
        if _OF_URLS.search(text):
            raise InvalidValue("relative path", text, "it must have no %, ? or #, which servers read in different ways")
        segments = text.split("/")
        if any(segment in ("", ".", "..") or len(segment.encode()) > 255 for segment in segments):
            raise InvalidValue("relative path", text, "every part must be a plain name")
        return super().__new__(cls, text)


class ImageKey(NamedTuple):
    """One os/release/architecture: what an operator can talk about."""

    os: Name
    release: Name
    arch: Name

    def __str__(self) -> str:
        return ":".join(self)

    @classmethod
    def parse(cls, text: object) -> Self:
        """`ubuntu:noble:amd64`. Raises InvalidValue."""
        parts = text.split(":") if isinstance(text, str) else []
        if len(parts) != 3:
            raise InvalidValue("image", text, "it must be os:release:architecture, like ubuntu:noble:amd64")
        return cls(*map(Name, parts))
