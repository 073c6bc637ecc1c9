"""Each request of a rack has an end, but for the stream of hints."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import aiohttp
import pytest
from yarl import URL

from shared import download as downloads
from shared import http
from tests.http.fake_region import FakeRegion, ubuntu
from tests.http.running_rack import running_rack, until


async def test_only_the_stream_of_hints_has_no_deadline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    deadlines: dict[str, float | None] = {}

    @asynccontextmanager
    async def noted(
        session: aiohttp.ClientSession, method: str, url: URL, **given: Any
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        noun = url.path.removeprefix("/api/v1/").partition("/")[0] if "events" not in url.path else "events"
        deadlines[noun] = given.get("deadline_s", 300.0)
        async with http.request(session, method, url, **given) as response:
            yield response

    monkeypatch.setattr("rack.client.request", noted)
    monkeypatch.setattr(downloads, "request", noted)
    async with FakeRegion.running() as region, running_rack(region, tmp_path) as rack:
        region.publish(ubuntu("20260701", size=16 * 1024))
        listening = asyncio.create_task(rack.beat.run())
        await until(lambda: bool(region.reports) and "events" in deadlines)
        listening.cancel()
        await asyncio.gather(listening, return_exceptions=True)
    assert deadlines.keys() >= {"manifest", "events", "files", "racks"}
    assert deadlines["events"] is None
    assert deadlines["manifest"] == deadlines["racks"] == 300
    # 16 or 64 KiB at 16 KiB a second, and a minute.
    assert deadlines["files"] in (61, 64)
