"""Rules: the images that a selection means, of those that sources know. Pure, and told here alone.

- A pattern without a rule means the image it names, whether a source knows it or not.
- `lts:3` means the newest three releases with long-term support by their version numbers, for each architecture of
  those that have it: whatever leaves the rule has a successor of its own architecture.
- `supported` means what is supported on the day of the question; a release whose end nobody names is.
- A rule follows one source: the one that the selection names, else of those that know something it could mean a signed
  one before an unsigned one, one that is enabled before one that is not, then the one with the greatest priority. What
  another source says adds nothing to it and takes nothing from it.
- A source knows a release while it offers it, and after that for as long as something of it is held: a reading that
  failed, offers that lapsed and a release that vanished upstream take nothing out of a rule.

What is not done here: which source an image comes from is decided in `region.catalogue.targets`; what becomes of an
image that a rule no longer means, in `region.importing.plan`.
"""

from collections import defaultdict
from collections.abc import Iterable
from datetime import date
from typing import NamedTuple

from region.catalogue.facts import Wish
from region.catalogue.patterns import ANY, SUPPORTED, is_exact, is_rule, lts_count
from region.stream.documents import version_key
from shared.names import ImageKey, Name


class Known(NamedTuple):
    """An image that a source knows; `version` is the release's number. The source's are `signed` to `priority`."""

    source_id: int
    signed: bool
    enabled: bool
    priority: int
    image: ImageKey
    version: str
    lts: bool
    support_eol: date | None


def meanings(
    wishes: Iterable[Wish], known: Iterable[Known] = (), today: date = date.max
) -> dict[Wish, frozenset[ImageKey]]:
    """The images that each wish means today."""
    by_os: dict[str, list[Known]] = defaultdict(list)
    for entry in sorted(known, key=_order, reverse=True):
        by_os[entry.image.os].append(entry)
    return {wish: frozenset(_meant(wish, by_os[wish.image.os], today)) for wish in wishes}


def _order(entry: Known) -> tuple[object, ...]:
    """Last comes the newest release of the source that is followed before all others."""
    return entry.signed, entry.enabled, entry.priority, entry.source_id, version_key(entry.version), entry.image


def _meant(wish: Wish, known: list[Known], today: date) -> Iterable[ImageKey]:
    """`known` are images of the wish's os, by source and then by age: the first to follow, and the newest, first."""
    pattern = wish.image
    if is_exact(pattern):
        return (ImageKey(Name(pattern.os), Name(pattern.release), Name(pattern.arch)),)
    able = [
        entry
        for entry in known
        if wish.source_id in (None, entry.source_id)
        and pattern.arch in (ANY, entry.image.arch)
        and (is_rule(pattern.release) or pattern.release == entry.image.release)
    ]
    followed = [entry for entry in able if entry.source_id == able[0].source_id]
    if pattern.release == SUPPORTED:
        followed = [entry for entry in followed if entry.support_eol is None or entry.support_eol >= today]
    elif (count := lts_count(pattern.release)) is not None:
        followed = _newest_lts(followed, count)
    return (entry.image for entry in followed)


def _newest_lts(known: Iterable[Known], count: int) -> list[Known]:
    """For each architecture the first `count` releases with long-term support."""
    by_arch: dict[str, dict[ImageKey, Known]] = defaultdict(dict)
    for entry in known:
        found = by_arch[entry.image.arch]
        if entry.lts and len(found) < count:
            found[entry.image] = entry
    return [entry for found in by_arch.values() for entry in found.values()]
