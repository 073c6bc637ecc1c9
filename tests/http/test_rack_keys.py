"""The region's key was rotated: a rack follows by the old key's word, keeps what it has, and never goes back."""

import asyncio
import json
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rack import identity as identities
from rack.state import State
from shared.errors import BadSignature, Conflict, DiskFailed, HttpStatus, InvalidRequestSignature, WrongRegion
from shared.http import client_session
from shared.names import Name
from shared.signing import encode_bytes, fingerprint, public_bytes
from shared.wire.succession import sign
from tests.http.fake_region import FakeRegion, tree_bytes, ubuntu
from tests.http.running_rack import Rack, running_rack

KERNEL = "ubuntu/amd64/ga-24.04/noble/stable/boot-kernel"


def believed(root: Path) -> str:
    """The fingerprint of the key that is kept on the disk as the region's."""
    return fingerprint(identities.load(root).region_key)


async def polled(region: FakeRegion, root: Path, version: str = "1") -> None:
    """A rack that has enrolled, shows this version, and has ended."""
    region.publish(ubuntu(version))
    async with running_rack(region, root) as rack:
        await rack.poller.poll()
        assert rack.error() is None


@pytest.mark.parametrize("in_overlap", [True, False], ids=["its requests are still taken", "its requests are refused"])
async def test_a_rack_follows_within_the_poll_that_meets_the_new_key(
    region: FakeRegion, tmp_path: Path, in_overlap: bool
) -> None:
    region.publish(ubuntu("1"))
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        if in_overlap:
            region.formerly = [fingerprint(region.key)]
        region.rotate()
        newest = region.publish(ubuntu("2"))
        await rack.poller.poll()
        assert rack.error() is None
        assert (tree_bytes(tmp_path), rack.poller.floor) == (ubuntu("2"), newest.order)
        assert believed(tmp_path) == fingerprint(region.key)
        assert {report.error.code for report in region.reports} == {""}
        # It means the region by its new key: nothing depends on the overlap any more.
        region.formerly.clear()
        refused = len(region.refused)
        await rack.poller.poll()
        assert (rack.error(), len(region.refused)) == (None, refused)
        assert len(region.seen("GET", "/api/v1/region/keys")) == 1
    [asked] = region.seen("GET", "/api/v1/region/keys")
    assert not [name for name in asked.headers if name.lower().startswith(("signature", "bootferry"))]


async def test_a_rack_that_was_away_follows_over_two_rotations_at_once(region: FakeRegion, tmp_path: Path) -> None:
    await polled(region, tmp_path)
    first = fingerprint(region.key)
    region.rotate()
    second = fingerprint(region.key)
    region.rotate()
    region.publish(ubuntu("2"))
    async with running_rack(region, tmp_path) as rack:
        assert await rack.boot(KERNEL) == (200, ubuntu("1")[KERNEL]), "machines boot meanwhile"
        await rack.poller.poll()
        assert rack.error() is None
    kept = identities.load(tmp_path)
    assert fingerprint(kept.region_key) == fingerprint(region.key)
    assert [fingerprint(key) for key in kept.former] == [first, second]
    assert tree_bytes(tmp_path) == ubuntu("2")


async def test_what_was_kept_counts_after_a_restart_in_the_middle(region: FakeRegion, tmp_path: Path) -> None:
    await polled(region, tmp_path)
    before, floor = fingerprint(region.key), region.order
    region.rotate()
    region.manifest_status = 503
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        assert isinstance(rack.error(), HttpStatus)
    assert believed(tmp_path) == fingerprint(region.key) != before
    # As if the process had ended between the two files.
    state = State.load(tmp_path)
    state.region = before
    state.save(tmp_path)
    async with running_rack(region, tmp_path) as rack:
        assert rack.poller.floor == floor
        assert rack.poller.belief.manifest is not None
        assert await rack.boot(KERNEL) == (200, ubuntu("1")[KERNEL])
        # What the new key has signed, but of an earlier number, is not taken.
        region.manifest_status, region.order = 200, (floor[0] - 1, floor[1])
        region.publish(ubuntu("0"))
        await rack.poller.poll()
        assert rack.error() is not None and rack.error().code == "too_old"  # type: ignore[union-attr]
    assert tree_bytes(tmp_path) == ubuntu("1")


async def test_the_floor_is_the_regions_whichever_key_has_set_it(region: FakeRegion, tmp_path: Path) -> None:
    await polled(region, tmp_path)
    before, floor = fingerprint(region.key), region.order
    region.rotate()
    region.manifest_status = 503
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        assert rack.poller.floor == floor
    state = State.load(tmp_path)
    assert state.region == fingerprint(region.key)
    # As if the process had ended between the two files; and the manifest is gone, which would say the number too.
    state.region = before
    state.save(tmp_path)
    (tmp_path / "manifest.json").unlink()
    async with running_rack(region, tmp_path) as rack:
        assert rack.poller.floor == floor


async def test_a_key_is_kept_before_it_is_believed(
    region: FakeRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await polled(region, tmp_path)
    before = fingerprint(region.key)
    region.rotate()
    region.publish(ubuntu("2"))
    async with running_rack(region, tmp_path) as rack:
        with monkeypatch.context() as broken:

            def refuse(path: Path, *_: object, **__: object) -> None:
                raise OSError(5, "Input/output error", str(path))

            broken.setattr(identities, "write_whole", refuse)
            await rack.poller.poll()
        assert isinstance(rack.error(), DiskFailed)
        assert (believed(tmp_path), tree_bytes(tmp_path)) == (before, ubuntu("1"))
        assert await rack.boot(KERNEL) == (200, ubuntu("1")[KERNEL])
        await rack.poller.poll()
        assert rack.error() is None
    assert (believed(tmp_path), tree_bytes(tmp_path)) == (fingerprint(region.key), ubuntu("2"))


@pytest.mark.parametrize("restarted", [False, True], ids=["the same process", "after a restart"])
async def test_who_has_stolen_the_old_key_moves_no_rack_that_has_followed(
    region: FakeRegion, tmp_path: Path, restarted: bool
) -> None:
    await polled(region, tmp_path)
    stolen = region.key
    region.rotate()
    region.publish(ubuntu("2"))

    async def attacked(rack: Rack) -> None:
        real, thief = region.key, Ed25519PrivateKey.generate()
        # The thief answers in the region's place, with a manifest of a later epoch.
        region.order = (region.order[0] + 100, 0)
        for key, chain in (
            (stolen, [sign(stolen, thief.public_key(), region.clock())]),
            (thief, [sign(stolen, thief.public_key(), region.clock())]),
            (thief, [*region.successions, sign(stolen, thief.public_key(), region.clock())]),
            (stolen, [sign(real, stolen.public_key(), region.clock())]),
        ):
            region.manifest_key = key
            kept, region.successions = region.successions, chain
            region.publish({})
            await rack.poller.poll()
            region.successions = kept
            assert isinstance(rack.error(), BadSignature)
            assert tree_bytes(tmp_path) == ubuntu("2")
            assert believed(tmp_path) == fingerprint(real)

    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        assert rack.error() is None
        if not restarted:
            await attacked(rack)
    if restarted:
        async with running_rack(region, tmp_path) as rack:
            await attacked(rack)


async def test_a_chain_that_does_not_hold_changes_nothing(region: FakeRegion, tmp_path: Path) -> None:
    await polled(region, tmp_path)
    before = fingerprint(region.key)
    stranger = Ed25519PrivateKey.generate()
    region.rotate()
    [good] = region.successions
    forged = sign(stranger, region.key.public_key(), region.clock())
    region.successions = [type(good)(good.key, forged.envelope)]
    region.publish(ubuntu("2"))
    async with running_rack(region, tmp_path) as rack:
        await rack.poller.poll()
        assert isinstance(rack.error(), BadSignature)
        assert (believed(tmp_path), tree_bytes(tmp_path)) == (before, ubuntu("1"))
        region.successions = [good]
        await rack.poller.poll()
        assert rack.error() is None
    assert tree_bytes(tmp_path) == ubuntu("2")


async def test_another_region_at_the_address_is_told_as_before(region: FakeRegion, tmp_path: Path) -> None:
    await polled(region, tmp_path)
    region.key = Ed25519PrivateKey.generate()
    async with running_rack(region, tmp_path) as rack:
        for region.keys_status in (200, 404):
            await rack.poller.poll()
            assert isinstance(rack.error(), InvalidRequestSignature)
    assert tree_bytes(tmp_path) == ubuntu("1")


async def test_a_rack_with_a_wrong_clock_follows_and_is_told_the_time_by_the_new_key(
    region: FakeRegion, tmp_path: Path
) -> None:
    await polled(region, tmp_path)
    region.formerly = [fingerprint(region.key)]
    region.rotate()
    region.publish(ubuntu("2"))
    async with running_rack(region, tmp_path) as rack:
        rack.link_clock.offset = timedelta(days=-400)
        await rack.poller.poll()
        assert rack.error() is None
    assert tree_bytes(tmp_path) == ubuntu("2")


async def test_a_process_that_runs_leaves_a_new_enrolment_alone(region: FakeRegion, tmp_path: Path) -> None:
    await polled(region, tmp_path)
    async with running_rack(region, tmp_path) as rack:
        async with client_session() as session:
            await identities.enrol(session, tmp_path, region.url, region.token, Name("rack-b"), again=True)
        kept = (tmp_path / "identity" / "region.json").read_bytes()
        region.rotate()
        region.publish(ubuntu("2"))
        await rack.poller.poll()
        assert isinstance(rack.error(), Conflict)
    assert (tmp_path / "identity" / "region.json").read_bytes() == kept


async def test_what_a_process_of_an_earlier_enrolment_learned_is_not_written_over_a_new_one(
    region: FakeRegion, tmp_path: Path
) -> None:
    await polled(region, tmp_path)
    before = identities.load(tmp_path)
    async with client_session() as session:
        await identities.enrol(session, tmp_path, region.url, region.token, Name("rack-b"), again=True)
    kept = (tmp_path / "identity" / "region.json").read_bytes()
    region.rotate()
    with pytest.raises(Conflict, match="enrolled again"):
        identities.follow(tmp_path, before, region.successions)
    assert (tmp_path / "identity" / "region.json").read_bytes() == kept
    assert before.region_key != region.key.public_key()


async def test_a_token_from_before_a_rotation_still_enrols(region: FakeRegion, tmp_path: Path) -> None:
    region.rotate()
    region.rotate()
    async with client_session() as session:
        made = await identities.enrol(session, tmp_path, region.url, region.token, Name("rack-a"))
    assert region.token.region_fingerprint != fingerprint(region.key)
    assert fingerprint(made.region_key) == believed(tmp_path) == fingerprint(region.key)
    assert [asked.region_fingerprint for asked in region.enrolments] == [fingerprint(region.key)]


async def test_a_token_enrols_nowhere_that_its_key_does_not_vouch_for(region: FakeRegion, tmp_path: Path) -> None:
    region.rotate()
    region.key = Ed25519PrivateKey.generate()
    async with client_session() as session:
        for region.keys_status in (200, 404):
            with pytest.raises(WrongRegion):
                await identities.enrol(session, tmp_path, region.url, region.token, Name("rack-a"))
    assert not region.seen("POST", "/")


async def test_an_identity_of_before_has_no_former_keys(region: FakeRegion, tmp_path: Path) -> None:
    await polled(region, tmp_path)
    document = json.loads((tmp_path / "identity" / "region.json").read_bytes())
    assert "former_region_keys" not in document
    assert document["region_key"] == encode_bytes(public_bytes(region.key))
    assert identities.load(tmp_path).former == ()


async def test_a_region_that_drips_its_keys_ends_the_asking(region: FakeRegion, tmp_path: Path) -> None:
    await polled(region, tmp_path)
    region.rotate()
    region.drips.add("keys")
    async with running_rack(region, tmp_path, ask_within_s=0.5) as rack:
        async with asyncio.timeout(10.0):
            await rack.poller.poll()
        assert isinstance(rack.error(), InvalidRequestSignature)
    assert tree_bytes(tmp_path) == ubuntu("1")
