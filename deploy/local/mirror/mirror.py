"""The mirror on disk.

DIR/mirror.json     what the mirror offers, its seed and sizes; written last, read by every operation, so that a
                    second process may publish while the first one serves
DIR/key.pgp         the secret key, mode 0600
DIR/keyring.gpg     the public key, binary, for gpgv
DIR/root/           all that is served, and nothing else
    streams/v1/     index.json, index.sjson and both forms of each product file
    noble/amd64/…   the files, at the paths the product files name
"""

import json
import tempfile
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from email.utils import format_datetime
from fnmatch import fnmatchcase
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, Self

from deploy.local.mirror import content
from deploy.local.mirror.key import Key
from deploy.local.mirror.products import Fields, archive_members, initial_products, items_of

STREAMS = "streams/v1"
SUFFIXES = (".json", ".sjson")  # the document as it is, and clear-signed
KEPT = 2  # versions of a product that stay when a newer one is published


class File(NamedTuple):
    """A file as the stream describes it; `size` in bytes."""

    path: str
    sha256: str
    size: int


class Published(NamedTuple):
    """What one `publish` added. Files are counted once however many products share them."""

    version: str
    products: tuple[str, ...]
    files: tuple[File, ...]


class State(NamedTuple):
    """`mirror.json`. `updated` is the newest time any document ever carried."""

    seed: int
    sizes: dict[str, int]
    updated: datetime
    documents: dict[str, dict[str, Fields]]  # content_id -> product name -> fields, `versions` among them


@dataclass
class Mirror:
    """A simplestreams mirror under `directory`, signed by `signer`, or by nobody when that is None.

    Every change is on disk when the call returns: new files first, then product files, then the index, each by one
    rename; old files go last. `updated` rises by a second with each change unless the caller says otherwise.
    Calls block for some milliseconds (tiny files) to a second or two (sample files).
    """

    directory: Path
    key: Key
    signer: Key | None

    @classmethod
    def create(
        cls, directory: Path, *, now: datetime, sizes: Mapping[str, int] = content.SAMPLE, seed: int = 0
    ) -> Self:
        """The mirror in `directory`: the one that is there, with what it lost replaced, or a new one as of `now`."""
        try:
            mirror = cls.open(directory)
        except FileNotFoundError:
            return cls._build(directory, now, sizes, seed)
        mirror.complete()
        stems = ("index", *mirror._load().documents)
        if not all((mirror.root / STREAMS / f"{stem}{suffix}").exists() for stem in stems for suffix in SUFFIXES):
            mirror.rewrite()
        return mirror

    @classmethod
    def open(cls, directory: Path) -> Self:
        """The mirror that `create` made there; FileNotFoundError where it did not, or did not finish."""
        directory = directory.absolute()
        (directory / "mirror.json").stat()
        key = Key.parse((directory / "key.pgp").read_bytes())
        return cls(directory, key, signer=key)

    @property
    def root(self) -> Path:
        """The directory to serve."""
        return self.directory / "root"

    @property
    def keyring_path(self) -> Path:
        return self.directory / "keyring.gpg"

    @property
    def keyring(self) -> bytes:
        """What gpgv takes as `--keyring`: the mirror's own key, whoever signs at the moment."""
        return self.key.keyring

    @property
    def fingerprint(self) -> str:
        return self.key.fingerprint

    @property
    def key_id(self) -> str:
        return self.key.key_id

    @property
    def updated(self) -> datetime:
        """The newest `updated` any of its documents ever carried."""
        return self._load().updated

    def products(self) -> dict[str, Fields]:
        """Every product offered, by name, as its product file has it. A copy."""
        return _all_products(self._load())

    def expected(self, release: str, arch: str, subarch: str = "generic") -> dict[str, File]:
        """The files a rack must hold for this kernel of the newest version, by ftype; LookupError for an unknown one.

        `subarch` is the folded name, `hwe-24.04-lowlatency`; CentOS has `generic` only.
        """
        for name, product in self.products().items():
            folded = name.rpartition(":")[2] if "kflavor" in product else product.get("subarch")
            if (product.get("release"), product["arch"], folded) == (release, arch, subarch):
                newest = product["versions"][max(product["versions"])]
                return {item["ftype"]: _file(item) for item in newest["items"].values()}
        raise LookupError(f"The mirror offers no {release} for {arch} with subarchitecture {subarch}.")

    def publish(
        self,
        version: str | None = None,
        *,
        os: str = "ubuntu",
        release: str | None = None,
        arch: str | None = None,
        keep: int = KEPT,
        files: bool = True,
        updated: datetime | None = None,
    ) -> Published:
        """Add one version, by default the day after the newest, to all products of this os, release and architecture.

        Each of these products then has its `keep` newest versions. Without `files` the metadata names files that are
        missing until `complete()`. LookupError when no product matches, ValueError when one has the version already.
        """
        state = self._load()
        wanted = {"os": os, "release": release, "arch": arch}
        chosen = {
            name: product
            for name, product in _all_products(state).items()
            if all(value in (None, product.get(field)) for field, value in wanted.items())
        }
        if not chosen:
            raise LookupError(f"The mirror offers no {' '.join(filter(None, wanted.values()))} image.")
        version = version or next_serial(max(serial for product in chosen.values() for serial in product["versions"]))
        if any(version in product["versions"] for product in chosen.values()):
            raise ValueError(f"Version {version} has been published already; choose another.")
        before = _paths(state)
        added = self._add(state, chosen.values(), version, write=files)
        for product in chosen.values():
            for serial in sorted(product["versions"])[:-keep]:
                del product["versions"][serial]
        self._write(state, updated)
        self._remove(before - _paths(state))
        return Published(version, tuple(chosen), added)

    def complete(self) -> tuple[File, ...]:
        """Write the files that the metadata names and the disk lacks; what was written is the answer."""
        state = self._load()
        missing = {
            item["path"]: (product, key, item)
            for product in _all_products(state).values()
            for version in product["versions"].values()
            for key, item in version["items"].items()
            if not (self.root / item["path"]).exists()
        }
        for product, key, item in missing.values():
            _place(self.directory, self.root / item["path"], _make(state, product, key, item))
        return tuple(_file(item) for _, _, item in missing.values())

    def drop_product(self, pattern: str, *, updated: datetime | None = None) -> tuple[str, ...]:
        """Stop offering the products whose names match the glob, and delete the files only they had; their names."""
        state = self._load()
        before = _paths(state)
        dropped = tuple(name for name in _all_products(state) if fnmatchcase(name, pattern))
        if not dropped:
            raise LookupError(f"No product's name matches {pattern}.")
        for document in state.documents.values():
            for name in document.keys() & set(dropped):
                del document[name]
        self._write(state, updated)
        self._remove(before - _paths(state))
        return dropped

    def sign_with(self, key: Key, *, updated: datetime | None = None) -> None:
        """Sign everything with this key, now and in future; `mirror.keyring` still holds the mirror's own."""
        self.signer = key
        self.rewrite(updated=updated)

    def unsigned(self, *, updated: datetime | None = None) -> None:
        """Offer the `.json` documents alone, until `sign_with`."""
        self.signer = None
        self.rewrite(updated=updated)

    def rewrite(self, *, updated: datetime | None = None) -> None:
        """Write every document again, `updated` then: this mends what `replace` broke, or turns the clock back."""
        self._write(self._load(), updated)

    def replace(self, path: str, data: bytes) -> None:
        """Put other bytes at a path of the tree, whatever the metadata says; `rewrite` brings a document back."""
        _place(self.directory, self.root / path, data)

    @classmethod
    def _build(cls, directory: Path, now: datetime, sizes: Mapping[str, int], seed: int) -> Self:
        directory = directory.absolute()
        (directory / "root").mkdir(parents=True, exist_ok=True)
        key_path = directory / "key.pgp"
        key = Key.parse(key_path.read_bytes()) if key_path.exists() else Key.generate()
        _place(directory, key_path, bytes(key), mode=0o600)
        mirror = cls(directory, key, signer=key)
        _place(directory, mirror.keyring_path, key.keyring)
        state = State(seed, dict(sizes), now, {})
        by_serial: dict[str, list[Fields]] = {}
        for product in initial_products():
            fields = {**product.fields, "versions": {}}
            state.documents.setdefault(product.content_id, {})[product.name] = fields
            for serial in product.serials:
                by_serial.setdefault(serial, []).append(fields)
        for serial, chosen in sorted(by_serial.items()):
            mirror._add(state, chosen, serial, write=True)
        mirror._write(state, now)
        return mirror

    def _load(self) -> State:
        stored = json.loads((self.directory / "mirror.json").read_bytes())
        return State(**{**stored, "updated": datetime.fromisoformat(stored["updated"])})

    def _add(self, state: State, chosen: Iterable[Fields], version: str, *, write: bool) -> tuple[File, ...]:
        """Add the version to the chosen products; each file is made once, its digest taken from that."""
        made: dict[str, File] = {}
        for product in chosen:
            items = items_of(product, version)
            for key, item in items.items():
                path = item["path"]
                if path not in made:
                    data = _make(state, product, key, item)
                    made[path] = File(path, sha256(data).hexdigest(), len(data))
                    if write:
                        _place(self.directory, self.root / path, data)
                item |= {"sha256": made[path].sha256, "size": made[path].size}
            product["versions"][version] = {"items": items}
        return tuple(made.values())

    def _write(self, state: State, updated: datetime | None) -> None:
        """Write product files, then the index, then the state."""
        updated = updated or state.updated + timedelta(seconds=1)
        header = {"updated": format_datetime(updated.astimezone(UTC))}
        common = header | {"datatype": "image-ids", "format": "products:1.0"}
        for content_id, named in state.documents.items():
            document = common | {"content_id": content_id, "products": named}
            self._write_document(content_id, dict.fromkeys(SUFFIXES, _dump(document)))
        indexes = {}
        for suffix in SUFFIXES:
            entries = {
                content_id: common | {"path": f"{STREAMS}/{content_id}{suffix}", "products": sorted(named)}
                for content_id, named in state.documents.items()
            }
            indexes[suffix] = _dump(header | {"format": "index:1.0", "index": entries})
        self._write_document("index", indexes)
        stored = state._replace(updated=max(updated, state.updated))._asdict()
        _place(self.directory, self.directory / "mirror.json", json.dumps(stored, default=datetime.isoformat).encode())

    def _write_document(self, stem: str, texts: dict[str, bytes]) -> None:
        plain, signed = (self.root / STREAMS / f"{stem}{suffix}" for suffix in SUFFIXES)
        _place(self.directory, plain, texts[".json"])
        if self.signer:
            _place(self.directory, signed, self.signer.clear_sign(texts[".sjson"]))
        else:
            signed.unlink(missing_ok=True)

    def _remove(self, paths: set[str]) -> None:
        for path in paths:
            (self.root / path).unlink(missing_ok=True)


def next_serial(serial: str) -> str:
    """The serial of the day after: 20260702 after 20260701, 20240623_01 after 20240622_01."""
    day = date.fromisoformat(serial[:8]) + timedelta(days=1)
    return f"{day:%Y%m%d}{serial[8:]}"


def _all_products(state: State) -> dict[str, Fields]:
    return {name: product for document in state.documents.values() for name, product in document.items()}


def _paths(state: State) -> set[str]:
    return {
        item["path"]
        for product in _all_products(state).values()
        for version in product["versions"].values()
        for item in version["items"].values()
    }


def _dump(document: Mapping[str, Any]) -> bytes:
    return json.dumps(document, indent=1, sort_keys=True).encode()


def _file(item: Fields) -> File:
    return File(item["path"], item["sha256"], item["size"])


def _make(state: State, product: Fields, key: str, item: Fields) -> bytes:
    ftype = item["ftype"]
    size = state.sizes.get(ftype, state.sizes["manifest"])
    members = archive_members(product, key)
    return content.make_file(item["path"], ftype=ftype, size=size, seed=state.seed, members=members)


def _place(directory: Path, path: Path, data: bytes, mode: int = 0o644) -> None:
    """Put `data` at `path` by rename; the half-written file stands outside of the served root."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.NamedTemporaryFile(dir=directory, prefix=".incoming-", delete=False) as incoming:
        incoming.write(data)
    temporary = Path(incoming.name)
    temporary.chmod(mode)
    temporary.replace(path)
