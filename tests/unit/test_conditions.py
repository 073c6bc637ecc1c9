"""Conditions and ranges, case by case (RFC 9110 §13 and §14)."""

import pytest

from shared.conditions import UNSATISFIABLE, decide, matches, parse_range, representation_headers
from shared.digest import Sha256

ETAG = f'"{"a" * 64}"'
OTHER = f'"{"b" * 64}"'


@pytest.mark.parametrize(
    ("header", "size", "expected"),
    [
        pytest.param("bytes=0-499", 10_000, range(500), id="first 500 bytes"),
        pytest.param("bytes=500-999", 10_000, range(500, 1000), id="second 500 bytes"),
        pytest.param("bytes=-500", 10_000, range(9500, 10_000), id="final 500 bytes as suffix"),
        pytest.param("bytes=9500-", 10_000, range(9500, 10_000), id="final 500 bytes, open-ended"),
        pytest.param("bytes=0-0", 10_000, range(1), id="first byte"),
        pytest.param("bytes=9999-9999", 10_000, range(9999, 10_000), id="last byte"),
        pytest.param("bytes=-1", 10_000, range(9999, 10_000), id="last byte as suffix"),
        pytest.param("bytes=0-", 10_000, range(10_000), id="all of it"),
        pytest.param("bytes=9000-99999", 10_000, range(9000, 10_000), id="last position beyond the end"),
        pytest.param("bytes=0-99999999999999999999", 10_000, range(10_000), id="last position beyond 64 bits"),
        pytest.param("bytes=-99999", 10_000, range(10_000), id="suffix longer than the file"),
        pytest.param("Bytes=0-1", 10_000, range(2), id="the unit in another case"),
        pytest.param("bytes= 0-1 , ,", 10_000, range(2), id="white space and empty list elements"),
        pytest.param("bytes=10000-", 10_000, UNSATISFIABLE, id="starts at the end"),
        pytest.param("bytes=20000-30000", 10_000, UNSATISFIABLE, id="starts beyond the end"),
        pytest.param("bytes=10000-10000", 10_000, UNSATISFIABLE, id="the byte after the last"),
        pytest.param("bytes=10001-", 10_000, UNSATISFIABLE, id="starts two bytes after the last"),
        pytest.param("bytes=9999-10000", 10_000, range(9999, 10_000), id="the last byte and one that is not there"),
        pytest.param("bytes=20000-15000", 10_000, None, id="starts beyond the end and ends before it starts"),
        pytest.param("bytes=1-", 1, UNSATISFIABLE, id="starts at the end of one byte"),
        pytest.param("bytes=0-0", 0, UNSATISFIABLE, id="the first byte of an empty file"),
        pytest.param("bytes=-0", 10_000, UNSATISFIABLE, id="suffix of no bytes"),
        pytest.param("bytes=0-", 0, UNSATISFIABLE, id="an empty file"),
        pytest.param("bytes=-5", 0, None, id="suffix of an empty file"),
        pytest.param("bytes=0-0,-1", 10_000, None, id="first and last byte: several ranges"),
        pytest.param("bytes=500-600,601-999", 10_000, None, id="adjoining ranges"),
        pytest.param("bytes=0-1, bytes=2-3", 10_000, None, id="two header lines"),
        pytest.param("bytes=500-499", 10_000, None, id="last before first"),
        pytest.param("bytes=-", 10_000, None, id="no positions"),
        pytest.param("bytes=", 10_000, None, id="no range"),
        pytest.param("bytes", 10_000, None, id="only a unit"),
        pytest.param("", 10_000, None, id="empty"),
        pytest.param("lines=0-1", 10_000, None, id="unknown unit"),
        pytest.param("bytes=a-b", 10_000, None, id="letters"),
        pytest.param("bytes=+1-2", 10_000, None, id="a sign"),
        pytest.param("bytes=1 - 2", 10_000, None, id="white space inside"),
        pytest.param("bytes=--5", 10_000, None, id="two dashes"),
        pytest.param("bytes=\u0660-\u0669", 10_000, None, id="digits that are not ASCII"),
        pytest.param("bytes=0-" + "9" * 5000, 10_000, None, id="more digits than anybody needs"),
    ],
)
def test_parse_range(header: str, size: int, expected: object) -> None:
    assert parse_range(header, size) == expected


@pytest.mark.parametrize(
    ("method", "headers", "expected"),
    [
        pytest.param("GET", [], (200, range(100)), id="plain"),
        pytest.param("GET", [("if-none-match", ETAG)], (304, range(0)), id="If-None-Match: ours"),
        pytest.param("HEAD", [("if-none-match", ETAG)], (304, range(0)), id="If-None-Match on HEAD"),
        pytest.param("GET", [("if-none-match", f"W/{ETAG}")], (304, range(0)), id="If-None-Match compares weakly"),
        pytest.param("GET", [("if-none-match", "*")], (304, range(0)), id="If-None-Match: any"),
        pytest.param("GET", [("if-none-match", f"{OTHER}, W/{ETAG}")], (304, range(0)), id="If-None-Match: a list"),
        pytest.param(
            "GET", [("if-none-match", OTHER), ("if-none-match", ETAG)], (304, range(0)), id="If-None-Match: two lines"
        ),
        pytest.param("GET", [("if-none-match", '"a,b", "c"')], (200, range(100)), id="If-None-Match: a comma in a tag"),
        pytest.param("GET", [("if-none-match", OTHER)], (200, range(100)), id="If-None-Match: another"),
        pytest.param("GET", [("if-none-match", "a" * 64)], (200, range(100)), id="If-None-Match without quotes"),
        pytest.param("GET", [("if-match", ETAG)], (200, range(100)), id="If-Match: ours"),
        pytest.param("GET", [("if-match", "*")], (200, range(100)), id="If-Match: any"),
        pytest.param("GET", [("if-match", f"{OTHER}, {ETAG}")], (200, range(100)), id="If-Match: a list"),
        pytest.param("GET", [("if-match", OTHER)], (412, range(0)), id="If-Match: another"),
        pytest.param("GET", [("if-match", f"W/{ETAG}")], (412, range(0)), id="If-Match compares strongly"),
        pytest.param(
            "GET", [("if-match", OTHER), ("if-none-match", ETAG)], (412, range(0)), id="If-Match is decided first"
        ),
        pytest.param("GET", [("range", "bytes=5-9")], (206, range(5, 10)), id="Range"),
        pytest.param("HEAD", [("range", "bytes=5-9")], (200, range(100)), id="Range is for GET only"),
        pytest.param("GET", [("range", "bytes=100-")], (416, range(0)), id="Range outside"),
        pytest.param("GET", [("range", "bytes=150-199")], (416, range(0)), id="Range far outside"),
        pytest.param("GET", [("range", "bytes=99-")], (206, range(99, 100)), id="Range of the last byte"),
        pytest.param("HEAD", [("range", "bytes=100-")], (200, range(100)), id="Range outside, on HEAD"),
        pytest.param(
            "GET", [("range", "bytes=100-"), ("if-none-match", ETAG)], (304, range(0)), id="If-None-Match before 416"
        ),
        pytest.param("GET", [("range", "bytes=5-9"), ("range", "bytes=7-8")], (200, range(100)), id="two Range lines"),
        pytest.param(
            "GET", [("range", "bytes=5-9"), ("if-none-match", ETAG)], (304, range(0)), id="If-None-Match before Range"
        ),
        pytest.param("GET", [("range", "bytes=5-"), ("if-range", ETAG)], (206, range(5, 100)), id="If-Range: ours"),
        pytest.param("GET", [("range", "bytes=5-"), ("if-range", OTHER)], (200, range(100)), id="If-Range: another"),
        pytest.param(
            "GET",
            [("range", "bytes=5-"), ("if-range", f"W/{ETAG}")],
            (200, range(100)),
            id="If-Range compares strongly",
        ),
        pytest.param(
            "GET",
            [("range", "bytes=5-"), ("if-range", "Sun, 09 Sep 2001 01:46:40 GMT")],
            (200, range(100)),
            id="If-Range: a date",
        ),
        pytest.param(
            "GET", [("range", "bytes=200-"), ("if-range", OTHER)], (200, range(100)), id="If-Range before 416"
        ),
        pytest.param(
            "GET", [("if-modified-since", "Sun, 09 Sep 2040 01:46:40 GMT")], (200, range(100)), id="dates are ignored"
        ),
    ],
)
def test_decide(method: str, headers: list[tuple[str, str]], expected: tuple[int, range]) -> None:
    def lines(wanted: str) -> list[str]:
        return [value for name, value in headers if name == wanted]

    assert decide(method, lines, ETAG, 100) == expected


@pytest.mark.parametrize(
    ("status", "part", "content_range"),
    [
        pytest.param(200, range(100), None, id="the whole file"),
        pytest.param(206, range(5, 10), "bytes 5-9/100", id="a part"),
        pytest.param(206, range(99, 100), "bytes 99-99/100", id="the last byte"),
        pytest.param(416, range(0), "bytes */100", id="a range that begins past the end"),
        pytest.param(304, range(0), None, id="not modified"),
    ],
)
def test_what_an_answer_says_of_its_bytes(status: int, part: range, content_range: str | None) -> None:
    headers = representation_headers(Sha256("a" * 64), 100, status, part)
    assert headers.get("Content-Range") == content_range
    assert headers["ETag"] == ETAG


def test_an_answer_about_a_file_says_how_to_go_on_and_what_the_whole_is() -> None:
    # RFC 9530, section 3: the digest of the whole file as a byte sequence, not of the part that is sent.
    assert representation_headers(Sha256("00ff" * 16), 100, 206, range(5, 10)) == {
        "ETag": f'"{"00ff" * 16}"',
        "Accept-Ranges": "bytes",
        "Repr-Digest": "sha-256=:AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8A/wD/AP8=:",
        "Content-Range": "bytes 5-9/100",
    }


@pytest.mark.parametrize(
    ("if_match", "expected"),
    [("*", True), (ETAG, True), (f"{OTHER}, {ETAG}", True), (OTHER, False), (f"W/{ETAG}", False), ("", False)],
)
def test_what_an_operator_says_in_if_match_names_the_state_it_saw(if_match: str, expected: bool) -> None:
    assert matches(if_match, ETAG) is expected
