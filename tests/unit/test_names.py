"""Names from outside: what becomes a path, and what never does."""

import os
import unicodedata
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from shared.errors import InvalidValue
from shared.names import MAX_PATH_BYTES, ImageKey, Name, RelativePath

TOKENS = [
    "a",
    "0",
    "noble",
    "24.04",
    "amd64",
    "20260701.1",
    "ga-24.04-lowlatency",
    "boot-kernel",
    "centos8.x+",
    "1.2~rc1",
    "a" * 128,
]

NO_TOKENS = [
    pytest.param("", id="empty"),
    pytest.param(".", id="dot"),
    pytest.param("..", id="dots"),
    pytest.param(".hidden", id="leading-dot"),
    pytest.param("-rf", id="leading-dash"),
    pytest.param("_private", id="leading-underscore"),
    pytest.param("~root", id="leading-tilde"),
    pytest.param("noble.", id="trailing-dot"),
    pytest.param("a" * 129, id="129-characters"),
    pytest.param("a/b", id="slash"),
    pytest.param("a\\b", id="backslash"),
    pytest.param("a b", id="space"),
    pytest.param("a\n", id="newline"),
    pytest.param("a\x00", id="nul"),
    pytest.param("a:b", id="colon"),
    pytest.param("a%2fb", id="percent"),
    pytest.param("naïve", id="not-ascii"),
    pytest.param("٣", id="arabic-digit"),
    pytest.param(b"noble", id="bytes"),
    pytest.param(24, id="number"),
    pytest.param(None, id="nothing"),
]

PATHS = [
    pytest.param("noble", id="one-name"),
    pytest.param("noble/amd64/20260701/squashfs", id="four-names"),
    pytest.param("a/.hidden/...", id="dots-within-names"),
    pytest.param("a/b c/ü", id="spaces-and-umlauts"),
    pytest.param("/".join(["a" * 255] * 4), id="1023-bytes"),
    pytest.param("/".join([*["a" * 255] * 3, "b" * 127, "c" * 128]), id="1024-bytes"),
]

NO_PATHS = [
    pytest.param("", id="empty"),
    pytest.param("/", id="root"),
    pytest.param("/etc/passwd", id="absolute"),
    pytest.param("a//b", id="empty-part"),
    pytest.param("a/", id="trailing-slash"),
    pytest.param(".", id="dot"),
    pytest.param("a/./b", id="dot-within"),
    pytest.param("..", id="dots"),
    pytest.param("../a", id="climbs-first"),
    pytest.param("a/../../b", id="climbs-later"),
    pytest.param("a/..", id="climbs-last"),
    pytest.param("a\\..\\b", id="backslashes"),
    pytest.param("a/%2e%2e/b", id="escaped-dots"),
    pytest.param("a%2fb", id="escaped-slash"),
    pytest.param("100%", id="percent"),
    pytest.param("a?b", id="query"),
    pytest.param("a#b", id="fragment"),
    pytest.param("a\x00b", id="nul"),
    pytest.param("a\nb", id="newline"),
    pytest.param("a\x1bb", id="escape"),
    pytest.param("a\x7fb", id="delete"),
    pytest.param("a\x85b", id="c1-next-line"),
    pytest.param("a\x9bb", id="c1-control-sequence"),
    pytest.param("a\ud800b", id="lone-high-surrogate"),
    pytest.param("a\udc80b", id="lone-low-surrogate"),
    pytest.param("a" * 256, id="part-of-256-bytes"),
    pytest.param("ü" * 128, id="part-of-256-bytes-in-128-characters"),
    pytest.param("/".join(["a" * 255] * 4) + "/a", id="1025-bytes"),
    pytest.param(b"a/b", id="bytes"),
    pytest.param(["a"], id="list"),
    pytest.param(None, id="nothing"),
]


@pytest.mark.parametrize("text", TOKENS)
def test_a_token_is_its_text(text: str) -> None:
    assert Name(text) == text


@pytest.mark.parametrize("text", NO_TOKENS)
def test_no_token(text: object) -> None:
    with pytest.raises(InvalidValue, match=r"is not a name: it must be"):
        Name(text)


@pytest.mark.parametrize("text", PATHS)
def test_a_path_is_its_text(text: str) -> None:
    assert RelativePath(text) == text


@pytest.mark.parametrize("text", NO_PATHS)
def test_no_path(text: object) -> None:
    with pytest.raises(InvalidValue, match=r"is not a relative path: "):
        RelativePath(text)


@pytest.mark.parametrize("parse", [Name, RelativePath])
def test_a_refusal_shows_a_long_name_in_part(parse: Callable[[object], str]) -> None:
    with pytest.raises(InvalidValue) as caught:
        parse("/" * 5000)
    assert len(str(caught.value)) < 300


anything = st.lists(st.integers(0, 0x10FFFF).map(chr), max_size=40).map("".join)


@given(anything | st.text("./\\a\x00\x85", max_size=12))
@example("a\ud800")
def test_whatever_is_accepted_names_something_strictly_below_the_root(text: str) -> None:
    try:
        path = RelativePath(text)
    except InvalidValue:
        return
    root = Path("/srv/root")
    target = root / path
    assert Path(os.path.normpath(target)) == target
    assert target.is_relative_to(root)
    assert target != root
    # Every file system, database and terminal that meets it takes it as it is.
    assert len(os.fsencode(path)) <= MAX_PATH_BYTES
    assert path.encode("utf-8").decode("utf-8") == text
    assert not any(unicodedata.category(character) in ("Cc", "Cs") for character in path)


@given(anything)
def test_every_token_is_a_path_of_one_part(text: str) -> None:
    try:
        token = Name(text)
    except InvalidValue:
        return
    assert str(RelativePath(token)) == text
    assert "/" not in token


def test_an_image_is_read_back_from_what_it_is_called() -> None:
    noble = ImageKey(Name("ubuntu"), Name("noble"), Name("amd64"))
    assert str(noble) == "ubuntu:noble:amd64"
    assert ImageKey.parse("ubuntu:noble:amd64") == noble


@pytest.mark.parametrize(
    "text", ["", "ubuntu", "ubuntu:noble", "ubuntu:noble:amd64:stable", "ubuntu::amd64", "a/b:c:d", None, 3, b"a:b:c"]
)
def test_what_names_no_image(text: object) -> None:
    with pytest.raises(InvalidValue):
        ImageKey.parse(text)
