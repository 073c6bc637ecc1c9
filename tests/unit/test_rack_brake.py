"""When a manifest takes so much away that a rack waits for an operator: counted in images, to the image."""

from datetime import UTC, datetime

import pytest

from rack import brake
from shared.digest import Sha256
from shared.errors import WaitsForConfirmation
from shared.names import RelativePath
from shared.wire.manifest import Entry, Kind, Manifest, Order

AT = datetime(2026, 7, 1, tzinfo=UTC)


def manifest(images: str, *, order: Order = (1, 7), confirmed: Order = (0, 0)) -> Manifest:
    entries = [Entry(RelativePath(name), Kind.FILE, Sha256.of(name.encode()), 1, name) for name in images]
    return Manifest(*order, AT, tuple(entries), confirmed)


@pytest.mark.parametrize(
    ("shown", "named", "waits"),
    [
        pytest.param("", "", False, id="nothing of nothing"),
        pytest.param("", "a", False, id="the first image"),
        pytest.param("a", "", True, id="the only one"),
        pytest.param("ab", "a", False, id="half"),
        pytest.param("abc", "a", True, id="two of three"),
        pytest.param("abc", "ab", False, id="one of three"),
        pytest.param("abcd", "ab", False, id="two of four"),
        pytest.param("abcd", "axyz", True, id="others come instead"),
        pytest.param("abcde", "ab", True, id="three of five"),
        pytest.param("aaab", "b", False, id="an image counts once"),
    ],
)
def test_more_than_half_of_the_images_is_much(shown: str, named: str, waits: bool) -> None:
    if waits:
        with pytest.raises(WaitsForConfirmation):
            brake.require_confirmed(manifest(named), list(shown), (0, 0))
    else:
        brake.require_confirmed(manifest(named), list(shown), (0, 0))


@pytest.mark.parametrize(
    ("said", "accepted", "counts"),
    [
        pytest.param((1, 7), (1, 6), True, id="this manifest"),
        pytest.param((1, 6), (1, 5), True, id="an earlier one"),
        pytest.param((1, 6), (1, 6), False, id="counted before"),
        pytest.param((1, 5), (1, 6), False, id="older than what counted"),
        pytest.param((2, 0), (1, 6), True, id="a later one counts up to this"),
        pytest.param((2, 0), (1, 7), False, id="a later one counts for no more than this"),
    ],
)
def test_a_confirmation_counts_once_and_up_to_its_own_manifest(said: Order, accepted: Order, counts: bool) -> None:
    empty = manifest("", confirmed=said)
    if counts:
        brake.require_confirmed(empty, ["a"], accepted)
    else:
        with pytest.raises(WaitsForConfirmation):
            brake.require_confirmed(empty, ["a"], accepted)
    assert brake.confirmed(empty, accepted) == max(accepted, min(said, (1, 7)))


def test_who_waits_says_for_what() -> None:
    with pytest.raises(WaitsForConfirmation) as waits:
        brake.require_confirmed(manifest("a"), ["c", "b", "a"], (0, 0))
    assert waits.value.args == WaitsForConfirmation((1, 7), ["b", "c"], 3).args
