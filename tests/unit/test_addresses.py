"""Which addresses a request may go to: tables of them, in every spelling and wrapping."""

import ipaddress

import pytest

from shared.addresses import is_forbidden, is_private, literal

NEVER = [
    *("0.0.0.0", "0.1.2.3", "169.254.169.254", "169.254.0.1", "169.254.255.255", "224.0.0.1", "239.255.255.255"),
    *("240.0.0.1", "255.255.255.255", "100.100.100.200", "168.63.129.16", "192.0.0.192"),
    *("::", "fe80::1", "febf::1", "ff02::1", "fd00:ec2::254", "fd20:ce::254"),
    # IPv4 within IPv6: mapped, compatible, NAT64, 6to4.
    *("::ffff:169.254.169.254", "::169.254.169.254", "64:ff9b::169.254.169.254", "64:ff9b::a9fe:a9fe"),
    *("2002:a9fe:a9fe::", "2002:a9fe:a9fe::1", "2002:6464:64c8::1", "::ffff:100.100.100.200"),
    *("64:ff9b::100.100.100.200", "::ffff:0.0.0.0", "64:ff9b::192.0.0.192"),
    # NAT64 of a network's own: 100.100.100.200 at the end, or after 48, 56 or 64 bits (RFC 6052, section 2.2).
    *("64:ff9b:1::6464:64c8", "64:ff9b:1:6464:64:c800::", "64:ff9b:1:64:64:64c8::", "64:ff9b:1:0:64:6464:c800:0"),
    # The byte after 64 bits belongs to no address.
    *("64:ff9b:1:6464:164:c800::", "64:ff9b:1:64:ff64:64c8::"),
    # Teredo: the server, and the client's address with every bit turned.
    *("2001:0:6464:64c8:0:0:f5ff:fffe", "2001:0:cb00:7107:0:0:9b9b:9b37"),
    *("::2", "::ffff:0.0.0.1"),
]
PRIVATE = [
    *("10.0.0.1", "10.255.255.255", "100.64.0.1", "100.127.255.255", "127.0.0.1", "127.9.9.9", "172.16.0.1"),
    *("172.31.255.255", "100.100.100.199", "192.168.0.1", "192.0.0.8", "198.18.0.1", "198.19.255.255"),
    *("::1", "fc00::1", "fd12:3456::1", "fec0::1"),
    *(
        "::ffff:10.0.0.1",
        "::127.0.0.1",
        "64:ff9b::10.0.0.1",
        "64:ff9b:1::203.0.113.7",
        "2002:a00:1::",
        "2002:7f00:1::1",
    ),
    "2001:0:cb00:7107:0:0:f5ff:fffe",
    # One less than 100.100.100.200, in each of those places, and one more.
    *("64:ff9b:1::6464:64c7", "64:ff9b:1:6464:64:c700::", "64:ff9b:1:64:64:64c7::", "64:ff9b:1:0:64:6464:c700:0"),
    *("::ffff:100.100.100.201", "::ffff:100.100.100.199"),
]
PUBLIC = [
    *("1.1.1.1", "9.255.255.255", "11.0.0.0", "100.63.255.255", "100.128.0.0", "126.255.255.255", "128.0.0.1"),
    *("172.15.255.255", "172.32.0.0", "192.167.255.255", "192.169.0.0", "203.0.113.7", "223.255.255.255"),
    *("169.253.255.255", "169.255.0.0", "198.17.255.255", "198.20.0.0"),
    *("2620:2d:4000:1::16", "2001:db8::1", "::ffff:203.0.113.7", "64:ff9b::203.0.113.7", "2002:cb00:7107::1"),
    *("2001:0:cb00:7107:0:0:34ff:8ef8", "fbff::1"),
]


@pytest.mark.parametrize("text", NEVER)
def test_nothing_ever_goes_there(text: str) -> None:
    assert is_forbidden(ipaddress.ip_address(text))


@pytest.mark.parametrize("text", PRIVATE)
def test_only_who_was_told_so_goes_there(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert (is_forbidden(address), is_private(address)) == (False, True)


@pytest.mark.parametrize("text", PUBLIC)
def test_anybody_may_go_there(text: str) -> None:
    address = ipaddress.ip_address(text)
    assert (is_forbidden(address), is_private(address)) == (False, False)


SPELLINGS = [
    *("169.254.169.254", "169.254.169.254.", "2852039166", "0xa9fea9fe", "0XA9FEA9FE", "0251.0376.0251.0376"),
    *("0xa9.0xfe.0xa9.0xfe", "169.254.43518", "169.16689662", "169.254.169.0376", "0xa9fea9fe."),
]


@pytest.mark.parametrize("text", SPELLINGS)
def test_every_spelling_of_an_address_is_that_address(text: str) -> None:
    assert str(literal(text)) == "169.254.169.254"


@pytest.mark.parametrize(
    ("text", "address"),
    [
        ("fe80::1%lo", "fe80::1"),
        ("fe80::1%25lo", "fe80::1"),
        ("[::1]", "::1"),
        ("0", "0.0.0.0"),
        ("127.1", "127.0.0.1"),
    ],
)
def test_more_spellings(text: str, address: str) -> None:
    assert str(literal(text)) == address


@pytest.mark.parametrize("text", ["mirror.example", "1and1.example", "3com", "", "1.2.3.4.5", "0x", "-1"])
def test_a_name_is_no_address(text: str) -> None:
    assert literal(text) is None


@pytest.mark.parametrize(
    "text",
    ["10.0.0.1 x", "10.0.0.1\tx", "10.0.0.1\n", " 10.0.0.1", "10.0.0.1\0", "X10.0.0.1", "\uff11\uff10.0.0.1", "\ud800"],
)
def test_what_only_begins_like_an_address_is_none(text: str) -> None:
    assert literal(text) is None
