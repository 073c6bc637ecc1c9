"""SHA-256: the name of every file in Bootferry."""

import hashlib
import re
from typing import Self

from shared.errors import InvalidValue

_HEX = re.compile(r"[0-9a-f]{64}")


class Sha256(str):
    """A SHA-256 digest that cannot be wrong: 64 lower-case hexadecimal digits. Anything else raises InvalidValue."""

    __slots__ = ()

    def __new__(cls, text: object) -> Self:
        if not isinstance(text, str) or not _HEX.fullmatch(lowered := text.lower()):
            raise InvalidValue("SHA-256 digest", text, "it must be 64 hexadecimal digits")
        return super().__new__(cls, lowered)

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The digest of `content`."""
        return str.__new__(cls, hashlib.sha256(content).hexdigest())


class Hasher:
    """A running SHA-256. hashlib lets other threads run while it takes a large chunk, so call `update` off the loop."""

    __slots__ = ("_state", "size")

    def __init__(self) -> None:
        self._state = hashlib.sha256()
        self.size = 0

    def update(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take `chunk` in; `size` counts the bytes so far."""
        self._state.update(chunk)
        self.size += len(chunk)

    def digest(self) -> Sha256:
        """The digest of everything taken in so far."""
        return Sha256(self._state.hexdigest())
