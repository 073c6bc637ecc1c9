"""Belief: what a rack believes, in one place. Whoever shows, serves or reports it reads it here.

The poll writes it; nobody else does.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime

from rack.tree import Tree
from shared.digest import Sha256
from shared.errors import BootferryError
from shared.wire.manifest import Manifest
from shared.wire.report import MAX_SENTENCE_CHARACTERS, Fault, Knows, Pending


@dataclass(slots=True)
class Belief:
    """What this rack believes. Sizes in bytes.

    `manifest` is the last one accepted, and `knows` the same by its digest. `pending` are the images of it that
    machines do not get as it says; `faults` says of those why, where something went wrong.
    """

    manifest: Manifest | None = None
    knows: Knows = field(default_factory=Knows)
    tree: Tree | None = None
    held: frozenset[Sha256] = frozenset()
    pending: tuple[Pending, ...] = ()
    faults: Mapping[str, Fault] = field(default_factory=dict)
    bytes_left: int = 0
    bytes_free: int = 0
    last_poll_at: datetime | None = None
    last_error: BootferryError | None = None
    polls: Counter[str] = field(default_factory=Counter)
    """How polls ended: `ok`, or the code of the first error."""
    bytes_pulled: int = 0
    """Of the files that came whole since this process began."""

    def pulled(self, size: int) -> None:
        """A file of `size` bytes has come."""
        self.bytes_pulled += size


@dataclass(slots=True)
class Round:
    """What went wrong in one poll, as it happened, and which files and images are behind because of it."""

    errors: list[BootferryError] = field(default_factory=list)
    files: dict[Sha256, BootferryError] = field(default_factory=dict)
    images: dict[str, BootferryError] = field(default_factory=dict)

    @property
    def error(self) -> BootferryError | None:
        """The first error, which is the one to be told; None while all is well."""
        return self.errors[0] if self.errors else None

    def miss(self, sha256: Sha256, error: BootferryError) -> None:
        """The file could not be had because of `error`."""
        self.files[sha256] = error
        if error not in self.errors:
            self.errors.append(error)

    def faults(self, manifest: Manifest) -> dict[str, Fault]:
        """Why images are behind, by image; the first reason found is the one."""
        found = {image: fault(error) for image, error in self.images.items()}
        for entry in manifest.entries:
            if (error := self.files.get(entry.sha256)) is not None:
                found.setdefault(entry.image, fault(error))
        return found


def fault(error: BootferryError | None) -> Fault:
    """The error as it is reported: a region takes no text that a database cannot hold."""
    if error is None:
        return Fault()
    sentence = "".join(character if character.isprintable() else " " for character in str(error))
    return Fault(error.code, sentence[:MAX_SENTENCE_CHARACTERS])


def pending(behind: Mapping[str, str], faults: Mapping[str, Fault]) -> tuple[Pending, ...]:
    """The images `behind` (`rack.tree.behind`), each with the code of its fault, by name."""
    return tuple(
        Pending(image, version, faults[image].code if image in faults else "")
        for image, version in sorted(behind.items())
    )
