"""A region that is busy says for how long it is to be left alone: the page waits so long, and says that it does."""

from playwright.async_api import Browser, Route, expect

from deploy.local.mirror.faults import Status
from tests.browser.conftest import Harbour, Visitor, visiting
from tests.browser.test_images import RESOLUTE, status

BUSY = "The region is busy; it is asked again in 2 seconds."


class Door:
    """Answers the first `times` requests that it meets 503 with `code`, to come again after 2 seconds."""

    def __init__(self, code: str, times: int = 1) -> None:
        self.code, self.left, self.met = code, times, 0

    async def __call__(self, route: Route) -> None:
        self.met += 1
        if self.met > self.left:
            await route.continue_()
            return
        problem = {"code": self.code, "detail": "The region cannot answer just now; try again.", "status": 503}
        headers = {"Retry-After": "2", "Content-Type": "application/problem+json"}
        await route.fulfill(status=503, headers=headers, json=problem)


async def test_a_log_in_that_a_crowded_region_does_not_take_is_sent_again(browser: Browser, harbour: Harbour) -> None:
    async with visiting(browser, harbour.region.base) as visitor:
        visitor.expect_fault("status of 503")
        page = visitor.page
        door = Door("crowded")
        await page.route("**/api/v1/session", door)
        await visitor.open()
        await page.get_by_label("Operator token").fill(harbour.admin_token)
        await page.get_by_role("button", name="Log in").click()
        await expect(page.get_by_text(BUSY)).to_be_visible()
        await expect(page.get_by_role("heading", name="Ubuntu")).to_be_visible()
        assert door.met == 2


async def test_a_dialog_waits_for_a_crowded_region_and_never_changes_anything_twice(
    visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    visitor.expect_fault("status of 503")
    await visitor.open("#/racks")
    await page.get_by_role("button", name="Enrol a rack").click()
    dialog = page.get_by_role("dialog")
    # What may have been done already is for whoever did it to judge.
    await page.route("**/api/v1/enrolment-tokens", Door("unavailable"))
    await dialog.get_by_role("button", name="Make a token").click()
    await expect(dialog.get_by_role("alert")).to_contain_text("No token was made.")
    await page.unroute("**/api/v1/enrolment-tokens")

    await page.route("**/api/v1/enrolment-tokens", Door("crowded"))
    await dialog.get_by_role("button", name="Make a token").click()
    await expect(dialog.get_by_text(BUSY)).to_be_visible()
    await expect(dialog.get_by_text("Shown this once.")).to_be_visible()
    await expect(dialog.get_by_text(BUSY)).to_have_count(0)
    assert len((await harbour.api("GET", "/enrolment-tokens"))["items"]) == 1


async def test_what_cannot_be_read_just_now_is_read_later_by_itself(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    visitor.expect_fault("status of 503")
    await page.route("**/api/v1/images?*", Door("unavailable"))
    await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "noble", "arch": "amd64"})
    notice = page.locator(".conditions .notice-negative", has_text="This may be out of date.")
    await expect(notice).to_contain_text("The page asks again in 2 seconds.")
    await expect(notice).to_have_count(0)
    await expect(status(page, "ubuntu:noble:amd64")).to_have_text("Stored")


async def test_an_import_that_failed_for_now_says_when_it_tries_again(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await expect(status(page, RESOLUTE)).to_have_text("Stored")
    harbour.upstream.misbehave("streams/*", Status(503))
    await page.get_by_role("button", name="Sync now").click()
    strip = page.locator(".sync-times")
    await expect(strip).to_contain_text("Tries again")
    await expect(strip).to_contain_text("in ")
    [failed, *_] = (await harbour.api("GET", "/imports"))["items"]
    assert (failed["state"], failed["retry_at"] is not None) == ("failed", True)
    await visitor.open("#/activity")
    entry = page.locator(f'[data-import="{failed["id"]}"]')
    await expect(entry).to_contain_text("Tries again at")
    # A sync by hand takes its place.
    harbour.upstream.behave()
    await visitor.open("#/images")
    await page.get_by_role("button", name="Sync now").click()
    await expect(strip).not_to_contain_text("Tries again")
