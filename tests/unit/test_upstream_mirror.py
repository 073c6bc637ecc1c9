"""The sample upstream is what the other tests take it for."""

import asyncio
import gzip
import json
import os
import re
import signal
import ssl
import subprocess
import sys
import tarfile
import threading
import time
from collections.abc import AsyncIterator, Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from hashlib import sha256
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, BinaryIO

import aiohttp
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from yarl import URL

from deploy.local.mirror import server as mirror_server
from deploy.local.mirror.__main__ import main
from deploy.local.mirror.content import TINY
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
from deploy.local.mirror.mirror import File, Mirror, next_serial
from deploy.local.mirror.server import Server, serve

NOW = datetime(2026, 7, 2, 10, 7, 14, tzinfo=UTC)
CHECKOUT = Path(__file__).parents[2]
REAL_STREAM = CHECKOUT.parent / "shared/data/stable-stream/streams/v1"
STREAM = "streams/v1"
UBUNTU = "com.ubuntu.maas:stable:v3:download"
CENTOS = "com.ubuntu.maas:stable:centos-bases-download"
BOOTLOADERS = "com.ubuntu.maas:stable:1:bootloader-download"
DOCUMENTS = ("index", UBUNTU, CENTOS, BOOTLOADERS)


@pytest.fixture
def mirror(tmp_path: Path) -> Mirror:
    return Mirror.create(tmp_path / "mirror", now=NOW, sizes=TINY)


def gpgv(keyring: Path, document: Path) -> tuple[bytes, str]:
    """What gpgv makes of a clear-signed document: the text it vouches for, and its status lines."""
    read, write = os.pipe()
    with os.fdopen(read, "rb") as status:
        try:
            command: list[str | Path] = [
                "gpgv",
                "--keyring",
                keyring,
                "--status-fd",
                str(write),
                "--output",
                "-",
                document,
            ]
            text = subprocess.run(command, capture_output=True, pass_fds=[write], check=False, timeout=10).stdout
        finally:
            os.close(write)
        return text, status.read().decode(errors="replace")


def load(mirror: Mirror, stem: str, suffix: str = ".json") -> dict[str, Any]:
    document: dict[str, Any] = json.loads((mirror.root / STREAM / f"{stem}{suffix}").read_bytes())
    return document


def items(products: dict[str, Any]) -> Iterator[dict[str, Any]]:
    for product in products.values():
        for version in product["versions"].values():
            yield from version["items"].values()


def digests(mirror: Mirror) -> dict[str, str]:
    """Every file below the served root that is no metadata, with its digest."""
    files = (path for path in mirror.root.rglob("*") if path.is_file() and path.parent.name != "v1")
    return {str(path.relative_to(mirror.root)): sha256(path.read_bytes()).hexdigest() for path in files}


class TestKey:
    @pytest.mark.parametrize("stem", DOCUMENTS)
    def test_gpgv_vouches_for_the_signed_form_of_each_document(self, mirror: Mirror, stem: str) -> None:
        text, status = gpgv(mirror.keyring_path, mirror.root / STREAM / f"{stem}.sjson")
        assert re.search(rf"^\[GNUPG:\] VALIDSIG .* {mirror.fingerprint}$", status, re.MULTILINE)
        signed, plain = json.loads(text), load(mirror, stem)
        if stem == "index":
            for entry in signed["index"].values():
                assert entry["path"].endswith(".sjson")
                entry["path"] = entry["path"].replace(".sjson", ".json")
        assert signed == plain

    def test_there_is_one_hash_header(self, mirror: Mirror) -> None:
        signed = (mirror.root / STREAM / "index.sjson").read_bytes()
        assert signed.startswith(b"-----BEGIN PGP SIGNED MESSAGE-----\nHash: SHA512\n\n{")

    def test_it_stays_out_of_the_served_root_and_is_for_its_owner_only(self, mirror: Mirror) -> None:
        assert (mirror.directory / "key.pgp").stat().st_mode & 0o777 == 0o600
        assert not mirror.keyring_path.is_relative_to(mirror.root)
        assert mirror.keyring_path.read_bytes() == mirror.keyring
        assert not mirror.keyring.startswith(b"-----")

    def test_it_is_made_once_per_directory(self, mirror: Mirror, tmp_path: Path) -> None:
        assert Mirror.create(mirror.directory, now=NOW, sizes=TINY).fingerprint == mirror.fingerprint
        assert Mirror.create(tmp_path / "another", now=NOW, sizes=TINY).fingerprint != mirror.fingerprint

    def test_another_key_is_refused_until_the_own_one_signs_again(self, mirror: Mirror) -> None:
        index = mirror.root / STREAM / "index.sjson"
        mirror.sign_with(Key.generate("Mallory <mallory@example.invalid>"))
        mirror.publish(release="noble")
        _, status = gpgv(mirror.keyring_path, index)
        assert "NO_PUBKEY" in status
        assert "VALIDSIG" not in status
        mirror.sign_with(mirror.key)
        assert "VALIDSIG" in gpgv(mirror.keyring_path, index)[1]

    def test_unsigned_leaves_the_plain_documents_alone(self, mirror: Mirror) -> None:
        mirror.unsigned()
        assert {path.name for path in (mirror.root / STREAM).iterdir()} == {f"{stem}.json" for stem in DOCUMENTS}


class TestTree:
    def test_each_item_is_a_file_of_that_size_and_digest_and_there_are_no_others(self, mirror: Mirror) -> None:
        named = {item["path"]: item["sha256"] for item in items(mirror.products())}
        assert digests(mirror) == named
        for item in items(mirror.products()):
            assert (mirror.root / item["path"]).stat().st_size == item["size"]

    def test_what_it_offers(self, mirror: Mirror) -> None:
        ubuntu, centos, bootloaders = (load(mirror, stem)["products"] for stem in (UBUNTU, CENTOS, BOOTLOADERS))
        known = {name: product for name, product in ubuntu.items() if "os" in product}
        assert {(p["release"], p["release_title"]) for p in known.values()} == {
            ("jammy", "22.04 LTS"),
            ("noble", "24.04 LTS"),
            ("oracular", "24.10"),
            ("plucky", "25.04"),
            ("questing", "25.10"),
            ("resolute", "26.04 LTS"),
        }
        assert len(known) == 3 * 2 * 5 + 3 * 2 * 1
        assert [name for name in ubuntu if name not in known] == [
            "com.ubuntu.maas.stable:v3:maas_supported:24.04:amd64"
        ]
        assert [(p["release"], p["release_title"], p["arch"]) for p in centos.values()] == [
            ("centos66", "CentOS 6.6", "amd64"),
            ("centos70", "CentOS 7", "amd64"),
            ("8", "CentOS 8", "amd64"),
        ]
        assert {(p["os"], p["bootloader-type"], p["arch"]) for p in bootloaders.values()} == {
            ("grub-efi-signed", "uefi", "amd64"),
            ("grub-efi", "uefi", "arm64"),
            ("grub-ieee1275", "open-firmware", "ppc64el"),
            ("pxelinux", "pxe", "amd64"),
            ("pxelinux", "pxe", "i386"),
        }

    def test_the_kernels_of_a_release_and_architecture_share_one_squashfs(self, mirror: Mirror) -> None:
        names = ("ga-26.04", "ga-26.04-lowlatency", "hwe-26.04", "hwe-26.04-edge", "hwe-26.04-lowlatency")
        images = [mirror.expected("resolute", "amd64", name) for name in names]
        for ftype, distinct in {"boot-kernel": 5, "boot-initrd": 5, "squashfs": 1, "manifest": 1}.items():
            assert len({image[ftype] for image in images}) == distinct
        assert images[0]["squashfs"] != mirror.expected("resolute", "arm64", "ga-26.04")["squashfs"]

    def test_an_unknown_image_is_not_expected(self, mirror: Mirror) -> None:
        assert set(mirror.expected("centos70", "amd64")) == {"root-tgz", "manifest"}
        with pytest.raises(LookupError, match="no noble for s390x"):
            mirror.expected("noble", "s390x", "ga-24.04")

    @pytest.mark.parametrize(
        ("product", "archive", "member"),
        [
            pytest.param("1:grub-efi-signed:uefi:amd64", "shim-signed", "bootx64.efi", id="shim"),
            pytest.param("1:grub-efi-signed:uefi:amd64", "grub2-signed", "grubx64.efi", id="grub"),
            pytest.param("1:grub-efi:uefi:arm64", "grub2-signed", "grubaa64.efi", id="grub on arm64"),
            pytest.param("1:grub-ieee1275:open-firmware:ppc64el", "grub2", "bootppc64.bin", id="open firmware"),
            pytest.param("1:pxelinux:pxe:amd64", "syslinux", "lpxelinux.0", id="pxelinux amd64"),
            pytest.param("1:pxelinux:pxe:i386", "syslinux", "lpxelinux.0", id="pxelinux i386"),
        ],
    )
    def test_bootloaders_are_archives_that_unpack(
        self, mirror: Mirror, product: str, archive: str, member: str
    ) -> None:
        versions = mirror.products()[f"com.ubuntu.maas.stable:{product}"]["versions"]
        item = versions[max(versions)]["items"][archive]
        with tarfile.open(mirror.root / item["path"], "r:xz") as unpacked:
            file = unpacked.extractfile(member)
            assert file is not None
            assert len(file.read()) >= TINY["archive.tar.xz"]

    @pytest.mark.skipif(not REAL_STREAM.is_dir(), reason="the real stream's metadata is not beside this checkout")
    @pytest.mark.parametrize("stem", [UBUNTU, CENTOS, BOOTLOADERS])
    def test_products_have_the_fields_of_the_real_stream(self, mirror: Mirror, stem: str) -> None:
        def shape(product: dict[str, Any]) -> dict[str, Any]:
            """All fields, and of the newest version's items all but what differs from day to day."""
            newest = max(product["versions"])
            daily = {"sha256", "size", "src_release", "src_version", "path"}
            entries = {
                key: {field: value for field, value in item.items() if field not in daily}
                | {"path": item["path"].replace(newest, "SERIAL")}
                for key, item in product["versions"][newest]["items"].items()
            }
            return {**product, "versions": entries}

        real = json.loads((REAL_STREAM / f"{stem}.json").read_bytes())["products"]
        ours = load(mirror, stem)["products"]
        common = ours.keys() & real.keys()
        assert len(common) == {UBUNTU: 26, CENTOS: 2, BOOTLOADERS: 5}[stem]
        assert {name: shape(ours[name]) for name in common} == {name: shape(real[name]) for name in common}

    def test_the_same_seed_gives_the_same_files(self, mirror: Mirror, tmp_path: Path) -> None:
        assert digests(Mirror.create(tmp_path / "same", now=NOW, sizes=TINY)) == digests(mirror)
        other = digests(Mirror.create(tmp_path / "other", now=NOW, sizes=TINY, seed=1))
        assert other.keys() == digests(mirror).keys()
        assert not set(other.values()) & set(digests(mirror).values())

    def test_create_keeps_what_is_there_and_replaces_what_is_lost(self, mirror: Mirror) -> None:
        mirror.publish("20260815", release="noble")
        kernel = mirror.expected("noble", "amd64", "ga-24.04")["boot-kernel"]
        index = mirror.root / STREAM / "index.sjson"
        (mirror.root / kernel.path).unlink()
        index.unlink()
        again = Mirror.create(mirror.directory, now=NOW + timedelta(days=1))
        assert again.expected("noble", "amd64", "ga-24.04")["boot-kernel"] == kernel
        assert sha256((mirror.root / kernel.path).read_bytes()).hexdigest() == kernel.sha256
        assert "VALIDSIG" in gpgv(mirror.keyring_path, index)[1]

    def test_open_wants_a_finished_mirror(self, tmp_path: Path) -> None:
        with pytest.raises(FileNotFoundError):
            Mirror.open(tmp_path)


class TestPublish:
    def test_it_adds_a_version_and_keeps_the_one_before(self, mirror: Mirror) -> None:
        before = mirror.expected("resolute", "amd64", "ga-26.04")
        published = mirror.publish(version="20260702", release="resolute", arch="amd64")
        assert len(published.products) == 5
        assert len(published.files) == 5 * 2 + 2
        for name in published.products:
            assert list(mirror.products()[name]["versions"]) == ["20260701", "20260702"]
        after = mirror.expected("resolute", "amd64", "ga-26.04")
        assert before.keys() == after.keys()
        for ftype, file in after.items():
            assert file.sha256 != before[ftype].sha256
            assert sha256((mirror.root / file.path).read_bytes()).hexdigest() == file.sha256
            assert (mirror.root / before[ftype].path).exists()

    def test_it_touches_no_other_product(self, mirror: Mirror) -> None:
        before = mirror.products()
        published = mirror.publish(release="noble", arch="arm64")
        after = mirror.products()
        assert {name for name in after if after[name] != before[name]} == set(published.products)

    def test_the_oldest_version_goes_with_its_files(self, mirror: Mirror) -> None:
        oldest = mirror.root / "noble/amd64/20260624/squashfs"
        assert oldest.exists()
        mirror.publish(release="noble", arch="amd64")
        assert not oldest.exists()
        assert digests(mirror) == {item["path"]: item["sha256"] for item in items(mirror.products())}

    def test_keep_says_how_many_stay(self, mirror: Mirror) -> None:
        published = mirror.publish(release="noble", arch="amd64", keep=3)
        assert {tuple(mirror.products()[name]["versions"]) for name in published.products} == {
            ("20260624", "20260701", "20260702")
        }

    def test_without_a_release_every_ubuntu_image_gets_the_version(self, mirror: Mirror) -> None:
        published = mirror.publish()
        assert published.version == "20260702"
        assert len(published.products) == 36

    def test_centos_and_bootloaders_are_published_by_os(self, mirror: Mirror) -> None:
        assert mirror.publish(os="centos", release="centos70").version == "20240623_01"
        assert mirror.publish(os="pxelinux", arch="i386").version == "20210204.0"

    def test_half_way_the_metadata_names_files_that_are_missing(self, mirror: Mirror) -> None:
        published = mirror.publish(release="noble", arch="amd64", files=False)
        assert not any((mirror.root / file.path).exists() for file in published.files)
        assert set(mirror.complete()) == set(published.files)
        for file in published.files:
            assert sha256((mirror.root / file.path).read_bytes()).hexdigest() == file.sha256
        assert mirror.complete() == ()

    def test_another_process_sees_and_continues_it(self, mirror: Mirror) -> None:
        assert Mirror.open(mirror.directory).publish(release="noble").version == "20260702"
        assert mirror.publish(release="noble").version == "20260703"

    @pytest.mark.parametrize(
        ("change", "updated"),
        [
            pytest.param(lambda m: m.publish(release="noble"), NOW + timedelta(seconds=1), id="publish"),
            pytest.param(lambda m: m.publish(updated=NOW - timedelta(days=1)), NOW - timedelta(days=1), id="backwards"),
            pytest.param(lambda m: m.drop_product("*:8:*"), NOW + timedelta(seconds=1), id="drop a product"),
            pytest.param(lambda m: m.sign_with(m.key), NOW + timedelta(seconds=1), id="sign"),
            pytest.param(lambda m: m.rewrite(updated=NOW), NOW, id="rewrite at a given time"),
        ],
    )
    def test_every_document_says_when_it_was_updated(
        self, mirror: Mirror, change: Callable[[Mirror], object], updated: datetime
    ) -> None:
        change(mirror)
        for stem in DOCUMENTS:
            assert parsedate_to_datetime(load(mirror, stem)["updated"]) == updated
        for entry in load(mirror, "index")["index"].values():
            assert parsedate_to_datetime(entry["updated"]) == updated

    def test_time_goes_on_from_the_newest_after_it_went_back(self, mirror: Mirror) -> None:
        mirror.rewrite(updated=NOW - timedelta(days=1))
        mirror.rewrite()
        assert mirror.updated == NOW + timedelta(seconds=1)

    @pytest.mark.parametrize(
        ("arguments", "refusal"),
        [
            pytest.param({"release": "warty"}, (LookupError, "no ubuntu warty image"), id="unknown release"),
            pytest.param({"version": "20260701"}, (ValueError, "20260701 has been published"), id="known version"),
        ],
    )
    def test_what_it_refuses(
        self, mirror: Mirror, arguments: dict[str, str], refusal: tuple[type[Exception], str]
    ) -> None:
        before = mirror.products()
        with pytest.raises(refusal[0], match=refusal[1]):
            mirror.publish(**arguments)  # type: ignore[arg-type]
        assert mirror.products() == before

    @pytest.mark.parametrize(
        ("serial", "following"),
        [
            pytest.param("20260701", "20260702", id="day"),
            pytest.param("20261231", "20270101", id="year"),
            pytest.param("20240622_01", "20240623_01", id="centos"),
            pytest.param("20231004.0", "20231005.0", id="bootloader"),
        ],
    )
    def test_next_serial(self, serial: str, following: str) -> None:
        assert next_serial(serial) == following


def test_a_dropped_product_is_gone_and_shared_files_stay(mirror: Mirror) -> None:
    image = mirror.expected("noble", "amd64", "hwe-24.04-edge")
    assert mirror.drop_product("*:24.04:amd64:hwe-24.04-edge") == (
        "com.ubuntu.maas.stable:v3:boot:24.04:amd64:hwe-24.04-edge",
    )
    assert not (mirror.root / image["boot-kernel"].path).exists()
    assert (mirror.root / image["squashfs"].path).exists()
    assert not any(name.endswith("amd64:hwe-24.04-edge") for name in load(mirror, "index")["index"][UBUNTU]["products"])
    with pytest.raises(LookupError, match="No product"):
        mirror.drop_product("*:24.04:amd64:hwe-24.04-edge")


def test_replaced_bytes_stay_until_the_stream_is_rewritten(mirror: Mirror) -> None:
    path = f"{STREAM}/{UBUNTU}.sjson"
    whole = (mirror.root / path).read_bytes()
    mirror.replace(path, whole[: len(whole) // 2])
    assert "VALIDSIG" not in gpgv(mirror.keyring_path, mirror.root / path)[1]
    mirror.rewrite()
    assert "VALIDSIG" in gpgv(mirror.keyring_path, mirror.root / path)[1]


@pytest.fixture
async def server(mirror: Mirror) -> AsyncIterator[Server]:
    async with serve(mirror, prefix="/ephemeral-v3/stable/") as server:
        yield server


@pytest.fixture
async def client(server: Server) -> AsyncIterator[aiohttp.ClientSession]:
    timeout = aiohttp.ClientTimeout(total=10, sock_read=0.3)
    async with aiohttp.ClientSession(server.url, auto_decompress=False, timeout=timeout) as session:
        yield session


@pytest.fixture
def squashfs(mirror: Mirror) -> File:
    return mirror.expected("noble", "amd64", "ga-24.04")["squashfs"]


@pytest.fixture
def content(mirror: Mirror, squashfs: File) -> bytes:
    return (mirror.root / squashfs.path).read_bytes()


class TestServer:
    async def test_the_whole_file(self, client: aiohttp.ClientSession, squashfs: File, content: bytes) -> None:
        async with client.get(squashfs.path) as answer:
            assert answer.status == 200
            assert answer.content_length == squashfs.size
            assert answer.headers["Accept-Ranges"] == "bytes"
            assert await answer.read() == content

    async def test_head(self, client: aiohttp.ClientSession, squashfs: File) -> None:
        async with client.head(squashfs.path) as answer:
            assert answer.status == 200
            assert answer.headers["Content-Length"] == str(squashfs.size)
            assert await answer.read() == b""

    @pytest.mark.parametrize(
        ("asked", "part"),
        [
            pytest.param("bytes=0-99", slice(0, 100), id="beginning"),
            pytest.param("bytes=1000-", slice(1000, None), id="rest"),
            pytest.param("bytes=-10", slice(-10, None), id="end"),
            pytest.param("bytes=5000-999999", slice(5000, None), id="beyond the end"),
        ],
    )
    async def test_a_part(
        self, client: aiohttp.ClientSession, squashfs: File, content: bytes, asked: str, part: slice
    ) -> None:
        async with client.get(squashfs.path, headers={"Range": asked}) as answer:
            assert answer.status == 206
            start, stop, _ = part.indices(squashfs.size)
            assert answer.headers["Content-Range"] == f"bytes {start}-{stop - 1}/{squashfs.size}"
            assert await answer.read() == content[part]

    async def test_a_part_that_is_not_there(self, client: aiohttp.ClientSession, squashfs: File) -> None:
        async with client.get(squashfs.path, headers={"Range": f"bytes={squashfs.size}-"}) as answer:
            assert answer.status == 416
            assert answer.headers["Content-Range"] == f"bytes */{squashfs.size}"

    @pytest.mark.parametrize("asked", ["bytes=0-1,4-5", "lines=1-2", "bytes=9-1"])
    async def test_a_range_it_does_not_understand(
        self, client: aiohttp.ClientSession, squashfs: File, content: bytes, asked: str
    ) -> None:
        async with client.get(squashfs.path, headers={"Range": asked}) as answer:
            assert answer.status == 200
            assert await answer.read() == content

    @pytest.mark.parametrize("validator", ["ETag", "Last-Modified"])
    async def test_if_range_decides_between_the_part_and_the_whole(
        self, client: aiohttp.ClientSession, mirror: Mirror, squashfs: File, validator: str
    ) -> None:
        async with client.head(squashfs.path) as answer:
            headers = {"Range": "bytes=100-", "If-Range": answer.headers[validator]}
        async with client.get(squashfs.path, headers=headers) as answer:
            assert answer.status == 206
        mirror.replace(squashfs.path, b"another file")
        os.utime(mirror.root / squashfs.path, (0, 0))
        async with client.get(squashfs.path, headers=headers) as answer:
            assert answer.status == 200
            assert await answer.read() == b"another file"

    @pytest.mark.parametrize(
        ("validator", "condition"), [("ETag", "If-None-Match"), ("Last-Modified", "If-Modified-Since")]
    )
    async def test_304_until_the_document_is_rewritten(
        self, client: aiohttp.ClientSession, mirror: Mirror, validator: str, condition: str
    ) -> None:
        path = f"{STREAM}/index.sjson"
        os.utime(mirror.root / path, (0, 0))
        async with client.get(path) as answer:
            headers = {condition: answer.headers[validator]}
        async with client.get(path, headers=headers) as answer:
            assert answer.status == 304
            assert await answer.read() == b""
        mirror.rewrite()
        async with client.get(path, headers=headers) as answer:
            assert answer.status == 200

    @pytest.mark.parametrize("path", ["nothing", "noble", "", "%2e%2e/key.pgp", "..%2fkey.pgp", "%2fetc%2fpasswd"])
    async def test_only_files_below_the_root(self, server: Server, path: str) -> None:
        async with (
            aiohttp.ClientSession() as session,
            session.get(URL(server.url + path, encoded=True)) as answer,
        ):
            assert answer.status == 404

    async def test_it_remembers_what_was_asked(
        self, server: Server, client: aiohttp.ClientSession, squashfs: File
    ) -> None:
        async with client.get(f"{STREAM}/{UBUNTU}.sjson"):
            pass
        async with client.get(squashfs.path, headers={"Range": "bytes=10-"}):
            pass
        async with client.head("nothing"):
            pass
        assert server.requests == [
            ("GET", f"{STREAM}/{UBUNTU}.sjson", None, 200),
            ("GET", squashfs.path, "bytes=10-", 206),
            ("HEAD", "nothing", None, 404),
        ]
        assert server.asked("*/squashfs") == server.requests[1:2]

    async def test_a_fault_ends_after_so_many_requests_and_the_next_one_begins(
        self, server: Server, client: aiohttp.ClientSession, squashfs: File
    ) -> None:
        server.misbehave("*/squashfs", Status(503, {"Retry-After": "1"}), times=2)
        server.misbehave("*/squashfs", Status(404), times=1)
        seen = []
        for _ in range(4):
            async with client.get(squashfs.path) as answer:
                seen.append(answer.status)
        assert seen == [503, 503, 404, 200]

    async def test_a_fault_hits_only_what_matches_and_until_told_to_behave(
        self, server: Server, client: aiohttp.ClientSession, squashfs: File
    ) -> None:
        server.misbehave("*/squashfs", Status(500))
        seen = []
        for path in (squashfs.path, squashfs.path, f"{squashfs.path}.manifest"):
            async with client.get(path) as answer:
                seen.append(answer.status)
        server.behave()
        async with client.get(squashfs.path) as answer:
            seen.append(answer.status)
        assert seen == [500, 500, 200, 200]

    async def test_a_file_is_closed_though_its_request_is_cancelled_while_it_opens(
        self, server: Server, squashfs: File, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        begun, opened = threading.Event(), list[BinaryIO | None]()

        def slowly(root: Path, path: str) -> BinaryIO | None:
            begun.set()
            time.sleep(0.1)
            opened.append(open_file(root, path))
            return opened[0]

        open_file = mirror_server._open
        monkeypatch.setattr(mirror_server, "_open", slowly)
        url = URL(server.url) / squashfs.path
        _, client = await asyncio.open_connection(url.host, url.port)
        async with asyncio.timeout(5):
            client.write(f"GET {url.path} HTTP/1.1\r\nHost: mirror\r\n\r\n".encode())
            while not begun.is_set():  # noqa: ASYNC110
                await asyncio.sleep(0.002)
            client.close()
            await client.wait_closed()
            while not (opened and opened[0] and opened[0].closed):  # noqa: ASYNC110
                await asyncio.sleep(0.01)

    async def test_a_port_that_is_taken_is_an_error(self, mirror: Mirror, server: Server) -> None:
        with pytest.raises(OSError, match="address already in use"):
            async with serve(mirror, port=int(server.url.split(":")[2].split("/")[0])):
                pass


async def look(client: aiohttp.ClientSession, path: str, at_most: int = 100_000, **options: Any) -> dict[str, Any]:
    """What a client sees of an answer: its status, headers and bytes as far as they came, and the error at the end."""
    seen: dict[str, Any] = {"status": None, "body": b"", "error": None}
    try:
        async with client.get(path, **options) as answer:
            seen |= {"status": answer.status, "headers": answer.headers}
            while len(seen["body"]) < at_most and (chunk := await answer.content.readany()):
                seen["body"] += chunk
    except (aiohttp.ClientError, TimeoutError) as error:
        seen["error"] = type(error)
    return seen


@pytest.mark.parametrize(
    ("fault", "options", "status", "body", "error"),
    [
        pytest.param(Status(503, body=b"later"), {}, 503, lambda b: b"later", None, id="status"),
        pytest.param(Cut(1000), {}, 200, lambda b: b[:1000], aiohttp.ClientPayloadError, id="cut"),
        pytest.param(
            Cut(1000),
            {"headers": {"Range": "bytes=500-"}},
            206,
            lambda b: b[500:1500],
            aiohttp.ClientPayloadError,
            id="cut a part",
        ),
        pytest.param(Cut(0), {}, 200, lambda b: b"", aiohttp.ClientPayloadError, id="cut at once"),
        pytest.param(Cut(None), {}, None, lambda b: b"", aiohttp.ServerDisconnectedError, id="cut before any answer"),
        pytest.param(Hang(1000), {}, 200, lambda b: b[:1000], aiohttp.SocketTimeoutError, id="hang"),
        pytest.param(Hang(None), {}, None, lambda b: b"", aiohttp.SocketTimeoutError, id="hang before any answer"),
        pytest.param(Flip(7), {}, 200, lambda b: b[:7] + bytes([b[7] ^ 255]) + b[8:], None, id="flip"),
        pytest.param(
            Flip(7),
            {"headers": {"Range": "bytes=7-8"}},
            206,
            lambda b: bytes([b[7] ^ 255, b[8]]),
            None,
            id="flip a part",
        ),
        pytest.param(IgnoreRange(), {"headers": {"Range": "bytes=9-"}}, 200, lambda b: b, None, id="ignore Range"),
        pytest.param(Slow(30_000), {}, 200, lambda b: b, None, id="slow"),
        pytest.param(Redirect("/elsewhere", 307), {"allow_redirects": False}, 307, lambda b: b"", None, id="redirect"),
        pytest.param(Redirect(None), {}, None, lambda b: b"", aiohttp.TooManyRedirects, id="redirect loop"),
        pytest.param(WrongLength(10), {}, 200, lambda b: b, aiohttp.ClientPayloadError, id="length too great"),
        pytest.param(WrongLength(-10), {}, 200, lambda b: b[:-10], None, id="length too small"),
        pytest.param(HugeHeader(20_000), {}, None, lambda b: b"", aiohttp.ClientResponseError, id="huge header"),
    ],
)
async def test_a_fault_as_a_client_sees_it(
    server: Server,
    client: aiohttp.ClientSession,
    squashfs: File,
    content: bytes,
    fault: Fault,
    options: dict[str, Any],
    status: int | None,
    body: Callable[[bytes], bytes],
    error: type[Exception] | None,
) -> None:
    server.misbehave("*/squashfs", fault)
    seen = await look(client, squashfs.path, **options)
    assert (seen["status"], seen["body"], seen["error"]) == (status, body(content), error)
    assert server.requests[0].status == (
        seen["status"] or {Cut: 0, Hang: 0, Redirect: 302, HugeHeader: 200}[type(fault)]
    )
    server.behave()
    assert (await look(client, squashfs.path))["body"] == content


async def test_slow_takes_its_time(server: Server, client: aiohttp.ClientSession, squashfs: File) -> None:
    server.misbehave("*", Slow(bytes_per_second=squashfs.size * 5))
    clock = asyncio.get_running_loop().time
    began = clock()
    await look(client, squashfs.path)
    assert clock() - began >= 0.19


async def test_what_is_sent_slowly_goes_on_at_full_speed_once_the_server_behaves(
    server: Server, client: aiohttp.ClientSession, squashfs: File, content: bytes
) -> None:
    server.misbehave(squashfs.path, Slow(squashfs.size // 60))
    async with client.get(squashfs.path) as answer:
        begun = await answer.content.read(1)
        server.behave()
        assert begun + await asyncio.wait_for(answer.content.read(), 5) == content


async def test_redirect_goes_where_it_says(server: Server, client: aiohttp.ClientSession, squashfs: File) -> None:
    server.misbehave("*/squashfs", Redirect(f"{server.url}{squashfs.path}.manifest", 308))
    assert (await look(client, squashfs.path))["status"] == 200
    assert [request.status for request in server.requests] == [308, 200]


async def test_gzip_is_sent_unasked(
    server: Server, client: aiohttp.ClientSession, squashfs: File, content: bytes
) -> None:
    server.misbehave("*/squashfs", Gzip())
    seen = await look(client, squashfs.path, headers={"Accept-Encoding": "identity", "Range": "bytes=5-"})
    assert (seen["status"], seen["headers"]["Content-Encoding"]) == (200, "gzip")
    assert gzip.decompress(seen["body"]) == content


async def test_an_endless_body_goes_on_after_the_file(
    server: Server, client: aiohttp.ClientSession, squashfs: File, content: bytes
) -> None:
    server.misbehave("*/squashfs", Endless())
    seen = await look(client, squashfs.path, at_most=5_000_000)
    assert "Content-Length" not in seen["headers"]
    assert len(seen["body"]) >= 5_000_000
    assert seen["body"].rstrip(b"\0") == content.rstrip(b"\0")


async def test_a_hanging_answer_does_not_keep_the_server_from_ending(mirror: Mirror) -> None:
    async with aiohttp.ClientSession() as session, asyncio.timeout(5):
        async with serve(mirror) as server:
            server.misbehave("*", Hang(0))
            answer = await session.get(f"{server.url}{STREAM}/index.json")
        with pytest.raises(aiohttp.ClientPayloadError):
            await answer.read()


@pytest.fixture
def authority(tmp_path: Path) -> Path:
    """A self-signed certificate for 127.0.0.1 and its key, in one PEM file."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "sample mirror")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(hours=1))
        .not_valid_after(now + timedelta(hours=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem, pkcs8 = serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8
    path = tmp_path / "authority.pem"
    secret = key.private_bytes(pem, pkcs8, serialization.NoEncryption())
    path.write_bytes(secret + certificate.public_bytes(pem))
    return path


async def test_it_serves_over_tls(mirror: Mirror, squashfs: File, content: bytes, authority: Path) -> None:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(authority)
    trust = ssl.create_default_context(cafile=authority)
    async with serve(mirror, ssl=context) as server, aiohttp.ClientSession(server.url) as session:
        assert server.url.startswith("https://")
        assert (await look(session, squashfs.path, ssl=trust))["body"] == content
        assert (await look(session, squashfs.path))["error"] is aiohttp.ClientConnectorCertificateError


class TestCommandLine:
    @pytest.mark.parametrize("end", [signal.SIGTERM, signal.SIGINT])
    async def test_serve_and_publish_are_two_processes_on_one_directory(
        self, tmp_path: Path, end: signal.Signals
    ) -> None:
        serving = await asyncio.create_subprocess_exec(
            *(
                sys.executable,
                "-m",
                "deploy.local.mirror",
                "serve",
                "--dir",
                tmp_path,
                "--port",
                "0",
                "--sizes",
                "tiny",
            ),
            stdout=asyncio.subprocess.PIPE,
            cwd=CHECKOUT,
        )
        try:
            assert serving.stdout is not None
            ready = (await asyncio.wait_for(serving.stdout.readline(), 20)).decode()
            found = re.fullmatch(r"Sample mirror at (\S+) with keyring (\S+) of key ([0-9A-F]{40})\n", ready)
            assert found
            assert found[2] == str(tmp_path / "keyring.gpg")

            publishing = await asyncio.create_subprocess_exec(
                *(sys.executable, "-m", "deploy.local.mirror", "publish", "--dir", tmp_path, "--release", "noble"),
                stdout=asyncio.subprocess.PIPE,
                cwd=CHECKOUT,
            )
            said, _ = await asyncio.wait_for(publishing.communicate(), 20)
            assert publishing.returncode == 0
            assert said.startswith(b"Published 20260702: 24 files, 0.0 MB")
            assert b"com.ubuntu.maas.stable:v3:boot:24.04:amd64:ga-24.04" in said

            async with aiohttp.ClientSession(found[1]) as session:
                async with session.get(f"{STREAM}/index.sjson") as answer:
                    (tmp_path / "index").write_bytes(await answer.read())
                text, status = gpgv(tmp_path / "keyring.gpg", tmp_path / "index")
                assert f"{found[3]}\n" in status
                async with session.get(json.loads(text)["index"][UBUNTU]["path"]) as answer:
                    assert b"noble/amd64/20260702/squashfs" in await answer.read()
        finally:
            serving.send_signal(end)
        assert await asyncio.wait_for(serving.wait(), 10) == 0

    @pytest.mark.parametrize(
        ("arguments", "sentence"),
        [
            pytest.param([], "There is no mirror in", id="no mirror"),
            pytest.param(["--release", "warty"], "The mirror offers no ubuntu warty image.", id="unknown release"),
            pytest.param(["--version", "20260701"], "Version 20260701 has been published", id="known version"),
        ],
    )
    def test_publish_says_in_a_sentence_why_not(
        self, mirror: Mirror, tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
    ) -> None:
        directory = mirror.directory if arguments else tmp_path
        assert main(["publish", "--dir", str(directory), *arguments]) == 1
        assert capsys.readouterr().err.startswith(sentence)
