"""Archives: what is unpacked, and what a hostile one gets."""

import io
import lzma
import os
import stat
import tarfile
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from rack import archive
from rack.archive import unpack
from shared.digest import Sha256
from shared.errors import InvalidDocument
from shared.mark import VERIFIED_AT, is_verified


def member(
    name: str, content: bytes = b"", *, kind: bytes = tarfile.REGTYPE, link: str = "", mode: int = 0o644
) -> tuple[tarfile.TarInfo, bytes]:
    info = tarfile.TarInfo(name)
    info.type, info.size, info.linkname, info.mode = kind, len(content), link, mode
    return info, content


def tar(*members: tuple[tarfile.TarInfo, bytes]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as opened:
        for info, content in members:
            opened.addfile(info, io.BytesIO(content))
    return packed.getvalue()


def xz(plain: bytes) -> bytes:
    return lzma.compress(plain, preset=0)


def unpacked(tmp_path: Path, content: bytes, **caps: int) -> dict[str, bytes]:
    into = tmp_path / "into"
    found = unpack(io.BytesIO(content), into, origin="The archive", **caps)
    on_disk = {str(path.relative_to(into)): path for path in into.rglob("*") if not path.is_dir()}
    assert set(on_disk) == set(found)
    for name, path in on_disk.items():
        status = path.lstat()
        assert stat.S_ISREG(status.st_mode)
        assert stat.S_IMODE(status.st_mode) == 0o644
        assert status.st_mtime == VERIFIED_AT
        assert is_verified(status, status.st_size)
        assert (status.st_uid, status.st_gid) == (os.getuid(), os.getgid())
        assert Sha256.of(path.read_bytes()) == found[name].sha256  # type: ignore[index]
        assert status.st_size == found[name].size  # type: ignore[index]
    return {name: path.read_bytes() for name, path in on_disk.items()}


PLAIN = tar(member("a", b"one"), member("d", kind=tarfile.DIRTYPE), member("d/b", b"two"))
GOOD = [
    pytest.param(xz(PLAIN), {"a": b"one", "d/b": b"two"}, id="xz"),
    pytest.param(PLAIN, {"a": b"one", "d/b": b"two"}, id="not-compressed"),
    pytest.param(xz(tar(member("./a", b"one"))), {"a": b"one"}, id="leading-dot"),
    pytest.param(
        xz(PLAIN[:700]) + bytes(8) + xz(PLAIN[700:]) + bytes(4), {"a": b"one", "d/b": b"two"}, id="two-streams"
    ),
    pytest.param(tar(member("a", b"1", mode=0o6777)), {"a": b"1"}, id="setuid-dropped"),
    pytest.param(tar(member("a", b"1"), member("a", b"22")), {"a": b"22"}, id="the-later-of-two-wins"),
    pytest.param(tar(member("empty", b"")), {"empty": b""}, id="empty-file"),
    pytest.param(tar(member("d", kind=tarfile.DIRTYPE)), {}, id="empty-directory-dropped"),
    pytest.param(
        tar(member("d/a", b"1"), member("d/s", kind=tarfile.SYMTYPE, link="../d/a")),
        {"d/a": b"1", "d/s": b"1"},
        id="symlink",
    ),
    pytest.param(
        tar(
            member("s", kind=tarfile.SYMTYPE, link="t"), member("t", kind=tarfile.SYMTYPE, link="a"), member("a", b"1")
        ),
        {"s": b"1", "t": b"1", "a": b"1"},
        id="symlinks-to-a-later-member",
    ),
    pytest.param(
        tar(member("d/a", b"1"), member("d/h", kind=tarfile.LNKTYPE, link="d/a")),
        {"d/a": b"1", "d/h": b"1"},
        id="hard-link",
    ),
    pytest.param(tar(member("x" * 90 + "/" + "y" * 120, b"1")), {"x" * 90 + "/" + "y" * 120: b"1"}, id="long-name"),
]


@pytest.mark.parametrize(("content", "files"), GOOD)
def test_what_is_unpacked(tmp_path: Path, content: bytes, files: dict[str, bytes]) -> None:
    assert unpacked(tmp_path, content) == files


BAD = [
    pytest.param(tar(member("../a", b"1")), "'../a'", id="climbs"),
    pytest.param(tar(member("d/../../a", b"1")), "plain name", id="climbs-in-the-middle"),
    pytest.param(tar(member("/etc/passwd", b"1")), "'/etc/passwd'", id="absolute"),
    pytest.param(tar(member("a\nb", b"1")), "control characters", id="control-character"),
    pytest.param(tar(member("s", kind=tarfile.SYMTYPE, link="/etc/passwd")), "links out", id="symlink-absolute"),
    pytest.param(tar(member("s", kind=tarfile.SYMTYPE, link="../../x")), "'../../x'", id="symlink-climbs"),
    pytest.param(tar(member("s", kind=tarfile.SYMTYPE, link="gone")), "no file in it", id="symlink-dangling"),
    pytest.param(tar(member("s", kind=tarfile.SYMTYPE, link="s")), "links to itself", id="symlink-to-itself"),
    pytest.param(
        tar(member("s", kind=tarfile.SYMTYPE, link="/tmp"), member("s/a", b"1")),
        "links out",
        id="write-through-a-symlink",
    ),
    pytest.param(
        tar(member("d", kind=tarfile.SYMTYPE, link="a"), member("d/b", b"1"), member("a", b"1")),
        "both a file and a directory",
        id="symlink-and-directory",
    ),
    pytest.param(tar(member("h", kind=tarfile.LNKTYPE, link="../h")), "'../h'", id="hard-link-climbs"),
    pytest.param(tar(member("h", kind=tarfile.LNKTYPE, link="gone")), "no file in it", id="hard-link-dangling"),
    pytest.param(tar(member("n", kind=tarfile.CHRTYPE)), "neither a plain file", id="character-device"),
    pytest.param(tar(member("n", kind=tarfile.BLKTYPE)), "neither a plain file", id="block-device"),
    pytest.param(tar(member("n", kind=tarfile.FIFOTYPE)), "neither a plain file", id="fifo"),
    pytest.param(tar(member("a", b"1"), member("a/b", b"1")), "both a file and a directory", id="file-as-directory"),
    pytest.param(tar(member("a/b", b"1"), member("a", b"1")), "both a file and a directory", id="directory-as-file"),
    pytest.param(tar(member("/".join("d" * 17), b"1")), "longer or deeper", id="deep"),
    pytest.param(tar(member("/".join(["d" * 100] * 6), b"1")), "longer or deeper", id="long"),
    pytest.param(tar(member("n", b"1", kind=b"Z")), "neither a plain file", id="a-kind-nobody-knows"),
    pytest.param(
        tar(member("a", b"1"), *(member("h", kind=tarfile.XHDTYPE) for _ in range(3000)), member("b", b"1")),
        "",
        id="header-before-header",
    ),
    pytest.param(b"", "", id="nothing"),
    pytest.param(b"no archive at all" * 100, "", id="noise"),
    pytest.param(xz(PLAIN)[:60], "its end is missing", id="xz-cut"),
    pytest.param(xz(PLAIN)[:60] + b"x" + xz(PLAIN)[61:], "", id="xz-spoilt"),
    pytest.param(xz(PLAIN[:514]), "", id="tar-cut"),
]


@pytest.mark.parametrize(("content", "sentence"), BAD)
def test_what_is_refused(tmp_path: Path, content: bytes, sentence: str) -> None:
    outside = set(tmp_path.parent.iterdir())
    with pytest.raises(InvalidDocument, match="The archive cannot be read") as refused:
        unpacked(tmp_path, content)
    assert sentence in str(refused.value)
    assert not (tmp_path / "into").exists()
    assert set(tmp_path.parent.iterdir()) == outside


def test_a_bomb_stops_at_the_cap(tmp_path: Path) -> None:
    with pytest.raises(InvalidDocument, match="more than 1000000 bytes"):
        unpacked(tmp_path, xz(tar(member("zeros", bytes(20_000_000)))), max_bytes=1_000_000)


@pytest.mark.parametrize("kind", [tarfile.SYMTYPE, tarfile.LNKTYPE], ids=["symbolic", "hard"])
@pytest.mark.timeout(30)
def test_links_count_as_the_files_they_become_before_one_is_written(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: bytes
) -> None:
    """Nine thousand links of a few bytes to a file of megabytes would be gigabytes."""
    written: list[str] = []
    write = archive._write

    def noted(target: Path, *what: Any) -> archive.Content:
        written.append(target.name)
        return write(target, *what)

    monkeypatch.setattr(archive, "_write", noted)
    links = [member(f"l{number}", kind=kind, link="a") for number in range(9000)]
    with pytest.raises(InvalidDocument, match="its links become more than 536870912 bytes"):
        unpacked(tmp_path, xz(tar(member("a", bytes(1_000_000)), *links)))
    assert written == ["a"]


@pytest.mark.parametrize("kind", [tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK])
def test_a_header_of_megabytes_is_refused_before_it_is_read(tmp_path: Path, kind: bytes) -> None:
    """`tarfile` reads it as a whole, and again as text."""
    bomb = xz(tar(member("h", bytes(100_000_000), kind=kind), member("a", b"1")))
    tracemalloc.start()
    try:
        with pytest.raises(InvalidDocument, match="a header in it has 100000000 bytes"):
            unpacked(tmp_path, bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_a_sparse_member_is_refused(tmp_path: Path) -> None:
    """Its few stored bytes would become as many as its header likes."""
    info, _ = member("sparse", kind=tarfile.GNUTYPE_SPARSE)
    header = bytearray(info.tobuf(tarfile.GNU_FORMAT))
    header[483:495] = b"%011o\0" % 10**12
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    with pytest.raises(InvalidDocument):
        unpacked(tmp_path, bytes(header) + bytes(10240))


@pytest.mark.timeout(20)
def test_a_sparse_map_of_megabytes_is_refused_before_it_is_read(tmp_path: Path) -> None:
    """The map of pax sparse files is data, so no cap on headers holds it."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.PAX_FORMAT) as opened:
        info, content = member("s", b"10000000\n" + b"1\n" * 10_000_000)
        info.pax_headers = {"GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.realsize": "1"}
        opened.addfile(info, io.BytesIO(content))
    bomb = xz(packed.getvalue())
    tracemalloc.start()
    try:
        with pytest.raises(InvalidDocument, match="is sparse"):
            unpacked(tmp_path, bomb)
        assert tracemalloc.get_traced_memory()[1] < 16 * 1024 * 1024
    finally:
        tracemalloc.stop()


def test_too_many_members_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_MEMBERS", 3)
    with pytest.raises(InvalidDocument, match="more than 3 members"):
        unpacked(tmp_path, tar(*(member(str(number), b"") for number in range(4))))


def test_a_decoder_that_wants_too_much_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(archive, "MAX_DECODER_BYTES", 1_000_000)
    greedy = lzma.compress(PLAIN, filters=[{"id": lzma.FILTER_LZMA2, "dict_size": 64 * 1024 * 1024}])
    with pytest.raises(InvalidDocument, match=r"[Mm]emory"):
        unpacked(tmp_path, greedy)


def test_a_fault_of_the_disk_is_not_the_archives(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object) -> Callable[[], None]:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("rack.archive.os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        unpacked(tmp_path, PLAIN)
    assert not (tmp_path / "into").exists()
