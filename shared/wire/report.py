"""The Report: what a rack says it lacks of the manifest it knows. JSON in a request that the rack's key has signed.

    {"format": "bootferry-report:2", "sequence": 1789000000000, "version": "0.1.0", "address": "10.0.0.2:5248",
     "knows": {"epoch": 1789000000, "serial": 7, "sha256": "…"},
     "pending": [{"image": "ubuntu:noble:amd64", "shown_version": "20260701", "code": "connection_lost"}],
     "bytes_left": 1, "bytes_free": 2, "error": {"code": "", "sentence": ""}}

`knows` is the last manifest the rack has accepted, by the digest of its payload; zeros and an empty text before the
first. `pending` are the images of that manifest which the rack does not show as it says, a lost file included; what is
not pending is shown. `shown_version` is what machines get meanwhile (empty: nothing; `unknown`: a version that the
manifest of its time did not name) and `code` why, where something went wrong. A report of version 1 named every digest
instead (`OldReport`).
"""

from dataclasses import asdict, dataclass, replace
from typing import Any

import msgspec

from shared.digest import Sha256
from shared.errors import InvalidDocument, InvalidValue
from shared.names import ImageKey
from shared.wire.messages import Format, Whole, decode, encode, require_text

REPORT_FORMAT = "bootferry-report:2"
MAX_REPORT_BYTES = 8 * 1024 * 1024
MAX_SENTENCE_CHARACTERS = 1000
_CODE_CHARACTERS = 64
UNKNOWN_VERSION = "unknown"


class Knows(msgspec.Struct, frozen=True):
    """A manifest by its order and the SHA-256 of its payload; `Knows()` is none."""

    epoch: Whole = 0
    serial: Whole = 0
    sha256: str = ""

    @property
    def order(self) -> tuple[int, int]:
        """Compares with `Manifest.order`."""
        return (self.epoch, self.serial)


class Pending(msgspec.Struct, frozen=True):
    """An image that the rack does not show as the manifest it knows says."""

    image: str
    shown_version: str = ""
    code: str = ""


class Fault(msgspec.Struct, frozen=True):
    """What went wrong last; both empty when all is well."""

    code: str = ""
    sentence: str = ""


class Report(msgspec.Struct, frozen=True, kw_only=True):
    """What a rack says of itself, in bytes where it counts.

    `sequence` rises with every report of a rack (milliseconds since 1970), so that an old one cannot replace a newer.
    `address` is where machines reach the rack, as `host:port`.
    """

    sequence: Whole
    version: str
    address: str = ""
    knows: Knows = Knows()
    pending: tuple[Pending, ...] = ()
    bytes_left: Whole = 0
    bytes_free: Whole = 0
    error: Fault = Fault()

    def encode(self) -> bytes:
        """The body of the request."""
        return encode({"format": REPORT_FORMAT, **msgspec.structs.asdict(self)})

    def says(self) -> bytes:
        """Everything but the sequence: equal for reports that tell nothing new."""
        return encode(msgspec.structs.asdict(msgspec.structs.replace(self, sequence=0)))


@dataclass(frozen=True, slots=True)
class OldReport:
    """A report of version 1: `epoch` and `serial` of the manifest whose tree the rack serves, every digest it holds."""

    sequence: int
    version: str
    epoch: int
    serial: int
    held: frozenset[Sha256]
    bytes_left: int
    bytes_free: int
    error_code: str = ""
    error: str = ""
    address: str = ""

    def encode(self) -> bytes:
        """The body of the request."""
        return encode(asdict(self) | {"held": sorted(self.held)})


class _Old(msgspec.Struct, kw_only=True):
    sequence: Whole
    version: str
    epoch: Whole
    serial: Whole
    held: frozenset[Sha256]
    bytes_left: Whole
    bytes_free: Whole
    error_code: str = ""
    error: str = ""
    address: str = ""


def parse_report(body: bytes) -> Report | OldReport:
    """The report in `body`, of either version; texts that are too long are cut. Raises InvalidDocument."""
    what = "The report"
    said = decode(what, body, Format, MAX_REPORT_BYTES).format
    try:
        match said:
            case "bootferry-report:2":
                return _checked(decode(what, body, Report, MAX_REPORT_BYTES))
            case "":
                old = OldReport(**_fields(decode(what, body, _Old, MAX_REPORT_BYTES)))
                return replace(
                    old,
                    version=require_text("version", old.version, 64),
                    error_code=require_text("error_code", old.error_code, _CODE_CHARACTERS),
                    error=require_text("error", old.error, MAX_SENTENCE_CHARACTERS),
                    address=require_text("address", old.address, 256),
                )
    except InvalidValue as error:
        raise InvalidDocument(what, str(error).rstrip(".")) from error
    raise InvalidDocument(what, f"its format is {said[:100]!r}, not {REPORT_FORMAT!r}")


def _checked(report: Report) -> Report:
    if report.knows.sha256:
        Sha256(report.knows.sha256)
    return msgspec.structs.replace(
        report,
        version=require_text("version", report.version, 64),
        address=require_text("address", report.address, 256),
        error=Fault(
            require_text("code", report.error.code, _CODE_CHARACTERS),
            require_text("sentence", report.error.sentence, MAX_SENTENCE_CHARACTERS),
        ),
        pending=tuple(
            Pending(
                str(ImageKey.parse(entry.image)),
                require_text("shown_version", entry.shown_version, 128),
                require_text("code", entry.code, _CODE_CHARACTERS),
            )
            for entry in report.pending
        ),
    )


def _fields(message: msgspec.Struct) -> dict[str, Any]:
    return msgspec.structs.asdict(message)
