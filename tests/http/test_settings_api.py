"""`/settings` over HTTP: where bootloaders come from is seen, planned and chosen."""

from typing import Any

import pytest

from deploy.local.mirror.faults import Status
from tests.http.conftest import Client, Running, imported

NONE_TOUCHED: dict[str, list[str]] = {
    "bootloaders_add": [],
    "bootloaders_change": [],
    "bootloaders_withdraw": [],
    "warnings": [],
}


async def second_source(running: Running) -> int:
    """The number of a second source, which was read."""
    fields = {"name": "second", "url": running.upstream.url, "keyring_path": str(running.mirror.keyring_path)}
    made = await running.client("POST", "/sources", json=fields)
    await imported(running.client, int(made.headers["Location"].rpartition("/")[2]))
    return int(made.json["id"])


async def settings(client: Client) -> Any:
    return (await client("GET", "/settings")).json


async def test_where_bootloaders_come_from_is_planned_and_chosen(running: Running) -> None:
    client = running.client
    before = await client("GET", "/settings")
    assert before.json["bootloader_source_id"] == 1
    second = await second_source(running)
    names = {f"bootloader:{loader['type']}:{loader['arch']}" for loader in await client.items("/bootloaders")}
    assert names
    wished = {"bootloader_source_id": second}
    planned = await client("PATCH", "/settings", params={"dry_run": "true"}, json=wished)
    assert (planned.status, set(planned.json["bootloaders_change"])) == (200, names)
    assert (planned.json["import_id"], planned.json["bootloader_source_id"]) == (None, 1)
    assert planned.headers["ETag"] == before.headers["ETag"]
    assert (await client("GET", "/settings")).headers["ETag"] == before.headers["ETag"]
    saved = await client("PATCH", "/settings", json=wished, headers={"If-Match": planned.headers["ETag"]})
    assert (saved.status, set(saved.json["bootloaders_change"])) == (200, names)
    assert saved.headers["Location"] == f"/api/v1/imports/{saved.json['import_id']}"
    assert saved.headers["ETag"] == (await client("GET", "/settings")).headers["ETag"] != before.headers["ETag"]
    assert (await settings(client))["bootloader_source_id"] == second
    assert (await client("PATCH", "/settings", json=wished, headers={"If-Match": '"old"'})).status == 412
    assert (await imported(client, saved.json["import_id"]))["state"] == "succeeded"
    again = await client("PATCH", "/settings", json=wished)
    assert (again.json["import_id"], NONE_TOUCHED.items() <= again.json.items()) == (None, True)
    assert {f"bootloader:{loader['type']}:{loader['arch']}" for loader in await client.items("/bootloaders")} == names


async def test_a_source_that_was_not_read_cannot_be_chosen_yet(running: Running) -> None:
    running.upstream.misbehave("*", Status(503))
    fields = {"name": "second", "url": running.upstream.url, "keyring_path": str(running.mirror.keyring_path)}
    made = await running.client("POST", "/sources", json=fields)
    for query in ({"dry_run": "true"}, {}):
        wished = {"bootloader_source_id": made.json["id"]}
        refused = await running.client("PATCH", "/settings", params=query, json=wished)
        assert (refused.status, refused.json["code"]) == (409, "source_not_read")
        assert "sync, and choose it then" in refused.json["detail"]
    assert (await settings(running.client))["bootloader_source_id"] == 1


@pytest.mark.parametrize(
    ("wished", "status", "code", "sentence"),
    [
        pytest.param(7, 404, "not_found", "There is no source 7; ", id="a source that is not there"),
        pytest.param(0, 422, "invalid_request", "it must be 1 or more", id="no number of a source"),
        pytest.param(None, 422, "invalid_request", "it must be a whole number", id="no source at all"),
    ],
)
async def test_a_source_that_cannot_be_chosen(
    running: Running, wished: int | None, status: int, code: str, sentence: str
) -> None:
    refused = await running.client("PATCH", "/settings", json={"bootloader_source_id": wished})
    assert (refused.status, refused.json["code"]) == (status, code)
    assert sentence in str(refused.json)
    assert (await settings(running.client))["bootloader_source_id"] == 1


async def test_removing_their_source_leaves_bootloaders_without_one(running: Running) -> None:
    await second_source(running)
    removal: dict[str, Any] = {"params": {"held": "keep", "dry_run": "true"}}
    planned = await running.client("DELETE", "/sources/1", **removal)
    assert "Bootloaders come from maas.io: no new ones come after this" in planned.json["warnings"][0]
    assert (planned.json["moved"], planned.json["bootloaders_withdraw"]) == (["ubuntu:resolute:amd64"], [])
    names = await running.client.items("/bootloaders")
    removed = await running.client("DELETE", "/sources/1", params={"held": "keep"})
    assert (removed.status, removed.json) == (200, planned.json)
    assert (await settings(running.client))["bootloader_source_id"] is None
    await imported(running.client, int(removed.headers["Location"].rpartition("/")[2]))
    assert [(loader["type"], loader["version"], loader["held"]) for loader in names] == [
        (loader["type"], loader["version"], True) for loader in await running.client.items("/bootloaders")
    ]


async def test_removing_their_source_may_withdraw_them_and_says_which(running: Running) -> None:
    names = {f"bootloader:{loader['type']}:{loader['arch']}" for loader in await running.client.items("/bootloaders")}
    undecided = await running.client("DELETE", "/sources/1", params={"dry_run": "true"})
    assert undecided.json["bootloaders_withdraw"] == []
    assert names <= {entry["image"] for entry in undecided.json["held"]}
    planned = await running.client("DELETE", "/sources/1", params={"dry_run": "true", "held": "withdraw"})
    assert set(planned.json["bootloaders_withdraw"]) == names
    await running.client("DELETE", "/sources/1", params={"held": "withdraw"})
    assert await running.client.items("/bootloaders") == []
