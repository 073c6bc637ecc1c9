"""Event streams end when whoever listens may listen no longer."""

import asyncio
import json
from collections.abc import Awaitable, Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import aiohttp
import pytest
from sqlalchemy import text

import region.api.events
from region.database.connection import transaction
from region.database.topics import Topic
from tests.http.conftest import Running
from tests.http.test_racks_api import Rack, known

Eventually = Callable[..., Awaitable[object]]


async def _open(running: Running, path: str, headers: dict[str, str]) -> aiohttp.ClientResponse:
    response = await running.client.session.get(f"{running.client.base}/api/v1{path}", headers=headers)
    assert response.status == 200
    assert await asyncio.wait_for(response.content.readline(), 5)
    return response


async def _ends(response: aiohttp.ClientResponse, within_s: float) -> None:
    await asyncio.wait_for(response.content.read(), within_s)
    response.close()


async def _goes_on(response: aiohttp.ClientResponse) -> None:
    with pytest.raises(TimeoutError):
        await _ends(response, 0.5)


async def _made(running: Running) -> tuple[str, str]:
    made = await running.client("POST", "/operator-tokens", json={"name": "night shift", "role": "viewer"})
    return made.json["id"], made.json["token"]


async def test_a_stream_says_that_it_lives(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    """A page cannot tell a quiet region from a frozen one otherwise."""
    monkeypatch.setattr(region.api.events, "LOOK_AGAIN_S", 0.2)
    monkeypatch.setattr(region.api.events, "ALIVE_S", 0.5)
    stream = await _open(running, "/events", {"Authorization": f"Bearer {running.client.token}"})
    try:
        async with asyncio.timeout(10):
            while await stream.content.readline() != b"event: alive\n":
                pass
    finally:
        stream.close()


async def test_a_stream_ends_with_its_token(running: Running) -> None:
    token_id, token = await _made(running)
    stream = await _open(running, "/events", {"Authorization": f"Bearer {token}"})
    other = await _open(running, "/events", {"Authorization": f"Bearer {running.client.token}"})
    assert (await running.client("DELETE", f"/operator-tokens/{token_id}")).status == 204
    await _ends(stream, 2)
    await _goes_on(other)


async def test_a_stream_ends_when_its_token_expires(running: Running, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(region.api.events, "LOOK_AGAIN_S", 0.5)
    token_id, token = await _made(running)
    stream = await _open(running, "/events", {"Authorization": f"Bearer {token}"})
    async with transaction(running.region.engine) as connection:
        await connection.execute(
            text("UPDATE operator_tokens SET expires_at = :at WHERE id = :id"),
            {"at": datetime.now(UTC) + timedelta(seconds=0.5), "id": token_id},
        )
    # However much happens meanwhile.
    telling = asyncio.create_task(_tell_all_the_time(running))
    await _ends(stream, 3)
    telling.cancel()


async def _tell_all_the_time(running: Running) -> None:
    while True:
        running.region.topics.tell(Topic.IMPORTS)
        await asyncio.sleep(0.05)


async def test_a_stream_ends_with_its_session_and_listening_is_no_use_of_it(
    running: Running, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(region.api.events, "LOOK_AGAIN_S", 0.2)
    _, token = await _made(running)
    for end in ("log out", "idle"):
        opened = await running.as_nobody()("POST", "/session", json={"token": token})
        cookie = {"Cookie": opened.headers["Set-Cookie"].partition(";")[0], "Sec-Fetch-Site": "same-origin"}
        stream = await _open(running, "/events", cookie)
        await asyncio.sleep(0.5)
        if end == "log out":
            assert (await running.as_nobody()("DELETE", "/session", headers=cookie)).status == 204
        else:
            await _last_used(running, timedelta(hours=11))
            await _goes_on(stream)
            async with transaction(running.region.engine) as connection:
                unused = await connection.scalar(text("SELECT now() - last_used_at FROM sessions"))
            assert unused is not None
            assert unused >= timedelta(hours=11), "listening must not keep a session alive"
            stream = await _open(running, "/events", cookie)
            await _last_used(running, timedelta(hours=12))
        await _ends(stream, 2)


async def _last_used(running: Running, ago: timedelta) -> None:
    async with transaction(running.region.engine) as connection:
        await connection.execute(
            text("UPDATE sessions SET last_used_at = now() - CAST(:ago AS interval)"), {"ago": ago}
        )


async def test_a_racks_stream_ends_when_it_is_removed(running: Running, eventually: Eventually) -> None:
    streams = []
    racks = [Rack(running, number) for number in (1, 2)]
    for rack in racks:
        await rack.enrol()
        await eventually(lambda rack=rack: running.region.rack_keys.get(rack.id))
        signed = rack.signed("GET", "/manifest/events", None)
        streams.append(await _open(running, "/manifest/events", signed))
    assert (await running.client("DELETE", f"/racks/{racks[0].id}")).status == 204
    await _ends(streams[0], 2)
    await _goes_on(streams[1])
    assert not running.region.rack_keys._watched.get(racks[0].id)


async def test_racks_hear_of_a_poll_that_an_operator_wants_each_of_its_own(
    running: Running, eventually: Eventually
) -> None:
    racks = [Rack(running, number) for number in (1, 2)]
    heard: list[list[Any]] = [[], []]
    listening = []
    for rack, lines in zip(racks, heard, strict=True):
        await rack.enrol()
        await eventually(lambda rack=rack: running.region.rack_keys.get(rack.id))
        stream = await _open(running, "/manifest/events", rack.signed("GET", "/manifest/events", None))
        listening.append(asyncio.create_task(_hear(stream, lines)))
    asked = await running.client("POST", f"/racks/{racks[0].id}/poll")
    assert (asked.status, asked.json) == (202, {"racks_live": 0})
    await eventually(lambda: heard[0])
    assert heard == [[{"within_seconds": 0}], []], "the other one is not asked"
    newest = (await running.client("GET", "/activity?limit=1")).json["items"][0]
    assert newest["sentence"] == f"Asked the rack {racks[0].name} to poll now."

    assert (await racks[0].ask("GET", "/manifest")).status == 200
    await racks[0].report(known(running))
    asked = await running.client("POST", "/racks/poll")
    assert (asked.status, asked.json) == (202, {"racks_live": 1})
    await eventually(lambda: heard[1])
    # Spread over two seconds, or more of them for more racks.
    assert heard[1] == [{"within_seconds": 2}]
    assert len(heard[0]) == 2
    for task in listening:
        task.cancel()


async def _hear(stream: aiohttp.ClientResponse, lines: list[Any]) -> None:
    """Keep what follows each `event: poll`."""
    while line := (await stream.content.readline()).decode().strip() or " ":
        if line == "event: poll":
            lines.append(json.loads((await stream.content.readline()).decode().partition(":")[2]))


async def test_a_client_that_leaves_at_once_leaves_no_traceback(
    running: Running, capsys: pytest.CaptureFixture[str]
) -> None:
    # Whether an event is on its way when it leaves, nobody can arrange from outside: some of these meet one.
    for _ in range(10):
        async with running.client.session.get(
            f"{running.client.base}/api/v1/events", headers={"Authorization": f"Bearer {running.client.token}"}
        ) as response:
            assert response.status == 200
    assert (await running.client("GET", "/sync")).status == 200
    told = capsys.readouterr()
    assert "fault of ours" not in told.out + told.err
