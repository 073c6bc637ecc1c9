"""Ways in which a mirror can misbehave, as data. Positions and lengths are in bytes.

`HOSTILE` names one fault of each kind: whoever reads from a mirror must get over all of them. What a mirror can do to a
signature is in `deploy.local.mirror.forgeries`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field


@dataclass(frozen=True)
class Status:
    """Answer with this status, whatever was asked for."""

    code: int
    headers: Mapping[str, str] = field(default_factory=dict)
    body: bytes = b""


@dataclass(frozen=True)
class Cut:
    """Close the connection after so many bytes of the body; None: instead of any answer."""

    after: int | None


@dataclass(frozen=True)
class Reset:
    """Reset the connection after so many bytes of the body; None: instead of any answer."""

    after: int | None


@dataclass(frozen=True)
class Hang:
    """Fall silent, connection open, after so many bytes of the body; None: instead of any answer."""

    after: int | None


@dataclass(frozen=True)
class Flip:
    """Invert the byte at this position of the file, in whichever answer carries it."""

    at: int


@dataclass(frozen=True)
class IgnoreRange:
    """Answer 200 and the whole file to a request for a part."""


@dataclass(frozen=True)
class Slow:
    """Send the body at about this rate, until the server is told to behave."""

    bytes_per_second: int


@dataclass(frozen=True)
class DripHead:
    """Send a head without end, a byte every so many seconds."""

    every_s: float


@dataclass(frozen=True)
class Raw:
    """Say exactly this in place of an answer, HTTP or not, then close the connection."""

    says: bytes


@dataclass(frozen=True)
class Part:
    """Answer 206 with this Content-Range and the whole file, whatever was asked for."""

    content_range: str


@dataclass(frozen=True)
class Redirect:
    """Send the client elsewhere; None: back to the address it asked for, which makes a loop."""

    to: str | None
    code: int = 302


@dataclass(frozen=True)
class WrongLength:
    """Declare so much more in Content-Length than the body has, or less: then the body ends where it said."""

    by: int


@dataclass(frozen=True)
class Gzip:
    """Answer with `Content-Encoding: gzip`, asked for or not."""


@dataclass(frozen=True)
class HugeHeader:
    """Send one header field of so many bytes."""

    size: int


@dataclass(frozen=True)
class Endless:
    """Declare no length, and send zeros for ever after the file."""


Fault = (
    Status
    | Cut
    | Reset
    | Hang
    | Flip
    | IgnoreRange
    | Slow
    | DripHead
    | Raw
    | Part
    | Redirect
    | WrongLength
    | Gzip
    | HugeHeader
    | Endless
)

_PAGE = b"<!doctype html><title>Welcome to the hotel</title>"
_OK = b"HTTP/1.1 200 OK\r\n"

HOSTILE: Mapping[str, Fault] = {
    "not found": Status(404),
    "too many requests": Status(429, {"Retry-After": "1"}),
    "a fault of its own": Status(500),
    "busy": Status(503, {"Retry-After": "1"}),
    "no content": Status(204),
    "a log-in page": Status(200, {"Content-Type": "text/html"}, _PAGE),
    "hangs up": Cut(None),
    "hangs up after the head": Cut(0),
    "too short": Cut(300),
    "reset": Reset(None),
    "reset in the body": Reset(300),
    "silent": Hang(None),
    "silent in the body": Hang(300),
    "drips its head": DripHead(0.05),
    "drips its body": Slow(100),
    "too long": Endless(),
    "a length too great": WrongLength(10),
    "a length too small": WrongLength(-10),
    "two lengths": Raw(_OK + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\nab"),
    "no HTTP": Raw(b"SSH-2.0-OpenSSH_9.2\r\n"),
    "another byte": Flip(200),
    "compressed": Gzip(),
    "a header of a megabyte": HugeHeader(1_000_000),
    "20,000 headers": Raw(_OK + b"X: y\r\n" * 20_000 + b"Content-Length: 0\r\n\r\n"),
    "a part nobody asked for": Part("bytes 5-9/10"),
    "redirected in a circle": Redirect(None),
    "redirected to another scheme": Redirect("ftp://127.0.0.1/"),
    "redirected to where nobody answers": Redirect("http://127.0.0.1:1/"),
    "redirected to the metadata service": Redirect("http://169.254.169.254/latest/meta-data"),
}
