"""What may call itself a SHA-256, and what a running one says."""

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.digest import Hasher, Sha256
from shared.errors import InvalidValue

EMPTY = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855"

REFUSED = [
    pytest.param("", id="empty"),
    pytest.param(EMPTY[:-1], id="63-digits"),
    pytest.param(EMPTY + "0", id="65-digits"),
    pytest.param(EMPTY[:-1] + "g", id="no-hexadecimal-digit"),
    pytest.param(EMPTY + "\n", id="newline-after"),
    pytest.param(" " + EMPTY[1:], id="space-before"),
    pytest.param("sha256:" + EMPTY[7:], id="with-its-algorithm"),
    pytest.param("../" + EMPTY[3:], id="path"),
    pytest.param("\uff10" * 64, id="fullwidth-digits"),
    pytest.param(EMPTY.encode(), id="bytes"),
    pytest.param(int(EMPTY, 16), id="number"),
    pytest.param(None, id="nothing"),
]


@pytest.mark.parametrize("text", REFUSED)
def test_anything_but_64_hexadecimal_digits_is_refused(text: object) -> None:
    with pytest.raises(InvalidValue, match="64 hexadecimal digits"):
        Sha256(text)


@pytest.mark.parametrize("text", [EMPTY, EMPTY.upper()], ids=["lower-case", "upper-case"])
def test_a_digest_is_its_lower_case_text(text: str) -> None:
    digest = Sha256(text)
    assert digest == EMPTY
    assert hash(digest) == hash(EMPTY)
    assert digest == Sha256.of(b"")


@given(st.lists(st.binary(max_size=300), max_size=8))
def test_a_running_digest_is_the_digest_of_all_chunks(chunks: list[bytes]) -> None:
    hasher = Hasher()
    for chunk in chunks:
        hasher.update(chunk)
    whole = b"".join(chunks)
    assert (hasher.digest(), hasher.size) == (hashlib.sha256(whole).hexdigest(), len(whole))
    assert hasher.digest() == Sha256.of(whole)


@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
def test_any_buffer_is_counted_in_bytes(kind: type) -> None:
    hasher = Hasher()
    hasher.update(kind(b"abc"))
    assert (hasher.digest(), hasher.size) == (Sha256.of(b"abc"), 3)


def test_asking_for_the_digest_does_not_end_it() -> None:
    hasher = Hasher()
    assert hasher.digest() == EMPTY
    hasher.update(b"abc")
    assert hasher.digest() == hasher.digest() == Sha256.of(b"abc")
