"""Enrolment of a rack: what is sent, what is kept, and what is refused."""

import asyncio
import os
import shutil
import stat
import subprocess
import sys
import tempfile
from asyncio.subprocess import PIPE
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import structlog
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from rack import identity as identities
from shared.errors import (
    BadSignature,
    BootferryError,
    Conflict,
    InvalidConfiguration,
    InvalidDocument,
    InvalidToken,
    TokenExpired,
    TokenSpent,
    WrongRegion,
)
from shared.http import client_session
from shared.names import Name
from shared.signing import fingerprint
from shared.wire.enrolment import EnrolmentToken
from tests.http.fake_region import FakeRegion

NAME = Name("rack-a")


@pytest.fixture
def open_to_all() -> Iterator[Path]:
    """A directory that every user can reach, and in it a file of root's elsewhere."""
    with tempfile.TemporaryDirectory() as directory:
        Path(directory).chmod(0o755)
        elsewhere = Path(directory) / "elsewhere"
        elsewhere.mkdir()
        (elsewhere / "shadow").write_text("root's own")
        yield Path(directory)


async def enrol(
    region: FakeRegion, root: Path, token: EnrolmentToken | None = None, *, again: bool = False
) -> identities.Identity:
    async with client_session() as session:
        return await identities.enrol(session, root, region.url, token or region.token, NAME, again=again)


async def test_an_enrolled_rack_knows_its_region_and_kept_its_key_to_itself(region: FakeRegion, tmp_path: Path) -> None:
    identity = await enrol(region, tmp_path)
    kept = identities.load(tmp_path)
    assert (kept.rack_id, kept.name, kept.region_url) == (identity.rack_id, NAME, region.url)
    assert fingerprint(kept.region_key) == fingerprint(region.key)
    assert fingerprint(kept.key) == fingerprint(region.racks[kept.rack_id])
    for name in ("rack.key", "region.json"):
        assert stat.S_IMODE((tmp_path / "identity" / name).stat().st_mode) == 0o600


async def test_the_secret_never_leaves_the_rack(region: FakeRegion, tmp_path: Path) -> None:
    await enrol(region, tmp_path)
    secret = str(region.token).rpartition("_")[2].encode()
    sent = b"".join(region.bodies) + repr([(r.path_qs, r.headers) for r in region.requests]).encode()
    kept = b"".join((tmp_path / "identity" / name).read_bytes() for name in ("rack.key", "region.json"))
    for text in (secret, region.token.secret, region.token.secret.hex().encode()):
        assert text not in sent + kept


async def test_nothing_is_sent_to_another_region(region: FakeRegion, tmp_path: Path) -> None:
    another = EnrolmentToken(fingerprint(Ed25519PrivateKey.generate()), region.token.secret)
    with pytest.raises(WrongRegion):
        await enrol(region, tmp_path, another)
    assert not region.seen("POST", "/")
    assert not (tmp_path / "identity").exists()


async def test_enrolling_again_takes_a_word_and_makes_a_new_key(region: FakeRegion, tmp_path: Path) -> None:
    first = await enrol(region, tmp_path)
    with pytest.raises(Conflict, match="--again"):
        await enrol(region, tmp_path)
    assert fingerprint(identities.load(tmp_path).key) == fingerprint(first.key)
    second = await enrol(region, tmp_path, again=True)
    assert second.rack_id != first.rack_id
    assert fingerprint(identities.load(tmp_path).key) == fingerprint(second.key) != fingerprint(first.key)


@pytest.mark.parametrize("error", [InvalidToken, TokenSpent, TokenExpired])
async def test_a_refused_token_leaves_the_earlier_enrolment_in_force(
    region: FakeRegion, tmp_path: Path, error: type[BootferryError]
) -> None:
    first = await enrol(region, tmp_path)
    region.token_fault = error.code
    with pytest.raises(error, match="make another one") as refused:
        await enrol(region, tmp_path, again=True)
    assert str(region.token).rpartition("_")[2] not in str(refused.value)
    assert fingerprint(identities.load(tmp_path).key) == fingerprint(first.key)


async def test_an_enrolment_cut_short_between_its_two_files_counts(region: FakeRegion, tmp_path: Path) -> None:
    identity = await enrol(region, tmp_path)
    directory = tmp_path / "identity"
    (directory / "rack.key").rename(directory / "rack.key.new")
    assert fingerprint(identities.load(tmp_path).key) == fingerprint(identity.key)


@pytest.mark.skipif(os.geteuid() != 0 or not shutil.which("setpriv"), reason="only root can give files away")
@pytest.mark.parametrize("spoilt", [False, True], ids=["as-it-was", "enrolled-by-root-before"])
async def test_what_root_types_leaves_a_rack_that_its_own_user_can_start(
    region: FakeRegion, open_to_all: Path, spoilt: bool
) -> None:
    root, elsewhere = open_to_all / "rack", open_to_all / "elsewhere"
    await enrol(region, root)
    os.chown(root, 12345, 12345)
    (root / "trap").symlink_to(elsewhere)
    os.link(elsewhere / "shadow", root / "another-name")
    if not spoilt:
        for path in (root / "identity", *(root / "identity").iterdir()):
            os.chown(path, 12345, 12345)
    for arguments in (["enrol", "--region", str(region.url), "--token", "-", "--again"], ["status"]):
        process = await asyncio.create_subprocess_exec(
            # The interpreter of these tests may be one that only root can read; files are the user's all the same.
            *("setpriv", "--securebits", "+no_setuid_fixup", sys.executable, "-m", "rack", *arguments),
            cwd=Path(__file__).parents[2],
            env={
                "PATH": os.environ["PATH"],
                "RACK_DATA_DIR": str(root),
                "BOOTFERRY_CONFIG_DIR": str(open_to_all / "none"),
            },
            stdin=PIPE,
            stdout=PIPE,
            stderr=PIPE,
        )
        _, err = await asyncio.wait_for(process.communicate(f"{region.token}\n".encode()), 20)
        assert process.returncode == 0, err.decode()
    owners = {path.name: path.lstat().st_uid for path in (root, *root.rglob("*"))}
    others = {owners.pop("trap"), owners.pop("another-name")}
    assert set(owners.values()) == {12345}, owners
    assert {"files", "incoming", "rack.key", "region.json"} <= set(owners)
    assert others == {elsewhere.stat().st_uid} == {(elsewhere / "shadow").stat().st_uid} == {0}


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give files away")
def test_nothing_is_given_away_behind_a_link_in_the_place_of_the_identity(open_to_all: Path) -> None:
    root, elsewhere = open_to_all / "rack", open_to_all / "elsewhere"
    root.mkdir()
    os.chown(root, 12345, 12345)
    (root / "identity").symlink_to(elsewhere)
    # In a process of its own: it becomes the owner for good.
    done = subprocess.run(
        [sys.executable, "-c", f"import pathlib, rack.owner; rack.owner.become_owner(pathlib.Path({str(root)!r}))"],
        cwd=Path(__file__).parents[2],
        check=False,
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    assert (elsewhere / "shadow").stat().st_uid == 0


@pytest.mark.parametrize(("busy", "status"), [(0, 0), (2, 0), (9, 1)], ids=["never", "for-a-while", "for-long"])
async def test_a_busy_region_is_asked_again_when_it_says(
    region: FakeRegion, tmp_path: Path, busy: int, status: int
) -> None:
    region.busy = busy
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "rack", "enrol", "--region", str(region.url), "--token", "-"),
        cwd=Path(__file__).parents[2],
        env={"PATH": os.environ["PATH"], "RACK_DATA_DIR": str(tmp_path), "BOOTFERRY_CONFIG_DIR": str(tmp_path)},
        stdin=PIPE,
        stdout=PIPE,
        stderr=PIPE,
    )
    _, err = await asyncio.wait_for(process.communicate(f"{region.token}\n".encode()), 40)
    assert process.returncode == status, err.decode()
    told = f"{region.url}/api/v1/racks/enrol answered 503: Too many ask at once. Trying again in "
    assert err.decode().count(told) == min(busy, 3)
    assert len(region.enrolments) == (1 if status == 0 else 0)


async def test_an_answer_by_somebody_else_is_refused(
    region: FakeRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, forger = region.key, Ed25519PrivateKey.generate()

    async def another_key(*arguments: object) -> object:
        region.key = forger
        return real.public_key()

    monkeypatch.setattr(identities, "_region_key", another_key)
    with pytest.raises(BadSignature):
        await enrol(region, tmp_path)
    with pytest.raises(InvalidConfiguration):
        identities.load(tmp_path)


SPOILS: list[object] = [
    pytest.param(lambda directory: (directory / "region.json").unlink(), InvalidConfiguration, id="not-enrolled"),
    pytest.param(lambda directory: (directory / "region.json").write_text("{"), InvalidDocument, id="no-json"),
    pytest.param(lambda directory: (directory / "region.json").write_text("{}"), InvalidDocument, id="fields-missing"),
    pytest.param(lambda directory: (directory / "rack.key").unlink(), InvalidDocument, id="key-missing"),
    pytest.param(lambda directory: (directory / "rack.key").write_text("x"), InvalidDocument, id="key-spoilt"),
]


@pytest.mark.parametrize(("spoil", "error"), SPOILS)
async def test_a_spoilt_identity_is_one_sentence(
    region: FakeRegion, tmp_path: Path, spoil: Callable[[Path], object], error: type[BootferryError]
) -> None:
    await enrol(region, tmp_path)
    spoil(tmp_path / "identity")
    with pytest.raises(error):
        identities.load(tmp_path)


async def test_a_request_says_the_time_and_is_one_of_its_own(region: FakeRegion, tmp_path: Path) -> None:
    for _ in range(2):
        await enrol(region, tmp_path, again=True)
    first, second = region.enrolments
    assert first.created_at is not None
    assert abs((first.created_at - datetime.now(UTC)).total_seconds()) < 60
    assert first.nonce != second.nonce


@pytest.mark.parametrize("off", [timedelta(days=3650), timedelta(minutes=-6)])
async def test_a_machine_whose_clock_is_wrong_enrols_by_the_regions(
    region: FakeRegion, tmp_path: Path, off: timedelta
) -> None:
    region.clock = lambda: datetime.now(UTC) + off
    with structlog.testing.capture_logs() as logs:
        identity = await enrol(region, tmp_path)
    assert fingerprint(identities.load(tmp_path).key) == fingerprint(identity.key)
    assert len(region.seen("POST", "/api/v1/racks/enrol")) == 2
    assert ["clock" in entry["event"] for entry in logs] == [True]


@pytest.mark.parametrize("forged", ["key", "nonce"])
async def test_nobody_else_tells_a_machine_that_enrols_the_time(
    region: FakeRegion, tmp_path: Path, forged: str
) -> None:
    region.clock = lambda: datetime.now(UTC) + timedelta(days=1)
    if forged == "key":
        region.correction_key = Ed25519PrivateKey.generate()
    else:
        region.answered_nonce = "f" * 32
    with pytest.raises(BadSignature):
        await enrol(region, tmp_path)
    assert len(region.seen("POST", "/api/v1/racks/enrol")) == 1


async def test_an_answer_to_another_request_is_refused(region: FakeRegion, tmp_path: Path) -> None:
    region.answered_nonce = "f" * 32
    with pytest.raises(BadSignature, match="another request"):
        await enrol(region, tmp_path)


async def test_enrolling_again_in_vain_loses_no_key_that_counts(region: FakeRegion, tmp_path: Path) -> None:
    # The process ended between its two files: the key that counts is called the new one.
    identity = await enrol(region, tmp_path)
    directory = tmp_path / "identity"
    (directory / "rack.key").rename(directory / "rack.key.new")
    region.token_fault = TokenSpent.code
    with pytest.raises(TokenSpent):
        await enrol(region, tmp_path, again=True)
    assert fingerprint(identities.load(tmp_path).key) == fingerprint(identity.key)


async def test_what_root_writes_belongs_to_whom_the_directory_belongs_to(
    region: FakeRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: list[tuple[str, int, int]] = []

    def chown(path: int | Path, user: int, group: int) -> None:
        name = Path(f"/proc/self/fd/{path}").readlink() if isinstance(path, int) else path
        given.append((Path(name).name, user, group))

    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr("os.chown", chown)
    monkeypatch.setattr("os.fchown", chown)
    await enrol(region, tmp_path)
    found = os.stat(tmp_path)  # noqa: PTH116
    mine = (found.st_uid, found.st_gid)
    assert given == [("identity", *mine), (".rack.key.new.new", *mine), (".region.json.new", *mine)]
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    given.clear()
    await enrol(region, tmp_path, again=True)
    assert given == []


async def test_what_an_enrolment_wrote_outlives_a_loss_of_power(
    region: FakeRegion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root, events, flush, replace = tmp_path / "new" / "rack", [], os.fsync, Path.replace

    def flushed(descriptor: int) -> None:
        events.append(str(Path(f"/proc/self/fd/{descriptor}").readlink()).removeprefix(str(tmp_path)))
        flush(descriptor)

    def replaced(self: Path, target: Path) -> Path:
        events.append(f"{self.name} becomes {Path(target).name}")
        return replace(self, target)

    monkeypatch.setattr("os.fsync", flushed)
    monkeypatch.setattr(Path, "replace", replaced)
    await enrol(region, root)
    directory = "/new/rack/identity"
    assert events == [
        *("", "/new", "/new/rack"),
        *(f"{directory}/.rack.key.new.new", ".rack.key.new.new becomes rack.key.new", directory),
        *(f"{directory}/.region.json.new", ".region.json.new becomes region.json", directory),
        *("rack.key.new becomes rack.key", directory),
    ]
