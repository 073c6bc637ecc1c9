"""What every store keeps to: one suite, run against each of them. What only a disk can do is in test_store_disk.py."""

import os
import shutil
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

import pytest

from shared.digest import Sha256
from shared.errors import Conflict, InvalidValue, NoRoom
from shared.store.base import Store
from shared.store.disk import HEADROOM_BYTES, DiskStore
from tests.stores import begin, content_of, put, stored_path
from tests.unit.memory_store import MemoryStore

CONTENT = b"a kernel"
A, B, C = Sha256.of(CONTENT), Sha256.of(b"an initrd"), Sha256.of(b"never seen")
SIZE = len(CONTENT)


class Bench(Protocol):
    """A store, and the harm that comes to one from outside."""

    @property
    def store(self) -> Store: ...
    def touch(self, sha256: Sha256) -> None: ...
    def rot(self, sha256: Sha256, content: bytes) -> None: ...
    def again(self) -> Store: ...
    def room(self, size: int) -> None: ...


@dataclass
class OnDisk:
    """Files on a disk."""

    store: DiskStore
    monkeypatch: pytest.MonkeyPatch

    def touch(self, sha256: Sha256) -> None:
        """Somebody writes to the file what it holds already."""
        path = stored_path(self.store, sha256)
        path.chmod(0o644)
        path.write_bytes(path.read_bytes())

    def rot(self, sha256: Sha256, content: bytes) -> None:
        """The bytes change, and no clock shows it."""
        path = stored_path(self.store, sha256)
        before = path.stat()
        path.chmod(0o644)
        path.write_bytes(content)

        os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))

    def again(self) -> DiskStore:
        """The same files as another process sees them."""
        return DiskStore(Path(self.store.where))

    def room(self, size: int) -> None:
        """From now on so many bytes are free."""

        class Usage:
            free = HEADROOM_BYTES + size
            total = 2**40

        self.monkeypatch.setattr(shutil, "disk_usage", lambda _path: Usage)


@dataclass
class InMemory:
    """Files in memory."""

    store: MemoryStore

    def touch(self, sha256: Sha256) -> None:
        """Somebody writes to the file what it holds already."""
        self.store.files[sha256].marked = False

    def rot(self, sha256: Sha256, content: bytes) -> None:
        """The bytes change, and no clock shows it."""
        self.store.files[sha256].content = content

    def again(self) -> MemoryStore:
        """There is one process only."""
        return self.store

    def room(self, size: int) -> None:
        """From now on so many bytes are free."""
        self.store.capacity = size


@pytest.fixture(params=["disk", "memory"])
def bench(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    if request.param == "disk":
        return OnDisk(DiskStore(tmp_path / "store"), monkeypatch)
    return InMemory(MemoryStore())


@pytest.fixture
def store(bench: Bench) -> Store:
    return bench.store


def arrived(store: Store, sha256: Sha256, size: int = 2**60) -> int:
    """How many bytes the next writer begins with."""
    with closing(store.writer(sha256, size)) as writer:
        return writer.arrived


# --- a file appears -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("content", [b"", b"x", CONTENT, bytes(3_000_000)])
def test_a_committed_file_is_there_whole(store: Store, content: bytes) -> None:
    sha256 = put(store, content)
    assert store.has(sha256, len(content))
    assert content_of(store, sha256, len(content)) == content
    assert store.digest_of(sha256) == sha256
    assert dict(store.held()) == {sha256: len(content)}
    assert arrived(store, sha256) == 0


def test_nothing_appears_before_the_commit(store: Store) -> None:
    with closing(store.writer(A, SIZE)) as writer:
        writer.write(CONTENT)
        assert not store.has(A, SIZE)
        assert store.open(A, SIZE) is None
        assert list(store.held()) == []
        writer.commit()
        assert store.has(A, SIZE)


@pytest.mark.parametrize("content", [b"", CONTENT[:-1], CONTENT + b"x", b"another!"])
def test_bytes_that_are_not_the_promised_ones_cannot_be_committed(store: Store, content: bytes) -> None:
    with closing(store.writer(A, SIZE)) as writer:
        writer.write(content)
        with pytest.raises(InvalidValue):
            writer.commit()
    assert not store.has(A, SIZE)
    assert list(store.held()) == []


def test_a_store_opens_again_with_what_it_held(bench: Bench) -> None:
    put(bench.store, CONTENT)
    begin(bench.store, B, b"an")
    again = bench.again()
    assert again.has(A, SIZE)
    assert arrived(again, B) == 2


def test_commit_replaces_a_damaged_file(bench: Bench, store: Store) -> None:
    put(store, CONTENT)
    bench.rot(A, b"another!")
    bench.touch(A)
    put(store, CONTENT)
    assert content_of(store, A, SIZE) == CONTENT


# --- what has arrived ---------------------------------------------------------------------------------------------


def test_what_has_arrived_is_resumed_and_hashed_again(store: Store) -> None:
    begin(store, A, CONTENT[:3], SIZE)
    with closing(store.writer(A, SIZE)) as writer:
        assert (writer.arrived, writer.digest()) == (3, Sha256.of(CONTENT[:3]))
        writer.write(CONTENT[3:])
        assert (writer.arrived, writer.digest()) == (SIZE, A)
        writer.commit()
    assert content_of(store, A, SIZE) == CONTENT


def test_a_wrong_prefix_is_not_taken_for_right(store: Store) -> None:
    begin(store, A, b"xxx", SIZE)
    with closing(store.writer(A, SIZE)) as writer:
        writer.write(CONTENT[3:])
        with pytest.raises(InvalidValue, match="hash to"):
            writer.commit()
        writer.restart()
        assert (writer.arrived, writer.digest()) == (0, Sha256.of(b""))
        writer.write(CONTENT)
        writer.commit()
    assert content_of(store, A, SIZE) == CONTENT


def test_more_than_the_file_cannot_be_a_prefix_of_it(store: Store) -> None:
    begin(store, A, CONTENT + b"x")
    assert arrived(store, A, SIZE) == 0


def test_a_whole_prefix_is_committed_as_it_is(store: Store) -> None:
    begin(store, A, CONTENT, SIZE)
    with closing(store.writer(A, SIZE)) as writer:
        writer.commit()
    assert content_of(store, A, SIZE) == CONTENT


def test_what_is_discarded_is_not_resumed(store: Store) -> None:
    begin(store, A, CONTENT[:3], SIZE)
    with closing(store.writer(A, SIZE)) as writer:
        writer.discard()
    assert arrived(store, A) == 0


@pytest.mark.parametrize("first_to_end", ["the-sleeper", "the-newcomer"])
def test_a_writer_that_sleeps_keeps_its_bytes_and_keeps_nobody_waiting(
    bench: Bench, store: Store, first_to_end: str
) -> None:
    with closing(store.writer(A, SIZE)) as sleeper:
        sleeper.write(CONTENT[:3])
        for other in (store, bench.again()):
            with closing(other.writer(A, SIZE)) as newcomer:
                assert newcomer.arrived == 0
                newcomer.write(CONTENT)
                if first_to_end == "the-newcomer":
                    newcomer.commit()
                    assert content_of(store, A, SIZE) == CONTENT
                sleeper.write(CONTENT[sleeper.arrived :])
        sleeper.commit()
    assert content_of(store, A, SIZE) == CONTENT
    assert arrived(store, A) == 0
    store.clear_incoming(keep=[])
    assert list(store.held()) == [(A, SIZE)]


@pytest.mark.parametrize("end", ["commit", "discard", "close"])
def test_an_ended_writer_lets_the_next_one_in_and_may_be_closed_again(store: Store, end: str) -> None:
    writer = store.writer(A, SIZE)
    writer.write(CONTENT)
    getattr(writer, end)()
    with closing(store.writer(A, SIZE)) as following:
        writer.close()
        with closing(store.writer(A, SIZE)) as beside:
            assert beside.arrived == 0
        assert following.arrived == (SIZE if end == "close" else 0)


def remove(store: Store) -> None:
    store.remove(A)


def clear(store: Store) -> None:
    store.clear_incoming([])


@pytest.mark.parametrize("harm", [remove, clear])
def test_a_writer_whose_bytes_were_removed_files_nothing(store: Store, harm: Callable[[Store], None]) -> None:
    with closing(store.writer(A, SIZE)) as writer:
        writer.write(CONTENT)
        harm(store)
        with pytest.raises(Conflict):
            writer.commit()
    assert not store.has(A, SIZE)
    put(store, CONTENT)
    assert content_of(store, A, SIZE) == CONTENT


@pytest.mark.parametrize("end", ["commit", "discard"])
def test_a_writer_whose_bytes_were_removed_does_not_harm_the_next_one(store: Store, end: str) -> None:
    with closing(store.writer(A, SIZE)) as late:
        late.write(CONTENT)
        store.remove(A)
        begin_again = b"xx"
        begin(store, A, begin_again, SIZE)
        if end == "commit":
            with pytest.raises(Conflict):
                late.commit()
        else:
            late.discard()
    assert not store.has(A, SIZE)
    assert arrived(store, A) == len(begin_again)


def test_clear_incoming_keeps_what_is_waited_for(store: Store) -> None:
    put(store, CONTENT)
    begin(store, B, b"x")
    begin(store, C, b"x")
    store.clear_incoming(keep=iter([B, A]))
    assert (arrived(store, B), arrived(store, C)) == (1, 0)
    assert store.has(A, SIZE)


# --- held or doubted ----------------------------------------------------------------------------------------------


def test_a_file_is_held_with_its_own_size_only(store: Store) -> None:
    put(store, CONTENT)
    assert store.has(A, SIZE)
    assert not store.has(A, SIZE + 1)
    assert not store.has(C, SIZE)
    assert store.open(A, SIZE + 1) is None
    assert store.open(C, SIZE) is None
    assert store.digest_of(C) is None


def test_a_touched_file_is_not_had_and_not_opened_until_it_is_reinstated(bench: Bench, store: Store) -> None:
    put(store, CONTENT)
    bench.touch(A)
    assert not store.has(A, SIZE)
    assert store.open(A, SIZE) is None
    assert list(store.held()) == [(A, SIZE)]
    assert store.digest_of(A) == A
    store.reinstate(A)
    assert store.has(A, SIZE)
    assert content_of(store, A, SIZE) == CONTENT


def test_rot_that_moves_no_clock_shows_when_read_and_is_disowned(bench: Bench, store: Store) -> None:
    put(store, CONTENT)
    bench.rot(A, b"another!")
    assert store.has(A, SIZE)
    assert store.digest_of(A) not in (A, None)
    store.disown(A)
    assert not store.has(A, SIZE)
    assert store.open(A, SIZE) is None
    store.disown(C)


def test_another_length_is_another_file_whatever_its_mark(bench: Bench, store: Store) -> None:
    put(store, CONTENT)
    bench.rot(A, CONTENT[:-1])
    assert not store.has(A, SIZE)
    assert store.open(A, SIZE) is None


def test_held_names_every_complete_file_with_its_size(bench: Bench, store: Store) -> None:
    for content in (CONTENT, b"an initrd", b""):
        put(store, content)
    bench.touch(B)
    begin(store, C, b"never")
    assert dict(store.held()) == {A: SIZE, B: 9, Sha256.of(b""): 0}
    assert dict(store.held(A[:2])) == {A: SIZE}
    assert dict(store.held(B[:5])) == {B: 9}
    assert dict(store.held(A[:2] + B[2:4])) == {}


def test_a_file_that_is_had_is_made_secure_and_no_other(bench: Bench, store: Store) -> None:
    put(store, CONTENT)
    assert store.secure(A, SIZE)
    assert not store.secure(A, SIZE + 1)
    assert not store.secure(C, SIZE)
    bench.touch(A)
    assert not store.secure(A, SIZE)


def test_an_open_file_is_read_in_parts_and_outlives_its_removal(store: Store) -> None:
    put(store, CONTENT)
    file = store.open(A, SIZE)
    assert file is not None
    with closing(file):
        store.remove(A)
        assert file.size == SIZE
        assert file.read_at(2, 3) == CONTENT[2:5]
        assert file.read_at(0, SIZE) == CONTENT
        assert file.read_at(SIZE - 1, 5) == CONTENT[-1:]
        assert file.read_at(SIZE, 5) == b""
    file.close()
    assert store.open(A, SIZE) is None


def test_nobody_is_sent_elsewhere_by_these_stores(store: Store) -> None:
    assert store.location(put(store, CONTENT)) is None


def test_remove_forgets_whole_and_partial_files_and_does_not_mind_others(store: Store) -> None:
    put(store, CONTENT)
    begin(store, B, b"an")
    store.remove(A, B, C)
    assert list(store.held()) == []
    assert arrived(store, B) == 0
    store.remove(A)
    store.remove()


# --- alone --------------------------------------------------------------------------------------------------------


def test_one_at_a_time_is_alone_at_one_work(bench: Bench, store: Store) -> None:
    with store.alone("removing") as first:
        assert first
        for other in (store, bench.again()):
            with other.alone("removing") as second:
                assert not second
            with other.alone("reading") as another:
                assert another
        with store.alone("removing") as still:
            assert not still
    with store.alone("removing") as again:
        assert again
    put(store, CONTENT)
    assert list(store.held()) == [(A, SIZE)]


# --- room ---------------------------------------------------------------------------------------------------------


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
    put(store, CONTENT)
    begin(store, B, b"an")
    assert store.bytes_missing(wanted) == missing


def test_a_damaged_file_needs_room_for_its_replacement(bench: Bench, store: Store) -> None:
    put(store, CONTENT)
    bench.touch(A)
    assert store.bytes_missing([(A, SIZE)]) == SIZE


def test_all_files_must_fit_together(bench: Bench, store: Store) -> None:
    wanted = [(B, 100), (C, 50)]
    bench.room(150)
    store.require_room(wanted)
    bench.room(149)
    with pytest.raises(NoRoom) as caught:
        store.require_room(iter(wanted))
    assert (caught.value.path, caught.value.needed, caught.value.free) == (store.where, 150, 149)
    assert store.bytes_missing(wanted) == 150


def test_free_bytes_are_never_negative(bench: Bench, store: Store) -> None:
    bench.room(-1)
    assert store.bytes_free() == 0
    store.require_room([])
    bench.room(7)
    assert store.bytes_free() == 7
    assert store.bytes_total() >= 7


def test_a_file_that_does_not_fit_leaves_nothing_behind(bench: Bench, store: Store) -> None:
    if isinstance(store, DiskStore):
        pytest.skip("how a disk fills is in test_store_faults.py")
    bench.room(SIZE - 1)
    with closing(store.writer(A, SIZE)) as writer, pytest.raises(OSError, match="No space"):
        writer.write(CONTENT)
    assert arrived(store, A) == 0


def test_a_store_is_writable_and_asking_leaves_nothing(store: Store) -> None:
    store.require_writable()
    assert list(store.held()) == []
