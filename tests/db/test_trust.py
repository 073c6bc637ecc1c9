"""Trust: what happens when what a source is believed by changes. A real mirror over HTTP, real keys, a real store.

Each test is one way in which images could be shown on the word of somebody who is not believed (any longer).
"""

import asyncio
import base64
import os
import re
import shutil
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import pytest
from pysequoia import ArmorKind, armor
from sqlalchemy import text

from deploy.local.mirror.faults import Slow, Status
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.products import UBUNTU
from deploy.local.mirror.server import Server, serve
from region.actions import effect
from region.actions import sources as acts
from region.actions.sources import Changes, HeldChoice, HeldUndecided, SourceChanged, UnsignedNotConfirmed
from region.catalogue import offers, sources, trust
from region.catalogue.trust import Unvouched
from region.database.connection import transaction
from region.importing import importer
from region.importing.importer import run_next
from region.importing.imports import Import
from region.people.activity import Actor
from shared.names import ImageKey
from tests.conftest import NOW
from tests.db.bench import (
    CENTOS_8,
    JAMMY,
    NOBLE,
    Bench,
    Eventually,
    Fields,
    digests,
    paths_asked,
    rewrite_products,
    slot,
    small_mirror,
)
from tests.db.rows import select_images

ANN = Actor("Ann", "192.0.2.1")
UBUNTU_DOCUMENT = f"streams/v1/{UBUNTU}.sjson"
LOADER = "bootloader:pxe:amd64"
SLOW = Slow(bytes_per_second=2000)


@dataclass(frozen=True)
class Both(Key):
    """Two keys that sign every document together, as those of images.maas.io do."""

    second: Key

    def clear_sign(self, content: bytes) -> bytes:
        signed = [super().clear_sign(content), self.second.clear_sign(content)]
        packets = b"".join(base64.b64decode(_packets(document)) for document in signed)
        text_part = signed[0][: signed[0].index(b"-----BEGIN PGP SIGNATURE-----")]
        return text_part + armor(packets, ArmorKind.Signature).encode()


def _packets(signed: bytes) -> bytes:
    found = re.search(rb"SIGNATURE-----\n\n(.*?)\n=", signed, re.DOTALL)
    assert found
    return found[1]


async def change(
    bench: Bench,
    source_id: int = 1,
    *,
    held: HeldChoice | None = HeldChoice.KEEP,
    confirm_unsigned: bool = False,
    dry_run: bool = False,
    **fields: Any,
) -> SourceChanged:
    """An operator changes these fields of a source, and keeps what is held unless the test says otherwise."""
    if fields.keys() & {"keyring", "unsigned"}:
        fields = {"keyring": None, "keyring_path": None, "keyring_name": None, "unsigned": False, **fields}
    now = bench.region.now()
    async with transaction(bench.region.engine) as connection:
        return await acts.change(
            connection,
            ANN,
            bench.region.publisher,
            source_id,
            cast(Changes, fields),
            now,
            confirm_unsigned=confirm_unsigned,
            held=held,
            dry_run=dry_run,
        )


async def unvouched(bench: Bench) -> list[Unvouched]:
    async with transaction(bench.region.engine) as connection:
        return await trust.unvouched(connection)


async def offered(bench: Bench, source_id: int = 1) -> set[str]:
    """The images that the source offers, as people see them."""
    async with transaction(bench.region.engine) as connection:
        found = await offers.list_all(connection, source_id)
    return {f"{offer.os}:{offer.release}:{offer.arch}" for offer in found}


async def planned(bench: Bench) -> set[ImageKey]:
    """The images that an import would bring something of."""
    async with transaction(bench.region.engine) as connection:
        return {entry.image for entry in (await effect.look(connection)).plan.imports}


async def fetched_by(bench: Bench, server: Server) -> tuple[Import, list[str]]:
    """An hourly import, and the files it asked this server for."""
    server.requests.clear()
    done = await bench.import_now("schedule")
    return done, paths_asked(server)


async def nothing_comes_of_what_lapsed(bench: Bench, mirror: Mirror, server: Server, *, code: str) -> None:
    """Noble is held, nobody's word stands behind what is offered: it stays served, and nothing more comes.

    `code` is what the source's next reading fails with.
    """
    before = await bench.manifest()
    assert before.entries
    assert await offered(bench) == set()
    # Jammy was never fetched, and of noble there is a newer version: neither is in reach.
    await bench.select(NOBLE, JAMMY)
    assert await planned(bench) == set()
    done, fetched = await fetched_by(bench, server)
    assert (done.state, done.error_code, fetched) == ("failed", code, [])
    assert (await bench.source()).error_code == code
    assert await bench.manifest() == before
    image = await bench.image(NOBLE)
    assert (image.status, image.vouched, list(image.vouched_by)) == ("unvouched", False, [mirror.fingerprint])
    assert (await bench.image(JAMMY)).held_version == ""
    held = await unvouched(bench)
    assert {entry.image for entry in held} == {str(NOBLE), LOADER}
    assert {tuple(entry.vouched_by) for entry in held} == {(mirror.fingerprint,)}


async def it_comes_back_with_a_reading(bench: Bench, mirror: Mirror, server: Server, key: Key) -> None:
    """The new key signs what the mirror has: that is read, and what is held is vouched for again."""
    mirror.sign_with(key)
    await bench.select(NOBLE)
    done, fetched = await fetched_by(bench, server)
    assert done.state == "succeeded"
    assert {path.split("/")[2] for path in fetched} == {"20260702"}, "what is stored is not fetched again"
    assert await unvouched(bench) == []
    image = await bench.image(NOBLE)
    assert (image.status, image.held_version) == ("stored", "20260702")
    assert (image.vouched, list(image.vouched_by)) == (True, [key.fingerprint])


# The keyring is another


async def test_a_keyring_that_an_operator_replaced_lapses_what_the_old_key_signed(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    mirror.publish(release="noble", arch="amd64")
    key = Key.generate()
    seen = await change(bench, keyring=key.keyring, dry_run=True)
    assert {str(NOBLE), str(JAMMY), str(CENTOS_8), LOADER} <= set(seen.lapse.images)
    assert {entry.image for entry in seen.lapse.held} == {str(NOBLE), LOADER}
    assert await unvouched(bench) == [], "a dry run changes nothing"
    with pytest.raises(HeldUndecided):
        await change(bench, keyring=key.keyring, held=None)
    assert (await change(bench, keyring=key.keyring)).lapse == seen.lapse
    await nothing_comes_of_what_lapsed(bench, mirror, server, code="signature_unknown_key")
    await it_comes_back_with_a_reading(bench, mirror, server, key)


async def test_a_keyring_file_that_changed_in_place_lapses_what_the_old_key_signed(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    """Nobody tells the region: the file is written by somebody else."""
    await bench.select(NOBLE)
    await bench.import_now()
    mirror.publish(release="noble", arch="amd64")
    await bench.select(NOBLE, JAMMY)
    key = Key.generate()
    mirror.keyring_path.write_bytes(key.keyring)
    done, fetched = await fetched_by(bench, server)
    assert (done.error_code, fetched) == ("signature_unknown_key", [])
    await nothing_comes_of_what_lapsed(bench, mirror, server, code="signature_unknown_key")
    await it_comes_back_with_a_reading(bench, mirror, server, key)


async def test_a_keyring_file_that_changed_after_the_reading_counts_when_the_plan_is_made(
    bench: Bench, mirror: Mirror, server: Server, tmp_path: Path, eventually: Eventually
) -> None:
    """The first source has been read and the second one is slow: what the first one says is nobody's word by then."""
    await bench.select(NOBLE)
    other = small_mirror(tmp_path / "other", seed=7)
    async with serve(other) as slow:
        await bench.add_source(slow, other, priority=5)
        slow.misbehave(UBUNTU_DOCUMENT, SLOW)
        await bench.ask()
        running = asyncio.create_task(run_next(bench.region.importer))
        await eventually(lambda: slow.asked(UBUNTU_DOCUMENT))
        mirror.keyring_path.write_bytes(Key.generate().keyring)
        slow.behave()
        assert await running
    assert paths_asked(server) == []
    assert (await bench.manifest()).entries == ()


async def test_a_document_that_only_the_old_key_signed_is_refused_again_and_again(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    """The index was read under the new key. 'Not modified' would be no answer: it would pass for a good reading."""
    await bench.select(NOBLE)
    await bench.import_now()
    key = Key.generate()
    document = mirror.root / UBUNTU_DOCUMENT
    before, times = document.read_bytes(), document.stat()
    mirror.sign_with(key)
    document.write_bytes(before)
    os.utime(document, ns=(times.st_atime_ns, times.st_mtime_ns))
    await change(bench, keyring=key.keyring)
    for _ in range(2):
        failed, fetched = await fetched_by(bench, server)
        assert (failed.error_code, fetched) == ("signature_unknown_key", [])
        assert (await bench.image(NOBLE)).status == "unvouched"
    mirror.rewrite()
    assert (await bench.import_now("schedule")).state == "succeeded"
    assert (await bench.image(NOBLE)).vouched_by == [key.fingerprint]
    assert await unvouched(bench) == []


async def test_what_nobody_vouches_for_is_withdrawn_in_one_act(bench: Bench, mirror: Mirror) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    mirror.keyring_path.write_bytes(Key.generate().keyring)
    await bench.import_now("schedule")
    before = await bench.manifest()
    async with transaction(bench.region.engine) as connection:
        seen = await acts.withdraw_unvouched(connection, ANN, bench.region.publisher, NOW, dry_run=True)
    assert {entry.image for entry in seen} == {str(NOBLE), LOADER}
    assert await bench.manifest() == before
    async with transaction(bench.region.engine) as connection:
        assert await acts.withdraw_unvouched(connection, ANN, bench.region.publisher, NOW) == seen
    after = await bench.manifest()
    assert (after.entries, after.confirmed) == ((), after.order), "racks are told that an operator wanted it"
    assert await unvouched(bench) == []


async def test_a_change_of_trust_withdraws_what_lapses_where_the_operator_says_so(bench: Bench) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    done = await change(bench, keyring=Key.generate().keyring, held=HeldChoice.WITHDRAW)
    assert {entry.image for entry in done.lapse.held} == {str(NOBLE), LOADER}
    assert (await bench.manifest()).entries == ()


async def test_what_is_held_of_a_removed_source_stays_served_and_says_whose_it_is(bench: Bench, mirror: Mirror) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    before = await bench.manifest()
    async with transaction(bench.region.engine) as connection:
        await acts.remove(connection, ANN, bench.region.publisher, 1, NOW, held=HeldChoice.KEEP)
    await bench.import_now("schedule")
    assert await bench.manifest() == before
    image = await bench.image(NOBLE)
    assert (image.vouched, list(image.vouched_by)) == (False, [mirror.fingerprint])
    assert {entry.image for entry in await unvouched(bench)} == {str(NOBLE), LOADER}


async def test_a_keyring_that_cannot_be_read_changes_nothing_and_brings_nothing(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    before, known = await bench.manifest(), await offered(bench)
    published = mirror.publish(release="noble", arch="amd64")
    mirror.keyring_path.rename(mirror.keyring_path.with_suffix(".away"))
    await bench.select(NOBLE, JAMMY)
    server.requests.clear()
    failed = await bench.import_now("schedule")
    assert (failed.state, failed.error_code) == ("failed", "keyring_unreadable")
    assert str(mirror.keyring_path) in failed.error
    assert server.requests == [], "what it sends could not be judged"
    assert (await bench.manifest(), await offered(bench), await planned(bench)) == (before, known, set())
    assert await unvouched(bench) == []
    assert (await bench.source()).error_code == "keyring_unreadable"
    mirror.keyring_path.with_suffix(".away").rename(mirror.keyring_path)
    done, fetched = await fetched_by(bench, server)
    assert done.state == "succeeded"
    assert not any(path.startswith("noble/amd64/20260701") for path in fetched)
    assert (await bench.image(NOBLE)).held_version == published.version


# The trust changes while the region is at work


async def replace_keyring(bench: Bench, mirror: Mirror, key: Key) -> None:
    await change(bench, keyring=key.keyring)


async def rewrite_keyring_file(bench: Bench, mirror: Mirror, key: Key) -> None:
    mirror.keyring_path.write_bytes(key.keyring)


anyhow = pytest.mark.parametrize("how", [replace_keyring, rewrite_keyring_file])
How = Callable[[Bench, Mirror, Key], Awaitable[None]]


@anyhow
async def test_a_reading_that_began_under_another_trust_is_not_recorded(
    bench: Bench, mirror: Mirror, server: Server, eventually: Eventually, how: How, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A slow mirror must not carry what the old key signed over to the new trust."""
    monkeypatch.setattr(importer, "READINGS", 1)
    server.misbehave(UBUNTU_DOCUMENT, SLOW)
    import_id = await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: server.asked(UBUNTU_DOCUMENT))
    await how(bench, mirror, Key.generate())
    server.behave()
    assert await running
    done = await bench.import_of(import_id)
    assert (done.state, done.error_code) == ("failed", "trust_changed")
    assert paths_asked(server) == []
    async with transaction(bench.region.engine) as connection:
        assert await connection.scalar(text("SELECT count(*) FROM products")) == 0
        assert await connection.scalar(text("SELECT count(*) FROM stream_documents")) == 0


@anyhow
async def test_a_source_whose_trust_changed_while_it_was_read_is_read_again(
    bench: Bench, mirror: Mirror, server: Server, eventually: Eventually, how: How
) -> None:
    server.misbehave(UBUNTU_DOCUMENT, SLOW)
    import_id = await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: server.asked(UBUNTU_DOCUMENT))
    key = Key.generate()
    mirror.sign_with(key)
    await how(bench, mirror, key)
    server.behave()
    assert await running
    assert (await bench.import_of(import_id)).state == "succeeded"
    assert (await bench.image()).vouched_by == [key.fingerprint]


@anyhow
async def test_what_was_under_way_when_the_trust_changed_is_not_held(
    bench: Bench, mirror: Mirror, server: Server, eventually: Eventually, how: How
) -> None:
    await bench.select(NOBLE)
    server.misbehave("noble/*/squashfs", SLOW)
    await bench.ask()
    running = asyncio.create_task(run_next(bench.region.importer))
    await eventually(lambda: server.asked("noble/*/squashfs"))
    await how(bench, mirror, Key.generate())
    server.behave()
    assert await running
    squashfs = mirror.expected("noble", "amd64", "ga-24.04")["squashfs"].sha256
    assert squashfs in await bench.stored(), "what has arrived is kept"
    assert squashfs not in (await bench.manifest()).files()
    assert await bench.digests_at(slot("noble", "24.04")) == {}
    # The key comes back, and with it what is stored already.
    mirror.keyring_path.write_bytes(mirror.keyring)
    await change(bench, keyring=mirror.keyring)
    done, fetched = await fetched_by(bench, server)
    assert (done.state, fetched) == ("succeeded", [])
    assert (await bench.image(NOBLE)).status == "stored"


# What changes nothing


async def nothing_lapses(bench: Bench, mirror: Mirror, server: Server, **fields: Any) -> None:
    """The change asks for no decision, takes nothing back and brings nothing anew."""
    before, known = await bench.manifest(), await offered(bench)
    revision = (await bench.source()).trust_revision
    done = await change(bench, held=None, **fields)
    assert done.source.trust_revision == revision + 1
    assert (done.lapse.images, done.lapse.held) == ([], [])
    assert await offered(bench) == known
    assert await unvouched(bench) == []
    done_import, fetched = await fetched_by(bench, server)
    assert (done_import.state, fetched) == ("succeeded", [])
    assert await bench.manifest() == before
    assert (await bench.image(NOBLE)).status == "stored"
    assert (await bench.image(NOBLE)).vouched


async def test_a_key_added_and_one_of_two_removed_lapse_nothing(bench: Bench, mirror: Mirror, server: Server) -> None:
    other = Key.generate()
    await bench.select(NOBLE)
    await bench.import_now()
    await nothing_lapses(bench, mirror, server, keyring=mirror.keyring + other.keyring)
    await nothing_lapses(bench, mirror, server, keyring=mirror.keyring)


async def test_a_mirror_that_passes_from_one_key_to_the_next_lapses_nothing(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    """It signs with both for a while. Whoever adds the new key then, and takes the old one away, loses nothing."""
    new = Key.generate()
    mirror.sign_with(Both(mirror.key.secret, new))
    await bench.select(NOBLE)
    await bench.import_now()
    assert (await bench.image(NOBLE)).vouched_by == [mirror.fingerprint]
    await nothing_lapses(bench, mirror, server, keyring=mirror.keyring + new.keyring)
    assert set((await bench.image(NOBLE)).vouched_by) == {mirror.fingerprint, new.fingerprint}
    await nothing_lapses(bench, mirror, server, keyring=new.keyring)
    assert (await bench.image(NOBLE)).vouched_by == [new.fingerprint]


async def test_a_mirror_of_the_same_signer_elsewhere_lapses_nothing(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    async with serve(mirror) as elsewhere:
        await nothing_lapses(bench, mirror, elsewhere, url=elsewhere.url)
        assert elsewhere.asked("streams/*"), "it was read there"


# Without a signature


async def test_a_signed_source_becomes_unsigned_only_when_that_is_confirmed(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    await bench.select(NOBLE)
    await bench.import_now()
    mirror.unsigned()
    before = await bench.source()
    with pytest.raises(UnsignedNotConfirmed):
        await change(bench, unsigned=True)
    with pytest.raises(UnsignedNotConfirmed):
        await change(bench, unsigned=True, dry_run=True)
    assert await bench.source() == before
    done, fetched = await fetched_by(bench, server)
    assert (done.error_code, fetched) == ("unsigned", []), "a mirror that stops to sign does not make it unsigned"
    with pytest.raises(HeldUndecided):
        await change(bench, unsigned=True, confirm_unsigned=True, held=None)
    await change(bench, unsigned=True, confirm_unsigned=True)
    assert {entry.image for entry in await unvouched(bench)} == {str(NOBLE), LOADER}
    done, fetched = await fetched_by(bench, server)
    assert (done.state, fetched) == ("succeeded", [])
    assert (await bench.image(NOBLE)).vouched_by == [f"unsigned:{server.url}"]


async def test_what_only_an_address_vouched_for_lapses_when_the_source_is_signed_again(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    mirror.unsigned()
    await change(bench, unsigned=True, confirm_unsigned=True)
    await bench.select(NOBLE)
    await bench.import_now()
    before = await bench.manifest()
    assert before.entries
    done = await change(bench, keyring=mirror.keyring)
    assert {entry.image for entry in done.lapse.held} == {str(NOBLE), LOADER}
    await bench.select(NOBLE, JAMMY)
    assert (await offered(bench), await planned(bench)) == (set(), set())
    failed, fetched = await fetched_by(bench, server)
    assert (failed.error_code, fetched) == ("unsigned", [])
    assert await bench.manifest() == before
    assert (await bench.image(NOBLE)).status == "unvouched"
    mirror.sign_with(mirror.key)
    await bench.select(NOBLE)
    done_import, fetched = await fetched_by(bench, server)
    assert (done_import.state, fetched) == ("succeeded", [])
    assert (await bench.image(NOBLE)).vouched_by == [mirror.fingerprint]


async def test_an_unsigned_source_at_another_address_is_another_trust(
    bench: Bench, mirror: Mirror, server: Server
) -> None:
    mirror.unsigned()
    await change(bench, unsigned=True, confirm_unsigned=True)
    await bench.select(NOBLE)
    await bench.import_now()
    async with serve(mirror) as elsewhere:
        with pytest.raises(HeldUndecided):
            await change(bench, url=elsewhere.url, held=None)
        done = await change(bench, url=elsewhere.url)
        assert {entry.image for entry in done.lapse.held} == {str(NOBLE), LOADER}


# What other sources say


async def add_unsigned(bench: Bench, server: Server, *, priority: int) -> int:
    wished = sources.wish(name="third party", url=server.url, unsigned=True, priority=priority)
    async with transaction(bench.region.engine) as connection:
        return (await acts.add(connection, ANN, wished, NOW)).source.id


async def select(bench: Bench, *wished: tuple[int | None, ImageKey]) -> None:
    async with transaction(bench.region.engine) as connection:
        await select_images(connection, *wished)


async def test_a_third_party_does_not_take_the_bootloaders_over(bench: Bench, mirror: Mirror, tmp_path: Path) -> None:
    """An operator wants one image of it, and it has the greater priority and newer bootloaders."""
    await bench.select(NOBLE)
    await bench.import_now()
    before = await loaders(bench)
    assert before
    other = small_mirror(tmp_path / "other", seed=7)
    other.publish(os="pxelinux", version="29990101")
    async with serve(other) as serving:
        second = await bench.add_source(serving, other)
        await select(bench, (1, NOBLE), (second, JAMMY), (second, NOBLE))
        assert (await bench.import_now()).state == "succeeded"
        assert (await bench.image(NOBLE)).source_id == (await bench.image(JAMMY)).source_id == second
        assert {path.split("/")[0] for path in paths_asked(serving)} == {"noble", "jammy"}
    assert await loaders(bench) == before
    async with transaction(bench.region.engine) as connection:
        state = await effect.look(connection)
    assert {target.source_id for target in state.targets if target.bootloader} == {1}


async def loaders(bench: Bench) -> set[tuple[str, str]]:
    return {(entry.path, entry.sha256) for entry in (await bench.manifest()).entries if "bootloader" in entry.path}


def elsewhere(product: Fields) -> None:
    """Let the product's files be listed under paths where there are none."""
    for version in product["versions"].values():
        for item in version["items"].values():
            item["path"] = f"nowhere/{item['path']}"


async def test_a_source_that_lists_others_files_where_there_are_none_blocks_no_road(
    bench: Bench, mirror: Mirror, server: Server, tmp_path: Path
) -> None:
    liar, good = (copied(mirror, tmp_path / name) for name in ("liar", "good"))
    rewrite_products(liar, lambda product: True, elsewhere)
    liar.unsigned()
    async with serve(liar) as lying, serve(good) as helping:
        await add_unsigned(bench, lying, priority=90)
        await bench.add_source(helping, good, priority=5)
        await select(bench, (1, NOBLE))
        assert (await bench.import_now()).state == "succeeded"
        assert (paths_asked(lying), paths_asked(helping)) == ([], []), "the version's own source comes first"
        # Its own source lacks a file now: the liar's road leads nowhere, and the next one there.
        await select(bench, (1, NOBLE), (1, JAMMY))
        server.misbehave("jammy/*/squashfs", Status(404))
        assert (await bench.import_now()).state == "succeeded"
        squashfs = mirror.expected("jammy", "amd64", "ga-22.04")["squashfs"].path
        assert paths_asked(lying) == [f"nowhere/{squashfs}"]
        assert paths_asked(helping) == [squashfs]
    assert await bench.digests_at(slot("jammy", "22.04")) == digests(mirror.expected("jammy", "amd64", "ga-22.04"))
    assert (await bench.image(JAMMY)).vouched_by == [mirror.fingerprint]


def copied(mirror: Mirror, directory: Path) -> Mirror:
    """A mirror of the very same files by the same signer."""
    shutil.copytree(mirror.directory, directory)
    return Mirror.open(directory)


async def test_an_unsigned_source_wins_no_image_from_a_signed_one_unless_it_is_named(
    bench: Bench, mirror: Mirror, tmp_path: Path
) -> None:
    await select(bench, (None, NOBLE))
    await bench.import_now()
    before = await bench.manifest()
    other = small_mirror(tmp_path / "other", seed=7)
    other.publish(release="noble", arch="amd64")
    other.unsigned()
    async with serve(other) as serving:
        second = await add_unsigned(bench, serving, priority=90)
        assert (await bench.import_now("schedule")).state == "succeeded"
        assert await bench.manifest() == before
        assert paths_asked(serving) == []
        await select(bench, (second, NOBLE))
        assert (await bench.import_now()).state == "succeeded"
    image = await bench.image(NOBLE)
    assert (image.source_id, image.held_version) == (second, "20260702")


async def test_a_source_that_lapsed_loses_no_image_to_the_next(
    bench: Bench, mirror: Mirror, server: Server, tmp_path: Path
) -> None:
    await select(bench, (None, NOBLE))
    await bench.import_now()
    before = await bench.manifest()
    other = small_mirror(tmp_path / "other", seed=7)
    other.publish(release="noble", arch="amd64")
    async with serve(other) as serving:
        await bench.add_source(serving, other, priority=5)
        await change(bench, keyring=Key.generate().keyring)
        for trigger in ("schedule", "operator"):
            await bench.import_now(trigger)
            assert await bench.manifest() == before
        assert paths_asked(serving) == []


async def test_a_new_source_takes_nothing_from_those_there_are(bench: Bench, tmp_path: Path) -> None:
    await select(bench, (None, NOBLE))
    await bench.import_now()
    before = await bench.manifest()
    other = small_mirror(tmp_path / "other", seed=7)
    other.publish(release="noble", arch="amd64")
    async with serve(other) as serving:
        async with transaction(bench.region.engine) as connection:
            priority = await sources.lowest_priority(connection)
            wished = sources.wish(name="new", url=serving.url, keyring=other.keyring, priority=priority)
            await acts.add(connection, ANN, wished, NOW)
        assert (await bench.import_now()).state == "succeeded"
        assert paths_asked(serving) == []
    assert await bench.manifest() == before
