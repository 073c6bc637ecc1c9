"""A stored file that cannot be read: 503 before anything is sent, and whoever asked hears when to come again."""

import errno
import os
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

from region.edge.content import file_response
from shared.digest import Sha256
from shared.errors import Unavailable
from shared.store.disk import DiskFile, DiskStore
from tests.stores import descriptors, put, stored_path

CONTENT = b"a kernel"
SHA256, SIZE = Sha256.of(CONTENT), len(CONTENT)


@pytest.fixture
def store(tmp_path: Path) -> DiskStore:
    store = DiskStore(tmp_path / "store")
    put(store, CONTENT)
    return store


def asked(method: str = "GET", **headers: str) -> Request:
    lines = [(name.encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": method, "path": "/", "query_string": b"", "headers": lines})


@pytest.mark.parametrize("number", [errno.EMFILE, errno.EIO, errno.EACCES, errno.ESTALE])
@pytest.mark.parametrize(
    "request_",
    [
        pytest.param(asked(), id="all of it"),
        pytest.param(asked(range="bytes=3-"), id="a part"),
        pytest.param(asked("HEAD"), id="its head"),
    ],
)
@pytest.mark.parametrize("when", ["open", "read"])
async def test_a_file_that_cannot_be_read_is_unavailable_before_anything_is_sent(
    store: DiskStore, monkeypatch: pytest.MonkeyPatch, number: int, when: str, request_: Request
) -> None:
    def fail(*_args: Any, **_options: Any) -> Any:
        raise OSError(number, os.strerror(number))

    before = descriptors()
    target: object = os if when == "open" else DiskFile
    monkeypatch.setattr(target, "open" if when == "open" else "read_at", fail)
    with pytest.raises(Unavailable, match=r"cannot be read just now .*; try again in"):
        await file_response(request_, store, SHA256, SIZE)
    monkeypatch.undo()
    assert descriptors() == before
    assert store.has(SHA256, SIZE)


async def test_a_file_behind_a_link_is_not_served(store: DiskStore, tmp_path: Path) -> None:
    stored_path(store, SHA256).parent.rename(tmp_path / "elsewhere")
    stored_path(store, SHA256).parent.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(Unavailable, match="is not as it was verified"):
        await file_response(asked(), store, SHA256, SIZE)
