"""Which images come when not all fit: named cases, then what is true of every case."""

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from region.catalogue.facts import File
from region.importing.plan import Import
from region.importing.room import divide, too_large
from shared.digest import Sha256
from shared.names import ImageKey, RelativePath
from tests.stores import begin, put
from tests.unit.memory_store import MemoryStore

NOBLE, JAMMY = ImageKey.parse("ubuntu:noble:amd64"), ImageKey.parse("ubuntu:jammy:amd64")
GRUB = ImageKey.parse("bootloader:uefi:amd64")


def sha(name: str) -> Sha256:
    return Sha256.of(name.encode())


def wanted(image: ImageKey, *files: str, size: int = 100) -> Import:
    """A version that lacks these files."""
    missing = tuple(File(sha(file), size, RelativePath(file), False) for file in files)
    return Import(image, str(image), 1, 1, "1", image == GRUB, missing)


@pytest.mark.parametrize(
    ("imports", "free", "left_over", "needed", "left"),
    [
        pytest.param([], 0, set(), 0, 0, id="nothing"),
        pytest.param([wanted(NOBLE, "a", "b")], 200, set(), 0, 0, id="just so"),
        pytest.param([wanted(NOBLE, "a", "b")], 199, {NOBLE}, 200, 199, id="a byte too little"),
        pytest.param([wanted(NOBLE, "a", "b"), wanted(JAMMY, "c")], 150, {NOBLE}, 200, 50, id="the smaller one comes"),
        pytest.param([wanted(JAMMY, "a", "b"), wanted(NOBLE, "c")], 200, {JAMMY}, 200, 100, id="smaller ones first"),
        pytest.param([wanted(JAMMY, "a"), wanted(GRUB, "g", "h")], 200, {JAMMY}, 100, 0, id="bootloaders come first"),
        pytest.param(
            [wanted(JAMMY, "a", "b"), wanted(NOBLE, "a", "c")], 300, set(), 0, 0, id="shared files count once"
        ),
        pytest.param(
            [wanted(JAMMY, "a", "b"), wanted(NOBLE, "a", "c")], 99, {JAMMY, NOBLE}, 300, 99, id="needed together"
        ),
        pytest.param([wanted(NOBLE, "a"), wanted(NOBLE, "b")], 199, {NOBLE}, 200, 199, id="an image comes as a whole"),
        pytest.param([wanted(NOBLE), wanted(JAMMY, "a")], 0, {JAMMY}, 100, 0, id="what lacks nothing fits"),
    ],
)
def test_what_fits(imports: list[Import], free: int, left_over: set[ImageKey], needed: int, left: int) -> None:
    lacking = {file.sha256: 100 for entry in imports for file in entry.missing}
    assert divide(imports, lacking, free) == (left_over, needed, left)


@given(
    st.lists(st.tuples(st.sampled_from([NOBLE, JAMMY, GRUB]), st.sets(st.sampled_from("abcdef"))), max_size=8),
    st.integers(0, 700),
)
def test_what_comes_fits_and_what_does_not_come_would_not(cases: list[tuple[ImageKey, set[str]]], free: int) -> None:
    imports = [wanted(image, *sorted(files)) for image, files in cases]
    sizes = {sha(name): 10 * (1 + position) for position, name in enumerate("abcdef")}
    left_over, _, left = divide(imports, sizes, free)
    coming = _files(entry for entry in imports if entry.image not in left_over)
    assert sum(sizes[sha256] for sha256 in coming) + left == free
    for image in left_over:
        assert sum(sizes[sha256] for sha256 in _files(e for e in imports if e.image == image) - coming) > left


def _files(imports: Iterable[Import]) -> set[Sha256]:
    return {file.sha256 for entry in imports for file in entry.missing}


def test_what_has_arrived_or_is_stored_needs_no_room_and_the_sentence_has_the_numbers() -> None:
    store = MemoryStore()
    put(store, b"a")
    begin(store, sha("b"), b"x" * 60)
    store.capacity = 61 + 45
    told = too_large(store, [wanted(NOBLE, "a", size=1), wanted(JAMMY, "b", "c")])
    assert told.keys() == {JAMMY}
    assert "140 bytes are needed below memory and 45 bytes are free" in str(told[JAMMY])
    store.capacity += 95
    assert too_large(store, [wanted(NOBLE, "a", size=1), wanted(JAMMY, "b", "c")]) == {}
