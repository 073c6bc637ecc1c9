"""The directory of the region's keys: where it is, how keys are made, and that a loss of power costs none of them."""

import os
import stat
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from region import keys
from region.configuration import RegionConfiguration
from region.secrets import fingerprint_of
from shared.errors import InvalidConfiguration
from shared.signing import fingerprint, load_or_create_key


def configured(tmp_path: Path, **given: object) -> RegionConfiguration:
    return RegionConfiguration(data_dir=tmp_path / "region", **given)  # type: ignore[arg-type]


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


def test_the_first_start_makes_both_keys_for_its_owner_only(tmp_path: Path) -> None:
    found = keys.load(configured(tmp_path))
    assert found.directory == tmp_path / "region" / "keys"
    assert {path.name: mode_of(path) for path in found.directory.iterdir()} == {
        "region.key": 0o600,
        "secrets.key": 0o600,
    }
    assert mode_of(found.directory) == 0o700
    assert len((found.directory / "secrets.key").read_bytes()) == 32
    again = keys.load(configured(tmp_path))
    assert fingerprint(again.signing) == fingerprint(found.signing)
    assert again.secrets.fingerprint == found.secrets.fingerprint


def test_every_name_on_the_way_to_a_key_is_flushed_before_the_key_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    flushed: list[str] = []
    flush = os.fsync

    def fsync(descriptor: int) -> None:
        flush(descriptor)
        place = Path(f"/proc/self/fd/{descriptor}").readlink()
        flushed.append(os.path.relpath(place, tmp_path) if place.is_dir() else "a file")

    monkeypatch.setattr(os, "fsync", fsync)
    keys.load(configured(tmp_path))
    # The data directory in its parent, the keys' directory in it; then each key, and its name.
    assert flushed == [".", "region", "a file", "region/keys", "a file", "region/keys"]
    flushed.clear()
    keys.load(configured(tmp_path))
    assert set(flushed) == {"region/keys"}, "another process may have made them just now"


def test_the_key_of_a_region_of_before_is_moved_over(tmp_path: Path) -> None:
    before = load_or_create_key(tmp_path / "region" / "region.key")
    found = keys.load(configured(tmp_path))
    assert fingerprint(found.signing) == fingerprint(before)
    assert not (tmp_path / "region" / "region.key").exists()
    assert mode_of(found.directory / "region.key") == 0o600


def test_a_key_is_moved_over_to_another_file_system_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    before = load_or_create_key(tmp_path / "region" / "region.key")
    link = os.link

    def elsewhere(source: Path, target: Path) -> None:
        if Path(source).parent != Path(target).parent:
            raise OSError(18, "Invalid cross-device link")
        link(source, target)

    monkeypatch.setattr(os, "link", elsewhere)
    found = keys.load(configured(tmp_path, keys=tmp_path / "elsewhere"))
    assert fingerprint(found.signing) == fingerprint(before)
    assert not (tmp_path / "region" / "region.key").exists()


def test_a_key_that_is_there_is_never_replaced(tmp_path: Path) -> None:
    found = keys.load(configured(tmp_path))
    other = load_or_create_key(tmp_path / "region" / "region.key")
    assert fingerprint(keys.load(configured(tmp_path)).signing) == fingerprint(found.signing) != fingerprint(other)
    assert (tmp_path / "region" / "region.key").exists()


def test_processes_that_start_together_have_the_same_keys(tmp_path: Path) -> None:
    load_or_create_key(tmp_path / "region" / "region.key")
    with ThreadPoolExecutor(8) as pool:
        found = list(pool.map(keys.load, [configured(tmp_path)] * 8))
    assert len({fingerprint(entry.signing) for entry in found}) == 1
    assert len({entry.secrets.fingerprint for entry in found}) == 1


def test_systemds_credentials_are_used_when_a_key_is_among_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(credentials))
    (credentials / "REGION_PORT").write_text("5555")
    assert keys.load(configured(tmp_path)).directory == tmp_path / "region" / "keys"
    given = load_or_create_key(credentials / "region.key")
    with pytest.raises(InvalidConfiguration, match=r"secrets\.key"):
        keys.load(configured(tmp_path))
    (credentials / "secrets.key").write_bytes(b"k" * 32)
    before = sorted(credentials.iterdir())
    found = keys.load(configured(tmp_path))
    assert found.directory == credentials
    assert fingerprint(found.signing) == fingerprint(given)
    assert found.secrets.fingerprint == fingerprint_of(b"k" * 32)
    assert sorted(credentials.iterdir()) == before


@pytest.mark.parametrize(
    ("name", "content", "why"),
    [
        pytest.param("region.key", b"noise", "not a PEM private key", id="no key"),
        pytest.param("secrets.key", b"", "must hold 32 bytes", id="an empty one"),
        pytest.param("secrets.key", b"k" * 31, "must hold 32 bytes", id="one that was cut"),
    ],
)
def test_a_spoilt_key_ends_the_process_with_a_sentence_and_stays(
    tmp_path: Path, name: str, content: bytes, why: str
) -> None:
    path = tmp_path / "region" / "keys" / name
    path.parent.mkdir(parents=True)
    path.write_bytes(content)
    with pytest.raises(InvalidConfiguration, match=why):
        keys.load(configured(tmp_path))
    assert path.read_bytes() == content


def test_a_directory_that_cannot_be_used_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidConfiguration, match="file"):
        keys.load(configured(tmp_path, keys=tmp_path / "file"))
