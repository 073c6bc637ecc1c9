"""Conditions and ranges of HTTP (RFC 9110 §13 and §14), for representations whose strong ETag never changes. Pure.

If-Match, If-None-Match     decided first, in the order of §13.2.2; dates are ignored, a digest has none
If-Range                    honoured only when it is this ETag; a date or a weak tag gets the whole file
Range                       one range is honoured, for GET only (§14.2)
several ranges              the whole file, which §14.2 allows: a client that resumes asks for one, and
                            multipart/byteranges would multiply the ways to be wrong
an invalid range            ignored, as if the header were absent
"""

import base64
import re
from collections.abc import Callable, Sequence
from typing import Final, Literal

from shared.digest import Sha256

UNSATISFIABLE: Final = "unsatisfiable"

_RANGE = re.compile(r"([0-9]{0,20})-([0-9]{0,20})")
_ETAG = re.compile(r'(W/)?("[\x21\x23-\x7e\x80-\xff]*")')

Lines = Callable[[str], Sequence[str]]
"""A header's name to its lines, in order; empty where there is none."""


def decide(method: str, lines: Lines, etag: str, size: int) -> tuple[Literal[200, 206, 304, 412, 416], range]:
    """(status, the bytes to send) for a file of `size` bytes; no bytes unless it is 200 or 206. RFC 9110 §13.2.2."""
    if_match = _joined(lines, "if-match")
    if if_match is not None and not _names(if_match, etag, weakly=False):
        return 412, range(0)
    if_none_match = _joined(lines, "if-none-match")
    if if_none_match is not None and _names(if_none_match, etag, weakly=True):
        return 304, range(0)
    wanted = _joined(lines, "range")
    if method == "GET" and wanted is not None and (_joined(lines, "if-range") or etag).strip() == etag:
        part = parse_range(wanted, size)
        if part == UNSATISFIABLE:
            return 416, range(0)
        if part is not None:
            return 206, part
    return 200, range(size)


def matches(if_match: str, etag: str) -> bool:
    """True if the value of an If-Match header, `*` and lists too, names `etag`, itself strong. RFC 9110 §13.1.1."""
    return _names(if_match, etag, weakly=False)


def parse_range(header: str, size: int) -> range | Literal["unsatisfiable"] | None:
    """The bytes a Range header asks for, of a file of `size` bytes; None for all of it. RFC 9110 §14.1.2."""
    unit, _, text = header.partition("=")
    specs = [spec.strip(" \t") for spec in text.split(",") if spec.strip(" \t")]
    found = _RANGE.fullmatch(specs[0]) if unit.strip().lower() == "bytes" and len(specs) == 1 else None
    if found is None or found[0] == "-":
        return None
    if not found[1]:
        suffix = int(found[2])
        # A suffix of an empty file is satisfiable, and no Content-Range can say so.
        return UNSATISFIABLE if suffix == 0 else range(max(0, size - suffix), size) or None
    first, last = int(found[1]), int(found[2]) if found[2] else size
    if found[2] and last < first:
        return None
    return range(first, min(last + 1, size)) if first < size else UNSATISFIABLE


def representation_headers(sha256: Sha256, size: int, status: int, part: range) -> dict[str, str]:
    """What every answer about a file says of it: `decide` gave `status` and `part`. Repr-Digest is RFC 9530 §3."""
    headers = {
        "ETag": f'"{sha256}"',
        "Accept-Ranges": "bytes",
        "Repr-Digest": f"sha-256=:{base64.b64encode(bytes.fromhex(sha256)).decode()}:",
    }
    if status == 416:
        headers["Content-Range"] = f"bytes */{size}"
    if status == 206:
        headers["Content-Range"] = f"bytes {part.start}-{part.stop - 1}/{size}"
    return headers


def _joined(lines: Lines, name: str) -> str | None:
    """All lines of a list header as one (§5.3); None when there is none."""
    found = lines(name)
    return ", ".join(found) if found else None


def _names(header: str, etag: str, *, weakly: bool) -> bool:
    """Whether an If-Match or If-None-Match names `etag`, itself strong (§8.8.3.2)."""
    return header.strip() == "*" or any(tag == etag and (weakly or not weak) for weak, tag in _ETAG.findall(header))
