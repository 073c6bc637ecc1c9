"""Several people at once, and what each of them may do."""

from datetime import UTC, datetime, timedelta

from playwright.async_api import Browser, Route, expect

from tests.browser.conftest import Harbour, Visitor, visiting
from tests.browser.test_images import JAMMY, NOBLE, row, save, status

REFUSED = r"console: Failed to load resource: the server responded with a status of {}"


async def test_of_two_who_save_at_once_the_second_is_told_and_loses_nothing(
    browser: Browser, visitor: Visitor, harbour: Harbour
) -> None:
    token = await harbour.token_for("Anna", "operator")
    async with visiting(browser, harbour.region.base) as anna:
        await anna.log_in(token)
        visitor.expect_fault(REFUSED.format(412))
        # Both see a plan of the same state.
        await visitor.page.get_by_role("checkbox", name="24.04 LTS").check()
        await visitor.page.get_by_role("button", name="Review and save").click()
        mine = visitor.page.get_by_role("dialog")
        await expect(mine.locator(".plan-summary")).to_contain_text("+1 image")
        await anna.page.get_by_role("checkbox", name="22.04 LTS").check()
        await save(anna.page)

        await mine.get_by_role("button", name="Save selection").click()
        overtaken = visitor.page.get_by_role("dialog", name="The selection was changed meanwhile")
        await expect(overtaken).to_contain_text("Anna")
        await overtaken.get_by_role("button", name="Put my changes on top of theirs").click()
        await expect(visitor.page.locator(".plan-summary")).to_contain_text("+1 image")
        await visitor.page.get_by_role("dialog").get_by_role("button", name="Save selection").click()
        for page in (visitor.page, anna.page):
            for image in (NOBLE, JAMMY):
                await expect(status(page, image)).to_have_text("Stored")


async def test_whoever_was_overtaken_may_drop_what_they_ticked(
    browser: Browser, visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    visitor.expect_fault(REFUSED.format(412))
    await page.get_by_role("checkbox", name="24.04 LTS").check()
    await page.get_by_role("button", name="Review and save").click()
    await expect(page.locator(".plan-summary")).to_contain_text("+1 image")
    await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "jammy", "arch": "amd64"})
    await page.get_by_role("dialog").get_by_role("button", name="Save selection").click()
    await page.get_by_role("button", name="Drop my changes and show theirs").click()
    await expect(status(page, JAMMY)).to_have_text("Stored")
    await expect(row(page, NOBLE)).to_have_count(0)
    assert NOBLE not in await harbour.site.statuses(harbour.region)


async def test_a_draft_survives_what_others_save_meanwhile(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await page.get_by_role("checkbox", name="24.04 LTS").check()
    await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "jammy", "arch": "amd64"})
    await expect(status(page, JAMMY)).to_have_text("Stored")
    await expect(status(page, NOBLE)).to_have_text("Selected for download")
    await expect(page.get_by_role("checkbox", name="22.04 LTS")).to_be_checked()


async def test_a_viewer_sees_everything_and_can_change_nothing(browser: Browser, harbour: Harbour) -> None:
    token = await harbour.token_for("Vera", "viewer")
    async with visiting(browser, harbour.region.base) as vera:
        await vera.log_in(token)
        page = vera.page
        await expect(page.get_by_text("You see everything and change nothing.")).to_be_visible()
        await expect(page.locator("tr[data-image]")).to_have_count(1)
        await expect(page.get_by_role("checkbox", name="24.04 LTS")).to_be_disabled()
        await expect(page.get_by_role("switch")).to_be_disabled()
        await expect(page.get_by_role("radio", name="Custom")).to_be_disabled()
        for button in ("Sync now", "Review and save"):
            await expect(page.get_by_role("button", name=button)).to_have_count(0)
        await expect(page.get_by_role("button", name="Delete")).to_have_count(0)
        await vera.open("#/racks")
        await expect(page.get_by_role("button", name="Enrol a rack")).to_be_disabled()
        await vera.open("#/settings")
        await expect(page.get_by_role("heading", name="Log-in")).to_be_visible()
        await expect(page.get_by_role("button", name="Save proxy")).to_be_disabled()
        await expect(page.get_by_role("heading", name="Tokens")).to_have_count(0)


async def test_a_wrong_token_is_refused_in_a_sentence_and_a_log_out_ends_the_session(
    browser: Browser, harbour: Harbour
) -> None:
    async with visiting(browser, harbour.region.base) as visitor:
        visitor.expect_fault(REFUSED.format(401))
        page = visitor.page
        await visitor.open()
        await page.get_by_label("Operator token").fill("bf_0123456789ab_" + "x" * 43)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_role("alert")).to_contain_text("This token is not known to the region")
        await visitor.log_in(harbour.admin_token)
        [cookie] = await visitor.context.cookies()
        assert (cookie["httpOnly"], cookie["sameSite"]) == (True, "Strict")
        await page.reload()
        await expect(page.get_by_role("heading", name="Ubuntu")).to_be_visible()
        await visitor.open("#/settings")
        await page.get_by_role("button", name="Log out").click()
        await expect(page.get_by_label("Operator token")).to_be_focused()
        await page.reload()
        await expect(page.get_by_label("Operator token")).to_be_visible()


async def test_failed_log_ins_are_in_the_activity(browser: Browser, visitor: Visitor, harbour: Harbour) -> None:
    async with visiting(browser, harbour.region.base) as stranger:
        stranger.expect_fault(REFUSED.format(401))
        await stranger.open()
        await stranger.page.get_by_label("Operator token").fill("bf_0123456789ab_" + "x" * 43)
        await stranger.page.get_by_role("button", name="Log in").click()
        await expect(stranger.page.get_by_role("alert")).to_be_visible()
    await visitor.open("#/activity")
    entry = visitor.page.locator('[data-action="session.failed"]')
    await expect(entry).to_contain_text("somebody unknown from 127.0.0.1")
    await expect(entry).to_contain_text("Failed to log in.")


async def test_administrators_are_told_before_the_last_of_their_tokens_expires(
    visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    notice = page.locator(".conditions .notice-caution", has_text="The last administrator's token")
    soon = (datetime.now(UTC) + timedelta(days=5)).isoformat()

    async def expiring(route: Route) -> None:
        response = await route.fetch()
        body = await response.json()
        for token in body["items"]:
            if token["name"] == "first administrator":
                token["expires_at"] = soon
        await route.fulfill(response=response, json=body)

    await page.route("**/api/v1/operator-tokens", expiring)
    await page.reload()
    await expect(notice).to_contain_text("The last administrator's token, first administrator, expires on")
    # One that never expires is enough.
    await harbour.token_for("Another", "admin")
    await expect(notice).to_have_count(0)


async def test_a_token_made_on_the_page_logs_its_holder_in_until_it_is_removed(
    browser: Browser, visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    await visitor.open("#/settings")
    await page.get_by_role("button", name="Make a token").click()
    dialog = page.get_by_role("dialog")
    await dialog.get_by_label("Whose it is").fill("Night shift")
    await dialog.get_by_label("Role").select_option("operator")
    await dialog.get_by_role("button", name="Make a token").click()
    token = await dialog.locator("code").inner_text()
    await dialog.get_by_role("button", name="Done").click()
    async with visiting(browser, harbour.region.base) as other:
        other.expect_fault(REFUSED.format(401))
        await other.log_in(token)
        await expect(other.page.get_by_role("button", name="Sync now")).to_be_enabled()
        await page.get_by_role("button", name="Remove the token of Night shift").click()
        await page.get_by_role("dialog").get_by_role("button", name="Remove token").click()
        await expect(page.get_by_role("rowheader", name="Night shift")).to_have_count(0)
        await other.page.reload()
        await expect(other.page.get_by_label("Operator token")).to_be_visible()
    await visitor.open("#/activity")
    await expect(page.get_by_text("Removed the token of Night shift.")).to_be_visible()
