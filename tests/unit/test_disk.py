"""Small documents written whole, names flushed, files read: what survives a loss of power, and what stays open."""

import errno
import os
from collections.abc import Callable
from pathlib import Path
from threading import Barrier, Thread

import pytest

from rack.lock import hold
from region.actions import first_start
from shared.digest import Sha256
from shared.disk import create_whole, disk_error, hash_file, read_document, sync_directory, write_whole
from shared.errors import DiskFailed, InvalidDocument, NoRoom
from shared.signing import load_or_create_key
from tests.stores import descriptors

TOKEN = f"bf_{'0123456789ab'}_{'x' * 43}"


@pytest.fixture
def flushed(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What was flushed, in order: `file` or `directory`; and `name` where a name appeared."""
    done: list[str] = []
    flush, rename, link = os.fsync, Path.replace, os.link

    def fsync(descriptor: int) -> None:
        done.append("directory" if Path(f"/proc/self/fd/{descriptor}").is_dir() else "file")
        flush(descriptor)

    def replace(path: Path, target: Path) -> Path:
        done.append("name")
        return rename(path, target)

    def make_link(source: Path, target: Path) -> None:
        done.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", make_link)
    monkeypatch.setattr(Path, "replace", replace)
    return done


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(lambda path: write_whole(path, b"{}"), id="a-document"),
        pytest.param(lambda path: create_whole(path, b"{}"), id="a-new-file"),
        pytest.param(load_or_create_key, id="a-key"),
        pytest.param(lambda path: first_start._leave_token(path, TOKEN), id="the-first-token"),
    ],
)
def test_bytes_are_flushed_before_the_name_and_the_directory_after_it(
    tmp_path: Path, flushed: list[str], write: Callable[[Path], object]
) -> None:
    before = descriptors()
    write(tmp_path / "file")
    assert flushed == ["file", "name", "directory"]
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert descriptors() == before


@pytest.mark.parametrize(
    "write",
    [
        pytest.param(load_or_create_key, id="a-key"),
        pytest.param(lambda path: hold(path).__enter__(), id="a-racks-lock"),
    ],
)
def test_directories_that_were_made_for_a_file_survive_with_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Callable[[Path], object]
) -> None:
    order: list[str] = []
    flush, link = os.fsync, os.link

    def fsync(descriptor: int) -> None:
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        order.append(str(place.relative_to(tmp_path.parent)) if place.is_dir() else "file")
        flush(descriptor)

    def make_link(source: Path, target: Path) -> None:
        order.append("name")
        link(source, target)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "link", make_link)
    write(tmp_path / "one" / "two" / "file")
    assert order[:2] == [tmp_path.name, f"{tmp_path.name}/one"], "each in the one above it, before the file is there"


def test_a_document_is_replaced_as_a_whole_and_has_its_mode(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    write_whole(path, b'{"a": 1}')
    write_whole(path, b"{}", mode=0o600)
    assert (path.read_bytes(), path.stat().st_mode & 0o777) == (b"{}", 0o600)
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / ".state.json.new").symlink_to("victim")
    write_whole(path, b"[]")
    assert (tmp_path / "victim").read_bytes() == b"precious"


def test_a_disk_that_fails_leaves_what_was_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.json"
    write_whole(path, b"old")

    def full(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr(os, "fsync", full)
        with pytest.raises(OSError, match="No space"):
            write_whole(path, b"new")
    assert path.read_bytes() == b"old"
    write_whole(path, b"new")
    assert path.read_bytes() == b"new"


def test_what_is_created_is_never_replaced_and_one_of_many_creates_it(tmp_path: Path) -> None:
    path, together = tmp_path / "key", Barrier(8)
    refused: list[bytes] = []

    def create(content: bytes) -> None:
        together.wait()
        try:
            create_whole(path, content)
        except FileExistsError:
            refused.append(content)

    threads = [Thread(target=create, args=[b"%d" % number]) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 7
    assert path.read_bytes() not in refused
    assert path.stat().st_mode & 0o777 == 0o600
    assert list(tmp_path.iterdir()) == [path]


def test_documents_that_are_none(tmp_path: Path) -> None:
    path = tmp_path / "state.json"
    with pytest.raises(FileNotFoundError):
        read_document(path)
    for content in (b"", b"[]", b"\xff", b"1"):
        path.write_bytes(content)
        with pytest.raises(InvalidDocument):
            read_document(path)
    path.write_bytes(b'{"a": 1}')
    assert read_document(path) == {"a": 1}


def test_reading_and_flushing_close_what_they_open(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"a kernel")
    before = descriptors()
    assert hash_file(tmp_path / "file").digest() == Sha256.of(b"a kernel")
    sync_directory(tmp_path)
    for missing in (lambda: hash_file(tmp_path / "gone"), lambda: sync_directory(tmp_path / "gone")):
        with pytest.raises(FileNotFoundError):
            missing()
    with pytest.raises(OSError, match="directory"):
        hash_file(tmp_path)
    assert descriptors() == before


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1])
def test_every_byte_is_read(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    hasher = hash_file(tmp_path / "file")
    assert (hasher.digest(), hasher.size) == (Sha256.of(content), size)


def test_faults_are_told_by_kind(tmp_path: Path) -> None:
    assert isinstance(disk_error(OSError(errno.EDQUOT, "Disk quota exceeded"), tmp_path, 7), NoRoom)
    assert isinstance(disk_error(OSError(errno.EROFS, "Read-only file system"), tmp_path), DiskFailed)
