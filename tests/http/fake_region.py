"""A region for the tests of a rack: real signatures on a real port, and it misbehaves on request."""

import asyncio
import contextlib
import io
import json
import lzma
import random
import tarfile
from collections import Counter
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Self

from aiohttp import web
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from yarl import URL

from shared.digest import Sha256
from shared.errors import InvalidRequestSignature, Replayed, WrongClock
from shared.names import RelativePath
from shared.signing import (
    Head,
    claimed_key_id,
    encode_bytes,
    fingerprint,
    parse_public_key,
    public_bytes,
    verify_request,
)
from shared.wire.correction import Correction
from shared.wire.enrolment import Enrolment, EnrolmentRequest, EnrolmentToken
from shared.wire.envelope import seal
from shared.wire.manifest import MANIFEST_TYPE, Entry, Kind, Manifest
from shared.wire.rack_key import NextKey
from shared.wire.report import Report, parse_report
from shared.wire.succession import Signed, sign

EPOCH = 1_789_000_000
CREATED_AT = datetime(2026, 7, 1, tzinfo=UTC)


def noise(seed: str, size: int) -> bytes:
    """`size` bytes that no other seed gives and that repeat nowhere."""
    return random.Random(seed).randbytes(size)


def tar_xz(members: Mapping[str, bytes]) -> bytes:
    """A tar.xz archive of plain files."""
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name, content in members.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode, member.uid = len(content), 0o4755, 4711
            archive.addfile(member, io.BytesIO(content))
    return lzma.compress(packed.getvalue(), preset=0)


def ubuntu(version: str, *, release: str = "noble", size: int = 50_000) -> dict[str, bytes]:
    """The tree names and bytes of one image: two kernels that share one root."""
    root = noise(f"{release} root {version}", size * 4)
    return {
        f"ubuntu/amd64/{kernel}/{release}/stable/{ftype}": noise(f"{release} {kernel} {ftype} {version}", size)
        if ftype != "squashfs"
        else root
        for kernel in ("ga-24.04", "hwe-24.04")
        for ftype in ("boot-kernel", "boot-initrd", "squashfs")
    }


def image_named(path: str, kind: Kind) -> str:
    """The image that these tests mean by a path."""
    parts = path.split("/")
    return ":".join(parts if kind is Kind.ARCHIVE else (parts[0], parts[3], parts[1]))


class FakeRegion:
    """What it publishes, whom it knows, what it was asked, and how it misbehaves."""

    def __init__(self) -> None:
        self.key = Ed25519PrivateKey.generate()
        self.token = EnrolmentToken(fingerprint(self.key), bytes(range(32)))
        self.token_fault = ""
        self.busy = 0
        """So many of the next enrolments are to come back in a second."""
        self.enrolments: list[EnrolmentRequest] = []
        self.racks: dict[str, Ed25519PublicKey] = {}
        self.url = URL()
        self.clock: Callable[[], datetime] = lambda: datetime.now(UTC)
        self.sequences: dict[str, int] = {}
        """The greatest sequence that each rack has said."""
        self.successions: list[Signed] = []
        self.keys_status = 200
        self.change_status, self.change_counts = 204, True
        """What it answers to a rack's next key, 0 cuts the connection; and whether it has taken the key."""
        self.formerly: list[str] = []
        """Fingerprints of its earlier keys by which racks may still mean it."""
        self.correction_key: Ed25519PrivateKey | None = None
        self.answered_nonce = ""

        self.order = (EPOCH, 0)
        self.published = False
        self.confirmed = (0, 0)
        self.moved_to = ""
        """Where its manifests say that it is."""
        self.entries: tuple[Entry, ...] = ()
        self.files: dict[Sha256, bytes] = {}
        self.requests: list[web.BaseRequest] = []
        self.bodies: list[bytes] = []
        self.reports: list[Report] = []
        self.report_faults: list[int] = []
        """Statuses to answer the next reports with; 0 cuts the connection."""
        self.report_retry_after: int | None = None
        self.refused: list[str] = []
        self.hint: dict[str, object] = {"within_seconds": 0.01}
        """What its hints say beside the manifest's number."""
        self.streams: set[asyncio.Queue[tuple[int, int]]] = set()

        self.manifest_status = 200
        self.manifest_body: bytes | None = None
        """What to answer instead of a manifest."""
        self.drips: set[str] = set()
        """The routes (`manifest`, `keys`, `report`) that answer a byte now and then, and never end."""
        self.manifest_key: Ed25519PrivateKey | None = None
        self.file_status: dict[Sha256, int] = {}
        self.wrong_bytes: set[Sha256] = set()
        self.cut_after: dict[Sha256, int] = {}
        self.pause_s = 0.0
        self.redirect_files_to = ""
        self.asked_for: Counter[Sha256] = Counter()

    def publish(
        self, files: Mapping[str, bytes], archives: Mapping[str, bytes] | None = None, *, serial: int | None = None
    ) -> Manifest:
        """Make this the manifest, all of it in the version that its serial names; every open event stream says so."""
        named = [(path, Kind.FILE, content) for path, content in files.items()]
        named += [(path, Kind.ARCHIVE, content) for path, content in (archives or {}).items()]
        self.files |= {Sha256.of(content): content for _, _, content in named}
        self.published = True
        self.order = (self.order[0], self.order[1] + 1 if serial is None else serial)
        self.entries = tuple(
            Entry(
                RelativePath(path), kind, Sha256.of(content), len(content), image_named(path, kind), str(self.order[1])
            )
            for path, kind, content in named
        )
        for stream in self.streams:
            stream.put_nowait(self.order)
        return self.manifest()

    def manifest(self) -> Manifest:
        """What it publishes now."""
        made_at = CREATED_AT + timedelta(days=self.order[1])
        return Manifest(*self.order, made_at, self.entries, self.confirmed, self.moved_to)

    def rotate(self) -> None:
        """Have another key, which the one before vouches for, and begin a new epoch."""
        fresh = Ed25519PrivateKey.generate()
        self.successions.append(sign(self.key, fresh.public_key(), self.clock()))
        self.key, self.order = fresh, (self.order[0] + 1, self.order[1])

    def seen(self, method: str, path: str) -> list[web.BaseRequest]:
        """The requests that came for a path that begins with `path`."""
        return [request for request in self.requests if request.method == method and request.path.startswith(path)]

    @classmethod
    @asynccontextmanager
    async def running(cls) -> AsyncIterator[Self]:
        """A region on a port of its own."""
        region = cls()
        runner = web.AppRunner(region._application(), access_log=None, shutdown_timeout=0.1)
        await runner.setup()
        try:
            await web.TCPSite(runner, "127.0.0.1", 0).start()
            region.url = URL(f"http://127.0.0.1:{runner.addresses[0][1]}")
            yield region
        finally:
            await runner.cleanup()

    def _application(self) -> web.Application:
        app = web.Application(middlewares=[self._noted])
        app.router.add_get("/api/v1/region", self._region)
        app.router.add_get("/api/v1/region/keys", self._keys)
        app.router.add_post("/api/v1/racks/enrol", self._enrol)
        app.router.add_get("/api/v1/manifest", self._manifest)
        app.router.add_get("/api/v1/manifest/events", self._events)
        app.router.add_get("/api/v1/files/{sha256}", self._file)
        app.router.add_put("/api/v1/racks/{rack_id}/report", self._report)
        app.router.add_put("/api/v1/racks/{rack_id}/key", self._change_key)
        return app

    @web.middleware
    async def _noted(self, request: web.Request, handler: object) -> web.StreamResponse:
        self.requests.append(request)
        body = await request.read()
        self.bodies.append(body)
        if request.path not in ("/api/v1/region", "/api/v1/region/keys", "/api/v1/racks/enrol"):
            headers = {name.lower(): value for name, value in request.headers.items()}
            try:
                rack_id = claimed_key_id(headers)
                if rack_id not in self.racks:
                    raise InvalidRequestSignature("no such rack")
                head = verify_request(
                    self.racks[rack_id],
                    rack_id,
                    request.method,
                    request.path_qs,
                    headers,
                    body or None,
                    region=fingerprint(self.key),
                    formerly=self.formerly,
                    now=self.clock(),
                )
                if not self.report_faults:
                    self._advance(rack_id, head)
            except InvalidRequestSignature as error:
                self.refused.append(str(error))
                refusal = problem(401, error.code, str(error))
                if isinstance(error, WrongClock | Replayed):
                    sequence = error.sequence if isinstance(error, Replayed) else 0
                    correction = Correction(self.clock().timestamp(), sequence, self.answered_nonce or error.nonce)
                    refusal.headers["Bootferry-Correction"] = correction.sealed(self.correction_key or self.key)
                return refusal
        assert callable(handler)
        response: web.StreamResponse = await handler(request)
        return response

    def _advance(self, rack_id: str, head: Head) -> None:
        """Refuse what was sent before, as a region does."""
        if head.sequence is not None:
            if head.sequence <= self.sequences.get(rack_id, 0):
                raise Replayed(self.sequences[rack_id], head.nonce)
            self.sequences[rack_id] = head.sequence

    async def _region(self, _request: web.Request) -> web.StreamResponse:
        return web.json_response(
            {
                "name": "fake",
                "version": "0",
                "public_key": encode_bytes(public_bytes(self.key)),
                "fingerprint": fingerprint(self.key),
            }
        )

    async def _keys(self, request: web.Request) -> web.StreamResponse:
        if "keys" in self.drips:
            return await self._drip(request)
        if self.keys_status != 200:
            return problem(self.keys_status, "not_found", "There is nothing at this address.")
        chain = [{"key": one.key, "envelope": one.envelope} for one in self.successions]
        return web.json_response({"fingerprint": fingerprint(self.key), "successions": chain})

    async def _enrol(self, request: web.Request) -> web.StreamResponse:
        if self.busy:
            self.busy -= 1
            return problem(503, "crowded", "Too many ask at once.", retry_after=1)
        if self.token_fault:
            return problem(401, self.token_fault, "The region does not take this token; make another one.")
        asked = EnrolmentRequest.open(await request.read(), self.token.key().public_key())
        try:
            asked.require_made_at(self.clock())
        except WrongClock as error:
            correction = Correction(self.clock().timestamp(), 0, self.answered_nonce or error.nonce)
            refusal = problem(401, error.code, str(error))
            refusal.headers["Bootferry-Correction"] = correction.sealed(self.correction_key or self.key)
            return refusal
        self.enrolments.append(asked)
        rack_id = f"rack-{len(self.racks) + 1}"
        self.racks[rack_id] = parse_public_key(asked.public_key)
        answer = Enrolment(rack_id, asked.name, asked.public_key, self.answered_nonce or asked.nonce)
        return web.Response(status=201, body=answer.sealed(self.key))

    async def _drip(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(b" ")
                await asyncio.sleep(0.02)
        return response

    async def _manifest(self, request: web.Request) -> web.StreamResponse:
        if "manifest" in self.drips:
            return await self._drip(request)
        if self.manifest_status != 200:
            return problem(self.manifest_status, "unavailable", "The region is not ready.", retry_after=1)
        if self.manifest_body is not None:
            return web.Response(body=self.manifest_body)
        if not self.published:
            return web.Response(status=204)
        payload = self.manifest().encode()
        etag = f'"{self.order[0]}-{self.order[1]}-{Sha256.of(payload)[:16]}"'
        if request.headers.get("If-None-Match") == etag and self.manifest_key is None:
            return web.Response(status=304, headers={"ETag": etag})
        return web.Response(body=seal(self.manifest_key or self.key, MANIFEST_TYPE, payload), headers={"ETag": etag})

    async def _events(self, request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream"})
        await response.prepare(request)
        changes: asyncio.Queue[tuple[int, int]] = asyncio.Queue()
        changes.put_nowait(self.order)
        self.streams.add(changes)
        with contextlib.suppress(ConnectionError):
            await response.write(b": hello\n\n")
            while True:
                epoch, serial = await changes.get()
                if epoch < 0:
                    break
                if epoch == 0:
                    await response.write(b'event: poll\ndata: {"within_seconds": 0}\n\n')
                    continue
                data = json.dumps({"epoch": epoch, "serial": serial, **self.hint})
                await response.write(f"event: manifest\ndata: {data}\n\n".encode())
        self.streams.discard(changes)
        return response

    def ask_for_a_poll(self) -> None:
        """Tell every rack that listens that an operator wants a poll."""
        for stream in self.streams:
            stream.put_nowait((0, 0))

    def cut_streams(self) -> None:
        """End every open event stream."""
        for stream in self.streams:
            stream.put_nowait((-1, -1))

    async def _file(self, request: web.Request) -> web.StreamResponse:
        sha256 = Sha256(request.match_info["sha256"])
        self.asked_for[sha256] += 1
        if self.redirect_files_to:
            return web.Response(status=302, headers={"Location": self.redirect_files_to})
        if (status := self.file_status.get(sha256, 200)) != 200:
            return problem(status, "unavailable", "Not now.")
        content = self.files[sha256]
        if sha256 in self.wrong_bytes:
            content = bytes(len(content))
        start = request.http_range.start or 0
        response = web.StreamResponse(
            status=206 if start else 200, headers={"ETag": f'"{sha256}"', "Content-Length": str(len(content) - start)}
        )
        if start:
            response.headers["Content-Range"] = f"bytes {start}-{len(content) - 1}/{len(content)}"
        await response.prepare(request)
        end = self.cut_after.pop(sha256, len(content))
        for begin in range(start, end, 16_384):
            await response.write(content[begin : min(end, begin + 16_384)])
            if self.pause_s:
                await asyncio.sleep(self.pause_s)
        if end < len(content):
            assert request.transport is not None
            request.transport.close()
        return response

    async def _change_key(self, request: web.Request) -> web.StreamResponse:
        if self.change_counts:
            self.racks[request.match_info["rack_id"]] = parse_public_key(NextKey.parse(await request.read()))
        if not self.change_status:
            assert request.transport is not None
            request.transport.close()
        elif self.change_status != 204:
            return problem(self.change_status, "not_found", "There is nothing at this address.")
        return web.Response(status=204)

    async def _report(self, request: web.Request) -> web.StreamResponse:
        if "report" in self.drips:
            await asyncio.sleep(60)
        if self.report_faults:
            if not (status := self.report_faults.pop(0)):
                assert request.transport is not None
                request.transport.close()
            return problem(status or 500, "unavailable", "Not now.", retry_after=self.report_retry_after)
        report = parse_report(await request.read())
        assert isinstance(report, Report)
        self.reports.append(report)
        return web.Response(status=204)


def problem(status: int, code: str, detail: str, *, retry_after: int | None = None) -> web.Response:
    """An RFC 9457 problem."""
    return web.json_response(
        {"type": "about:blank", "title": "No", "status": status, "detail": detail, "code": code},
        status=status,
        content_type="application/problem+json",
        headers={"Retry-After": str(retry_after)} if retry_after else {},
    )


def tree_bytes(root: Path) -> dict[str, bytes]:
    """What the names below a rack's `current` hold."""
    current = root / "current"
    return {str(path.relative_to(current)): path.read_bytes() for path in current.rglob("*") if path.is_file()}
