"""What a rack must still know after a restart, beside its identity, its manifest and its tree.

<data_dir>/state.json
"""

import json
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from shared.disk import read_document, write_whole
from shared.errors import InvalidDocument


@dataclass(slots=True)
class State:
    """`floor` is the (epoch, serial) below which no manifest of the region with the fingerprint `region` is accepted.

    Of those with just that number only the one is whose payload has the SHA-256 `floor_sha256` ("": any, in a state of
    before). `confirmed` is the last confirmation of a large removal that was accepted from it (`rack.brake`).
    `unwanted` says since when (seconds since 1970) each thing on disk is named by nothing. `sequence` is that of the
    last report. The last poll, its error, and by image the code and sentence of why it is pending (`faults`) are for
    people who ask `bootferry-rack status`.
    """

    region: str = ""
    floor: tuple[int, int] = (0, 0)
    sequence: int = 0
    unwanted: dict[str, float] = field(default_factory=dict)
    last_poll_at: float | None = None
    error_code: str = ""
    error: str = ""
    floor_sha256: str = ""
    faults: dict[str, tuple[str, str]] = field(default_factory=dict)
    confirmed: tuple[int, int] = (0, 0)

    @classmethod
    def load(cls, root: Path) -> "State":
        """The state kept in `root`; a fresh one where there is none that can be read. Blocks."""
        try:
            document = read_document(root / "state.json")
            return cls(
                region=str(document["region"]),
                floor=(int(document["floor"][0]), int(document["floor"][1])),
                sequence=int(document["sequence"]),
                unwanted={str(name): float(since) for name, since in document["unwanted"].items()},
                last_poll_at=_optional(document["last_poll_at"]),
                error_code=str(document["error_code"]),
                error=str(document["error"]),
                floor_sha256=str(document.get("floor_sha256", "")),
                faults={str(image): (str(code), str(why)) for image, (code, why) in document.get("faults", {}).items()},
                confirmed=(int(document.get("confirmed", (0, 0))[0]), int(document.get("confirmed", (0, 0))[1])),
            )
        except (OSError, InvalidDocument, KeyError, IndexError, TypeError, ValueError, AttributeError):
            return cls()

    def save(self, root: Path) -> None:
        """Keep it, through a loss of power too. Blocks. Raises OSError."""
        write_whole(root / "state.json", json.dumps(asdict(self)).encode())


def _optional(value: Any) -> float | None:
    return None if value is None else float(value)
