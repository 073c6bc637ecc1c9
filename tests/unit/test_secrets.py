"""Sealed passwords: what opens them, what does not, and what everybody sees in their place."""

from collections.abc import Callable
from typing import Any

import pytest
from sqlalchemy.dialects import postgresql

from region import secrets as region_secrets
from region.secrets import NO_SECRETS, Address, Clear, Sealed, Secrets, SecretUnreadable, resealed
from shared.errors import InvalidConfiguration, InvalidValue
from shared.signing import decode_bytes

CLEAR = Clear("ann", "pa:ss@wörd/%40")
PLACE = ("sources.url_credentials", 7)


def secrets_of(*keys: bytes) -> Secrets:
    return Secrets(lambda: keys)


ONE, TWO = secrets_of(b"1" * 32), secrets_of(b"2" * 32)


@pytest.mark.parametrize(
    "clear", [CLEAR, Clear("token", None), Clear("", "only a password"), Clear("***", "x")], ids=repr
)
def test_what_was_sealed_opens(clear: Clear) -> None:
    sealed = ONE.seal(clear, *PLACE)
    assert ONE.open(sealed) == clear
    assert ONE.open(clear) is clear


def test_what_is_sealed_tells_nothing_and_is_never_the_same_twice() -> None:
    first, second = ONE.seal(CLEAR, *PLACE), ONE.seal(CLEAR, *PLACE)
    assert first.text != second.text
    assert first.text.split(":")[:2] == ["bfs1", ONE.fingerprint[:16]]
    assert "ann" not in first.text
    told = repr(CLEAR) + str(CLEAR) + repr(Address("http://m/", CLEAR)) + repr(first)
    assert not [secret for secret in (CLEAR.user, CLEAR.password, first.text) if secret is None or secret in told]


def _other_bit(sealed: Sealed) -> Sealed:
    last = "A" if sealed.text[-2] != "A" else "B"
    return Sealed(f"{sealed.text[:-2]}{last}{sealed.text[-1]}", sealed.column, sealed.row)


@pytest.mark.parametrize(
    "spoil",
    [
        pytest.param(lambda sealed: Sealed(sealed.text, sealed.column, 8), id="another row"),
        pytest.param(lambda sealed: Sealed(sealed.text, "sources.proxy_credentials", 7), id="another column"),
        pytest.param(_other_bit, id="another byte"),
        pytest.param(lambda sealed: Sealed(sealed.text[:-8], *PLACE), id="cut"),
        pytest.param(lambda sealed: Sealed("bfs1::", *PLACE), id="nothing"),
        pytest.param(lambda sealed: Sealed("ann:password", *PLACE), id="in the clear"),
        pytest.param(lambda sealed: Sealed("bfs2" + sealed.text[4:], *PLACE), id="another form"),
        pytest.param(lambda sealed: TWO.seal(CLEAR, *PLACE), id="another key"),
    ],
)
def test_what_was_changed_or_moved_does_not_open(spoil: Callable[[Sealed], Sealed]) -> None:
    with pytest.raises(SecretUnreadable, match="give them again") as raised:
        ONE.open(spoil(ONE.seal(CLEAR, *PLACE)))
    assert raised.value.code == "secret_unreadable"


def test_a_key_that_was_changed_meanwhile_is_found() -> None:
    files = [b"1" * 32]
    secrets = Secrets(lambda: files)
    sealed = secrets.seal(CLEAR, *PLACE)
    files[:] = [b"2" * 32]
    assert secrets.open(TWO.seal(CLEAR, *PLACE)) == CLEAR
    assert secrets.open(sealed) == CLEAR
    assert secrets.follow(TWO.fingerprint)
    assert TWO.open(secrets.seal(CLEAR, *PLACE)) == CLEAR
    assert not secrets.follow("3" * 64)


def test_without_a_key_nothing_is_kept() -> None:
    with pytest.raises(InvalidConfiguration):
        NO_SECRETS.seal(CLEAR, *PLACE)


@pytest.mark.parametrize(
    ("given", "url", "shown", "clear"),
    [
        pytest.param("http://m.example/x/", "http://m.example/x/", "http://m.example/x/", None, id="none"),
        pytest.param("http://a:b@m.example/", "http://m.example/", "http://***@m.example/", Clear("a", "b"), id="both"),
        pytest.param("https://t@m:444/y", "https://m:444/y", "https://***@m:444/y", Clear("t", None), id="a name"),
        pytest.param("http://:b@m/", "http://m/", "http://***@m/", Clear("", "b"), id="a password"),
        pytest.param(
            "http://a%40b:c%2Fd@[::1]:8/", "http://[::1]:8/", "http://***@[::1]:8/", Clear("a@b", "c/d"), id="odd"
        ),
    ],
)
def test_an_address_is_kept_in_two_parts(given: str, url: str, shown: str, clear: Clear | None) -> None:
    address = Address.parse(given)
    assert (address.url, address.shown, address.credentials) == (url, shown, clear)
    assert ONE.url(address) == ONE.url(Address.parse(given))
    whole = ONE.url(address)
    if clear:
        assert (whole.user or "", whole.password) == (clear.user, clear.password)


STORED = Address("https://m.example/maas/", Sealed("bfs1:x:y", *PLACE))


@pytest.mark.parametrize(
    "given",
    [
        "https://***@m.example/maas/",
        "https://***@m.example/other/",
        "https://***:***@m.example/",
        "https://***@m.example:443/",
    ],
)
def test_the_mask_sent_back_keeps_what_is_stored(given: str) -> None:
    assert Address.parse(given, STORED).credentials is STORED.credentials


@pytest.mark.parametrize(
    ("given", "stored"),
    [
        pytest.param("https://***@m.example/", None, id="nothing is stored"),
        pytest.param("https://***@m.example/", Address("https://m.example/"), id="no password is stored"),
        pytest.param("https://***@evil.example/", STORED, id="another host"),
        pytest.param("http://***@m.example/", STORED, id="not encrypted"),
        pytest.param("https://***@m.example:444/", STORED, id="another port"),
    ],
)
def test_the_mask_never_sends_a_password_to_another_server(given: str, stored: Address | None) -> None:
    with pytest.raises(InvalidValue, match="give its user name and password"):
        Address.parse(given, stored)


def test_no_credentials_means_none() -> None:
    assert Address.parse("https://m.example/maas/", STORED).credentials is None


def test_what_older_regions_sealed_opens() -> None:
    assert ONE.fingerprint == "285acc545acfb0e6959117dbcb3e2d5c8b47e3116045e8b2dae6008a9b9baa42"
    kept = "bfs1:285acc545acfb0e6:AAECAwQFBgcICQoLJtdhSYLIhveOEhR5mpBN_vDHD26cMgkvSyRs4SE"
    assert ONE.open(Sealed(kept, *PLACE)) == Clear("ann", "pw")
    # Version, key, then 12 bytes of nonce, what is sealed, and 16 bytes that vouch for it.
    assert len(decode_bytes(kept.split(":")[2])) == 12 + len('["ann", "pw"]') + 16
    assert region_secrets.KEY_BYTES == 32


@pytest.mark.parametrize(
    ("column", "named"),
    [
        ("sources.url_credentials", "for its mirror cannot"),
        ("sources.proxy_credentials", "for its proxy cannot"),
        ("region.proxy_credentials", "for the proxy in the settings cannot"),
        ("other.column", "for other.column cannot"),
    ],
)
def test_whose_password_cannot_be_opened_is_told(column: str, named: str) -> None:
    with pytest.raises(SecretUnreadable, match=named):
        ONE.open(TWO.seal(CLEAR, column, 7))


def test_three_stars_and_a_password_are_a_user_of_that_name() -> None:
    stored = Address("http://m/", CLEAR)
    assert Address.parse("http://***:pw@m/", stored) == Address("http://m/", Clear("***", "pw"))


def test_where_to_connect_to() -> None:
    assert str(ONE.url(Address("http://m/a"))) == "http://m/a"
    assert str(ONE.url(Address("http://m/a", ONE.seal(Clear("ann", "pw"), *PLACE)))) == "http://ann:pw@m/a"


class Files:
    """Files of keys, and how often they were read."""

    def __init__(self, *keys: bytes) -> None:
        self.keys, self.reads = list(keys), 0

    def read(self) -> list[bytes]:
        self.reads += 1
        return self.keys


def test_files_are_read_again_for_a_key_that_is_not_known_and_for_no_other() -> None:
    files = Files(b"1" * 32, b"2" * 32)
    secrets = Secrets(files.read)
    assert (secrets.fingerprint, files.reads) == (ONE.fingerprint, 1)
    assert secrets.follow(ONE.fingerprint) is True
    assert secrets.follow(TWO.fingerprint) is True
    assert (secrets.fingerprint, files.reads) == (TWO.fingerprint, 1)
    three = secrets_of(b"3" * 32).fingerprint
    assert secrets.follow(three) is False
    assert (secrets.fingerprint, files.reads) == (TWO.fingerprint, 2)
    files.keys = [b"3" * 32]
    assert secrets.follow(three) is True
    assert (secrets.fingerprint, files.reads) == (three, 3)
    assert secrets.open(ONE.seal(CLEAR, *PLACE)) == CLEAR, "what was known stays known"
    none = Files()
    assert Secrets(none.read).follow("") is False
    assert none.reads == 1


def test_a_key_that_is_found_later_opens_and_does_not_seal() -> None:
    files = Files(b"1" * 32)
    secrets = Secrets(files.read)
    files.keys = [b"2" * 32, b"1" * 32]
    assert secrets.open(TWO.seal(CLEAR, *PLACE)) == CLEAR
    assert secrets.fingerprint == ONE.fingerprint
    assert secrets.is_current(ONE.seal(CLEAR, *PLACE))
    assert not secrets.is_current(TWO.seal(CLEAR, *PLACE))


class Database:
    """A connection that answers which key seals, and notes how it was asked."""

    def __init__(self, fingerprint: str | None) -> None:
        self.fingerprint, self.asked = fingerprint, list[str]()

    async def scalar(self, statement: Any) -> str | None:
        dialect = postgresql.dialect()  # type: ignore[no-untyped-call]
        self.asked.append(str(statement.compile(dialect=dialect)))
        return self.fingerprint


async def kept(database: Database, secrets: Secrets, credentials: Clear | Sealed | None) -> str | None:
    return await region_secrets.seal(database, secrets, credentials, *PLACE)  # type: ignore[arg-type]


async def test_what_is_given_is_sealed_with_the_key_that_the_database_names() -> None:
    both = secrets_of(b"1" * 32, b"2" * 32)
    for named, by in ((None, ONE), (TWO.fingerprint, TWO)):
        database = Database(named)
        text = await kept(database, both, CLEAR)
        assert text is not None
        assert by.open(Sealed(text, *PLACE)) == CLEAR
        assert [statement.endswith("FOR SHARE") for statement in database.asked] == [True]
    with pytest.raises(InvalidConfiguration, match="does not have the new one"):
        await kept(Database(TWO.fingerprint), ONE, CLEAR)


async def test_what_is_sealed_already_or_nothing_stays_as_it_is() -> None:
    database, sealed = Database(TWO.fingerprint), ONE.seal(CLEAR, *PLACE)
    assert await kept(database, ONE, None) is None
    assert await kept(database, ONE, sealed) == sealed.text
    assert database.asked == []


@pytest.mark.parametrize("url", [None, "http://m/a", "http://@m/a", "ftp://ann:pw@m/a"])
@pytest.mark.parametrize(
    "text",
    [
        pytest.param(None, id="none"),
        pytest.param(TWO.seal(CLEAR, *PLACE).text, id="by the key that seals"),
        pytest.param(secrets_of(b"3" * 32).seal(CLEAR, *PLACE).text, id="by a key that is lost"),
    ],
)
def test_what_is_as_it_should_be_stays(url: str | None, text: str | None) -> None:
    assert resealed(TWO, url, text, *PLACE) == (url, text)


def test_a_password_in_an_address_and_one_by_an_older_key_are_sealed_with_the_present_one() -> None:
    both = secrets_of(b"2" * 32, b"1" * 32)
    url, text = resealed(both, "https://ann:pw@m/a", None, *PLACE)
    assert url == "https://m/a"
    assert text is not None
    assert TWO.open(Sealed(text, *PLACE)) == Clear("ann", "pw")
    url, text = resealed(both, "https://m/a", ONE.seal(CLEAR, *PLACE).text, *PLACE)
    assert url == "https://m/a"
    assert text is not None
    assert TWO.open(Sealed(text, *PLACE)) == CLEAR
