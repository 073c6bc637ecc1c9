"""Simplestreams documents: bytes to typed values, or InvalidDocument. Pure.

    index     {"format": "index:1.0", "updated": …, "index": {content_id: {"format", "datatype", "path", "updated"}}}
    products  {"format": "products:1.0", "updated": …, "content_id": …, "products": {name: {…tags,
                "versions": {name: {…tags, "items": {key: {"ftype", "path", "sha256", "size", …tags}}}}}}}

Whatever is returned can be used as it stands: names and paths cannot climb out of a directory, sizes are sane, texts
are short and printable, a path has one digest and a digest one size throughout the document. What could not be used is
named in `skipped`, and costs nothing beside itself.

Format: simplestreams, doc/README (tags inherit: document, product, version, item; later wins; only strings, numbers and
booleans count, all as text). Fields and ftypes: the ones MAAS reads from `images.maas.io`.
"""

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import cache
from typing import Any, NoReturn

from shared.digest import Sha256
from shared.errors import InvalidDocument, InvalidValue
from shared.layout import BOOTLOADER
from shared.names import Name, RelativePath
from shared.sizes import spoken_size

MAX_DOCUMENT_BYTES = 64 * 1024 * 1024
MAX_ITEM_BYTES = 64 * 1024**3
MAX_PRODUCTS = 100_000
MAX_TEXT_CHARACTERS = 256

KERNEL, INITRD, ARCHIVE = "boot-kernel", "boot-initrd", "archive.tar.xz"
ROOT_FTYPES = frozenset(
    {
        *("squashfs", "root-image", "root-image.gz"),
        *("root-tgz", "root-tbz", "root-txz", "root.tgz", "root.tbz", "root.txz"),
        *("root-dd", "root-dd.tar", "root-dd.raw", "root-dd.bz2", "root-dd.gz", "root-dd.xz"),
        *("root-dd.tgz", "root-dd.tar.bz2", "root-dd.tar.xz"),
    }
)
"""Root images: MAAS's BootResourceFileType, the names its racks give uploads, and the long forms of both."""
KNOWN_FTYPES = ROOT_FTYPES | {KERNEL, INITRD, ARCHIVE, "boot-dtb", "manifest", "squashfs.manifest"}

_IDENTITY_TAGS = frozenset({"os", "arch", "release", "subarch", "kflavor", "label", "bootloader-type"})


class ProductKind(StrEnum):
    """What a product is, decided by its fields and its items' ftypes, never by its name."""

    BOOT = "boot"
    """A kernel and its initrd, mostly with a root image: machines can start from it."""
    ROOT = "root"
    """A root image without a kernel of its own: it is deployed from another product's kernel."""
    BOOTLOADER = "bootloader"
    """Archives that a rack unpacks for machines to load first."""


@dataclass(frozen=True, slots=True)
class Item:
    """One file of a version. `path` is relative to the mirror's root; `size` is in bytes."""

    key: Name
    ftype: Name
    path: RelativePath
    sha256: Sha256
    size: int


@dataclass(frozen=True, slots=True)
class Version:
    """One publication of a product, whole: it has every file its kind needs, and no ftype twice but archives."""

    name: Name
    items: tuple[Item, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One os, release, architecture and kernel; no other product of the document has the same five names.

    `subarch` has the kernel flavour folded in. A bootloader's `release` is its `os` and its `subarch` its type.
    `versions` is never empty and ascends by name, as byte strings.
    """

    name: str
    kind: ProductKind
    os: Name
    release: Name
    arch: Name
    subarch: Name
    label: Name
    title: str
    version: str
    codename: str
    support_eol: date | None
    bootloader_type: Name | None
    is_ga: bool
    """The kernel the release came with, which a rack's tree also has as `generic`."""
    versions: tuple[Version, ...]

    @property
    def lts(self) -> bool:
        """A release with long-term support, by its title."""
        return "LTS" in self.title


@dataclass(frozen=True, slots=True)
class Skipped:
    """A part of a document that could not be used: its printable `name`, and a sentence that says why."""

    name: str
    why: str


@dataclass(frozen=True, slots=True)
class Products:
    """A product file: what it offers, and what of it could not be used. `updated` is in UTC."""

    content_id: str
    updated: datetime
    products: tuple[Product, ...]
    skipped: tuple[Skipped, ...]


@dataclass(frozen=True, slots=True)
class IndexEntry:
    """One product file of images. `path` is relative to the mirror's root, not to the index."""

    content_id: str
    path: RelativePath
    updated: datetime | None


@dataclass(frozen=True, slots=True)
class Index:
    """A stream's index: its product files of images. `updated` is in UTC."""

    updated: datetime
    entries: tuple[IndexEntry, ...]
    skipped: tuple[Skipped, ...]


class _Unusable(Exception):
    """One product, version or entry cannot be used; its text is the sentence that says why."""


def parse_index(payload: bytes, where: str) -> Index:
    """The index in `payload`; an entry that is not a product file of images is named in `skipped`.

    Raises InvalidDocument, which names the document as `where`.
    """
    document = _load(payload, where, "index:1.0")
    entries: list[IndexEntry] = []
    skipped: list[Skipped] = []
    for content_id, fields in _mapping(document, "index", where).items():
        try:
            entries.append(_index_entry(content_id, fields))
        except (_Unusable, InvalidValue) as error:
            skipped.append(Skipped(_shown(content_id), str(error)))
    return Index(_updated(document, where), tuple(entries), tuple(skipped))


def parse_products(payload: bytes, where: str) -> Products:
    """The products in `payload`, ascending by name; whatever cannot be used is named in `skipped`.

    Takes 20 to 30 us per item: keep large documents out of the event loop. Raises InvalidDocument, which names the
    document as `where`.
    """
    document = _load(payload, where, "products:1.0")
    named = _mapping(document, "products", where)
    if len(named) > MAX_PRODUCTS:
        raise InvalidDocument(where, f"it has {len(named)} products and {MAX_PRODUCTS} are the most it may have")
    try:
        content_id = _text(_tags(document), "content_id")
    except _Unusable as error:
        raise InvalidDocument(where, str(error).rstrip(".")) from error
    reading = _Reading(top=_tags(document))
    products = reading.without_contradictions(
        product for name in sorted(named) if (product := reading.product(name, named[name]))
    )
    return Products(content_id, _updated(document, where), tuple(products), reading.all_skipped())


def version_key(text: str) -> tuple[tuple[int, str], ...]:
    """Orders version numbers as people do: '6.6' < '7' < '24.04' < '24.04.1' < '26.04'. Words come before numbers."""
    return tuple(
        (int(part), "") if part.isdecimal() else (-1, part) for part in re.findall(r"[0-9]+|[^0-9.]+", text[:64])
    )


def newest_lts(products: Iterable[Product], arch: str) -> Name | None:
    """The Ubuntu release with long-term support and the highest version number that machines of `arch` can boot."""
    newest = max(
        (p for p in products if p.kind is ProductKind.BOOT and p.os == "ubuntu" and p.arch == arch and p.lts),
        key=lambda product: version_key(product.version),
        default=None,
    )
    return newest.release if newest else None


@dataclass(slots=True)
class _Reading:
    """One reading of one product file: what was skipped so far, and each distinct name parsed once."""

    top: Mapping[str, str]
    skipped: list[Skipped] = field(default_factory=list)
    unknown_ftypes: Counter[str] = field(default_factory=Counter)
    named: Callable[[str], Name] = field(default_factory=lambda: cache(Name))
    path: Callable[[str], RelativePath] = field(default_factory=lambda: cache(RelativePath))
    sha256: Callable[[str], Sha256] = field(default_factory=lambda: cache(Sha256))

    def skip(self, name: str, why: object) -> None:
        self.skipped.append(Skipped(_shown(name), str(why)))

    def all_skipped(self) -> tuple[Skipped, ...]:
        """Everything skipped; an unknown ftype is named once."""
        unknown = (
            Skipped(f"ftype {_shown(ftype)}", f"No rack uses files of this ftype; {count} of them were left out.")
            for ftype, count in sorted(self.unknown_ftypes.items())
        )
        return (*self.skipped, *unknown)

    def product(self, name: str, fields: object) -> Product | None:
        try:
            return self._product(name, fields)
        except (_Unusable, InvalidValue) as error:
            self.skip(name, error)
            return None

    def _product(self, name: str, fields: object) -> Product:
        _require_printable(name)
        if not isinstance(fields, dict):
            raise _Unusable("It is not an object.")
        tags = {**self.top, **_tags(fields)}
        offered = fields.get("versions")
        if not isinstance(offered, dict) or not offered:
            raise _Unusable("It has no versions.")
        kind = _kind(tags, offered)
        # The newest version's tags say what the product is; a version that says otherwise is skipped.
        newest = offered[max(offered)]
        product = self._describe(name, kind, {**tags, **_tags(newest)} if isinstance(newest, dict) else tags)
        versions: list[Version] = []
        for version_name in sorted(offered):
            try:
                version, own_tags = self._version(version_name, offered[version_name], tags, kind)
                if not _IDENTITY_TAGS.isdisjoint(own_tags):
                    self._require_same_product(product, {**tags, **own_tags})
                versions.append(version)
            except (_Unusable, InvalidValue) as error:
                self.skip(f"{name} {version_name}", error)
        return replace(product, versions=tuple(versions))

    def _require_same_product(self, product: Product, tags: Mapping[str, str]) -> None:
        if _identity(self._describe(product.name, product.kind, tags)) != _identity(product):
            raise _Unusable("Its tags say that it belongs to another product than the newest version.")

    def _describe(self, name: str, kind: ProductKind, tags: Mapping[str, str]) -> Product:
        """The product without versions, as `tags` describe it."""
        os, arch, label = (self.named(_text(tags, key)) for key in ("os", "arch", "label"))
        version = _text(tags, "version", "")
        if kind is ProductKind.BOOTLOADER:
            bootloader_type = self.named(_text(tags, "bootloader-type"))
            release, subarch, title = os, bootloader_type, f"{os} ({bootloader_type})"
        else:
            if os == BOOTLOADER:
                raise _Unusable(f"Its os is {BOOTLOADER}, a name that only bootloaders have on racks.")
            bootloader_type = None
            release = self.named(_text(tags, "release"))
            subarch = self.named(_fold(_text(tags, "subarch", "generic"), _text(tags, "kflavor", "generic")))
            title = _text(tags, "release_title", "") or version or release
        return Product(
            name=name,
            kind=kind,
            os=os,
            release=release,
            arch=arch,
            subarch=subarch,
            label=label,
            title=title,
            version=version,
            codename=_text(tags, "release_codename", ""),
            support_eol=_date(tags.get("support_eol", "")),
            bootloader_type=bootloader_type,
            is_ga=kind is ProductKind.BOOT and subarch in (f"ga-{version}", f"hwe-{release[0]}"),
            versions=(),
        )

    def _version(
        self, name: str, fields: object, tags: Mapping[str, str], kind: ProductKind
    ) -> tuple[Version, dict[str, str]]:
        version_name = self.named(name)
        if not isinstance(fields, dict) or not isinstance(fields.get("items"), dict):
            raise _Unusable("It has no items.")
        own_tags = _tags(fields)
        inherited = {**tags, **own_tags} if own_tags else tags
        items = tuple(item for key, raw in fields["items"].items() if (item := self._item(key, raw, inherited)))
        _require_whole(kind, items)
        return Version(version_name, items), own_tags

    def _item(self, key: str, fields: object, tags: Mapping[str, str]) -> Item | None:
        """The item, or None when it is of an ftype no rack has a use for."""
        if not isinstance(fields, dict):
            raise _Unusable(f"Its item {_shown(key)} is not an object.")
        if not _IDENTITY_TAGS.isdisjoint(fields):
            _require_same_identity(key, fields, tags)
        ftype = _inherited(key, fields, tags, "ftype")
        if ftype not in KNOWN_FTYPES:
            self.unknown_ftypes[ftype] += 1
            return None
        path = _inherited(key, fields, tags, "path")
        if not path.isascii():
            _require_printable(path, "path")
        return Item(
            self.named(key),
            self.named(ftype),
            self.path(path),
            self.sha256(_inherited(key, fields, tags, "sha256")),
            _size(key, fields.get("size", tags.get("size"))),
        )

    def without_contradictions(self, products: Iterable[Product]) -> list[Product]:
        """Those of `products`, less the versions and products that deny what another one says."""
        candidates = list(products)
        contradicted = _contradicted(candidates)
        kept: dict[tuple[Name, ...], Product] = {}
        for candidate in candidates:
            product = self._consistent(candidate, contradicted) if contradicted else candidate
            if not product.versions:
                self.skip(product.name, "None of its versions can be used.")
            elif (first := kept.setdefault(_identity(product), product)) is not product:
                self.skip(product.name, f"It has the os, release, architecture, kernel and label of {first.name}.")
        return list(kept.values())

    def _consistent(self, product: Product, contradicted: set[str]) -> Product:
        versions: list[Version] = []
        for version in product.versions:
            if denied := next((i for i in version.items if i.path in contradicted or i.sha256 in contradicted), None):
                self.skip(
                    f"{product.name} {version.name}",
                    f"The document gives {denied.path} two digests, or its digest two sizes.",
                )
            else:
                versions.append(version)
        return replace(product, versions=tuple(versions))


def _contradicted(products: Iterable[Product]) -> set[str]:
    """The paths that have more than one digest, and the digests that have more than one size."""
    digests: dict[RelativePath, Sha256] = {}
    sizes: dict[Sha256, int] = {}
    contradicted: set[str] = set()
    for product in products:
        for version in product.versions:
            for item in version.items:
                if digests.setdefault(item.path, item.sha256) != item.sha256:
                    contradicted.add(item.path)
                if sizes.setdefault(item.sha256, item.size) != item.size:
                    contradicted.add(item.sha256)
    return contradicted


def _identity(product: Product) -> tuple[Name, ...]:
    return (product.os, product.release, product.arch, product.subarch, product.label)


def _kind(tags: Mapping[str, str], versions: Mapping[str, object]) -> ProductKind:
    ftypes = {_as_text(item.get("ftype")) or tags.get("ftype") for item in _raw_items(versions)} - {None}
    if "bootloader-type" in tags and ARCHIVE in ftypes:
        return ProductKind.BOOTLOADER
    if not ftypes.isdisjoint({KERNEL, INITRD}):
        return ProductKind.BOOT
    if not ftypes.isdisjoint(ROOT_FTYPES):
        return ProductKind.ROOT
    seen = ", ".join(sorted(_shown(ftype) for ftype in ftypes if ftype)[:5]) or "none"
    raise _Unusable(f"It is neither a kernel, nor a root image, nor a bootloader; its ftypes: {seen}.")


def _raw_items(versions: Mapping[str, object]) -> Iterable[dict[str, object]]:
    for version in versions.values():
        items = version.get("items") if isinstance(version, dict) else None
        if isinstance(items, dict):
            yield from (item for item in items.values() if isinstance(item, dict))


def _require_whole(kind: ProductKind, items: tuple[Item, ...]) -> None:
    counts = Counter(item.ftype for item in items)
    for ftype, count in counts.items():
        if count > 1 and ftype != ARCHIVE:
            raise _Unusable(f"It has {count} items of the ftype {ftype} where one can be.")
    match kind:
        case ProductKind.BOOT:
            missing = [ftype for ftype in (KERNEL, INITRD) if ftype not in counts]
        case ProductKind.ROOT:
            missing = [] if ROOT_FTYPES & counts.keys() else ["root image"]
        case ProductKind.BOOTLOADER:
            missing = [] if ARCHIVE in counts else [ARCHIVE]
    if missing:
        raise _Unusable(f"It has no {' and no '.join(missing)}.")


def _fold(subarch: str, kflavor: str) -> str:
    """The subarchitecture with its kernel flavour in the name, "edge" last, as racks of MAAS name it."""
    if kflavor == "generic" or f"-{kflavor}-" in f"-{subarch}-":
        return subarch
    if subarch.endswith("-edge"):
        return f"{subarch.removesuffix('-edge')}-{kflavor}-edge"
    return f"{subarch}-{kflavor}"


def _index_entry(content_id: str, fields: object) -> IndexEntry:
    _require_printable(content_id)
    if not isinstance(fields, dict):
        raise _Unusable("It is not an object.")
    if fields.get("datatype") != "image-ids" or fields.get("format") != "products:1.0":
        said = f"{_shown(fields.get('datatype'))}, {_shown(fields.get('format'))}"
        raise _Unusable(f"It is not a product file of images (image-ids, products:1.0) but says {said}.")
    path = fields.get("path")
    if isinstance(path, str):
        _require_printable(path, "path")
    return IndexEntry(content_id, RelativePath(path), _rfc_2822(fields.get("updated")))


def _load(payload: bytes, where: str, wanted_format: str) -> dict[str, Any]:
    if len(payload) > MAX_DOCUMENT_BYTES:
        raise InvalidDocument(where, f"it is larger than {spoken_size(MAX_DOCUMENT_BYTES)}")
    try:
        # json would guess at UTF-16 and UTF-32; the format is UTF-8, without a byte order mark.
        document = json.loads(payload.decode("utf-8"), object_pairs_hook=_object, parse_constant=_no_constant)
    except UnicodeDecodeError as error:
        raise InvalidDocument(where, f"it is not UTF-8 at byte {error.start}") from None
    except RecursionError:
        raise InvalidDocument(where, "it is nested too deeply") from None
    except json.JSONDecodeError as error:
        # The error of json carries the whole document: it must not be kept.
        where_in_it = f"line {error.lineno}, column {error.colno}"
        raise InvalidDocument(where, f"it is not JSON from {where_in_it} on") from None
    except ValueError as error:
        raise InvalidDocument(where, f"it is not JSON ({_shown(str(error))})") from None
    if not isinstance(document, dict) or document.get("format") != wanted_format:
        said = _shown(document.get("format")) if isinstance(document, dict) else "none"
        raise InvalidDocument(where, f"its format is {said} and should be {wanted_format}")
    return document


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    fields = dict(pairs)
    if len(fields) != len(pairs):
        twice = next(name for name, count in Counter(name for name, _ in pairs).items() if count > 1)
        raise ValueError(f"the key {twice!r} is there twice")
    return fields


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is not a number")


def _mapping(document: Mapping[str, Any], key: str, where: str) -> dict[str, Any]:
    found = document.get(key)
    if not isinstance(found, dict):
        raise InvalidDocument(where, f"its {key!r} is not an object")
    return found


def _updated(document: Mapping[str, Any], where: str) -> datetime:
    if (updated := _rfc_2822(document.get("updated"))) is None:
        raise InvalidDocument(where, "its 'updated' is not a date as in RFC 2822")
    return updated


def _rfc_2822(text: object) -> datetime | None:
    if not isinstance(text, str) or len(text) > MAX_TEXT_CHARACTERS:
        return None
    try:
        moment = parsedate_to_datetime(text)
        return moment.replace(tzinfo=UTC) if moment.tzinfo is None else moment.astimezone(UTC)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None


def _date(text: str) -> date | None:
    try:
        return date.fromisoformat(text)
    except ValueError:
        return None


def _tags(fields: Mapping[str, object]) -> dict[str, str]:
    return {key: text for key, value in fields.items() if (text := _as_text(value)) is not None}


def _as_text(value: object) -> str | None:
    if isinstance(value, str):
        return value
    return str(value) if isinstance(value, int | float) else None


def _text(tags: Mapping[str, str], key: str, default: str | None = None) -> str:
    text = tags.get(key, default)
    if text is None:
        raise _Unusable(f"It has no {key}.")
    _require_printable(text, key)
    return text


def _inherited(key: str, fields: Mapping[str, object], tags: Mapping[str, str], tag: str) -> str:
    value = fields.get(tag)
    if isinstance(value, str):
        return value
    if (text := _as_text(value)) is None and (text := tags.get(tag)) is None:
        raise _Unusable(f"Its item {_shown(key)} has no {tag}.")
    return text


def _require_same_identity(key: str, fields: Mapping[str, object], tags: Mapping[str, str]) -> None:
    for tag in sorted(_IDENTITY_TAGS.intersection(fields)):
        if _as_text(fields[tag]) not in (None, tags.get(tag)):
            raise _Unusable(f"Its item {_shown(key)} has another {tag} than its product.")


def _size(key: str, value: object) -> int:
    if isinstance(value, str) and value.isascii() and value.isdecimal() and len(value) <= 20:
        value = int(value)
    if not isinstance(value, int) or isinstance(value, bool):
        raise _Unusable(f"Its item {_shown(key)} has no size in bytes.")
    if not 0 <= value <= MAX_ITEM_BYTES:
        raise _Unusable(
            f"Its item {_shown(key)} has a size of {_shown(value)} bytes, outside 0 to {spoken_size(MAX_ITEM_BYTES)}."
        )
    return value


def _require_printable(text: str, what: str = "name") -> None:
    if len(text) > MAX_TEXT_CHARACTERS or not text.isprintable():
        raise _Unusable(
            f"Its {what} {_shown(text)} is longer than {MAX_TEXT_CHARACTERS} characters, or has control characters."
        )


def _shown(value: object) -> str:
    """`value` from outside, fit to be printed in a sentence."""
    text = "".join(character if character.isprintable() else "?" for character in str(value)[:200])
    return text if len(text) <= 120 else f"{text[:117]}..."
