"""Region and rack inside TLS, by a private CA: what is told without it, and a certificate that is renewed meanwhile."""

import asyncio
import os
import ssl
import subprocess
import sys
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path

import aiohttp
import pytest

from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server
from tests.e2e.site import Service, Site
from tests.http.client.certificates import NOW, Authority


@pytest.fixture
def authority(tmp_path: Path) -> Authority:
    return Authority.create(tmp_path)


@pytest.fixture
async def trusting(site: Site, authority: Authority) -> AsyncIterator[Site]:
    """A site whose caller believes the authority."""
    trust = ssl.create_default_context(cafile=str(authority.bundle))
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(ssl=trust, force_close=True)) as session:
        yield Site(site.directory, session, site.services)


def failed(service: Service, *arguments: str, text: str = "", **environment: str) -> str:
    """What a command that must not succeed says."""
    done = subprocess.run(
        [sys.executable, "-m", *arguments],
        env=service.environment | environment,
        input=text,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode != 0, done.stdout
    assert "Traceback" not in done.stderr
    return done.stderr


async def serial(port: int, authority: Authority) -> str:
    """The number of the certificate that answers at a port."""
    trust = ssl.create_default_context(cafile=str(authority.bundle))
    _, writer = await asyncio.open_connection("127.0.0.1", port, ssl=trust)
    found: str = writer.get_extra_info("peercert")["serialNumber"]
    writer.transport.abort()
    return found


async def test_region_and_rack_by_a_private_ca(
    trusting: Site, authority: Authority, database_url: str, upstream: tuple[Mirror, Server]
) -> None:
    mirror, server = upstream
    certificate, key = authority.pair("127.0.0.1", "localhost", into=trusting.directory / "served")
    pair = {"TLS_CERTIFICATE": str(certificate), "TLS_KEY": str(key)}
    region = trusting.add_region(
        "region-a",
        database_url,
        server.url,
        mirror.keyring_path,
        **{f"REGION_{name}": value for name, value in pair.items()},
    )
    region.scheme = "https"
    rack = trusting.add_rack("rack-a", **{f"RACK_{name}": value for name, value in pair.items()})
    rack.environment["RACK_TLS_PORT"] = str(rack.port + 1)
    await trusting.start_region(region)

    # Who does not know the CA is told how to name it; nothing is sent.
    _, answer = await trusting.api(region, "POST", "/enrolment-tokens")
    token = f"{answer['token']}\n"
    asked = ("rack", "enrol", "--region", region.base, "--name", "rack-a")
    said = await asyncio.to_thread(failed, rack, *asked, text=token)
    assert "(unable to get local issuer certificate); name the CA that issued its certificate by a CA bundle." in said
    said = await asyncio.to_thread(failed, rack, *asked, "--ca-bundle", str(key), text=token)
    assert "it holds no certificates in PEM form" in said
    await asyncio.to_thread(rack.told, *asked[1:], "--ca-bundle", str(authority.bundle), text=token)

    # The rack needs the file no more: it keeps what it was told to trust.
    (trusting.directory / "authority.pem").rename(trusting.directory / "elsewhere.pem")
    authority_here = Authority(authority.key, authority.name, trusting.directory / "moved")
    authority_here.directory.mkdir()
    (trusting.directory / "elsewhere.pem").rename(authority_here.bundle)
    rack.start()
    path = "bootloader/uefi/amd64/bootx64.efi"
    url = f"https://127.0.0.1:{rack.port + 1}/images/{path}"

    async def served() -> bool:
        try:
            async with trusting.session.get(url) as inside:
                return inside.status == 200 and len(await inside.read()) > 0
        except aiohttp.ClientError:
            return False

    await trusting.until(served)
    async with trusting.session.get(f"{rack.base}/images/{path}") as plain:
        assert plain.status == 200, "firmware goes on to ask in the clear"

    # The same certificate serves both; renewed, both take it, and nobody is restarted.
    before = await serial(region.port, authority_here)
    Authority(authority.key, authority.name, trusting.directory).pair(
        "127.0.0.1", "localhost", until=NOW + timedelta(days=30), into=trusting.directory / "served"
    )

    async def renewed() -> bool:
        serials = {await serial(port, authority_here) for port in (region.port, rack.port + 1)}
        return before not in serials and len(serials) == 1

    await trusting.until(renewed)
    assert "The new TLS certificate" in region.log.read_text()
    assert (await trusting.api(region, "GET", "/racks"))[0] == 200

    # The operator's command, by its own setting.
    token = (trusting.directory / "region" / "admin-token").read_text()
    home = {"XDG_CONFIG_HOME": str(trusting.directory / "home")}
    login = ("region.cli.main", "login", region.base, "--token-file", "-")
    assert "name the CA" in await asyncio.to_thread(failed, region, *login, text=token, **home)
    region.environment |= home | {"BOOTFERRY_CA_BUNDLE": str(authority_here.bundle)}
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", *login],
        env=region.environment,
        input=token,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    assert "unencrypted" not in done.stderr


@pytest.mark.parametrize("program", ["region", "rack"])
async def test_a_pair_that_does_not_fit_ends_the_start_with_78(
    site: Site, authority: Authority, program: str, tmp_path: Path
) -> None:
    certificate, _ = authority.pair("127.0.0.1")
    _, key = authority.pair("other.test")
    prefix = program.upper()
    environment = {name: value for name, value in os.environ.items() if not name.startswith(("REGION_", "RACK_"))}
    environment |= {
        f"{prefix}_DATA_DIR": str(tmp_path / program),
        f"{prefix}_TLS_CERTIFICATE": str(certificate),
        f"{prefix}_TLS_KEY": str(key),
        "BOOTFERRY_CONFIG_DIR": str(tmp_path),
    }
    done = await asyncio.to_thread(
        subprocess.run,
        [sys.executable, "-m", program, "serve" if program == "region" else "run"],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 78
    assert f"The TLS key {key} does not belong to the certificate {certificate};" in done.stderr
