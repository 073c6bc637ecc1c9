"""OpenPGP's outer shapes: every form of a length and of a keyring, to the byte."""

import base64

import pytest

from region.stream import packets
from region.stream.packets import Malformed, Packet, blocks_of, from_base64, packets_of


def test_packets_are_told_apart_by_these_numbers() -> None:
    assert (packets.SIGNATURE, packets.SECRET_KEY, packets.PUBLIC_KEY, packets.SECRET_SUBKEY) == (2, 5, 6, 7)
    assert (packets.MARKER, packets.TRUST, packets.USER_ID) == (10, 12, 13)
    assert (packets.PUBLIC_SUBKEY, packets.USER_ATTRIBUTE) == (14, 17)


@pytest.mark.parametrize(
    ("header", "tag", "length"),
    [
        pytest.param(b"\x88\x03", 2, 3, id="old, one octet"),
        pytest.param(b"\x88\x00", 2, 0, id="old, nothing in it"),
        pytest.param(b"\x88\xff", 2, 255, id="old, one octet at most"),
        pytest.param(b"\x89\x01\x02", 2, 258, id="old, two octets"),
        pytest.param(b"\x9a\x00\x01\x00\x02", 6, 65_538, id="old, four octets"),
        pytest.param(b"\xbc\x01", 15, 1, id="old, the greatest type"),
        pytest.param(b"\xc2\x00", 2, 0, id="new, nothing in it"),
        pytest.param(b"\xc2\x03", 2, 3, id="new, one octet"),
        pytest.param(b"\xff\x01", 63, 1, id="new, the greatest type"),
        pytest.param(b"\xc2\xbf", 2, 191, id="new, one octet at most"),
        pytest.param(b"\xc2\xc0\x00", 2, 192, id="new, two octets at least"),
        pytest.param(b"\xff\xc1\x05", 63, 453, id="new, two octets"),
        pytest.param(b"\xc2\xdf\xff", 2, 8383, id="new, two octets at most"),
        pytest.param(b"\xff\xff\x00\x00\x00\x03", 63, 3, id="new, five octets"),
        pytest.param(b"\xc6\xff\x01\x02\x03\x04", 6, 16_909_060, id="new, five octets, large"),
    ],
)
def test_every_form_of_a_length_is_read(header: bytes, tag: int, length: int) -> None:
    body = b"x" * length
    one = Packet(tag, body, header + body)
    assert packets_of(header + body) == [one]
    assert packets_of(header + body + b"\xca\x03PGP" + header + body) == [one, Packet(10, b"PGP", b"\xca\x03PGP"), one]
    with pytest.raises(Malformed):
        packets_of((header + body)[:-1])


NO_LENGTH = "an OpenPGP packet in it has no definite length"
CUT = "an OpenPGP packet in it is cut off"


@pytest.mark.parametrize(
    ("data", "why"),
    [
        pytest.param(b"\x7f\x01x", "it is not OpenPGP data", id="no packet"),
        pytest.param(b"\x8b" + b"x" * 300, NO_LENGTH, id="old, to the end"),
        pytest.param(b"\x88", NO_LENGTH, id="old, no octet"),
        pytest.param(b"\x89\x00", NO_LENGTH, id="old, one octet of two"),
        pytest.param(b"\x8a\x00\x00\x00", NO_LENGTH, id="old, three octets of four"),
        pytest.param(b"\xc2", NO_LENGTH, id="new, no octet"),
        pytest.param(b"\xc2\xc0", NO_LENGTH, id="new, one octet of two"),
        pytest.param(b"\xc2\xc0\x00", CUT, id="new, two octets and nothing"),
        pytest.param(b"\xc2\xe0\x00" + b"x" * 8384, NO_LENGTH, id="new, the least of the partial"),
        pytest.param(b"\xc2\xfe" + b"x" * 300, NO_LENGTH, id="new, the greatest of the partial"),
        pytest.param(b"\xc2\xff", CUT, id="new, no octet of four"),
        pytest.param(b"\xc2\xff\x00\x00\x00", CUT, id="new, three octets of four"),
        pytest.param(b"\xc2\x04abc", CUT, id="a byte is missing"),
    ],
)
def test_what_is_no_packet_is_named(data: bytes, why: str) -> None:
    with pytest.raises(Malformed) as caught:
        packets_of(data)
    assert str(caught.value) == why


def test_ten_thousand_packets_and_no_more() -> None:
    assert len(packets_of(b"\xc2\x00" * 10_000)) == 10_000
    with pytest.raises(Malformed, match="it has more than 10000 packets"):
        packets_of(b"\xc2\x00" * 10_001)


def block(name: str, data: bytes, headers: str = "", checksum: str = "") -> bytes:
    encoded = base64.b64encode(data).decode()
    return f"-----BEGIN PGP {name}-----\n{headers}\n{encoded}\n{checksum}-----END PGP {name}-----\n".encode()


ONE, TWO = b"\xc6\x01\x04", b"\xc2\x02ab"


@pytest.mark.parametrize(
    ("raw", "blocks"),
    [
        pytest.param(b"", [], id="nothing"),
        pytest.param(b" \r\n\t", [], id="white space"),
        pytest.param(b"\x80 \n", [b"\x80 \n"], id="binary"),
        pytest.param(b"xgEE", [ONE], id="base64 that begins with an even letter"),
        pytest.param(b"wgJhYg==", [TWO], id="base64 that begins with an odd letter"),
        pytest.param(b" x\ngE\r\nE\n", [ONE], id="base64 in lines"),
        pytest.param(block("PUBLIC KEY BLOCK", ONE), [ONE], id="armour"),
        pytest.param(
            b"old\n" + block("PUBLIC KEY BLOCK", ONE, "Version: 2\nComment:\n") + b"new\n" + block("SIGNATURE", TWO),
            [ONE, TWO],
            id="two blocks, words, headers",
        ),
        pytest.param(block("PUBLIC KEY BLOCK", ONE, checksum="=njUN\n"), [ONE], id="a checksum, which nobody looks at"),
    ],
)
def test_every_form_of_binary_data_is_read(raw: bytes, blocks: list[bytes]) -> None:
    assert list(blocks_of(raw)) == blocks


@pytest.mark.parametrize(
    ("raw", "why"),
    [
        pytest.param(
            b"\x00\x00\x00\x20\x01\x01\x00\x02KBXf\x00",
            "it is a keybox, GnuPG's own database; export the keys from it (gpg --export)",
            id="a keybox",
        ),
        pytest.param(
            block("PRIVATE KEY BLOCK", ONE),
            "it holds a secret key; export the public key alone (gpg --armor --export)",
            id="a secret key",
        ),
        pytest.param(
            block("PUBLIC KEY BLOCK", ONE) + b"-----BEGIN PGP PUBLIC KEY BLOCK-----\n",
            "a block of its ASCII armour is damaged or cut off",
            id="a block that is cut off after a whole one",
        ),
        pytest.param(
            b"-----BEGIN PGP SIGNATURE-----\n\nxgEE\n-----END PGP MESSAGE-----",
            "a block of its ASCII armour is damaged or cut off",
            id="a block that ends as another",
        ),
        pytest.param(b"xg,EE", "it is neither binary, nor ASCII armour, nor base64", id="a letter too many"),
        pytest.param(b"xgE", "it is neither binary, nor ASCII armour, nor base64", id="a letter too few"),
    ],
)
def test_what_is_no_binary_data_is_named(raw: bytes, why: str) -> None:
    with pytest.raises(Malformed) as caught:
        list(blocks_of(raw))
    assert str(caught.value) == why


def test_base64_is_what_it_says() -> None:
    assert from_base64(b" xg\nEE\t") == ONE
