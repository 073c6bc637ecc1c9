"""What only a store on a disk does: its layout, marks, permissions, links, and the order in which it flushes."""

import fcntl
import gc
import os
import shutil
import stat
import subprocess
import sys
from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from shared.digest import Sha256
from shared.errors import DiskFailed, NoRoom
from shared.mark import VERIFIED_AT
from shared.store.disk import DiskStore
from tests.stores import begin, content_of, descriptors, incoming_path, put, stored_path

CONTENT = b"a kernel"
A, B, C = Sha256.of(CONTENT), Sha256.of(b"an initrd"), Sha256.of(b"never seen")
SIZE = len(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path / "store")


# --- the layout ---------------------------------------------------------------------------------------------------


def test_the_layout_is_the_one_drawn(store: DiskStore) -> None:
    root = Path(store.where)
    assert sorted(entry.name for entry in root.iterdir()) == ["files", "incoming"]
    put(store, CONTENT)
    begin(store, B, b"an")
    assert (root / "files" / A[:2] / A).read_bytes() == CONTENT
    assert (root / "incoming" / B).read_bytes() == b"an"
    assert store.name_below(A) == f"files/{A[:2]}/{A}"


def test_a_committed_file_is_whole_read_only_and_marked(store: DiskStore) -> None:
    before = descriptors()
    put(store, CONTENT)
    found = stored_path(store, A).stat()
    assert stored_path(store, A).read_bytes() == CONTENT
    assert stat.S_IMODE(found.st_mode) == 0o444
    assert found.st_mtime_ns == VERIFIED_AT * 10**9
    assert not incoming_path(store, A).exists()
    assert descriptors() == before


def test_commit_replaces_a_damaged_file_and_leaves_its_other_names_alone(store: DiskStore) -> None:
    put(store, CONTENT)
    tree = Path(store.where) / "tree-entry"
    store.link(A, tree)
    stored_path(store, A).chmod(0o644)
    stored_path(store, A).write_bytes(b"another!")
    put(store, CONTENT)
    assert (stored_path(store, A).read_bytes(), store.has(A, SIZE)) == (CONTENT, True)
    assert tree.read_bytes() == b"another!"


def test_what_never_came_in_cannot_be_linked(store: DiskStore, tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        store.link(C, tmp_path / "name")
    assert store.status(C) is None


def test_a_link_is_the_same_file_and_shares_its_mark(store: DiskStore, tmp_path: Path) -> None:
    put(store, CONTENT)
    store.link(A, tmp_path / "name")
    found = store.status(A)
    assert found is not None
    assert os.path.samestat(found, (tmp_path / "name").stat())
    store.disown(A)
    assert (tmp_path / "name").stat().st_mtime != VERIFIED_AT
    store.reinstate(A)
    assert (tmp_path / "name").stat().st_mtime == VERIFIED_AT
    store.remove(A)
    assert (tmp_path / "name").read_bytes() == CONTENT


@pytest.fixture
def steps(store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is done to the disk, in order."""
    done: list[str] = []
    flush, rename, change = os.fsync, os.rename, os.utime

    def fsync(descriptor: int) -> None:
        flushed = os.path.relpath(Path(f"/proc/self/fd/{descriptor}").readlink(), store.where)
        done.append(f"flush {flushed}")
        flush(descriptor)

    def move(*args: Any, **options: Any) -> None:
        done.append("rename")
        rename(*args, **options)

    def utime(*args: Any, **options: Any) -> None:
        done.append("mark")
        change(*args, **options)

    monkeypatch.setattr(os, "fsync", fsync)
    monkeypatch.setattr(os, "utime", utime)
    monkeypatch.setattr(os, "rename", move)
    return done


def test_bytes_and_mark_are_flushed_before_the_name_and_the_directories_after_it(
    store: DiskStore, steps: list[str]
) -> None:
    put(store, CONTENT)
    assert steps == ["mark", f"flush incoming/{A}", "rename", f"flush files/{A[:2]}", "flush files"]


def test_a_directory_that_this_process_has_flushed_keeps_its_name_without_another_flush(
    store: DiskStore, steps: list[str]
) -> None:
    beside = next(content for content in map(b"%d".__mod__, range(10_000)) if Sha256.of(content)[:2] == A[:2])
    put(store, CONTENT)
    steps.clear()
    put(store, beside)
    assert steps[-1] == f"flush files/{A[:2]}", "its entry in files/ is on the disk since the first file"

    shutil.rmtree(Path(store.where) / "files" / A[:2])
    put(store, CONTENT)
    assert steps[-1] == "flush files", "it is another directory now"

    steps.clear()
    put(DiskStore(Path(store.where)), beside)
    assert steps[-1] == "flush files", "another process may have made it and crashed before the flush"


# --- held or doubted ----------------------------------------------------------------------------------------------


def flip(path: Path) -> None:
    path.chmod(0o644)
    path.write_bytes(bytes([CONTENT[0] ^ 1]) + CONTENT[1:])


def touch(path: Path) -> None:
    os.utime(path)


def touch_by_a_nanosecond(path: Path) -> None:
    os.utime(path, ns=(0, VERIFIED_AT * 10**9 + 1))


def cut(path: Path) -> None:
    path.chmod(0o644)
    os.truncate(path, SIZE - 1)


def cut_quietly(path: Path) -> None:
    cut(path)
    os.utime(path, (VERIFIED_AT, VERIFIED_AT))


def move_behind_a_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


@pytest.mark.parametrize("damage", [flip, touch, touch_by_a_nanosecond, cut, cut_quietly, move_behind_a_link])
def test_whoever_touches_a_file_takes_its_mark_away(store: DiskStore, damage: Callable[[Path], None]) -> None:
    put(store, CONTENT)
    damage(stored_path(store, A))
    assert not store.has(A, SIZE)
    assert store.open(A, SIZE) is None


def test_a_suspect_that_proves_right_is_reinstated(store: DiskStore) -> None:
    put(store, CONTENT)
    stored_path(store, A).chmod(0o600)
    touch(stored_path(store, A))
    assert store.digest_of(A) == A
    store.reinstate(A)
    assert store.has(A, SIZE)
    assert stat.S_IMODE(stored_path(store, A).stat().st_mode) == 0o444


def as_note(store: DiskStore) -> None:
    (Path(store.where) / "files" / "README").write_text("by hand")


def as_note_beside_files(store: DiskStore) -> None:
    stored_path(store, A).with_name("README").write_text("by hand")


def as_staged_file(store: DiskStore) -> None:
    stored_path(store, A).with_name(f".{B}.tmp").write_bytes(b"x")


def as_capitals(store: DiskStore) -> None:
    stored_path(store, A).with_name(A[:2] + B[2:].upper()).write_bytes(b"x")


def as_another_directory(store: DiskStore) -> None:
    stored_path(store, A).with_name(str(B)).write_bytes(b"an initrd")


def as_directory(store: DiskStore) -> None:
    stored_path(store, A).with_name(A[:2] + B[2:]).mkdir()


def as_link(store: DiskStore) -> None:
    stored_path(store, A).with_name(A[:2] + B[2:]).symlink_to(stored_path(store, A))


def as_link_to_a_directory(store: DiskStore) -> None:
    (Path(store.where) / "files" / "zz").symlink_to(stored_path(store, A).parent)


@pytest.mark.parametrize(
    "strange",
    [
        as_note,
        as_note_beside_files,
        as_staged_file,
        as_capitals,
        as_another_directory,
        as_directory,
        as_link,
        as_link_to_a_directory,
    ],
)
def test_what_a_stranger_left_is_not_held(store: DiskStore, strange: Callable[[DiskStore], None]) -> None:
    put(store, CONTENT)
    strange(store)
    held = list(store.held())
    assert held == [(A, SIZE)]


def test_whoever_stops_counting_leaves_nothing_open(store: DiskStore) -> None:
    for content in (b"1", b"2", b"3"):
        put(store, content)
    before = descriptors()
    counting = store.held()
    next(counting)
    del counting
    gc.collect()  # an unclosed directory warns here, and warnings are errors
    assert descriptors() == before


def test_whatever_becomes_of_a_writer_nothing_stays_open(store: DiskStore) -> None:
    before = descriptors()
    for end in ("close", "discard", "commit"):
        writer = store.writer(A, SIZE)
        writer.restart()
        writer.write(CONTENT)
        getattr(writer, end)()
    incoming_path(store, B).mkdir()
    with pytest.raises(IsADirectoryError):
        store.writer(B, 9)
    assert store.open(A, SIZE + 1) is None
    assert content_of(store, A, SIZE) == CONTENT
    assert descriptors() == before


# --- locks --------------------------------------------------------------------------------------------------------


def test_a_writer_that_waited_while_the_file_was_filed_does_not_write_to_it(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Between its open and its lock another writer commits: the open file is the stored one by then."""
    begin(store, A, CONTENT, SIZE)
    lock = fcntl.flock

    def late(descriptor: int, operation: int) -> None:
        monkeypatch.undo()
        with closing(store.writer(A, SIZE)) as other:
            other.commit()
        lock(descriptor, operation)

    monkeypatch.setattr(fcntl, "flock", late)
    with closing(store.writer(A, SIZE)) as writer:
        assert writer.arrived == 0
        writer.restart()
        writer.write(b"xx")
    assert store.has(A, SIZE)
    assert stored_path(store, A).read_bytes() == CONTENT


OTHER_PROCESS = """
import sys
from pathlib import Path
from shared.digest import Sha256
from shared.store.disk import DiskStore
store = DiskStore(Path(sys.argv[1]))
with store.alone("removing") as alone:
    print(alone)
writer = store.writer(Sha256(sys.argv[2]), 8)
print(writer.arrived)
writer.close()
"""


def test_locks_hold_between_processes(store: DiskStore) -> None:
    def asked() -> list[str]:
        command = [sys.executable, "-c", OTHER_PROCESS, store.where, A]
        return subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()

    with store.alone("removing") as alone, closing(store.writer(A, SIZE)) as writer:
        writer.write(b"a ke")
        assert alone
        assert asked() == ["False", "0"]
    assert asked() == ["True", "4"]


# --- room and faults ----------------------------------------------------------------------------------------------


def test_a_real_disk_has_room_for_a_byte_and_not_for_an_exabyte(store: DiskStore) -> None:
    store.require_room([(C, 1)])
    with pytest.raises(NoRoom, match=r"^1000000\.0 TB are needed"):
        store.require_room([(C, 10**18)])
    assert list((Path(store.where) / "incoming").iterdir()) == []
    assert 0 < store.bytes_free() < store.bytes_total()


def test_a_fault_is_told_with_the_stores_place(store: DiskStore) -> None:
    full, broken = store.fault(OSError(28, "No space left on device"), 5), store.fault(OSError(5, "Input/output error"))
    assert isinstance(full, NoRoom)
    assert (full.path, full.needed) == (store.where, 5)
    assert isinstance(broken, DiskFailed)
    assert store.where in str(broken)


# --- rubbish ------------------------------------------------------------------------------------------------------


def test_rubbish_in_incoming_is_cleared_whatever_it_is(store: DiskStore) -> None:
    incoming = Path(store.where) / "incoming"
    (incoming / "directory" / "deep").mkdir(parents=True)
    (incoming / "stray").write_bytes(b"x")
    incoming_path(store, A).mkdir()
    begin(store, B, b"x")
    store.clear_incoming(keep=[A, B])
    assert [entry.name for entry in incoming.iterdir()] == [B]


def test_a_directory_in_the_place_of_a_file_is_no_file_and_can_be_removed(store: DiskStore) -> None:
    stored_path(store, A).mkdir(parents=True)
    assert store.digest_of(A) is None
    assert not store.has(A, 0)
    store.remove(A)
    assert not stored_path(store, A).exists()


def test_directories_that_were_removed_come_back(store: DiskStore) -> None:
    root = Path(store.where)
    shutil.rmtree(root / "incoming")
    shutil.rmtree(root / "files")
    store.clear_incoming(keep=[])
    with store.alone("removing") as alone:
        assert alone
    shutil.rmtree(root / "incoming")
    shutil.rmtree(root / "files")
    put(store, CONTENT)
    assert stored_path(store, A).exists()
