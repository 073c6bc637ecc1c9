"""Selections that name kernels, or follow rules: what they lead to, in plans and in imports."""

import shutil
from collections.abc import AsyncIterator
from dataclasses import replace
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy import event, text
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from deploy.local.mirror.mirror import Mirror
from region.actions import effect
from region.actions import selections as acts
from region.actions import sources as source_acts
from region.actions.selections import Selected, SelectedByRule
from region.catalogue import aliases, images, selections, wanted
from region.catalogue.facts import Wish
from region.catalogue.patterns import Pattern
from region.database.connection import transaction
from region.importing.importer import run_next
from region.people import activity
from region.people.activity import Actor
from region.publishing.held import Publisher
from region.stream.documents import Product
from shared.errors import InvalidValue, NotFound
from shared.names import ImageKey
from tests.conftest import Clock
from tests.db.bench import Bench
from tests.db.rows import NOBLE, NOW, decided, hold, kernel, make_region, make_source, reading, record

ANN = Actor("Ann", "192.0.2.7")
RESOLUTE, JAMMY = ImageKey.parse("ubuntu:resolute:amd64"), ImageKey.parse("ubuntu:jammy:amd64")
SIX = (
    "ga-24.04",
    "ga-24.04-lowlatency",
    "hwe-24.04",
    "hwe-24.04-edge",
    "hwe-24.04-lowlatency",
    "hwe-24.04-lowlatency-edge",
)
KEY = Ed25519PrivateKey.generate()


def jammy(serial: str = "1") -> Product:
    return kernel(serial, subarch="ga-22.04", release="jammy", version="22.04")


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    async with transaction(engine) as connected:
        await make_region(connected, KEY)
        yield connected


def said(release: str, arch: str = "amd64", *, source: int | None = None, kernels: str = "", labels: str = "") -> Wish:
    return Wish(
        source,
        Pattern("ubuntu", release, arch),
        frozenset(kernels.split()) or None,
        frozenset(labels.split()) or None,
    )


async def select(connection: AsyncConnection, *wished: Wish, dry_run: bool = False) -> Selected:
    return await acts.select(connection, ANN, frozenset(wished), NOW, dry_run=dry_run)


async def withdrawn(connection: AsyncConnection) -> set[str]:
    """The images, with their kernels, of which an import would withdraw something now."""
    state = await effect.look(connection)
    return {f"{each.image.release}/{each.kernel}" for each in state.held if each.version_id in state.plan.withdraw}


async def test_a_plan_shows_the_kernels_that_come_and_go_and_what_is_spared(connection: AsyncConnection) -> None:
    """Each kernel has 300 bytes of its own; all share a squashfs of 1000."""
    await make_source(connection, *(kernel("1", subarch=name) for name in SIX))
    all_of_them = await select(connection, said("noble"), dry_run=True)
    assert (all_of_them.effect.fetch_bytes, all_of_them.effect.left_out_bytes) == (6 * 300 + 1000, 0)
    assert all_of_them.effect.kernels_add == {str(NOBLE): frozenset(SIX)}

    one = await select(connection, said("noble", kernels="ga"))
    assert (one.effect.fetch_bytes, one.effect.left_out_bytes) == (300 + 1000, 5 * 300)
    assert one.effect.kernels_add == {str(NOBLE): {"ga-24.04"}}
    assert one.effect.kernels_remove == {}

    await hold(connection, 1, "1", subarch="ga-24.04")
    other = await select(connection, said("noble", kernels="hwe hwe-edge"))
    assert (other.effect.add, other.effect.remove) == (frozenset(), frozenset())
    assert other.effect.kernels_add == {str(NOBLE): {"hwe-24.04", "hwe-24.04-edge"}}
    assert other.effect.kernels_remove == {str(NOBLE): {"ga-24.04"}}
    assert other.effect.warnings[-1] == (
        "What is held of ubuntu:noble:amd64 and selected no longer goes once what takes its place is held."
    )
    assert await withdrawn(connection) == set()
    for name in ("hwe-24.04", "hwe-24.04-edge"):
        await hold(connection, 1, "1", subarch=name)
    assert await withdrawn(connection) == {"noble/ga-24.04"}
    told = await activity.last(connection, "selection")
    assert told is not None
    assert told.sentence == "Changed the kernels of ubuntu:noble:amd64."
    assert told.after == {
        "images": ["ubuntu:noble:amd64"],
        "said": [{"image": "ubuntu:noble:amd64", "kernels": ["hwe", "hwe-edge"]}],
    }


async def test_what_was_said_is_kept_as_it_was_said(connection: AsyncConnection) -> None:
    await make_source(connection, kernel("1"), kernel("1", subarch="hwe-24.04"))
    wished = {said("noble", kernels="* ga hwe-24.04", labels="stable"), said("lts:2", "*", source=1)}
    await select(connection, *wished)
    assert await selections.wishes(connection) == wished
    again = await select(connection, *wished)
    assert (again.effect.add, again.effect.remove, again.effect.fetch) == (frozenset(), frozenset(), {
        file.sha256: file.size for target in (await effect.look(connection)).targets for file in target.files
    })  # fmt: skip


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        pytest.param(said("noble", kernels="ga-99"), "kernel of ubuntu:noble:amd64 called ga-99", id="kernel"),
        pytest.param(said("noble", labels="beta"), "label of ubuntu:noble:amd64 called beta", id="label"),
        pytest.param(
            said("noble", kernels="ga", labels="beta"), "label of ubuntu:noble:amd64 called beta", id="its label"
        ),
        pytest.param(said("lts", "s390x"), "image that a source offers for the rule ubuntu:lts:s390x", id="rule"),
        pytest.param(said("warty", "*"), "image that a source offers for the rule ubuntu:warty:*", id="release"),
    ],
)  # fmt: skip
async def test_what_nobody_offers_is_refused(connection: AsyncConnection, wish: Wish, sentence: str) -> None:
    await make_source(connection, kernel("1"))
    with pytest.raises(NotFound) as refused:
        await select(connection, wish)
    assert str(refused.value) == f"There is no {sentence}; check the name, or whether it was removed."


async def test_of_several_kernels_those_that_nobody_offers_are_warned_of(connection: AsyncConnection) -> None:
    await make_source(connection, kernel("1"))
    done = await select(connection, said("noble", kernels="ga hwe", labels="stable beta"))
    assert done.effect.warnings[-2:] == (
        "No source offers the kernel hwe of ubuntu:noble:amd64.",
        "No source offers the label beta of ubuntu:noble:amd64.",
    )
    assert "hwe" not in str((await select(connection, said("noble", kernels="ga hwe", labels="stable beta"))).effect)


async def test_one_image_is_selected_once(connection: AsyncConnection) -> None:
    await make_source(connection, kernel("1"))
    with pytest.raises(InvalidValue, match="it is named more than once with other kernels or labels"):
        await select(connection, said("noble", kernels="ga"), said("noble"))
    await select(connection, said("noble", kernels="ga"), said("noble", source=1))


async def test_a_new_lts_by_rule_replaces_the_one_before_once_it_is_held(connection: AsyncConnection) -> None:
    source = await make_source(connection, kernel("1"), jammy())
    done = await select(connection, said("lts"))
    assert done.effect.add == {str(NOBLE)}
    assert {wish.image: images for wish, images in done.meanings.items()} == {("ubuntu", "lts", "amd64"): {NOBLE}}
    await hold(connection, source, "1", subarch="ga-24.04")
    resolute = kernel("1", subarch="ga-26.04", release="resolute", version="26.04")
    await record(connection, source, reading(kernel("1"), resolute, jammy(), updated=NOW + timedelta(hours=1)))
    assert {str(entry.image) for entry in (await decided(connection)).imports} == {str(RESOLUTE)}
    assert await withdrawn(connection) == set()
    await hold(connection, source, "1", subarch="ga-26.04")
    assert await withdrawn(connection) == {"noble/ga-24.04"}
    plan = await decided(connection)
    assert (plan.needs_operator, len(plan.lost)) == (True, 1), "it waits for an operator, as it is half of all"


async def test_a_release_that_vanishes_upstream_leaves_no_rule(connection: AsyncConnection) -> None:
    source = await make_source(connection, kernel("1"), jammy())
    await select(connection, said("lts"))
    await hold(connection, source, "1", subarch="ga-24.04")
    await record(connection, source, reading(jammy(), updated=NOW + timedelta(hours=1)))
    [meant] = (await selections.meanings(connection)).values()
    assert meant == {NOBLE}
    plan = await decided(connection)
    assert (len(plan.imports), len(plan.withdraw)) == (0, 0)
    assert plan.unavailable == {NOBLE}


async def test_a_title_that_no_longer_says_lts_empties_nothing(connection: AsyncConnection) -> None:
    source = await make_source(connection, kernel("1"))
    await select(connection, said("lts"))
    await hold(connection, source, "1")
    plain = replace(kernel("1"), title="24.04")
    await record(connection, source, reading(plain, jammy(), updated=NOW + timedelta(hours=1)))
    assert {str(entry.image) for entry in (await decided(connection)).imports} == {str(JAMMY)}
    await hold(connection, source, "1", subarch="ga-22.04")
    assert (await decided(connection)).needs_operator
    await record(connection, source, reading(plain, updated=NOW + timedelta(hours=2)))
    assert await withdrawn(connection) == {"noble/ga-24.04"}


async def test_offers_that_lapse_take_nothing_out_of_a_rule(connection: AsyncConnection) -> None:
    source = await make_source(connection, kernel("1"))
    other = await make_source(connection, jammy(), name="other", priority=1)
    await select(connection, said("supported"))
    await hold(connection, source, "1")
    await connection.execute(text("UPDATE sources SET vouchers = '{}', trust_revision = 9 WHERE id = 1"))
    await record(connection, other, reading(jammy("2"), updated=NOW + timedelta(hours=1)))
    [meant] = (await selections.meanings(connection)).values()
    assert meant == {NOBLE}
    assert await withdrawn(connection) == set()


async def test_what_another_source_says_changes_no_rule_until_it_is_followed(connection: AsyncConnection) -> None:
    """A source of a lower priority that lists a newer release would otherwise push out what is held."""
    await make_source(connection, kernel("1"))
    newer = kernel("1", subarch="ga-99.04", release="zz", version="99.04")
    second = await make_source(connection, newer, name="second", priority=5)
    await select(connection, said("lts"))
    await hold(connection, 1, "1")
    [meant] = (await selections.meanings(connection)).values()
    assert meant == {NOBLE}
    changes = source_acts.Changes(priority=50)
    planned = await source_acts.change(connection, ANN, Publisher(KEY), second, changes, NOW, dry_run=True)
    assert planned.effect is not None
    assert planned.effect.add == {"ubuntu:zz:amd64"}
    assert planned.effect.remove == {str(NOBLE)}
    assert "Rules mean other images after this: ubuntu:zz:amd64 comes, ubuntu:noble:amd64 goes." in (
        planned.effect.warnings
    )


async def test_support_that_ends_is_told_ninety_days_before(connection: AsyncConnection) -> None:
    ends = date(2026, 10, 21)  # ninety days after NOW
    source = await make_source(connection, replace(jammy(), support_eol=ends), kernel("1"))
    done = await select(connection, said("supported"))
    assert done.effect.warnings[-1] == (
        "Support of ubuntu/jammy ends on 2026-10-21; ubuntu/supported means it no longer after that."
    )
    assert (await select(connection, said("lts:2"))).effect.warnings[
        -1
    ] == "Support of ubuntu/jammy ends on 2026-10-21."
    later = reading(
        replace(jammy(), support_eol=ends + timedelta(days=1)), kernel("1"), updated=NOW + timedelta(hours=1)
    )
    await record(connection, source, later)
    assert not any("Support of" in warning for warning in (await select(connection, said("supported"))).effect.warnings)


async def test_an_image_that_a_rule_means_cannot_be_unselected_alone(connection: AsyncConnection) -> None:
    await make_source(connection, kernel("1"), jammy())
    await select(connection, said("lts"), said("jammy"), said("noble"))
    assert await acts.without(connection, JAMMY) == {said("lts"), said("noble")}
    with pytest.raises(SelectedByRule, match="ubuntu:noble:amd64 is selected by the rule ubuntu:lts:amd64"):
        await acts.without(connection, NOBLE)
    with pytest.raises(NotFound):
        await acts.without(connection, RESOLUTE)


async def test_images_by_rule_are_listed_like_others(connection: AsyncConnection) -> None:
    source = await make_source(connection, kernel("1"), kernel("1", subarch="hwe-24.04"), jammy())
    await select(connection, said("lts", "*", source=source, kernels="ga"))
    await hold(connection, source, "1", subarch="ga-24.04")
    [shown] = await images.list_all(connection, NOW)
    assert (shown.id, shown.selected, shown.status, shown.source_id) == (str(NOBLE), True, "stored", source)
    assert shown == await images.get(connection, NOBLE, NOW)
    assert [(one.name, one.held, one.size_bytes) for one in await images.versions_of(connection, NOBLE)] == [
        ("1", True, 1300)
    ]


@pytest.mark.parametrize(
    ("release", "meant"),
    [("24.04", "noble"), ("noble", "noble"), ("22.04", "jammy"), ("6.06", "6.06"), ("lts", "lts"), ("*", "*")],
)
async def test_a_release_has_its_version_for_another_name(
    connection: AsyncConnection, release: str, meant: str
) -> None:
    await make_source(connection, kernel("1"), jammy())
    assert await aliases.releases(connection, [("ubuntu", release)]) == {("ubuntu", release): meant}


async def test_a_version_that_several_releases_have_names_none(connection: AsyncConnection) -> None:
    await make_source(connection, kernel("1"), replace(jammy(), version="24.04"))
    with pytest.raises(InvalidValue, match="it is the version of jammy and noble; name one of them"):
        await aliases.releases(connection, [("ubuntu", "24.04")])
    await make_source(connection, kernel("1", release="24.04"), name="second", priority=5)
    assert await aliases.releases(connection, [("ubuntu", "24.04")]) == {("ubuntu", "24.04"): "24.04"}


async def test_from_all_kernels_to_one(bench: Bench) -> None:
    """Bytes and files counted in what racks are told."""
    await bench.import_now()
    before = {entry.path: entry for entry in (await bench.manifest()).entries}
    async with transaction(bench.region.engine) as connection:
        done = await acts.select(connection, ANN, frozenset({said("resolute", kernels="ga")}), NOW)
    assert done.effect.kernels_remove == {str(RESOLUTE): {"hwe-26.04"}}
    assert await run_next(bench.region.importer)
    after = {entry.path: entry for entry in (await bench.manifest()).entries}
    gone = before.keys() - after.keys()
    assert gone == {path for path in before if path.startswith("ubuntu/amd64/hwe-26.04/")} != set()
    left = {entry.sha256 for entry in after.values()}
    sizes = {entry.sha256: entry.size for entry in before.values() if entry.sha256 not in left}
    assert sum(sizes.values()) == done.effect.left_out_bytes > 0
    assert (await bench.image()).status == "stored"


async def test_a_new_lts_comes_with_the_hourly_sync(bench: Bench, mirror: Mirror, small: Path) -> None:
    mirror.drop_product("*26.04*", updated=mirror.updated + timedelta(minutes=1))
    await bench.select()
    await bench.import_now("schedule")
    async with transaction(bench.region.engine) as connection:
        await acts.select(connection, ANN, frozenset({said("lts", kernels="ga")}), bench.region.now())
    assert await run_next(bench.region.importer)
    assert (await bench.image(NOBLE)).status == "stored"

    updated = mirror.updated + timedelta(minutes=1)
    shutil.copytree(small, mirror.directory, dirs_exist_ok=True)
    Mirror.open(mirror.directory).rewrite(updated=updated)
    done = await bench.import_now("schedule")
    assert (done.state, done.error_code) == ("succeeded", "withdrawal_waits")
    assert [(image.id, image.status) for image in [await bench.image(RESOLUTE), await bench.image(NOBLE)]] == [
        (str(RESOLUTE), "stored"),
        (str(NOBLE), "unselected"),
    ]
    assert (await bench.import_now("operator")).error_code == ""
    with pytest.raises(NotFound):
        await bench.image(NOBLE)


async def test_two_hundred_rules_cost_no_statement_more_than_one(connection: AsyncConnection) -> None:
    await make_source(connection, kernel("1"), kernel("1", arch="arm64"), jammy())
    statements: list[str] = []

    def count(*given: object) -> None:
        statements.append(str(given[2]))

    engine = connection.sync_connection
    event.listen(engine, "before_cursor_execute", count)
    told = []
    for number in (1, 200):
        rules = [said(f"lts:{n}", arch) for n in range(1, 100) for arch in ("amd64", "arm64", "*")][:number]
        await selections.replace(connection, rules, NOW)
        statements.clear()
        await wanted.refresh(connection, NOW)
        told.append(list(statements))
    assert len(told[0]) == len(told[1]) == 6


async def test_a_refresh_that_finds_nothing_new_writes_nothing(connection: AsyncConnection) -> None:
    await make_source(connection, kernel("1"), jammy())
    await select(connection, said("lts:2", kernels="ga"), said("jammy"))
    where = text("SELECT ctid::text FROM meant UNION ALL SELECT ctid::text FROM wanted")
    before = sorted(await connection.scalars(where))
    await wanted.refresh(connection, NOW)
    assert sorted(await connection.scalars(where)) == before
    assert len(before) == 5


async def test_a_selection_applied_twice_in_another_order_changes_nothing(connection: AsyncConnection) -> None:
    await make_source(connection, *(kernel("1", subarch=name) for name in SIX), jammy())
    wished = [said("lts", kernels="ga hwe"), said("jammy"), said("supported", "*", kernels="*"), said("lts", source=1)]
    await select(connection, *wished)
    rows = await selections.list_all(connection)
    again = (await select(connection, *reversed(wished))).effect
    assert await selections.list_all(connection) == rows
    assert not again.add and not again.remove and not again.kernels_add and not again.kernels_remove


async def test_support_that_ends_while_no_source_says_anything_new_counts(bench: Bench, clock: Clock) -> None:
    """Jammy's support ends on 2027-06-01."""
    async with transaction(bench.region.engine) as connection:
        await connection.execute(text("UPDATE region SET default_selected_at = now()"))
    await bench.import_now()
    async with transaction(bench.region.engine) as connection:
        await acts.select(connection, ANN, frozenset({said("supported", kernels="ga")}), clock())
    assert await run_next(bench.region.importer)
    assert (await bench.image(JAMMY)).status == "stored"
    clock.pass_by(datetime(2027, 6, 2, tzinfo=UTC) - clock())
    assert (await bench.import_now("operator")).state == "succeeded"
    with pytest.raises(NotFound):
        await bench.image(JAMMY)
    assert [(await bench.image(image)).status for image in (NOBLE, RESOLUTE)] == ["stored", "stored"]


async def test_what_nobody_offers_is_found_for_all_wishes_by_one_question(connection: AsyncConnection) -> None:
    releases = [f"r{number}" for number in range(60)]
    await make_source(connection, *(kernel("1", release=release, subarch="ga-24.04") for release in releases))
    statements: list[str] = []
    event.listen(connection.sync_connection, "before_cursor_execute", lambda *given: statements.append(given[2]))
    asked = []
    for kernels in ("", "ga", "ga hwe"):
        statements.clear()
        done = await select(connection, *(said(release, kernels=kernels) for release in releases), dry_run=True)
        asked.append(len(statements))
    assert sum("hwe" in warning for warning in done.effect.warnings) == 60
    # One for the kernels, one for what is left out.
    assert asked == [asked[0], asked[0] + 2, asked[0] + 2]
