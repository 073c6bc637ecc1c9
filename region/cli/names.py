"""Images, sources, racks and tokens as they are typed and shown."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from region.cli.exits import Failed, Misused
from shared.errors import InvalidValue
from shared.names import Name

Item = Mapping[str, Any]
ALL = "*"
_RULE = re.compile(r"lts(:[1-9][0-9]?)?|supported|\*")


class Release(NamedTuple):
    """A release of an operating system: `ubuntu/noble`."""

    os: str
    name: str

    def __str__(self) -> str:
        return f"{self.os}/{self.name}"


class Image(NamedTuple):
    """A release for one architecture: `ubuntu/noble/amd64`; the API's id of it is `ubuntu:noble:amd64`."""

    os: str
    release: str
    arch: str

    @property
    def id(self) -> str:
        """As the API names it."""
        return ":".join(self)

    @property
    def of(self) -> Release:
        """The release it is an image of."""
        return Release(self.os, self.release)

    def __str__(self) -> str:
        return "/".join(self)


def parse(text: str) -> Release | Image:
    """`ubuntu/noble` or `ubuntu/noble/amd64`; colons do as well. Raises InvalidValue."""
    parts = [Name(part) for part in _parts(text)]
    match parts:
        case [os, release]:
            return Release(os, release)
        case [os, release, arch]:
            return Image(os, release, arch)
    raise InvalidValue("image", text, "write it as ubuntu/noble or ubuntu/noble/amd64")


def parse_wish(text: str) -> Release | Image:
    """What may be selected: `parse`, or a rule such as `ubuntu/lts:2` or `ubuntu/noble/*`. Raises InvalidValue."""
    match _parts(text):
        case [os, release]:
            return Release(Name(os), release if is_rule(release) else Name(release))
        case [os, release, arch]:
            return Image(Name(os), release if is_rule(release) else Name(release), arch if arch == ALL else Name(arch))
    raise InvalidValue("image", text, "write it as ubuntu/noble, ubuntu/noble/amd64, or as a rule like ubuntu/lts:2")


def is_rule(release: str) -> bool:
    """True if this names no release and says which are meant, as the API takes it."""
    return _RULE.fullmatch(release) is not None


def _parts(text: str) -> list[str]:
    """What is between slashes or colons; the colon of a rule like `lts:2` parts nothing."""
    return [part for part in re.split(r"/|(?<!/lts)(?<!:lts):|:(?![0-9]+(?:[/:]|$))", text) if part]


def parse_image(text: str) -> Image:
    """An image with its architecture. Raises InvalidValue."""
    found = parse(text)
    if isinstance(found, Release):
        raise InvalidValue("image", text, f"name its architecture too, as in {found}/amd64")
    return found


def image_of(item: Item) -> Image:
    """The image an item of the API speaks of."""
    return Image(str(item.get("os", "")), str(item.get("release", "")), str(item.get("arch", "")))


def shown(image_id: str) -> str:
    """An image's id, or a rule, as it is shown."""
    return "/".join(_parts(image_id))


def pick(items: Sequence[Item], noun: str, text: str) -> Item:
    """The item with this id or name, or with the only id that begins so. Raises Failed; Misused when several fit."""
    for item in items:
        if text == str(item.get("id")):
            return item
    found = [item for item in items if text == item.get("name")]
    found = found or [item for item in items if len(text) >= 4 and str(item.get("id")).startswith(text)]
    if len(found) > 1:
        ids = ", ".join(str(item.get("id")) for item in found)
        raise Misused(f"There are {len(found)} {noun}s {text}; name one by its id: {ids}.")
    if found:
        return found[0]
    raise Failed("not_found", f"There is no {noun} {text}; {_known(items, noun)}.")


def _known(items: Iterable[Item], noun: str) -> str:
    known = [str(item.get("name")) for item in items]
    if not known:
        return f"the region has no {noun}s"
    return f"the region has {', '.join(known[:5])}{' and others' if len(known) > 5 else ''}"
