"""What every list command can do: filter, sort, print in five ways, and watch until Ctrl-C."""

import json
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from region.cli import images, lists, words
from region.cli.exits import Misused
from region.cli.lists import ListFormat, Listing, Shape
from region.cli.main import TREE, Group
from region.cli.names import Image
from region.cli.output import Cell, Column, Item
from shared.errors import ConnectionRefused

STATES = {"failed": Cell("Failed", "red"), "waiting_for_racks": Cell("Waiting for racks"), "stored": Cell("Stored")}
ITEMS: list[Item] = [
    {"name": "b", "size": 9_000, "status": "stored", "note": "x"},
    {"name": "c", "size": None, "status": "failed", "note": "y"},
    {"name": "a", "size": 10_000_000, "status": "waiting_for_racks", "note": "z"},
]
COLUMNS = [
    Column("NAME", lambda item: str(item["name"])),
    Column("SIZE", lambda item: words.size(item["size"]), right=True, key=lambda item: item["size"]),
    Column("STATUS", lambda item: STATES.get(str(item["status"]), Cell(str(item["status"])))),
    Column("LAST NOTE", lambda item: str(item["note"]), wide=True),
]


def listing(items: Sequence[Item] = ITEMS) -> Listing:
    return Listing(items, COLUMNS, "There is none.", notes=lambda shown: (f"{len(shown)} shown",))


def shape(**more: Any) -> Shape:
    return Shape(**{"chosen": ListFormat.TABLE, "sort": None, "headers": True, "statuses": (), **more})


SORTED = [
    pytest.param(None, "bca", id="as-the-region-says"),
    pytest.param("name", "abc", id="by-text"),
    pytest.param("-name", "cba", id="the-other-way-round"),
    pytest.param("size", "bac", id="sizes-by-bytes-and-none-last"),
    pytest.param("-size", "abc", id="none-is-last-the-other-way-round-too"),
    pytest.param("SIZE", "bac", id="as-the-heading-is-written"),
    pytest.param("last-note", "bca", id="a-heading-of-two-words"),
    pytest.param("last note", "bca", id="a-heading-of-two-words-with-a-blank"),
]


@pytest.mark.parametrize(("by", "names"), SORTED)
def test_a_list_is_sorted_by_what_a_column_means(by: str | None, names: str) -> None:
    assert "".join(str(item["name"]) for item in lists._sorted(ITEMS, COLUMNS, by)) == names


def test_a_column_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(
        Misused, match="There is no column weight to sort by; there are name, size, status and last-note"
    ):
        lists._sorted([], COLUMNS, "-weight")


IN_STATE = [
    pytest.param([], "bca", id="all"),
    pytest.param(["failed"], "c", id="by-the-word-of-the-api"),
    pytest.param(["Waiting for racks"], "a", id="by-the-word-that-is-shown"),
    pytest.param(["waiting-for-racks"], "a", id="with-hyphens"),
    pytest.param(["failed", "stored"], "bc", id="one-of-several"),
]


@pytest.mark.parametrize(("wanted", "names"), IN_STATE)
def test_a_list_is_filtered_by_status(wanted: list[str], names: str) -> None:
    assert "".join(str(item["name"]) for item in lists._in_state(ITEMS, wanted, STATES, "status")) == names


def test_a_status_that_is_not_there_is_refused_with_those_that_are() -> None:
    with pytest.raises(Misused, match=r"There is no status lost; there are failed, waiting-for-racks and stored\."):
        lists._in_state(ITEMS, ["lost"], STATES, "status")
    # A newer region may say one that nobody here knows.
    blessed = {"name": "d", "status": "being_blessed"}
    assert lists._in_state([*ITEMS, blessed], ["being-blessed"], STATES, "status") == [blessed]


PRINTED = [
    pytest.param({}, ["NAME     SIZE  STATUS", "b      9.0 kB  Stored"], "3 shown\n", id="table"),
    pytest.param({"headers": False}, ["b   9.0 kB  Stored"], "3 shown\n", id="without-headers"),
    pytest.param({"chosen": ListFormat.NAME}, ["b", "c", "a"], "", id="names"),
    pytest.param(
        {"chosen": ListFormat.WIDE},
        ["NAME     SIZE  STATUS             LAST NOTE", "b      9.0 kB  Stored             x"],
        "3 shown\n",
        id="wide",
    ),
]


@pytest.mark.parametrize(("asked", "lines", "notes"), PRINTED)
def test_a_list_is_printed_in_several_ways(
    asked: dict[str, Any], lines: list[str], notes: str, capsys: pytest.CaptureFixture[str]
) -> None:
    lists.show(listing(), shape(**asked))
    printed = capsys.readouterr()
    assert printed.err == notes
    shown = printed.out.splitlines()
    assert [" ".join(line.split()) for line in shown[: len(lines)]] == [" ".join(line.split()) for line in lines]
    assert len(shown) == 3 + (shape(**asked).headers and asked.get("chosen") is not ListFormat.NAME)


def test_a_list_as_json_is_what_the_region_said(capsys: pytest.CaptureFixture[str]) -> None:
    lists.show(listing(), shape(chosen=ListFormat.JSON))
    printed = capsys.readouterr()
    assert (json.loads(printed.out), printed.err) == (ITEMS, "")


def test_every_list_command_has_the_options_of_lists() -> None:
    """A command of a plural noun, or one that begins with `list`, is a list command."""
    commands: dict[str, Callable[..., None]] = {}
    for tree in TREE.values():
        for name, found in tree.items():
            inner = found.commands if isinstance(found, Group) else {"": found}
            commands |= {f"{name} {word}".strip(): function for word, function in inner.items()}
    named = {name for name, function in commands.items() if hasattr(function, "__wrapped__")}
    assert named == {
        "available",
        "selection show",
        "images",
        "image versions",
        "image racks",
        "bootloaders",
        "imports",
        "sources",
        "unvouched",
        "racks",
        "rack tokens",
        "activity",
        "token list",
        "profiles",
    }


@pytest.fixture
def looked() -> Callable[..., list[Any]]:
    """Watch with what each look brings; it ends with Ctrl-C after the last one."""

    def watch(found: Sequence[Listing | Exception], how: Shape, minutes: float = 0.0) -> list[Any]:
        left, slept = list(found), list[float]()
        clock = iter(range(0, 10_000_000, int(minutes * 60) or 1))

        def look() -> Listing:
            if not left:
                raise KeyboardInterrupt
            outcome = left.pop(0)
            if isinstance(outcome, Exception):
                raise outcome
            return outcome

        try:
            lists._watch(look, how, sleep=slept.append, clock=lambda: float(next(clock)))
        except KeyboardInterrupt:
            pytest.fail("Ctrl-C is how it is meant to end.")
        return slept

    return watch


def test_a_watch_tells_what_changed_a_line_each(
    looked: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    later = [{**ITEMS[0], "status": "failed"}, ITEMS[1]]
    slept = looked([listing(), listing(), listing(later)], shape())
    printed = capsys.readouterr()
    assert [line.split()[0] for line in printed.out.splitlines()] == ["NAME", "b", "c", "a", "b"]
    assert printed.out.splitlines()[-1].split() == ["b", "9.0", "kB", "Failed"]
    assert printed.err == "a is no longer listed.\n"
    assert slept == [2.0, 2.0, 2.0]


def test_a_watch_for_programs_is_a_json_object_a_line(
    looked: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    looked([listing(), listing([{**ITEMS[0], "size": 1}])], shape(chosen=ListFormat.JSON))
    told = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert told == [*ITEMS, {**ITEMS[0], "size": 1}]
    with pytest.raises(Misused, match="choose another --output"):
        looked([], shape(chosen=ListFormat.YAML))


AWAY = ConnectionRefused("http://region:5240")


def test_a_watch_outlives_a_region_that_restarts_and_no_other(
    looked: Callable[..., list[Any]], capsys: pytest.CaptureFixture[str]
) -> None:
    looked([listing(), AWAY, listing(), AWAY, listing()], shape(chosen=ListFormat.NAME))
    printed = capsys.readouterr()
    assert printed.out.split() == ["b", "c", "a"]
    assert printed.err.count("http://region:5240") == 2
    with pytest.raises(ConnectionRefused):
        looked([listing(), AWAY, AWAY], shape(), minutes=1.0)
    with pytest.raises(ConnectionRefused):
        looked([AWAY], shape())


FITS = [
    pytest.param("ubuntu", True, id="an-os"),
    pytest.param("ubuntu/noble", True, id="a-release"),
    pytest.param("ubuntu/noble/amd64", True, id="an-image"),
    pytest.param("ubuntu:noble:amd64", True, id="with-colons"),
    pytest.param("ubuntu/", True, id="a-slash-at-the-end"),
    pytest.param("*/*/amd64", True, id="any-release"),
    pytest.param("ubuntu/n*", True, id="the-beginning-of-one"),
    pytest.param("ubun", False, id="not-half-a-name"),
    pytest.param("noble", False, id="not-a-release-alone"),
    pytest.param("ubuntu/noble/arm64", False, id="another-architecture"),
    pytest.param("ubuntu/noble/amd64/ga-24.04", False, id="more-than-an-image"),
]


@pytest.mark.parametrize(("pattern", "fits"), FITS)
def test_which_images_are_meant(pattern: str, fits: bool) -> None:
    assert images._fits(Image("ubuntu", "noble", "amd64"), pattern) is fits


SLASHED = [
    pytest.param("There is no image ubuntu:warty:amd64.", "There is no image ubuntu/warty/amd64.", id="an-image"),
    pytest.param(
        "unpinned ubuntu:24.04:amd64, bootloader:uefi:arm64",
        "unpinned ubuntu/24.04/amd64, bootloader/uefi/arm64",
        id="two",
    ),
    pytest.param(
        "at 12:03:11 on http://127.0.0.1:5240/a:b:c", "at 12:03:11 on http://127.0.0.1:5240/a:b:c", id="no-image"
    ),
    pytest.param("com.ubuntu.maas:stable:v3:download", "com.ubuntu.maas:stable:v3:download", id="a-content-id"),
    pytest.param("http://ann:secret@host:80/x", "http://ann:secret@host:80/x", id="an-address"),
]


@pytest.mark.parametrize(("sentence", "told"), SLASHED)
def test_images_are_named_in_one_way(sentence: str, told: str) -> None:
    assert words.slashed(sentence) == told
