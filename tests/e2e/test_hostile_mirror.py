"""A mirror that does everything wrong, one thing after the other, against the real importer on a real PostgreSQL.

After each fault: what was held is held, the manifest is the one of before, the operator reads a code and a sentence,
what lies in `incoming/` is a true beginning of a file that is wanted, and neither time nor memory ran away. The next
good sync succeeds, and leaves `incoming/` empty.
"""

import functools
import random
import shutil
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import pytest_asyncio
from pysequoia import Cert
from yarl import URL

from deploy.local import postgres
from deploy.local.mirror.faults import HOSTILE, Fault, Status
from deploy.local.mirror.forgeries import FORGERIES, HARMLESS
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from rack.pull import pull
from region.importing import fetching, importer, reading
from region.importing.imports import Import
from shared.digest import Sha256
from shared.download import Transfer
from shared.errors import BootferryError
from shared.http import client_session, read_capped, request
from shared.pace import Pace
from shared.patience import Patience
from shared.store.disk import DiskStore
from tests.conftest import TEMPLATE, Clock
from tests.db.bench import Bench, build, small_mirror
from tests.http.client.certificates import Authority

pytestmark = pytest.mark.asyncio(loop_scope="module")

INDEX = "streams/v1/index.sjson"
PRODUCTS = "streams/v1/com.ubuntu*.sjson"
PACE = Pace(floor_bytes_per_s=20_000, window_s=0.3, slack_s=2.6)
MOST_SECONDS = 20.0
MOST_BYTES = 160_000_000
"""A document may have 32 MiB; one is read at a time, and nothing else grows."""


# --- the site -----------------------------------------------------------------------------------------------------


@dataclass
class Site:
    """A mirror, its server, a region that holds what it offers, and keys that nobody believes any more."""

    bench: Bench
    mirror: Mirror
    server: Server
    stranger: Key
    expired: Key
    revoked: Key

    @property
    def incoming(self) -> dict[str, bytes]:
        """What lies in `incoming/`, by the digest it is to have."""
        directory = Path(self.bench.region.store.where) / "incoming"
        return {path.name[:64]: path.read_bytes() for path in directory.iterdir() if path.is_file()}

    async def sync(self) -> Import:
        """One import, in bounded time and memory."""
        before, began = _memory(anew=True), time.monotonic()
        ended = await self.bench.import_now("schedule")
        assert time.monotonic() - began < MOST_SECONDS
        assert _memory() - before < MOST_BYTES
        return ended

    async def require_unharmed(self, held: str, serial: int) -> None:
        """What was held is held, and what has arrived of other files is true."""
        assert (await self.bench.image()).held_version == held
        assert (await self.bench.manifest()).serial == serial
        await self.bench.stored()
        true = {Sha256.of(data): data for data in _files(self.mirror)}
        for sha256, begun in self.incoming.items():
            assert true[Sha256(sha256)].startswith(begun)

    async def require_recovered(self) -> None:
        """The next good sync brings everything."""
        self.server.behave()
        self.mirror.rewrite()
        good = await self.sync()
        assert (good.state, good.error_code) == ("succeeded", "")
        image = await self.bench.image()
        assert (image.status, image.held_version) == ("stored", image.version)
        assert (await self.bench.source()).error == ""
        assert self.incoming == {}

    async def misbehaving(self, pattern: str, fault: Fault) -> Import:
        """What becomes of a sync while the mirror has something new and misbehaves."""
        before, manifest = await self.bench.image(), await self.bench.manifest()
        if before.held_version == before.version:
            self.mirror.publish(release="resolute", arch="amd64")
        self.server.behave()
        self.server.misbehave(pattern, fault)
        ended = await self.sync()
        await self.require_unharmed(str(before.held_version), manifest.serial)
        return ended


def _memory(*, anew: bool = False) -> int:
    """The most memory this process has had, in bytes; counted `anew` from now on."""
    if anew:
        Path("/proc/self/clear_refs").write_text("5")
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024


def _files(mirror: Mirror) -> Iterator[bytes]:
    for path in mirror.root.rglob("*"):
        if path.is_file() and "streams" not in path.parts:
            yield path.read_bytes()


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def site(
    tmp_path_factory: pytest.TempPathFactory, database_server: postgres.Server, gpg: "Callable[..., bytes] | None"
) -> AsyncIterator[Site]:
    """One for all faults: each leaves it as good as it was, or its test fails."""
    directory = tmp_path_factory.mktemp("hostile")
    mirror = small_mirror(directory / "mirror", seed=0)
    expired, revoked = Key.generate("Expired <a@example.invalid>"), Key.generate("Revoked <b@example.invalid>")
    mirror.keyring_path.write_bytes(
        mirror.keyring + _expired(expired) + _revoked(revoked) + (gpg("--export") if gpg else b"")
    )
    await database_server.clone(TEMPLATE, "hostile")
    async with AsyncExitStack() as stack:
        patch = stack.enter_context(pytest.MonkeyPatch.context())
        patch.setenv("SSL_CERT_FILE", "/dev/null")
        patch.setenv("SSL_CERT_DIR", "/nonexistent")
        patch.setattr(importer, "PROGRESS_PERIOD_S", 0.05)
        hurry(patch)
        server = await stack.enter_async_context(serve(mirror))
        built = build(directory / "region", database_server.url("hostile"), server, mirror, Clock())
        built.importer = replace(built.importer, patience=Patience(attempts=2, first_s=0.0))
        await built.prepare()
        stack.push_async_callback(built.engine.dispose)
        made = Site(Bench(built), mirror, server, Key.generate(), expired, revoked)
        assert (await made.sync()).state == "succeeded"
        yield made
    await database_server.drop_database("hostile")


def hurry(patch: pytest.MonkeyPatch) -> None:
    """No transfer may take longer than two or three seconds."""
    patch.setattr(
        reading, "client_session", functools.partial(client_session, connect_timeout_s=0.5, read_timeout_s=0.7)
    )
    patch.setattr(reading, "request", functools.partial(request, deadline_s=3.0))
    patch.setattr(reading, "read_capped", functools.partial(read_capped, pace=PACE))
    patch.setattr(fetching, "Transfer", functools.partial(Transfer, pace=PACE))


def _expired(key: Key) -> bytes:
    certificate = key.secret.extract_certificate()
    return bytes(certificate.set_expiration(datetime.now(UTC) - timedelta(seconds=5), key.secret.certifier()))


def _revoked(key: Key) -> bytes:
    certificate = key.secret.extract_certificate()
    return bytes(Cert.from_bytes(bytes(certificate) + bytes(certificate.revoke(key.secret.certifier()))))


@pytest.fixture(scope="module")
def gpg() -> "Iterator[Callable[..., bytes] | None]":
    """gpg with a key of its own, for what nothing else will sign; None where there is none."""
    if not shutil.which("gpg"):
        yield None
        return
    home = tempfile.mkdtemp(prefix="gpg-")

    def run(*arguments: str, text: bytes = b"") -> bytes:
        command = ["gpg", "--homedir", home, "--batch", "--quiet", "--passphrase", "", *arguments]
        return subprocess.run(command, input=text, capture_output=True, check=True).stdout

    try:
        run("--quick-gen-key", "weak@example.invalid", "rsa2048", "sign", "never")
        yield run
    finally:
        subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False)
        shutil.rmtree(home, ignore_errors=True)


# --- transfers ----------------------------------------------------------------------------------------------------

CODES = {
    # What an operator reads when a document, and when a file, comes like this.
    "not found": ("http_status", "http_status"),
    "too many requests": ("http_status", "http_status"),
    "a fault of its own": ("http_status", "http_status"),
    "busy": ("http_status", "http_status"),
    "no content": ("http_status", "http_status"),
    "a log-in page": ("invalid_document", "wrong_size"),
    "hangs up": ("connection_lost", "connection_lost"),
    "hangs up after the head": ("connection_lost", "connection_lost"),
    "too short": ("connection_lost", "connection_lost"),
    "reset": ("connection_lost", "connection_lost"),
    "reset in the body": ("connection_lost", "connection_lost"),
    "silent": ("timed_out", "timed_out"),
    "silent in the body": ("timed_out", "timed_out"),
    "drips its head": ("timed_out", "timed_out"),
    "drips its body": ("too_slow", "too_slow"),
    "too long": ("too_large", "wrong_size"),
    "a length too great": ("connection_lost", "wrong_size"),
    "a length too small": ("signature_bad", "wrong_size"),
    "two lengths": ("fetch_failed", "fetch_failed"),
    "no HTTP": ("fetch_failed", "fetch_failed"),
    "another byte": ("signature_bad", "wrong_digest"),
    "compressed": ("invalid_document", "fetch_failed"),
    "a header of a megabyte": ("fetch_failed", "fetch_failed"),
    "20,000 headers": ("fetch_failed", "fetch_failed"),
    "a part nobody asked for": ("http_status", "fetch_failed"),
    "redirected in a circle": ("redirect_refused", "redirect_refused"),
    "redirected to another scheme": ("redirect_refused", "redirect_refused"),
    "redirected to where nobody answers": ("connection_refused", "connection_refused"),
    "redirected to the metadata service": ("address_forbidden", "address_forbidden"),
}


async def test_every_fault_of_the_mirror_is_met() -> None:
    assert CODES.keys() == HOSTILE.keys()


@pytest.mark.parametrize("name", CODES)
async def test_a_transfer_that_goes_wrong(site: Site, name: str) -> None:
    document, file = CODES[name]
    failed = await site.misbehaving("streams/v1/index*", HOSTILE[name])
    require_told(failed, document)
    source = await site.bench.source()
    assert (source.error_code, source.error) == (document, failed.error)
    assert site.incoming == {}

    failed = await site.misbehaving("resolute/*/squashfs", HOSTILE[name])
    require_told(failed, file)
    assert (await site.bench.source()).error == ""
    assert (await site.bench.image()).error_code == file
    await site.require_recovered()


def require_told(failed: Import, code: str) -> None:
    """The import has failed, and says so in a code and one sentence."""
    assert (failed.state, failed.error_code) == ("failed", code)
    assert failed.error.endswith(".")
    assert failed.error.isprintable()


@pytest.mark.parametrize("name", ["busy", "a log-in page", "too short", "drips its body", "another byte"])
async def test_a_product_file_that_goes_wrong(site: Site, name: str) -> None:
    require_told(await site.misbehaving(PRODUCTS, HOSTILE[name]), CODES[name][0])
    assert site.incoming == {}
    await site.require_recovered()


async def test_a_mirror_that_is_switched_off(site: Site) -> None:
    """Nothing listens any more; later, at the same address, something does."""
    before, manifest = await site.bench.image(), await site.bench.manifest()
    url, port = site.server.url, URL(site.server.url).port
    async with site.server.switched_off():
        failed = await site.sync()
        assert failed.error_code == "connection_refused"
    assert (url, port) == (site.server.url, URL(site.server.url).port)
    await site.require_unharmed(str(before.held_version), manifest.serial)
    await site.require_recovered()


async def test_a_cache_that_answers_with_what_was_there_before(site: Site) -> None:
    old = (site.mirror.root / INDEX).read_bytes()
    site.mirror.publish(release="resolute", arch="amd64")
    assert (await site.sync()).state == "succeeded"
    failed = await site.misbehaving(INDEX, Status(200, {}, old))
    assert (failed.state, failed.error_code) == ("failed", "too_old")
    await site.require_recovered()


@pytest.mark.parametrize("number", range(1, 9))
async def test_a_tree_that_changes_before_any_of_the_requests(site: Site, number: int) -> None:
    """Whatever is read of the old and whatever of the new: what is held is whole, and the next sync has the new."""
    site.mirror.publish(release="resolute", arch="amd64")
    site.server.at_request(number, lambda: site.mirror.publish(release="resolute", arch="amd64"))
    await site.sync()
    await site.bench.stored()
    assert (await site.bench.image()).held_version
    await site.require_recovered()


# --- signatures ---------------------------------------------------------------------------------------------------

UNSIGNED = {"no signature", "nothing at all", "the signature alone"}


@pytest.mark.parametrize("name", FORGERIES)
async def test_a_forged_index(site: Site, name: str) -> None:
    manifest, before = await site.bench.manifest(), await site.bench.image()
    site.mirror.publish(release="resolute", arch="amd64")
    text = (site.mirror.root / "streams/v1/index.json").read_bytes()
    site.mirror.replace(INDEX, FORGERIES[name](text, site.mirror.key, site.stranger))
    failed = await site.sync()
    code = "signature_unknown_key" if name == "another key" else "unsigned" if name in UNSIGNED else "signature_bad"
    assert (failed.state, failed.error_code) == ("failed", code)
    assert (await site.bench.source()).error_code == code
    await site.require_unharmed(str(before.held_version), manifest.serial)
    assert site.incoming == {}
    await site.require_recovered()


@pytest.mark.parametrize("name", HARMLESS)
async def test_what_only_looks_odd_is_believed(site: Site, name: str) -> None:
    site.mirror.publish(release="resolute", arch="amd64")
    text = signed_text(site)
    site.mirror.replace(INDEX, HARMLESS[name](text, site.mirror.key, site.stranger))
    assert (await site.sync()).state == "succeeded"
    await site.require_recovered()


def signed_text(site: Site) -> bytes:
    """The text of the signed index, which names signed product files."""
    return (site.mirror.root / "streams/v1/index.json").read_bytes().replace(b'.json"', b'.sjson"')


async def test_signatures_of_keys_whose_time_is_over(site: Site) -> None:
    for key, code in ((site.expired, "signature_expired"), (site.revoked, "signature_key_revoked")):
        before, manifest = await site.bench.image(), await site.bench.manifest()
        site.mirror.replace(INDEX, key.clear_sign(signed_text(site)))
        failed = await site.sync()
        assert (failed.state, failed.error_code) == ("failed", code)
        await site.require_unharmed(str(before.held_version), manifest.serial)
        await site.require_recovered()


@pytest.mark.parametrize("digest", ["SHA1", "RIPEMD160"])
async def test_a_signature_over_a_hash_that_can_be_forged(
    site: Site, gpg: Callable[..., bytes] | None, digest: str
) -> None:
    if gpg is None:
        pytest.skip("gpg is not installed; nothing else signs so weakly")
    before, manifest = await site.bench.image(), await site.bench.manifest()
    site.mirror.replace(INDEX, gpg("--digest-algo", digest, "--clear-sign", text=signed_text(site)))
    failed = await site.sync()
    assert (failed.state, failed.error_code) == ("failed", "signature_weak")
    await site.require_unharmed(str(before.held_version), manifest.serial)
    await site.require_recovered()


# --- TLS ----------------------------------------------------------------------------------------------------------


async def test_tls_that_is_not_to_be_trusted(
    tmp_path: Path, database_url: str, authority: Authority, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "stranger").mkdir()
    stranger = Authority.create(tmp_path / "stranger")
    hurry(monkeypatch)
    monkeypatch.setenv("SSL_CERT_FILE", str(authority.bundle))
    mirror = small_mirror(tmp_path / "mirror", seed=0)
    async with serve(mirror, ssl=authority.context("127.0.0.1")) as server:
        built = build(tmp_path / "region", database_url, server, mirror, Clock())
        built.importer = replace(built.importer, patience=Patience(attempts=2, first_s=0.0))
        await built.prepare()
        site = Site(Bench(built), mirror, server, mirror.key, mirror.key, mirror.key)
        assert (await site.sync()).state == "succeeded"
        for context, code in (
            (authority.context("127.0.0.1", until=datetime.now(UTC) - timedelta(days=1)), "tls_failed"),
            (authority.context("mirror.example"), "tls_failed"),
            (stranger.context("127.0.0.1"), "tls_failed"),
            (None, "tls_failed"),
        ):
            before, manifest = await site.bench.image(), await site.bench.manifest()
            mirror.publish(release="resolute", arch="amd64")
            async with server.presenting(context):
                failed = await site.sync()
            assert (failed.state, failed.error_code) == ("failed", code)
            await site.require_unharmed(str(before.held_version), manifest.serial)
            await site.require_recovered()
        await built.engine.dispose()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority.create(tmp_path_factory.mktemp("authority"))


# --- a rack's pull ------------------------------------------------------------------------------------------------

PULLED = {name: file for name, (_, file) in CODES.items()}


@pytest.mark.parametrize("name", PULLED)
async def test_a_rack_pulls_from_a_region_that_does_everything_wrong(tmp_path: Path, name: str) -> None:
    """A file that was begun and one that was not fail with their code; others come, unless the region is away."""
    files = {path: random.Random(path).randbytes(8_000) for path in ("begun", "fresh", "good")}
    store = DiskStore(tmp_path / "store")
    mirror = Mirror(tmp_path / "mirror", Key.generate(), signer=None)
    mirror.root.mkdir(parents=True)
    for path, data in files.items():
        (mirror.root / path).write_bytes(data)
    by_digest = {Sha256.of(data): path for path, data in files.items()}
    (tmp_path / "store" / "incoming" / Sha256.of(files["begun"])).write_bytes(files["begun"][:500])
    failed: dict[str, str] = {}

    def note(sha256: Sha256, error: BootferryError) -> None:
        failed[by_digest[sha256]] = error.code

    async with (
        serve(mirror) as server,
        client_session(connect_timeout_s=0.5, read_timeout_s=0.7) as session,
    ):
        with ThreadPoolExecutor(2) as executor:

            async def bring() -> None:
                failed.clear()
                began = time.monotonic()
                await pull(
                    Transfer(session, executor, pace=PACE),
                    store,
                    lambda sha256: URL(server.url) / by_digest[sha256],
                    [(sha256, 8_000) for sha256 in by_digest if not store.has(sha256, 8_000)],
                    note,
                    at_once=2,
                    patience=Patience(attempts=2, first_s=0.0, most_s=0.1),
                    rng=random.Random(1),
                )
                assert time.monotonic() - began < MOST_SECONDS

            for path in ("begun", "fresh"):
                server.misbehave(path, HOSTILE[name])
            await bring()
            assert failed["fresh"] == PULLED[name]
            # What is wrong with a whole file need not be with its end; a shorter end is carried on.
            assert failed.get("begun", "") in {"", PULLED[name], "connection_lost"}
            server.behave()
            await bring()
    assert failed == {}
    assert all(store.has(sha256, 8_000) for sha256 in by_digest)
    assert list((tmp_path / "store" / "incoming").iterdir()) == []
