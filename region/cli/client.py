"""The region's API v1 as the commands see it: JSON objects by path, pages followed to their end.

Fields nobody here knows are passed on, missing ones are for the reader to do without: any region of the same major
version will do. Redirects are not followed, because a token is for the region it was made by. A region that answers 503
and says for how long is asked again when that is over; everything else is for whoever typed the command to judge.
"""

import asyncio
import json
import random
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import aiohttp
from yarl import URL

from region.cli.output import note
from region.cli.profile import Profile
from shared.errors import FetchError, HttpStatus
from shared.http import client_session, parse_url, read_capped, request, require_ok, shown
from shared.patience import Patience, asked_s

MAX_ANSWER_BYTES = 64 * 1024 * 1024
READ_TIMEOUT_S = 60.0
MAX_PAGE = 200

Item = dict[str, Any]


class NotARegion(FetchError):
    """Something answers at `url`, but not as a region of API v1 does."""

    code = "not_a_region"

    def __init__(self, url: str, why: str) -> None:
        super().__init__(url, f"What answers at {url} is not a Bootferry region ({why}); check the address.")


@dataclass(frozen=True, slots=True)
class Answer:
    """What the region answered: its JSON object, empty for 204, and the ETag it may have given."""

    body: Item
    etag: str | None

    @property
    def items(self) -> list[Item]:
        """The items of a page."""
        return [item for item in self.body.get("items", []) if isinstance(item, dict)]


@dataclass(frozen=True, slots=True)
class Api:
    """One region. Paths are segments below `/api/v1`. Every call raises FetchError, HttpStatus where it was refused."""

    session: aiohttp.ClientSession
    base: URL
    token: str
    patience: Patience = field(default_factory=Patience)
    rng: random.Random = field(default_factory=random.Random)

    async def ask(
        self,
        method: str,
        *path: str,
        body: Mapping[str, Any] | None = None,
        query: Mapping[str, str | int] | None = None,
        headers: Mapping[str, str] | None = None,
    ) -> Answer:
        """The answer to one request."""
        failures = 0
        while True:
            try:
                return await self._ask(method, *path, body=body, query=query, headers=headers)
            except HttpStatus as error:
                failures += 1
                wait_s = self.patience.wait_s(error, failures, self.rng) if _may_be_asked_again(method, error) else None
                if wait_s is None:
                    raise
            note(f"The region is busy; it is asked again in {wait_s:.0f} seconds.")
            await asyncio.sleep(wait_s)

    async def _ask(
        self,
        method: str,
        *path: str,
        body: Mapping[str, Any] | None,
        query: Mapping[str, str | int] | None,
        headers: Mapping[str, str] | None,
    ) -> Answer:
        url = self.base.joinpath("api", "v1", *path).with_query(query)
        sent = dict(headers or {}) | ({"Content-Type": "application/json"} if body is not None else {})
        data = None if body is None else json.dumps(body).encode()
        async with request(self.session, method, url, headers=sent, body=data, sign=self._prove) as response:
            try:
                await require_ok(response, 201, 202, 204)
            except HttpStatus as error:
                if error.problem or error.status == 401:
                    raise
                raise NotARegion(shown(self.base), f"it answered {error.status}") from error
            if response.status == 204:
                return Answer({}, None)
            found = await read_capped(response, MAX_ANSWER_BYTES)
        try:
            document = json.loads(found)
        except ValueError:
            document = None
        if not isinstance(document, dict):
            raise NotARegion(shown(self.base), "it does not answer in JSON")
        return Answer(document, response.headers.get("ETag"))

    async def get(self, *path: str, **query: str | int) -> Item:
        """One resource."""
        return (await self.ask("GET", *path, query=query)).body

    async def pages(self, *path: str, **query: str | int) -> AsyncIterator[Answer]:
        """The pages of a list, to the last one."""
        cursors: set[str] = set()
        while True:
            page = await self.ask("GET", *path, query=query)
            yield page
            cursor = page.body.get("next")
            if cursor is None or str(cursor) in cursors:
                return
            cursors.add(str(cursor))
            query = {**query, "cursor": str(cursor)}

    async def list(self, *path: str, most: int | None = None, **query: str | int) -> list[Item]:
        """The items of all pages; the first `most` of them where that is given."""
        items: list[Item] = []
        asked = query if most is None else {"limit": min(most, MAX_PAGE), **query}
        async for page in self.pages(*path, **asked):
            items += page.items
            if most is not None and len(items) >= most:
                break
        return items[:most]

    def _prove(self, _method: str, _path: str, _body: bytes | None) -> Mapping[str, str]:
        return {"Authorization": f"Bearer {self.token}"} if self.token else {}


def _may_be_asked_again(method: str, error: HttpStatus) -> bool:
    """True if the region says when to come back, and whoever comes back does nothing twice."""
    # A change may have been made when its answer failed: only admission knows that nothing was begun.
    begun_nothing = method == "GET" or error.problem == "crowded"
    return error.status == 503 and asked_s(error) > 0 and begun_nothing


@asynccontextmanager
async def connected(profile: Profile, *, read_timeout_s: float = READ_TIMEOUT_S) -> AsyncIterator[Api]:
    """The region of a profile. Raises InvalidValue, InvalidConfiguration."""
    base = parse_url(profile.url)
    bundle = Path(profile.ca_bundle) if profile.ca_bundle else None
    async with client_session(ca_bundle=bundle, read_timeout_s=read_timeout_s) as session:
        yield Api(session, base, profile.token)
