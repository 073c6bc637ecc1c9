"""Limits of archives to the byte and the member, and what lies on the disk when they are unpacked."""

import io
import lzma
import os
import random
import stat
import tarfile
from pathlib import Path

import pytest

from rack import archive
from rack.archive import unpack
from shared.errors import InvalidDocument

Member = tuple[str, bytes | str | None]
"""A name, and a file's content, a symbolic link's target, or None for a directory."""


def tar(*members: Member) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as out:
        for name, content in members:
            info = tarfile.TarInfo(name)
            if content is None:
                info.type = tarfile.DIRTYPE
            elif isinstance(content, str):
                info.type, info.linkname = tarfile.SYMTYPE, content
            else:
                info.size = len(content)
            out.addfile(info, io.BytesIO(content) if isinstance(content, bytes) else None)
    return packed.getvalue()


def unpacked(into: Path, packed: bytes, **limits: int) -> dict[str, bytes]:
    found = unpack(io.BytesIO(packed), into, origin="The archive", **limits)
    return {str(path): (into / path).read_bytes() for path in found}


def test_an_archive_has_so_much_at_most() -> None:
    assert (archive.MAX_MEMBERS, archive.MAX_DEPTH, archive.MAX_PATH_BYTES) == (10_000, 16, 512)
    assert archive.MAX_HEADER_BYTES == 64 * 1024
    assert (archive.MAX_UNPACKED_BYTES, archive.MAX_DECODER_BYTES) == (512 * 1024 * 1024, 128 * 1024 * 1024)


@pytest.mark.parametrize("pack", [bytes, lzma.compress], ids=["plain", "xz"])
def test_an_archive_unpacks_to_its_limit_and_no_byte_more(tmp_path: Path, pack: type) -> None:
    packed = tar(("a", b"x" * 30_000))
    assert unpacked(tmp_path / "a", pack(packed), max_bytes=len(packed)) == {"a": b"x" * 30_000}
    with pytest.raises(InvalidDocument, match=f"it unpacks to more than {len(packed) - 1} bytes"):
        unpacked(tmp_path / "b", pack(packed), max_bytes=len(packed) - 1)


def test_links_count_to_the_byte(tmp_path: Path) -> None:
    packed = tar(("a", b"x" * 30_000), ("b", "a"))
    assert set(unpacked(tmp_path / "a", packed, max_bytes=60_000)) == {"a", "b"}
    with pytest.raises(InvalidDocument, match="its links become more than 59999 bytes"):
        unpacked(tmp_path / "b", packed, max_bytes=59_999)


@pytest.mark.parametrize(("length", "taken"), [(512, True), (513, False)])
def test_a_name_has_512_bytes_at_most(tmp_path: Path, length: int, taken: bool) -> None:
    name = "/".join(["a" * 200, "b" * 200, "c" * (length - 402)])
    if taken:
        assert unpacked(tmp_path / "a", tar((name, b"x"))) == {name: b"x"}
    else:
        with pytest.raises(InvalidDocument, match="longer or deeper"):
            unpacked(tmp_path / "a", tar((name, b"x")))


@pytest.mark.parametrize(
    ("members", "files"),
    [
        pytest.param([("a", b"1"), ("a", b"2")], {"a": b"2"}, id="a file by a file"),
        pytest.param([("a", b"1"), ("a", "b"), ("b", b"2")], {"a": b"2", "b": b"2"}, id="a file by a link"),
        pytest.param([("a", "b"), ("a", b"1"), ("b", b"2")], {"a": b"1", "b": b"2"}, id="a link by a file"),
    ],
)
def test_a_later_member_takes_the_place_of_an_earlier_one(
    tmp_path: Path, members: list[Member], files: dict[str, bytes]
) -> None:
    assert unpacked(tmp_path / "a", tar(*members)) == files


def test_sixteen_names_in_a_row_and_no_more(tmp_path: Path) -> None:
    def chain(links: int) -> bytes:
        return tar(*[(f"l{n}", f"l{n + 1}") for n in range(links)], (f"l{links}", b"end"))

    assert unpacked(tmp_path / "a", chain(15))["l0"] == b"end"
    with pytest.raises(InvalidDocument, match="links to itself"):
        unpacked(tmp_path / "b", chain(16))


def test_files_can_be_read_by_everybody_whatever_the_mask(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        unpacked(tmp_path / "not" / "yet" / "there", tar(("d/a", b"x")))
        os.umask(0o077)
        unpacked(tmp_path / "b", tar(("a", b"x")))
    finally:
        os.umask(mask)
    into = tmp_path / "not" / "yet" / "there"
    modes = [stat.S_IMODE(path.stat().st_mode) for path in (into, into / "d", into / "d" / "a", tmp_path / "b" / "a")]
    assert modes == [0o755, 0o755, 0o644, 0o644]


def test_what_was_there_before_goes_and_what_was_refused_leaves_nothing(tmp_path: Path) -> None:
    into = tmp_path / "a"
    into.mkdir()
    (into / "stray").touch()
    unpacked(into, tar(("a", b"x")))
    assert [path.name for path in into.iterdir()] == ["a"]
    with pytest.raises(InvalidDocument):
        unpacked(into, tar(("a", b"x"), ("b", "nowhere")))
    assert not into.exists()


def test_several_streams_and_their_padding_are_one_archive(tmp_path: Path) -> None:
    packed = tar(("a", b"x" * 3000), ("b", b"y" * 3000))
    parts = [lzma.compress(part) for part in (packed[:5000], packed[5000:])]
    padded = parts[0] + bytes(300_000) + parts[1] + bytes(8)
    assert unpacked(tmp_path / "a", padded) == {"a": b"x" * 3000, "b": b"y" * 3000}
    with pytest.raises(InvalidDocument, match="it is damaged"):
        unpacked(tmp_path / "b", parts[0] + b"X" + parts[1])


def test_a_stream_may_end_where_a_record_does(tmp_path: Path) -> None:
    packed = tar(("a", b"x" * 20_000))
    streams = lzma.compress(packed[: 20 * 512]) + lzma.compress(packed[20 * 512 :])
    assert unpacked(tmp_path / "a", streams) == {"a": b"x" * 20_000}


def test_an_archive_may_end_before_a_record_does(tmp_path: Path) -> None:
    packed = tar(("a", b"1"))[: 4 * 512]
    assert unpacked(tmp_path / "a", lzma.compress(packed)) == {"a": b"1"}


def test_a_sparse_member_is_told_by_its_name(tmp_path: Path) -> None:
    info = tarfile.TarInfo("thin")
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(InvalidDocument, match="thin is sparse"):
        unpacked(tmp_path / "a", info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))


def test_a_sparse_member_of_the_pax_format_is_no_file(tmp_path: Path) -> None:
    info = tarfile.TarInfo("thin")
    info.size, info.pax_headers = 512, {"GNU.sparse.map": "0,512", "GNU.sparse.size": "512"}
    packed = info.tobuf(tarfile.PAX_FORMAT) + bytes(512 + 1024)
    with pytest.raises(InvalidDocument, match="thin is neither a plain file nor a directory"):
        unpacked(tmp_path / "a", packed)


def test_an_archive_without_a_file_is_a_directory_without_one(tmp_path: Path) -> None:
    assert unpacked(tmp_path / "a", tar(("d", None))) == {}
    assert list((tmp_path / "a").iterdir()) == []


def test_a_header_has_64_kib_at_most(tmp_path: Path) -> None:
    def commented(size: int) -> bytes:
        info = tarfile.TarInfo("h")
        info.type, info.size = tarfile.XHDTYPE, size
        record = b"%d comment=" % size
        padding = bytes(-size % 512)
        return info.tobuf() + record + b"x" * (size - len(record) - 1) + b"\n" + padding + tar(("a", b"1"))

    assert unpacked(tmp_path / "a", commented(64 * 1024)) == {"a": b"1"}
    with pytest.raises(InvalidDocument, match="a header in it has 65537 bytes"):
        unpacked(tmp_path / "b", commented(64 * 1024 + 1))


def test_a_file_that_was_replaced_does_not_count_beside_links(tmp_path: Path) -> None:
    packed = tar(("a", b"x" * 30_000), ("a", "b"), ("b", b"y" * 30_000))
    assert unpacked(tmp_path / "a", packed, max_bytes=75_000) == {"a": b"y" * 30_000, "b": b"y" * 30_000}


def test_names_are_shown_short(tmp_path: Path) -> None:
    info = tarfile.TarInfo("n" * 90)
    info.type = tarfile.GNUTYPE_SPARSE
    with pytest.raises(InvalidDocument, match=f": {'n' * 80} is sparse"):
        unpacked(tmp_path / "a", info.tobuf(tarfile.GNU_FORMAT) + bytes(1024))
    with pytest.raises(InvalidDocument, match=f"the name {'d' * 40}… is longer"):
        unpacked(tmp_path / "a", tar(("/".join(["d" * 200] * 3), b"x")))


@pytest.mark.parametrize("content", [b"", b"12345", b"1234567"])
def test_a_file_of_another_size_than_it_said_is_refused(tmp_path: Path, content: bytes) -> None:
    with pytest.raises(archive._Refused, match=f"a ends after {len(content)} of 6 bytes"):
        archive._write(tmp_path / "a", io.BytesIO(content), 6)


def test_why_an_archive_was_refused_is_told_though_its_rest_stays(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def busy(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "rmdir", busy)
    with pytest.raises(InvalidDocument, match="which is no file in it"):
        unpacked(tmp_path / "a", tar(("b", "nowhere")))
    monkeypatch.setattr(os, "fsync", full_disk)
    with pytest.raises(OSError, match="No space"):
        unpacked(tmp_path / "b", tar(("a", b"x")))


def full_disk(_descriptor: int) -> None:
    raise OSError(28, "No space left on device")


@pytest.mark.parametrize(
    ("filters", "why"),
    [
        pytest.param(
            [{"id": lzma.FILTER_LZMA2, "dict_size": 192 * 1024 * 1024}],
            "unpacking it takes more memory than 134.2 MB",
            id="a decoder that takes much",
        ),
        pytest.param([{"id": lzma.FILTER_LZMA2}], "it is damaged, or no archive of the kind .tar.xz", id="damaged"),
    ],
)
def test_what_the_decoder_says_is_told(tmp_path: Path, filters: list[dict[str, int]], why: str) -> None:
    packed = bytearray(lzma.compress(tar(("a", b"x" * 3000)), filters=filters))
    packed[-20] ^= 1
    with pytest.raises(InvalidDocument) as refused:
        unpacked(tmp_path / "a", bytes(packed))
    assert refused.value.why == why


def test_no_more_is_read_than_the_decoder_asks_for() -> None:
    packed = io.BytesIO(lzma.compress(random.Random(7).randbytes(1024 * 1024), preset=0))
    plain = archive._Plain(packed, 10_000_000)
    for _ in range(8):
        assert len(plain.read(512)) == 512
    assert packed.tell() == 256 * 1024


def test_ten_thousand_members_and_no_more(tmp_path: Path) -> None:
    members: list[Member] = [(f"d{number}", None) for number in range(10_000)]
    assert unpacked(tmp_path / "a", tar(*members)) == {}
    with pytest.raises(InvalidDocument, match="more than 10000 members"):
        unpacked(tmp_path / "b", tar(*members, ("one", b"more")))
