"""The Images page, as an operator lives with it."""

import asyncio
import re

from playwright.async_api import Locator, Page, expect

from deploy.local.mirror.faults import Slow
from tests.browser.conftest import Harbour, Visitor

RESOLUTE = "ubuntu:resolute:amd64"
NOBLE = "ubuntu:noble:amd64"
JAMMY = "ubuntu:jammy:amd64"


def row(page: Page, image: str) -> Locator:
    return page.locator(f'tr[data-image="{image}"]')


def status(page: Page, image: str) -> Locator:
    return row(page, image).locator(".status-word")


async def save(page: Page) -> None:
    """Save the selection by the button under the Ubuntu table, and confirm the plan."""
    await page.get_by_role("button", name="Review and save").click()
    dialog = page.get_by_role("dialog", name="Save this selection?")
    await expect(dialog.locator(".plan-summary")).to_be_visible()
    await dialog.get_by_role("button", name="Save selection").click()
    await expect(dialog).to_be_hidden()


async def test_the_first_run_shows_the_newest_lts_and_what_is_left_to_do(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await expect(status(page, RESOLUTE)).to_have_text("Stored")
    await expect(page.get_by_role("radio", name="maas.io")).to_be_checked()
    await expect(page.get_by_role("checkbox", name="26.04 LTS")).to_be_checked()
    await expect(page.get_by_role("checkbox", name="amd64")).to_be_checked()
    await expect(page.get_by_role("checkbox", name="24.04 LTS")).not_to_be_checked()
    # Newest first, in two columns, and what is out of support says so.
    lts, others = page.get_by_role("group", name="LTS"), page.get_by_role("group", name="Other releases")
    await expect(lts.locator("label")).to_have_text(["26.04 LTS", "24.04 LTS", "22.04 LTS"])
    await expect(others.locator("label")).to_have_text(["25.10", "25.04", "24.10"])
    await expect(others).to_contain_text("support ended Jan 2025")
    await expect(page.get_by_role("region", name="Not saved")).to_have_count(0)
    await expect(page.get_by_role("table", name="Bootloaders").locator("tbody tr")).to_have_count(5)

    step = page.get_by_text("enrol a rack")
    await expect(step).to_be_visible()
    await harbour.site.start_rack(harbour.rack, harbour.region)
    await expect(status(page, RESOLUTE)).to_have_text("Synced")
    await expect(step).to_be_hidden()
    await expect(row(page, RESOLUTE).get_by_role("button", name="on 1 of 1 racks")).to_be_visible()


async def test_ticked_images_are_planned_saved_and_followed_to_the_rack_without_a_reload(
    visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    await harbour.site.start_rack(harbour.rack, harbour.region)
    await expect(status(page, RESOLUTE)).to_have_text("Synced")
    await page.evaluate("window.notReloaded = true")

    await page.get_by_role("checkbox", name="24.04 LTS").check()
    await page.get_by_role("checkbox", name="22.04 LTS").check()
    await page.get_by_role("checkbox", name="arm64").check()
    for image in (NOBLE, JAMMY, "ubuntu:noble:arm64", "ubuntu:jammy:arm64", "ubuntu:resolute:arm64"):
        await expect(status(page, image)).to_have_text("Selected for download")
    await expect(status(page, RESOLUTE)).to_have_text("Synced")
    await page.get_by_role("checkbox", name="arm64").uncheck()
    await expect(row(page, "ubuntu:noble:arm64")).to_have_count(0)

    bar = page.get_by_role("region", name="Not saved")
    await expect(bar).to_contain_text(re.compile(r"2 changes: \+[\d.]+ (kB|MB)"))
    await expect(bar).to_be_in_viewport()
    asked = asyncio.ensure_future(page.wait_for_event("dialog"))
    await asyncio.sleep(0)
    leaving = asyncio.ensure_future(page.close(run_before_unload=True))
    question = await asked
    assert question.type == "beforeunload"
    await question.dismiss()
    await leaving

    await page.get_by_role("button", name="Review and save").click()
    dialog = page.get_by_role("dialog", name="Save this selection?")
    await expect(dialog.locator(".plan-summary")).to_have_text(re.compile(r"^\+2 images; [\d.]+ (kB|MB) to fetch$"))
    await expect(dialog).to_contain_text("+ Ubuntu 24.04 LTS amd64")
    await expect(dialog).to_contain_text("on rack-1, the tightest rack")
    assert await harbour.site.statuses(harbour.region) == {RESOLUTE: "synced"}, "a plan changes nothing"

    # So slow that it lasts until all of it was seen: kernels of noble first, then the rest of it and jammy.
    harbour.upstream.misbehave("noble/*/squashfs", Slow(20_000))
    harbour.upstream.misbehave("jammy/*/squashfs", Slow(20_000))
    await page.evaluate(
        """image => {
            const cell = () => {
                const found = document.querySelector(`tr[data-image="${image}"] .cell-status`);
                return (found?.innerText ?? "").replace(/\\s+/g, " ");
            };
            window.words = [cell()];
            new MutationObserver(() => {
                const now = cell();
                if (window.words.at(-1) !== now) window.words.push(now);
            }).observe(document.body, { subtree: true, childList: true, characterData: true });
        }""",
        NOBLE,
    )
    await dialog.get_by_role("button", name="Save selection").click()
    await expect(dialog).to_be_hidden()
    await expect(page.get_by_text("Selection saved.", exact=False).first).to_be_visible()
    await expect(status(page, NOBLE)).to_have_text(re.compile(r"Downloading [1-9]\d?%"))
    await expect(row(page, NOBLE).get_by_role("progressbar")).to_be_visible()
    await expect(row(page, NOBLE)).to_contain_text(re.compile(r"[\d.]+( kB)? of [\d.]+ kB"))
    await expect(row(page, NOBLE)).to_contain_text("/s")
    await expect(page.get_by_role("button", name="Stop import")).to_be_visible()
    harbour.upstream.behave()
    for image in (NOBLE, JAMMY):
        await expect(status(page, image)).to_have_text("Synced")
    seen = [str(word) for word in await page.evaluate("window.words")]
    assert any(word.startswith("Downloading") and "/s" in word for word in seen), seen
    kinds = [kind for kind in ("Selected", "Downloading", "Synced") if any(word.startswith(kind) for word in seen)]
    assert kinds == ["Selected", "Downloading", "Synced"]
    assert await page.evaluate("window.notReloaded")


async def test_an_unticked_image_is_deleted_once_it_is_saved_and_not_before(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await page.get_by_role("checkbox", name="24.04 LTS").check()
    await save(page)
    await expect(status(page, NOBLE)).to_have_text("Stored")

    await page.get_by_role("checkbox", name="24.04 LTS").uncheck()
    await expect(status(page, NOBLE)).to_have_text("Will be deleted")
    assert (await harbour.site.statuses(harbour.region))[NOBLE] == "stored"
    await page.get_by_role("checkbox", name="24.04 LTS").check()
    await expect(status(page, NOBLE)).to_have_text("Stored")
    await expect(page.get_by_role("region", name="Not saved")).to_have_count(0)

    await page.get_by_role("checkbox", name="24.04 LTS").uncheck()
    await page.get_by_role("button", name="Review and save").click()
    await expect(page.locator(".plan-summary")).to_have_text("\N{MINUS SIGN}1 image; nothing to fetch")
    await page.get_by_role("dialog").get_by_role("button", name="Save selection").click()
    await expect(row(page, NOBLE)).to_have_count(0)
    assert NOBLE not in await harbour.site.statuses(harbour.region)


async def test_what_is_ticked_can_be_taken_back_row_by_row_and_as_a_whole(visitor: Visitor) -> None:
    page = visitor.page
    await page.get_by_role("checkbox", name="24.04 LTS").check()
    await page.get_by_role("checkbox", name="arm64").check()
    await row(page, "ubuntu:noble:arm64").get_by_role("button", name="Do not download").click()
    await expect(row(page, "ubuntu:noble:arm64")).to_have_count(0)
    arm64 = page.get_by_role("checkbox", name="arm64")
    assert await arm64.evaluate("box => box.indeterminate"), "arm64 is wanted for some of the releases"
    await page.get_by_role("button", name="Discard").first.click()
    await expect(page.locator(".row-added")).to_have_count(0)
    await expect(arm64).not_to_be_checked()
    assert not await arm64.evaluate("box => box.indeterminate")


async def test_an_architecture_no_chosen_release_has_cannot_be_ticked(visitor: Visitor) -> None:
    page = visitor.page
    arm64 = page.get_by_role("checkbox", name="arm64")
    await page.get_by_role("checkbox", name="24.10").check()
    await expect(arm64).to_be_enabled()
    await expect(page.locator("#arch-arm64-note")).to_have_text("not for 24.10")
    await page.get_by_role("checkbox", name="26.04 LTS").uncheck()
    await expect(arm64).to_be_disabled()


async def test_centos_is_chosen_like_the_others(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await page.get_by_role("checkbox", name="CentOS 7").check()
    table = page.get_by_role("table", name="Other images")
    await expect(table.get_by_role("rowheader", name="CentOS 7")).to_be_visible()
    await expect(status(page, "centos:centos70:amd64")).to_have_text("Selected for download")
    await page.get_by_role("button", name="Review and save").click()
    await page.get_by_role("dialog").get_by_role("button", name="Save selection").click()
    await expect(status(page, "centos:centos70:amd64")).to_have_text("Stored")


async def test_the_switch_stays_as_it_was_put(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    switch = page.get_by_role("switch", name="Automatically sync images")
    await expect(switch).to_be_checked()
    await switch.uncheck()
    await expect(page.get_by_text("automatic sync is off")).to_be_visible()
    assert (await harbour.api("GET", "/sync"))["enabled"] is False
    await page.reload()
    await expect(page.get_by_text("automatic sync is off")).to_be_visible()
    await expect(switch).not_to_be_checked()
    await switch.check()
    await expect(page.get_by_text("automatic sync is off")).to_be_hidden()


async def test_a_running_import_is_seen_by_whoever_opens_the_page_and_can_be_stopped(
    visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    await expect(page.get_by_text("Last sync")).to_be_visible()
    harbour.upstream.misbehave("noble/*/squashfs", Slow(20_000))
    await harbour.api("POST", "/selections", json={"os": "ubuntu", "release": "noble", "arch": "amd64"})
    await expect(status(page, NOBLE)).to_have_text(re.compile("Downloading"))
    await page.reload()
    await expect(page.get_by_role("progressbar", name="Import")).to_be_visible()
    await expect(status(page, NOBLE)).to_have_text(re.compile("Downloading"))
    await page.get_by_role("button", name="Stop import").click()
    await expect(page.get_by_role("button", name="Sync now")).to_be_visible()
    await expect(status(page, NOBLE)).to_have_text(re.compile("Queued|Failed"))
    harbour.upstream.behave()
    await page.get_by_role("button", name="Sync now").click()
    await expect(status(page, NOBLE)).to_have_text("Stored")


async def test_an_image_is_pinned_updated_unpinned_and_deleted_by_its_row(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await expect(status(page, RESOLUTE)).to_have_text("Stored")
    held = row(page, RESOLUTE)
    await held.get_by_role("button", name="Pin a version").click()
    dialog = page.get_by_role("dialog", name="Pin Ubuntu 26.04 LTS amd64")
    await dialog.get_by_role("radio", name="20260701").check()
    await dialog.get_by_role("button", name="Pin this version").click()
    await expect(held.get_by_text("pinned")).to_be_visible()

    harbour.mirror.publish(version="20260802", release="resolute", arch="amd64")
    await held.get_by_role("button", name="Update now").click()
    await expect(page.get_by_text("brought up to date").first).to_be_visible()
    await held.get_by_role("button", name="Pinned to 20260701").click()
    await expect(page.get_by_role("dialog").get_by_text("20260802")).to_be_visible()
    await page.get_by_role("dialog").get_by_role("button", name="Unpin").click()
    await expect(held).to_contain_text("20260802")
    await expect(status(page, RESOLUTE)).to_have_text("Stored")
    await expect(held.get_by_text("pinned")).to_be_hidden()

    await held.get_by_role("button", name="Delete").click()
    dialog = page.get_by_role("dialog", name="Delete Ubuntu 26.04 LTS amd64?")
    await expect(dialog.locator(".plan-summary")).to_have_text("\N{MINUS SIGN}1 image; nothing to fetch")
    await dialog.get_by_role("button", name="Delete image").click()
    await expect(held).to_have_count(0)
    await expect(page.get_by_text("Nothing is selected.", exact=False)).to_be_visible()
