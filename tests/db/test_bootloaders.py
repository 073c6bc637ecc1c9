"""Bootloaders come from one source that an operator chose, and a plan names each that a change touches."""

from collections.abc import AsyncIterator

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine

from region.actions import pins as pin_acts
from region.actions import selections as selection_acts
from region.actions import settings as acts
from region.actions import sources as source_acts
from region.actions.effect import Effect
from region.actions.sources import Changes, HeldChoice
from region.catalogue import bootloaders, pins, selections, sources
from region.catalogue.facts import Wish
from region.database.connection import transaction
from region.importing import imports
from region.people import activity, settings
from region.people.activity import Actor
from region.publishing.held import Publisher
from shared.errors import InvalidValue, NotFound, PreconditionFailed
from shared.names import ImageKey
from tests.db.rows import NOBLE, NOW, bootloader, decided, hold, kernel, make_region, make_source, select_images

ANN = Actor("Ann", "192.0.2.1")
UEFI, ARM64 = "bootloader:uefi:amd64", "bootloader:uefi:arm64"
NOBLE_ARM64 = ImageKey.parse("ubuntu:noble:arm64")
KEY = Ed25519PrivateKey.generate()


@pytest.fixture
async def connection(engine: AsyncEngine) -> AsyncIterator[AsyncConnection]:
    """A region whose images and bootloaders come from `first`; version 1 of its bootloader is held."""
    async with transaction(engine) as connection:
        await make_region(connection, KEY)
        first = await make_source(connection, kernel("20260701"), bootloader("1"))
        await select_images(connection, (None, NOBLE))
        await hold(connection, first, "1")
        yield connection


async def first_source(connection: AsyncConnection) -> int:
    """The source that bootloaders come from at the beginning."""
    found = await bootloaders.source(connection)
    assert found is not None
    return found.id


async def choose(connection: AsyncConnection, source_id: int, *, dry_run: bool = False) -> Effect:
    done = await acts.change(connection, ANN, {"bootloader_source_id": source_id}, NOW, dry_run=dry_run)
    assert done.effect is not None
    assert (done.import_id is None) is dry_run
    return done.effect


def touched(found: Effect | None) -> tuple[list[str], list[str], list[str]]:
    """The bootloaders that are added, changed and withdrawn."""
    assert found is not None
    return (
        sorted(found.bootloaders_add),
        sorted(found.bootloaders_change),
        sorted(found.bootloaders_withdraw),
    )


async def test_an_operator_chooses_where_bootloaders_come_from(connection: AsyncConnection) -> None:
    second = await make_source(
        connection, bootloader("2"), bootloader("2", os="grub-efi", arch="arm64"), name="second", priority=5
    )
    before = await settings.get(connection)
    planned = await choose(connection, second, dry_run=True)
    assert await settings.get(connection) == before
    assert await activity.last(connection, acts.SUBJECT) is None
    assert await choose(connection, second) == planned
    assert touched(planned) == ([ARM64], [UEFI], [])
    assert planned.fetch_bytes == 2 * 2 * 50 + 1300, "and the image that nobody fetched yet"
    found = await bootloaders.source(connection)
    assert found is not None
    assert found.name == "second"
    told = await activity.last(connection, acts.SUBJECT)
    assert told is not None
    assert told.sentence == "Chose second as the source that bootloaders come from."
    assert (told.before, told.after) == (
        {"proxy": None, "retention_days": 400, "bootloader_source_id": before.bootloader_source_id},
        {"proxy": None, "retention_days": 400, "bootloader_source_id": second},
    )
    [waiting] = await imports.list_recent(connection, 10, None)
    assert (waiting.requested_by, waiting.scope) == ("Ann", None)
    imported = {(str(entry.image), entry.source_id) for entry in (await decided(connection)).imports}
    assert {(UEFI, second), (ARM64, second)} <= imported


async def test_choosing_the_same_source_again_changes_nothing(connection: AsyncConnection) -> None:
    first, before = await first_source(connection), await settings.get(connection)
    assert await acts.change(connection, ANN, {"bootloader_source_id": first}, NOW) == acts.SettingsChanged(before)
    assert await settings.get(connection) == before
    assert await activity.last(connection, acts.SUBJECT) is None
    assert await imports.list_recent(connection, 10, None) == []


async def test_a_source_that_offers_none_takes_no_bootloader_away(connection: AsyncConnection) -> None:
    second = await make_source(connection, kernel("20260701"), name="second", priority=5)
    found = await choose(connection, second)
    assert touched(found) == ([], [], [])
    assert found.warnings == (
        "No bootloader for amd64 is offered by second, where bootloaders come from; what is held for it stays.",
    )
    assert (await decided(connection)).withdraw == frozenset()


async def test_a_source_is_chosen_once_a_plan_can_name_what_it_brings(connection: AsyncConnection) -> None:
    second = await make_source(connection, name="second", priority=5)
    with pytest.raises(acts.SourceNotRead, match="second was not read yet under the trust it has now") as refused:
        await choose(connection, second, dry_run=True)
    assert refused.value.code == "source_not_read"
    assert (await first_source(connection)) != second


@pytest.mark.parametrize("removed", [True, False], ids=["removed", "never there"])
async def test_only_a_source_that_is_there_can_be_chosen(connection: AsyncConnection, removed: bool) -> None:
    source_id = 99
    if removed:
        source_id = await make_source(connection, bootloader("2"), name="second", priority=5)
        await hold(connection, source_id, "2")
        await sources.remove(connection, source_id, NOW)
    first = await first_source(connection)
    with pytest.raises(NotFound, match=f"no source {source_id}"):
        await acts.change(connection, ANN, {"bootloader_source_id": source_id, "retention_days": 7}, NOW)
    assert await first_source(connection) == first
    assert (await settings.get(connection)).retention_days == 400


async def test_the_choice_is_part_of_what_if_match_compares(connection: AsyncConnection) -> None:
    seen = acts.etag(await settings.get(connection))
    second = await make_source(connection, bootloader("2"), name="second", priority=5)
    await choose(connection, second)
    with pytest.raises(PreconditionFailed, match="Ann changed it"):
        await acts.change(connection, ANN, {"retention_days": 7}, NOW, if_match=seen)


async def remove(
    connection: AsyncConnection, held: HeldChoice, *, dry_run: bool
) -> tuple[source_acts.SourceChanged, Effect]:
    source_id = await first_source(connection)
    done = await source_acts.remove(connection, ANN, Publisher(KEY), source_id, NOW, held=held, dry_run=dry_run)
    assert done.effect is not None
    return done, done.effect


async def test_when_their_source_is_removed_bootloaders_stay_and_come_from_nobody(connection: AsyncConnection) -> None:
    second = await make_source(connection, kernel("20260701"), bootloader("2"), name="second", priority=5)
    _, planned = await remove(connection, HeldChoice.KEEP, dry_run=True)
    assert await bootloaders.source(connection) is not None
    _, found = await remove(connection, HeldChoice.KEEP, dry_run=False)
    assert found == planned
    assert touched(found) == ([], [], [])
    assert found.moved == {str(NOBLE)}
    assert found.warnings == (
        "Bootloaders come from first: no new ones come after this, until another source is chosen in the settings.",
        "No bootloader for amd64 is offered, as no source is chosen for bootloaders; what is held for it stays.",
    )
    assert await bootloaders.source(connection) is None, "a third party never becomes it by itself"
    assert (await settings.get(connection)).bootloader_source_id is None
    decided_now = await decided(connection)
    assert decided_now.withdraw == frozenset()
    assert {entry.source_id for entry in decided_now.imports} == {second}
    assert not any(entry.bootloader for entry in decided_now.imports)
    assert [(loader.type, loader.version, loader.held) for loader in await bootloaders.list_all(connection, NOW)] == [
        ("uefi", "1", True)
    ]
    [told, *_] = await activity.list_recent(connection, 1, None)
    assert told.sentence == "Removed the source first; bootloaders come from no source now."
    assert touched(await choose(connection, second)) == ([], [UEFI], [])


async def test_bootloaders_that_are_withdrawn_with_their_source_are_named_first(connection: AsyncConnection) -> None:
    _, planned = await remove(connection, HeldChoice.WITHDRAW, dry_run=True)
    assert touched(planned) == ([], [], [UEFI])
    assert planned.warnings[-1] == (
        "No bootloader for amd64 is offered, as no source is chosen for bootloaders;"
        " machines of amd64 need one from elsewhere."
    )
    _, found = await remove(connection, HeldChoice.WITHDRAW, dry_run=False)
    assert found == planned
    assert await bootloaders.list_all(connection, NOW) == []


async def test_the_settings_seen_before_the_source_was_removed_are_old(connection: AsyncConnection) -> None:
    seen = acts.etag(await settings.get(connection))
    await remove(connection, HeldChoice.KEEP, dry_run=False)
    with pytest.raises(PreconditionFailed):
        await acts.change(connection, ANN, {"retention_days": 7}, NOW, if_match=seen)


async def test_removing_another_source_leaves_bootloaders_alone(connection: AsyncConnection) -> None:
    second = await make_source(connection, bootloader("2"), name="second", priority=50)
    done = await source_acts.remove(connection, ANN, Publisher(KEY), second, NOW)
    assert touched(done.effect) == ([], [], [])
    assert done.effect is not None
    assert done.effect.warnings == ()
    assert (await bootloaders.source(connection)) is not None


async def test_a_change_of_their_source_names_the_bootloaders_that_lapse_by_it(connection: AsyncConnection) -> None:
    first = await first_source(connection)
    moved = Changes(url="http://elsewhere.example/")
    for held, withdrawn, what in (
        (HeldChoice.KEEP, [], "what is held for it stays"),
        (HeldChoice.WITHDRAW, [UEFI], "machines of amd64 need one from elsewhere"),
    ):
        done = await source_acts.change(connection, ANN, Publisher(KEY), first, moved, NOW, held=held, dry_run=True)
        assert touched(done.effect) == ([], [], withdrawn)
        assert done.effect is not None
        [warning] = done.effect.warnings
        assert warning == (
            "No bootloader for amd64 is known, as first, where bootloaders come from, was not read yet under the trust"
            f" it has now; {what}."
        )
    higher = Changes(priority=11, proxy="http://proxy.example/")
    done = await source_acts.change(connection, ANN, Publisher(KEY), first, higher, NOW)
    assert (touched(done.effect), done.effect and done.effect.warnings) == (([], [], []), ())


async def test_another_priority_moves_images_and_no_bootloader(connection: AsyncConnection) -> None:
    second = await make_source(connection, kernel("20260701"), bootloader("2"), name="second", priority=5)
    done = await source_acts.change(connection, ANN, Publisher(KEY), second, Changes(priority=50), NOW, dry_run=True)
    assert done.effect is not None
    assert done.effect.moved == {str(NOBLE)}
    assert touched(done.effect) == ([], [], [])


async def test_a_selection_names_the_bootloaders_of_the_next_import_and_what_is_not_offered(
    connection: AsyncConnection,
) -> None:
    second = await make_source(
        connection,
        kernel("20260701", arch="arm64"),
        bootloader("2"),
        bootloader("1", os="pxelinux", kind="pxe"),
        name="second",
        priority=5,
    )
    await bootloaders.choose_source(connection, second)
    wished = frozenset({Wish(None, NOBLE), Wish(None, NOBLE_ARM64)})
    done = await selection_acts.select(connection, ANN, wished, NOW, dry_run=True)
    assert touched(done.effect) == (["bootloader:pxe:amd64"], [UEFI], [])
    [warning] = done.effect.warnings
    assert warning == (
        "No bootloader for arm64 is offered by second, where bootloaders come from;"
        " machines of arm64 need one from elsewhere."
    )


async def test_bootloaders_are_not_selected(connection: AsyncConnection) -> None:
    loader = ImageKey.parse(UEFI)
    for source_id in (None, await first_source(connection)):
        with pytest.raises(InvalidValue, match="is not an image: bootloaders come with every import, without being"):
            await selection_acts.select(connection, ANN, frozenset({Wish(source_id, loader)}), NOW)
    assert {wish.image for wish in await selections.wishes(connection)} == {NOBLE}


async def test_a_pin_names_the_bootloaders_that_its_import_brings_and_where_its_image_comes_from(
    connection: AsyncConnection,
) -> None:
    second = await make_source(connection, kernel("20260603"), bootloader("2"), name="second", priority=5)
    await bootloaders.choose_source(connection, second)
    planned = await pin_acts.pin(connection, ANN, NOBLE, "20260603", NOW, dry_run=True)
    assert (planned.import_id, planned.etag) == (None, pin_acts.etag(NOBLE, None))
    assert await pins.pinned(connection, NOBLE) is None
    assert await imports.list_recent(connection, 10, None) == []
    assert touched(planned.effect) == ([], [UEFI], [])
    assert planned.effect.moved == {str(NOBLE)}, "only the second source has that version"
    done = await pin_acts.pin(connection, ANN, NOBLE, "20260603", NOW)
    assert (done.effect, done.etag) == (planned.effect, pin_acts.etag(NOBLE, "20260603"))
    back = await pin_acts.unpin(connection, ANN, NOBLE, NOW, dry_run=True)
    assert await pins.pinned(connection, NOBLE) == "20260603"
    assert back.effect.moved == {str(NOBLE)}
    with pytest.raises(NotFound):
        await pin_acts.pin(connection, ANN, NOBLE, "19700101", NOW, dry_run=True)
