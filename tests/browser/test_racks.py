"""The Racks page, and what a rack that goes away does to the Images page."""

import asyncio
import shlex
from datetime import timedelta

import pytest
from playwright.async_api import Browser, Route, expect

from region.fleet.showing import LIVE_FOR
from tests.browser.conftest import Harbour, Visitor, visiting
from tests.browser.test_images import row, status
from tests.browser.test_pages import SCHEMES, audit

RESOLUTE = "ubuntu:resolute:amd64"


async def test_a_rack_enrols_with_the_command_that_was_shown_once(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await visitor.open("#/racks")
    await expect(page.get_by_role("heading", name="No rack yet")).to_be_visible()
    await page.get_by_role("button", name="Enrol a rack").click()
    await page.get_by_role("button", name="Make a token").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog.get_by_text("Shown this once.")).to_be_visible()
    shown, token, second = await dialog.locator("code").all_inner_texts()
    command = shlex.split(shown)
    assert command == ["bootferry-rack", "enrol", "--region", harbour.region.base]
    assert shlex.split(second)[-1] == "bootferry-rack"
    assert token not in shown, "what is typed on a command line every user of the machine can see"
    for label in ("Command", "Token"):
        await dialog.get_by_role("button", name=f"Copy: {label}").click()
        await expect(dialog.get_by_role("button", name=f"Copied: {label}")).to_be_visible()

    await page.keyboard.press("Escape")
    await expect(dialog).to_contain_text("Press Done when you have copied it.")
    address = dialog.get_by_label("The region's address")
    await address.fill("https://region.example:5240")
    await expect(dialog.locator("code").first).to_have_text("bootferry-rack enrol --region https://region.example:5240")

    # The command asks for the token.
    await expect(dialog).to_contain_text("Waiting for the rack…")
    await asyncio.to_thread(harbour.rack.told, *command[1:], "--name", "rack-1", text=f"{token}\n")
    await expect(dialog.get_by_role("status").filter(has_text="rack-1")).to_contain_text("Never seen")
    harbour.rack.start()
    await expect(dialog.get_by_role("status").filter(has_text="rack-1")).to_contain_text("Synced")
    await dialog.get_by_role("button", name="Done").click()
    rack = page.locator('tr[data-rack="rack-1"]')
    await expect(rack).to_contain_text("Synced")
    await expect(rack.get_by_role("progressbar")).to_be_visible()
    assert token not in await page.content()

    # A dialog that cannot read what it is about says so, and does nothing.
    visitor.expect_fault("status of 404")
    gone = {"type": "about:blank", "title": "Not Found", "status": 404, "code": "not_found", "detail": "It is gone."}
    await page.route("**/api/v1/racks/*", lambda route: route.fulfill(status=404, json=gone))
    await rack.get_by_role("button", name="Remove rack-1").click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("Not removed. It is gone.")
    await expect(dialog.get_by_role("button", name="Remove rack")).to_be_disabled()
    await dialog.get_by_role("button", name="Cancel").click()
    await page.unroute("**/api/v1/racks/*")

    await rack.get_by_role("button", name="Remove rack-1").click()
    await dialog.get_by_role("button", name="Remove rack").click()
    await expect(page.get_by_role("heading", name="No rack yet")).to_be_visible()


async def test_tokens_that_let_a_rack_in_are_listed_until_they_are_spent_or_revoked(
    visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    spent = await harbour.api("POST", "/enrolment-tokens", json={"uses": 1})
    await asyncio.to_thread(
        harbour.rack.told, "enrol", "--region", harbour.region.base, "--name", "rack-1", text=f"{spent['token']}\n"
    )
    await visitor.open("#/racks")
    await expect(page.locator('tr[data-rack="rack-1"]')).to_be_visible()
    tokens = page.get_by_role("table", name="Enrolment tokens")
    await expect(tokens).to_have_count(0)

    await page.get_by_role("button", name="Enrol a rack").click()
    await page.get_by_label("Good for").select_option("1 day")
    await page.get_by_label("Racks that may use it").fill("3")
    await page.get_by_role("button", name="Make a token").click()
    secret = await page.get_by_role("dialog").locator("code").nth(1).inner_text()
    await page.get_by_role("button", name="Done").click()
    [made] = [one for one in (await harbour.api("GET", "/enrolment-tokens"))["items"] if one["id"] != spent["id"]]
    row = tokens.locator(f'tr[data-token="{made["id"]}"]')
    await expect(row).to_contain_text(made["id"][:12])
    await expect(row.locator("td")).to_contain_text(["first administrator", "just now", "in 24 hours", "3", ""])
    await expect(tokens.locator("tbody tr")).to_have_count(1)
    assert await audit(visitor) == []

    await row.get_by_role("button", name=f"Revoke {made['id'][:12]}").click()
    dialog = page.get_by_role("dialog", name=f"Revoke the enrolment token {made['id'][:12]}?")
    await expect(dialog).to_contain_text("Racks that enrolled with it stay.")
    await dialog.get_by_role("button", name="Revoke token").click()
    await expect(tokens).to_have_count(0)
    assert [one["id"] for one in (await harbour.api("GET", "/enrolment-tokens"))["items"]] == [spent["id"]]
    again = ("enrol", "--region", harbour.region.base, "--again")
    with pytest.raises(AssertionError, match="not known to the region"):
        await asyncio.to_thread(harbour.rack.told, *again, text=f"{secret}\n")


async def test_racks_that_wait_for_an_operator_are_named_and_let_go_by_a_confirmation(
    browser: Browser, visitor: Visitor, harbour: Harbour
) -> None:
    await harbour.site.start_rack(harbour.rack, harbour.region)
    await expect(status(visitor.page, RESOLUTE)).to_have_text("Synced")
    sentence = "The region's manifest would take away 4 of the 6 images this rack shows (ubuntu:noble:amd64)."
    vera = await harbour.token_for("Vera", "viewer")
    olga = await harbour.token_for("Olga", "operator")
    is_waiting = True

    async def waiting(route: Route) -> None:
        response = await route.fetch()
        body = await response.json()
        if is_waiting:
            for rack in body["items"]:
                rack |= {"status": "waiting_for_operator", "last_error": sentence}
        await route.fulfill(response=response, json=body)

    for token, may in ((vera, False), (olga, True)):
        async with visiting(browser, harbour.region.base) as somebody:
            page = somebody.page
            await page.route("**/api/v1/racks?*", waiting)
            await somebody.log_in(token)
            notice = page.locator(".notice-caution", has_text="1 rack waits for an operator: rack-1.")
            await expect(notice).to_contain_text("It keeps serving images that the region's manifest takes away")
            await notice.get_by_role("link", name="Racks").click()
            rack = page.locator('tr[data-rack="rack-1"]')
            await expect(rack.locator(".status-word")).to_have_text("Waiting for an operator")
            await expect(rack).to_contain_text(sentence)
            button = notice.get_by_role("button", name="Let racks drop them…")
            if not may:
                await expect(button).to_have_count(0)
                continue
            await button.focus()
            await page.keyboard.press("Enter")
            dialog = page.get_by_role("dialog", name="Let racks drop images?")
            await expect(dialog.get_by_role("row", name="rack-1")).to_contain_text(sentence)
            for scheme in SCHEMES:
                await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
                assert await audit(somebody) == []
            await page.keyboard.press("Escape")
            await expect(button).to_be_focused()
            assert not await confirmations(harbour), "asking confirms nothing"
            await button.click()
            is_waiting = False
            await dialog.get_by_role("button", name="Let racks drop them").click()
            await expect(page.get_by_text("Racks take what the manifest takes away")).to_have_count(1)
            await expect(notice).to_have_count(0)
            assert await confirmations(harbour) == ["Olga"]


async def confirmations(harbour: Harbour) -> list[str]:
    """Who confirmed what the manifest takes away."""
    found = (await harbour.api("GET", "/activity?subject=region"))["items"]
    return [entry["who"] for entry in found if entry["action"] == "region.removal_confirmed"]


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
