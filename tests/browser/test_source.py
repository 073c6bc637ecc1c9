"""Choosing a source: a mirror is tried before anything of it is saved, and a refusal says precisely why."""

import base64
import re
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from playwright.async_api import Locator, Page, expect

from deploy.local.mirror.content import TINY
from deploy.local.mirror.faults import Slow
from deploy.local.mirror.key import Key
from deploy.local.mirror.mirror import Mirror
from deploy.local.mirror.server import Server, serve
from tests.browser.conftest import Harbour, Visitor
from tests.browser.test_images import NOBLE, RESOLUTE, row, save, status
from tests.browser.test_operators import REFUSED


@pytest_asyncio.fixture(loop_scope="session")
async def second(tmp_path: Path) -> AsyncIterator[tuple[Mirror, Server]]:
    """Another mirror, signed by another key."""
    mirror = Mirror.create(tmp_path / "second", now=datetime.now(UTC), sizes=TINY)
    async with serve(mirror, host="127.0.0.1") as server:
        yield mirror, server


async def custom(page: Page, url: str) -> None:
    await page.get_by_role("radio", name="Custom").check()
    await page.get_by_label("Add the URL you want to select images from.").fill(url)


async def way(page: Page, name: str) -> None:
    """Say who signs the mirror."""
    await page.get_by_role("group", name="Who signs it").get_by_label(name).check()


async def paste(page: Page, keyring: bytes) -> None:
    """Give the keyring's contents."""
    await way(page, "A keyring that you paste or choose")
    await page.get_by_label("The contents of the keyring").fill(base64.b64encode(keyring).decode())


async def at_path(page: Page, path: Path) -> None:
    """Name a keyring on the region."""
    await way(page, "A keyring on the region")
    await page.get_by_label("Path, on the region").fill(str(path))


async def connect(page: Page) -> None:
    await page.get_by_role("button", name="Connect").click()


async def test_a_mirror_with_the_wrong_key_is_refused_and_with_the_right_one_added(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    visitor.expect_fault(REFUSED.format(422))
    await custom(page, server.url)
    stranger = Key.generate()
    await paste(page, stranger.keyring)
    await connect(page)
    refusal = page.locator("form").get_by_role("alert")
    await expect(refusal).to_contain_text("Signed by a key you do not trust.")
    await expect(refusal).to_contain_text(re.compile("is signed by key [0-9A-F]{40}, which the keyring does not hold"))
    await expect(refusal).to_contain_text(stranger.fingerprint)

    await paste(page, mirror.keyring)
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
    # What is new takes nothing from what there is.
    await expect(page.get_by_text("maas.io wins over it")).to_be_visible()
    assert [source["name"] for source in (await harbour.api("GET", "/sources"))["items"]] == [
        "maas.io",
        "Second mirror",
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
    await page.get_by_role("button", name="Review and save").click()
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
    await paste(page, b"something")
    await at_path(page, mirror.keyring_path)
    await expect(page.get_by_label("The contents of the keyring")).to_have_count(0)
    # Of two ways the chosen one is sent: with the contents beside it the region would refuse.
    await connect(page)
    await expect(page.locator(".notice-positive")).to_contain_text("nothing is saved yet")


async def test_a_keyring_is_chosen_as_a_file(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server], tmp_path: Path
) -> None:
    mirror, server = second
    page = visitor.page
    await custom(page, server.url)
    await way(page, "A keyring that you paste or choose")
    keyring = tmp_path / "mirror.gpg"
    keyring.write_bytes(mirror.keyring)
    await page.get_by_label("Or a file on this computer").set_input_files(keyring)
    await connect(page)
    await expect(page.locator(".notice-positive")).to_contain_text("nothing is saved yet")
    await page.get_by_role("button", name="Add source").click()
    await expect(page.get_by_text(f"signed by {mirror.key_id}")).to_be_visible()


async def test_the_shipped_keyring_needs_no_key_by_hand(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    _, server = second
    page = visitor.page
    visitor.expect_fault(REFUSED.format(422))
    await custom(page, server.url)
    # It is what is chosen for a new source, and it is judged like any other.
    await connect(page)
    refusal = page.locator("form").get_by_role("alert")
    await expect(refusal).to_contain_text("Signed by a key you do not trust.")
    await expect(refusal).to_contain_text("it holds D2EB44626FDDC30B513D5BB71A5D6C4C7DB87C81")
    await page.get_by_role("button", name="Cancel").click()

    fields = {"name": "Copy of images.maas.io", "url": server.url, "keyring_name": "ubuntu"}
    await harbour.api("POST", "/sources", json=fields)
    await page.get_by_role("radio", name="Copy of images.maas.io").check()
    await expect(page.get_by_text("signed by the keyring ubuntu-cloudimage, which Bootferry ships")).to_be_visible()
    await page.get_by_role("button", name="Edit source").click()
    await expect(page.get_by_label("Ubuntu: the keyring that Bootferry ships")).to_be_checked()


async def test_an_unsigned_mirror_is_taken_only_after_a_plain_warning(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    mirror.unsigned()
    page = visitor.page
    visitor.expect_fault(REFUSED.format(422))
    await custom(page, server.url)
    await at_path(page, mirror.keyring_path)
    await connect(page)
    await expect(page.locator("form").get_by_role("alert")).to_contain_text("The stream is not signed.")
    await way(page, "Take this mirror without any signature")
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
    await at_path(page, harbour.mirror.keyring_path)
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


async def change_signer(page: Page, harbour: Harbour, mirror: Mirror, server: Server) -> Locator:
    """Turn the default source to a mirror of somebody else; the dialog that asks what becomes of what is held."""
    await page.get_by_role("button", name="Edit source").click()
    address = page.get_by_label("Add the URL you want to select images from.")
    await expect(address).to_have_value(harbour.upstream.url)
    await expect(page.get_by_role("button", name="Save source")).to_be_visible()
    await address.fill(server.url)
    await expect(page.get_by_role("button", name="Save source")).to_be_hidden()
    await paste(page, mirror.keyring)
    await connect(page)
    await page.get_by_role("button", name="Save source").click()
    return page.get_by_role("dialog", name="Save maas.io?")


async def test_a_change_of_a_source_says_what_lapses_and_asks_what_becomes_of_what_is_held(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    dialog = await change_signer(page, harbour, mirror, server)
    await expect(dialog).to_contain_text("nobody vouches for 14 images and 5 bootloaders that maas.io offers")
    await dialog.get_by_text("Which they are").click()
    await expect(dialog.get_by_text("Ubuntu 24.04 LTS arm64")).to_be_visible()
    await expect(dialog).to_contain_text("1 image and 5 bootloaders")
    held = dialog.get_by_role("row", name="Ubuntu 26.04 LTS amd64")
    await expect(held).to_contain_text(harbour.mirror.key_id)
    await expect(dialog.get_by_role("button", name="Save source")).to_be_disabled()
    assert (await harbour.api("GET", "/sources"))["items"][0]["url"] == harbour.upstream.url, "asking changes nothing"

    await dialog.get_by_label("Keep it").check()
    await dialog.get_by_role("button", name="Save source").click()
    await expect(page.get_by_text(f"signed by {mirror.key_id}")).to_be_visible()
    [source] = (await harbour.api("GET", "/sources"))["items"]
    assert (source["name"], source["url"]) == ("maas.io", server.url)
    # The new mirror vouches for the same images, and is read at once.
    await expect(status(page, RESOLUTE)).to_have_text("Stored")


async def test_what_is_kept_names_its_signer_and_is_withdrawn_in_one_act(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    mirror.drop_product("*:26.04:amd64:*")
    page = visitor.page
    dialog = await change_signer(page, harbour, mirror, server)
    await dialog.get_by_label("Keep it").check()
    await dialog.get_by_role("button", name="Save source").click()
    mark = row(page, RESOLUTE).locator(".unvouched")
    await expect(mark).to_contain_text(f"signed by {harbour.mirror.key_id}")
    await expect(mark).to_have_attribute("title", harbour.mirror.key.fingerprint)
    banner = page.locator(".conditions .notice-caution", has_text="held that no present signer vouches for")
    await expect(banner).to_contain_text("1 image is held that no present signer vouches for.")

    await banner.get_by_role("button", name="Withdraw it").click()
    dialog = page.get_by_role("dialog", name="Withdraw 1 image?")
    await expect(dialog.get_by_role("row", name="Ubuntu 26.04 LTS amd64")).to_contain_text(harbour.mirror.key_id)
    await dialog.get_by_role("button", name="Withdraw").click()
    await expect(banner).to_have_count(0)
    await expect(mark).to_have_count(0)
    assert (await harbour.api("GET", "/unvouched"))["items"] == []


async def test_a_change_of_a_source_can_withdraw_what_is_held_in_the_same_step(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    mirror.drop_product("*:26.04:amd64:*")
    page = visitor.page
    dialog = await change_signer(page, harbour, mirror, server)
    await dialog.get_by_label("Withdraw it").check()
    await dialog.get_by_role("button", name="Save and withdraw").click()
    await expect(page.get_by_text(f"signed by {mirror.key_id}")).to_be_visible()
    await expect(row(page, RESOLUTE).locator(".unvouched")).to_have_count(0)
    await expect(row(page, RESOLUTE)).not_to_contain_text("updated")
    assert (await harbour.api("GET", f"/images/{RESOLUTE}"))["held_version"] == ""
    assert (await harbour.api("GET", "/unvouched"))["items"] == []


async def test_a_signed_source_becomes_unsigned_only_with_a_confirmation_of_its_own(
    visitor: Visitor, harbour: Harbour
) -> None:
    page = visitor.page
    await page.get_by_role("button", name="Edit source").click()
    harbour.mirror.unsigned()
    await way(page, "Take this mirror without any signature")
    await connect(page)
    await page.get_by_role("button", name="Save source").click()
    dialog = page.get_by_role("dialog", name="Save maas.io?")
    await expect(dialog).to_contain_text("maas.io would be believed without any signature.")
    await dialog.get_by_label("Keep it").check()
    save_it = dialog.get_by_role("button", name="Save source")
    await expect(save_it).to_be_disabled()
    [source] = (await harbour.api("GET", "/sources"))["items"]
    assert not source["unsigned"]
    await dialog.get_by_label("Yes, a signed source is to become an unsigned one").check()
    await save_it.click()
    await expect(page.get_by_text("Unsigned: nobody vouches")).to_be_visible()
    [source] = (await harbour.api("GET", "/sources"))["items"]
    assert source["unsigned"]


async def test_a_source_that_was_not_read_under_its_present_trust_says_so(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    server.misbehave("streams/*", Slow(50))
    changed = await change_signer_by_api(harbour, mirror, server)
    assert changed["current"] is False
    await expect(page.get_by_text("maas.io is not read yet under the trust it has now")).to_be_visible()
    await expect(status(page, RESOLUTE)).to_have_text("Not vouched for")
    server.behave()
    await expect(page.get_by_text("not read yet under the trust it has now")).to_have_count(0)
    await expect(status(page, RESOLUTE)).to_have_text("Stored")


async def change_signer_by_api(harbour: Harbour, mirror: Mirror, server: Server) -> dict[str, Any]:
    """The default source, turned to a mirror of somebody else."""
    [source] = (await harbour.api("GET", "/sources"))["items"]
    fields = {"url": server.url, "keyring_path": str(mirror.keyring_path)}
    return dict(await harbour.api("PATCH", f"/sources/{source['id']}?held=keep", json=fields))


async def test_of_several_sources_one_is_preferred_and_one_removed(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    fields = {"name": "Second mirror", "url": server.url, "keyring_path": str(mirror.keyring_path)}
    await harbour.api("POST", "/sources", json=fields)
    await expect(page.get_by_role("radio", name="Whichever source wins")).to_be_checked()
    await expect(page.get_by_text("The order is maas.io, then Second mirror.")).to_be_visible()
    await page.get_by_role("radio", name="Second mirror").check()
    await expect(page.get_by_text("maas.io wins over it")).to_be_visible()
    await expect(page.get_by_text("read just now")).to_be_visible()
    await page.get_by_role("button", name="Prefer").click()
    # What comes from it then is shown before it does.
    dialog = page.get_by_role("dialog", name="Save Second mirror?")
    await expect(dialog).to_contain_text("→ Ubuntu 26.04 LTS amd64")
    await dialog.get_by_role("button", name="Save source").click()
    await expect(page.get_by_text("wins over maas.io")).to_be_visible()
    await expect(row(page, RESOLUTE)).to_contain_text("from Second mirror")
    await expect(status(page, RESOLUTE)).to_have_text("Stored")
    await expect(page.get_by_role("button", name="Sync now")).to_be_visible()
    await page.get_by_role("button", name="Remove").click()
    dialog = page.get_by_role("dialog", name="Remove Second mirror?")
    await expect(dialog).to_contain_text("15 images and 5 bootloaders that Second mirror offers")
    # What is held of it by now needs the same choice as a change.
    await expect(dialog.get_by_role("row", name="Ubuntu 26.04 LTS amd64")).to_contain_text(mirror.key_id)
    await expect(dialog.get_by_role("button", name="Remove source")).to_be_disabled()
    await dialog.get_by_label("Keep it").check()
    await dialog.get_by_role("button", name="Remove source").click()
    await expect(page.get_by_role("radio", name="Second mirror")).to_have_count(0)
    assert [source["name"] for source in (await harbour.api("GET", "/sources"))["items"]] == ["maas.io"]


async def test_bootloaders_come_from_the_source_that_an_operator_chose(
    visitor: Visitor, harbour: Harbour, second: tuple[Mirror, Server]
) -> None:
    mirror, server = second
    page = visitor.page
    fields = {"name": "Second mirror", "url": server.url, "keyring_path": str(mirror.keyring_path)}
    made = await harbour.api("POST", "/sources", json=fields)
    bootloaders = page.get_by_role("region", name="Bootloaders")
    await expect(bootloaders).to_contain_text("They come from maas.io.")
    await page.get_by_role("radio", name="Second mirror").check()
    await expect(page.get_by_text("read just now")).to_be_visible()
    await visitor.open("#/settings")
    choice = page.get_by_label("Bootloaders come from")
    await expect(page.get_by_role("button", name="Save choice")).to_be_disabled()
    await choice.select_option("Second mirror")
    await page.get_by_role("button", name="Save choice").click()
    dialog = page.get_by_role("dialog", name="Take bootloaders from Second mirror?")
    await expect(dialog).to_contain_text("~ UEFI amd64 is replaced")
    assert (await harbour.api("GET", "/settings"))["bootloader_source_id"] != made["id"], "a plan changes nothing"
    await dialog.get_by_role("button", name="Take them from there").click()
    await expect(page.get_by_text("Bootloaders come from Second mirror.").first).to_be_visible()
    assert (await harbour.api("GET", "/settings"))["bootloader_source_id"] == made["id"]
    await visitor.open("#/images")
    await expect(bootloaders).to_contain_text("They come from Second mirror.")


async def test_of_two_who_change_a_source_the_second_is_told(visitor: Visitor, harbour: Harbour) -> None:
    page = visitor.page
    visitor.expect_fault(REFUSED.format(412))
    async with page.expect_response(re.compile(r"/sources/\d+$")):
        await page.get_by_role("button", name="Edit source").click()
    [source] = (await harbour.api("GET", "/sources"))["items"]
    await harbour.api("PATCH", f"/sources/{source['id']}", json={"name": "Theirs"})
    await page.get_by_label("Name").fill("Mine")
    await page.get_by_role("button", name="Save source").click()
    refusal = page.locator("form").get_by_role("alert")
    await expect(refusal).to_contain_text("Somebody was faster.")
    await expect(refusal).to_contain_text("changed it at")
    assert (await harbour.api("GET", f"/sources/{source['id']}"))["name"] == "Theirs"
    # What was seen since then may be changed.
    await page.get_by_role("button", name="Save source").click()
    await expect(page.get_by_role("radio", name="Mine")).to_be_visible()
