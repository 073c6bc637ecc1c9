"""Trees on a rack's disk: built beside the current one, mended, carried over, cleared away."""

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from rack import tree as trees
from rack.tree import Tree, advance, clear_unfinished, load_current, shown_by
from shared.digest import Sha256
from shared.errors import InvalidDocument, Unavailable
from shared.names import RelativePath
from shared.store.disk import DiskStore
from shared.wire.manifest import Entry, Kind, Manifest
from tests.conftest import NOW
from tests.http.fake_region import tar_xz, tree_bytes
from tests.stores import put, stored_path

KERNEL, ROOT = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel", "ubuntu/amd64/ga-24.04/noble/stable/squashfs"
NOBLE, JAMMY, UEFI = "ubuntu:noble:amd64", "ubuntu:jammy:amd64", "bootloader:uefi:amd64"
LOADER = "bootloader/uefi/amd64"
PACKED = tar_xz({"bootx64.efi": b"loader", "fonts/unicode.pf2": b"font"})


def file(path: str, content: bytes, image: str = NOBLE, version: str = "1") -> Entry:
    return Entry(RelativePath(path), Kind.FILE, Sha256.of(content), len(content), image, version)


def bundle(path: str = LOADER, content: bytes = PACKED, version: str = "1") -> Entry:
    return Entry(RelativePath(path), Kind.ARCHIVE, Sha256.of(content), len(content), UEFI, version)


def manifest(*entries: Entry, serial: int = 2) -> Manifest:
    return Manifest(1, serial, NOW, entries)


FIRST = manifest(file(KERNEL, b"kernel 1"), file(ROOT, b"root 1"), bundle())


@pytest.fixture
def root(tmp_path: Path) -> Path:
    return tmp_path


@pytest.fixture
def store(root: Path) -> DiskStore:
    store = DiskStore(root)
    for content in (b"kernel 1", b"root 1", PACKED):
        put(store, content)
    return store


def first(root: Path, store: DiskStore) -> Tree:
    found, faults = advance(root, store, FIRST, None)
    assert found is not None
    assert faults == {}
    return found


WHOLE = {
    KERNEL: b"kernel 1",
    ROOT: b"root 1",
    f"{LOADER}/bootx64.efi": b"loader",
    f"{LOADER}/fonts/unicode.pf2": b"font",
}


def test_a_tree_shows_files_and_what_archives_unpack_to(root: Path, store: DiskStore) -> None:
    found = first(root, store)
    assert tree_bytes(root) == WHOLE
    assert found.name == "1-2-0"
    assert (found.images(), found.archives()) == ({NOBLE, UEFI}, {Sha256.of(PACKED)})
    assert load_current(root) == found
    assert (root / "current" / KERNEL).samefile(stored_path(store, Sha256.of(b"kernel 1")))
    assert sorted(path.name for path in (root / "trees").iterdir()) == ["1-2-0", "1-2-0.json"]


def test_a_document_of_a_tree_is_as_racks_in_the_field_wrote_it(root: Path, store: DiskStore) -> None:
    advance(root, store, manifest(file(KERNEL, b"kernel 1")), None)
    content = shown_by([file(KERNEL, b"kernel 1")]).content
    assert (root / "trees" / "1-2-0.json").read_text() == (
        '{"format":"bootferry-tree:2","images":{"ubuntu:noble:amd64":{"version":"1","content":"' + content + '"}},'
        '"names":{"' + KERNEL + '":["' + Sha256.of(b"kernel 1") + '",8,"ubuntu:noble:amd64"]}}'
    )


@pytest.fixture
def closed() -> Iterator[None]:
    """What this process makes is its own, as that of the service is."""
    before = os.umask(0o077)
    yield
    os.umask(before)


def modes(root: Path) -> set[int]:
    return {stat.S_IMODE(path.stat().st_mode) for path in [root, *root.rglob("*")] if path.is_dir()}


@pytest.mark.usefixtures("closed")
def test_every_user_can_read_a_tree_and_nothing_beside_it(root: Path) -> None:
    store = DiskStore(root / "rack")
    for content in (b"kernel 1", b"root 1", PACKED):
        put(store, content)
    clear_unfinished(root / "rack")
    first(root / "rack", store)
    assert modes(root / "rack" / "trees") == {0o755}
    assert all(path.stat().st_mode & 0o444 == 0o444 for path in (root / "rack" / "current").rglob("*"))
    for beside in ("files", "incoming", "unpacked"):
        assert stat.S_IMODE((root / "rack" / beside).stat().st_mode) == 0o700
    (document,) = (root / "rack" / "trees").glob("*.json")
    assert stat.S_IMODE(document.stat().st_mode) == 0o600


def test_trees_that_were_closed_are_opened_at_the_start(root: Path, store: DiskStore) -> None:
    first(root, store)
    for path in [root / "trees", *(root / "trees").rglob("*")]:
        if path.is_dir():
            path.chmod(0o700)
    clear_unfinished(root)
    assert modes(root / "trees") == {0o755}


def test_what_nobody_called_a_version_is_unknown() -> None:
    assert shown_by([file(KERNEL, b"kernel 1", version="")]).version == "unknown"
    assert shown_by([file(KERNEL, b"1", version="1"), file(ROOT, b"2", version="2")]).version == "2"


def test_nothing_moves_while_nothing_changes(root: Path, store: DiskStore, monkeypatch: pytest.MonkeyPatch) -> None:
    found = first(root, store)
    monkeypatch.setattr(trees, "unpack", None)
    assert advance(root, store, FIRST, found) == (found, {})
    assert tree_bytes(root) == WHOLE


def test_an_archive_that_is_named_twice_is_unpacked_once(
    root: Path, store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    really, unpacked = trees._unpacked, list[str]()

    def counted(*arguments: object) -> object:
        unpacked.append("once")
        return really(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(trees, "_unpacked", counted)
    advance(root, store, manifest(bundle(), bundle("bootloader/uefi/arm64")), None)
    assert unpacked == ["once"]


def test_an_archive_that_is_not_held_is_waited_for(root: Path, store: DiskStore) -> None:
    store.remove(Sha256.of(PACKED))
    found, faults = advance(root, store, FIRST, None)
    assert (found is not None and found.images(), faults) == ({NOBLE}, {})


def test_an_archive_that_is_none_costs_its_own_image(root: Path, store: DiskStore) -> None:
    put(store, b"no archive")
    found, faults = advance(root, store, manifest(file(KERNEL, b"kernel 1"), bundle(content=b"no archive")), None)
    assert found is not None
    assert found.images() == {NOBLE}
    assert isinstance(faults.pop(UEFI), InvalidDocument)
    assert faults == {}


def test_with_nothing_to_show_there_is_no_tree(root: Path, store: DiskStore) -> None:
    assert advance(root, store, manifest(file(KERNEL, b"not held")), None) == (None, {})
    assert not (root / "current").exists()


def test_a_manifest_that_names_nothing_empties_the_tree(root: Path, store: DiskStore) -> None:
    found, faults = advance(root, store, manifest(serial=3), first(root, store))
    assert (found is not None and dict(found.names), faults) == ({}, {})
    assert tree_bytes(root) == {}


def test_an_image_that_is_not_whole_is_carried_over_beside_a_new_one(root: Path, store: DiskStore) -> None:
    before = first(root, store)
    put(store, b"jammy")
    newer = manifest(file(KERNEL, b"not held"), file(ROOT, b"root 1"), bundle(), file("j", b"jammy", JAMMY), serial=3)
    found, _ = advance(root, store, newer, before)
    assert found is not None
    assert (found.name, found.shown[NOBLE]) == ("1-3-0", before.shown[NOBLE])
    assert tree_bytes(root) == WHOLE | {"j": b"jammy"}
    assert (root / "current" / KERNEL).samefile(root / "trees" / before.name / KERNEL)


def test_a_name_that_is_gone_is_mended_once_its_bytes_are_held(root: Path, store: DiskStore) -> None:
    before = first(root, store)
    (root / "current" / KERNEL).unlink()
    found, _ = advance(root, store, FIRST, before)
    assert found is not None
    assert found.name == "1-2-1"
    assert tree_bytes(root) == WHOLE


def test_a_name_that_is_gone_of_an_image_that_is_carried_over_cannot_be_mended(root: Path, store: DiskStore) -> None:
    before = first(root, store)
    (root / "current" / KERNEL).unlink()
    newer = manifest(file(KERNEL, b"not held"), file(ROOT, b"root 1"), bundle(), serial=3)
    assert advance(root, store, newer, before) == (before, {})
    # Another image moves on all the same.
    put(store, b"jammy")
    advance(root, store, manifest(*newer.entries, file("j", b"jammy", JAMMY), serial=3), before)
    assert tree_bytes(root) == {name: content for name, content in WHOLE.items() if name != KERNEL} | {"j": b"jammy"}


def test_a_file_that_goes_while_the_tree_is_built_costs_the_new_tree_only(
    root: Path, store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = first(root, store)
    put(store, b"jammy")

    really = store.link

    def link(sha256: Sha256, target: Path) -> None:
        if target.name == "j":
            raise FileNotFoundError
        really(sha256, target)

    monkeypatch.setattr(store, "link", link)
    with pytest.raises(Unavailable, match="The file j is not on this rack's disk"):
        advance(root, store, manifest(*FIRST.entries, file("j", b"jammy", JAMMY), serial=3), before)
    assert tree_bytes(root) == WHOLE


def test_an_archive_that_goes_before_it_is_unpacked_is_told(
    root: Path, store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store, "open", lambda *_: None)
    with pytest.raises(Unavailable, match=f"The file {Sha256.of(PACKED)} is not here any longer"):
        advance(root, store, FIRST, None)


def test_what_was_once_unpacked_is_not_believed_when_it_could_not_be_unpacked_again(
    root: Path, store: DiskStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = first(root, store)
    (root / "unpacked" / Sha256.of(PACKED) / "bootx64.efi").write_bytes(b"LOADER")
    monkeypatch.setattr(store, "open", lambda *_: None)
    with pytest.raises(Unavailable):
        advance(root, store, FIRST, before)
    assert [path.name for path in (root / "unpacked").iterdir()] == [Sha256.of(PACKED)]


def test_a_member_that_was_touched_is_unpacked_again(root: Path, store: DiskStore) -> None:
    before = first(root, store)
    member = root / "unpacked" / Sha256.of(PACKED) / "bootx64.efi"
    member.write_bytes(b"LOADER")
    advance(root, store, FIRST, before)
    assert tree_bytes(root) == WHOLE
    (root / "unpacked" / f"{Sha256.of(PACKED)}.json").write_text("{")
    member.write_bytes(b"LOADER")
    advance(root, store, FIRST, load_current(root))
    assert tree_bytes(root) == WHOLE
    assert (root / "unpacked" / f"{Sha256.of(PACKED)}.json").read_text() == (
        '{"bootx64.efi":["' + Sha256.of(b"loader") + '",6],"fonts/unicode.pf2":["' + Sha256.of(b"font") + '",4]}'
    )


@pytest.mark.parametrize("instead", ["nothing", "elsewhere"])
def test_the_link_to_the_tree_is_put_back(root: Path, store: DiskStore, instead: str) -> None:
    found = first(root, store)
    (root / "current").unlink()
    (root / "current.new").symlink_to("left over")
    if instead == "elsewhere":
        (root / "current").symlink_to("trees/1-1-0")
    advance(root, store, FIRST, found)
    assert tree_bytes(root) == WHOLE
    assert not (root / "current.new").is_symlink()


def test_a_link_that_leads_where_it_should_stays_itself(root: Path, store: DiskStore) -> None:
    found = first(root, store)
    before = (root / "current").lstat().st_ino
    advance(root, store, FIRST, found)
    assert (root / "current").lstat().st_ino == before


def test_what_is_left_of_a_tree_that_was_being_built_gets_into_no_other(root: Path, store: DiskStore) -> None:
    for name in ("trees/1-2-0.new/stray", "trees/1-2-1.new/stray"):
        (root / name).parent.mkdir(parents=True)
        (root / name).touch()
    first(root, store)
    assert tree_bytes(root) == WHOLE


def test_no_tree_takes_the_name_of_another_or_of_its_document(root: Path, store: DiskStore) -> None:
    (root / "trees" / "1-2-0").mkdir(parents=True)
    (root / "trees" / "1-2-1.json").touch()
    assert first(root, store).name == "1-2-2"


@pytest.mark.parametrize("spoil", ["format", "directory"])
def test_a_tree_that_is_not_whole_is_none(root: Path, store: DiskStore, spoil: str) -> None:
    found = first(root, store)
    if spoil == "format":
        document = root / "trees" / f"{found.name}.json"
        document.write_text(document.read_text().replace("tree:2", "tree:3"))
    else:
        (root / "trees" / found.name).rename(root / "trees" / "another")
    assert load_current(root) is None


def test_what_a_process_left_half_built_is_cleared_and_nothing_else(root: Path, store: DiskStore) -> None:
    clear_unfinished(root / "new")  # where nothing is yet
    clear_unfinished(root / "new")
    assert sorted(path.name for path in (root / "new").iterdir()) == ["trees", "unpacked"]
    found = first(root, store)
    before = {path for path in root.rglob("*") if "new" not in path.parts}
    for half in ("trees/a/b", "trees/c.new/d", "trees/c.new.json/e", "unpacked/e/f"):
        (root / half).mkdir(parents=True)
    for half in ("trees/g.json", "unpacked/h.json"):
        (root / half).touch()
    clear_unfinished(root)
    assert {path for path in root.rglob("*") if "new" not in path.parts} == before
    assert load_current(root) == found


def test_a_tree_that_is_half_built_is_cleared_though_a_document_lies_beside_it(root: Path) -> None:
    (root / "trees" / "c.new").mkdir(parents=True)
    (root / "trees" / "c.new.json").touch()
    clear_unfinished(root)
    assert not (root / "trees" / "c.new").exists()


def test_trees_and_archives_that_nobody_needs_are_dropped_whole(root: Path, store: DiskStore) -> None:
    before = first(root, store)
    after, _ = advance(root, store, manifest(file(KERNEL, b"kernel 1"), serial=3), before)
    assert after is not None
    assert trees.trees_on_disk(root) == {before.name, after.name}
    assert trees.archives_on_disk(root) == {Sha256.of(PACKED)}
    for _ in range(2):  # once more for what is gone
        trees.drop_tree(root, before.name)
        trees.drop_archive(root, Sha256.of(PACKED))
    assert trees.trees_on_disk(root) == {after.name}
    assert trees.archives_on_disk(root) == set()
    assert sorted(path.name for path in (root / "trees").iterdir()) == [after.name, f"{after.name}.json"]
    assert list((root / "unpacked").iterdir()) == []
    assert tree_bytes(root) == {KERNEL: b"kernel 1"}


def test_a_link_in_the_place_of_a_tree_is_dropped_and_what_it_leads_to_stays(root: Path) -> None:
    (root / "elsewhere").mkdir()
    (root / "elsewhere" / "file").touch()
    (root / "trees").mkdir()
    (root / "trees" / "1-1-0").symlink_to(root / "elsewhere")
    trees.drop_tree(root, "1-1-0")
    assert list((root / "trees").iterdir()) == []
    assert (root / "elsewhere" / "file").exists()


def test_a_tree_that_cannot_be_removed_now_stops_nothing(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (root / "trees" / "1-1-0").mkdir(parents=True)

    def busy(*_: object, **__: object) -> None:
        raise OSError(16, "Device or resource busy")

    monkeypatch.setattr(os, "rmdir", busy)
    trees.drop_tree(root, "1-1-0")
    assert (root / "trees" / "1-1-0").exists()
