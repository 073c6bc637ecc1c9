"""The keys in a backup, and their way back into the directory of keys. All of it blocks.

Back they go as a rotation's new keys do: beside the present ones at first (`….new`), and in their place once the
database names them. A restore that breaks off in between is finished by the next start (`region.keys`).
"""

from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from region.keys import (
    NEXT_REGION_KEY,
    NEXT_SECRETS_KEY,
    REGION_KEY,
    SECRETS_KEY,
    RegionKeys,
    install_next_secrets_key,
    take_region_key,
)
from region.secrets import KEY_BYTES, Secrets, fingerprint_of
from shared.disk import make_directory, owner_of, sync_directory, write_whole
from shared.errors import InvalidConfiguration, InvalidDocument
from shared.signing import fingerprint


@dataclass(frozen=True, slots=True)
class KeyFiles:
    """The bytes of `region.key` and `secrets.key`."""

    signing: bytes = field(repr=False)
    secrets: bytes = field(repr=False)

    def fingerprints(self, origin: str) -> tuple[str, str]:
        """Of both. Raises InvalidDocument when one is no such key."""
        if len(self.secrets) != KEY_BYTES:
            raise InvalidDocument(origin, f"its {SECRETS_KEY} does not hold {KEY_BYTES} bytes")
        return fingerprint(self.key(origin)), fingerprint_of(self.secrets)

    def key(self, origin: str) -> Ed25519PrivateKey:
        """The region's key. Raises InvalidDocument."""
        key = _loaded(self.signing)
        if key is None:
            raise InvalidDocument(origin, f"its {REGION_KEY} is no Ed25519 key in PEM")
        return key


def found(directory: Path, wanted: str, wanted_secrets: str) -> KeyFiles:
    """The keys with these fingerprints. Raises InvalidConfiguration when one is not there; OSError."""
    signing = _first(directory, (REGION_KEY, NEXT_REGION_KEY), lambda key: _names(key) == wanted)
    secrets = _first(directory, (SECRETS_KEY, NEXT_SECRETS_KEY), lambda key: fingerprint_of(key) == wanted_secrets)
    for name, key, known in ((REGION_KEY, signing, wanted), (SECRETS_KEY, secrets, wanted_secrets)):
        if not key:
            raise InvalidConfiguration(
                f"The key {directory / name} is not the one of this database ({known[:16]}…): a backup without it would"
                " be of no use; put it there, or point REGION_KEYS to the directory that holds it."
            )
    return KeyFiles(signing, secrets)


def others(directory: Path, files: KeyFiles) -> list[Path]:
    """The keys in the directory that are others than these. Raises OSError."""
    wanted = {REGION_KEY: _names(files.signing), SECRETS_KEY: fingerprint_of(files.secrets)}
    present = {name: _read(directory / name) for name in wanted}
    names = {REGION_KEY: _names, SECRETS_KEY: fingerprint_of}
    return [directory / name for name, key in present.items() if key is not None and names[name](key) != wanted[name]]


def require_given(directory: Path, files: KeyFiles) -> None:
    """Raises InvalidConfiguration unless systemd's credentials hold these very keys: nothing is written there."""
    if others(directory, files) or not all((directory / name).exists() for name in (REGION_KEY, SECRETS_KEY)):
        raise InvalidConfiguration(
            f"The keys come from systemd's credentials ({directory}) and are not the backup's: put those where the"
            " credentials come from ('tar -xOf FILE keys/region.key', and keys/secrets.key), then restore again."
        )


def put_beside(directory: Path, files: KeyFiles) -> RegionKeys:
    """The keys are there when this returns, beside others where there are others. Raises OSError."""
    make_directory(directory)
    for name, fresh, content in (
        (REGION_KEY, NEXT_REGION_KEY, files.signing),
        (SECRETS_KEY, NEXT_SECRETS_KEY, files.secrets),
    ):
        if _read(directory / name) != content:
            write_whole(directory / fresh, content, mode=0o600, owner=owner_of(directory))
    return RegionKeys(directory, files.key(str(directory)), Secrets(lambda: [files.secrets]))


def take(keys: RegionKeys, replaced: Sequence[Path]) -> list[Path]:
    """The keys lie where they belong; where those that were replaced are now. Raises InvalidConfiguration, OSError."""
    kept = [_put_aside(path) for path in replaced]
    take_region_key(keys, fingerprint(keys.signing))
    install_next_secrets_key(keys)
    return kept


def _put_aside(path: Path) -> Path:
    number, aside = 0, path.with_name(f"{path.name}.before-restore")
    while aside.exists():
        number += 1
        aside = path.with_name(f"{path.name}.before-restore.{number}")
    path.rename(aside)
    sync_directory(path.parent)
    return aside


def _first(directory: Path, names: Sequence[str], fits: Callable[[bytes], bool]) -> bytes:
    """The first of the files that fits; empty when none does."""
    for name in names:
        if (key := _read(directory / name)) is not None and fits(key):
            return key
    return b""


def _read(path: Path) -> bytes | None:
    with suppress(FileNotFoundError):
        return path.read_bytes()
    return None


def _names(content: bytes) -> str:
    """The fingerprint of a key in PEM; empty for what is none."""
    key = _loaded(content)
    return "" if key is None else fingerprint(key)


def _loaded(content: bytes) -> Ed25519PrivateKey | None:
    try:
        key = load_pem_private_key(content, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        return None
    return key if isinstance(key, Ed25519PrivateKey) else None
