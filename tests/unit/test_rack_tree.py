"""Which tree follows from a manifest and what is held; and what is missing."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rack.archive import Content
from rack.pull import diff
from rack.tree import Link, Shown, Tree, advance, behind, load_current, plan, shown_by
from shared.digest import Sha256
from shared.errors import InvalidDocument
from shared.names import RelativePath
from shared.store.disk import DiskStore
from shared.wire.manifest import Entry, Kind, Manifest
from tests.stores import put

ROOT = Path("/rack")
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def sha(text: str) -> Sha256:
    return Sha256.of(text.encode())


def file(path: str, content: str, image: str = "", version: str = "") -> Entry:
    return Entry(RelativePath(path), Kind.FILE, sha(content), len(content), image, version)


def bundle(path: str, content: str, image: str = "", version: str = "") -> Entry:
    return Entry(RelativePath(path), Kind.ARCHIVE, sha(content), len(content), image, version)


def manifest(*entries: Entry) -> Manifest:
    return Manifest(1, 2, NOW, entries)


def tree(names: Mapping[str, tuple[str, str]]) -> Tree:
    return Tree(
        "1-1-0",
        {RelativePath(path): Link(sha(content), len(content), image) for path, (content, image) in names.items()},
    )


GA, HWE = "ubuntu/amd64/ga-24.04/noble/stable", "ubuntu/amd64/hwe-24.04/noble/stable"
NOBLE, JAMMY, UEFI = "ubuntu:noble:amd64", "ubuntu:jammy:amd64", "bootloader:uefi:amd64"
NOBLE_2 = (
    file(f"{GA}/boot-kernel", "ga2", NOBLE, "2"),
    file(f"{HWE}/boot-kernel", "hwe2", NOBLE, "2"),
    file(f"{GA}/squashfs", "root2", NOBLE, "2"),
)
JAMMY_2 = (file("ubuntu/amd64/ga-22.04/jammy/stable/boot-kernel", "jammy2", JAMMY, "2"),)
OLD = tree(
    {
        f"{GA}/boot-kernel": ("ga1", NOBLE),
        f"{GA}/squashfs": ("root1", NOBLE),
        "ubuntu/amd64/ga-22.04/jammy/stable/boot-kernel": ("jammy1", JAMMY),
        "bootloader/uefi/amd64/bootx64.efi": ("boot1", UEFI),
    }
)

PLANS = [
    pytest.param(
        (*NOBLE_2, *JAMMY_2),
        {"ga2", "hwe2", "root2", "jammy2"},
        OLD,
        {f"{GA}/boot-kernel": "ga2", f"{HWE}/boot-kernel": "hwe2", f"{GA}/squashfs": "root2"}
        | {"ubuntu/amd64/ga-22.04/jammy/stable/boot-kernel": "jammy2"},
        True,
        id="everything-is-held",
    ),
    pytest.param(
        (*NOBLE_2, *JAMMY_2),
        {"ga2", "root2", "jammy2"},
        OLD,
        {f"{GA}/boot-kernel": "ga1", f"{GA}/squashfs": "root1"}
        | {"ubuntu/amd64/ga-22.04/jammy/stable/boot-kernel": "jammy2"},
        False,
        id="one-missing-kernel-holds-its-image-back-and-no-other",
    ),
    pytest.param((*NOBLE_2,), {"ga2", "hwe2", "root2"}, OLD, None, True, id="what-the-manifest-drops-goes"),
    pytest.param((*NOBLE_2, *JAMMY_2), {"jammy2"}, None, {JAMMY_2[0].path: "jammy2"}, False, id="first-tree-in-parts"),
    pytest.param((*NOBLE_2,), set(), None, {}, False, id="nothing-yet"),
    pytest.param((), set(), OLD, {}, True, id="an-empty-manifest-is-an-order"),
    pytest.param(
        (bundle("bootloader/uefi/amd64", "archive2", UEFI),),
        {"archive2"},
        OLD,
        {"bootloader/uefi/amd64/bootx64.efi": "boot1"},
        False,
        id="an-archive-that-is-not-unpacked-holds-its-directory-back",
    ),
]


@pytest.mark.parametrize(("entries", "held", "current", "names", "entire"), PLANS)
def test_each_image_is_new_as_a_whole_or_stays_as_it_is(
    entries: tuple[Entry, ...], held: set[str], current: Tree | None, names: dict[str, str] | None, entire: bool
) -> None:
    draft = plan(ROOT, manifest(*entries), {sha(name) for name in held}, {}, current)
    expected = names if names is not None else {str(entry.path): None for entry in entries}
    assert set(draft.names) == set(expected)
    assert draft.entire is entire
    for path, content in expected.items():
        if content is not None:
            assert draft.names[RelativePath(path)].sha256 == sha(content)
    for path, source in draft.sources.items():
        carried = draft.names[path].image in draft.carried
        assert source == (ROOT / "trees" / "1-1-0" / path if carried else draft.names[path].sha256)


def unpacked(**archives: dict[str, str]) -> dict[Sha256, dict[RelativePath, Content]]:
    return {
        sha(archive): {RelativePath(path): Content(sha(text), len(text)) for path, text in members.items()}
        for archive, members in archives.items()
    }


def test_archives_that_share_a_directory_are_one_image_and_the_later_wins() -> None:
    entries = (bundle("bootloader/uefi/amd64", "grub", UEFI), bundle("bootloader/uefi/amd64", "shim", UEFI))
    members = unpacked(grub={"a.efi": "grub-a", "b.efi": "grub-b"}, shim={"a.efi": "shim-a"})
    draft = plan(ROOT, manifest(*entries), set(), members, None)
    assert {path: name.sha256 for path, name in draft.names.items()} == {
        "bootloader/uefi/amd64/a.efi": sha("shim-a"),
        "bootloader/uefi/amd64/b.efi": sha("grub-b"),
    }
    source = draft.sources[RelativePath("bootloader/uefi/amd64/a.efi")]
    assert source == ROOT / "unpacked" / sha("shim") / "a.efi"
    half = plan(ROOT, manifest(*entries), set(), unpacked(grub={"b.efi": "x"}), OLD)
    assert half.carried == {UEFI}
    assert {name.sha256 for name in half.names.values()} == {sha("boot1")}


def test_an_archive_whose_members_cannot_stand_together_stays_behind_alone() -> None:
    both = "bootloader:a:b"
    entries = (bundle("bootloader/a/b", "one", both), bundle("bootloader/a/b", "two", both), *JAMMY_2)
    members = unpacked(one={"x": "1"}, two={"x/y": "2"})
    draft = plan(ROOT, manifest(*entries), {sha("jammy2")}, members, None)
    assert set(draft.names) == {JAMMY_2[0].path}
    assert {image: type(error) for image, error in draft.faults.items()} == {both: InvalidDocument}
    assert not draft.entire


def test_two_images_that_claim_one_name_are_refused() -> None:
    entries = (bundle("a/b", "one", "bootloader:b:a"), file("a/b/c/d", "two", "a:c:b"))
    with pytest.raises(InvalidDocument, match="two images claim"):
        plan(ROOT, manifest(*entries), {sha("two")}, unpacked(one={"c/d": "1"}), None)


@pytest.mark.parametrize(
    "entries",
    [
        pytest.param((file("a/b/c", "one", "a:c:b"), file("a/b/c/d", "two", "x:y:z")), id="the directory comes first"),
        pytest.param((file("a/b/c/d", "two", "a:c:b"), file("a/b/c", "one", "x:y:z")), id="the directory comes last"),
        pytest.param((file("a/b", "one", "a:c:b"), file("a/b/c/d/e", "two", "x:y:z")), id="far below it"),
    ],
)
def test_a_manifest_of_two_images_that_nest_is_none(entries: tuple[Entry, ...]) -> None:
    """A name cannot be a file of one image and a directory of the other: no tree of the two could be built."""
    with pytest.raises(InvalidDocument, match="is both a file and a directory"):
        manifest(*entries)


@pytest.mark.parametrize("member", ["c", "c/d/e"])
@pytest.mark.parametrize("order", [1, -1], ids=["the archive comes first", "the archive comes last"])
def test_two_images_that_nest_by_the_members_of_an_archive_are_refused(member: str, order: int) -> None:
    """What is in an archive, no manifest says: a member is where the other image has a directory, or below its file."""
    images = ("bootloader:a:a", "ubuntu:z:z")[::order]
    entries = (bundle("a/b", "one", images[0]), file("a/b/c/d", "two", images[1]))
    known = manifest(*entries)
    with pytest.raises(InvalidDocument, match="is both a file and a directory"):
        plan(ROOT, known, {sha("two")}, unpacked(one={member: "1"}), None)


def test_images_whose_names_only_look_alike_stand_beside_each_other() -> None:
    entries = (file("a/b/c", "one", "a:c:b"), file("a/b/cd/e", "two", "x:y:z"), file("a/b/c.d", "two", "x:y:z"))
    draft = plan(ROOT, manifest(*entries), {sha("one"), sha("two")}, {}, None)
    assert set(draft.names) == {"a/b/c", "a/b/cd/e", "a/b/c.d"}


DIFFS = [
    pytest.param((), set(), [], id="nothing-wanted"),
    pytest.param(NOBLE_2, set(), ["ga2", "root2", "hwe2"], id="nothing-held"),
    pytest.param(NOBLE_2, {"root2"}, ["ga2", "hwe2"], id="some-held"),
    pytest.param(NOBLE_2, {"ga2", "root2", "hwe2", "more"}, [], id="all-held"),
    pytest.param((file("a/1", "same"), file("a/2", "same")), set(), ["same"], id="a-shared-file-once"),
    pytest.param(
        (NOBLE_2[0], *JAMMY_2, NOBLE_2[1]), set(), ["jammy2", "ga2", "hwe2"], id="the-files-of-an-image-together"
    ),
]


@pytest.mark.parametrize(("entries", "held", "missing"), DIFFS)
def test_what_is_missing(entries: tuple[Entry, ...], held: set[str], missing: list[str]) -> None:
    assert diff(manifest(*entries), {sha(name) for name in held}) == [(sha(name), len(name)) for name in missing]


def test_a_current_link_that_was_removed_is_put_back_though_nothing_changed(tmp_path: Path) -> None:
    store = DiskStore(tmp_path)
    for entry in NOBLE_2:
        content = {sha(text): text for text in ("ga2", "hwe2", "root2")}[entry.sha256]
        put(store, content.encode())
    wanted = manifest(*NOBLE_2)
    first, errors = advance(tmp_path, store, wanted, None)
    assert (first is not None, errors) == (True, {})
    kernel = tmp_path / "current" / GA / "boot-kernel"
    assert kernel.read_text() == "ga2"
    (tmp_path / "current").unlink()
    again, _ = advance(tmp_path, store, wanted, first)
    assert again == first
    assert kernel.read_text() == "ga2"


def stored(root: Path, *contents: str) -> DiskStore:
    store = DiskStore(root)
    for content in contents:
        put(store, content.encode())
    return store


def test_a_tree_comes_back_as_it_was_built(tmp_path: Path) -> None:
    store = stored(tmp_path, "ga2", "hwe2", "root2", "jammy2")
    built, _ = advance(tmp_path, store, manifest(*NOBLE_2, *JAMMY_2), None)
    assert built is not None
    assert built.shown == {NOBLE: shown_by(NOBLE_2), JAMMY: shown_by(JAMMY_2)}
    assert built.shown[NOBLE].version == "2"
    assert load_current(tmp_path) == built


JAMMY_3 = (file(JAMMY_2[0].path, "jammy3", JAMMY, "3"),)
JAMMY_2_AS_3 = (file(JAMMY_2[0].path, "jammy2", JAMMY, "3"),)
BEHIND = [
    pytest.param((*NOBLE_2, *JAMMY_2), None, {}, id="nothing"),
    pytest.param((*NOBLE_2, *JAMMY_3), None, {JAMMY: "2"}, id="a-version-whose-files-are-missing"),
    pytest.param((*NOBLE_2, *JAMMY_2_AS_3), None, {}, id="another-version-of-the-very-same-files"),
    pytest.param((*NOBLE_2, *JAMMY_2, file("a/b", "x", "a:c:b", "1")), None, {"a:c:b": ""}, id="an-image-not-yet-here"),
    pytest.param(JAMMY_2, None, {}, id="an-image-that-is-to-go-is-not-behind"),
    pytest.param((*NOBLE_2, *JAMMY_2), Path.unlink, {JAMMY: "2"}, id="a-lost-file"),
    pytest.param((*NOBLE_2, *JAMMY_2), Path.touch, {JAMMY: "2"}, id="a-touched-file"),
]


@pytest.mark.parametrize(("wanted", "harm", "found"), BEHIND)
def test_which_images_are_behind(
    tmp_path: Path, wanted: tuple[Entry, ...], harm: Callable[[Path], None] | None, found: dict[str, str]
) -> None:
    assert set(behind(tmp_path, manifest(*NOBLE_2, *JAMMY_2), None).values()) == {""}
    store = stored(tmp_path, "ga2", "hwe2", "root2", "jammy2")
    current, _ = advance(tmp_path, store, manifest(*NOBLE_2, *JAMMY_2), None)
    if harm:
        harm(tmp_path / "current" / JAMMY_2[0].path)
    assert behind(tmp_path, manifest(*wanted), current) == found


def test_a_new_version_of_the_very_same_files_moves_no_name(tmp_path: Path) -> None:
    store = stored(tmp_path, "jammy2")
    before, _ = advance(tmp_path, store, manifest(*JAMMY_2), None)
    after, _ = advance(tmp_path, store, manifest(*JAMMY_2_AS_3), before)
    assert before is not None
    assert after is not None
    assert (after.name, after.names, after.shown[JAMMY].version) == (before.name, before.names, "3")
    assert load_current(tmp_path) == after


CALLED_BEFORE = [
    pytest.param("ubuntu/amd64/*/noble/stable", "ubuntu:noble:amd64", id="image"),
    pytest.param("ubuntu/arm64/*/jammy/candidate", "ubuntu:jammy:arm64", id="of-another-label"),
    pytest.param("bootloader/uefi/amd64", "bootloader:uefi:amd64", id="bootloader"),
    pytest.param("some/directory", "some:directory", id="directory"),
    pytest.param("some/directory/as/deep/as", "some:directory:as:deep:as", id="directory-as-deep-as-an-image"),
    pytest.param("", "", id="top"),
]


@pytest.mark.parametrize(("before", "now"), CALLED_BEFORE)
def test_a_tree_of_before_is_read(tmp_path: Path, before: str, now: str) -> None:
    (tmp_path / "trees" / "7-3-0").mkdir(parents=True)
    (tmp_path / "current").symlink_to("trees/7-3-0")
    (tmp_path / "trees" / "7-3-0.json").write_text(
        f'{{"format":"bootferry-tree:1","order":[7,2],"names":{{"a/b":["{sha("b")}",1,"{before}"],'
        f'"a/c":["{sha("c")}",2,"{before}","{sha("archive")}"]}}}}'
    )
    assert load_current(tmp_path) == Tree(
        "7-3-0",
        {
            RelativePath("a/b"): Link(sha("b"), 1, now),
            RelativePath("a/c"): Link(sha("c"), 2, now, sha("archive")),
        },
        {now: Shown("unknown", "")},
    )


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"format":"bootferry-tree:1"}', '{"format":"bootferry-tree:3"}'])
def test_a_tree_that_cannot_be_read_is_none(tmp_path: Path, text: str) -> None:
    (tmp_path / "trees" / "7-3-0").mkdir(parents=True)
    (tmp_path / "current").symlink_to("trees/7-3-0")
    (tmp_path / "trees" / "7-3-0.json").write_text(text)
    assert load_current(tmp_path) is None
