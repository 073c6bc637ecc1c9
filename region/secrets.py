"""User names and passwords that the region has to send to others, sealed wherever they are kept (I7).

- An address is kept in two parts: the URL, which everybody may read, and the *credentials* that stood in it.
- Credentials are kept sealed: AES-256-GCM (NIST SP 800-38D) with `secrets.key` and 12 random bytes as the nonce.
- What is sealed names the key by its id, so that the key can be changed, and is bound to its place (table, column,
  row): moved to another place, it does not open.
- `***` is what everybody sees in their place. Sent back for an address of the same server (scheme, host and port), it
  means those that are kept; nobody can have them sent to another server without knowing them.
- They are in the clear in two places only: between a request and its transaction, and on the way to their server.

What is not done here: where the key lies is `region.keys`; which columns hold sealed text, `region.catalogue.sources`
and `region.people.settings`.
"""

import hashlib
import json
import re
import secrets as dice
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, field

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from sqlalchemy import select
from sqlalchemy.ext.asyncio import AsyncConnection
from yarl import URL

from region.database.tables import region
from shared.errors import InvalidConfiguration, InvalidValue
from shared.http import parse_url
from shared.signing import decode_bytes, encode_bytes

MASK = "***"
KEY_BYTES = 32
_NONCE_BYTES = 12
_VERSION = "bfs1"
_USERINFO = re.compile(r"^(https?://)[^/]*@")

_BELONGS_TO = {
    "sources.url_credentials": "its mirror",
    "sources.proxy_credentials": "its proxy",
    "region.proxy_credentials": "the proxy in the settings",
}


class SecretUnreadable(InvalidConfiguration):
    """Credentials were sealed with another key than this region has, or their text was changed."""

    code = "secret_unreadable"

    def __init__(self, column: str) -> None:
        super().__init__(
            f"The user name and password for {_BELONGS_TO.get(column, column)} cannot be opened with the secrets.key of"
            " this region; give them again, or put back the key that they were sealed with."
        )


@dataclass(frozen=True, slots=True)
class Clear:
    """Credentials in the clear, as an operator gave them."""

    user: str = field(repr=False)
    password: str | None = field(repr=False)


@dataclass(frozen=True, slots=True)
class Sealed:
    """Credentials as they are kept, in `column` (`table.column`) of the row `row`."""

    text: str = field(repr=False)
    column: str
    row: int


@dataclass(frozen=True, slots=True)
class Address:
    """A URL without credentials, and these."""

    url: str
    credentials: Clear | Sealed | None = None

    @property
    def shown(self) -> str:
        """The address as everybody may see it."""
        return str(URL(self.url).with_user(MASK)) if self.credentials else self.url

    @staticmethod
    def parse(text: str, stored: "Address | None" = None) -> "Address":
        """The address an operator gave; `***` as its credentials means those of `stored`.

        Raises InvalidValue for what is no URL, and for `***` where nothing is stored for that very server.
        """
        given = parse_url(text)
        url = _USERINFO.sub(r"\1", str(given))
        if given.user is None and given.password is None:
            return Address(url)
        clear = Clear(given.user or "", given.password)
        if clear.user != MASK or clear.password not in (None, MASK):
            return Address(url, clear)
        if stored is None or stored.credentials is None or URL(stored.url).origin() != URL(url).origin():
            shown = Address(url, clear).shown
            raise InvalidValue(
                "usable address", shown, "give its user name and password; none are kept for this server"
            )
        return Address(url, stored.credentials)


class Secrets:
    """The keys that open what is sealed, and the one that seals. `read` answers what their files hold now."""

    def __init__(self, read: Callable[[], Sequence[bytes]]) -> None:
        self._read = read
        self._keys: dict[str, AESGCM] = {}
        self._fingerprint = ""
        self._read_again()

    @property
    def fingerprint(self) -> str:
        """That of the key that seals; the database remembers it."""
        return self._fingerprint

    def follow(self, fingerprint: str) -> bool:
        """After this the key with this fingerprint seals. False if the region does not have it. Blocks briefly."""
        if fingerprint != self._fingerprint and _id(fingerprint) not in self._keys:
            self._read_again()
        if _id(fingerprint) not in self._keys:
            return False
        self._fingerprint = fingerprint
        return True

    def seal(self, clear: Clear, column: str, row: int) -> Sealed:
        """The credentials, to be kept there. Raises InvalidConfiguration when there is no key."""
        if not self._fingerprint:
            raise InvalidConfiguration("This region has no secrets.key to keep a password with.")
        key_id, nonce = _id(self._fingerprint), dice.token_bytes(_NONCE_BYTES)
        plain = json.dumps([clear.user, clear.password]).encode()
        sealed = self._keys[key_id].encrypt(nonce, plain, _bound(key_id, column, row))
        return Sealed(f"{_VERSION}:{key_id}:{encode_bytes(nonce + sealed)}", column, row)

    def open(self, credentials: Clear | Sealed) -> Clear:
        """The credentials in the clear. Raises SecretUnreadable. Blocks briefly when their key is not known yet."""
        if isinstance(credentials, Clear):
            return credentials
        version, _, rest = credentials.text.partition(":")
        key_id, _, body = rest.partition(":")
        if key_id not in self._keys:
            self._read_again()
        if version != _VERSION or key_id not in self._keys:
            raise SecretUnreadable(credentials.column)
        try:
            raw = decode_bytes(body)
            bound = _bound(key_id, credentials.column, credentials.row)
            user, password = json.loads(self._keys[key_id].decrypt(raw[:_NONCE_BYTES], raw[_NONCE_BYTES:], bound))
        except (InvalidTag, InvalidValue, ValueError):
            raise SecretUnreadable(credentials.column) from None
        return Clear(user, password)

    def url(self, address: Address) -> URL:
        """Where to connect to, credentials in the clear. Raises SecretUnreadable."""
        url = URL(address.url)
        if address.credentials is None:
            return url
        clear = self.open(address.credentials)
        return url.with_user(clear.user).with_password(clear.password)

    def is_current(self, sealed: Sealed) -> bool:
        """True if it was sealed with the key that seals now."""
        return sealed.text.startswith(f"{_VERSION}:{_id(self._fingerprint)}:")

    def _read_again(self) -> None:
        found = [(fingerprint_of(key), key) for key in self._read()]
        self._keys |= {_id(name): AESGCM(key) for name, key in found}
        if found and not self._fingerprint:
            self._fingerprint = found[0][0]


NO_SECRETS = Secrets(tuple)
"""Of a process that has no key: whatever should be sealed is refused."""


async def seal(
    connection: AsyncConnection, secrets: Secrets, credentials: Clear | Sealed | None, column: str, row: int
) -> str | None:
    """The text to keep for these credentials; what is sealed already stays as it is.

    Until this transaction ends nobody changes the key. Raises InvalidConfiguration when this process lacks the key that
    seals now.
    """
    if credentials is None or isinstance(credentials, Sealed):
        return None if credentials is None else credentials.text
    now: str | None = await connection.scalar(select(region.c.secrets_fingerprint).with_for_update(read=True))
    if now and not secrets.follow(now):
        raise InvalidConfiguration(
            "The secrets.key was changed, and this process does not have the new one; restart it."
        )
    return secrets.seal(credentials, column, row).text


def resealed(
    secrets: Secrets, url: str | None, text: str | None, column: str, row: int
) -> tuple[str | None, str | None]:
    """A kept URL and the sealed text beside it, as they should be: nothing in the URL, and sealed with the present key.

    What cannot be opened stays as it is.
    """
    found = Address.parse(url) if url and _USERINFO.match(url) else None
    if found is not None and found.credentials is not None:
        return found.url, secrets.seal(secrets.open(found.credentials), column, row).text
    if text is None or secrets.is_current(sealed := Sealed(text, column, row)):
        return url, text
    with suppress(SecretUnreadable):
        text = secrets.seal(secrets.open(sealed), column, row).text
    return url, text


def fingerprint_of(key: bytes) -> str:
    """How the database and sealed texts name the key; nothing about the key follows from it."""
    return hashlib.sha256(b"bootferry secrets.key\n" + key).hexdigest()


def _id(fingerprint: str) -> str:
    return fingerprint[:16]


def _bound(key_id: str, column: str, row: int) -> bytes:
    return f"{_VERSION}:{key_id}:{column}:{row}".encode()
