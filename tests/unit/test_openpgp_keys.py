"""Keys judged by their packets, each made by hand: kinds, sizes, moments and self-signatures to the bit."""

import hashlib
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from region.stream import keys
from region.stream.keys import judge, key_ids, parse_keyring, shipped_keyring, unfit, usable_keyring
from shared.errors import InvalidKeyring, KeyAlgorithmRefused, KeyExpired, KeyRevoked, KeyTooSmall
from tests.unit.openpgp_parts import (
    CREATED,
    fingerprint,
    number,
    other_body,
    packet,
    rsa_body,
    signature_body,
    subpacket,
)

NOW = datetime(2026, 7, 1, tzinfo=UTC)
BODY = rsa_body()
KEY = packet(6, BODY)
ID = fingerprint(BODY)
THEIRS = fingerprint(rsa_body(2049))
USER, USER_2 = packet(13, b"One <one@example.invalid>"), packet(13, b"Two <two@example.invalid>")
ISSUED = subpacket(16, bytes.fromhex(ID[-16:]))
DAY = 86_400


def signed(
    kind: int, *, created: int = CREATED, lasts: int | None = None, more: bytes = b"", issued: bytes = ISSUED
) -> bytes:
    """A signature of the key over itself, which gives it so many seconds."""
    hashed = number(2, created) + more + (b"" if lasts is None else number(9, lasts))
    return packet(2, signature_body(kind, hashed, issued))


def lasts(*packets: bytes) -> int | None:
    """How many seconds after it was made the key ends, None for never; `packets` follow it."""
    [found] = judge(KEY + b"".join(packets), datetime(9999, 1, 1, tzinfo=UTC))
    if found.refusal is None:
        return None
    assert isinstance(found.refusal, KeyExpired)
    return round(found.refusal.expired_at.timestamp()) - CREATED


def test_limits_of_keyrings_and_keys() -> None:
    assert (keys.MAX_KEYRING_BYTES, keys.MIN_RSA_BITS) == (1024 * 1024, 2048)


def test_a_keyring_has_one_mebibyte_at_most() -> None:
    whole = KEY + packet(17, bytes(1024 * 1024 - len(KEY) - 6))
    assert len(whole) == 1024 * 1024
    assert parse_keyring(whole) == whole
    with pytest.raises(InvalidKeyring, match=r"it is larger than 1\.0 MB"):
        parse_keyring(whole + b"\0")


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param(KEY + packet(5, BODY), "it holds a secret key", id="a secret key"),
        pytest.param(KEY + packet(7, BODY), "it holds a secret key", id="a secret subkey"),
        pytest.param(KEY + packet(11, b"x"), r"\(an OpenPGP packet of type 11\)", id="a text"),
        pytest.param(KEY + packet(18, b"x"), r"\(an OpenPGP packet of type 18\)", id="what is encrypted"),
        pytest.param(KEY + packet(0, b"x"), r"\(an OpenPGP packet of type 0\)", id="the type that may not be"),
        pytest.param(KEY[:-1], "an OpenPGP packet in it is cut off", id="cut off"),
        pytest.param(USER + KEY, "it does not begin with a public key", id="a user id first"),
        pytest.param(packet(10, b"PGP") + packet(12, b"x"), "it is empty", id="marker and trust alone"),
        pytest.param(KEY + packet(6, b""), "it holds a key of version 0", id="a key of no bytes"),
        pytest.param(KEY + packet(6, b"\x03" + BODY[1:]), "it holds a key of version 3", id="a key of version 3"),
        pytest.param(KEY + packet(6, other_body(22, b"")), "it holds a key of version 4", id="a key of six bytes"),
        pytest.param(packet(6, other_body(22, bytes(65_530))), "a key of version 4", id="a key of 65,536 bytes"),
    ],
)
def test_what_no_keyring_may_hold_is_named(raw: bytes, why: str) -> None:
    with pytest.raises(InvalidKeyring, match=why):
        parse_keyring(raw)


def test_what_a_keyring_may_hold_is_kept_as_it_stands() -> None:
    certificate = KEY + USER + signed(0x13) + packet(17, b"photo") + packet(14, BODY) + signed(0x18)
    between = packet(10, b"PGP") + packet(12, b"\0\0")
    assert parse_keyring(between + certificate + between) == certificate
    assert key_ids(certificate) == (ID,)


@pytest.mark.parametrize("material", [1, 65_529])
def test_a_key_has_seven_bytes_at_least_and_65_535_at_most(material: int) -> None:
    body = other_body(22, bytes(material))
    assert key_ids(parse_keyring(packet(6, body))) == (fingerprint(body),)


def test_a_key_that_is_there_twice_is_named_once() -> None:
    other = packet(6, rsa_body(2049))
    assert key_ids(KEY + other + KEY) == (ID, THEIRS)


@pytest.mark.parametrize("algorithm", [1, 3])
@pytest.mark.parametrize(("bits", "usable"), [(2048, True), (2047, False), (2040, False), (2041, False)])
def test_rsa_has_2048_bits_at_least(algorithm: int, bits: int, usable: bool) -> None:
    body = rsa_body(bits, algorithm=algorithm)
    [found] = judge(packet(6, body), NOW)
    if usable:
        assert (found.refusal, found.problem, found.sentence) == (None, "", "")
        return
    assert isinstance(found.refusal, KeyTooSmall)
    assert (found.refusal.fingerprint, found.refusal.bits, found.refusal.least) == (fingerprint(body), bits, 2048)
    assert (found.problem, found.sentence) == ("key_too_small", str(found.refusal))


def test_what_a_modulus_says_of_itself_counts_for_nothing_more() -> None:
    [found] = judge(packet(6, rsa_body(4096, says=1024)), NOW)
    assert isinstance(found.refusal, KeyTooSmall)
    assert found.refusal.bits == 1024


@pytest.mark.parametrize("algorithm", [19, 22])
def test_elliptic_keys_are_usable(algorithm: int) -> None:
    assert judge(packet(6, other_body(algorithm)), NOW)[0].refusal is None


@pytest.mark.parametrize(
    ("algorithm", "name"),
    [
        (0, "OpenPGP's number 0"),
        (2, "RSA that only encrypts"),
        (4, "OpenPGP's number 4"),
        (16, "Elgamal"),
        (17, "DSA"),
        (18, "ECDH"),
        (20, "OpenPGP's number 20"),
        (23, "OpenPGP's number 23"),
        (27, "Ed25519 of RFC 9580"),
        (28, "OpenPGP's number 28"),
    ],
)
def test_keys_of_other_kinds_are_refused_by_name(algorithm: int, name: str) -> None:
    [found] = judge(packet(6, other_body(algorithm, bytes(500))), NOW)
    assert isinstance(found.refusal, KeyAlgorithmRefused)
    assert found.refusal.algorithm == name


def test_subkeys_are_unfit_by_the_same_rules() -> None:
    small, dsa, strong = rsa_body(1024), other_body(17, b"\x01"), rsa_body(3072)
    foreign = [b"\x05" + rsa_body(1024)[1:], other_body(17, b""), b""]
    subkeys = b"".join(packet(14, body) for body in (small, dsa, strong, *foreign))
    found = unfit(KEY + USER + signed(0x13) + subkeys + packet(13, small))
    assert {name: refusal.code for name, refusal in found.items()} == {
        fingerprint(small): "key_too_small",
        fingerprint(dsa): "key_algorithm",
    }
    assert set(unfit(packet(6, small))) == {fingerprint(small)}
    assert unfit(packet(13, small)) == {}


def test_a_key_ends_at_its_moment_and_not_a_second_before() -> None:
    keyring = KEY + USER + signed(0x13, lasts=181 * DAY)
    assert judge(keyring, NOW - timedelta(seconds=1))[0].refusal is None
    [found] = judge(keyring, NOW)
    assert isinstance(found.refusal, KeyExpired)
    assert (found.refusal.fingerprint, found.refusal.expired_at, found.problem) == (ID, NOW, "key_expired")


ELSE = subpacket(16, bytes.fromhex(THEIRS[-16:]))
BY_PRINT, ELSE_BY_PRINT = (subpacket(33, b"\x04" + bytes.fromhex(name)) for name in (ID, THEIRS))


@pytest.mark.parametrize(
    ("packets", "seconds"),
    [
        pytest.param([], None, id="nothing"),
        pytest.param([USER, signed(0x13)], None, id="a signature that says nothing"),
        *(pytest.param([USER, signed(kind, lasts=5)], 5, id=f"of type {kind:#x}") for kind in range(0x10, 0x14)),
        *(
            pytest.param([USER, signed(kind, lasts=5)], None, id=f"of type {kind:#x}")
            for kind in (0x00, 0x0F, 0x14, 0x18, 0x19, 0x1E, 0x21, 0x28, 0x30)
        ),
        pytest.param([signed(0x1F, lasts=5)], 5, id="of the key itself"),
        pytest.param([signed(0x13, lasts=5)], None, id="of a user id, before there is one"),
        pytest.param([signed(0x13, lasts=5), USER, signed(0x13, lasts=7)], 7, id="of a user id, before and after"),
        pytest.param([packet(17, b"photo"), signed(0x10, lasts=5)], 5, id="of a photo"),
        pytest.param([USER, signed(0x13, lasts=16_909_060)], 16_909_060, id="four octets"),
        pytest.param([signed(0x1F, lasts=5), USER, signed(0x13, lasts=9, created=CREATED + 9)], 5, id="the key first"),
        pytest.param([signed(0x1F, lasts=0), USER, signed(0x13, lasts=9)], None, id="the key says for ever"),
        pytest.param([signed(0x1F), USER, signed(0x13, lasts=9)], 9, id="the key says nothing"),
        pytest.param([signed(0x1F, lasts=5), signed(0x1F, lasts=7, created=CREATED + 1)], 7, id="newest, last"),
        pytest.param([signed(0x1F, lasts=7, created=CREATED + 1), signed(0x1F, lasts=5)], 7, id="newest, first"),
        pytest.param(
            [USER, signed(0x13, lasts=5), signed(0x13, lasts=7, created=CREATED + 1)], 7, id="newest of an id, last"
        ),
        pytest.param(
            [USER, signed(0x13, lasts=7, created=CREATED + 1), signed(0x13, lasts=5)], 7, id="newest of an id, first"
        ),
        pytest.param([USER, signed(0x13, lasts=5), signed(0x13, lasts=7)], 7, id="the later of two of one second"),
        pytest.param([USER, signed(0x13, lasts=5), signed(0x13, created=CREATED + 1)], None, id="newest says nothing"),
        pytest.param(
            [USER, signed(0x13, lasts=5), USER_2, signed(0x13, created=CREATED + 1)], 5, id="a newer id says nothing"
        ),
        pytest.param(
            [USER, signed(0x13, lasts=5), USER_2, signed(0x13, lasts=0, created=CREATED + 1)],
            5,
            id="a newer id says for ever",
        ),
        pytest.param(
            [USER, signed(0x13, lasts=5), USER_2, signed(0x13, lasts=7, created=CREATED + 1)], 7, id="the newer id"
        ),
        pytest.param(
            [USER, signed(0x13, lasts=7, created=CREATED + 1), USER_2, signed(0x13, lasts=5)],
            7,
            id="the newer id first",
        ),
        pytest.param(
            [USER, signed(0x13, lasts=7), USER_2, signed(0x13, lasts=5)], 7, id="the first of two ids of one second"
        ),
        pytest.param([packet(14, BODY), signed(0x1F, lasts=5)], None, id="after a subkey"),
        pytest.param([packet(14, BODY), USER, signed(0x13, lasts=5)], None, id="of an id after a subkey"),
        pytest.param([packet(12, b"x"), signed(0x1F, lasts=5)], 5, id="after a packet of trust"),
        pytest.param([packet(12, signature_body(0x1F, number(9, 5), ISSUED))], None, id="in a packet of trust"),
        # Who issued it.
        pytest.param([signed(0x1F, lasts=5, issued=b"")], None, id="by nobody"),
        pytest.param([signed(0x1F, lasts=5, issued=ELSE)], None, id="by another key"),
        pytest.param([signed(0x1F, lasts=5, issued=BY_PRINT)], 5, id="by fingerprint"),
        pytest.param([signed(0x1F, lasts=5, issued=ELSE_BY_PRINT)], None, id="by another fingerprint"),
        pytest.param([signed(0x1F, lasts=5, issued=ELSE + BY_PRINT)], 5, id="the fingerprint before the id"),
        pytest.param([signed(0x1F, lasts=5, issued=ISSUED + ELSE_BY_PRINT)], None, id="another before the id"),
        pytest.param([signed(0x1F, lasts=5, issued=ELSE, more=ISSUED)], 5, id="what is hashed before what is not"),
        pytest.param([signed(0x1F, lasts=5, issued=ISSUED, more=ELSE)], None, id="another, hashed"),
        pytest.param(
            [packet(2, signature_body(0x1F, number(2, CREATED), ISSUED + number(9, 5)))], None, id="not hashed"
        ),
        # What stands in it.
        pytest.param([signed(0x1F, more=number(0x89, 5))], 5, id="critical"),
        pytest.param([signed(0x1F, more=subpacket(9, b"\0\0\0\x05\x07"))], 5, id="with a byte too many"),
        pytest.param([signed(0x1F, more=b"\0" + number(9, 5))], None, id="after a subpacket of no bytes"),
        pytest.param([signed(0x1F, more=b"\0")], None, id="a subpacket of no bytes at the end"),
        pytest.param([signed(0x1F, more=b"\x06" + number(9, 5)[1:])], None, id="cut off"),
        pytest.param([signed(0x1F, more=b"\xff\x01\0\0\x05\x09\0\0\0\x05")], None, id="cut off, in five octets"),
        *(
            pytest.param([signed(0x1F, more=subpacket(20, bytes(size - 1)), lasts=5)], 5, id=f"after {size} bytes")
            for size in (1, 190, 191, 192, 193, 447, 448, 8383, 8384, 16_319, 16_320, 16_321, 60_000)
        ),
        pytest.param(
            [signed(0x1F, more=b"\xff\0\0\x01\x02\x14" + bytes(257), lasts=5)], 5, id="after 258 in five octets"
        ),
    ],
)
def test_a_key_lasts_as_long_as_it_says(packets: list[bytes], seconds: int | None) -> None:
    assert lasts(*packets) == seconds


WHOLE = signature_body(0x20, number(2, CREATED), ISSUED)


@pytest.mark.parametrize(
    ("body", "counts"),
    [
        pytest.param(WHOLE, True, id="whole"),
        pytest.param(signature_body(0x20, b"", ISSUED), True, id="nothing hashed"),
        pytest.param(signature_body(0x20, ISSUED), True, id="all hashed"),
        pytest.param(signature_body(0x20, b"", ISSUED, after=ELSE), True, id="what follows is none of it"),
        pytest.param(signature_body(0x20, b"", number(2, 1), after=ISSUED), False, id="what follows is not read"),
        pytest.param(signature_body(0x20, b"", subpacket(20, bytes(300)) + ISSUED), True, id="more than 255 bytes"),
        pytest.param(signature_body(0x20, subpacket(20, bytes(300)), ISSUED), True, id="more than 255 bytes hashed"),
        pytest.param(b"\x03" + WHOLE[1:], False, id="version 3"),
        pytest.param(b"\x05" + WHOLE[1:], False, id="version 5"),
        pytest.param(b"\x04\x20\x01\x0a\x00", False, id="five bytes"),
        pytest.param(b"\x04\x20\x01\x0a\x00\x00", False, id="six bytes"),
        pytest.param(b"", False, id="no bytes"),
    ],
)
def test_a_revocation_of_the_key_counts_when_the_key_itself_made_it(body: bytes, counts: bool) -> None:
    [found] = judge(KEY + packet(2, body) + USER + signed(0x13, lasts=1), NOW)
    assert isinstance(found.refusal, KeyRevoked if counts else KeyExpired)
    assert found.refusal.fingerprint == ID


def test_what_a_key_is_comes_before_what_it_says() -> None:
    small = rsa_body(1024)
    issued = subpacket(16, bytes.fromhex(fingerprint(small)[-16:]))
    [found] = judge(packet(6, small) + packet(2, signature_body(0x20, b"", issued)), NOW)
    assert found.problem == "key_too_small"


def test_what_one_copy_of_a_key_says_holds_for_all() -> None:
    other = packet(6, rsa_body(2049))
    keyring = KEY + USER + signed(0x13) + other + USER_2 + KEY + signed(0x20)
    assert [(key.fingerprint, key.problem) for key in judge(keyring, NOW)] == [(ID, "key_revoked"), (THEIRS, "")]
    assert usable_keyring(keyring, NOW) == other + USER_2


def test_usable_keys_are_kept_whole_with_every_copy() -> None:
    small = packet(6, rsa_body(1024)) + USER
    whole = KEY + USER + signed(0x13)
    assert usable_keyring(packet(12, b"x") + whole + small + KEY, NOW) == whole + KEY
    with pytest.raises(KeyTooSmall):
        usable_keyring(small + KEY + signed(0x20), NOW)
    with pytest.raises(KeyRevoked):
        usable_keyring(KEY + signed(0x20) + small, NOW)


def test_the_shipped_keyring_is_this_one() -> None:
    path = Path(keys.__file__).parent / "keyrings" / "ubuntu-cloudimage-keyring.gpg"
    assert str(keys.DEFAULT_KEYRING) == str(path)
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest == keys.DEFAULT_KEYRING_SHA256
    assert digest == "c2d40d925557dbe9a0745c12ca0dc98bed593ce9a6652f1b2faa1ff0858dbf2f"
    assert keys.SHIPPED_KEYRINGS == ("ubuntu-cloudimage", "ubuntu")
    both = key_ids(shipped_keyring("ubuntu-cloudimage"))
    assert both == ("D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81", "4A3CE3CD565D7EB5C810E2B97FF3F408476CF100")
    assert both == keys.DEFAULT_KEY_IDS
    assert shipped_keyring("ubuntu") == shipped_keyring("ubuntu-cloudimage")
