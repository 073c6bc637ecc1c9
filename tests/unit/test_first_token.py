"""The first administrator's token is left in a file that nobody else has had a hand in."""

import os
import re
import stat
from pathlib import Path

import pytest

from region.actions import first_start
from shared.errors import InvalidConfiguration

TOKEN, EARLIER = (f"bf_0123456789ab_{letter * 43}" for letter in "xy")


def leave(path: Path) -> None:
    first_start._leave_token(path, TOKEN)


def test_it_is_for_its_owner_only(tmp_path: Path) -> None:
    path = tmp_path / "new" / "admin-token"
    leave(path)
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (f"{TOKEN}\n", 0o600)
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_what_a_start_that_broke_off_has_left_is_replaced_by_a_new_file(tmp_path: Path) -> None:
    path = tmp_path / "admin-token"
    path.write_text(f"{EARLIER}\n")
    path.chmod(0o644)
    with path.open() as held_open:
        leave(path)
        assert held_open.read() == f"{EARLIER}\n", "whoever has the old file open reads nothing new"
    assert (path.read_text(), stat.S_IMODE(path.stat().st_mode)) == (f"{TOKEN}\n", 0o600)


@pytest.mark.parametrize(
    "what", ["a link", "a link to nowhere", "a directory", "a pipe", "another file", "an empty file"]
)
def test_anything_else_stays_and_ends_the_start_with_a_sentence(tmp_path: Path, what: str) -> None:
    path, victim = tmp_path / "admin-token", tmp_path / "victim"
    victim.write_text(f"{EARLIER}\n")
    match what:
        case "a link":
            path.symlink_to(victim)
        case "a link to nowhere":
            path.symlink_to(tmp_path / "nowhere")
        case "a directory":
            path.mkdir()
        case "a pipe":
            os.mkfifo(path)
        case "another file":
            path.write_text("precious")
        case "an empty file":
            path.write_text("")
    before = path.lstat()
    with pytest.raises(InvalidConfiguration, match=re.escape(str(path))):
        leave(path)
    assert (path.lstat().st_ino, path.lstat().st_mode) == (before.st_ino, before.st_mode)
    assert victim.read_text() == f"{EARLIER}\n"
    assert not (tmp_path / "nowhere").exists()


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"")
    with pytest.raises(InvalidConfiguration, match="REGION_ADMIN_TOKEN_FILE"):
        leave(tmp_path / "file" / "admin-token")
