"""Objects taken apart to the byte: how many fields, which bytes, and where a document stops being JSON."""

import pytest
from msgspec import Raw

from region.stream.fields import InvalidFields, Objects, TooManyFields, outermost, require_text, scalar


def document(count: int) -> bytes:
    return b"{" + b",".join(b'"%d":0' % number for number in range(count)) + b"}"


@pytest.mark.parametrize("most", [0, 1, 2, 3])
def test_an_object_has_as_many_fields_as_it_may_have_and_no_more(most: int) -> None:
    found = Objects().fields(document(most), most)
    assert found is not None
    assert len(found) == most
    with pytest.raises(TooManyFields, match=f"^has more than {most} fields in one place$"):
        Objects().fields(document(most + 1), most)


def test_each_object_is_counted_by_itself() -> None:
    objects = Objects()
    for _ in range(3):
        assert objects.fields(document(2), 2) is not None


# A document is looked at in pieces of 256 KiB.
PIECE = 256 * 1024


@pytest.mark.parametrize("size", [2, 3, PIECE - 1, PIECE, PIECE + 1, PIECE + 2, 2 * PIECE, 2 * PIECE + 1])
def test_half_a_character_at_the_end_is_not_utf_8(size: int) -> None:
    with pytest.raises(InvalidFields, match=f"^is not UTF-8 at byte {size - 1}$"):
        require_text(b"a" * (size - 1) + b"\xc3")
    require_text(b"a" * (size - 2) + b"\xc3\xa9")


def halves(count: int) -> bytes:
    return b'{"a":"' + b"\\ud800" * count + b'"}'


def test_ten_thousand_halves_of_characters_are_replaced_and_no_more() -> None:
    found = outermost(halves(10_000), Objects(), 1)
    assert found is not None
    assert scalar(found["a"]) == "\x00" * 10_000
    with pytest.raises(InvalidFields, match=r"^has more than 10000 halves of characters$"):
        outermost(halves(10_001), Objects(), 1)


@pytest.mark.parametrize(
    ("payload", "told"),
    [
        (b"x", "is not JSON from line 1, column 1 on"),
        (b"\nx", "is not JSON from line 2, column 1 on"),
        (b"\n\n x", "is not JSON from line 3, column 2 on"),
        (b'{"a": 1,\n  x}', "is not JSON from line 2, column 3 on"),
        (b'{"a":\n1', "is not JSON from line 2, column 2 on"),
        (b"xNaN", "is not JSON from line 1, column 1 on"),
        (b"NaN", r"is not JSON \(NaN is not a number\)"),
        (b"-Infinity", r"is not JSON \(-Infinity is not a number\)"),
        (b'{"a": -Infinity}', r"is not JSON \(-Infinity is not a number\)"),
        (b'{"a": Infinity}', r"is not JSON \(Infinity is not a number\)"),
    ],
)
def test_where_a_document_is_not_json_is_told(payload: bytes, told: str) -> None:
    with pytest.raises(InvalidFields, match=f"^{told}$"):
        outermost(payload, Objects(), 10)


@pytest.mark.parametrize(
    ("raw", "value"),
    [(b'"a"', "a"), (b"1", 1), (b"1.5", 1.5), (b"true", True), (b"null", None), (b"[1]", None), (b"{}", None)],
)
def test_what_can_be_a_tag(raw: bytes, value: object) -> None:
    assert scalar(Raw(raw)) == value


def test_nothing_is_no_tag() -> None:
    assert scalar(None) is None
