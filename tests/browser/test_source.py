"""Choosing a source: a mirror is tried before anything of it is saved, and a refusal says precisely why."""

import base64
import re
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import pytest_asyncio
from playwright.async_api import Page, expect

from deploy.local.mirror.content import TINY
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from tests.browser.conftest import Harbour, Visitor
from tests.browser.test_images import NOBLE, row, save, status
from tests.browser.test_operators import REFUSED
from tests.conftest import NOW


@pytest_asyncio.fixture(loop_scope="session")
async def second(tmp_path: Path) -> AsyncIterator[tuple[Mirror, Server]]:
    """Another mirror, signed by another key."""
    mirror = Mirror.create(tmp_path / "second", now=NOW, sizes=TINY)
    async with serve(mirror, host="127.0.0.1") as server:
        yield mirror, server


async def custom(page: Page, url: str) -> None:
    await page.get_by_role("radio", name="Custom").check()
    await page.get_by_label("Add the URL you want to select images from.").fill(url)


async def connect(page: Page) -> None:
    await page.get_by_role("button", name="Connect").click()


async def test_a_mirror_with_the_wrong_key_is_refused_and_with_the_right_one_added(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    visitor.expect_fault(REFUSED.format(422))
    await custom(page, server.url)
    await page.get_by_role("button", name="Show advanced options").click()
    contents = page.get_by_label("Or the contents of the keyring")
    stranger = Key.generate()
    await contents.fill(base64.b64encode(stranger.keyring).decode())
    await connect(page)
    refusal = page.locator("form").get_by_role("alert")
    await expect(refusal).to_contain_text("Signed by a key you do not trust.")
    await expect(refusal).to_contain_text(re.compile("is signed by key [0-9A-F]{40}, which the keyring does not hold"))
    await expect(refusal).to_contain_text(stranger.fingerprint)

    await contents.fill(base64.b64encode(mirror.keyring).decode())
    await connect(page)
    found = page.locator(".notice-positive")
    await expect(found).to_contain_text("nothing is saved yet")
    await expect(found).to_contain_text("Ubuntu 26.04 LTS, Ubuntu 25.10")
    await expect(found).to_contain_text("CentOS 7")
    await expect(refusal).to_be_hidden()
    assert len((await harbour.api("GET", "/sources"))["items"]) == 1

    await page.get_by_label("Name").fill("Second mirror")
    await page.get_by_role("button", name="Add source").click()
    await expect(page.get_by_role("radio", name="Second mirror")).to_be_checked()
    await expect(page.get_by_text("wins over maas.io")).to_be_visible()
    assert [source["name"] for source in (await harbour.api("GET", "/sources"))["items"]] == [
        "Second mirror",
        "maas.io",
    ]

    # What is ticked now comes from there, and the table says so of each image.
    await expect(page.get_by_role("checkbox", name="24.04 LTS")).to_be_enabled()
    await page.get_by_role("checkbox", name="24.04 LTS").check()
    await save(page)
    await expect(row(page, NOBLE)).to_contain_text("from Second mirror")
    await expect(row(page, "ubuntu:resolute:amd64")).to_contain_text("from maas.io")
    await expect(status(page, NOBLE)).to_have_text("Stored")

    # And what is held of the other one moves over when that is asked for, after its plan.
    await page.get_by_role("button", name="Take from Second mirror instead").click()
    await expect(status(page, "ubuntu:resolute:amd64")).to_have_text("Will change source")
    await page.get_by_role("button", name="Save selection").first.click()
    dialog = page.get_by_role("dialog")
    await expect(dialog).to_contain_text("→ Ubuntu 26.04 LTS amd64")
    await expect(dialog).to_contain_text("stays and is served until")
    await dialog.get_by_role("button", name="Save selection").click()
    await expect(row(page, "ubuntu:resolute:amd64")).to_contain_text("from Second mirror")
    await expect(status(page, "ubuntu:resolute:amd64")).to_have_text("Stored")


async def test_path_and_contents_of_a_keyring_exclude_each_other(
    visitor: Visitor, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    await custom(page, server.url)
    await page.get_by_role("button", name="Show advanced options").click()
    await page.get_by_label("Path, on the region").fill(str(mirror.keyring_path))
    contents = page.get_by_label("Or the contents of the keyring")
    await contents.fill("something")
    await connect(page)
    await expect(page.locator("form").get_by_role("alert")).to_contain_text("not both")
    await contents.fill("")
    await connect(page)
    await expect(page.locator(".notice-positive")).to_contain_text("nothing is saved yet")


async def test_an_unsigned_mirror_is_taken_only_after_a_plain_warning(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    mirror.unsigned()
    page = visitor.page
    visitor.expect_fault(REFUSED.format(422))
    await custom(page, server.url)
    await page.get_by_role("button", name="Show advanced options").click()
    await page.get_by_label("Path, on the region").fill(str(mirror.keyring_path))
    await connect(page)
    await expect(page.locator("form").get_by_role("alert")).to_contain_text("The stream is not signed.")
    await page.get_by_label("Path, on the region").fill("")
    await page.get_by_label("Take this mirror without any signature").check()
    await expect(page.get_by_text("can change the images")).to_be_visible()
    await connect(page)
    await expect(page.locator(".notice-positive")).to_contain_text("nothing is saved yet")
    await page.get_by_role("button", name="Add source").click()
    await expect(page.get_by_text("Unsigned: nobody vouches")).to_be_visible()


@pytest.mark.parametrize(
    ("path", "said"),
    [
        pytest.param("http://mirror.invalid/", "The mirror's name was not found.", id="name"),
        pytest.param("http://127.0.0.1:1/", "Nothing answers there.", id="refused"),
        pytest.param("{server}nowhere/", "There is no stream at this address.", id="404"),
    ],
)
async def test_what_cannot_be_reached_is_refused_with_its_reason(
    visitor: Visitor, harbour: Harbour, path: str, said: str
) -> None:
    page = visitor.page
    visitor.expect_fault(REFUSED.format(502))
    await custom(page, path.format(server=harbour.upstream.url))
    await page.get_by_role("button", name="Show advanced options").click()
    await page.get_by_label("Path, on the region").fill(str(harbour.mirror.keyring_path))
    await connect(page)
    await expect(page.locator("form").get_by_role("alert")).to_contain_text(said)


async def test_a_source_that_fails_is_named_and_what_is_held_stays(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    await expect(status(page, "ubuntu:resolute:amd64")).to_have_text("Stored")
    harbour.mirror.sign_with(Key.generate())
    await page.get_by_role("button", name="Sync now").click()
    notice = page.locator(".conditions .notice-negative")
    await expect(notice).to_contain_text("maas.io could not be read.")
    await expect(notice).to_contain_text("which the keyring does not hold")
    await expect(status(page, "ubuntu:resolute:amd64")).to_have_text("Stored")
    harbour.mirror.sign_with(harbour.mirror.key)
    await page.get_by_role("button", name="Sync now").click()
    await expect(notice).to_have_count(0)


async def test_a_change_of_a_source_says_what_happens_to_what_is_held(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    await page.get_by_role("button", name="Edit source").click()
    address = page.get_by_label("Add the URL you want to select images from.")
    await expect(address).to_have_value(harbour.upstream.url)
    await expect(page.get_by_role("button", name="Save source")).to_be_visible()
    await address.fill(server.url)
    await expect(page.get_by_text("1 image held from maas.io stays.")).to_be_visible()
    await expect(page.get_by_role("button", name="Save source")).to_be_hidden()
    await page.get_by_label("Or the contents of the keyring").fill(base64.b64encode(mirror.keyring).decode())
    await connect(page)
    await page.get_by_role("button", name="Save source").click()
    await expect(page.get_by_text(f"signed by {mirror.key_id}")).to_be_visible()
    [source] = (await harbour.api("GET", "/sources"))["items"]
    assert (source["name"], source["url"]) == ("maas.io", server.url)
    await expect(status(page, "ubuntu:resolute:amd64")).to_have_text("Stored")


async def test_of_several_sources_one_is_preferred_and_one_removed(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    fields = {"name": "Second mirror", "url": server.url, "keyring_path": str(mirror.keyring_path)}
    await harbour.api("POST", "/sources", json=fields)
    await page.get_by_role("radio", name="maas.io").check()
    await expect(page.get_by_text("Second mirror wins over it")).to_be_visible()
    await page.get_by_role("button", name="Prefer").click()
    await expect(page.get_by_text("wins over Second mirror")).to_be_visible()
    await page.get_by_role("radio", name="Second mirror").check()
    await page.get_by_role("button", name="Remove").click()
    await expect(page.get_by_role("radio", name="Second mirror")).to_have_count(0)
    assert [source["name"] for source in (await harbour.api("GET", "/sources"))["items"]] == ["maas.io"]
