"""Files by their digest: what is held, what is doubted, what fits, and when each is read again."""

import gc
import os
import shutil
import stat
from collections import Counter
from collections.abc import Callable
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import NamedTuple

import pytest
from hypothesis import given
from hypothesis import strategies as st

from shared.digest import Sha256
from shared.errors import NoRoom
from shared.store import HEADROOM_BYTES, SLICE_S, VERIFIED_AT, Store, hash_file, slice_of_day, sync_directory

CONTENT = b"a kernel"
A, B, C = Sha256.of(CONTENT), Sha256.of(b"an initrd"), Sha256.of(b"never seen")
SIZE = len(CONTENT)
DAY = timedelta(days=1)
MIDNIGHT = datetime(2026, 7, 1, tzinfo=UTC)


@pytest.fixture
def store(tmp_path: Path) -> Store:
    return Store(tmp_path / "store")


def put(store: Store, content: bytes = CONTENT) -> Sha256:
    sha256 = Sha256.of(content)
    store.incoming(sha256).write_bytes(content)
    store.commit(sha256)
    return sha256


def descriptors() -> int:
    return len(list(Path("/proc/self/fd").iterdir()))


# --- the layout ---------------------------------------------------------------------------------------------------


def test_the_layout_is_the_one_drawn(store: Store) -> None:
    assert store.path(A) == store.root / "files" / A[:2] / A
    assert store.incoming(A) == store.root / "incoming" / A
    assert sorted(entry.name for entry in store.root.iterdir()) == ["files", "incoming"]


def test_a_store_opens_again_with_what_it_held(store: Store) -> None:
    put(store)
    store.incoming(B).write_bytes(b"an")
    again = Store(store.root)
    assert again.has(A, SIZE)
    assert again.incoming(B).read_bytes() == b"an"


def test_a_committed_file_is_whole_read_only_and_marked(store: Store) -> None:
    before = descriptors()
    put(store)
    found = store.path(A).stat()
    assert store.path(A).read_bytes() == CONTENT
    assert stat.S_IMODE(found.st_mode) == 0o444
    assert found.st_mtime_ns == VERIFIED_AT * 10**9
    assert not store.incoming(A).exists()
    assert descriptors() == before


def test_commit_replaces_a_damaged_file_and_leaves_its_other_names_alone(store: Store) -> None:
    put(store)
    tree = store.root / "tree-entry"
    tree.hardlink_to(store.path(A))
    store.path(A).chmod(0o644)
    store.path(A).write_bytes(b"another!")
    put(store)
    assert (store.path(A).read_bytes(), store.has(A, SIZE)) == (CONTENT, True)
    assert tree.read_bytes() == b"another!"


def test_what_never_came_in_cannot_be_committed(store: Store) -> None:
    with pytest.raises(FileNotFoundError):
        store.commit(A)
    assert not store.has(A, 0)


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


@pytest.mark.parametrize("damage", [flip, touch, touch_by_a_nanosecond, cut, cut_quietly])
def test_whoever_touches_a_file_takes_its_mark_away(store: Store, damage: Callable[[Path], None]) -> None:
    put(store)
    damage(store.path(A))
    assert not store.has(A, SIZE)


def test_a_file_is_held_with_its_own_size_only(store: Store) -> None:
    put(store)
    assert store.has(A, SIZE)
    assert not store.has(A, SIZE + 1)
    assert not store.has(C, SIZE)


def test_a_suspect_that_proves_right_is_reinstated(store: Store) -> None:
    put(store)
    store.path(A).chmod(0o600)
    touch(store.path(A))
    assert store.digest_of(A) == A
    store.reinstate(A)
    assert store.has(A, SIZE)
    assert stat.S_IMODE(store.path(A).stat().st_mode) == 0o444


def test_rot_that_moves_no_clock_shows_when_read(store: Store) -> None:
    put(store)
    flip(store.path(A))
    os.utime(store.path(A), (VERIFIED_AT, VERIFIED_AT))
    assert store.has(A, SIZE)
    assert store.digest_of(A) not in (A, None)
    assert store.digest_of(C) is None


def test_held_names_every_file_with_its_size(store: Store) -> None:
    put(store)
    put(store, b"an initrd")
    put(store, b"")
    touch(store.path(B))
    store.incoming(C).write_bytes(b"never")
    assert dict(store.held()) == {A: SIZE, B: 9, Sha256.of(b""): 0}


def as_note(store: Store) -> None:
    (store.root / "files" / "README").write_text("by hand")


def as_note_beside_files(store: Store) -> None:
    store.path(A).with_name("README").write_text("by hand")


def as_staged_file(store: Store) -> None:
    store.path(A).with_name(f".{B}.tmp").write_bytes(b"x")


def as_capitals(store: Store) -> None:
    store.path(A).with_name(A[:2] + B[2:].upper()).write_bytes(b"x")


def as_another_directory(store: Store) -> None:
    store.path(A).with_name(str(B)).write_bytes(b"an initrd")


def as_directory(store: Store) -> None:
    store.path(A).with_name(A[:2] + B[2:]).mkdir()


def as_link(store: Store) -> None:
    store.path(A).with_name(A[:2] + B[2:]).symlink_to(store.path(A))


def as_link_to_a_directory(store: Store) -> None:
    (store.root / "files" / "zz").symlink_to(store.path(A).parent)


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
def test_what_a_stranger_left_is_not_held(store: Store, strange: Callable[[Store], None]) -> None:
    put(store)
    strange(store)
    held = list(store.held())
    assert held == [(A, SIZE)]


def test_whoever_stops_counting_leaves_nothing_open(store: Store) -> None:
    for content in (b"1", b"2", b"3"):
        put(store, content)
    before = descriptors()
    counting = store.held()
    next(counting)
    del counting
    gc.collect()  # an unclosed directory warns here, and warnings are errors
    assert descriptors() == before


def test_remove_forgets_whole_and_partial_files_and_does_not_mind_others(store: Store) -> None:
    put(store)
    store.incoming(B).write_bytes(b"an")
    store.remove(A, B, C)
    assert list(store.held()) == []
    assert not store.incoming(B).exists()
    store.remove(A)
    store.remove()


def test_clear_incoming_keeps_what_is_waited_for(store: Store) -> None:
    put(store)
    for sha256 in (B, C):
        store.incoming(sha256).write_bytes(b"x")
    (store.root / "incoming" / "stray").write_bytes(b"x")
    store.clear_incoming(keep=iter([B, A]))
    assert [entry.name for entry in (store.root / "incoming").iterdir()] == [B]
    assert store.has(A, SIZE)


# --- room ---------------------------------------------------------------------------------------------------------


class Usage(NamedTuple):
    free: int


@pytest.fixture
def disk_of(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """`disk_of(n)`: from now on the disk has n free bytes beside the headroom."""

    def set_free(size: int) -> None:
        monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage(HEADROOM_BYTES + size))

    return set_free


@pytest.mark.parametrize(
    ("wanted", "missing"),
    [
        pytest.param([], 0, id="nothing"),
        pytest.param([(A, SIZE)], 0, id="held"),
        pytest.param([(B, 100)], 98, id="begun"),
        pytest.param([(C, 100)], 100, id="new"),
        pytest.param([(A, SIZE), (B, 100), (C, 50)], 148, id="together"),
        pytest.param([(C, 50), (C, 50)], 50, id="one-file-under-two-names"),
        pytest.param([(B, 1)], 0, id="more-begun-than-wanted"),
        pytest.param([(A, SIZE + 2)], SIZE + 2, id="held-with-another-size"),
    ],
)
def test_bytes_missing(store: Store, wanted: list[tuple[Sha256, int]], missing: int) -> None:
    put(store)
    store.incoming(B).write_bytes(b"an")
    assert store.bytes_missing(wanted) == missing


def test_a_damaged_file_needs_room_for_its_replacement(store: Store) -> None:
    put(store)
    touch(store.path(A))
    assert store.bytes_missing([(A, SIZE)]) == SIZE


def test_all_files_must_fit_together(store: Store, disk_of: Callable[[int], None]) -> None:
    wanted = [(B, 100), (C, 50)]
    disk_of(150)
    store.require_room(wanted)
    disk_of(149)
    with pytest.raises(NoRoom) as caught:
        store.require_room(iter(wanted))
    assert (caught.value.path, caught.value.needed, caught.value.free) == (str(store.root), 150, 149)


def test_the_headroom_is_not_ours_and_free_bytes_are_never_negative(
    store: Store, disk_of: Callable[[int], None]
) -> None:
    disk_of(-1)
    assert store.bytes_free() == 0
    store.require_room([])
    disk_of(7)
    assert store.bytes_free() == 7


def test_a_real_disk_has_room_for_a_byte_and_not_for_an_exabyte(store: Store) -> None:
    store.require_room([(C, 1)])
    with pytest.raises(NoRoom, match=r"^1000000\.0 TB are needed"):
        store.require_room([(C, 10**18)])
    assert list((store.root / "incoming").iterdir()) == []


# --- reading everything once a day --------------------------------------------------------------------------------

FILES = [Sha256.of(str(number).encode()) for number in range(2000)]


def test_reading_files_closes_them(store: Store) -> None:
    put(store)
    before = descriptors()
    assert hash_file(store.path(A)).digest() == A
    with pytest.raises(FileNotFoundError):
        hash_file(store.path(C))
    sync_directory(store.root)
    with pytest.raises(FileNotFoundError):
        sync_directory(store.root / "gone")
    assert descriptors() == before


@pytest.mark.parametrize("size", [0, 1, 2**20 - 1, 2**20, 2**20 + 1])
def test_every_byte_is_read(tmp_path: Path, size: int) -> None:
    content = os.urandom(size)
    (tmp_path / "file").write_bytes(content)
    hasher = hash_file(tmp_path / "file")
    assert (hasher.digest(), hasher.size) == (Sha256.of(content), size)


@pytest.mark.parametrize(
    "start",
    [
        pytest.param(MIDNIGHT, id="from-midnight"),
        pytest.param(MIDNIGHT + timedelta(hours=13, seconds=77), id="from-the-afternoon"),
        pytest.param(datetime(2026, 3, 29, tzinfo=timezone(timedelta(hours=5, minutes=45))), id="from-elsewhere"),
    ],
)
def test_each_file_comes_up_exactly_once_a_day(start: datetime) -> None:
    turns = [start + timedelta(seconds=SLICE_S) * turn for turn in range(DAY // timedelta(seconds=SLICE_S))]
    slices = [slice_of_day(FILES, now) for now in turns]
    assert Counter(sha256 for found in slices for sha256 in found) == Counter(FILES)
    assert max(map(len, slices)) < 5 * len(FILES) / len(turns)


@given(st.integers(0, 2**32), st.integers(0, SLICE_S - 1), st.integers(-5, 5))
def test_a_slice_is_the_same_all_through_its_five_minutes_and_every_day(turn: int, seconds: int, days: int) -> None:
    began = datetime.fromtimestamp(turn // SLICE_S * SLICE_S, UTC)
    some = FILES[:50]
    assert slice_of_day(some, began) == slice_of_day(some, began + timedelta(seconds=seconds) + days * DAY)


def test_rubbish_in_incoming_is_cleared_whatever_it_is(store: Store) -> None:
    (store.root / "incoming" / "directory" / "deep").mkdir(parents=True)
    store.incoming(A).mkdir()
    store.clear_incoming(keep=[A])
    assert list((store.root / "incoming").iterdir()) == []


def test_a_directory_in_the_place_of_a_file_is_no_file_and_can_be_removed(store: Store) -> None:
    store.path(A).mkdir(parents=True)
    assert store.digest_of(A) is None
    store.remove(A)
    assert not store.path(A).exists()


def test_directories_that_were_removed_come_back(store: Store) -> None:
    shutil.rmtree(store.root / "incoming")
    shutil.rmtree(store.root / "files")
    store.clear_incoming(keep=[])
    store.incoming(A).write_bytes(b"")
    store.commit(A)
    assert store.path(A).exists()
