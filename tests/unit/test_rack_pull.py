"""What a rack fetches of what it lacks: which images fit, and what one failure means for the files after it."""

import asyncio
import random
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

import pytest
from yarl import URL

from rack import pull as pulling
from shared.digest import Sha256
from shared.errors import (
    BootferryError,
    ConnectionRefused,
    HttpStatus,
    InvalidRequestSignature,
    NoRoom,
    WrongDigest,
)
from shared.names import RelativePath
from shared.patience import Patience
from shared.wire.manifest import Entry, Kind, Manifest

A, B, C, D = (Sha256.of(letter) for letter in (b"a", b"b", b"c", b"d"))


@dataclass
class Disk:
    """A store with so many bytes free, into which some bytes have come already."""

    free: int
    arrived: dict[Sha256, int] = field(default_factory=dict)
    where: str = "/data"
    no_room: NoRoom | None = None

    def bytes_free(self) -> int:
        return self.free

    def bytes_missing(self, files: Iterable[tuple[Sha256, int]]) -> int:
        return sum(size - self.arrived.get(sha256, 0) for sha256, size in files)

    def require_room(self, files: object) -> None:
        if self.no_room is not None:
            raise self.no_room


def manifest(**images: dict[Sha256, int]) -> Manifest:
    entries = [
        Entry(RelativePath(f"{image}/{sha256}"), Kind.FILE, sha256, size, image)
        for image, files in images.items()
        for sha256, size in files.items()
    ]
    return Manifest(1, 1, datetime(2026, 7, 1, tzinfo=UTC), tuple(entries))


def fitting(named: Manifest, disk: Disk) -> tuple[list[tuple[Sha256, int]], dict[Sha256, NoRoom]]:
    return pulling.fitting(named, pulling.diff(named, []), disk)  # type: ignore[arg-type]


def test_images_that_fit_to_the_byte_come_and_the_others_say_what_is_left() -> None:
    named = manifest(large={A: 60, B: 50}, middle={C: 70}, small={D: 30})
    chosen, refused = fitting(named, Disk(100))
    assert chosen == [(C, 70), (D, 30)]
    assert set(refused) == {A, B}
    assert refused[A] is refused[B]
    assert (refused[A].path, refused[A].needed, refused[A].free) == ("/data", 110, 0)
    assert fitting(named, Disk(99))[0] == [(D, 30)]


def test_what_is_left_is_told_without_what_comes() -> None:
    _, refused = fitting(manifest(large={A: 60}, small={B: 30}), Disk(50))
    assert (refused[A].needed, refused[A].free) == (60, 20)


def test_what_has_arrived_needs_no_room() -> None:
    named = manifest(one={A: 60})
    assert fitting(named, Disk(20, {A: 40}))[0] == [(A, 60)]
    assert fitting(named, Disk(19, {A: 40}))[0] == []


def test_a_file_that_two_images_share_needs_room_once_and_comes_if_one_of_them_does() -> None:
    shared = manifest(one={A: 60, B: 10}, two={A: 60, C: 20})
    assert fitting(shared, Disk(90)) == ([(B, 10), (A, 60), (C, 20)], {})
    chosen, refused = fitting(shared, Disk(80))
    assert chosen == [(B, 10), (A, 60)]
    assert set(refused) == {C}


def test_nothing_is_asked_for_that_is_not_missing() -> None:
    named = manifest(one={A: 60, B: 10})
    assert pulling.fitting(named, [(B, 10)], Disk(10)) == ([(B, 10)], {})  # type: ignore[arg-type]


class Region:
    """Gives files, or fails with what was said for one; notes what it was asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, **faults: BootferryError) -> None:
        self.asked: list[str] = []
        self.faults = faults
        monkeypatch.setattr("rack.pull.download", self.download)

    async def download(self, _transfer: object, _store: object, url: URL, *_: object) -> None:
        self.asked.append(url.name)
        await asyncio.sleep(0)
        if url.name in self.faults:
            raise self.faults[url.name]


NAMES = {A: "a", B: "b", C: "c", D: "d"}


async def pull(
    disk: Disk, *, at_once: int = 1, attempts: int = 1, arrived: Callable[[int], None] = lambda _: None
) -> dict[str, BootferryError]:
    failed: dict[str, BootferryError] = {}

    def hear(sha256: Sha256, error: BootferryError) -> None:
        assert NAMES[sha256] not in failed
        failed[NAMES[sha256]] = error

    url: Callable[[Sha256], URL] = lambda sha256: URL(f"http://region/{NAMES[sha256]}")  # noqa: E731
    transfer: Any = None
    await pulling.pull(
        transfer,
        disk,  # type: ignore[arg-type]
        url,
        [(A, 1), (B, 2), (C, 4)],
        hear,
        at_once=at_once,
        patience=Patience(attempts=attempts, first_s=0.001),
        rng=random.Random(1),
        arrived=arrived,
    )
    return failed


async def test_every_file_is_asked_for_once(monkeypatch: pytest.MonkeyPatch) -> None:
    region = Region(monkeypatch)
    assert await pull(Disk(100), at_once=8) == {}
    assert sorted(region.asked) == ["a", "b", "c"]


async def test_a_wrong_file_keeps_no_other_from_coming(monkeypatch: pytest.MonkeyPatch) -> None:
    wrong = WrongDigest("http://region/a", A, B)
    region = Region(monkeypatch, a=wrong)
    assert await pull(Disk(100)) == {"a": wrong}
    assert region.asked == ["a", "b", "c"]


async def test_the_bytes_of_each_file_that_came_are_told_and_of_no_other(monkeypatch: pytest.MonkeyPatch) -> None:
    Region(monkeypatch, b=WrongDigest("http://region/b", A, B))
    told: list[int] = []
    await pull(Disk(100), arrived=told.append)
    assert told == [1, 4]


@pytest.mark.parametrize(
    "error",
    [
        pytest.param(ConnectionRefused("http://region/a"), id="the region is away"),
        pytest.param(HttpStatus("http://region/a", 503), id="the region is busy"),
        pytest.param(NoRoom("/data", 2, 1), id="the disk is full"),
    ],
)
async def test_where_no_other_file_would_fare_better_none_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, error: BootferryError
) -> None:
    region = Region(monkeypatch, a=error)
    assert await pull(Disk(100)) == dict.fromkeys(["a", "b", "c"], error)
    assert region.asked == ["a"]


async def test_where_not_all_fits_nothing_is_asked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    region, error = Region(monkeypatch), NoRoom("/data", 3, 2)
    assert await pull(Disk(2, no_room=error)) == dict.fromkeys(["a", "b", "c"], error)
    assert region.asked == []


async def test_what_may_pass_is_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    region = Region(monkeypatch, b=HttpStatus("http://region/b", 500))
    assert set(await pull(Disk(100), attempts=3)) == {"b"}
    assert region.asked == ["a", "b", "b", "b", "c"]


@pytest.mark.parametrize(("status", "kind"), [(401, InvalidRequestSignature), (402, HttpStatus), (404, HttpStatus)])
async def test_a_region_that_does_not_know_the_rack_is_told_as_that(
    monkeypatch: pytest.MonkeyPatch, status: int, kind: type[BootferryError]
) -> None:
    Region(monkeypatch, a=HttpStatus("http://region/a", status))
    assert type((await pull(Disk(100)))["a"]) is kind


def test_a_busy_region_may_send_a_kibibyte_a_second() -> None:
    assert pulling.PACE.floor_bytes_per_s == 1024
