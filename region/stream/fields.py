"""The objects of a JSON document, one level at a time: what nobody asks for stays bytes. Pure.

    require_text(payload)      the bytes are UTF-8                                      or InvalidFields
    outermost(payload, …)      the fields of the document's one object, each still raw  or InvalidFields
    Objects().fields(raw, n)   an object's fields, each still raw; at most n of them    or InvalidFields
    scalar(raw)                a string, number or boolean; None for anything else

- The whole document is checked to be JSON when its outermost object is taken apart; nothing below is built by that.
- A key that stands twice in an object that is looked into is refused: two readers could read it in two ways.
- What is not JSON is refused: NaN, Infinity, a byte order mark, other encodings than UTF-8. Half a character (a lone
  surrogate, which a grammar allows and no text can hold) reads as U+0000, which no name, path or title may have.
- Numbers too long for anything are no scalars.
- Memory is bounded by the payload and by `n`: an object with more fields is refused at the first one too many.

Not done here: what the fields mean is in `region.stream.documents`.

Format: RFC 8259.
"""

import codecs
import re
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import msgspec
from msgspec import Raw

Scalar = str | int | float | bool
"""What can be a tag."""

MAX_HALVES = 10_000
"""So many lone surrogates are replaced; a document with more of them is refused."""

_CHUNK_BYTES = 256 * 1024
_AT_BYTE = re.compile(r"(.*) \(byte ([0-9]+)\)", re.DOTALL)
_NUMBERS_THAT_ARE_NONE = re.compile(rb"-?(?:NaN|Infinity)")
# Each escape once, from the left, so that the second half of an escaped backslash begins none; pairs are whole.
_ESCAPE = re.compile(
    rb"\\(?:u[dD][89abAB][0-9a-fA-F]{2}\\u[dD][c-fC-F][0-9a-fA-F]{2}|(u[dD][89a-fA-F][0-9a-fA-F]{2})|.)", re.DOTALL
)
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")
_SCALAR: msgspec.json.Decoder[Any] = msgspec.json.Decoder(str | int | float | bool | None)


class InvalidFields(Exception):
    """Bytes are not the JSON they should be; the text completes "it …"."""


class TooManyFields(InvalidFields):
    """An object has more fields than it may have."""

    def __init__(self, most: int) -> None:
        super().__init__(f"has more than {most} fields in one place")


class _Key:
    """A key as it stands: two that are equal are two, which a `str` in a dict would hide."""

    __slots__ = ("text",)

    def __init__(self, text: str) -> None:
        self.text = text


@dataclass(slots=True)
class Objects:
    """Takes objects apart."""

    _most: int = 0
    _left: int = 0
    _decoder: msgspec.json.Decoder[dict[_Key, Raw]] = field(init=False)

    def __post_init__(self) -> None:
        self._decoder = msgspec.json.Decoder(dict[_Key, Raw], dec_hook=self._key)

    def fields(self, raw: bytes | Raw, most: int) -> dict[str, Raw] | None:
        """The fields of the object; None when `raw` is something else. Raises InvalidFields, TooManyFields."""
        self._most = self._left = most
        try:
            pairs = self._decoder.decode(raw)
        except msgspec.ValidationError:
            return None
        found = {key.text: value for key, value in pairs.items()}
        if len(found) != len(pairs):
            twice = next(name for name, count in Counter(key.text for key in pairs).items() if count > 1)
            raise InvalidFields(f"is not JSON (the key {twice!r} is there twice)")
        return found

    def _key(self, _type: type, text: str) -> _Key:
        self._left -= 1
        if self._left < 0:
            raise TooManyFields(self._most)
        return _Key(text)


def outermost(payload: bytes, objects: Objects, most: int) -> dict[str, Raw] | None:
    """The fields of the document's one object, after all of it was found to be JSON in UTF-8. Raises InvalidFields."""
    require_text(payload)
    payload = _whole_characters(payload)
    try:
        return objects.fields(payload, most)
    except RecursionError:
        raise InvalidFields("is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise InvalidFields(_told(payload, str(error))) from None


def require_text(payload: bytes) -> None:
    """Raises InvalidFields unless the bytes are UTF-8."""
    if payload.isascii():
        return
    decoder = codecs.getincrementaldecoder("utf-8")()
    view = memoryview(payload)
    for start in range(0, len(view), _CHUNK_BYTES):
        kept = len(decoder.getstate()[0])
        try:
            decoder.decode(view[start : start + _CHUNK_BYTES], final=start + _CHUNK_BYTES >= len(view))
        except UnicodeDecodeError as error:
            raise InvalidFields(f"is not UTF-8 at byte {start - kept + error.start}") from None


def scalar(raw: Raw | None) -> Scalar | None:
    """The value, if it is a string, a number or a boolean."""
    if raw is None:
        return None
    try:
        value: Scalar | None = _SCALAR.decode(raw)
    except msgspec.DecodeError:
        return None
    return value


def _whole_characters(payload: bytes) -> bytes:
    """The payload with U+0000 for each half of a character."""
    if not _SURROGATE.search(payload):
        return payload
    mended: bytearray | None = None
    halves = 0
    for escape in _ESCAPE.finditer(payload):
        if escape[1] is not None:
            halves += 1
            if halves > MAX_HALVES:
                raise InvalidFields(f"has more than {MAX_HALVES} halves of characters")
            mended = mended or bytearray(payload)
            mended[escape.start() : escape.end()] = b"\\u0000"
    return payload if mended is None else bytes(mended)


def _told(payload: bytes, said: str) -> str:
    """What msgspec said, with line and column instead of a byte's number."""
    found = _AT_BYTE.fullmatch(said)
    # Where it names no byte, the document ended too soon.
    at = min(int(found[2]), len(payload)) if found else len(payload)
    # Of -Infinity msgspec names the byte after the minus.
    for start in (max(at - 1, 0), at):
        if odd := _NUMBERS_THAT_ARE_NONE.match(payload, start):
            return f"is not JSON ({odd[0].decode()} is not a number)"
    line = payload.count(b"\n", 0, at) + 1
    column = at - (payload.rfind(b"\n", 0, at) + 1) + 1
    return f"is not JSON from line {line}, column {column} on"
