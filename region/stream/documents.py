"""Simplestreams documents: bytes to typed values, or InvalidDocument. Pure.

    index     {"format": "index:1.0", "updated": …, "index": {content_id: {"format", "datatype", "path", "updated"}}}
    products  {"format": "products:1.0", "updated": …, "content_id": …, "products": {name: {…tags,
                "versions": {name: {…tags, "items": {key: {"ftype", "path", "sha256", "size", …tags}}}}}}}

Whatever is returned can be used as it stands:

- Names and paths cannot climb out of a directory, and mean the same to every server and file system; one slash before a
  path is taken off.
- Sizes are whole numbers of bytes, as JSON has them: no texts, no truths, no fractions.
- Texts are short and printable. A path has one digest and a digest one size throughout the document.
- Names of one tree do not differ by case alone: products, versions of a product, items of a version.

What could not be used is named in `skipped` (the first 1000 of it), and costs nothing beside itself. Fields that nobody
reads are never built (`region.stream.fields`), and all there is too much of is refused before it is built: memory is
some three times the payload at most.

Format: simplestreams, doc/README (tags inherit: document, product, version, item; later wins; only strings, numbers and
booleans count, all as text). Fields and ftypes: the ones MAAS reads from `images.maas.io`.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import UTC, date, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from functools import cache

from msgspec import Raw

from region.stream.fields import InvalidFields, Objects, Scalar, TooManyFields, outermost, scalar
from shared.digest import Sha256
from shared.errors import InvalidDocument, InvalidValue
from shared.layout import BOOTLOADER
from shared.names import Name, RelativePath
from shared.sizes import spoken_size

MAX_DOCUMENT_BYTES = 32 * 1024 * 1024
MAX_ITEM_BYTES = 64 * 1024**3
MAX_PRODUCTS = 100_000
MAX_VERSIONS = 50_000
"""In one document."""
MAX_ITEMS = 100_000
"""In one document. The stable stream of images.maas.io has 2,326."""
MAX_FIELDS = 1000
"""Of a document, product, version or item."""
MAX_SKIPPED = 1000
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
_ITEM_TAGS = frozenset({"ftype", "path", "sha256", "size"})
_TAGS = _IDENTITY_TAGS | _ITEM_TAGS | {"content_id", "version", "release_title", "release_codename", "support_eol"}
"""The tags that are read, on whichever level they stand."""

Fields = Mapping[str, Raw]
Tags = Mapping[str, Scalar]


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
        return is_lts(self.title)


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


class _TooMuch(Exception):
    """The document has more than any may have; its text completes "it cannot be read: …"."""


@dataclass(slots=True)
class _Skips:
    """What was skipped; the first of it by name, the rest as a number."""

    named: list[Skipped] = field(default_factory=list)
    more: int = 0

    def add(self, name: str, why: object) -> None:
        if len(self.named) < MAX_SKIPPED:
            self.named.append(Skipped(_shown(name), str(why)))
        else:
            self.more += 1

    def all(self) -> tuple[Skipped, ...]:
        if not self.more:
            return tuple(self.named)
        return (*self.named, Skipped("others", f"{self.more} more parts of the document cannot be used either."))


def parse_index(payload: bytes, where: str) -> Index:
    """The index in `payload`; an entry that is not a product file of images is named in `skipped`.

    Raises InvalidDocument, which names the document as `where`.
    """
    objects = Objects()
    document = _load(payload, where, "index:1.0", objects)
    entries: list[IndexEntry] = []
    skipped = _Skips()
    for content_id, raw in _named(document, "index", where, objects).items():
        try:
            entries.append(_index_entry(content_id, objects.fields(raw, MAX_FIELDS)))
        except (_Unusable, InvalidValue) as error:
            skipped.add(content_id, error)
        except InvalidFields as error:
            skipped.add(content_id, f"It {error}.")
    return Index(_updated(document, where), tuple(entries), skipped.all())


def parse_products(payload: bytes, where: str) -> Products:
    """The products in `payload`, ascending by name; whatever cannot be used is named in `skipped`.

    Takes 20 to 30 us per item: keep large documents out of the event loop. Raises InvalidDocument, which names the
    document as `where`.
    """
    objects = Objects()
    document = _load(payload, where, "products:1.0", objects)
    named = _named(document, "products", where, objects)
    top = _tags(document)
    try:
        content_id = _text(top, "content_id")
    except _Unusable as error:
        raise InvalidDocument(where, str(error).rstrip(".")) from error
    reading = _Reading(top=top, objects=objects)
    try:
        products = reading.without_contradictions(
            product for name in sorted(named) if (product := reading.product(name, named[name]))
        )
    except _TooMuch as error:
        raise InvalidDocument(where, str(error)) from error
    return Products(content_id, _updated(document, where), tuple(products), reading.all_skipped())


def is_lts(title: str) -> bool:
    """True for the title of a release with long-term support."""
    return "LTS" in title


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

    top: Tags
    objects: Objects
    skipped: _Skips = field(default_factory=_Skips)
    unknown_ftypes: Counter[str] = field(default_factory=Counter)
    versions_left: int = field(default_factory=lambda: MAX_VERSIONS)
    items_left: int = field(default_factory=lambda: MAX_ITEMS)
    named: Callable[[str], Name] = field(default_factory=lambda: cache(Name))
    sha256: Callable[[str], Sha256] = field(default_factory=lambda: cache(Sha256))

    def all_skipped(self) -> tuple[Skipped, ...]:
        """Everything skipped; an unknown ftype is named once."""
        unknown = (
            Skipped(f"ftype {_shown(ftype)}", f"No rack uses files of this ftype; {count} of them were left out.")
            for ftype, count in sorted(self.unknown_ftypes.items())
        )
        return (*self.skipped.all(), *unknown)

    def product(self, name: str, raw: Raw) -> Product | None:
        try:
            return self._product(name, self.objects.fields(raw, MAX_FIELDS))
        except (_Unusable, InvalidValue) as error:
            self.skipped.add(name, error)
        except InvalidFields as error:
            self.skipped.add(name, f"It {error}.")
        return None

    def _product(self, name: str, fields: Fields | None) -> Product:
        _require_printable(name)
        if fields is None:
            raise _Unusable("It is not an object.")
        tags = {**self.top, **_tags(fields)}
        offered = self._object(fields, "versions", self.versions_left, "versions")
        if not offered:
            raise _Unusable("It has no versions.")
        self.versions_left -= len(offered)
        parsed = {version: self._raw_version(raw) for version, raw in offered.items()}
        kind = _kind(tags, parsed.values())
        # The newest version's tags say what the product is; a version that says otherwise is skipped.
        newest = parsed[max(parsed)]
        product = self._describe(name, kind, {**tags, **newest.tags} if newest else tags)
        versions: list[Version] = []
        by_case: dict[str, str] = {}
        for version_name in sorted(parsed):
            try:
                if (same := by_case.setdefault(version_name.lower(), version_name)) != version_name:
                    raise _Unusable(f"Its name differs from {_shown(same)} by case alone.")
                found = parsed[version_name]
                version = self._version(version_name, found, tags, kind)
                if found and not _IDENTITY_TAGS.isdisjoint(found.tags):
                    self._require_same_product(product, {**tags, **found.tags})
                versions.append(version)
            except (_Unusable, InvalidValue) as error:
                self.skipped.add(f"{name} {version_name}", error)
        return replace(product, versions=tuple(versions))

    def _object(self, fields: Fields, key: str, most: int, what: str) -> Fields | None:
        """The object under `key`; None where there is none. Raises _TooMuch when the document's share is used up."""
        if key not in fields:
            return None
        try:
            return self.objects.fields(fields[key], most)
        except TooManyFields as error:
            raise _TooMuch(f"it has more {what} than any document may have") from error

    def _raw_version(self, raw: Raw) -> "_RawVersion | None":
        """What the version holds, its items' tags included; None when it is no object with items."""
        try:
            fields = self.objects.fields(raw, MAX_FIELDS)
            items = None if fields is None else self._object(fields, "items", self.items_left, "items")
            if fields is None or items is None:
                return None
            self.items_left -= len(items)
            tags = {key: self._item_tags(item) for key, item in items.items()}
        except InvalidFields as error:
            return _RawVersion({}, {}, f"It {error}.")
        return _RawVersion(_tags(fields), tags)

    def _item_tags(self, raw: Raw) -> Tags | None:
        fields = self.objects.fields(raw, MAX_FIELDS)
        return None if fields is None else _tags(fields)

    def _require_same_product(self, product: Product, tags: Tags) -> None:
        if _identity(self._describe(product.name, product.kind, tags)) != _identity(product):
            raise _Unusable("Its tags say that it belongs to another product than the newest version.")

    def _describe(self, name: str, kind: ProductKind, tags: Tags) -> Product:
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
            support_eol=_date(str(tags.get("support_eol", ""))),
            bootloader_type=bootloader_type,
            is_ga=kind is ProductKind.BOOT and subarch in (f"ga-{version}", f"hwe-{release[0]}"),
            versions=(),
        )

    def _version(self, name: str, found: "_RawVersion | None", tags: Tags, kind: ProductKind) -> Version:
        version_name = self.named(name)
        if found is None:
            raise _Unusable("It has no items.")
        if found.refusal:
            raise _Unusable(found.refusal)
        inherited = {**tags, **found.tags}
        items = tuple(item for key, own in found.items.items() if (item := self._item(key, own, inherited)))
        _require_whole(kind, items)
        return Version(version_name, items)

    def _item(self, key: str, own: Tags | None, tags: Tags) -> Item | None:
        """The item, or None when it is of an ftype no rack has a use for."""
        if own is None:
            raise _Unusable(f"Its item {_shown(key)} is not an object.")
        if not _IDENTITY_TAGS.isdisjoint(own):
            _require_same_identity(key, own, tags)
        ftype = _inherited(key, own, tags, "ftype")
        if ftype not in KNOWN_FTYPES:
            known = ftype in self.unknown_ftypes or len(self.unknown_ftypes) < MAX_SKIPPED
            self.unknown_ftypes[ftype if known else "others"] += 1
            return None
        path = _inherited(key, own, tags, "path")
        if not path.isascii():
            _require_printable(path, "path")
        return Item(
            self.named(key),
            self.named(ftype),
            _path(path),
            self.sha256(_inherited(key, own, tags, "sha256")),
            _size(key, own.get("size", tags.get("size"))),
        )

    def without_contradictions(self, products: Iterable[Product]) -> list[Product]:
        """Those of `products`, less the versions and products that deny what another one says."""
        candidates = list(products)
        contradicted = _contradicted(candidates)
        kept: dict[tuple[str, ...], Product] = {}
        for candidate in candidates:
            product = self._consistent(candidate, contradicted)
            if not product.versions:
                self.skipped.add(product.name, "None of its versions can be used.")
            elif (first := kept.setdefault(_caseless(product), product)) is not product:
                alike = "has" if _identity(first) == _identity(product) else "has, but for their case,"
                self.skipped.add(
                    product.name, f"It {alike} the os, release, architecture, kernel and label of {first.name}."
                )
        return list(kept.values())

    def _consistent(self, product: Product, contradicted: set[str]) -> Product:
        versions: list[Version] = []
        for version in product.versions:
            if denied := next((i for i in version.items if i.path in contradicted or i.sha256 in contradicted), None):
                self.skipped.add(
                    f"{product.name} {version.name}",
                    f"The document gives {denied.path} two digests, or its digest two sizes.",
                )
            else:
                versions.append(version)
        return replace(product, versions=tuple(versions))


@dataclass(frozen=True, slots=True)
class _RawVersion:
    """A version's own tags, and those of its items by key (None: no object). `refusal` says why there are none."""

    tags: Tags
    items: Mapping[str, Tags | None]
    refusal: str = ""


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


def _caseless(product: Product) -> tuple[str, ...]:
    return tuple(name.lower() for name in _identity(product))


def _kind(tags: Tags, versions: Iterable[_RawVersion | None]) -> ProductKind:
    own = [item for version in versions if version for item in version.items.values() if item is not None]
    ftypes = {str(ftype) for item in own if (ftype := item.get("ftype", tags.get("ftype"))) is not None}
    if "bootloader-type" in tags and ARCHIVE in ftypes:
        return ProductKind.BOOTLOADER
    if not ftypes.isdisjoint({KERNEL, INITRD}):
        return ProductKind.BOOT
    if not ftypes.isdisjoint(ROOT_FTYPES):
        return ProductKind.ROOT
    seen = ", ".join(sorted(_shown(ftype) for ftype in ftypes if ftype)[:5]) or "none"
    raise _Unusable(f"It is neither a kernel, nor a root image, nor a bootloader; its ftypes: {seen}.")


def _require_whole(kind: ProductKind, items: tuple[Item, ...]) -> None:
    keys: dict[str, Name] = {}
    for item in items:
        if (same := keys.setdefault(item.key.lower(), item.key)) != item.key:
            raise _Unusable(f"Its items {same} and {item.key} differ by case alone.")
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


def _index_entry(content_id: str, fields: Fields | None) -> IndexEntry:
    _require_printable(content_id)
    if fields is None:
        raise _Unusable("It is not an object.")
    datatype, form = scalar(fields.get("datatype")), scalar(fields.get("format"))
    if datatype != "image-ids" or form != "products:1.0":
        said = f"{_shown(datatype)}, {_shown(form)}"
        raise _Unusable(f"It is not a product file of images (image-ids, products:1.0) but says {said}.")
    path = scalar(fields.get("path"))
    if isinstance(path, str):
        _require_printable(path, "path")
    return IndexEntry(content_id, _path(path), _rfc_2822(scalar(fields.get("updated"))))


def _path(text: object) -> RelativePath:
    """The path; one slash before it means the mirror's root, from which it counts anyway. Raises InvalidValue."""
    return RelativePath(text.removeprefix("/") if isinstance(text, str) else text)


def _load(payload: bytes, where: str, wanted_format: str, objects: Objects) -> Fields:
    if len(payload) > MAX_DOCUMENT_BYTES:
        raise InvalidDocument(where, f"it is larger than {spoken_size(MAX_DOCUMENT_BYTES)}")
    try:
        document = outermost(payload, objects, MAX_FIELDS)
    except InvalidFields as error:
        raise InvalidDocument(where, f"it {_shown(error)}") from None
    form = None if document is None else scalar(document.get("format"))
    if document is None or form != wanted_format:
        said = "none" if document is None else _shown(form)
        raise InvalidDocument(where, f"its format is {said} and should be {wanted_format}")
    return document


def _named(document: Fields, key: str, where: str, objects: Objects) -> Fields:
    try:
        found = objects.fields(document[key], MAX_PRODUCTS) if key in document else None
    except TooManyFields:
        raise InvalidDocument(where, f"it has more products than {MAX_PRODUCTS}, the most it may have") from None
    except InvalidFields as error:
        raise InvalidDocument(where, f"its {key!r} {_shown(error)}") from None
    if found is None:
        raise InvalidDocument(where, f"its {key!r} is not an object")
    return found


def _updated(document: Fields, where: str) -> datetime:
    if (updated := _rfc_2822(scalar(document.get("updated")))) is None:
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


def _tags(fields: Fields) -> dict[str, Scalar]:
    return {key: value for key in _TAGS & fields.keys() if (value := scalar(fields[key])) is not None}


def _text(tags: Tags, key: str, default: str | None = None) -> str:
    value = tags.get(key, default)
    if value is None:
        raise _Unusable(f"It has no {key}.")
    text = str(value)
    _require_printable(text, key)
    return text


def _inherited(key: str, own: Tags, tags: Tags, tag: str) -> str:
    value = own.get(tag, tags.get(tag))
    if value is None:
        raise _Unusable(f"Its item {_shown(key)} has no {tag}.")
    return str(value)


def _require_same_identity(key: str, own: Tags, tags: Tags) -> None:
    for tag in sorted(_IDENTITY_TAGS.intersection(own)):
        if tag not in tags or str(own[tag]) != str(tags[tag]):
            raise _Unusable(f"Its item {_shown(key)} has another {tag} than its product.")


def _size(key: str, value: Scalar | None) -> int:
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
