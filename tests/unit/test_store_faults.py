"""A disk that fails, hangs, lies about links or loses power: what a store on it may conclude, and what it never does.

Every fsync and every O_NOFOLLOW is one that a test here misses when it is taken out.
"""

import errno
import os
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from shared.digest import Sha256
from shared.disk import disk_error
from shared.errors import Conflict, DiskFailed, NoInodes, NoRoom
from shared.mark import VERIFIED_AT
from shared.store.disk import DiskStore
from tests.stores import begin, content_of, descriptors, incoming_path, put, stored_path

CONTENT = b"a kernel"
A, B = Sha256.of(CONTENT), Sha256.of(b"an initrd")
SIZE = len(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    return DiskStore(tmp_path / "store")


def failure(number: int) -> OSError:
    return OSError(number, os.strerror(number))


@contextmanager
def failing(name: str, number: int, times: int = 1000) -> Iterator[list[int]]:
    """Inside, calls of `os.<name>` fail with this errno, so many times; the answer counts them."""
    original, failed = getattr(os, name), [0]

    def fail(*args: Any, **options: Any) -> Any:
        if failed[0] < times:
            failed[0] += 1
            raise failure(number)
        return original(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, name, fail)
        yield failed


# --- what cannot be read is not gone ------------------------------------------------------------------------------

NO_VERDICT = [errno.EMFILE, errno.ENFILE, errno.EIO, errno.ESTALE, errno.EACCES, errno.ENOMEM]


@pytest.mark.parametrize("number", NO_VERDICT, ids=errno.errorcode.__getitem__)
@pytest.mark.parametrize("call", ["open", "preadv"])
def test_bytes_that_cannot_be_read_have_no_digest_and_no_verdict(store: DiskStore, number: int, call: str) -> None:
    put(store, CONTENT)
    before = descriptors()
    with failing(call, number), pytest.raises(OSError, match=r"\w") as caught:
        store.digest_of(A)
    assert caught.value.errno == number
    assert store.digest_of(A) == A
    assert descriptors() == before


@pytest.mark.parametrize("number", NO_VERDICT, ids=errno.errorcode.__getitem__)
def test_a_file_that_cannot_be_looked_at_is_neither_had_nor_missing(store: DiskStore, number: int) -> None:
    put(store, CONTENT)
    questions: list[Callable[[], object]] = [
        lambda: store.has(A, SIZE),
        lambda: store.secure(A, SIZE),
        lambda: store.open(A, SIZE),
        lambda: store.status(A),
        lambda: list(store.held()),
        lambda: store.disown(A),
        lambda: store.remove(A),
    ]
    for question in questions:
        with failing("open", number), pytest.raises(OSError, match=r"\w"):
            question()
    with failing("stat", number), pytest.raises(OSError, match=r"\w"):
        store.has(A, SIZE)
    assert content_of(store, A, SIZE) == CONTENT


def test_a_file_that_is_gone_is_gone(store: DiskStore) -> None:
    put(store, CONTENT)
    stored_path(store, A).unlink()
    assert store.digest_of(A) is None
    stored_path(store, A).parent.rmdir()
    assert store.digest_of(A) is None
    assert not store.has(A, SIZE)


# --- nothing is reached through a link ----------------------------------------------------------------------------


def the_file(store: DiskStore, elsewhere: Path) -> None:
    stored_path(store, A).rename(elsewhere)
    stored_path(store, A).symlink_to(elsewhere)


def its_shelf(store: DiskStore, elsewhere: Path) -> None:
    stored_path(store, A).parent.rename(elsewhere)
    stored_path(store, A).parent.symlink_to(elsewhere)


def all_shelves(store: DiskStore, elsewhere: Path) -> None:
    (Path(store.where) / "files").rename(elsewhere)
    (Path(store.where) / "files").symlink_to(elsewhere)


links = pytest.mark.parametrize("link", [the_file, its_shelf, all_shelves])


@links
def test_a_stored_file_behind_a_link_is_none(
    store: DiskStore, tmp_path: Path, link: Callable[[DiskStore, Path], None]
) -> None:
    put(store, CONTENT)
    link(store, tmp_path / "elsewhere")
    assert stored_path(store, A).read_bytes() == CONTENT
    assert store.open(A, SIZE) is None
    assert store.digest_of(A) is None
    assert not store.has(A, SIZE)
    assert not store.secure(A, SIZE)
    if link is not all_shelves:
        assert list(store.held()) == []


@links
def test_nothing_behind_a_link_is_changed_or_removed(
    store: DiskStore, tmp_path: Path, link: Callable[[DiskStore, Path], None]
) -> None:
    put(store, CONTENT)
    link(store, tmp_path / "elsewhere")
    real = stored_path(store, A).resolve()
    real.chmod(0o600)
    store.disown(A)
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        store.reinstate(A)
    with pytest.raises(OSError, match=r"Not a directory|No such file"):
        store.link(A, tmp_path / "name")
    assert not (tmp_path / "name").is_symlink()
    assert real.stat().st_nlink == 1
    store.remove(A)
    assert real.read_bytes() == CONTENT
    assert real.stat().st_mtime == VERIFIED_AT
    assert real.stat().st_mode & 0o777 == 0o600


@pytest.mark.parametrize("link", [its_shelf, all_shelves])
def test_no_file_is_stored_behind_a_link(
    store: DiskStore, tmp_path: Path, link: Callable[[DiskStore, Path], None]
) -> None:
    put(store, CONTENT)
    link(store, tmp_path / "elsewhere")
    stored_path(store, A).unlink()
    with pytest.raises(NotADirectoryError):
        put(store, CONTENT)
    assert [path for path in (tmp_path / "elsewhere").rglob("*") if path.is_file()] == []
    with pytest.raises(OSError, match=r"Not a directory|symbolic links"):
        store.link(A, tmp_path / "name")


@pytest.mark.timeout(10)
def test_nothing_arrives_behind_a_link(store: DiskStore, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    incoming_path(store, A).symlink_to(victim)
    with pytest.raises(OSError, match="symbolic links"):
        store.writer(A, SIZE)
    incoming = Path(store.where) / "incoming"
    incoming_path(store, A).unlink()
    incoming.rmdir()
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / "stray").touch()
    incoming.symlink_to(tmp_path / "elsewhere")
    for work in (lambda: store.writer(A, SIZE), lambda: store.clear_incoming([]), store.require_writable):
        with pytest.raises(NotADirectoryError):
            work()
    store.remove(A)
    assert store.bytes_missing([(A, SIZE)]) == SIZE
    assert [entry.name for entry in (tmp_path / "elsewhere").iterdir()] == ["stray"]
    assert victim.read_bytes() == b"precious"


def test_a_lock_behind_a_link_is_none(store: DiskStore, tmp_path: Path) -> None:
    (Path(store.where) / "files" / ".removing").symlink_to(tmp_path / "victim")
    with pytest.raises(OSError, match="symbolic links"), store.alone("removing"):
        pass
    assert not (tmp_path / "victim").exists()


@pytest.mark.timeout(20)
def test_a_pipe_in_the_place_of_a_file_is_not_waited_for(store: DiskStore) -> None:
    put(store, CONTENT)
    stored_path(store, A).unlink()
    os.mkfifo(stored_path(store, A))
    assert store.open(A, SIZE) is None
    assert store.digest_of(A) is None
    store.remove(A)
    assert not stored_path(store, A).exists()


# --- writes and flushes that fail ---------------------------------------------------------------------------------


def flushed(descriptor: int) -> str:
    return str(Path(f"/proc/self/fd/{descriptor}").readlink())


@pytest.mark.parametrize(
    "number", [errno.ENOSPC, errno.EIO, errno.EDQUOT, errno.EROFS], ids=errno.errorcode.__getitem__
)
def test_after_a_write_that_failed_nothing_of_the_file_is_believed(store: DiskStore, number: int) -> None:
    before = descriptors()
    begin(store, A, CONTENT[:3], SIZE)
    writer = store.writer(A, SIZE)
    with failing("write", number), pytest.raises(OSError, match=r"\w"):
        writer.write(CONTENT[3:])
    assert not incoming_path(store, A).exists()
    assert descriptors() == before
    writer.close()
    put(store, CONTENT)


@pytest.mark.parametrize("which", range(3), ids=["the file", "its directory", "the directories"])
def test_a_flush_that_failed_is_not_tried_again_on_the_same_file(store: DiskStore, which: int) -> None:
    """The kernel calls a second flush a success although it has dropped the bytes: one failure decides."""
    calls: list[str] = []
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        calls.append(flushed(descriptor))
        if len(calls) == which + 1:
            raise failure(errno.EIO)
        flush(descriptor)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "fsync", fsync)
        with pytest.raises(OSError, match="Input/output"):
            put(store, CONTENT)
    assert len(calls) == which + 1
    assert not store.has(A, SIZE)
    assert not incoming_path(store, A).exists()
    assert [path for path in Path(store.where).rglob("*") if path.is_file()] == []
    put(store, CONTENT)
    assert store.has(A, SIZE)


def test_what_could_not_even_be_thrown_away_is_not_resumed(store: DiskStore) -> None:
    writer = store.writer(A, SIZE)
    writer.write(CONTENT[:5])
    with failing("write", errno.EIO), failing("unlink", errno.EROFS), pytest.raises(OSError, match="Input/output"):
        writer.write(CONTENT[5:])
    assert incoming_path(store, A).read_bytes() == CONTENT[:5]
    with failing("unlink", errno.EROFS), pytest.raises(OSError, match="Read-only"):
        store.writer(A, SIZE)
    with closing(store.writer(A, SIZE)) as following:
        assert following.arrived == 0
        following.write(CONTENT)
        following.commit()
    begin(store, A, CONTENT[:4], SIZE)
    with closing(store.writer(A, SIZE)) as another:
        assert another.arrived == 4


def test_a_file_removed_in_the_last_moment_is_a_conflict_and_nothing_else(store: DiskStore) -> None:
    rename = os.rename

    def too_late(*args: Any, **options: Any) -> None:
        store.clear_incoming([])
        rename(*args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "rename", too_late)
        with pytest.raises(Conflict):
            put(store, CONTENT)
    assert not store.has(A, SIZE)


CALLS = ("open", "mkdir", "stat", "fstat", "write", "ftruncate", "fchmod", "utime", "fsync", "rename", "unlink")


@pytest.mark.parametrize(
    "number", [errno.EIO, errno.ENOSPC, errno.EMFILE, errno.EROFS], ids=errno.errorcode.__getitem__
)
@pytest.mark.parametrize("lasting", [False, True], ids=["once", "from then on"])
def test_whichever_call_fails_a_file_is_stored_whole_or_not_at_all(tmp_path: Path, number: int, lasting: bool) -> None:
    """Each call that filing one file makes is failed in turn, and what is found afterwards is right or absent."""
    failed = 0
    for turn in range(200):
        store = DiskStore(tmp_path / str(turn))
        begin(store, A, CONTENT[:3], SIZE)
        calls = 0

        def failing_at(original: Callable[..., Any], turn: int = turn) -> Callable[..., Any]:
            def call(*args: Any, **options: Any) -> Any:
                nonlocal calls
                calls += 1
                if calls == turn + 1 or (lasting and calls > turn):
                    raise failure(number)
                return original(*args, **options)

            return call

        before = descriptors()
        with pytest.MonkeyPatch.context() as patch:
            for name in CALLS:
                patch.setattr(os, name, failing_at(getattr(os, name)))
            try:
                with closing(store.writer(A, SIZE)) as writer:
                    writer.write(CONTENT[writer.arrived :])
                    writer.commit()
            except OSError:
                failed += 1
                done = False
            else:
                done = True
        assert descriptors() == before
        if not (lasting and not done):
            assert content_of(store, A, SIZE) == (CONTENT if done else None)
        assert content_of(store, A, SIZE) in (CONTENT, None)
        assert store.secure(A, SIZE) is done, "nobody writes a row for what may be gone after a loss of power"
        put(store, CONTENT)
        assert content_of(store, A, SIZE) == CONTENT
        if calls <= turn:
            break
    assert failed > 15
    assert calls <= turn, "every call had its turn"


# --- what survives a loss of power --------------------------------------------------------------------------------


def watch_flushes(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """What is flushed from now on, in order."""
    done: list[str] = []
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        done.append(flushed(descriptor))
        flush(descriptor)

    monkeypatch.setattr(os, "fsync", fsync)
    return done


def test_a_file_found_is_flushed_before_anybody_writes_down_that_it_is_there(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its process may have been killed between the rename and the flush of the directory."""
    put(store, CONTENT)
    again = DiskStore(Path(store.where))
    done = watch_flushes(monkeypatch)
    assert again.secure(A, SIZE)
    root = Path(store.where)
    assert done == [str(stored_path(store, A)), str(root / "files" / A[:2]), str(root / "files")]
    done.clear()
    assert again.secure(A, SIZE)
    assert done == [str(stored_path(store, A)), str(root / "files" / A[:2])]


def test_a_file_that_cannot_be_flushed_is_not_secure(store: DiskStore) -> None:
    put(store, CONTENT)
    with failing("fsync", errno.EIO), pytest.raises(OSError, match="Input/output"):
        store.secure(A, SIZE)


def test_a_new_store_is_flushed_before_it_is_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    done = watch_flushes(monkeypatch)
    DiskStore(tmp_path / "store")
    assert done == [str(tmp_path / "store"), str(tmp_path)]


def test_a_new_store_that_cannot_be_flushed_is_none_and_an_old_one_is(tmp_path: Path) -> None:
    with failing("fsync", errno.EIO), pytest.raises(OSError, match="Input/output"):
        DiskStore(tmp_path / "store")
    put(DiskStore(tmp_path / "store"), CONTENT)
    with failing("fsync", errno.EROFS):
        assert DiskStore(tmp_path / "store").has(A, SIZE)


def test_a_disk_that_only_reads_can_be_audited(store: DiskStore) -> None:
    with store.alone("reading") as alone:
        assert alone
    opening = os.open

    def refuse(path: Any, flags: int, *args: Any, **options: Any) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY | os.O_CREAT):
            raise failure(errno.EROFS)
        return opening(path, flags, *args, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(os, "open", refuse)
        with store.alone("reading") as alone:
            assert alone
            with DiskStore(Path(store.where)).alone("reading") as second:
                assert not second


# --- what an operator is told -------------------------------------------------------------------------------------


class Statvfs:
    """A file system by its numbers of inodes."""

    def __init__(self, inodes: int, free: int) -> None:
        self.f_files, self.f_favail = inodes, free


@pytest.mark.parametrize(
    ("inodes", "free", "kind"),
    [
        pytest.param(1000, 0, NoInodes, id="no inode is left"),
        pytest.param(1000, 1, NoRoom, id="an inode is left"),
        pytest.param(0, 0, NoRoom, id="a file system that does not count them"),
    ],
)
def test_inodes_are_not_bytes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, inodes: int, free: int, kind: type[NoRoom]
) -> None:
    monkeypatch.setattr(os, "statvfs", lambda _path: Statvfs(inodes, free))
    monkeypatch.setattr("shutil.disk_usage", lambda _path: type("Usage", (), {"free": 7_000_000, "total": 9_000_000}))
    told = disk_error(failure(errno.ENOSPC), tmp_path, 5)
    assert type(told) is kind
    assert "7.0 MB are free" in str(told)
    assert ("no inodes left" in str(told)) is (kind is NoInodes)


def test_a_disk_that_cannot_even_be_asked_has_failed(tmp_path: Path) -> None:
    assert isinstance(disk_error(failure(errno.ENOSPC), tmp_path / "gone", 5), DiskFailed)
