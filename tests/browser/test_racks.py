"""The Racks page, and what a rack that goes away does to the Images page."""

import asyncio
import shlex
from datetime import timedelta

from playwright.async_api import expect

from region.fleet.showing import LIVE_FOR
from tests.browser.conftest import Harbour, Visitor
from tests.browser.test_images import row, status

RESOLUTE = "ubuntu:resolute:amd64"


async def test_a_rack_enrols_with_the_command_that_was_shown_once(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await visitor.open("#/racks")
    await expect(page.get_by_role("heading", name="No rack yet")).to_be_visible()
    await page.get_by_role("button", name="Enrol a rack").click()
    await page.get_by_role("button", name="Make a token").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_text("Shown this once.")).to_be_visible()
    command = shlex.split(await dialog.locator("code").first.inner_text())
    assert command[:2] == ["bootferry-rack", "enrol"]
    await dialog.get_by_role("button", name="Copy: Command").click()
    await expect(dialog.get_by_role("button", name="Copied: Command")).to_be_visible()

    await asyncio.to_thread(harbour.rack.told, *command[1:], "--name", "rack-1")
    await dialog.get_by_role("button", name="Done").click()
    rack = page.locator('tr[data-rack="rack-1"]')
    await expect(rack).to_contain_text("Never seen")
    harbour.rack.start()
    await expect(rack).to_contain_text("Synced")
    await expect(rack.get_by_role("progressbar")).to_be_visible()
    assert command[-1] not in await page.content()

    await rack.get_by_role("button", name="Remove rack-1").click()
    await page.get_by_role("dialog").get_by_role("button", name="Remove rack").click()
    await expect(page.get_by_role("heading", name="No rack yet")).to_be_visible()


async def test_a_rack_that_stops_and_comes_back_is_seen_so_without_a_reload(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await harbour.site.start_rack(harbour.rack, harbour.region)
    await expect(status(page, RESOLUTE)).to_have_text("Synced")
    await harbour.rack.stop()

    # A new image cannot be synced while the only rack is away.
    await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "noble", "arch": "amd64"})
    noble = "ubuntu:noble:amd64"
    await expect(status(page, noble)).to_have_text("Waiting for racks")
    await row(page, noble).get_by_role("button", name="on 0 of 1 racks").click()
    dialog = page.get_by_role("dialog", name="Ubuntu 24.04 LTS amd64 on the racks")
    await expect(dialog.get_by_role("row", name="rack-1")).to_contain_text("Behind")
    harbour.rack.start()
    await expect(dialog.get_by_role("row", name="rack-1")).to_contain_text("Shown")
    await page.keyboard.press("Escape")
    await expect(status(page, noble)).to_have_text("Synced")


async def test_a_rack_unseen_for_three_polls_is_unreachable(visitor: Visitor, harbour: Harbour) -> None:
    assert timedelta(minutes=15) == LIVE_FOR
    page = visitor.page
    await harbour.site.start_rack(harbour.rack, harbour.region)
    await expect(status(page, RESOLUTE)).to_have_text("Synced")

    async def away(route: object) -> None:
        response = await route.fetch()  # type: ignore[attr-defined]
        body = await response.json()
        for rack in body["items"]:
            rack["status"] = "unreachable"
        await route.fulfill(response=response, json=body)  # type: ignore[attr-defined]

    await page.route("**/api/v1/racks?*", away)
    await page.reload()
    await expect(page.get_by_text("1 rack out of reach:")).to_be_visible()
    await visitor.open("#/racks")
    await expect(page.locator('tr[data-rack="rack-1"]')).to_contain_text("Unreachable")
