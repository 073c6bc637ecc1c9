"""People in front of the page: the system's chromium, a real region, a real rack, a real sample mirror."""

import os
import re
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import aiohttp
import pytest
import pytest_asyncio
from playwright.async_api import Browser, BrowserContext, ConsoleMessage, Page, Request, async_playwright, expect
from pytest_asyncio import is_async_test

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from tests.e2e.site import Service, Site

CHROMIUM = "/usr/bin/chromium"
ARGUMENTS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--disable-lcd-text",
    "--force-color-profile=srgb",
]
PATIENCE_MS = 60_000
"""When a state that does not come counts as missing. One that comes is seen at once, so this costs no time, and a busy
machine may take its own."""

expect.set_options(timeout=PATIENCE_MS)


@dataclass(slots=True)
class Visitor:
    """Somebody with a browser of their own. `faults` collects what no page of ours may do."""

    context: BrowserContext
    page: Page
    base: str
    faults: list[str] = field(default_factory=list)
    expected: list[str] = field(default_factory=list)

    def expect_fault(self, pattern: str) -> None:
        """After this a fault that matches is no fault: chromium logs every refused request."""
        self.expected.append(pattern)

    async def open(self, fragment: str = "") -> None:
        """Go to a page, as by its address."""
        await self.page.goto(f"{self.base}/{fragment}")

    async def log_in(self, token: str) -> None:
        """Type the token on the log-in page and see the Images page."""
        await self.page.goto(f"{self.base}/")
        await self.page.get_by_label("Operator token").fill(token)
        await self.page.get_by_role("button", name="Log in").click()
        await expect(self.page.get_by_role("heading", name="Images", exact=True, level=1)).to_be_visible()
        await expect(self.page.get_by_role("heading", name="Ubuntu")).to_be_visible()

    def unexpected(self) -> list[str]:
        """Console errors, script errors and requests to other hosts, less the expected ones."""
        return [fault for fault in self.faults if not any(re.search(pattern, fault) for pattern in self.expected)]


def _watch(visitor: Visitor) -> None:
    def heard(message: ConsoleMessage) -> None:
        # A font that comes late is not shown (`font-display: optional`): chromium warns of it on a busy machine.
        is_late_font = ".woff2 was preloaded using link preload but not used" in message.text
        if message.type in ("error", "warning") and not is_late_font:
            visitor.faults.append(f"console: {message.text} ({message.location.get('url', '')})")

    def asked(request: Request) -> None:
        url = urlsplit(request.url)
        if url.scheme not in ("data", "blob") and f"{url.scheme}://{url.netloc}" != visitor.base:
            visitor.faults.append(f"request: {request.url}")

    visitor.context.on("request", asked)
    visitor.page.on("console", heard)
    visitor.page.on("pageerror", lambda error: visitor.faults.append(f"script: {error}"))


@asynccontextmanager
async def visiting(browser: Browser, base: str, **options: object) -> AsyncIterator[Visitor]:
    """A visitor with a fresh profile; what they did wrong is asserted at the end."""
    context = await browser.new_context(locale="en-GB", timezone_id="UTC", **options)  # type: ignore[arg-type]
    context.set_default_timeout(PATIENCE_MS)
    visitor = Visitor(context, await context.new_page(), base)
    _watch(visitor)
    try:
        yield visitor
    finally:
        # A test may end while an answer of a route of its own is under way, which concerns nobody any more.
        await visitor.page.unroute_all(behavior="ignoreErrors")
        await context.close()
    assert visitor.unexpected() == []


@asynccontextmanager
async def chromium() -> AsyncIterator[Browser]:
    """The system's browser."""
    async with async_playwright() as playwright:
        browser = await playwright.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        await browser.close()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Tests in front of the page share one event loop, and so one browser: to start it takes seconds."""
    here = Path(__file__).parent
    for item in items:
        if here in item.path.parents and is_async_test(item):
            item.add_marker(pytest.mark.asyncio(loop_scope="session"), append=False)


@pytest_asyncio.fixture(scope="session", loop_scope="session")
async def browser() -> AsyncIterator[Browser]:
    """A browser; each visitor has a profile that has seen nothing yet. Skips where the system has none."""
    if shutil.which(CHROMIUM) is None:
        if os.environ.get("CI"):
            pytest.fail(f"there is no {CHROMIUM}, and in CI these tests must run")
        pytest.skip(f"there is no {CHROMIUM}: install the package chromium")
    async with chromium() as launched:
        yield launched


@dataclass(frozen=True, slots=True)
class Harbour:
    """One mirror, one region, one rack that is not enrolled yet."""

    site: Site
    mirror: Mirror
    upstream: Server
    region: Service
    rack: Service

    @property
    def admin_token(self) -> str:
        """What the first start left for the administrator."""
        return (self.site.directory / "region" / "admin-token").read_text().strip()

    async def api(self, method: str, path: str, **given: object) -> Any:
        """The JSON of a call with the administrator's token; it must succeed."""
        status, answer = await self.site.api(self.region, method, path, **given)
        assert status < 400, answer
        return answer

    async def token_for(self, name: str, role: str) -> str:
        """A token of somebody else."""
        answer = await self.api("POST", "/operator-tokens", json={"name": name, "role": role})
        return str(answer["token"])

    async def until_status(self, image: str, status: str) -> None:
        """Wait until the region says so of the image."""

        async def is_so() -> bool:
            return (await self.site.statuses(self.region)).get(image) == status

        await self.site.until(is_so)


@asynccontextmanager
async def harbour_in(
    directory: Path, database_url: str, *, sizes: dict[str, int] | None = None
) -> AsyncIterator[Harbour]:
    """Mirror, region and rack in a directory; only the mirror runs yet."""
    mirror = Mirror.create(directory / "upstream", now=datetime.now(UTC), sizes=TINY | (sizes or {}))
    # Some releases lack an architecture; upstream it is so, too.
    mirror.drop_product("*:24.10:arm64:*")
    async with aiohttp.ClientSession() as session, serve(mirror, host="127.0.0.1") as upstream:
        site = Site(directory, session)
        region = site.add_region(
            "region", database_url, upstream.url, mirror.keyring_path, REGION_PRUNE_GRACE_SECONDS="0"
        )
        rack = site.add_rack("rack-1", RACK_PRUNE_GRACE_SECONDS="0")
        try:
            yield Harbour(site, mirror, upstream, region, rack)
        finally:
            for service in reversed(site.services):
                if service.process is not None:
                    service.process.kill()
                    service.process.wait()


@pytest_asyncio.fixture(loop_scope="session")
async def harbour(tmp_path: Path, database_url: str) -> AsyncIterator[Harbour]:
    """A region that runs and has imported its first image; the rack is not enrolled yet."""
    async with harbour_in(tmp_path, database_url, sizes={"squashfs": 400_000}) as made:
        await made.site.start_region(made.region)
        await made.until_status("ubuntu:resolute:amd64", "stored")
        yield made


@pytest_asyncio.fixture(loop_scope="session")
async def visitor(browser: Browser, harbour: Harbour) -> AsyncIterator[Visitor]:
    """The administrator, logged in, in front of the Images page."""
    async with visiting(browser, harbour.region.base) as made:
        await made.log_in(harbour.admin_token)
        yield made
