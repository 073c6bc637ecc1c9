"""Ways in which a mirror can misbehave, as data. Positions and lengths are in bytes."""

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


Fault = Status | Cut | Hang | Flip | IgnoreRange | Slow | Redirect | WrongLength | Gzip | HugeHeader | Endless
