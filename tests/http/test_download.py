"""One file into a store, from a server that behaves and from servers that do not."""

import asyncio
import errno
import os
import random
import resource
import threading
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, ParamSpec, TypeVar

import aiohttp
import pytest
from yarl import URL

from deploy.local.mirror.faults import (
    Cut,
    Endless,
    Fault,
    Flip,
    Gzip,
    Hang,
    HugeHeader,
    IgnoreRange,
    Redirect,
    Slow,
    Status,
    WrongLength,
)
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from shared.digest import Hasher, Sha256
from shared.download import CHUNK_SIZE, Transfer, download
from shared.errors import (
    BootferryError,
    ConnectionLost,
    DiskFailed,
    FetchError,
    HttpStatus,
    NoRoom,
    RedirectRefused,
    TimedOut,
    TooSlow,
    WrongDigest,
    WrongSize,
)
from shared.http import client_session
from shared.pace import Pace
from shared.store.base import Store
from shared.store.disk import DiskStore
from tests.http.raw_server import raw_server, response
from tests.stores import content_of, incoming_path, put, stored_path
from tests.unit.memory_store import MemoryStore

P = ParamSpec("P")
T = TypeVar("T")

PATH = "noble/amd64/20260701/squashfs"
CONTENT = random.Random(1).randbytes(3_000_123)
SIZE = len(CONTENT)
SHA256 = Sha256.of(CONTENT)
READ_TIMEOUT_S = 1.5


@dataclass(frozen=True)
class Client:
    """A store, and the means to fetch into it."""

    store: Store
    transfer: Transfer
    seen: list[int] = field(default_factory=list)

    async def fetch(self, url: str, content: bytes = CONTENT, *, size: int | None = None) -> None:
        """Fetch what should be `content`, and see that no file of the store stays open, whatever comes of it."""
        self.seen.clear()
        try:
            await download(
                self.transfer,
                self.store,
                URL(url),
                Sha256.of(content),
                len(content) if size is None else size,
                self.seen.append,
            )
        finally:
            assert self.open_files() == []

    def open_files(self) -> list[str]:
        found = []
        for entry in Path("/proc/self/fd").iterdir():
            with suppress(OSError):
                found.append(str(entry.readlink()))
        return [path for path in found if path.startswith(self.store.where)]

    def begun(self, content: bytes = CONTENT) -> bytes | None:
        """What is collected of the file."""
        if isinstance(self.store, MemoryStore):
            arrived = self.store.arriving.get(Sha256.of(content))
            return None if arrived is None else bytes(arrived)
        path = incoming_path(self.store, Sha256.of(content))
        return path.read_bytes() if path.exists() else None

    def begin(self, prefix: bytes, content: bytes = CONTENT) -> None:
        if isinstance(self.store, MemoryStore):
            self.store.arriving[Sha256.of(content)] = bytearray(prefix)
        else:
            incoming_path(self.store, Sha256.of(content)).write_bytes(prefix)

    def holds(self, content: bytes = CONTENT) -> bool:
        sha256 = Sha256.of(content)
        return content_of(self.store, sha256, len(content)) == content and self.begun(content) is None


@pytest.fixture(autouse=True)
def _no_system_certificates(monkeypatch: pytest.MonkeyPatch) -> None:
    """They are not what is tested here, and reading them takes 50 ms a session."""
    monkeypatch.setenv("SSL_CERT_FILE", "/dev/null")
    monkeypatch.setenv("SSL_CERT_DIR", "/nonexistent")


@pytest.fixture
def executor() -> Iterator[ThreadPoolExecutor]:
    with ThreadPoolExecutor(4) as pool:
        yield pool


@pytest.fixture
def store(request: pytest.FixtureRequest, tmp_path: Path) -> Store:
    """A store on a disk, or another where a test asks for that."""
    return MemoryStore() if getattr(request, "param", "disk") == "memory" else DiskStore(tmp_path / "store")


any_store = pytest.mark.parametrize("store", ["disk", "memory"], indirect=True)
"""The download knows the contract only: these hold with every store."""


@pytest.fixture
async def client(store: Store, executor: ThreadPoolExecutor) -> AsyncIterator[Client]:
    async with client_session(connect_timeout_s=2, read_timeout_s=READ_TIMEOUT_S) as session:
        yield Client(store, Transfer(session, executor))


@pytest.fixture
async def upstream(tmp_path: Path) -> AsyncIterator[Server]:
    mirror = Mirror(tmp_path / "mirror", Key.generate(), signer=None)
    publish(mirror.root, CONTENT)
    async with serve(mirror) as server:
        yield server


def publish(root: Path, content: bytes, path: str = PATH) -> None:
    (root / path).parent.mkdir(parents=True, exist_ok=True)
    (root / path).write_bytes(content)


# --- a server that behaves ----------------------------------------------------------------------------------------


@any_store
@pytest.mark.parametrize("size", [1, 1000, CHUNK_SIZE - 1, CHUNK_SIZE, CHUNK_SIZE + 1, SIZE])
async def test_a_file_arrives(upstream: Server, client: Client, size: int) -> None:
    publish(upstream.root, content := CONTENT[:size])
    await client.fetch(upstream.url + PATH, content)
    assert client.holds(content)
    assert client.seen == sorted(client.seen)
    assert (client.seen[0], client.seen[-1]) == (0, size)
    assert [(request.range, request.status) for request in upstream.asked()] == [(None, 200)]


@any_store
async def test_a_held_file_is_not_asked_for(upstream: Server, client: Client) -> None:
    await client.fetch(upstream.url + PATH)
    await client.fetch(upstream.url + PATH)
    assert len(upstream.asked()) == 1
    assert client.seen == [SIZE]


@any_store
async def test_a_touched_file_is_replaced(upstream: Server, client: Client) -> None:
    await client.fetch(upstream.url + PATH)
    client.store.disown(SHA256)
    await client.fetch(upstream.url + PATH)
    assert client.holds()


@any_store
async def test_an_empty_file_needs_no_request(upstream: Server, client: Client) -> None:
    await client.fetch(upstream.url + PATH, b"")
    assert client.holds(b"")
    assert upstream.asked() == []


@any_store
async def test_files_arrive_side_by_side(upstream: Server, client: Client) -> None:
    contents = [CONTENT[start:] for start in range(0, 3_000_000, 400_000)]
    for number, content in enumerate(contents):
        publish(upstream.root, content, f"side/{number}")
    clients = [replace(client, seen=[]) for _ in contents]
    await asyncio.gather(
        *(
            download(
                one.transfer,
                one.store,
                URL(f"{upstream.url}side/{number}"),
                Sha256.of(content),
                len(content),
                one.seen.append,
            )
            for number, (one, content) in enumerate(zip(clients, contents, strict=True))
        )
    )
    assert all(client.holds(content) for content in contents)
    assert [one.seen[-1] for one in clients] == [len(content) for content in contents]


@any_store
async def test_the_same_file_asked_for_twice_at_once_is_held_in_the_end(upstream: Server, client: Client) -> None:
    upstream.misbehave("*", Slow(20_000_000), times=1)
    another = replace(client, seen=[])
    ended = await asyncio.gather(
        *(
            download(one.transfer, one.store, URL(upstream.url + PATH), SHA256, SIZE, one.seen.append)
            for one in (client, another)
        ),
        return_exceptions=True,
    )
    # One may refuse in favour of the other; it must do so in words, and harm nothing.
    assert [error for error in ended if error and not isinstance(error, BootferryError)] == []
    assert client.holds()
    assert client.open_files() == []


async def test_a_redirect_is_followed_and_resumed_through(upstream: Server, client: Client) -> None:
    upstream.misbehave("old/*", Redirect("/" + PATH))
    client.begin(CONTENT[:1000])
    await client.fetch(upstream.url + "old/squashfs")
    assert client.holds()
    assert [request.range for request in upstream.asked(PATH)] == ["bytes=1000-"]


async def test_every_request_is_signed_for_what_it_asks(client: Client) -> None:
    def answer(head: str) -> bytes:
        rest = CONTENT[10:100]
        return response(rest, "206 Partial Content", Content_Range="bytes 10-99/100") if "Range:" in head else b""

    signed: list[tuple[str, str, bytes | None]] = []

    def sign(method: str, target: str, body: bytes | None) -> dict[str, str]:
        signed.append((method, target, body))
        return {"Signature": f"rack=:{len(signed)}:"}

    signing = replace(client, transfer=replace(client.transfer, sign=sign))
    signing.begin(CONTENT[:10], CONTENT[:100])
    async with raw_server(answer) as (url, heads):
        await signing.fetch(f"{url}s/a%20b?x=%26", CONTENT[:100])
    assert signed == [("GET", "/files/a%20b?x=%26", None)]
    assert "Signature: rack=:1:\r\n" in heads[0]
    assert "Range: bytes=10-\r\n" in heads[0]
    assert "Accept-Encoding: identity\r\n" in heads[0]


# --- resuming -----------------------------------------------------------------------------------------------------


@any_store
@pytest.mark.parametrize("length", [1, CHUNK_SIZE, SIZE - 1])
async def test_a_prefix_is_resumed(upstream: Server, client: Client, length: int) -> None:
    client.begin(CONTENT[:length])
    await client.fetch(upstream.url + PATH)
    assert client.holds()
    assert [(request.range, request.status) for request in upstream.asked()] == [(f"bytes={length}-", 206)]
    assert (client.seen[0], client.seen[-1]) == (length, SIZE)


@any_store
async def test_a_whole_prefix_needs_no_request(upstream: Server, client: Client) -> None:
    client.begin(CONTENT)
    await client.fetch(upstream.url + PATH)
    assert client.holds()
    assert upstream.asked() == []


WRONG_PREFIXES = [
    pytest.param(b"x" * 1000, ["bytes=1000-", None], id="of-another-file"),
    pytest.param(CONTENT[1:SIZE], [f"bytes={SIZE - 1}-", None], id="shifted"),
    pytest.param(b"x" * SIZE, [None], id="as-long-as-the-file"),
    pytest.param(CONTENT + b"x", [None], id="longer-than-the-file"),
]


@any_store
@pytest.mark.parametrize(("prefix", "ranges"), WRONG_PREFIXES)
async def test_a_wrong_prefix_is_given_up_for_the_whole(
    upstream: Server, client: Client, prefix: bytes, ranges: list[str | None]
) -> None:
    client.begin(prefix)
    await client.fetch(upstream.url + PATH)
    assert client.holds()
    assert [request.range for request in upstream.asked()] == ranges
    assert (0 in client.seen, client.seen[-1]) == (True, SIZE)


@any_store
async def test_a_server_without_ranges_sends_the_whole(upstream: Server, client: Client) -> None:
    upstream.misbehave("*", IgnoreRange())
    client.begin(b"x" * 1000)
    await client.fetch(upstream.url + PATH)
    assert client.holds()
    assert len(upstream.asked()) == 1


@any_store
async def test_a_file_that_shrank_upstream_is_known_by_its_size(upstream: Server, client: Client) -> None:
    publish(upstream.root, CONTENT[:500])
    client.begin(CONTENT[:1000])
    with pytest.raises(WrongSize) as caught:
        await client.fetch(upstream.url + PATH)
    assert (caught.value.expected, caught.value.found) == (SIZE, 500)
    assert [request.status for request in upstream.asked()] == [416, 200]
    assert client.begun() is None


async def test_a_prefix_left_read_only_by_a_crash_is_resumed(upstream: Server, client: Client) -> None:
    # A process killed while `commit` flushes leaves the whole file read-only in incoming/.
    client.begin(CONTENT[:1000])
    incoming_path(client.store, SHA256).chmod(0o444)
    root = Path(client.store.where)
    with unprivileged(root, root / "incoming", incoming_path(client.store, SHA256)):
        await client.fetch(upstream.url + PATH)
    assert client.holds()


@contextmanager
def unprivileged(*paths: Path) -> Iterator[None]:
    """Inside, this process may do what an ordinary user may who owns `paths`."""
    if os.geteuid() != 0:
        yield
        return
    nobody = 65534
    for path in (paths[0].parent, paths[0] / "files", *paths):
        os.chown(path, nobody, nobody)
    closed = [path for path in paths[0].parents if path.stat().st_mode & 0o005 != 0o005]
    modes = {path: path.stat().st_mode for path in closed}
    for path in closed:
        path.chmod(0o755)
    os.seteuid(nobody)
    try:
        yield
    finally:
        os.seteuid(0)
        for path, mode in modes.items():
            path.chmod(mode)


# --- a server that misbehaves -------------------------------------------------------------------------------------

PREFIX = 1000
KEPT, DROPPED = True, False
FAULTS = [
    pytest.param(Status(404), HttpStatus, KEPT, id="not-found"),
    pytest.param(Status(500), HttpStatus, KEPT, id="server-error"),
    pytest.param(Status(204), HttpStatus, KEPT, id="no-content"),
    pytest.param(Cut(after=None), ConnectionLost, KEPT, id="cut-before-the-answer"),
    pytest.param(Cut(after=0), ConnectionLost, KEPT, id="cut-before-the-body"),
    pytest.param(Cut(after=1_500_000), ConnectionLost, KEPT, id="cut-in-the-body"),
    pytest.param(Hang(after=None), TimedOut, KEPT, id="silent-before-the-answer"),
    pytest.param(Hang(after=1_500_000), TimedOut, KEPT, id="silent-in-the-body"),
    pytest.param(Slow(20_000), TooSlow, KEPT, id="too-slow"),
    pytest.param(Gzip(), FetchError, KEPT, id="compressed"),
    pytest.param(HugeHeader(100_000), FetchError, KEPT, id="huge-header"),
    pytest.param(Redirect(None), RedirectRefused, KEPT, id="redirect-loop"),
    pytest.param(Flip(at=2_000_000), WrongDigest, DROPPED, id="one-byte-flipped"),
    pytest.param(Endless(), WrongSize, DROPPED, id="endless"),
]


@pytest.mark.parametrize("begun", [0, PREFIX], ids=["fresh", "resumed"])
@pytest.mark.parametrize(("fault", "error", "kept"), FAULTS)
async def test_a_fault_has_its_error_and_a_true_prefix_is_kept(
    upstream: Server, client: Client, fault: Fault, error: type[FetchError], kept: bool, begun: int
) -> None:
    upstream.misbehave("*", fault)
    if begun:
        client.begin(CONTENT[:begun])
    paced = replace(client, transfer=replace(client.transfer, pace=Pace(floor_bytes_per_s=200_000, window_s=0.2)))
    with pytest.raises(error) as caught:
        await paced.fetch(upstream.url + PATH)
    assert caught.value.url == upstream.url + PATH
    assert not client.store.has(SHA256, SIZE)
    collected = client.begun()
    if kept:
        assert collected is not None
        assert begun <= len(collected) < SIZE
        assert collected == CONTENT[: len(collected)]
    else:
        assert collected is None


@any_store
@pytest.mark.parametrize("by", [-10, 10])
async def test_another_length_is_another_file(upstream: Server, client: Client, by: int) -> None:
    upstream.misbehave("*", WrongLength(by))
    with pytest.raises(WrongSize) as caught:
        await client.fetch(upstream.url + PATH)
    assert (caught.value.expected, caught.value.found) == (SIZE, SIZE + by)
    assert client.begun() is None


@pytest.mark.parametrize("by", [-1, 1])
async def test_a_wrong_promise_is_found_out(upstream: Server, client: Client, by: int) -> None:
    with pytest.raises(WrongSize):
        await client.fetch(upstream.url + PATH, size=SIZE + by)
    assert client.begun() is None


async def test_the_servers_own_words_arrive(upstream: Server, client: Client) -> None:
    problem = b'{"detail": "Tea is served.", "code": "teapot"}'
    upstream.misbehave("*", Status(418, {"Content-Type": "application/problem+json"}, problem))
    with pytest.raises(HttpStatus, match="answered 418: Tea is served") as caught:
        await client.fetch(upstream.url + PATH)
    assert caught.value.problem == "teapot"


@pytest.mark.parametrize(
    "fault", [Cut(after=1_500_000), Hang(after=1_500_000), Status(503), Slow(20_000)], ids=lambda fault: str(fault)
)
async def test_the_next_try_carries_on(upstream: Server, client: Client, fault: Fault) -> None:
    upstream.misbehave("*", fault, times=1)
    paced = replace(client, transfer=replace(client.transfer, pace=Pace(floor_bytes_per_s=200_000, window_s=0.2)))
    with pytest.raises(FetchError):
        await paced.fetch(upstream.url + PATH)
    kept = len(client.begun() or b"")
    await paced.fetch(upstream.url + PATH)
    assert client.holds()
    assert upstream.asked()[-1].range == (f"bytes={kept}-" if kept else None)


@pytest.mark.parametrize("after", [20_000, 400_000])
async def test_every_try_gets_further_however_early_the_server_cuts(
    upstream: Server, client: Client, after: int
) -> None:
    publish(upstream.root, content := CONTENT[: after * 4])
    upstream.misbehave("*", Cut(after))
    kept = 0
    while not client.holds(content):
        with suppress(ConnectionLost):
            await client.fetch(upstream.url + PATH, content)
        assert client.holds(content) or len(client.begun(content) or b"") > kept
        kept = len(client.begun(content) or b"")


@pytest.mark.parametrize("then", ["close", "reset"])
async def test_a_connection_that_ends_in_the_body_is_the_networks_fault(client: Client, then: str) -> None:
    begin = response(CONTENT[:1000], Content_Length=str(SIZE))
    async with raw_server(lambda _head: begin, then) as (url, _):
        with pytest.raises(ConnectionLost):
            await client.fetch(url)
    assert CONTENT.startswith(client.begun() or b"nothing was kept")


async def test_a_file_that_comes_slower_than_the_floor_is_given_up(upstream: Server, client: Client) -> None:
    upstream.misbehave("*", Slow(20_000))
    paced = replace(client, transfer=replace(client.transfer, pace=Pace(floor_bytes_per_s=200_000, window_s=0.2)))
    async with asyncio.timeout(10):
        with pytest.raises(TooSlow, match=r"sends less than 200\.0 kB per second"):
            await paced.fetch(upstream.url + PATH)


async def test_a_file_has_a_deadline_of_its_size_and_the_floor(upstream: Server, client: Client) -> None:
    """However few bytes a window needs, and though some come all the time."""
    upstream.misbehave("*", Slow(100_000))
    pace = Pace(floor_bytes_per_s=10**9, window_s=60, slack_s=0.5)
    paced = replace(client, transfer=replace(client.transfer, pace=pace))
    with pytest.raises(TooSlow, match="was not done in "):
        await paced.fetch(upstream.url + PATH)
    kept = client.begun()
    assert kept
    assert kept == CONTENT[: len(kept)]
    upstream.behave()
    await client.fetch(upstream.url + PATH)
    assert client.holds()


NO_LENGTH = [
    pytest.param({"Content_Length": ""}, CONTENT[:1000], id="until-the-end-of-the-connection"),
    pytest.param(
        {"Content_Length": "", "Transfer_Encoding": "chunked"},
        b"3e8\r\n" + CONTENT[:1000] + b"\r\n",
        id="chunked-without-its-end",
    ),
]


@pytest.mark.parametrize(("headers", "body"), NO_LENGTH)
@pytest.mark.parametrize("then", ["close", "hold"])
async def test_size_decides_and_not_the_end_of_the_connection(
    client: Client, headers: dict[str, str], body: bytes, then: str
) -> None:
    async with raw_server(lambda _head: response(body, **headers), then) as (url, heads):
        await client.fetch(url, CONTENT[:1000])
    assert client.holds(CONTENT[:1000])
    assert len(heads) == 1


WHOLE = CONTENT[:100]
HERE, RESTART = "here", "restart"
CONTENT_RANGES = [
    pytest.param("206 Partial Content", "bytes 10-99/100", HERE, id="as-asked"),
    pytest.param("206 Partial Content", "bytes 10-99/*", HERE, id="whole-size-unknown"),
    pytest.param("206 Partial Content", "bytes 0-99/100", RESTART, id="from-the-beginning"),
    pytest.param("206 Partial Content", "bytes 11-99/100", RESTART, id="one-too-late"),
    pytest.param("206 Partial Content", "", RESTART, id="none"),
    pytest.param("206 Partial Content", "items 10-99/100", RESTART, id="another-unit"),
    pytest.param("206 Partial Content", "bytes */100", RESTART, id="unsatisfied"),
    pytest.param("206 Partial Content", "bytes -10-99/100", RESTART, id="negative"),
    pytest.param("206 Partial Content", "bytes 1\xb2-99/100", RESTART, id="superscript-start"),
    pytest.param("206 Partial Content", "bytes 10-99/200", RESTART, id="another-size"),
    pytest.param("206 Partial Content", "bytes 10-99/1\xb2", None, id="superscript-size"),
    pytest.param("206 Partial Content", "bytes 10-99/" + "9" * 5000, None, id="enormous-size"),
    pytest.param("206 Partial Content", "bytes 10-99", RESTART, id="no-size"),
    pytest.param("206 Partial Content", "bytes 10-5/100", RESTART, id="ends-before-it-begins"),
    pytest.param("206 Partial Content", "bytes 10-100/100", RESTART, id="ends-beyond-the-whole"),
    pytest.param("206 Partial Content", "bytes 10-99/100, bytes 0-5/100", RESTART, id="two-ranges"),
    pytest.param("206 Partial Content", "BYTES 10-99/100", RESTART, id="capitals"),
    pytest.param("200 OK", "bytes 10-99/100", RESTART, id="says-whole-and-sends-a-part"),
    pytest.param("416 Range Not Satisfiable", "bytes */5", RESTART, id="416"),
    pytest.param("416 Range Not Satisfiable", "", RESTART, id="416-without-size"),
    pytest.param("416 Range Not Satisfiable", "bytes */\xb2", RESTART, id="416-superscript"),
    pytest.param("416 Range Not Satisfiable", "bytes */" + "9" * 5000, RESTART, id="416-enormous"),
]


@pytest.mark.parametrize(("status", "content_range", "outcome"), CONTENT_RANGES)
async def test_content_range(client: Client, status: str, content_range: str, outcome: str | None) -> None:
    """`outcome`: it fits here, or the whole is asked for. None: either of them, or a refusal in words."""

    def answer(head: str) -> bytes:
        if "Range: bytes=10-" not in head:
            return response(WHOLE)
        return response(WHOLE[10:], status, Content_Range=content_range)

    client.begin(WHOLE[:10], WHOLE)
    refused = None
    async with raw_server(answer) as (url, heads):
        try:
            await client.fetch(url, WHOLE)
        except FetchError as error:
            refused = error
    assert client.holds(WHOLE) is (refused is None)
    if outcome is not None:
        assert (len(heads), refused is None) == {HERE: (1, True), RESTART: (2, True)}[outcome]
    if refused is not None:
        assert client.begun(WHOLE) == WHOLE[:10]


MULTIPART = (
    b"--part\r\nContent-Type: application/octet-stream\r\nContent-Range: bytes 10-99/100\r\n\r\n"
    + WHOLE[10:]
    + b"\r\n--part--\r\n"
)
WRONG_PARTS = [
    pytest.param(
        response(MULTIPART, "206 Partial Content", Content_Type="multipart/byteranges; boundary=part"), id="multipart"
    ),
    pytest.param(
        response(b"x" * 90, "206 Partial Content", Content_Range="bytes 10-99/100", ETag='"other"'), id="other-bytes"
    ),
    pytest.param(
        response(WHOLE[10:] + b"x", "206 Partial Content", Content_Range="bytes 10-99/100"), id="a-byte-too-many"
    ),
    pytest.param(response(WHOLE, "206 Partial Content", Content_Range="bytes 10-99/100"), id="the-whole-called-a-part"),
    pytest.param(response(WHOLE[:50]), id="200-and-less-than-the-whole"),
    pytest.param(response(b"x" * 100), id="200-and-other-bytes"),
    pytest.param(response(WHOLE + b"x"), id="200-and-more-than-the-whole"),
    pytest.param(response(b"", "416 Range Not Satisfiable", Content_Range="bytes */100"), id="416-and-the-right-size"),
    pytest.param(response(b"", "416 Range Not Satisfiable", Content_Range="bytes */10"), id="416-and-what-is-here"),
]


@pytest.mark.parametrize("answer", WRONG_PARTS)
async def test_a_wrong_answer_to_a_range_costs_what_was_here_and_no_more(client: Client, answer: bytes) -> None:
    """Nobody stays without the file because of a server that can send the whole only."""
    client.begin(WHOLE[:10], WHOLE)
    async with raw_server(lambda head: answer if "Range: bytes=10-" in head else response(WHOLE)) as (url, heads):
        await client.fetch(url, WHOLE)
    assert client.holds(WHOLE)
    assert ["Range:" in head for head in heads] == [True, False]


SHORT_PARTS = [
    pytest.param(
        response(WHOLE[10:40], "206 Partial Content", Content_Range="bytes 10-39/100"), 40, id="a-shorter-part"
    ),
    pytest.param(
        response(WHOLE[10:40], "206 Partial Content", Content_Range="bytes 10-99/100"), 40, id="a-length-that-lies"
    ),
    pytest.param(
        response(WHOLE[10:40], "206 Partial Content", Content_Range="bytes 10-99/100", Content_Length="90"),
        40,
        id="cut",
    ),
    pytest.param(response(b"", "204 No Content"), 10, id="204"),
    pytest.param(response(b"", "304 Not Modified", Content_Length=""), 10, id="304"),
    pytest.param(response(b"", "503 Busy"), 10, id="503"),
    pytest.param(
        response(WHOLE[10:], "206 Partial Content", Content_Range="bytes 10-99/100", Content_Encoding="gzip"),
        10,
        id="compressed",
    ),
]


@pytest.mark.parametrize(("answer", "kept"), SHORT_PARTS)
async def test_an_answer_that_adds_true_bytes_or_none_costs_nothing(client: Client, answer: bytes, kept: int) -> None:
    client.begin(WHOLE[:10], WHOLE)
    async with raw_server(lambda _: answer) as (url, heads):
        with pytest.raises(FetchError) as caught:
            await client.fetch(url, WHOLE)
    assert not isinstance(caught.value, WrongDigest | WrongSize)
    assert (len(heads), client.begun(WHOLE)) == (1, WHOLE[:kept])


async def test_a_part_that_was_not_asked_for_is_taken_only_from_the_beginning(client: Client) -> None:
    async with raw_server(lambda _: response(WHOLE, "206 Partial Content", Content_Range="bytes 0-99/100")) as (url, _):
        await client.fetch(url, WHOLE)
    assert client.holds(WHOLE)
    async with raw_server(lambda _: response(WHOLE, "206 Partial Content", Content_Range="bytes 5-99/100")) as (url, _):
        with pytest.raises(FetchError, match="another range"):
            await client.fetch(url, CONTENT[:101])


async def test_a_part_that_ends_early_is_carried_on_next_time(client: Client) -> None:
    def answer(head: str) -> bytes:
        start = int(head.partition("bytes=")[2].partition("-")[0] or 0)
        return response(
            WHOLE[start : start + 40],
            "206 Partial Content",
            Content_Range=f"bytes {start}-{min(start + 40, 100) - 1}/100",
        )

    async with raw_server(answer) as (url, _):
        for kept in (40, 80):
            with pytest.raises(ConnectionLost, match=f"{100 - kept} of 100 bytes are missing"):
                await client.fetch(url, WHOLE)
            assert client.begun(WHOLE) == WHOLE[:kept]
        await client.fetch(url, WHOLE)
    assert client.holds(WHOLE)


# --- cancelling ---------------------------------------------------------------------------------------------------


class Held(ThreadPoolExecutor):
    """Threads that hold the end of each job called `name` until `release` is called; `active` counts jobs not ended."""

    def __init__(self, name: str) -> None:
        super().__init__(4)
        self.name, self.active = name, 0
        self.reached, self._gate, self._lock = threading.Event(), threading.Event(), threading.Lock()

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        return super().submit(self._run, fn, *args, **kwargs)

    def _run(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> T:
        with self._lock:
            self.active += 1
        try:
            done = fn(*args, **kwargs)
            if fn.__name__ == self.name:
                self.reached.set()
                self._gate.wait(5)
            return done
        finally:
            with self._lock:
                self.active -= 1

    def release(self) -> None:
        self._gate.set()


@any_store
@pytest.mark.parametrize("times", [1, 2], ids=["once", "twice"])
@pytest.mark.parametrize("job", ["begin", "write", "restart", "commit"])
async def test_when_a_cancelled_download_has_ended_nothing_works_on_the_file(
    upstream: Server, client: Client, job: str, times: int
) -> None:
    client.begin(b"x" * 1000 if job == "restart" else CONTENT[:1000])
    with Held(job) as executor:
        held = replace(client, transfer=replace(client.transfer, executor=executor))
        task = asyncio.create_task(held.fetch(upstream.url + PATH))
        assert await asyncio.to_thread(executor.reached.wait, 5)
        for _ in range(times):
            task.cancel()
            await asyncio.sleep(0.02)
        executor.release()
        with pytest.raises(asyncio.CancelledError):
            await task
        assert executor.active == 0
    assert client.open_files() == []
    await client.fetch(upstream.url + PATH)
    assert client.holds()


@any_store
@pytest.mark.parametrize("after", [0, 1, 2, 3])
async def test_cancelling_keeps_what_has_arrived(upstream: Server, client: Client, after: int) -> None:
    upstream.misbehave("*", Slow(20_000_000), times=1)
    task: asyncio.Task[None]
    calls = 0

    def progress(_size: int) -> None:
        nonlocal calls
        calls += 1
        if calls > after:
            task.cancel()

    url = URL(upstream.url + PATH)
    task = asyncio.create_task(download(client.transfer, client.store, url, SHA256, SIZE, progress))
    with pytest.raises(asyncio.CancelledError):
        await task
    assert client.open_files() == []
    kept = client.begun()
    assert kept is not None
    assert kept == CONTENT[: len(kept)]
    assert (len(kept) > 0) is (after > 0)
    await client.fetch(str(url))
    assert client.holds()
    assert client.seen[0] == len(kept)


async def test_a_caller_whose_progress_fails_leaves_nothing_open(upstream: Server, client: Client) -> None:
    def progress(size: int) -> None:
        if size:
            raise LookupError("the caller's own")

    with pytest.raises(LookupError, match="the caller's own"):
        await download(client.transfer, client.store, URL(upstream.url + PATH), SHA256, SIZE, progress)
    assert client.open_files() == []


# --- the disk -----------------------------------------------------------------------------------------------------


async def test_a_file_larger_than_the_process_may_write_is_the_disks_fault(upstream: Server, client: Client) -> None:
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (2_500_000, before[1]))
    try:
        with pytest.raises(DiskFailed, match="File too large"):
            await client.fetch(upstream.url + PATH)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    await client.fetch(upstream.url + PATH)
    assert client.holds()
    assert upstream.asked()[-1].range is None, "nothing is believed that a failing disk was given"


async def test_a_disk_that_fills_up_says_so_and_nothing_of_the_file_stays(
    upstream: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    written = 0
    write = os.write

    def filling(descriptor: int, content: Any) -> int:
        nonlocal written
        if client.store.where not in str(Path(f"/proc/self/fd/{descriptor}").readlink()):
            return write(descriptor, content)
        if written + len(content) > 2_000_000:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written += (count := write(descriptor, content))
        return count

    with monkeypatch.context() as patch:
        patch.setattr(os, "write", filling)
        with pytest.raises(NoRoom) as caught:
            await client.fetch(upstream.url + PATH)
    assert caught.value.path == client.store.where
    assert client.begun() is None
    await client.fetch(upstream.url + PATH)
    assert client.holds()


async def test_a_file_that_a_dead_process_left_in_the_store_is_flushed_before_it_counts(
    upstream: Server, client: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It may have died between the rename and the flush of the directory; a row is about to say that it is there."""
    put(client.store, CONTENT)
    flushed: list[str] = []
    monkeypatch.setattr(os, "fsync", lambda found: flushed.append(str(Path(f"/proc/self/fd/{found}").readlink())))
    await client.fetch(upstream.url + PATH)
    assert stored_path(client.store, SHA256).parent.as_posix() in flushed
    assert upstream.asked() == []


@pytest.mark.parametrize("kind", ["link", "directory"])
async def test_a_strange_thing_in_incoming_is_not_written_through(
    upstream: Server, client: Client, tmp_path: Path, kind: str
) -> None:
    (tmp_path / "victim").write_bytes(b"precious")
    if kind == "link":
        incoming_path(client.store, SHA256).symlink_to(tmp_path / "victim")
    else:
        incoming_path(client.store, SHA256).mkdir()
    with pytest.raises(DiskFailed):
        await client.fetch(upstream.url + PATH)
    assert (tmp_path / "victim").read_bytes() == b"precious"


@pytest.mark.parametrize("begun", [b"", CONTENT[:1000], b"x" * 1000, CONTENT])
async def test_the_loop_neither_hashes_nor_touches_the_bytes(
    upstream: Server, client: Client, monkeypatch: pytest.MonkeyPatch, begun: bytes
) -> None:
    client.begin(begun)
    threads: dict[str, set[int]] = {}

    def watch(owner: Any, name: str) -> None:
        original = getattr(owner, name)

        def watched(*args: Any) -> Any:
            threads.setdefault(name, set()).add(threading.get_ident())
            return original(*args)

        monkeypatch.setattr(owner, name, watched)

    watch(Hasher, "update")
    for name in ("write", "fsync", "ftruncate"):
        watch(os, name)
    await client.fetch(upstream.url + PATH)
    monkeypatch.undo()
    assert {"update", "fsync"} <= threads.keys()
    assert threading.get_ident() not in set().union(*threads.values())


async def test_a_session_that_is_closed_is_refused_in_words(upstream: Server, client: Client) -> None:
    async with aiohttp.ClientSession() as session:
        pass
    closed = replace(client, transfer=replace(client.transfer, session=session))
    with pytest.raises((RuntimeError, FetchError), match="closed"):
        await closed.fetch(upstream.url + PATH)
