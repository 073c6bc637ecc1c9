"""What holds on every page: policy, weight, accessibility, the keyboard, a phone, a lost connection."""

import gzip
import re
import signal
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

import aiohttp
import pytest
from playwright.async_api import Browser, Response, expect

from region import api
from tests.browser.conftest import Harbour, Visitor, visiting
from tests.browser.test_images import NOBLE, save, status

AXE = (Path(__file__).parent / "vendor" / "axe.min.js").read_text()
PAGES = {"images": "Images", "racks": "Racks", "activity": "Activity", "settings": "Settings"}
SCHEMES: tuple[Literal["light"], Literal["dark"]] = ("light", "dark")
PHONE = {"width": 390, "height": 844}
FIRST_PAINT_BYTES = 60_000


async def audit(visitor: Visitor) -> list[str]:
    """Serious and critical findings of axe-core. It is evaluated, not fetched: the page's policy stays as it is."""
    await visitor.page.evaluate(AXE)
    found = await visitor.page.evaluate("axe.run(document, { resultTypes: ['violations'] })")
    return [
        f"{violation['id']}: {violation['help']}: {[node['html'][:200] for node in violation['nodes']]}"
        for violation in found["violations"]
        if violation["impact"] in ("serious", "critical")
    ]


@pytest.mark.parametrize("scheme", ["light", "dark"])
async def test_no_page_has_a_serious_accessibility_issue(browser: Browser, harbour: Harbour, scheme: str) -> None:
    async with visiting(browser, harbour.region.base, color_scheme=scheme, reduced_motion="reduce") as visitor:
        page = visitor.page
        await visitor.open()
        await expect(page.get_by_label("Operator token")).to_be_visible()
        assert await audit(visitor) == []
        await visitor.log_in(harbour.admin_token)
        await harbour.site.start_rack(harbour.rack, harbour.region)
        await expect(status(page, "ubuntu:resolute:amd64")).to_have_text("Synced")
        await page.get_by_role("checkbox", name="24.04 LTS").check()
        await page.get_by_role("checkbox", name="26.04 LTS").uncheck()
        await page.get_by_role("radio", name="Custom").check()
        await page.get_by_role("button", name="Show advanced options").click()
        await page.get_by_label("A keyring that you paste or choose").check()
        await expect(page.get_by_label("Or a file on this computer")).to_be_visible()
        assert await audit(visitor) == []
        await page.get_by_label("Take this mirror without any signature").check()
        assert await audit(visitor) == []
        await page.get_by_role("button", name="Review and save").click()
        await expect(page.locator(".plan-summary")).to_be_visible()
        assert await audit(visitor) == []
        await page.keyboard.press("Escape")
        for fragment, title in PAGES.items():
            await visitor.open(f"#/{fragment}")
            await expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
            await expect(page.get_by_text("Reading…")).to_have_count(0)
            assert await audit(visitor) == []
        await page.set_viewport_size({"width": 390, "height": 844})
        for fragment in ("images", "racks", "settings"):
            await visitor.open(f"#/{fragment}")
            await expect(page.get_by_role("table").first).to_be_attached()
            assert await audit(visitor) == []


async def test_the_policy_is_strict_and_every_page_keeps_it(visitor: Visitor, harbour: Harbour) -> None:
    async with aiohttp.ClientSession() as session, session.get(f"{harbour.region.base}/") as response:
        policy = response.headers["Content-Security-Policy"]
    assert "default-src 'self'" in policy
    assert "unsafe" not in policy
    assert policy == api.PAGE_POLICY
    for fragment, title in PAGES.items():
        await visitor.open(f"#/{fragment}")
        await expect(visitor.page.get_by_role("heading", name=title, level=1)).to_be_visible()
        assert await visitor.page.locator("[style]").count() == 0
    await visitor.open("docs")
    await expect(visitor.page.get_by_text("Bootferry region").first).to_be_visible()
    assert visitor.unexpected() == []


async def test_the_first_paint_is_light_and_nothing_jumps(browser: Browser, harbour: Harbour) -> None:
    async with visiting(browser, harbour.region.base) as visitor:
        await visitor.log_in(harbour.admin_token)
        await harbour.until_status("ubuntu:resolute:amd64", "stored")
        asked: set[str] = set()

        def note(response: Response) -> None:
            if urlsplit(response.url).path.endswith((".js", ".css")):
                asked.add(response.url)

        visitor.page.on("response", note)
        await visitor.page.add_init_script(
            """window.jumps = [];
            new PerformanceObserver((list) => {
                for (const entry of list.getEntries()) if (!entry.hadRecentInput) window.jumps.push(entry.value);
            }).observe({ type: "layout-shift", buffered: true });"""
        )
        await visitor.page.reload()
        await expect(status(visitor.page, "ubuntu:resolute:amd64")).to_have_text("Stored")
        await visitor.page.wait_for_load_state("load")
        # What a browser has already it asks for with its ETag; what it weighs is what a first visitor gets.
        weights = {url: len(gzip.compress(await (await visitor.page.request.get(url)).body())) for url in asked}
        assert len(weights) > 10
        assert sum(weights.values()) < FIRST_PAINT_BYTES, weights
        # What the fonts move is drawn in the frame after they have come, and told after that frame.
        await visitor.page.evaluate(
            """async () => {
                await document.fonts.ready;
                for (let i = 0; i < 3; i++) await new Promise((drawn) => requestAnimationFrame(drawn));
            }"""
        )
        assert sum(await visitor.page.evaluate("window.jumps")) < 0.01


def test_every_font_and_nothing_else_is_preloaded() -> None:
    static = api.WEB / "static"
    declared = re.findall(r'url\("\.\.(/[^"]+)"\)', (static / "css" / "base.css").read_text())
    preloaded = re.findall(r'rel="preload" href="/static(/[^"]+)"', (api.WEB / "index.html").read_text())
    assert sorted(preloaded) == sorted(declared)
    assert all((static / font.removeprefix("/")).is_file() for font in declared)


async def test_a_selection_can_be_made_with_the_keyboard_alone(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page

    async def tab_to(name: str, *, presses: int = 60) -> None:
        for _ in range(presses):
            await page.keyboard.press("Tab")
            found = await page.evaluate(
                """() => {
                    const one = document.activeElement;
                    const label = one.labels && one.labels.length ? one.labels[0].innerText : one.innerText;
                    const { outlineStyle, outlineWidth } = getComputedStyle(one);
                    return [(label || "").trim(), outlineStyle !== "none" && parseFloat(outlineWidth) >= 2];
                }"""
            )
            assert found[1], f"the focus on {found[0]!r} cannot be seen"
            if found[0] == name:
                return
        raise AssertionError(f"{name} was not reached by Tab")

    assert await page.evaluate("document.activeElement.tagName") == "H1", "a log-in takes the focus to the page"
    await page.reload()
    await expect(page.get_by_role("checkbox", name="24.04 LTS")).to_be_visible()
    await page.keyboard.press("Tab")
    assert await page.evaluate("document.activeElement.innerText") == "Skip to the page"
    await page.keyboard.press("Enter")
    assert await page.evaluate("document.activeElement.tagName") == "H1"
    await tab_to("24.04 LTS")
    await page.keyboard.press("Space")
    await tab_to("Review and save")
    await page.keyboard.press("Enter")
    await expect(page.locator(".plan-summary")).to_be_visible()
    await tab_to("Save selection", presses=6)
    await page.keyboard.press("Enter")
    await expect(status(page, NOBLE)).to_have_text("Stored")
    await expect(page.locator(".unseen[role=status]")).to_contain_text("Ubuntu 24.04 LTS amd64: Stored.")


async def test_a_dialog_gives_the_focus_back_to_where_it_was(visitor: Visitor) -> None:
    page = visitor.page
    await visitor.open("#/racks")
    enrol = page.get_by_role("button", name="Enrol a rack")
    for leave in ("Escape", "Cancel"):
        await enrol.press("Enter")
        dialog = page.get_by_role("dialog")
        await expect(dialog.get_by_label("Good for")).to_be_focused()
        if leave == "Escape":
            await page.keyboard.press("Escape")
        else:
            await dialog.get_by_role("button", name="Cancel").press("Enter")
        await expect(dialog).to_have_count(0)
        await expect(enrol).to_be_focused()


async def test_a_phone_shows_all_of_it_without_scrolling_sideways(browser: Browser, harbour: Harbour) -> None:
    async with visiting(browser, harbour.region.base, viewport=PHONE, has_touch=True) as visitor:
        page = visitor.page
        await visitor.log_in(harbour.admin_token)
        await harbour.site.start_rack(harbour.rack, harbour.region)
        await expect(status(page, "ubuntu:resolute:amd64")).to_have_text("Synced")
        for fragment, title in PAGES.items():
            await visitor.open(f"#/{fragment}")
            await expect(page.get_by_role("heading", name=title, level=1)).to_be_visible()
            width = await page.evaluate("document.documentElement.scrollWidth")
            assert width <= PHONE["width"], fragment
        await visitor.open("#/images")
        await page.get_by_role("checkbox", name="24.04 LTS").check()
        await save(page)
        await expect(status(page, NOBLE)).to_have_text("Synced")


async def test_a_lost_connection_is_shown_and_what_was_missed_is_read(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    visitor.expect_fault(r"console: Failed to load resource: net::ERR_")
    visitor.expect_fault(REFUSED_503)
    hint = page.locator(".connection")
    await expect(hint).to_have_text("Live")
    await harbour.region.stop()
    await expect(hint).to_have_text(re.compile("Reconnecting|Checking"))
    await harbour.site.start_region(harbour.region)
    await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "noble", "arch": "amd64"})
    await expect(status(page, NOBLE)).to_have_text("Stored")
    await expect(hint).to_have_text("Live")


async def test_a_frozen_region_is_told_and_so_is_that_it_goes_on(browser: Browser, harbour: Harbour) -> None:
    """The page said "Live" for as long as a region that did nothing kept its connections open."""
    async with visiting(browser, harbour.region.base) as visitor:
        page = visitor.page
        await page.clock.install()
        await visitor.log_in(harbour.admin_token)
        hint, told = page.locator(".connection"), page.locator(".liveness")
        await expect(hint).to_have_text("Live")
        process = harbour.region.process
        assert process is not None
        process.send_signal(signal.SIGSTOP)
        try:
            await page.get_by_role("link", name="Racks").click()
            await expect(page.get_by_role("heading", name="Racks", level=1)).to_be_visible()
            await page.clock.run_for(9_000)
            await expect(told).to_be_empty()
            await page.clock.run_for(3_000)
            await expect(told).to_have_text("The region is slow to answer.")
            await page.clock.run_for(30_000)
            await expect(told).to_have_text("No word from the region for 40 seconds; what you see may be old.")
            await expect(hint).to_have_text("No word")
        finally:
            process.send_signal(signal.SIGCONT)
        await expect(told).to_be_empty()
        await expect(hint).to_have_text("Live")


REFUSED_503 = r"console: Failed to load resource: the server responded with a status of 503"


async def test_where_events_are_blocked_the_page_asks_by_itself(browser: Browser, harbour: Harbour) -> None:
    async with visiting(browser, harbour.region.base) as visitor:
        visitor.expect_fault(r"console: Failed to load resource: net::ERR_|EventSource")
        await visitor.page.route("**/api/v1/events", lambda route: route.abort())
        await visitor.log_in(harbour.admin_token)
        await expect(visitor.page.locator(".connection")).to_have_text("Checking every 5 seconds")
        await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "noble", "arch": "amd64"})
        await expect(status(visitor.page, NOBLE)).to_have_text("Stored")


async def test_the_log_in_keeps_the_page_that_was_asked_for(browser: Browser, harbour: Harbour) -> None:
    async with visiting(browser, harbour.region.base) as visitor:
        await visitor.open("#/racks")
        await visitor.page.get_by_label("Operator token").fill(harbour.admin_token)
        await visitor.page.get_by_role("button", name="Log in").click()
        await expect(visitor.page.get_by_role("heading", name="Racks", level=1)).to_be_visible()
        assert await visitor.page.title() == "Racks · Bootferry"


async def test_the_proxy_is_saved_and_the_change_is_on_record(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await visitor.open("#/settings")
    await page.get_by_label("The region's way to its sources").fill("http://proxy.example.org:3128")
    await page.get_by_role("button", name="Save proxy").click()
    await expect(page.get_by_text("The proxy is saved.").first).to_be_visible()
    assert (await harbour.api("GET", "/settings"))["proxy"] == "http://proxy.example.org:3128"
    await visitor.open("#/activity")
    entry = page.locator('[data-action="settings.changed"]')
    await expect(entry).to_contain_text("first administrator")
    await entry.get_by_text("Before and after").click()
    await expect(entry.locator("dl")).to_contain_text("http://proxy.example.org:3128")
    await expect(page.locator('[data-import="1"]')).to_contain_text("Hourly sync")


async def test_of_two_who_change_a_setting_the_second_is_told_and_sees_what_there_is(
    visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    visitor.expect_fault(r"console: Failed to load resource: the server responded with a status of 412")
    await visitor.open("#/settings")
    proxy = page.get_by_label("The region's way to its sources")
    await proxy.fill("http://mine.example.org:3128")
    await harbour.api("PATCH", "/settings", json={"proxy": "http://theirs.example.org:3128"})
    await page.get_by_role("button", name="Save proxy").click()
    await expect(page.get_by_role("alert")).to_contain_text("The proxy stays as it was.")
    await expect(page.get_by_role("alert")).to_contain_text("changed it at")
    await expect(proxy).to_have_value("http://theirs.example.org:3128")
    assert (await harbour.api("GET", "/settings"))["proxy"] == "http://theirs.example.org:3128"
