"""How old a source's documents are: who is warned when they stand still, and who lets in ones that went back."""

from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest_asyncio
from playwright.async_api import Browser, expect

from deploy.local.mirror.content import TINY
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import serve
from tests.browser.conftest import Harbour, Visitor, visiting
from tests.browser.test_images import RESOLUTE, status
from tests.browser.test_pages import SCHEMES, audit
from tests.browser.test_source import at_path, connect, custom


@pytest_asyncio.fixture(loop_scope="session")
async def still(tmp_path: Path) -> AsyncIterator[tuple[Mirror, str]]:
    """A mirror that has brought nothing new for 40 days, and its address."""
    mirror = Mirror.create(tmp_path / "still", now=datetime.now(UTC) - timedelta(days=40), sizes=TINY)
    async with serve(mirror, host="127.0.0.1") as server:
        yield mirror, server.url


async def test_everybody_is_warned_of_a_source_that_stands_still_for_longer_than_it_may(
    browser: Browser, visitor: Visitor, harbour: Harbour, still: tuple[Mirror, str]
) -> None:
    mirror, url = still
    page = visitor.page
    await custom(page, url)
    await at_path(page, mirror.keyring_path)
    await connect(page)
    await page.get_by_label("Name").fill("Still mirror")
    days = page.get_by_label("Days until it counts as standing still")
    await expect(days).to_have_attribute("placeholder", "30")
    await page.get_by_role("button", name="Add source").click()
    notice = page.locator(".conditions .notice-caution", has_text="Still mirror brings nothing new.")
    await expect(notice).to_contain_text("40 days ago: the mirror stands still")
    row = page.locator(".source-line")
    await expect(row.locator(".error")).to_contain_text("40 days ago: the mirror stands still")
    assert await audit(visitor) == []
    async with visiting(browser, harbour.region.base) as vera:
        await vera.log_in(await harbour.token_for("Vera", "viewer"))
        await expect(vera.page.get_by_text("Still mirror brings nothing new.")).to_be_visible()
    # It stops nothing.
    await expect(status(page, RESOLUTE)).to_have_text("Stored")

    await page.get_by_role("button", name="Edit source").click()
    await expect(days).to_have_value("30")
    await days.fill("90")
    await expect(days).to_have_accessible_description(
        "Everybody is warned when its documents are older; 0 never warns."
    )
    await page.get_by_role("button", name="Save source").click()
    await expect(notice).to_have_count(0)
    await expect(row.locator(".error")).to_have_count(0)
    [source] = [one for one in (await harbour.api("GET", "/sources"))["items"] if one["name"] == "Still mirror"]
    assert (source["stale_after_days"], source["warning"]) == (90, "")


async def test_an_administrator_lets_in_the_documents_of_a_mirror_that_went_back(
    browser: Browser, visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    harbour.mirror.rewrite(updated=datetime.now(UTC) - timedelta(days=2))
    await page.get_by_role("button", name="Sync now").click()
    failed = page.locator(".conditions .notice-negative", has_text="maas.io could not be read.")
    await expect(failed).to_be_visible()
    button = page.get_by_role("button", name="Accept older documents")
    async with visiting(browser, harbour.region.base) as olga:
        await olga.log_in(await harbour.token_for("Olga", "operator"))
        await expect(olga.page.get_by_text("maas.io could not be read.")).to_be_visible()
        await expect(olga.page.get_by_role("button", name="Accept older documents")).to_have_count(0)
    await button.click()
    dialog = page.get_by_role("dialog", name="Accept older documents of maas.io?")
    await expect(dialog).to_contain_text("Signatures still count.")
    for scheme in SCHEMES:
        await page.emulate_media(color_scheme=scheme, reduced_motion="reduce")
        assert await audit(visitor) == []
    await page.keyboard.press("Escape")
    await expect(button).to_be_focused()
    await button.click()
    await dialog.get_by_role("button", name="Accept older documents").click()
    await expect(page.get_by_text("Documents older than those accepted before are taken this once.")).to_have_count(1)
    await expect(failed).to_have_count(0)
    await expect(button).to_have_count(0)
    await expect(page.get_by_text("read just now")).to_be_visible()
    await visitor.open("#/activity")
    await expect(page.locator('[data-action="source.older_accepted"]')).to_contain_text("first administrator")
