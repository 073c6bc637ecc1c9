"""Files that somebody named: nothing but a regular file is opened, and no more is read than asked for."""

import asyncio
import os
import socket
from collections.abc import Callable
from pathlib import Path

import pytest

from region.catalogue.trust import Keyring, KeyringUnreadable, read_keyring
from region.cli.exits import Misused
from region.cli.sources import _read_keyring
from region.stream.keys import DEFAULT_KEYRING, parse_keyring
from shared.errors import InvalidKeyring
from shared.regular_file import read_regular


def pipe(path: Path) -> None:
    os.mkfifo(path)


def bound(path: Path) -> None:
    with socket.socket(socket.AF_UNIX) as made:
        made.bind(str(path))


def link_to(target: str) -> Callable[[Path], None]:
    return lambda path: path.symlink_to(target)


NONE = [
    pytest.param(pipe, id="a pipe"),
    pytest.param(Path.mkdir, id="a directory"),
    pytest.param(bound, id="a socket"),
    pytest.param(link_to("/dev/zero"), id="a device behind a link"),
    pytest.param(link_to("/dev/tty"), id="a terminal behind a link"),
]


@pytest.mark.parametrize("make", NONE)
async def test_what_is_no_regular_file_is_refused_and_nobody_waits(
    tmp_path: Path, make: Callable[[Path], None]
) -> None:
    make(tmp_path / "k")
    with pytest.raises(OSError, match="it is no regular file"):
        await asyncio.wait_for(asyncio.to_thread(read_regular, tmp_path / "k", 10), 5)
    with pytest.raises(KeyringUnreadable, match="it is no regular file"):
        await asyncio.wait_for(asyncio.to_thread(read_keyring, Keyring(None, path=str(tmp_path / "k"))), 5)
    with pytest.raises(Misused, match="it is no regular file"):
        await asyncio.wait_for(asyncio.to_thread(_read_keyring, tmp_path / "k"), 5)


async def test_what_takes_its_place_between_look_and_opening_is_refused_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pipe(tmp_path / "k")
    (tmp_path / "file").write_bytes(b"")
    seen = (tmp_path / "file").stat()
    monkeypatch.setattr(Path, "stat", lambda *_, **__: seen)
    with pytest.raises(OSError, match="it is no regular file"):
        await asyncio.wait_for(asyncio.to_thread(read_regular, tmp_path / "k", 10), 5)


def test_a_file_is_read_whole_or_one_byte_too_far(tmp_path: Path) -> None:
    path = tmp_path / "k"
    path.write_bytes(b"0123456789")
    assert read_regular(path, 10) == b"0123456789"
    assert read_regular(path, 9) == b"0123456789"
    assert read_regular(path, 4) == b"01234"
    (tmp_path / "link").symlink_to(path)
    assert read_regular(tmp_path / "link", 10) == b"0123456789"


@pytest.mark.parametrize("name", ["nothing", "a\x00b"])
def test_what_is_not_there_is_said(tmp_path: Path, name: str) -> None:
    with pytest.raises(KeyringUnreadable):
        read_keyring(Keyring(None, path=str(tmp_path / name)))
    with pytest.raises(Misused):
        _read_keyring(tmp_path / name)


def test_a_keyring_of_ten_thousand_packets_is_the_largest() -> None:
    keyring = parse_keyring(DEFAULT_KEYRING.read_bytes())
    # An empty user id is a packet of two bytes (RFC 9580, section 4.2).
    assert parse_keyring(keyring + b"\xb4\x00" * 9_000)
    with pytest.raises(InvalidKeyring, match="has more than 10000 packets"):
        parse_keyring(keyring + b"\xb4\x00" * 10_000)
    with pytest.raises(InvalidKeyring, match="has more than 10000 packets"):
        parse_keyring(keyring + b"\xb4\x00" * 500_000)
