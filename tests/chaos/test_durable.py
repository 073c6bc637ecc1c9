"""What is acknowledged survives a loss of power, on the strictest disk there is; and each fsync is needed for that.

`durable.py` explains the disk. The scenarios run as they are first; then once more for each place that flushes, with
that flush left out: the same checks must find something wrong.
"""

import json
import shutil
import subprocess
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import asyncpg
import pytest
from cryptography.exceptions import InvalidSignature

from deploy.local.mirror.mirror import Mirror
from rack import identity as identities
from rack.state import State
from rack.tree import load_current
from region import keys
from region.configuration import RegionConfiguration
from shared.disk import create_whole, write_whole
from shared.errors import BootferryError
from shared.http import client_session
from shared.names import Name
from shared.signing import fingerprint, load_or_create_key
from shared.store.disk import DiskStore
from shared.wire.report import Report
from tests.chaos import invariants
from tests.chaos.durable import Ledger
from tests.chaos.flushes import watched
from tests.db.bench import Bench
from tests.http.fake_region import FakeRegion, tar_xz, tree_bytes, ubuntu
from tests.http.running_rack import Rack, running_rack
from tests.stores import put

LOADER = "bootloader/uefi/amd64"
LOADER_FILE = f"{LOADER}/bootx64.efi"
Look = Callable[[Path], list[str]]


class Disk:
    """A directory `root` with a ledger of all that is flushed below it, and the places that flushed."""

    def __init__(self, root: Path, beside: Path, *, anew: bool = True) -> None:
        for path in (root, beside) if anew else (beside,):
            shutil.rmtree(path, ignore_errors=True)
            path.mkdir(parents=True)
        if subprocess.run(["stat", "-f", "-c", "%T", root], capture_output=True, check=True).stdout != b"tmpfs\n":
            pytest.skip("the numbers of inodes are given once only on tmpfs: there is no /dev/shm here")
        self.root, self.ledger, self.places = root, Ledger(root, beside), set[str]()
        self.at_each_flush: Look | None = None
        self.found: list[str] = []
        self._one, self._looking = threading.RLock(), False
        self._after = beside.with_name(f"{beside.name}-after")

    @contextmanager
    def watching(self, omitted: str) -> Iterator[None]:
        self.ledger.begin()
        with watched(self._flushed, omitted=omitted):
            yield

    def _flushed(self, descriptor: int, place: str) -> None:
        with self._one:  # flushes come from several threads
            if self._looking:
                return
            if self.ledger.flushed(descriptor):
                self.places.add(place)
            if self.at_each_flush is not None:
                self.cut(self.at_each_flush)

    def cut(self, look: Look) -> None:
        """Look at what a loss of power would leave now."""
        with self._one:
            shutil.rmtree(self._after, ignore_errors=True)
            self.ledger.restore(self._after)
            self._looking = True
            try:
                self.found += look(self._after)
            finally:
                self._looking = False


# --- a rack


def rack_shows(*allowed: dict[str, bytes]) -> Look:
    """A rack that begins again shows one of `allowed`, whole, and knows who it is and what was published."""

    def look(root: Path) -> list[str]:
        found = []
        try:
            identities.load(root)
        except BootferryError as error:
            found.append(f"the identity is lost: {error}")
        if load_current(root) is None:
            return [*found, "the tree is lost"]
        if (shown := tree_bytes(root)) not in allowed:
            wrong = [name for name, content in allowed[-1].items() if shown.get(name) != content]
            found.append(f"{len(shown)} names are shown; wrong or missing are {wrong[:3]}")
        try:
            if invariants.signed_manifest(root) is None:
                found.append("the manifest is lost")
        except (InvalidSignature, ValueError) as error:
            found.append(f"the manifest is spoiled: {error!r}")
        return found

    return look


def rack_remembers(rack: Rack) -> Look:
    """A rack's state is the one that its last poll ended with, and no file of its store is lost or spoiled."""
    last = State.load(rack.root)
    files = {path.name: path.read_bytes() for path in (rack.root / "files").glob("*/*")}

    def look(root: Path) -> list[str]:
        found = [] if State.load(root) == last else ["the state is not the one that the last poll ended with"]
        left = {path.name: path.read_bytes() for path in (root / "files").glob("*/*")}
        found += [f"the file {name[:12]} is lost or spoiled" for name in files if left.get(name) != files[name]]
        for listing in (rack.root / "unpacked").glob("*.json"):
            beside = root / "unpacked" / listing.name
            members = json.loads(listing.read_bytes())
            whole = beside.exists() and beside.read_bytes() == listing.read_bytes()
            if not (whole and all((beside.with_suffix("") / name).is_file() for name in members)):
                found.append("an unpacked archive is lost or half of it")
        return found

    return look


def rack_is_enrolled(root: Path) -> Look:
    """A rack that begins again is the one that was enrolled; every file of its identity is there."""
    names = {path.name for path in (root / "identity").iterdir()}

    def look(left: Path) -> list[str]:
        try:
            identities.load(left)
        except BootferryError as error:
            return [f"the identity is lost: {error}"]
        return [] if {path.name for path in (left / "identity").iterdir()} == names else ["a file of it is lost"]

    return look


class Heard(list[Report]):
    """The reports a region has heard. Of one that lacks nothing it is `told`: from then on the region counts on it."""

    def __init__(self, told: Callable[[], None]) -> None:
        super().__init__()
        self._told = told

    def append(self, report: Report) -> None:
        super().append(report)
        if not report.pending and not report.bytes_left:
            self._told()


async def enrol(disk: Disk, region: FakeRegion) -> None:
    async with client_session() as session:
        await identities.enrol(session, disk.root, region.url, region.token, Name("rack-a"))


async def pull_twice(tmp_path: Path, *, omitted: str = "", at_each_flush: bool = False) -> Disk:
    """An enrolled rack pulls a first and a second version, a cut after each."""
    disk = Disk(tmp_path / "rack", tmp_path / "kept")
    old, new = (ubuntu(version, size=900) for version in "12")
    first = old | {LOADER_FILE: b"loader 1"}
    second = new | {LOADER_FILE: b"loader 2"}
    with disk.watching(omitted):
        async with FakeRegion.running() as region:
            await enrol(disk, region)
            DiskStore(disk.root)
            # What was made so far has tests of its own, below.
            disk.ledger.begin()
            disk.places.clear()
            async with running_rack(region, disk.root) as rack:
                region.publish(old, {LOADER: tar_xz({"bootx64.efi": b"loader 1"})})
                await rack.poller.poll()
                disk.cut(rack_shows(first))
                disk.cut(rack_remembers(rack))
                region.publish(new, {LOADER: tar_xz({"bootx64.efi": b"loader 2"})})
                # Each image moves on by itself, and whole.
                between = [old | {LOADER_FILE: b"loader 2"}, new | {LOADER_FILE: b"loader 1"}]
                disk.at_each_flush = rack_shows(first, second, *between) if at_each_flush else None
                region.reports = Heard(lambda: disk.cut(rack_shows(second)))
                await rack.poller.poll()
                disk.at_each_flush = None
                disk.cut(rack_shows(second))
                disk.cut(rack_remembers(rack))
    return disk


async def test_a_rack_loses_nothing_wherever_the_power_fails(tmp_path: Path) -> None:
    disk = await pull_twice(tmp_path, at_each_flush=True)
    assert disk.found == []
    assert disk.ledger.flushes > 40


async def test_each_flush_of_a_rack_is_needed(tmp_path: Path) -> None:
    places = (await pull_twice(tmp_path)).places
    assert len(places) >= 10
    # What a store makes at its start has a test of its own, below.
    places = {place for place in places if not place.startswith("shared/store/disk.py:__init__")}
    survivors = {place for place in places if not (await pull_twice(tmp_path, omitted=place)).found}
    # Where a helper flushes a directory, a later flush of it may stand in; the helper's own promise is tested below.
    assert {place for place in survivors if not place.endswith(">sync_directory") or place.count(">") < 2} == set()


async def test_an_enrolment_is_durable_when_it_returns_and_each_flush_is_needed(tmp_path: Path) -> None:
    async def run(omitted: str = "") -> Disk:
        disk = Disk(tmp_path / "rack", tmp_path / "kept")
        async with FakeRegion.running() as region:
            with disk.watching(omitted):
                await enrol(disk, region)
                disk.cut(rack_is_enrolled(disk.root))
        return disk

    whole = await run()
    assert whole.found == []
    survivors = {place for place in whole.places if not (await run(place)).found}
    assert {place for place in survivors if not place.endswith(">sync_directory") or place.count(">") < 2} == set()


# --- a region


async def test_each_row_of_a_region_keeps_its_file_and_each_flush_is_needed(
    bench: Bench, mirror: Mirror, tmp_path: Path, database_url: str
) -> None:
    connection = await asyncpg.connect(database_url.replace("postgresql+asyncpg", "postgresql"))

    async def import_and_cut(omitted: str = "") -> Disk:
        """What a cut right after an import of a new version costs."""
        disk = Disk(tmp_path / "region" / "store", tmp_path / "kept", anew=False)
        with disk.watching(omitted):
            assert (await bench.import_now()).state == "succeeded"
            rows = await invariants.rows(connection)

            def kept(root: Path) -> list[str]:
                found = {digest: invariants.digest_of(invariants.stored_path(root, digest)) for digest in rows}
                return [f"I1: the file of the row {digest} is lost" for digest in found if found[digest] != digest]

            disk.cut(kept)
        mirror.publish(release="resolute")
        return disk

    try:
        whole = await import_and_cut()
        assert (whole.found, whole.ledger.flushes > 10) == ([], True)
        assert {place for place in whole.places if not (await import_and_cut(place)).found} == set()
    finally:
        await connection.close()


# --- the helpers


def survivors_of(tmp_path: Path, act: Callable[[Path], Look]) -> set[str]:
    """The flushes of `act`, called with a directory, that the look it answers does not need; it finds nothing wrong."""

    def run(omitted: str = "") -> Disk:
        disk = Disk(tmp_path / "disk", tmp_path / "kept")
        with disk.watching(omitted):
            disk.cut(act(disk.root))
        return disk

    whole = run()
    assert (whole.found, whole.places != set()) == ([], True)
    return {place for place in whole.places if not run(place).found}


@pytest.mark.parametrize("write", [write_whole, create_whole])
def test_a_document_written_whole_is_durable_when_the_call_returns(
    tmp_path: Path, write: Callable[[Path, bytes], None]
) -> None:
    def act(root: Path) -> Look:
        write(root / "document", b"text")
        return lambda left: (
            [] if (left / "document").is_file() and (left / "document").read_bytes() == b"text" else ["lost"]
        )

    assert survivors_of(tmp_path, act) == set()


def test_the_first_file_of_a_store_is_durable(tmp_path: Path) -> None:
    def act(root: Path) -> Look:
        found = put(DiskStore(root / "store"), b"the first file")

        def look(left: Path) -> list[str]:
            kept = invariants.digest_of(invariants.stored_path(left / "store", found)) == found
            return [] if kept else ["the first file is lost"]

        return look

    assert survivors_of(tmp_path, act) == set()


def test_the_key_of_a_first_start_is_durable_before_it_is_used(tmp_path: Path) -> None:
    def act(root: Path) -> Look:
        name = fingerprint(load_or_create_key(root / "keys" / "region.key"))

        def same(left: Path) -> list[str]:
            key = left / "keys" / "region.key"
            whole = key.is_file() and key.stat().st_size and fingerprint(load_or_create_key(key)) == name
            return [] if whole else ["the key is lost"]

        return same

    assert survivors_of(tmp_path, act) == set()


def test_a_key_is_moved_over_for_good_and_lost_nowhere_on_the_way(tmp_path: Path) -> None:
    def move(omitted: str = "") -> Disk:
        disk = Disk(tmp_path / "disk", tmp_path / "kept")
        before = fingerprint(load_or_create_key(disk.root / "region.key"))
        places = "region.key", "keys/region.key"

        def found(left: Path) -> list[bool]:
            return [
                path.is_file() and path.stat().st_size > 0 and fingerprint(load_or_create_key(path)) == before
                for path in (left / place for place in places)
            ]

        with disk.watching(omitted):
            disk.at_each_flush = lambda left: [] if any(found(left)) else ["the key is lost"]
            keys.load(RegionConfiguration(data_dir=disk.root))
            disk.at_each_flush = None
            disk.cut(lambda left: [] if found(left) == [False, True] else ["the key is not where it belongs"])
        return disk

    whole = move()
    assert whole.found == []
    # The other key's flushes have tests of their own.
    moving = {place for place in whole.places if ":_move_over" in place}
    assert len(moving) == 2
    assert {place for place in moving if not move(place).found} == set()
