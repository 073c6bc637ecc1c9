"""Passwords of mirrors and proxies: the page shows `***`, and what is sent back with `***` keeps them."""

import base64
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest_asyncio
from aiohttp import web
from playwright.async_api import expect

from tests.browser.conftest import Harbour, Visitor
from tests.browser.test_source import connect

PASSWORD = "geheim-7391"
Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


@pytest_asyncio.fixture(loop_scope="session")
async def guarded(harbour: Harbour) -> AsyncIterator[str]:
    """The address of the harbour's mirror behind a password, without it."""
    expected = "Basic " + base64.b64encode(f"bob:{PASSWORD}".encode()).decode()

    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        if request.headers.get("Authorization") != expected:
            raise web.HTTPUnauthorized
        return await handler(request)

    application = web.Application(middlewares=[guard])
    application.router.add_static("/", harbour.mirror.root)
    runner = web.AppRunner(application, access_log=None)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    yield f"127.0.0.1:{runner.addresses[0][1]}/"
    await runner.cleanup()


async def test_a_source_with_a_password_is_tried_and_changed_without_typing_it_again(
    visitor: Visitor, harbour: Harbour, guarded: str
) -> None:
    page = visitor.page
    heard: list[str] = []

    async def note(response: object) -> None:
        if "/api/v1/" in response.url:  # type: ignore[attr-defined]
            heard.append(response.url)  # type: ignore[attr-defined]

    page.on("response", note)
    fields = {
        "name": "Guarded",
        "url": f"http://bob:{PASSWORD}@{guarded}",
        "keyring_path": str(harbour.mirror.keyring_path),
    }
    await harbour.api("POST", "/sources", json=fields)
    await page.get_by_role("radio", name="Guarded").check()
    await expect(page.get_by_text("read just now")).to_be_visible()
    shown = await page.locator(".source-line code").inner_text()
    assert shown == f"http://***@{guarded}"

    await page.get_by_role("button", name="Edit source").click()
    address = page.get_by_label("Add the URL you want to select images from.")
    await expect(address).to_have_value(shown)
    await connect(page)
    await expect(page.locator(".notice-positive")).to_contain_text("nothing is saved yet")
    await page.get_by_label("Name").fill("Still guarded")
    await page.get_by_role("button", name="Save source").click()
    await expect(page.get_by_role("radio", name="Still guarded")).to_be_checked()

    # The region reads it on with the password that it has kept.
    await page.get_by_role("button", name="Sync now").click()
    await expect(page.get_by_role("button", name="Sync now")).to_be_enabled()
    await expect(page.locator(".conditions .notice-negative")).to_have_count(0)
    [source] = [one for one in (await harbour.api("GET", "/sources"))["items"] if one["name"] == "Still guarded"]
    assert (source["url"], source["error"]) == (shown, "")
    assert any("/sources/probe?source_id=" in url for url in heard)
    assert PASSWORD not in await page.content()


async def test_the_password_of_a_proxy_is_kept_when_another_setting_is_changed(
    visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    await harbour.api("PATCH", "/settings", json={"proxy": f"http://bob:{PASSWORD}@proxy.example.org:3128"})
    await visitor.open("#/settings")
    proxy = page.get_by_label("The region's way to its sources")
    await expect(proxy).to_have_value("http://***@proxy.example.org:3128")
    await page.get_by_label("How many days records are kept").fill("90")
    await page.get_by_role("button", name="Save retention").click()
    await expect(page.get_by_text("Records are kept for 90 days.").first).to_be_visible()
    await expect(proxy).to_have_value("http://***@proxy.example.org:3128")
    # An address with *** goes on with the password; one for another machine does not take it along.
    visitor.expect_fault("status of 422")
    await proxy.fill("http://***@other.example.org:3128")
    await page.get_by_role("button", name="Save proxy").click()
    await expect(page.get_by_role("alert")).to_contain_text("The proxy stays as it was.")
    assert (await harbour.api("GET", "/settings"))["proxy"] == "http://***@proxy.example.org:3128"
