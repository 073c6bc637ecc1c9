"""Patterns: what a selection says of images: an os, a release or a rule for releases, an architecture or `*`. Pure.

- `noble` is the release of that name.
- `lts` is the newest release with long-term support, `lts:3` are the newest three.
- `supported` are all releases whose support has not ended.
- `*` is every release of the os; the architecture `*` is every one that the releases have.

What they come to is told in `region.catalogue.rules`. Another name of a release, such as 24.04, is resolved where it is
said (`region.catalogue.aliases`).
"""

import re
from typing import NamedTuple, Self

from shared.errors import InvalidValue
from shared.names import ImageKey, Name

ANY = "*"
SUPPORTED = "supported"
_LTS = re.compile(r"lts(?::([1-9][0-9]?))?")


class Pattern(NamedTuple):
    """What is said of images. It is equal to the image of the same three names."""

    os: str
    release: str
    arch: str

    def __str__(self) -> str:
        return ":".join(self)

    @classmethod
    def parse(cls, os: str, release: str, arch: str) -> Self:
        """Raises InvalidValue unless each part is a name, or a rule where one may stand."""
        return cls(Name(os), parse_release(release), ANY if arch == ANY else Name(arch))


def parse_release(text: str) -> str:
    """A release's name, or a rule for releases. Raises InvalidValue."""
    if is_rule(text):
        return text
    try:
        return Name(text)
    except InvalidValue as error:
        why = "name one, as in noble or 24.04, or say lts, lts:2 (up to lts:99), supported or *"
        raise InvalidValue("release", text, why) from error


def is_rule(release: str) -> bool:
    """True if this names no release and says which are meant."""
    return release in (ANY, SUPPORTED) or lts_count(release) is not None


def lts_count(release: str) -> int | None:
    """How many of the newest releases with long-term support are meant; None for what is no such rule."""
    found = _LTS.fullmatch(release)
    return int(found[1] or 1) if found else None


def is_exact(pattern: ImageKey | Pattern) -> bool:
    """True for a pattern that names one image."""
    return pattern.arch != ANY and not is_rule(pattern.release)


def is_moving(pattern: ImageKey | Pattern) -> bool:
    """True for a rule out of which images fall by themselves: a newer one came, or support has ended."""
    return is_rule(pattern.release) and pattern.release != ANY
