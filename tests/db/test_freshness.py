"""How old and how young a source's documents may be, from a signed mirror over HTTP to what racks are told."""

import asyncio
import json
import os
import random
import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import timedelta
from email.utils import format_datetime
from pathlib import Path

import pytest
import structlog.testing
from sqlalchemy import text

from deploy.local.mirror.faults import Cut, Endless, Hang, Slow, Status
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.products import CENTOS, UBUNTU
from deploy.local.mirror.server import Server, serve
from region.actions import sources as acts
from region.catalogue import products, sources
from region.catalogue.freshness import STALE_AFTER_DAYS, require_not_ahead, stale
from region.database.connection import transaction
from region.importing import importer
from region.people import activity
from region.people.activity import Actor
from region.stream import documents as decoder
from region.stream.documents import Products
from shared.errors import PreconditionFailed, TooNew, TooOld
from tests.conftest import NOW, Clock
from tests.db.bench import CENTOS_8, NOBLE, Bench, Eventually, Fields, small_mirror

ADMIN = Actor("7", "Ada")


async def accept_older(bench: Bench, source_id: int = 1) -> None:
    async with transaction(bench.region.engine) as connection:
        await acts.accept_older(connection, ADMIN, source_id, bench.region.now())


async def documents(bench: Bench) -> dict[str, products.Document]:
    async with transaction(bench.region.engine) as connection:
        return await products.accepted(connection, 1)


# Fast-forward


@pytest.mark.parametrize(
    ("ahead", "refused"),
    [
        pytest.param(timedelta(hours=-1), False, id="an hour ago"),
        pytest.param(timedelta(hours=24), False, id="a day ahead"),
        pytest.param(timedelta(hours=24, seconds=1), True, id="a second more"),
        pytest.param(timedelta(days=3650), True, id="ten years ahead"),
    ],
)
def test_a_document_may_be_a_day_ahead(ahead: timedelta, refused: bool) -> None:
    if not refused:
        require_not_ahead(NOW + ahead, NOW, "It")
        return
    with pytest.raises(TooNew, match="more than a day after now") as caught:
        require_not_ahead(NOW + ahead, NOW, "It")
    assert caught.value.code == "too_new"


async def test_a_document_from_the_future_is_refused_and_bars_nothing(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    before, held = await documents(bench), await bench.manifest()
    published = mirror.publish(release="resolute", arch="amd64", updated=NOW + timedelta(hours=25))
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "too_new")
    assert "check its clock" in failed.error
    assert "/streams/v1/index.sjson is of" in failed.error, "it is refused before anything else is read"
    assert (await bench.source()).error_code == "too_new"
    assert await documents(bench) == before
    assert await bench.manifest() == held
    # Its owner mends the date: nothing stands in the way.
    mirror.rewrite(updated=NOW)
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image()).held_version == published.version


def sign_index(mirror: Mirror, change: Callable[[Fields], object], *, keep_its_time: bool = False) -> None:
    """Let the mirror's index say something else, in its own hand."""
    path = mirror.root / "streams/v1/index.sjson"
    stood = path.stat()
    index = json.loads((mirror.root / "streams/v1/index.json").read_bytes())
    change(index)
    mirror.replace("streams/v1/index.sjson", mirror.key.clear_sign(json.dumps(index, indent=1).encode()))
    if keep_its_time:
        os.utime(path, ns=(stood.st_atime_ns, stood.st_mtime_ns))


async def test_a_product_file_from_the_future_costs_itself_only(bench: Bench, mirror: Mirror) -> None:
    mirror.rewrite(updated=NOW + timedelta(days=2))

    def date(index: Fields) -> None:
        index["updated"] = format_datetime(NOW)
        index["index"] = {UBUNTU: index["index"][UBUNTU]}

    sign_index(mirror, date)
    failed = await bench.import_now()
    assert failed.error_code == "too_new"
    assert f"/streams/v1/{UBUNTU}.sjson is of" in failed.error
    assert set(await documents(bench)) == {products.INDEX}, "the index itself is not of the future"


async def test_a_document_from_the_future_is_refused_where_it_is_recorded_too(bench: Bench) -> None:
    """The clock may have gone back between the reading and the recording."""
    await bench.import_now()
    async with transaction(bench.region.engine) as connection:
        source = await sources.get(connection, 1)
        index = (await products.accepted(connection, 1))[products.INDEX]
        ahead = replace(index, content_id=UBUNTU, updated=NOW + timedelta(hours=25))
        product_file = (ahead, Products(UBUNTU, ahead.updated, (), ()))
        for found in (
            products.Reading(replace(index, updated=NOW + timedelta(hours=25)), frozenset(), []),
            products.Reading(index, frozenset({UBUNTU}), [product_file]),
        ):
            with pytest.raises(TooNew):
                await products.record(connection, 1, found, source.trust_revision, NOW)


async def test_older_documents_are_recorded_only_while_an_operator_lets_them_in(bench: Bench) -> None:
    """What the reading began with may have been taken back meanwhile."""
    await bench.import_now()
    async with transaction(bench.region.engine) as connection:
        source = await sources.get(connection, 1)
        index = (await products.accepted(connection, 1))[products.INDEX]
        older = products.Reading(replace(index, updated=NOW - timedelta(days=3)), frozenset(), [])
        with pytest.raises(TooOld):
            await products.record(connection, 1, older, source.trust_revision, NOW, older=True)
        await sources.accept_older(connection, 1, NOW + timedelta(days=1))
        await products.record(connection, 1, older, source.trust_revision, NOW, older=True)
        assert (await products.accepted(connection, 1))[products.INDEX].updated == NOW - timedelta(days=3)


# Rollback, and the way out


async def test_an_operator_lets_older_documents_in_once(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    newest = mirror.publish(release="resolute", arch="amd64")
    await bench.import_now()
    assert (await bench.image()).held_version == newest.version
    mirror.rewrite(updated=NOW - timedelta(days=3))
    assert (await bench.import_now("schedule")).error_code == "too_old"
    await accept_older(bench)
    done = await bench.import_now("schedule")
    assert (done.state, done.error) == ("succeeded", "")
    assert {document.updated for document in (await documents(bench)).values()} == {NOW - timedelta(days=3)}
    assert (await bench.source()).older_accepted_until is None
    # Once: the next older ones are refused as ever.
    mirror.rewrite(updated=NOW - timedelta(days=4))
    assert (await bench.import_now("schedule")).error_code == "too_old"
    assert (await bench.image()).status == "stored"


async def test_a_poisoned_floor_has_a_way_out(bench: Bench, mirror: Mirror, clock: Clock) -> None:
    clock.pass_by(timedelta(days=3650))
    mirror.rewrite(updated=clock())
    await bench.import_now()
    clock.pass_by(timedelta(days=-3650))
    mirror.publish(release="resolute", arch="amd64", updated=NOW)
    assert (await bench.import_now("schedule")).error_code == "too_old"
    await accept_older(bench)
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image()).held_version == "20260702"
    mirror.publish(release="resolute", arch="amd64", updated=NOW + timedelta(seconds=1))
    assert (await bench.import_now("schedule")).state == "succeeded", "what comes after is judged by the new floor"


async def test_what_failed_may_be_older_when_it_is_read_again(bench: Bench, mirror: Mirror, server: Server) -> None:
    await bench.import_now()
    mirror.rewrite(updated=NOW - timedelta(days=3))
    await accept_older(bench)
    server.misbehave(f"streams/v1/{UBUNTU}.sjson", Status(404))
    assert (await bench.import_now("schedule")).state == "failed"
    assert (await bench.source()).older_accepted_until is not None
    server.behave()
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await documents(bench))[UBUNTU].updated == NOW - timedelta(days=3)


async def test_older_documents_are_let_in_for_a_day_only(bench: Bench, mirror: Mirror, clock: Clock) -> None:
    await bench.import_now()
    mirror.rewrite(updated=NOW - timedelta(days=3))
    await accept_older(bench)
    clock.pass_by(timedelta(hours=24))
    failed = await bench.import_now("schedule")
    assert failed.error_code == "too_old"
    assert "/streams/v1/index.sjson is of" in failed.error, "it is refused before anything else is read"


async def test_older_documents_are_still_checked_for_who_signed_them(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    mirror.unsigned(updated=NOW - timedelta(days=3))
    await accept_older(bench)
    assert (await bench.import_now("schedule")).error_code == "unsigned"


async def test_letting_older_documents_in_is_recorded_and_ends_with_the_trust(bench: Bench) -> None:
    await bench.import_now()
    async with transaction(bench.region.engine) as connection:
        before = await sources.get(connection, 1)
        seen = await acts.etag(connection, before)
        done = await acts.accept_older(connection, ADMIN, 1, NOW, if_match=seen)
        assert done.source.older_accepted_until == NOW + timedelta(days=1)
        assert done.import_id is not None
        with pytest.raises(PreconditionFailed):
            await acts.accept_older(connection, ADMIN, 1, NOW, if_match=seen)
        entry = await activity.last(connection, "source:1")
        assert entry is not None
        row = (
            await connection.execute(text("SELECT action, sentence, before FROM activity ORDER BY id DESC LIMIT 1"))
        ).one()
        assert row.action == "source.older_accepted"
        assert row.sentence == "Let the source maas.io bring documents older than those accepted before, once."
        assert set(row.before["updated"]) == {"index", *(set(await documents(bench)) - {products.INDEX})}
        moved = sources.wish(name="maas.io", url="http://elsewhere.example/", unsigned=True, priority=10)
        assert (await sources.change(connection, done.source, moved, NOW)).older_accepted_until is None


# Freeze


@pytest.mark.parametrize(
    ("age", "limit_days", "days"),
    [
        pytest.param(timedelta(days=30), 30, None, id="as old as it may be"),
        pytest.param(timedelta(days=30, seconds=1), 30, 30, id="a second older"),
        pytest.param(timedelta(days=400), 0, None, id="never"),
        pytest.param(timedelta(days=91), 90, 91, id="another limit"),
        pytest.param(timedelta(hours=-5), 1, None, id="ahead"),
    ],
)
def test_documents_are_old_after_so_many_days(age: timedelta, limit_days: int, days: int | None) -> None:
    found = stale("maas.io", NOW - age, limit_days, NOW)
    if days is None:
        assert found is None
    else:
        assert str(found) == (
            f"The documents of maas.io are of {NOW - age:%Y-%m-%d}, {days} days ago: the mirror stands still, or"
            " somebody holds newer ones back; what is held stays and is served: ask the mirror's owner."
        )
    assert stale("maas.io", None, limit_days, NOW) is None


def stale_in(log: structlog.testing.CapturingLogger) -> list[str]:
    return [call.args[0] for call in log.calls if call.kwargs.get("code") == "stale"]


def test_thirty_days_are_old_unless_an_operator_says_otherwise() -> None:
    assert STALE_AFTER_DAYS == 30
    told = stale("a", NOW - timedelta(days=31), 30, NOW)
    # The page, the command line and the metrics know it by this word.
    assert told is not None
    assert told.code == "stale"


async def test_a_mirror_that_is_frozen_is_told_once_and_stops_nothing(
    bench: Bench, mirror: Mirror, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    log = structlog.testing.CapturingLogger()
    monkeypatch.setattr(importer, "log", log)
    await bench.import_now()
    assert (await bench.source()).documents_updated_at == mirror.updated
    assert (stale_in(log), (await bench.source()).stale(clock())) == ([], None)
    clock.pass_by(timedelta(days=31))
    for _ in range(3):
        assert (await bench.import_now("schedule")).state == "succeeded"
    found = (await bench.source()).stale(clock())
    assert found is not None
    assert found.days == 31
    assert stale_in(log) == [str(found)]
    assert (await bench.image()).status == "stored"
    # Something new ends it, and it is told anew when that is old.
    published = mirror.publish(release="resolute", arch="amd64", updated=clock())
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.source()).stale(clock()) is None
    assert (await bench.image()).held_version == published.version
    clock.pass_by(timedelta(days=31))
    await bench.import_now("schedule")
    assert len(stale_in(log)) == 2


async def test_documents_that_nobody_vouches_for_have_no_age(bench: Bench, clock: Clock) -> None:
    await bench.import_now()
    clock.pass_by(timedelta(days=31))
    wished = sources.wish(name="maas.io", url="http://elsewhere.example/", unsigned=True, priority=10)
    async with transaction(bench.region.engine) as connection:
        changed = await sources.change(connection, await sources.get(connection, 1), wished, clock())
    assert (changed.documents_updated_at, changed.stale(clock())) == (None, None)


# Mix and match


async def put_back(mirror: Mirror, content_id: str, release: str = "resolute") -> bytes:
    """Let the mirror publish something, and show the product file of before beside the new index."""
    path = f"streams/v1/{content_id}.sjson"
    before = (mirror.root / path).read_bytes()
    mirror.publish(release=release, arch="amd64")
    mirror.replace(path, before)
    return before


async def test_a_product_file_older_than_its_index_says_is_read_three_times_and_what_is_held_stays(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.import_now()
    held, known = await bench.manifest(), await documents(bench)
    await put_back(mirror, UBUNTU)
    server.requests.clear()
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "mixed_documents")
    assert "where the index says" in failed.error
    assert len(server.asked(f"streams/v1/{UBUNTU}.sjson")) == 3
    assert len(server.asked("streams/v1/index.sjson")) == 3
    assert await bench.manifest() == held
    assert (await documents(bench))[UBUNTU] == known[UBUNTU]
    mirror.rewrite()
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image()).held_version == "20260702"


async def test_a_product_file_newer_than_its_index_says_is_not_taken(bench: Bench, mirror: Mirror) -> None:
    await bench.import_now()
    index = (mirror.root / "streams/v1/index.sjson").read_bytes()
    held = await bench.manifest()
    mirror.publish(release="resolute", arch="amd64")
    mirror.replace("streams/v1/index.sjson", index)
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "mixed_documents")
    assert await bench.manifest() == held
    mirror.rewrite()
    assert (await bench.import_now("schedule")).state == "succeeded"


async def test_a_product_file_that_did_not_change_is_measured_by_a_new_index(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.import_now()
    path = mirror.root / f"streams/v1/{UBUNTU}.sjson"
    stood = path.stat()
    await put_back(mirror, UBUNTU)
    os.utime(path, ns=(stood.st_atime_ns, stood.st_mtime_ns))
    server.requests.clear()
    assert (await bench.import_now("schedule")).error_code == "mixed_documents"
    assert {request.status for request in server.asked(f"streams/v1/{UBUNTU}.sjson")} == {304}


async def test_an_index_without_dates_needs_not_change_with_its_product_files(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    def undated(index: Fields) -> None:
        for entry in index["index"].values():
            del entry["updated"]

    sign_index(mirror, undated)
    before = (mirror.root / "streams/v1/index.sjson").stat()
    signed = (mirror.root / "streams/v1/index.sjson").read_bytes()
    await bench.import_now()
    mirror.publish(release="resolute", arch="amd64")
    mirror.replace("streams/v1/index.sjson", signed)
    os.utime(mirror.root / "streams/v1/index.sjson", ns=(before.st_atime_ns, before.st_mtime_ns))
    server.requests.clear()
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert [request.status for request in server.asked("streams/v1/index.sjson")] == [304, 200]
    assert (await bench.image()).held_version == "20260702"


async def test_documents_are_decoded_off_the_loop(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    threads: set[str] = set()

    def watched(parse: Callable[[bytes, str], object]) -> Callable[[bytes, str], object]:
        def work(payload: bytes, where: str) -> object:
            threads.add(threading.current_thread().name)
            return parse(payload, where)

        return work

    monkeypatch.setattr(decoder, "parse_index", watched(decoder.parse_index))
    monkeypatch.setattr(decoder, "parse_products", watched(decoder.parse_products))
    assert (await bench.import_now()).state == "succeeded"
    # One thread for all of them: one document at a time.
    assert [name.rpartition("_")[0] for name in threads] == ["decode"]


async def test_a_first_reading_takes_nothing_of_a_mix(bench: Bench, mirror: Mirror) -> None:
    await put_back(mirror, UBUNTU)
    assert (await bench.import_now()).error_code == "mixed_documents"
    assert UBUNTU not in await documents(bench)


class Meanwhile(random.Random):
    """Dice at whose throw something happens: they are thrown for each pause."""

    def __init__(self, happens: Callable[[], object]) -> None:
        super().__init__(0)
        self.happens = happens

    def uniform(self, a: float, b: float) -> float:
        self.happens()
        return a


@pytest.mark.parametrize("how", ["older", "not there"])
async def test_an_index_that_changed_meanwhile_is_read_again(
    bench: Bench, mirror: Mirror, server: Server, how: str
) -> None:
    await bench.import_now()
    if how == "older":
        await put_back(mirror, UBUNTU)
    else:
        mirror.publish(release="resolute", arch="amd64")
        server.misbehave(f"streams/v1/{UBUNTU}.sjson", Status(404), times=1)
    others = len(server.asked(f"streams/v1/{CENTOS}.sjson"))
    bench.region.importer = replace(bench.region.importer, rng=Meanwhile(mirror.rewrite))
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image()).held_version == "20260702"
    assert len(server.asked(f"streams/v1/{CENTOS}.sjson")) <= others + 2


async def test_a_product_file_that_came_is_not_asked_for_again_for_the_sake_of_another(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    server.misbehave(f"streams/v1/{UBUNTU}.sjson", Status(404), times=2)
    assert (await bench.import_now()).state == "succeeded"
    assert len(server.asked(f"streams/v1/{UBUNTU}.sjson")) == 3
    assert len(server.asked(f"streams/v1/{CENTOS}.sjson")) == 1


# Slow and failing sources


async def test_a_document_that_fails_for_a_passing_reason_is_asked_for_again(bench: Bench, server: Server) -> None:
    server.misbehave("streams/v1/index.sjson", Status(503), times=3)
    server.misbehave(f"streams/v1/{UBUNTU}.sjson", Cut(after=100), times=3)
    assert (await bench.import_now()).state == "succeeded"
    assert [request.status for request in server.asked("streams/v1/index.sjson")] == [503, 503, 503, 200]


async def test_a_source_that_hangs_keeps_no_other_from_being_read(
    bench: Bench, server: Server, tmp_path: Path, eventually: Eventually
) -> None:
    other = small_mirror(tmp_path / "other", seed=7)
    async with serve(other) as serving:
        # It wins, and was read first when sources were read one after the other.
        second = await bench.add_source(serving, other)
        serving.misbehave("*", Hang(None))
        bench.region.importer = replace(bench.region.importer, reading_deadline_s=60.0)
        running = asyncio.create_task(bench.import_now())

        async def is_read() -> bool:
            return (await bench.source(1)).last_read_at is not None

        await eventually(is_read)
        assert (await bench.source(second)).last_read_at is None
        running.cancel()
        with pytest.raises(asyncio.CancelledError):
            await running


@pytest.mark.timeout(30)
async def test_the_documents_of_a_source_have_so_much_time_together(
    bench: Bench, mirror: Mirror, server: Server, tmp_path: Path
) -> None:
    other = small_mirror(tmp_path / "other", seed=7)
    async with serve(other) as serving:
        second = await bench.add_source(serving, other)
        # Twenty bytes a second: never silent for long, and never done.
        serving.misbehave(f"streams/v1/{UBUNTU}.sjson", Slow(20))
        bench.region.importer = replace(bench.region.importer, reading_deadline_s=3.0)
        failed = await bench.import_now()
        assert (failed.state, failed.error_code) == ("failed", "timed_out")
        assert [(await bench.source(i)).error_code for i in (1, second)] == ["", "timed_out"]
        assert (await bench.image()).status == "stored"
        # What came in time of the slow source counts.
        async with transaction(bench.region.engine) as connection:
            assert UBUNTU not in await products.accepted(connection, second)
            assert products.INDEX in await products.accepted(connection, second)


# Endless data, and a signed document in another's place


async def test_a_document_without_end_is_read_up_to_its_limit_and_costs_nothing(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.import_now()
    held = await bench.manifest()
    mirror.rewrite()
    server.misbehave("streams/v1/*", Endless())
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "too_large")
    assert "larger than 33.6 MB" in failed.error
    assert await bench.manifest() == held
    server.behave()
    assert (await bench.import_now("schedule")).state == "succeeded"


async def test_a_signed_product_file_in_the_place_of_another_is_refused(bench: Bench, mirror: Mirror) -> None:
    await bench.select(NOBLE, CENTOS_8)
    await bench.import_now()
    held, known = await bench.manifest(), await documents(bench)
    mirror.publish(release="noble", arch="amd64")
    mirror.replace(f"streams/v1/{UBUNTU}.sjson", (mirror.root / f"streams/v1/{CENTOS}.sjson").read_bytes())
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "invalid_document")
    assert f"where the index promises '{UBUNTU}'" in failed.error
    assert await bench.manifest() == held
    assert (await documents(bench))[UBUNTU] == known[UBUNTU]
