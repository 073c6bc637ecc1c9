"""`make screenshots`: every designed state of the page, taken from a real region, rack and mirror, into docs/images/.

Each state is there for a desktop in light and a phone in dark; the ones people see most, in all four. Three states
are told to the page instead of made: a disk that is nearly full, forty images, and a rack that waits for an operator.
"""

import asyncio
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from copy import deepcopy
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from playwright.async_api import Browser, Page, Route, expect

from deploy.local import postgres
from deploy.local.mirror.content import SAMPLE
from deploy.local.mirror.faults import Flip, Slow, Status
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from deploy.local.scratch import scratch_directory
from region.database.connection import create_engine, migrate
from shared.errors import WaitsForConfirmation
from tests.browser.conftest import Harbour, Visitor, chromium, harbour_in, visiting
from tests.browser.test_images import JAMMY, NOBLE, RESOLUTE, status
from tests.browser.test_source import at_path, paste

IMAGES = Path(__file__).parent.parent.parent / "docs" / "images"
WIDTHS = {"desktop": 1280, "phone": 390}
TALLEST = {"desktop": 1100, "phone": 1500}
MAX_BYTES = 180_000
EVERY = tuple((width, scheme) for width in WIDTHS for scheme in ("light", "dark"))
TWO = (("desktop", "light"), ("phone", "dark"))
CENTOS = "centos:centos70:amd64"
MANY = (
    ("26.04 LTS", "resolute"),
    ("25.10", "questing"),
    ("25.04", "plucky"),
    ("24.10", "oracular"),
    ("24.04 LTS", "noble"),
    ("22.04 LTS", "jammy"),
    ("20.04 LTS", "focal"),
    ("18.04 LTS", "bionic"),
    ("16.04 LTS", "xenial"),
    ("14.04 LTS", "trusty"),
)


@dataclass(frozen=True, slots=True)
class Camera:
    """Takes what one visitor sees. Dialogs are taken as they stand, pages whole up to a length."""

    page: Page
    directory: Path

    async def take(self, state: str, variants: tuple[tuple[str, str], ...] = TWO) -> None:
        """Files `<state>-<width>-<scheme>.png`."""
        for width, scheme in variants:
            await self.page.set_viewport_size({"width": WIDTHS[width], "height": 900})
            await self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
            await self.page.evaluate("scrollTo(0, 0); document.activeElement.blur()")
            is_dialog = await self.page.locator("dialog").count() > 0
            length = await self.page.evaluate("document.body.scrollHeight")
            height = 900 if is_dialog else min(max(length, 480), TALLEST[width])
            await self.page.set_viewport_size({"width": WIDTHS[width], "height": height})
            taken = await self.page.screenshot(animations="disabled", caret="hide")
            if len(taken) > MAX_BYTES:
                raise SystemExit(f"{state} in {width} takes {len(taken)} bytes: more than a page should.")
            path = self.directory / f"{state}-{width}-{scheme}.png"
            await asyncio.to_thread(path.write_bytes, taken)
        await self.page.set_viewport_size({"width": WIDTHS["desktop"], "height": 900})
        await self.page.emulate_media(color_scheme="light")


async def at_the_start(browser: Browser, harbour: Harbour, directory: Path) -> None:
    """A region nobody has touched: log-in, the first import, and the step that is left."""
    harbour.upstream.misbehave("*/squashfs", Slow(1_500_000), times=1)
    await harbour.site.start_region(harbour.region)
    async with visiting(browser, harbour.region.base) as visitor:
        camera = Camera(visitor.page, directory)
        await visitor.open()
        await visitor.page.get_by_label("Operator token").wait_for()
        await camera.take("log-in")
        await visitor.log_in(harbour.admin_token)
        await expect(visitor.page.locator(".cell-status .below").first).to_contain_text("/s")
        await camera.take("first-visit")
        await harbour.until_status(RESOLUTE, "stored")
        await expect(status(visitor.page, RESOLUTE)).to_have_text("Stored")
        await camera.take("no-rack")
        await visitor.open("#/racks")
        await visitor.page.get_by_role("button", name="Enrol a rack").click()
        await visitor.page.get_by_role("button", name="Make a token").click()
        await visitor.page.get_by_text("Shown this once.").wait_for()
        await camera.take("racks-enrol")


async def with_a_rack(visitor: Visitor, harbour: Harbour, camera: Camera) -> None:
    """The daily life: ticking, the plan, the import, and all of it in sync."""
    page = visitor.page
    await harbour.site.start_rack(harbour.rack, harbour.region)
    await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "jammy", "arch": "amd64"})
    await harbour.until_status(JAMMY, "synced")
    # The page hears of it a moment later.
    await expect(status(page, JAMMY)).to_have_text("Synced")
    await expect(page.get_by_role("checkbox", name="22.04 LTS")).to_be_checked()
    await page.get_by_role("checkbox", name="24.04 LTS").check()
    await page.get_by_role("checkbox", name="CentOS 7").check()
    await page.get_by_role("checkbox", name="22.04 LTS").uncheck()
    await camera.take("images-ticked")
    await page.get_by_role("button", name="Review and save").click()
    await page.locator(".plan-summary").wait_for()
    await camera.take("plan", EVERY)
    harbour.upstream.misbehave("*/squashfs", Slow(500_000), times=1)
    harbour.upstream.misbehave("centos/*", Slow(900_000), times=2)
    await page.get_by_role("dialog").get_by_role("button", name="Save selection").click()
    await expect(page.locator(f'tr[data-image="{NOBLE}"] .cell-status .below')).to_contain_text("/s")
    await page.get_by_role("button", name="Close this notice").click()
    await camera.take("importing", EVERY)
    for image in (NOBLE, CENTOS):
        await harbour.until_status(image, "synced")
    await page.reload()
    await expect(status(page, NOBLE)).to_have_text("Synced")
    await camera.take("images", EVERY)
    await page.get_by_role("button", name="Ubuntu 24.04 LTS amd64: on 1 of 1 racks").click()
    await page.get_by_role("dialog").get_by_text("Shown").first.wait_for()
    await camera.take("image-racks")
    await page.keyboard.press("Escape")
    for fragment, ready in (("racks", "Enrolment tokens"), ("activity", "Hourly sync"), ("settings", "Storage")):
        await visitor.open(f"#/{fragment}")
        await page.get_by_text(ready).first.wait_for()
        await camera.take(fragment)
    await visitor.open("#/images")


async def choosing_a_source(visitor: Visitor, harbour: Harbour, camera: Camera) -> None:
    """A custom mirror, refused for its key and then connected."""
    page = visitor.page
    visitor.expect_fault("status of 422")
    await page.get_by_role("radio", name="Custom").check()
    await page.get_by_label("Add the URL you want to select images from.").fill(harbour.upstream.url)
    await paste(page, Key.generate().keyring)
    await page.get_by_role("button", name="Connect").click()
    await page.get_by_text("Signed by a key you do not trust.").wait_for()
    await camera.take("source-refused")
    await paste(page, harbour.mirror.keyring)
    await page.get_by_role("button", name="Connect").click()
    await page.get_by_text("nothing is saved yet").wait_for()
    await camera.take("source-connected", EVERY)
    await page.get_by_role("radio", name="maas.io", exact=True).check()


async def when_trust_changes(visitor: Visitor, harbour: Harbour, camera: Camera, other: Mirror, server: Server) -> None:
    """A second source and its bootloaders, a key that changes, and what nobody vouches for afterwards."""
    page = visitor.page
    fields = {"name": "Lab mirror", "url": server.url, "keyring_path": str(other.keyring_path)}
    made = await harbour.api("POST", "/sources", json=fields)
    await page.get_by_role("radio", name="Lab mirror").check()
    await page.get_by_text("read just now").wait_for()
    await page.get_by_text("offers too come from another source").wait_for()
    await page.get_by_role("button", name="Sync now").wait_for()
    await camera.take("sources")
    await page.get_by_role("radio", name="Whichever source wins").check()
    await visitor.open("#/settings")
    await page.get_by_label("Bootloaders come from").select_option("Lab mirror")
    await page.get_by_role("button", name="Save choice").click()
    await page.get_by_role("dialog").get_by_text("is replaced").first.wait_for()
    await camera.take("settings-bootloaders")
    await page.keyboard.press("Escape")
    await visitor.open("#/images")
    await harbour.api("DELETE", f"/sources/{made['id']}")

    other.drop_product("*:26.04:*")
    await page.get_by_role("button", name="Edit source").click()
    await page.get_by_label("Add the URL you want to select images from.").fill(server.url)
    await at_path(page, other.keyring_path)
    await page.get_by_role("button", name="Connect").click()
    await page.get_by_role("button", name="Save source").click()
    dialog = page.get_by_role("dialog", name="Save maas.io?")
    await dialog.get_by_label("Keep it").check()
    await camera.take("source-changed", EVERY)
    await dialog.get_by_role("button", name="Save source").click()
    await page.get_by_text("held that no present signer vouches for").wait_for()
    await expect(status(page, RESOLUTE)).to_have_text("No longer offered")
    await page.get_by_role("button", name="Close this notice").click()
    await page.get_by_role("button", name="Sync now").wait_for()
    await page.get_by_role("checkbox", name="25.10").wait_for()
    await expect(status(page, NOBLE)).to_have_text("Synced")
    await camera.take("unvouched", EVERY)
    await page.locator(".conditions").get_by_role("button", name="Withdraw").click()
    await page.get_by_role("dialog").get_by_role("row").last.wait_for()
    await camera.take("unvouched-withdraw")
    await page.get_by_role("dialog").get_by_role("button", name="Withdraw").click()
    await expect(page.get_by_text("held that no present signer vouches for")).to_have_count(0)


async def when_things_go_wrong(visitor: Visitor, harbour: Harbour, camera: Camera) -> None:
    """Somebody was faster, an import failed, the source is down, the disk is nearly full."""
    page = visitor.page
    visitor.expect_fault("status of 412")
    await page.get_by_role("checkbox", name="25.10").check()
    await page.get_by_role("button", name="Review and save").click()
    await page.locator(".plan-summary").wait_for()
    await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "jammy", "arch": "amd64"})
    await page.get_by_role("dialog").get_by_role("button", name="Save selection").click()
    await page.get_by_text("Drop my changes").wait_for()
    await camera.take("changed-meanwhile")
    await page.get_by_text("Drop my changes").click()
    await harbour.until_status(JAMMY, "synced")

    harbour.mirror.publish(version="20260802", release="noble", arch="amd64")
    harbour.upstream.misbehave("noble/*/squashfs", Flip(100))
    await page.get_by_role("button", name="Sync now").click()
    await harbour.until_status(NOBLE, "failed")
    await page.reload()
    await expect(status(page, NOBLE)).to_have_text("Failed")
    await camera.take("import-failed")
    harbour.upstream.behave()
    await page.get_by_role("button", name="Sync now").click()
    await harbour.until_status(NOBLE, "synced")

    harbour.upstream.misbehave("streams/*", Status(503))
    await page.get_by_role("button", name="Sync now").click()
    await page.get_by_text("maas.io could not be read.").wait_for()
    await camera.take("source-down")
    harbour.upstream.behave()
    await page.get_by_role("button", name="Sync now").click()
    await expect(page.get_by_text("maas.io could not be read.")).to_have_count(0)

    async with told(page, "storage", lambda body: body | {"free_bytes": body["total_bytes"] // 30}):
        await page.reload()
        await page.get_by_text("disk is nearly full").wait_for()
        await camera.take("disk-nearly-full")


async def with_a_rack_that_waits(visitor: Visitor, camera: Camera) -> None:
    def waits(body: dict[str, Any]) -> dict[str, Any]:
        taken = WaitsForConfirmation((1_784_000_000, 21), [NOBLE, RESOLUTE, "bootloader:uefi:amd64", CENTOS, JAMMY], 8)
        told = {"status": "waiting_for_operator", "last_error": str(taken), "last_error_code": taken.code}
        return body | {"items": [rack | told for rack in body["items"]]}

    page = visitor.page
    async with told(page, "racks?limit=1000", waits):
        await visitor.open("#/racks")
        await page.reload()
        await page.get_by_role("button", name="Let racks drop them…").click()
        await page.get_by_role("dialog").get_by_role("row", name="rack-1").wait_for()
        await camera.take("racks-waiting")
        await page.keyboard.press("Escape")
    await visitor.open("#/images")
    await page.reload()


async def with_forty_images(visitor: Visitor, camera: Camera) -> None:
    def forty(body: dict[str, Any]) -> dict[str, Any]:
        pattern = next(image for image in body["items"] if image["id"] == RESOLUTE)
        made = [image for image in body["items"] if image["id"] == CENTOS]
        for title, release in MANY:
            for arch in ("amd64", "arm64", "ppc64el", "s390x"):
                image = deepcopy(pattern) | {"id": f"ubuntu:{release}:{arch}", "release": release, "arch": arch}
                made.append(image | {"title": title})
        return body | {"items": made}

    async with told(visitor.page, "images?limit=1000", forty):
        await visitor.page.reload()
        await expect(visitor.page.locator("tr[data-image]")).to_have_count(40 + 1)
        await camera.take("forty-images")


@asynccontextmanager
async def told(page: Page, path: str, change: Callable[[dict[str, Any]], dict[str, Any]]) -> AsyncIterator[None]:
    """Inside, the page hears `change` of what the region answers at `path`."""

    async def answer(route: Route) -> None:
        response = await route.fetch()
        await route.fulfill(response=response, json=change(await response.json()))

    def is_meant(url: str) -> bool:
        return url.endswith(f"/api/v1/{path}")

    await page.route(is_meant, answer)
    yield
    await page.unroute(is_meant)


async def for_a_viewer(browser: Browser, harbour: Harbour, directory: Path) -> None:
    token = await harbour.token_for("Vera", "viewer")
    async with visiting(browser, harbour.region.base) as vera:
        await vera.log_in(token)
        await expect(status(vera.page, RESOLUTE)).to_have_text("Synced")
        await Camera(vera.page, directory).take("viewer")


async def with_nothing_selected(visitor: Visitor, harbour: Harbour, camera: Camera) -> None:
    await harbour.api("PUT", "/selections", json={"items": []})
    await visitor.page.reload()
    await visitor.page.get_by_text("Nothing is selected.").wait_for()
    await visitor.page.get_by_role("button", name="Sync now").wait_for()
    await camera.take("nothing-selected")


async def take_all(directory: Path) -> None:
    """All states, one after the other, as one region lives through them."""
    with scratch_directory() as scratch, postgres.running(scratch / "database", fsync=False) as server:
        await server.create_database("screenshots")
        url = server.url("screenshots")
        engine = create_engine(url)
        await migrate(engine)
        await engine.dispose()
        place = scratch / "site"
        await asyncio.to_thread(place.mkdir)
        async with harbour_in(place, url, sizes=SAMPLE) as harbour, chromium() as browser:
            await at_the_start(browser, harbour, directory)
            async with visiting(browser, harbour.region.base) as visitor:
                camera = Camera(visitor.page, directory)
                await visitor.log_in(harbour.admin_token)
                await with_a_rack(visitor, harbour, camera)
                await choosing_a_source(visitor, harbour, camera)
                await when_things_go_wrong(visitor, harbour, camera)
                await with_a_rack_that_waits(visitor, camera)
                await with_forty_images(visitor, camera)
                await for_a_viewer(browser, harbour, directory)
                other = await asyncio.to_thread(Mirror.create, scratch / "other", now=datetime.now(UTC), sizes=SAMPLE)
                async with serve(other, host="127.0.0.1") as beside:
                    await when_trust_changes(visitor, harbour, camera, other, beside)
                    await with_nothing_selected(visitor, harbour, camera)


def main() -> int:
    IMAGES.mkdir(parents=True, exist_ok=True)
    asyncio.run(take_all(IMAGES))
    return 0


if __name__ == "__main__":
    sys.exit(main())
