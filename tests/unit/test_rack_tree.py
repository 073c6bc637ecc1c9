"""Which tree follows from a manifest and what is held; and what is missing."""

from collections.abc import Mapping
from datetime import UTC, datetime
from pathlib import Path

import pytest

from rack.archive import Content
from rack.pull import diff
from rack.tree import Link, Tree, advance, image_of, plan
from shared.digest import Sha256
from shared.errors import InvalidDocument
from shared.names import RelativePath
from shared.store import Store
from shared.wire.manifest import Entry, Kind, Manifest

ROOT = Path("/rack")
NOW = datetime(2026, 7, 1, tzinfo=UTC)


def sha(text: str) -> Sha256:
    return Sha256.of(text.encode())


def file(path: str, content: str) -> Entry:
    return Entry(RelativePath(path), Kind.FILE, sha(content), len(content))


def bundle(path: str, content: str) -> Entry:
    return Entry(RelativePath(path), Kind.ARCHIVE, sha(content), len(content))


def manifest(*entries: Entry) -> Manifest:
    return Manifest(1, 2, NOW, entries)


def tree(names: Mapping[str, tuple[str, str]]) -> Tree:
    return Tree(
        "1-1-0",
        (1, 1),
        {RelativePath(path): Link(sha(content), len(content), image) for path, (content, image) in names.items()},
    )


GA, HWE = "ubuntu/amd64/ga-24.04/noble/stable", "ubuntu/amd64/hwe-24.04/noble/stable"
NOBLE, JAMMY = "ubuntu/amd64/*/noble/stable", "ubuntu/amd64/*/jammy/stable"
NOBLE_2 = (file(f"{GA}/boot-kernel", "ga2"), file(f"{HWE}/boot-kernel", "hwe2"), file(f"{GA}/squashfs", "root2"))
JAMMY_2 = (file("ubuntu/amd64/ga-22.04/jammy/stable/boot-kernel", "jammy2"),)
OLD = tree(
    {
        f"{GA}/boot-kernel": ("ga1", NOBLE),
        f"{GA}/squashfs": ("root1", NOBLE),
        "ubuntu/amd64/ga-22.04/jammy/stable/boot-kernel": ("jammy1", JAMMY),
        "bootloader/uefi/amd64/bootx64.efi": ("boot1", "bootloader/uefi/amd64"),
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
        (bundle("bootloader/uefi/amd64", "archive2"),),
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
    draft = plan(ROOT, manifest(*entries), {sha(name) for name in held}, {}, current, lambda digest: ROOT / digest)
    expected = names if names is not None else {str(entry.path): None for entry in entries}
    assert set(draft.names) == set(expected)
    assert draft.entire is entire
    for path, content in expected.items():
        if content is not None:
            assert draft.names[RelativePath(path)].sha256 == sha(content)
    for path, source in draft.sources.items():
        carried = draft.names[path].image in draft.carried
        assert source == (ROOT / "trees" / "1-1-0" / path if carried else ROOT / draft.names[path].sha256)


def unpacked(**archives: dict[str, str]) -> dict[Sha256, dict[RelativePath, Content]]:
    return {
        sha(archive): {RelativePath(path): Content(sha(text), len(text)) for path, text in members.items()}
        for archive, members in archives.items()
    }


def test_archives_that_share_a_directory_are_one_image_and_the_later_wins() -> None:
    entries = (bundle("bootloader/uefi/amd64", "grub"), bundle("bootloader/uefi/amd64", "shim"))
    members = unpacked(grub={"a.efi": "grub-a", "b.efi": "grub-b"}, shim={"a.efi": "shim-a"})
    draft = plan(ROOT, manifest(*entries), set(), members, None, lambda digest: ROOT / digest)
    assert {path: name.sha256 for path, name in draft.names.items()} == {
        "bootloader/uefi/amd64/a.efi": sha("shim-a"),
        "bootloader/uefi/amd64/b.efi": sha("grub-b"),
    }
    source = draft.sources[RelativePath("bootloader/uefi/amd64/a.efi")]
    assert source == ROOT / "unpacked" / sha("shim") / "a.efi"
    half = plan(ROOT, manifest(*entries), set(), unpacked(grub={"b.efi": "x"}), OLD, lambda digest: ROOT / digest)
    assert half.carried == {"bootloader/uefi/amd64"}
    assert {name.sha256 for name in half.names.values()} == {sha("boot1")}


def test_an_archive_whose_members_cannot_stand_together_stays_behind_alone() -> None:
    entries = (bundle("bootloader/a/b", "one"), bundle("bootloader/a/b", "two"), *JAMMY_2)
    members = unpacked(one={"x": "1"}, two={"x/y": "2"})
    draft = plan(ROOT, manifest(*entries), {sha("jammy2")}, members, None, lambda digest: ROOT / digest)
    assert set(draft.names) == {JAMMY_2[0].path}
    assert [type(error) for error in draft.errors] == [InvalidDocument]
    assert not draft.entire


def test_two_images_that_claim_one_name_are_refused() -> None:
    entries = (bundle("a/b", "one"), file("a/b/c/d", "two"))
    with pytest.raises(InvalidDocument, match="two images claim"):
        plan(ROOT, manifest(*entries), {sha("two")}, unpacked(one={"c/d": "1"}), None, lambda digest: ROOT / digest)


IMAGES = [
    pytest.param(file(f"{GA}/boot-kernel", "x"), NOBLE, id="ga-kernel"),
    pytest.param(file(f"{HWE}/boot-kernel", "x"), NOBLE, id="hwe-kernel-of-the-same-release"),
    pytest.param(file("ubuntu/arm64/ga-24.04/noble/stable/squashfs", "x"), "ubuntu/arm64/*/noble/stable", id="arm64"),
    pytest.param(
        file("ubuntu/amd64/ga-24.04/noble/candidate/squashfs", "x"), "ubuntu/amd64/*/noble/candidate", id="label"
    ),
    pytest.param(bundle("bootloader/uefi/amd64", "x"), "bootloader/uefi/amd64", id="archive"),
    pytest.param(file("bootloader/uefi/amd64/notes", "x"), "bootloader/uefi/amd64", id="file-beside-an-archive"),
    pytest.param(file("top", "x"), "", id="file-at-the-top"),
]


@pytest.mark.parametrize(("entry", "image"), IMAGES)
def test_what_changes_together(entry: Entry, image: str) -> None:
    assert image_of(entry) == image


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
    store = Store(tmp_path)
    for entry in NOBLE_2:
        content = {sha(text): text for text in ("ga2", "hwe2", "root2")}[entry.sha256]
        store.incoming(entry.sha256).write_text(content)
        store.commit(entry.sha256)
    wanted = manifest(*NOBLE_2)
    first, errors = advance(tmp_path, store, wanted, None)
    assert (first is not None, errors) == (True, [])
    kernel = tmp_path / "current" / GA / "boot-kernel"
    assert kernel.read_text() == "ga2"
    (tmp_path / "current").unlink()
    again, _ = advance(tmp_path, store, wanted, first)
    assert again == first
    assert kernel.read_text() == "ga2"
