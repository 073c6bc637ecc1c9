"""What the other side is told of a message that does not fit, for each way in which it can be wrong."""

from typing import Annotated, Any

import msgspec
import pytest
from msgspec import Meta

from shared.digest import Sha256
from shared.errors import InvalidDocument, InvalidValue
from shared.wire.messages import decode, encode, require_text

NO = "its field is not acceptable"

CASES: list[tuple[Any, bytes, str]] = [
    (int, b'{"field": "x"}', f"{NO}: it must be a whole number"),
    (float, b'{"field": "x"}', f"{NO}: it must be a number"),
    (str, b'{"field": 1}', f"{NO}: it must be text"),
    (bool, b'{"field": 1}', f"{NO}: it must be true or false"),
    (list[int], b'{"field": 1}', f"{NO}: it must be a list"),
    (dict[str, int], b'{"field": 1}', f"{NO}: it must be a JSON object"),
    (None, b'{"field": 1}', f"{NO}: it must be null"),
    (int | None, b'{"field": "x"}', f"{NO}: it must be a whole number or null"),
    (Annotated[int, Meta(ge=3)], b'{"field": 2}', f"{NO}: it must be a whole number of 3 or more"),
    (Annotated[int, Meta(le=3)], b'{"field": 4}', f"{NO}: it must be a whole number of 3 or less"),
    (Annotated[float, Meta(gt=3)], b'{"field": 3}', f"{NO}: it must be a number above 3"),
    (Annotated[float, Meta(lt=3)], b'{"field": 3}', f"{NO}: it must be a number below 3"),
    (
        Annotated[str, Meta(min_length=3)],
        b'{"field": "ab"}',
        f"{NO}: it must be text of at least 3 characters or entries",
    ),
    (
        Annotated[list[int], Meta(max_length=1)],
        b'{"field": [1, 2]}',
        f"{NO}: it must be a list of at most 1 characters or entries",
    ),
    (list[int], b'{"field": [1, "x"]}', "its field[1] is not acceptable: it must be a whole number"),
    (float, b'{"field": 1e400}', NO),
    (int, b"{}", "the field 'field' is missing"),
    (int, b"[]", "its form is not acceptable: it must be a JSON object"),
    (Sha256, b'{"field": "X"}', "'X' is not a SHA-256 digest: it must be 64 hexadecimal digits"),
    (str, b'{"field": "\xff"}', "a value in it is not acceptable"),
    (int, b'{"field": ', "it is not JSON"),
]


@pytest.mark.parametrize(("kind", "said", "told"), CASES)
def test_what_does_not_fit_is_told_in_our_words(kind: Any, said: bytes, told: str) -> None:
    shape = msgspec.defstruct("Shape", [("field", kind)])
    with pytest.raises(InvalidDocument) as refused:
        decode("The message", said, shape, 1000)
    assert str(refused.value).startswith(f"The message cannot be read: {told}")
    assert str(refused.value).endswith(".")


def test_a_sentence_within_a_sentence_ends_once() -> None:
    shape = msgspec.defstruct("Shape", [("field", Ending)])
    with pytest.raises(InvalidDocument) as refused:
        decode("The message", b'{"field": "x"}', shape, 1000)
    assert str(refused.value) == "The message cannot be read: 'x' is not an ending: it must be an X."


class Ending(str):
    """A value that is always refused, with a sentence."""

    __slots__ = ()

    def __new__(cls, text: str) -> "Ending":
        raise InvalidValue("ending", text, "it must be an X")


@pytest.mark.parametrize("text", ["a\x00b", "a\ud800b", "\udfff"])
def test_a_text_that_no_database_can_hold_is_refused(text: str) -> None:
    with pytest.raises(InvalidValue, match="address must be one"):
        require_text("address", text, 10)


def test_values_are_written_as_their_text() -> None:
    assert encode({"sha256": Sha256("ab" * 32)}) == b'{"sha256":"' + b"ab" * 32 + b'"}'
