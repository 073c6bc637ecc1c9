"""The region's keys, in one directory (`REGION_KEYS`), the same for all processes of one database.

    region.key        Ed25519 (PEM): signs the manifest; racks know its public part
    region.key.new    the next one, while `bootferry-region key rotate` works (`region.actions.succession`)
    secrets.key       32 random bytes: seals the passwords in the database (`region.secrets`)
    secrets.key.new   the next one, while `bootferry-region key rotate-secrets` works

- Without REGION_KEYS the directory is `keys` in the data directory, or that of systemd's credentials when one of the
  keys is among them; from there nothing is written, so both must be there.
- A key is made on first use: whole, with mode 0600, and flushed with the directories above it before it is used.
- A `region.key` in the data directory, where it was before, is moved over.
- The database remembers the fingerprints of both; with others a process does not start (`region.actions.first_start`).
"""

import errno
import os
import secrets as dice
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from region.configuration import RegionConfiguration
from region.secrets import KEY_BYTES, Secrets, fingerprint_of
from shared.disk import create_whole, load_or_create, make_directory, sync_directory
from shared.errors import BootferryError, InvalidConfiguration
from shared.signing import fingerprint, load_key, load_or_create_key

REGION_KEY, NEXT_REGION_KEY = "region.key", "region.key.new"
SECRETS_KEY, NEXT_SECRETS_KEY = "secrets.key", "secrets.key.new"


@dataclass(slots=True)
class RegionKeys:
    """The keys, and the directory they were read from. `signing` changes when the region's key was rotated."""

    directory: Path
    signing: Ed25519PrivateKey
    secrets: Secrets


def load(configuration: RegionConfiguration) -> RegionKeys:
    """The keys, made where there are none; they survive a loss of power. Raises InvalidConfiguration. Blocks."""
    directory, given = key_directory(configuration)
    try:
        if given:
            signing = load_key(directory / REGION_KEY)
        else:
            make_directory(directory)
            _move_over(configuration.data_dir / REGION_KEY, directory / REGION_KEY)
            signing = load_or_create_key(directory / REGION_KEY)
            load_or_create(directory / SECRETS_KEY, lambda: dice.token_bytes(KEY_BYTES))
        secrets = Secrets(lambda: _secrets_keys(directory))
    except OSError as error:
        raise InvalidConfiguration(
            f"The directory of keys {directory} cannot be used: {error.filename or directory}: {error.strerror}."
        ) from error
    except BootferryError as error:
        raise InvalidConfiguration(f"The directory of keys {directory} cannot be used: {error}") from error
    return RegionKeys(directory, signing, secrets)


def make_next_region_key(directory: Path) -> Ed25519PrivateKey:
    """The next key, as `region.key.new`; one that a rotation which broke off has left is taken. Blocks.

    It survives a loss of power. Raises InvalidConfiguration.
    """
    try:
        return load_or_create_key(directory / NEXT_REGION_KEY)
    except OSError as error:
        raise InvalidConfiguration(
            f"No new key can be made in {directory}: {error.strerror}; rotate it where systemd's credentials come from,"
            " with REGION_KEYS set to that directory."
        ) from error
    except BootferryError as error:
        raise InvalidConfiguration(f"The next key cannot be used: {error} Remove it, and try again.") from error


def take_region_key(keys: RegionKeys, wanted: str) -> bool:
    """True if there is a key with the fingerprint `wanted`: it is `keys.signing` then, and lies in `region.key`.

    To be called under the lock of the region's row: nobody begins another rotation meanwhile. Blocks. Raises
    InvalidConfiguration.
    """
    for path in (keys.directory / REGION_KEY, keys.directory / NEXT_REGION_KEY):
        try:
            key = load_key(path)
            if fingerprint(key) != wanted:
                continue
            if path.name == NEXT_REGION_KEY:
                path.replace(keys.directory / REGION_KEY)
                sync_directory(keys.directory)
        except FileNotFoundError:
            continue
        except OSError as error:
            raise InvalidConfiguration(
                f"The directory of keys {keys.directory} cannot be used: {error.filename}: {error.strerror}."
            ) from error
        except BootferryError as error:
            raise InvalidConfiguration(f"The directory of keys {keys.directory} cannot be used: {error}") from error
        if fingerprint(keys.signing) != wanted:
            keys.signing = key
        return True
    return False


def make_next_secrets_key(directory: Path) -> bytes:
    """The next key, as `secrets.key.new`; one that a rotation which broke off has left is taken. Blocks.

    Raises InvalidConfiguration.
    """
    try:
        return load_or_create(directory / NEXT_SECRETS_KEY, lambda: dice.token_bytes(KEY_BYTES))
    except OSError as error:
        raise InvalidConfiguration(
            f"No new key can be made in {directory}: {error.strerror}; change keys where they come from, and see"
            " 'bootferry-region key forget-secrets'."
        ) from error


def install_next_secrets_key(keys: RegionKeys) -> None:
    """`secrets.key.new` takes the place of `secrets.key` if it is the one that seals now. Raises OSError. Blocks."""
    path = keys.directory / NEXT_SECRETS_KEY
    if path.exists() and fingerprint_of(_secrets_key(path)) == keys.secrets.fingerprint:
        with suppress(FileNotFoundError):
            path.replace(keys.directory / SECRETS_KEY)
        sync_directory(keys.directory)


def key_directory(configuration: RegionConfiguration) -> tuple[Path, bool]:
    """Where the keys are; True if systemd gives them, which means that nothing is made there."""
    credentials = os.environ.get("CREDENTIALS_DIRECTORY")
    if configuration.keys is not None:
        return configuration.keys, credentials is not None and configuration.keys == Path(credentials)
    if credentials and any((Path(credentials) / name).exists() for name in (REGION_KEY, SECRETS_KEY)):
        return Path(credentials), True
    return configuration.data_dir / "keys", False


def _move_over(old: Path, new: Path) -> None:
    """The key of a region of before, to where it belongs now; what is there already is never replaced."""
    if new.exists() or not old.exists():
        return
    try:
        # A link, unlike a rename, never replaces what another process has just made.
        os.link(old, new)
    except FileExistsError:
        return
    except FileNotFoundError:
        # Another process has moved it meanwhile.
        return
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        with suppress(FileExistsError):
            create_whole(new, old.read_bytes())
    sync_directory(new.parent)
    old.unlink(missing_ok=True)
    sync_directory(old.parent)


def _secrets_keys(directory: Path) -> Sequence[bytes]:
    paths = [directory / SECRETS_KEY, directory / NEXT_SECRETS_KEY]
    return [_secrets_key(path) for path in paths if path == paths[0] or path.exists()]


def _secrets_key(path: Path) -> bytes:
    key = path.read_bytes()
    if len(key) != KEY_BYTES:
        raise InvalidConfiguration(f"{path} is not a secrets.key: it must hold {KEY_BYTES} bytes; put its backup back.")
    return key
