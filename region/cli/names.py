"""Images, sources, racks and tokens as they are typed and shown."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

from region.cli.exits import Failed, Misused
from shared.errors import InvalidValue
from shared.names import Name

Item = Mapping[str, Any]


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
    parts = [Name(part) for part in text.replace(":", "/").split("/") if part]
    match parts:
        case [os, release]:
            return Release(os, release)
        case [os, release, arch]:
            return Image(os, release, arch)
    raise InvalidValue("image", text, "write it as ubuntu/noble or ubuntu/noble/amd64")


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
    """An image's id as it is shown."""
    return image_id.replace(":", "/")


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
