"""The names in a rack's tree, and the promises: both are what others count on, so they are spelled out here."""

from collections.abc import Callable
from datetime import timedelta

import pytest

from shared import promises
from shared.errors import InvalidValue
from shared.layout import bootloader_place, file_path, generic_place, place

NOBLE = ("ubuntu", "amd64", "ga-24.04", "noble", "stable")


def test_names_are_those_of_the_racks_of_maas() -> None:
    assert place(*NOBLE) == "ubuntu/amd64/ga-24.04/noble/stable"
    assert file_path(place(*NOBLE), "boot-kernel") == "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"
    assert file_path(place(*NOBLE), "root-image.gz") == "ubuntu/amd64/ga-24.04/noble/stable/root-image.gz"
    assert generic_place("ubuntu", "amd64", "noble", "stable") == "ubuntu/amd64/generic/noble/stable"
    assert bootloader_place("uefi", "amd64") == "bootloader/uefi/amd64"
    assert bootloader_place("open-firmware", "ppc64el") == "bootloader/open-firmware/ppc64el"


@pytest.mark.parametrize("part", ["..", "a/b", "", ".", "/", "a\x00", " "])
@pytest.mark.parametrize(
    "build",
    [
        pytest.param(lambda part: place("ubuntu", part, "ga-24.04", "noble", "stable"), id="place"),
        pytest.param(lambda part: generic_place("ubuntu", "amd64", part, "stable"), id="generic"),
        pytest.param(lambda part: bootloader_place("uefi", part), id="bootloader"),
        pytest.param(lambda part: file_path(place(*NOBLE), part), id="file"),
    ],
)
def test_no_part_leaves_its_place(build: Callable[[str], str], part: str) -> None:
    with pytest.raises(InvalidValue):
        build(part)


def test_the_promises() -> None:
    assert timedelta(minutes=5) == promises.POLL_PERIOD
    assert timedelta(hours=1) == promises.SYNC_PERIOD
    assert timedelta(minutes=15) == promises.LIVE_FOR
