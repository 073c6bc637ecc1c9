"""Sealed passwords: what opens them, what does not, and what everybody sees in their place."""

from collections.abc import Callable

import pytest

from region.secrets import NO_SECRETS, Address, Clear, Sealed, Secrets, SecretUnreadable
from shared.errors import InvalidConfiguration, InvalidValue

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
